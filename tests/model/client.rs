//! One tfwrap of the world: the shipped machines, driven as the event loop in `run` drives them, the
//! child between them, and the guardian beside them.

mod below;
mod drive;
mod guarded;
mod views;

use std::time::Duration;

use tfwrap::lock::acquire::{self, Acquire};
use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::landing::{self, Landing};
use tfwrap::lock::register::{Reply, Request, WriteReply};
use tfwrap::lock::tenure::{self, Tenure};
use tfwrap::lock::{LockId, Uptime};
use tfwrap::store::Timeouts;
use tfwrap::supervise::locked_run::{self, LockedRun, LocksNow};
use tfwrap::supervise::{ChildStatus, Event, Rest};

use crate::child::Body;
use crate::config::{Config, Millis, Mutation, millis};
use crate::request::{Pending, Way};
use guarded::{Case, Ward};

/// A keeper sleeps no longer than it wants, or only by a little.
const KEEPERS_WAKE: Millis = 100;

/// A child, and what supervises it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Child {
    body: Body,
    /// Whether tfwrap knows that it ended, which it may not while it is stopped.
    reaped: bool,
    /// Whether the guardian killed it.
    killed: bool,
    /// Whether somebody else did; tfwrap sees that, and its guardian does not.
    killed_by_others: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    tenure: Tenure,
    run: LockedRun,
    child: Option<Child>,
}

impl Held {
    fn locks(&self, now: Uptime) -> LocksNow {
        LocksNow::of([&self.tenure], now)
    }

    /// When the run has something to decide without being told.
    fn deadline(&self, now: Uptime) -> Option<Uptime> {
        self.run.deadline(now, self.locks(now))
    }

    /// The same before there is a child; when that starts is chosen by the world.
    fn gives_up_at(&self, now: Uptime) -> Option<Uptime> {
        self.run.deadline(now, LocksNow { confirmed: false, ..self.locks(now) })
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Ran,
    Stopped,
    Lost,
    TimedOut,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// It comes under another's lock as soon as that is held.
    Outside,
    Acquiring(Acquire),
    Held(Held),
    /// Nothing runs under it any more, or ever will.
    Releasing(Tenure),
    Over(End),
    /// Its guardian ends its child and keeps its lock meanwhile.
    Ending(Ward),
    /// Its guardian looks for a lock that nothing runs under.
    Catching(Landing),
    /// `orphan`: its child lives on, and nobody is left to look after it.
    Crashed {
        orphan: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pause {
    until: Millis,
    /// Tfwrap alone was stopped: its child and its guardian go on.
    alone: bool,
    /// Of a reply and a tick that have both become due, which is seen first.
    reply_first: bool,
}

/// How the store looks from one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outage {
    /// Nothing gets through.
    Full,
    /// Reads do.
    Writes,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each can be so without the others")]
pub(crate) struct Client {
    pub(crate) index: usize,
    /// Every run takes the lock under an ID of its own.
    pub(crate) run: u8,
    pub(crate) phase: Phase,
    pub(crate) pending: Option<Pending>,
    /// A write that a stop did not wait for, still on its way.
    pub(crate) abandoned: Option<Request>,
    paused: Option<Pause>,
    pub(crate) outage: Option<(Outage, Millis)>,
    /// Requests since time last went on.
    pub(crate) asked: u8,
    /// The runs whose user was told that the record may still appear or is still there.
    told: u8,
    /// What the guardian knows.
    case: Case,
    /// Until when the guardian looks for a second create that was never answered.
    landing: Option<Uptime>,
    /// Its look, while what it found is given back.
    caught: Option<Landing>,
    /// Whether something may come after the look.
    may_come_late: bool,
    /// Whether tfwrap is gone: from then on its guardian acts for it, if anybody.
    crashed: bool,
    /// What the acquire said about that when it ended.
    may_appear: bool,
    /// Until when a request of its child's, which somebody killed, may still be in flight.
    in_flight: Option<Millis>,
    /// Whether it was hit by something that costs it its turn.
    pub(crate) hit: bool,
    ended: End,
}

/// The surroundings of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment<'a> {
    pub(crate) config: &'a Config,
    pub(crate) now: Millis,
    /// Since when the register is as it is.
    pub(crate) stored_at: Millis,
}

pub(crate) type Checked = Result<(), String>;

impl Client {
    pub(crate) fn new(index: usize, moment: Moment) -> Result<Self, String> {
        let mut client = Self {
            index,
            run: 0,
            phase: Phase::Over(End::Ran),
            pending: None,
            abandoned: None,
            paused: None,
            outage: None,
            asked: 0,
            told: 0,
            case: Case::Nothing,
            landing: None,
            caught: None,
            may_come_late: false,
            crashed: false,
            may_appear: false,
            in_flight: None,
            hit: false,
            ended: End::Ran,
        };
        if client.is_below(moment.config) {
            client.phase = Phase::Outside;
        } else {
            client.begin(moment)?;
        }
        Ok(client)
    }

    pub(crate) fn letter(&self) -> char {
        ['a', 'b', 'c', 'd'][self.index]
    }

    fn id(&self, moment: Moment) -> LockId {
        // The mutation: the second run comes with the ID of the first.
        let run = if moment.config.mutation == Some(Mutation::SameBytes) { 0 } else { self.run };
        let letter = if self.is_below(moment.config) { 'a' } else { self.letter() };
        LockId(format!("{letter}{run}"))
    }

    fn info(&self, moment: Moment) -> String {
        format!("{{\"ID\":\"{}\"}}", self.id(moment))
    }

    /// What this client's clock shows. Clocks have nothing in common but, nearly, their pace.
    pub(crate) fn clock(&self, config: &Config, now: Millis) -> Uptime {
        let shift = 1_000_000 * (self.index as u64 + 1);
        Uptime(Duration::from_micros(shift + now * config.rates[self.index] * 10))
    }

    /// When this client's clock will show `at`, or a little later.
    fn when(&self, config: &Config, at: Uptime, coarse: Millis) -> Millis {
        let shift = 1_000_000 * (self.index as u64 + 1);
        let micros =
            u64::try_from(at.0.as_nanos().div_ceil(1000)).expect("early").saturating_sub(shift);
        micros.div_ceil(config.rates[self.index] * 10).div_ceil(coarse) * coarse
    }

    fn begin(&mut self, moment: Moment) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let give_up_at = now.plus(moment.config.wait);
        let jitter = Jitter(moment.config.seed * (self.index as u64 + 1));
        let mut machine = Acquire::new(self.id(moment), now, give_up_at, jitter);
        let action = machine.step(now, acquire::Event::Start);
        self.phase = Phase::Acquiring(machine);
        (self.may_appear, self.case) = (false, Case::Nothing);
        self.asked = 0;
        self.acquiring(moment, action)
    }

    fn send(&mut self, moment: Moment, request: Request) -> Checked {
        if self.pending.is_some() {
            return Err(format!("{} sends two requests at once", self.letter()));
        }
        self.asked += 1;
        if self.asked > 12 {
            return Err(format!("{} asks again and again without a pause", self.letter()));
        }
        let patience = match self.tenure_mut().and_then(|tenure| tenure.patience()) {
            Some(patience) => millis(patience) * 100 / moment.config.rates[self.index],
            // The store's own.
            None => millis(Timeouts::default().read),
        };
        self.note_request(moment, &request);
        self.pending = Some(Pending {
            request,
            sent: moment.now,
            limit: moment.now + patience,
            way: Way::Fresh,
            for_beat: false,
        });
        Ok(())
    }

    /// Time went on.
    pub(crate) fn passed(&mut self, moment: Moment) -> Checked {
        self.asked = 0;
        self.in_flight = self.in_flight.filter(|until| *until > moment.now);
        if self.outage.is_some_and(|(_, until)| until <= moment.now) {
            self.outage = None;
        }
        if self.paused.as_ref().is_none_or(|pause| pause.alone || pause.until <= moment.now)
            && let Some(body) = self.body_mut()
        {
            body.passed(moment.now);
        }
        if self.paused.as_ref().is_none_or(|pause| pause.until <= moment.now) {
            let reply_first = self.paused.take().is_none_or(|pause| pause.reply_first);
            self.run(moment, reply_first)?;
        }
        self.fence(moment)
    }

    /// What tfwrap does at this time, or its guardian in its place.
    fn run(&mut self, moment: Moment, reply_first: bool) -> Checked {
        if !reply_first {
            self.tick(moment)?;
        }
        self.hear(moment)?;
        if reply_first {
            self.tick(moment)?;
        }
        if let Some(pending) = &mut self.pending
            && matches!(pending.way, Way::Arrives(at) if at <= moment.now)
        {
            pending.way = Way::Arrived;
        }
        Ok(())
    }

    fn tick(&mut self, moment: Moment) -> Checked {
        let now = self.clock(moment.config, moment.now);
        match &mut self.phase {
            Phase::Acquiring(machine) if machine.deadline().is_some_and(|at| at <= now) => {
                let action = machine.step(now, acquire::Event::Tick);
                self.acquiring(moment, action)
            }
            Phase::Held(_) => {
                self.tick_tenure(moment)?;
                self.tick_child(moment)
            }
            Phase::Ending(_) => {
                self.tick_tenure(moment)?;
                self.end_child(moment)
            }
            Phase::Releasing(_) => self.tick_tenure(moment),
            Phase::Catching(looking) if looking.deadline().is_some_and(|at| at <= now) => {
                self.land(moment, landing::Event::Tick)
            }
            _ => Ok(()),
        }
    }

    fn tick_tenure(&mut self, moment: Moment) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let deadline = self.tenure_mut().and_then(|tenure| tenure.deadline());
        if deadline.is_none_or(|at| at > now) {
            return Ok(());
        }
        self.keep(moment, tenure::Event::Tick)
    }

    fn tick_child(&mut self, moment: Moment) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let Phase::Held(held) = &mut self.phase else { return Ok(()) };
        let is_due = |at: Option<Uptime>| at.is_some_and(|at| at <= now);
        let (gives_up, has_to_decide) = (is_due(held.gives_up_at(now)), is_due(held.deadline(now)));
        match &mut held.child {
            None if gives_up => self.decide(moment, locked_run::Event::Tick),
            Some(child) if !child.body.alive && !child.reaped => {
                child.reaped = true;
                let killed = child.killed || child.killed_by_others;
                let status = if killed { ChildStatus::Signaled(9) } else { ChildStatus::Exited(0) };
                self.supervise(moment, Event::ChildExited { status, rest: Rest::Gone })
            }
            Some(_) if has_to_decide => self.decide(moment, locked_run::Event::Tick),
            _ => Ok(()),
        }
    }

    /// Takes the reply that is due.
    pub(crate) fn hear(&mut self, moment: Moment) -> Checked {
        if self.paused.is_some() {
            return Ok(());
        }
        let due =
            |pending: &mut Pending| matches!(pending.way, Way::Answered(at, _) if at <= moment.now);
        let Some(pending) = self.pending.take_if(due) else { return Ok(()) };
        let Way::Answered(_, reply) = pending.way else { return Ok(()) };
        let mutation = moment.config.mutation;
        let now = self.clock(moment.config, moment.now);
        let seen = match mutation {
            Some(Mutation::WaiterFromRequest) => self.clock(moment.config, pending.sent),
            _ => now,
        };
        match (&mut self.phase, reply) {
            (Phase::Acquiring(machine), Reply::Wrote(reply)) => {
                let action = machine.step(seen, acquire::Event::Took(reply));
                self.acquiring(moment, action)
            }
            (Phase::Acquiring(machine), Reply::Read(reply)) => {
                let action = machine.step(seen, acquire::Event::Looked(reply));
                self.acquiring(moment, action)
            }
            (Phase::Held(_), Reply::Wrote(Err(error)))
                if mutation == Some(Mutation::RenewedByReadBack) && error.outcome_is_unknown() =>
            {
                self.send(moment, Request::Read)?;
                self.pending.as_mut().expect("just sent").for_beat = true;
                Ok(())
            }
            (Phase::Held(held), Reply::Read(reply)) if pending.for_beat => {
                let reply = match reply {
                    Ok(Some(stored)) if stored.record.is_held_by(held.tenure.id()) => {
                        Ok(WriteReply::Applied(stored.version))
                    }
                    Ok(other) => Ok(WriteReply::Conflict(Some(other))),
                    Err(error) => Err(error),
                };
                self.keep(moment, tenure::Event::Answered(Reply::Wrote(reply)))
            }
            (Phase::Held(_) | Phase::Ending(_) | Phase::Releasing(_), reply) => {
                self.keep(moment, tenure::Event::Answered(reply))
            }
            (Phase::Catching(_), Reply::Read(reply)) => {
                self.land(moment, landing::Event::Looked(reply))
            }
            (_, reply) => Err(format!("{} got {reply:?} out of place", self.letter())),
        }
    }
}
