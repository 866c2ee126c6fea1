//! Reads and removes locks that are not ours, for the commands that do so: one request at a time. A
//! signal ends every wait except the wait for a write.

use std::sync::Arc;
use std::time::Duration;

use super::event_loop::{EventLoop, LoopEvent};
use super::messages::{answers_again, out_of_reach, store_answers_again};
use super::outage::{Access, Outage};
use super::request::{StoreReply, StoreRequest};
use crate::clock::uptime;
use crate::error::Error;
use crate::lock::acquire::FIRST_CONTACT;
use crate::lock::register::{RecordVersion, RemoveReply, Reply, Request, StoreError, Stored};
use crate::lock::{LockKey, Uptime};
use crate::store::{RegisterPage, Registers, Survey, Surveyed};
use crate::target::LockTarget;

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

impl LockRegister {
    /// Opens the store of this lock. Nothing remote is touched.
    ///
    /// # Errors
    /// When the configuration of the client cannot work.
    pub(crate) async fn open(target: &LockTarget) -> Result<Self, Error> {
        let lock = target.url();
        match target.open().await {
            Ok(store) => Ok(Self { lock, store, key: target.key.clone() }),
            Err(source) => Err(Error::Store { lock, source }),
        }
    }
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
    ask(event_loop, &register.lock, patience, request, read).await?.map_err(failed)
}

/// Reads a page of all that the store of a lock keeps.
pub(crate) async fn list(
    event_loop: &mut EventLoop,
    register: &LockRegister,
    from: Option<String>,
    patience: Duration,
) -> Result<RegisterPage, Error> {
    let request = || StoreRequest::List(register.store.clone(), from.clone());
    let listed = |reply| match reply {
        StoreReply::Listed(answer) => Some(answer),
        _ => None,
    };
    let failed = |source| Error::Store { lock: register.lock.clone(), source };
    ask(event_loop, &register.lock, patience, request, listed).await?.map_err(failed)
}

/// Asks the store of a lock, or of a state, until it answers, or for so long: one time at least.
pub(super) async fn ask<T>(
    event_loop: &mut EventLoop,
    url: &str,
    patience: Duration,
    request: impl Fn() -> StoreRequest,
    answer: impl Fn(StoreReply) -> Option<Result<T, StoreError>>,
) -> Result<Result<T, StoreError>, Error> {
    let until = uptime().plus(patience);
    let mut outage = Outage::default();
    loop {
        outage.asked(uptime(), Access::Read);
        event_loop.send(request());
        let answered = loop {
            let happening = event_loop.idle(outage.deadline()).await?;
            if outage.is_due(uptime()) && patience > Duration::ZERO {
                event_loop.say(out_of_reach(url, outage.error()));
            }
            if let LoopEvent::Reply(reply) = happening
                && let Some(answered) = answer(reply)
            {
                break answered;
            }
        };
        if let Some(lasted) = outage.answered(uptime(), Access::Read, answered.as_ref().err()) {
            event_loop.say(answers_again(url, lasted));
        }
        match answered {
            Err(error) if error.is_worth_another_try() && uptime() < until => {
                event_loop.pause(uptime().plus(RETRY).min(until)).await?;
            }
            answered => return Ok(answered),
        }
    }
}

/// One that looks at the same stores again and again, and goes on through an outage.
#[derive(Debug, Default)]
pub(crate) struct Patient {
    outage: Outage,
    /// What the last look ended with, if it was no answer.
    failure: Option<(String, StoreError)>,
}

impl Patient {
    /// What a look found that began then; none where the stores do not answer for now, which is said
    /// once, as is the end of it.
    ///
    /// # Errors
    /// Those that do not pass by themselves.
    pub(crate) fn heard<T>(
        &mut self,
        event_loop: &EventLoop,
        began: Uptime,
        found: Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let now = uptime();
        self.outage.asked(began, Access::Read);
        match found {
            Err(Error::Store { lock, source }) if source.is_transient() => {
                if self.outage.is_due(now) {
                    event_loop.say(out_of_reach(&lock, Some(&source)));
                }
                self.outage.answered(now, Access::Read, Some(&source));
                self.failure = Some((lock, source));
                Ok(None)
            }
            found => {
                let found = found?;
                self.failure = None;
                if let Some(lasted) = self.outage.answered(now, Access::Read, None) {
                    event_loop.say(store_answers_again(lasted));
                }
                Ok(Some(found))
            }
        }
    }

    /// Why the last look found nothing out, if it did not.
    pub(crate) fn failure(&self) -> Option<Error> {
        let (lock, source) = self.failure.clone()?;
        Some(Error::Store { lock, source })
    }
}

/// Looks what a table or a bucket is like, or who asks.
pub(crate) async fn survey(event_loop: &mut EventLoop, asked: Survey) -> Result<Surveyed, Error> {
    event_loop.send(StoreRequest::Survey(asked));
    loop {
        if let LoopEvent::Reply(StoreReply::Surveyed(found)) = event_loop.idle(None).await? {
            return Ok(found);
        }
    }
}

/// Gets the credentials of a store, or finds out which conditions it looks at.
pub(crate) async fn prepare(
    event_loop: &mut EventLoop,
    store: &Arc<dyn Registers>,
    with_conditions: bool,
) -> Result<Result<(), StoreError>, Error> {
    event_loop.send(if with_conditions {
        StoreRequest::TryConditions(store.clone())
    } else {
        StoreRequest::Prepare(store.clone())
    });
    loop {
        if let LoopEvent::Reply(StoreReply::Prepared(done)) = event_loop.idle(None).await? {
            return Ok(done);
        }
    }
}

/// Asks a register and waits for the reply, whatever happens. A signal that comes meanwhile is what
/// the caller has to end with, once it has put in order what it began.
pub(crate) async fn settle(
    event_loop: &mut EventLoop,
    register: &LockRegister,
    request: Request,
    stopped: &mut Option<Error>,
) -> Reply {
    let (store, key) = (register.store.clone(), register.key.clone());
    event_loop.send(StoreRequest::Register(store, key, request));
    loop {
        let happening = event_loop.next(None, None).await;
        if let Err(error) = event_loop.handle_idle(&happening) {
            stopped.get_or_insert(error);
        }
        if let LoopEvent::Reply(StoreReply::Register(reply)) = happening {
            return reply;
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
