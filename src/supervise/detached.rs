//! This program, started again under another name and apart from everything: as guardian, as
//! keeper.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::child::detach;
use crate::env::Env;

/// Itself, also when the file was replaced or deleted since.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// What the guardian is called: its first argument.
pub(crate) const GUARDIAN: &str = "lock-guardian";

/// What the keeper of a hold is called.
pub(crate) const KEEPER: &str = "lock-keeper";

/// How it starts.
pub(crate) struct Start<'a> {
    /// Its first argument.
    pub(crate) name: &'a str,
    /// Its further arguments.
    pub(crate) args: &'a [std::ffi::OsString],
    /// Whether it keeps our stderr, and is set apart before it runs; otherwise stderr is
    /// `/dev/null`, and it sets itself apart.
    pub(crate) speaks: bool,
    /// Variables that it does not get.
    pub(crate) without: &'a [&'a str],
}

/// One that runs.
pub(crate) struct Detached(Child);

/// This program with the same words in its place, with this environment alone. Returns only when
/// that fails.
pub(crate) fn execute_anew(args: &[std::ffi::OsString], env: &Env) -> io::Error {
    let mut command = Command::new(THIS_PROGRAM);
    if let Some((name, words)) = args.split_first() {
        command.arg0(name).args(words);
    }
    command.env_clear().envs(env.all()).exec()
}

impl Start<'_> {
    /// Starts it, with our socket on its stdin.
    ///
    /// # Errors
    /// No process left, no `/proc`.
    pub(crate) fn start(&self) -> io::Result<(OwnedFd, Detached)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0(self.name).args(self.args).stdin(its).stdout(Stdio::null());
        for name in self.without {
            command.env_remove(name);
        }
        if self.speaks {
            detach(&mut command);
        } else {
            command.stderr(Stdio::null());
        }
        Ok((ours, Detached(command.spawn()?)))
    }
}

impl Detached {
    /// Its number.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    /// Signals it. It is our child and not waited for, so its number is its own.
    pub(crate) fn tell(&self, signal: Signal) {
        let _gone = kill(self.pid(), signal);
    }

    /// Waits for its end; its code, or 128 and the number of the signal that ended it.
    ///
    /// # Errors
    /// When somebody else has waited for it.
    pub(crate) fn wait(&mut self) -> io::Result<u8> {
        let status = self.0.wait()?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
    }
}

/// Waits for the process at the other end of the socket, or for a signal, and no longer than this if it
/// is given; whether the former has said something, or is gone.
///
/// # Errors
/// When nothing can be waited for.
pub(crate) fn wait_for_either(
    socket: BorrowedFd<'_>,
    signals: &SignalFd,
    at_most: Option<Duration>,
) -> io::Result<bool> {
    let mut ready =
        [PollFd::new(socket, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    // A part of a millisecond would be none, and then this would not wait.
    let at_most = at_most.map(|it| it + Duration::from_millis(1));
    let at_most = at_most.and_then(|it| PollTimeout::try_from(it).ok());
    match poll(&mut ready, at_most.unwrap_or(PollTimeout::NONE)) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(ready[0].revents().is_some_and(|events| !events.is_empty()))
}
