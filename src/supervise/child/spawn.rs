//! The start of the child.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::libc;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::time::interval;

use super::beside::Beside;
use super::keyboard::Loan;
use super::sys::{Announce, Hangup, ignore_the_background, restore_before_exec, watch};
use super::terminal::Terminal;
use super::told::Told;
use super::{Alive, Child, Whom, group, id};
use crate::opened;
use crate::supervise::ProcessId;
use crate::supervise::process::children;
use crate::supervise::readers::Readers;
use crate::supervise::stand_in::Model;
use crate::supervise::targets::{CHILD_OF, child_of, is_given_ours};

/// As much of a script's first line as the kernel reads, in bytes.
const LONGEST_FIRST_LINE: u64 = 256;

/// The shells in which scripts are written.
const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "fish", "busybox"];

/// Between two looks at the pipes of a child that is to end.
const READERS_LOOK: Duration = Duration::from_secs(1);

/// Whether the child may be made the terminal's foreground.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TerminalUse {
    /// As a shell does for its jobs.
    HandOver,
    /// In CI: also where it has a terminal (Buildkite), nobody types there, and a group that is
    /// signalled as a whole must never be the child's. The child gets the terminal only if it
    /// reads it, and we are never suspended.
    LeaveAlone,
}

/// Why the child did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is no such program (exit code 127).
    #[error("`{program}` is not found", program = program.display())]
    NotFound {
        /// As it was given.
        program: PathBuf,
    },
    /// It is there, but the system does not run it (exit code 126).
    #[error("`{program}` cannot be executed: {source}", program = program.display())]
    NotExecutable {
        /// As it was given.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is not the program's fault: no memory, no process left, a bug of ours.
    #[error("cannot start `{program}`: {source}", program = program.display())]
    Failed {
        /// As it was given.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl SpawnError {
    /// Which program it is about.
    #[must_use]
    pub fn program(&self) -> &Path {
        match self {
            Self::NotFound { program }
            | Self::NotExecutable { program, .. }
            | Self::Failed { program, .. } => program,
        }
    }

    /// Sorts the error of an `exec` into what a shell tells apart as 127 and 126 (POSIX, "Exit
    /// Status for Commands"), and the rest.
    #[must_use]
    pub fn new(program: &Path, source: io::Error) -> Self {
        let program = program.to_owned();
        match source.raw_os_error() {
            // The file is there: it is the interpreter of its first line that is not.
            Some(libc::ENOENT) if program.components().count() > 1 && program.exists() => {
                Self::NotExecutable { program, source }
            }
            Some(libc::ENOENT) => Self::NotFound { program },
            Some(
                libc::EACCES
                | libc::EPERM
                | libc::ENOEXEC
                | libc::ELIBBAD
                | libc::EISDIR
                | libc::ENOTDIR
                | libc::ELOOP
                | libc::ENAMETOOLONG
                | libc::E2BIG
                | libc::ETXTBSY
                | libc::EINVAL,
            ) => Self::NotExecutable { program, source },
            _ => Self::Failed { program, source },
        }
    }
}

impl Child {
    /// Starts the command, in a tokio runtime, on the thread that will live longest.
    ///
    /// It inherits stdin, stdout and stderr unless the command says otherwise, and finds signals
    /// as if it had been started in our place.
    ///
    /// With a guardian, it is told of the child by the child itself, before the program runs.
    /// Beside the child goes a stand-in, if it `may_have_stand_in`.
    pub fn spawn(
        mut command: Command,
        terminal_use: TerminalUse,
        announce: Option<Announce>,
        may_have_stand_in: bool,
    ) -> Result<Self, SpawnError> {
        let program = PathBuf::from(command.get_program());
        let failed = |source| SpawnError::Failed { program: program.clone(), source };

        // Before the spawn, so that no end is missed; and even if we got it blocked.
        let sigchld = signal_hook_tokio::Signals::new([Signal::SIGCHLD as i32]).map_err(failed)?;
        SigSet::from(Signal::SIGCHLD).thread_unblock().map_err(|error| failed(error.into()))?;
        set_child_subreaper(true).map_err(|error| failed(error.into()))?;

        let mut terminal = Terminal::open();
        let foreground = terminal.as_ref().is_some_and(Terminal::is_ours);
        let hand_over = terminal_use == TerminalUse::HandOver && foreground;
        // Others in our group keep the keyboard, until the child asks for it.
        let is_wrapper = is_wrapper(&command);
        let lending = hand_over && !is_wrapper && group::alone_in_our_group() == Some(true);
        let mut lent = None;
        if let (true, Some(terminal)) = (lending, &mut terminal) {
            lent = Some(terminal.handle_to_lend().map_err(failed)?);
        }
        if terminal.is_some() {
            ignore_the_background().map_err(failed)?;
        }
        // The child does it itself, before the hook. There is no need to repeat it here as shells
        // do: `spawn` returns only when the program runs.
        command.process_group(0);
        // The terminal may become its own, and then its hang-up does.
        let hangup = if terminal.is_some() { Hangup::Ignored } else { Hangup::AsInherited };
        // For whoever goes on without us.
        match ProcessId::me() {
            Some(me) => command.env(CHILD_OF, child_of(me)),
            None => command.env_remove(CHILD_OF),
        };
        let model = may_have_stand_in.then(|| Model::of(&command));
        restore_before_exec(&mut command, lent, hangup, announce);

        let before = children().unwrap_or_default().into_iter().filter_map(ProcessId::of).collect();
        let started = command.spawn();
        if let (true, Some(terminal)) = (lending, &mut terminal) {
            match &started {
                Ok(child) => terminal.lent(pid(child)),
                // The one that took it is gone already.
                Err(_) => terminal.take_from_the_dead().map_err(failed)?,
            }
        }
        let leader = pid(&started.map_err(|source| SpawnError::new(&program, source))?);
        let mut child = Self {
            leader,
            terminal,
            terminal_use,
            is_wrapper,
            wants_terminal: false,
            is_to_stop: false,
            frozen: false,
            hangup,
            told: Told::new(leader, before, is_given_ours(command.get_args())),
            last_whom: Whom::Nobody,
            rest_has_terraform: false,
            beside: Beside::of(model),
            loan: Loan::default(),
            readers: Readers::default(),
            look_at_readers: interval(READERS_LOOK),
            pidfd: pidfd(leader),
            sigchld,
            alive: Alive::Leader,
        };
        child.stand_in_again();
        Ok(child)
    }
}

/// Whether it is a script that is to run a Terraform, and no shell's: a shell may make jobs of what it runs,
/// and these never come to ask us for the terminal.
fn is_wrapper(command: &Command) -> bool {
    let interpreter = || {
        let opened = opened::to_read(Path::new(command.get_program())).ok()?.regular().ok()?;
        let mut start = Vec::new();
        opened.take(LONGEST_FIRST_LINE).read_to_end(&mut start).ok()?;
        interpreter(&start)
    };
    is_given_ours(command.get_args())
        && interpreter().is_some_and(|name| !SHELLS.contains(&name.as_str()))
}

/// What runs a script, by its first line (`execve(2)`, "Interpreter scripts"), also through `env`; nothing of
/// what is none.
fn interpreter(start: &[u8]) -> Option<String> {
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let name = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let mut words = line.split_ascii_whitespace();
    let first = name(words.next()?);
    let is_option = |word: &&str| word.starts_with('-') || word.contains('=');
    let through = if first == "env" { words.find(|word| !is_option(word)) } else { None };
    Some(through.map_or(first, name))
}

fn pid(child: &std::process::Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// A handle that tells of a process' end; nothing where the kernel or a sandbox has none.
pub(super) fn pidfd(leader: Pid) -> Option<AsyncFd<OwnedFd>> {
    pidfd_open(id(leader), PidfdFlags::empty()).ok().and_then(|pidfd| watch(pidfd).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_runs_a_script_is_named_by_its_first_line() {
        for (start, expected) in [
            ("#!/usr/bin/env node\nconst", Some("node")),
            ("#!/usr/bin/env -S A=1 python3 -u\n", Some("python3")),
            ("#! /bin/sh -e\n", Some("sh")),
            ("#!/usr/local/bin/python3", Some("python3")),
            ("#!\n", None),
            ("\u{7f}ELF", None),
            ("", None),
        ] {
            assert_eq!(interpreter(start.as_bytes()).as_deref(), expected, "{start}");
        }
    }
}
