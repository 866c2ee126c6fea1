//! What tfwrap itself costs: `tfwrap version`, which is handed over, against `terraform version`;
//! `tfwrap run -- true` under a local lock against `true`; the time until its first request, over TLS; and
//! the memory of a tfwrap that holds a lock and of its guardian.
//!
//! `cargo bench --bench startup -- --pairs 21`

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

#[path = "../tests/support/proxy.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod proxy;
#[path = "../tests/support/recorder.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod recorder;
#[path = "../tests/support/s3_server.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod s3_server;
#[path = "../tests/support/servers.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod servers;

use std::process::Command;
use std::time::Duration;

use clap::Parser as _;
use recorder::Recorder;
use support::{Args, Backend, Place, now, pairs, pause, quartile, say_where, share, start, timed};

fn main() {
    let args = Args::parse();
    let place = Place::new(Backend::Local, "");
    say_where(&place);
    let version = |mut command: Command| {
        command.arg("version");
        command
    };
    let tfwrap = || version(place.tfwrap());
    let rival = || version(args.rival.command(&place));
    timed(&mut rival());
    timed(&mut tfwrap());
    let name = args.rival.name();
    println!("| | tfwrap | {name} | ratio | quartiles | pairs |");
    println!("| --- | --- | --- | --- | --- | --- |");
    println!("| `version` | {} |", pairs(args.pairs(), tfwrap, rival).cells());

    let run_true = |mut command: Command| {
        command.args(["run", "--", "true"]);
        command
    };
    let tfwrap = || run_true(place.tfwrap());
    timed(&mut tfwrap());
    let (alone, cells) = if args.rival.is_terraform() {
        ("`true` alone", pairs(args.pairs(), tfwrap, || Command::new("true")).cells())
    } else {
        let rival = || run_true(args.rival.command(&place));
        (name, pairs(args.pairs(), tfwrap, rival).cells())
    };
    println!("| `run -- true`, local, against {alone} | {cells} |");

    let first: Vec<f64> = (0..args.pairs()).map(|_| first_request()).collect();
    println!("\n| from the start to the first request, over TLS | quartiles | of |");
    println!("| --- | --- | --- |");
    let [low, half, high] = [1, 2, 3].map(|which| quartile(&first, which));
    println!("| {half:.1} ms | {low:.1}–{high:.1} ms | {} |", first.len());

    println!(
        "\n| holding a lock, in KiB | Pss of tfwrap | of its guardian | of its stand-in | peak of tfwrap |"
    );
    println!("| --- | --- | --- | --- | --- |");
    for backend in Backend::ALL {
        let Memory { tfwrap, guardian, stand_in, peak } = memory(backend);
        println!("| {} | {tfwrap} | {guardian} | {stand_in} | {peak} |", backend.name());
    }
}

/// How long after its start tfwrap's first request has arrived, in milliseconds. It has to look through
/// as many authorities as this machine trusts.
fn first_request() -> f64 {
    let (server, authority) = Recorder::trusted();
    let place = Place::new(Backend::Local, "");
    let trusted = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    let bundle = place.path().join("authorities.pem");
    std::fs::write(&bundle, format!("{trusted}\n{authority}")).unwrap();
    let mut command = place.tfwrap();
    command
        .env("AWS_ENDPOINT_URL_DYNAMODB", &server.url)
        .env("SSL_CERT_FILE", &bundle)
        .args(["--no-backend-lock", "--lock", "dynamodb://locks/first?region=eu-west-1"])
        .args(["run", "--", "true"]);
    let from = now();
    let running = start(&mut command);
    while server.requests().is_empty() && from.elapsed() < Duration::from_secs(30) {
        pause(Duration::from_micros(100));
    }
    let took = from.elapsed().as_secs_f64() * 1000.0;
    running.success();
    took
}

/// What a tfwrap takes of the machine's memory while its child runs, in KiB.
struct Memory {
    tfwrap: u64,
    guardian: u64,
    stand_in: u64,
    /// The most that tfwrap ever had, with all that it shares.
    peak: u64,
}

fn memory(backend: Backend) -> Memory {
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
    let (tfwrap, stand_in) = running.shares();
    let (guardian, peak) = (share(guardian(&place)), running.peak_memory());
    std::fs::write(go, "").unwrap();
    running.success();
    Memory { tfwrap, guardian, stand_in, peak }
}

fn guardian(place: &Place) -> serde_json::Value {
    let receipts = std::fs::read_dir(place.state_dir()).unwrap();
    let mut paths = receipts.map(|entry| entry.unwrap().path());
    let receipt = paths.find(|path| path.extension().is_some_and(|it| it == "json"));
    let text = std::fs::read_to_string(receipt.expect("a receipt")).unwrap();
    let receipt: serde_json::Value = serde_json::from_str(&text).unwrap();
    receipt["guardian"]["pid"].clone()
}
