//! Running a child: drives [`Supervisor`] with what happens to us and to the child.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;

mod stops;

use stops::{at_the_end, carry_out, heed_stand_in, of_child};

use super::Context;
use super::fail_point;
use super::fresh::{self, Watch};
use super::shell::{Happening, Shell};
use super::voice::whole;
use crate::clock::uptime;
use crate::error::Error;
use crate::job::ChildCommand;
use crate::lock::keeper::{Keeper, News};
use crate::report::Notice;
use crate::start;
use crate::store::StoreError;
use crate::supervise::guardian::Interrupts;
use crate::supervise::{
    Action, Canary, Child, ChildEvent, ChildStatus, Event, Orphans, Reach, Received, Rest,
    SpawnError, StopSignal, Supervisor, Whom, Word, suspend_self,
};

/// How long a child may take to end after a bug of ours, before it is killed.
const LAST_RESORT: Duration = Duration::from_mins(3);

/// How long a lock whose request was not answered may take to be confirmed by a beat.
const CONFIRM: Duration = Duration::from_secs(40);

const FENCED: &str = "tfwrap stood still for so long that its guardian killed the child before \
                      anyone may take its lock over";

const CONFIRM_POLL: Duration = Duration::from_millis(100);

/// The most that is read of what a quiet child says.
const MOST_SAID: u64 = 64 * 1024;

/// How a child ended.
pub(super) struct ChildEnd {
    pub(super) status: ChildStatus,
    /// Whether that was asked of it.
    pub(super) stopped: bool,
    /// Whether a lock was lost meanwhile, or a fence stopped it.
    pub(super) lost: bool,
}

/// Starts the child and sees it to its end; a stop that came in before the start prevents it.
/// `slot` keeps the child where it survives a panic.
pub(super) async fn run(
    shell: &mut Shell,
    child: &ChildCommand,
    context: &Context,
    watch: Option<Watch<'_>>,
    slot: &mut Option<Child>,
) -> Result<ChildEnd, Error> {
    confirm(shell).await?;
    fail_point::panic_at("before-spawn");
    let command = start::command(child, &context.env);
    let child = slot.insert(spawn(shell, command, context)?);
    drive(shell, child, context, watch).await
}

/// Waits until every lock is confirmed. A signal or a loss of before counts, too, whoever has
/// heard of it.
pub(super) async fn confirm(shell: &mut Shell) -> Result<(), Error> {
    let started = uptime();
    loop {
        let ready = shell.may_start();
        let wake = if ready { uptime() } else { uptime().plus(CONFIRM_POLL) };
        let happening = shell.next(Some(wake), None).await;
        super::heed(shell, &happening)?;
        if let Some(grant) = shell.lost() {
            return Err(super::lost(grant));
        }
        if let Some(signal) = shell.asked_to_stop() {
            return Err(super::interrupted(signal));
        }
        if ready && matches!(happening, Happening::Due) {
            return Ok(());
        }
        if uptime().since(started) > CONFIRM {
            let lock = shell.kept.last().map(|kept| kept.grant.target.url()).unwrap_or_default();
            let detail = "the lock was taken, but the store does not confirm it".to_owned();
            return Err(Error::Store {
                lock,
                source: StoreError::Unavailable { detail, sent: true },
            });
        }
    }
}

/// What came of a child that is none of the user's business unless it fails.
pub(super) struct Attempt {
    pub(super) succeeded: bool,
    pub(super) said: String,
}

/// Runs a child without streams and keeps what it says.
pub(super) async fn quietly(
    shell: &mut Shell,
    child: &ChildCommand,
    context: &Context,
) -> Result<Attempt, Error> {
    let internal = |error: std::io::Error| Error::Internal(format!("no memory file: {error}"));
    let mut said = nameless_file(&context.state_dir)?;
    let mut command = start::command(child, &context.env);
    let stream = || said.try_clone().map_err(internal);
    command.stdin(Stdio::null()).stdout(stream()?).stderr(stream()?);
    let mut child = spawn(shell, command, context)?;
    let ended = drive(shell, &mut child, context, None).await?;
    if let (true, Some(signal)) = (ended.stopped, shell.asked_to_stop()) {
        return Err(super::interrupted(signal));
    }
    let mut bytes = Vec::new();
    said.rewind().and_then(|()| said.take(MOST_SAID).read_to_end(&mut bytes)).map_err(internal)?;
    Ok(Attempt {
        succeeded: ended.status == ChildStatus::Exited(0),
        said: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

/// A file without a name: in memory, or, where a sandbox refuses that, on a disk.
fn nameless_file(dir: &Path) -> Result<File, Error> {
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
            "no file can be had for what Terraform says: memfd_create(2): {refused}; in `{}` and in \
             `/tmp`: {error}",
            dir.display()
        ),
        hint: Some("allow `memfd_create`, or make one of these directories writable".to_owned()),
    })
}

/// Stops us, as Ctrl-Z means it, until we are continued.
pub(super) fn suspend(shell: &Shell) {
    if let Err(error) = suspend_self(Signal::SIGTSTP, false) {
        shell.say(Notice::Warning {
            message: format!("tfwrap could not be suspended: {error}"),
            hint: None,
        });
    }
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
            Err(_) if child.group_is_empty() => return,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn spawn(shell: &mut Shell, command: Command, context: &Context) -> Result<Child, Error> {
    for notice in shell.guard.child_starts()? {
        shell.say(notice);
    }
    fail_point::crash();
    let announce = shell.guard.announce();
    let has_canary = !fail_point::is_off("canary");
    shell.guard.pass_on(true);
    // The stand-in closes what is passed on with the child.
    let child = Child::spawn(command, context.terminal_use, announce, has_canary);
    shell.guard.pass_on(false);
    fail_point::crash();
    let started = child.as_ref().ok();
    let process = started.and_then(|it| Orphans::of(it.pid()));
    for notice in shell.guard.child_runs(process) {
        shell.say(notice);
    }
    child.map_err(|error| of_spawn(&error))
}

/// The error of a program that cannot be started.
pub(crate) fn of_spawn(error: &SpawnError) -> Error {
    let message = error.to_string();
    match error {
        SpawnError::NotFound { .. } => Error::NotFound { message, hint: None },
        SpawnError::NotExecutable { .. } => Error::NotExecutable { message },
        SpawnError::Failed { .. } => Error::Internal(message),
    }
}

async fn drive(
    shell: &mut Shell,
    child: &mut Child,
    context: &Context,
    mut watch: Option<Watch<'_>>,
) -> Result<ChildEnd, Error> {
    let mut machine = Supervisor::new(context.policy);
    let mut canary = Canary::default();
    let mut lost = false;
    // We were suspended, and the lease is not known to be good since.
    let mut resume = false;
    let mut next = VecDeque::new();
    loop {
        let event = if let Some(event) = next.pop_front() {
            event
        } else if resume && shell.may_go_on() {
            resume = false;
            Event::Resume
        } else {
            // A lease that becomes good again is no news.
            let poll = resume.then(|| uptime().plus(CONFIRM_POLL));
            let look = watch.as_ref().and_then(Watch::deadline);
            let deadlines = [machine.deadline(), canary.deadline(), poll, look];
            match shell.next(deadlines.into_iter().flatten().min(), Some(child)).await {
                // Only under a lease that is known to be good.
                Happening::Signal(Received { word: Word::Resume, .. }) => {
                    resume = true;
                    continue;
                }
                Happening::Signal(received) => {
                    if matches!(received.word, Word::Stop(_)) {
                        child.let_it_speak();
                    }
                    let judged = canary.ours(uptime(), received, child.has_stand_in());
                    let Some(judged) = judged else { continue };
                    child.event(judged)
                }
                Happening::Fenced => {
                    lost = true;
                    shell.say(Notice::Warning { message: FENCED.to_owned(), hint: None });
                    continue;
                }
                Happening::Child(Ok(ChildEvent::Overheard(overheard))) => {
                    match heed_stand_in(shell, child, &mut canary, overheard) {
                        Some(event) => event,
                        None => continue,
                    }
                }
                Happening::Child(Ok(end @ ChildEvent::Exited { .. })) => {
                    next.extend(at_the_end(child, &mut canary, end));
                    continue;
                }
                Happening::Child(Ok(event)) => of_child(event),
                Happening::Child(Err(error)) => {
                    last_resort(child).await;
                    return Err(Error::Internal(format!("the child cannot be watched: {error}")));
                }
                Happening::Lease(index, news) => {
                    let Some(event) = heed_lease(shell, index, &news, context) else { continue };
                    // Then the child's own code counts for nothing.
                    lost |= matches!(event, Event::MustStop | Event::MustKill);
                    event
                }
                Happening::Due if watch.as_ref().is_some_and(Watch::is_due) => {
                    let change = watch.as_mut().and_then(|watch| watch.look(false));
                    let Some(change) = change else { continue };
                    lost = true;
                    shell.say(fresh::too_late(&change, false));
                    Event::MustStop
                }
                Happening::Due => {
                    let is_about_to_tell = |stop: StopSignal| child.is_about_to_tell(stop.signal());
                    match canary.due(uptime(), is_about_to_tell) {
                        Some(judged) => child.event(judged),
                        None => Event::Tick,
                    }
                }
                Happening::Reply(_) => continue,
            }
        };
        fail_point::panic_at("running");
        if matches!(event, Event::Stop(_, Reach::ChildToo)) {
            shell.notes_interrupts(Interrupts::Sent);
        }
        for action in machine.step(uptime(), event) {
            let interrupts = matches!(action, Action::Interrupt | Action::Quit);
            if interrupts {
                shell.guard.passes_by(action == Action::Interrupt);
                shell.notes_interrupts(Interrupts::Maybe);
            }
            carry_out(shell, child, action, event);
            if interrupts {
                fail_point::crash();
                shell.guard.passes_by(matches!(child.whom(), Whom::Each(_)));
                shell.notes_interrupts(Interrupts::Sent);
            }
            if let Action::Finished { status, stopped_by } = action {
                shell.notes_end();
                let stopped = stopped_by.is_some();
                if let Some(change) = watch.as_mut().and_then(|watch| watch.look(true)) {
                    lost = true;
                    shell.say(fresh::too_late(&change, true));
                }
                return Ok(ChildEnd { status, stopped, lost });
            }
            resume |= matches!(action, Action::SuspendSelf | Action::SuspendJob(_));
        }
    }
}

/// Tells the user what became of a lock, and the supervisor what it means for the child.
fn heed_lease(shell: &Shell, index: usize, news: &News, context: &Context) -> Option<Event> {
    let lock = shell.kept[index].grant.target.url();
    let say = |message: String| {
        shell.say(Notice::Warning { message, hint: None });
    };
    match news {
        // A child with leave to go on must not stand still for a lease that is no more.
        News::Lost(_) => Some(if context.lost_is_fatal { Event::MustStop } else { Event::Thaw }),
        // With the lock gone already, and leave to go on, the fence protects nothing.
        _ if shell.is_lost(index) && !context.lost_is_fatal => None,
        News::Interrupt => {
            let keeper = shell.kept[index].keeper.as_ref();
            let why = match keeper.and_then(Keeper::refused_after) {
                Some(good) => {
                    format!("credentials that are refused since {} of this hold", whole(good))
                }
                None => "no answer from the lock store".to_owned(),
            };
            say(format!(
                "{why} for over half of the lease of `{lock}`: the child is interrupted before \
                 anyone may take the lock over"
            ));
            Some(Event::MustStop)
        }
        News::Kill => {
            say(format!(
                "no answer from the lock store for over two thirds of the lease of `{lock}`: the \
                 child is killed before anyone may take the lock over"
            ));
            Some(Event::MustKill)
        }
        News::Freeze => {
            say(format!("paused for long: the child stands still until `{lock}` is confirmed"));
            Some(Event::Freeze)
        }
        News::Thaw => Some(Event::Thaw),
        // Said already.
        News::Refused { .. } | News::LastBeat { .. } => None,
    }
}
