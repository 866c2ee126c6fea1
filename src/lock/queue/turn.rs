//! Taking one's turn: the waiter tries the lock, and leaves the queue.

use super::super::Uptime;
use super::super::acquire::{self, Outcome};
use super::super::backoff::{ALONE, HEAD, Pace};
use super::super::lease::Lease;
use super::super::line::{Slot, Ticket};
use super::{Action, Event, OwnTicket, Phase, Queue, REMOVE_TRIES, ReturnTo, TRIES};
use crate::lock::register::{
    Expect, Record, RecordVersion, RemoveReply, StoreError, Stored, WriteReply,
};

impl Queue {
    /// The lock's record for the next attempt: no two of them have the same bytes, so that a late
    /// one is never taken for another.
    fn numbered_record(&mut self) -> Record {
        let mut record = self.record.clone();
        if let Some(lease) = record.lease.as_deref().and_then(Lease::parse) {
            record.lease = Some(Lease { beat: self.attempts, ..lease }.to_text());
        }
        self.attempts += 1;
        record
    }

    pub(super) fn tried(&self) -> bool {
        self.attempts > 0
    }

    /// A line has one head.
    fn pace(&self) -> Pace {
        if self.mine.is_some() { HEAD } else { ALONE }
    }

    pub(super) fn attempt(&mut self, now: Uptime, back: ReturnTo) -> Action {
        self.acquire.paced(self.pace());
        let action = self.acquire.attempt(now);
        self.tries_on(back, action)
    }

    pub(super) fn trying(&mut self, now: Uptime, back: ReturnTo, event: Event) -> Action {
        let event = match event {
            Event::Wrote(reply) => acquire::Event::Took(reply),
            Event::Read(reply) => acquire::Event::Looked(reply),
            Event::Tick => {
                let beat_due = self.mine.as_ref().is_some_and(|mine| now >= mine.beat_due);
                if beat_due && self.acquire.is_at_rest() && !self.acquire.is_stopping() {
                    return self.beat();
                }
                acquire::Event::Tick
            }
            Event::Stop => acquire::Event::Stop,
            Event::Start | Event::Removed(_) => return Action::Wait,
        };
        let action = self.acquire.step(now, event);
        self.tries_on(back, action)
    }

    /// Passes on what [`Acquire`] wants; where it would wait for the holder and is not at the
    /// head, it waits in line instead.
    pub(super) fn tries_on(&mut self, back: ReturnTo, action: acquire::Action) -> Action {
        self.phase = Phase::Trying(back);
        self.in_turn = back != ReturnTo::Barging;
        match action {
            acquire::Action::Take => {
                Action::Write(Slot::Lock, self.numbered_record(), Expect::Absent)
            }
            acquire::Action::TakeOver(version) => {
                Action::Write(Slot::Lock, self.numbered_record(), Expect::Version(version))
            }
            acquire::Action::Look => Action::Read(Slot::Lock),
            acquire::Action::Done(outcome) => self.leave(outcome),
            acquire::Action::Wait if !self.acquire.is_at_rest() => Action::Wait,
            acquire::Action::Wait => match back {
                ReturnTo::Head => Action::Wait,
                ReturnTo::Join => self.open(),
                // Somebody was quicker, so the line may have moved.
                ReturnTo::Passing | ReturnTo::Barging => {
                    self.unclaimed = None;
                    self.ask(Phase::Surveying, Action::Read(Slot::Line))
                }
            },
        }
    }

    /// Without a line, or with nobody before us: the lock is watched.
    pub(super) fn be_head(&mut self, now: Uptime) -> Action {
        (self.watched, self.unclaimed) = (None, None);
        self.acquire.paced(self.pace());
        let action = self.acquire.watch(now);
        self.tries_on(ReturnTo::Head, action)
    }

    pub(super) fn be_without_line(&mut self, now: Uptime) -> Action {
        if self.tried() { self.be_head(now) } else { self.attempt(now, ReturnTo::Head) }
    }

    /// What is done in place of `action` after a stop: of the line, what gives our place back;
    /// of the lock, what shows whether it became ours. [`Acquire`] knows of the stop, too.
    ///
    /// [`Acquire`]: acquire::Acquire
    pub(super) fn way_out(&mut self, now: Uptime, action: Action) -> Action {
        match (&self.phase, &action) {
            (
                Phase::Trying(_)
                | Phase::SettlingClaim(_)
                | Phase::GivingBack(..)
                | Phase::Telling(_)
                | Phase::Rereading(_)
                | Phase::Removing(..)
                | Phase::Ended,
                _,
            ) => action,
            // A request is out: its reply comes first.
            (phase, Action::Wait)
                if !matches!(phase, Phase::New | Phase::Queued | Phase::Pausing(..)) =>
            {
                action
            }
            _ => {
                let action = self.acquire.attempt(now);
                self.tries_on(ReturnTo::Barging, action)
            }
        }
    }

    /// Told to stop long enough ago: what is out now is not waited for.
    pub(super) fn break_off(&mut self, now: Uptime) -> Action {
        self.leaves_place |= self.mine.is_some()
            || matches!(
                self.phase,
                Phase::Claiming(_)
                    | Phase::SettlingClaim(_)
                    | Phase::GivingBack(..)
                    | Phase::Removing(..)
            );
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Ended => Action::Wait,
            Phase::Telling(outcome) | Phase::Rereading(outcome) | Phase::Removing(outcome, ..) => {
                self.end(outcome)
            }
            Phase::Trying(_) => match self.acquire.step(now, acquire::Event::Tick) {
                acquire::Action::Done(outcome) => self.end(outcome),
                _ => self.end(Outcome::Stopped { held: None }),
            },
            _ => self.end(Outcome::Stopped { held: None }),
        }
    }

    /// Whatever came of it, the line is told: who got the lock in turn raises `head` past its own
    /// number; who leaves hands on what it saw. Then the ticket goes. `head` never goes past a
    /// waiter that lives: it would take itself for the next, and so would everybody behind it.
    pub(super) fn leave(&mut self, outcome: Outcome) -> Action {
        let Some(mine) = &self.mine else { return self.end(outcome) };
        let mut line = self.line.clone();
        if matches!(outcome, Outcome::Granted(_)) {
            if self.in_turn {
                let plans = mine.plans.saturating_add(u64::from(self.waiter.is_plan()));
                line.head = line.head.max(mine.ticket.passed());
                line.plans.1 = line.plans.1.max(plans);
            }
            line.next = line.next.max(mine.ticket.passed());
            line.turns = line.turns.wrapping_add(1);
            line.seen = None;
        } else if let Some(seen) = self.acquire.observation() {
            line.seen = Some(seen);
        } else {
            return self.remove_mine(outcome);
        }
        self.tries = 0;
        self.write_line(Phase::Telling(outcome), line)
    }

    pub(super) fn told(
        &mut self,
        now: Uptime,
        outcome: Outcome,
        reply: Result<WriteReply, StoreError>,
    ) -> Action {
        self.tries += 1;
        match reply {
            Ok(WriteReply::Conflict(Some(current))) if self.tries < TRIES => {
                self.tell_again(now, outcome, current)
            }
            // S3 shows nothing with a refusal.
            Ok(WriteReply::Conflict(None)) if self.tries < TRIES => {
                self.ask(Phase::Rereading(outcome), Action::Read(Slot::Line))
            }
            // Whatever else: the next ones find out by themselves, a little later.
            _ => self.remove_mine(outcome),
        }
    }

    pub(super) fn tell_again(
        &mut self,
        now: Uptime,
        outcome: Outcome,
        current: Option<Stored>,
    ) -> Action {
        let tries = self.tries;
        self.know(now, current);
        let action = self.leave(outcome);
        self.tries = tries;
        action
    }

    pub(super) fn remove_mine(&mut self, outcome: Outcome) -> Action {
        self.tries = 0;
        match self.mine.take() {
            Some(OwnTicket { ticket, version, .. }) => {
                let remove = Action::Remove(Slot::Ticket(ticket), version.clone());
                self.ask(Phase::Removing(outcome, ticket, version), remove)
            }
            None => self.end(outcome),
        }
    }

    /// The remove of a ticket of ours that has to be sent again, and of which version: a reply did
    /// not come, or an unanswered beat was applied after all.
    pub(super) fn removes_again(
        &mut self,
        ticket: Ticket,
        version: RecordVersion,
        reply: Result<RemoveReply, StoreError>,
    ) -> Option<(RecordVersion, Action)> {
        self.tries += 1;
        let version = match reply {
            Ok(RemoveReply::Conflict(Some(Some(stored)))) if self.is_mine(&stored) => {
                stored.version
            }
            Err(error) if error.is_transient() => version,
            Ok(_) | Err(_) => return None,
        };
        let again = Action::Remove(Slot::Ticket(ticket), version.clone());
        (self.tries < REMOVE_TRIES).then_some((version, again))
    }
}
