//! The machine that waits for one lock in the queue: first come, first served
//! (`docs/protocol.md#the-queue`).
//!
//! It decides *when* [`Acquire`] may try. Only the lock's register decides whether the lock becomes
//! ours. One request is out at a time. Whatever goes wrong with the queue's own registers, tfwrap
//! still competes for the lock with backoff.

mod counted;
mod join;
mod progress;
#[cfg(test)]
mod tests;
mod turn;
mod unclaimed;
mod wait;

use std::time::Duration;

use self::counted::Counted;
use self::progress::Progress;
use super::Uptime;
use super::acquire::{Acquire, Outcome};
use super::jitter::Jitter;
use super::line::{Line, Slot, Ticket, Waiter};
use crate::lock::register::{
    Expect, Record, RecordVersion, RemoveReply, Reply, StoreError, Stored, WriteReply,
};

/// A lock that is still free so long after it was seen free is tried, whatever tickets stand before
/// ours, unless one of those waiters says that it sees it, too.
const LEFT_UNCLAIMED: Duration = Duration::from_secs(10);

/// How far down the line is read, at the most, for somebody who lives: longer runs of the dead and
/// of those that left are passed over unseen, for each read takes its time. Who lives further down
/// loses its place before us, nothing else.
const LONGEST_WALK: u64 = 500;

/// How late the other looks may come for the sake of those reads.
const LATE: Duration = Duration::from_secs(1);

/// How often a register of the line may refuse or not answer before the line is left alone for
/// this step.
const TRIES: u32 = 8;

/// How often in a row raising `next` may fail before the line is left alone: a lock that is free
/// meanwhile waits for us.
const FAULTS: u32 = 4;

/// How often joining may begin anew before the line is left alone: others were quicker, or the line
/// is damaged.
const JOINS: u32 = 32;

/// How often it may at once: then with pauses.
const JOINS_AT_ONCE: u32 = 4;

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

impl From<Reply> for Event {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Wrote(reply) => Self::Wrote(reply),
            Reply::Read(reply) => Self::Read(reply),
            Reply::Removed(reply) => Self::Removed(reply),
        }
    }
}

/// What the event loop does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// It is over; after a stop even if a request is out.
    Done(Outcome),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    New,
    /// The line is being read before anything else, or before joining it.
    Opening,
    /// [`Acquire`] is at work; then back to where it was.
    Trying(ReturnTo),
    /// The ticket of this number is being claimed.
    Claiming(Ticket),
    /// Whether a claim that was not answered was applied is being read.
    SettlingClaim(Ticket),
    /// `next` is being raised above our number.
    Raising,
    /// What became of a raise is being read: it was not answered, or else refused without a word.
    SettlingRaise {
        unanswered: bool,
    },
    /// A number that may be a used one is being given back; then we join again, or compete without
    /// a line.
    GivingBack(Ticket, RecordVersion),
    /// The line's registers are left alone until then, after a fault.
    Pausing(Uptime, Then),
    /// In line, asleep.
    Queued,
    /// Our ticket shows that we live.
    Beating,
    /// What became of an unanswered beat is being read.
    SettlingBeat,
    /// How far the line has moved is being read.
    Surveying,
    /// The nearest ticket before ours is being looked for, or looked at.
    Watching(Ticket),
    /// The one before us has gone: how far the line has moved is being read.
    Placing(Ticket),
    /// A dead one is being removed.
    Cleaning(Ticket),
    /// Whether somebody stands at this place further ahead is being read.
    Counting(Ticket),
    /// The lock is being looked at from behind.
    Glancing {
        sent: Uptime,
    },
    /// The lock is free and not ours to take yet: after which turn that is is being read.
    Noting,
    /// Whether somebody had a turn while the lock was left lying is being read.
    CheckingTurns,
    /// Whether this one before us has seen the free lock is being read.
    Walking(Ticket),
    /// On the way out, with this outcome: the line is told, then our ticket goes.
    Telling(Outcome),
    /// The line is another one by now, and the refusal did not show it: it is being read.
    Rereading(Outcome),
    Removing(Outcome, Ticket, RecordVersion),
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ReturnTo {
    /// Not in line yet.
    Join,
    /// In line, not at its head: nobody before us lives, so the line moves past them.
    Passing,
    /// In line, not at its head, and whoever stands before us stays before us: a last try.
    Barging,
    /// At the head, or without a line: the lock is watched until the end.
    Head,
}

/// What is tried again after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Then {
    /// To join.
    Open,
    /// To raise `next` above our number.
    Raise,
    /// To read what became of that.
    SettleRaise,
}

/// Our own ticket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OwnTicket {
    ticket: Ticket,
    version: RecordVersion,
    beat_due: Uptime,
    /// How many tickets below ours were taken for plans.
    plans: u64,
}

/// A free lock that is not ours to take yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Unclaimed {
    /// Since when it is seen so, or since when those before us are given time once more.
    since: Uptime,
    /// How many turns there had been, by the line.
    turns: u64,
    /// Whom we let go first, as their tickets were then.
    let_go: Vec<(Ticket, RecordVersion)>,
    /// How far down the line it is known that nobody before us has seen the lock.
    walked: Option<Ticket>,
}

/// The nearest ticket before ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Watched {
    ticket: Ticket,
    /// Its version, and since when it has that.
    version: Option<(RecordVersion, Uptime)>,
    due: Uptime,
}

/// Waits for one lock in line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Queue {
    acquire: Acquire,
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
    mine: Option<OwnTicket>,
    watched: Option<Watched>,
    counted: Counted,
    /// When to read how far the line has moved, unless the one before us is at its head.
    line_due: Uptime,
    lock_due: Uptime,
    progress: Progress,
    unclaimed: Option<Unclaimed>,
    /// Whether, if the lock becomes ours now, it is our turn: `head` goes past our number.
    in_turn: bool,
    /// How many records were sent to the lock's register.
    attempts: u64,
    tries: u32,
    /// How often joining the line had to begin anew since a beat showed that our place is ours.
    joins: u32,
    /// A place of ours may still stand there although we have left.
    leaves_place: bool,
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
            counted: Counted::default(),
            line_due: Uptime::default(),
            lock_due: Uptime::default(),
            progress: Progress::default(),
            unclaimed: None,
            in_turn: true,
            attempts: 0,
            tries: 0,
            joins: 0,
            leaves_place: false,
        }
    }

    /// Whether a place in the line may be left behind, for want of the time to take it away. Whoever
    /// comes after it passes it over when it has not changed for as long as the dead are waited for.
    #[must_use]
    pub fn leaves_place(&self) -> bool {
        self.leaves_place
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

    /// When the machine wants a [`Event::Tick`]; `None` while a request is out, unless we were
    /// told to stop.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        let leaves_at = self.acquire.leaves_at().filter(|_| self.phase != Phase::Ended);
        self.wakes_at().into_iter().chain(leaves_at).min()
    }

    fn wakes_at(&self) -> Option<Uptime> {
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
                let line = self.is_far().then_some(self.line_due);
                let (walk, lock) = (self.walk_due(), Some(self.lock_due));
                let dues = [beat, walk, watched, line, lock, Some(self.give_up_at)];
                dues.into_iter().flatten().min()
            }
            Phase::Pausing(next, _) => Some(*next),
            _ => None,
        }
    }

    /// Decides.
    pub fn step(&mut self, now: Uptime, event: Event) -> Action {
        if event == Event::Stop {
            self.acquire.stops(now);
        }
        if self.acquire.leaves_at().is_some_and(|at| now >= at) {
            return self.break_off(now);
        }
        let action = self.decide(now, event);
        if self.acquire.is_stopping() { self.way_out(now, action) } else { action }
    }

    fn decide(&mut self, now: Uptime, event: Event) -> Action {
        match (self.phase.clone(), event) {
            (Phase::New, Event::Start) if self.in_line => self.open(),
            (Phase::New, Event::Start) => self.attempt(now, ReturnTo::Head),
            (Phase::Trying(back), event) => self.trying(now, back, event),
            (Phase::Opening, Event::Read(reply)) => self.opened(now, reply),
            (Phase::Claiming(ticket), Event::Wrote(reply)) => self.claimed(now, ticket, reply),
            (Phase::SettlingClaim(ticket), Event::Read(reply)) => {
                self.claim_settled(now, ticket, reply)
            }
            (Phase::Raising, Event::Wrote(reply)) => self.raised(now, reply),
            (Phase::SettlingRaise { unanswered }, Event::Read(reply)) => match reply {
                Ok(current) => self.reconsider_raise(now, current, unanswered),
                Err(error) => self.raise_faulted(now, Some(error), Then::SettleRaise),
            },
            (Phase::GivingBack(ticket, version), Event::Removed(reply)) => {
                match self.removes_again(ticket, version, reply) {
                    Some((version, again)) => self.ask(Phase::GivingBack(ticket, version), again),
                    None if self.in_line => self.join_anew(now),
                    None => self.be_without_line(now),
                }
            }
            (Phase::Pausing(next, then), Event::Tick) if now >= next => self.resume(now, then),
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
                match reply {
                    Ok(current) => self.learn(now, current),
                    // Else it would be due still, and asked for again at once.
                    Err(_) => self.line_due = now.plus(RETRY),
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
            (Phase::Counting(ticket), Event::Read(reply)) => self.counted(now, ticket, &reply),
            (Phase::Glancing { sent }, Event::Read(reply)) => self.glanced(now, sent, reply),
            (Phase::Noting, Event::Read(reply)) => self.noted(now, reply),
            (Phase::CheckingTurns, Event::Read(reply)) => self.turns_checked(now, reply),
            (Phase::Walking(ticket), Event::Read(reply)) => self.walked(now, ticket, reply),
            (Phase::Telling(outcome), Event::Wrote(reply)) => self.told(now, outcome, reply),
            (Phase::Rereading(outcome), Event::Read(Ok(current))) => {
                self.tell_again(now, outcome, current)
            }
            (Phase::Rereading(outcome), Event::Read(Err(_))) => self.remove_mine(outcome),
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

    /// After a stop nothing is granted, and nothing else is the reason why not.
    fn end(&mut self, outcome: Outcome) -> Action {
        self.phase = Phase::Ended;
        if !self.acquire.is_stopping() {
            return Action::Done(outcome);
        }
        Action::Done(match outcome {
            Outcome::Granted(won) => Outcome::Stopped { held: Some(won) },
            Outcome::TimedOut | Outcome::Failed(_) => Outcome::Stopped { held: None },
            outcome @ Outcome::Stopped { .. } => outcome,
        })
    }

    fn ask(&mut self, phase: Phase, action: Action) -> Action {
        self.phase = phase;
        action
    }
}
