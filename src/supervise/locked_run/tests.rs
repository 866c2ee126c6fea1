use std::time::Duration;

use nix::sys::signal::Signal;
use proptest::prelude::*;

use super::*;
use crate::lock::lease_keeper::Unconfirmed;
use crate::seeded::seeded;
use crate::supervise::{ChildStatus, Reach, Rest, SecondSignal, Watch};

const POLICY: Policy = Policy { second_signal: SecondSignal::Hold, grace: None };
const GOOD: LocksNow = LocksNow { confirmed: true, lost: false, good: true, declares_less: false };
const UNCONFIRMED: LocksNow =
    LocksNow { confirmed: false, lost: false, good: false, declares_less: false };
const LOST: LocksNow = LocksNow { confirmed: false, lost: true, good: true, declares_less: false };
const STOP: Event =
    Event::Child(machine::Event::Stop(StopSignal::Terminate, Reach::UsOnly, Duration::ZERO));
const SUSPEND: Event = Event::Child(machine::Event::Suspend(Watch::Shell));
const RESUME: Event = Event::Child(machine::Event::Resume);
const STOPPED: Action = Action::End(NotStarted::Stopped(StopSignal::Terminate));

fn at(ms: u64) -> Uptime {
    Uptime(Duration::from_millis(ms))
}

fn loss() -> Event {
    Event::Lease { said: LeaseEvent::Lost(None), is_lost: true }
}

fn exited() -> Event {
    let status = ChildStatus::Exited(0);
    Event::Child(machine::Event::ChildExited { status, rest: Rest::Gone })
}

/// A run that is at this, and what it is called.
fn stages() -> [(&'static str, LockedRun); 6] {
    let at = |set: fn(&mut LockedRun)| {
        let mut run = LockedRun::new(true);
        set(&mut run);
        run
    };
    [
        ("taking its locks", LockedRun::new(true)),
        ("confirming", at(|run| run.confirm(super::tests::at(0)))),
        ("a hold", at(LockedRun::hold)),
        ("with a child", at(|run| run.started(POLICY))),
        ("awaiting dependents", at(LockedRun::await_dependents)),
        ("releasing", at(LockedRun::release)),
    ]
}

#[test]
fn a_stop_a_loss_and_a_suspension_mean_at_each_stage_what_the_table_says() {
    let child = |action| vec![Action::Child(action)];
    let lost = || vec![Action::End(NotStarted::Lost)];
    let expected = [
        (vec![STOPPED], lost(), vec![Action::Suspend]),
        (vec![STOPPED], lost(), vec![Action::Suspend]),
        (vec![STOPPED], vec![Action::EndDependents, Action::End(NotStarted::Lost)], vec![]),
        (
            child(machine::Action::Interrupt),
            child(machine::Action::Interrupt),
            child(machine::Action::StopGroup),
        ),
        (vec![Action::EndDependents], vec![], vec![]),
        (vec![Action::ReleaseFirst(StopSignal::Terminate)], vec![], vec![]),
    ];
    for ((name, run), (stopped, lost, suspended)) in stages().into_iter().zip(expected) {
        let answer = |locks, event| run.clone().step(at(1), locks, event);
        assert_eq!(answer(GOOD, STOP), stopped, "{name}: a stop");
        assert_eq!(answer(LOST, loss()), lost, "{name}: a loss");
        assert_eq!(answer(GOOD, SUSPEND), suspended, "{name}: a suspension");
    }
}

#[test]
fn a_loss_is_nobodys_end_where_it_is_only_warned_of() {
    let mut hold = LockedRun::new(false);
    hold.hold();
    assert_eq!(hold.step(at(1), LOST, loss()), [Action::End(NotStarted::Lost)], "itself");
    let mut run = LockedRun::new(false);
    run.started(POLICY);
    assert_eq!(run.step(at(1), LOST, loss()), []);
    assert!(!run.is_child_unprotected());
}

#[test]
fn a_child_may_start_once_round_the_loop_after_its_locks_are_confirmed() {
    let mut run = LockedRun::new(true);
    run.confirm(at(0));
    assert_eq!(run.step(at(1), UNCONFIRMED, Event::Tick), []);
    assert_eq!(run.deadline(at(1), UNCONFIRMED), Some(Uptime(CONFIRM)));
    assert_eq!(run.deadline(at(2), GOOD), Some(at(2)));
    // Anything else that has come in is heard first.
    assert_eq!(run.step(at(2), GOOD, RESUME), []);
    assert_eq!(run.step(at(3), GOOD, Event::Tick), [Action::MayStart]);
    let late = Uptime(CONFIRM);
    assert_eq!(run.step(late, UNCONFIRMED, Event::Tick), [Action::End(NotStarted::Unconfirmed)]);
}

#[test]
fn a_stop_that_was_heard_before_counts_when_all_locks_are_had() {
    let mut run = LockedRun::new(true);
    run.release();
    assert_eq!(run.step(at(1), GOOD, STOP), [Action::ReleaseFirst(StopSignal::Terminate)]);
    run.released();
    run.confirm(at(2));
    assert_eq!(run.step(at(3), GOOD, Event::Tick), [STOPPED]);
}

#[test]
fn a_suspended_child_goes_on_when_its_locks_are_good() {
    let stopped = Event::Child(machine::Event::ChildStopped(Signal::SIGTSTP, Watch::Shell));
    let mut run = LockedRun::new(true);
    run.started(POLICY);
    let suspended = run.step(at(1), GOOD, stopped);
    assert_eq!(suspended, [Action::Child(machine::Action::SuspendJob(Signal::SIGTSTP))]);
    // It was carried out, and took an hour: what the locks were like before counts for nothing.
    let hour = 3_600_000;
    assert_eq!(run.deadline(at(hour), UNCONFIRMED), None);
    assert_eq!(run.step(at(hour), UNCONFIRMED, Event::Tick), []);
    assert_eq!(run.deadline(at(hour + 100), GOOD), Some(at(hour + 100)));
    let go_on = [Action::Child(machine::Action::ContinueGroup)];
    assert_eq!(run.step(at(hour + 100), GOOD, Event::Tick), go_on);
    assert_eq!(run.step(at(hour + 200), GOOD, RESUME), [], "the locks are looked at anew");
    assert_eq!(run.step(at(hour + 200), GOOD, Event::Tick), [], "nothing to continue");
}

/// What can happen to a run at any time, whatever it is at.
fn anything() -> impl Strategy<Value = Event> {
    let signal = prop::sample::select(StopSignal::ALL.to_vec());
    let child_too = Reach::ChildToo { by_parent: false };
    let reach = prop::sample::select(vec![
        Reach::UsOnly,
        child_too,
        Reach::Relayed,
        Reach::PerhapsRelayed,
        Reach::ByParent,
    ]);
    let stop = (signal, reach)
        .prop_map(|(signal, reach)| machine::Event::Stop(signal, reach, Duration::ZERO));
    let stopped = prop::sample::select(vec![Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGSTOP])
        .prop_map(|signal| machine::Event::ChildStopped(signal, Watch::Shell));
    let child = prop_oneof![
        stop,
        stopped,
        Just(machine::Event::Suspend(Watch::Shell)),
        Just(machine::Event::Resume),
        Just(machine::Event::ChildContinued),
        Just(machine::Event::Overheard(StopSignal::Interrupt)),
    ];
    let pause = Duration::from_secs(9);
    let said = prop_oneof![
        Just(LeaseEvent::Lost(None)),
        Just(LeaseEvent::Interrupt),
        Just(LeaseEvent::Kill(Unconfirmed::StoodStill(pause))),
        Just(LeaseEvent::Freeze),
        Just(LeaseEvent::Thaw),
    ];
    prop_oneof![
        4 => Just(Event::Tick),
        4 => child.prop_map(Event::Child),
        2 => (said, any::<bool>()).prop_map(|(said, is_lost)| Event::Lease { said, is_lost }),
        1 => Just(Event::Fenced),
        1 => Just(Event::Changed),
        1 => Just(exited()),
    ]
}

fn any_locks() -> impl Strategy<Value = LocksNow> {
    let less = LocksNow { declares_less: true, ..GOOD };
    prop::sample::select(vec![GOOD, GOOD, GOOD, less, less, UNCONFIRMED, LOST])
}

proptest! {
    #![proptest_config(seeded(2000))]

    /// A stop, a loss or a fault at any time, at every stage: nothing is started after it, nothing
    /// goes on under locks that are not good, nobody is asked twice, and all comes to its end.
    #[test]
    fn whatever_happens_whenever_it_does(
        fatal in any::<bool>(),
        steps in prop::collection::vec((anything(), any_locks(), 0_u64..3000, any::<u8>()), 1..60),
    ) {
        let mut run = LockedRun::new(fatal);
        run.confirm(at(0));
        let (mut now, mut is_stopped, mut has_child) = (0, false, false);
        let (mut interrupts, mut asked, mut is_pressed) = (0, 0, false);
        let mut declaring = None;
        for (event, locks, later, choice) in steps {
            now += later;
            is_stopped |= matches!(event, Event::Child(machine::Event::Stop(..)));
            is_pressed |= is_stopped || matches!(
                event,
                Event::Lease { .. } | Event::Changed | Event::Fenced
            );
            let actions = run.step(at(now), locks, event.clone());
            for action in actions {
                match action {
                    Action::MayStart => {
                        prop_assert!(!has_child && !is_stopped && !locks.lost && locks.confirmed);
                        run.started(POLICY);
                        (has_child, interrupts) = (true, 0);
                    }
                    Action::Child(action) => {
                        prop_assert!(has_child);
                        interrupts += u32::from(action == machine::Action::Interrupt);
                        if action == machine::Action::ContinueGroup {
                            prop_assert!(is_pressed || locks.good, "under {locks:?}");
                        }
                        if matches!(action, machine::Action::SuspendSelf | machine::Action::SuspendJob(_)) {
                            let is_late = declaring.is_some_and(|since| now - since >= 2000);
                            prop_assert!(!locks.declares_less || is_late);
                        }
                        if let machine::Action::Finished { .. } = action {
                            has_child = false;
                            prop_assert_eq!(run.deadline(at(now), locks), None);
                            run.await_dependents();
                            asked = 0;
                        }
                    }
                    Action::EndDependents => {
                        asked += 1;
                        prop_assert!(asked == 1 && !has_child);
                    }
                    Action::ReleaseFirst(_) => prop_assert!(is_stopped && !has_child),
                    Action::Suspend => prop_assert!(!has_child),
                    Action::DeclareLeases => {
                        prop_assert!(has_child && locks.declares_less);
                        declaring = Some(now);
                    }
                    Action::End(_) => {
                        prop_assert!(!has_child);
                        run.await_dependents();
                        asked = 0;
                    }
                }
            }
            // With all of its group gone at its end, one interrupt is all that a child gets.
            prop_assert!(interrupts <= 1, "a second one costs the state");
            prop_assert!(has_child || !is_stopped || run.stopped_by().is_some());
            // What nobody runs under any more goes back, and all may begin anew.
            if !has_child && asked > 0 {
                run.release();
                if choice % 2 == 0 {
                    run.released();
                    run.confirm(at(now));
                }
                asked = 0;
            }
        }
    }
}

/// Others may take over a lock whose lease is not declared yet, and its guardian kills the child before.
#[test]
fn the_leases_are_declared_before_the_run_stands_still() {
    let less = LocksNow { declares_less: true, ..GOOD };
    let stopped = Event::Child(machine::Event::ChildStopped(Signal::SIGTSTP, Watch::Shell));
    let suspend = || vec![Action::Child(machine::Action::SuspendJob(Signal::SIGTSTP))];
    let begun = |locks| {
        let mut run = LockedRun::new(true);
        run.started(POLICY);
        let actions = run.step(at(0), locks, stopped.clone());
        (run, actions)
    };
    assert_eq!(begun(GOOD).1, suspend());
    // Until then it hears of what happens.
    let (mut run, actions) = begun(less);
    assert_eq!(actions, [Action::DeclareLeases]);
    assert_eq!(run.deadline(at(0), less), Some(at(2000)));
    assert_eq!(run.step(at(10), less, Event::Tick), []);
    assert_eq!(run.deadline(at(20), GOOD), Some(at(20)));
    assert_eq!(run.step(at(20), GOOD, Event::Tick), suspend());
    // A store that does not answer keeps nobody from a terminal.
    let (mut run, _) = begun(less);
    assert_eq!(run.step(at(2000), less, Event::Tick), suspend());
    // Whoever is to go on does.
    for (event, expected) in [
        (STOP, vec![machine::Action::Interrupt, machine::Action::ContinueGroup]),
        (RESUME, vec![machine::Action::ContinueGroup]),
        (
            exited(),
            vec![machine::Action::Finished { status: ChildStatus::Exited(0), stopped_by: None }],
        ),
    ] {
        let (mut run, _) = begun(less);
        let mut actions = run.step(at(10), less, event);
        actions.extend(run.step(at(11), less, Event::Tick));
        let expected: Vec<_> = expected.into_iter().map(Action::Child).collect();
        assert_eq!(actions, expected);
        assert_eq!(run.step(at(2000), GOOD, Event::Tick), []);
    }
}
