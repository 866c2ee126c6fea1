//! Compares what was resolved before a wait with what is there after it: the lock that is held must
//! be the lock that is used.
//!
//! Its rules: `docs/protocol.md#what-may-change-while-we-wait`.

use super::context::{Acquired, Context};
use super::event_loop::EventLoop;
use super::release;
use super::store_requests::{self, LockRegister};
use crate::error::Error;
use crate::job::LockedJob;
use crate::lock::release::ReleaseOutcome;
use crate::target::LockTarget;

/// What changed while the locks were waited for, and what there is to do now.
pub(super) fn change(
    job: &LockedJob,
    context: &Context,
) -> Result<Option<(String, LockedJob)>, Error> {
    let now = context.planner.again()?;
    Ok(job.basis.change_to(&now.basis).map(|change| (change, now)))
}

/// Gives all back, to begin anew: nothing is left that would claim a lock of the plan that is no
/// more.
pub(super) async fn give_back(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    acquired: &mut Acquired,
) -> Result<(), Error> {
    acquired.inherited.clear();
    event_loop.custody.leave_all();
    let dependents_in = job.kind.is_around_commands().then_some(context.state_dir.as_path());
    let releases = release::all(event_loop, dependents_in, false).await;
    // What went wrong was said; the end of the run must know only of what may still be ours.
    let left = |outcome: &ReleaseOutcome| matches!(outcome, ReleaseOutcome::Unconfirmed(_));
    acquired.left.extend(releases.into_iter().filter(left));
    event_loop.custody.forget_inherited();
    event_loop.run.stopped_by().map_or(Ok(()), |signal| Err(Error::interrupted(signal)))
}

/// The error of a run that began anew too often.
pub(super) fn never_at_rest(change: &str) -> Error {
    Error::Config {
        message: format!(
            "what Terraform would use keeps changing while tfwrap waits for its lock; now {change}"
        ),
        hint: Some(
            "give each run its own working directory, or its own `TF_DATA_DIR` with the workspace \
             set by `TF_WORKSPACE`"
                .to_owned(),
        ),
    }
}

/// Whether a lock is already ours under another name, or reached with other settings.
pub(super) async fn is_ours(
    event_loop: &mut EventLoop,
    target: &LockTarget,
) -> Result<bool, Error> {
    let register = target.register();
    let own = event_loop.kept.iter().filter(|it| it.target.register().may_be(&register));
    let ids: Vec<_> = own.map(|kept| kept.id().clone()).collect();
    if ids.is_empty() {
        return Ok(false);
    }
    let register = LockRegister::open(target).await?;
    let stored = store_requests::read(event_loop, &register, store_requests::PATIENCE).await?;
    Ok(stored.is_some_and(|stored| ids.iter().any(|id| stored.record.is_held_by(id))))
}
