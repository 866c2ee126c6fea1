//! The events that the machine receives, and its answers.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lock::lease_keeper::LeaseEvent;
use crate::supervise::{ChildStatus, Judged, PassSignal, Reach, SignalKind, StopSignal};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// We were asked to end, so long ago.
    Stop(StopSignal, Reach, Duration),
    /// The child got a stop from somebody else, whether or not we get it, too.
    Overheard(StopSignal),
    /// We were asked to stop for a while.
    Suspend(Watch),
    /// We go on. Fed after a SIGCONT, and whenever [`Action::SuspendSelf`] has returned; whoever
    /// feeds it has checked before that the child may go on (the lease).
    Resume,
    /// A signal that is not for us.
    Pass(PassSignal),
    /// The child was stopped by this signal.
    ChildStopped(Signal, Watch),
    /// The child goes on.
    ChildContinued,
    /// The child ended.
    ChildExited {
        /// How.
        status: ChildStatus,
        /// What is left of its group.
        rest: Rest,
    },
    /// No Terraform and no tfwrap is left: those that were interrupted, or that outlived the
    /// child, have ended. Others have not.
    TerraformGone,
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

impl Event {
    /// What a signal of ours means; who would resume us is asked with `watch`.
    #[must_use]
    pub fn of_signal(judged: Judged, watch: impl FnOnce() -> Watch) -> Self {
        match judged.received.kind {
            SignalKind::Stop(signal) => Self::Stop(signal, judged.reach(), judged.waited),
            SignalKind::Suspend => Self::Suspend(watch()),
            SignalKind::Resume => Self::Resume,
            SignalKind::Pass(signal) => Self::Pass(signal),
        }
    }

    /// What news of a lock means for the child that runs under it, if anything. `is_lost`: that lock
    /// is lost by now; `lost_is_fatal`: then the child must end (`--on-lock-lost`).
    #[must_use]
    pub fn of_lease(news: &LeaseEvent, is_lost: bool, lost_is_fatal: bool) -> Option<Self> {
        match news {
            LeaseEvent::Lost(_) if lost_is_fatal => Some(Self::MustStop),
            // A child with leave to go on must not stand still for a lease that is no more.
            LeaseEvent::Lost(_) => Some(Self::Thaw),
            // And the fence protects nothing.
            _ if is_lost && !lost_is_fatal => None,
            LeaseEvent::Interrupt => Some(Self::MustStop),
            LeaseEvent::Kill(_) => Some(Self::MustKill),
            LeaseEvent::Freeze => Some(Self::Freeze),
            LeaseEvent::Thaw => Some(Self::Thaw),
            LeaseEvent::Refused { .. } | LeaseEvent::LastBeat { .. } => None,
        }
    }
}

/// What is to be done; [`Child::apply`](crate::supervise::Child::apply) does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// SIGINT to each Terraform and each tfwrap, or to the group where there is none; to nobody who
    /// had it.
    Interrupt,
    /// SIGINT to each Terraform that has had none, though the child had this stop from elsewhere, since it has
    /// started meanwhile; and to each tfwrap that has none from us.
    InterruptNew,
    /// A second SIGINT: Terraform then exits at once.
    ForwardSecond,
    /// SIGQUIT to the group.
    Quit,
    /// SIGKILL to the group. Repeated until nothing is left.
    Kill,
    /// The same, unless a Terraform or a tfwrap is in it.
    KillRest,
    /// Say whose end is waited for: the Terraform or the tfwrap that has outlived the child. One that
    /// stands still is continued, since nobody else would.
    AwaitRest,
    /// SIGTSTP to the group.
    StopGroup,
    /// Take the terminal back and stop ourselves by SIGTSTP, so that the shell sees its job
    /// stopped. Returns when we go on; then feed [`Event::Resume`].
    SuspendSelf,
    /// The same by this signal, for all of our group, as the terminal does it: it came to the
    /// child's alone.
    SuspendJob(Signal),
    /// Give the terminal to the group if it is ours to give, and SIGCONT.
    ContinueGroup,
    /// The same, if any process of the group is stopped. One that Terraform is just starting (vfork(2))
    /// may be, while Terraform waits for it: no event reports that.
    ContinueStopped,
    /// SIGSTOP to the group.
    Freeze,
    /// The freeze is over: SIGCONT to the group, unless it stands still for another reason.
    Thaw {
        /// Whether it goes on.
        goes_on: bool,
    },
    /// This signal, as it is.
    PassOn(PassSignal),
    /// Do not pass this stop on, and tell the user. Only a Terraform or a tfwrap that has had no
    /// interrupt yet, since it started after the first one, gets it.
    Withhold(StopSignal),
    /// It is over; the lock may go.
    Finished {
        /// How the child ended.
        status: ChildStatus,
        /// What ended it, unless it was of its own accord.
        stopped_by: Option<StopCause>,
    },
}

/// Who would let us go on if we stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Watch {
    /// The shell whose job we are.
    Shell,
    /// Nobody for certain, so that only the child stops: a SIGCONT to us continues it.
    Nobody,
    /// Our process group is orphaned (we are the first program of a terminal, or of a session): there
    /// a SIGTSTP stops nobody (`setpgid(2)`), so it must not stop the child either, whose group is one
    /// of our own making. The same on a terminal in CI, where nobody types `fg`.
    Orphaned,
}

/// What is left of the child after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rest {
    /// Nothing.
    Gone,
    /// A Terraform that a tfwrap has started without its own lock: the child, behind a wrapper.
    OwnTerraform,
    /// Another Terraform or a tfwrap, perhaps among others.
    Terraform,
    /// Only others.
    Others,
}

/// Why a child was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopCause {
    /// The first signal that came in.
    Signal(StopSignal),
    /// [`Event::MustStop`] or [`Event::MustKill`].
    Order,
}
