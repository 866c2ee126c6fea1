//! Reads and removes locks that are not ours, for the commands that do so: one request at a time. A
//! signal ends every wait except the wait for a write.

use std::sync::Arc;
use std::time::Duration;

use super::event_loop::{EventLoop, LoopEvent};
use super::request::{StoreReply, StoreRequest};
use crate::clock::uptime;
use crate::error::Error;
use crate::lock::LockKey;
use crate::lock::acquire::FIRST_CONTACT;
use crate::lock::register::{RecordVersion, RemoveReply, Reply, Request, StoreError, Stored};
use crate::store::Registers;

/// Between two tries, while a store does not answer.
pub(crate) use crate::lock::landing::RETRY;

/// A register and the lock that it belongs to.
#[derive(Debug, Clone)]
pub(crate) struct LockRegister {
    /// The lock's name, for messages.
    pub(crate) lock: String,
    pub(crate) store: Arc<dyn Registers>,
    pub(crate) key: LockKey,
}

/// How long an answer that does not come is waited for, as at the start of a run.
pub(crate) const PATIENCE: Duration = FIRST_CONTACT;

/// Reads it, for so long as an outage may last.
pub(crate) async fn read(
    event_loop: &mut EventLoop,
    register: &LockRegister,
    patience: Duration,
) -> Result<Option<Stored>, Error> {
    let (store, key) = (&register.store, &register.key);
    let request = || StoreRequest::Register(store.clone(), key.clone(), Request::Read);
    let read = |reply| match reply {
        StoreReply::Register(Reply::Read(answer)) => Some(answer),
        _ => None,
    };
    let failed = |source| Error::Store { lock: register.lock.clone(), source };
    ask(event_loop, patience, request, read).await?.map_err(failed)
}

/// Asks a store until it answers, or for so long: one time at least.
pub(super) async fn ask<T>(
    event_loop: &mut EventLoop,
    patience: Duration,
    request: impl Fn() -> StoreRequest,
    answer: impl Fn(StoreReply) -> Option<Result<T, StoreError>>,
) -> Result<Result<T, StoreError>, Error> {
    let until = uptime().plus(patience);
    loop {
        event_loop.send(request());
        let answered = loop {
            if let LoopEvent::Reply(reply) = event_loop.idle(None).await?
                && let Some(answered) = answer(reply)
            {
                break answered;
            }
        };
        match answered {
            Err(error) if error.is_worth_another_try() && uptime() < until => {
                event_loop.pause(uptime().plus(RETRY).min(until)).await?;
            }
            answered => return Ok(answered),
        }
    }
}

/// Removes this version of it. Signals wait: half a remove helps nobody.
pub(crate) async fn remove(
    event_loop: &mut EventLoop,
    register: &LockRegister,
    version: &RecordVersion,
) -> Result<RemoveReply, StoreError> {
    let (store, key) = (register.store.clone(), register.key.clone());
    event_loop.send(StoreRequest::Register(store, key, Request::Remove(version.clone())));
    loop {
        let happening = event_loop.next(None, None).await;
        if let LoopEvent::Reply(StoreReply::Register(Reply::Removed(reply))) = happening {
            return reply;
        }
    }
}

/// What is typed on stdin; empty where nothing can be.
pub(crate) async fn answer(event_loop: &mut EventLoop) -> Result<String, Error> {
    event_loop.send(StoreRequest::Answer);
    loop {
        if let LoopEvent::Reply(StoreReply::Answer(line)) = event_loop.idle(None).await? {
            return Ok(line.unwrap_or_default());
        }
    }
}
