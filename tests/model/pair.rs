//! A world of two registers: clients that want both, by [`PairRequest`], beside some that want one of them,
//! as stock Terraform and tfwrap in the other modes do. All orders of their single requests are visited, with
//! requests that are lost, carried out unanswered, or late, and clients that are killed.
//!
//! Time and leases are left out: each half is kept for itself, see `halves`.

use tfwrap::lock::LockId;
use tfwrap::lock::pair::{Half, PairRequest, Step, Versions};
use tfwrap::lock::register::{
    Expect, Record, RecordVersion, RemoveReply, Reply, Request, StoreError, Stored, WriteReply,
};

use super::explore;
use super::search::Explored;

/// How often a client creates, where a create was not answered and is not there.
const ATTEMPTS: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Pair,
    Only(Half),
}

impl Kind {
    /// Whether two clients meet in one register.
    fn meets(self, other: Self) -> bool {
        self == Self::Pair || other == Self::Pair || self == other
    }

    fn has(self, half: Half) -> bool {
        self == Self::Pair || self == Self::Only(half)
    }
}

/// What is wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    /// The first half is taken for the lock.
    HalfIsEnough,
    /// The first half is not given back where the second cannot be had.
    NoRollBack,
    /// A half that bears our own ID is taken for the lock.
    OwnHalfIsOurs,
}

struct Config {
    kinds: Vec<Kind>,
    faults: u8,
    kills: u8,
    mutation: Mutation,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// This is on its way, for the machine of a pair or for itself.
    Asking(Option<Box<PairRequest>>, Half, Request),
    Holding(Versions),
    Over,
    Dead,
}

#[derive(Debug, Clone, Hash)]
struct Client {
    kind: Kind,
    id: LockId,
    attempts: u64,
    /// Whether it knows that something of its may be left, or still land.
    unknown: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    /// Its next step, or the answer to its request.
    Step(usize),
    /// Its request is not answered; whether it is carried out.
    Lose(usize, bool),
    /// The same, and it is carried out later.
    Delay(usize),
    /// What is on its way is dropped with it, or carried out later.
    Kill(usize, bool),
    Recover(usize),
    Land(usize),
}

#[derive(Debug, Clone, Hash)]
struct World {
    halves: [Option<Stored>; 2],
    clients: Vec<Client>,
    late: Vec<(Half, Request)>,
    faults: u8,
    kills: u8,
}

impl Client {
    fn record(&self) -> Record {
        let info = Some(format!(r#"{{"ID":"{}"}}"#, self.id));
        Record { info, lease: Some(format!(r#"{{"beat":{},"ttl":15000}}"#, self.attempts)) }
    }

    /// Its request for both halves, or for its only one.
    fn ask(&mut self, request: Request) {
        self.phase = match self.kind {
            Kind::Only(half) => Phase::Asking(None, half, request),
            Kind::Pair => {
                let mut machine = PairRequest::new(self.id.clone(), true, request);
                let Step::Ask(half, request) = machine.start() else { panic!("nothing is asked") };
                Phase::Asking(Some(Box::new(machine)), half, request)
            }
        };
    }

    fn create(&mut self) {
        self.attempts += 1;
        self.ask(Request::Write(self.record(), Expect::Absent));
    }

    fn versions(&self, joined: &RecordVersion) -> Versions {
        match self.kind {
            Kind::Pair => Versions::of(joined),
            Kind::Only(Half::First) => Versions { first: Some(joined.clone()), second: None },
            Kind::Only(Half::Second) => Versions { first: None, second: Some(joined.clone()) },
        }
    }

    /// As `Acquire` does, but for the waiting.
    fn heard(&mut self, reply: Reply) {
        match reply {
            Reply::Wrote(Ok(WriteReply::Applied(version))) => {
                self.phase = Phase::Holding(self.versions(&version));
            }
            Reply::Wrote(Err(error)) if error.outcome_is_unknown() => {
                self.unknown = true;
                self.ask(Request::Read);
            }
            Reply::Read(Ok(Some(stored))) if stored.record.is_held_by(&self.id) => {
                self.phase = Phase::Holding(self.versions(&stored.version));
            }
            Reply::Read(Ok(None)) if self.attempts < ATTEMPTS => self.create(),
            Reply::Read(Err(_)) => self.ask(Request::Read),
            Reply::Wrote(_) | Reply::Read(Ok(_)) => self.phase = Phase::Over,
            Reply::Removed(_) => panic!("nobody removes so"),
        }
    }
}

impl World {
    fn carry_out(&mut self, half: Half, request: &Request) -> Reply {
        let at = &mut self.halves[half as usize];
        let current = at.clone();
        match request {
            Request::Read => Reply::Read(Ok(current)),
            Request::Write(record, expect) if expect.holds(current.as_ref()) => {
                // Made of the content, as in DynamoDB.
                let version = RecordVersion(format!("{record:?}"));
                *at = Some(Stored { record: record.clone(), version: version.clone() });
                Reply::Wrote(Ok(WriteReply::Applied(version)))
            }
            Request::Write(..) if half == Half::First => {
                Reply::Wrote(Ok(WriteReply::Conflict(None)))
            }
            Request::Write(..) => Reply::Wrote(Ok(WriteReply::Conflict(Some(current)))),
            Request::Remove(version)
                if current.as_ref().is_some_and(|it| it.version == *version) =>
            {
                *at = None;
                Reply::Removed(Ok(RemoveReply::Removed))
            }
            Request::Remove(_) => Reply::Removed(Ok(RemoveReply::Conflict(None))),
        }
    }

    /// The answer to what it asked.
    fn answer(&mut self, index: usize, reply: Reply, config: &Config) {
        let client = &mut self.clients[index];
        let Phase::Asking(machine, half, _) = &client.phase else { return };
        let (half, Some(mut machine)) = (*half, machine.clone()) else {
            return client.heard(reply);
        };
        if let (Mutation::HalfIsEnough, Half::First, Reply::Wrote(Ok(WriteReply::Applied(first)))) =
            (config.mutation, half, &reply)
        {
            let first = Some(first.clone());
            client.phase = Phase::Holding(Versions { first, second: None });
            return;
        }
        match machine.answered(reply) {
            Step::Ask(half, request) => {
                client.phase = Phase::Asking(Some(machine), half, request);
            }
            Step::Done(Reply::Read(Ok(None))) if config.mutation == Mutation::OwnHalfIsOurs => {
                let half = self.halves[0].clone().filter(|it| it.record.is_held_by(&client.id));
                match half {
                    Some(half) => {
                        let first = Some(half.version);
                        client.phase = Phase::Holding(Versions { first, second: None });
                    }
                    None => client.heard(Reply::Read(Ok(None))),
                }
            }
            Step::Done(reply) => client.heard(reply),
        }
    }

    fn give_back(&mut self, index: usize, versions: &mut Versions) {
        // Half by half, the first first.
        let (half, version) = match (versions.first.take(), &versions.second) {
            (Some(first), _) => (Half::First, first),
            (None, Some(second)) => (Half::Second, second.clone()),
            (None, None) => return,
        };
        if half == Half::Second {
            versions.second = None;
        }
        self.carry_out(half, &Request::Remove(version));
        let is_done = versions.second.is_none();
        self.clients[index].phase =
            if is_done { Phase::Over } else { Phase::Holding(versions.clone()) };
    }

    fn check(&self, config: &Config) -> Result<(), String> {
        let bears = |half: Half, client: &Client| {
            let stored = self.halves[half as usize].as_ref();
            stored.is_some_and(|it| it.record.is_held_by(&client.id))
        };
        for (index, client) in self.clients.iter().enumerate() {
            let is_whole = |client: &Client| match (&client.phase, client.kind) {
                (Phase::Holding(versions), Kind::Pair) => {
                    versions.first.is_some()
                        || config.mutation == Mutation::HalfIsEnough && versions.second.is_none()
                }
                (Phase::Holding(_), Kind::Only(_)) => true,
                _ => false,
            };
            let halves = [Half::First, Half::Second];
            if is_whole(client)
                && halves.into_iter().any(|it| client.kind.has(it) && !bears(it, client))
            {
                return Err(format!("I1: {} works without one of its locks", client.id));
            }
            for other in &self.clients[index + 1..] {
                if is_whole(client) && is_whole(other) && client.kind.meets(other.kind) {
                    return Err(format!("I1: {} and {} work at once", client.id, other.id));
                }
            }
            let is_left = halves.into_iter().any(|half| bears(half, client));
            if client.phase == Phase::Over && !client.unknown && is_left {
                return Err(format!("I3: {} has left a half and does not know", client.id));
            }
        }
        Ok(())
    }
}

impl Explored for World {
    type Config = Config;
    type Action = Action;

    fn new(config: &Config) -> Result<Self, String> {
        let client = |(index, kind): (usize, &Kind)| Client {
            kind: *kind,
            id: LockId(index.to_string()),
            attempts: 0,
            unknown: false,
            phase: Phase::Idle,
        };
        let clients = config.kinds.iter().enumerate().map(client).collect();
        let (halves, late) = ([None, None], Vec::new());
        Ok(Self { halves, clients, late, faults: config.faults, kills: config.kills })
    }

    fn actions(&self, _: &Config) -> Vec<Action> {
        let mut actions: Vec<_> = (0..self.late.len()).map(Action::Land).collect();
        for (index, client) in self.clients.iter().enumerate() {
            match &client.phase {
                Phase::Over => continue,
                Phase::Dead => {
                    actions.push(Action::Recover(index));
                    continue;
                }
                Phase::Asking(_, _, request) if self.faults > 0 => {
                    actions.extend([Action::Lose(index, true), Action::Lose(index, false)]);
                    if *request != Request::Read {
                        actions.push(Action::Delay(index));
                    }
                }
                Phase::Idle | Phase::Asking(..) | Phase::Holding(_) => {}
            }
            actions.push(Action::Step(index));
            if self.kills > 0 {
                actions.extend([Action::Kill(index, false), Action::Kill(index, true)]);
            }
        }
        actions
    }

    fn step(&mut self, config: &Config, action: Action) -> Result<(), String> {
        let unanswered = StoreError::Unavailable { detail: String::new(), sent: true };
        match action {
            Action::Step(index) => match self.clients[index].phase.clone() {
                Phase::Idle => self.clients[index].create(),
                Phase::Asking(_, _, Request::Remove(_))
                    if config.mutation == Mutation::NoRollBack =>
                {
                    self.answer(index, Reply::Removed(Ok(RemoveReply::Removed)), config);
                }
                Phase::Asking(_, half, request) => {
                    let reply = self.carry_out(half, &request);
                    self.answer(index, reply, config);
                }
                Phase::Holding(mut versions) => self.give_back(index, &mut versions),
                Phase::Over | Phase::Dead => {}
            },
            Action::Lose(index, is_done) => {
                self.faults -= 1;
                if let Phase::Asking(_, half, request) = self.clients[index].phase.clone() {
                    if is_done {
                        self.carry_out(half, &request);
                    }
                    self.answer(index, request.failed(unanswered), config);
                }
            }
            Action::Delay(index) => {
                self.faults -= 1;
                if let Phase::Asking(_, half, request) = self.clients[index].phase.clone() {
                    self.late.push((half, request.clone()));
                    self.answer(index, request.failed(unanswered), config);
                }
            }
            Action::Kill(index, is_late) => {
                self.kills -= 1;
                let client = &mut self.clients[index];
                if let (Phase::Asking(_, half, request), true) = (client.phase.clone(), is_late) {
                    client.unknown = true;
                    self.late.push((half, request));
                }
                client.phase = Phase::Dead;
            }
            Action::Recover(index) => {
                let client = &mut self.clients[index];
                client.phase = Phase::Over;
                for half in &mut self.halves {
                    half.take_if(|stored| stored.record.is_held_by(&client.id));
                }
            }
            Action::Land(n) => {
                let (half, request) = self.late.remove(n);
                self.carry_out(half, &request);
            }
        }
        self.check(config)
    }

    fn is_over(&self) -> bool {
        self.late.is_empty() && self.clients.iter().all(|client| client.phase == Phase::Over)
    }

    fn tell(&self, action: Action, after: &Self) -> Option<String> {
        let id = |half: &Option<Stored>| half.as_ref().and_then(|it| it.record.info.clone());
        Some(format!("{action:?} -> {:?}", [id(&after.halves[0]), id(&after.halves[1])]))
    }
}

const ITEM: Kind = Kind::Only(Half::Second);
const FILE: Kind = Kind::Only(Half::First);

#[test]
fn two_registers_are_one_lock_whoever_has_one_of_them() {
    for (name, kinds, faults, kills) in [
        ("two pairs, two faults", vec![Kind::Pair, Kind::Pair], 2, 0),
        ("two pairs, a fault and a kill", vec![Kind::Pair, Kind::Pair], 1, 1),
        ("a mixed fleet, a fault", vec![Kind::Pair, ITEM, FILE], 1, 1),
        ("two pairs and an item", vec![Kind::Pair, Kind::Pair, ITEM], 1, 0),
    ] {
        let config = Config { kinds, faults, kills, mutation: Mutation::None };
        if let Some(counterexample) = explore::<World>(name, &config) {
            panic!("{name}: {counterexample}");
        }
    }
}

#[test]
fn what_makes_one_lock_of_two_registers_is_needed() {
    for (mutation, expected) in [
        (Mutation::HalfIsEnough, "I1:"),
        (Mutation::NoRollBack, "I3:"),
        (Mutation::OwnHalfIsOurs, "I1:"),
    ] {
        let kinds = vec![Kind::Pair, ITEM];
        let config = Config { kinds, faults: 1, kills: 0, mutation };
        let name = format!("{mutation:?}");
        let Some(counterexample) = explore::<World>(&name, &config) else {
            panic!("{name} is not caught")
        };
        assert!(counterexample.contains(expected), "{name}: {counterexample}");
    }
}
