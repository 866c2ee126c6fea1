//! Random lines: arrivals, holds, deaths, time-outs, interrupts, and requests that fare badly. A
//! run that fails names its seed.

use std::time::Duration;

use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::lease::LeaseTerm;

use crate::secs;
use crate::world::mishap::below;
use crate::world::{Fate, Lot, Plan, Weather, World};

/// How many lines of each kind; `TFWRAP_SIM_SEEDS=FROM..TO` asks for others.
fn seeds() -> std::ops::Range<u64> {
    #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
    let wanted = std::env::var("TFWRAP_SIM_SEEDS");
    let Ok(wanted) = wanted else { return 0..200 };
    let (from, to) = wanted.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// What a line is made of.
#[derive(Clone, Copy)]
struct Mix {
    /// How many of a hundred die in some way.
    deaths: u64,
    /// How many of a hundred lose patience or are interrupted.
    leavers: u64,
    /// How many of a hundred meet this with their requests.
    unlucky: u64,
    weather: Weather,
}

const CALM: Weather = Weather { lost: 0, unanswered: 0, throttled: 0, slow: 0, slowness: SECOND };
const SECOND: Duration = Duration::from_secs(1);

const ROUGH: Weather =
    Weather { lost: 30, unanswered: 30, throttled: 30, slow: 60, slowness: SECOND };

fn plans(seed: u64, mix: Mix) -> Vec<Plan> {
    let mut dice = Jitter(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let dice = &mut dice;
    let count = 3 + below(dice, 23);
    let span = secs(1 + below(dice, 90));
    let longest = secs([1, 5, 30][usize::try_from(below(dice, 3)).unwrap_or(0)]);
    let mut plans: Vec<_> = (0..count)
        .map(|_| {
            let mut plan = Plan::new(dice.up_to(span), dice.up_to(longest));
            plan.term = LeaseTerm::After(secs(15 + below(dice, 46)));
            let lot = below(dice, 100);
            if lot < mix.deaths {
                plan.fate = match below(dice, 3) {
                    0 => Fate::DiesWaiting(dice.up_to(secs(120))),
                    1 => Fate::DiesHolding,
                    _ => Fate::DiesAsking(1 + below(dice, 25), below(dice, 2) == 0),
                };
            } else if lot < mix.deaths + mix.leavers {
                if below(dice, 2) == 0 {
                    plan.patience = dice.up_to(secs(90));
                } else {
                    plan.fate = Fate::Interrupted(dice.up_to(secs(90)));
                }
            }
            if below(dice, 100) < mix.unlucky {
                plan.weather = mix.weather;
            }
            plan
        })
        .collect();
    plans.sort_by_key(|plan| plan.arrives);
    plans
}

fn is_patient(plan: &Plan) -> bool {
    plan.fate == Fate::Lives && plan.patience >= secs(86_400)
}

fn dies(plan: &Plan) -> bool {
    !matches!(plan.fate, Fate::Lives | Fate::Interrupted(_))
}

/// What holds for every line, whatever happens.
fn run(seed: u64, mix: Mix) -> (Vec<Plan>, Vec<Lot>) {
    let plans = plans(seed, mix);
    let mut world = World::new(&plans, seed);
    let lots = world.run(secs(86_400));
    assert!(world.most_holders <= 1, "seed {seed}: two at once");
    assert_eq!(world.too_early, Duration::ZERO, "seed {seed}: taken over too early");
    for (index, (plan, lot)) in plans.iter().zip(&lots).enumerate() {
        if is_patient(plan) {
            assert!(lot.granted.is_some(), "seed {seed}: number {index} never got the lock");
        }
        assert!(lot.ended.is_some(), "seed {seed}: number {index} does not end");
    }
    let (tickets, holder) = world.leftovers();
    let died = |index: usize| dies(&plans[index]);
    // Whoever is interrupted waits for an answer for 4 s and no longer; its ticket is then as the
    // dead's.
    let hurried = |plan: &Plan| {
        matches!(plan.fate, Fate::Interrupted(_)) && plan.weather.lost + plan.weather.unanswered > 0
    };
    for index in tickets {
        let may_leave_it = died(index) || hurried(&plans[index]);
        assert!(may_leave_it, "seed {seed}: number {index} lives and left its ticket");
    }
    if let Some(holder) = holder {
        assert!(died(holder), "seed {seed}: number {holder} lives and left the lock");
    }
    for (index, lot) in lots.iter().enumerate() {
        let Some(headed) = lot.headed else { continue };
        let behind = headed.saturating_sub(plans[index].arrives);
        let sent = u32::try_from(lot.requests - lot.head_requests).unwrap_or(u32::MAX);
        // To join, and for what happens around it; then the regular looks, and what the dead and
        // the repeats cost.
        let a_minute = if mix.deaths + mix.unlucky == 0 { 15.0 } else { 40.0 };
        let most = 25.0 + a_minute * behind.as_secs_f64() / 60.0;
        assert!(f64::from(sent) <= most, "seed {seed}: number {index}: {sent} in {behind:?}");
    }
    (plans, lots)
}

/// Those who waited in line with endless patience and without a mishap, by ticket: when they got
/// it. Who is not among them may come out of turn: by a last try, or because a request that fared
/// badly kept them from looking every 10 s.
fn by_ticket(plans: &[Plan], lots: &[Lot]) -> Vec<(u64, Duration)> {
    let steady = |(plan, lot): &(&Plan, &Lot)| is_patient(plan) && lot.mishaps == 0;
    let steady = plans.iter().zip(lots).filter(steady);
    let mut all: Vec<_> = steady.filter_map(|(_, lot)| Some((lot.ticket?, lot.granted?))).collect();
    all.sort_unstable();
    all
}

fn longest_idle(lots: &[Lot]) -> Duration {
    lots.iter().filter_map(|lot| lot.idle).max().unwrap_or_default()
}

#[test]
fn in_a_line_where_nobody_dies_everybody_has_a_turn_in_order() {
    for seed in seeds() {
        let mix = Mix { deaths: 0, leavers: 25, unlucky: 0, weather: CALM };
        let (plans, lots) = run(seed, mix);
        let order = by_ticket(&plans, &lots);
        assert!(order.iter().map(|(_, at)| at).is_sorted(), "seed {seed}: {order:?}");
        let idle = longest_idle(&lots);
        // Whoever left just before its turn is noticed at the next look at the lock.
        assert!(idle <= secs(10), "seed {seed}: idle for {idle:?}");
    }
}

/// How many waiters died or left while the lock could be had.
fn gone_meanwhile(lots: &[Lot], open: Duration, granted: Duration) -> u32 {
    let gone = |lot: &&Lot| {
        lot.granted.is_none() && lot.ended.is_some_and(|at| (open..=granted).contains(&at))
    };
    u32::try_from(lots.iter().filter(gone).count()).unwrap()
}

#[test]
fn the_dead_cost_those_behind_twenty_seconds_at_most_and_the_order_is_kept() {
    for seed in seeds() {
        let mix = Mix { deaths: 40, leavers: 15, unlucky: 0, weather: CALM };
        let (plans, lots) = run(seed, mix);
        for lot in &lots {
            let (Some(granted), Some(idle)) = (lot.granted, lot.idle) else { continue };
            // Who has said that it sees the free lock, and then dies or leaves, was let go first.
            let gone = gone_meanwhile(&lots, lot.open, granted);
            let most = secs(20) + secs(10) * gone;
            assert!(idle <= most, "seed {seed}: idle for {idle:?}, {gone} gone meanwhile");
        }
        let order = by_ticket(&plans, &lots);
        assert!(order.iter().map(|(_, at)| at).is_sorted(), "seed {seed}: {order:?}");
    }
}

/// A line that is damaged, or edited by hand: it says of every holder that it is dead since long. Who
/// beats is never taken over for it, or would find its lock lost, which ends this world.
#[test]
fn whatever_the_line_says_whoever_beats_keeps_its_lock() {
    let mut early = Duration::ZERO;
    for seed in seeds() {
        let mut plans = plans(seed, Mix { deaths: 20, leavers: 20, unlucky: 0, weather: CALM });
        for plan in &mut plans {
            plan.holds *= 3;
        }
        let mut world = World::new(&plans, seed);
        world.line_lies = true;
        world.run(secs(86_400));
        assert!(world.most_holders <= 1, "seed {seed}: two at once");
        early = early.max(world.too_early);
    }
    // The control: of the dead it is believed.
    assert!(early > secs(10), "nobody reads what it says");
}

#[test]
fn lost_and_late_replies_cost_time_and_never_the_lock() {
    for seed in seeds() {
        let mix = Mix { deaths: 0, leavers: 20, unlucky: 60, weather: ROUGH };
        let (_, lots) = run(seed, mix);
        let idle = longest_idle(&lots);
        assert!(idle <= secs(30), "seed {seed}: idle for {idle:?}");
    }
}

#[test]
fn with_everything_at_once_everybody_left_alive_still_gets_the_lock() {
    for seed in seeds() {
        let mix = Mix { deaths: 30, leavers: 20, unlucky: 60, weather: ROUGH };
        let (_, lots) = run(seed, mix);
        let idle = longest_idle(&lots);
        assert!(idle <= secs(60), "seed {seed}: idle for {idle:?}");
    }
}
