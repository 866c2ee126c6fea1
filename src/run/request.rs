//! What is asked of stores, and what they answer.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::backend::S3Backend;
use crate::lock::LockKey;
use crate::lock::register::{Reply, Request, StoreError};
use crate::store::{AwsClients, Registers, StateObject, Timeouts, workspace_state};

/// What is asked of a store.
pub(super) enum StoreRequest {
    Register(Arc<dyn Registers>, LockKey, Request),
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

async fn state_object(backend: &S3Backend) -> Result<StateObject, StoreError> {
    let clients = AwsClients::new(&backend.aws, Timeouts::default()).await?;
    let (prefix, key) = (backend.listing_prefix(), backend.state_key());
    workspace_state(&clients, &backend.bucket, &prefix, &key).await
}
