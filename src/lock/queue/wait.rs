//! Standing in line: what is watched, and when somebody has to be passed over.

use std::time::Duration;

use super::super::Uptime;
use super::super::acquire::{self, Outcome, Sight};
use super::super::backoff::{BEHIND, LOCK_LOOK};
use super::super::line::{Slot, TICKET_BEAT, TICKET_TTL, Ticket, Waiter};
use super::{Action, Back, LEFT_LYING, LOOK_AROUND, Phase, Queue, RETRY, Watched};
use crate::store::{Expect, StoreError, Stored, WriteReply};

impl Queue {
    pub(super) fn queue(&mut self, now: Uptime) -> Action {
        (self.lock_due, self.moved, self.hold) = (now, now, Duration::ZERO);
        self.place(now)
    }

    /// Finds what to watch: far back the line itself; next to the head the nearest ticket before
    /// ours.
    pub(super) fn place(&mut self, now: Uptime) -> Action {
        let Some(ticket) = self.mine.as_ref().map(|mine| mine.ticket) else { return self.open() };
        let distance = self.distance();
        if distance <= 1 {
            return self.look_before(now, ticket);
        }
        // Half of the time until we are next to the head, as holds go.
        let hold = self.hold(now);
        let until = hold.saturating_mul(u32::try_from(distance - 1).unwrap_or(u32::MAX)) / 2;
        let interval = until.clamp(BEHIND.least, BEHIND.most);
        let due = now.plus(self.jitter.around(interval));
        self.watched = Some(Watched { ticket, version: None, due });
        self.sleep_on(now)
    }

    /// Looks at the nearest place before `ticket`; with none left, we are at the head.
    pub(super) fn look_before(&mut self, now: Uptime, ticket: Ticket) -> Action {
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        if ticket.0 <= self.line.head {
            return self.be_head(now);
        }
        let before = Ticket(ticket.0 - 1);
        // The same as before keeps its age: only its own change is a sign of life.
        let version =
            self.watched.take().filter(|it| it.ticket == before).and_then(|it| it.version);
        self.watched = Some(Watched { ticket: before, version, due: now });
        self.ask(Phase::Watching(before), Action::Read(Slot::Ticket(before)))
    }

    pub(super) fn sleep_on(&mut self, now: Uptime) -> Action {
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        self.phase = Phase::Queued;
        self.wake(now)
    }

    /// Does what is due; the most urgent first.
    pub(super) fn wake(&mut self, now: Uptime) -> Action {
        if now >= self.give_up_at {
            // Everyone tries once before giving up.
            return self.attempt(now, Back::Queued);
        }
        let Some(mine) = &self.mine else { return self.open() };
        if now >= mine.beat_due {
            return self.beat();
        }
        if let Some(watched) = self.watched.as_ref().filter(|watched| now >= watched.due) {
            let ticket = watched.ticket;
            if ticket == mine.ticket {
                return self.ask(Phase::Surveying, Action::Read(Slot::Line));
            }
            return self.ask(Phase::Watching(ticket), Action::Read(Slot::Ticket(ticket)));
        }
        if now >= self.lock_due {
            return self.ask(Phase::Glancing { sent: now }, Action::Read(Slot::Lock));
        }
        self.phase = Phase::Queued;
        Action::Wait
    }

    pub(super) fn beat(&mut self) -> Action {
        let Some(mine) = &self.mine else { return self.open() };
        self.waiter.beat += 1;
        let expect = Expect::Version(mine.version.clone());
        let slot = Slot::Ticket(mine.ticket);
        self.ask(Phase::Beating, Action::Write(slot, self.waiter.to_record(), expect))
    }

    pub(super) fn beaten(&mut self, now: Uptime, reply: Result<WriteReply, StoreError>) -> Action {
        let Some(mine) = &mut self.mine else { return self.open() };
        match reply {
            Ok(WriteReply::Applied(version)) => {
                mine.version = version;
                mine.beat_due = now.plus(TICKET_BEAT);
                self.go_on(now)
            }
            Ok(WriteReply::Conflict(Some(current))) => self.adopt(now, current),
            Err(error) if !error.outcome_is_unknown() => {
                mine.beat_due = now.plus(RETRY);
                self.go_on(now)
            }
            Ok(WriteReply::Conflict(None)) | Err(_) => {
                let slot = Slot::Ticket(mine.ticket);
                self.ask(Phase::SettlingBeat, Action::Read(slot))
            }
        }
    }

    pub(super) fn beat_settled(
        &mut self,
        now: Uptime,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        match (reply, &mut self.mine) {
            (Ok(current), _) => self.adopt(now, current),
            (Err(_), Some(mine)) => {
                mine.beat_due = now.plus(RETRY);
                self.go_on(now)
            }
            (Err(_), None) => self.open(),
        }
    }

    /// A waiter whose ticket is gone when it comes back joins again, at the end.
    pub(super) fn adopt(&mut self, now: Uptime, current: Option<Stored>) -> Action {
        match (current, &mut self.mine) {
            (Some(stored), Some(mine))
                if Waiter::of(&stored.record).is_some_and(|it| it.id == self.id.0) =>
            {
                mine.version = stored.version;
                mine.beat_due = now.plus(TICKET_BEAT);
                self.go_on(now)
            }
            _ if self.stopping => {
                self.mine = None;
                self.leave(Outcome::Stopped { held: None })
            }
            _ => self.open(),
        }
    }

    /// After a beat: on with the wait, at the head or behind.
    pub(super) fn go_on(&mut self, now: Uptime) -> Action {
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        if self.watched.is_some() {
            return self.sleep_on(now);
        }
        let action = self.acquire.step(now, acquire::Event::Tick);
        self.tries_on(now, Back::Head, action)
    }

    pub(super) fn watched(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        let hold = self.hold(now);
        let Some(watched) = &mut self.watched else { return self.sleep_on(now) };
        watched.due = now.plus(BEHIND.interval(hold, &mut self.jitter));
        match reply {
            // It stood there and has gone, so the line has moved.
            Ok(None) if watched.version.is_some() => {
                self.ask(Phase::Placing(ticket), Action::Read(Slot::Line))
            }
            Ok(None) => self.look_before(now, ticket),
            Ok(Some(stored)) => match &watched.version {
                Some((version, since)) if *version == stored.version => {
                    if now.since(*since) < TICKET_TTL {
                        return self.sleep_on(now);
                    }
                    // Dead: removing it is housekeeping by whoever stands behind it.
                    let remove = Action::Remove(Slot::Ticket(ticket), stored.version);
                    self.ask(Phase::Cleaning(ticket), remove)
                }
                _ => {
                    watched.version = Some((stored.version, now));
                    self.sleep_on(now)
                }
            },
            Err(_) => self.sleep_on(now),
        }
    }

    pub(super) fn glanced(
        &mut self,
        now: Uptime,
        sent: Uptime,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        // Never later than the interval, for the sake of the 20 s; a little earlier, to spread.
        self.lock_due = now.plus(LOCK_LOOK.saturating_sub(self.jitter.up_to(LOCK_LOOK / 10)));
        match self.acquire.observe(now, sent, reply) {
            Sight::Ours => self.attempt(now, Back::Queued),
            Sight::Free => match self.lying {
                None => self.note_free(now),
                Some((since, _)) if now.since(since) >= LEFT_LYING => {
                    self.ask(Phase::CheckingHead, Action::Read(Slot::Line))
                }
                Some((since, _)) => {
                    self.lock_due = since.plus(LEFT_LYING);
                    self.sleep_on(now)
                }
            },
            // It was free between two holders only: the line has moved.
            Sight::Held if self.lying.take().is_some() => {
                self.ask(Phase::Surveying, Action::Read(Slot::Line))
            }
            Sight::Held | Sight::Unknown => self.sleep_on(now),
        }
    }

    /// The lock is free, and not ours to take yet. Whoever stands behind us shall see that we
    /// live; and we look who is before us, to see whether they do.
    pub(super) fn note_free(&mut self, now: Uptime) -> Action {
        self.lying = Some((now, self.line.head));
        self.lock_due = now.plus(LEFT_LYING);
        let Some(mine) = &mut self.mine else { return self.open() };
        mine.beat_due = now;
        let ticket = mine.ticket;
        self.look_before(now, ticket)
    }

    pub(super) fn head_checked(
        &mut self,
        now: Uptime,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        let before = self.lying.map(|(_, head)| head);
        if let Ok(current) = reply {
            self.learn(now, current);
        }
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        if before != Some(self.line.head) {
            self.lie_anew(now);
            return self.place(now);
        }
        let ours = self.mine.as_ref().map(|mine| mine.ticket);
        match self.watched.as_ref().map(|watched| watched.ticket) {
            Some(ticket) if Some(ticket) != ours => {
                self.ask(Phase::CheckingBefore(ticket), Action::Read(Slot::Ticket(ticket)))
            }
            _ => self.attempt(now, Back::Queued),
        }
    }

    /// A free lock is never left lying: with `head` where it was and no sign of life from the one
    /// before us, nobody before us is coming.
    pub(super) fn before_checked(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        let known = self.watched.as_ref().and_then(|watched| watched.version.clone());
        let since = self.lying.map_or(now, |(since, _)| since);
        match (reply, known) {
            // It came or went meanwhile: it is its turn, or somebody else's before us.
            (Ok(None), _) => {
                self.lie_anew(now);
                self.look_before(now, ticket)
            }
            (Ok(Some(stored)), Some((version, seen)))
                if stored.version != version || seen > since.plus(LOOK_AROUND) =>
            {
                self.lie_anew(now);
                if let Some(watched) = &mut self.watched {
                    watched.version = Some((stored.version, now));
                }
                self.sleep_on(now)
            }
            _ => self.attempt(now, Back::Queued),
        }
    }

    /// The lock was free just now, but somebody before us lived: from here on they are given as
    /// long again, and no longer. So whoever dies at its turn costs 20 s.
    fn lie_anew(&mut self, now: Uptime) {
        self.lying = Some((now, self.line.head));
        self.lock_due = now.plus(LEFT_LYING);
    }
}
