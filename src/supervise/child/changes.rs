//! What has happened to the child since the last look.

use std::io;

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus};
use nix::unistd::{getpgid, getpgrp};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, WaitOptions};

use super::terminal::Terminal;
use super::told::Gone;
use super::{Alive, Child, ChildEvent, group, id};
use crate::supervise::stand_in::StandIn;
use crate::supervise::{ChildStatus, ProcessId, Rest};

impl Child {
    /// Takes what has happened since, without waiting.
    pub(super) fn look(&mut self) -> io::Result<Option<ChildEvent>> {
        self.beside.stand_in.iter().for_each(StandIn::go_on);
        match self.alive {
            Alive::Leader => {
                let options = WaitIdOptions::EXITED
                    | WaitIdOptions::STOPPED
                    | WaitIdOptions::CONTINUED
                    | WaitIdOptions::NOHANG;
                let change = rustix::process::waitid(WaitId::Pid(id(self.leader)), options)?;
                self.reap_adopted();
                if let Some(change) = change {
                    return self.leader_changed(&change);
                }
                self.continue_for_the_terminal()?;
                Ok(self.told.have_all_ended().then_some(ChildEvent::TerraformGone))
            }
            Alive::Others | Alive::Strays => {
                self.reap_adopted();
                // Their ends are no news any more, and one that is kept would be news without end.
                let _all = self.told.have_all_ended();
                self.continue_who_reads()?;
                let had_terraform = self.rest_has_terraform;
                Ok(match self.rest() {
                    Rest::Gone => Some(ChildEvent::GroupGone),
                    Rest::Others if had_terraform => Some(ChildEvent::TerraformGone),
                    Rest::Others | Rest::Terraform | Rest::OwnTerraform => None,
                })
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
            // It asked in the moment in which it was continued to have it. What continues it once
            // more would undo a key that came since.
            let is_lent = self.terminal_is_lent();
            let signal =
                if is_lent && self.is_about_to_suspend() { Signal::SIGTSTP } else { signal };
            self.wants_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
            // In CI, or with others who do not use it: nobody else could give it the terminal,
            // since to the shell we are its foreground job already. Nor below a tfwrap that has
            // it and knows nothing of this child: in CI, and where no shell would resume us.
            // If that fails, it is a stopped child like any other. And to go on now would undo what
            // has been sent to it since: where it is frozen, it gets the terminal with its thaw.
            if (self.asks_for_what_is_ours_to_give() || (self.asks_for_the_terminal() && is_lent))
                && (self.frozen || self.go_on_with_terminal().is_ok())
            {
                return Ok(None);
            }
            self.is_to_stop = false;
            return Ok(Some(ChildEvent::Stopped(signal, self.watch())));
        }
        let status = if let Some(signal) = change.terminating_signal() {
            ChildStatus::Signaled(signal)
        } else if let Some(code) = change.exit_status().and_then(|code| u8::try_from(code).ok()) {
            ChildStatus::Exited(code)
        } else {
            return Err(io::Error::other(format!("waitid(2) answered {change:?}")));
        };
        self.alive = Alive::Others;
        self.told.are_gone(Gone { group_too: false });
        self.reap_adopted();
        Ok(Some(ChildEvent::Exited { status, rest: self.rest() }))
    }

    /// Whether nothing of the child lives any more: nothing in its group, and no Terraform that it has
    /// started elsewhere.
    #[must_use]
    pub fn is_gone(&mut self) -> bool {
        if self.alive == Alive::Others {
            let stand_in = self.beside.stand_in.as_ref().map(StandIn::pid);
            if self.told.nobody_is_left(stand_in) {
                self.alive = Alive::Nobody;
            } else if group::is_empty(self.leader, stand_in) {
                self.alive = Alive::Strays;
                // The keys are for us from now on. A terminal that has hung up has none.
                let _hung_up = self.terminal.as_mut().map(Terminal::take_back_for_now);
            }
            if self.alive != Alive::Others {
                self.told.are_gone(Gone { group_too: true });
            }
        }
        if self.alive == Alive::Strays && self.told.targets().is_empty() {
            self.alive = Alive::Nobody;
        }
        // Whoever signals one after the other comes to it after a wrapper that has ended of that, and a
        // Terraform may live on elsewhere.
        if self.alive == Alive::Nobody {
            self.keep_last_words();
            self.beside.stand_in = None;
        }
        self.alive == Alive::Nobody
    }

    fn rest(&mut self) -> Rest {
        if self.is_gone() {
            return Rest::Gone;
        }
        let rest = self.told.rest();
        self.rest_has_terraform = rest != Rest::Others;
        rest
    }

    /// Whether a suspension has come to it that it could not follow yet.
    fn is_about_to_suspend(&self) -> bool {
        ProcessId::of(self.leader).is_some_and(|leader| leader.has_pending(Signal::SIGTSTP))
    }

    /// Reaps what has ended and became our child only because its own parent did.
    ///
    /// Never what we started ourselves (the helper of a credentials process): that is somebody
    /// else's to wait for. It can be told by its group, which is ours.
    /// This is housekeeping: what cannot be reaped stays a zombie until we end, and zombies do not
    /// count as alive.
    fn reap_adopted(&self) {
        let stand_in = self.beside.stand_in.as_ref().map(StandIn::pid);
        if self.alive == Alive::Others && stand_in.is_none() {
            while let Ok(Some(_)) = rustix::process::waitpgid(id(self.leader), WaitOptions::NOHANG)
            {
            }
        }
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        // Ends with ECHILD or StillAlive; or with EINVAL at one that a real-time signal ended.
        while let Ok(WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, ..)) =
            nix::sys::wait::waitid(Id::All, peek)
        {
            let is_waited_for = ended == self.leader || Some(ended) == stand_in;
            let is_ours = is_waited_for || getpgid(Some(ended)) == Ok(getpgrp());
            if is_ours || rustix::process::waitpid(Some(id(ended)), WaitOptions::NOHANG).is_err() {
                return;
            }
        }
    }
}
