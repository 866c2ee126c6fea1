//! Supervision of the child: one interrupt, however many are sent and by whom, and no release
//! before the child is gone.
//!
//! Three pieces, driven by the one loop in `run`:
//!
//! - [`Signals`] classifies the signals that are delivered to us ([`SignalKind`]), with their
//!   [`SignalOrigin`].
//! - [`Child`] is the process, its group and its terminal. It reports what happens to them
//!   ([`ChildEvent`]) and carries out what was decided ([`Child::apply`]).
//! - [`Supervisor`] decides what the child gets, [`LockedRun`] what becomes of the run around it.
//!   They have no clock and do no I/O.
//!
//! Why so few signals go out: Terraform counts INT and TERM alike and takes the second as "exit at
//! once". CI runners routinely send several. What goes out is SIGINT, also for TERM and for HUP,
//! for which Terraform has no handler. It goes to Terraform itself, wherever that is below the
//! child ([`targets`]), because whatever is in between may pass it on, or die of it.

mod answer;
mod canary;
mod child;
mod descendants;
pub(crate) mod detached;
pub mod ending;
mod kill_below;
mod lock_holders;
pub mod locked_run;
mod machine;
mod process;
mod process_tree;
mod providers;
mod readers;
mod signal;
pub mod stand_in;
mod targets;

pub use answer::first_words;
pub use canary::{Canary, Judged};
pub use child::{
    Announce, Child, ChildEvent, SpawnError, TerminalUse, Whom, exec, suspend_self,
    watch_while_idle,
};
pub(crate) use child::{
    lent_descriptor, may_be_open_elsewhere, outlive_the_limit_of_files, stand_apart,
    stdout_was_closed, watch, with_blocked,
};
pub use descendants::{Descendants, FoundTerraform, RunningTerraform, are_among};
pub use kill_below::kill_below;
pub(crate) use lock_holders::{end_of, holders_of_lock};
pub use locked_run::LockedRun;
pub use machine::{Action, ECHO, Event, GROUP_GRACE, Rest, SETTLE, StopCause, Supervisor, Watch};
pub use process::{HostScope, ProcessId, Sight};
pub(crate) use process::{Stat, ancestors, tell_the_tfwrap_above};
pub use process_tree::{Member, ProcessTree};
pub use providers::AtWork;
pub use signal::{Received, Signals};
pub use targets::CHILD_OF;
use targets::ONLOOKER;
pub(crate) use targets::{OUR_FLAG, child_of};

use std::time::Duration;

use nix::sys::signal::Signal;

/// Takes the name that the kernel shows (`ps`, `pkill`), however we were called.
pub fn take_own_name() {
    // Another name is no reason not to work.
    let _unnamed = nix::sys::prctl::set_name(c"tfwrap");
}

/// Takes the name of a tfwrap that only looks at locks: nobody need ask it to end, or wait for its end,
/// before a lock is released.
pub fn take_name_of_onlooker() {
    // Under another name it is waited for like any other.
    let _unnamed = nix::sys::prctl::set_name(ONLOOKER);
}

/// How the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChildStatus {
    /// It exited by itself, with this code.
    Exited(u8),
    /// A signal ended it (its number).
    Signaled(i32),
}

/// What the supervision does with signals, as the user set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    /// What a second stop does.
    pub second_signal: SecondSignal,
    /// How long after its first signal the child's group is killed; `None`: never by us.
    pub grace: Option<Duration>,
}

/// `--second-signal`: Terraform takes a second interrupt as "exit at once, data loss may have
/// occurred".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecondSignal {
    /// Not passed on.
    Hold,
    /// Passed on.
    Forward,
}

/// A signal that asks us to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopSignal {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP.
    Hangup,
    /// SIGQUIT.
    Quit,
}

impl StopSignal {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Interrupt, Self::Terminate, Self::Hangup, Self::Quit];

    /// Those that we hear, and whoever was started in the same way ([`signal::is_heard`]).
    pub(crate) fn heard() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|stop| signal::is_heard(stop.signal()))
    }

    /// The same in a process of ours that blocks all signals ([`signal::is_unignored`]).
    pub(crate) fn unignored() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|stop| signal::is_unignored(stop.signal()))
    }

    /// The stop that this signal asks for, if it does.
    #[must_use]
    pub fn of(signal: Signal) -> Option<Self> {
        Self::ALL.into_iter().find(|stop| stop.signal() == signal)
    }

    /// The signal itself; its number plus 128 is the exit code when nothing was run.
    #[must_use]
    pub fn signal(self) -> Signal {
        match self {
            Self::Interrupt => Signal::SIGINT,
            Self::Terminate => Signal::SIGTERM,
            Self::Hangup => Signal::SIGHUP,
            Self::Quit => Signal::SIGQUIT,
        }
    }
}

/// A signal that means nothing to us and is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PassSignal {
    /// SIGWINCH; to the group, since it harms nobody.
    WindowChange,
    /// SIGUSR1; to the child alone: its default action ends a process, so plugins and provisioners
    /// must not get what bare Terraform would have got alone.
    User1,
    /// SIGUSR2; as [`PassSignal::User1`].
    User2,
}

impl PassSignal {
    /// The signal itself.
    #[must_use]
    pub fn signal(self) -> Signal {
        match self {
            Self::WindowChange => Signal::SIGWINCH,
            Self::User1 => Signal::SIGUSR1,
            Self::User2 => Signal::SIGUSR2,
        }
    }
}

/// What a signal means to us, whether or not a child runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignalKind {
    /// End.
    Stop(StopSignal),
    /// Stop until resumed (SIGTSTP).
    Suspend,
    /// Go on (SIGCONT).
    Resume,
    /// Not for us.
    Pass(PassSignal),
}

/// Where a signal came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignalOrigin {
    /// The kernel: a key on the terminal, or its hang-up. It went to the whole foreground group.
    Terminal,
    /// A process called `kill`. Whatever it was when that was read: it may be gone, and we have lost our
    /// parent, by the time at which the signal is decided on.
    Sent {
        /// Whether that was another tfwrap.
        by_tfwrap: bool,
        /// Whether that was what had started us.
        by_parent: bool,
    },
    /// A process outside our PID namespace, where a tfwrap above us stands: it, or anybody else.
    Outside,
    /// The system did not say.
    Unknown,
}

/// Who has got a signal already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Only we.
    UsOnly,
    /// The child too, from whoever sent it: it must not get it again.
    ChildToo {
        /// Whether whatever has started us sent it.
        by_parent: bool,
    },
    /// Only we, from an outer tfwrap, which makes an interrupt of whatever stop it got.
    Relayed,
    /// Only we, from outside our PID namespace: from an outer tfwrap, or from anybody else.
    PerhapsRelayed,
    /// Only we, from whatever has started us: it may pass on what it has heard itself.
    ByParent,
}
