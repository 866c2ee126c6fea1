//! The machine that acquires one lock: what to ask the store next, given what it answered.
//!
//! It has no clock, no I/O and no randomness of its own. The event loop in [`crate::run`] sends
//! what an [`Action`] asks for, one request at a time, and feeds the result back.
//!
//! A reply is applied, refused or unknown (`docs/protocol.md#r2-applied-refused-unknown`). Unknown
//! is settled by a read. Our own ID in the register means that the lock is ours. *Refused, then
//! absent* means that it has just come free (`docs/protocol.md#a2-what-an-answer-means`).

mod replies;

use std::time::Duration;

use super::backoff::{ALONE, Pace};
use super::jitter::Jitter;
use super::lease::{Lease, LeaseTerm};
use super::line::HandedOn;
use super::{APPLY_OPERATION, Holder, LockId, LockInfo, Uptime};
use crate::lock::register::{LeftOpen, Record, RecordVersion, StoreError, Stored, WriteReply};

/// How long a store that never answered is tried before that is an error of its own.
pub const FIRST_CONTACT: Duration = Duration::from_secs(10);

/// How long a stop waits for what is out: an answer, or an unanswered write to be settled by
/// reading. GitHub kills 10 s after the first signal.
pub const STOP_PATIENCE: Duration = Duration::from_secs(4);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Begin.
    Start,
    /// The conditional create that [`Action::Take`] asked for came back.
    Took(Result<WriteReply, StoreError>),
    /// The read that [`Action::Look`] asked for came back.
    Looked(Result<Option<Stored>, StoreError>),
    /// [`Acquire::deadline`] has passed.
    Tick,
    /// The user or the CI wants tfwrap to stop.
    Stop,
}

/// What the event loop does next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Send the conditional create of our record.
    Take,
    /// Write our record over this version: its holder let its lease expire.
    TakeOver(RecordVersion),
    /// Read the register.
    Look,
    /// Nothing until an event; a request that is out stays out.
    Wait,
    /// It is over; after a stop even if a request is out.
    Done(Outcome),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The lock is ours.
    Granted(Won),
    /// Someone else had it until the end of the wait.
    TimedOut,
    /// Stopped while waiting. `held`: the lock became ours all the same and must be given back.
    Stopped {
        /// Our record, where the last request got it.
        held: Option<Won>,
    },
    /// The store does not let us.
    Failed(StoreError),
}

/// A lock that became ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Won {
    /// The version of our record.
    pub version: RecordVersion,
    /// Before the request was sent that may have stored it; from there its lease counts.
    pub since: Uptime,
    /// Whether that very request was answered. Finding our own ID means that the record is ours;
    /// it does not date it.
    pub answered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State {
    /// Not begun.
    New,
    /// A create or a take-over is out.
    Taking { sent: Uptime },
    /// A read is out; `settling`: it answers an unanswered create.
    Looking { settling: bool, sent: Uptime },
    /// Asleep until `next`, then `then`.
    Waiting { next: Uptime, then: Next },
    /// Over. `ours`: with the lock in hand.
    Ended { ours: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Next {
    Take,
    Look,
    Settle,
}

/// What of ours a store has answered, at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Reached {
    Nothing,
    /// Reads alone, as far as we know.
    Reads,
    Writes,
}

/// What was seen in the register last, and since when it looks so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seen {
    record: Record,
    version: RecordVersion,
    /// After the reply that showed it first, to us or to whoever told us of it.
    since: Uptime,
    /// After the reply that showed it first to us.
    met: Uptime,
    /// Before the request was sent that showed it last.
    until: Uptime,
}

impl Seen {
    /// When its lease has stood still for its whole term ([`Acquire::has_expired`] asks); never, without
    /// a lease. Time that another waiter observed counts, but only once we have watched for a sign of
    /// life ourselves: the line may be damaged, or edited by hand.
    fn expires(&self) -> Option<Uptime> {
        let lease = self.record.lease.as_deref().and_then(Lease::parse)?;
        match lease.term {
            LeaseTerm::Never => None,
            LeaseTerm::After(ttl) => {
                Some(self.since.plus(ttl).max(self.met.plus(lease.term.sign_of_life())))
            }
        }
    }
}

/// The ID and the beat of a leased record.
fn identity(record: &Record) -> Option<(String, u64)> {
    let lease = record.lease.as_deref().and_then(Lease::parse)?;
    let info = LockInfo::parse(record.info.as_deref()?).ok()?;
    Some((info.id.0, lease.beat))
}

/// Whether this is the record of which a waiter that left has spoken, with the same beat.
fn is_of(record: &Record, before: &HandedOn) -> bool {
    identity(record).is_some_and(|(id, beat)| id == before.id && beat == before.beat)
}

/// What a look from behind in the line shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Observation {
    /// Someone holds it.
    Held,
    /// It can be taken: it is free, or its lease has expired.
    Free,
    /// The record is ours, by a request that was never answered.
    Ours,
    /// The store did not say.
    Unknown,
}

/// Takes one lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Acquire {
    id: LockId,
    jitter: Jitter,
    give_up_at: Uptime,
    started: Uptime,
    state: State,
    seen: Option<Seen>,
    /// Requests in a row that brought no answer.
    faults: u32,
    last_fault: Option<StoreError>,
    /// Whether a write of ours was refused since we rested last.
    refused: bool,
    /// Refusals in a row after which the lock was there to be taken all the same.
    phantoms: u32,
    /// What the store ever answered.
    reached: Reached,
    /// Since when our creates are answered by something else alone.
    misled: Option<Uptime>,
    /// Whether reads are denied: then a create is the only way to look.
    blind: bool,
    /// How many creates were never answered nor found, so that they may still land.
    unanswered: u32,
    /// How they were answered, at the worst.
    left_open: Option<LeftOpen>,
    /// Before the first request was sent that may have stored our record.
    first_sent: Option<Uptime>,
    /// Whose expired lease was written over.
    taken_over: Option<Record>,
    /// What a waiter before us saw, who left.
    handed_on: Option<HandedOn>,
    last_try: bool,
    stopping: Option<Uptime>,
    /// How often the lock is looked at.
    pace: Pace,
}

impl Acquire {
    /// Prepares to take the lock under `id`, at the latest at `give_up_at`.
    #[must_use]
    pub fn new(id: LockId, now: Uptime, give_up_at: Uptime, jitter: Jitter) -> Self {
        Self {
            id,
            jitter,
            give_up_at,
            started: now,
            state: State::New,
            seen: None,
            faults: 0,
            last_fault: None,
            refused: false,
            phantoms: 0,
            reached: Reached::Nothing,
            misled: None,
            blind: false,
            unanswered: 0,
            left_open: None,
            first_sent: None,
            taken_over: None,
            handed_on: None,
            last_try: false,
            stopping: None,
            pace: ALONE,
        }
    }

    /// When the machine wants a [`Event::Tick`]; `None` while a request is out, unless we were
    /// told to stop.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        match self.state {
            State::Waiting { next, .. } => Some(next),
            State::Taking { .. } | State::Looking { .. } => self.leaves_at(),
            State::New | State::Ended { .. } => None,
        }
    }

    /// How often the lock is looked at from here on.
    pub(super) fn paced(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Whether we were told to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// When we leave, whatever is out by then.
    pub(super) fn leaves_at(&self) -> Option<Uptime> {
        self.stopping.map(|since| since.plus(STOP_PATIENCE))
    }

    /// From here on nothing is asked that could make the lock ours, and in the end it is not
    /// granted: for whoever cannot send [`Event::Stop`] now, since a request of its own is out.
    pub(super) fn stops(&mut self, now: Uptime) {
        self.stopping.get_or_insert(now);
    }

    /// Whether anybody else was seen to hold the lock.
    #[must_use]
    pub fn contended(&self) -> bool {
        self.seen.is_some()
    }

    /// Who was seen to hold the lock last, if anybody.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        self.seen.as_ref().map(|seen| Holder::of(&seen.record))
    }

    /// Who that is, if it applies and is a tfwrap, which writes to the history when it is over. Stock Terraform
    /// declares no lease.
    #[must_use]
    pub fn applying_tfwrap(&self) -> Option<LockInfo> {
        let record = &self.seen.as_ref().filter(|seen| seen.record.lease.is_some())?.record;
        let info = LockInfo::parse(record.info.as_deref()?).ok()?;
        (info.operation == APPLY_OPERATION).then_some(info)
    }

    /// The record that was seen last.
    #[must_use]
    pub fn shown(&self) -> Option<Stored> {
        let Seen { record, version, .. } = self.seen.as_ref()?;
        Some(Stored { record: record.clone(), version: version.clone() })
    }

    /// Whether the store refuses us the lock again and again, and shows nobody who has it.
    #[must_use]
    pub fn is_refused_for_nobody(&self) -> bool {
        self.phantoms > 1 && !self.blind
    }

    /// The same for more than a moment: two that write at once are refused, too.
    #[must_use]
    pub fn is_long_refused_for_nobody(&self) -> bool {
        self.phantoms > 2 && !self.blind
    }

    /// Whether it is refused, and may not be read.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        self.blind
    }

    /// Why the store does not answer at the moment.
    #[must_use]
    pub fn fault(&self) -> Option<&StoreError> {
        self.last_fault.as_ref()
    }

    /// Whose lease had expired, where the lock was taken over.
    #[must_use]
    pub fn taken_over(&self) -> Option<&Record> {
        self.taken_over.as_ref()
    }

    /// Whether a create of ours was never answered, so that our record may still appear although
    /// the register was seen without it (a signature lives for minutes).
    #[must_use]
    pub fn may_still_appear(&self) -> bool {
        self.unanswered > 0
    }

    /// Whether our record is in the register, or may get there: it was granted, or a create of ours
    /// is out, or was never answered.
    #[must_use]
    pub fn may_be_ours(&self) -> bool {
        self.may_still_appear()
            || matches!(self.state, State::Taking { .. } | State::Ended { ours: true })
    }

    /// How that create was answered, of several at the worst.
    #[must_use]
    pub fn left_open(&self) -> Option<LeftOpen> {
        self.left_open.filter(|_| self.may_still_appear())
    }

    /// Counts what a waiter that left has seen, if the same record is still there: a duration, so
    /// no clock is compared. `now` is after the reply that told of it, so the record stood so long
    /// before it at the least. How far that is believed: [`Seen::expires`].
    pub fn hand_on(&mut self, now: Uptime, before: HandedOn) {
        if let Some(seen) = &mut self.seen
            && is_of(&seen.record, &before)
        {
            seen.since = seen.since.min(now.minus(Duration::from_millis(before.stood)));
        }
        self.handed_on = Some(before);
    }

    /// The store has answered a write beside the lock: from here on its faults are waited out.
    pub fn reached(&mut self) {
        self.reached = Reached::Writes;
    }

    /// What answers our creates in the place of the store, and for how long by now.
    fn misled(&self, now: Uptime) -> Option<(&StoreError, Duration)> {
        let error = self.last_fault.as_ref();
        let error = error.filter(|error| matches!(error, StoreError::NotTheStore { .. }))?;
        Some((error, now.since(self.misled?)))
    }

    /// Something else has answered a look beside the lock.
    pub fn missed(&mut self, now: Uptime, error: StoreError) -> Action {
        self.fault_or_fail(now, error, Next::Take)
    }

    /// When the record that was seen last may be taken over; never, without a lease.
    #[must_use]
    pub fn expires(&self) -> Option<Uptime> {
        self.seen.as_ref().and_then(Seen::expires)
    }

    /// How long the holder's record was seen to stand still, for whoever waits on.
    #[must_use]
    pub fn observation(&self) -> Option<HandedOn> {
        let seen = self.seen.as_ref()?;
        let (id, beat) = identity(&seen.record)?;
        let stood = u64::try_from(seen.until.since(seen.since).as_millis()).ok()?;
        Some(HandedOn { id, beat, stood })
    }

    /// How long the holder's record stands still by now; nothing where it has no lease.
    #[must_use]
    pub fn silence(&self, now: Uptime) -> Option<Duration> {
        let seen = self.seen.as_ref()?;
        identity(&seen.record).map(|_| now.since(seen.since))
    }

    /// Whether it waits for nothing but the holder: no request of ours is to be settled or sent
    /// again.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        matches!(self.state, State::New | State::Waiting { then: Next::Look, .. })
    }

    /// Takes note of a look that somebody else asked for, without deciding anything. `sent` is
    /// when it was asked.
    pub fn observe(
        &mut self,
        now: Uptime,
        sent: Uptime,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Observation {
        match reply {
            Ok(Some(stored)) if stored.record.is_held_by(&self.id) => Observation::Ours,
            Ok(Some(stored)) => {
                self.answered();
                self.see(now, sent, stored);
                if self.has_expired(now) { Observation::Free } else { Observation::Held }
            }
            Ok(None) => {
                self.answered();
                Observation::Free
            }
            Err(error) => {
                self.faulted(error);
                Observation::Unknown
            }
        }
    }

    /// Tries now, whatever the line says.
    pub fn attempt(&mut self, now: Uptime) -> Action {
        if self.is_stopping() {
            return self.way_out(now);
        }
        if now >= self.give_up_at {
            self.last_try = true;
        }
        if self.has_expired(now) { self.take_over(now) } else { self.take(now) }
    }

    /// Begins to watch the lock, or goes on with it at once.
    pub fn watch(&mut self, now: Uptime) -> Action {
        if self.is_stopping() {
            return self.way_out(now);
        }
        if now >= self.give_up_at { self.attempt(now) } else { self.look(now, false) }
    }

    /// Decides.
    pub fn step(&mut self, now: Uptime, event: Event) -> Action {
        if event == Event::Stop {
            self.stops(now);
        }
        let is_over = matches!(self.state, State::Ended { .. });
        if !is_over && self.leaves_at().is_some_and(|at| now >= at) {
            return self.break_off();
        }
        match (self.state.clone(), event) {
            (State::New, Event::Start) => self.take(now),
            (State::Taking { sent }, Event::Took(reply)) => self.took(now, sent, reply),
            (State::Looking { settling, sent }, Event::Looked(reply)) => {
                self.looked(now, sent, reply, settling)
            }
            (State::Waiting { next, then }, Event::Tick) if now >= next => self.wake(now, then),
            (State::New | State::Waiting { .. }, Event::Stop) => self.way_out(now),
            // A tick that came early, a stop while a request is out, or anything after the end.
            _ => Action::Wait,
        }
    }
}

#[cfg(test)]
mod tests;
