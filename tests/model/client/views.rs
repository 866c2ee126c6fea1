//! What can be seen of a client: for the world, which chooses what happens to it, and for what
//! must hold.

use tfwrap::lock::Uptime;
use tfwrap::lock::tenure::Tenure;

use super::{Client, KEEPERS_WAKE, Phase};
use crate::child::Body;
use crate::config::{Config, Millis};
use crate::request::Way;

impl Client {
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_) | Phase::Crashed { .. })
    }

    pub(crate) fn holds(&self) -> bool {
        matches!(self.phase, Phase::Held(_) | Phase::Ending(_) | Phase::Releasing(_))
    }

    /// Whether there is a process that a fault could end.
    pub(crate) fn tfwrap_lives(&self) -> bool {
        !self.crashed
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Whether its whole machine stands still.
    pub(crate) fn stands_still(&self) -> bool {
        self.paused.as_ref().is_some_and(|pause| !pause.alone)
    }

    pub(super) fn tenure_mut(&mut self) -> Option<&mut Tenure> {
        match &mut self.phase {
            Phase::Held(held) => Some(&mut held.tenure),
            Phase::Ending(ward) => Some(&mut ward.tenure),
            Phase::Releasing(tenure) => Some(tenure),
            _ => None,
        }
    }

    fn body(&self) -> Option<&Body> {
        match &self.phase {
            Phase::Held(held) => held.child.as_ref().map(|child| &child.body),
            Phase::Ending(ward) => Some(&ward.body),
            _ => None,
        }
    }

    pub(super) fn body_mut(&mut self) -> Option<&mut Body> {
        match &mut self.phase {
            Phase::Held(held) => held.child.as_mut().map(|child| &mut child.body),
            Phase::Ending(ward) => Some(&mut ward.body),
            _ => None,
        }
    }

    /// Whether its child does something.
    pub(crate) fn child_acts(&self) -> bool {
        match &self.phase {
            Phase::Crashed { orphan } => *orphan || self.in_flight.is_some(),
            _ if self.in_flight.is_some() => true,
            _ => !self.stands_still() && self.body().is_some_and(Body::acts),
        }
    }

    /// Whether its child could do something, if only later.
    pub(crate) fn child_lives(&self) -> bool {
        self.body().is_some_and(|body| body.alive)
    }

    /// Whether its child was told to end, or need not be.
    pub(crate) fn is_stopping(&self) -> bool {
        match &self.phase {
            Phase::Held(held) => held.tenure.is_lost(),
            _ => true,
        }
    }

    /// Whether asking it to end changes anything.
    pub(crate) fn can_stop(&self) -> bool {
        matches!(self.phase, Phase::Acquiring(_) | Phase::Held(_))
    }

    /// Whether the run that took this ID is over, and if so, whether its user was told that it
    /// may still be there.
    pub(crate) fn left(&self, run: u8) -> Option<bool> {
        (self.run > run || self.is_over()).then_some(self.told & (1 << run) != 0)
    }

    /// When it wants to be woken.
    pub(crate) fn wake(&self, config: &Config, now: Millis) -> Option<Millis> {
        let Some(pause) = &self.paused else { return self.wake_of_all(config, now) };
        let others = [self.body().and_then(Body::wake), self.wake_of_fence(config)];
        let others = others.into_iter().flatten().filter(|_| pause.alone);
        others.chain([pause.until]).min()
    }

    fn wake_of_all(&self, config: &Config, now: Millis) -> Option<Millis> {
        let now = self.clock(config, now);
        let idle = |at: Option<Uptime>| at.map(|at| self.when(config, at, config.oversleep));
        let soon = |at: Uptime| self.when(config, at, KEEPERS_WAKE);
        let machine = match &self.phase {
            Phase::Acquiring(machine) => idle(machine.deadline()),
            Phase::Releasing(tenure) => idle(tenure.deadline()),
            Phase::Held(held) => {
                let other = match &held.child {
                    None => held.gives_up_at(now).map(|at| self.when(config, at, 1)),
                    Some(child) if child.body.acts() => child.body.wake(),
                    Some(_) => held.deadline(now).map(soon),
                };
                other.into_iter().chain(held.tenure.deadline().map(soon)).min()
            }
            Phase::Ending(ward) => {
                let deadlines = ward.deadlines().map(soon);
                deadlines.chain(ward.body.wake()).min()
            }
            Phase::Catching(looking) => looking.deadline().map(soon),
            Phase::Outside | Phase::Over(_) | Phase::Crashed { .. } => None,
        };
        let pending = self.pending.as_ref().and_then(|pending| match &pending.way {
            Way::Arrives(at) | Way::Answered(at, _) => Some(*at),
            Way::Fresh | Way::Arrived => None,
        });
        machine.into_iter().chain(pending).chain(self.wake_of_fence(config)).min()
    }
}
