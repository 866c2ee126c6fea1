//! Random contenders for one state, killed at random: tfwrap around a scripted child and around a
//! real Terraform, `hold` and `release`, and stock Terraform, before a store whose replies are lost,
//! late and refused. However it goes: never two children at once, no lock left for longer than its
//! lease, nobody else's record touched, the state whole.
//!
//! | module | is |
//! | --- | --- |
//! | `plan` | what a round does: who, when, killed how, what the store does |
//! | `lane` | a state of its own, on which rounds are played one after the other |
//! | `look` | what is checked |
//! | `support` | servers, processes and proxies: what the suites share |
//!
//! A round's plan follows from the seed and the round's number alone; what the machine makes of it
//! does not. A failure prints both; to play such a round again, or all of them:
//!
//! ```text
//! TFWRAP_CHAOS_SEED=7 TFWRAP_CHAOS_FIRST=41 TFWRAP_CHAOS_ROUNDS=1 cargo test --test chaos
//! TFWRAP_CHAOS_ROUNDS=300 cargo test --test chaos -- --nocapture
//! TFWRAP_FLEET_SEED=7 TFWRAP_FLEET_ROUNDS=300 cargo test --test chaos fleet -- --nocapture
//! ```

mod lane;
mod look;
mod plan;

#[path = "../support/support.rs"]
mod support;

use lane::{Lane, Lock};
use look::Tally;
use plan::{Kind, Mode, Plan};
use support::rounds::{Ledger, Rounds};

/// So many states are played on side by side.
const LANES: usize = 4;
const ROUNDS: usize = 24;
const ROUNDS_OF_FLEET: usize = 12;

#[test]
fn whatever_is_killed_the_lock_holds_and_comes_free() {
    let rounds = Rounds::of("chaos", ("TFWRAP_CHAOS", "ROUNDS"), another_seed(), ROUNDS);
    soak(&rounds, Lane::new, |round| Plan::new(rounds.seed, round));
}

/// Of two that have a lock in common, one may have another one besides.
const FLEETS: [[Mode; 2]; 2] = [[Mode::Both, Mode::Item], [Mode::Both, Mode::File]];

/// A fleet that moves from the table to the lock file: of its contenders, stock Terraform's too, some have both
/// locks and some the old one, or some the new one.
#[test]
fn whatever_is_killed_in_a_fleet_that_moves_its_locks_hold_and_come_free() {
    let rounds = Rounds::of("chaos", ("TFWRAP_FLEET", "ROUNDS"), another_seed(), ROUNDS_OF_FLEET);
    let plan = |round| Plan::of_fleet(rounds.seed, round, &FLEETS[round % FLEETS.len()]);
    soak(&rounds, Lane::of_fleet, plan);
}

/// One each time, unless one is asked for.
fn another_seed() -> u64 {
    u64::try_from(tfwrap::clock::wall().as_millisecond()).expect("after 1970")
}

fn soak(rounds: &Rounds, lane: fn(&str) -> Lane, plan: impl Fn(usize) -> Plan + Sync) {
    let new = |name: String| lane(&format!("{}-{name}", rounds.seed));
    let tally = rounds.play(LANES, |index, ledger: &Ledger<Tally>| {
        let mut lane = new(format!("lane-{index}"));
        while let Some(round) = ledger.next() {
            let plan = plan(round);
            let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                lane.play(round, &plan, Lock::Taken)
            }));
            match played.unwrap_or_else(|_| Err("it panicked".to_owned())) {
                Ok(one) => ledger.count(|tally| tally.add(&one)),
                Err(what) => {
                    let (named, replay) = (rounds.named(round), rounds.replay(round));
                    ledger.fail(format!("{named}: {what}\n{plan:#?}\n{replay}"));
                    // Its rest must not spoil what comes after.
                    lane = new(format!("lane-{round}-after"));
                }
            }
        }
        if let Err(what) = lane.end() {
            ledger.fail(what);
        }
    });
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

/// Two that have no lock in common, each with its own: nothing keeps them apart, and that is seen.
#[test]
fn the_negative_control_of_a_fleet_without_a_common_lock_has_overlaps() {
    let lane = Lane::of_fleet("apart");
    let is_seen = (0..6).any(|round| {
        let mut plan = Plan::of_fleet(1, round, &[Mode::Item, Mode::File]);
        plan.contenders.iter_mut().for_each(|one| (one.kind, one.blow) = (Kind::Scripted, None));
        plan.faults.clear();
        plan.faults_of_files.clear();
        let played = lane.play(round, &plan, Lock::Taken);
        played.is_err_and(|what| what.starts_with("overlaps: "))
    });
    assert!(is_seen, "no overlap without a common lock");
}
