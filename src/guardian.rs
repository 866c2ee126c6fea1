//! The guardian: a small process that ends what a killed tfwrap has started.
//!
//! GitHub's runner on Linux kills the step's own process and nothing else. Terraform lives on, and
//! nobody sends heartbeats for its lock or releases it. So a second process is started before the
//! first write. It has its own session, `/dev/null` for its streams, nothing else open but what is
//! lent to it, a name that `pkill tfwrap` does not match, and none of the variables by which
//! runners find what a job has left behind. It learns the state of the run over a socket. When the
//! socket closes without a word, it interrupts the child once and starts the program that keeps the
//! locks until the child has ended and then releases them.
//!
//! It is also the fence of a tfwrap that is stopped or stuck: it kills the child before the lease
//! ends. And if the guardian itself was signalled, probably every process was. Then a child that
//! outlives tfwrap needs no further interrupt.
//!
//! Its rules: `docs/protocol.md#the-guardian`.

mod below;
mod message;
mod orphaned;
mod watch;

pub use below::{Fence, fence_below, inheriting};
pub use message::{Head, LentFile};
pub use watch::watch;

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg,
};
use tokio::io::unix::AsyncFd;

use crate::supervise::detached::{GUARDIAN, Start};
use crate::supervise::{Announce, ProcessId, watch as register};

/// What the kernel calls it, as [`GUARDIAN`]: at most 15 characters.
const SHORT_NAME: &CStr = c"lock-guardian";

/// The argument of the program that takes over.
pub const TAKE_OVER: &str = "take-over";

/// By the first two, runners find and kill what a job has left. By the others, of test builds,
/// tfwrap kills itself, and they are not meant for whoever takes over.
const WITHHELD: [&str; 4] = [
    "RUNNER_TRACKING_ID",
    "VSTS_PROCESS_LOOKUP_ID",
    "TFWRAP_CRASH_POINT",
    "TFWRAP_CRASH_COUNT_FILE",
];

/// What the guardian told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It killed the child before the end of its lease.
    Fenced,
    /// A stop came to it.
    Swept,
    /// It has ended.
    Gone,
}

/// A guardian that runs.
pub struct Guardian {
    socket: AsyncFd<OwnedFd>,
    process: Option<ProcessId>,
    why_gone: Option<String>,
}

/// How long what it says of its own failure may be.
const LONGEST_WHY: usize = 256;

/// Tells tfwrap why this guardian, whose socket is on stdin, cannot watch.
pub fn tell_why(error: &io::Error) {
    let mut words = vec![message::FAILED];
    words.extend(error.to_string().bytes().take(LONGEST_WHY - 1));
    // Then nobody is there to hear it.
    let _unheard = send(io::stdin(), &words, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// One that was started before the runtime.
pub struct Started {
    socket: OwnedFd,
    pid: Pid,
}

impl Started {
    /// Starts one. It need not be waited for: what it is told is kept until it reads.
    ///
    /// # Errors
    /// No process left, no `/proc`.
    pub fn new() -> io::Result<Self> {
        let start = Start { name: GUARDIAN, args: &[], speaks: false, without: &WITHHELD };
        let (socket, child) = start.start()?;
        Ok(Self { socket, pid: child.pid() })
    }

    /// Makes it known to the runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch its socket.
    pub fn register(self) -> io::Result<Guardian> {
        let process = ProcessId::of(self.pid);
        Ok(Guardian { socket: register(self.socket)?, process, why_gone: None })
    }
}

/// Takes the name that `ps` and `pkill` see; the one of the file that was executed is tfwrap's.
pub fn take_name() {
    // Another name is no reason not to work.
    let _unnamed = nix::sys::prctl::set_name(SHORT_NAME);
}

/// Whether the guardian that could not be told is gone, which is heard of and mended; any other
/// keeps what it knows, which is wrong by now.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | NotConnected)
}

/// Whether this process is a guardian, by what it is called.
#[must_use]
pub fn is_name(program: &OsStr) -> bool {
    program == GUARDIAN
}

impl Guardian {
    /// Its process.
    #[must_use]
    pub fn process(&self) -> Option<ProcessId> {
        self.process
    }

    /// Tells how things stand; `rest` is for whoever takes over.
    ///
    /// # Errors
    /// When it is gone, or does not read.
    pub fn tell(&self, head: &Head, rest: &[u8]) -> io::Result<()> {
        let mut words = vec![message::STATE];
        serde_json::to_writer(&mut words, head)?;
        words.push(b'\n');
        words.extend_from_slice(rest);
        self.send(&words)
    }

    /// Lends a descriptor: for as long as it is open, the kernel keeps the lock that it has.
    ///
    /// # Errors
    /// When it is gone, or does not read.
    pub fn lend(&self, lent: &LentFile, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut words = vec![message::FILE];
        serde_json::to_writer(&mut words, lent)?;
        let files = [fd];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        let parts = [io::IoSlice::new(&words)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg(self.socket.get_ref(), &parts, &mut control, flags)?;
        Ok(())
    }

    /// Tells that everything is given back, so that it ends; also if somebody has stopped it.
    ///
    /// # Errors
    /// When it is gone, or does not read.
    pub fn dismiss(&self) -> io::Result<()> {
        self.send(&[message::DONE])?;
        if let Some(process) = self.process {
            process.signal(Signal::SIGCONT)?;
        }
        Ok(())
    }

    /// What a child that is about to start tells it.
    #[must_use]
    pub fn announce(&self) -> Announce {
        Announce::new(self.socket.get_ref(), message::CHILD)
    }

    fn send(&self, words: &[u8]) -> io::Result<()> {
        // So many locks are refused beforehand (`job::locks`).
        if words.len() > message::LONGEST {
            return Err(io::Error::other("more than its guardian can keep"));
        }
        send(self.socket.get_ref(), words, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Why it has ended, where it could tell.
    #[must_use]
    pub fn why_gone(&self) -> Option<&str> {
        self.why_gone.as_deref()
    }

    /// The next thing that it tells. Dropping the future loses nothing.
    pub async fn heard(&mut self) -> Heard {
        loop {
            let Ok(mut ready) = self.socket.readable().await else { return Heard::Gone };
            let mut words = [0; LONGEST_WHY];
            match recv(self.socket.get_ref(), &mut words[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Heard::Gone,
                Ok((_, length)) => match words[0] {
                    message::FENCED => return Heard::Fenced,
                    message::SWEPT => return Heard::Swept,
                    message::FAILED => {
                        let why = String::from_utf8_lossy(&words[1..length.max(1)]).into_owned();
                        self.why_gone = Some(why);
                    }
                    _ => {}
                },
                Err(Errno::AGAIN) => ready.clear_ready(),
                // One that is gone and left something unread: what it said comes after that.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(_) => return Heard::Gone,
            }
        }
    }
}
