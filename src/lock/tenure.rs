//! One lock from the moment it is ours to its end: first kept, then released. The machine composes
//! the [`LeaseKeeper`] and the [`Release`], and enforces what neither can alone: at most one
//! request for a lock is out at any time. So when the release is requested, a request that is out
//! is waited for first. A heartbeat that is applied after the lock was removed would bring the lock
//! back.
//!
//! No clock, no I/O, no randomness of its own.

use std::time::Duration;

use super::jitter::Jitter;
use super::lease_keeper::{self, LeaseEvent, LeaseKeeper};
use super::release::{self, Release, ReleaseOutcome};
use super::{LockId, Uptime};
use crate::lock::register::{Expect, RecordVersion, Reply, Request, Stored};

/// How long a lock whose create was not answered may take to be confirmed by a heartbeat, before the
/// run gives up.
pub const CONFIRM: Duration = Duration::from_secs(40);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// [`Tenure::deadline`] has passed.
    Tick,
    /// The request that [`Action::Ask`] asked for came back, or its time was up.
    Answered(Reply),
    /// Nothing runs under the lock any more, or ever will.
    Release {
        /// How long a release that fails is retried, from when it begins.
        patience: Duration,
        /// For the pauses in between.
        jitter: Jitter,
    },
}

/// What the event loop does next, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this, and give it up after [`Tenure::patience`].
    Ask(Request),
    /// Tell the run.
    Say(LeaseEvent),
    /// It is over.
    Over(TenureEnd),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenureEnd {
    /// An outer run or a `hold` goes on with it.
    Inherited,
    /// Somebody removed it, or has it now: found while it was kept, and told as
    /// [`LeaseEvent::Lost`] then. Nothing of whoever has it is touched.
    Lost(Option<Stored>),
    /// It was ours to release.
    Released(ReleaseOutcome),
}

/// Who keeps it until its release.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "a handful of them live in a run")]
enum Keeping {
    /// The kernel, or nobody: what was just found is only released.
    Nobody(Option<RecordVersion>),
    Us(LeaseKeeper),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Kept,
    /// To be released once nothing is out.
    Ending {
        patience: Duration,
        jitter: Jitter,
    },
    Releasing(Release),
    Over,
}

/// A lock that is ours, or that is held for us.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tenure {
    id: LockId,
    keeping: Keeping,
    inherited: bool,
    phase: Phase,
    /// Whether a request is out.
    asked: bool,
    /// Whether whoever had it before us has sent a remove, whose answer nobody heard.
    removed: bool,
}

impl Tenure {
    /// A lock with a lease.
    #[must_use]
    pub fn leased(keeper: LeaseKeeper) -> Self {
        let id = keeper.id().clone();
        Self::new(id, Keeping::Us(keeper), false)
    }

    /// A lock that an outer run or a `hold` has: it is kept here, too, and never released.
    #[must_use]
    pub fn inherited(keeper: LeaseKeeper) -> Self {
        let id = keeper.id().clone();
        Self::new(id, Keeping::Us(keeper), true)
    }

    /// A lock that stays ours without a heartbeat, stored under this version as far as we know.
    #[must_use]
    pub fn unleased(id: LockId, version: Option<RecordVersion>) -> Self {
        Self::new(id, Keeping::Nobody(version), false)
    }

    fn new(id: LockId, keeping: Keeping, inherited: bool) -> Self {
        Self { id, keeping, inherited, phase: Phase::Kept, asked: false, removed: false }
    }

    /// One whose holder may have sent a remove before it was killed (`removed`): then it is no loss
    /// if it is gone.
    #[must_use]
    pub fn after_a_remove(self, removed: bool) -> Self {
        Self { removed, ..self }
    }

    /// Whether its release has begun: a remove is out, or may be next.
    #[must_use]
    pub fn is_releasing(&self) -> bool {
        matches!(self.phase, Phase::Releasing(_))
    }

    /// Its ID.
    #[must_use]
    pub fn id(&self) -> &LockId {
        &self.id
    }

    /// Whether an outer run or a `hold` releases it.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// What keeps its lease, if it has one.
    #[must_use]
    pub fn keeper(&self) -> Option<&LeaseKeeper> {
        match &self.keeping {
            Keeping::Nobody(_) => None,
            Keeping::Us(keeper) => Some(keeper),
        }
    }

    /// Whether it is somebody else's by now, or gone.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.keeper().is_some_and(LeaseKeeper::is_lost)
    }

    /// Whether a child may start as far as this lock is concerned.
    #[must_use]
    pub fn may_start(&self, now: Uptime) -> bool {
        self.keeper().is_none_or(|keeper| keeper.may_start(now))
    }

    /// [`LeaseKeeper::declares_less`].
    #[must_use]
    pub fn declares_less(&self) -> bool {
        self.keeper().is_some_and(LeaseKeeper::declares_less)
    }

    /// [`LeaseKeeper::declare_all`].
    pub fn declare_all(&mut self, now: Uptime) {
        if let Keeping::Us(keeper) = &mut self.keeping {
            keeper.declare_all(now);
        }
    }

    /// When the machine wants an [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        match &self.phase {
            Phase::Kept | Phase::Ending { .. } => self.keeper().map(LeaseKeeper::deadline),
            Phase::Releasing(release) => release.deadline(),
            Phase::Over => None,
        }
    }

    /// How long the request that is out may take before it counts as unanswered; none: as long as
    /// the store waits by itself.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Kept | Phase::Ending { .. } => self.keeper().map(LeaseKeeper::patience),
            Phase::Releasing(_) | Phase::Over => None,
        }
    }

    /// Takes one event and says what follows.
    #[must_use]
    pub fn step(&mut self, now: Uptime, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {
                self.keep(now, lease_keeper::Event::Tick, &mut actions);
                self.release(now, release::Event::Tick, &mut actions);
            }
            Event::Answered(reply) => {
                // Time first: after a pause the reply may be as old as that, and the keeper must
                // know.
                if self.keeper().is_some_and(|keeper| now >= keeper.deadline()) {
                    self.keep(now, lease_keeper::Event::Tick, &mut actions);
                }
                self.asked = false;
                self.answered(now, reply, &mut actions);
            }
            Event::Release { patience, jitter } => {
                if self.phase == Phase::Kept {
                    self.phase = Phase::Ending { patience, jitter };
                }
            }
        }
        if let (&Phase::Ending { patience, jitter }, false) = (&self.phase, self.asked) {
            self.end(now, patience, jitter, &mut actions);
        }
        actions
    }

    fn answered(&mut self, now: Uptime, reply: Reply, actions: &mut Vec<Action>) {
        match reply {
            Reply::Wrote(reply) => self.keep(now, lease_keeper::Event::Beaten(reply), actions),
            Reply::Removed(reply) => self.release(now, release::Event::Removed(reply), actions),
            Reply::Read(reply) if matches!(self.phase, Phase::Releasing(_)) => {
                self.release(now, release::Event::Looked(reply), actions);
            }
            Reply::Read(reply) => self.keep(now, lease_keeper::Event::Looked(reply), actions),
        }
    }

    fn keep(&mut self, now: Uptime, event: lease_keeper::Event, actions: &mut Vec<Action>) {
        let (Keeping::Us(keeper), Phase::Kept | Phase::Ending { .. }) =
            (&mut self.keeping, &self.phase)
        else {
            return;
        };
        for action in keeper.step(now, event) {
            let request = match action {
                lease_keeper::Action::Beat(record, version) => {
                    Request::Write(record, Expect::Version(version))
                }
                lease_keeper::Action::Look => Request::Read,
                lease_keeper::Action::Say(said) => {
                    actions.push(Action::Say(said));
                    continue;
                }
            };
            // Nothing more follows what is out.
            if self.phase == Phase::Kept {
                self.asked = true;
                actions.push(Action::Ask(request));
            }
        }
    }

    /// Nothing is out, and nothing runs under it.
    fn end(&mut self, now: Uptime, patience: Duration, jitter: Jitter, actions: &mut Vec<Action>) {
        let lost_to = self.keeper().and_then(LeaseKeeper::lost_to).map(Option::<&Stored>::cloned);
        let end = match lost_to {
            Some(current) => TenureEnd::Lost(current),
            None if self.inherited => TenureEnd::Inherited,
            None => {
                let lease_ends = self.keeper().and_then(LeaseKeeper::ends);
                let version = match &self.keeping {
                    Keeping::Nobody(version) => version.clone(),
                    // Others may have had it since. A remove that is not answered could not tell.
                    Keeping::Us(_) if lease_ends.is_some_and(|at| now >= at) => None,
                    Keeping::Us(keeper) => keeper.version().cloned(),
                };
                let release = Release::new(self.id.clone(), version, now.plus(patience), jitter)
                    .before(lease_ends);
                let release = if self.removed { release.after_a_remove() } else { release };
                self.phase = Phase::Releasing(release);
                return self.release(now, release::Event::Start, actions);
            }
        };
        self.phase = Phase::Over;
        actions.push(Action::Over(end));
    }

    fn release(&mut self, now: Uptime, event: release::Event, actions: &mut Vec<Action>) {
        let Phase::Releasing(release) = &mut self.phase else { return };
        let request = match release.step(now, event) {
            release::Action::Wait => return,
            release::Action::Remove(version) => Request::Remove(version),
            release::Action::Look => Request::Read,
            release::Action::Done(outcome) => {
                self.phase = Phase::Over;
                return actions.push(Action::Over(TenureEnd::Released(outcome)));
            }
        };
        self.asked = true;
        actions.push(Action::Ask(request));
    }
}

#[cfg(test)]
mod tests;
