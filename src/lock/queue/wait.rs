//! Waiting in the queue: what to watch, and when to pass somebody over.

use std::time::Duration;

use super::super::Uptime;
use super::super::acquire;
use super::super::backoff::{BEHIND, FAR_LOOK, SURVEY_LEAST, SURVEY_MOST};
use super::super::line::{Slot, TICKET_BEAT, TICKET_TTL, Ticket, Waiter};
use super::counted::Counted;
use super::progress::{Progress, times};
use super::{Action, LATE, LONGEST_WALK, Phase, Queue, RETRY, ReturnTo, Watched};
use crate::lock::register::{Expect, StoreError, Stored, WriteReply};

impl Queue {
    /// How many of those before us wait for plans, as far as the line counts them.
    #[must_use]
    pub fn plans_ahead(&self) -> Option<u64> {
        let (_, done) = self.line.plans;
        let plans = self.mine.as_ref()?.plans.saturating_sub(done);
        self.ahead().map(|ahead| plans.min(ahead))
    }

    /// How long it may still take until our turn, by the holds seen so far: one for each place
    /// before ours and the present one, less what that has taken already. Nothing before `head` was
    /// seen to move, and outside the line.
    #[must_use]
    pub fn estimate(&self, now: Uptime) -> Option<Duration> {
        let holds = self.places_ahead()?.saturating_add(1);
        self.progress.until(now, holds)
    }

    pub(super) fn queue(&mut self, now: Uptime) -> Action {
        (self.lock_due, self.progress) = (now, Progress::from(now));
        (self.watched, self.unclaimed, self.counted) = (None, None, Counted::default());
        self.survey_later(now);
        self.place(now)
    }

    /// Whether somebody stands between the head and the nearest ticket before ours, as far as we
    /// know; else that one's going is what we wait for.
    pub(super) fn is_far(&self) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.ticket.0 > self.line.head)
    }

    /// Reads how far the line has moved in a third of the time until it is our turn, as holds go:
    /// the next one may be half as long as the last. While none was seen to end, the time that the
    /// present one takes already is on the short side: then in half of that.
    pub(super) fn survey_later(&mut self, now: Uptime) {
        let places = self.places_ahead().unwrap_or(0);
        let until = times(self.progress.hold(now), places);
        let share = if self.progress.is_known() { until / 3 } else { until / 2 };
        let interval = share.clamp(SURVEY_LEAST, SURVEY_MOST);
        self.line_due = now.plus(self.jitter.around(interval));
    }

    /// When to look at the nearest ticket before ours again: soon, if its going makes it our turn;
    /// else just often enough to see whether it lives.
    fn look_later(&mut self, now: Uptime) -> Uptime {
        let interval = if self.is_far() {
            self.jitter.around(FAR_LOOK)
        } else {
            BEHIND.interval(self.progress.hold(now), &mut self.jitter)
        };
        now.plus(interval)
    }

    /// Goes on from where the line is now.
    pub(super) fn place(&mut self, now: Uptime) -> Action {
        let Some(ticket) = self.mine.as_ref().map(|mine| mine.ticket) else { return self.open() };
        let Some(watched) = &self.watched else { return self.look_before(now, ticket) };
        // There was nobody between that one and us.
        if watched.ticket.0 < self.line.head {
            return self.be_head(now);
        }
        let due = watched.due.min(self.look_later(now));
        if let Some(watched) = &mut self.watched {
            watched.due = due;
        }
        self.sleep_on(now)
    }

    /// Looks at the nearest place before `ticket`, when nothing else is more urgent; with none left,
    /// we are at the head. So we are behind many places that nobody stands on: such a line is
    /// damaged, or was deserted long ago, and our turn moves its head past all of them.
    pub(super) fn look_before(&mut self, now: Uptime, ticket: Ticket) -> Action {
        if ticket.0 <= self.line.head || self.have_passed(ticket) >= LONGEST_WALK {
            return self.be_head(now);
        }
        let before = Ticket(ticket.0 - 1);
        // The same as before keeps its age: only its own change is a sign of life.
        let version =
            self.watched.take().filter(|it| it.ticket == before).and_then(|it| it.version);
        self.watched = Some(Watched { ticket: before, version, due: now });
        self.sleep_on(now)
    }

    /// How many places from ours down to this one are known to be of no account.
    pub(super) fn have_passed(&self, ticket: Ticket) -> u64 {
        self.mine.as_ref().map_or(0, |mine| mine.ticket.0.saturating_sub(ticket.0))
    }

    pub(super) fn sleep_on(&mut self, now: Uptime) -> Action {
        self.phase = Phase::Queued;
        self.wake(now)
    }

    /// Does what is due; the most urgent first.
    pub(super) fn wake(&mut self, now: Uptime) -> Action {
        if now >= self.give_up_at {
            // Everyone tries once before giving up.
            return self.attempt(now, ReturnTo::Barging);
        }
        let Some(mine) = &self.mine else { return self.open() };
        if now >= mine.beat_due {
            return self.beat();
        }
        if let Some(action) = self.walk(now) {
            return action;
        }
        // A long way down the line puts nothing else off for long.
        let survey_due = Some(self.line_due).filter(|_| self.is_far());
        let is_late = |due: Uptime| now >= due.plus(LATE);
        let other_is_late = survey_due.is_some_and(is_late) || is_late(self.lock_due);
        let watched = self.watched.as_ref().filter(|watched| now >= watched.due && !other_is_late);
        if let Some(ticket) = watched.map(|watched| watched.ticket) {
            return self.ask(Phase::Watching(ticket), Action::Read(Slot::Ticket(ticket)));
        }
        if survey_due.is_some_and(|due| now >= due) {
            return self.ask(Phase::Surveying, Action::Read(Slot::Line));
        }
        if now >= self.lock_due {
            return self.ask(Phase::Glancing { sent: now }, Action::Read(Slot::Lock));
        }
        if let Some(action) = self.count() {
            return action;
        }
        self.phase = Phase::Queued;
        Action::Wait
    }

    pub(super) fn beat(&mut self) -> Action {
        let Some(mine) = &self.mine else { return self.open() };
        self.waiter.beat = self.waiter.beat.wrapping_add(1);
        self.waiter.free_after = self.unclaimed.as_ref().map(|unclaimed| unclaimed.turns);
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
                self.joins = 0;
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
                if Waiter::of(&stored.record).is_some_and(|it| it.id == self.waiter.id) =>
            {
                mine.version = stored.version;
                mine.beat_due = now.plus(TICKET_BEAT);
                self.go_on(now)
            }
            _ => self.join_anew(now),
        }
    }

    /// After a beat: on with the wait, at the head or behind.
    pub(super) fn go_on(&mut self, now: Uptime) -> Action {
        if self.watched.is_some() {
            return self.sleep_on(now);
        }
        let action = self.acquire.step(now, acquire::Event::Tick);
        self.tries_on(ReturnTo::Head, action)
    }

    pub(super) fn watched(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        let due = self.look_later(now);
        let Some(watched) = &mut self.watched else { return self.sleep_on(now) };
        watched.due = due;
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
}
