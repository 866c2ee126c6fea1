//! What waiting costs: eight applies of three seconds that arrive 0.3 s apart on one state, under
//! tfwrap and under `terraform apply -lock-timeout=300s`. The ideal is eight times what one
//! `tfwrap apply` takes with nobody there. A gap is the time from the end of one's work to the
//! begin of the next's, Terraform's own start included; a hand-off is the time in which the lock
//! was free, as tfwrap's log has it.
//!
//! `cargo bench --bench contended -- --rounds 3 --rival-rounds 1 --backend lock-file`

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

#[path = "../tests/support/s3_server.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod s3_server;
#[path = "../tests/support/servers.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod servers;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use support::{Backend, Place, Rival, apply, now, pause, quartile, say_where, start, timed};

#[derive(Debug, Parser)]
struct Args {
    /// How many rounds under tfwrap.
    #[arg(long, default_value_t = 3)]
    rounds: u16,
    /// How many rounds under Terraform's own waiting, or under the other tfwrap.
    #[arg(long, default_value_t = 1)]
    rival_rounds: u16,
    /// How many times to measure one apply with nobody there.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    singles: u16,
    /// How many applies in a round.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=50))]
    applies: u8,
    /// How long each works, in seconds.
    #[arg(long, default_value_t = 3)]
    work: u8,
    /// Where the state is.
    #[arg(long, value_enum, default_value_t = Backend::Dynamodb)]
    backend: Backend,
    #[command(flatten)]
    rival: Rival,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

const APART: Duration = Duration::from_millis(300);
const GRANTS: &str = "grants";

fn main() {
    let args = Args::parse();
    let place = Place::new(args.backend, "contended");
    say_where(&place);
    let now = "$(date +%s.%N)";
    let work = |number: u8| {
        format!("echo {number} {now} >> {GRANTS}; sleep {}; echo - {now} >> {GRANTS}", args.work)
    };
    let wrapped = |mut command: Command, number| {
        command.args(["--log-format", "json"]);
        apply(command, &[], &work(number))
    };
    let tfwrap = |number| wrapped(place.tfwrap(), number);
    let rival = |number| {
        let command = args.rival.command(&place);
        if args.rival.is_terraform() {
            return apply(command, &["-lock-timeout=300s"], &work(number));
        }
        wrapped(command, number)
    };

    timed(&mut apply(place.tfwrap(), &[], "true"));
    let alone: Vec<f64> = (0..args.singles).map(|_| timed(&mut tfwrap(0)).as_secs_f64()).collect();
    let ideal = quartile(&alone, 2) * f64::from(args.applies);
    println!(
        "{}: {} applies of {} s, {} s apart; one alone {:.2} s, so the ideal is {ideal:.2} s\n",
        args.backend.name(),
        args.applies,
        args.work,
        APART.as_secs_f64(),
        quartile(&alone, 2),
    );
    println!("| round | wall | over the ideal | overtakings | order of grants | failed |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for index in 0..args.rounds.max(args.rival_rounds) {
        if index < args.rounds {
            let name = format!("tfwrap {}", index + 1);
            round(&name, &args, place.path(), ideal, tfwrap, &mut ours);
        }
        if index < args.rival_rounds {
            let name = format!("{} {}", args.rival.name(), index + 1);
            round(&name, &args, place.path(), ideal, rival, &mut theirs);
        }
    }
    println!("\n| between two | | p50 | most | of |");
    println!("| --- | --- | --- | --- | --- |");
    for (name, what, times) in [
        ("tfwrap", "hand-off", &ours.handoffs),
        ("tfwrap", "gap", &ours.gaps),
        (args.rival.name(), "hand-off", &theirs.handoffs),
        (args.rival.name(), "gap", &theirs.gaps),
    ] {
        if !times.is_empty() {
            let (half, most) = (quartile(times, 2), quartile(times, 4));
            println!("| {name} | {what} | {half:.2} s | {most:.2} s | {} |", times.len());
        }
    }
}

/// What lay between one apply and the next, in seconds.
#[derive(Debug, Default)]
struct Times {
    handoffs: Vec<f64>,
    gaps: Vec<f64>,
}

/// Lets all of them arrive, and says how it went.
fn round(
    name: &str,
    args: &Args,
    dir: &Path,
    ideal: f64,
    command: impl Fn(u8) -> Command,
    times: &mut Times,
) {
    let grants = dir.join(GRANTS);
    drop(std::fs::remove_file(&grants));
    let from = now();
    let all: Vec<_> = (1..=args.applies)
        .map(|number| {
            let started = start(&mut command(number));
            pause(APART);
            started
        })
        .collect();
    let mut failed = 0;
    let mut said = String::new();
    for one in all {
        let (output, _) = one.end();
        if !output.status.success() {
            failed += 1;
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        said += &String::from_utf8_lossy(&output.stderr);
    }
    let wall = from.elapsed().as_secs_f64();
    let text = std::fs::read_to_string(grants).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap()).collect();
    let order: Vec<u8> = lines.iter().filter_map(|(number, _)| number.parse().ok()).collect();
    let at = |line: &(&str, &str)| line.1.parse::<f64>().unwrap();
    // Ends and begins take turns.
    times.gaps.extend(lines[1..].chunks_exact(2).map(|pair| at(&pair[1]) - at(&pair[0])));
    let (taken, given) = (events(&said, "acquired"), events(&said, "released"));
    times.handoffs.extend(given.iter().zip(taken.iter().skip(1)).map(|(given, taken)| {
        // Whoever is next may be quicker than the line about the release.
        taken.duration_since(*given).as_secs_f64().max(0.0)
    }));
    println!(
        "| {name} | {wall:.2} s | **{:.3}** | {} | {} | {failed} |",
        wall / ideal,
        overtakings(&order),
        order.iter().map(u8::to_string).collect::<Vec<_>>().join(" "),
    );
}

/// When this was said, in order.
fn events(said: &str, event: &str) -> Vec<jiff::Timestamp> {
    let lines =
        said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let of_event = lines.filter(|line| line["event"] == event);
    let mut times: Vec<jiff::Timestamp> =
        of_event.map(|line| line["ts"].as_str().unwrap().parse().unwrap()).collect();
    times.sort_unstable();
    times
}

/// How many pairs were served in the wrong order.
fn overtakings(order: &[u8]) -> usize {
    let later = |at: usize| order[at + 1..].iter().filter(move |other| **other < order[at]);
    (0..order.len()).map(|at| later(at).count()).sum()
}
