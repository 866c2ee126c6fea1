//! What a run leaves in the history of each lock that it asked for. It is written when everything else is
//! done: the locks are released, the guardian is dismissed, the end is said. So it delays nobody but the exit
//! of this process, and that by [`BOUND`] at most. What the write starts from is read while the child works
//! ([`ReadsAhead`]).
//!
//! Its rules: `docs/protocol.md#the-history`.

mod ahead;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;

pub(super) use ahead::{HistoryRead, ReadsAhead};

use super::context::Context;
use super::event_loop::{EventLoop, LoopEvent};
use super::outdated;
use super::request::{StoreReply, StoreRequest};
use crate::clock::{uptime, wall};
use crate::identity::new_lock_id;
use crate::job::LockedJob;
use crate::lock::history::{self, Awaited, PastRun, Pipeline, cut, millis};
use crate::lock::{LockId, LockInfo, LockKey, Uptime};
use crate::report::{Notice, RunOutcome};
use crate::settings::OnOutdated;
use crate::store::{Registers, StoreError};
use crate::target::LockTarget;

/// How long the exit waits for the histories of all locks together.
pub(super) const BOUND: Duration = Duration::from_secs(1);

/// Where this run comes from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Provenance {
    pub(crate) actor: Option<String>,
    pub(crate) commit: Option<String>,
    pub(crate) pipeline: Option<Pipeline>,
}

/// One lock that this run asked for.
#[derive(Debug)]
pub(super) struct LockRequest {
    /// The lock; of a pair the second half.
    pub(super) target: LockTarget,
    pub(super) register: HistoryRegister,
    pub(super) id: LockId,
    pub(super) asked: Timestamp,
    pub(super) waited: Duration,
    /// Since when it is ours, if it ever was.
    pub(super) granted: Option<Uptime>,
    pub(super) behind: Vec<Awaited>,
    pub(super) took_over: bool,
    /// The last tfwrap that was seen to apply under it: its entry is to come.
    pub(super) applying: Option<LockInfo>,
    /// Whose lock it is, where we came under that of a `run` or a `hold`.
    pub(super) within: Option<LockId>,
}

/// Where the history of a lock is.
#[derive(Debug, Clone)]
pub(super) struct HistoryRegister {
    pub(super) store: Arc<dyn Registers>,
    pub(super) key: LockKey,
}

impl HistoryRegister {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.store, &other.store) && self.key == other.key
    }
}

/// A run that is to be added to a history.
pub(super) struct Addition {
    pub(super) register: HistoryRegister,
    pub(super) run: PastRun,
    /// What was read of it while the child worked.
    pub(super) ahead: Option<BoxFuture<'static, HistoryRead>>,
}

impl LockRequest {
    /// After an earlier request for the same lock, which was given back since what it was resolved from had
    /// changed: it is one wait.
    fn after(mut self, earlier: Self) -> Self {
        let apart = self.asked.duration_since(earlier.asked);
        self.waited += Duration::try_from(apart).unwrap_or_default();
        self.asked = earlier.asked;
        self.took_over |= earlier.took_over;
        self.applying = self.applying.or(earlier.applying);
        history::add(&mut self.behind, earlier.behind);
        self
    }

    fn past_run(&self, context: &Context, from: &Provenance, end: End) -> PastRun {
        let template = &context.introduction;
        PastRun {
            id: self.id.0.clone(),
            who: cut(&template.who, 60),
            actor: from.actor.clone(),
            operation: cut(&template.operation, 40),
            info: cut(&template.info, 200),
            asked: self.asked.as_millisecond(),
            waited: millis(self.waited),
            held: self.granted.map(|since| millis(end.over.since(since))),
            outcome: end.outcome.as_str().to_owned(),
            code: end.code,
            commit: from.commit.clone(),
            pipeline: from.pipeline.clone(),
            behind: self.behind.clone(),
            took_over: self.took_over,
            within: self.within.as_ref().map(|id| id.0.clone()),
        }
    }
}

/// Remembers that a lock was asked for.
pub(super) fn remember(requests: &mut Vec<LockRequest>, request: LockRequest) {
    let url = request.target.url();
    let earlier = requests.iter().position(|it| it.target.url() == url);
    let request = match earlier {
        Some(index) => request.after(requests.remove(index)),
        None => request,
    };
    requests.push(request);
}

/// How a run ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) outcome: RunOutcome,
    pub(super) code: u8,
    /// When the locks were released.
    pub(super) over: Uptime,
}

/// Those whose history has this run in the end. Of a lock of an earlier plan that the run did without, its
/// outcome says nothing.
fn used<'a>(job: &LockedJob, requests: &'a [LockRequest]) -> impl Iterator<Item = &'a LockRequest> {
    requests.iter().filter(|it| job.targets.iter().any(|target| target.url() == it.target.url()))
}

/// What is read of the histories while the child works.
pub(super) fn reads_ahead(
    job: &LockedJob,
    context: &Context,
    requests: &[LockRequest],
) -> ReadsAhead {
    match context.provenance {
        Some(_) => ReadsAhead::of(used(job, requests)),
        None => ReadsAhead::default(),
    }
}

/// Writes the histories. What comes of it changes nothing, and is said with `-v`; or as a warning, where a later
/// run would compare itself with this one.
pub(super) async fn write(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    requests: &[LockRequest],
    end: End,
) {
    let Some(from) = &context.provenance else { return };
    let used: Vec<_> = used(job, requests).collect();
    if used.is_empty() {
        return;
    }
    let mut addition = |it: &&LockRequest| Addition {
        register: it.register.clone(),
        run: it.past_run(context, from, end),
        ahead: event_loop.reads_ahead.take(&it.register),
    };
    let runs: Vec<_> = used.iter().map(&mut addition).collect();
    let is_missed = |(request, addition): (&&LockRequest, &Addition)| {
        addition.run.has_applied() && outdated::is_compared(job, &request.target)
    };
    let missed: Vec<_> = used.iter().zip(&runs).map(is_missed).collect();
    event_loop.send(StoreRequest::Remember(runs));
    let until = uptime().plus(BOUND);
    let failed = loop {
        let happening = event_loop.next(Some(until), None).await;
        match happening {
            LoopEvent::Reply(StoreReply::Remembered(written)) => break written,
            LoopEvent::Due => break vec![Err(format!("no answer within {BOUND:?}")); used.len()],
            _ if happening.stop().is_some() => {
                break vec![Err("interrupted".to_owned()); used.len()];
            }
            _ => {}
        }
    };
    event_loop.abandon();
    for ((request, written), is_missed) in used.iter().zip(failed).zip(missed) {
        if let Err(why) = written {
            event_loop.say(if is_missed {
                not_written(context.on_outdated, &request.target, &why)
            } else {
                detail(&request.target, &why)
            });
        }
    }
}

/// Remembers an apply that came under the lock of a `run` or a `hold`, which asked for it: what it applied is
/// what others compare themselves with (`super::outdated`).
pub(super) async fn remember_within(
    event_loop: &EventLoop,
    requests: &mut Vec<LockRequest>,
    (target, within): (&LockTarget, LockId),
    on_outdated: OnOutdated,
) {
    let register = match open(target).await {
        Ok(Some(register)) => register,
        Ok(None) => return,
        Err(error) => {
            return event_loop.say(not_written(on_outdated, target, &error.to_string()));
        }
    };
    let request = LockRequest {
        target: target.clone(),
        register,
        // It took none of its own.
        id: new_lock_id(),
        asked: wall(),
        waited: Duration::ZERO,
        granted: Some(uptime()),
        behind: Vec::new(),
        took_over: false,
        applying: None,
        within: Some(within),
    };
    remember(requests, request);
}

pub(super) async fn open(target: &LockTarget) -> Result<Option<HistoryRegister>, StoreError> {
    let store = target.open().await?;
    let line = target.open_line(&store)?;
    Ok(register(target, &line))
}

fn detail(target: &LockTarget, why: &str) -> Notice {
    let lock = target.url();
    Notice::Detail { message: format!("this run is not in the history of `{lock}`: {why}") }
}

/// The same of an apply, which others compare themselves with where anybody does.
fn not_written(on_outdated: OnOutdated, target: &LockTarget, why: &str) -> Notice {
    if on_outdated == OnOutdated::Run {
        return detail(target, why);
    }
    Notice::warning(format!(
        "this run may be missing from the history of `{}`: {why}: without its entry, `--outdated` does not \
         keep an older commit from being applied over it",
        target.url()
    ))
    .with_hint(
        "`tfwrap history` shows whether it is there; if it is not, apply this commit again, so that it is \
         written"
            .to_owned(),
    )
}

/// The register of a lock, whose queue is there; nothing where a record cannot be changed safely, or would be
/// a file that stays in the directory of a local state.
pub(super) fn register(
    target: &LockTarget,
    (store, lock): &(Arc<dyn Registers>, LockKey),
) -> Option<HistoryRegister> {
    let key = history::key(lock);
    target.has_history().then(|| HistoryRegister { store: store.clone(), key })
}
