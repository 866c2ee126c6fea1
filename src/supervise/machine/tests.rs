use super::super::PassSignal;
mod one_stop;
mod suspension;

use super::*;
use Action::{
    ContinueGroup, ContinueStopped, ForwardSecond, Interrupt, InterruptNew, Kill, KillRest, PassOn,
    StopGroup, SuspendJob, SuspendSelf,
};
use Event::{ChildContinued, GroupGone, MustKill, MustStop, Resume, Tick};
use Reach::UsOnly;
use StopSignal::{Hangup, Quit, Terminate};

const HOLD: Policy = Policy { second_signal: SecondSignal::Hold, grace: None };
const FORWARD: Policy = Policy { second_signal: SecondSignal::Forward, grace: None };
const NOW: Duration = Duration::ZERO;
const INT: Event = Event::Stop(StopSignal::Interrupt, UsOnly, NOW);
const TERM: Event = Event::Stop(Terminate, UsOnly, NOW);
const HUP: Event = Event::Stop(Hangup, UsOnly, NOW);
const QUIT: Event = Event::Stop(Quit, UsOnly, NOW);
const CTRL_C: Event = Event::Stop(StopSignal::Interrupt, Reach::ChildToo { by_parent: false }, NOW);
const BY_INT: Option<StopCause> = Some(StopCause::Signal(StopSignal::Interrupt));
const BY_ORDER: Option<StopCause> = Some(StopCause::Order);

fn exited(code: u8) -> Event {
    Event::ChildExited { status: ChildStatus::Exited(code), rest: Rest::Gone }
}

fn exited_leaving_others(code: u8) -> Event {
    Event::ChildExited { status: ChildStatus::Exited(code), rest: Rest::Others }
}

fn died(signal: Signal) -> Event {
    Event::ChildExited { status: ChildStatus::Signaled(signal as i32), rest: Rest::Gone }
}

fn exited_leaving_terraform(code: u8) -> Event {
    Event::ChildExited { status: ChildStatus::Exited(code), rest: Rest::Terraform }
}

const SUSPEND: Event = Event::Suspend(Watch::Shell);

fn stopped(signal: Signal) -> Event {
    Event::ChildStopped(signal, Watch::Shell)
}

fn stopped_for_ever(signal: Signal) -> Event {
    Event::ChildStopped(signal, Watch::Nobody)
}

fn finished(code: u8, stopped_by: Option<StopCause>) -> Action {
    Action::Finished { status: ChildStatus::Exited(code), stopped_by }
}

fn at(seconds: u64) -> Uptime {
    Uptime(Duration::from_secs(100 + seconds))
}

/// Plays the events at second 0, 1, 2, … and compares the actions of each.
#[track_caller]
fn play(policy: Policy, script: &[(Event, &[Action])]) -> Supervisor {
    let mut supervisor = Supervisor::new(policy);
    for (second, (event, expected)) in (0..).zip(script) {
        let actions = supervisor.step(at(second), *event);
        assert_eq!(actions, *expected, "event {second}: {event:?}");
    }
    supervisor
}

#[test]
fn int_term_and_hup_all_become_one_interrupt() {
    for stop in [INT, TERM, HUP] {
        play(HOLD, &[(stop, &[Interrupt])]);
    }
}

#[test]
fn quit_goes_on_as_it_is() {
    play(HOLD, &[(QUIT, &[Action::Quit])]);
}

#[test]
fn second_stop_does_not_repeat_the_interrupt() {
    for (second, word) in [(INT, StopSignal::Interrupt), (TERM, Terminate), (QUIT, Quit)] {
        play(HOLD, &[(INT, &[Interrupt]), (second, &[Action::Withhold(word)])]);
    }
}

#[test]
fn githubs_int_and_term_are_one_stop() {
    play(
        HOLD,
        &[
            (INT, &[Interrupt]),
            (TERM, &[Action::Withhold(Terminate)]),
            (exited(1), &[finished(1, BY_INT)]),
        ],
    );
}

#[test]
fn second_stop_is_forwarded_once_when_asked_for() {
    play(
        FORWARD,
        &[
            (INT, &[Interrupt]),
            (TERM, &[ForwardSecond]),
            (INT, &[Action::Withhold(StopSignal::Interrupt)]),
            (HUP, &[InterruptNew]),
        ],
    );
}

#[test]
fn three_hundred_stops_are_still_one_interrupt_and_one_second() {
    let mut supervisor = Supervisor::new(FORWARD);
    let sent: Vec<_> = (0..300).flat_map(|n| supervisor.step(at(n / 100), INT)).collect();
    assert_eq!(sent.iter().filter(|action| **action == Interrupt).count(), 1);
    assert_eq!(sent.iter().filter(|action| **action == ForwardSecond).count(), 1);
}

#[test]
fn what_reached_both_is_not_forwarded() {
    play(HOLD, &[(CTRL_C, &[ContinueStopped]), (CTRL_C, &[])]);
    let quit = Event::Stop(Quit, Reach::ChildToo { by_parent: false }, NOW);
    play(HOLD, &[(quit, &[ContinueStopped])]);
    let after = play(HOLD, &[(CTRL_C, &[ContinueStopped]), (exited(1), &[finished(1, BY_INT)])]);
    assert_eq!(after.deadline(), None);
}

#[test]
fn another_signal_after_one_that_reached_both_is_the_second() {
    play(HOLD, &[(CTRL_C, &[ContinueStopped]), (TERM, &[Action::Withhold(Terminate)])]);
    play(FORWARD, &[(CTRL_C, &[ContinueStopped]), (TERM, &[ForwardSecond])]);
}

#[test]
fn a_second_interrupt_by_whomever_is_a_forced_end() {
    let theirs = Event::Overheard(Terminate);
    // Ours and theirs; theirs, which we get, too; two of theirs, which we do not get.
    for (first, second) in [(TERM, theirs), (theirs, theirs), (CTRL_C, theirs)] {
        let mut supervisor = Supervisor::new(HOLD);
        for (second, event) in (0..).zip([first, CTRL_C, second, CTRL_C]) {
            let _told = supervisor.step(at(second), event);
        }
        let is_forced = first != CTRL_C;
        assert_eq!(supervisor.step(at(4), exited(1)).is_empty(), is_forced, "{first:?}");
        assert_eq!(supervisor.deadline(), is_forced.then_some(at(4).plus(SETTLE)));
    }
    let by_a_key = Event::Overheard(Quit);
    let after = play(HOLD, &[(by_a_key, &[ContinueStopped]), (exited(2), &[])]);
    assert_eq!(after.deadline(), Some(at(1).plus(SETTLE)));
}

#[test]
fn an_end_of_its_own_accord_leaves_the_background_alone() {
    for code in [0, 1, 2, 255] {
        play(HOLD, &[(exited_leaving_others(code), &[finished(code, None)])]);
    }
}

/// Whatever became of its wrapper.
#[test]
fn the_childs_own_terraform_is_waited_for_though_nobody_asked_for_an_end() {
    let status = ChildStatus::Exited(3);
    let failed = Event::ChildExited { status, rest: Rest::OwnTerraform };
    play(HOLD, &[(failed, &[]), (GroupGone, &[finished(3, None)])]);
    // What else is left was left on purpose.
    play(HOLD, &[(failed, &[]), (Event::TerraformGone, &[finished(3, None)])]);
    play(HOLD, &[(exited_leaving_terraform(3), &[finished(3, None)])]);
    play(
        HOLD,
        &[
            (failed, &[]),
            (TERM, &[Interrupt]),
            (Event::TerraformGone, &[Interrupt]),
            (GroupGone, &[finished(3, Some(StopCause::Signal(Terminate)))]),
        ],
    );
}

#[test]
fn after_a_stop_the_whole_group_is_ended_before_the_finish() {
    play(
        HOLD,
        &[
            (TERM, &[Interrupt]),
            (exited_leaving_others(1), &[Interrupt]),
            (GroupGone, &[finished(1, Some(StopCause::Signal(Terminate)))]),
        ],
    );
}

/// A key, as the terminal gives it to the child's group alone.
#[test]
fn after_a_stop_that_was_only_overheard_what_is_left_has_had_it_and_is_ended() {
    let mut supervisor = play(
        HOLD,
        &[
            (Event::Overheard(StopSignal::Interrupt), &[ContinueStopped]),
            (exited_leaving_others(1), &[]),
        ],
    );
    let due = supervisor.deadline().expect("a stubborn rest is killed");
    assert_eq!((due, supervisor.step(due, Tick)), (at(1).plus(GROUP_GRACE), vec![KillRest]));
    assert_eq!(supervisor.step(due, GroupGone), []);
    assert_eq!(supervisor.step(due.plus(SETTLE), Tick), [finished(1, None)]);
}

#[test]
fn what_outlives_the_group_grace_is_killed_until_gone() {
    let mut supervisor =
        play(HOLD, &[(INT, &[Interrupt]), (exited_leaving_others(1), &[Interrupt])]);
    let first = supervisor.deadline().expect("a stubborn rest is killed");
    assert_eq!(first, at(1).plus(GROUP_GRACE));
    assert_eq!(supervisor.step(first, Tick), [KillRest]);
    let again = supervisor.deadline().expect("and again");
    assert!(again > first);
    assert_eq!(supervisor.step(again, Tick), [KillRest]);
    assert_eq!(supervisor.step(again, GroupGone), []);
    let settled = supervisor.deadline().expect("a kill is followed by a settle");
    assert_eq!(settled, again.plus(SETTLE));
    assert_eq!(supervisor.step(settled, Tick), [finished(1, BY_INT)]);
    assert_eq!(supervisor.deadline(), None);
}

#[test]
fn a_terraform_that_outlives_its_wrapper_is_waited_for_however_long_it_takes() {
    let stop = (INT, &[Interrupt][..]);
    let mut supervisor = play(HOLD, &[stop, (exited_leaving_terraform(1), &[Interrupt])]);
    assert_eq!(supervisor.step(at(4), Tick), [Action::AwaitRest]);
    assert_eq!(supervisor.deadline(), None, "it is not killed");
    assert_eq!(supervisor.step(at(500), Event::TerraformGone), [Interrupt]);
    assert_eq!(supervisor.deadline(), Some(at(500).plus(GROUP_GRACE)));
    assert_eq!(supervisor.step(at(501), GroupGone), [finished(1, BY_INT)]);
    // A wrapper that the terminal's key ended: its Terraform had that key, too.
    let status = ChildStatus::Signaled(Signal::SIGINT as i32);
    let died = Event::ChildExited { status, rest: Rest::Terraform };
    let mut supervisor = play(HOLD, &[(died, &[])]);
    assert_eq!(
        supervisor.deadline(),
        Some(at(0).plus(AWAIT_REST)),
        "it is not waited for in silence"
    );
    assert_eq!(supervisor.step(at(3), Tick), [Action::AwaitRest]);
    assert_eq!(supervisor.deadline(), None);
    assert_eq!(supervisor.step(at(9), TERM), [Interrupt], "who had it is not told again");
    assert_eq!(supervisor.step(at(10), Event::TerraformGone), [Interrupt]);
    // Whoever sets a grace means it.
    let policy = Policy { second_signal: SecondSignal::Hold, grace: Some(Duration::from_secs(9)) };
    let mut supervisor = play(policy, &[stop, (exited_leaving_terraform(1), &[Interrupt])]);
    assert_eq!(supervisor.step(at(9), Tick), [Kill]);
}

#[test]
fn a_script_that_would_go_on_after_its_terraform_hears_of_the_stop_then() {
    play(HOLD, &[(Event::TerraformGone, &[])]);
    let mut supervisor = play(HOLD, &[(TERM, &[Interrupt]), (Event::TerraformGone, &[])]);
    // A wrapper that only passes the code on is quicker.
    let due = supervisor.deadline().expect("a time");
    assert_eq!(due, at(1).plus(REST_AFTER));
    assert_eq!(supervisor.step(due, Tick), [Interrupt]);
    assert_eq!(supervisor.deadline(), None);
}

#[test]
fn a_child_that_a_signal_ended_did_not_end_of_its_own_accord() {
    let status = ChildStatus::Signaled(Signal::SIGSEGV as i32);
    play(
        HOLD,
        &[
            (Event::ChildExited { status, rest: Rest::Others }, &[Interrupt]),
            (GroupGone, &[Action::Finished { status, stopped_by: None }]),
        ],
    );
}

#[test]
fn a_kill_by_anybody_is_followed_by_a_settle() {
    let mut supervisor = play(HOLD, &[(died(Signal::SIGKILL), &[])]);
    let status = ChildStatus::Signaled(9);
    assert_eq!(supervisor.deadline(), Some(at(0).plus(SETTLE)));
    assert_eq!(supervisor.step(at(1), Tick), [], "an early tick changes nothing");
    let finished = Action::Finished { status, stopped_by: None };
    assert_eq!(supervisor.step(at(2), Tick), [finished]);
}

#[test]
fn other_deaths_need_no_settle() {
    let status = ChildStatus::Signaled(Signal::SIGINT as i32);
    play(
        HOLD,
        &[
            (INT, &[Interrupt]),
            (died(Signal::SIGINT), &[Action::Finished { status, stopped_by: BY_INT }]),
        ],
    );
}

#[test]
fn forwarded_seconds_and_quits_settle() {
    let second = play(FORWARD, &[(INT, &[Interrupt]), (INT, &[ForwardSecond])]);
    let quit = play(FORWARD, &[(QUIT, &[Action::Quit])]);
    for mut supervisor in [second, quit] {
        assert_eq!(supervisor.step(at(9), exited(1)), []);
        assert_eq!(supervisor.deadline(), Some(at(9).plus(SETTLE)));
    }
}

#[test]
fn the_grace_runs_from_the_first_signal_and_ends_in_a_kill() {
    let policy = Policy { second_signal: SecondSignal::Hold, grace: Some(Duration::from_secs(10)) };
    let mut supervisor =
        play(policy, &[(INT, &[Interrupt]), (TERM, &[Action::Withhold(Terminate)])]);
    assert_eq!(supervisor.deadline(), Some(at(10)));
    assert_eq!(supervisor.step(at(9), Tick), []);
    assert_eq!(supervisor.step(at(10), Tick), [Kill]);
    let died = Event::ChildExited { status: ChildStatus::Signaled(9), rest: Rest::Others };
    assert_eq!(supervisor.step(at(10), died), [], "no interrupt after a kill");
    assert_eq!(supervisor.step(at(10), GroupGone), []);
    let status = ChildStatus::Signaled(9);
    assert_eq!(supervisor.step(at(12), Tick), [Action::Finished { status, stopped_by: BY_INT }]);
}

#[test]
fn without_a_grace_the_child_is_never_killed() {
    let after = play(HOLD, &[(INT, &[Interrupt]), (Tick, &[])]);
    assert_eq!(after.deadline(), None);
}

#[test]
fn a_short_grace_also_bounds_the_rest_of_the_group() {
    let policy = Policy { second_signal: SecondSignal::Hold, grace: Some(Duration::from_secs(2)) };
    let after = play(policy, &[(INT, &[Interrupt]), (exited_leaving_others(0), &[Interrupt])]);
    assert_eq!(after.deadline(), Some(at(2)));
}

#[test]
fn an_order_to_stop_interrupts_once() {
    play(HOLD, &[(MustStop, &[Interrupt]), (MustStop, &[]), (exited(0), &[finished(0, BY_ORDER)])]);
    play(HOLD, &[(INT, &[Interrupt]), (MustStop, &[]), (exited(0), &[finished(0, BY_INT)])]);
}

#[test]
fn the_users_first_stop_after_an_order_is_no_second_one() {
    play(
        FORWARD,
        &[
            (MustStop, &[Interrupt]),
            (INT, &[Action::Withhold(StopSignal::Interrupt)]),
            (INT, &[ForwardSecond]),
        ],
    );
}

#[test]
fn an_order_to_kill_kills_however_gracefully_it_was_asked() {
    play(HOLD, &[(MustKill, &[Kill]), (exited(0), &[])]);
    play(HOLD, &[(INT, &[Interrupt]), (MustKill, &[Kill])]);
    play(
        HOLD,
        &[(INT, &[Interrupt]), (exited_leaving_others(1), &[Interrupt]), (MustKill, &[Kill])],
    );
}

#[test]
fn other_signals_pass() {
    play(
        HOLD,
        &[
            (Event::Pass(PassSignal::User1), &[PassOn(PassSignal::User1)]),
            (Event::Pass(PassSignal::WindowChange), &[PassOn(PassSignal::WindowChange)]),
        ],
    );
}

#[test]
fn nothing_moves_a_finished_supervisor() {
    let mut supervisor = play(HOLD, &[(exited(0), &[finished(0, None)])]);
    let status = ChildStatus::Exited(0);
    for event in [
        INT,
        QUIT,
        CTRL_C,
        MustStop,
        MustKill,
        Tick,
        GroupGone,
        Resume,
        ChildContinued,
        SUSPEND,
        stopped(Signal::SIGTSTP),
        Event::Pass(PassSignal::User2),
        Event::ChildExited { status, rest: Rest::Others },
    ] {
        assert_eq!(supervisor.step(at(9), event), [], "{event:?}");
    }
}

/// Every order of the events that matter, four deep: what can never happen does not.
#[test]
fn no_order_of_events_sends_more_than_one_interrupt_to_a_living_child() {
    let events = [INT, TERM, CTRL_C, MustStop, Tick, SUSPEND, stopped(Signal::SIGSTOP)];
    for (a, b, c, d) in (0..events.len().pow(4)).map(|n| {
        let pick = |k: u32| events[n / events.len().pow(k) % events.len()];
        (pick(0), pick(1), pick(2), pick(3))
    }) {
        let mut supervisor = Supervisor::new(HOLD);
        // The machine repeats it where somebody may not have had it; here all had.
        let all = [a, b, c, d];
        let sent: Vec<_> = all.iter().flat_map(|event| supervisor.step(at(0), *event)).collect();
        let interrupts = sent.iter().filter(|action| **action == Interrupt).count();
        let stop_came = all.iter().any(|event| matches!(event, Event::Stop(..) | MustStop));
        let first_is_theirs =
            all.iter().find(|event| matches!(event, Event::Stop(..) | MustStop)) == Some(&CTRL_C);
        assert_eq!(interrupts, usize::from(stop_came && !first_is_theirs), "{all:?}");
        assert!(!sent.contains(&Kill) && !sent.contains(&ForwardSecond), "{all:?}");
    }
}
