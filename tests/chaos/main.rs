//! Random contenders for one state, killed at random: tfwrap around a scripted child and around a
//! real Terraform, `hold` and `release`, and stock Terraform, before a store whose replies are lost,
//! late and refused. However it goes: never two children at once, no lock left for longer than its
//! lease, nobody else's record touched, the state whole.
//!
//! | module | is |
//! | --- | --- |
//! | `dice` | numbers from a seed |
//! | `plan` | what a round does: who, when, killed how, what the store does |
//! | `lane` | a state of its own, on which rounds are played one after the other |
//! | `look` | what is checked |
//! | `harness` | processes, started in a clean environment, ended by PID |
//! | `procs` | processes by number and birth |
//! | `proxy` | a proxy that loses, delays and breaks requests |
//! | `servers` | the servers, and directories with a backend |
//!
//! A round's plan follows from the seed and the round's number alone; what the machine makes of it
//! does not. A failure prints both; to play such a round again, or all of them:
//!
//! ```text
//! TFWRAP_CHAOS_SEED=7 TFWRAP_CHAOS_FIRST=41 TFWRAP_CHAOS_ROUNDS=1 cargo test --test chaos
//! TFWRAP_CHAOS_ROUNDS=300 cargo test --test chaos -- --nocapture
//! ```

mod dice;
mod lane;
mod look;
mod plan;

#[path = "../it/harness.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod harness;
#[path = "../cancel/procs.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod procs;
#[path = "../it/proxy.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod proxy;
#[path = "../it/servers.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod servers;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lane::{Lane, Lock};
use look::Tally;
use plan::{Kind, Plan};

/// So many states are played on side by side.
const LANES: usize = 4;
const ROUNDS: usize = 24;

fn number(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Another one each time, unless one is asked for.
fn seed() -> u64 {
    let now = u64::try_from(tfwrap::clock::wall().as_millisecond()).expect("after 1970");
    number("TFWRAP_CHAOS_SEED").unwrap_or(now)
}

fn count(value: u64) -> usize {
    usize::try_from(value).expect("not so many")
}

#[test]
fn whatever_is_killed_the_lock_holds_and_comes_free() {
    let seed = seed();
    let rounds = number("TFWRAP_CHAOS_ROUNDS").map_or(ROUNDS, count);
    let first = number("TFWRAP_CHAOS_FIRST").map_or(0, count);
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
                        failed.lock().expect("not poisoned").extend(lane.end().err());
                        return;
                    }
                    let plan = Plan::new(seed, round);
                    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        lane.play(round, &plan, Lock::Taken)
                    }));
                    let result = played.unwrap_or_else(|_| Err("it panicked".to_owned()));
                    match result {
                        Ok(one) => tally.lock().expect("not poisoned").add(&one),
                        Err(what) => {
                            let what = format!(
                                "seed {seed}, round {round}: {what}\n{plan:#?}\nreplay: \
                                 TFWRAP_CHAOS_SEED={seed} TFWRAP_CHAOS_FIRST={round} \
                                 TFWRAP_CHAOS_ROUNDS=1"
                            );
                            println!("{what}");
                            failed.lock().expect("not poisoned").push(what);
                            // Its rest must not spoil what comes after.
                            lane = Lane::new(&format!("lane-{round}-after"));
                        }
                    }
                }
            });
        }
    });
    let tally = tally.into_inner().expect("not poisoned");
    println!("{tally}");
    let failed = failed.into_inner().expect("not poisoned");
    assert!(failed.is_empty(), "{} rounds failed:\n{}", failed.len(), failed.join("\n"));
    assert!(tally.begun > 0, "nobody ever worked");
}

/// The same contenders without the lock: then children do overlap, or the test proves nothing.
#[test]
fn the_negative_control_without_a_lock_has_overlaps() {
    let lane = Lane::new("unlocked");
    let overlaps: usize = (0..3)
        .map(|round| {
            let mut plan = Plan::new(1, round);
            plan.contenders.iter_mut().for_each(|one| one.kind = Kind::Scripted);
            plan.faults.clear();
            lane.play(round, &plan, Lock::None).expect("it is only counted").overlaps
        })
        .sum();
    assert!(overlaps > 0, "no overlap without a lock");
}
