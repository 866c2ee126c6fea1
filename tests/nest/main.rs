//! Random jobs of nested commands on one state: `hold`, `run`, `apply`, `release` and `recover` in
//! shells, `make -j2`, `timeout`, Python and Node scripts; random signals to random members of them,
//! wrappers, guardians and Terraforms among them. However it goes: never two Terraforms at once, no
//! more interrupts for any of them than there were stops, no lock left after `recover` or its lease,
//! no command that does not end, nothing left running.
//!
//! | module | is |
//! | --- | --- |
//! | `tree` | a job: what is in what, and how that is written |
//! | `round` | jobs side by side, and who is signalled |
//! | `look` | what is checked |
//! | `dice` | numbers from a seed |
//! | `harness` | processes, started in a clean environment, ended by PID |
//! | `procs` | processes by number and birth |
//! | `servers` | the servers, and directories with a backend |
//!
//! A round's plan follows from the seed and the round's number alone; what the machine makes of it
//! does not. A failure prints both; to play such a round again, or all of them:
//!
//! ```text
//! TFWRAP_NEST_SEED=7 TFWRAP_NEST_FIRST=41 TFWRAP_NEST_ROUNDS=1 cargo test --test nest
//! TFWRAP_NEST_SEED=$RANDOM TFWRAP_NEST_ROUNDS=300 cargo test --test nest -- --nocapture
//! ```

mod look;
mod round;
mod tree;

#[path = "../chaos/dice.rs"]
mod dice;
#[path = "../it/harness.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod harness;
#[path = "../cancel/procs.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod procs;
#[path = "../it/servers.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod servers;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use look::Tally;
use round::{Lane, Plan};
use tree::Lock;

/// So many states are played on side by side.
const LANES: usize = 4;
const ROUNDS: usize = 20;
/// The default run plays the same rounds every time.
const SEED: u64 = 1;

fn number(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn count(value: u64) -> usize {
    usize::try_from(value).expect("not so many")
}

#[test]
fn whoever_is_signalled_terraforms_take_turns_and_hear_of_each_stop_once() {
    let seed = number("TFWRAP_NEST_SEED").unwrap_or(SEED);
    let rounds = number("TFWRAP_NEST_ROUNDS").map_or(ROUNDS, count);
    let first = number("TFWRAP_NEST_FIRST").map_or(0, count);
    println!("seed {seed}, rounds {first} to {}", first + rounds - 1);
    let next = AtomicUsize::new(first);
    let (tally, failed) = (Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for lane in 0..LANES.min(rounds) {
            let (next, tally, failed) = (&next, &tally, &failed);
            scope.spawn(move || {
                let mut lane = Lane::new(&format!("lane-{lane}"));
                loop {
                    let round = next.fetch_add(1, Ordering::SeqCst);
                    if round >= first + rounds {
                        return;
                    }
                    let plan = Plan::new(seed, round);
                    let outcome = lane.play(round, &plan, Lock::Taken);
                    if !outcome.faults.is_empty() {
                        let what = format!(
                            "seed {seed}, round {round}: {}\n{plan}\n{outcome}\nreplay: \
                             TFWRAP_NEST_SEED={seed} TFWRAP_NEST_FIRST={round} \
                             TFWRAP_NEST_ROUNDS=1 cargo test --test nest",
                            outcome.faults.join("\n  ")
                        );
                        println!("{what}");
                        failed.lock().expect("not poisoned").push(what);
                        // Its rest must not spoil what comes after.
                        lane = Lane::new(&format!("lane-after-{round}"));
                    }
                    tally.lock().expect("not poisoned").add(&outcome);
                }
            });
        }
    });
    let tally = tally.into_inner().expect("not poisoned");
    println!("{tally}");
    let failed = failed.into_inner().expect("not poisoned");
    assert!(failed.is_empty(), "{} rounds failed:\n{}", failed.len(), failed.join("\n"));
    assert!(tally.is_of_use(), "too little happened: {tally}");
}

/// The same jobs without tfwrap: then Terraforms do overlap, or the test proves nothing.
#[test]
fn the_negative_control_without_a_lock_has_overlaps() {
    let lane = Lane::new("unlocked");
    for round in 0..12 {
        if lane.play(round, &Plan::calm(3, round), Lock::None).overlaps() > 0 {
            return;
        }
    }
    panic!("no overlap without a lock");
}
