//! What tfwrap itself costs: `tfwrap version`, which is handed over, against `terraform version`;
//! and the memory of a tfwrap that holds a lock.
//!
//! `cargo bench --bench startup -- --pairs 21`

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

#[path = "../tests/it/servers.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod servers;

use std::time::Duration;

use clap::Parser as _;
use support::{Args, Backend, Place, pairs, pause, say_where, start, timed};

fn main() {
    let args = Args::parse();
    let place = Place::new(Backend::Local, "");
    say_where(&place);
    let version = |mut command: std::process::Command| {
        command.arg("version");
        command
    };
    let (tfwrap, terraform) = (|| version(place.tfwrap()), || version(place.terraform()));
    timed(&mut terraform());
    timed(&mut tfwrap());
    println!("| command | tfwrap | terraform | ratio | quartiles | pairs |");
    println!("| --- | --- | --- | --- | --- | --- |");
    println!("| `version` | {} |", pairs(args.pairs(), tfwrap, terraform).cells());

    println!("\n| holding a lock | peak memory |");
    println!("| --- | --- |");
    for backend in [Backend::S3, Backend::Local] {
        let mebibytes = memory(backend);
        println!("| {} | {mebibytes} MiB |", backend.name());
    }
}

/// The peak memory of a tfwrap whose child runs, in MiB, rounded up.
fn memory(backend: Backend) -> u64 {
    let place = Place::new(backend, "memory");
    let (ready, go) = (place.path().join("ready"), place.path().join("go"));
    // Gives up by itself after a minute.
    let wait = "touch ready; for i in $(seq 600); do test -e go && exit; sleep 0.1; done; exit 9";
    let running = start(place.tfwrap().args(["run", "--", "sh", "-c", wait]));
    for _ in 0..600 {
        if ready.exists() {
            break;
        }
        pause(Duration::from_millis(100));
    }
    assert!(ready.exists(), "the child does not start");
    let peak = running.peak_memory();
    std::fs::write(go, "").unwrap();
    running.success();
    peak.div_ceil(1024)
}
