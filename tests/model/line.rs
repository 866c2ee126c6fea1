//! Waiters that join the line: the shipped [`Queue`] of each, all orders of their requests, and a
//! few requests that are slow on their way, for as long as it takes.
//!
//! What must hold: one at a time has the lock; whoever stood in line before another claimed its
//! number gets the lock before it (I4); in the end everybody had it, and no ticket is left.

use std::collections::BTreeMap;
use std::time::Duration;

use tfwrap::lock::acquire::{Acquire, Outcome};
use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::line::{self, Slot, Ticket, Waiter};
use tfwrap::lock::queue::{self, Event, Queue};
use tfwrap::lock::{LockId, LockKey, Uptime};
use tfwrap::store::{Expect, Record, RecordVersion, RemoveReply, Stored, WriteReply};

use crate::client::Checked;
use crate::config::{Millis, Mutation};
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
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Client {
    queue: Queue,
    asked: Option<queue::Action>,
    slow: bool,
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

impl Line {
    fn clock(&self) -> Uptime {
        Uptime(Duration::from_millis(self.now))
    }

    fn next(&self) -> Option<Millis> {
        let idle = self.clients.iter().filter(|client| client.asked.is_none() && !client.over);
        let wakes = idle.filter_map(|client| {
            let millis = u64::try_from(client.queue.deadline()?.0.as_millis()).expect("soon");
            Some((millis + 1).div_ceil(OVERSLEEP) * OVERSLEEP)
        });
        wakes.chain(self.release).chain(self.to_come.last().copied()).min()
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
            let client = &self.clients[index];
            let due = client.queue.deadline().is_some_and(|at| at <= self.clock());
            if due && client.asked.is_none() && !client.over {
                self.advance(index, Event::Tick)?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, index: usize, event: Event) -> Checked {
        let now = self.clock();
        match self.clients[index].queue.step(now, event) {
            queue::Action::Wait => Ok(()),
            queue::Action::Done(Outcome::Granted(won)) => self.granted(index, won.version),
            queue::Action::Done(outcome) => {
                Err(format!("{} was let down: {outcome:?}", letter(index)))
            }
            request => {
                self.clients[index].asked = Some(request);
                Ok(())
            }
        }
    }

    fn granted(&mut self, index: usize, version: RecordVersion) -> Checked {
        if let Some(other) = self.clients.iter().position(|it| it.holds.is_some()) {
            return Err(format!("I1: {} and {} hold the lock", letter(index), letter(other)));
        }
        let came = self.clients[index].claimed;
        for (other, client) in self.clients.iter().enumerate() {
            let waits = other != index && !client.over;
            let before = came.zip(client.stands).filter(|((_, came), stood)| waits && stood < came);
            if let Some(((Ticket(number), _), _)) = before {
                let (by, other) = (letter(index), letter(other));
                return Err(format!("I4: {by} with number {number} gets the lock before {other}"));
            }
        }
        self.clients[index].holds = Some(version);
        self.release = Some(self.now + HELD);
        Ok(())
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
        let event = match self.clients[index].asked.take().expect("it is out") {
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
        };
        self.advance(index, event)
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
                slow: false,
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
        };
        world.arrive()?;
        Ok(world)
    }

    fn actions(&self, config: &Config) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut urgent = false;
        for (index, client) in self.clients.iter().enumerate() {
            let Some(asked) = &client.asked else { continue };
            actions.push(Action::Deliver(index));
            urgent |= !client.slow || self.now >= config.arrive;
            // A slow read is like one that is sent later.
            let writes = matches!(asked, queue::Action::Write(Slot::Ticket(_) | Slot::Line, ..));
            if writes && !client.slow && self.slow > 0 {
                actions.push(Action::Slow(index));
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
        }
        let tickets = self.registers.keys().any(|key| key.0.contains("/ticket/"));
        if self.is_over() && tickets {
            return Err("a ticket is left behind".to_owned());
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.clients.iter().all(|client| client.over)
    }

    fn tell(&self, action: Action, after: &Self) -> Option<String> {
        let (Action::Deliver(index) | Action::Slow(index)) = action else { return None };
        let asked = self.clients[index].asked.as_ref()?;
        let what = if matches!(action, Action::Slow(_)) { "is slow" } else { "sends" };
        Some(format!("{:>7} ms {} {what} {asked:?}", after.now, letter(index)))
    }
}
