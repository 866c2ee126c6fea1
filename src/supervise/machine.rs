//! The decisions: which signal the child gets, and when all of it is gone.

#[cfg(test)]
mod tests;

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{ChildStatus, PassSignal, Policy, Reach, SecondSignal, StopSignal};
use crate::lock::Uptime;

/// How long what is left of the group after a stopped child's end may take to end by itself.
///
/// With [`SETTLE`] it fits what GitHub leaves between its first signal and its last (7.5 s + 2.5 s)
/// whenever the child itself is quick.
pub const GROUP_GRACE: Duration = Duration::from_secs(3);

/// How long a request of a child that was ended by force may still be in flight.
pub const SETTLE: Duration = Duration::from_secs(2);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// We were asked to end.
    Stop(StopSignal, Reach),
    /// We were asked to stop for a while.
    Suspend(Reach),
    /// We go on. Fed after a SIGCONT, and whenever [`Action::SuspendSelf`] has returned; whoever
    /// feeds it has checked before that the child may go on (the lease).
    Resume,
    /// A signal that is not for us.
    Pass(PassSignal, Reach),
    /// The child was stopped by this signal.
    ChildStopped(Signal),
    /// The child goes on.
    ChildContinued,
    /// The child ended.
    ChildExited {
        /// How.
        status: ChildStatus,
        /// Whether nothing else of its group is left.
        group_gone: bool,
    },
    /// Nothing is left of the group, the child included.
    GroupGone,
    /// The child must end, gracefully: its lock is lost, or will be soon.
    MustStop,
    /// The child must stand still until [`Event::Thaw`]: it is not known whether its lock is ours.
    Freeze,
    /// The lock is ours.
    Thaw,
    /// The child must be gone now.
    MustKill,
    /// Time passed.
    Tick,
}

/// What is to be done; [`super::Child::apply`] does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// SIGINT to the group.
    Interrupt,
    /// A second SIGINT to the group: Terraform then exits at once.
    ForwardSecond,
    /// SIGQUIT to the group.
    Quit,
    /// SIGKILL to the group. Repeated until nothing is left.
    Kill,
    /// SIGTSTP to the group.
    StopGroup,
    /// Take the terminal back and stop ourselves by this signal, so that the shell sees its job
    /// stopped. Returns when we go on; then feed [`Event::Resume`].
    SuspendSelf(Signal),
    /// Give the terminal to the group if it is ours to give, and SIGCONT.
    ContinueGroup,
    /// SIGSTOP to the group.
    Freeze,
    /// SIGCONT to the group.
    Thaw,
    /// This signal, as it is.
    PassOn(PassSignal),
    /// Nothing, but the user should hear that this stop was not passed on.
    Withhold(StopSignal),
    /// It is over; the lock may go.
    Finished {
        /// How the child ended.
        status: ChildStatus,
        /// What ended it, unless it was of its own accord.
        stopped_by: Option<StopCause>,
    },
}

/// Why a child was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopCause {
    /// The first signal that came in.
    Signal(StopSignal),
    /// [`Event::MustStop`] or [`Event::MustKill`].
    Order,
}

/// Where the child is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Running,
    /// The child is gone, others of its group are not.
    Ending(ChildStatus),
    /// All are gone, but a request may be in flight.
    Settling(ChildStatus, Uptime),
    Finished,
}

/// How hard the child was pressed. Whatever is above none may have cut it off in the middle of a
/// request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Force {
    None,
    /// A second interrupt, a SIGQUIT, or somebody else's SIGKILL.
    Hurried,
    /// Our SIGKILL.
    Killed,
}

/// Decides what the child gets. Pure: the same events at the same times give the same actions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Supervisor {
    policy: Policy,
    phase: Phase,
    /// Why the child was asked to end; set once.
    stopped_by: Option<StopCause>,
    /// Stops from outside: none, one, two, more.
    stops: u8,
    /// When the group is killed.
    kill_at: Option<Uptime>,
    force: Force,
    child_is_stopped: bool,
    frozen: bool,
    suspend_asked: bool,
}

impl Supervisor {
    /// Begins with a child that has just started.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            phase: Phase::Running,
            stopped_by: None,
            stops: 0,
            kill_at: None,
            force: Force::None,
            child_is_stopped: false,
            frozen: false,
            suspend_asked: false,
        }
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        match self.phase {
            Phase::Running | Phase::Ending(_) => self.kill_at,
            Phase::Settling(_, until) => Some(until),
            Phase::Finished => None,
        }
    }

    /// Takes one event and says what follows, in order.
    #[must_use]
    pub fn step(&mut self, now: Uptime, event: Event) -> Vec<Action> {
        match (self.phase, event) {
            (Phase::Settling(status, until), Event::Tick) if now >= until => self.finish(status),
            // Nothing is left that a signal could reach.
            (Phase::Settling(..) | Phase::Finished, _) => Vec::new(),

            (_, Event::Stop(signal, reach)) => self.stop(now, signal, reach),
            (_, Event::MustStop) if self.stopped_by.is_none() => {
                self.first_stop(now, StopCause::Order, Some(Action::Interrupt))
            }
            (_, Event::MustKill) => {
                self.stopped_by.get_or_insert(StopCause::Order);
                self.kill(now)
            }
            (_, Event::Freeze) => {
                self.frozen = true;
                vec![Action::Freeze]
            }
            (_, Event::Thaw) => {
                let was_frozen = std::mem::take(&mut self.frozen);
                // What the user stopped stays so.
                if was_frozen && !self.child_is_stopped { vec![Action::Thaw] } else { Vec::new() }
            }
            (_, Event::Tick) if self.kill_at.is_some_and(|at| now >= at) => self.kill(now),
            (_, Event::MustStop | Event::Tick) => Vec::new(),

            (Phase::Running, event) => self.while_running(now, event),
            (Phase::Ending(status), Event::GroupGone) => self.group_gone(now, status),
            // The rest of the group is on its way out: only its end is of interest.
            (Phase::Ending(_), _) => Vec::new(),
        }
    }

    fn while_running(&mut self, now: Uptime, event: Event) -> Vec<Action> {
        match event {
            Event::ChildExited { status, group_gone } => self.child_exited(now, status, group_gone),
            Event::ChildStopped(signal) => self.suspended(signal),
            Event::ChildContinued => {
                self.child_is_stopped = false;
                Vec::new()
            }
            Event::Suspend(reach) => {
                self.suspend_asked = true;
                match reach {
                    _ if self.child_is_stopped => self.suspended(Signal::SIGTSTP),
                    Reach::UsOnly => vec![Action::StopGroup],
                    Reach::ChildToo => Vec::new(),
                }
            }
            Event::Resume => {
                self.suspend_asked = false;
                if self.frozen { Vec::new() } else { vec![Action::ContinueGroup] }
            }
            Event::Pass(signal, Reach::UsOnly) => vec![Action::PassOn(signal)],
            // Told before; or by a child that has not ended.
            Event::Pass(_, Reach::ChildToo)
            | Event::Stop(..)
            | Event::MustStop
            | Event::MustKill
            | Event::Freeze
            | Event::Thaw
            | Event::Tick
            | Event::GroupGone => Vec::new(),
        }
    }

    fn stop(&mut self, now: Uptime, signal: StopSignal, reach: Reach) -> Vec<Action> {
        self.stops = self.stops.saturating_add(1);
        let reached = reach == Reach::ChildToo;
        if self.stopped_by.is_none() {
            // Go ends a program on SIGQUIT where it stands.
            let action = match signal {
                StopSignal::Quit => {
                    self.hurried();
                    Action::Quit
                }
                StopSignal::Interrupt | StopSignal::Terminate | StopSignal::Hangup => {
                    Action::Interrupt
                }
            };
            return self.first_stop(now, StopCause::Signal(signal), (!reached).then_some(action));
        }
        // The first from outside is no second one even if the child was interrupted already, by
        // our own order: who sent it wants the child to end, and that it does.
        if reached {
            if self.stops >= 2 {
                self.hurried();
            }
            return Vec::new();
        }
        if self.stops == 2 && self.policy.second_signal == SecondSignal::Forward {
            self.hurried();
            let action =
                if signal == StopSignal::Quit { Action::Quit } else { Action::ForwardSecond };
            return vec![action];
        }
        vec![Action::Withhold(signal)]
    }

    fn first_stop(&mut self, now: Uptime, cause: StopCause, action: Option<Action>) -> Vec<Action> {
        self.stopped_by = Some(cause);
        if self.force < Force::Killed {
            self.kill_at = self.policy.grace.map(|grace| now.plus(grace));
        }
        // A stopped child could neither end nor save its state; a frozen one must not yet.
        let go_on = self.child_is_stopped && !self.frozen;
        action.into_iter().chain(go_on.then_some(Action::ContinueGroup)).collect()
    }

    fn kill(&mut self, now: Uptime) -> Vec<Action> {
        self.force = Force::Killed;
        self.kill_at = Some(now.plus(GROUP_GRACE));
        vec![Action::Kill]
    }

    fn hurried(&mut self) {
        self.force = self.force.max(Force::Hurried);
    }

    fn suspended(&mut self, signal: Signal) -> Vec<Action> {
        if self.frozen && signal == Signal::SIGSTOP {
            return Vec::new();
        }
        self.child_is_stopped = true;
        let by_job_control = matches!(signal, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU);
        // Somebody else's SIGSTOP is between them and the child: nobody would wake us again.
        if by_job_control {
            vec![Action::SuspendSelf(signal)]
        } else if self.suspend_asked {
            vec![Action::SuspendSelf(Signal::SIGTSTP)]
        } else {
            Vec::new()
        }
    }

    fn child_exited(&mut self, now: Uptime, status: ChildStatus, group_gone: bool) -> Vec<Action> {
        // Killed by whomever, for instance for want of memory.
        if status == ChildStatus::Signaled(Signal::SIGKILL as i32) {
            self.hurried();
        }
        let own_accord = self.stopped_by.is_none() && matches!(status, ChildStatus::Exited(_));
        if own_accord {
            // What a provisioner left running it left on purpose, as with bare Terraform.
            return self.finish(status);
        }
        if group_gone {
            return self.group_gone(now, status);
        }
        self.phase = Phase::Ending(status);
        let due = now.plus(GROUP_GRACE);
        self.kill_at = Some(self.kill_at.map_or(due, |at| at.min(due)));
        if self.force == Force::Killed { Vec::new() } else { vec![Action::Interrupt] }
    }

    fn group_gone(&mut self, now: Uptime, status: ChildStatus) -> Vec<Action> {
        if self.force == Force::None {
            return self.finish(status);
        }
        self.phase = Phase::Settling(status, now.plus(SETTLE));
        Vec::new()
    }

    fn finish(&mut self, status: ChildStatus) -> Vec<Action> {
        self.phase = Phase::Finished;
        vec![Action::Finished { status, stopped_by: self.stopped_by }]
    }
}
