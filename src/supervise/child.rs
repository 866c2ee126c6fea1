//! The child: one process, its group, and the terminal it may need.
//!
//! # Its group
//!
//! The child gets a process group of its own. So a signal that somebody sends to *our* group
//! (GitLab, Buildkite, a terminal) does not reach it, and it gets the one that we send.
//!
//! # The terminal
//!
//! On a terminal only the foreground group may read, and the keys signal that group. So where we
//! are the foreground job, we do what a shell does for its jobs: the child's group becomes the
//! foreground, and comes back to us when the child ends or is stopped.
//!
//! That is right only where we are *alone* in our group. In `tfwrap plan | less`, `less` is in it
//! too and would lose the keyboard (a background reader is stopped); in `./deploy.sh`, the script's
//! shell is, and would no longer be suspended with us or see the interrupt that ends its loop. There
//! the child stays in the group with all of us. The terminal's keys then reach it without us, and
//! are not forwarded; what is sent to us alone is forwarded to the child alone, since the group has
//! others in it. The price: a signal sent by hand to that whole group (`kill -INT -PGID`) reaches
//! the child twice, and what the child leaves behind cannot be ended as a group. No CI is in this
//! case ([`TerminalUse::LeaveAlone`]).
//!
//! To be alone cannot be seen from the group's number: a shell makes the first process of any
//! pipeline the leader of its group. So the other members are looked for in `/proc`; where that is
//! missing, others are assumed.
//!
//! In the background the terminal is never taken. When the child reads it there, it is stopped,
//! and so are we, as the shell expects; it is given the terminal when the job is brought to the
//! foreground.
//!
//! When the terminal is closed, the kernel hangs up on the foreground group, which is the child's:
//! Terraform would die where it stands, its state unsaved. So on a terminal the child ignores
//! SIGHUP, as under `nohup`; we hear of it from the shell, which tells its jobs, and the child gets
//! our SIGINT.
//!
//! # Streams
//!
//! stdin, stdout and stderr are inherited untouched. One that was closed when we started is
//! `/dev/null`: Rust's runtime opens that in its place before `main`, so that no other file can get
//! its number, and the child gets the same.
//!
//! # Its end
//!
//! No parent-death signal: after a forwarded interrupt it would be the second one. We are a
//! subreaper instead, so that whatever the child leaves behind becomes our child, also as PID 1
//! of a container, and its end is noticed and reaped.

mod group;
mod spawn;
mod sys;
mod terminal;

pub(super) use group::members;
pub use spawn::{SpawnError, TerminalUse};
pub(super) use sys::ignored_at_start;
pub(crate) use sys::lent_descriptor;
pub use sys::{Announce, exec, suspend_self};
pub(super) use sys::{detach, stand_apart, watch};

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::StreamExt as _;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus};
use nix::unistd::{Pid, getpgid, getpgrp};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, WaitOptions};
use tokio::io::unix::AsyncFd;

use super::{Action, ChildStatus, Event, Judged, Origin, PassSignal, Reach, StopSignal, Word};
use sys::Hangup;
use terminal::Terminal;

/// How often a group is looked at whose last members are not our children, so that nobody tells us
/// of their end.
const GROUP_POLL: Duration = Duration::from_millis(100);

/// Something that happened to the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChildEvent {
    /// A signal stopped it.
    Stopped(Signal),
    /// It goes on.
    Continued,
    /// It ended.
    Exited {
        /// How.
        status: ChildStatus,
        /// Whether nothing else of its group is left. If not, [`ChildEvent::GroupGone`] follows.
        group_gone: bool,
    },
    /// Now nothing of its group is left.
    GroupGone,
}

impl From<ChildEvent> for Event {
    fn from(event: ChildEvent) -> Self {
        match event {
            ChildEvent::Stopped(signal) => Self::ChildStopped(signal),
            ChildEvent::Continued => Self::ChildContinued,
            ChildEvent::Exited { status, group_gone } => Self::ChildExited { status, group_gone },
            ChildEvent::GroupGone => Self::GroupGone,
        }
    }
}

/// Where the child was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    /// In a group of its own.
    OwnGroup,
    /// In ours, with others.
    OurGroup,
}

/// What still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alive {
    Leader,
    /// The child is gone and reaped; others of its group are not.
    Others,
    /// From here on the group's number may mean other processes, and is never used again.
    Nobody,
}

/// A running child, with what it takes to watch and to signal it.
///
/// Dropping it does nothing to the process.
pub struct Child {
    leader: Pid,
    seat: Seat,
    terminal: Option<Terminal>,
    /// Whether the terminal is handed over when we are the foreground, or only when asked for.
    terminal_use: TerminalUse,
    hangup: Hangup,
    /// Readable when the child has ended; nothing on kernels before 5.3 and where a sandbox
    /// refuses it, where SIGCHLD alone must do.
    pidfd: Option<AsyncFd<OwnedFd>>,
    /// Stops are seen by SIGCHLD only, and so are the ends of adopted processes.
    sigchld: signal_hook_tokio::Signals,
    alive: Alive,
}

impl Child {
    /// The child's process ID; also its group's, unless [`Child::is_in_our_group`].
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.leader
    }

    /// Whether the child shares our group.
    #[must_use]
    pub fn is_in_our_group(&self) -> bool {
        self.seat == Seat::OurGroup
    }

    /// What a signal means while this child runs.
    #[must_use]
    pub fn event(&self, Judged { received, child_too }: Judged) -> Event {
        let unheard =
            self.hangup == Hangup::Ignored && received.word == Word::Stop(StopSignal::Hangup);
        let shared = self.is_in_our_group() && received.origin == Origin::Terminal;
        let reached = (shared || child_too) && !unheard;
        let reach = if reached { Reach::ChildToo } else { Reach::UsOnly };
        match received.word {
            Word::Stop(signal) => Event::Stop(signal, reach),
            Word::Suspend => Event::Suspend(reach),
            Word::Resume => Event::Resume,
            Word::Pass(signal) => Event::Pass(signal, reach),
        }
    }

    /// Waits until something happens to the child. Dropping the future loses nothing. After the
    /// last event, [`ChildEvent::GroupGone`] or an exit with the group gone, it waits for ever.
    ///
    /// # Errors
    /// When the child cannot be waited for, for instance because something else reaped it.
    pub async fn changed(&mut self) -> io::Result<ChildEvent> {
        loop {
            if let Some(event) = self.look()? {
                return Ok(event);
            }
            // What is taken here is only the hint to look, never the event itself.
            match self.alive {
                Alive::Leader => tokio::select! {
                    ended = ended(self.pidfd.as_ref()) => ended?,
                    _ = self.sigchld.next() => {}
                },
                Alive::Others => tokio::select! {
                    _ = self.sigchld.next() => {}
                    () = tokio::time::sleep(GROUP_POLL) => {}
                },
                Alive::Nobody => std::future::pending().await,
            }
        }
    }

    /// Carries out a decision.
    ///
    /// [`Action::SuspendSelf`] returns when we go on; [`Action::Finished`] takes the terminal back;
    /// [`Action::Withhold`] is not for the child and does nothing here.
    ///
    /// # Errors
    /// When a signal is refused (the child runs as another user, as `sudo` does) or the terminal
    /// cannot be moved. That the target is gone is no error.
    pub fn apply(&mut self, action: Action) -> io::Result<()> {
        match action {
            Action::Interrupt | Action::ForwardSecond => self.send(Signal::SIGINT),
            Action::Quit => self.send(Signal::SIGQUIT),
            Action::Kill => self.send(Signal::SIGKILL),
            Action::StopGroup => self.send(Signal::SIGTSTP),
            Action::Freeze => self.send(Signal::SIGSTOP),
            Action::Thaw => self.send(Signal::SIGCONT),
            Action::SuspendSelf(signal) => {
                if let Some(terminal) = &mut self.terminal {
                    terminal.take_back_for_now()?;
                }
                suspend_self(signal)
            }
            Action::ContinueGroup => {
                // Also when the terminal could not be given: it must not stay stopped for that.
                let given =
                    if self.may_have_the_terminal() { self.give_terminal() } else { Ok(()) };
                self.send(Signal::SIGCONT)?;
                given
            }
            Action::PassOn(PassSignal::WindowChange) => self.send(Signal::SIGWINCH),
            Action::PassOn(signal @ (PassSignal::User1 | PassSignal::User2)) => {
                self.send_to_leader(signal.signal())
            }
            Action::Withhold(_) => Ok(()),
            Action::Finished { status, .. } => match &mut self.terminal {
                Some(terminal) => terminal.take_back(matches!(status, ChildStatus::Signaled(_))),
                None => Ok(()),
            },
        }
    }

    /// Whether nothing of the child's group lives any more, the child included. In our own group
    /// the child alone counts.
    #[must_use]
    pub fn group_is_empty(&mut self) -> bool {
        if self.alive == Alive::Others && (self.is_in_our_group() || group::is_empty(self.leader)) {
            self.alive = Alive::Nobody;
        }
        self.alive == Alive::Nobody
    }

    fn send(&self, signal: Signal) -> io::Result<()> {
        match (self.seat, self.alive) {
            (_, Alive::Nobody) => Ok(()),
            (Seat::OwnGroup, Alive::Leader | Alive::Others) => {
                sent(signal, "process group", self.leader, killpg(self.leader, signal))
            }
            // Never our own group: on GitHub even the runner is in it.
            (Seat::OurGroup, _) => self.send_to_leader(signal),
        }
    }

    fn send_to_leader(&self, signal: Signal) -> io::Result<()> {
        // While it is not reaped, the number means the child and nobody else.
        if self.alive == Alive::Leader {
            sent(signal, "process", self.leader, kill(self.leader, signal))
        } else {
            Ok(())
        }
    }

    /// Whether the child's group is to be the foreground, now that we are.
    fn may_have_the_terminal(&self) -> bool {
        self.terminal_use == TerminalUse::HandOver
            && self.terminal_is_ours()
            && group::alone_in_our_group() == Some(true)
    }

    fn terminal_is_ours(&self) -> bool {
        self.seat == Seat::OwnGroup && self.terminal.as_ref().is_some_and(Terminal::is_ours)
    }

    fn give_terminal(&mut self) -> io::Result<()> {
        self.terminal.as_mut().map_or(Ok(()), |terminal| terminal.lend_again(self.leader))
    }

    /// Takes what has happened since, without waiting.
    fn look(&mut self) -> io::Result<Option<ChildEvent>> {
        match self.alive {
            Alive::Leader => {
                let options = WaitIdOptions::EXITED
                    | WaitIdOptions::STOPPED
                    | WaitIdOptions::CONTINUED
                    | WaitIdOptions::NOHANG;
                let change = rustix::process::waitid(WaitId::Pid(id(self.leader)), options)?;
                self.reap_adopted();
                change.map_or(Ok(None), |change| self.leader_changed(&change))
            }
            Alive::Others => {
                self.reap_adopted();
                Ok(self.group_is_empty().then_some(ChildEvent::GroupGone))
            }
            Alive::Nobody => Ok(None),
        }
    }

    fn leader_changed(&mut self, change: &WaitIdStatus) -> io::Result<Option<ChildEvent>> {
        if change.continued() {
            return Ok(Some(ChildEvent::Continued));
        }
        if let Some(signal) = change.stopping_signal() {
            let signal = Signal::try_from(signal)?;
            let wants_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
            // In CI, or with others who do not use it: nobody else could give it the terminal,
            // since to the shell we are its foreground job already.
            // If that fails, it is a stopped child like any other.
            if wants_terminal
                && self.terminal_is_ours()
                && self.give_terminal().and_then(|()| self.send(Signal::SIGCONT)).is_ok()
            {
                return Ok(None);
            }
            return Ok(Some(ChildEvent::Stopped(signal)));
        }
        let status = if let Some(signal) = change.terminating_signal() {
            ChildStatus::Signaled(signal)
        } else if let Some(code) = change.exit_status().and_then(|code| u8::try_from(code).ok()) {
            ChildStatus::Exited(code)
        } else {
            return Err(io::Error::other(format!("waitid(2) answered {change:?}")));
        };
        self.alive = Alive::Others;
        self.reap_adopted();
        Ok(Some(ChildEvent::Exited { status, group_gone: self.group_is_empty() }))
    }

    /// Reaps what has ended and became our child only because its own parent did.
    ///
    /// Never what we started ourselves (the helper of a credentials process): that is somebody
    /// else's to wait for. It can be told by its group, which is ours.
    /// This is housekeeping: what cannot be reaped stays a zombie until we end, and zombies do not
    /// count as alive.
    fn reap_adopted(&self) {
        if self.seat == Seat::OwnGroup && self.alive == Alive::Others {
            while let Ok(Some(_)) = rustix::process::waitpgid(id(self.leader), WaitOptions::NOHANG)
            {
            }
        }
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        // Ends with ECHILD or StillAlive; or with EINVAL at one that a real-time signal ended.
        while let Ok(WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, ..)) =
            nix::sys::wait::waitid(Id::All, peek)
        {
            let is_ours = ended == self.leader || getpgid(Some(ended)) == Ok(getpgrp());
            if is_ours || rustix::process::waitpid(Some(id(ended)), WaitOptions::NOHANG).is_err() {
                return;
            }
        }
    }
}

async fn ended(pidfd: Option<&AsyncFd<OwnedFd>>) -> io::Result<()> {
    match pidfd {
        Some(pidfd) => pidfd.readable().await.map(|mut guard| guard.clear_ready()),
        None => std::future::pending().await,
    }
}

fn id(pid: Pid) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(pid.as_raw()).expect("a child's process ID is positive")
}

fn sent(signal: Signal, what: &str, target: Pid, outcome: nix::Result<()>) -> io::Result<()> {
    match outcome {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => {
            let error = io::Error::from(error);
            Err(io::Error::new(error.kind(), format!("{signal} to {what} {target}: {error}")))
        }
    }
}
