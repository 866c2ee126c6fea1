//! A locked run: acquire, supervise, release. The only `select!` that decides is in [`event_loop`];
//! nothing between acquire and release returns early.

mod acquire;
mod below;
pub(crate) mod child_process;
mod conclude;
mod context;
pub(crate) mod custody;
pub(crate) mod dependents;
mod door;
mod event_loop;
mod fail_point;
mod fresh;
pub(crate) mod here;
mod history;
pub(crate) mod hold;
mod inherit;
mod inheritors;
mod kept;
mod late_change;
mod led_elsewhere;
mod messages;
mod optimistic;
pub(crate) mod orphan;
mod outage;
mod outdated;
pub(crate) mod planner;
mod prepare;
mod release;
mod request;
mod sibling_lock;
pub(crate) mod standstill;
pub(crate) mod store_requests;
mod supervise;
mod take_all;
mod telemetry;
mod waiters;
mod workspace;

use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

pub(crate) use acquire::LockInfoTemplate;
use acquire::Wait;
use conclude::{RunEnd, RunReport};
use context::Acquired;
pub(crate) use context::{Context, Stdin};
pub(crate) use event_loop::EventLoop;
use futures_util::FutureExt;
pub(crate) use history::Provenance;
use kept::Kept;
use late_change::ChangeWatch;
pub(crate) use messages::after_the_wait;
use optimistic::FirstTry;
pub(crate) use supervise::of_spawn;
use telemetry::RunTimes;

use crate::clock::{uptime, wall};
use crate::error::{Error, Leftover};
use crate::held;
use crate::job::{ChildCommand, LockedJob, PASSED_ON, without_locks};
use crate::lock::release::ReleaseOutcome;
use crate::lock::{LockId, Uptime};
use crate::report::Notice;
use crate::supervise::LockedRun;
use crate::telemetry::TRACEPARENT;

/// Runs the child under its locks and returns the exit code. Everything that was taken is given
/// back before this returns.
pub(crate) async fn locked(
    event_loop: &mut EventLoop,
    mut job: LockedJob,
    context: &Context,
) -> u8 {
    event_loop.custody.outlives_loss = !context.lost_is_fatal;
    event_loop.run = LockedRun::new(context.lost_is_fatal);
    let (began, asked) = (uptime(), wall());
    let limit = job.lock_timeout.value;
    let wait = Wait { give_up_at: began.plus(limit), limit };
    let first = AssertUnwindSafe(optimistic::first_try(event_loop, &job, context, wait));
    let first = first.catch_unwind().await.unwrap_or_else(|_| FirstTry::panicked());
    // Without a lock, that is when the wait was over.
    let over_without = first.end.is_some().then(|| began.plus(first.waited));
    // How long Terraform has planned is no part of the wait.
    let started = uptime().minus(first.waited);
    let wait = Wait { give_up_at: started.plus(limit), limit };
    let mut acquired = Acquired::after(first.holder, first.behind);
    let acquiring = async {
        match first.end {
            Some(end) => Ok(Some(end)),
            None => take_all::take_all(event_loop, &mut job, context, wait, &mut acquired)
                .await
                .map(|()| None),
        }
    };
    let acquiring = AssertUnwindSafe(acquiring).catch_unwind().await;
    let waited = if over_without.is_some() { first.waited } else { uptime().since(started) };
    let since = uptime();
    let id = event_loop.kept.last().map(|kept| kept.id().0.clone());
    let got_all = matches!(acquiring, Ok(Ok(None)));
    let mut end = match acquiring {
        Ok(Ok(Some(end))) => end,
        Ok(Ok(None)) => run_child(event_loop, &job, context, &acquired, wait).await,
        Ok(Err(error)) => RunEnd::Failed(error),
        Err(_) => RunEnd::Panicked,
    };
    event_loop.abandon();
    let ended = over_without.unwrap_or_else(uptime);
    let dependents_in = job.kind.is_around_commands().then_some(context.state_dir.as_path());
    let mut releases = acquired.left;
    releases.extend(release::all(event_loop, dependents_in, end.is_worth_saying()).await);
    let over = uptime();
    if let RunEnd::Failed(Error::Interrupted { leftover, .. }) = &mut end
        && releases.iter().any(|it| matches!(it, ReleaseOutcome::Unconfirmed(_)))
    {
        *leftover = Leftover::Lock;
    }
    for notice in event_loop.custody.finish() {
        event_loop.say(notice);
    }
    let granted = got_all.then_some(since);
    let report = RunReport {
        end,
        releases,
        asked,
        waited,
        held: id.as_ref().map_or(Duration::ZERO, |_| over.since(since)),
        id,
        holder: acquired.holder,
        contended: acquired.contended,
        behind: acquired.behind,
        ahead: acquired.ahead,
        replanned: first.replanned,
    };
    let (code, outcome) = conclude::conclude(event_loop, &job, context, &report);
    let end = history::End { outcome, code, over };
    let run = RunTimes { started: began, asked, granted, ended, end };
    let spans = telemetry::send(&job, context, &run, report.holder.as_ref());
    let history = history::write(event_loop, &job, context, &acquired.requests, end);
    let (unsent, ()) = tokio::join!(spans, history);
    telemetry::say(event_loop, unsent);
    code
}

/// Starts the child under the locks, unless it is outdated, and sees it to its end, whatever happens.
async fn run_child(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    acquired: &Acquired,
    wait: Wait,
) -> RunEnd {
    let check = AssertUnwindSafe(outdated::check(event_loop, job, context, acquired));
    match check.catch_unwind().await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(newer))) => return RunEnd::Outdated(newer),
        Ok(Err(error)) => return RunEnd::Failed(error),
        Err(_) => return RunEnd::Panicked,
    }
    announce(event_loop, context);
    event_loop.reads_ahead = history::reads_ahead(job, context, &acquired.requests);
    start(event_loop, job, context, &acquired.inherited, wait.give_up_at, None).await
}

/// Starts the child, with this stdout if not ours, and sees it to its end.
async fn start(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    inherited: &[LockId],
    give_up_at: Uptime,
    stdout: Option<File>,
) -> RunEnd {
    let child = child_command(event_loop, job, inherited, context, give_up_at);
    if job.kind.is_around_commands() && event_loop.may_be_suspended() {
        // A tfwrap below goes by what is declared, and may stand still before our first heartbeat.
        event_loop.declare_leases();
    }
    // The child's handle lives out here: after a panic it is still there to be ended.
    let mut slot = None;
    let watch = ChangeWatch::over(job, context);
    if let Some(notice) = watch.as_ref().and_then(ChangeWatch::blindness) {
        event_loop.say(notice);
    }
    let ran = supervise::run(event_loop, (&child, stdout), context, watch, &mut slot);
    match AssertUnwindSafe(ran).catch_unwind().await {
        Ok(Ok(ended)) => RunEnd::Child(ended),
        Ok(Err(error)) => RunEnd::Failed(error),
        Err(_) => {
            if let Some(child) = &mut slot {
                supervise::last_resort(child).await;
                event_loop.reporter.unshare(true);
            }
            RunEnd::Panicked
        }
    }
}

/// Tells GitHub and GitLab the lock's ID before the child starts, so that a later step has it
/// whatever happens.
fn announce(event_loop: &EventLoop, context: &Context) {
    let Some(kept) = event_loop.kept.last() else { return };
    let id = &kept.id().0;
    if let Some(Err(error)) = context.files.as_ref().map(|files| files.write_lock_id(id)) {
        event_loop.say(Notice::warning(error.to_string()).with_hint(error.hint()));
    }
    if let Some(Err(error)) = context.dotenv.as_ref().map(|dotenv| dotenv.write_lock_id(id)) {
        event_loop.say(Notice::warning(error.to_string()).with_hint(error.hint()));
    }
}

/// The child with what it has to know: which locks are held for it.
fn child_command(
    event_loop: &EventLoop,
    job: &LockedJob,
    inherited: &[LockId],
    context: &Context,
    give_up_at: Uptime,
) -> ChildCommand {
    let mut child = job.child.clone();
    if let Some(native) = &job.native {
        child.args = native.argv_with_lock_timeout(give_up_at.since(uptime()));
        if let Ok(dir) = planner::working_dir() {
            let told = without_locks(&child.args, &dir);
            child.env.push((PASSED_ON.into(), told));
        }
    }
    if let Some(telemetry) = &context.telemetry {
        child.env.push((TRACEPARENT.into(), telemetry.of_child().into()));
    }
    let mut held = context.held.clone();
    for kept in &event_loop.kept {
        held.add(kept.target.url(), kept.id().clone());
    }
    if !job.kind.is_around_commands() {
        // A Terraform started by this Terraform (a provisioner) must not take our lock for leave
        // to write the same state beside it.
        let ours = event_loop.kept.iter().map(Kept::id);
        ours.chain(inherited).for_each(|id| held.forget_id(id));
    }
    child.env.push((held::VARIABLE.into(), held.to_value().into()));
    child
}
