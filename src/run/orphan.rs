//! Ends a run for a tfwrap that cannot: its guardian does this, or `recover`.
//!
//! Heartbeats for the locks continue. The child gets its one interrupt if it has had none, is
//! waited for, and is killed when its time has run out. Then the locks are released. For a lock
//! that an outer run or a `hold` holds, heartbeats also continue as long as the child lives: its
//! holder may be gone, or cut off.

mod child;
mod leave;
mod openings;

use std::path::Path;
use std::time::Duration;

pub(crate) use child::Ended;
pub(crate) use leave::{Leave, take_leave};
use openings::Openings;

use super::custody::{Case, CaseTenure};
use super::event_loop::EventLoop;
use super::inheritors::Inheritors;
use super::kept::Kept;
use super::store_requests::{self, LockRegister};
use super::{dependents, door, release, waiters};
use crate::backend::{self, Backend, BackendQuery, aws_from_env};
use crate::clock::{uptime, wall};
use crate::env::Env;
use crate::error::Error;
use crate::guardian::Head;
use crate::lock::landing::{self, LANDING, Landing, LandingOutcome};
use crate::lock::release::ReleaseOutcome;
use crate::lock::tenure::Tenure;
use crate::lock::{Holder, Uptime};
use crate::receipt::{Entry, Receipt};
use crate::report::Notice;
use crate::store::Stored;
use crate::target::{LockTarget, StoreSpec};

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    /// What could not be given back, and may still be held.
    pub(crate) left: Vec<Entry>,
    /// How many locks were given back.
    pub(crate) released: usize,
    /// What became of the child.
    pub(crate) child: Ended,
}

/// Ends the run of this case; what the child was asked is in `head`. With `is_left_at_last`, a
/// child that survives even SIGKILL is not waited for without end.
pub(crate) async fn adopt(
    event_loop: &mut EventLoop,
    head: &Head,
    case: &Case,
    env: &Env,
    is_left_at_last: bool,
) -> Adopted {
    let mut adopted = Adopted::default();
    let (landed, mut landing) = (uptime().plus(LANDING), Vec::new());
    let mut by_kernel = Vec::new();
    let mut openings = Openings::default();
    let dir = case.file.as_deref().and_then(Path::parent).map(Path::to_owned);
    dependents::go_on(event_loop, head, &case.receipt);
    let mut ids = case.receipt.own_ids();
    // A hold has no child of its own, but others may run under its locks.
    let is_used = head.child.is_some()
        || dir.as_deref().is_some_and(|dir| !dependents::close(event_loop, dir, &ids));
    for entry in &case.receipt.locks {
        let tenure = case.tenures.iter().find(|tenure| tenure.is_of(&entry.target, &entry.id));
        if entry.inherited {
            if let Some(tenure) = tenure.filter(|_| head.child.is_some()) {
                openings.add(entry, tenure, head, &case.receipt, env);
            }
            continue;
        }
        let is_lent = head.files.iter().any(|file| file.id == entry.id.0 && !file.door);
        match tenure {
            // Never asked for.
            None => {}
            // The kernel has ended it with the last who had it.
            Some(_) if entry.target.is_kept_by_kernel() && !is_lent => by_kernel.push(entry),
            // Nobody needs it while it is given back.
            Some(tenure) if tenure.granted && !is_lent && !is_used => {
                let until = if tenure.unanswered { landed } else { uptime() };
                landing.push((entry, tenure, until));
            }
            Some(tenure) if tenure.granted => {
                if tenure.unanswered {
                    landing.push((entry, tenure, landed));
                }
                openings.add(entry, tenure, head, &case.receipt, env);
            }
            Some(tenure) => landing.push((entry, tenure, landed)),
        }
    }
    adopted.child = child::end(event_loop, head, case, &mut openings, is_left_at_last).await;
    if adopted.child != Ended::Gone {
        // Nobody beats for them any more, and nobody but whoever ends the child gives them back.
        event_loop.kept.clear();
        adopted.left = case.receipt.own().cloned().collect();
        return adopted;
    }
    adopted.left = openings.finish(event_loop).await;
    // Nothing of ours is under these any more. A beat that is still out meets its own version, or
    // is refused.
    event_loop.kept.retain(|kept| !kept.tenure.is_inherited());
    event_loop.forget_news();
    event_loop.custody.leave_all();
    give_back(event_loop, dir.as_deref(), &case.receipt, &mut adopted).await;
    for entry in case.receipt.own() {
        waiters::forget_dead(&entry.target, dir.as_deref(), Some(&entry.id)).await;
    }
    for (entry, tenure, until) in landing {
        // It stays in the receipt, whatever lands.
        if adopted.left.contains(entry) {
            continue;
        }
        match catch(event_loop, (entry, tenure), &case.receipt, env, until).await {
            Ok(Caught::Released) => adopted.released += 1,
            Ok(Caught::Nothing) => {}
            // Said already.
            Ok(Caught::Left) => adopted.left.push(entry.clone()),
            Err(error) => {
                cannot_open(event_loop, entry, &error);
                adopted.left.push(entry.clone());
            }
        }
    }
    for entry in by_kernel {
        match Inheritors::of_held(event_loop, entry).await {
            Ok(None) => continue,
            Ok(Some(by)) => {
                let lock = entry.target.url();
                let message =
                    format!("the lock `{lock}` (ID {}) is still held: {}", entry.id, by.told());
                event_loop.say(Notice::warning(message).with_hint(by.end()));
            }
            Err(error) => cannot_open(event_loop, entry, &error),
        }
        adopted.left.push(entry.clone());
    }
    if let Some(dir) = &dir {
        ids.retain(|id| !adopted.left.iter().any(|left| left.id == *id));
        for id in &ids {
            door::remove(dir, id);
        }
    }
    adopted
}

/// Gives back what is kept and notes what was not.
async fn give_back(
    event_loop: &mut EventLoop,
    dir: Option<&Path>,
    receipt: &Receipt,
    adopted: &mut Adopted,
) {
    // A local state may have another name by now, and the halves of a pair have one ID.
    let entry_of = |kept: &Kept| {
        let is_it = |it: &&Entry| it.id == *kept.id() && it.target.is_alike(&kept.target);
        receipt.locks.iter().find(is_it).cloned()
    };
    let kept: Vec<_> = event_loop.kept.iter().map(entry_of).collect();
    let outcomes = release::all(event_loop, dir, true).await;
    // The last taken is given back first.
    for (entry, outcome) in kept.into_iter().rev().zip(outcomes) {
        match outcome {
            ReleaseOutcome::Released => adopted.released += 1,
            ReleaseOutcome::AlreadyGone | ReleaseOutcome::TakenOver(_) => {}
            ReleaseOutcome::Unconfirmed(_) => adopted.left.extend(entry),
        }
    }
}

fn cannot_open(event_loop: &EventLoop, entry: &Entry, error: &Error) {
    let finish = || {
        let command = entry.target.unlock_command(&entry.id);
        format!("if it is still held, finish with: {command}")
    };
    event_loop.say(
        Notice::warning(format!("the lock `{}` (ID {}): {error}", entry.target.url(), entry.id))
            .with_hint((!entry.inherited).then(finish)),
    );
}

/// The target with what is not in receipts: keys and tokens, from where they came from.
pub(crate) fn complete(entry: &Entry, receipt: &Receipt, env: &Env) -> LockTarget {
    let mut target = entry.target.clone();
    let (aws, objects) = match &mut target.store {
        StoreSpec::DynamoDb { aws, .. } => (aws, None),
        StoreSpec::S3 { aws, objects, .. } => (aws, Some(objects)),
        StoreSpec::File { .. } | StoreSpec::LocalState { .. } => return target,
    };
    let request = BackendQuery { allow_hcl_fallback: true, ..BackendQuery::new(&receipt.dir, env) };
    // Without the directory the environment has to do.
    let of_backend = match backend::resolve(&request).map(|resolved| resolved.backend) {
        Ok(Backend::S3(backend)) if entry.target.of_backend => Some(backend),
        _ => None,
    };
    let of_backend = of_backend
        .filter(|fresh| fresh.aws.region == aws.region && fresh.aws.endpoints == aws.endpoints);
    if let Some(objects) = objects {
        objects.complete(of_backend.as_ref().map(|fresh| &fresh.objects), env);
    }
    let fresh = match of_backend {
        Some(fresh) => Some(fresh.aws),
        None => aws_from_env(env, &receipt.dir, aws.region.as_deref()).ok(),
    };
    if let Some(fresh) = fresh {
        aws.complete(fresh);
    }
    target
}

/// What a look for a lock came to.
enum Caught {
    Nothing,
    Released,
    /// It is there, and could not be given back.
    Left,
}

/// Looks for a lock that a request nobody saw the answer of may still create, and removes it; where
/// several such requests are out, each time that one has.
async fn catch(
    event_loop: &mut EventLoop,
    (entry, known): (&Entry, &CaseTenure),
    receipt: &Receipt,
    env: &Env,
    until: Uptime,
) -> Result<Caught, Error> {
    let target = complete(entry, receipt, env);
    let register = LockRegister::open(&target).await?;
    let mut landing = Landing::new(entry.id.clone(), until, known.unanswered, uptime());
    let mut event = landing::Event::Tick;
    loop {
        event = match landing.step(uptime(), event) {
            landing::Action::Look => landing::Event::Looked(
                match store_requests::read(event_loop, &register, Duration::ZERO).await {
                    Ok(stored) => Ok(stored),
                    Err(Error::Store { source, .. }) => Err(source),
                    Err(other) => return Err(other),
                },
            ),
            landing::Action::Wait => {
                event_loop.pause(landing.deadline().unwrap_or_else(uptime)).await?;
                landing::Event::Tick
            }
            landing::Action::Release(stored) => {
                let since = uptime().minus(age(&stored));
                let tenure = Tenure::unleased(entry.id.clone(), Some(stored.version))
                    .after_a_remove(known.removed);
                event_loop.keep(Kept::new(target.clone(), register.store.clone(), since, tenure));
                let outcomes = release::all(event_loop, None, true).await;
                if outcomes.iter().any(|it| matches!(it, ReleaseOutcome::Unconfirmed(_))) {
                    return Ok(Caught::Left);
                }
                landing::Event::Released
            }
            landing::Action::Done(LandingOutcome::Nothing) => return Ok(Caught::Nothing),
            landing::Action::Done(LandingOutcome::Released) => return Ok(Caught::Released),
            landing::Action::Done(LandingOutcome::Unseen(source)) => {
                return Err(Error::Store { lock: register.lock, source });
            }
        };
    }
}

/// How long ago the lock was taken, as its record says; for people only.
fn age(stored: &Stored) -> Duration {
    let holder = Holder::of(&stored.record);
    let created = holder.info().and_then(|info| info.created.parse::<jiff::Timestamp>().ok());
    let age = created.map(|created| wall().duration_since(created));
    age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
