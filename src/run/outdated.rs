//! Whether a newer run was applied already, so that ours would go back behind it.
//!
//! Its rules: `docs/protocol.md#outdated-runs`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::context::{Acquired, Context};
use super::event_loop::{EventLoop, LoopEvent};
use super::history::{self, HistoryRegister, Provenance};
use super::request::{StoreReply, StoreRequest};
use super::store_requests::{self, LockRegister};
use crate::clock::uptime;
use crate::error::Error;
use crate::git::{self, AncestryQuery};
use crate::job::LockedJob;
use crate::lock::history::{History, PastRun, Pipeline, cut};
use crate::lock::{APPLY_OPERATION, Holder};
use crate::program;
use crate::report::{Notice, clean, operation_words};
use crate::settings::OnOutdated;
use crate::target::LockTarget;

/// How long git may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long after the grant the run that we waited for may take to write that it is over. It waits for a
/// second itself.
const ENTRY_COMES: Duration = Duration::from_millis(1500);

/// Between two looks for that.
const AGAIN: Duration = Duration::from_millis(100);

/// What to do about it.
const HINT: &str = "to go back on purpose, revert the newer commits and apply that; `--outdated run` applies \
                    this one as it is";

/// Whether this job is compared with others by the history of this lock. That of a lock of `--lock` tells of
/// other states, too.
pub(super) fn is_compared(job: &LockedJob, target: &LockTarget) -> bool {
    is_apply(job) && target.of_backend && target.has_history()
}

/// A `run` and a `hold` leave it to each apply in them.
fn is_apply(job: &LockedJob) -> bool {
    !job.kind.is_around_commands() && job.operation == APPLY_OPERATION
}

/// Looks once the locks are ours, and before anything is started. What is not known is no reason to stop.
///
/// # Returns
/// With `--outdated skip`, what to say instead of running.
///
/// # Errors
/// With `--outdated fail`; and what ends every wait.
pub(super) async fn check(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    acquired: &Acquired,
) -> Result<Option<String>, Error> {
    let on_outdated = context.on_outdated;
    if on_outdated == OnOutdated::Run || !is_apply(job) {
        return Ok(None);
    }
    let last = match last_applied(event_loop, job, context, acquired).await? {
        Ok(last) => last,
        Err(why) => {
            event_loop.say(Notice::warning(format!(
                "`--outdated {}` cannot tell whether this run is outdated, and it goes on: {why}",
                on_outdated.as_str()
            )));
            return Ok(None);
        }
    };
    let Some(last) = last else { return Ok(None) };
    let Some(because) = outdated_by(event_loop, job, context, &last).await? else {
        return Ok(None);
    };
    let message = format!("outdated, Terraform is not started: {because}");
    match on_outdated {
        OnOutdated::Fail => Err(Error::Outdated { message, hint: Some(HINT.to_owned()) }),
        OnOutdated::Run | OnOutdated::Skip => Ok(Some(message)),
    }
}

/// The last run that applied anything to this state; in words why that is not known.
async fn last_applied(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    acquired: &Acquired,
) -> Result<Result<Option<PastRun>, String>, Error> {
    if context.provenance.is_none() {
        let origin = &context.planner.settings.no_history.origin;
        return Ok(Err(format!("the history is switched off by {origin}")));
    }
    // Of a pair the second half.
    let locks = LockTarget::locks(&job.targets).filter_map(<[_]>::last);
    let Some(lock) = locks.into_iter().find(|target| target.of_backend) else {
        return Ok(Err("Terraform locks the state itself, and so no history is kept".to_owned()));
    };
    let lock = lock.url();
    let Some(request) = acquired.requests.iter().find(|it| it.target.url() == lock) else {
        return Ok(Err(format!("no history is kept of `{lock}`")));
    };
    let until = uptime().plus(ENTRY_COMES);
    loop {
        let history = match read(event_loop, &request.target, &request.register).await? {
            Ok(history) => history,
            Err(why) => return Ok(Err(format!("the history of `{lock}` cannot be read: {why}"))),
        };
        // It gives the lock back first.
        if is_to_come(acquired.holder.as_ref(), &history) && uptime() < until {
            event_loop.pause(uptime().plus(AGAIN)).await?;
            continue;
        }
        let last = history.last_applied();
        return Ok(last.map_err(|why| format!("the history of `{lock}` cannot be read: {why}")));
    }
}

/// Whether an apply that we waited for has not yet written that it is over. One by stock Terraform never will.
fn is_to_come(holder: Option<&Holder>, history: &History) -> bool {
    let awaited = holder.and_then(Holder::info).filter(|info| info.operation == APPLY_OPERATION);
    awaited.is_some_and(|info| {
        let id = cut(&info.id.0, 64);
        !history.runs().flatten().any(|run| run.id == id)
    })
}

/// In words, who has written the state last, if that was after `since` by its own clock; for whoever saw
/// it change. Nothing where no history tells.
///
/// # Errors
/// What ends every wait.
pub(super) async fn last_to_write(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    since: Timestamp,
) -> Result<Option<String>, Error> {
    let Some(target) = job.targets.iter().rfind(|it| it.of_backend) else { return Ok(None) };
    // Who wrote is worth a word, and no more.
    let Ok(Some(register)) = history::open(target).await else { return Ok(None) };
    let until = uptime().plus(ENTRY_COMES);
    loop {
        let Ok(history) = read(event_loop, target, &register).await? else { return Ok(None) };
        let wrote = |run: &PastRun| run.operation != job.operation && run.held.is_some();
        let last = history.runs().flatten().find(wrote);
        match last.filter(|run| over(run).is_some_and(|at| at >= since)) {
            Some(run) => {
                let what = operation_words(&run.operation);
                return Ok(Some(format!("{} ended {what}{}", who_of(&run), end_of(&run))));
            }
            // It gives the lock back first.
            None if uptime() < until => event_loop.pause(uptime().plus(AGAIN)).await?,
            None => return Ok(None),
        }
    }
}

async fn read(
    event_loop: &mut EventLoop,
    target: &LockTarget,
    register: &HistoryRegister,
) -> Result<Result<History, String>, Error> {
    let HistoryRegister { store, key } = register.clone();
    let register = LockRegister { lock: target.url(), store, key };
    match store_requests::read(event_loop, &register, Duration::ZERO).await {
        Ok(stored) => {
            let history = History::of(stored.as_ref().map(|it| &it.record));
            Ok(history.map_err(|why| why.to_string()))
        }
        Err(Error::Store { source, .. }) => Ok(Err(source.to_string())),
        Err(error) => Err(error),
    }
}

/// In words, which newer run it was that made ours outdated.
async fn outdated_by(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    last: &PastRun,
) -> Result<Option<String>, Error> {
    let from = context.provenance.clone().unwrap_or_default();
    // What is checked out may have changed during the wait.
    let ours = Provenance { commit: git::head(&job.dir).or(from.commit), ..from };
    if ours.commit.is_some() && ours.commit == last.commit {
        return Ok(None);
    }
    let newer = whose(last);
    if let (Some(older), Some(commit)) = (&ours.commit, &last.commit) {
        match is_ancestor(event_loop, job, context, older, commit).await? {
            Ok(true) => {
                let (older, commit) = (short(older), short(commit));
                return Ok(Some(format!("commit {older} comes before commit {commit}, {newer}")));
            }
            // Then it is not, whatever the number of its run.
            Ok(false)
                if is_ancestor(event_loop, job, context, commit, older).await? == Ok(true) =>
            {
                return Ok(None);
            }
            Ok(false) => {}
            Err(why) => event_loop.say(Notice::Detail {
                message: format!("git cannot tell which commit is newer: {why}"),
            }),
        }
    }
    Ok(match (&ours.pipeline, &last.pipeline) {
        (Some(older), Some(pipeline)) if older.is_before(pipeline) => {
            let commit = last.commit.as_deref().map_or_else(
                || "an unknown commit".to_owned(),
                |commit| format!("commit {}", short(commit)),
            );
            let numbers = format!("run {} comes before run {}", older.number, pipeline.number);
            Some(format!("{numbers} of {} with {commit}, {newer}", name_of(pipeline)))
        }
        _ => None,
    })
}

async fn is_ancestor(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    older: &str,
    newer: &str,
) -> Result<Result<bool, String>, Error> {
    let git = match program::search("git".as_ref(), &context.env, None) {
        Ok(git) => git,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let (older, newer) = (older.to_owned(), newer.to_owned());
    let query = AncestryQuery { git, dir: job.dir.clone(), older, newer };
    let until = uptime().plus(PATIENCE);
    event_loop.send(StoreRequest::Ancestry(query));
    loop {
        match event_loop.idle(Some(until)).await? {
            LoopEvent::Reply(StoreReply::Ancestry(answer)) => return Ok(answer),
            LoopEvent::Due if uptime() >= until => {
                event_loop.abandon();
                return Ok(Err(format!("no answer within {PATIENCE:?}")));
            }
            _ => {}
        }
    }
}

/// Who applied it, when, and the link.
fn whose(run: &PastRun) -> String {
    format!("which {} has applied{}", who_of(run), end_of(run))
}

fn who_of(run: &PastRun) -> String {
    clean(run.actor.as_deref().filter(|it| !it.is_empty()).unwrap_or(&run.who))
}

/// When it was over, by its own clock: it gave the lock back then.
fn over(run: &PastRun) -> Option<Timestamp> {
    let took = Duration::from_millis(run.waited.saturating_add(run.held.unwrap_or_default()));
    let asked = Timestamp::from_millisecond(run.asked).ok()?;
    asked.checked_add(SignedDuration::try_from(took).ok()?).ok()
}

/// The same in words, with the link.
fn end_of(run: &PastRun) -> String {
    let over = over(run).map(|at| at.strftime(" at %Y-%m-%dT%H:%M:%SZ").to_string());
    let link = if run.info.is_empty() { String::new() } else { format!(": {}", clean(&run.info)) };
    format!("{}{link}", over.unwrap_or_default())
}

fn name_of(pipeline: &Pipeline) -> String {
    let Pipeline { repository, workflow, reference, .. } = pipeline;
    let parts = [repository, workflow, reference].map(|part| clean(part));
    let parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect();
    parts.join(", ")
}

/// As git shortens it.
fn short(commit: &str) -> String {
    clean(commit).chars().take(7).collect()
}
