//! The machine that takes one lock: what to ask the store next, given what it answered.
//!
//! No clock, no I/O, no randomness of its own. The shell in [`crate::run`] sends what an
//! [`Action`] asks for, one request at a time, and feeds back what came of it.
//!
//! The rules are those of the protocol: a reply is applied, refused or unknown; unknown is
//! settled by a read; our own ID in the register means that it is ours; *refused, then absent*
//! means that it has just come free.

use std::time::Duration;

use super::backoff::{HEAD, pause_after};
use super::jitter::Jitter;
use super::lease::{Lease, LeaseTerm};
use super::{Holder, LockId, Uptime};
use crate::store::{Record, RecordVersion, StoreError, Stored, WriteReply};

/// How long a store that never answered is tried before that is an error of its own.
pub const FIRST_CONTACT: Duration = Duration::from_secs(10);

/// How long a stop waits for an unanswered write to be settled by reading. GitHub kills 10 s
/// after the first signal.
const SETTLE_AFTER_STOP: Duration = Duration::from_secs(4);

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

/// What the shell does next.
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
    /// It is over.
    Done(Outcome),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    Looking { settling: bool },
    /// Asleep until `next`, then `then`.
    Waiting { next: Uptime, then: Next },
    /// Over.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Next {
    Take,
    Look,
    Settle,
}

/// What was seen in the register last, and since when it looks so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seen {
    record: Record,
    version: RecordVersion,
    since: Uptime,
}

impl Seen {
    /// When its lease has stood still for its whole term; never, without a lease.
    fn expires(&self) -> Option<Uptime> {
        let lease = self.record.lease.as_deref().and_then(Lease::parse)?;
        match lease.term {
            LeaseTerm::Never => None,
            LeaseTerm::After(ttl) => Some(self.since.plus(ttl)),
        }
    }
}

/// Takes one lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the attempt")]
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
    /// Times in a row that a refused create met an empty register.
    phantoms: u32,
    /// Whether the store ever answered.
    reached: bool,
    /// Whether reads are denied: then a create is the only way to look.
    blind: bool,
    /// How many creates were never answered nor found, so that they may still land.
    unanswered: u32,
    /// Before the first request was sent that may have stored our record.
    first_sent: Option<Uptime>,
    /// Whose expired lease was written over.
    taken_over: Option<Record>,
    contended: bool,
    last_try: bool,
    stopping: Option<Uptime>,
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
            phantoms: 0,
            reached: false,
            blind: false,
            unanswered: 0,
            first_sent: None,
            taken_over: None,
            contended: false,
            last_try: false,
            stopping: None,
        }
    }

    /// When the machine wants a [`Event::Tick`]; `None` while a request is out.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        match self.state {
            State::Waiting { next, .. } => Some(next),
            _ => None,
        }
    }

    /// Whether anybody else was seen to hold the lock.
    #[must_use]
    pub fn contended(&self) -> bool {
        self.contended
    }

    /// Who was seen to hold the lock last, if anybody.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        self.seen.as_ref().map(|seen| Holder::of(&seen.record))
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

    /// Decides.
    pub fn step(&mut self, now: Uptime, event: Event) -> Action {
        match (self.state.clone(), event) {
            (State::New, Event::Start) => self.take(now),
            (State::Taking { sent }, Event::Took(reply)) => self.took(now, sent, reply),
            (State::Looking { settling }, Event::Looked(reply)) => {
                self.looked(now, reply, settling)
            }
            (State::Waiting { next, then }, Event::Tick) if now >= next => self.wake(now, then),
            (State::Waiting { then, .. }, Event::Stop) => {
                self.stopping.get_or_insert(now);
                if matches!(then, Next::Settle) {
                    self.look(now, true)
                } else {
                    self.end(Outcome::Stopped { held: None })
                }
            }
            (State::New, Event::Stop) => self.end(Outcome::Stopped { held: None }),
            (State::Taking { .. } | State::Looking { .. }, Event::Stop) => {
                self.stopping.get_or_insert(now);
                Action::Wait
            }
            // A tick that came early, or anything after the end.
            _ => Action::Wait,
        }
    }

    fn take(&mut self, now: Uptime) -> Action {
        self.first_sent.get_or_insert(now);
        self.state = State::Taking { sent: now };
        Action::Take
    }

    fn look(&mut self, now: Uptime, settling: bool) -> Action {
        if self.blind {
            return self.take(now);
        }
        self.state = State::Looking { settling };
        Action::Look
    }

    fn end(&mut self, outcome: Outcome) -> Action {
        self.state = State::Ended;
        Action::Done(outcome)
    }

    fn wake(&mut self, now: Uptime, then: Next) -> Action {
        match then {
            Next::Settle => self.look(now, true),
            // Everyone tries once before giving up.
            _ if now >= self.give_up_at => {
                self.last_try = true;
                self.take(now)
            }
            Next::Take => self.take(now),
            Next::Look => self.look(now, false),
        }
    }

    fn took(&mut self, now: Uptime, sent: Uptime, reply: Result<WriteReply, StoreError>) -> Action {
        match reply {
            Ok(WriteReply::Applied(version)) => {
                self.granted(Won { version, since: sent, answered: true })
            }
            Ok(WriteReply::Conflict(current)) => {
                self.answered();
                match current {
                    Some(Some(stored)) => self.met(now, stored),
                    Some(None) => self.phantom(now),
                    // Held, by whomever.
                    None if self.blind => self.vacant(now),
                    None => self.look(now, false),
                }
            }
            Err(error) if error.outcome_is_unknown() => {
                self.unanswered += 1;
                if self.blind {
                    // The next create is the look; not without a pause.
                    return self.fault_or_fail(now, error, Next::Settle);
                }
                self.faulted(error);
                self.look(now, true)
            }
            Err(error) => self.fault_or_fail(now, error, Next::Take),
        }
    }

    fn looked(
        &mut self,
        now: Uptime,
        reply: Result<Option<Stored>, StoreError>,
        settling: bool,
    ) -> Action {
        match reply {
            Ok(Some(stored)) => {
                // A read alone does not tell that writes get through.
                if settling {
                    self.reached = true;
                } else {
                    self.answered();
                }
                self.met(now, stored)
            }
            Ok(None) if settling && self.stopping.is_none() => self.not_there(now),
            Ok(None) => {
                self.answered();
                self.vacant(now)
            }
            // A refused read tells nothing; a create shows what is there.
            Err(StoreError::Denied(_)) => {
                self.blind = true;
                self.answered();
                self.vacant(now)
            }
            Err(error) => {
                let then = if settling { Next::Settle } else { Next::Look };
                self.fault_or_fail(now, error, then)
            }
        }
    }

    fn answered(&mut self) {
        self.reached = true;
        self.faults = 0;
        self.last_fault = None;
    }

    fn granted(&mut self, won: Won) -> Action {
        self.answered();
        self.end(if self.stopping.is_some() {
            Outcome::Stopped { held: Some(won) }
        } else {
            Outcome::Granted(won)
        })
    }

    /// The register holds a record: ours, or someone's to wait for.
    fn met(&mut self, now: Uptime, stored: Stored) -> Action {
        self.phantoms = 0;
        if stored.record.is_held_by(&self.id) {
            // An unanswered create is found: it can land no more. Any other still can.
            self.unanswered = self.unanswered.saturating_sub(1);
            let since = self.first_sent.unwrap_or(self.started);
            return self.granted(Won { version: stored.version, since, answered: false });
        }
        self.contended = true;
        // Ours did not land, and the one who is there was not it.
        self.taken_over = None;
        let unchanged = self.seen.as_ref().is_some_and(|seen| seen.version == stored.version);
        if !unchanged {
            self.seen = Some(Seen { record: stored.record, version: stored.version, since: now });
        }
        if self.stopping.is_some() {
            return self.end(Outcome::Stopped { held: None });
        }
        // Conditional on the very version that stood still: if its holder lives after all, this
        // is refused.
        if let Some(seen) = self.seen.as_ref()
            && seen.expires().is_some_and(|at| now >= at)
        {
            // Tried twice, unanswered, and not there: not without a pause.
            if self.faults > 1 {
                return if self.over(now) {
                    self.end(Outcome::TimedOut)
                } else {
                    self.sleep(now, Next::Look)
                };
            }
            self.taken_over = Some(seen.record.clone());
            let version = seen.version.clone();
            self.first_sent.get_or_insert(now);
            self.state = State::Taking { sent: now };
            return Action::TakeOver(version);
        }
        self.answered();
        if self.over(now) {
            return self.end(Outcome::TimedOut);
        }
        self.sleep(now, Next::Look)
    }

    /// The register is empty: take it, unless we are on the way out.
    fn vacant(&mut self, now: Uptime) -> Action {
        if self.stopping.is_some() {
            return self.end(Outcome::Stopped { held: None });
        }
        if self.blind {
            return if self.over(now) {
                self.end(Outcome::TimedOut)
            } else {
                self.sleep(now, Next::Take)
            };
        }
        self.take(now)
    }

    /// An unanswered create is not there (yet): again at once the first time; then with backoff,
    /// since a store may answer every read and no write.
    fn not_there(&mut self, now: Uptime) -> Action {
        self.reached = true;
        match self.last_fault.clone() {
            Some(error) if self.faults > 1 && self.over(now) => self.end(Outcome::Failed(error)),
            Some(_) if self.faults > 1 => self.sleep(now, Next::Take),
            _ => self.take(now),
        }
    }

    /// Refused, then absent: it has just come free. At once the first time; then with backoff,
    /// since some S3 clones stay that way for ever.
    fn phantom(&mut self, now: Uptime) -> Action {
        self.phantoms += 1;
        if self.stopping.is_some() {
            return self.end(Outcome::Stopped { held: None });
        }
        if self.phantoms == 1 {
            return self.take(now);
        }
        if self.over(now) {
            return self.end(Outcome::TimedOut);
        }
        self.sleep(now, Next::Take)
    }

    fn over(&self, now: Uptime) -> bool {
        self.last_try || now >= self.give_up_at
    }

    fn sleep(&mut self, now: Uptime, then: Next) -> Action {
        let unchanged = self.seen.as_ref().map_or(Duration::ZERO, |seen| now.since(seen.since));
        let pause = HEAD.interval(unchanged, &mut self.jitter)
            + pause_after(self.faults.max(self.phantoms), &mut self.jitter);
        let expires = self.seen.as_ref().and_then(Seen::expires).filter(|at| *at > now);
        let next = now.plus(pause).min(self.give_up_at.max(now));
        let next = expires.map_or(next, |at| next.min(at));
        self.state = State::Waiting { next, then };
        Action::Wait
    }

    fn faulted(&mut self, error: StoreError) {
        self.faults += 1;
        self.reached |= matches!(error, StoreError::Throttled(_));
        self.last_fault = Some(error);
    }

    fn fault_or_fail(&mut self, now: Uptime, error: StoreError, then: Next) -> Action {
        let transient = error.is_transient();
        self.faulted(error.clone());
        if let Some(since) = self.stopping {
            let settling = self.unanswered > 0 && now.since(since) < SETTLE_AFTER_STOP;
            if !settling || !transient {
                return self.end(Outcome::Stopped { held: None });
            }
            self.state = State::Waiting {
                next: now
                    .plus(pause_after(self.faults, &mut self.jitter))
                    .min(since.plus(SETTLE_AFTER_STOP)),
                then: Next::Settle,
            };
            return Action::Wait;
        }
        let patience = if self.reached {
            self.give_up_at
        } else {
            self.give_up_at.min(self.started.plus(FIRST_CONTACT))
        };
        if !transient || self.last_try || now >= patience {
            return self.end(Outcome::Failed(error));
        }
        self.sleep(now, then)
    }
}

#[cfg(test)]
#[path = "acquire_tests.rs"]
mod tests;
