//! One tfwrap of the world: the shipped machines, driven as the shell in `run` drives them, and
//! the child between them.

use std::time::Duration;

use tfwrap::lock::acquire::{self, Acquire, Outcome, Won};
use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::keeper::{self, Keeper, News, Tenure};
use tfwrap::lock::lease::{Lease, LeaseTerm, SHORTEST};
use tfwrap::lock::release::{self, Release, ReleaseOutcome};
use tfwrap::lock::{LockId, Uptime};
use tfwrap::store::{Expect, Record, RecordVersion, RemoveReply, StoreError, Stored, WriteReply};
use tfwrap::supervise::{
    Action, ChildStatus, Event, Policy, Reach, SecondSignal, StopSignal, Supervisor,
};

use crate::config::{Config, Millis, Mutation};

/// The store's own time-out of a request that has none by the keeper (`Timeouts::read`).
const TIME_OUT: Millis = 5_000;

/// A keeper sleeps no longer than it wants, or only by a little.
const KEEPERS_WAKE: Millis = 100;

/// How long an unconfirmed lock may be in the way (`run::supervise::CONFIRM`).
const CONFIRM: Millis = 40_000;

/// What a child takes that nobody stops.
const SHORT: Millis = 2_000;
const LONG: Millis = 18_000;

/// What a child takes that heeds its interrupt. The long one does not.
const ENDING: Millis = 1_000;

/// What is sent to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    Write(Record, Expect),
    Read,
    Remove(RecordVersion),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    Wrote(Result<WriteReply, StoreError>),
    Read(Result<Option<Stored>, StoreError>),
    Removed(Result<RemoveReply, StoreError>),
}

impl Request {
    pub(crate) fn failed(&self, error: StoreError) -> Reply {
        match self {
            Self::Write(..) => Reply::Wrote(Err(error)),
            Self::Read => Reply::Read(Err(error)),
            Self::Remove(_) => Reply::Removed(Err(error)),
        }
    }

    /// No answer came.
    pub(crate) fn unknown(&self) -> Reply {
        self.failed(StoreError::Unavailable { detail: String::new(), sent: true })
    }
}

/// Where a request is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// Sent; what becomes of it is open.
    Fresh,
    /// Slow: it reaches the store then.
    Arrives(Millis),
    /// It reaches the store now.
    Arrived,
    /// This is what the client will see.
    Answered(Millis, Reply),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) sent: Millis,
    /// When whoever waits gives it up.
    pub(crate) limit: Millis,
    pub(crate) way: Way,
    /// Only under [`Mutation::RenewedByReadBack`]: this read stands for an unanswered beat.
    for_beat: bool,
}

/// A child, and what supervises it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Child {
    supervisor: Supervisor,
    alive: bool,
    frozen: bool,
    long: bool,
    ends_at: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    keeper: Keeper,
    child: Option<Child>,
    confirm_by: Millis,
    /// Nothing runs any more, or ever will: on to the release.
    over: bool,
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
    Acquiring(Acquire),
    Held(Held),
    Releasing(Release),
    Over(End),
    /// `orphan`: its child lives on, which is what the guardian will be for.
    Crashed {
        orphan: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pause {
    pub(crate) until: Millis,
    /// Of a reply and a tick that have both become due, which is seen first.
    pub(crate) reply_first: bool,
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
pub(crate) struct Client {
    pub(crate) index: usize,
    /// Every run takes the lock under an ID of its own.
    pub(crate) run: u8,
    pub(crate) phase: Phase,
    pub(crate) pending: Option<Pending>,
    pub(crate) paused: Option<Pause>,
    pub(crate) outage: Option<(Outage, Millis)>,
    /// Requests since time last went on.
    pub(crate) asked: u8,
    /// The runs whose user was told that the record may still appear or is still there.
    told: u8,
    /// What the acquire said about that when it ended.
    may_appear: bool,
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
            paused: None,
            outage: None,
            asked: 0,
            told: 0,
            may_appear: false,
            hit: false,
            ended: End::Ran,
        };
        client.begin(moment)?;
        Ok(client)
    }

    pub(crate) fn letter(&self) -> char {
        ['a', 'b', 'c', 'd'][self.index]
    }

    fn id(&self, moment: Moment) -> LockId {
        // The mutation: the second run comes with the ID of the first.
        let run = if moment.config.mutation == Some(Mutation::SameBytes) { 0 } else { self.run };
        LockId(format!("{}{run}", self.letter()))
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
        self.may_appear = false;
        self.acquiring(moment, action)
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_) | Phase::Crashed { .. })
    }

    pub(crate) fn holds(&self) -> bool {
        matches!(self.phase, Phase::Held(_) | Phase::Releasing(_))
    }

    /// Whether its child does something.
    pub(crate) fn child_acts(&self) -> bool {
        match &self.phase {
            Phase::Held(Held { child: Some(child), .. }) => {
                child.alive && !child.frozen && self.paused.is_none()
            }
            Phase::Crashed { orphan } => *orphan,
            _ => false,
        }
    }

    /// Whether its child could do something, if only later.
    pub(crate) fn child_lives(&self) -> bool {
        matches!(&self.phase, Phase::Held(Held { child: Some(child), .. }) if child.alive)
    }

    /// Whether its child was told to end, or need not be.
    pub(crate) fn is_stopping(&self) -> bool {
        match &self.phase {
            Phase::Held(held) => held.over || held.keeper.is_lost(),
            _ => true,
        }
    }

    /// Whether asking it to end changes anything.
    pub(crate) fn can_stop(&self) -> bool {
        match &self.phase {
            Phase::Acquiring(_) => true,
            Phase::Held(held) => !held.over,
            _ => false,
        }
    }

    /// Whether the run that took this ID is over, and if so, whether its user was told that it
    /// may still be there.
    pub(crate) fn left(&self, run: u8) -> Option<bool> {
        (self.run > run || self.is_over()).then_some(self.told & (1 << run) != 0)
    }

    /// When it wants to be woken.
    pub(crate) fn wake(&self, config: &Config) -> Option<Millis> {
        if let Some(pause) = &self.paused {
            return Some(pause.until);
        }
        let machine = match &self.phase {
            Phase::Acquiring(machine) => {
                machine.deadline().map(|at| self.when(config, at, config.oversleep))
            }
            Phase::Releasing(machine) => {
                machine.deadline().map(|at| self.when(config, at, config.oversleep))
            }
            Phase::Held(held) => {
                let keeper = self.when(config, held.keeper.deadline(), KEEPERS_WAKE);
                let other = match &held.child {
                    None => Some(held.confirm_by),
                    Some(child) if child.alive && !child.frozen => Some(child.ends_at),
                    Some(child) => {
                        child.supervisor.deadline().map(|at| self.when(config, at, KEEPERS_WAKE))
                    }
                };
                Some(other.map_or(keeper, |other| other.min(keeper)))
            }
            Phase::Over(_) | Phase::Crashed { .. } => None,
        };
        let pending = self.pending.as_ref().and_then(|pending| match &pending.way {
            Way::Arrives(at) | Way::Answered(at, _) => Some(*at),
            Way::Fresh | Way::Arrived => None,
        });
        machine.into_iter().chain(pending).min()
    }

    fn send(&mut self, moment: Moment, request: Request) -> Checked {
        if self.pending.is_some() {
            return Err(format!("{} sends two requests at once", self.letter()));
        }
        self.asked += 1;
        if self.asked > 12 {
            return Err(format!("{} asks again and again without a pause", self.letter()));
        }
        let patience = match &self.phase {
            Phase::Held(held) => {
                let patience = u64::try_from(held.keeper.patience().as_millis()).expect("short");
                patience * 100 / moment.config.rates[self.index]
            }
            _ => TIME_OUT,
        };
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
        if self.outage.is_some_and(|(_, until)| until <= moment.now) {
            self.outage = None;
        }
        let mut reply_first = true;
        if let Some(pause) = &self.paused {
            if pause.until > moment.now {
                return Ok(());
            }
            reply_first = pause.reply_first;
            self.paused = None;
        }
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
            Phase::Releasing(machine) if machine.deadline().is_some_and(|at| at <= now) => {
                let action = machine.step(now, release::Event::Tick);
                self.releasing(moment, action)
            }
            Phase::Held(held) => {
                if held.keeper.deadline() <= now {
                    self.keep(moment, keeper::Event::Tick)?;
                }
                self.tick_child(moment)
            }
            _ => Ok(()),
        }
    }

    fn tick_child(&mut self, moment: Moment) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let Phase::Held(held) = &mut self.phase else { return Ok(()) };
        match &mut held.child {
            None if held.confirm_by <= moment.now => {
                held.over = true;
                self.ended = End::Failed;
                self.give_back(moment)
            }
            Some(child) if child.alive && !child.frozen && child.ends_at <= moment.now => {
                child.alive = false;
                let status = ChildStatus::Exited(0);
                self.supervise(moment, Event::ChildExited { status, group_gone: true })
            }
            Some(child) if child.supervisor.deadline().is_some_and(|at| at <= now) => {
                self.supervise(moment, Event::Tick)
            }
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
                    Ok(Some(stored)) if stored.record.is_held_by(held.keeper.id()) => {
                        Ok(WriteReply::Applied(stored.version))
                    }
                    Ok(other) => Ok(WriteReply::Conflict(Some(other))),
                    Err(error) => Err(error),
                };
                self.keep(moment, keeper::Event::Beaten(reply))
            }
            (Phase::Held(_), Reply::Wrote(reply)) => {
                self.keep(moment, keeper::Event::Beaten(reply))
            }
            (Phase::Held(_), Reply::Read(reply)) => self.keep(moment, keeper::Event::Looked(reply)),
            (Phase::Releasing(machine), Reply::Removed(reply)) => {
                let action = machine.step(now, release::Event::Removed(reply));
                self.releasing(moment, action)
            }
            (Phase::Releasing(machine), Reply::Read(reply)) => {
                let action = machine.step(now, release::Event::Looked(reply));
                self.releasing(moment, action)
            }
            (_, reply) => Err(format!("{} got {reply:?} out of place", self.letter())),
        }
    }

    fn acquiring(&mut self, moment: Moment, action: acquire::Action) -> Checked {
        let lease = Lease { term: LeaseTerm::After(SHORTEST).first(), beat: 0 };
        let record = Record { info: Some(self.info(moment)), lease: Some(lease.to_text()) };
        let outcome = match action {
            acquire::Action::Wait => return Ok(()),
            acquire::Action::Take => {
                return self.send(moment, Request::Write(record, Expect::Absent));
            }
            acquire::Action::TakeOver(version) => {
                return self.send(moment, Request::Write(record, Expect::Version(version)));
            }
            acquire::Action::Look => return self.send(moment, Request::Read),
            acquire::Action::Done(outcome) => outcome,
        };
        if let Phase::Acquiring(machine) = &self.phase {
            self.may_appear = machine.may_still_appear();
        }
        let (won, end) = match outcome {
            Outcome::Granted(won) => (Some(won), End::Ran),
            Outcome::Stopped { held } => (held, End::Stopped),
            Outcome::TimedOut => (None, End::TimedOut),
            Outcome::Failed(_) => (None, End::Failed),
        };
        self.ended = end;
        let Some(mut won) = won else { return self.run_is_over(moment, false) };
        if won.since > self.clock(moment.config, moment.stored_at) {
            return Err(format!(
                "{} dates its lock from after it was stored: {won:?}",
                self.letter()
            ));
        }
        let now = self.clock(moment.config, moment.now);
        Self::mutate(moment.config, now, &mut won);
        let Won { version, since, answered } = won;
        let (id, info) = (self.id(moment), Some(self.info(moment)));
        let tenure = Tenure { id, info, version, lease, since, answered };
        let keeper = Keeper::new(tenure, LeaseTerm::After(SHORTEST), now);
        let (over, confirm_by) = (end == End::Stopped, moment.now + CONFIRM);
        self.phase = Phase::Held(Held { keeper, child: None, confirm_by, over });
        self.tick(moment)?;
        self.give_back(moment)
    }

    fn mutate(config: &Config, now: Uptime, won: &mut Won) {
        match config.mutation {
            Some(Mutation::FoundCountedFromNow) if !won.answered => {
                (won.since, won.answered) = (now, true);
            }
            Some(Mutation::HolderFromReply) => won.since = now,
            _ => {}
        }
    }

    /// Whether nothing but a decision keeps the child from starting.
    pub(crate) fn can_start(&self, moment: Moment) -> bool {
        let now = self.clock(moment.config, moment.now);
        self.paused.is_none()
            && matches!(&self.phase, Phase::Held(Held { keeper, child: None, over: false, .. })
                if keeper.may_start(now))
    }

    pub(crate) fn start(&mut self, moment: Moment, long: bool) {
        let Phase::Held(held) = &mut self.phase else { return };
        held.child = Some(Child {
            supervisor: Supervisor::new(Policy { second_signal: SecondSignal::Hold, grace: None }),
            alive: true,
            frozen: false,
            long,
            ends_at: moment.now + if long { LONG } else { SHORT },
        });
    }

    fn keep(&mut self, moment: Moment, event: keeper::Event) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let Phase::Held(held) = &mut self.phase else { return Ok(()) };
        let mut orders = Vec::new();
        for action in held.keeper.step(now, event) {
            match action {
                keeper::Action::Beat(record, version) => {
                    self.send(moment, Request::Write(record, Expect::Version(version)))?;
                }
                keeper::Action::Look => self.send(moment, Request::Read)?,
                keeper::Action::Say(news) => orders.push(match news {
                    News::Lost(_) => {
                        self.ended = End::Lost;
                        Event::MustStop
                    }
                    News::Interrupt => Event::MustStop,
                    News::Kill => Event::MustKill,
                    News::Freeze => Event::Freeze,
                    News::Thaw => Event::Thaw,
                    News::Refused { .. } | News::LastBeat { .. } => continue,
                }),
            }
        }
        for order in orders {
            self.supervise(moment, order)?;
        }
        self.give_back(moment)
    }

    fn supervise(&mut self, moment: Moment, event: Event) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let Phase::Held(held) = &mut self.phase else { return Ok(()) };
        let Some(child) = &mut held.child else {
            held.over |= held.keeper.is_lost();
            return Ok(());
        };
        for action in child.supervisor.step(now, event) {
            match action {
                Action::Interrupt if !child.long => {
                    child.ends_at = child.ends_at.min(moment.now + ENDING);
                }
                Action::Freeze => child.frozen = true,
                Action::Thaw => child.frozen = false,
                Action::Kill if child.alive => {
                    child.alive = false;
                    let status = ChildStatus::Signaled(9);
                    return self.supervise(moment, Event::ChildExited { status, group_gone: true });
                }
                Action::Finished { .. } => {
                    if child.alive {
                        return Err(format!("{} is done with a live child", self.letter()));
                    }
                    held.over = true;
                }
                _ => {}
            }
        }
        self.give_back(moment)
    }

    /// Gives the lock back once nothing runs under it and no beat is out.
    fn give_back(&mut self, moment: Moment) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let Phase::Held(held) = &self.phase else { return Ok(()) };
        if !held.over || self.pending.is_some() {
            return Ok(());
        }
        if held.keeper.lost_to().is_some() {
            return self.run_is_over(moment, false);
        }
        let (id, version) = (held.keeper.id().clone(), held.keeper.version().cloned());
        let mut machine = Release::new(id, version, now, Jitter(moment.config.seed));
        let action = machine.step(now, release::Event::Start);
        self.phase = Phase::Releasing(machine);
        self.releasing(moment, action)
    }

    fn releasing(&mut self, moment: Moment, action: release::Action) -> Checked {
        match action {
            release::Action::Wait => Ok(()),
            release::Action::Remove(version) => self.send(moment, Request::Remove(version)),
            release::Action::Look => self.send(moment, Request::Read),
            release::Action::Done(outcome) => {
                self.run_is_over(moment, matches!(outcome, ReleaseOutcome::Unconfirmed(_)))
            }
        }
    }

    fn run_is_over(&mut self, moment: Moment, unconfirmed: bool) -> Checked {
        if unconfirmed || self.may_appear {
            self.told |= 1 << self.run;
        }
        if !self.hit && matches!(self.ended, End::TimedOut | End::Failed | End::Lost) {
            let end = self.ended;
            return Err(format!("{} was let down ({end:?}) though nothing hit it", self.letter()));
        }
        if self.run + 1 < moment.config.runs[self.index] {
            self.run += 1;
            return self.begin(moment);
        }
        self.phase = Phase::Over(self.ended);
        Ok(())
    }

    /// The user wants it to end.
    pub(crate) fn stop(&mut self, moment: Moment) -> Checked {
        let now = self.clock(moment.config, moment.now);
        match &mut self.phase {
            Phase::Acquiring(machine) => {
                let action = machine.step(now, acquire::Event::Stop);
                self.acquiring(moment, action)
            }
            Phase::Held(held) if held.child.is_none() => {
                held.over = true;
                self.ended = End::Stopped;
                self.give_back(moment)
            }
            Phase::Held(_) => {
                self.supervise(moment, Event::Stop(StopSignal::Interrupt, Reach::UsOnly))
            }
            _ => Ok(()),
        }
    }

    /// It stands still, and its child with it.
    pub(crate) fn pause(&mut self, moment: Moment, lasts: Millis, reply_first: bool) {
        self.paused = Some(Pause { until: moment.now + lasts, reply_first });
        if let Phase::Held(Held { child: Some(child), .. }) = &mut self.phase
            && child.alive
        {
            child.ends_at += lasts;
        }
    }

    /// It is gone. What it sent is not; that is returned.
    pub(crate) fn crash(&mut self, orphan: bool) -> Option<Request> {
        self.told |= 1 << self.run;
        let orphan = orphan && self.child_lives();
        self.phase = Phase::Crashed { orphan };
        (self.paused, self.outage) = (None, None);
        let pending = self.pending.take()?;
        let on_its_way = !matches!(pending.way, Way::Answered(..));
        (on_its_way && pending.request != Request::Read).then_some(pending.request)
    }
}
