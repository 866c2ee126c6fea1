//! Looks for a lock that may still appear, because nobody saw the answer to a request to create it.
//! If the lock appears, it is removed. If several such requests are out, it is removed each time
//! that it appears.
//!
//! Its rule: `docs/protocol.md#r4-a-create-may-be-applied-late`.

use std::time::Duration;

use super::acquire::FIRST_CONTACT;
use super::lease::FIRST;
use super::{LockId, Uptime};
use crate::lock::register::{StoreError, Stored};

/// How long a create that was never answered is looked for: what lands later is over as soon.
pub const LANDING: Duration = FIRST;

/// How often.
const LOOK: Duration = Duration::from_secs(3);

/// Between two looks, while the store does not answer.
pub const RETRY: Duration = Duration::from_millis(500);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The answer to a look.
    Looked(Result<Option<Stored>, StoreError>),
    /// What was found is given back.
    Released,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Come back at the deadline.
    Wait,
    /// Read the record.
    Look,
    /// Give this one back.
    Release(Stored),
    /// All is over.
    Done(LandingOutcome),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LandingOutcome {
    /// Nothing was there.
    Nothing,
    /// What was there is given back.
    Released,
    /// The store did not let us see.
    Unseen(StoreError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    /// Until then nothing is done.
    Waiting(Uptime),
    Looking,
    Releasing,
    Over,
}

/// Decides. Pure: the same events at the same times give the same actions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Landing {
    id: LockId,
    until: Uptime,
    /// Whether more than one may come.
    several: bool,
    phase: Phase,
    /// When the store is given up that does not answer.
    give_up_at: Option<Uptime>,
    released: bool,
}

impl Landing {
    /// Looks for a lock with this ID: at once, and again until then. Begins with a tick.
    #[must_use]
    pub fn new(id: LockId, until: Uptime, several: bool, now: Uptime) -> Self {
        let phase = Phase::Waiting(now);
        Self { id, until, several, phase, give_up_at: None, released: false }
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        match self.phase {
            Phase::Waiting(until) => Some(until),
            Phase::Looking | Phase::Releasing | Phase::Over => None,
        }
    }

    /// Takes one event and says what follows.
    #[must_use]
    pub fn step(&mut self, now: Uptime, event: Event) -> Action {
        match (self.phase, event) {
            (Phase::Waiting(until), Event::Tick) if now >= until => {
                self.phase = Phase::Looking;
                self.give_up_at.get_or_insert(now.plus(FIRST_CONTACT));
                Action::Look
            }
            (Phase::Looking, Event::Looked(Ok(Some(stored))))
                if stored.record.is_held_by(&self.id) =>
            {
                self.phase = Phase::Releasing;
                Action::Release(stored)
            }
            (Phase::Looking, Event::Looked(Ok(_))) => self.look_again(now),
            (Phase::Looking, Event::Looked(Err(error))) => {
                match self.give_up_at.filter(|at| now < *at && error.is_worth_another_try()) {
                    Some(at) => self.wait(now.plus(RETRY).min(at)),
                    None => self.done(LandingOutcome::Unseen(error)),
                }
            }
            (Phase::Releasing, Event::Released) => {
                self.released = true;
                if self.several {
                    self.look_again(now)
                } else {
                    self.done(LandingOutcome::Released)
                }
            }
            // Nothing that was asked for.
            _ => Action::Wait,
        }
    }

    fn look_again(&mut self, now: Uptime) -> Action {
        self.give_up_at = None;
        if now < self.until {
            return self.wait(now.plus(LOOK).min(self.until));
        }
        self.done(if self.released { LandingOutcome::Released } else { LandingOutcome::Nothing })
    }

    fn wait(&mut self, until: Uptime) -> Action {
        self.phase = Phase::Waiting(until);
        Action::Wait
    }

    fn done(&mut self, found: LandingOutcome) -> Action {
        self.phase = Phase::Over;
        Action::Done(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::register::{Record, RecordVersion};

    fn at(seconds: u64) -> Uptime {
        Uptime(Duration::from_secs(seconds))
    }

    fn found() -> Event {
        let record = Record { info: Some("{\"ID\":\"1\"}".to_owned()), lease: None };
        Event::Looked(Ok(Some(Stored { record, version: RecordVersion(String::new()) })))
    }

    #[test]
    fn what_lands_is_given_back_each_time_that_several_may() {
        for several in [false, true] {
            let mut landing = Landing::new(LockId("1".to_owned()), at(60), several, at(0));
            assert_eq!(landing.step(at(0), Event::Tick), Action::Look);
            assert_eq!(landing.step(at(0), Event::Looked(Ok(None))), Action::Wait);
            assert_eq!(landing.deadline(), Some(at(3)));
            assert_eq!(landing.step(at(3), Event::Tick), Action::Look);
            assert!(matches!(landing.step(at(3), found()), Action::Release(_)));
            let then = landing.step(at(4), Event::Released);
            if !several {
                assert_eq!(then, Action::Done(LandingOutcome::Released));
                continue;
            }
            assert_eq!((then, landing.deadline()), (Action::Wait, Some(at(7))));
            assert_eq!(landing.step(at(60), Event::Tick), Action::Look);
            let last = landing.step(at(60), Event::Looked(Ok(None)));
            assert_eq!(last, Action::Done(LandingOutcome::Released));
        }
    }

    #[test]
    fn a_store_that_does_not_answer_is_given_up_after_its_time() {
        let mut landing = Landing::new(LockId("1".to_owned()), at(0), false, at(0));
        let silent = || StoreError::Unavailable { detail: String::new(), sent: true };
        assert_eq!(landing.step(at(0), Event::Tick), Action::Look);
        assert_eq!(landing.step(at(9), Event::Looked(Err(silent()))), Action::Wait);
        assert_eq!(landing.step(at(10), Event::Tick), Action::Look);
        let last = landing.step(at(10), Event::Looked(Err(silent())));
        assert_eq!(last, Action::Done(LandingOutcome::Unseen(silent())));
        let mut landing = Landing::new(LockId("1".to_owned()), at(60), false, at(0));
        assert_eq!(landing.step(at(0), Event::Tick), Action::Look);
        let denied = StoreError::Denied(String::new().into());
        let last = landing.step(at(0), Event::Looked(Err(denied.clone())));
        assert_eq!(last, Action::Done(LandingOutcome::Unseen(denied)));
    }
}
