//! Removing exactly the record that was seen, by its version, through network faults.

use std::time::Duration;

use crate::clock::uptime;
use crate::error::Error;
use crate::run::EventLoop;
use crate::run::store_requests::{self, LockRegister};
use crate::store::{RemoveReply, Stored};

/// How long to try to remove it through network faults.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of it.
pub(super) enum Removal {
    /// It is gone.
    Removed,
    /// Something else is there by now: this, or nothing.
    Changed(Option<Stored>),
    /// The store shows it, and does not remove it.
    Kept,
}

/// Removes what was seen; `follows` says whether a later heartbeat of the same tenure is removed,
/// too.
pub(super) async fn remove(
    event_loop: &mut EventLoop,
    register: &LockRegister,
    seen: &Stored,
    follows: bool,
) -> Result<Removal, Error> {
    let until = uptime().plus(PATIENCE);
    let mut version = seen.version.clone();
    // Whether a remove was sent that may have been applied.
    let mut unknown = false;
    let mut rounds = 0_u32;
    loop {
        rounds += 1;
        let current = match store_requests::remove(event_loop, register, &version).await {
            Ok(RemoveReply::Removed) => return Ok(Removal::Removed),
            Ok(RemoveReply::Conflict(Some(current))) => current,
            Ok(RemoveReply::Conflict(None)) => {
                store_requests::read(event_loop, register, store_requests::PATIENCE).await?
            }
            Err(error) if error.is_transient() && uptime() < until => {
                unknown |= error.outcome_is_unknown();
                event_loop.pause(uptime().plus(store_requests::RETRY)).await?;
                store_requests::read(event_loop, register, store_requests::PATIENCE).await?
            }
            Err(source) => return Err(Error::Store { lock: register.lock.clone(), source }),
        };
        match current {
            // What was seen is gone; whoever took the lock since is none of ours.
            current if unknown && current.as_ref().is_none_or(|it| !is_same_tenure(seen, it)) => {
                return Ok(Removal::Removed);
            }
            Some(current) if follows && is_same_tenure(seen, &current) && uptime() < until => {
                version = current.version;
                // Its holder beat meanwhile: at once the first time.
                if rounds > 1 {
                    event_loop.pause(uptime().plus(store_requests::RETRY)).await?;
                }
            }
            Some(current) if current.version == version => {
                event_loop.pause(uptime().plus(store_requests::RETRY)).await?;
            }
            current => return Ok(Removal::Changed(current)),
        }
        if uptime() >= until {
            return Ok(Removal::Kept);
        }
    }
}

/// A tenure's lock info never changes; its beat does.
pub(super) fn is_same_tenure(seen: &Stored, current: &Stored) -> bool {
    seen.record.info == current.record.info
}
