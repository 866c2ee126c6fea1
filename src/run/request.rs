//! The requests to stores, and their replies.

use std::fs::File;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};

use super::fail_point;
use super::history::{Addition, HistoryRead, HistoryRegister};
use crate::backend::S3Backend;
use crate::git;
use crate::lock::LockKey;
use crate::lock::history::History;
use crate::lock::optimistic_read::StateVersion;
use crate::lock::pair::{Findings, Half, PairRequest, Step};
use crate::lock::register::{Expect, Reply, Request, StoreError, Stored, WriteReply};
use crate::report;
use crate::store::{
    AwsClients, RegisterPage, Registers, StateFile, StateObject, Survey, Surveyed, Timeouts,
    survey, workspace_state,
};

/// What is asked of a store.
pub(super) enum StoreRequest {
    Register(Arc<dyn Registers>, LockKey, Request),
    /// Both halves of a lock, one after the other.
    Pair(Box<PairRequest>, [(Arc<dyn Registers>, LockKey); 2]),
    State(Box<S3Backend>),
    Version(StateFile),
    /// A page of all that it keeps.
    List(Arc<dyn Registers>, Option<String>),
    /// What a table or a bucket is like, or who asks.
    Survey(Survey),
    /// What the other requests need first.
    Prepare(Arc<dyn Registers>),
    /// Which conditions it looks at.
    TryConditions(Arc<dyn Registers>),
    /// A line of stdin.
    Answer,
    /// Passes a text on to stdout.
    Print(File),
    /// Each of these histories has one more run.
    Remember(Vec<Addition>),
    /// Which of two commits is older, of git.
    Ancestry(git::AncestryQuery),
}

/// What a store answered.
pub(super) enum StoreReply {
    Register(Reply),
    Pair(Reply, Box<Findings>),
    State(Result<StateObject, StoreError>),
    Version(Result<Option<StateVersion>, StoreError>),
    Listed(Result<RegisterPage, StoreError>),
    Surveyed(Surveyed),
    Prepared(Result<(), StoreError>),
    Answer(std::io::Result<String>),
    Printed(std::io::Result<()>),
    /// Of each, in words why not.
    Remembered(Vec<Result<(), String>>),
    /// Whether it is so, or in words why that is not known.
    Ancestry(Result<bool, String>),
}

/// How often one run is written into a history that others change meanwhile.
const TRIES: usize = 5;

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
            Self::Version(state) => {
                async move { StoreReply::Version(state.version().await) }.boxed()
            }
            Self::List(store, from) => {
                async move { StoreReply::Listed(store.list(from.as_deref()).await) }.boxed()
            }
            Self::Survey(asked) => async move { StoreReply::Surveyed(survey(asked).await) }.boxed(),
            Self::Prepare(store) => {
                async move { StoreReply::Prepared(store.prepare().await) }.boxed()
            }
            Self::TryConditions(store) => {
                async move { StoreReply::Prepared(store.try_conditions().await) }.boxed()
            }
            Self::Remember(runs) => {
                join_all(runs.into_iter().map(remember)).map(StoreReply::Remembered).boxed()
            }
            Self::Print(text) => async move {
                // Nobody can be made to read it.
                let printed = tokio::task::spawn_blocking(|| report::answer_with(text)).await;
                StoreReply::Printed(printed.map_err(std::io::Error::other).flatten())
            }
            .boxed(),
            Self::Ancestry(asked) => {
                async move { StoreReply::Ancestry(asked.answer().await) }.boxed()
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

/// Adds a run to a history. A write that is not answered is not repeated: no two have the same bytes.
async fn remember(addition: Addition) -> Result<(), String> {
    let Addition { register: HistoryRegister { store, key }, run, mut ahead } = addition;
    let (mut shown, mut denied): (Option<Option<Stored>>, _) = (None, None);
    for _ in 0..TRIES {
        let current = match shown.take() {
            Some(current) => current,
            None => match read(&store, &key, ahead.take()).await {
                // S3 denies a look at what is not there.
                Err(StoreError::Denied(flaw)) => {
                    denied = Some(StoreError::Denied(flaw));
                    None
                }
                read => read.map_err(|error| error.to_string())?,
            },
        };
        let history = History::of(current.as_ref().map(|stored| &stored.record));
        let record = history.map_err(|why| why.to_string())?.with(&run);
        let expect = current.map_or(Expect::Absent, |stored| Expect::Version(stored.version));
        match store.write(&key, &record, &expect).await.map_err(|error| error.to_string())? {
            WriteReply::Applied(_) => return Ok(()),
            WriteReply::Conflict(current) => shown = current,
        }
    }
    Err(denied.map_or_else(|| "others keep changing it".to_owned(), |error| error.to_string()))
}

/// What was read before, where it was.
async fn read(
    store: &Arc<dyn Registers>,
    key: &LockKey,
    ahead: Option<BoxFuture<'static, HistoryRead>>,
) -> HistoryRead {
    match ahead {
        Some(ahead) => ahead.await,
        None => store.read(key).await,
    }
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
                return StoreReply::Pair(reply, Box::new(asked.findings().clone()));
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
