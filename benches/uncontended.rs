//! What tfwrap costs when nobody else wants the lock: `tfwrap apply` against `terraform apply` with
//! its own lock, by turns on one state.
//!
//! `cargo bench --bench uncontended -- --pairs 21`

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

#[path = "../tests/support/proxy.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod proxy;
#[path = "../tests/support/servers.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod servers;

use clap::Parser as _;
use proxy::Proxy;
use servers::BUCKET;
use support::{Args, Backend, Place, apply, key, pairs, say_where, timed};

fn main() {
    let args = Args::parse();
    say_where(&Place::new(Backend::Local, ""));
    println!("| backend | tfwrap | terraform | ratio | quartiles | pairs |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for backend in [Backend::S3, Backend::Local] {
        let place = Place::new(backend, "uncontended");
        let tfwrap = || apply(place.tfwrap(), &[], "true");
        let terraform = || apply(place.terraform(), &[], "true");
        // Creates the state, and warms up both.
        timed(&mut terraform());
        timed(&mut tfwrap());
        let pairs = pairs(args.pairs(), tfwrap, terraform);
        println!("| {} | {} |", backend.name(), pairs.cells());
    }
    println!("\n| lock requests of one apply | PutItem | GetItem | DeleteItem |");
    println!("| --- | --- | --- | --- |");
    let ours = lock_requests("tfwrap", Place::tfwrap);
    lock_requests("terraform", Place::terraform);
    assert_eq!(ours, [1, 0, 1], "tfwrap writes once and removes once");
}

/// Counts the requests about the lock item, which go through a proxy.
fn lock_requests(name: &str, command: impl Fn(&Place) -> std::process::Command) -> [usize; 3] {
    let proxy = Proxy::before(&servers::dynamodb().url);
    let table = format!("requests-{name}");
    let place = Place::in_s3(proxy.url(), &table);
    let lock = format!("{BUCKET}/{}", key(&table));
    // The first apply creates the state.
    timed(&mut apply(command(&place), &[], "true"));
    let operations = ["PutItem", "GetItem", "DeleteItem"];
    let before = operations.map(|operation| proxy.count_of(operation, &lock));
    timed(&mut apply(command(&place), &[], "true"));
    let mut counts = operations.map(|operation| proxy.count_of(operation, &lock));
    for (count, before) in counts.iter_mut().zip(before) {
        *count -= before;
    }
    println!("| {name} | {} | {} | {} |", counts[0], counts[1], counts[2]);
    counts
}
