//! Acquiring the locks: drives [`Acquire`] for one after the other.

mod halves;
mod introduction;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub(crate) use self::introduction::LockInfoTemplate;

use self::halves::Halves;
use super::custody::Use;
use super::dependents;
use super::event_loop::{EventLoop, LoopEvent};
use super::here;
use super::history::{self, LockRequest};
use super::kept::Kept;
use super::messages::{
    Voice, answers_again, creates_only, late, no_line, out_of_reach, timed_out, took_over,
};
use super::outage::{Access, Outage};
use super::prepare::prepare;
use super::request::{StoreReply, StoreRequest};
use super::waiters;
use crate::clock::{uptime, wall};
use crate::error::{Error, Leftover};
use crate::identity::{new_lock_id, new_seed};
use crate::lock::acquire::{Acquire, Outcome, Won};
use crate::lock::history::{Awaited, WaitWatch};
use crate::lock::jitter::Jitter;
use crate::lock::lease::{Lease, LeaseTerm};
use crate::lock::lease_keeper::{LeaseKeeper, LeaseStart};
use crate::lock::line::{Slot, Waiter};
use crate::lock::pair::{PairRequest, Versions};
use crate::lock::queue::{Action, Event, Queue};
use crate::lock::register::{Record, RecordVersion, Reply, Request};
use crate::lock::tenure::Tenure;
use crate::lock::{Holder, LockId, LockInfo, LockKey, Uptime};
use crate::report::Notice;
use crate::store::{Conditions, Registers};
use crate::supervise::StopSignal;
use crate::target::LockTarget;

/// How long a terminal that is stopped may keep us from taking away the line that is redrawn.
pub(super) const SETTLING: Duration = Duration::from_millis(500);

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// When the whole wait is over.
    pub(crate) give_up_at: Uptime,
    /// How long it is, for messages.
    pub(crate) limit: Duration,
}

/// What came of the attempt to take one lock.
#[derive(Debug)]
pub(super) struct Taken {
    /// With an error, too, the lock may have become ours: whatever is in [`EventLoop::kept`] must be
    /// given back.
    pub(super) result: Result<(), Error>,
    /// Who else was seen to hold it.
    pub(super) seen: Option<Holder>,
    /// What its history says of it, if it has one and its store answered.
    pub(super) request: Option<LockRequest>,
    /// All who were seen to hold it, in order.
    pub(super) behind: Vec<Awaited>,
    /// How many places there were before ours at most.
    pub(super) ahead: Option<u64>,
}

/// Takes one lock, or says why not: one register, or the two that a backend has at once.
pub(super) async fn take(
    event_loop: &mut EventLoop,
    halves: &[&LockTarget],
    introduction: &LockInfoTemplate,
    wait: Wait,
) -> Taken {
    match Attempt::prepared(event_loop, halves, introduction, wait).await {
        Ok(attempt) => {
            for half in attempt.halves() {
                for notice in event_loop.custody.ask(&half.target, &attempt.id, false) {
                    event_loop.say(notice);
                }
            }
            let target = attempt.last.target.clone();
            let taken = attempt.run(event_loop).await;
            if taken.result.is_err() {
                // Whoever holds it may not know of the line, and leave it there.
                waiters::forget_dead(&target, None, None).await;
            }
            taken
        }
        Err(error) => {
            Taken { result: Err(error), seen: None, request: None, behind: Vec::new(), ahead: None }
        }
    }
}

/// One register of a lock.
struct Register {
    target: LockTarget,
    store: Arc<dyn Registers>,
}

impl Register {
    /// Opens it and looks whether it can hold a lock; returns how it answered meanwhile.
    async fn prepared(
        event_loop: &mut EventLoop,
        target: &LockTarget,
    ) -> Result<(Self, Outage), Error> {
        let failed = |source| Error::Store { lock: target.url(), source };
        let store = target.open().await.map_err(failed)?;
        let outage = prepare(event_loop, target, &store).await?;
        let target = target.found_with(store.conditions());
        if store.conditions() == Conditions::OfCreates {
            event_loop.say(creates_only(&target));
        }
        Ok((Self { target, store }, outage))
    }

    fn place(&self) -> (Arc<dyn Registers>, LockKey) {
        (self.store.clone(), self.target.key.clone())
    }
}

/// One lock being taken.
struct Attempt {
    /// What is taken before it, where the lock is a pair.
    first: Option<Register>,
    /// The lock, or its second half: waiters stand in line beside it.
    last: Register,
    /// Where the line's registers are, and what their keys are made from.
    line: (Arc<dyn Registers>, LockKey),
    id: LockId,
    /// The lease to keep and the one to begin with.
    lease: (LeaseTerm, Lease),
    /// What the first write stores.
    record: Record,
    machine: Queue,
    started: Uptime,
    asked: Timestamp,
    limit: Duration,
    /// What ended the wait from outside: a stop, or another lock of ours that was lost meanwhile.
    ended_by: Option<Error>,
    /// Of which holder it was asked whether it waits for us.
    asked_of: Option<LockId>,
    halves: Halves,
    outage: Outage,
}

impl Attempt {
    async fn prepared(
        event_loop: &mut EventLoop,
        halves: &[&LockTarget],
        introduction: &LockInfoTemplate,
        wait: Wait,
    ) -> Result<Self, Error> {
        let (first, last) = match halves {
            [last] => (None, last),
            [first, last] => (Some(Register::prepared(event_loop, first).await?), last),
            _ => return Err(Error::Internal("a lock is one register, or two".to_owned())),
        };
        let (last, outage) = Register::prepared(event_loop, last).await?;
        // Of a pair, only the lock file is tried.
        let (first, outage) = first.map_or((None, outage), |(first, its)| (Some(first), its));
        let line = last.target.open_line(&last.store);
        let line = line.map_err(|source| Error::Store { lock: last.target.url(), source })?;
        Ok(Self { outage, ..Self::new(first, last, line, introduction, wait) })
    }

    fn new(
        first: Option<Register>,
        last: Register,
        line: (Arc<dyn Registers>, LockKey),
        introduction: &LockInfoTemplate,
        Wait { give_up_at, limit }: Wait,
    ) -> Self {
        let (id, started, asked) = (new_lock_id(), uptime(), wall());
        let term = introduction.term;
        let lease = Lease { term: term.first(), beat: 0 };
        let record = Record {
            info: Some(introduction.info(&last.target, &id).to_json()),
            lease: last.target.has_lease().then(|| lease.to_text()),
        };
        let acquire = Acquire::new(id.clone(), started, give_up_at, Jitter(new_seed()));
        let waiter = Waiter {
            id: id.0.clone(),
            beat: 0,
            free_after: None,
            who: introduction.who.clone(),
            operation: introduction.operation.clone(),
            info: introduction.info.clone(),
            joined: LockInfo::format_created(wall()),
        };
        let machine = Queue::new(
            acquire,
            waiter,
            record.clone(),
            give_up_at,
            Jitter(new_seed()),
            // Its registers are changed all the time, which takes conditions.
            introduction.in_line && last.target.has_line(),
        );
        Self {
            first,
            last,
            line,
            id,
            lease: (term, lease),
            record,
            machine,
            started,
            asked,
            limit,
            ended_by: None,
            asked_of: None,
            halves: Halves::default(),
            outage: Outage::default(),
        }
    }

    /// In the order in which they are taken.
    fn halves(&self) -> impl Iterator<Item = &Register> {
        self.first.iter().chain([&self.last])
    }

    /// The half in which its holder was seen, for messages.
    fn seen_in(&self) -> &LockTarget {
        let shown = self.machine.acquire().shown();
        match (&self.first, shown.map(|shown| Versions::of(&shown.version))) {
            (Some(first), Some(Versions { second: None, .. })) => &first.target,
            (_, Some(_)) => &self.last.target,
            (_, None) => self.answered_by(),
        }
    }

    /// Whether the lock cannot become free while we wait for it, asked once of each holder.
    fn is_in_vain(&mut self, receipts: Option<&Path>) -> Option<Error> {
        let holder = self.machine.acquire().holder().filter(|_| self.ended_by.is_none())?;
        let id = Some(holder.info()?.id.clone());
        let is_new = id != std::mem::replace(&mut self.asked_of, id.clone());
        let around =
            receipts.filter(|_| is_new).and_then(|dir| dependents::around_us(dir, &id?))?;
        Some(here::waits_for_us(&self.seen_in().url(), &around))
    }

    async fn run(mut self, event_loop: &mut EventLoop) -> Taken {
        let mut voice = Voice::new(self.started, self.limit);
        let mut watch = WaitWatch::default();
        let (mut ahead, mut applying) = (None, None);
        let mut action = self.machine.step(self.started, Event::Start);
        let outcome = loop {
            match action {
                Action::Done(outcome) => break outcome,
                Action::Write(slot, record, expect) => {
                    if slot == Slot::Lock {
                        let unanswered = self.machine.acquire().may_still_appear();
                        for half in self.halves() {
                            event_loop.custody.asked(&half.target, &self.id, unanswered);
                        }
                    }
                    self.ask(event_loop, slot, Request::Write(record, expect));
                }
                Action::Read(slot) => self.ask(event_loop, slot, Request::Read),
                Action::Remove(slot, version) => {
                    self.ask(event_loop, slot, Request::Remove(version));
                }
                Action::Wait => {}
            }
            if let Some(error) = self.machine.take_denied() {
                event_loop.say(no_line(&self.last.target, &error));
            }
            if self.outage.is_due(uptime()) {
                event_loop.say(out_of_reach(&self.answered_by().url(), self.outage.error()));
            }
            let unseen = self.outage.unseen(uptime());
            let file = event_loop.custody.file();
            let receipts = file.as_ref().and_then(|file| file.path().parent());
            if let Some(error) = self.is_in_vain(receipts) {
                self.ended_by = Some(error);
                action = self.machine.step(uptime(), Event::Stop);
                continue;
            }
            voice.speak(&event_loop.reporter, self.seen_in(), &self.machine, unseen, receipts);
            let wake = self.machine.deadline().into_iter().chain(self.outage.deadline()).min();
            let event = match event_loop.idle(wake).await {
                Ok(LoopEvent::Reply(StoreReply::Register(reply))) => {
                    self.notes_answer(event_loop, &reply);
                    reply.into()
                }
                Ok(LoopEvent::Reply(StoreReply::Pair(reply, findings))) => {
                    self.heed(event_loop, &reply, *findings);
                    self.notes_answer(event_loop, &reply);
                    reply.into()
                }
                Ok(_) => Event::Tick,
                Err(error) => {
                    self.ended_by.get_or_insert(error);
                    Event::Stop
                }
            };
            action = self.machine.step(uptime(), event);
            watch.observe(uptime(), self.machine.acquire().holder().as_ref());
            applying = self.machine.acquire().applying_tfwrap().or(applying);
            ahead = ahead.max(self.machine.counted_ahead());
            if !self.machine.acquire().may_be_ours() {
                for half in self.halves().filter(|half| !self.is_kept(half)) {
                    event_loop.custody.answered(&half.target, &self.id);
                }
            }
        };
        // A stop does not wait for what is still out.
        event_loop.abandon();
        // Before a child starts, and before an error is said.
        event_loop.reporter.settle(SETTLING);
        let has_answered = !matches!(outcome, Outcome::Failed(_));
        let result = self.conclude(event_loop, outcome);
        let is_ours = event_loop.kept.iter().any(|kept| *kept.id() == self.id);
        if !is_ours && !self.machine.acquire().may_still_appear() {
            for half in self.halves().filter(|half| !self.is_kept(half)) {
                event_loop.custody.forget(&half.target, &self.id);
            }
        }
        let behind = watch.ended(uptime());
        let request = has_answered.then(|| self.request(behind.clone(), is_ours)).flatten();
        let request = request.map(|request| LockRequest { applying, ..request });
        Taken { result, seen: self.machine.acquire().holder(), request, behind, ahead }
    }

    /// What the history says of this attempt, which is over.
    fn request(&self, behind: Vec<Awaited>, is_ours: bool) -> Option<LockRequest> {
        let now = uptime();
        Some(LockRequest {
            register: history::register(&self.last.target, &self.line)?,
            target: self.last.target.clone(),
            id: self.id.clone(),
            asked: self.asked,
            waited: now.since(self.started),
            granted: is_ours.then_some(now),
            behind,
            took_over: self.machine.acquire().taken_over().is_some(),
            applying: None,
            within: None,
        })
    }

    fn notes_answer(&mut self, event_loop: &EventLoop, reply: &Reply) {
        if let Some(lasted) = self.outage.answered(uptime(), Access::of(reply), reply.error()) {
            event_loop.say(answers_again(&self.answered_by().url(), lasted));
        }
    }

    fn ask(&mut self, event_loop: &mut EventLoop, slot: Slot, request: Request) {
        let access = if request == Request::Read { Access::Read } else { Access::Write };
        self.outage.asked(uptime(), access);
        let (store, key) = match (slot, &self.first) {
            (Slot::Lock, Some(first)) => {
                let is_leased = first.target.has_lease();
                let asked = PairRequest::new(self.id.clone(), is_leased, request);
                let halves = [first.place(), self.last.place()];
                return event_loop.send(StoreRequest::Pair(Box::new(asked), halves));
            }
            (Slot::Lock, None) => self.last.place(),
            (Slot::Line | Slot::Ticket(_), _) => (self.line.0.clone(), slot.key(&self.line.1)),
        };
        event_loop.send(StoreRequest::Register(store, key, request));
    }

    fn conclude(&mut self, event_loop: &mut EventLoop, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Granted(won) => {
                self.keep(event_loop, won);
                for half in self.halves() {
                    event_loop.say(Notice::Acquired {
                        lock: half.target.url(),
                        id: self.id.0.clone(),
                        waited: uptime().since(self.started),
                        contended: self.machine.acquire().contended(),
                    });
                }
                if let Some(record) = self.machine.acquire().taken_over() {
                    event_loop.say(took_over(self.seen_in(), record));
                }
                Ok(())
            }
            Outcome::TimedOut => {
                self.warn_of_late_ones(event_loop);
                Err(timed_out(
                    self.seen_in(),
                    self.machine.acquire(),
                    self.limit,
                    self.first.is_some(),
                ))
            }
            Outcome::Failed(source) => {
                self.warn_of_late_ones(event_loop);
                Err(Error::Store { lock: self.answered_by().url(), source })
            }
            Outcome::Stopped { held } => {
                if held.is_none() {
                    self.warn_of_the_first(event_loop);
                }
                let left = self.leftover(held.is_some());
                if let Some(won) = held {
                    self.keep(event_loop, won);
                }
                let ended_by = self.ended_by.take();
                let error = ended_by.unwrap_or_else(|| Error::interrupted(StopSignal::Interrupt));
                Err(error.leaving(left))
            }
        }
    }

    fn warn_of_late_ones(&self, event_loop: &EventLoop) {
        if let Some(how) = self.machine.acquire().left_open() {
            for half in self.open_halves() {
                event_loop.say(late(&half.target, &self.id, how));
            }
        }
        self.warn_of_the_first(event_loop);
    }

    /// What an interrupted wait may leave behind.
    fn leftover(&self, held: bool) -> Leftover {
        match self.machine.acquire().left_open() {
            Some(how) if !held => Leftover::MayAppear {
                lock: self
                    .open_halves()
                    .map(|half| half.target.url())
                    .collect::<Vec<_>>()
                    .join("` and `"),
                id: self.id.0.clone(),
                how: how.to_string(),
                unlock: self.unlock_commands(),
            },
            _ if self.machine.leaves_place() => Leftover::Place,
            _ => Leftover::Nothing,
        }
    }

    fn unlock_commands(&self) -> String {
        let commands: Vec<_> =
            self.open_halves().map(|half| half.target.unlock_command(&self.id)).collect();
        commands.join("; ")
    }

    /// From here on the lock is kept until it is released.
    fn keep(&self, event_loop: &mut EventLoop, won: Won) {
        let Some(first) = &self.first else { return self.keep_half(event_loop, &self.last, won) };
        // Each for itself, and each from before the first request for either.
        let Versions { first: version_of_first, second } = Versions::of(&won.version);
        for (half, version) in [(first, version_of_first), (&self.last, second)] {
            let version = version.unwrap_or_else(|| RecordVersion(String::new()));
            self.keep_half(event_loop, half, Won { version, ..won.clone() });
        }
    }

    fn keep_half(&self, event_loop: &mut EventLoop, half: &Register, won: Won) {
        let now = uptime();
        // Where the kernel keeps it, or it cannot be changed safely, there is none.
        let tenure = if half.target.has_lease() {
            let (term, lease) = self.lease;
            let Won { version, since, answered } = won;
            let lease = Lease { beat: self.machine.last_beat(), ..lease };
            let (id, info) = (self.id.clone(), self.record.info.clone());
            let version = Some(version);
            let known = LeaseStart { id, info, version, lease, since, answered };
            let mut keeper = LeaseKeeper::new(known, term, now);
            if let Some(left) = credentials_left(&half.store) {
                keeper.credentials_end(now.plus(left));
            }
            Tenure::leased(keeper)
        } else {
            Tenure::unleased(self.id.clone(), Some(won.version))
        };
        if let Ok(Some(file)) = half.store.lend() {
            event_loop.custody.lend(&self.id, Use::Lock(file));
        }
        let mut kept = Kept::new(half.target.clone(), half.store.clone(), now, tenure);
        let is_open = self.open_halves().any(|open| std::ptr::eq(open, half));
        kept.left_open = self.machine.acquire().left_open().filter(|_| is_open);
        event_loop.keep(kept);
    }
}

/// How long the credentials last, where that is known. An end that has passed is not theirs: they have
/// just been good.
fn credentials_left(store: &Arc<dyn Registers>) -> Option<Duration> {
    let left = store.credentials_end()?.duration_since(wall());
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}
