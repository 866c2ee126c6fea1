//! What is one stop, whoever tells of it, in whatever order, and under whatever names. Within a second that is
//! all: the machine together with the canary, as `run` puts them together.

use proptest::prelude::*;

use super::super::super::{Canary, Received, SignalKind, SignalOrigin};
use super::*;
use crate::seeded::seeded;

/// For how long whoever signals all goes round: less than what the canary waits for.
const ROUND_MS: u64 = 149;

/// The last that comes within [`ECHO`] of the first.
const LAST_MS: u64 = 999;

/// Until when all is decided on, whoever goes round.
const END_MS: u64 = 2_200;

/// How late the stand-in may be with what it has to tell.
const LATE_MS: u64 = 300;

#[derive(Debug, Clone, Copy)]
enum Seen {
    /// A stop came to us.
    Ours(StopSignal, Reach),
    /// The first process of the terminal has ended, and the kernel tells us.
    HangUp,
    /// A stop came to the child and to the stand-in.
    Its,
    /// The stand-in tells of it.
    Told,
    /// It came to the guardian, too.
    Swept,
}

/// When, and whether it is read before what comes at the same time.
type At = (u64, u8);

fn at_most(ms: u64) -> impl Strategy<Value = At> {
    (0..=ms, any::<u8>())
}

/// One stop: it comes to us and perhaps to the child, and to others, who pass it on or end of it.
fn scenarios() -> impl Strategy<Value = Vec<(At, Seen)>> {
    let names = [StopSignal::Interrupt, Terminate, Hangup];
    let name = || prop::sample::select(names.to_vec());
    let reach =
        prop::sample::select(vec![Reach::Relayed, Reach::PerhapsRelayed, Reach::ByParent, UsOnly]);
    let passed_on =
        (at_most(LAST_MS), name(), reach).prop_map(|(at, it, by)| (at, Seen::Ours(it, by)));
    let hang_up = at_most(LAST_MS).prop_map(|at| (at, Seen::HangUp));
    let others = prop::collection::vec(prop_oneof![passed_on, hang_up], 0..4);
    let its = prop::option::of((at_most(ROUND_MS), 0..=LATE_MS));
    let swept = prop::option::of(at_most(LAST_MS));
    (at_most(ROUND_MS), name(), its, swept, others).prop_map(|(at, it, its, swept, others)| {
        let mut all = vec![(at, Seen::Ours(it, UsOnly))];
        all.extend(others);
        all.extend(swept.map(|at| (at, Seen::Swept)));
        if let Some(((at, turn), late)) = its {
            all.extend([((at, turn), Seen::Its), ((at + late, turn), Seen::Told)]);
        }
        // Of equals the first stays so: nothing is told before it came.
        all.sort_by_key(|(at, _)| *at);
        all
    })
}

/// How many interrupts the child has had in the end, from whomever.
fn interrupts(policy: Policy, scenario: &[(At, Seen)]) -> usize {
    let (mut machine, mut canary) = (Supervisor::new(policy), Canary::default());
    let (mut count, mut pending) = (0, false);
    let mut waiting = scenario.iter().peekable();
    for ms in 0..=END_MS {
        let now = at(0).plus(Duration::from_millis(ms));
        let mut decided = Vec::new();
        while let Some((_, seen)) = waiting.next_if(|((at, _), _)| *at == ms) {
            let (signal, origin) = match *seen {
                Seen::Its => {
                    (count, pending) = (count + 1, true);
                    continue;
                }
                Seen::Told => {
                    pending = false;
                    canary.its(now);
                    let told = machine.step(now, Event::Overheard(Terminate));
                    assert_eq!(told, [ContinueStopped]);
                    continue;
                }
                Seen::Swept => {
                    canary.sweep(now);
                    continue;
                }
                Seen::Ours(signal, reach) => {
                    let by_tfwrap = reach == Reach::Relayed;
                    let by_parent = reach == Reach::ByParent;
                    match reach {
                        Reach::PerhapsRelayed => (signal, SignalOrigin::Outside),
                        _ => (signal, SignalOrigin::Sent { by_tfwrap, by_parent }),
                    }
                }
                Seen::HangUp => (Hangup, SignalOrigin::Terminal),
            };
            let received = Received { kind: SignalKind::Stop(signal), origin };
            decided.extend(canary.ours(now, received, true));
        }
        decided.extend(std::iter::from_fn(|| canary.due(now, || pending)));
        for judged in decided {
            let actions = machine.step(now, Event::of_signal(judged, || Watch::Shell));
            count += actions.iter().filter(|it| matches!(it, Interrupt | ForwardSecond)).count();
        }
    }
    count
}

proptest! {
    #![proptest_config(seeded(3_000))]

    #[test]
    fn what_comes_within_a_second_is_one_interrupt_whoever_tells_and_is_read_first(
        scenario in scenarios(),
        policy in prop::sample::select(vec![FORWARD, HOLD]),
    ) {
        prop_assert_eq!(interrupts(policy, &scenario), 1);
    }
}

#[test]
fn what_comes_with_the_first_stop_is_the_same_one() {
    let relayed = Event::Stop(StopSignal::Interrupt, Reach::Relayed, NOW);
    let by_parent = Event::Stop(StopSignal::Interrupt, Reach::ByParent, NOW);
    // From whoever signals all processes, and from whoever it has signalled, too: they may pass it on
    // under another name.
    let all = [INT, TERM, HUP, relayed, by_parent];
    let pairs = all.into_iter().flat_map(|first| all.map(|second| (first, second)));
    for (first, second) in pairs {
        let mut supervisor = play(FORWARD, &[(first, &[Interrupt])]);
        assert_eq!(supervisor.step(at(0).plus(Duration::from_millis(999)), second), []);
        assert_eq!(supervisor.step(at(60), HUP), [InterruptNew], "a hang-up is no second one");
        assert_eq!(supervisor.step(at(60), TERM), [ForwardSecond]);
    }
    let mut supervisor = play(FORWARD, &[(QUIT, &[Action::Quit])]);
    assert_eq!(supervisor.step(at(0), TERM), []);
    // Whoever wants it gone at once.
    let mut supervisor = play(FORWARD, &[(INT, &[Interrupt])]);
    assert_eq!(supervisor.step(at(0), QUIT), [Action::Quit]);
    let quit = Event::Stop(StopSignal::Quit, Reach::Relayed, NOW);
    let mut supervisor = play(FORWARD, &[(relayed, &[Interrupt])]);
    assert_eq!(supervisor.step(at(0), quit), [Action::Quit]);
}

/// Whoever started us passes on what came to it and to us together, at any time, and once.
#[test]
fn what_the_parent_passes_on_is_the_same_one_however_late() {
    let passed_on = |signal| Event::Stop(signal, Reach::ByParent, NOW);
    let (int, term) = (passed_on(StopSignal::Interrupt), passed_on(StopSignal::Terminate));
    for (first, its, later, other) in [
        (INT, &[Interrupt][..], int, term),
        (CTRL_C, &[ContinueStopped], int, term),
        (TERM, &[Interrupt], term, int),
    ] {
        let mut supervisor = play(FORWARD, &[(first, its)]);
        assert_eq!(supervisor.step(at(15), later), [InterruptNew]);
        // It has passed on what there was: the next is its own.
        assert_eq!(supervisor.step(at(20), later), [ForwardSecond]);
        // Another one is no echo, but at once.
        let mut supervisor = play(FORWARD, &[(first, its)]);
        assert_eq!(supervisor.step(at(15), other), [ForwardSecond]);
        let mut supervisor = play(FORWARD, &[(first, its)]);
        assert_eq!(supervisor.step(at(0).plus(Duration::from_millis(999)), other), []);
        assert_eq!(supervisor.step(at(1), other), [ForwardSecond]);
        let quit = passed_on(StopSignal::Quit);
        let mut supervisor = play(FORWARD, &[(first, its)]);
        assert_eq!(supervisor.step(at(0), quit), [Action::Quit]);
    }
    // An outer tfwrap has made an INT of it, of a script that has had it too.
    let relayed = Event::Stop(StopSignal::Interrupt, Reach::Relayed, NOW);
    let mut supervisor = play(FORWARD, &[(relayed, &[Interrupt])]);
    assert_eq!(supervisor.step(at(15), term), [InterruptNew]);
    assert_eq!(supervisor.step(at(20), term), [ForwardSecond]);
    // The first was its own, so the second is.
    let mut supervisor = play(FORWARD, &[(int, &[Interrupt])]);
    assert_eq!(supervisor.step(at(15), int), [ForwardSecond]);
    // However far it reached.
    let all = Event::Stop(StopSignal::Interrupt, Reach::ChildToo { by_parent: true }, NOW);
    let mut supervisor = play(FORWARD, &[(all, &[ContinueStopped])]);
    assert_eq!(supervisor.step(at(15), int), [ForwardSecond]);
    // And a second of somebody else's.
    let mut supervisor = play(FORWARD, &[(INT, &[Interrupt]), (int, &[InterruptNew])]);
    assert_eq!(supervisor.step(at(15), INT), [ForwardSecond]);
}

/// An outer tfwrap does not know whether it came to all; its second one is a second.
#[test]
fn what_an_outer_tfwrap_passes_on_first_is_the_same_one_however_late() {
    let relayed = Event::Stop(StopSignal::Interrupt, Reach::Relayed, NOW);
    for first in [INT, TERM, QUIT] {
        let mut supervisor = Supervisor::new(FORWARD);
        assert_eq!(supervisor.step(at(0), first).len(), 1);
        assert_eq!(supervisor.step(at(15), relayed), [InterruptNew]);
        assert_eq!(supervisor.step(at(20), relayed), [ForwardSecond]);
    }
    let mut supervisor = play(FORWARD, &[(relayed, &[Interrupt])]);
    assert_eq!(supervisor.step(at(15), relayed), [ForwardSecond]);
    // From outside our PID namespace it may be anybody's echo.
    let outside = Event::Stop(StopSignal::Interrupt, Reach::PerhapsRelayed, NOW);
    let mut supervisor = play(FORWARD, &[(CTRL_C, &[ContinueStopped])]);
    assert_eq!(supervisor.step(at(0).plus(Duration::from_millis(300)), outside), []);
    assert_eq!(supervisor.step(at(2), outside), [InterruptNew]);
    assert_eq!(supervisor.step(at(15), outside), [ForwardSecond]);
    let mut supervisor = play(FORWARD, &[(outside, &[Interrupt])]);
    assert_eq!(supervisor.step(at(15), outside), [ForwardSecond]);
}
