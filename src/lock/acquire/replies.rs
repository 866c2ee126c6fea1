//! What follows from each answer of the store.

use std::time::Duration;

use super::super::Uptime;
use super::super::backoff::pause_after;
use super::{Acquire, Action, FIRST_CONTACT, Next, Outcome, Reached, Seen, State, Won, is_of};
use crate::lock::register::{LeftOpen, StoreError, Stored, WriteReply};

impl Acquire {
    pub(super) fn take(&mut self, now: Uptime) -> Action {
        self.first_sent.get_or_insert(now);
        self.state = State::Taking { sent: now };
        Action::Take
    }

    pub(super) fn look(&mut self, now: Uptime, settling: bool) -> Action {
        if self.blind {
            return self.take(now);
        }
        self.state = State::Looking { settling, sent: now };
        Action::Look
    }

    pub(super) fn end(&mut self, outcome: Outcome) -> Action {
        let ours = matches!(outcome, Outcome::Granted(_) | Outcome::Stopped { held: Some(_) });
        self.state = State::Ended { ours };
        Action::Done(outcome)
    }

    /// Told to stop, with nothing out: one look for what was never answered.
    pub(super) fn way_out(&mut self, now: Uptime) -> Action {
        let settles = matches!(self.state, State::Waiting { then: Next::Settle, .. });
        // Blind, the look is a create.
        if settles || (self.unanswered > 0 && !self.blind) {
            return self.look(now, true);
        }
        self.end(Outcome::Stopped { held: None })
    }

    /// Told to stop long enough ago: what is out now is not waited for.
    pub(super) fn break_off(&mut self) -> Action {
        if matches!(self.state, State::Taking { .. }) {
            self.leave_open(LeftOpen::Unanswered);
        }
        self.end(Outcome::Stopped { held: None })
    }

    fn leave_open(&mut self, how: LeftOpen) {
        self.unanswered += 1;
        self.left_open = self.left_open.max(Some(how));
    }

    pub(super) fn wake(&mut self, now: Uptime, then: Next) -> Action {
        match then {
            Next::Settle => self.look(now, true),
            _ if self.is_stopping() => self.way_out(now),
            // Everyone tries once before giving up.
            _ if now >= self.give_up_at => {
                self.last_try = true;
                self.take(now)
            }
            Next::Take => self.take(now),
            Next::Look => self.look(now, false),
        }
    }

    pub(super) fn took(
        &mut self,
        now: Uptime,
        sent: Uptime,
        reply: Result<WriteReply, StoreError>,
    ) -> Action {
        match &reply {
            Err(StoreError::NotTheStore { .. }) => {
                self.misled.get_or_insert(now);
            }
            Ok(_) | Err(StoreError::Throttled(_) | StoreError::Busy(_)) => {
                (self.reached, self.misled) = (Reached::Writes, None);
            }
            Err(_) => self.misled = None,
        }
        match reply {
            Ok(WriteReply::Applied(version)) => {
                self.granted(Won { version, since: sent, answered: true })
            }
            Ok(WriteReply::Conflict(current)) => {
                self.answered();
                self.refused = true;
                match current {
                    Some(Some(stored)) => self.met(now, sent, stored),
                    Some(None) => self.vacant(now),
                    // Held, by whomever.
                    None if self.blind => self.vacant(now),
                    None => self.look(now, false),
                }
            }
            Err(error) => {
                let Some(how) = error.left_open() else {
                    return self.fault_or_fail(now, error, Next::Take);
                };
                self.leave_open(how);
                if self.blind {
                    // The next create is the look; not without a pause.
                    return self.fault_or_fail(now, error, Next::Settle);
                }
                self.faulted(error);
                self.look(now, true)
            }
        }
    }

    pub(super) fn looked(
        &mut self,
        now: Uptime,
        sent: Uptime,
        reply: Result<Option<Stored>, StoreError>,
        settling: bool,
    ) -> Action {
        match reply {
            Ok(Some(stored)) => {
                // A read alone does not tell that writes get through.
                if settling {
                    self.reached = self.reached.max(Reached::Reads);
                } else {
                    self.answered();
                }
                self.met(now, sent, stored)
            }
            Ok(None) if settling && !self.is_stopping() => self.not_there(now),
            Ok(None) => {
                self.answered();
                self.vacant(now)
            }
            // A refused read tells nothing; a create shows what is there.
            Err(StoreError::Denied(_)) => {
                self.blind = true;
                self.answered();
                if settling && self.is_stopping() {
                    // If the unanswered one landed, this one meets it.
                    return self.take(now);
                }
                self.vacant(now)
            }
            Err(error) => {
                let then = if settling { Next::Settle } else { Next::Look };
                self.fault_or_fail(now, error, then)
            }
        }
    }

    pub(super) fn answered(&mut self) {
        self.reached = self.reached.max(Reached::Reads);
        self.faults = 0;
        self.last_fault = None;
    }

    pub(super) fn granted(&mut self, won: Won) -> Action {
        self.answered();
        self.end(if self.is_stopping() {
            Outcome::Stopped { held: Some(won) }
        } else {
            Outcome::Granted(won)
        })
    }

    /// The register holds a record: ours, or someone's to wait for.
    pub(super) fn met(&mut self, now: Uptime, sent: Uptime, stored: Stored) -> Action {
        if stored.record.is_held_by(&self.id) {
            // An unanswered create is found: it can land no more. Any other still can.
            self.unanswered = self.unanswered.saturating_sub(1);
            let since = self.first_sent.unwrap_or(self.started);
            return self.granted(Won { version: stored.version, since, answered: false });
        }
        // Ours did not land, and the one who is there was not it.
        self.taken_over = None;
        self.see(now, sent, stored);
        if self.is_stopping() {
            return self.end(Outcome::Stopped { held: None });
        }
        if self.has_expired(now) {
            if let Some(error) = self.given_up(now) {
                return self.end(Outcome::Failed(error));
            }
            // Tried twice, unanswered, and not there: not without a pause.
            if self.faults <= 1 {
                return self.may_be_had(now, Self::take_over);
            }
            return if self.over(now) {
                self.end(Outcome::TimedOut)
            } else {
                self.sleep(now, Next::Look)
            };
        }
        self.phantoms = 0;
        self.answered();
        if self.over(now) {
            return self.end(Outcome::TimedOut);
        }
        self.sleep(now, Next::Look)
    }

    /// Takes note of somebody's record.
    pub(super) fn see(&mut self, now: Uptime, sent: Uptime, stored: Stored) {
        if let Some(seen) = self.seen.as_mut().filter(|seen| seen.version == stored.version) {
            seen.until = sent;
            return;
        }
        // Whoever that is got through.
        self.misled = None;
        let since = match &self.handed_on {
            Some(before) if is_of(&stored.record, before) => {
                now.minus(Duration::from_millis(before.stood))
            }
            _ => now,
        };
        let Stored { record, version } = stored;
        self.seen = Some(Seen { record, version, since, met: now, until: sent });
    }

    pub(super) fn has_expired(&self, now: Uptime) -> bool {
        self.expires().is_some_and(|at| now >= at)
    }

    /// Conditional on the very version that stood still: if its holder lives after all, this is
    /// refused.
    pub(super) fn take_over(&mut self, now: Uptime) -> Action {
        let Some(seen) = &self.seen else { return self.take(now) };
        self.taken_over = Some(seen.record.clone());
        let version = seen.version.clone();
        self.first_sent.get_or_insert(now);
        self.state = State::Taking { sent: now };
        Action::TakeOver(version)
    }

    /// The register is empty: take it, unless we are on the way out.
    pub(super) fn vacant(&mut self, now: Uptime) -> Action {
        if self.is_stopping() {
            return self.end(Outcome::Stopped { held: None });
        }
        if self.blind {
            return if self.over(now) {
                self.end(Outcome::TimedOut)
            } else {
                self.sleep(now, Next::Take)
            };
        }
        self.may_be_had(now, Self::take)
    }

    /// An unanswered create is not there (yet): again at once the first time; then with backoff,
    /// since a store may answer every read and no write.
    pub(super) fn not_there(&mut self, now: Uptime) -> Action {
        self.reached = self.reached.max(Reached::Reads);
        if let Some(error) = self.given_up(now) {
            return self.end(Outcome::Failed(error));
        }
        match self.last_fault.clone() {
            Some(error) if self.faults > 1 && self.over(now) => self.end(Outcome::Failed(error)),
            Some(_) if self.faults > 1 => self.sleep(now, Next::Take),
            _ => self.take(now),
        }
    }

    /// It can be taken. Where we were just refused it has come free since: at once the first time;
    /// then with backoff, and until the end of the wait, since some stores stay that way for ever.
    fn may_be_had(&mut self, now: Uptime, attempt: fn(&mut Self, Uptime) -> Action) -> Action {
        if std::mem::take(&mut self.refused) {
            self.phantoms = self.phantoms.saturating_add(1);
            if self.phantoms > 1 {
                return if self.over(now) {
                    self.end(Outcome::TimedOut)
                } else {
                    self.sleep(now, Next::Look)
                };
            }
        }
        attempt(self, now)
    }

    /// Why a store that answers reads is not asked any longer: something else answers every write,
    /// and so it did from the first one on. One that has answered a write is waited for.
    fn given_up(&self, now: Uptime) -> Option<StoreError> {
        let (error, since) = self.misled(now)?;
        (self.reached < Reached::Writes && since >= FIRST_CONTACT).then(|| error.clone())
    }

    fn is_reached(&self) -> bool {
        self.reached > Reached::Nothing
    }

    pub(super) fn over(&self, now: Uptime) -> bool {
        self.last_try || now >= self.give_up_at
    }

    pub(super) fn sleep(&mut self, now: Uptime, then: Next) -> Action {
        self.refused = false;
        let unchanged = self.seen.as_ref().map_or(Duration::ZERO, |seen| now.since(seen.since));
        let pause = self.pace.interval(unchanged, &mut self.jitter)
            + pause_after(self.faults.max(self.phantoms), &mut self.jitter);
        let expires = self.expires().filter(|at| *at > now);
        let next = now.plus(pause).min(self.give_up_at.max(now));
        let next = expires.map_or(next, |at| next.min(at));
        self.state = State::Waiting { next, then };
        Action::Wait
    }

    pub(super) fn faulted(&mut self, error: StoreError) {
        self.faults += 1;
        if matches!(error, StoreError::Throttled(_) | StoreError::Busy(_)) {
            self.reached = self.reached.max(Reached::Reads);
        }
        self.last_fault = Some(error);
    }

    pub(super) fn fault_or_fail(&mut self, now: Uptime, error: StoreError, then: Next) -> Action {
        let transient =
            if self.is_reached() { error.is_transient() } else { error.is_worth_another_try() };
        self.faulted(error.clone());
        if let Some(leaves_at) = self.leaves_at() {
            if self.unanswered == 0 || !transient {
                return self.end(Outcome::Stopped { held: None });
            }
            let next = now.plus(pause_after(self.faults, &mut self.jitter)).min(leaves_at);
            self.state = State::Waiting { next, then: Next::Settle };
            return Action::Wait;
        }
        let patience = if self.is_reached() {
            self.give_up_at
        } else {
            self.give_up_at.min(self.started.plus(FIRST_CONTACT))
        };
        // Only a create shows that one is answered still.
        let given_up = (then == Next::Take || self.blind) && self.given_up(now).is_some();
        if !transient || self.last_try || now >= patience || given_up {
            return self.end(Outcome::Failed(error));
        }
        self.sleep(now, then)
    }
}
