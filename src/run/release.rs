//! Releases the locks one after the other, whatever happened before.

use std::path::Path;
use std::time::Duration;

use super::dependents;
use super::door;
use super::event_loop::{EventLoop, LoopEvent};
use super::kept::Kept;
use super::messages::{late, loss, not_given_back};
use super::waiters;
use crate::clock::uptime;
#[cfg(debug_assertions)]
use crate::duration;
use crate::lock::release::{PATIENCE, ReleaseOutcome};
use crate::lock::tenure::TenureEnd;
use crate::report::Notice;
use crate::supervise::locked_run;

/// Releases all that is held, the last taken first; where others may run under it, only after
/// them. Signals that come meanwhile are heard and change nothing: the release has a limit of its
/// own. The others beat on until their turn.
pub(super) async fn all(
    event_loop: &mut EventLoop,
    dependents_in: Option<&Path>,
    worth_saying: bool,
) -> Vec<ReleaseOutcome> {
    let mut outcomes = Vec::new();
    if let Some(dir) = dependents_in {
        event_loop.run.await_dependents();
        dependents::wait(event_loop, dir).await;
    }
    let receipt = event_loop.custody.file();
    let dir = dependents_in.or_else(|| receipt.as_ref()?.path().parent());
    for kept in event_loop.kept.iter().filter(|kept| !kept.tenure.is_inherited()) {
        waiters::forget_dead(&kept.target, dir, None).await;
    }
    event_loop.run.release();
    while event_loop.release_last(patience()) {
        let end = one(event_loop).await;
        let Some(kept) = event_loop.kept.pop() else { break };
        let outcome = match end {
            TenureEnd::Inherited => {
                event_loop.custody.forget(&kept.target, kept.id());
                continue;
            }
            // Said when it was found.
            TenureEnd::Lost(Some(stored)) => ReleaseOutcome::TakenOver(stored),
            TenureEnd::Lost(None) => ReleaseOutcome::AlreadyGone,
            TenureEnd::Released(outcome) => {
                tell(event_loop, &kept, &outcome, worth_saying);
                outcome
            }
        };
        let is_open = matches!(outcome, ReleaseOutcome::Unconfirmed(_));
        if let Some(dir) = dependents_in.filter(|_| !is_open) {
            door::remove(dir, kept.id());
        }
        if kept.left_open.is_some() {
            event_loop.custody.may_return(&kept.target, kept.id());
        } else if !is_open {
            event_loop.custody.forget(&kept.target, kept.id());
        }
        outcomes.push(outcome);
    }
    // News of locks that were kept is no news of locks to come.
    event_loop.forget_news();
    event_loop.run.released();
    outcomes
}

/// Waits for the end of the release that has begun.
async fn one(event_loop: &mut EventLoop) -> TenureEnd {
    loop {
        let happening = event_loop.next(None, None).await;
        for action in event_loop.decide_on(&happening) {
            if let (locked_run::Action::ReleaseFirst(signal), Some(kept)) =
                (action, event_loop.kept.last())
            {
                event_loop.say(Notice::Stopping {
                    signal: signal.signal().as_str().to_owned(),
                    doing: format!("the lock `{}` is released first", kept.target.url()),
                });
            }
        }
        if let LoopEvent::Released(end) = happening {
            return end;
        }
    }
}

/// For how long a release is retried; tests, which cannot wait a minute, set another limit.
fn patience() -> Duration {
    #[cfg(debug_assertions)]
    {
        #[expect(clippy::disallowed_methods, reason = "in test builds only")]
        let wanted = std::env::var("TFWRAP_RELEASE_PATIENCE").ok();
        if let Some(patience) = wanted.and_then(|wanted| duration::parse(&wanted).ok()) {
            return patience;
        }
    }
    PATIENCE
}

fn tell(event_loop: &EventLoop, kept: &Kept, outcome: &ReleaseOutcome, worth_saying: bool) {
    let lock = kept.target.url();
    let id = kept.id();
    match outcome {
        ReleaseOutcome::Released => {
            event_loop.say(Notice::Released {
                lock: lock.clone(),
                id: id.0.clone(),
                held: uptime().since(kept.since),
                worth_saying,
            });
            if let Some(how) = kept.left_open {
                event_loop.say(late(&kept.target, id, how));
            }
        }
        ReleaseOutcome::AlreadyGone => event_loop.say(loss(kept, None)),
        ReleaseOutcome::TakenOver(stored) => event_loop.say(loss(kept, Some(stored))),
        ReleaseOutcome::Unconfirmed(error) => {
            event_loop.say(not_given_back(&kept.target, id, error));
        }
    }
}
