//! Whether a newer run was applied already, so that ours would go back behind it.
//!
//! Its rules: `docs/protocol.md#outdated-runs`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::context::{Acquired, Context};
use super::event_loop::{EventLoop, LoopEvent};
use super::history::{self, HistoryRegister, LockRequest, Provenance};
use super::request::{StoreReply, StoreRequest};
use super::store_requests::{self, LockRegister};
use crate::clock::uptime;
use crate::duration;
use crate::error::Error;
use crate::git::{self, AncestryQuery};
use crate::job::LockedJob;
use crate::lock::history::{History, PastRun, Pipeline, cut};
use crate::lock::{APPLY_OPERATION, LockInfo};
use crate::program;
use crate::report::{Notice, clean, operation_words};
use crate::settings::OnOutdated;
use crate::target::LockTarget;

/// How long git may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long whoever saw the state change waits for the entry of the run that did it. That waits for a second
/// itself.
const ENTRY_COMES: Duration = Duration::from_millis(1500);

/// How long an apply that was waited for may take after the grant to write that it is over: its store may be
/// slow, and an older commit applied over its own is worse than a wait.
const APPLY_COMES: Duration = Duration::from_secs(10);

/// After how long that is said, as of a store that does not answer.
const IS_SAID: Duration = Duration::from_secs(2);

/// Between two looks for that.
const AGAIN: Duration = Duration::from_millis(100);

/// The same once it is said.
const AGAIN_LATER: Duration = Duration::from_millis(500);

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

/// Why it is not known whether a run is outdated, and what helps.
struct Unknown {
    why: String,
    hint: Option<&'static str>,
}

impl Unknown {
    fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), hint: None }
    }

    fn hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }
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
    let because = match compare(event_loop, job, context, acquired).await? {
        Ok(None) => return Ok(None),
        Ok(Some(because)) => because,
        Err(Unknown { why, hint }) => {
            let warning = Notice::warning(format!(
                "`--outdated {}` cannot tell whether this run is outdated, and it goes on: {why}",
                on_outdated.as_str()
            ));
            event_loop.say(warning.with_hint(hint.map(str::to_owned)));
            return Ok(None);
        }
    };
    let message = format!("outdated, Terraform is not started: {because}");
    match on_outdated {
        OnOutdated::Fail => Err(Error::Outdated { message, hint: Some(HINT.to_owned()) }),
        OnOutdated::Run | OnOutdated::Skip => Ok(Some(message)),
    }
}

/// In words, which newer run it was that made ours outdated, if any did.
async fn compare(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    acquired: &Acquired,
) -> Result<Result<Option<String>, Unknown>, Error> {
    let (last, missing) = match last_applied(event_loop, job, context, acquired).await? {
        Ok(found) => found,
        Err(unknown) => return Ok(Err(unknown)),
    };
    let known = match last {
        Some(last) => outdated_by(event_loop, job, context, &last).await?,
        None => Ok(None),
    };
    // What is missing came after that: it changes nothing for a run that is outdated already.
    Ok(match (known, missing) {
        (Ok(None), Some(missing)) => Err(missing),
        (known, _) => known,
    })
}

/// The last run that applied anything to this state, as far as the history tells; and that one is missing in it
/// that came later.
async fn last_applied(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    acquired: &Acquired,
) -> Result<Result<(Option<PastRun>, Option<Unknown>), Unknown>, Error> {
    let unknown = |why: String| Ok(Err(Unknown::because(why)));
    if context.provenance.is_none() {
        let origin = &context.planner.settings.no_history.origin;
        return unknown(format!("the history is switched off by {origin}"));
    }
    // Of a pair the second half.
    let locks = LockTarget::locks(&job.targets).filter_map(<[_]>::last);
    let Some(lock) = locks.into_iter().find(|target| target.of_backend) else {
        return unknown("Terraform locks the state itself, and so no history is kept".to_owned());
    };
    let lock = lock.url();
    let Some(request) = acquired.requests.iter().find(|it| it.target.url() == lock) else {
        return unknown(format!("no history is kept of `{lock}`"));
    };
    let (history, missing) = match awaited(event_loop, request).await? {
        Ok(found) => found,
        Err(why) => return unknown(format!("the history of `{lock}` cannot be read: {why}")),
    };
    Ok(match history.last_applied() {
        Ok(last) => Ok((last, missing)),
        Err(why) => Err(Unknown::because(format!("the history of `{lock}` cannot be read: {why}"))
            .hint(
                "what is damaged is begun anew with the entry of this run; if a newer commit was applied \
                 before it, apply that one again",
            )),
    })
}

/// The history, with the entry of the apply that we waited for; or why that is missing. It gives the lock back
/// first, and then writes.
async fn awaited(
    event_loop: &mut EventLoop,
    request: &LockRequest,
) -> Result<Result<(History, Option<Unknown>), String>, Error> {
    let (began, lock) = (uptime(), request.target.url());
    // One that died writes nothing.
    let patience = if request.took_over { Duration::ZERO } else { APPLY_COMES };
    let until = began.plus(patience);
    let mut is_said = false;
    loop {
        let history = read(event_loop, &request.target, &request.register).await?;
        let is_there = |info: &&LockInfo| {
            let id = cut(&info.id.0, 64);
            history.as_ref().is_ok_and(|it| it.runs().flatten().any(|run| run.id == id))
        };
        let Some(missing) = request.applying.as_ref().filter(|info| !is_there(info)) else {
            return Ok(history.map(|history| (history, None)));
        };
        let now = uptime();
        if now >= until {
            let why = format!(
                "the apply by {} (ID {}), which had the lock before, is not in the history of `{lock}`",
                clean(&missing.who),
                clean(&missing.id.0)
            );
            let unknown = Unknown::because(why).hint(
                "if that was a newer commit, apply it again after this one; `tfwrap history` shows what was \
                 applied",
            );
            return Ok(history.map(|history| (history, Some(unknown))));
        }
        if !is_said && now.since(began) >= IS_SAID {
            is_said = true;
            let message = format!(
                "waiting up to {} until the apply by {} is in the history of `{lock}`",
                duration::in_seconds(patience),
                clean(&missing.who)
            );
            event_loop.say(Notice::Note { message });
        }
        let again = if is_said { AGAIN_LATER } else { AGAIN };
        event_loop.pause(now.plus(again).min(until)).await?;
    }
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

async fn outdated_by(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    last: &PastRun,
) -> Result<Result<Option<String>, Unknown>, Error> {
    let from = context.provenance.clone().unwrap_or_default();
    // What is checked out may have changed during the wait.
    let ours = Provenance { commit: git::head(&job.dir).or(from.commit), ..from };
    if ours.commit.is_some() && ours.commit == last.commit {
        return Ok(Ok(None));
    }
    let newer = whose(last);
    let unknown = match (&ours.commit, &last.commit) {
        (Some(older), Some(commit)) => {
            let mut answer = is_ancestor(event_loop, job, context, older, commit).await?;
            if answer == Ok(true) {
                let (older, commit) = (short(older), short(commit));
                return Ok(Ok(Some(format!("commit {older} comes before commit {commit}, {newer}"))));
            }
            if answer.is_ok() {
                answer = is_ancestor(event_loop, job, context, commit, older).await?;
            }
            match answer {
                // Then it is not, whatever the number of its run.
                Ok(true) => return Ok(Ok(None)),
                Ok(false) => None,
                Err(why) => Some(
                    Unknown::because(format!("git cannot tell which commit is newer: {why}")).hint(
                        "`git` has to be on PATH, and both commits in the repository: `git fetch \
                         --unshallow` completes a shallow clone",
                    ),
                ),
            }
        }
        (None, _) => Some(
            Unknown::because("it is not known which commit is checked out").hint(
                "call it in the work tree of a git repository whose references are files (`git refs migrate \
                 --ref-format=files`), or where the CI names commit and run",
            ),
        ),
        (Some(_), None) => Some(
            Unknown::because(format!("it is not known of which commit that run is, {newer}"))
                .hint("if that was a newer commit, apply it again after this one"),
        ),
    };
    let numbers = ours.pipeline.as_ref().zip(last.pipeline.as_ref());
    let Some((older, pipeline)) = numbers.filter(|(ours, last)| ours.is_that_of(last)) else {
        return Ok(unknown.map_or(Ok(None), Err));
    };
    if let Some(Unknown { why, .. }) = unknown {
        event_loop.say(Notice::Detail { message: why });
    }
    Ok(Ok(older.is_before(pipeline).then(|| {
        let commit = last.commit.as_deref().map_or_else(
            || "an unknown commit".to_owned(),
            |commit| format!("commit {}", short(commit)),
        );
        let numbers = format!("run {} comes before run {}", older.number, pipeline.number);
        format!("{numbers} of {} with {commit}, {newer}", name_of(pipeline))
    })))
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
