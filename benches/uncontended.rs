//! What tfwrap costs when nobody else wants the lock: `tfwrap apply` and `tfwrap plan` against the
//! same of `terraform` with its own lock, by turns on one state.
//!
//! `cargo bench --bench uncontended -- --pairs 21`
//! `cargo bench --bench uncontended -- --latency 10`
//! `cargo bench --bench uncontended -- --against OTHER_TFWRAP`

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

#[path = "../tests/support/proxy.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod proxy;
#[path = "../tests/support/s3_server.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod s3_server;
#[path = "../tests/support/servers.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod servers;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Parser as _;
use proxy::{Fault, Proxy, Rule};
use servers::BUCKET;
use support::{Args, Backend, Place, S3, apply, key, pairs, say_where, timed};

#[derive(clap::Parser)]
struct Uncontended {
    #[command(flatten)]
    args: Args,
    /// How much longer each request about a lock is to take, in milliseconds.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    latency: u64,
}

fn main() {
    let Uncontended { args, latency } = Uncontended::parse();
    let latency = Some(Duration::from_millis(latency)).filter(|latency| !latency.is_zero());
    say_where(&Place::new(Backend::Local, ""));
    println!("| | tfwrap | {} | ratio | quartiles | pairs |", args.rival.name());
    println!("| --- | --- | --- | --- | --- | --- |");
    for backend in Backend::ALL {
        // One before each server: a backend with both locks has two.
        let proxies = RefCell::new(BTreeMap::new());
        let before = |url: &str| match latency {
            None => url.to_owned(),
            Some(latency) => {
                let mut proxies = proxies.borrow_mut();
                let proxy = proxies.entry(url.to_owned()).or_insert_with(|| late(url, latency));
                proxy.url().to_owned()
            }
        };
        let place = Place::behind(backend, "uncontended", before);
        let applied = |command: Command| apply(command, &[], "true");
        for (verb, of) in [("apply", applied as fn(Command) -> Command), ("plan", plan)] {
            let tfwrap = || of(place.tfwrap());
            let rival = || of(args.rival.command(&place));
            // Creates the state, and warms up both.
            timed(&mut rival());
            timed(&mut tfwrap());
            let pairs = pairs(args.pairs(), tfwrap, rival);
            println!("| `{verb}`, {} | {} |", backend.name(), pairs.cells());
        }
    }
    println!("\n| requests of one apply for its lock | writes | reads | removes | around it |");
    println!("| --- | --- | --- | --- | --- |");
    for backend in [Backend::Dynamodb, Backend::LockFile] {
        let ours = lock_requests(backend, "tfwrap", Place::tfwrap);
        lock_requests(backend, "terraform", Place::terraform);
        assert_eq!((ours[0], ours[2]), (1, 1), "tfwrap writes once and removes once");
    }
}

/// A proxy that passes on each request after this long.
fn late(url: &str, latency: Duration) -> Proxy {
    let proxy = Proxy::before(url);
    proxy.plan([Rule::all(Fault::Delay(latency))]);
    proxy
}

fn plan(mut command: Command) -> Command {
    command.args(["plan", "-no-color"]);
    command
}

/// Counts the requests about the lock, which go through a proxy: its writes, reads and removes, and all
/// that is about what lies beside it (the queue, the history).
fn lock_requests(backend: Backend, name: &str, command: impl Fn(&Place) -> Command) -> [usize; 4] {
    let proxy = OnceLock::new();
    let at = format!("requests-{name}");
    let before = |url: &str| proxy.get_or_init(|| Proxy::before(url)).url().to_owned();
    let place = Place::behind(backend, &at, before);
    let proxy: &Proxy = proxy.get().unwrap();
    let lock = format!("{BUCKET}/{}", key(&at));
    let (operations, lock) = match backend {
        Backend::Dynamodb => (["PutItem", "GetItem", "DeleteItem"], lock),
        _ => (["PUT", "GET", "DELETE"], format!("{S3}/{lock}.tflock")),
    };
    let counts = || {
        let [writes, reads, removes] = operations.map(|operation| proxy.count_of(operation, &lock));
        [writes, reads, removes, proxy.count_with(".tfwrap/")]
    };
    // The first apply creates the state.
    timed(&mut apply(command(&place), &[], "true"));
    let before = counts();
    timed(&mut apply(command(&place), &[], "true"));
    let mut counts = counts();
    for (count, before) in counts.iter_mut().zip(before) {
        *count -= before;
    }
    let [writes, reads, removes, around] = counts;
    println!("| {name}, {} | {writes} | {reads} | {removes} | {around} |", backend.name());
    counts
}
