//! Holds that no receipt here tells of: the directory was wiped or cannot be read, or it is not the
//! one of the hold. Whether the lock is still held stands in its register.

use std::time::Duration;

use super::ReleaseCall;
use crate::clock::uptime;
use crate::error::Error;
use crate::held::Held;
use crate::lock::{Holder, LockId};
use crate::report::{Notice, clean};
use crate::run::store_requests::{self, LockRegister};
use crate::run::{EventLoop, hold};
use crate::state_dir;
use crate::subcommand::recover::{self, Recovery};
use crate::target::LockTarget;

/// In what time a keeper notices that its receipt was removed, and writes it anew.
const REWRITTEN: Duration = Duration::from_secs(3);

/// What a store that does not answer is asked for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks for the receipt.
const LOOK: Duration = Duration::from_millis(200);

/// A lock that is held, as its register says.
pub(super) struct Unknown {
    lock: String,
    id: LockId,
    /// In what way it is held.
    how: String,
}

/// The locks that are still held for us by a hold without a receipt.
pub(super) async fn look(
    event_loop: &mut EventLoop,
    asked: &ReleaseCall<'_>,
    id: Option<&str>,
) -> Result<Vec<Unknown>, Error> {
    let held = Held::from_env(asked.recovery.env);
    let told: Vec<_> = held.locks().filter(|(_, it)| id.is_none_or(|id| it.0 == id)).collect();
    let missing = || -> Vec<_> {
        let known = known(asked.recovery);
        told.iter().filter(|(_, id)| !known.contains(id)).copied().collect()
    };
    let mut unknown = Vec::new();
    for (lock, id) in missing() {
        if let Some(how) = holder(event_loop, asked, lock, id).await? {
            unknown.push(Unknown { lock: lock.to_owned(), id: id.clone(), how });
        }
    }
    let until = uptime().plus(REWRITTEN);
    while !unknown.is_empty() && uptime() < until {
        let missing = missing();
        unknown.retain(|it| missing.iter().any(|(_, id)| **id == it.id));
        event_loop.pause(uptime().plus(LOOK)).await?;
    }
    Ok(unknown)
}

/// The IDs in the receipts that are here.
fn known(recovery: &Recovery<'_>) -> Vec<LockId> {
    // Without the directory none is known.
    let files = recover::receipts(recovery, "hold").unwrap_or_default();
    let receipts = files.into_iter().filter_map(|file| file.read().ok());
    receipts.flat_map(|receipt| receipt.locks).map(|entry| entry.id).collect()
}

/// The receipts that are here and cannot be read, with why. One of them may be the one that is meant.
fn unreadable(recovery: &Recovery<'_>) -> Vec<String> {
    let files = recover::receipts(recovery, "hold").unwrap_or_default().into_iter();
    let unread = files.filter_map(|file| match file.read() {
        // Its run has just ended.
        Err(_) if !file.path().exists() => None,
        read => read.err().map(|why| format!("`{}`: {why}", file.path().display())),
    });
    unread.collect()
}

/// How the lock is held, if a hold does under this ID.
async fn holder(
    event_loop: &mut EventLoop,
    asked: &ReleaseCall<'_>,
    lock: &str,
    id: &LockId,
) -> Result<Option<String>, Error> {
    let of_here = asked.targets.iter().find(|target| target.url() == lock).cloned();
    let target = of_here.or_else(|| {
        let dir = asked.recovery.env.get_os("PWD").unwrap_or_default();
        LockTarget::of_name(lock, asked.recovery.env, dir.as_ref())
    });
    let read = match target {
        Some(target) => match target.open().await {
            Ok(store) => {
                let (lock, key) = (lock.to_owned(), target.key.clone());
                store_requests::read(event_loop, &LockRegister { lock, store, key }, PATIENCE).await
            }
            Err(source) => Err(Error::Store { lock: lock.to_owned(), source }),
        },
        None => Err(Error::Internal("tfwrap does not know here where it is".to_owned())),
    };
    let may_be_ours =
        || !state_dir::path(asked.recovery.env).is_dir() || !unreadable(asked.recovery).is_empty();
    match read {
        Ok(stored) => Ok(stored.and_then(|stored| {
            let holder = Holder::of(&stored.record);
            let Some(info) = holder.info() else {
                return may_be_ours()
                    .then(|| "is still held, who holds it cannot be read".to_owned());
            };
            // A `run` gives back what it holds by itself.
            let is_ours = info.id == *id && info.operation == hold::OPERATION;
            is_ours.then(|| format!("is still held by {}", clean(&info.who)))
        })),
        Err(error @ Error::Interrupted { .. }) => Err(error),
        Err(error) if may_be_ours() => Ok(Some(format!("may still be held ({error})"))),
        // It may have been given back long ago.
        Err(error) => {
            event_loop.say(Notice::warning(format!(
                "cannot tell whether the lock `{lock}` (ID {id}) is still held: {error}"
            )));
            Ok(None)
        }
    }
}

/// The error that says what is still held, and how to end it.
pub(super) fn left(unknown: &[Unknown], recovery: &Recovery<'_>) -> Error {
    let dir = state_dir::path(recovery.env);
    let held = unknown.iter().map(|Unknown { lock, id, how }| format!("`{lock}` (ID {id}) {how}"));
    let mut ids: Vec<_> = unknown.iter().map(|it| format!("`tfwrap unlock {}`", it.id)).collect();
    // Both halves of a pair go by one ID.
    ids.dedup();
    let why = match unreadable(recovery) {
        why if why.is_empty() => String::new(),
        why => format!(" ({})", clean(&why.join(", "))),
    };
    Error::LeftBehind {
        message: format!(
            "{}, and no receipt of that hold can be read in `{}`{why}",
            held.collect::<Vec<_>>().join(", "),
            dir.display()
        ),
        hint: Some(format!(
            "name the directory of the hold with `TFWRAP_STATE_DIR`; if it is lost, send SIGTERM \
             to the keeper, the process that `ps -C lock-keeper` shows; if there is none: {}",
            ids.join(", ")
        )),
    }
}
