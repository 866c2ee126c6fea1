//! Giving the locks back, whatever happened before: drives [`Release`] for one after the other.

use std::path::Path;
use std::time::Duration;

use super::acquire::Grant;
use super::dependents;
use super::door;
use super::event_loop::{EventLoop, Kept, LoopEvent, Reply, StoreRequest};
use super::messages::{describe, late};
use crate::clock::uptime;
#[cfg(debug_assertions)]
use crate::duration;
use crate::identity::new_seed;
use crate::lock::jitter::Jitter;
use crate::lock::release::{Action, Event, Release, ReleaseOutcome};
use crate::lock::{Holder, LockId};
use crate::report::Notice;
use crate::store::Stored;

/// How often is looked whether a beat is still out.
const BUSY_POLL: Duration = Duration::from_millis(20);

/// Gives all that is held back, the last taken first; where others may run under it, only after
/// them. Signals that come meanwhile are heard and
/// change nothing: the release has a limit of its own. The others beat on until their turn.
pub(super) async fn all(
    event_loop: &mut EventLoop,
    dependents_in: Option<&Path>,
    worth_saying: bool,
) -> Vec<ReleaseOutcome> {
    let mut outcomes = Vec::new();
    if let Some(dir) = dependents_in {
        dependents::wait(event_loop, dir).await;
    }
    loop {
        // Bounded by the patience with the one request that is out.
        if let Some(kept) = event_loop.kept.last_mut() {
            kept.end();
        }
        while event_loop.kept.last().is_some_and(Kept::is_busy) {
            // An answered beat alone is nothing that happens.
            let _ = event_loop.next(Some(uptime().plus(BUSY_POLL)), None).await;
        }
        let Some(Kept { mut grant, keeper, inherited, .. }) = event_loop.kept.pop() else {
            // News of locks that were kept is no news of locks to come.
            event_loop.forget_news();
            return outcomes;
        };
        if inherited && keeper.as_ref().is_none_or(|keeper| keeper.lost_to().is_none()) {
            event_loop.custody.forget(&grant.id);
            continue;
        }
        if let Some(keeper) = keeper {
            // Said when it was found; nothing of whoever has it now is touched.
            if let Some(current) = keeper.lost_to() {
                if let Some(dir) = dependents_in {
                    door::remove(dir, &grant.id);
                }
                outcomes.push(match current {
                    Some(stored) => ReleaseOutcome::TakenOver(stored.clone()),
                    None => ReleaseOutcome::AlreadyGone,
                });
                event_loop.custody.forget(&grant.id);
                continue;
            }
            grant.version = keeper.version().cloned();
        }
        let outcome = one(event_loop, &grant).await;
        tell(event_loop, &grant, &outcome, worth_saying);
        if let (Some(dir), false) =
            (dependents_in, matches!(outcome, ReleaseOutcome::Unconfirmed(_)))
        {
            door::remove(dir, &grant.id);
        }
        if grant.left_open.is_some() {
            event_loop.custody.may_return(&grant.id);
        } else if !matches!(outcome, ReleaseOutcome::Unconfirmed(_)) {
            event_loop.custody.forget(&grant.id);
        }
        outcomes.push(outcome);
    }
}

async fn one(event_loop: &mut EventLoop, grant: &Grant) -> ReleaseOutcome {
    let now = uptime();
    let mut machine =
        Release::new(grant.id.clone(), grant.version.clone(), now, Jitter(new_seed()));
    if let Some(patience) = patience() {
        machine = machine.for_at_most(patience, now);
    }
    let mut action = machine.step(now, Event::Start);
    loop {
        match action {
            Action::Done(outcome) => return outcome,
            Action::Remove(version) => {
                let (store, key) = (grant.store.clone(), grant.target.key.clone());
                event_loop.send(StoreRequest::Remove(store, key, version));
            }
            Action::Look => {
                event_loop.send(StoreRequest::Read(grant.store.clone(), grant.target.key.clone()));
            }
            Action::Wait => {}
        }
        let event = match event_loop.next(machine.deadline(), None).await {
            LoopEvent::Reply(Reply::Removed(reply)) => Event::Removed(reply),
            LoopEvent::Reply(Reply::Read(reply)) => Event::Looked(reply),
            other => {
                if let Some(signal) = other.stop() {
                    event_loop.say(Notice::Stopping {
                        signal: signal.signal().as_str().to_owned(),
                        doing: format!("the lock `{}` is given back first", grant.target.url()),
                    });
                }
                Event::Tick
            }
        };
        action = machine.step(uptime(), event);
    }
}

/// Another limit for tests, which cannot wait a minute; none in a release build.
fn patience() -> Option<Duration> {
    #[cfg(debug_assertions)]
    {
        #[expect(clippy::disallowed_methods, reason = "in test builds only")]
        let wanted = std::env::var("TFWRAP_RELEASE_PATIENCE").ok()?;
        duration::parse(&wanted).ok()
    }
    #[cfg(not(debug_assertions))]
    None
}

fn tell(event_loop: &EventLoop, grant: &Grant, outcome: &ReleaseOutcome, worth_saying: bool) {
    let lock = grant.target.url();
    let id = &grant.id;
    let command = grant.target.unlock_command(id);
    match outcome {
        ReleaseOutcome::Released => {
            event_loop.say(Notice::Released {
                lock: lock.clone(),
                id: id.0.clone(),
                held: uptime().since(grant.since),
                worth_saying,
            });
            if let Some(how) = grant.left_open {
                event_loop.say(late(&grant.target, id, how));
            }
        }
        ReleaseOutcome::AlreadyGone => event_loop.say(loss(&lock, id, None)),
        ReleaseOutcome::TakenOver(stored) => event_loop.say(loss(&lock, id, Some(stored))),
        ReleaseOutcome::Unconfirmed(error) => event_loop.say(Notice::Error {
            message: format!("the lock `{lock}` could not be given back (ID {id}): {error}"),
            hint: Some(format!("finish with: {command}")),
            code: crate::exit_code::NOT_RELEASED,
        }),
    }
}

/// That a lock was lost, and to whom.
pub(super) fn loss(lock: &str, id: &LockId, current: Option<&Stored>) -> Notice {
    let Some(stored) = current else {
        return Notice::Warning {
            message: format!(
                "the lock `{lock}` was lost: someone removed it while it was ours (ID {id})"
            ),
            hint: Some(
                "another run may have used the state meanwhile: check it with `terraform plan`"
                    .to_owned(),
            ),
        };
    };
    let holder = describe(&Holder::of(&stored.record));
    Notice::Warning {
        message: format!(
            "the lock `{lock}` was lost while it was ours (ID {id}): now {holder}; it is left as \
             it is"
        ),
        hint: Some("two runs may have used the state: check it with `terraform plan`".to_owned()),
    }
}
