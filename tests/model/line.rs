//! Waiters that join the line: the shipped [`Queue`] of each, all orders of their requests, and a
//! few requests that are slow on their way, for as long as it takes. Some may be told to stop, at
//! any time up to the start of their child, and some requests may be lost, on their way there or
//! back, or refused.
//!
//! What must hold: one at a time has the lock; whoever stood in line before another claimed its
//! number gets the lock before it (I4); in the end everybody had it that was not told to stop, and
//! no ticket is left. After a stop no child starts, nothing is asked that could make the lock ours,
//! and within 4 s it is over: the lock is free of us, or it is known that it may not be.

use std::collections::BTreeMap;
use std::time::Duration;

use tfwrap::lock::acquire::{Acquire, Outcome, STOP_PATIENCE};
use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::line::{self, Slot, Ticket, Waiter};
use tfwrap::lock::queue::{self, Event, Queue};
use tfwrap::lock::{LockId, LockKey, Uptime};
use tfwrap::store::{
    Expect, Record, RecordVersion, RemoveReply, StoreError, Stored, Timeouts, WriteReply,
};

use crate::client::Checked;
use crate::config::{Millis, Mutation, millis};
use crate::search::Explored;
use crate::world::stored;

/// How long the lock is held: first by somebody who came before the line, then by each in turn.
const HELD: Millis = 1_000;

/// A waiter wakes at multiples of this.
const OVERSLEEP: Millis = 200;

/// Nobody waits longer.
const PATIENCE: Duration = Duration::from_mins(5);

/// One world.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// When each of the waiters comes.
    pub(crate) come: Vec<Millis>,
    /// How many requests may be slow.
    pub(crate) slow: u8,
    /// When these arrive, at the latest.
    pub(crate) arrive: Millis,
    /// How many waiters may be told to stop.
    pub(crate) stops: u8,
    /// How many requests may be lost or refused.
    pub(crate) faults: u8,
    /// Until when.
    pub(crate) faults_until: Millis,
    pub(crate) mutation: Option<Mutation>,
}

/// One step of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Time,
    /// The request reaches the store, and its reply the waiter.
    Deliver(usize),
    /// The request takes its time.
    Slow(usize),
    /// The request meets this.
    Fault(usize, Fault),
    /// It is told to stop.
    Stop(usize),
    /// Its child starts.
    Start(usize),
}

/// What may become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Done, not answered.
    Unanswered,
    /// Neither.
    Dropped,
    /// Not done, and the store says so.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Client {
    queue: Queue,
    asked: Option<queue::Action>,
    /// When it is known to have failed, and that it was not done: it is not on its way any more.
    fails_at: Option<(Millis, bool)>,
    slow: bool,
    stopped: Option<Millis>,
    /// The lock is its own, and its child has not started yet.
    granted: bool,
    /// Its number, and after how many steps of the line it claimed that.
    claimed: Option<(Ticket, u32)>,
    /// After how many of them it stood in line, seen by everybody.
    stands: Option<u32>,
    holds: Option<RecordVersion>,
    over: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Line {
    now: Millis,
    registers: BTreeMap<LockKey, Stored>,
    clients: Vec<Client>,
    /// When the next ones come, the last of them first.
    to_come: Vec<Millis>,
    /// When the lock is given back.
    release: Option<Millis>,
    steps: u32,
    slow: u8,
    stops: u8,
    faults: u8,
    /// Whether nothing keeps a waiter from looking in its time.
    is_fair: bool,
}

fn key(slot: Slot) -> LockKey {
    slot.key(&LockKey("lock".to_owned()))
}

fn letter(index: usize) -> char {
    ['a', 'b', 'c', 'd'][index]
}

fn locked_by(id: &str) -> Record {
    Record { info: Some(format!(r#"{{"ID":"{id}"}}"#)), lease: None }
}

impl Client {
    /// Whether its machine is at work.
    fn waits(&self) -> bool {
        !self.over && self.holds.is_none()
    }

    /// Whether a stop now is worth a look: before its child runs.
    fn may_stop(&self) -> bool {
        !self.over && (self.holds.is_none() || self.granted)
    }
}

impl Line {
    fn clock(&self) -> Uptime {
        Uptime(Duration::from_millis(self.now))
    }

    fn next(&self) -> Option<Millis> {
        let waiting = self.clients.iter().filter(|client| client.waits());
        let wakes = waiting.filter_map(|client| {
            let millis = u64::try_from(client.queue.deadline()?.0.as_millis()).expect("soon");
            Some((millis + 1).div_ceil(OVERSLEEP) * OVERSLEEP)
        });
        let fails = self.clients.iter().filter_map(|it| it.fails_at.map(|(at, _)| at));
        wakes.chain(fails).chain(self.release).chain(self.to_come.last().copied()).min()
    }

    fn arrive(&mut self) -> Checked {
        while self.to_come.pop_if(|at| *at <= self.now).is_some() {
            self.advance(self.clients.len() - 1 - self.to_come.len(), Event::Start)?;
        }
        Ok(())
    }

    fn pass(&mut self) -> Checked {
        self.now = self.next().expect("asked before");
        self.arrive()?;
        if self.release.is_some_and(|at| at <= self.now) {
            self.release = None;
            self.registers.remove(&key(Slot::Lock));
            for client in &mut self.clients {
                client.over |= client.holds.take().is_some();
            }
        }
        for index in 0..self.clients.len() {
            let (now, clock) = (self.now, self.clock());
            if let Some((_, refused)) = self.clients[index].fails_at.take_if(|it| it.0 <= now) {
                self.fail(index, refused)?;
            }
            let client = &self.clients[index];
            if client.waits() && client.queue.deadline().is_some_and(|at| at <= clock) {
                self.advance(index, Event::Tick)?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, index: usize, event: Event) -> Checked {
        let now = self.clock();
        match self.clients[index].queue.step(now, event) {
            queue::Action::Wait => Ok(()),
            queue::Action::Done(outcome) => self.done(index, outcome),
            request => {
                let client = &mut self.clients[index];
                let asks = matches!(request, queue::Action::Write(Slot::Lock, ..));
                if asks && client.stopped.is_some() {
                    return Err(format!("{} asks for the lock after a stop", letter(index)));
                }
                client.asked = Some(request);
                Ok(())
            }
        }
    }

    fn done(&mut self, index: usize, outcome: Outcome) -> Checked {
        let client = &mut self.clients[index];
        client.fails_at = None;
        let given_up = client.asked.take();
        let held = match outcome {
            Outcome::Granted(won) => return self.granted(index, won.version),
            Outcome::Stopped { held } if client.stopped.is_some() => held,
            outcome => return Err(format!("{} was let down: {outcome:?}", letter(index))),
        };
        client.over = true;
        let known = client.queue.acquire().may_still_appear();
        // What was given up may be done all the same.
        if let Some(queue::Action::Write(slot @ Slot::Lock, record, expect)) = given_up {
            let _ = self.write(slot, &record, &expect);
        }
        let lock = self.registers.get(&key(Slot::Lock));
        let is_ours = lock.is_some_and(|it| it.record == locked_by(&letter(index).to_string()));
        if is_ours && held.is_none() && !known {
            return Err(format!("{} leaves the lock behind, and nobody knows", letter(index)));
        }
        if is_ours {
            self.registers.remove(&key(Slot::Lock));
        }
        Ok(())
    }

    fn granted(&mut self, index: usize, version: RecordVersion) -> Checked {
        if let Some(other) = self.clients.iter().position(|it| it.holds.is_some()) {
            return Err(format!("I1: {} and {} hold the lock", letter(index), letter(other)));
        }
        let came = self.clients[index].claimed;
        for (other, client) in self.clients.iter().enumerate() {
            let waits = other != index && !client.over;
            let before = came.zip(client.stands).filter(|((_, came), stood)| waits && stood < came);
            // A fault may keep one from looking in its time.
            if let Some(((Ticket(number), _), _)) = before.filter(|_| self.is_fair) {
                let (by, other) = (letter(index), letter(other));
                return Err(format!("I4: {by} with number {number} gets the lock before {other}"));
            }
        }
        (self.clients[index].holds, self.clients[index].granted) = (Some(version), true);
        Ok(())
    }

    fn start(&mut self, index: usize) -> Checked {
        let client = &mut self.clients[index];
        client.granted = false;
        self.release = Some(self.now + HELD);
        if client.stopped.is_some() {
            return Err(format!("a child of {} starts after a stop", letter(index)));
        }
        Ok(())
    }

    fn stop(&mut self, config: &Config, index: usize) -> Checked {
        self.stops -= 1;
        let lock = self.registers.get(&key(Slot::Lock));
        let is_ours = lock.is_some_and(|it| it.record == locked_by(&letter(index).to_string()));
        let client = &mut self.clients[index];
        client.stopped = Some(self.now);
        // The mutation: with the lock in hand it does not hear.
        if is_ours && config.mutation == Some(Mutation::DeafAfterGrant) {
            return Ok(());
        }
        if std::mem::take(&mut client.granted) {
            (client.over, client.holds) = (true, None);
            self.registers.remove(&key(Slot::Lock));
            return Ok(());
        }
        self.advance(index, Event::Stop)
    }

    fn fault(&mut self, config: &Config, index: usize, fault: Fault) -> Checked {
        self.faults -= 1;
        self.clients[index].slow = false;
        if fault == Fault::Refused {
            return self.fail(index, true);
        }
        if fault == Fault::Unanswered {
            let asked = self.clients[index].asked.clone().expect("it is out");
            let _ = self.apply(config, index, asked);
        }
        self.clients[index].fails_at = Some((self.now + millis(Timeouts::default().read), false));
        Ok(())
    }

    fn fail(&mut self, index: usize, refused: bool) -> Checked {
        let error = if refused {
            StoreError::Throttled(String::new())
        } else {
            StoreError::Unavailable { detail: String::new(), sent: true }
        };
        let event = match self.clients[index].asked.take().expect("it is out") {
            queue::Action::Read(_) => Event::Read(Err(error)),
            queue::Action::Write(..) => Event::Wrote(Err(error)),
            _ => Event::Removed(Err(error)),
        };
        self.advance(index, event)
    }

    /// What the store does, with the semantics of `Registers`.
    fn write(&mut self, slot: Slot, record: &Record, expect: &Expect) -> WriteReply {
        let current = self.registers.get(&key(slot));
        let fits = match expect {
            Expect::Absent => current.is_none(),
            Expect::Version(version) => current.is_some_and(|it| it.version == *version),
        };
        if !fits {
            return WriteReply::Conflict(Some(current.cloned()));
        }
        let new = stored(record.clone());
        let version = new.version.clone();
        self.registers.insert(key(slot), new);
        WriteReply::Applied(version)
    }

    fn deliver(&mut self, config: &Config, index: usize) -> Checked {
        self.clients[index].slow = false;
        let asked = self.clients[index].asked.take().expect("it is out");
        let event = self.apply(config, index, asked);
        self.advance(index, event)
    }

    fn apply(&mut self, config: &Config, index: usize, asked: queue::Action) -> Event {
        match asked {
            queue::Action::Read(slot) => Event::Read(Ok(self.registers.get(&key(slot)).cloned())),
            queue::Action::Write(slot, record, expect) => {
                let reply = self.write(slot, &record, &expect);
                Event::Wrote(Ok(self.note(config, index, slot, reply)))
            }
            queue::Action::Remove(slot, version) => {
                let current = self.registers.get(&key(slot)).cloned();
                Event::Removed(Ok(if current.as_ref().is_some_and(|it| it.version == version) {
                    self.registers.remove(&key(slot));
                    let client = &mut self.clients[index];
                    if client.claimed.is_some_and(|(ticket, _)| slot == Slot::Ticket(ticket)) {
                        client.stands = None;
                    }
                    RemoveReply::Removed
                } else {
                    RemoveReply::Conflict(Some(current))
                }))
            }
            queue::Action::Wait | queue::Action::Done(_) => unreachable!("no request"),
        }
    }

    fn check(&self) -> Checked {
        for (index, client) in self.clients.iter().enumerate() {
            let late =
                client.stopped.is_some_and(|at| self.now > at + millis(STOP_PATIENCE) + OVERSLEEP);
            if late && !client.over {
                return Err(format!("{} is still there after a stop", letter(index)));
            }
        }
        Ok(())
    }

    /// Keeps the books of who stands where; and the mutation: whoever finds `next` above its
    /// number already does not hear of it.
    fn note(&mut self, config: &Config, index: usize, slot: Slot, reply: WriteReply) -> WriteReply {
        let client = &mut self.clients[index];
        match (slot, &reply) {
            (Slot::Ticket(ticket), WriteReply::Applied(_)) if client.stands.is_none() => {
                self.steps += 1;
                client.claimed = Some((ticket, self.steps));
            }
            (Slot::Line, WriteReply::Applied(_)) if client.stands.is_none() => {
                self.steps += 1;
                client.stands = Some(self.steps);
            }
            (Slot::Line, WriteReply::Conflict(Some(Some(current))))
                if config.mutation == Some(Mutation::StaleNext) && client.stands.is_none() =>
            {
                let next = line::Line::of(&current.record).map_or(0, |line| line.next);
                if client.claimed.is_some_and(|(Ticket(number), _)| next > number) {
                    return WriteReply::Applied(current.version.clone());
                }
            }
            _ => {}
        }
        reply
    }
}

impl Explored for Line {
    type Config = Config;
    type Action = Action;

    fn new(config: &Config) -> Result<Self, String> {
        let give_up_at = Uptime(PATIENCE);
        let clients = (0..config.come.len()).map(|index| {
            let id = LockId(letter(index).to_string());
            let acquire = Acquire::new(id.clone(), Uptime::default(), give_up_at, Jitter(0));
            let record = locked_by(&id.0);
            let waiter = Waiter { id: id.0, ..Waiter::default() };
            Client {
                queue: Queue::new(acquire, waiter, record, give_up_at, Jitter(0), true),
                asked: None,
                fails_at: None,
                slow: false,
                stopped: None,
                granted: false,
                claimed: None,
                stands: None,
                holds: None,
                over: false,
            }
        });
        let mut world = Self {
            now: 0,
            registers: BTreeMap::from([(key(Slot::Lock), stored(locked_by("before")))]),
            clients: clients.collect(),
            release: Some(HELD),
            steps: 0,
            to_come: config.come.iter().copied().rev().collect(),
            slow: config.slow,
            stops: config.stops,
            faults: config.faults,
            is_fair: config.faults == 0,
        };
        world.arrive()?;
        Ok(world)
    }

    fn actions(&self, config: &Config) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut urgent = false;
        for (index, client) in self.clients.iter().enumerate() {
            if client.granted {
                urgent = true;
                actions.push(Action::Start(index));
            }
            let came = index + self.to_come.len() < self.clients.len();
            if self.stops > 0 && came && client.stopped.is_none() && client.may_stop() {
                actions.push(Action::Stop(index));
            }
            let Some(asked) = client.asked.as_ref().filter(|_| client.fails_at.is_none()) else {
                continue;
            };
            actions.push(Action::Deliver(index));
            urgent |= !client.slow || self.now >= config.arrive;
            // A slow read is like one that is sent later.
            let writes = matches!(asked, queue::Action::Write(Slot::Ticket(_) | Slot::Line, ..));
            if writes && !client.slow && self.slow > 0 {
                actions.push(Action::Slow(index));
            }
            if self.faults > 0 && self.now <= config.faults_until {
                let faults = [Fault::Unanswered, Fault::Dropped, Fault::Refused];
                actions.extend(faults.map(|fault| Action::Fault(index, fault)));
            }
        }
        if !urgent && self.next().is_some() {
            actions.push(Action::Time);
        }
        actions
    }

    fn step(&mut self, config: &Config, action: Action) -> Checked {
        match action {
            Action::Time => self.pass()?,
            Action::Deliver(index) => self.deliver(config, index)?,
            Action::Slow(index) => {
                self.slow -= 1;
                self.clients[index].slow = true;
            }
            Action::Fault(index, fault) => self.fault(config, index, fault)?,
            Action::Stop(index) => self.stop(config, index)?,
            Action::Start(index) => self.start(index)?,
        }
        self.check()?;
        let tickets = self.registers.keys().any(|key| key.0.contains("/ticket/"));
        if self.is_over() && tickets && self.is_fair {
            return Err("a ticket is left behind".to_owned());
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.clients.iter().all(|client| client.over)
    }

    fn tell(&self, action: Action, after: &Self) -> Option<String> {
        let (index, what) = match action {
            Action::Deliver(index) => (index, "sends"),
            Action::Slow(index) => (index, "is slow"),
            Action::Fault(index, Fault::Unanswered) => (index, "gets no answer"),
            Action::Fault(index, Fault::Dropped) => (index, "sends in vain"),
            Action::Fault(index, Fault::Refused) => (index, "is refused"),
            Action::Time => return None,
            Action::Stop(_) | Action::Start(_) => {
                return Some(format!("{:>7} ms {action:?}", after.now));
            }
        };
        let asked = self.clients[index].asked.as_ref()?;
        Some(format!("{:>7} ms {} {what} {asked:?}", after.now, letter(index)))
    }
}
