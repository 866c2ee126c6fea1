//! A plan without the lock: drives [`OptimisticRead`] around Terraform. What was not of one moment is
//! planned again, once, under the lock.
//!
//! Its rules: `docs/protocol.md#plans-without-the-lock`.

mod said;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{OFlags, fcntl_setfl};

use super::acquire::{SETTLING, Wait};
use super::conclude::RunEnd;
use super::context::{Context, Stdin};
use super::event_loop::{EventLoop, LoopEvent};
use super::request::{StoreReply, StoreRequest};
use super::store_requests::{self, LockRegister, PATIENCE};
use super::{fail_point, fresh, messages, outdated, prepare, supervise};
use crate::clock::{uptime, wall};
use crate::error::{Error, Leftover};
use crate::exit_code;
use crate::identity::new_seed;
use crate::job::{LockedJob, UnlockedPlan};
use crate::lock::history::{Awaited, WaitWatch};
use crate::lock::jitter::Jitter;
use crate::lock::lease::Lease;
use crate::lock::optimistic_read::{
    Action, Event, OptimisticRead, ReadOutcome, Sighting, StateVersion,
};
use crate::lock::{Holder, Uptime};
use crate::report::{Cadence, Notice};
use crate::store::{StoreError, Stored};
use crate::supervise::{ChildStatus, StopSignal};
use crate::terraform::go_bool;

/// How long what is left to say is waited for after a stop.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What came of a run before it asked for a lock; nothing yet for all but optimistic plans.
#[derive(Default)]
pub(super) struct FirstTry {
    /// How the run ended. Otherwise it goes on under the lock.
    pub(super) end: Option<RunEnd>,
    /// How long it waited for those who may write.
    pub(super) waited: Duration,
    /// Whom it waited for last, or who made the plan worthless.
    pub(super) holder: Option<Holder>,
    /// All whom it waited for.
    pub(super) behind: Vec<Awaited>,
    /// Whether Terraform has planned in vain.
    pub(super) replanned: bool,
}

impl FirstTry {
    /// By a bug of ours.
    pub(super) fn panicked() -> Self {
        Self { end: Some(RunEnd::Panicked), ..Self::default() }
    }
}

/// Plans without the lock, if this job may.
pub(super) async fn first_try(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    wait: Wait,
) -> FirstTry {
    let Some(plan) = &job.unlocked_plan else { return FirstTry::default() };
    if !context.held.is_empty() {
        return FirstTry::default();
    }
    if let Some(why) = needs_one_try(context, plan) {
        event_loop.say(under_the_lock(why));
        return FirstTry::default();
    }
    let began = uptime();
    let cadence = Cadence::default();
    let mut attempt = Attempt {
        job,
        context,
        plan,
        wait,
        began,
        began_at: wall(),
        cadence,
        watch: WaitWatch::default(),
        first: FirstTry::default(),
        has_read: false,
        has_planned: false,
        plan_file_before: None,
    };
    let end = attempt.run(event_loop).await;
    // A stop does not wait for what is still out, and nothing is redrawn before what follows.
    event_loop.abandon();
    event_loop.reporter.settle(SETTLING);
    let mut first = attempt.first;
    if !attempt.has_read {
        first.waited = uptime().since(began);
    }
    first.behind = attempt.watch.ended(uptime());
    match end {
        Ok(end) => first.end = end,
        // Nobody knows what it is a plan of.
        Err(error) if attempt.has_read => {
            remove_plan_file(event_loop, plan, attempt.plan_file_before);
            if attempt.has_planned && !matches!(error, Error::Interrupted { .. }) {
                event_loop.say(Notice::warning(
                    "Terraform has planned, but whether the state changed meanwhile cannot be looked at: the \
                     plan is dropped",
                ));
            }
            first.end = Some(RunEnd::Failed(error.leaving(Leftover::Plan)));
        }
        Err(error) => first.end = Some(RunEnd::Failed(error)),
    }
    first
}

struct Attempt<'a> {
    job: &'a LockedJob,
    context: &'a Context,
    plan: &'a UnlockedPlan,
    wait: Wait,
    began: Uptime,
    /// The same, to compare with what others wrote.
    began_at: Timestamp,
    cadence: Cadence,
    watch: WaitWatch,
    first: FirstTry,
    /// Whether Terraform was started.
    has_read: bool,
    /// Whether it has ended by itself.
    has_planned: bool,
    /// The file of the plan as it was then.
    plan_file_before: Option<FileMark>,
}

/// Tells a file that was written from one that was not: inode, size, and when it was changed.
type FileMark = (u64, u64, i64, i64);

fn mark(plan: &UnlockedPlan) -> Option<FileMark> {
    let it = plan.plan_file.as_ref()?.symlink_metadata().ok()?;
    Some((it.ino(), it.size(), it.ctime(), it.ctime_nsec()))
}

impl Attempt<'_> {
    /// # Errors
    /// What ends every wait; and where the wait is over, or nobody can tell afterwards whether the state
    /// has changed.
    async fn run(&mut self, event_loop: &mut EventLoop) -> Result<Option<RunEnd>, Error> {
        let locks = self.open(event_loop).await?;
        let mut read =
            OptimisticRead::new(locks.len(), uptime(), self.wait.give_up_at, Jitter(new_seed()));
        let (mut event, mut at, mut ended) = (Event::Tick, 0, None);
        loop {
            let action = read.step(uptime(), event);
            // A plan under the lock is nobody to wait for.
            let awaited = read.writer().filter(|_| matches!(action, Action::Wait));
            self.watch.observe(uptime(), awaited);
            let answer = match action {
                Action::Wait => {
                    self.tell_of(event_loop, &locks[at].lock, read.writer());
                    event_loop.pause(read.deadline().unwrap_or_else(uptime)).await?;
                    Ok(Event::Tick)
                }
                Action::LookAtLock(register) => {
                    at = register;
                    self.holder(event_loop, &locks[at]).await.map(Event::Lock)
                }
                Action::LookAtVersion => self.version(event_loop).await.map(Event::Version),
                Action::Read => {
                    if !self.is_still_right(event_loop)? {
                        return Ok(None);
                    }
                    match self.read(event_loop).await? {
                        Ok(child) => {
                            self.has_planned = true;
                            ended = Some(child);
                        }
                        Err(end) => return Ok(Some(end)),
                    }
                    if fail_point::is_off("second-look") {
                        return Ok(keep(event_loop, ended).await);
                    }
                    Ok(Event::Ended)
                }
                Action::Done(ReadOutcome::OneMoment) => return Ok(keep(event_loop, ended).await),
                Action::Done(ReadOutcome::Writer(writer)) => {
                    self.replan(event_loop, &locks[at].lock, Some(writer)).await?;
                    return Ok(None);
                }
                Action::Done(ReadOutcome::Changed) => {
                    self.replan(event_loop, &locks[at].lock, None).await?;
                    return Ok(None);
                }
                Action::Done(ReadOutcome::NoVersion) => {
                    let why = format!("`{}` has no version", self.plan.state.url());
                    event_loop.say(under_the_lock(&why));
                    return Ok(None);
                }
                Action::Done(ReadOutcome::Silent) => {
                    let why = "its holder shows no sign of life, and only who waits for the lock may \
                               take it over";
                    event_loop.say(under_the_lock(why));
                    return Ok(None);
                }
                Action::Done(ReadOutcome::TimedOut(writer)) => {
                    let lock = &self.job.targets[at];
                    let error =
                        messages::still_writing(lock, &writer, self.wait.limit, locks.len() > 1);
                    self.first.holder = Some(writer);
                    return Err(error);
                }
            };
            event = match answer {
                Ok(event) => event,
                // Whoever may take the lock need not be allowed to look at it first.
                Err(Error::Store { lock, source: source @ StoreError::Denied(_) }) => {
                    if self.has_planned {
                        self.drop_plan(event_loop);
                        event_loop.say(said::unproven(&lock, &source));
                    } else {
                        event_loop.say(under_the_lock(&source.to_string()));
                    }
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
        }
    }

    /// Opens the registers of the lock, in the order in which Terraform takes them.
    async fn open(&self, event_loop: &mut EventLoop) -> Result<Vec<LockRegister>, Error> {
        let mut locks = Vec::new();
        for target in &self.job.targets {
            let register = LockRegister::open(target).await?;
            prepare::credentials(event_loop, target, &register.store).await?;
            locks.push(register);
        }
        Ok(locks)
    }

    /// How long a store may be silent: while somebody is waited for, as long as that.
    fn patience(&self) -> Duration {
        let left = self.wait.give_up_at.since(uptime());
        if self.first.holder.is_some() && !self.has_read { left.max(PATIENCE) } else { PATIENCE }
    }

    async fn holder(
        &self,
        event_loop: &mut EventLoop,
        lock: &LockRegister,
    ) -> Result<Option<Sighting>, Error> {
        let stored = store_requests::read(event_loop, lock, self.patience()).await?;
        Ok(stored.map(|Stored { record, .. }| Sighting {
            holder: Holder::of(&record),
            lease: record.lease.as_deref().and_then(Lease::parse),
        }))
    }

    async fn version(&self, event_loop: &mut EventLoop) -> Result<Option<StateVersion>, Error> {
        let state = &self.plan.state;
        let request = || StoreRequest::Version(state.clone());
        let answer = |reply| match reply {
            StoreReply::Version(version) => Some(version),
            _ => None,
        };
        let url = state.url();
        let asked = store_requests::ask(event_loop, &url, self.patience(), request, answer).await?;
        asked.map_err(|source| Error::Store { lock: url, source })
    }

    fn tell_of(&mut self, event_loop: &EventLoop, lock: &str, writer: Option<&Holder>) {
        let Some(writer) = writer else { return };
        let is_another = self.first.holder.as_ref() != Some(writer);
        if is_another {
            self.first.holder = Some(writer.clone());
        }
        if self.cadence.is_due(uptime(), is_another) {
            event_loop.say(Notice::Waiting {
                lock: lock.to_owned(),
                holder: writer.info().cloned().map(Box::new),
                waited: uptime().since(self.began),
                limit: self.wait.limit,
                free: false,
                ahead: None,
                plans_ahead: None,
                silent: None,
                unanswered: None,
                estimate: None,
            });
        }
    }

    /// Whether what was resolved before the wait still is what Terraform will use. The lock sees to it
    /// otherwise.
    fn is_still_right(&self, event_loop: &EventLoop) -> Result<bool, Error> {
        let Some((change, _)) = fresh::change(self.job, self.context)? else { return Ok(true) };
        event_loop.say(under_the_lock(&format!("meanwhile, {change}")));
        Ok(false)
    }

    /// Lets Terraform plan. What it says on stdout is kept until it is known to be of one moment, unless
    /// a person reads it.
    async fn read(&mut self, event_loop: &mut EventLoop) -> Result<Result<Planned, RunEnd>, Error> {
        event_loop.reporter.settle(SETTLING);
        self.first.waited = uptime().since(self.began);
        self.has_read = true;
        self.plan_file_before = mark(self.plan);
        let said = if self.context.is_on_terminal {
            None
        } else {
            Some(supervise::nameless_file(&self.context.state_dir)?)
        };
        let internal = |error: io::Error| Error::Internal(format!("no descriptor: {error}"));
        if let Some(said) = &said {
            // A child that opens `/dev/stdout` once more has an offset of its own.
            fcntl_setfl(said, OFlags::APPEND).map_err(|error| internal(error.into()))?;
        }
        let stdout = said.as_ref().map(File::try_clone).transpose().map_err(internal)?;
        let (job, context) = (self.job, self.context);
        let end = super::start(event_loop, job, context, &[], self.wait.give_up_at, stdout).await;
        match end {
            RunEnd::Child(child) if !child.heard_stop && !child.lost => {
                Ok(Ok(Planned { end: RunEnd::Child(child), said }))
            }
            // It has planned all the same, and nobody looks whether it is of one moment.
            RunEnd::Child(child) if !child.lost && has_planned(child.status, job) => {
                let signal = event_loop.run.stopped_by().unwrap_or(StopSignal::Interrupt);
                Err(Error::interrupted(signal))
            }
            // Nor whether that is what there is of it, or of the state that was meant.
            end => {
                let is_removed = remove_plan_file(event_loop, self.plan, self.plan_file_before);
                let file = self.plan.plan_file.as_deref().filter(|_| is_removed);
                let is_output = said.is_some_and(|it| it.metadata().is_ok_and(|it| it.len() > 0));
                if let Some(notice) = said::dropped(is_output, file) {
                    event_loop.say(notice);
                }
                Ok(Err(end))
            }
        }
    }

    /// The plan is worth nothing: says why. It is made again under the lock.
    async fn replan(
        &mut self,
        event_loop: &mut EventLoop,
        lock: &str,
        writer: Option<Holder>,
    ) -> Result<(), Error> {
        // Before anything else: whoever ends us now leaves none.
        self.drop_plan(event_loop);
        let last = match writer {
            Some(_) => None,
            None => outdated::last_to_write(event_loop, self.job, self.began_at).await?,
        };
        event_loop.say(said::replanned(lock, writer.as_ref(), last.as_deref()));
        if writer.is_some() {
            self.first.holder = writer;
        }
        Ok(())
    }

    fn drop_plan(&mut self, event_loop: &EventLoop) {
        remove_plan_file(event_loop, self.plan, self.plan_file_before);
        self.first.replanned = true;
    }
}

/// A plan that was made, and what Terraform said of it on stdout, where that was kept.
struct Planned {
    end: RunEnd,
    said: Option<File>,
}

fn has_planned(status: ChildStatus, job: &LockedJob) -> bool {
    let code = exit_code::of_child(status);
    code == 0 || (code == 2 && job.two_is_success)
}

/// Why Terraform may be started once only: it may ask for what it can read once, or nobody sees; or not all that
/// it says can be kept.
fn needs_one_try(context: &Context, plan: &UnlockedPlan) -> Option<&'static str> {
    if !context.is_on_terminal && context.files_are_limited {
        return Some(
            "the size of files is limited (`ulimit -f`), and so is what can be kept of stdout",
        );
    }
    if !plan.may_ask
        || context.env.get("TF_INPUT").is_some_and(|it| go_bool(it.as_bytes()) == Some(false))
    {
        return None;
    }
    match context.stdin {
        Stdin::Terminal if !context.is_on_terminal => {
            Some("Terraform may ask for a value, which nobody would see in what is kept of stdout")
        }
        Stdin::Data => Some("what stdin has for Terraform can be read only once"),
        Stdin::Open => Some(
            "stdin is open and may still have something for Terraform, which can be read only once \
             (`-input=false` rules that out)",
        ),
        Stdin::Terminal | Stdin::Nothing => None,
    }
}

fn under_the_lock(why: &str) -> Notice {
    Notice::Detail { message: format!("planning under the lock: {why}") }
}

/// The plan is what the run was for.
async fn keep(event_loop: &mut EventLoop, planned: Option<Planned>) -> Option<RunEnd> {
    let Planned { end, said } = planned?;
    Some(print(event_loop, end, said).await)
}

/// Passes on what was kept; returns how the run ended. A stop is for whoever does not read it: all else is
/// done.
async fn print(event_loop: &mut EventLoop, end: RunEnd, said: Option<File>) -> RunEnd {
    let Some(said) = said else { return end };
    event_loop.send(StoreRequest::Print(said));
    let mut stopped: Option<(StopSignal, Uptime)> = None;
    loop {
        match event_loop.next(stopped.map(|(_, until)| until), None).await {
            LoopEvent::Reply(StoreReply::Printed(printed)) => {
                // Terraform itself does not mind.
                if let Err(error) = Error::expect_answered(printed) {
                    event_loop.say(Notice::warning(error.to_string()));
                }
                return end;
            }
            LoopEvent::Due => {
                let signal = stopped.map_or(StopSignal::Interrupt, |(signal, _)| signal);
                return RunEnd::Failed(Error::interrupted(signal).leaving(Leftover::Output));
            }
            happening => {
                let stop = happening.stop().map(|signal| (signal, uptime().plus(LAST_WORDS)));
                stopped = stopped.or(stop);
            }
        }
    }
}

/// Removes a plan that may be of half an apply, so that nobody applies it; not one of before. Returns
/// whether there was one.
fn remove_plan_file(event_loop: &EventLoop, plan: &UnlockedPlan, before: Option<FileMark>) -> bool {
    let Some(path) = &plan.plan_file else { return false };
    let is_there = Path::symlink_metadata(path).is_ok_and(|it| it.is_file());
    if !is_there || mark(plan) == before {
        return false;
    }
    let removed = std::fs::remove_file(path);
    if let Err(error) = &removed {
        event_loop.say(said::plan_stays(path, error));
    }
    removed.is_ok()
}
