//! What the guardian does when tfwrap is gone: it makes sure that the child is ended, that its
//! locks are kept until then, and that they are released.
//!
//! A worker does all this. It is this program started again, with a runtime and a store. It may
//! fail just when it is needed: there may be no process, no thread or no descriptor left. So the
//! exclusion of others does not depend on it. The descriptors stay open in this process. While
//! there is no worker, this process interrupts the child (once in all) and kills it, in a plain
//! loop. If a worker could not be started, or failed, another one follows.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use super::TAKE_OVER;
use super::below::{LastFence, leave_line};
use super::message::{Head, LentFile};
use crate::lock::Uptime;
use crate::receipt::ReceiptFile;
use crate::supervise::detached::{GUARDIAN, THIS_PROGRAM};
use crate::supervise::ending::{Action, Ending, EndingStart, Event, Interrupts, SWEEP, Why};
use crate::supervise::{ProcessTree, Stat};

/// How often the child and the worker are looked at, in milliseconds.
const LOOK_MS: u8 = 50;

/// How often a worker is waited for that does not read what it is told.
const MOST_WAITS: u32 = 40;

/// Between two workers: at first, and at most.
const RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// How many workers may fail once the child is gone: by then, some eight hours.
const MOST_FAILURES: u32 = 1000;

/// A run whose tfwrap is gone.
pub(super) struct Orphaned {
    head: Head,
    /// What the worker must know besides.
    rest: Vec<u8>,
    /// Open for as long as this process lives.
    lent: Vec<(LentFile, OwnedFd)>,
    last_fence: LastFence,
    since: Uptime,
    /// How the child is ended from here, while there is no worker.
    ending: Option<Ending>,
    /// Whether its interrupt went to the child's whole group from here.
    all_told: bool,
    /// Whether any worker was started.
    had_worker: bool,
}

impl Orphaned {
    pub(super) fn new(
        (head, rest): (Head, Vec<u8>),
        lent: Vec<(LentFile, OwnedFd)>,
        last_fence: LastFence,
        since: Uptime,
    ) -> Self {
        Self {
            head,
            rest,
            lent,
            last_fence,
            since,
            ending: None,
            all_told: false,
            had_worker: false,
        }
    }

    /// Returns when all is done.
    ///
    /// # Errors
    /// When worker after worker failed, and nothing is left that a descriptor here would protect.
    pub(super) fn end(mut self, clock: &impl Fn() -> Uptime) -> io::Result<()> {
        let (mut worker, mut failures): (Option<Child>, u32) = (None, 0);
        let (mut retry_at, mut pause) = (self.since, RETRY);
        loop {
            let now = clock();
            if let Some(running) = &mut worker {
                match running.try_wait() {
                    Ok(None) => go_on(running),
                    Ok(Some(status)) if status.success() => return Ok(()),
                    Ok(Some(_)) | Err(_) => {
                        worker = None;
                        (failures, retry_at) = (failures + 1, now.plus(pause));
                        pause = (pause * 2).min(LONGEST_RETRY);
                    }
                }
            } else {
                if failures > 0 {
                    self.act(now);
                }
                if now >= retry_at {
                    worker = self
                        .start_worker(now)
                        .inspect_err(|error| {
                            if failures == 0 {
                                self.note(&format!(
                                    "cannot start the process that ends this run: {error}; retrying"
                                ));
                            }
                        })
                        .ok();
                    if worker.is_some() {
                        (self.ending, self.had_worker) = (None, true);
                    } else {
                        (failures, retry_at) = (failures + 1, now.plus(pause));
                        pause = (pause * 2).min(LONGEST_RETRY);
                    }
                }
                if failures >= MOST_FAILURES && self.child_is_gone() {
                    return Err(io::Error::other("no worker could be started to do it"));
                }
            }
            // Nothing is waited for but time; that a signal cuts it short does no harm.
            let _slept = poll(&mut [], LOOK_MS);
        }
    }

    fn child_is_gone(&self) -> bool {
        self.head.child.is_none_or(|child| child.are_gone())
    }

    /// Ends the child in the place of a worker, as that would. What the last one did counts.
    fn act(&mut self, now: Uptime) {
        if self.head.kill_at.is_some_and(|at| now.0.as_millis() >= u128::from(at)) {
            self.last_fence.kill_below(self.head.receipt.as_deref());
        }
        if now < self.since.plus(SWEEP) {
            return;
        }
        let Some(child) = self.head.child.filter(|child| !child.are_gone()) else { return };
        let mut ending = self.ending.take().unwrap_or_else(|| Ending::begin(self.known(now), now));
        let event = if child.are_others_only() { Event::OnlyRest } else { Event::Tick };
        let actions = ending.step(now, event);
        self.ending = Some(ending);
        for action in actions {
            match action {
                Action::Note(interrupts) => self.note_interrupts(interrupts),
                // They had it with the child.
                Action::InterruptRest if self.all_told => {}
                Action::Interrupt | Action::InterruptRest => self.interrupt(child),
                Action::Kill(why) => self.kill(child, why),
                // Nobody asks that of us while the child lives.
                Action::Release | Action::Leave => {}
            }
        }
    }

    /// Whether the child has had its interrupt: a worker may have sent it before it failed.
    fn interrupts(&self) -> Interrupts {
        let written = match self.receipt().map(|file| file.read()) {
            Some(Ok(receipt)) => receipt.interrupts,
            // A worker that has nowhere to write it down has sent it, for all that can be known.
            _ if self.had_worker => Interrupts::Maybe,
            _ => Interrupts::None,
        };
        let noted = self.head.interrupts.max(written);
        noted.or_maybe(|| self.head.child.is_some_and(|child| child.was_swept()))
    }

    fn known(&self, now: Uptime) -> EndingStart {
        let grace = Duration::from_millis(self.head.grace);
        EndingStart {
            interrupts: self.interrupts(),
            killed: self.head.killed,
            grace: grace.saturating_sub(now.since(self.since)),
            fence: self.head.kill_at.map(|at| Uptime(Duration::from_millis(at))),
            is_left_at_last: false,
        }
    }

    fn receipt(&self) -> Option<ReceiptFile> {
        self.head.receipt.clone().map(ReceiptFile::at)
    }

    fn note_interrupts(&mut self, interrupts: Interrupts) {
        self.head.interrupts = interrupts;
        if let Some(file) = self.receipt()
            && let Ok(mut receipt) = file.read()
        {
            (receipt.interrupts, receipt.is_stopping) = (interrupts, true);
            // A disk that is full keeps nobody from being told.
            drop(file.write(&receipt));
        }
    }

    /// Without a descriptor to look for Terraform with, its group is told.
    fn interrupt(&mut self, child: ProcessTree) {
        let whom = child.whom();
        let told = child.interrupt();
        self.all_told |= told.as_ref().is_ok_and(|all| *all);
        // One that was stopped could not end. What it has been sent already stays.
        let _refused_alike = child.signal(Signal::SIGCONT);
        self.note(&match told {
            Ok(_) => format!("interrupted {whom}"),
            Err(error) => format!("could not interrupt {whom}: {error}"),
        });
    }

    fn kill(&mut self, child: ProcessTree, why: Why) {
        let whom = child.whom();
        let killed = child.signal(Signal::SIGKILL);
        self.head.killed = true;
        let why = match why {
            Why::LeaseEnds => "the lease of its lock is about to expire",
            Why::Late => "its time to end has run out",
            Why::Left => "it did not end after the interrupt",
        };
        self.note(&match killed {
            Ok(()) => format!("killed {whom}: {why}"),
            Err(error) => format!("could not kill {whom}: {error}"),
        });
    }

    /// Leaves a line. Where that cannot be, nobody is told.
    fn note(&self, what: &str) {
        let _untold = self.receipt().map(|file| leave_line(&file, what));
    }

    /// Starts the program that keeps the locks until the child is gone and releases them then.
    fn start_worker(&self, now: Uptime) -> io::Result<Child> {
        let mut head = Head { interrupts: self.interrupts(), ..self.head.clone() };
        head.waited = u64::try_from(now.since(self.since).as_millis()).unwrap_or(u64::MAX);
        for (lent, file) in &self.lent {
            fcntl(file.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
            head.files.push(LentFile { fd: file.as_raw_fd(), ..lent.clone() });
        }
        let mut case = serde_json::to_vec(&head)?;
        case.push(b'\n');
        case.extend_from_slice(&self.rest);
        let (reader, writer) = io::pipe()?;
        // The program is ours since our start; a file that was deleted since can still be executed
        // so.
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0(GUARDIAN).arg(TAKE_OVER).arg(getpid().to_string()).stdin(reader);
        if let Some(Ok(log)) = self.receipt().map(|file| file.open_log()) {
            command.stderr(log);
        }
        let mut worker = command.spawn()?;
        // With it goes our end for reading, so that a worker that is gone is noticed.
        drop(command);
        if let Err(error) = hand_over(writer, &case) {
            worker.kill()?;
            worker.wait()?;
            return Err(error);
        }
        Ok(worker)
    }
}

/// Continues a worker that was stopped: nobody else would.
fn go_on(worker: &Child) {
    let pid = Pid::from_raw(worker.id().cast_signed());
    if Stat::of(pid).is_some_and(|stat| stat.stopped) {
        // Not waited for yet, so its number is its own.
        let _gone = kill(pid, Signal::SIGCONT);
    }
}

/// Writes all of it. Most fits into the pipe; for the rest the worker is waited for, but not long.
fn hand_over(mut pipe: io::PipeWriter, mut case: &[u8]) -> io::Result<()> {
    fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut waits = 0;
    while !case.is_empty() {
        match pipe.write(case) {
            Ok(length) => case = &case[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && waits < MOST_WAITS => {
                waits += 1;
                let mut ready = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
                let _slept = poll(&mut ready, LOOK_MS);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
