//! Whose the keyboard is: when the terminal is lent, and when it is taken back.

use std::future::pending;
use std::io;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{getpgid, getpgrp};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::time::{Interval, interval};

use super::terminal::Terminal;
use super::{Child, TerminalUse, group, id, send};
use crate::supervise::{ProcessId, Watch};

/// How long a wrapper keeps the terminal that it asked for: as long as it takes to go on and to be in its
/// read, which the terminal serves to its end, whoever is in the foreground by then. One that is slower
/// is stopped by its read once more, and gets it for twice as long.
const FIRST_LOAN: Duration = Duration::from_millis(100);
const LONGEST_LOAN: Duration = Duration::from_secs(2);

/// What a wrapper has the terminal for.
#[derive(Default)]
pub(super) struct Loan {
    ends: Option<Interval>,
    span: Duration,
}

impl Loan {
    fn begin(&mut self) {
        self.span = (self.span * 2).clamp(FIRST_LOAN, LONGEST_LOAN);
        let mut ends = interval(self.span);
        // Its first tick would be now.
        ends.reset();
        self.ends = Some(ends);
    }

    /// Waits until it is over. Dropping the future loses nothing.
    pub(super) async fn over(&mut self) {
        match &mut self.ends {
            Some(ends) => drop(ends.tick().await),
            None => pending().await,
        }
    }
}

impl Child {
    /// Takes the terminal back from a wrapper: the keys are ours again, and what it has begun to read
    /// it still gets. Not while it has set the terminal otherwise: it asks for a password, or edits a
    /// line, and takes more than one read for it.
    pub(super) fn end_loan(&mut self) -> io::Result<()> {
        let Some(terminal) = &mut self.terminal else { return Ok(()) };
        if terminal.is_set_otherwise() {
            return Ok(());
        }
        self.loan.ends = None;
        terminal.take_back_for_now()
    }

    pub(super) fn go_on_with_terminal(&mut self) -> io::Result<()> {
        let (leader, alive) = (self.leader, self.alive);
        let go_on = || send(leader, alive, Signal::SIGCONT);
        match &mut self.terminal {
            Some(terminal) => {
                if self.is_wrapper {
                    self.loan.begin();
                }
                terminal.lend_again(leader, go_on)?;
            }
            None => go_on()?,
        }
        // It has what it asked for. What stops it from here on is for another reason.
        self.wants_terminal = false;
        Ok(())
    }

    /// Continues what is left of it and stands still.
    ///
    /// A shell with job control puts a Terraform into a group of its own. Once that shell has ended,
    /// nobody but us can give the group the terminal, and without it the next read would stop it again.
    pub(super) fn continue_the_rest(&mut self) -> io::Result<()> {
        // A frozen one goes on with its thaw.
        if self.frozen {
            return Ok(());
        }
        for process in self.rest_of_note().into_iter().filter(|it| it.stands_still()) {
            self.continue_with_terminal(process)?;
        }
        Ok(())
    }

    fn continue_with_terminal(&mut self, process: ProcessId) -> io::Result<()> {
        // A key, or a read, has stopped all of the group, also what Terraform has started.
        let Some(group) = getpgid(Some(process.pid())).ok().filter(|it| *it != getpgrp()) else {
            return process.signal(Signal::SIGCONT).map(drop);
        };
        let go_on = || match killpg(group, Signal::SIGCONT) {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        };
        match &mut self.terminal {
            Some(terminal) if terminal.is_free_for(group) => terminal.lend_again(group, go_on),
            _ => go_on(),
        }
    }

    /// Continues who of the rest was stopped by the terminal since, where that is ours to give: no shell
    /// knows of it any more.
    pub(super) fn continue_who_reads(&mut self) -> io::Result<()> {
        let has_terminal = |child: &Self, process: ProcessId| {
            let group = getpgid(Some(process.pid())).ok();
            group.is_some_and(|it| child.terminal.as_ref().is_some_and(|t| t.is_free_for(it)))
        };
        if self.frozen || self.terminal.is_none() {
            return Ok(());
        }
        for process in self.rest_of_note() {
            // Only of those that we have adopted; of others their parent hears.
            let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
            let Ok(Some(stop)) = waitid(WaitId::Pid(id(process.pid())), options) else { continue };
            let stopped_by = stop.stopping_signal().and_then(|it| Signal::try_from(it).ok());
            let by_terminal = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU].map(Some);
            if by_terminal.contains(&stopped_by) && has_terminal(self, process) {
                self.continue_with_terminal(process)?;
            }
        }
        Ok(())
    }

    /// Whether the child's group is to be the foreground: now that we are, or because it stands
    /// still for want of it where nobody types.
    pub(super) fn may_have_the_terminal(&self) -> bool {
        let in_ci = self.terminal_use == TerminalUse::LeaveAlone;
        let asks = self.wants_terminal && (in_ci || self.terminal_is_free());
        let at_once = !in_ci && !self.is_wrapper && self.terminal_is_ours();
        asks || (at_once && group::alone_in_our_group() == Some(true))
    }

    /// Whether the terminal is all that it needs to go on.
    pub(super) fn asks_for_the_terminal(&self) -> bool {
        self.wants_terminal && !self.is_to_stop
    }

    /// Whether it asks for the terminal, and nobody else could give it that.
    pub(super) fn asks_for_what_is_ours_to_give(&self) -> bool {
        self.asks_for_the_terminal()
            && (self.terminal_is_free()
                || self.terminal_is_of_a_stopped_job()
                || self.terminal_is_of_an_outer_tfwrap())
    }

    /// Continues a child that had asked for the terminal in vain, once that is ours to give: by `fg`, of which
    /// nobody tells us, since to the shell we were running all the time.
    pub(super) fn continue_for_the_terminal(&mut self) -> io::Result<()> {
        let may_go_on = !self.frozen && self.asks_for_what_is_ours_to_give() && self.stands_still();
        if may_go_on { self.go_on() } else { Ok(()) }
    }

    fn terminal_is_ours(&self) -> bool {
        self.terminal.as_ref().is_some_and(Terminal::is_ours)
    }

    /// Whether it is ours, or of a group that has ended: a job of the child's own, for instance, after
    /// which its shell takes it back.
    pub(super) fn terminal_is_free(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| terminal.is_free_for(self.leader))
    }

    pub(super) fn terminal_is_lent(&self) -> bool {
        self.terminal.as_ref().and_then(Terminal::foreground) == Some(self.leader)
    }

    /// Whether it is of a job of the child's own that stands still where no shell would resume us: then
    /// whoever made the job has no other way to go on, and we see to the rest.
    fn terminal_is_of_a_stopped_job(&self) -> bool {
        let foreground = self.terminal.as_ref().and_then(Terminal::foreground);
        self.watch() != Watch::Shell
            && foreground.is_some_and(|job| group::is_stopped_job_of(job, self.leader))
    }

    fn terminal_is_of_an_outer_tfwrap(&self) -> bool {
        let foreground = self.terminal.as_ref().and_then(Terminal::foreground);
        // Where a shell would resume us, we stop with the child, and that one lends us the terminal.
        (self.terminal_use == TerminalUse::LeaveAlone || !group::is_job_of_a_shell())
            && foreground.is_some_and(group::is_of_an_outer_tfwrap)
    }
}
