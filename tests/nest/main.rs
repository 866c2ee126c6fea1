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
//! | `support` | servers, processes and proxies: what the suites share |
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

#[path = "../support/support.rs"]
mod support;

use look::Tally;
use round::{Lane, Plan};
use support::rounds::{Ledger, Rounds};
use tree::Lock;

/// So many states are played on side by side.
const LANES: usize = 4;
const ROUNDS: usize = 20;
/// The default run plays the same rounds every time.
const SEED: u64 = 1;

#[test]
fn whoever_is_signalled_terraforms_take_turns_and_hear_of_each_stop_once() {
    let rounds = Rounds::of("nest", ("TFWRAP_NEST", "ROUNDS"), SEED, ROUNDS);
    let tally = rounds.play(LANES, |lane, ledger: &Ledger<Tally>| {
        let mut lane = Lane::new(&format!("lane-{lane}"));
        while let Some(round) = ledger.next() {
            let plan = Plan::new(rounds.seed, round);
            let outcome = lane.play(round, &plan, Lock::Taken);
            if !outcome.faults.is_empty() {
                let (named, replay) = (rounds.named(round), rounds.replay(round));
                let faults = outcome.faults.join("\n  ");
                ledger.fail(format!("{named}: {faults}\n{plan}\n{outcome}\n{replay}"));
                // Its rest must not spoil what comes after.
                lane = Lane::new(&format!("lane-after-{round}"));
            }
            ledger.count(|tally| tally.add(&outcome));
        }
    });
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
