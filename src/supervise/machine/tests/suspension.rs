//! Suspension: ours, and that of a child that is to end.

use super::*;

#[test]
fn a_suspend_stops_the_group_first_and_us_when_it_stands() {
    play(
        HOLD,
        &[
            (SUSPEND, &[StopGroup]),
            (stopped(Signal::SIGTSTP), &[SuspendSelf]),
            (Resume, &[ContinueGroup]),
            (ChildContinued, &[]),
            (exited(0), &[finished(0, None)]),
        ],
    );
}

#[test]
fn ctrl_z_on_the_childs_terminal_suspends_the_whole_job() {
    for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        play(HOLD, &[(stopped(signal), &[SuspendJob(signal)]), (Resume, &[ContinueGroup])]);
    }
}

#[test]
fn where_no_shell_would_resume_us_the_child_stands_alone() {
    for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        play(HOLD, &[(stopped_for_ever(signal), &[]), (TERM, &[Interrupt, ContinueGroup])]);
    }
    // Also when we are told to: a SIGCONT may have come before we stopped, or never come.
    let (told, stands) = (Event::Suspend(Watch::Nobody), stopped_for_ever(Signal::SIGTSTP));
    let waits: [(Event, &[Action]); 2] = [(told, &[StopGroup]), (stands, &[])];
    play(HOLD, &[&waits[..], &[(Resume, &[ContinueGroup]), (ChildContinued, &[])]].concat());
    play(HOLD, &[&waits[..], &[(TERM, &[Interrupt, ContinueGroup]), (told, &[])]].concat());
    // A stop that comes before the child stands: it goes on to hear of it.
    play(HOLD, &[waits[0], (TERM, &[Interrupt]), (stands, &[ContinueGroup])]);
}

/// A key, which went to the child's group alone: nobody tells us to stop.
#[test]
fn who_stands_still_hears_of_a_stop_that_came_to_the_child_alone() {
    let (told, stands) = (Event::Overheard(Terminate), stopped_for_ever(Signal::SIGTSTP));
    play(HOLD, &[(stands, &[]), (told, &[ContinueStopped]), (stands, &[ContinueGroup])]);
    play(HOLD, &[(stands, &[]), (CTRL_C, &[ContinueGroup])]);
    // A shell can resume it, and a freeze is undone by nothing.
    let by_key = stopped(Signal::SIGTSTP);
    play(HOLD, &[(told, &[ContinueStopped]), (by_key, &[SuspendJob(Signal::SIGTSTP)])]);
    play(HOLD, &[(Event::Freeze, &[Action::Freeze]), (told, &[]), (CTRL_C, &[])]);
}

#[test]
fn in_an_orphaned_group_a_suspension_is_none() {
    let told = Event::Suspend(Watch::Orphaned);
    let stands = Event::ChildStopped(Signal::SIGTSTP, Watch::Orphaned);
    play(
        HOLD,
        &[(told, &[]), (stands, &[ContinueGroup]), (stands, &[ContinueGroup]), (Resume, &[])],
    );
    play(HOLD, &[(TERM, &[Interrupt]), (stands, &[ContinueGroup])]);
    // It lost its shell between the two.
    play(HOLD, &[(SUSPEND, &[StopGroup]), (stands, &[ContinueGroup]), (Resume, &[])]);
    // Nothing undoes a freeze, and nothing is left of the suspension after it.
    let frozen: (Event, &[Action]) = (Event::Freeze, &[Action::Freeze]);
    let goes_on: &[Action] = &[Action::Thaw { goes_on: true }];
    play(HOLD, &[frozen, (stands, &[]), (Event::Thaw, goes_on)]);
    // Somebody's SIGSTOP is theirs to end, as for any process.
    play(HOLD, &[(Event::ChildStopped(Signal::SIGSTOP, Watch::Orphaned), &[])]);
}

#[test]
fn a_child_that_is_to_end_is_continued_however_often_it_stops() {
    let mut supervisor = play(HOLD, &[(TERM, &[Interrupt])]);
    for watch in [stopped(Signal::SIGTTIN), stopped_for_ever(Signal::SIGTTIN)] {
        for _ in 0..CONTINUES / 2 {
            assert_eq!(supervisor.step(at(1), watch), [ContinueGroup]);
        }
    }
    // From then on without haste.
    assert_eq!(supervisor.step(at(2), stopped(Signal::SIGTTIN)), []);
    let due = supervisor.deadline().expect("it goes on");
    assert_eq!(due, at(2).plus(CONTINUE));
    assert_eq!(supervisor.step(due, Tick), [ContinueGroup]);
    assert_eq!(supervisor.deadline(), None);
}

#[test]
fn a_freeze_ends_also_where_the_child_does_not_go_on() {
    let ends = |goes_on| Action::Thaw { goes_on };
    let freeze: (Event, &[Action]) = (Event::Freeze, &[Action::Freeze]);
    let stands = stopped_for_ever(Signal::SIGSTOP);
    play(HOLD, &[freeze, (Event::Thaw, &[ends(true)])]);
    play(HOLD, &[(stands, &[]), freeze, (Event::Thaw, &[ends(false)])]);
    let both: &[Action] = &[ends(true), ContinueGroup];
    play(HOLD, &[(stands, &[]), freeze, (TERM, &[Interrupt]), (Event::Thaw, both)]);
}

#[test]
fn somebody_elses_sigstop_does_not_suspend_us() {
    play(HOLD, &[(stopped(Signal::SIGSTOP), &[]), (ChildContinued, &[])]);
}

#[test]
fn a_stopped_child_is_continued_so_that_it_can_end() {
    play(HOLD, &[(stopped(Signal::SIGSTOP), &[]), (TERM, &[Interrupt, ContinueGroup])]);
    play(HOLD, &[(stopped(Signal::SIGSTOP), &[]), (MustStop, &[Interrupt, ContinueGroup])]);
}
