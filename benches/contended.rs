//! What waiting costs: eight applies of three seconds that arrive 0.3 s apart on one state, under
//! tfwrap and under `terraform apply -lock-timeout=300s`. The ideal is eight times what one
//! `tfwrap apply` takes with nobody there.
//!
//! `cargo bench --bench contended -- --rounds 3 --stock-rounds 1`

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

#[path = "../tests/it/servers.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod servers;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use support::{Backend, Place, apply, now, pause, quartile, say_where, start, timed};

#[derive(Debug, Parser)]
struct Args {
    /// How many rounds under tfwrap.
    #[arg(long, default_value_t = 3)]
    rounds: u16,
    /// How many rounds under Terraform's own waiting.
    #[arg(long, default_value_t = 1)]
    stock_rounds: u16,
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
    #[arg(long, value_enum, default_value_t = Backend::S3)]
    backend: Backend,
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
    let work = |number: u8| format!("echo {number} >> {GRANTS}; sleep {}", args.work);
    let tfwrap = |number| apply(place.tfwrap(), &[], &work(number));
    let stock = |number| apply(place.terraform(), &["-lock-timeout=300s"], &work(number));

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
    for index in 0..args.rounds.max(args.stock_rounds) {
        if index < args.rounds {
            round(&format!("tfwrap {}", index + 1), &args, place.path(), ideal, tfwrap);
        }
        if index < args.stock_rounds {
            round(&format!("terraform {}", index + 1), &args, place.path(), ideal, stock);
        }
    }
}

/// Lets all of them arrive, and says how it went.
fn round(name: &str, args: &Args, dir: &Path, ideal: f64, command: impl Fn(u8) -> Command) {
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
    for one in all {
        let (output, _) = one.end();
        if !output.status.success() {
            failed += 1;
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let wall = from.elapsed().as_secs_f64();
    let text = std::fs::read_to_string(grants).unwrap_or_default();
    let order: Vec<u8> = text.lines().map(|line| line.parse().unwrap()).collect();
    println!(
        "| {name} | {wall:.2} s | **{:.3}** | {} | {} | {failed} |",
        wall / ideal,
        overtakings(&order),
        order.iter().map(u8::to_string).collect::<Vec<_>>().join(" "),
    );
}

/// How many pairs were served in the wrong order.
fn overtakings(order: &[u8]) -> usize {
    let later = |at: usize| order[at + 1..].iter().filter(move |other| **other < order[at]);
    (0..order.len()).map(|at| later(at).count()).sum()
}
