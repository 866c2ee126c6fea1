//! What is asked of stores, and what they answer. And looking at what is not ours, and removing it,
//! for the commands that do: one request at a time, and every wait but that for a write ends with a
//! signal.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::event_loop::{EventLoop, LoopEvent};
use super::fail_point;
use crate::backend::S3Backend;
use crate::clock::uptime;
use crate::error::Error;
use crate::lock::LockKey;
use crate::lock::acquire::FIRST_CONTACT;
use crate::lock::pair::{Half, PairRequest, Step};
use crate::lock::register::{
    Record, RecordVersion, RemoveReply, Reply, Request, StoreError, Stored,
};
use crate::store::{AwsClients, Registers, StateObject, Timeouts, workspace_state};

/// Between two tries, while a store does not answer.
pub(crate) use crate::lock::landing::RETRY;

/// What is asked of a store.
pub(super) enum StoreRequest {
    Register(Arc<dyn Registers>, LockKey, Request),
    /// Both halves of a lock, one after the other.
    Pair(Box<PairRequest>, [(Arc<dyn Registers>, LockKey); 2]),
    State(Box<S3Backend>),
    /// What the other requests need first.
    Prepare(Arc<dyn Registers>),
    /// Which conditions it looks at.
    TryConditions(Arc<dyn Registers>),
    /// A line of stdin.
    Answer,
}

/// What a store answered.
pub(super) enum StoreReply {
    Register(Reply),
    /// And who holds one half each, if two do that share no lock.
    Pair(Reply, Option<Box<[Record; 2]>>),
    State(Result<StateObject, StoreError>),
    Prepared(Result<(), StoreError>),
    Answer(std::io::Result<String>),
}

impl StoreRequest {
    pub(super) fn send(self) -> BoxFuture<'static, StoreReply> {
        match self {
            Self::Register(store, key, request) => {
                register(store, key, request).map(StoreReply::Register).boxed()
            }
            Self::Pair(asked, halves) => pair(*asked, halves).boxed(),
            Self::State(backend) => {
                async move { StoreReply::State(state_object(&backend).await) }.boxed()
            }
            Self::Prepare(store) => {
                async move { StoreReply::Prepared(store.prepare().await) }.boxed()
            }
            Self::TryConditions(store) => {
                async move { StoreReply::Prepared(store.try_conditions().await) }.boxed()
            }
            Self::Answer => async move {
                // A thread of its own: nobody can be made to answer. It does not keep the process.
                let asked = tokio::task::spawn_blocking(|| {
                    let mut line = String::new();
                    std::io::stdin().read_line(&mut line).map(|_| line)
                });
                let answer = asked.await.map_err(std::io::Error::other);
                StoreReply::Answer(answer.and_then(|line| line))
            }
            .boxed(),
        }
    }
}

/// Asks a register.
pub(super) fn register(
    store: Arc<dyn Registers>,
    key: LockKey,
    request: Request,
) -> BoxFuture<'static, Reply> {
    async move {
        match request {
            Request::Write(record, expect) => {
                Reply::Wrote(store.write(&key, &record, &expect).await)
            }
            Request::Read => Reply::Read(store.read(&key).await),
            Request::Remove(version) => Reply::Removed(store.remove(&key, &version).await),
        }
    }
    .boxed()
}

async fn pair(
    mut asked: PairRequest,
    [first, second]: [(Arc<dyn Registers>, LockKey); 2],
) -> StoreReply {
    let mut step = asked.start();
    loop {
        let (half, request) = match step {
            Step::Ask(half, request) => (half, request),
            Step::Done(reply) => {
                return StoreReply::Pair(reply, asked.apart().cloned().map(Box::new));
            }
        };
        fail_point::crash();
        let (store, key) = match half {
            Half::First => &first,
            Half::Second => &second,
        };
        step = asked.answered(register(store.clone(), key.clone(), request).await);
    }
}

async fn state_object(backend: &S3Backend) -> Result<StateObject, StoreError> {
    let clients = AwsClients::new(&backend.aws, Timeouts::default()).await?;
    let (prefix, key) = (backend.listing_prefix(), backend.state_key());
    workspace_state(&clients, &backend.bucket, &prefix, &key).await
}

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
                super::pause(event_loop, uptime().plus(RETRY).min(until)).await?;
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

/// Waits, but for signals.
pub(crate) async fn pause(event_loop: &mut EventLoop, span: Duration) -> Result<(), Error> {
    super::pause(event_loop, uptime().plus(span)).await
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
