//! The guardian's own side: a loop without runtime, threads or store.
//!
//! It lives for as long as tfwrap does, and costs little. What is needed to send heartbeats and to
//! release comes with the program that it starts when tfwrap is gone without a word.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getppid};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::below::LastFence;
use super::message::{CHILD, DONE, FENCED, FILE, Head, LONGEST, LentFile, STATE, SWEPT};
use super::orphaned::Orphaned;
use crate::lock::Uptime;
use crate::lock::lease::TICK;
use crate::supervise::ending::Interrupts;
use crate::supervise::{ProcessId, ProcessTree, StopSignal, stand_apart};

/// How long nothing is done where nothing can be waited for, in milliseconds.
const WITHOUT_WAIT_MS: u8 = 50;

/// Watches until tfwrap is done, or gone and what it began is ended.
///
/// # Errors
/// When that cannot be begun, or what was lent did not arrive: then tfwrap starts another.
pub fn watch(clock: impl Fn() -> Uptime) -> io::Result<()> {
    stand_apart()?;
    super::take_name();
    let mut guardian = Watcher {
        socket: io::stdin().as_fd().try_clone_to_owned()?,
        // All are blocked, so none is missed and none ends us.
        signals: SignalFd::with_flags(
            &SigSet::all(),
            SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
        )
        .map_err(|error| io::Error::other(format!("no signalfd(2): {}", error.desc())))?,
        head: Head::default(),
        rest: Vec::new(),
        lent: Vec::new(),
        last_fence: LastFence::new(),
        was_signalled: false,
        runner: ProcessId::of(getppid()),
        buffer: vec![0; LONGEST],
    };
    loop {
        guardian.wait();
        // First what tfwrap says: a child whose start is still unread was there when we were
        // signalled, for all that can be known.
        let heard = guardian.hear()?;
        guardian.hear_signals();
        match heard {
            Heard::Done => return Ok(()),
            // It was told nothing, so nothing was asked for.
            Heard::Gone if guardian.rest.is_empty() => return Ok(()),
            Heard::Gone => {
                // Before anything else: whoever read what it says may have gone with tfwrap.
                let _until_its_end = guardian.head.child.map(|child| child.let_it_speak());
                return guardian.take_over(clock()).end(&clock);
            }
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
    last_fence: LastFence,
    /// Whether somebody signalled us, and so probably every process there is.
    was_signalled: bool,
    /// The tfwrap that is watched.
    runner: Option<ProcessId>,
    /// For what tfwrap says: had now, when there is memory.
    buffer: Vec<u8>,
}

impl Watcher {
    fn wait(&self) {
        // Without a child there may be others that work below a lock of ours.
        let timeout = if self.head.kill_at.is_some() {
            // Timers do not count suspend.
            PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO)
        } else {
            PollTimeout::NONE
        };
        let mut ready = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut ready, timeout).is_err() {
            // Interrupted; or no memory, or fewer descriptors allowed than these two.
            let _slept = poll(&mut [], WITHOUT_WAIT_MS);
        }
    }

    fn hear_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            let signal = Signal::try_from(number);
            if StopSignal::unignored().any(|stop| Ok(stop.signal()) == signal) {
                self.was_signalled = true;
                self.say(&[SWEPT]);
            }
        }
    }

    /// Nobody is waited for: who does not read is stuck or gone.
    fn say(&self, words: &[u8]) {
        let _unheard = send(&self.socket, words, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Takes all that was said.
    fn hear(&mut self) -> io::Result<Heard> {
        loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let length = match recvmsg(&self.socket, &mut parts, &mut control, flags) {
                Ok(message) => message.bytes,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOMEM) => {
                    return Ok(Heard::Nothing);
                }
                // Tfwrap has ended and left a word of ours unread: what it said comes after that.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => continue,
                Err(error) => return Err(error.into()),
            };
            let file = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut files) => files.next(),
                _ => None,
            });
            match self.buffer[..length].split_first() {
                None => return Ok(Heard::Gone),
                Some((&DONE, _)) => return Ok(Heard::Done),
                Some((&STATE, state)) => note_state(&mut self.head, &mut self.rest, state),
                Some((&CHILD, child)) => {
                    if note_child(&mut self.head, self.runner, child) {
                        // It was not there when others were signalled.
                        self.was_signalled = false;
                    }
                }
                Some((&FILE, lent)) => self.lent.push(lent_file(lent, file)?),
                Some(_) => {}
            }
        }
    }

    /// Kills the child, and what nobody else would below a lock of ours, before anybody may take the
    /// lock over, however things stand with tfwrap.
    fn fence(&mut self, clock: &impl Fn() -> Uptime) {
        let due = |at| clock().0.as_millis() >= u128::from(at);
        if !self.head.kill_at.is_some_and(due) {
            return;
        }
        if let (Some(child), false) = (&self.head.child, self.head.killed)
            && child.signal(Signal::SIGKILL).is_ok()
        {
            self.head.killed = true;
            self.say(&[FENCED]);
        }
        // Again while it is due: somebody may have come in since, and have died.
        self.last_fence.kill_below(self.head.receipt.as_deref());
    }

    /// From here on the run is this process' own.
    fn take_over(mut self, now: Uptime) -> Orphaned {
        if self.was_signalled && self.head.interrupts == Interrupts::None {
            self.head.interrupts = Interrupts::Maybe;
        }
        Orphaned::new((self.head, self.rest), self.lent, self.last_fence, now)
    }
}

fn note_state(known: &mut Head, known_rest: &mut Vec<u8>, state: &[u8]) {
    let (head, rest) = match state.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&state[..end], &state[end + 1..]),
        None => (state, &[][..]),
    };
    if let Ok(head) = serde_json::from_slice::<Head>(head) {
        *known = Head { killed: known.killed, ..head };
        rest.clone_into(known_rest);
    }
}

fn note_child(head: &mut Head, runner: Option<ProcessId>, child: &[u8]) -> bool {
    let Ok(number) = child.try_into() else { return false };
    let pid = Pid::from_raw(i32::from_le_bytes(number));
    head.child = ProcessTree::of(pid, runner);
    head.interrupts = Interrupts::None;
    head.killed = false;
    true
}

/// # Errors
/// When the descriptor did not come along, because this process may have no more of them.
fn lent_file(lent: &[u8], file: Option<OwnedFd>) -> io::Result<(LentFile, OwnedFd)> {
    let file = file.ok_or_else(|| io::Error::other("a descriptor was not received"))?;
    Ok((serde_json::from_slice(lent)?, file))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    /// A stop came to the guardian, and tfwrap had no time to hear of it.
    #[test]
    fn what_was_said_counts_though_a_word_of_ours_was_not_read() {
        for (last, is_done) in [(Some([DONE]), true), (None, false)] {
            let (ours, tfwraps) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                    .unwrap();
            let mut watcher = Watcher {
                socket: ours,
                signals: SignalFd::new(&SigSet::empty()).unwrap(),
                head: Head::default(),
                rest: Vec::new(),
                lent: Vec::new(),
                last_fence: LastFence::new(),
                was_signalled: false,
                runner: None,
                buffer: vec![0; LONGEST],
            };
            watcher.say(&[SWEPT]);
            let flags = SendFlags::NOSIGNAL;
            let head = serde_json::to_vec(&Head::default()).unwrap();
            send(&tfwraps, &[&[STATE][..], &head, b"\nrest"].concat(), flags).unwrap();
            if let Some(last) = last {
                send(&tfwraps, &last, flags).unwrap();
            }
            drop(tfwraps);
            let end = watcher.hear().unwrap();
            assert_eq!(watcher.rest, b"rest");
            assert_eq!(matches!(end, Heard::Done), is_done);
            assert_eq!(matches!(end, Heard::Gone), !is_done);
        }
    }
}
