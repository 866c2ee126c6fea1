//! Many waiters on one lock, in virtual time: the shipped machines against the memory store, with
//! a latency for each request and nobody sleeping.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use futures_util::FutureExt;
use tfwrap::lock::acquire::{Acquire, Outcome};
use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::lease::{Lease, LeaseTerm};
use tfwrap::lock::line::{Slot, Waiter};
use tfwrap::lock::queue::{Action, Event, Queue};
use tfwrap::lock::{LockId, LockKey, Uptime};
use tfwrap::store::{
    MemoryStore, Record, RecordVersion, Registers, RemoveReply, StoreError, WriteReply,
};

/// From the request to the register, and from there to the reply.
const HALF_WAY: Duration = Duration::from_millis(5);

/// What becomes of a waiter's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Waits, holds, gives back.
    Lives,
    /// Dies while it waits, so long after it came.
    DiesWaiting(Duration),
    /// Takes the lock and dies without giving it back, beats and all.
    DiesHolding,
}

/// One waiter's plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// When it comes.
    pub(crate) arrives: Duration,
    /// How long it holds the lock.
    pub(crate) holds: Duration,
    /// How long it is ready to wait.
    pub(crate) patience: Duration,
    /// Its lease.
    pub(crate) term: LeaseTerm,
    /// How it ends.
    pub(crate) fate: Fate,
}

impl Plan {
    /// Comes then, holds so long, waits for a day.
    pub(crate) fn new(arrives: Duration, holds: Duration) -> Self {
        let patience = Duration::from_hours(24);
        Self { arrives, holds, patience, term: LeaseTerm::Never, fate: Fate::Lives }
    }
}

/// What became of a waiter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lot {
    /// When it got the lock.
    pub(crate) granted: Option<Duration>,
    /// When it gave the lock back, or gave up, or died.
    pub(crate) ended: Option<Duration>,
    /// What it sent until it got the lock.
    pub(crate) requests: u64,
    /// What it sent while it stood at the head of the line or without one.
    pub(crate) head_requests: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrive,
    Apply,
    Deliver,
    Tick,
    Release,
    Die,
}

struct Client {
    queue: Queue,
    plan: Plan,
    asked: Option<Action>,
    answer: Option<Event>,
    holding: Option<RecordVersion>,
    gone: bool,
    lot: Lot,
}

/// The lock, its line, and all who want it.
pub(crate) struct World {
    store: MemoryStore,
    key: LockKey,
    clients: Vec<Client>,
    agenda: BinaryHeap<Reverse<(Duration, usize, What)>>,
    now: Duration,
    /// Writes to the line are denied.
    pub(crate) line_is_denied: bool,
    /// How many held the lock at once, at most.
    pub(crate) most_holders: usize,
}

impl World {
    /// Prepares the waiters, in the order of the plans.
    pub(crate) fn new(plans: &[Plan], seed: u64) -> Self {
        let mut world = Self {
            store: MemoryStore::new(),
            key: LockKey("bucket/state".to_owned()),
            clients: Vec::new(),
            agenda: BinaryHeap::new(),
            now: Duration::ZERO,
            line_is_denied: false,
            most_holders: 0,
        };
        for (index, plan) in plans.iter().enumerate() {
            let id = LockId(format!("id-{index}"));
            let lease = Lease { term: plan.term, beat: 0 };
            let record =
                Record { info: Some(format!(r#"{{"ID":"{id}"}}"#)), lease: Some(lease.to_text()) };
            let (start, end) = (Uptime(plan.arrives), Uptime(plan.arrives + plan.patience));
            let jitter = |salt: u64| Jitter(seed ^ salt ^ (index as u64).wrapping_mul(0x9e37));
            let acquire = Acquire::new(id.clone(), start, end, jitter(1));
            let waiter = Waiter { id: id.0, ..Waiter::default() };
            let queue = Queue::new(acquire, waiter, record, end, jitter(2), true);
            let lot = Lot::default();
            world.clients.push(Client {
                queue,
                plan: *plan,
                asked: None,
                answer: None,
                holding: None,
                gone: false,
                lot,
            });
            world.plan(plan.arrives, index, What::Arrive);
            if let Fate::DiesWaiting(after) = plan.fate {
                world.plan(plan.arrives + after, index, What::Die);
            }
        }
        world
    }

    /// Lets time pass until everybody is through, at most until `end`; returns what became of
    /// each.
    pub(crate) fn run(&mut self, end: Duration) -> Vec<Lot> {
        while let Some(Reverse((at, index, what))) = self.agenda.pop() {
            if at > end {
                break;
            }
            self.now = at;
            self.happen(index, &what);
            let holders = self.clients.iter().filter(|it| it.holding.is_some() && !it.gone).count();
            self.most_holders = self.most_holders.max(holders);
        }
        self.clients.iter().map(|client| client.lot.clone()).collect()
    }

    fn plan(&mut self, at: Duration, index: usize, what: What) {
        self.agenda.push(Reverse((at, index, what)));
    }

    fn happen(&mut self, index: usize, what: &What) {
        if self.clients[index].gone {
            return;
        }
        match what {
            What::Arrive => self.step(index, Event::Start),
            What::Apply => self.apply(index),
            What::Deliver => {
                if let Some(answer) = self.clients[index].answer.take() {
                    self.clients[index].asked = None;
                    self.step(index, answer);
                }
            }
            What::Tick => {
                let client = &self.clients[index];
                let due = client.queue.deadline();
                if client.asked.is_none() && due.is_some_and(|due| due <= Uptime(self.now)) {
                    self.step(index, Event::Tick);
                }
            }
            What::Release => {
                if let Some(version) = self.clients[index].holding.take() {
                    let removed = self.store.remove(&self.key, &version);
                    assert!(removed.now_or_never().unwrap().is_ok());
                }
                self.leave(index);
            }
            What::Die => {
                if self.clients[index].holding.is_none() {
                    self.leave(index);
                }
            }
        }
    }

    fn leave(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.gone = true;
        client.lot.ended = Some(self.now);
    }

    fn apply(&mut self, index: usize) {
        let Some(asked) = self.clients[index].asked.clone() else { return };
        let store = &self.store;
        let denied = |slot: Slot| self.line_is_denied && slot != Slot::Lock;
        let refusal = || StoreError::Denied("PutItem".to_owned());
        let answer = match asked {
            Action::Read(slot) => {
                Event::Read(store.read(&slot.key(&self.key)).now_or_never().unwrap())
            }
            Action::Write(slot, ..) if denied(slot) => Event::Wrote(Err(refusal())),
            Action::Write(slot, record, expect) => {
                let key = slot.key(&self.key);
                let reply = store.write(&key, &record, &expect).now_or_never().unwrap();
                if let (Slot::Lock, Ok(WriteReply::Applied(version))) = (slot, &reply) {
                    self.clients[index].holding = Some(version.clone());
                }
                Event::Wrote(reply)
            }
            Action::Remove(slot, _) if denied(slot) => Event::Removed(Err(refusal())),
            Action::Remove(slot, version) => {
                let key = slot.key(&self.key);
                let reply: Result<RemoveReply, _> =
                    store.remove(&key, &version).now_or_never().unwrap();
                Event::Removed(reply)
            }
            Action::Wait | Action::Done(_) => return,
        };
        self.clients[index].answer = Some(answer);
        self.plan(self.now + HALF_WAY, index, What::Deliver);
    }

    fn step(&mut self, index: usize, event: Event) {
        let now = self.now;
        let client = &mut self.clients[index];
        match client.queue.step(Uptime(now), event) {
            Action::Wait => {
                if let Some(due) = client.queue.deadline() {
                    self.plan(due.0.max(now), index, What::Tick);
                }
            }
            Action::Done(outcome) => self.done(index, &outcome),
            action => {
                client.lot.requests += 1;
                if client.queue.ahead().is_none_or(|ahead| ahead == 0) {
                    client.lot.head_requests += 1;
                }
                client.asked = Some(action);
                self.plan(now + HALF_WAY, index, What::Apply);
            }
        }
    }

    fn done(&mut self, index: usize, outcome: &Outcome) {
        let now = self.now;
        let client = &mut self.clients[index];
        match outcome {
            Outcome::Granted(_) => {
                client.lot.granted = Some(now);
                if client.plan.fate == Fate::DiesHolding {
                    self.leave(index);
                } else {
                    let until = now + client.plan.holds;
                    self.plan(until, index, What::Release);
                }
            }
            Outcome::TimedOut | Outcome::Stopped { .. } | Outcome::Failed(_) => self.leave(index),
        }
    }
}
