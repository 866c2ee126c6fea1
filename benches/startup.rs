//! What tfwrap itself costs: `tfwrap version`, which is handed over, against `terraform version`;
//! and the memory of a tfwrap that holds a lock and of its guardian.
//!
//! `cargo bench --bench startup -- --pairs 21`

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

#[path = "../tests/support/servers.rs"]
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

    println!("\n| holding a lock | peak memory | its guardian (Pss) |");
    println!("| --- | --- | --- |");
    for backend in [Backend::S3, Backend::Local] {
        let (peak, guardian) = memory(backend);
        println!("| {} | {} MiB | {guardian} KiB |", backend.name(), peak.div_ceil(1024));
    }
}

/// The peak memory of a tfwrap whose child runs, and what its guardian takes of the machine's
/// (proportional set size, `proc_pid_smaps(5)`), both in KiB.
fn memory(backend: Backend) -> (u64, u64) {
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
    let memory = (running.peak_memory(), guardian_memory(&place));
    std::fs::write(go, "").unwrap();
    running.success();
    memory
}

fn guardian_memory(place: &Place) -> u64 {
    let receipts = std::fs::read_dir(place.state_dir()).unwrap();
    let mut paths = receipts.map(|entry| entry.unwrap().path());
    let receipt = paths.find(|path| path.extension().is_some_and(|it| it == "json"));
    let text = std::fs::read_to_string(receipt.expect("a receipt")).unwrap();
    let receipt: serde_json::Value = serde_json::from_str(&text).unwrap();
    let smaps = format!("/proc/{}/smaps_rollup", receipt["guardian"]["pid"]);
    let smaps = std::fs::read_to_string(smaps).expect("the guardian lives");
    let pss = smaps.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a line of it");
    pss.trim().trim_end_matches(" kB").parse().expect("a number")
}
