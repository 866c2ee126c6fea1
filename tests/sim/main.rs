//! The line in virtual time: order, cost, and the dead.
//!
//! | module | is |
//! | --- | --- |
//! | `world` | waiters, a store and time, all of them made up |
//! | `random` | random crowds |
//! | `stops` | stops at every moment of the wait |
//! | `handed_on` | what a waiter that leaves tells of the silence of the holder |
//! | `machines` | a held lock and a child, with a mishap at every event |
//! | `children` | a child and its group, with a mishap at every event |
//! | `family` | a child and its group around the shipped machines |
//! | `seeded` | how property tests get their seed |

mod children;
#[path = "../support/family.rs"]
mod family;
mod handed_on;
mod machines;
mod random;
#[path = "../support/seeded.rs"]
mod seeded;
mod stops;
mod world;

use std::time::Duration;

use tfwrap::lock::lease::LeaseTerm;
use tfwrap::lock::line::Slot;
use tfwrap::store::StoreError;
use world::{Fate, Lot, Plan, World};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many waiters, this far apart, each holding so long.
fn crowd(count: u32, apart: Duration, holds: Duration) -> Vec<Plan> {
    (0..count).map(|index| Plan::new(apart * index, holds)).collect()
}

/// Runs a world to its end, and checks that nobody was together with anybody.
fn run(plans: &[Plan], seed: u64) -> Vec<Lot> {
    let mut world = World::new(plans, seed);
    let lots = world.run(secs(86_400 * 30));
    assert_eq!((world.most_holders, world.too_early), (1, Duration::ZERO));
    lots
}

fn granted(lots: &[Lot]) -> Vec<Duration> {
    lots.iter().filter_map(|lot| lot.granted).collect()
}

#[test]
fn a_run_alone_costs_one_read_and_one_write() {
    let lots = run(&[Plan::new(secs(0), secs(3))], 1);
    assert_eq!(lots[0].requests, 2);
}

#[test]
fn arrival_order_is_grant_order() {
    for seed in 0..20 {
        for (count, apart, holds) in [(8, 300, 3_000), (50, 200, 500), (200, 50, 10_000)] {
            let plans = crowd(count, Duration::from_millis(apart), Duration::from_millis(holds));
            let granted = granted(&run(&plans, seed));
            assert_eq!(granted.len(), plans.len(), "everybody gets it");
            assert!(granted.is_sorted(), "seed {seed}: {granted:?}");
        }
    }
}

#[test]
fn eight_runs_of_three_seconds_lose_little_between_them() {
    for seed in 0..20 {
        let plans = crowd(8, Duration::from_millis(300), secs(3));
        let lots = run(&plans, seed);
        let total = lots.iter().filter_map(|lot| lot.ended).max().unwrap();
        assert!(total <= secs(24).mul_f64(1.08), "seed {seed}: {total:?}");
    }
}

/// How many places a waiter looks at once, for its messages.
const MOST_COUNTED: u64 = 8;

#[test]
fn a_waiter_behind_the_head_sends_at_most_15_requests_a_minute_however_long_the_line() {
    for count in [10, 100, 300] {
        let lots = run(&crowd(count, secs(1), secs(60)), 7);
        for (index, lot) in lots.iter().enumerate() {
            let waited = lot.granted.unwrap().saturating_sub(secs(index as u64));
            if waited < secs(300) {
                continue;
            }
            let behind = lot.requests - lot.head_requests - lot.counting;
            assert!(lot.counting <= MOST_COUNTED, "{count} waiters, number {index}");
            let a_minute = 60.0 * f64::from(u32::try_from(behind).unwrap()) / waited.as_secs_f64();
            assert!(a_minute <= 15.0, "{count} waiters, number {index}: {a_minute:.1} a minute");
        }
    }
}

/// By that a free lock is not left lying. What else is due may come first, a request or two.
#[test]
fn whoever_stands_in_line_looks_at_the_lock_every_nine_and_a_half_seconds() {
    for (count, seed) in [(3, 0), (10, 1), (100, 2)] {
        let lots = run(&crowd(count, secs(1), secs(60)), seed);
        for (index, lot) in lots.iter().enumerate().skip(1) {
            let blind = lot.longest_blind;
            assert!(
                blind <= Duration::from_millis(9_550),
                "{count} waiters, number {index}: {blind:?}"
            );
            // The control: who stands behind others does not look much more often, either.
            assert!(index == 1 || blind >= secs(9), "{count} waiters, number {index}: {blind:?}");
        }
    }
}

/// Joining takes some, and before a hold was seen to end nobody knows how long one is: so it is
/// the third in line that sends most.
#[test]
fn all_at_once_send_at_most_15_requests_a_minute_on_average_and_nobody_many_more() {
    for seed in 0..10 {
        let lots = run(&crowd(10, Duration::from_millis(20), secs(60)), seed);
        let rates = lots.iter().filter_map(|lot| {
            let behind = lot.headed.filter(|at| *at >= secs(120))?.as_secs_f64();
            let sent = u32::try_from(lot.requests - lot.head_requests - lot.counting).unwrap();
            Some(f64::from(sent) * 60.0 / behind)
        });
        let rates: Vec<_> = rates.collect();
        let mean = rates.iter().sum::<f64>() / f64::from(u32::try_from(rates.len()).unwrap());
        assert!(rates.len() >= 6 && mean <= 15.0, "seed {seed}: {mean:.1} a minute");
        let most = rates.iter().copied().fold(0.0, f64::max);
        assert!(most <= 19.0, "seed {seed}: {most:.1} a minute");
    }
}

#[test]
fn dead_waiters_however_many_cost_those_behind_at_most_twenty_seconds() {
    for seed in 0..20 {
        for dead in [1, 5, 30, 200] {
            let mut plans = crowd(dead + 3, Duration::from_millis(50), secs(30));
            for plan in &mut plans[1..=dead as usize] {
                plan.fate = Fate::DiesWaiting(secs(10));
            }
            let lots = run(&plans, seed);
            let freed = lots[0].ended.unwrap();
            let next = lots[dead as usize + 1].granted.unwrap();
            // Each of them is read once.
            let most = secs(20) + Duration::from_millis(10) * dead;
            assert!(next.saturating_sub(freed) <= most, "seed {seed}, {dead} dead: {next:?}");
            assert!(granted(&lots[dead as usize + 1..]).is_sorted());
        }
    }
}

#[test]
fn a_dead_holder_is_taken_over_after_its_lease_and_the_dead_behind_it_add_little() {
    for seed in 0..20 {
        let mut plans = crowd(5, secs(1), secs(3));
        plans[0].fate = Fate::DiesHolding;
        plans[0].term = LeaseTerm::After(secs(120));
        plans[1].fate = Fate::DiesWaiting(secs(20));
        plans[2].fate = Fate::DiesWaiting(secs(20));
        let lots = run(&plans, seed);
        let third = lots[3].granted.unwrap();
        // It saw the record first a moment after it came, at 3 s.
        assert!(third >= secs(120), "seed {seed}: {third:?}");
        assert!(third <= secs(120 + 3 + 20 + 1), "seed {seed}: {third:?}");
    }
}

#[test]
fn jobs_that_wait_shorter_than_the_lease_still_get_rid_of_a_dead_holder() {
    let mut plans = crowd(12, secs(50), secs(1));
    for plan in &mut plans {
        plan.patience = secs(60);
        plan.term = LeaseTerm::After(secs(300));
    }
    plans[0].fate = Fate::DiesHolding;
    let lots = run(&plans, 3);
    let first = lots[1..].iter().filter_map(|lot| lot.granted).min();
    let first = first.expect("observations are handed on");
    assert!(first >= secs(300), "{first:?}");
}

#[test]
fn a_waiter_that_times_out_leaves_the_line_and_the_next_does_not_wait_for_it() {
    let mut plans = crowd(4, secs(1), secs(30));
    plans[1].patience = secs(5);
    let lots = run(&plans, 5);
    assert_eq!(lots[1].granted, None);
    assert!(lots[2].granted.unwrap() <= lots[0].ended.unwrap() + secs(3));
}

/// Of all the line's registers, or of the one that all read; or they are throttled for good. One after
/// the other waits for a holder that takes its time, and the last of them not long enough.
#[test]
fn where_the_line_cannot_be_written_everybody_still_gets_the_lock_and_nobody_sends_without_a_pause()
{
    type Refusal = (&'static str, bool, fn(Slot) -> Option<StoreError>);
    fn denied() -> StoreError {
        StoreError::Denied("PutItem".into())
    }
    let refusals: [Refusal; 4] = [
        ("all denied", true, |slot| (slot != Slot::Lock).then(denied)),
        ("the line denied", true, |slot| (slot == Slot::Line).then(denied)),
        ("throttled", false, |slot| {
            (slot == Slot::Line).then(|| StoreError::Throttled(String::new()))
        }),
        ("unknown", false, |slot| (slot == Slot::Line).then(|| StoreError::Failed(String::new()))),
    ];
    for (what, is_told, refusal) in refusals {
        let mut plans = crowd(7, secs(1), secs(3));
        plans[0].holds = secs(120);
        plans[6].patience = secs(20);
        let mut world = World::new(&plans, 1);
        world.refusal = refusal;
        let lots = world.run(secs(3600));
        assert_eq!(world.most_holders, 1, "{what}");
        assert_eq!(granted(&lots).len(), 6, "{what}");
        let late = lots[6].ended.unwrap();
        assert!(late <= secs(6 + 20 + 1), "{what}: it waits for 20 s, and ends at {late:?}");
        for lot in &lots[1..] {
            assert_eq!(lot.told, is_told, "{what}");
            // At the pace of whoever watches the lock, and what it takes to find out.
            let waited = lot.ended.unwrap().as_secs_f64();
            let most = 60.0 + 3.5 * waited;
            let sent = u32::try_from(lot.requests).unwrap();
            assert!(f64::from(sent) <= most, "{what}: {sent} in {waited} s");
        }
    }
}

#[test]
fn everybody_at_once_gets_it_one_after_the_other() {
    for seed in 0..10 {
        let lots = run(&crowd(30, Duration::ZERO, secs(2)), seed);
        assert_eq!(granted(&lots).len(), 30, "seed {seed}");
    }
}

#[test]
fn short_holds_in_a_long_line_follow_each_other_closely() {
    for seed in 0..3 {
        let lots = run(&crowd(100, Duration::from_millis(100), secs(3)), seed);
        let total = lots.iter().filter_map(|lot| lot.ended).max().unwrap();
        assert!(total <= secs(300).mul_f64(1.08), "seed {seed}: {total:?}");
    }
}
