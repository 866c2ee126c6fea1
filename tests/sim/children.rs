//! The supervision of a child and its group, under random events, and once more with a stop, a loss
//! or a fault before every one of them.

use std::cell::Cell;
use std::time::Duration;

use nix::sys::signal::Signal;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use tfwrap::supervise::{ChildStatus, Policy, Reach, SecondSignal, StopSignal, Watch};

use crate::family::{Family, Input, Kind};
use crate::seeded::seeded;

const KINDS: [&[Kind]; 5] = [
    &[Kind::Terraform],
    &[Kind::Terraform, Kind::Other],
    &[Kind::Other, Kind::Terraform],
    &[Kind::Other, Kind::Other],
    &[Kind::Other, Kind::Terraform, Kind::Other],
];

const BLOWS: [Input; 10] = [
    Input::Late(StopSignal::Terminate),
    Input::Stop(StopSignal::Terminate, Reach::UsOnly),
    Input::Stop(StopSignal::Interrupt, Reach::ChildToo { by_parent: false }),
    Input::Stop(StopSignal::Hangup, Reach::UsOnly),
    Input::Sent { signal: StopSignal::Terminate, to_child: true, child_first: true },
    Input::MustStop,
    Input::MustKill,
    Input::Freeze,
    Input::Stops(Signal::SIGSTOP, Watch::Nobody),
    Input::Ends(0, ChildStatus::Signaled(Signal::SIGINT as i32)),
];

#[derive(Debug, Clone)]
struct Setting {
    kinds: &'static [Kind],
    policy: Policy,
    schedule: Vec<Input>,
}

fn signals() -> impl Strategy<Value = StopSignal> {
    use StopSignal::{Hangup, Interrupt, Quit, Terminate};
    prop_oneof![3 => Just(Interrupt), 4 => Just(Terminate), 2 => Just(Hangup), 1 => Just(Quit)]
}

fn inputs() -> impl Strategy<Value = Input> {
    let child_too = [false, true].map(|by_parent| Reach::ChildToo { by_parent });
    let all =
        [&child_too[..], &[Reach::UsOnly, Reach::Relayed, Reach::PerhapsRelayed, Reach::ByParent]]
            .concat();
    let reach = prop::sample::select(all);
    let stopping = prop_oneof![Just(Signal::SIGSTOP), Just(Signal::SIGTSTP), Just(Signal::SIGTTIN)];
    let watch = prop_oneof![Just(Watch::Shell), Just(Watch::Nobody), Just(Watch::Orphaned)];
    let killed = Just(ChildStatus::Signaled(Signal::SIGKILL as i32));
    let died = Just(ChildStatus::Signaled(Signal::SIGINT as i32));
    let status = prop_oneof![Just(ChildStatus::Exited(0)), died, killed];
    let lasts = prop_oneof![Just(1), Just(100), Just(999), Just(1_000), Just(4_000)];
    prop_oneof![
        4 => (signals(), reach).prop_map(|(signal, reach)| Input::Stop(signal, reach)),
        2 => (signals(), any::<bool>(), any::<bool>()).prop_map(|(signal, to_child, first)| {
            Input::Sent { signal, to_child, child_first: first }
        }),
        1 => signals().prop_filter("no QUIT", |it| *it != StopSignal::Quit).prop_map(Input::Late),
        1 => Just(Input::Starts),
        1 => watch.clone().prop_map(Input::Suspend),
        1 => Just(Input::Resume),
        1 => Just(Input::Freeze),
        2 => Just(Input::Thaw),
        1 => Just(Input::MustStop),
        2 => (stopping, watch).prop_map(|(signal, watch)| Input::Stops(signal, watch)),
        1 => Just(Input::Continues),
        2 => (0..3_usize, status).prop_map(|(index, status)| Input::Ends(index, status)),
        4 => lasts.prop_map(|ms| Input::Passes(Duration::from_millis(ms))),
        2 => Just(Input::Due),
    ]
}

fn settings() -> impl Strategy<Value = Setting> {
    let grace = prop_oneof![Just(None), Just(Some(Duration::from_secs(5)))];
    let second = prop_oneof![Just(SecondSignal::Hold), Just(SecondSignal::Forward)];
    let schedule = prop::collection::vec(inputs(), 0..25);
    (0..KINDS.len(), second, grace, schedule).prop_map(|(kinds, second_signal, grace, schedule)| {
        Setting { kinds: KINDS[kinds], policy: Policy { second_signal, grace }, schedule }
    })
}

/// Plays it, with a blow before the input of this number, and then lets all end.
fn play(setting: &Setting, blow: Option<(usize, Input)>) -> Result<(), String> {
    let mut family = Family::new(setting.kinds, setting.policy, false);
    for (number, input) in setting.schedule.iter().enumerate() {
        if let Some((_, blow)) = blow.filter(|(at, _)| *at == number) {
            family.step(blow)?;
        }
        family.step(*input)?;
    }
    if let Some((_, blow)) = blow.filter(|(at, _)| *at == setting.schedule.len()) {
        family.step(blow)?;
    }
    if family.is_frozen() {
        family.step(Input::Thaw)?;
    }
    if family.is_halted() {
        family.step(Input::Resume)?;
    }
    for index in family.living() {
        family.step(Input::Ends(index, ChildStatus::Exited(1)))?;
    }
    for _ in 0..10 {
        if family.is_finished() {
            // Whatever comes now: no action follows.
            return BLOWS.into_iter().try_for_each(|blow| family.step(blow));
        }
        if !family.has_deadline() {
            break;
        }
        family.step(Input::Due)?;
    }
    Err("all are gone, and it is not over".to_owned())
}

#[test]
fn every_stop_is_one_interrupt_and_nothing_is_over_before_its_time_whatever_happens_when() {
    let played = Cell::new(0);
    let tried = TestRunner::new(seeded(1_500)).run(&settings(), |setting| {
        play(&setting, None).map_err(TestCaseError::fail)?;
        for (at, blow) in (0..=setting.schedule.len()).flat_map(|at| BLOWS.map(|blow| (at, blow))) {
            played.set(played.get() + 1);
            let wrong = |wrong| TestCaseError::fail(format!("{blow:?} at {at}: {wrong}"));
            play(&setting, Some((at, blow))).map_err(wrong)?;
        }
        Ok(())
    });
    tried.unwrap_or_else(|wrong| panic!("{wrong}"));
    println!("{} blows", played.get());
}
