//! What a long line costs: the shipped machines of so many waiters on one lock, in virtual time,
//! with 10 ms a request. No server, no sleeping.
//!
//! `cargo bench --bench scale -- --waiters 10,100,1000,10000`

#[path = "../tests/sim/world.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod world;

use std::time::{Duration, Instant};

use clap::Parser;
use world::{Lot, Plan, World};

#[derive(Debug, Parser)]
struct Args {
    /// How many waiters, one line of the table each.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000, 10_000])]
    waiters: Vec<u32>,
    /// How many of the holds to watch at most: who stands behind them still waits by then.
    #[arg(long, default_value_t = 300)]
    holds: u32,
    /// The seed of what is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Between two arrivals.
const APART: Duration = Duration::from_millis(20);
/// A short hold, for the hand-off, and a long one, for what it costs to wait.
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_mins(1);
/// Those who waited less say little about a minute.
const LEAST: Duration = Duration::from_mins(2);
/// How long the requests are counted.
const WINDOW: Duration = Duration::from_mins(15);

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a bench measures, it decides nothing")]
    Instant::now()
}

fn main() {
    let args = Args::parse();
    println!(
        "| waiters | hand-off p50 | p99 | worst | in order | requests a minute behind the head | \
         most | took |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for count in args.waiters {
        let from = now();
        let after_all = APART * count;
        let lots = simulate(count, SHORT, after_all + SHORT * args.holds, args.seed);
        let mut idle: Vec<_> = lots.iter().skip(1).filter_map(|lot| lot.idle).collect();
        idle.sort_unstable();
        let at = |share: usize| idle[(idle.len() - 1) * share / 100].as_secs_f64();
        let granted: Vec<_> = lots.iter().map(|lot| lot.granted.unwrap_or(Duration::MAX)).collect();
        let order = if granted.is_sorted() { "yes" } else { "no" };

        let end = after_all + WINDOW;
        let rates: Vec<_> = simulate(count, LONG, end, args.seed)
            .iter()
            .enumerate()
            .filter_map(|(index, lot)| a_minute(index, lot, end))
            .collect();
        let most = rates.iter().copied().fold(0.0, f64::max);
        #[expect(clippy::cast_precision_loss, reason = "there are few of them")]
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        println!(
            "| {count} | {:.2} s | {:.2} s | {:.2} s | {order} | {mean:.1} | {most:.1} | {:.1} s |",
            at(50),
            at(99),
            at(100),
            from.elapsed().as_secs_f64(),
        );
    }
}

fn simulate(count: u32, holds: Duration, end: Duration, seed: u64) -> Vec<Lot> {
    let plans: Vec<_> = (0..count).map(|index| Plan::new(APART * index, holds)).collect();
    let mut world = World::new(&plans, seed);
    let lots = world.run(end);
    assert_eq!(world.most_holders, 1);
    lots
}

/// What it sent a minute while it stood behind the head.
fn a_minute(index: usize, lot: &Lot, end: Duration) -> Option<f64> {
    let came = APART * u32::try_from(index).expect("few");
    let until = lot.headed.or(lot.granted).unwrap_or(end);
    let behind = until.checked_sub(came).filter(|behind| *behind >= LEAST)?;
    let sent = u32::try_from(lot.requests - lot.head_requests).expect("few");
    Some(f64::from(sent) * 60.0 / behind.as_secs_f64())
}
