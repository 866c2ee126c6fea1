//! The event loop: the one place where things happen: a single `select!` turns a signal, a reply, a deadline or
//! the child's end into one [`LoopEvent`]; the machines decide what follows. The locks that are
//! held live here, too: whatever else goes on, their beats do.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::acquire::Grant;
use super::custody::Custody;
use super::fail_point;
use super::{messages, release};
use crate::backend::S3Backend;
use crate::clock::uptime;
use crate::lock::lease_keeper::{self, LeaseEvent, LeaseKeeper};
use crate::lock::{LockKey, Uptime};
use crate::report::{Notice, Reporter};
use crate::store::{
    AwsClients, Expect, Record, RecordVersion, Registers, RemoveReply, StateObject, StoreError,
    Stored, Timeouts, WriteReply, workspace_state,
};
use crate::supervise::guardian::{Fence, Heard, Interrupts, fence_below};
use crate::supervise::{Child, ChildEvent, Received, SignalKind, Signals, StopSignal};

/// What is asked of a store.
pub(super) enum StoreRequest {
    Write(Arc<dyn Registers>, LockKey, Record, Expect),
    Read(Arc<dyn Registers>, LockKey),
    Remove(Arc<dyn Registers>, LockKey, RecordVersion),
    State(Box<S3Backend>),
    /// What the other requests need first.
    Prepare(Arc<dyn Registers>),
    /// A line of stdin.
    Answer,
}

/// What a store answered.
pub(super) enum Reply {
    Wrote(Result<WriteReply, StoreError>),
    Read(Result<Option<Stored>, StoreError>),
    Removed(Result<RemoveReply, StoreError>),
    State(Result<StateObject, StoreError>),
    Prepared(Result<(), StoreError>),
    Answer(std::io::Result<String>),
}

impl StoreRequest {
    fn send(self) -> BoxFuture<'static, Reply> {
        match self {
            Self::Write(store, key, record, expect) => {
                async move { Reply::Wrote(store.write(&key, &record, &expect).await) }.boxed()
            }
            Self::Read(store, key) => async move { Reply::Read(store.read(&key).await) }.boxed(),
            Self::Remove(store, key, version) => {
                async move { Reply::Removed(store.remove(&key, &version).await) }.boxed()
            }
            Self::State(backend) => {
                async move { Reply::State(state_object(&backend).await) }.boxed()
            }
            Self::Prepare(store) => async move { Reply::Prepared(store.prepare().await) }.boxed(),
            Self::Answer => async move {
                // A thread of its own: nobody can be made to answer. It does not keep the process.
                let asked = tokio::task::spawn_blocking(|| {
                    let mut line = String::new();
                    std::io::stdin().read_line(&mut line).map(|_| line)
                });
                Reply::Answer(asked.await.map_err(std::io::Error::other).and_then(|line| line))
            }
            .boxed(),
        }
    }
}

/// One thing that happened.
pub(super) enum LoopEvent {
    Signal(Received),
    Child(std::io::Result<ChildEvent>),
    Reply(Reply),
    /// The guardian killed the child before its lease could end.
    Fenced,
    /// Something about a lock that is held; which, by its place in [`EventLoop::kept`].
    Lease(usize, LeaseEvent),
    /// The deadline has passed.
    Due,
}

impl LoopEvent {
    /// The signal that asks us to end, if this is one.
    pub(super) fn stop(&self) -> Option<StopSignal> {
        match self {
            Self::Signal(Received { kind: SignalKind::Stop(signal), .. }) => Some(*signal),
            _ => None,
        }
    }

    /// Whether we are asked to stop for a while.
    pub(super) fn is_suspend(&self) -> bool {
        matches!(self, Self::Signal(Received { kind: SignalKind::Suspend, .. }))
    }
}

/// A lock that is held, and what keeps it.
pub(super) struct Kept {
    pub(super) grant: Grant,
    /// None where the kernel keeps it.
    pub(super) keeper: Option<LeaseKeeper>,
    /// Whether an outer run or a `hold` gives it back; we only beat for it, too.
    pub(super) inherited: bool,
    /// Its one request that is out. Beat and release never overlap.
    beat: Option<BoxFuture<'static, Reply>>,
    /// Whether it is about to be given back: what is out is waited for, and nothing follows it.
    ends: bool,
}

impl Kept {
    pub(super) fn new(grant: Grant, keeper: Option<LeaseKeeper>) -> Self {
        Self { grant, keeper, inherited: false, beat: None, ends: false }
    }

    /// A lock that an outer run or a `hold` has.
    pub(super) fn inherited(grant: Grant, keeper: LeaseKeeper) -> Self {
        Self { inherited: true, ..Self::new(grant, Some(keeper)) }
    }

    /// From here on the keeper sends nothing more.
    pub(super) fn end(&mut self) {
        self.ends = true;
    }

    /// Whether a request of the keeper's is out.
    pub(super) fn is_busy(&self) -> bool {
        self.beat.is_some()
    }

    /// Whether this lock is somebody else's by now, or gone.
    fn is_lost(&self) -> bool {
        self.keeper.as_ref().is_some_and(LeaseKeeper::is_lost)
    }

    /// Whether a child may start as far as this lock is concerned.
    fn may_start(&self, now: Uptime) -> bool {
        self.keeper.as_ref().is_none_or(|keeper| keeper.may_start(now))
    }

    /// Lets the keeper decide, carries out what it wants and returns what it has to say.
    fn step(&mut self, now: Uptime, event: lease_keeper::Event) -> Vec<LeaseEvent> {
        let Some(keeper) = &mut self.keeper else { return Vec::new() };
        let mut news = Vec::new();
        for action in keeper.step(now, event) {
            let (store, key) = (self.grant.store.clone(), self.grant.target.key.clone());
            let request = match action {
                lease_keeper::Action::Beat(record, version) => {
                    StoreRequest::Write(store, key, record, Expect::Version(version))
                }
                lease_keeper::Action::Look => StoreRequest::Read(store, key),
                lease_keeper::Action::Say(said) => {
                    news.push(said);
                    continue;
                }
            };
            if self.ends {
                continue;
            }
            let is_beat = matches!(request, StoreRequest::Write(..));
            let answer = tokio::time::timeout(keeper.patience(), request.send());
            self.beat =
                Some(answer.map(move |reply| reply.unwrap_or_else(|_| silence(is_beat))).boxed());
        }
        news
    }
}

/// A beat that was not answered in time.
fn silence(is_beat: bool) -> Reply {
    let error = StoreError::Unavailable { detail: "no answer in time".to_owned(), sent: true };
    if is_beat { Reply::Wrote(Err(error)) } else { Reply::Read(Err(error)) }
}

/// The outside world of one run.
pub(crate) struct EventLoop {
    signals: Signals,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) custody: Custody,
    in_flight: Option<BoxFuture<'static, Reply>>,
    pub(super) kept: Vec<Kept>,
    news: VecDeque<(usize, LeaseEvent)>,
    asked_to_stop: Option<StopSignal>,
}

impl EventLoop {
    pub(crate) fn new(signals: Signals, reporter: Arc<Reporter>, custody: Custody) -> Self {
        let (kept, news) = (Vec::new(), VecDeque::new());
        Self { signals, reporter, custody, in_flight: None, kept, news, asked_to_stop: None }
    }

    /// From here on the lock is kept until it is given back.
    pub(super) fn keep(&mut self, kept: Kept) {
        self.kept.push(kept);
        self.custody.sync(&self.kept);
    }

    pub(crate) fn say(&self, notice: Notice) {
        self.reporter.say(notice);
    }

    /// Writes down what the child is about to get, or got.
    pub(super) fn notes_interrupts(&mut self, interrupts: Interrupts) {
        for notice in self.custody.interrupts(interrupts) {
            self.say(notice);
        }
    }

    /// Writes down that the child has ended, and that nothing of it is in flight.
    pub(super) fn notes_end(&mut self) {
        for notice in self.custody.child_is_gone() {
            self.say(notice);
        }
    }

    /// Sends a request; its reply comes as a [`LoopEvent`]. A read that nobody waits for any more
    /// is dropped for it; writes are always waited for, but for so long only after a stop.
    pub(super) fn send(&mut self, request: StoreRequest) {
        fail_point::crash();
        self.in_flight = Some(request.send());
    }

    /// Whether a child may start: every lock is confirmed, and well before its fence.
    pub(super) fn may_start(&mut self) -> bool {
        let now = uptime();
        self.tick(now);
        self.kept.iter().all(|kept| kept.may_start(now))
    }

    /// Whether a child may go on after a pause. What the loss of a lock means for it was decided
    /// when it was noticed.
    pub(super) fn may_go_on(&mut self) -> bool {
        let now = uptime();
        self.tick(now);
        self.kept.iter().all(|kept| kept.is_lost() || kept.may_start(now))
    }

    /// Whether this lock is somebody else's by now, or gone. That was said when it was found.
    pub(super) fn is_lost(&self, index: usize) -> bool {
        self.kept[index].is_lost()
    }

    /// The first lock of ours that is somebody else's by now, or gone, whoever has heard of it.
    pub(super) fn lost(&self) -> Option<&Grant> {
        self.kept.iter().find(|kept| kept.is_lost()).map(|kept| &kept.grant)
    }

    /// Whether one of our own fences kills the child.
    pub(super) fn is_fenced(&self) -> bool {
        self.kept.iter().any(|kept| kept.keeper.as_ref().is_some_and(LeaseKeeper::is_fenced))
    }

    /// The first signal that asked us to end, whoever has heard it.
    pub(super) fn asked_to_stop(&self) -> Option<StopSignal> {
        self.asked_to_stop
    }

    /// Drops what keepers said and nobody has heard.
    pub(super) fn forget_news(&mut self) {
        self.news.clear();
    }

    /// Lets every keeper whose time has come decide.
    fn tick(&mut self, now: Uptime) {
        for index in 0..self.kept.len() {
            let keeper = self.kept[index].keeper.as_ref();
            if keeper.is_some_and(|keeper| now >= keeper.deadline()) {
                self.step(index, now, lease_keeper::Event::Tick);
            }
        }
    }

    fn step(&mut self, index: usize, now: Uptime, event: lease_keeper::Event) {
        let kept = &mut self.kept[index];
        let said = kept.step(now, event);
        let is_fenced = !kept.inherited && !kept.is_lost();
        for news in said.iter().filter(|_| is_fenced) {
            if matches!(news, LeaseEvent::Interrupt | LeaseEvent::Kill(_))
                && let Some(file) = self.custody.file()
                && let Some(dir) = file.path().parent()
            {
                let fence = match news {
                    LeaseEvent::Kill(_) => Fence::Kill,
                    _ => Fence::Interrupt,
                };
                let fenced = fence_below(dir, std::slice::from_ref(&kept.grant.id), fence);
                if let Err(error) = fenced {
                    let lock = kept.grant.target.url();
                    self.reporter.say(messages::not_looked_for(&lock, &error));
                }
            }
        }
        hear(&self.reporter, &mut self.news, (index, kept), said);
    }

    fn beaten(&mut self, index: usize, reply: Reply) {
        let event = match reply {
            Reply::Wrote(reply) => lease_keeper::Event::Beaten(reply),
            Reply::Read(reply) => lease_keeper::Event::Looked(reply),
            Reply::Removed(_) | Reply::State(_) | Reply::Prepared(_) | Reply::Answer(_) => {
                return;
            }
        };
        // Time first: after a pause the reply may be as old as that, and the keeper must know.
        self.tick(uptime());
        self.step(index, uptime(), event);
        self.custody.sync(&self.kept);
    }

    /// Forgets what a stop or a bug left unanswered.
    pub(super) fn abandon(&mut self) {
        self.in_flight = None;
    }

    /// Waits for the next thing to happen.
    pub(super) async fn next(
        &mut self,
        deadline: Option<Uptime>,
        mut child: Option<&mut Child>,
    ) -> LoopEvent {
        loop {
            fail_point::crash();
            self.tick(uptime());
            if let Some((index, news)) = self.news.pop_front() {
                return LoopEvent::Lease(index, news);
            }
            let keepers = self.kept.iter().filter_map(|kept| kept.keeper.as_ref());
            let wake = keepers.map(LeaseKeeper::deadline).chain(deadline).min();
            let due = async {
                match wake.map(|at| at.since(uptime())) {
                    // What has come in already comes first, and no timer is waited for: the
                    // shortest takes a millisecond or two.
                    Some(Duration::ZERO) => tokio::task::yield_now().await,
                    Some(rest) => tokio::time::sleep(rest).await,
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
                match &mut child {
                    Some(child) => child.changed().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                received = self.signals.next() => {
                    let signal = LoopEvent::Signal(received);
                    self.asked_to_stop = self.asked_to_stop.or(signal.stop());
                    return signal;
                }
                heard = self.custody.heard() => match heard {
                    Heard::Fenced => {
                        // Our own fences are due, too, and know why.
                        let now = uptime();
                        for index in 0..self.kept.len() {
                            self.step(index, now, lease_keeper::Event::Tick);
                        }
                        return LoopEvent::Fenced;
                    }
                    Heard::Gone => {
                        if let Some(notice) = self.custody.replace() {
                            self.reporter.say(notice);
                        }
                    }
                },
                event = changed => return LoopEvent::Child(event),
                (index, reply) = any_beat(&mut self.kept) => self.beaten(index, reply),
                reply = reply => {
                    self.in_flight = None;
                    return LoopEvent::Reply(reply);
                }
                () = due => {
                    if deadline.is_some_and(|at| uptime() >= at) {
                        return LoopEvent::Due;
                    }
                }
            }
        }
    }
}

/// What a keeper has to say of its credentials and of a loss the user must hear, whatever goes on;
/// the rest the run does.
fn hear(
    reporter: &Reporter,
    heard: &mut VecDeque<(usize, LeaseEvent)>,
    (index, kept): (usize, &Kept),
    said: Vec<LeaseEvent>,
) {
    for news in said {
        match news {
            LeaseEvent::Refused { error, after, fence } => {
                reporter.say(messages::refused(&kept.grant, &error, after, fence));
            }
            LeaseEvent::LastBeat { left } => reporter.say(messages::last_beat(&kept.grant, left)),
            news => {
                if let LeaseEvent::Lost(current) = &news {
                    let Grant { target, id, .. } = &kept.grant;
                    reporter.say(release::loss(&target.url(), id, current.as_ref()));
                }
                heard.push_back((index, news));
            }
        }
    }
}

/// The first of the keepers' requests that is answered.
async fn any_beat(kept: &mut [Kept]) -> (usize, Reply) {
    poll_fn(|context| {
        for (index, kept) in kept.iter_mut().enumerate() {
            if let Some(beat) = &mut kept.beat
                && let Poll::Ready(reply) = beat.poll_unpin(context)
            {
                kept.beat = None;
                return Poll::Ready((index, reply));
            }
        }
        Poll::Pending
    })
    .await
}

async fn state_object(backend: &S3Backend) -> Result<StateObject, StoreError> {
    let clients = AwsClients::new(&backend.aws, Timeouts::default()).await?;
    let (prefix, key) = (backend.listing_prefix(), backend.state_key());
    workspace_state(&clients, &backend.bucket, &prefix, &key).await
}
