//! A run from its first lock to its last release: what a stop, a loss and a suspension mean for it,
//! in every phase. This is the one place where that is decided. The event loop feeds it and carries
//! out what it answers.
//!
//! | a run that | is stopped | loses a lock | is suspended |
//! | --- | --- | --- | --- |
//! | acquires its locks, or waits until they are confirmed | ends | ends | stands still, for a shell that resumes it |
//! | is a hold | ends | ends, and those inside it with `--on-lock-lost stop` | continues |
//! | has a child | [`Supervisor`] | [`Supervisor`] | [`Supervisor`] |
//! | waits for those inside it | asks them to end, once | continues | continues |
//! | releases | continues | continues | continues |
//!
//! No clock, no I/O, no randomness.
//!
//! Its rules: `docs/protocol.md#signals`.

use std::time::Duration;

use super::machine::{self, Supervisor, Watch};
use super::{Policy, StopSignal};
use crate::lock::Uptime;
use crate::lock::lease_keeper::LeaseEvent;
use crate::lock::tenure::{CONFIRM, Tenure};

/// How long a store may take to answer a heartbeat before we stand still.
const DECLARE: Duration = Duration::from_secs(2);

/// What the locks of the run are like at this very moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the locks")]
pub struct LocksNow {
    /// All are confirmed, and well before their fences: a child may start.
    pub confirmed: bool,
    /// One is somebody else's by now, or gone.
    pub lost: bool,
    /// All that are not lost are confirmed: a child may go on after a pause. What a loss means for
    /// it is decided when it is noticed.
    pub good: bool,
    /// One of them declares less than it is to, so that others may take it over earlier than was asked
    /// for.
    pub declares_less: bool,
}

impl LocksNow {
    /// That of these locks.
    #[must_use]
    pub fn of<'a>(locks: impl IntoIterator<Item = &'a Tenure>, now: Uptime) -> Self {
        let mut state = Self { confirmed: true, lost: false, good: true, declares_less: false };
        for lock in locks {
            state.confirmed &= lock.may_start(now);
            state.lost |= lock.is_lost();
            state.good &= lock.is_lost() || lock.may_start(now);
            state.declares_less |= lock.declares_less();
        }
        state
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A signal came, or something happened to the child.
    Child(machine::Event),
    /// News of a lock.
    Lease {
        /// What its keeper says.
        said: LeaseEvent,
        /// Whether that lock is lost by now.
        is_lost: bool,
    },
    /// The guardian killed the child before a lease could end.
    Fenced,
    /// What Terraform reads changed while it was starting.
    Changed,
    /// [`LockedRun::deadline`] has passed, or a lock may have been confirmed.
    Tick,
}

/// What is to be done, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A child may start: all locks are confirmed, none is lost, and nobody has asked us to end.
    MayStart,
    /// The child gets this.
    Child(machine::Action),
    /// Stop us, as Ctrl-Z means it, until we are continued.
    Suspend,
    /// Have the locks declare all of their leases: nobody sends heartbeats while we stand still.
    DeclareLeases,
    /// Ask those below to end.
    EndDependents,
    /// Say that the release comes first.
    ReleaseFirst(StopSignal),
    /// Nothing is started any more: release what is held.
    End(NotStarted),
}

/// Why a run ends without its child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotStarted {
    /// It was asked to end.
    Stopped(StopSignal),
    /// A lock is somebody else's by now, or gone.
    Lost,
    /// The store does not confirm a lock.
    Unconfirmed,
}

/// What the run is at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    /// Nothing runs: locks are looked at, waited for, taken.
    Idle,
    /// All are had, and may take until then to be confirmed.
    Confirming(Uptime),
    Holding,
    Running {
        supervisor: Box<Supervisor>,
        /// We were suspended, and the locks are not known to be good since.
        resume: bool,
        /// How we are to be suspended once the leases are declared, or then.
        suspend: Option<(machine::Action, Uptime)>,
    },
    AwaitingDependents {
        asked: bool,
    },
    Releasing,
}

/// Decides what becomes of a run. Pure: the same events at the same times give the same actions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LockedRun {
    /// `--on-lock-lost stop`.
    lost_is_fatal: bool,
    stage: Stage,
    /// The first signal that asked us to end.
    stopped_by: Option<StopSignal>,
    /// The child's own code counts for nothing.
    is_child_unprotected: bool,
}

impl LockedRun {
    /// Begins without a lock. With `lost_is_fatal`, nothing goes on under a lock that is lost.
    #[must_use]
    pub fn new(lost_is_fatal: bool) -> Self {
        Self { lost_is_fatal, stage: Stage::Idle, stopped_by: None, is_child_unprotected: false }
    }

    /// All locks are had; [`Action::MayStart`] comes when they are confirmed.
    pub fn confirm(&mut self, now: Uptime) {
        self.stage = Stage::Confirming(now.plus(CONFIRM));
    }

    /// All locks are had, and are kept for others.
    pub fn hold(&mut self) {
        self.stage = Stage::Holding;
    }

    /// The child has started.
    pub fn started(&mut self, policy: Policy) {
        self.is_child_unprotected = false;
        self.stage = Stage::Running {
            supervisor: Box::new(Supervisor::new(policy)),
            resume: false,
            suspend: None,
        };
    }

    /// Nothing of ours runs; those below may.
    pub fn await_dependents(&mut self) {
        self.stage = Stage::AwaitingDependents { asked: false };
    }

    /// Nobody runs under the locks any more.
    pub fn release(&mut self) {
        self.stage = Stage::Releasing;
    }

    /// Nothing is held any more.
    pub fn released(&mut self) {
        self.stage = Stage::Idle;
    }

    /// The first signal that asked us to end, whatever we were at.
    #[must_use]
    pub fn stopped_by(&self) -> Option<StopSignal> {
        self.stopped_by
    }

    /// Whether the child is to go on at once: before anything else is heard, which may stop it again.
    #[must_use]
    pub fn resumes(&self, locks: LocksNow) -> bool {
        matches!(self.stage, Stage::Running { resume: true, .. }) && locks.good
    }

    /// Whether this news of a lock means anything for a child.
    #[must_use]
    pub fn heeds(&self, said: &LeaseEvent, is_lost: bool) -> bool {
        machine::Event::of_lease(said, is_lost, self.lost_is_fatal).is_some()
    }

    /// Whether a lock was lost under the child, a fence stopped it, or it may have read another
    /// state: its own code counts for nothing.
    #[must_use]
    pub fn is_child_unprotected(&self) -> bool {
        self.is_child_unprotected
    }

    /// When the machine wants an [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self, now: Uptime, locks: LocksNow) -> Option<Uptime> {
        match &self.stage {
            // Once more round the loop: what has come in already comes first.
            Stage::Confirming(_) if locks.confirmed => Some(now),
            Stage::Confirming(until) => Some(*until),
            Stage::Running { resume: true, .. } if locks.good => Some(now),
            Stage::Running { suspend: Some(_), .. } if !locks.declares_less => Some(now),
            Stage::Running { supervisor, suspend, .. } => {
                let until = suspend.map(|(_, until)| until);
                supervisor.deadline().into_iter().chain(until).min()
            }
            _ => None,
        }
    }

    /// Takes one event and says what follows, in order. `locks` are as they are now.
    #[must_use]
    pub fn step(&mut self, now: Uptime, locks: LocksNow, event: Event) -> Vec<Action> {
        if let Event::Child(machine::Event::Stop(signal, ..)) = event {
            self.stopped_by.get_or_insert(signal);
        }
        match &mut self.stage {
            Stage::Idle | Stage::Confirming(_) | Stage::Holding => {
                self.without_a_child(now, locks, &event)
            }
            Stage::Running { .. } => self.with_a_child(now, locks, event),
            Stage::AwaitingDependents { asked } => match event {
                Event::Child(machine::Event::Stop(..)) if !std::mem::replace(asked, true) => {
                    vec![Action::EndDependents]
                }
                _ => Vec::new(),
            },
            Stage::Releasing => match event {
                Event::Child(machine::Event::Stop(signal, ..)) => {
                    vec![Action::ReleaseFirst(signal)]
                }
                _ => Vec::new(),
            },
        }
    }

    fn without_a_child(&mut self, now: Uptime, locks: LocksNow, event: &Event) -> Vec<Action> {
        let lost = || match (&self.stage, self.lost_is_fatal) {
            (Stage::Holding, true) => {
                vec![Action::EndDependents, Action::End(NotStarted::Lost)]
            }
            _ => vec![Action::End(NotStarted::Lost)],
        };
        match (&self.stage, event) {
            (_, Event::Lease { said: LeaseEvent::Lost(_), .. }) => lost(),
            (_, Event::Child(machine::Event::Stop(signal, ..))) => {
                vec![Action::End(NotStarted::Stopped(*signal))]
            }
            // A hold nobody would continue.
            (stage, Event::Child(machine::Event::Suspend(Watch::Shell)))
                if *stage != Stage::Holding =>
            {
                vec![Action::Suspend]
            }
            (Stage::Confirming(_), _) if locks.lost => lost(),
            (Stage::Confirming(until), Event::Tick) => match self.stopped_by {
                Some(signal) => vec![Action::End(NotStarted::Stopped(signal))],
                None if locks.confirmed => vec![Action::MayStart],
                None if now >= *until => vec![Action::End(NotStarted::Unconfirmed)],
                None => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    fn with_a_child(&mut self, now: Uptime, locks: LocksNow, event: Event) -> Vec<Action> {
        let Stage::Running { supervisor, resume, suspend } = &mut self.stage else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        if *resume && locks.good {
            *resume = false;
            actions.extend(supervisor.step(now, machine::Event::Resume));
        }
        let event = match event {
            // Only under locks that are known to be good.
            Event::Child(machine::Event::Resume) => {
                *resume = true;
                None
            }
            Event::Child(event) => Some(event),
            Event::Lease { said, is_lost } => {
                let order = machine::Event::of_lease(&said, is_lost, self.lost_is_fatal);
                let must_end =
                    matches!(order, Some(machine::Event::MustStop | machine::Event::MustKill));
                self.is_child_unprotected |= must_end;
                order
            }
            Event::Fenced => {
                self.is_child_unprotected = true;
                None
            }
            Event::Changed => {
                self.is_child_unprotected = true;
                Some(machine::Event::MustStop)
            }
            Event::Tick => Some(machine::Event::Tick),
        };
        if let Some(event) = event {
            actions.extend(supervisor.step(now, event));
        }
        let suspends = |action: &machine::Action| {
            matches!(action, machine::Action::SuspendSelf | machine::Action::SuspendJob(_))
        };
        let asked = actions.iter().position(suspends).map(|at| actions.remove(at));
        let is_to_run = |action: &machine::Action| {
            use machine::Action::{AwaitRest, Freeze, PassOn, StopGroup};
            !matches!(action, AwaitRest | Freeze | PassOn(_) | StopGroup)
        };
        if actions.iter().any(is_to_run) {
            *suspend = None;
        }
        let is_new = asked.is_some();
        *suspend = asked.map(|action| (action, now.plus(DECLARE))).or(*suspend);
        let mut first = None;
        match *suspend {
            Some((action, until)) if !locks.declares_less || now >= until => {
                // How long that takes nobody knows: the locks are looked at when it has returned.
                *resume = true;
                *suspend = None;
                actions.push(action);
            }
            Some(_) if is_new => first = Some(Action::DeclareLeases),
            _ => {}
        }
        if actions.iter().any(|action| matches!(action, machine::Action::Finished { .. })) {
            self.stage = Stage::Idle;
        }
        first.into_iter().chain(actions.into_iter().map(Action::Child)).collect()
    }
}

#[cfg(test)]
mod tests;
