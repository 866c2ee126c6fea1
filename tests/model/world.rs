//! The world: one register, the clients, whatever is on its way, and time. What must hold is
//! checked after every step.

mod checks;
mod choices;

use tfwrap::lock::LockId;
use tfwrap::lock::register::{
    Expect, Record, RecordVersion, RemoveReply, Reply, Request, StoreError, Stored, WriteReply,
};

use crate::client::{Checked, Client, Moment, Outage};
use crate::config::{Config, Millis, Mutation};
use crate::faults::Real;
use crate::request::{Way, unknown};
use crate::search::Explored;
use crate::stock::Stock;

/// How long a request may wander after its client gave it up: the life of a signature.
const WANDERS: Millis = 300_000;

/// No run takes longer.
const NEVER: Millis = 1_200_000;

/// A request that its client gave up and the store did not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Wanderer {
    client: usize,
    request: Request,
    until: Millis,
}

/// What may become of a request, other than that it is applied and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Applied, and the reply is lost.
    Lost,
    /// Neither.
    Dropped,
    /// Throttled.
    Refused,
    /// It reaches the store after its client gave it up, or never.
    Late,
    /// It reaches the store only just before its client would give it up.
    Slow,
    /// The reply reaches the client only just before it would give up.
    SlowReply,
}

/// One step of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Time goes on to the next thing that is due; nothing else is before the next thing that is due.
    Time,
    /// The request reaches the store, and its reply the client.
    Deliver(usize),
    Fault(usize, Fault),
    Land(usize),
    Start {
        client: usize,
        long: bool,
    },
    /// A command comes under the lock of the hold.
    Enter(usize),
    Crash(usize),
    /// Somebody kills the child, and with it its tfwrap, or not.
    Kill(usize, bool),
    /// The whole machine stands still.
    Pause(usize, Millis, bool),
    /// Tfwrap alone does, stopped by a signal of its own.
    Stuck(usize, Millis, bool),
    Outage(usize, Outage, Millis),
    Stop(usize),
    Stock,
    StockCrash,
    /// A person removes whatever lock there is, by its ID.
    Unlock,
}

impl Action {
    /// Whether it is nothing that a quiet world would see.
    pub(crate) fn is_trouble(self) -> bool {
        use Action::{Deliver, Enter, Start, Stock, Time};
        !matches!(self, Time | Deliver(_) | Start { .. } | Enter(_) | Stock)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) now: Millis,
    pub(crate) register: Option<Stored>,
    stored_at: Millis,
    pub(crate) clients: Vec<Client>,
    pub(crate) stock: Option<Stock>,
    wanderers: Vec<Wanderer>,
    faults: u8,
    long_children: u8,
    unlocks: u8,
    /// Whose lock a person removed, and when.
    unlocked: Option<(LockId, Millis)>,
    /// Where the register really is, if not here.
    pub(crate) real: Option<Real>,
}

/// The version is made of the content, as in DynamoDB: that is weaker than a counter.
pub(crate) fn stored(record: Record) -> Stored {
    let version = format!("{:?}{:?}", record.info, record.lease);
    Stored { record, version: RecordVersion(version) }
}

/// The ID of a record, and of what client and run it is: `b1` is the second run of the second.
fn owner(stored: &Stored) -> (LockId, usize, u8) {
    let info = stored.record.info.as_deref().expect("all have one");
    let id = tfwrap::lock::LockInfo::parse(info).expect("all can be read").id;
    let (letter, run) = (id.0.as_bytes()[0], id.0.as_bytes()[1]);
    let index = usize::from(letter - b'a');
    (id, index, run - b'0')
}

impl World {
    pub(crate) fn new(config: &Config) -> Result<Self, String> {
        let moment = Moment { config, now: 0, stored_at: 0 };
        let clients = (0..config.rates.len()).map(|index| Client::new(index, moment));
        Ok(Self {
            now: 0,
            register: None,
            stored_at: 0,
            clients: clients.collect::<Result<_, _>>()?,
            stock: config.stock.then(Stock::new),
            wanderers: Vec::new(),
            faults: config.faults,
            long_children: config.long_children,
            unlocks: config.unlocks,
            unlocked: None,
            real: None,
        })
    }

    /// What the action is about, for people.
    pub(crate) fn asked(&self, action: Action) -> String {
        let (Action::Deliver(index) | Action::Fault(index, _)) = action else {
            return String::new();
        };
        let request = self.request(index);
        let what = match &request {
            Request::Write(record, _) => format!("write {}", record.lease.as_deref().unwrap_or("")),
            Request::Read => "read".to_owned(),
            Request::Remove(_) => "remove".to_owned(),
        };
        format!("{} {what}", self.clients[index].letter())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.clients.iter().all(Client::is_over) && self.stock.as_ref().is_none_or(Stock::is_over)
    }

    fn next(&self, config: &Config) -> Option<Millis> {
        let clients = self.clients.iter().filter_map(|client| client.wake(config, self.now));
        let stock = self.stock.as_ref().and_then(Stock::wake);
        clients.chain(stock).min().map(|at| at.max(self.now))
    }

    fn moment<'a>(&self, config: &'a Config) -> Moment<'a> {
        Moment { config, now: self.now, stored_at: self.stored_at }
    }

    fn owner(&self, config: &Config, stored: &Stored) -> (LockId, usize, u8) {
        let (id, index, run) = owner(stored);
        match self.clients.get(index) {
            // Then the ID does not tell.
            Some(client) if config.mutation == Some(Mutation::SameBytes) => (id, index, client.run),
            _ => (id, index, run),
        }
    }

    fn would_apply(&self, request: &Request) -> bool {
        match request {
            Request::Write(_, expect) => expect.holds(self.register.as_ref()),
            Request::Remove(version) => {
                self.register.as_ref().is_some_and(|stored| stored.version == *version)
            }
            Request::Read => false,
        }
    }

    /// Takes one step, and says what is wrong afterwards, if anything.
    pub(crate) fn step(&mut self, config: &Config, action: Action) -> Checked {
        match action {
            Action::Time => self.pass(config)?,
            Action::Deliver(index) => self.deliver(config, index)?,
            Action::Fault(index, fault) => self.fault(config, index, fault)?,
            Action::Land(index) => {
                let wanderer = self.wanderers.remove(index);
                self.apply(config, wanderer.client, &wanderer.request)?;
            }
            Action::Start { client, long } => {
                self.long_children -= u8::from(long);
                let moment = self.moment(config);
                self.clients[client].start(moment, long);
            }
            Action::Enter(index) => {
                let moment = self.moment(config);
                let stored = self.register.clone().expect("it is held");
                self.clients[index].enter(moment, stored)?;
            }
            Action::Crash(index) => {
                self.faults -= 1;
                let moment = self.moment(config);
                if let Some(request) = self.clients[index].crash(moment)? {
                    self.wander(index, request);
                }
            }
            Action::Kill(index, both) => {
                self.faults -= 1;
                let moment = self.moment(config);
                self.clients[index].kill_child(moment);
                let wanders = if both {
                    self.clients[index].crash(moment)?
                } else {
                    self.clients[index].sees_its_child(moment)?;
                    None
                };
                if let Some(request) = wanders {
                    self.wander(index, request);
                }
            }
            Action::Pause(index, lasts, first) | Action::Stuck(index, lasts, first) => {
                self.faults -= 1;
                let moment = self.moment(config);
                let alone = matches!(action, Action::Stuck(..));
                self.clients[index].hit = true;
                self.clients[index].pause(moment, (lasts, first), alone);
            }
            Action::Outage(index, kind, lasts) => {
                self.faults -= 1;
                self.clients[index].hit = true;
                self.clients[index].outage = Some((kind, self.now + lasts));
            }
            Action::Stop(index) => {
                self.faults -= 1;
                let moment = self.moment(config);
                self.clients[index].hit = true;
                self.clients[index].stop(moment)?;
            }
            Action::Stock => self.stock_acts(),
            Action::StockCrash => {
                self.faults -= 1;
                self.stock.as_mut().expect("it crashed").crash();
                // It has no lease: nobody will ever get past it.
                self.clients.iter_mut().for_each(|client| client.hit = true);
            }
            Action::Unlock => {
                let stored = self.register.take().expect("there is one");
                self.stored_at = self.now;
                self.mirror(Some(&stored));
                self.unlocks -= 1;
                self.unlocked = Some((owner(&stored).0, self.now));
                // A stock Terraform that has compared its ID by then removes the next lock.
                self.clients.iter_mut().for_each(|client| client.hit = true);
            }
        }
        self.settle_hold(config)?;
        for index in 0..self.clients.len() {
            if let Some(request) = self.clients[index].abandoned.take() {
                self.wander(index, request);
            }
        }
        self.check(config)
    }

    /// A hold ends with whoever works under it, and nobody comes under one that is gone.
    fn settle_hold(&mut self, config: &Config) -> Checked {
        if !config.below {
            return Ok(());
        }
        let moment = self.moment(config);
        let [hold, below, ..] = &mut self.clients[..] else { return Ok(()) };
        if config.hold_dies && below.child_lives() && !hold.is_over() {
            // A beat of its that is out would be refused, or be one more.
            let _lost = hold.crash(moment)?;
        }
        if below.is_outside() && hold.is_over() {
            below.stay_outside();
        }
        if below.is_over() && hold.is_open(config) && !hold.is_paused() {
            hold.let_go(moment)?;
        }
        Ok(())
    }

    fn pass(&mut self, config: &Config) -> Checked {
        let next = self.next(config).expect("asked before");
        if next > NEVER {
            return Err("it never ends".to_owned());
        }
        self.now = next;
        let moment = self.moment(config);
        self.wanderers.retain(|wanderer| wanderer.until > next);
        for client in &mut self.clients {
            client.passed(moment)?;
        }
        Ok(())
    }

    /// Its way is over: applied, if nothing is between us and the store, and answered.
    fn deliver(&mut self, config: &Config, index: usize) -> Checked {
        let request = self.request(index);
        let reply = match (self.clients[index].outage, &request) {
            (Some((Outage::Full, _)), _)
            | (Some((Outage::Writes, _)), Request::Write(..) | Request::Remove(_)) => {
                unknown(&request)
            }
            _ => self.apply(config, index, &request)?,
        };
        self.answer(config, index, self.now, reply)
    }

    fn request(&self, index: usize) -> Request {
        self.clients[index].pending.as_ref().expect("it is out").request.clone()
    }

    fn answer(&mut self, config: &Config, index: usize, at: Millis, reply: Reply) -> Checked {
        let moment = self.moment(config);
        let client = &mut self.clients[index];
        client.pending.as_mut().expect("it is out").way = Way::Answered(at, reply);
        client.hear(moment)
    }

    fn fault(&mut self, config: &Config, index: usize, fault: Fault) -> Checked {
        self.faults -= 1;
        let request = self.request(index);
        let limit = self.clients[index].pending.as_ref().expect("it is out").limit;
        match fault {
            Fault::Lost => {
                self.apply(config, index, &request)?;
                self.answer(config, index, limit, unknown(&request))
            }
            Fault::Dropped => self.answer(config, index, self.now, unknown(&request)),
            Fault::Refused => {
                let reply = request.failed(StoreError::Throttled(String::new()));
                self.answer(config, index, self.now, reply)
            }
            Fault::Late => {
                self.wander(index, request.clone());
                self.answer(config, index, limit, unknown(&request))
            }
            Fault::Slow => {
                let pending = self.clients[index].pending.as_mut().expect("it is out");
                pending.way = Way::Arrives(limit);
                Ok(())
            }
            Fault::SlowReply => {
                let reply = self.apply(config, index, &request)?;
                self.answer(config, index, limit, reply)
            }
        }
    }

    fn wander(&mut self, client: usize, request: Request) {
        self.wanderers.push(Wanderer { client, request, until: self.now + WANDERS });
    }

    /// What the store does with a request, with the semantics of `Registers`.
    fn apply(&mut self, config: &Config, index: usize, request: &Request) -> Result<Reply, String> {
        let applies = self.would_apply(request)
            || (matches!(request, Request::Remove(_))
                && config.mutation == Some(Mutation::UnconditionalDelete));
        if applies {
            self.check_change(config, index, request)?;
            self.stored_at = self.now;
        }
        if let Some(real) = &self.real {
            let reply = real.apply(request);
            self.register = real.read();
            return Ok(reply);
        }
        // DynamoDB shows the record of a refusal, but not that there is none.
        let shown = || self.register.clone().filter(|_| config.shows).map(Some);
        Ok(match request {
            Request::Read => Reply::Read(Ok(self.register.clone())),
            Request::Write(record, _) if applies => {
                let stored = stored(record.clone());
                let version = stored.version.clone();
                self.register = Some(stored);
                Reply::Wrote(Ok(WriteReply::Applied(version)))
            }
            Request::Write(..) => Reply::Wrote(Ok(WriteReply::Conflict(shown()))),
            Request::Remove(_) if applies => {
                self.register = None;
                Reply::Removed(Ok(RemoveReply::Removed))
            }
            Request::Remove(_) => Reply::Removed(Ok(RemoveReply::Conflict(shown()))),
        })
    }

    fn stock_acts(&mut self) {
        let stock = self.stock.as_mut().expect("it acts");
        let before = self.register.clone();
        stock.act(self.now, &mut self.register);
        if before != self.register {
            self.stored_at = self.now;
            self.mirror(before.as_ref());
        }
    }

    /// Does to the real register what a stranger did to its image.
    fn mirror(&mut self, before: Option<&Stored>) {
        let Some(real) = &self.real else { return };
        if let Some(before) = before {
            let _ = real.apply(&Request::Remove(before.version.clone()));
        }
        if let Some(after) = &self.register {
            let _ = real.apply(&Request::Write(after.record.clone(), Expect::Absent));
        }
        self.register = real.read();
    }
}

impl Explored for World {
    type Config = Config;
    type Action = Action;

    fn new(config: &Config) -> Result<Self, String> {
        Self::new(config)
    }

    fn actions(&self, config: &Config) -> Vec<Action> {
        self.actions(config)
    }

    fn step(&mut self, config: &Config, action: Action) -> Checked {
        self.step(config, action)
    }

    fn is_over(&self) -> bool {
        self.is_over()
    }

    fn tell(&self, action: Action, after: &Self) -> Option<String> {
        let moved = self.register != after.register;
        if action == Action::Time && !moved {
            return None;
        }
        let now = after.register.as_ref().map(|stored| &stored.version.0);
        let change = if moved { format!(" -> {now:?}") } else { String::new() };
        Some(format!("{:>7} ms {action:?} {}{change}", after.now, self.asked(action)))
    }
}
