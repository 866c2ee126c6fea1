//! A free lock is never left unclaimed: a waiter behind the head also looks at the lock, and tries
//! it if nobody in front of it is alive.
//!
//! A waiter that sees the lock free says so in its ticket ([`Waiter::free_after`]). All live
//! waiters have seen it within 10 s. After that, the waiter reads the tickets in front of its own,
//! down to the head. The first of these that has seen the free lock goes first. If there is none,
//! it is our turn.

use super::super::Uptime;
use super::super::acquire::Observation;
use super::super::backoff::LOCK_LOOK;
use super::super::line::{Slot, Ticket, Waiter};
use super::{Action, LEFT_UNCLAIMED, LONGEST_WALK, Phase, Queue, RETRY, ReturnTo, Unclaimed};
use crate::lock::register::{StoreError, Stored};

impl Queue {
    /// Whether the lock was seen free, and is left to those before us.
    #[must_use]
    pub fn sees_free(&self) -> bool {
        self.unclaimed.is_some()
    }

    pub(super) fn glanced(
        &mut self,
        now: Uptime,
        sent: Uptime,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        // Never later than the interval, for the sake of the 20 s; a little earlier, to spread.
        self.lock_due = now.plus(LOCK_LOOK.saturating_sub(self.jitter.up_to(LOCK_LOOK / 20)));
        let before = self.acquire.holder();
        match self.acquire.observe(now, sent, reply) {
            // A request that was never answered got it.
            Observation::Ours => self.attempt(now, ReturnTo::Barging),
            Observation::Free if self.unclaimed.is_none() => {
                self.ask(Phase::Noting, Action::Read(Slot::Line))
            }
            Observation::Free => self.ask(Phase::CheckingTurns, Action::Read(Slot::Line)),
            Observation::Held => {
                self.note_holder(before.is_none() || before == self.acquire.holder());
                if let Some(expires) = self.acquire.expires() {
                    self.lock_due = self.lock_due.min(expires);
                }
                if self.unclaimed.take().is_some() {
                    // It was free between two holders only: the line has moved.
                    return self.ask(Phase::Surveying, Action::Read(Slot::Line));
                }
                self.sleep_on(now)
            }
            Observation::Unknown => self.sleep_on(now),
        }
    }

    /// The lock is free, and not ours to take yet: that is said in our ticket, for those behind us.
    /// Perhaps nobody stands before us any more.
    pub(super) fn noted(
        &mut self,
        now: Uptime,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        if let Ok(current) = reply {
            self.learn(now, current);
        }
        self.note(now)
    }

    fn note(&mut self, now: Uptime) -> Action {
        let turns = self.line.turns;
        self.unclaimed = Some(Unclaimed { since: now, turns, let_go: Vec::new(), walked: None });
        self.say_free(now);
        if let Some(watched) = &mut self.watched {
            watched.due = now;
        }
        self.place(now)
    }

    /// Our ticket tells it anew, and whoever stands before us has as long again.
    fn say_free(&mut self, now: Uptime) {
        self.lock_due = now.plus(LOCK_LOOK);
        if let Some(mine) = &mut self.mine {
            mine.beat_due = now;
        }
    }

    pub(super) fn turns_checked(
        &mut self,
        now: Uptime,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        if let Ok(current) = reply {
            self.learn(now, current);
        }
        match (&mut self.unclaimed, &self.mine) {
            (Some(unclaimed), Some(mine)) => {
                unclaimed.walked = Some(mine.ticket);
                self.place(now)
            }
            // Somebody had it meanwhile, and it is free once more.
            _ => self.note(now),
        }
    }

    /// When to take the next step down the line, if we are on that way.
    pub(super) fn walk_due(&self) -> Option<Uptime> {
        let unclaimed = self.unclaimed.as_ref()?;
        unclaimed.walked.map(|_| unclaimed.since.plus(LEFT_UNCLAIMED))
    }

    pub(super) fn walk(&mut self, now: Uptime) -> Option<Action> {
        if self.walk_due()? > now {
            return None;
        }
        let Ticket(walked) = self.unclaimed.as_ref()?.walked?;
        let ticket = Ticket(walked.checked_sub(1)?);
        Some(self.ask(Phase::Walking(ticket), Action::Read(Slot::Ticket(ticket))))
    }

    pub(super) fn walked(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        let had_it = |waiter: &Waiter| {
            let holder = self.acquire.holder();
            holder.is_some_and(|it| it.info().is_some_and(|info| info.id.0 == waiter.id))
        };
        let Some(unclaimed) = &mut self.unclaimed else { return self.sleep_on(now) };
        let stored = match reply {
            Ok(stored) => stored,
            Err(StoreError::Denied(_)) => None,
            Err(_) => {
                // Who stands there is not known: once more from above, if it is still free.
                unclaimed.walked = None;
                self.lock_due = now.plus(RETRY);
                return self.sleep_on(now);
            }
        };
        if let Some(Stored { record, version }) = stored
            && let Some(waiter) = Waiter::of(&record)
            && waiter.free_after == Some(unclaimed.turns)
            // Who got the lock and died before it could say so waits no more.
            && !had_it(&waiter)
        {
            // Who was let go first, and has neither tried nor said anything since, died meanwhile.
            if !unclaimed.let_go.contains(&(ticket, version.clone())) {
                unclaimed.let_go.push((ticket, version));
                (unclaimed.walked, unclaimed.since) = (None, now);
                self.say_free(now);
                return self.sleep_on(now);
            }
        }
        self.walk_on(now, ticket)
    }

    /// Nobody between us and below `ticket` wants the lock.
    fn walk_on(&mut self, now: Uptime, ticket: Ticket) -> Action {
        if ticket.0 <= self.line.head || self.have_passed(ticket) >= LONGEST_WALK {
            return self.attempt(now, ReturnTo::Passing);
        }
        if let Some(unclaimed) = &mut self.unclaimed {
            unclaimed.walked = Some(ticket);
        }
        self.sleep_on(now)
    }
}
