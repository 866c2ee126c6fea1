//! The one place where things happen: a single `select!` turns a signal, a reply, a deadline or
//! the child's end into one [`Happening`]; the machines decide what follows.

use std::future::pending;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::backend::S3Backend;
use crate::clock::uptime;
use crate::lock::{LockKey, Uptime};
use crate::report::{Notice, Reporter};
use crate::store::{
    AwsClients, Expect, Record, RecordVersion, Registers, RemoveReply, StateObject, StoreError,
    Stored, Timeouts, WriteReply, workspace_state,
};
use crate::supervise::{Child, ChildEvent, Received, Signals, StopSignal, Word};

/// What is asked of a store. One at a time: two requests for one lock never overlap.
pub(super) enum Request {
    Create(Arc<dyn Registers>, LockKey, Record),
    Read(Arc<dyn Registers>, LockKey),
    Remove(Arc<dyn Registers>, LockKey, RecordVersion),
    State(Box<S3Backend>),
}

/// What a store answered.
pub(super) enum Reply {
    Wrote(Result<WriteReply, StoreError>),
    Read(Result<Option<Stored>, StoreError>),
    Removed(Result<RemoveReply, StoreError>),
    State(Result<StateObject, StoreError>),
}

/// One thing that happened.
pub(super) enum Happening {
    Signal(Received),
    Child(std::io::Result<ChildEvent>),
    Reply(Reply),
    /// The deadline has passed.
    Due,
}

impl Happening {
    /// The signal that asks us to end, if this is one.
    pub(super) fn stop(&self) -> Option<StopSignal> {
        match self {
            Self::Signal(Received { word: Word::Stop(signal), .. }) => Some(*signal),
            _ => None,
        }
    }

    /// Whether we are asked to stop for a while.
    pub(super) fn is_suspend(&self) -> bool {
        matches!(self, Self::Signal(Received { word: Word::Suspend, .. }))
    }
}

/// The outside world of one run.
pub(crate) struct Shell {
    signals: Signals,
    pub(crate) reporter: Arc<Reporter>,
    in_flight: Option<BoxFuture<'static, Reply>>,
    last_stop: Option<StopSignal>,
}

impl Shell {
    pub(crate) fn new(signals: Signals, reporter: Arc<Reporter>) -> Self {
        Self { signals, reporter, in_flight: None, last_stop: None }
    }

    /// Remembers the signal that ended a child.
    pub(super) fn note_stop(&mut self, signal: StopSignal) {
        self.last_stop = Some(signal);
    }

    /// The signal that ended the last child, if one did.
    pub(super) fn last_stop(&self) -> Option<StopSignal> {
        self.last_stop
    }

    pub(super) fn say(&self, notice: Notice) {
        self.reporter.say(notice);
    }

    /// Sends a request; its reply comes as a [`Happening`].
    pub(super) fn send(&mut self, request: Request) {
        debug_assert!(self.in_flight.is_none(), "one request at a time");
        self.in_flight =
            Some(match request {
                Request::Create(store, key, record) => Box::pin(async move {
                    Reply::Wrote(store.write(&key, &record, &Expect::Absent).await)
                }),
                Request::Read(store, key) => {
                    Box::pin(async move { Reply::Read(store.read(&key).await) })
                }
                Request::Remove(store, key, version) => {
                    Box::pin(async move { Reply::Removed(store.remove(&key, &version).await) })
                }
                Request::State(backend) => {
                    Box::pin(async move { Reply::State(state_object(&backend).await) })
                }
            });
    }

    /// Forgets a read that a stop or a bug left unanswered. Writes are always waited for.
    pub(super) fn abandon(&mut self) {
        self.in_flight = None;
    }

    /// Waits for the next thing to happen.
    pub(super) async fn next(
        &mut self,
        deadline: Option<Uptime>,
        child: Option<&mut Child>,
    ) -> Happening {
        let due = async {
            match deadline {
                Some(at) => tokio::time::sleep(at.since(uptime())).await,
                None => pending().await,
            }
        };
        let in_flight = &mut self.in_flight;
        let reply = async {
            match in_flight {
                Some(request) => request.await,
                None => pending().await,
            }
        };
        let changed = async {
            match child {
                Some(child) => child.changed().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            received = self.signals.next() => Happening::Signal(received),
            event = changed => Happening::Child(event),
            reply = reply => {
                self.in_flight = None;
                Happening::Reply(reply)
            }
            () = due => Happening::Due,
        }
    }
}

async fn state_object(backend: &S3Backend) -> Result<StateObject, StoreError> {
    let clients = AwsClients::new(&backend.aws, Timeouts::default()).await?;
    let (prefix, key) = (backend.listing_prefix(), backend.state_key());
    workspace_state(&clients, &backend.bucket, &prefix, &key).await
}
