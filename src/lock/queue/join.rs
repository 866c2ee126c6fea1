//! Joining the queue: the waiter claims a ticket, then raises `next` above it.

use super::super::Uptime;
use super::super::backoff::pause_after;
use super::super::line::{Line, Slot, TICKET_BEAT, Ticket, Waiter};
use super::{Action, FAULTS, JOINS, JOINS_AT_ONCE, OwnTicket, Phase, Queue, ReturnTo, TRIES, Then};
use crate::lock::register::{Expect, RecordVersion, StoreError, Stored, WriteReply};

impl Queue {
    pub(super) fn open(&mut self) -> Action {
        self.mine = None;
        self.ask(Phase::Opening, Action::Read(Slot::Line))
    }

    /// Others were quicker, or our place has gone: once more from the start.
    pub(super) fn join_anew(&mut self, now: Uptime) -> Action {
        self.mine = None;
        match self.joins.saturating_sub(JOINS_AT_ONCE) {
            0 => self.open(),
            times => self.pause(now, times, Then::Open),
        }
    }

    pub(super) fn know(&mut self, now: Uptime, current: Option<Stored>) {
        self.note_line();
        self.line_version = current.as_ref().map(|stored| stored.version.clone());
        self.line = current.and_then(|stored| Line::of(&stored.record)).unwrap_or_default();
        if let Some(seen) = &self.line.seen {
            self.acquire.hand_on(now, seen.clone());
        }
    }

    /// As [`Queue::know`], while in line: the moves of `head` tell how long a hold takes.
    pub(super) fn learn(&mut self, now: Uptime, current: Option<Stored>) {
        let before = self.line.head;
        self.know(now, current);
        if let Some(moves) = self.line.head.checked_sub(before).filter(|moves| *moves > 0) {
            self.progress.moves(now, moves);
        }
        // Whoever saw the lock free before somebody's turn may have died since.
        self.unclaimed.take_if(|unclaimed| unclaimed.turns != self.line.turns);
        self.survey_later(now);
    }

    pub(super) fn opened(
        &mut self,
        now: Uptime,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        match reply {
            Ok(current) => self.know(now, current),
            // A refused read is treated as absent: S3 answers so for what is not there.
            Err(StoreError::Denied(_)) => self.know(now, None),
            // Nothing is written to what is not the store.
            Err(error @ StoreError::NotTheStore { .. }) if !self.tried() => {
                let action = self.acquire.missed(now, error);
                return self.tries_on(ReturnTo::Join, action);
            }
            // The lock itself will show what is wrong.
            Err(_) if !self.tried() => return self.attempt(now, ReturnTo::Join),
            Err(error) => return self.falter(now, Some(error)),
        }
        // With no time to wait there is nothing to stand in line for.
        if now >= self.give_up_at || (self.line.is_empty() && !self.tried()) {
            return self.attempt(now, ReturnTo::Join);
        }
        self.joins += 1;
        if self.joins > JOINS {
            self.in_line = false;
            return self.be_without_line(now);
        }
        self.tries = 0;
        self.claim(self.line.end())
    }

    /// The line does not work for now: compete by backoff, and give our number back, if we have one.
    pub(super) fn falter(&mut self, now: Uptime, error: Option<StoreError>) -> Action {
        self.in_line = false;
        self.denied = error.filter(|error| !error.is_transient());
        if self.mine.is_some() { self.give_back() } else { self.be_without_line(now) }
    }

    /// Leaves the line's registers alone for a while, the longer the more faults there were.
    fn pause(&mut self, now: Uptime, faults: u32, then: Then) -> Action {
        let pause = pause_after(faults, &mut self.jitter);
        self.ask(Phase::Pausing(now.plus(pause).min(self.give_up_at.max(now)), then), Action::Wait)
    }

    pub(super) fn resume(&mut self, now: Uptime, then: Then) -> Action {
        let ticket = self.mine.as_ref().map(|mine| mine.ticket);
        match (then, ticket) {
            // Everyone tries once before giving up, and without a place in line.
            (Then::Raise | Then::SettleRaise, _) if now >= self.give_up_at => {
                self.in_line = false;
                self.give_back()
            }
            (Then::Raise, Some(ticket)) => self.raise(ticket),
            (Then::SettleRaise, _) => self.settle_raise(true),
            (Then::Open | Then::Raise, _) => self.open(),
        }
    }

    pub(super) fn claim(&mut self, ticket: Ticket) -> Action {
        let record = self.waiter.to_record();
        self.ask(
            Phase::Claiming(ticket),
            Action::Write(Slot::Ticket(ticket), record, Expect::Absent),
        )
    }

    pub(super) fn claimed(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        reply: Result<WriteReply, StoreError>,
    ) -> Action {
        match reply {
            Ok(WriteReply::Applied(version)) => self.have(now, ticket, version),
            Ok(WriteReply::Conflict(Some(Some(stored)))) if self.is_mine(&stored) => {
                self.have(now, ticket, stored.version)
            }
            Ok(WriteReply::Conflict(_)) => {
                // Those who join beside us took the next few; many more stand above a `next` that
                // was lost, and are passed in growing strides.
                let stride = 1 << self.joins.saturating_sub(2).min(52);
                self.tries += 1;
                match ticket.behind(stride) {
                    Some(further) if self.tries <= TRIES => self.claim(further),
                    _ => self.join_anew(now),
                }
            }
            Err(error) if error.outcome_is_unknown() => {
                self.ask(Phase::SettlingClaim(ticket), Action::Read(Slot::Ticket(ticket)))
            }
            Err(error) => self.falter(now, Some(error)),
        }
    }

    pub(super) fn claim_settled(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        match reply {
            Ok(Some(stored)) if self.is_mine(&stored) => self.have(now, ticket, stored.version),
            // It may still land: then it is a dead ticket that somebody removes.
            Ok(_) => self.pause(now, self.joins, Then::Open),
            // Without an answer a ticket of ours might stand there for nobody.
            Err(error) if error.is_transient() && self.tries < TRIES => {
                self.tries += 1;
                self.ask(Phase::SettlingClaim(ticket), Action::Read(Slot::Ticket(ticket)))
            }
            Err(error) => self.falter(now, Some(error)),
        }
    }

    pub(super) fn is_mine(&self, stored: &Stored) -> bool {
        Waiter::of(&stored.record).is_some_and(|waiter| waiter.id == self.waiter.id)
    }

    pub(super) fn have(&mut self, now: Uptime, ticket: Ticket, version: RecordVersion) -> Action {
        let plans = self.line.plans.0;
        self.mine = Some(OwnTicket { ticket, version, beat_due: now.plus(TICKET_BEAT), plans });
        self.acquire.reached();
        self.tries = 0;
        self.raise(ticket)
    }

    pub(super) fn raise(&mut self, ticket: Ticket) -> Action {
        let mut line = self.line.clone();
        line.next = ticket.passed();
        if let Some(mine) = &mut self.mine {
            mine.plans = line.plans.0;
        }
        line.plans.0 = line.plans.0.saturating_add(u64::from(self.waiter.is_plan()));
        self.write_line(Phase::Raising, line)
    }

    pub(super) fn write_line(&mut self, phase: Phase, line: Line) -> Action {
        let record = line.signed(&self.waiter.id);
        let expect = self.line_version.clone().map_or(Expect::Absent, Expect::Version);
        self.ask(phase, Action::Write(Slot::Line, record, expect))
    }

    pub(super) fn raised(&mut self, now: Uptime, reply: Result<WriteReply, StoreError>) -> Action {
        let Some(mine) = &self.mine else { return self.open() };
        match reply {
            Ok(WriteReply::Applied(version)) => {
                self.line.next = mine.ticket.passed();
                self.line.plans.0 = mine.plans.saturating_add(u64::from(self.waiter.is_plan()));
                self.line.count = self.line.count.wrapping_add(1);
                self.line.writer.clone_from(&self.waiter.id);
                self.line_version = Some(version);
                self.queue(now)
            }
            Ok(WriteReply::Conflict(Some(current))) => self.reconsider_raise(now, current, false),
            Ok(WriteReply::Conflict(None)) => self.settle_raise(false),
            Err(error) if error.outcome_is_unknown() => self.settle_raise(true),
            Err(error) => self.raise_faulted(now, Some(error), Then::Raise),
        }
    }

    /// Nothing was raised, or nobody knows: tried again if that may help, and not without end.
    pub(super) fn raise_faulted(
        &mut self,
        now: Uptime,
        error: Option<StoreError>,
        then: Then,
    ) -> Action {
        self.tries += 1;
        if error.as_ref().is_none_or(StoreError::is_transient) && self.tries <= FAULTS {
            return self.pause(now, self.tries, then);
        }
        self.falter(now, error)
    }

    fn settle_raise(&mut self, unanswered: bool) -> Action {
        self.ask(Phase::SettlingRaise { unanswered }, Action::Read(Slot::Line))
    }

    /// Whoever finds `next` above its number may hold a used one: it gives the ticket back and
    /// joins again.
    pub(super) fn reconsider_raise(
        &mut self,
        now: Uptime,
        current: Option<Stored>,
        unanswered: bool,
    ) -> Action {
        let Some(ticket) = self.mine.as_ref().map(|mine| mine.ticket) else { return self.open() };
        self.know(now, current);
        let by_us = self.line.writer == self.waiter.id && self.line.next == ticket.passed();
        if by_us {
            return self.queue(now);
        }
        if self.line.next > ticket.0 {
            return self.give_back();
        }
        if unanswered {
            return self.raise_faulted(now, None, Then::Raise);
        }
        self.tries += 1;
        if self.tries > TRIES {
            return self.give_back();
        }
        self.raise(ticket)
    }

    pub(super) fn give_back(&mut self) -> Action {
        match self.mine.take() {
            Some(OwnTicket { ticket, version, .. }) => {
                self.tries = 0;
                let remove = Action::Remove(Slot::Ticket(ticket), version.clone());
                self.ask(Phase::GivingBack(ticket, version), remove)
            }
            None => self.open(),
        }
    }
}
