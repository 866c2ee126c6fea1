//! The child: one process, its group, and the terminal it may need.
//!
//! # Its group
//!
//! The child gets its own process group. So a signal that somebody sends to *our* group (GitLab,
//! Buildkite, a terminal) does not reach it, and it gets the one that we send.
//!
//! # The terminal
//!
//! On a terminal, only the foreground group may read, and the keys signal that group. So if we are
//! the foreground job, we do what a shell does for its jobs: the child's group becomes the
//! foreground, and the terminal comes back to us when the child ends or is stopped.
//!
//! We do this at once only if we are *alone* in our group. In `tfwrap plan | less`, `less` is also
//! in the group and would lose the keyboard. In `./deploy.sh`, so is the script's shell: it would
//! no longer be suspended with us, nor see the interrupt that ends its loop. Nor do we do it if the
//! child is a script in a Terraform's place, other than a shell's: a key would reach that Terraform
//! twice if the script passes it on, and the hang-up of the terminal would end it if the script has
//! undone what makes it ignore that (Node does). In these cases, and in CI ([`TerminalUse::LeaveAlone`]), the child gets the terminal
//! when it reads from it, which stops the child. A script in a Terraform's place has it only until it is in its read, which
//! the terminal serves to its end whoever is in the foreground: so a key after that comes to us again. Meanwhile we pass on what the terminal's keys and its hang-up do to our group.
//!
//! The group's number does not tell whether we are alone: a shell makes the first process of any
//! pipeline the leader of its group. So we look for the other members in `/proc`. If that is
//! missing, we assume that there are others.
//!
//! In the background, we never take the terminal. When the child reads from it there, the child is
//! stopped, and so is our whole group, as the kernel would have done it. The child is given the
//! terminal when the job is brought to the foreground. If no shell would do that, the child stays
//! stopped alone, and is continued when it is to end.
//!
//! When the terminal is closed, the kernel hangs up on the foreground group, which may be the
//! child's. Terraform would die on the spot, its state unsaved. So on a terminal the child ignores
//! SIGHUP, as under `nohup`. We learn of the hang-up from the shell, which tells its jobs, or from
//! the stand-in, and the child gets our SIGINT.
//!
//! # Streams
//!
//! stdin, stdout and stderr are inherited untouched. A stream that was closed when we started is
//! `/dev/null`: Rust's runtime opens that in its place before `main`, so that no other file can get
//! its number, and the child gets the same.
//!
//! # Its end
//!
//! There is no parent-death signal: after a forwarded interrupt, it would be the second one.
//! Instead we are a subreaper. So whatever the child leaves behind becomes our child, even as PID 1
//! of a container, and we notice and reap its end.

mod beside;
mod changes;
mod group;
mod keyboard;
mod spawn;
mod sys;
mod terminal;
mod told;

pub(super) use group::members;
pub use spawn::{SpawnError, TerminalUse};
pub use sys::{Announce, exec, suspend_self};
pub(super) use sys::{blocked_at_start, ignored_at_start, one_handler_at_a_time};
pub(super) use sys::{close_all_else, detach, join_group};
pub(crate) use sys::{
    lent_descriptor, may_be_open_elsewhere, outlive_the_limit_of_files, stand_apart,
    stdout_was_closed, watch, with_blocked,
};
pub use told::Whom;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::StreamExt as _;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::time::Interval;

use super::kill_below::signal_below;
use super::providers::AtWork;
use super::readers::Readers;
use super::stand_in::{Overheard, OverheardStop};
use super::{Action, ChildStatus, Event, Judged, PassSignal, ProcessId, Rest, StopSignal, Watch};
use beside::Beside;
use keyboard::Loan;
use sys::Hangup;
use terminal::Terminal;
use told::Told;

/// How often a group is looked at whose last members are not our children, so that nobody tells us
/// of their end.
const GROUP_POLL: Duration = Duration::from_millis(100);

/// Something that happened to the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChildEvent {
    /// A signal stopped it.
    Stopped(Signal, Watch),
    /// It goes on.
    Continued,
    /// It ended.
    Exited {
        /// How.
        status: ChildStatus,
        /// What is left of its group. If anything, [`ChildEvent::GroupGone`] follows.
        rest: Rest,
    },
    /// Those who were interrupted have ended, or no Terraform is left of the rest.
    TerraformGone,
    /// Now nothing of its group is left.
    GroupGone,
    /// A stop came to where the child stands.
    Overheard(OverheardStop),
}

/// What still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alive {
    Leader,
    /// The child is gone and reaped; others of its group are not.
    Others,
    /// Nothing is left of its group either, but a Terraform or a tfwrap in another one. The group's
    /// number may mean other processes from here on, and is never used again.
    Strays,
    /// Nothing of it.
    Nobody,
}

/// A running child, with what it takes to watch and to signal it.
///
/// Dropping it does nothing to the process.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the child")]
pub struct Child {
    leader: Pid,
    terminal: Option<Terminal>,
    /// Whether the terminal is handed over when we are the foreground, or only when asked for.
    terminal_use: TerminalUse,
    /// Whether it is a script in a Terraform's place and no shell's, which gets the terminal only when it reads it.
    is_wrapper: bool,
    /// Whether it stands still because it asked for the terminal.
    wants_terminal: bool,
    /// Whether it was told to stop and does not stand still yet.
    is_to_stop: bool,
    frozen: bool,
    hangup: Hangup,
    told: Told,
    last_whom: Whom,
    /// Whether what is left after its end has a Terraform, as far as was told.
    rest_has_terraform: bool,
    beside: Beside,
    /// How long a wrapper has the terminal.
    loan: Loan,
    /// From the first stop on.
    readers: Readers,
    /// When they are looked at.
    look_at_readers: Interval,
    /// Readable when the child has ended; nothing on kernels before 5.3 and where a sandbox
    /// refuses it, where SIGCHLD alone must do.
    pidfd: Option<AsyncFd<OwnedFd>>,
    /// Stops are seen by SIGCHLD only, and so are the ends of adopted processes.
    sigchld: signal_hook_tokio::Signals,
    alive: Alive,
}

impl Child {
    /// The child's process ID; also its group's.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.leader
    }

    /// The Terraform, at the child or below it, that works with a provider. It has read its workspace, its
    /// backend and a saved plan by then (strace of Terraform 1.11.4: they are opened before any provider
    /// is started, whatever the command).
    #[must_use]
    pub fn at_work(&self) -> Option<AtWork> {
        AtWork::below(self.leader)
    }

    /// Whether another one follows that.
    #[must_use]
    pub fn is_at_work_again(&self, before: &AtWork) -> bool {
        before.has_successor(self.leader)
    }

    /// To whom the last interrupt went.
    #[must_use]
    pub fn whom(&self) -> &Whom {
        &self.last_whom
    }

    /// Whether a Terraform or a tfwrap is known to have had an interrupt, from whomever.
    #[must_use]
    pub fn has_told_anybody(&self) -> bool {
        self.told.any()
    }

    /// Decides whom the next interrupt is for: each Terraform and each tfwrap that lives now.
    pub fn choose_targets(&mut self) -> Vec<ProcessId> {
        if self.alive == Alive::Nobody { Vec::new() } else { self.told.choose() }
    }

    /// Notes that these have had an interrupt, or get it, from somebody else.
    pub fn have_been_told(&mut self, these: Vec<ProcessId>) {
        for process in these {
            self.told.note(process);
        }
    }

    /// Each Terraform and each tfwrap of the child that lives.
    #[must_use]
    pub fn rest_of_note(&self) -> Vec<ProcessId> {
        if self.alive == Alive::Nobody { Vec::new() } else { self.told.targets() }
    }

    /// It is asked to end, by whomever, and must not die of what it has still to say.
    /// Returns whether a Terraform or a tfwrap of it lives.
    pub fn let_it_speak(&mut self) -> bool {
        self.readers.hold([self.leader]);
        let targets = self.told.targets();
        let are_any = self.alive != Alive::Nobody && !targets.is_empty();
        self.readers.hold(targets.into_iter().map(ProcessId::pid));
        are_any
    }

    /// Whether nobody of the child heeds this stop: a hang-up, which it was started to ignore, by us or by
    /// what it does itself (`nohup`).
    #[must_use]
    pub fn is_deaf_to(&self, signal: StopSignal) -> bool {
        signal == StopSignal::Hangup
            && (self.hangup == Hangup::Ignored || self.told.are_deaf_to(signal.signal()))
    }

    /// Whoever could be interrupted has it from somebody else, and gets none from us; whether that is
    /// anybody. A key goes to the child's group alone, and nobody has what he ignores.
    pub fn have_it_already(&mut self, stop: OverheardStop) -> bool {
        self.told.have_it_already(stop)
    }

    /// Whether the child is to be a Terraform, and not a command around some.
    #[must_use]
    pub fn is_to_be_terraform(&self) -> bool {
        self.told.is_terraform()
    }

    /// What a signal means while this child runs.
    #[must_use]
    pub fn event(&self, judged: Judged) -> Event {
        Event::of_signal(judged, || self.watch())
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
            // What is taken here is only the hint to look, but for what the stand-in says.
            let must_look = self.alive != Alive::Leader
                || self.told.must_look()
                || self.asks_for_the_terminal();
            let look = async {
                if must_look {
                    tokio::time::sleep(GROUP_POLL).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            let (stand_in, look_for_terraform) = self.beside.parts();
            let overheard = async {
                match stand_in {
                    Some(stand_in) => stand_in.heard().await,
                    None => std::future::pending().await,
                }
            };
            if self.alive == Alive::Nobody {
                std::future::pending::<()>().await;
            }
            tokio::select! {
                ended = ended(self.pidfd.as_ref()), if self.alive == Alive::Leader => ended?,
                () = self.told.ended() => {}
                _ = self.sigchld.next() => {}
                _ = self.look_at_readers.tick(), if self.readers.are_any() => {
                    self.readers.let_go_of_the_full();
                }
                () = look => {}
                () = self.loan.over() => self.end_loan()?,
                () = Beside::must_look(look_for_terraform) => self.name_stand_in(),
                heard = overheard => match heard {
                    Some(Overheard::Stop(overheard)) => return Ok(ChildEvent::Overheard(overheard)),
                    // It may never be told of the child: see `Action::ContinueStopped`.
                    Some(Overheard::Suspension) => {
                        if let watch @ Watch::Orphaned = self.watch() {
                            return Ok(ChildEvent::Stopped(Signal::SIGTSTP, watch));
                        }
                    }
                    // It has said what it had to say.
                    None => self.stand_in_again(),
                },
            }
        }
    }

    /// Carries out a decision.
    ///
    /// [`Action::SuspendSelf`] returns when we go on; [`Action::Finished`] takes the terminal back.
    ///
    /// # Errors
    /// When a signal is refused (the child runs as another user, as `sudo` does) or the terminal
    /// cannot be moved. That the target is gone is no error.
    pub fn apply(&mut self, action: Action) -> io::Result<()> {
        match action {
            Action::Interrupt
            | Action::InterruptNew
            | Action::ForwardSecond
            | Action::Withhold(_) => self.interrupt(action),
            Action::Quit => self.send_to_all(Signal::SIGQUIT),
            // Whatever takes this long to save its state is let.
            Action::KillRest if self.told.rest() != Rest::Others => Ok(()),
            Action::Kill | Action::KillRest => self.send_to_all(Signal::SIGKILL),
            Action::AwaitRest => self.continue_the_rest(),
            Action::StopGroup => {
                self.is_to_stop = true;
                self.send(Signal::SIGTSTP)
            }
            Action::Freeze => {
                self.frozen = true;
                self.send_to_all(Signal::SIGSTOP)
            }
            Action::Thaw { goes_on } => {
                self.frozen = false;
                if goes_on { self.go_on() } else { Ok(()) }
            }
            Action::SuspendSelf => suspend_self(Signal::SIGTSTP, false),
            Action::SuspendJob(signal) => {
                suspend_self(signal, group::alone_in_our_group() != Some(true))
            }
            Action::ContinueGroup => self.go_on(),
            Action::ContinueStopped if self.stands_still() => self.go_on(),
            Action::ContinueStopped => Ok(()),
            Action::PassOn(PassSignal::WindowChange) => self.send(Signal::SIGWINCH),
            Action::PassOn(signal @ (PassSignal::User1 | PassSignal::User2)) => {
                self.send_to_leader(signal.signal())
            }
            Action::Finished { status, .. } => match &mut self.terminal {
                Some(terminal) => terminal.take_back(matches!(status, ChildStatus::Signaled(_))),
                None => Ok(()),
            },
        }
    }

    fn interrupt(&mut self, action: Action) -> io::Result<()> {
        // Its number may be another group's.
        self.last_whom = Whom::Nobody;
        self.let_it_speak();
        if self.alive != Alive::Nobody {
            self.last_whom = match action {
                Action::ForwardSecond => self.told.interrupt_again(self.frozen)?,
                Action::InterruptNew | Action::Withhold(_) => {
                    self.told.interrupt_new(self.frozen)?
                }
                _ => self.told.interrupt(self.frozen)?,
            };
            if self.stands_still() {
                self.send(Signal::SIGCONT)?;
            }
        }
        Ok(())
    }

    fn go_on(&mut self) -> io::Result<()> {
        let may_have_it = self.may_have_the_terminal();
        (self.wants_terminal, self.is_to_stop) = (false, false);
        self.send_to_strays(Signal::SIGCONT);
        if may_have_it { self.go_on_with_terminal() } else { self.send(Signal::SIGCONT) }
    }

    fn stands_still(&self) -> bool {
        let has_group = matches!(self.alive, Alive::Leader | Alive::Others);
        has_group && !self.frozen && group::has_stopped(self.leader)
    }

    /// What comes before a suspension of ours, and ends with [`Action::ContinueGroup`].
    ///
    /// # Errors
    /// When the terminal cannot be taken back.
    pub fn prepare_to_stand_still(&mut self) -> io::Result<()> {
        // What works elsewhere has no heartbeats either.
        self.send_to_strays(Signal::SIGSTOP);
        match &mut self.terminal {
            Some(terminal) => terminal.take_back_for_now(),
            None => Ok(()),
        }
    }

    fn send(&self, signal: Signal) -> io::Result<()> {
        send(self.leader, self.alive, signal)
    }

    /// To its group, and to each Terraform of it elsewhere.
    fn send_to_all(&self, signal: Signal) -> io::Result<()> {
        self.send_to_strays(signal);
        self.send(signal)
    }

    fn send_to_strays(&self, signal: Signal) {
        for process in self.told.strayed() {
            signal_below(process, signal);
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

    fn watch(&self) -> Watch {
        watch_over_us(self.terminal_use, self.terminal.is_some())
    }
}

/// Who would let us go on, had we stopped while there is no child.
#[must_use]
pub fn watch_while_idle(terminal_use: TerminalUse) -> Watch {
    watch_over_us(terminal_use, Terminal::open().is_some())
}

fn watch_over_us(terminal_use: TerminalUse, on_terminal: bool) -> Watch {
    match (group::is_job_of_a_shell(), on_terminal, terminal_use) {
        (true, true, TerminalUse::HandOver) => Watch::Shell,
        // A Ctrl-Z in CI, where nobody types `fg`, is none.
        (true, true, TerminalUse::LeaveAlone) | (false, ..) => Watch::Orphaned,
        (true, false, _) => Watch::Nobody,
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

/// Signals the leader's group.
fn send(leader: Pid, alive: Alive, signal: Signal) -> io::Result<()> {
    if matches!(alive, Alive::Strays | Alive::Nobody) {
        return Ok(());
    }
    sent(signal, "process group", leader, killpg(leader, signal))
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
