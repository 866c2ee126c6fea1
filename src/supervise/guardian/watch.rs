//! The guardian's own side: a loop without runtime, threads or store.
//!
//! It lives for as long as tfwrap does, and costs little: what is needed to beat and to release
//! comes with the program that it becomes when tfwrap is gone without a word.

use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, IntoRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::message::{CHILD, DONE, FENCED, FILE, Head, Interrupts, LONGEST, LentFile, STATE};
use super::{NAME, TAKE_OVER};
use crate::lock::Uptime;
use crate::receipt::ReceiptFile;
use crate::supervise::child::stand_apart;
use crate::supervise::detached::THIS_PROGRAM;
use crate::supervise::orphans::Orphans;

/// How often the clock is looked at while a fence is set: timers do not count suspend.
const TICK_MS: u16 = 1000;

/// The signals by which somebody asks processes to end.
const STOPS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Watches until tfwrap is done (then it returns) or gone (then this process becomes the one that
/// ends what tfwrap began, and this does not return).
///
/// # Errors
/// When that cannot be begun.
pub fn watch(clock: impl Fn() -> Uptime) -> io::Result<()> {
    stand_apart()?;
    super::take_name();
    let mut guardian = Watcher {
        socket: io::stdin().as_fd().try_clone_to_owned()?,
        // All are blocked, so none is missed and none ends us.
        signals: SignalFd::with_flags(
            &SigSet::all(),
            SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
        )?,
        head: Head::default(),
        rest: Vec::new(),
        lent: Vec::new(),
        swept: false,
    };
    loop {
        guardian.wait()?;
        // First what tfwrap says: a child whose start is still unread was there when we were
        // signalled, for all that can be known.
        let heard = guardian.hear()?;
        guardian.hear_signals()?;
        match heard {
            Heard::Done => return Ok(()),
            Heard::Gone => return Err(guardian.take_over()),
            Heard::Nothing => {}
        }
        guardian.fence(&clock);
    }
}

enum Heard {
    Nothing,
    /// Tfwrap has given all back.
    Done,
    /// Tfwrap is gone, and so is every child that was about to start.
    Gone,
}

struct Watcher {
    socket: OwnedFd,
    signals: SignalFd,
    head: Head,
    /// What whoever takes over must know besides.
    rest: Vec<u8>,
    lent: Vec<(LentFile, OwnedFd)>,
    /// Whether somebody signalled us, and so probably every process there is.
    swept: bool,
}

impl Watcher {
    fn wait(&self) -> io::Result<()> {
        let armed = self.head.kill_at.is_some() && self.head.child.is_some() && !self.head.killed;
        let timeout = if armed { PollTimeout::from(TICK_MS) } else { PollTimeout::NONE };
        let mut ready = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn hear_signals(&mut self) -> io::Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            if Signal::try_from(number).is_ok_and(|signal| STOPS.contains(&signal)) {
                self.swept = true;
            }
        }
        Ok(())
    }

    /// Nobody is waited for: who does not read is stuck or gone.
    fn say(&self, words: &[u8]) {
        let _unheard = send(&self.socket, words, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Takes all that was said.
    fn hear(&mut self) -> io::Result<Heard> {
        let mut buffer = vec![0; LONGEST];
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let length = match recvmsg(&self.socket, &mut parts, &mut control, flags) {
                Ok(message) => message.bytes,
                Err(rustix::io::Errno::AGAIN) => return Ok(Heard::Nothing),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) => return Ok(Heard::Gone),
                Err(error) => return Err(error.into()),
            };
            let file = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut files) => files.next(),
                _ => None,
            });
            match buffer[..length].split_first() {
                None => return Ok(Heard::Gone),
                Some((&DONE, _)) => return Ok(Heard::Done),
                Some((&STATE, state)) => self.note_state(state),
                Some((&CHILD, child)) => self.note_child(child),
                Some((&FILE, lent)) => self.note_file(lent, file),
                Some(_) => {}
            }
        }
    }

    fn note_state(&mut self, state: &[u8]) {
        let (head, rest) = match state.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&state[..end], &state[end + 1..]),
            None => (state, &[][..]),
        };
        if let Ok(head) = serde_json::from_slice::<Head>(head) {
            let killed = self.head.killed;
            self.head = Head { killed, ..head };
            rest.clone_into(&mut self.rest);
        }
    }

    fn note_child(&mut self, child: &[u8]) {
        if let Ok(number) = child.try_into() {
            let pid = Pid::from_raw(i32::from_le_bytes(number));
            self.head.child = Orphans::of(pid);
            self.head.interrupts = Interrupts::None;
            self.head.killed = false;
            // It was not there when others were signalled.
            self.swept = false;
        }
    }

    fn note_file(&mut self, lent: &[u8], file: Option<OwnedFd>) {
        if let (Ok(lent), Some(file)) = (serde_json::from_slice(lent), file) {
            self.lent.push((lent, file));
        }
    }

    /// Kills the child before anybody may take its lock over, however things stand with tfwrap.
    fn fence(&mut self, clock: &impl Fn() -> Uptime) {
        let due = |at| clock().0.as_millis() >= u128::from(at);
        if let (Some(child), Some(at), false) =
            (&self.head.child, self.head.kill_at, self.head.killed)
            && due(at)
            && child.signal(Signal::SIGKILL).is_ok()
        {
            self.head.killed = true;
            self.say(&[FENCED]);
        }
    }

    /// Becomes the program that ends what tfwrap began. Returns only if that fails.
    fn take_over(mut self) -> io::Error {
        if self.swept && self.head.interrupts == Interrupts::None {
            self.head.interrupts = Interrupts::Maybe;
        }
        match self.prepare() {
            // Both streams and the program are ours since our start; a file that was deleted since
            // can still be executed so.
            Ok(mut command) => command.exec(),
            Err(error) => error,
        }
    }

    fn prepare(&mut self) -> io::Result<Command> {
        for (mut lent, file) in self.lent.drain(..) {
            fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))?;
            lent.fd = file.into_raw_fd();
            self.head.files.push(lent);
        }
        let mut case = std::fs::File::from(memfd_create(c"case", MFdFlags::MFD_CLOEXEC)?);
        serde_json::to_writer(&mut case, &self.head)?;
        case.write_all(b"\n")?;
        case.write_all(&self.rest)?;
        io::Seek::rewind(&mut case)?;
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0(NAME).arg(TAKE_OVER).stdin(case);
        let receipt = self.head.receipt.clone().map(ReceiptFile::at);
        if let Some(Ok(log)) = receipt.map(|file| file.open_log()) {
            command.stderr(log);
        }
        Ok(command)
    }
}
