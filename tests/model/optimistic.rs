//! A world of one state, of those who write it, and of a reader without the lock: the shipped
//! [`OptimisticRead`], driven as `run::optimistic` does. All orders of their single steps are visited.
//!
//! A writer takes the registers of the lock one after the other, writes the state as often as it likes, and
//! gives them back in that order. Stock Terraform and tfwrap do the same here, but for their end: if a stock
//! writer is killed, its registers stay until a person removes them, one by one; if a tfwrap is, others may
//! also take them over. A tfwrap that is killed alone leaves its Terraform to its guardian, which goes on as if
//! nothing had happened. What is not current any more never is again: no two writes make one version.
//!
//! What must hold of the last try, whoever does what:
//!
//! - What was read is the state of a moment between its first and its last look at which nobody was writing.
//! - Nobody who was at work while the reader read has written since it began: the reader asks the world beside
//!   the state, too, and that is in motion meanwhile.

use std::time::Duration;

use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::optimistic_read::{
    Action, Event, OptimisticRead, ReadOutcome, Sighting, StateVersion,
};
use tfwrap::lock::{Holder, LockId, LockInfo, Uptime};

use super::explore;
use super::search::Explored;

/// How often a writer writes at most.
const WRITES: u8 = 2;

/// The reader, as the owner of a register.
const READER: u8 = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Stock,
    Tfwrap,
    /// A stock Terraform that only knows the last register.
    LastOnly,
    /// One that plans under the lock.
    Planner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// This register is the next to take.
    Taking(usize),
    /// It may still write so often.
    Working(u8),
    /// This register is the next to give back.
    Releasing(usize),
    Dead,
    Over,
}

#[derive(Debug, Clone, Hash)]
struct Client {
    kind: Kind,
    stage: Stage,
    /// Since the reader began to read: whether it was at work then, and whether it has written.
    was_at_work: bool,
    has_written: bool,
}

impl Client {
    fn is_at_work(&self) -> bool {
        matches!(self.stage, Stage::Working(_)) && self.kind != Kind::Planner
    }

    fn first(&self, registers: usize) -> usize {
        if self.kind == Kind::LastOnly { registers - 1 } else { 0 }
    }
}

/// What is wrong on purpose: what the machine is told is changed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    /// What was read counts at once.
    NoSecondLook,
    /// Once the version is known, the lock is not looked at any more.
    NoLockAfterTheVersion,
    /// The last look at the version comes before that at the lock.
    VersionBeforeTheLock,
}

struct Config {
    registers: usize,
    kinds: Vec<Kind>,
    kills: u8,
    mutation: Option<Mutation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Reader {
    /// The machine wants this.
    Asks(Wanted),
    /// Terraform runs; what it has read.
    Reads(Option<u8>),
    /// The machine's try was in vain: this register is the next to take.
    Locks(usize),
    Over,
}

/// What the machine waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wanted {
    Wait,
    Lock(usize),
    Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// Its next step; of a writer at work, to give back.
    Step(usize),
    Write(usize),
    Kill(usize),
    /// A person removes what a dead one has left there.
    Unlock(usize),
    Read,
}

#[derive(Debug, Clone, Hash)]
struct World {
    state: u8,
    registers: Vec<Option<u8>>,
    clients: Vec<Client>,
    kills: u8,
    now: Uptime,
    machine: OptimisticRead,
    reader: Reader,
    has_read: Option<u8>,
    /// What a mutation has looked at too early.
    early: Option<u8>,
    /// The states that were current since the try began while nobody was writing, a bit each.
    whole: u16,
}

fn holder(owner: u8, kind: Option<Kind>) -> Holder {
    let operation = match kind {
        Some(Kind::Planner) => "OperationTypePlan",
        _ => "OperationTypeApply",
    };
    Holder::Known(Box::new(LockInfo {
        id: LockId(owner.to_string()),
        operation: operation.to_owned(),
        info: String::new(),
        who: String::new(),
        version: String::new(),
        created: String::new(),
        path: String::new(),
    }))
}

impl World {
    fn tell(&mut self, config: &Config, event: Event) -> Result<(), String> {
        let action = self.machine.step(self.now, event);
        self.reader = match action {
            Action::Wait => Reader::Asks(Wanted::Wait),
            Action::LookAtLock(register) => Reader::Asks(Wanted::Lock(register)),
            Action::LookAtVersion => Reader::Asks(Wanted::Version),
            Action::Read => {
                for client in &mut self.clients {
                    (client.was_at_work, client.has_written) = (client.is_at_work(), false);
                }
                Reader::Reads(None)
            }
            Action::Done(ReadOutcome::OneMoment) => return self.keeps(),
            Action::Done(ReadOutcome::TimedOut(_)) => Reader::Over,
            Action::Done(_) => {
                self.whole = 0;
                self.has_read = None;
                Reader::Locks(0)
            }
        };
        if config.mutation == Some(Mutation::NoSecondLook) && self.has_read.is_some() {
            return self.keeps();
        }
        Ok(())
    }

    /// This plan is the one that counts.
    fn keeps(&mut self) -> Result<(), String> {
        self.reader = Reader::Over;
        let read = self.has_read.ok_or("nothing was read")?;
        if self.whole & (1 << read) == 0 {
            return Err(format!("half an apply was read: state {read}"));
        }
        match self.clients.iter().position(|it| it.was_at_work && it.has_written) {
            Some(client) => Err(format!("client {client} was at work meanwhile, and has written")),
            None => Ok(()),
        }
    }

    fn is_held_by_dead(&self, register: usize) -> Option<Kind> {
        let client = self.clients.get(usize::from(self.registers[register]?))?;
        (client.stage == Stage::Dead).then_some(client.kind)
    }

    /// Whether this client can take the register now.
    fn can_take(&self, kind: Kind, register: usize) -> bool {
        self.registers[register].is_none()
            || kind == Kind::Tfwrap && self.is_held_by_dead(register) == Some(Kind::Tfwrap)
    }

    fn step_reader(&mut self, config: &Config) -> Result<(), String> {
        let is_second = self.has_read.is_some();
        match self.reader.clone() {
            Reader::Asks(Wanted::Wait) => {
                self.now = self.machine.deadline().ok_or("it waits for nothing")?.max(self.now);
                self.tell(config, Event::Tick)
            }
            Reader::Asks(Wanted::Lock(register)) => {
                if is_second && config.mutation == Some(Mutation::NoLockAfterTheVersion) {
                    return self.tell(config, Event::Lock(None));
                }
                let owner = self.registers[register];
                let kind = |owner: u8| self.clients.get(usize::from(owner)).map(|it| it.kind);
                let seen = |owner| Sighting { holder: holder(owner, kind(owner)), lease: None };
                let found = owner.map(seen);
                self.tell(config, Event::Lock(found))
            }
            Reader::Asks(Wanted::Version) => {
                let version = self.early.take().unwrap_or(self.state);
                self.tell(config, Event::Version(Some(StateVersion(version.to_string()))))
            }
            Reader::Reads(None) => {
                self.reader = Reader::Reads(Some(self.state));
                Ok(())
            }
            Reader::Reads(read) => {
                self.has_read = read;
                if config.mutation == Some(Mutation::VersionBeforeTheLock) {
                    self.early = Some(self.state);
                }
                self.tell(config, Event::Ended)
            }
            Reader::Locks(register) if register < config.registers => {
                self.registers[register] = Some(READER);
                self.reader = Reader::Locks(register + 1);
                Ok(())
            }
            Reader::Locks(_) => {
                for register in &mut self.registers {
                    *register = None;
                }
                for client in &mut self.clients {
                    client.was_at_work = false;
                }
                self.has_read = Some(self.state);
                self.keeps()
            }
            Reader::Over => Ok(()),
        }
    }

    /// What is so at this instant, and so for a while.
    fn observe(&mut self) {
        let is_reading = matches!(self.reader, Reader::Reads(_));
        let mut nobody = true;
        for client in &mut self.clients {
            let is_at_work = client.is_at_work();
            client.was_at_work |= is_reading && is_at_work;
            nobody &= !is_at_work;
        }
        if nobody {
            self.whole |= 1 << self.state;
        }
    }
}

impl Explored for World {
    type Config = Config;
    type Action = Move;

    fn new(config: &Config) -> Result<Self, String> {
        let client = |kind: &Kind| {
            let client =
                Client { kind: *kind, stage: Stage::Over, was_at_work: false, has_written: false };
            Client { stage: Stage::Taking(client.first(config.registers)), ..client }
        };
        let give_up_at = Uptime(Duration::from_millis(500));
        let machine =
            OptimisticRead::new(config.registers, Uptime::default(), give_up_at, Jitter(0));
        let mut world = Self {
            state: 0,
            registers: vec![None; config.registers],
            clients: config.kinds.iter().map(client).collect(),
            kills: config.kills,
            now: Uptime::default(),
            machine,
            reader: Reader::Asks(Wanted::Wait),
            has_read: None,
            early: None,
            whole: 0,
        };
        world.observe();
        Ok(world)
    }

    fn actions(&self, config: &Config) -> Vec<Move> {
        let mut moves = Vec::new();
        if self.is_over() {
            return moves;
        }
        for (index, client) in self.clients.iter().enumerate() {
            match client.stage {
                Stage::Taking(register) if !self.can_take(client.kind, register) => continue,
                Stage::Working(writes @ 1..) if client.kind != Kind::Planner => {
                    debug_assert!(writes <= WRITES);
                    moves.push(Move::Write(index));
                }
                Stage::Dead | Stage::Over => continue,
                _ => {}
            }
            moves.push(Move::Step(index));
            if self.kills > 0 {
                moves.push(Move::Kill(index));
            }
        }
        for register in 0..config.registers {
            if self.is_held_by_dead(register).is_some() {
                moves.push(Move::Unlock(register));
            }
        }
        let is_blocked = matches!(self.reader, Reader::Locks(register)
            if self.registers.get(register).is_some_and(Option::is_some));
        if !is_blocked {
            moves.push(Move::Read);
        }
        moves
    }

    fn step(&mut self, config: &Config, action: Move) -> Result<(), String> {
        let done = match action {
            Move::Read => self.step_reader(config),
            Move::Unlock(register) => {
                self.registers[register] = None;
                Ok(())
            }
            Move::Kill(index) => {
                self.kills -= 1;
                self.clients[index].stage = Stage::Dead;
                Ok(())
            }
            Move::Write(index) => {
                self.state += 1;
                let client = &mut self.clients[index];
                let Stage::Working(writes) = client.stage else { return Err("no writer".into()) };
                (client.stage, client.has_written) = (Stage::Working(writes - 1), true);
                Ok(())
            }
            Move::Step(index) => {
                let owner = u8::try_from(index).map_err(|error| error.to_string())?;
                let client = &mut self.clients[index];
                let last = config.registers;
                client.stage = match client.stage {
                    Stage::Taking(register) => {
                        self.registers[register] = Some(owner);
                        let next = register + 1;
                        if next == last { Stage::Working(WRITES) } else { Stage::Taking(next) }
                    }
                    Stage::Working(_) => Stage::Releasing(client.first(last)),
                    Stage::Releasing(register) => {
                        if self.registers[register] == Some(owner) {
                            self.registers[register] = None;
                        }
                        let next = register + 1;
                        if next == last { Stage::Over } else { Stage::Releasing(next) }
                    }
                    stage @ (Stage::Dead | Stage::Over) => stage,
                };
                Ok(())
            }
        };
        self.observe();
        done
    }

    fn is_over(&self) -> bool {
        self.reader == Reader::Over
    }

    fn tell(&self, action: Move, after: &Self) -> Option<String> {
        let stages: Vec<_> = after.clients.iter().map(|client| client.stage).collect();
        let (state, registers) = (after.state, &after.registers);
        Some(format!("{action:?} -> {:?}, {stages:?}, state {state}, {registers:?}", after.reader))
    }
}

fn searched(kinds: &[Kind], registers: usize, mutation: Option<Mutation>) -> Option<String> {
    let config = Config { registers, kinds: kinds.to_vec(), kills: 2, mutation };
    explore::<World>(&format!("optimistic, {registers}, {kinds:?}, {mutation:?}"), &config)
}

#[test]
fn the_plan_that_counts_is_of_one_moment_whoever_writes_and_is_killed() {
    use Kind::{LastOnly, Planner, Stock, Tfwrap};
    for registers in [1, 2] {
        for kinds in [
            &[Stock, Tfwrap][..],
            &[Stock, Stock],
            &[Tfwrap, Tfwrap],
            &[Tfwrap, LastOnly],
            &[Stock, Planner, Tfwrap],
        ] {
            if let Some(counterexample) = searched(kinds, registers, None) {
                panic!("{counterexample}");
            }
        }
    }
}

#[track_caller]
fn is_caught(mutation: Mutation) {
    for registers in [1, 2] {
        let found = searched(&[Kind::Stock], registers, Some(mutation));
        let counterexample = found.unwrap_or_else(|| panic!("{mutation:?} is not caught"));
        let expected = ["half an apply was read", "was at work meanwhile, and has written"];
        let is_expected = expected.iter().any(|it| counterexample.contains(it));
        assert!(is_expected, "{mutation:?}: {counterexample}");
    }
}

#[test]
fn a_plan_that_is_not_looked_at_afterwards_is_caught() {
    is_caught(Mutation::NoSecondLook);
}

#[test]
fn a_lock_that_is_not_looked_at_after_the_version_is_caught() {
    is_caught(Mutation::NoLockAfterTheVersion);
}

#[test]
fn a_version_that_is_looked_at_before_the_lock_is_caught() {
    is_caught(Mutation::VersionBeforeTheLock);
}
