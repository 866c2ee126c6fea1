//! The event loop, the one place where things happen. A single `select!` turns a signal, a reply, a
//! deadline or the child's end into one [`LoopEvent`]; the machines decide what follows. The locks
//! that are held also live here: their heartbeats continue, whatever else happens.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::sys::signal::Signal;

use super::custody::Custody;
use super::fail_point;
use super::history::ReadsAhead;
use super::kept::Kept;
use super::messages;
use super::outage::{Access, Outage};
use super::request::{StoreReply, StoreRequest};
use crate::clock::uptime;
use crate::error::Error;
use crate::guardian::{Fence, Heard, fence_below};
use crate::identity::new_seed;
use crate::lock::Uptime;
use crate::lock::jitter::Jitter;
use crate::lock::lease_keeper::{LeaseEvent, LeaseKeeper};
use crate::lock::register::{Reply, Request, StoreError};
use crate::lock::tenure::{self, TenureEnd};
use crate::report::{Notice, Reporter};
use crate::supervise::ending::Interrupts;
use crate::supervise::locked_run::{self, LockedRun, LocksNow, NotStarted};
use crate::supervise::{
    self, Child, ChildEvent, Judged, Reach, Received, SignalKind, Signals, StopSignal, TerminalUse,
    Watch, suspend_self, watch_while_idle,
};

/// One thing that happened.
pub(super) enum LoopEvent {
    Signal(Received),
    Child(std::io::Result<ChildEvent>),
    Reply(StoreReply),
    /// The guardian killed the child before its lease could end.
    Fenced,
    /// A stop came to the guardian: whoever sent it goes round.
    Swept,
    /// Something about a lock that is held; which, by its place in [`EventLoop::kept`].
    Lease(usize, LeaseEvent),
    /// A request about a lock that is held was answered: it may be confirmed by now.
    Answered,
    /// A release has come to its end; that of the lock which was taken last.
    Released(TenureEnd),
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
}

/// The outside world of one run.
pub(crate) struct EventLoop {
    signals: Signals,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) custody: Custody,
    in_flight: Option<BoxFuture<'static, StoreReply>>,
    /// Beside everything else, while a child works.
    pub(super) reads_ahead: ReadsAhead,
    pub(super) kept: Vec<Kept>,
    news: VecDeque<LoopEvent>,
    /// Whether we are a job on a terminal.
    pub(crate) terminal_use: TerminalUse,
    /// What all of it is for, and what becomes of that.
    pub(super) run: LockedRun,
}

impl EventLoop {
    pub(crate) fn new(signals: Signals, reporter: Arc<Reporter>, custody: Custody) -> Self {
        let (kept, news) = (Vec::new(), VecDeque::new());
        let run = LockedRun::new(true);
        let terminal_use = TerminalUse::HandOver;
        let reads_ahead = ReadsAhead::default();
        Self {
            signals,
            reporter,
            custody,
            in_flight: None,
            reads_ahead,
            kept,
            news,
            terminal_use,
            run,
        }
    }

    /// From here on the lock is kept until it is given back. What is taken last is given back first,
    /// but for the halves of a pair: Terraform gives the first back first, too.
    pub(super) fn keep(&mut self, kept: Kept) {
        let is_second = self.kept.last().is_some_and(|last| last.id() == kept.id());
        let at = self.kept.len() - usize::from(is_second && !kept.tenure.is_inherited());
        self.kept.insert(at, kept);
        self.custody.sync(&self.kept);
    }

    pub(crate) fn say(&self, notice: Notice) {
        self.reporter.say(notice);
    }

    /// Writes down what the child is about to get, or got, and whether nothing more may be started
    /// below it.
    pub(super) fn notes_interrupts(&mut self, interrupts: Interrupts, is_stopping: bool) {
        for notice in self.custody.interrupts(interrupts, is_stopping) {
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

    /// What the locks are like now.
    fn lock_state(&mut self, now: Uptime) -> LocksNow {
        self.tick(now);
        LocksNow::of(self.kept.iter().map(|kept| &kept.tenure), now)
    }

    /// Lets the run decide.
    pub(super) fn decide(&mut self, event: locked_run::Event) -> Vec<locked_run::Action> {
        let now = uptime();
        let locks = self.lock_state(now);
        self.run.step(now, locks, event)
    }

    /// Whether a shell may suspend us.
    pub(super) fn may_be_suspended(&self) -> bool {
        watch_while_idle(self.terminal_use) == Watch::Shell
    }

    /// Has each lock declare all of its lease at once.
    pub(super) fn declare_leases(&mut self) {
        let now = uptime();
        self.kept.iter_mut().for_each(|kept| kept.tenure.declare_all(now));
    }

    /// Whether the child is to go on before anything else is heard.
    pub(super) fn resumes(&mut self) -> bool {
        let locks = self.lock_state(uptime());
        self.run.resumes(locks)
    }

    /// When the run has something to decide without being told.
    pub(super) fn run_deadline(&mut self) -> Option<Uptime> {
        let now = uptime();
        let locks = self.lock_state(now);
        self.run.deadline(now, locks)
    }

    /// Lets the run decide on what happened while it has no child. (What a signal means for a
    /// child, and whether it reached it, `run::supervise` knows.)
    pub(super) fn decide_on(&mut self, happening: &LoopEvent) -> Vec<locked_run::Action> {
        self.decide(match happening {
            LoopEvent::Signal(received) => locked_run::Event::Child(supervise::Event::of_signal(
                Judged::at_once(*received),
                || watch_while_idle(self.terminal_use),
            )),
            LoopEvent::Lease(index, said) => self.lease_event(*index, said.clone()),
            LoopEvent::Fenced => locked_run::Event::Fenced,
            LoopEvent::Due | LoopEvent::Answered => locked_run::Event::Tick,
            LoopEvent::Child(_)
            | LoopEvent::Reply(_)
            | LoopEvent::Released(_)
            | LoopEvent::Swept => return Vec::new(),
        })
    }

    pub(super) fn lease_event(&self, index: usize, said: LeaseEvent) -> locked_run::Event {
        locked_run::Event::Lease { said, is_lost: self.kept[index].tenure.is_lost() }
    }

    /// Waits while nothing runs; whatever ends the run then is the error.
    pub(super) async fn idle(&mut self, until: Option<Uptime>) -> Result<LoopEvent, Error> {
        let happening = self.next(until, None).await;
        self.handle_idle(&happening)?;
        Ok(happening)
    }

    /// Waits for so long while nothing runs.
    pub(crate) async fn pause(&mut self, until: Uptime) -> Result<(), Error> {
        while uptime() < until {
            self.idle(Some(until)).await?;
        }
        Ok(())
    }

    /// Whether something has come in, and nobody has heard of it yet, for which we must go on.
    pub(super) async fn may_not_stand_still(&mut self) -> bool {
        self.signals.may_not_stand_still().await
    }

    /// Stops us, as Ctrl-Z means it, until we are continued.
    pub(super) fn suspend(&self) {
        if let Err(error) = suspend_self(Signal::SIGTSTP, false) {
            self.say(Notice::warning(format!("tfwrap could not be suspended: {error}")));
        }
    }

    /// Waits until a child may start, or never will.
    pub(super) async fn confirm(&mut self) -> Result<(), Error> {
        self.run.confirm(uptime());
        loop {
            let deadline = self.run_deadline();
            let happening = self.next(deadline, None).await;
            if self.handle_idle(&happening)? {
                return Ok(());
            }
        }
    }

    /// Does what the run decides while it has no child; returns whether one may start.
    pub(super) fn handle_idle(&mut self, happening: &LoopEvent) -> Result<bool, Error> {
        let mut actions = self.decide_on(happening);
        // The word for the release of a hold that is not yet one. No answer of a store is lost for it.
        if !matches!(happening, LoopEvent::Reply(_)) && self.custody.is_release_asked() {
            let stop = supervise::Event::Stop(StopSignal::Terminate, Reach::UsOnly, Duration::ZERO);
            actions.extend(self.decide(locked_run::Event::Child(stop)));
        }
        let mut may_start = false;
        for action in actions {
            match action {
                locked_run::Action::MayStart => may_start = true,
                locked_run::Action::Suspend => self.suspend(),
                locked_run::Action::End(why) => return Err(self.not_started(why)),
                locked_run::Action::EndDependents
                | locked_run::Action::DeclareLeases
                | locked_run::Action::ReleaseFirst(_)
                | locked_run::Action::Child(_) => {}
            }
        }
        Ok(may_start)
    }

    fn not_started(&self, why: NotStarted) -> Error {
        let url = |kept: Option<&Kept>| kept.map(|kept| kept.target.url()).unwrap_or_default();
        match why {
            NotStarted::Stopped(signal) => Error::interrupted(signal),
            NotStarted::Lost => Error::Lost { lock: url(self.lost()) },
            NotStarted::Unconfirmed => {
                let detail = "the lock was acquired, but the store does not confirm it".to_owned();
                let source = StoreError::Unavailable { detail, sent: true };
                Error::Store { lock: url(self.kept.last()), source }
            }
        }
    }

    /// The first lock of ours that is somebody else's by now, or gone.
    pub(super) fn lost(&self) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.tenure.is_lost())
    }

    /// Whether one of our own fences kills the child.
    pub(super) fn is_fenced(&self) -> bool {
        self.kept.iter().any(|kept| kept.tenure.keeper().is_some_and(LeaseKeeper::is_fenced))
    }

    /// Drops what keepers said and nobody has heard.
    pub(super) fn forget_news(&mut self) {
        self.news.clear();
    }

    /// Begins to release the lock that was taken last, if there is one: after what is out for it,
    /// which its patience bounds. Ends with [`LoopEvent::Released`].
    pub(super) fn release_last(&mut self, patience: Duration) -> bool {
        let Some(last) = self.kept.len().checked_sub(1) else { return false };
        // A store that was out of reach before is told of again: what follows is another thing now.
        self.kept[last].outage = Outage::of_one_that_answered(uptime());
        let jitter = Jitter(new_seed());
        self.step(last, uptime(), tenure::Event::Release { patience, jitter });
        true
    }

    /// Lets every lock whose time has come decide.
    fn tick(&mut self, now: Uptime) {
        let is_over = self.kept.iter().any(|kept| kept.tenure.is_releasing());
        for index in 0..self.kept.len() {
            if self.kept[index].tenure.deadline().is_some_and(|at| now >= at) {
                self.step(index, now, tenure::Event::Tick);
            }
            let kept = &mut self.kept[index];
            if kept.outage.is_due(now)
                && let Some(notice) = messages::outage(kept, now, is_over)
            {
                self.reporter.say(notice);
            }
        }
    }

    fn step(&mut self, index: usize, now: Uptime, event: tenure::Event) {
        for action in self.kept[index].tenure.step(now, event) {
            match action {
                tenure::Action::Ask(request) => {
                    if matches!(request, Request::Remove(_)) {
                        // Whoever goes on if we are killed then knows why it is gone.
                        self.custody.sync(&self.kept);
                    }
                    self.kept[index].send(request);
                }
                tenure::Action::Over(end) => self.news.push_back(LoopEvent::Released(end)),
                tenure::Action::Say(said) => {
                    let kept = &self.kept[index];
                    fence_dependents(&self.reporter, &self.custody, kept, &said);
                    if let Some(said) = hear(&self.reporter, kept, said) {
                        self.news.push_back(LoopEvent::Lease(index, said));
                    }
                }
            }
        }
    }

    fn answered(&mut self, index: usize, reply: Reply) {
        let (now, kept) = (uptime(), &mut self.kept[index]);
        if let Some(lasted) = kept.outage.answered(now, Access::of(&reply), reply.error()) {
            self.reporter.say(messages::answers_again(&kept.target.url(), lasted));
        }
        self.step(index, now, tenure::Event::Answered(reply));
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
            self.reads_ahead.send(uptime());
            if let Some(news) = self.news.pop_front() {
                return news;
            }
            let held = self.kept.iter().flat_map(|it| [it.tenure.deadline(), it.outage.deadline()]);
            let wake = held.flatten().chain(deadline).chain(self.reads_ahead.deadline()).min();
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
            let reads_ahead = &mut self.reads_ahead;
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
                received = self.signals.next() => return LoopEvent::Signal(received),
                heard = self.custody.heard() => match heard {
                    Heard::Fenced => {
                        // Our own fences are due, too, and know why.
                        let now = uptime();
                        for index in 0..self.kept.len() {
                            self.step(index, now, tenure::Event::Tick);
                        }
                        return LoopEvent::Fenced;
                    }
                    Heard::Swept => return LoopEvent::Swept,
                    Heard::Gone => {
                        if let Some(notice) = self.custody.replace() {
                            self.reporter.say(notice);
                        }
                    }
                },
                event = changed => return LoopEvent::Child(event),
                (index, reply) = any_answer(&mut self.kept) => {
                    self.answered(index, reply);
                    self.news.push_back(LoopEvent::Answered);
                }
                reply = reply => {
                    self.in_flight = None;
                    return LoopEvent::Reply(reply);
                }
                () = poll_fn(|context| reads_ahead.poll(context)) => {}
                () = due => {
                    if deadline.is_some_and(|at| uptime() >= at) {
                        return LoopEvent::Due;
                    }
                }
            }
        }
    }
}

/// What works under a lock without being our child is ended by its fences, too. A loss was found
/// before, and whoever has it by then is none of ours.
fn fence_dependents(reporter: &Reporter, custody: &Custody, kept: &Kept, said: &LeaseEvent) {
    let fence = match said {
        LeaseEvent::Interrupt => Fence::Interrupt,
        LeaseEvent::Kill(_) => Fence::Kill,
        _ => return,
    };
    let file = custody.file();
    let dir = file.as_ref().and_then(|file| file.path().parent());
    if let Some(dir) = dir.filter(|_| !kept.tenure.is_inherited() && !kept.tenure.is_lost())
        && let Err(error) = fence_below(dir, std::slice::from_ref(kept.id()), fence)
    {
        reporter.say(messages::not_looked_for(&kept.target.url(), &error));
    }
}

/// What a keeper has to say of its credentials and of a loss the user must hear, whatever goes on;
/// what the run must do is returned.
fn hear(reporter: &Reporter, kept: &Kept, said: LeaseEvent) -> Option<LeaseEvent> {
    match &said {
        LeaseEvent::Refused { error, after, fence } => {
            reporter.say(messages::refused(kept, error, *after, *fence));
            return None;
        }
        LeaseEvent::LastBeat { left } => {
            reporter.say(messages::last_beat(kept, *left));
            return None;
        }
        LeaseEvent::Lost(current) => {
            reporter.say(messages::loss(kept, current.as_ref()));
        }
        _ => {}
    }
    Some(said)
}

/// The first of the held locks' requests that is answered.
async fn any_answer(kept: &mut [Kept]) -> (usize, Reply) {
    poll_fn(|context| {
        for (index, kept) in kept.iter_mut().enumerate() {
            if let Poll::Ready(reply) = kept.poll_answer(context) {
                return Poll::Ready((index, reply));
            }
        }
        Poll::Pending
    })
    .await
}
