//! Runs a child: drives [`Supervisor`] with what happens to us and to the child.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

mod stops;

use stops::{at_the_end, carry_out, handle_stand_in, of_child};

use super::below;
use super::child_process;
use super::context::Context;
use super::event_loop::{EventLoop, LoopEvent};
use super::fail_point;
use super::late_change::{self, ChangeWatch};
use crate::clock::uptime;
use crate::duration;
use crate::error::Error;
use crate::job::ChildCommand;
use crate::lock::lease_keeper::{LeaseEvent, LeaseKeeper, Unconfirmed};
use crate::program;
use crate::report::{Notice, shell_quote};
use crate::supervise::ending::Interrupts;
use crate::supervise::locked_run;
use crate::supervise::stand_in::OverheardStop;
use crate::supervise::{
    Action, Canary, Child, ChildEvent, ChildStatus, Event, ProcessId, ProcessTree, Reach, Rest,
    SignalKind, SpawnError, StopSignal,
};

/// How long a child may take to end after a bug of ours, before it is killed.
const LAST_RESORT: Duration = Duration::from_mins(3);

/// What is left to say where none of our own fences has acted.
const FENCED: &str = "the guardian killed the child before anyone could take over the lock: it did \
                      not hear of a confirmed heartbeat in time";

/// The most that is read of what a quiet child says.
const MOST_SAID: u64 = 64 * 1024;

/// How a child ended.
pub(super) struct ChildEnd {
    pub(super) status: ChildStatus,
    /// Whether that was asked of it.
    pub(super) stopped: bool,
    /// Whether a stop came to it in any way, such as a key that only its own group got.
    pub(super) heard_stop: bool,
    /// Whether a lock was lost meanwhile, or a fence stopped it.
    pub(super) lost: bool,
}

/// Starts the child, with this stdout if not ours, and sees it to its end; a stop that came in before
/// the start prevents it.
/// `slot` keeps the child where it survives a panic.
pub(super) async fn run(
    event_loop: &mut EventLoop,
    (child, stdout): (&ChildCommand, Option<File>),
    context: &Context,
    watch: Option<ChangeWatch<'_>>,
    slot: &mut Option<Child>,
) -> Result<ChildEnd, Error> {
    event_loop.confirm().await?;
    fail_point::panic_at("before-spawn");
    let mut command = child_process::command(child, &context.env);
    if let Some(stdout) = stdout {
        command.stdout(stdout);
    }
    event_loop.reporter.share();
    let child = match spawn(event_loop, command, context) {
        Ok(child) => slot.insert(child),
        Err(error) => {
            event_loop.reporter.had_no_child();
            return Err(error);
        }
    };
    event_loop.reads_ahead.begin(uptime());
    let ended = drive(event_loop, child, context, watch).await;
    event_loop.reads_ahead.end();
    let is_in_order = |end: &ChildEnd| {
        !end.heard_stop && !end.lost && matches!(end.status, ChildStatus::Exited(_))
    };
    event_loop.reporter.unshare(!ended.as_ref().is_ok_and(is_in_order));
    ended
}

/// What came of a child that is none of the user's business unless it fails.
pub(super) struct Attempt {
    pub(super) succeeded: bool,
    pub(super) said: String,
}

/// Runs a child without streams and keeps what it says.
pub(super) async fn quietly(
    event_loop: &mut EventLoop,
    child: &ChildCommand,
    context: &Context,
) -> Result<Attempt, Error> {
    let internal = |error: std::io::Error| Error::Internal(format!("no memory file: {error}"));
    let mut said = nameless_file(&context.state_dir)?;
    let mut command = child_process::command(child, &context.env);
    let stream = || said.try_clone().map_err(internal);
    command.stdin(Stdio::null()).stdout(stream()?).stderr(stream()?);
    let mut child = spawn(event_loop, command, context)?;
    let ended = drive(event_loop, &mut child, context, None).await?;
    if let (true, Some(signal)) = (ended.stopped, event_loop.run.stopped_by()) {
        return Err(Error::interrupted(signal));
    }
    let mut bytes = Vec::new();
    said.rewind().and_then(|()| said.take(MOST_SAID).read_to_end(&mut bytes)).map_err(internal)?;
    Ok(Attempt {
        succeeded: ended.status == ChildStatus::Exited(0),
        said: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

/// A file without a name: in memory, or, where a sandbox refuses that, on a disk.
pub(super) fn nameless_file(dir: &Path) -> Result<File, Error> {
    let refused = match memfd_create(c"said", MFdFlags::MFD_CLOEXEC) {
        Ok(file) => return Ok(File::from(file)),
        Err(error) => error.desc(),
    };
    let on_disk = |dir: &Path| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(nix::libc::O_TMPFILE).open(dir)
    };
    on_disk(dir).or_else(|_| on_disk(Path::new("/tmp"))).map_err(|error| Error::Machine {
        message: format!(
            "no file can be created for Terraform's output: memfd_create(2): {refused}; in `{}` \
             and in `/tmp`: {error}",
            dir.display()
        ),
        hint: Some("allow `memfd_create`, or make one of these directories writable".to_owned()),
    })
}

/// After a bug of ours: ends the child as gently as can be, and returns only when it is gone. A
/// free lock with a live orphan is worse than a stuck lock.
pub(super) async fn last_resort(child: &mut Child) {
    // A signal that is refused leaves waiting as all that can be done.
    let _ = child.apply(Action::Interrupt);
    if tokio::time::timeout(LAST_RESORT, gone(child)).await.is_err() {
        let _ = child.apply(Action::Kill);
        gone(child).await;
    }
}

async fn gone(child: &mut Child) {
    loop {
        match child.changed().await {
            Ok(ChildEvent::GroupGone | ChildEvent::Exited { rest: Rest::Gone, .. }) => return,
            Ok(_) => {}
            Err(_) if child.is_gone() => return,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn spawn(event_loop: &mut EventLoop, command: Command, context: &Context) -> Result<Child, Error> {
    for notice in event_loop.custody.child_starts()? {
        event_loop.say(notice);
    }
    fail_point::crash();
    let announce = event_loop.custody.announce();
    let has_canary = !fail_point::is_off("canary");
    event_loop.custody.pass_on(true);
    // The stand-in closes what is passed on with the child.
    let child = Child::spawn(command, event_loop.terminal_use, announce, has_canary);
    event_loop.custody.pass_on(false);
    fail_point::crash();
    let started = child.as_ref().ok();
    let process = started.and_then(|it| ProcessTree::of(it.pid(), ProcessId::me()));
    for notice in event_loop.custody.child_runs(process) {
        event_loop.say(notice);
    }
    let set = context.planner.settings.terraform.as_ref();
    child.map_err(|error| program::named(of_spawn(&error), error.program(), set))
}

/// The error of a program that cannot be started.
pub(crate) fn of_spawn(error: &SpawnError) -> Error {
    let message = error.to_string();
    match error {
        SpawnError::NotFound { .. } => Error::NotFound { message, hint: None },
        SpawnError::NotExecutable { program, source } => {
            let is_its_interpreter = source.kind() == io::ErrorKind::NotFound;
            let hint = is_its_interpreter.then(|| {
                let quoted = shell_quote(&program.to_string_lossy());
                format!(
                    "what it needs to run is missing: `head -n 1 {quoted}` names its interpreter"
                )
            });
            Error::NotExecutable { message, hint }
        }
        SpawnError::Failed { source, .. } => Error::no_process(message, source),
    }
}

/// What has been heard and not been decided on yet.
#[derive(Default)]
struct Heard {
    /// Stops that may have come to the child, too.
    canary: Canary,
    /// What comes next.
    next: VecDeque<Event>,
    /// Whether the child stands still, while a stop is to be decided on. We would suspend ourselves before
    /// that.
    held_back: Option<Event>,
}

async fn drive(
    event_loop: &mut EventLoop,
    child: &mut Child,
    context: &Context,
    mut watch: Option<ChangeWatch<'_>>,
) -> Result<ChildEnd, Error> {
    let (mut heard, mut overheard) = (Heard::default(), false);
    event_loop.run.started(context.policy);
    loop {
        let event = next_event(event_loop, child, &mut heard, &mut watch).await?;
        let Some(event) = event else { continue };
        fail_point::panic_at("running");
        overheard |= matches!(event, locked_run::Event::Child(Event::Overheard(_)));
        let stop = match event {
            locked_run::Event::Child(Event::Stop(signal, reach, _)) => Some((signal, reach)),
            _ => None,
        };
        if stop.is_some_and(|(_, reach)| matches!(reach, Reach::ChildToo { .. })) {
            // Whoever there is has it, or had one before from its own guardian. Whether what begins just now
            // has it, too, nobody can tell.
            event_loop.notes_interrupts(Interrupts::Sent, true);
        }
        for action in event_loop.decide(event) {
            let action = match action {
                locked_run::Action::Child(action) => action,
                locked_run::Action::DeclareLeases => {
                    event_loop.declare_leases();
                    continue;
                }
                _ => continue,
            };
            if matches!(action, Action::SuspendSelf | Action::SuspendJob(_))
                && !prepares_to_stand_still(event_loop, child).await
            {
                continue;
            }
            carry_out_noted(event_loop, child, action, stop.map(|(signal, _)| signal));
            if let Action::Finished { status, stopped_by } = action {
                event_loop.notes_end();
                let stopped = stopped_by.is_some();
                let mut lost = event_loop.run.is_child_unprotected();
                if let Some(change) = watch.as_mut().and_then(|watch| watch.look(child, true)) {
                    lost = true;
                    let has_lock = !event_loop.custody.is_lockless();
                    event_loop.say(late_change::too_late(&change, true, has_lock));
                }
                return Ok(ChildEnd { status, stopped, heard_stop: stopped || overheard, lost });
            }
        }
    }
}

/// What the machine is to decide on next, if anything of what happens next is for it.
async fn next_event(
    event_loop: &mut EventLoop,
    child: &mut Child,
    Heard { canary, next, held_back }: &mut Heard,
    watch: &mut Option<ChangeWatch<'_>>,
) -> Result<Option<locked_run::Event>, Error> {
    if canary.deadline().is_none() {
        next.extend(held_back.take());
    }
    if let Some(event) = next.pop_front() {
        return Ok(Some(locked_run::Event::Child(event)));
    }
    if event_loop.resumes() {
        return Ok(Some(locked_run::Event::Tick));
    }
    let look = watch.as_ref().and_then(ChangeWatch::deadline);
    let deadlines = [event_loop.run_deadline(), canary.deadline(), look];
    let event = match event_loop.next(deadlines.into_iter().flatten().min(), Some(child)).await {
        LoopEvent::Signal(received) => {
            if matches!(received.kind, SignalKind::Stop(_)) && child.let_it_speak() {
                // It may have ended when that is decided on, and a script is not to start the next one.
                let known = event_loop.custody.known_interrupts();
                event_loop.notes_interrupts(known, true);
            }
            let judged = canary.ours(uptime(), received, child.has_stand_in());
            let Some(judged) = judged else { return Ok(None) };
            locked_run::Event::Child(child.event(judged))
        }
        LoopEvent::Swept => {
            canary.sweep(uptime());
            return Ok(None);
        }
        LoopEvent::Fenced => {
            if !event_loop.is_fenced() {
                event_loop.say(Notice::warning(FENCED.to_owned()));
            }
            locked_run::Event::Fenced
        }
        LoopEvent::Child(Ok(ChildEvent::Overheard(overheard))) => {
            match handle_stand_in(event_loop, child, canary, overheard) {
                Some(event) => locked_run::Event::Child(event),
                None => return Ok(None),
            }
        }
        LoopEvent::Child(Ok(end @ (ChildEvent::Exited { .. } | ChildEvent::GroupGone))) => {
            *held_back = None;
            next.extend(at_the_end(event_loop, child, canary, end));
            return Ok(None);
        }
        LoopEvent::Child(Ok(event @ (ChildEvent::Stopped(..) | ChildEvent::Continued)))
            if canary.deadline().is_some() =>
        {
            *held_back = Some(of_child(event));
            return Ok(None);
        }
        LoopEvent::Child(Ok(event)) => locked_run::Event::Child(of_child(event)),
        LoopEvent::Child(Err(error)) => {
            last_resort(child).await;
            return Err(Error::Internal(format!("the child cannot be watched: {error}")));
        }
        LoopEvent::Lease(index, said) => {
            let event = event_loop.lease_event(index, said);
            say_what_it_means(event_loop, index, &event);
            event
        }
        LoopEvent::Due if watch.as_ref().is_some_and(ChangeWatch::is_due) => {
            let change = watch.as_mut().and_then(|watch| watch.look(child, false));
            let Some(change) = change else { return Ok(None) };
            let has_lock = !event_loop.custody.is_lockless();
            event_loop.say(late_change::too_late(&change, false, has_lock));
            locked_run::Event::Changed
        }
        LoopEvent::Due => {
            let is_about_to_tell = || {
                let stop = child.is_about_to_tell();
                if let Some(signal) = stop {
                    // As when it tells, which may be after what is decided on now.
                    child.have_it_already(OverheardStop { signal, from_terminal: false });
                }
                stop.is_some()
            };
            match canary.due(uptime(), is_about_to_tell) {
                Some(judged) => locked_run::Event::Child(child.event(judged)),
                None => locked_run::Event::Tick,
            }
        }
        LoopEvent::Answered => locked_run::Event::Tick,
        LoopEvent::Reply(_) | LoopEvent::Released(_) => return Ok(None),
    };
    Ok(Some(event))
}

/// Does what comes before a suspension of ours. Whether we are to stand still after that: who has sent a
/// stop or a resume since then would wait for us in vain. Both that and all else comes first, since from
/// here to the suspension there must be no time.
async fn prepares_to_stand_still(event_loop: &mut EventLoop, child: &mut Child) -> bool {
    if let Err(error) = child.prepare_to_stand_still() {
        event_loop.say(Notice::warning(format!("the terminal could not be taken back: {error}")));
    }
    let stands_still = !event_loop.may_not_stand_still().await;
    if stands_still {
        say_what_a_suspension_costs(event_loop);
    }
    stands_still
}

/// Nobody sends heartbeats while we stand still.
fn say_what_a_suspension_costs(event_loop: &EventLoop) {
    let now = uptime();
    let kept = event_loop.kept.iter();
    let ends = kept.filter_map(|kept| Some((kept.tenure.keeper()?.kill_at()?, kept)));
    if let Some((at, kept)) = ends.min_by_key(|(at, _)| *at) {
        event_loop.say(Notice::warning(format!(
            "suspended: go on within {} (`fg`), or the child is killed before anyone may take over \
             the lock `{}`",
            duration::in_seconds(at.since(now)),
            kept.target.url()
        )));
    }
}

/// Carries out an action; the receipt and the guardian learn of an interrupt before and after it is
/// sent.
fn carry_out_noted(
    event_loop: &mut EventLoop,
    child: &mut Child,
    action: Action,
    stop: Option<StopSignal>,
) {
    let was_stopping = event_loop.custody.is_stopping();
    let is_interrupt = matches!(
        action,
        Action::Interrupt | Action::InterruptNew | Action::ForwardSecond | Action::Withhold(_)
    );
    let is_first = matches!(action, Action::Interrupt | Action::Quit);
    let is_noted = is_interrupt || is_first;
    if is_noted {
        // Before it is looked who is there: whoever is not yet will find this.
        let known = event_loop.custody.known_interrupts();
        let may_have_it = if is_first { Interrupts::Maybe } else { known };
        event_loop.notes_interrupts(may_have_it, was_stopping || is_interrupt);
    }
    if is_interrupt && action != Action::ForwardSecond {
        below::leave_to_their_own(event_loop, child);
    }
    carry_out(event_loop, child, action, stop);
    if is_noted {
        fail_point::crash();
        let is_stopping = was_stopping || (is_interrupt && child.has_told_anybody());
        event_loop.notes_interrupts(Interrupts::Sent, is_stopping);
    }
}

/// Says what news of a lock means for the child, if anything.
fn say_what_it_means(event_loop: &EventLoop, index: usize, event: &locked_run::Event) {
    let locked_run::Event::Lease { said, is_lost } = event else { return };
    if !event_loop.run.heeds(said, *is_lost) {
        return;
    }
    let kept = &event_loop.kept[index];
    let lock = kept.target.url();
    let message = match said {
        LeaseEvent::Interrupt => {
            let why = match kept.tenure.keeper().and_then(LeaseKeeper::refused_after) {
                Some(good) => {
                    format!(
                        "refused credentials (first after {} of holding the lock)",
                        duration::in_seconds(good)
                    )
                }
                None => "no heartbeat has been confirmed".to_owned(),
            };
            let last = kept.outage.error().map_or_else(String::new, |last| format!(" ({last})"));
            format!(
                "{why} for over half of the lease of `{lock}`{last}: interrupting the child before \
                 anyone may take over the lock"
            )
        }
        LeaseEvent::Kill(why) => {
            let why = match why {
                Unconfirmed::Unanswered(since) => format!(
                    "no heartbeat has been confirmed for {}, over two thirds of the lease of `{lock}`",
                    duration::in_seconds(*since)
                ),
                Unconfirmed::StoodStill(pause) => format!(
                    "tfwrap stood still for {}, until it was too late for a heartbeat of `{lock}`",
                    duration::in_seconds(*pause)
                ),
            };
            let ends = kept.tenure.keeper().and_then(LeaseKeeper::ends);
            let then = if ends.is_some_and(|at| uptime() >= at) {
                // Who has had it since, if anybody, the store says: see `messages::loss`.
                "; the lease has ended, and the next heartbeat shows whether the lock is still ours"
            } else {
                " before anyone may take over the lock"
            };
            format!("{why}: killing the child{then}")
        }
        LeaseEvent::Freeze => {
            format!("paused for a long time: the child stays stopped until `{lock}` is confirmed")
        }
        // Said when it was found, or of no interest.
        LeaseEvent::Lost(_)
        | LeaseEvent::Thaw
        | LeaseEvent::Refused { .. }
        | LeaseEvent::LastBeat { .. } => return,
    };
    event_loop.say(Notice::warning(message));
}
