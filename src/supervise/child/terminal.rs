//! The controlling terminal, and whose it is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::libc;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{Pid, getpgrp, getpid, tcgetpgrp, tcsetpgrp};

use super::group::members;
use super::sys::with_blocked;

/// Our controlling terminal, which we may lend to the child's group.
#[derive(Debug)]
pub(super) struct Terminal {
    tty: File,
    /// To whom it is lent.
    lent_to: Option<Pid>,
    /// Whose it was before: ours, but where nobody else uses it.
    owner: Option<Pid>,
    /// How it was set when we lent it.
    our_modes: Option<Termios>,
    /// How the child had set it when it was stopped.
    child_modes: Option<Termios>,
}

impl Terminal {
    /// Opens it by the name that always means the controlling one: whether or not stdin is
    /// redirected, its keys send signals and it stops background readers. Nothing if there is none
    /// or it cannot be used: then there is nothing to hand over.
    pub(super) fn open() -> Option<Self> {
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
        let tty =
            OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/tty").ok()?;
        Some(Self { tty, lent_to: None, owner: None, our_modes: None, child_modes: None })
    }

    /// Its foreground group.
    pub(super) fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&self.tty).ok()
    }

    /// Whether we are that: what a shell made of us, not what we made of the child.
    pub(super) fn is_ours(&self) -> bool {
        self.foreground() == Some(getpgrp())
    }

    /// Whether we may lend it to this group: it is ours, that group's already, or of a group that has ended.
    pub(super) fn is_free_for(&self, group: Pid) -> bool {
        let is_free = |now| now == getpgrp() || now == group || is_over(now);
        self.foreground().is_some_and(is_free)
    }

    /// Whether whom it is lent to has set it otherwise than we had.
    pub(super) fn is_set_otherwise(&self) -> bool {
        self.lent_to.is_some_and(|group| self.foreground() == Some(group))
            && tcgetattr(&self.tty).ok() != self.our_modes
    }

    /// A handle for the child, which takes the terminal itself before it becomes the command.
    pub(super) fn handle_to_lend(&mut self) -> io::Result<OwnedFd> {
        self.owner = None;
        self.our_modes = tcgetattr(&self.tty).ok();
        self.tty.as_fd().try_clone_to_owned()
    }

    /// Notes that the group has taken the terminal, if it has.
    pub(super) fn lent(&mut self, group: Pid) {
        self.lent_to = (tcgetpgrp(&self.tty) == Ok(group)).then_some(group);
    }

    /// Continues the group and lends it the terminal again, as the group had set it.
    ///
    /// In this order: what continues a group undoes the stops that have come to it (POSIX,
    /// "Signal Generation and Delivery"), so that a key pressed between the two would be lost. Now
    /// it comes to us, who then stop the group. One that reads before it has the terminal is stopped
    /// for it once more.
    pub(super) fn lend_again(
        &mut self,
        group: Pid,
        go_on: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        if tcgetpgrp(&self.tty) == Ok(group) {
            self.lent_to = Some(group);
            return go_on();
        }
        let prepared = without_stopping(|| {
            self.owner = tcgetpgrp(&self.tty).ok().filter(|now| !is_over(*now));
            self.our_modes = tcgetattr(&self.tty).ok();
            match &self.child_modes {
                Some(modes) => tcsetattr(&self.tty, SetArg::TCSANOW, modes),
                None => Ok(()),
            }
        });
        // Also where it cannot be lent: it must not stand still for that.
        go_on()?;
        prepared?;
        without_stopping(|| tcsetpgrp(&self.tty, group))?;
        self.lent_to = Some(group);
        Ok(())
    }

    /// Takes it back from a child that was stopped. Its modes are kept for when it goes on, and
    /// the shell gets its own.
    pub(super) fn take_back_for_now(&mut self) -> io::Result<()> {
        if !self.is_still_lent() {
            return Ok(());
        }
        without_stopping(|| {
            self.child_modes = tcgetattr(&self.tty).ok();
            tcsetpgrp(&self.tty, self.owner())?;
            self.restore_modes()
        })
    }

    /// Takes it back from a child that has ended. What a command set on purpose (`stty -echo`)
    /// stays, as a shell has it; a command that was `cut_off` cannot have meant it.
    pub(super) fn take_back(&mut self, cut_off: bool) -> io::Result<()> {
        if !self.is_still_lent() {
            return Ok(());
        }
        without_stopping(|| {
            tcsetpgrp(&self.tty, self.owner())?;
            if cut_off { self.restore_modes() } else { Ok(()) }
        })
    }

    /// Takes it back from a process that took it and then could not become the command. It may
    /// have died before it took it; then the terminal is still ours, and this changes nothing.
    pub(super) fn take_from_the_dead(&mut self) -> io::Result<()> {
        without_stopping(|| tcsetpgrp(&self.tty, getpgrp()))
    }

    /// Whether it is to be taken back; from then on it is not lent. A shell that has taken it since
    /// keeps it.
    fn is_still_lent(&mut self) -> bool {
        let Some(group) = self.lent_to.take() else { return false };
        let now = tcgetpgrp(&self.tty);
        now == Ok(group) || now.is_ok_and(is_over)
    }

    fn owner(&self) -> Pid {
        self.owner.unwrap_or_else(getpgrp)
    }

    fn restore_modes(&self) -> nix::Result<()> {
        match &self.our_modes {
            Some(modes) => tcsetattr(&self.tty, SetArg::TCSANOW, modes),
            None => Ok(()),
        }
    }
}

/// Whether a group has no use for the terminal any more: nothing is left of it, or only what we have
/// adopted. That is what a job of the child's own has left behind, for which its shell waits no longer.
fn is_over(group: Pid) -> bool {
    killpg(group, None) == Err(nix::Error::ESRCH)
        || members(group).is_some_and(|all| all.iter().all(|(_, stat)| stat.parent == getpid()))
}

/// Does something to the terminal from the background. With SIGTTOU blocked POSIX allows it; else
/// it would stop us.
fn without_stopping(act: impl FnOnce() -> nix::Result<()>) -> io::Result<()> {
    match with_blocked(&SigSet::from(Signal::SIGTTOU), act)? {
        // The terminal has hung up: there is nothing to give or to take any more.
        Err(nix::Error::EIO | nix::Error::ENOTTY | nix::Error::ENXIO) => Ok(()),
        acted => Ok(acted?),
    }
}
