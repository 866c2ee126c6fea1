//! The end of a child whose tfwrap is gone: what its guardian, or `recover`, does to it, and when.
//! Its locks are released only when nothing of it lives, and never at once: we cannot see from here
//! how it ended, and whoever killed it may have cut off a request. If the child had ended before
//! its tfwrap did, whoever begins this was told so.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{GROUP_GRACE, SETTLE};
use crate::lock::Uptime;

/// How long after its SIGKILL a child may live on, where whoever ends it cannot wait for ever.
pub const AFTER_KILL: Duration = Duration::from_secs(30);

/// How long the child of a dead tfwrap is left alone at first: as long as a stop that reaches tfwrap waits
/// for word from the stand-in. Whoever kills a tfwrap may go on to signal all that it had started.
pub const SWEEP: Duration = Duration::from_millis(150);

/// What is known of the interrupt that the child is to get.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, PartialOrd, Ord,
)]
#[serde(rename_all = "lowercase")]
pub enum Interrupts {
    /// It got none.
    #[default]
    None,
    /// It may have got one.
    Maybe,
    /// It got one.
    Sent,
}

impl Interrupts {
    /// What is known, where others may have told the child besides.
    #[must_use]
    pub fn or_maybe(self, others_told: impl FnOnce() -> bool) -> Self {
        if self == Self::None && others_told() { Self::Maybe } else { self }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The child has ended, and what lives on in its group is neither a Terraform nor a tfwrap.
    OnlyRest,
    /// Nothing of the child lives any more.
    Gone,
    /// Nobody could renew the lease of one of its locks, and it is about to end.
    LeaseEnds,
    /// Whoever ends the child is asked to end.
    Stop,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Write down what the child got, for whoever must go on from here.
    Note(Interrupts),
    /// Interrupt it.
    Interrupt,
    /// Interrupt what it has left.
    InterruptRest,
    /// Kill it.
    Kill(Why),
    /// Give its locks back.
    Release,
    /// Leave it as it is, and its locks.
    Leave,
}

/// Why a child is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// Its time to end is over.
    Late,
    /// The lease of a lock is about to end.
    LeaseEnds,
    /// It has ended, and what it has left has not.
    Left,
}

/// What is known when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndingStart {
    /// What the child got.
    pub interrupts: Interrupts,
    /// Whether it was killed.
    pub killed: bool,
    /// How long it may take to end.
    pub grace: Duration,
    /// When the lease of a lock ends that nobody keeps any more.
    pub fence: Option<Uptime>,
    /// Whether it is left at last when it survives even a SIGKILL.
    pub is_left_at_last: bool,
}

/// Decides. Pure: the same events at the same times give the same actions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ending {
    interrupt_at: Option<Uptime>,
    kill_at: Option<Uptime>,
    /// When what the child has left is killed.
    kill_rest_at: Option<Uptime>,
    fence: Option<Uptime>,
    leave_at: Option<Uptime>,
    killed: bool,
    /// Nothing of it lives, and from here on no request of its can be in flight.
    settled_at: Option<Uptime>,
    over: bool,
}

impl Ending {
    /// Begins.
    #[must_use]
    pub fn begin(known: EndingStart, now: Uptime) -> Self {
        let EndingStart { interrupts, killed, grace, fence, is_left_at_last } = known;
        let interrupt_at = match interrupts {
            Interrupts::None => Some(now),
            // Whether it got one is not known. A second one costs it its state; so does none. By
            // then a child that got one has had its time. A lock that is lost meanwhile changes
            // nothing: most probably it got one, and is saving its state.
            Interrupts::Maybe => Some(now.plus(grace / 2)),
            Interrupts::Sent => None,
        };
        let kill_at = now.plus(grace);
        Self {
            interrupt_at,
            kill_at: (!killed).then_some(kill_at),
            kill_rest_at: None,
            fence: fence.filter(|_| !killed),
            leave_at: is_left_at_last.then(|| kill_at.plus(AFTER_KILL)),
            killed,
            settled_at: None,
            over: false,
        }
    }

    /// When the lease of a lock ends that nobody keeps, as it is known now.
    pub fn fence_at(&mut self, fence: Option<Uptime>) {
        self.fence = fence.filter(|_| !self.killed);
    }

    /// When to come back even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        if self.over {
            return None;
        }
        if self.settled_at.is_some() {
            return self.settled_at;
        }
        let all = [self.interrupt_at, self.kill_at, self.kill_rest_at, self.fence, self.leave_at];
        all.into_iter().flatten().min()
    }

    /// Decides on one event.
    #[must_use]
    pub fn step(&mut self, now: Uptime, event: Event) -> Vec<Action> {
        if self.over {
            return Vec::new();
        }
        if event == Event::Gone && self.settled_at.is_none() {
            // A request of its may still be in flight.
            self.settled_at = Some(now.plus(SETTLE));
        }
        let is_due = |at: Option<Uptime>| at.is_some_and(|at| now >= at);
        if let Some(at) = self.settled_at {
            self.over = now >= at;
            return self.over.then_some(Action::Release).into_iter().collect();
        }
        if event == Event::Stop || is_due(self.leave_at) {
            self.over = true;
            return vec![Action::Leave];
        }
        let mut actions = Vec::new();
        let only_rest = event == Event::OnlyRest && !self.killed;
        let rest_is_due = is_due(self.kill_rest_at);
        if is_due(self.interrupt_at) {
            self.interrupt_at = None;
            actions.extend([
                Action::Note(Interrupts::Maybe),
                Action::Interrupt,
                Action::Note(Interrupts::Sent),
            ]);
        } else if only_rest && self.kill_rest_at.is_none() {
            // Whether the child had one does not matter any more.
            self.interrupt_at = None;
            actions.push(Action::InterruptRest);
        }
        if only_rest || rest_is_due {
            // Again, for as long as there is a Terraform after all.
            let next = now.plus(GROUP_GRACE);
            self.kill_rest_at = self.kill_rest_at.filter(|_| !rest_is_due).or(Some(next));
        }
        let why = if event == Event::LeaseEnds || is_due(self.fence) {
            Some(Why::LeaseEnds)
        } else if only_rest && rest_is_due {
            Some(Why::Left)
        } else {
            is_due(self.kill_at).then_some(Why::Late)
        };
        if let (false, Some(why)) = (self.killed, why) {
            (self.killed, self.kill_at, self.fence) = (true, None, None);
            self.kill_rest_at = None;
            actions.push(Action::Kill(why));
        }
        actions
    }
}

#[cfg(test)]
mod tests;
