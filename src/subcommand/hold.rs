//! `tfwrap hold`: the part in the foreground. It starts the keeper, passes on what it hears from
//! it and to it, and prints the environment for the commands that follow.

mod anchor;
mod print;

pub(crate) use anchor::anchor;

use std::ffi::{CStr, OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{dup2_stderr, dup2_stdin, fchdir};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::cli::HoldArgs;
use crate::env::Env;
use crate::error::Error;
use crate::receipt::ReceiptFile;
use crate::run::hold::Handed;
use crate::supervise::detached::{Detached, KEEPER, Start, wait_for_either};

/// What the keeper is called: its first argument, and in `ps`.
const SHORT_NAME: &CStr = c"lock-keeper";

/// No message of the keeper's is longer.
const LONGEST: usize = 128 * 1024;

/// What is said to people who see the environment instead of their shell: the next command would wait for
/// this very hold.
pub(crate) const TYPED: &str = "the lock is held; to run commands under it, paste these lines into your shell; to end it: \
     `tfwrap release`";

/// Whether this process is a keeper, by what it is called.
#[must_use]
pub(crate) fn is_keeper(program: &OsStr) -> bool {
    program == KEEPER
}

/// The directory that this process is in, whatever becomes of its name.
pub(crate) fn this_dir() -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    let dir = options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(".")?;
    Ok(dir.into())
}

/// Starts the keeper with the very arguments of this process, and waits for it to have the locks.
/// Where `--chdir` was among them, that begins in the directory in which this one began
/// (`began_in`): a relative path means there what it means here.
///
/// # Errors
/// When the keeper cannot be started, or the environment not be given.
pub(crate) fn run(
    args: &[OsString],
    hold: HoldArgs,
    env: &Env,
    began_in: Option<io::Result<OwnedFd>>,
) -> Result<u8, Error> {
    if let Some(began_in) = began_in {
        began_in.and_then(|dir| Ok(fchdir(dir)?)).map_err(|error| Error::Machine {
            message: format!("the keeper cannot start in this directory: {error}"),
            hint: Some("name the directory of `--chdir` by its absolute path".to_owned()),
        })?;
    }
    let internal = |what: &str, error: &io::Error| Error::Internal(format!("{what}: {error}"));
    // Nothing may come between the start of the keeper and its answer.
    let stops = stops();
    stops.thread_block().map_err(|error| internal("signals cannot wait", &error.into()))?;
    let start = Start { name: KEEPER, args: &args[1..], speaks: true, without: &[] };
    let (socket, mut keeper) = start.start().map_err(|error| {
        Error::no_process(format!("the keeper cannot be started: {error}"), &error)
    })?;
    let answer = wait(&socket, &keeper, &stops)
        .map_err(|error| internal("cannot read from the keeper", &error))?;
    let Some(answer) = answer else {
        // It has said why.
        return keeper.wait().map_err(|error| internal("the keeper is gone", &error));
    };
    let given = serde_json::from_slice::<Handed>(&answer)
        .map_err(|error| error.to_string())
        .and_then(|handed| print::print(&handed, hold.format, env));
    match given {
        Ok(()) => Ok(0),
        Err(what) => {
            // A lock that nobody knows of helps nobody.
            keeper.tell(Signal::SIGTERM);
            let _gone = keeper.wait();
            Err(Error::Config {
                message: format!("the environment cannot be printed: {what}"),
                hint: Some("the lock is released".to_owned()),
            })
        }
    }
}

fn stops() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect()
}

/// Passes signals on until the keeper has answered; nothing when it ended instead.
fn wait(socket: &OwnedFd, keeper: &Detached, stops: &SigSet) -> io::Result<Option<Vec<u8>>> {
    let signals = SignalFd::with_flags(stops, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut buffer = vec![0; LONGEST];
    loop {
        wait_for_either(socket.as_fd(), &signals, None)?;
        while let Some(info) = signals.read_signal()? {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            if let Ok(signal) = Signal::try_from(number) {
                keeper.tell(signal);
            }
        }
        match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Ok(None),
            Ok((_, length)) => return Ok(Some(buffer[..length].to_vec())),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => return Ok(None),
        }
    }
}

/// Begins as a keeper. Until it has the locks it ends with whoever waits for them.
pub(crate) fn begin_keeper() {
    // Another name is no reason not to work.
    let _unnamed = prctl::set_name(SHORT_NAME);
    let _left_to_the_wait = prctl::set_pdeathsig(Signal::SIGTERM);
    // Whoever waits may have been killed before that; nothing has been begun yet.
    let stdin = io::stdin();
    let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
    if poll(&mut ready, PollTimeout::ZERO).is_ok_and(|closed| closed > 0) {
        let _ends_us = raise(Signal::SIGTERM);
    }
}

/// Hands the environment over, and stands alone from here on: nothing that belongs to the step
/// stays open.
///
/// # Errors
/// In words; when nobody waits any more.
pub(crate) fn hand_over(handed: &Handed, log: Option<&ReceiptFile>) -> Result<(), String> {
    let fail = |what: &str, error: &io::Error| format!("{what}: {error}");
    let words = serde_json::to_vec(handed).map_err(|error| error.to_string())?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| fail("`/dev/null`", &error))?;
    let log = log.and_then(|file| file.open_log().ok());
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let socket = socket.map_err(|error| fail("no descriptor left", &error))?;
    dup2_stdin(&null).map_err(|error| fail("stdin", &error.into()))?;
    dup2_stderr(log.as_ref().unwrap_or(&null)).map_err(|error| fail("stderr", &error.into()))?;
    let _as_before = prctl::set_pdeathsig(None);
    send(&socket, &words, SendFlags::NOSIGNAL)
        .map(|_| ())
        .map_err(|error| fail("nobody is waiting for the lock any more", &error.into()))
}
