//! The machine that releases one lock: a conditional remove, retried for a minute.
//!
//! It never touches somebody else's record. The signal that ended the run does not end the release
//! (`docs/protocol.md#the-end-of-a-run`).

use std::time::Duration;

use super::backoff::pause_after;
use super::jitter::Jitter;
use super::{LockId, Uptime};
use crate::lock::register::{RecordVersion, RemoveReply, StoreError, Stored};

/// How long a release is retried before the user is told how to finish it.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Begin.
    Start,
    /// The conditional remove came back.
    Removed(Result<RemoveReply, StoreError>),
    /// The read came back.
    Looked(Result<Option<Stored>, StoreError>),
    /// [`Release::deadline`] has passed.
    Tick,
}

/// What the event loop does next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Send the conditional remove of this version.
    Remove(RecordVersion),
    /// Read the register.
    Look,
    /// Nothing until the deadline.
    Wait,
    /// It is over.
    Done(ReleaseOutcome),
}

/// What became of the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// We gave it back.
    Released,
    /// It was gone when we came: someone removed it while we held it.
    AlreadyGone,
    /// Someone else's record is there; untouched.
    TakenOver(Stored),
    /// Nobody could tell us; the lock may still be there.
    Unconfirmed(StoreError),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State {
    New,
    Removing,
    Looking,
    Waiting { next: Uptime },
    Ended,
}

/// Gives one lock back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Release {
    id: LockId,
    /// What is stored, as far as we know; found out first where we do not.
    version: Option<RecordVersion>,
    jitter: Jitter,
    give_up_at: Uptime,
    state: State,
    faults: u32,
    /// Whether a remove was never answered: then an empty register is our own doing, before
    /// [`Self::others_from`].
    unanswered: bool,
    /// When others may take it over, who may have given it back by the time we look.
    others_from: Option<Uptime>,
}

impl Release {
    /// Prepares to remove the record that is stored under `version`, where that is known. A remove
    /// that fails is sent again until `give_up_at`.
    #[must_use]
    pub fn new(
        id: LockId,
        version: Option<RecordVersion>,
        give_up_at: Uptime,
        jitter: Jitter,
    ) -> Self {
        let (state, faults, unanswered, others_from) = (State::New, 0, false, None);
        Self { id, version, jitter, give_up_at, state, faults, unanswered, others_from }
    }

    /// One of a lock whose lease ends then.
    #[must_use]
    pub fn before(self, lease_ends: Option<Uptime>) -> Self {
        Self { others_from: lease_ends, ..self }
    }

    /// One after a remove that somebody else sent, whose answer nobody heard.
    #[must_use]
    pub fn after_a_remove(self) -> Self {
        Self { unanswered: true, ..self }
    }

    /// When the machine wants a [`Event::Tick`]; `None` while a request is out.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        match self.state {
            State::Waiting { next } => Some(next),
            _ => None,
        }
    }

    /// Decides.
    pub fn step(&mut self, now: Uptime, event: Event) -> Action {
        match (self.state.clone(), event) {
            (State::New, Event::Start) => self.remove(),
            (State::Waiting { next }, Event::Tick) if now >= next => self.remove(),
            (State::Removing, Event::Removed(Ok(RemoveReply::Removed))) => {
                self.end(ReleaseOutcome::Released)
            }
            (State::Removing, Event::Removed(Ok(RemoveReply::Conflict(current)))) => {
                if let Some(current) = current {
                    self.found(now, current)
                } else {
                    self.state = State::Looking;
                    Action::Look
                }
            }
            (State::Looking, Event::Looked(Ok(current))) => self.found(now, current),
            (State::Removing, Event::Removed(Err(error))) => {
                self.unanswered |= error.outcome_is_unknown();
                self.retry(now, error)
            }
            (State::Looking, Event::Looked(Err(error))) => self.retry(now, error),
            _ => Action::Wait,
        }
    }

    fn remove(&mut self) -> Action {
        let Some(version) = self.version.clone() else {
            self.state = State::Looking;
            return Action::Look;
        };
        self.state = State::Removing;
        Action::Remove(version)
    }

    fn end(&mut self, outcome: ReleaseOutcome) -> Action {
        self.state = State::Ended;
        Action::Done(outcome)
    }

    /// The remove was refused; this is what is there.
    fn found(&mut self, now: Uptime, current: Option<Stored>) -> Action {
        let is_over = self.others_from.is_some_and(|at| now >= at);
        let is_our_doing = self.unanswered && !is_over;
        match current {
            None if is_our_doing => self.end(ReleaseOutcome::Released),
            None => self.end(ReleaseOutcome::AlreadyGone),
            Some(stored) if stored.record.is_held_by(&self.id) => {
                if self.version.replace(stored.version).is_none() {
                    return self.remove();
                }
                self.pause(now, || {
                    StoreError::Misconfigured(
                        "the store refuses to remove the very version it shows".into(),
                    )
                })
            }
            // A stranger's record after an unanswered remove: ours went first.
            Some(_) if is_our_doing => self.end(ReleaseOutcome::Released),
            Some(stored) => self.end(ReleaseOutcome::TakenOver(stored)),
        }
    }

    fn retry(&mut self, now: Uptime, error: StoreError) -> Action {
        // Credentials may be renewed within the minute; a missing permission or table will not.
        let may_help = error.is_transient() || matches!(error, StoreError::Credentials(_));
        if !may_help {
            return self.end(ReleaseOutcome::Unconfirmed(error));
        }
        self.pause(now, || error)
    }

    fn pause(&mut self, now: Uptime, error: impl FnOnce() -> StoreError) -> Action {
        if now >= self.give_up_at {
            return self.end(ReleaseOutcome::Unconfirmed(error()));
        }
        self.faults += 1;
        // The first retry comes at once: most faults are one lost reply.
        let pause = if self.faults == 1 {
            Duration::ZERO
        } else {
            pause_after(self.faults, &mut self.jitter)
        };
        self.state = State::Waiting { next: now.plus(pause).min(self.give_up_at) };
        Action::Wait
    }
}

#[cfg(test)]
mod tests;
