//! What a stop means for the child, and the messages about it.

use super::super::dependents::{self, Who};
use super::super::event_loop::EventLoop;
use super::super::standstill;
use crate::clock::uptime;
use crate::report::Notice;
use crate::supervise::ending::Interrupts;
use crate::supervise::stand_in::OverheardStop;
use crate::supervise::tell_the_tfwrap_above;
use crate::supervise::{
    Action, Canary, Child, ChildEvent, Event, Received, Rest, SignalKind, SignalOrigin, StopSignal,
    Whom,
};

/// Does what was decided, and says what the user should hear of it.
pub(super) fn carry_out(
    event_loop: &EventLoop,
    child: &mut Child,
    action: Action,
    stop: Option<StopSignal>,
) {
    if action == Action::AwaitRest {
        for process in child.rest_of_note() {
            let message = dependents::still_runs(&Who::one(format!("process {}", process.pid)));
            event_loop.say(Notice::Note { message });
            if process.stands_still() {
                event_loop.say(standstill::was_stopped(process));
            }
        }
    }
    match child.apply(action) {
        Ok(()) => tell(event_loop, action, stop, child),
        Err(error) => {
            event_loop.say(Notice::warning(could_not(action, &error)));
        }
    }
}

/// A stop came to where the child stands. What that means for us, if anything.
pub(super) fn handle_stand_in(
    event_loop: &mut EventLoop,
    child: &mut Child,
    canary: &mut Canary,
    OverheardStop { signal, from_terminal }: OverheardStop,
) -> Option<Event> {
    child.let_it_speak();
    if signal == StopSignal::Hangup && from_terminal {
        // The kernel tells the foreground group and the first process of the session: not a tfwrap
        // above us.
        tell_the_tfwrap_above(signal.signal());
    }
    if child.is_deaf_to(signal) {
        // The terminal is gone, and perhaps nobody else says so.
        if !from_terminal {
            return None;
        }
        let received = Received { kind: SignalKind::Stop(signal), origin: SignalOrigin::Terminal };
        let judged = canary.ours(uptime(), received, child.has_stand_in());
        return judged.map(|judged| child.event(judged));
    }
    have_it_already(event_loop, child, OverheardStop { signal, from_terminal });
    // A key went to the child's group alone; any other signal may be on its way to us, too.
    if !from_terminal {
        canary.its(uptime());
    }
    Some(Event::Overheard(signal))
}

/// Notes who has had a stop from somebody else.
fn have_it_already(event_loop: &mut EventLoop, child: &mut Child, stop: OverheardStop) {
    // A key goes to one group alone; whoever names Terraform may mean each.
    if stop.signal == StopSignal::Quit {
        return;
    }
    let is_stopping = event_loop.custody.is_stopping();
    if child.have_it_already(stop) {
        // No stop of ours yet, unless we have had one before.
        let is_ours = event_loop.run.stopped_by().is_some();
        event_loop.notes_interrupts(Interrupts::Sent, is_stopping || is_ours);
    } else if child.is_to_be_terraform() {
        // One of an odd name, or a script in its place: whether Terraform has it, nobody can tell.
        let known = event_loop.custody.known_interrupts();
        event_loop.notes_interrupts(known.max(Interrupts::Maybe), is_stopping);
    }
}

/// What is still to be decided on when the child has ended comes before its end.
pub(super) fn at_the_end(
    event_loop: &mut EventLoop,
    child: &mut Child,
    canary: &mut Canary,
    end: ChildEvent,
) -> impl Iterator<Item = Event> {
    let overheard = child.overheard_at_last();
    for stop in &overheard {
        have_it_already(event_loop, child, *stop);
        if !stop.from_terminal {
            canary.its(uptime());
        }
    }
    let overheard = overheard.into_iter().map(|stop| Event::Overheard(stop.signal));
    // Whoever signals one after the other may not have come to the Terraform of a wrapper that is gone:
    // then the stand-in still tells.
    let has_terraform = matches!(end, ChildEvent::Exited { rest: Rest::OwnTerraform, .. });
    let stops = if has_terraform { Vec::new() } else { canary.at_the_end(uptime()).collect() };
    let stops = stops.into_iter().map(|judged| child.event(judged));
    stops.chain(overheard).chain([of_child(end)])
}

pub(super) fn of_child(event: ChildEvent) -> Event {
    match event {
        ChildEvent::Stopped(signal, watch) => Event::ChildStopped(signal, watch),
        ChildEvent::Continued => Event::ChildContinued,
        ChildEvent::Exited { status, rest } => Event::ChildExited { status, rest },
        ChildEvent::TerraformGone => Event::TerraformGone,
        ChildEvent::GroupGone => Event::GroupGone,
        ChildEvent::Overheard(OverheardStop { signal, .. }) => Event::Overheard(signal),
    }
}

fn could_not(action: Action, error: &std::io::Error) -> String {
    match action {
        Action::Finished { .. } => format!("the terminal could not be taken back: {error}"),
        _ => format!("the child could not be signalled: {error}"),
    }
}

fn tell(event_loop: &EventLoop, action: Action, stop: Option<StopSignal>, child: &Child) {
    let Some(signal) = stop else { return };
    let whom = match child.whom() {
        Whom::Each(told) => {
            let pids: Vec<_> = told.iter().map(|process| process.pid.to_string()).collect();
            let noun = if pids.len() == 1 { "process" } else { "processes" };
            format!("Terraform ({noun} {})", pids.join(", "))
        }
        Whom::Group | Whom::Nobody => "the child's process group".to_owned(),
    };
    // A plan without the lock has none to release.
    let then = if event_loop.custody.is_lockless() {
        ""
    } else {
        "; the lock is released when it has ended"
    };
    let doing = match action {
        Action::Interrupt if *child.whom() == Whom::Nobody => {
            format!("the child has already had its interrupt{then}")
        }
        Action::Interrupt => format!("SIGINT sent to {whom}{then}"),
        Action::Quit => format!("SIGQUIT sent to the child's process group{then}"),
        Action::ForwardSecond => format!("a second SIGINT sent to {whom}: it will exit at once"),
        Action::InterruptNew if *child.whom() == Whom::Nobody => return,
        Action::InterruptNew | Action::Withhold(_) if *child.whom() != Whom::Nobody => {
            format!(
                "SIGINT sent to {whom}, not known to have had one; not passed on to anything else"
            )
        }
        Action::Withhold(_) => "not passed on to the child, which is already ending".to_owned(),
        _ => return,
    };
    event_loop.say(Notice::Stopping { signal: signal.signal().as_str().to_owned(), doing });
}
