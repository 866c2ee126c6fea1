//! The machine that waits for one lock in line: first come, first served (protocol, section 4).
//!
//! It decides *when* [`Acquire`] may try; whether the lock becomes ours is decided by the lock
//! register alone. One request at a time. Whatever goes wrong with the line's own registers, the
//! lock is still competed for by backoff.

mod join;
#[cfg(test)]
mod tests;
mod turn;
mod wait;

use std::time::Duration;

use super::acquire::{Acquire, Outcome};
use super::jitter::Jitter;
use super::line::{Line, Slot, Ticket, Waiter};
use super::{LockId, Uptime};
use crate::store::{Expect, Record, RecordVersion, RemoveReply, StoreError, Stored, WriteReply};

/// A lock that was seen free on two looks so far apart is tried, whatever tickets stand before.
const LEFT_LYING: Duration = Duration::from_secs(10);

/// How long after the lock was seen free the ticket before ours may be looked at for the first
/// time.
const LOOK_AROUND: Duration = Duration::from_secs(2);

/// How often a register of the line may refuse or not answer before the line is left alone for
/// this step.
const TRIES: u32 = 8;

/// How often the remove of our own ticket is tried: it stands in the way of those behind it, but a
/// lock that is ours by now must not wait for it.
const REMOVE_TRIES: u32 = 4;

/// How soon to try again what the store did not answer.
const RETRY: Duration = Duration::from_secs(2);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Begin.
    Start,
    /// The write came back.
    Wrote(Result<WriteReply, StoreError>),
    /// The read came back.
    Read(Result<Option<Stored>, StoreError>),
    /// The remove came back.
    Removed(Result<RemoveReply, StoreError>),
    /// [`Queue::deadline`] has passed.
    Tick,
    /// The user or the CI wants tfwrap to stop.
    Stop,
}

/// What the shell does next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Write this record.
    Write(Slot, Record, Expect),
    /// Read this register.
    Read(Slot),
    /// Remove this version.
    Remove(Slot, RecordVersion),
    /// Nothing until an event; a request that is out stays out.
    Wait,
    /// It is over.
    Done(Outcome),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    New,
    /// The line is being read before anything else, or before joining it.
    Opening,
    /// [`Acquire`] is at work; then back to where it was.
    Trying(Back),
    /// The ticket of this number is being claimed.
    Claiming(Ticket),
    /// Whether a claim that was not answered was applied is being read.
    SettlingClaim(Ticket),
    /// `next` is being raised above our number.
    Raising,
    /// What became of an unanswered raise is being read.
    SettlingRaise,
    /// A number that may be a used one is being given back; then we join again.
    GivingBack(Ticket, RecordVersion),
    /// In line, asleep.
    Queued,
    /// Our ticket shows that we live.
    Beating,
    /// What became of an unanswered beat is being read.
    SettlingBeat,
    /// Far back: how far the line has moved is being read.
    Surveying,
    /// Near the head: a ticket before ours is being looked at.
    Watching(Ticket),
    /// The one before us has gone: how far the line has moved is being read.
    Placing(Ticket),
    /// A dead one is being removed.
    Cleaning(Ticket),
    /// The lock is being looked at from behind.
    Glancing {
        sent: Uptime,
    },
    /// Whether `head` has moved while the lock was left lying is being read.
    CheckingHead,
    /// Whether the waiter before us showed a sign of life meanwhile is being read.
    CheckingBefore(Ticket),
    /// On the way out, with this outcome: the line is told, then our ticket goes.
    Telling(Outcome),
    Removing(Outcome, Ticket, RecordVersion),
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Back {
    /// Not in line yet.
    Join,
    /// In line, not at its head.
    Queued,
    /// At the head, or without a line: the lock is watched until the end.
    Head,
}

/// Our own ticket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Mine {
    ticket: Ticket,
    version: RecordVersion,
    beat_due: Uptime,
}

/// The ticket that we watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Watched {
    ticket: Ticket,
    /// Its version, and since when it has that.
    version: Option<(RecordVersion, Uptime)>,
    due: Uptime,
}

/// Waits for one lock in line.
#[derive(Debug, Clone)]
pub struct Queue {
    acquire: Acquire,
    id: LockId,
    /// What the lock's register gets.
    record: Record,
    waiter: Waiter,
    jitter: Jitter,
    give_up_at: Uptime,
    phase: Phase,
    /// Whether there is a line to stand in.
    in_line: bool,
    /// Why not, where there should be one; said once.
    denied: Option<StoreError>,
    line: Line,
    line_version: Option<RecordVersion>,
    mine: Option<Mine>,
    watched: Option<Watched>,
    lock_due: Uptime,
    /// When `head` was seen to move last, or we joined.
    moved: Uptime,
    /// How long one hold takes, by the moves of `head` that we saw; zero until we saw one.
    hold: Duration,
    /// Since when the lock is seen free, and where `head` was.
    lying: Option<(Uptime, u64)>,
    tried: bool,
    /// How many records were sent to the lock's register.
    attempts: u64,
    tries: u32,
    stopping: bool,
}

impl Queue {
    /// Prepares to take the lock with `record`, in line behind whoever came before; without a line
    /// where `in_line` says so.
    #[must_use]
    pub fn new(
        acquire: Acquire,
        waiter: Waiter,
        record: Record,
        give_up_at: Uptime,
        jitter: Jitter,
        in_line: bool,
    ) -> Self {
        Self {
            acquire,
            id: LockId(waiter.id.clone()),
            record,
            waiter,
            jitter,
            give_up_at,
            phase: Phase::New,
            in_line,
            denied: None,
            line: Line::default(),
            line_version: None,
            mine: None,
            watched: None,
            lock_due: Uptime::default(),
            moved: Uptime::default(),
            hold: Duration::ZERO,
            lying: None,
            tried: false,
            attempts: 0,
            tries: 0,
            stopping: false,
        }
    }

    /// The machine that takes the lock.
    #[must_use]
    pub fn acquire(&self) -> &Acquire {
        &self.acquire
    }

    /// The highest beat that a record of ours may bear: a keeper counts on from there.
    #[must_use]
    pub fn last_beat(&self) -> u64 {
        self.attempts.saturating_sub(1)
    }

    /// Why there is no line although there should be one; told once.
    pub fn take_denied(&mut self) -> Option<StoreError> {
        self.denied.take()
    }

    /// How many places there are before ours, dead ones included; nothing outside the line.
    #[must_use]
    pub fn ahead(&self) -> Option<u64> {
        let mine = self.mine.as_ref()?;
        // Without anything to watch before us we are at the head.
        let before = self.watched.as_ref().map_or(self.line.head, |watched| {
            if watched.ticket == mine.ticket { mine.ticket.0 } else { watched.ticket.0 + 1 }
        });
        Some(before.saturating_sub(self.line.head))
    }

    /// How long it may still take until our turn, by the holds seen so far: one for each place
    /// before ours and the present one, less what that has taken already. Nothing before `head` was
    /// seen to move, and outside the line.
    #[must_use]
    pub fn estimate(&self, now: Uptime) -> Option<Duration> {
        let holds = self.ahead()?.saturating_add(1);
        if self.hold.is_zero() {
            return None;
        }
        let all = self.hold.saturating_mul(u32::try_from(holds).unwrap_or(u32::MAX));
        Some(all.saturating_sub(now.since(self.moved)))
    }

    /// When the machine wants a [`Event::Tick`]; `None` while a request is out.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        let beat = self.mine.as_ref().map(|mine| mine.beat_due);
        match &self.phase {
            Phase::Trying(_) => {
                let acquire = self.acquire.deadline()?;
                // While a request is to be settled no beat is sent: waking for one would spin.
                let beat = beat.filter(|_| self.acquire.is_at_rest());
                Some(beat.map_or(acquire, |beat| beat.min(acquire)))
            }
            Phase::Queued => {
                let watched = self.watched.as_ref().map(|watched| watched.due);
                let dues = [beat, watched, Some(self.lock_due), Some(self.give_up_at)];
                dues.into_iter().flatten().min()
            }
            _ => None,
        }
    }

    /// Decides.
    pub fn step(&mut self, now: Uptime, event: Event) -> Action {
        if event == Event::Stop {
            return self.stop(now);
        }
        match (self.phase.clone(), event) {
            (Phase::New, Event::Start) if self.in_line => self.open(),
            (Phase::New, Event::Start) => self.try_first(now, Back::Head),
            (Phase::Trying(back), event) => self.trying(now, back, event),
            (Phase::Opening, Event::Read(reply)) => self.opened(now, reply),
            (Phase::Claiming(ticket), Event::Wrote(reply)) => self.claimed(now, ticket, reply),
            (Phase::SettlingClaim(ticket), Event::Read(reply)) => {
                self.claim_settled(now, ticket, reply)
            }
            (Phase::Raising, Event::Wrote(reply)) => self.raised(now, reply),
            (Phase::SettlingRaise, Event::Read(reply)) => match reply {
                Ok(current) => self.reconsider_raise(now, current),
                Err(_) => self.give_back(),
            },
            (Phase::GivingBack(ticket, version), Event::Removed(reply)) => {
                match self.removes_again(ticket, version, reply) {
                    Some((version, again)) => self.ask(Phase::GivingBack(ticket, version), again),
                    None => self.open(),
                }
            }
            (Phase::Queued, Event::Tick) => self.wake(now),
            (Phase::Beating, Event::Wrote(reply)) => self.beaten(now, reply),
            (Phase::SettlingBeat, Event::Read(reply)) => self.beat_settled(now, reply),
            (Phase::Watching(ticket), Event::Read(reply)) => self.watched(now, ticket, reply),
            (Phase::Placing(ticket), Event::Read(reply)) => {
                if let Ok(current) = reply {
                    self.learn(now, current);
                }
                self.look_before(now, ticket)
            }
            (Phase::Surveying, Event::Read(reply)) => {
                if let Ok(current) = reply {
                    self.learn(now, current);
                }
                self.place(now)
            }
            (Phase::Cleaning(ticket), Event::Removed(reply)) => {
                if matches!(reply, Ok(RemoveReply::Conflict(Some(Some(_))))) {
                    self.sleep_on(now)
                } else {
                    self.look_before(now, ticket)
                }
            }
            (Phase::Glancing { sent }, Event::Read(reply)) => self.glanced(now, sent, reply),
            (Phase::CheckingHead, Event::Read(reply)) => self.head_checked(now, reply),
            (Phase::CheckingBefore(ticket), Event::Read(reply)) => {
                self.before_checked(now, ticket, reply)
            }
            (Phase::Telling(outcome), Event::Wrote(reply)) => self.told(outcome, reply),
            (Phase::Removing(outcome, ticket, version), Event::Removed(reply)) => {
                match self.removes_again(ticket, version, reply) {
                    Some((version, again)) => {
                        self.ask(Phase::Removing(outcome, ticket, version), again)
                    }
                    None => self.end(outcome),
                }
            }
            // A tick that came early, or anything after the end.
            _ => Action::Wait,
        }
    }

    fn end(&mut self, outcome: Outcome) -> Action {
        self.phase = Phase::Ended;
        Action::Done(outcome)
    }

    fn ask(&mut self, phase: Phase, action: Action) -> Action {
        self.phase = phase;
        action
    }
}
