//! Many waiters on one lock, in virtual time: the shipped machines against the memory store, with
//! a latency for each request and nobody sleeping.

// By its path: the benches use this file, too.
#[path = "mishap.rs"]
pub(crate) mod mishap;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use futures_util::FutureExt;
use tfwrap::lock::acquire::{Acquire, Outcome};
use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::lease::{Lease, LeaseTerm};
use tfwrap::lock::line::{HandedOn, Line, Slot, Ticket, Waiter};
use tfwrap::lock::queue::{Action, Event, Queue};
use tfwrap::lock::{Holder, LockId, LockKey, Uptime};
use tfwrap::store::{
    Expect, MemoryStore, Record, RecordVersion, Registers, RemoveReply, StoreError, Stored,
    WriteReply,
};

pub(crate) use mishap::Weather;
use mishap::{Mishap, Way};

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
    /// Dies with its request of this number: before it is done, or just after.
    DiesAsking(u64, bool),
    /// Is told to stop, so long after it came, unless it has the lock by then.
    Interrupted(Duration),
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
    /// What its requests meet.
    pub(crate) weather: Weather,
}

impl Plan {
    /// Comes then, holds so long, waits for a day.
    pub(crate) fn new(arrives: Duration, holds: Duration) -> Self {
        let patience = Duration::from_hours(24);
        let (term, fate, weather) = (LeaseTerm::Never, Fate::Lives, Weather::default());
        Self { arrives, holds, patience, term, fate, weather }
    }
}

/// What became of a waiter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lot {
    /// When it got the lock.
    pub(crate) granted: Option<Duration>,
    /// How long the lock could have been had before, as far as it was there to have it.
    pub(crate) idle: Option<Duration>,
    /// Since when the lock was free by then, or its lease had run out.
    pub(crate) open: Duration,
    /// When it gave the lock back, or gave up, or died.
    pub(crate) ended: Option<Duration>,
    /// What it sent until it got the lock.
    pub(crate) requests: u64,
    /// What it sent while it stood at the head of the line or without one.
    pub(crate) head_requests: u64,
    /// Those that find out for messages how many stand before it.
    pub(crate) counting: u64,
    /// Since when it had a ticket and stood at the head.
    pub(crate) headed: Option<Duration>,
    /// For how long it did not look at the lock, at the most.
    pub(crate) longest_blind: Duration,
    /// When it looked last.
    looked: Option<Duration>,
    /// Its place in line, the last one that it had.
    pub(crate) ticket: Option<u64>,
    /// Whether it was told that there is no line.
    pub(crate) told: bool,
    /// How many of its requests met something.
    pub(crate) mishaps: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrive,
    Apply,
    Deliver,
    Tick,
    Beat,
    Release,
    Stop,
    Die,
}

struct Client {
    id: LockId,
    queue: Queue,
    plan: Plan,
    dice: Jitter,
    asked: Option<(Action, Way)>,
    answer: Option<Event>,
    /// The version of its record and the beat in it, once it knows that the lock is its own.
    holding: Option<(RecordVersion, u64)>,
    gone: bool,
    /// How many ticks in a row brought nothing at one and the same time.
    idle_ticks: (Duration, u32),
    lot: Lot,
}

/// The lock, its line, and all who want it.
pub(crate) struct World {
    store: MemoryStore,
    key: LockKey,
    clients: Vec<Client>,
    agenda: BinaryHeap<Reverse<(Duration, usize, What)>>,
    now: Duration,
    holders: usize,
    /// Since when the lock can be had, for whoever looks: free, or its lease has run out.
    open_since: Duration,
    /// When the lock's record was written last.
    written: Duration,
    /// What writes to this register meet.
    pub(crate) refusal: fn(Slot) -> Option<StoreError>,
    /// It says of whatever holds the lock that it stands still for ever.
    pub(crate) line_lies: bool,
    /// How much too early a take-over was asked for, at the worst.
    pub(crate) too_early: Duration,
    /// How many held the lock at once, at most.
    pub(crate) most_holders: usize,
}

fn now<T>(reply: impl Future<Output = T>) -> T {
    reply.now_or_never().expect("memory answers at once")
}

impl World {
    /// Prepares the waiters, in the order of the plans.
    pub(crate) fn new(plans: &[Plan], seed: u64) -> Self {
        let mut world = Self {
            store: MemoryStore::new(),
            key: LockKey("bucket/state".to_owned()),
            clients: Vec::with_capacity(plans.len()),
            agenda: BinaryHeap::new(),
            now: Duration::ZERO,
            holders: 0,
            open_since: Duration::ZERO,
            written: Duration::ZERO,
            refusal: |_| None,
            line_lies: false,
            too_early: Duration::ZERO,
            most_holders: 0,
        };
        for (index, plan) in plans.iter().enumerate() {
            let id = LockId(format!("id-{index}"));
            let (start, end) = (Uptime(plan.arrives), Uptime(plan.arrives + plan.patience));
            let jitter = |salt: u64| Jitter(seed ^ salt ^ (index as u64).wrapping_mul(0x9e37));
            let acquire = Acquire::new(id.clone(), start, end, jitter(1));
            let waiter = Waiter { id: id.0.clone(), ..Waiter::default() };
            let record = record(&id, plan.term, 0);
            let queue = Queue::new(acquire, waiter, record, end, jitter(2), true);
            world.clients.push(Client {
                id,
                queue,
                plan: *plan,
                dice: jitter(3),
                asked: None,
                answer: None,
                holding: None,
                gone: false,
                idle_ticks: (Duration::ZERO, 0),
                lot: Lot::default(),
            });
            world.plan(plan.arrives, index, What::Arrive);
            match plan.fate {
                Fate::DiesWaiting(after) => world.plan(plan.arrives + after, index, What::Die),
                Fate::Interrupted(after) => world.plan(plan.arrives + after, index, What::Stop),
                Fate::Lives | Fate::DiesHolding | Fate::DiesAsking(..) => {}
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
            if !self.clients[index].gone {
                self.happen(index, what);
            }
        }
        self.clients.iter().map(|client| client.lot.clone()).collect()
    }

    /// Who has a ticket in the store, and who has the lock, in the order of the plans.
    pub(crate) fn leftovers(&self) -> (Vec<usize>, Option<usize>) {
        let find = |id: &str| self.clients.iter().position(|client| client.id.0 == id);
        let last = self.read(Slot::Line).and_then(|stored| Line::of(&stored.record));
        let tickets = (0..last.map_or(0, |line| line.next) + 100)
            .filter_map(|n| Waiter::of(&self.read(Slot::Ticket(Ticket(n)))?.record))
            .filter_map(|waiter| find(&waiter.id));
        let lock = self.read(Slot::Lock);
        let holder = lock.and_then(|stored| {
            self.clients.iter().position(|client| stored.record.is_held_by(&client.id))
        });
        (tickets.collect(), holder)
    }

    fn read(&self, slot: Slot) -> Option<Stored> {
        now(self.store.read(&slot.key(&self.key))).expect("memory can be read")
    }

    fn plan(&mut self, at: Duration, index: usize, what: What) {
        self.agenda.push(Reverse((at, index, what)));
    }

    fn happen(&mut self, index: usize, what: What) {
        match what {
            What::Arrive => self.step(index, Event::Start),
            What::Apply => self.apply(index),
            What::Deliver => {
                if let Some(mut answer) = self.clients[index].answer.take() {
                    let asked = self.clients[index].asked.take();
                    if self.line_lies && matches!(asked, Some((Action::Read(Slot::Line), _))) {
                        self.lie(&mut answer);
                    }
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
            What::Beat => self.beat(index),
            What::Release => {
                if let Some((version, _)) = self.clients[index].holding.take() {
                    self.holders -= 1;
                    let removed = now(self.store.remove(&self.key, &version));
                    assert_eq!(removed, Ok(RemoveReply::Removed), "{index} at {:?}", self.now);
                    self.open_since = self.now;
                }
                self.leave(index);
            }
            What::Stop => {
                if self.clients[index].holding.is_none() {
                    self.step(index, Event::Stop);
                }
            }
            What::Die => {
                if self.clients[index].holding.is_none() {
                    self.die(index);
                }
            }
        }
    }

    /// The holder shows that it lives; what can go wrong with that is not the line's business.
    fn beat(&mut self, index: usize) {
        let Client { id, plan, holding, .. } = &mut self.clients[index];
        let Some((version, beat)) = holding else { return };
        *beat += 1;
        let (record, expect) = (record(id, plan.term, *beat), Expect::Version(version.clone()));
        match now(self.store.write(&self.key, &record, &expect)) {
            Ok(WriteReply::Applied(applied)) => *version = applied,
            other => panic!("{index} lost the lock: {other:?}"),
        }
        self.written = self.now;
        let next = self.now + plan.term.period();
        self.plan(next, index, What::Beat);
    }

    fn leave(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.gone = true;
        client.lot.ended = Some(self.now);
    }

    fn die(&mut self, index: usize) {
        let client = &mut self.clients[index];
        self.holders -= usize::from(client.holding.take().is_some());
        let (id, term) = (client.id.clone(), client.plan.term);
        if self.read(Slot::Lock).is_some_and(|stored| stored.record.is_held_by(&id)) {
            self.open_since = match term {
                LeaseTerm::After(ttl) => self.now + ttl,
                LeaseTerm::Never => Duration::MAX,
            };
        }
        self.leave(index);
    }

    fn apply(&mut self, index: usize) {
        let Some((asked, way)) = self.clients[index].asked.clone() else { return };
        let dies = match self.clients[index].plan.fate {
            Fate::DiesAsking(number, done) if number == self.clients[index].lot.requests => {
                Some(done)
            }
            _ => None,
        };
        if dies == Some(false) {
            return self.die(index);
        }
        if let Action::Write(Slot::Lock, _, Expect::Version(version)) = &asked {
            self.time_take_over(version, self.now.saturating_sub(way.there));
        }
        let answer = self.answer(index, asked, way.mishap);
        if dies == Some(true) {
            return self.die(index);
        }
        self.clients[index].answer = Some(answer);
        self.plan(self.now + way.back, index, What::Deliver);
    }

    /// How long the record has stood still that somebody asked to take over then, by the time that
    /// nobody in this world can see.
    fn time_take_over(&mut self, version: &RecordVersion, asked: Duration) {
        let there = self.read(Slot::Lock).filter(|it| it.version == *version);
        let lease = there.and_then(|it| Lease::parse(it.record.lease.as_deref()?));
        if let Some(Lease { term: LeaseTerm::After(ttl), .. }) = lease {
            let early = ttl.saturating_sub(asked.saturating_sub(self.written));
            self.too_early = self.too_early.max(early);
        }
    }

    fn lie(&self, answer: &mut Event) {
        let Event::Read(Ok(Some(stored))) = answer else { return };
        let Some(mut line) = Line::of(&stored.record) else { return };
        let Some(holder) = self.read(Slot::Lock) else { return };
        let lease = holder.record.lease.as_deref().and_then(Lease::parse);
        let id = Holder::of(&holder.record).info().map(|info| info.id.0.clone());
        let (Some(id), Some(Lease { beat, .. })) = (id, lease) else { return };
        line.seen = Some(HandedOn { id, beat, stood: u64::MAX });
        stored.record = line.signed("a liar");
    }

    fn answer(&mut self, index: usize, asked: Action, mishap: Mishap) -> Event {
        let fault = match mishap {
            Mishap::None => None,
            Mishap::Lost | Mishap::Unanswered => {
                Some(StoreError::Unavailable { detail: "no reply".to_owned(), sent: true })
            }
            Mishap::Throttled => Some(StoreError::Throttled("slow down".to_owned())),
        };
        let refusal = self.refusal;
        let is_done = matches!(mishap, Mishap::None | Mishap::Unanswered);
        match asked {
            Action::Read(slot) => Event::Read(match fault {
                Some(fault) => Err(fault),
                None => Ok(self.read(slot)),
            }),
            Action::Write(slot, record, expect) => {
                if let Some(error) = refusal(slot) {
                    return Event::Wrote(Err(error));
                }
                let key = slot.key(&self.key);
                let reply = is_done.then(|| now(self.store.write(&key, &record, &expect)));
                if let (Slot::Ticket(Ticket(n)), Some(Ok(WriteReply::Applied(_)))) = (slot, &reply)
                {
                    self.clients[index].lot.ticket = Some(n);
                }
                if let (Slot::Lock, Some(Ok(WriteReply::Applied(_)))) = (slot, &reply) {
                    self.written = self.now;
                }
                Event::Wrote(fault.map_or_else(|| reply.expect("it was done"), Err))
            }
            Action::Remove(slot, version) => {
                if let Some(error) = refusal(slot) {
                    return Event::Removed(Err(error));
                }
                let key = slot.key(&self.key);
                let reply = is_done.then(|| now(self.store.remove(&key, &version)));
                Event::Removed(fault.map_or_else(|| reply.expect("it was done"), Err))
            }
            Action::Wait | Action::Done(_) => unreachable!("no request"),
        }
    }

    fn step(&mut self, index: usize, event: Event) {
        let now = self.now;
        let client = &mut self.clients[index];
        let action = client.queue.step(Uptime(now), event);
        client.lot.told |= client.queue.take_denied().is_some();
        match action {
            Action::Wait => {
                let (at, count) = &mut client.idle_ticks;
                *count = if *at == now { *count + 1 } else { 0 };
                *at = now;
                assert!(*count < 50, "{index} spins at {now:?}: {:?}", client.queue);
                if let Some(due) = client.queue.deadline() {
                    self.plan(due.0.max(now), index, What::Tick);
                }
            }
            Action::Done(outcome) => self.done(index, outcome),
            action => {
                client.lot.requests += 1;
                if matches!(action, Action::Read(Slot::Lock)) {
                    let before = client.lot.looked.replace(now).unwrap_or(now);
                    client.lot.longest_blind =
                        client.lot.longest_blind.max(now.saturating_sub(before));
                }
                client.lot.counting += u64::from(client.queue.counts_places());
                let ahead = client.queue.places_ahead();
                if ahead.is_none_or(|ahead| ahead == 0) {
                    client.lot.head_requests += 1;
                }
                match ahead {
                    Some(0) => _ = client.lot.headed.get_or_insert(now),
                    Some(_) => client.lot.headed = None,
                    None => {}
                }
                let way = client.plan.weather.next(&mut client.dice, HALF_WAY);
                let fair = way.mishap == Mishap::None && way.there == HALF_WAY;
                client.lot.mishaps += u64::from(!fair);
                client.asked = Some((action, way));
                self.plan(now + way.there, index, What::Apply);
            }
        }
    }

    /// Since when somebody who is alive could have had the lock that this one just got: since it
    /// is free and they are there, or since it was seen to stand still for its whole lease.
    fn could_be_had(&self, index: usize) -> Duration {
        let living = self.clients.iter().filter(|it| !it.gone && it.plan.arrives <= self.now);
        let waiting = living.filter(|it| it.holding.is_none());
        let came = waiting.clone().map(|it| it.plan.arrives).min().unwrap_or(self.now);
        let queue = &self.clients[index].queue;
        let Some(expired) = queue.acquire().taken_over() else { return self.open_since.max(came) };
        let lease = expired.lease.as_deref().and_then(Lease::parse).map(|lease| lease.term);
        let Some(LeaseTerm::After(ttl)) = lease else { return self.open_since.max(came) };
        let seen = waiting
            .filter(|it| it.queue.acquire().holder() == Some(Holder::of(expired)))
            .filter_map(|it| it.queue.acquire().silence(Uptime(self.now)));
        let silent = seen.max().unwrap_or_default();
        self.open_since.max(came).max((self.now + ttl).saturating_sub(silent))
    }

    fn done(&mut self, index: usize, outcome: Outcome) {
        let now = self.now;
        let could = self.could_be_had(index);
        let client = &mut self.clients[index];
        match outcome {
            Outcome::Granted(won) => {
                self.holders += 1;
                self.most_holders = self.most_holders.max(self.holders);
                client.lot.granted = Some(now);
                client.lot.idle = Some(now.saturating_sub(could));
                client.lot.open = self.open_since;
                client.holding = Some((won.version, 0));
                let (holds, period) = (client.plan.holds, client.plan.term.period());
                if client.plan.fate == Fate::DiesHolding {
                    self.die(index);
                } else {
                    self.plan(now + holds, index, What::Release);
                    self.plan(now + period, index, What::Beat);
                }
            }
            Outcome::Stopped { held: Some(won) } => {
                self.holders += 1;
                self.most_holders = self.most_holders.max(self.holders);
                client.holding = Some((won.version, 0));
                self.plan(now, index, What::Release);
            }
            Outcome::TimedOut | Outcome::Stopped { .. } | Outcome::Failed(_) => self.leave(index),
        }
    }
}

fn record(id: &LockId, term: LeaseTerm, beat: u64) -> Record {
    let lease = Lease { term, beat };
    Record { info: Some(format!(r#"{{"ID":"{id}"}}"#)), lease: Some(lease.to_text()) }
}
