//! The child of a run that is ended for a tfwrap that cannot: carries out what [`Ending`] decides.

use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};

use super::openings::Openings;
use crate::clock::uptime;
use crate::guardian::Head;
use crate::lock::lease_keeper::LeaseEvent;
use crate::receipt::ReceiptFile;
use crate::report::Notice;
use crate::run::custody::Case;
use crate::run::event_loop::{EventLoop, LoopEvent};
use crate::supervise::ending::{Action, Ending, EndingStart, Event, Interrupts, SWEEP, Why};
use crate::supervise::{ProcessId, ProcessTree, StopSignal};

/// How often a child that is not ours is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing of it lives.
    #[default]
    Gone,
    /// It lives on: whoever was to end it was told to end.
    LeftBy(StopSignal),
    /// It lives on: nothing ends it.
    Stuck,
}

/// Sees the child to its end.
pub(super) async fn end(
    event_loop: &mut EventLoop,
    head: &Head,
    case: &Case,
    openings: &mut Openings<'_>,
    is_left_at_last: bool,
) -> Ended {
    let Some(child) = head.child else { return Ended::Gone };
    if head.interrupts == Interrupts::None
        && let Some(signal) = let_a_sweep_pass(event_loop, openings).await
    {
        return Ended::LeftBy(signal);
    }
    let interrupts = known_now(head.interrupts, &child);
    let known = EndingStart {
        interrupts,
        killed: head.killed,
        grace: Duration::from_millis(case.receipt.orphan_grace),
        fence: openings.fence(),
        is_left_at_last,
    };
    let mut ending = Ending::begin(known, uptime());
    // Whoever read what it says may be gone, too.
    let _until_its_end = child.let_it_speak();
    let noted = &case.receipt;
    if (noted.child, noted.interrupts, noted.is_stopping) != (Some(child), interrupts, true) {
        note(event_loop, case, child, interrupts);
    }
    let mut stopped_by = None;
    let mut all_told = false;
    let mut event = Event::Tick;
    loop {
        if child.are_gone() {
            event = Event::Gone;
        } else if event == Event::Tick && child.are_others_only() {
            event = Event::OnlyRest;
        }
        ending.fence_at(openings.fence());
        for action in ending.step(uptime(), event) {
            match action {
                Action::Note(interrupts) => note(event_loop, case, child, interrupts),
                Action::Interrupt => all_told |= interrupt(event_loop, &child),
                // They had it with the child.
                Action::InterruptRest if all_told => {}
                Action::InterruptRest => {
                    interrupt(event_loop, &child);
                }
                Action::Kill(why) => kill(event_loop, &child, why),
                Action::Release => return Ended::Gone,
                Action::Leave => return stopped_by.map_or(Ended::Stuck, Ended::LeftBy),
            }
        }
        let next = ending.deadline().into_iter().chain([uptime().plus(LOOK)]).min();
        let happened = openings.next(event_loop, next).await;
        event = match happened {
            Some(LoopEvent::Lease(_, LeaseEvent::Kill(_))) => Event::LeaseEnds,
            other => match other.and_then(|other| other.stop()) {
                Some(signal) => {
                    stopped_by = Some(signal);
                    Event::Stop
                }
                None => Event::Tick,
            },
        };
    }
}

/// Whoever kills a tfwrap may go on to signal all that it had started, Terraform among it. Returns with a
/// stop that is meant for us.
async fn let_a_sweep_pass(
    event_loop: &mut EventLoop,
    openings: &mut Openings<'_>,
) -> Option<StopSignal> {
    let until = uptime().plus(SWEEP);
    loop {
        match openings.next(event_loop, Some(until)).await {
            Some(LoopEvent::Due | LoopEvent::Lease(_, LeaseEvent::Kill(_))) => return None,
            other => {
                if let Some(signal) = other.and_then(|other| other.stop()) {
                    return Some(signal);
                }
            }
        }
    }
}

/// Since the guardian looked last, somebody may have signalled every process there is: us, who take no
/// signals, our guardian, and the child; or all that stand where the child does.
fn known_now(interrupts: Interrupts, child: &ProcessTree) -> Interrupts {
    let all = [ProcessId::of(getpid()), ProcessId::of(getppid())];
    let were_told = || all.into_iter().flatten().any(ProcessId::has_pending_stop);
    interrupts.or_maybe(|| were_told() || child.was_swept())
}

/// Writes down what the child got: whoever goes on, if we are killed, goes by it.
fn note(event_loop: &EventLoop, case: &Case, child: ProcessTree, interrupts: Interrupts) {
    let Some(path) = &case.file else { return };
    let mut receipt = case.receipt.clone();
    (receipt.child, receipt.interrupts) = (Some(child), interrupts);
    // Nobody in another PID namespace can see that the tfwrap above it is gone.
    (receipt.starting_since, receipt.is_stopping) = (None, true);
    if let Err(error) = ReceiptFile::at(path.clone()).write(&receipt) {
        event_loop.say(Notice::warning(format!("the receipt cannot be updated: {error}")));
    }
}

/// Whether it went to all of its group.
fn interrupt(event_loop: &EventLoop, child: &ProcessTree) -> bool {
    let whom = child.whom();
    let told = child.interrupt();
    // One that was stopped could not end.
    let continued = child.signal(Signal::SIGCONT);
    match told.and_then(|all| continued.map(|()| all)) {
        Ok(all) => {
            event_loop.say(Notice::Note { message: format!("interrupted {whom}") });
            all
        }
        Err(error) => {
            complain(event_loop, &error);
            false
        }
    }
}

fn kill(event_loop: &EventLoop, child: &ProcessTree, why: Why) {
    // Of a Terraform that has ended by itself nothing was cut off.
    let only_rest = why == Why::Left || child.are_others_only();
    let whom = child.whom();
    if let Err(error) = child.signal(Signal::SIGKILL) {
        return complain(event_loop, &error);
    }
    let why = match why {
        Why::Late => "its time to end has run out",
        Why::LeaseEnds => "the lease of its lock is about to expire",
        Why::Left => "it did not end after the interrupt",
    };
    let message = format!("killed {whom}: {why}");
    event_loop.say(if only_rest {
        Notice::Note { message }
    } else {
        Notice::warning(message).with_hint("check the state with `terraform plan`".to_owned())
    });
}

fn complain(event_loop: &EventLoop, error: &std::io::Error) {
    event_loop.say(Notice::warning(format!("the child could not be signalled: {error}")));
}
