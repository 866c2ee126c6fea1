//! The stand-in: a process of ours in the same place as the child, in its session, group and
//! directory, with its environment and, beside a Terraform, under its name. Whoever signals the
//! child by any of these, and perhaps tfwrap too, also reaches the stand-in. It tells tfwrap that
//! the child has already had that signal, so tfwrap does not send another.
//!
//! All signals are blocked in it, so none ends it. It ends soon after it has reported a signal,
//! because some runners wait for each process that they signalled. Then another takes its place, a
//! few times: some runners go round more than once.
//!
//! When tfwrap is gone without a word, it stays for a little longer as a witness ([`WITNESS`]). It
//! takes no more signals then, so a stop that has come to it is pending for everybody to see.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollTimeout, poll};
use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid, getppid};
use rustix::io::Errno;
use rustix::net::sockopt::socket_type;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::io::unix::AsyncFd;

use super::StopSignal;
use super::child::{close_all_else, join_group, watch, with_blocked};
use super::detached::{THIS_PROGRAM, wait_for_either};
use super::process::{ProcessId, proc_is_ours, proc_shows_all};
use super::signal::is_heard;
use super::targets::{is_given_ours, runs_terraform, words};
use crate::lock::Uptime;

/// The variable that makes this program one; its value is the name that the kernel shows.
pub const VARIABLE: &str = "LOCK_STAND_IN";

/// What one is called beside anything but a Terraform: whoever names a script does not mean what
/// that started.
const NEUTRAL: &str = "lock-stand-in";

/// What one is called beside a script that runs a Terraform.
const TERRAFORM: &str = "terraform";

/// How long one stays that has reported a stop: so that it is still there if tfwrap is killed before it
/// has acted on the report. While tfwrap stands still, it acts on nothing.
const AFTER_REPORT: Duration = Duration::from_millis(100);

/// How long one outlives its tfwrap: longer than the worker of a guardian takes, on a loaded machine too,
/// until it looks (`SWEEP`).
const WITNESS: Duration = Duration::from_secs(2);

/// A stop that came to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OverheardStop {
    /// Which stop.
    pub signal: StopSignal,
    /// From the terminal, so it went to the child's group and to nobody else.
    pub from_terminal: bool,
}

/// What came to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overheard {
    /// A stop.
    Stop(OverheardStop),
    /// SIGTSTP, from anybody but us.
    Suspension,
}

/// One that runs. Dropping it ends it.
pub(crate) struct StandIn {
    socket: AsyncFd<OwnedFd>,
    child: Child,
    process: Option<ProcessId>,
    name: String,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // It may stand still with the child's group. Then it is waited for, so that it is no part of
        // that any more.
        drop(self.process.map(|process| process.signal(Signal::SIGKILL)));
        let _ended = self.child.wait();
    }
}

/// How the child was started.
pub(crate) struct Model {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    behind: Option<Behind>,
}

/// The Terraform behind a script: its name, and by what it was called.
#[derive(PartialEq, Eq)]
pub(crate) struct Behind {
    comm: String,
    program: OsString,
}

impl Behind {
    pub(crate) fn new(comm: String, program: Vec<u8>) -> Self {
        Self { comm, program: OsString::from_vec(program) }
    }
}

impl Model {
    pub(crate) fn of(command: &Command) -> Self {
        let env = command.get_envs();
        Self {
            program: command.get_program().to_owned(),
            args: command.get_args().map(OsString::from).collect(),
            env: env.map(|(name, value)| (name.to_owned(), value.map(OsString::from))).collect(),
            behind: None,
        }
    }

    /// Whether the program may be a script that runs a Terraform.
    pub(crate) fn is_of_a_script(&self) -> bool {
        is_given_ours(self.args.iter().map(OsString::as_os_str))
    }

    /// Whether a process with these words has been given the arguments of the child and nothing more, as a
    /// script is: that has its own path among them.
    pub(crate) fn is_given_alone(&self, words: &[Vec<u8>]) -> bool {
        let args = words.get(1..).unwrap_or_default().iter().map(Vec::as_slice);
        args.eq(self.args.iter().map(|it| it.as_bytes()))
    }

    /// Notes what is behind the script.
    pub(crate) fn set_behind(&mut self, behind: Behind) {
        self.behind = Some(behind);
    }
}

impl StandIn {
    /// Starts one beside the leader of a group; nothing where that cannot be.
    pub(crate) fn start(leader: Pid, model: &Model) -> Option<Self> {
        // Where processes cannot be seen, it could not be told from what the child leaves behind.
        if !proc_is_ours() || !proc_shows_all() {
            return None;
        }
        let (ours, its) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .ok()?;
        let mut command = Command::new(THIS_PROGRAM);
        for (name, value) in &model.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let is_terraform = runs_terraform(leader);
        // Whoever names Terraform, or its arguments, also means the one behind a script.
        let name = if is_terraform || model.is_of_a_script() {
            // One of an odd name is known by its words alone, and by the path of a script nobody names the
            // Terraform behind it.
            let is_it = is_terraform || model.is_given_alone(&words(leader));
            let comm = || std::fs::read_to_string(format!("/proc/{leader}/comm"));
            let own = is_it.then(|| comm().unwrap_or_default().trim_end().to_owned());
            let own = own.map(|name| (model.program.as_os_str(), name));
            let behind = model.behind.as_ref().filter(|_| !is_terraform);
            let behind = behind.map(|it| (it.program.as_os_str(), it.comm.clone()));
            let unknown = || (OsStr::new(TERRAFORM), TERRAFORM.to_owned());
            let (program, name) = behind.or(own).unwrap_or_else(unknown);
            command.arg0(program).args(&model.args);
            name
        } else {
            command.arg0(NEUTRAL);
            NEUTRAL.to_owned()
        };
        command.env(VARIABLE, &name);
        command.stdin(its).stdout(Stdio::null()).stderr(Stdio::null());
        join_group(&mut command, leader);
        // It has our mask from its first moment on, so that no signal to the group ends it, or stops
        // it before it runs, for which its start would have to wait.
        let child = with_blocked(&SigSet::all(), || command.spawn()).ok()?.ok()?;
        let process = ProcessId::of(Pid::from_raw(child.id().cast_signed()));
        Some(Self { socket: watch(ours).ok()?, child, process, name })
    }

    /// Continues it if somebody has stopped it: it could tell of nothing. And if tfwrap is killed, the
    /// kernel hangs up on a group of which any process is stopped, Terraform among them.
    pub(crate) fn go_on(&self) {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let pid = rustix::process::Pid::from_child(&self.child);
        if let Ok(Some(_)) = waitid(WaitId::Pid(pid), options) {
            drop(self.process.map(|process| process.signal(Signal::SIGCONT)));
        }
    }

    /// Its number. Nobody else waits for it, so it is nobody else's.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// What it is called, or will be as soon as it runs.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether this signal has reached it, and it had no time yet to say so.
    pub(crate) fn is_about_to_tell(&self, signal: Signal) -> bool {
        self.process.is_some_and(|process| process.has_pending(signal))
    }

    /// Whether no stop has come to it that it has not told of.
    pub(crate) fn has_nothing_to_tell(&self) -> bool {
        !StopSignal::heard().any(|stop| self.is_about_to_tell(stop.signal()))
            && recv_nothing(self.socket.get_ref())
    }

    /// What it heard next; nothing once it has ended. Dropping the future loses nothing.
    pub(crate) async fn heard(&mut self) -> Option<Overheard> {
        loop {
            let mut ready = self.socket.readable().await.ok()?;
            match read(self.socket.get_ref()) {
                Ok(Some(Overheard::Stop(stop))) if !is_heard(stop.signal.signal()) => {}
                Ok(heard) => return heard,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// The stops that it heard and that were not taken yet, and those that it is about to tell of.
    pub(crate) fn last_words(&self) -> Vec<OverheardStop> {
        let told = std::iter::from_fn(|| read(self.socket.get_ref()).ok().flatten());
        let told = told.filter_map(|heard| match heard {
            Overheard::Stop(overheard) => Some(overheard),
            Overheard::Suspension => None,
        });
        let told = told.filter(|overheard| is_heard(overheard.signal.signal()));
        let mut all: Vec<_> = told.collect();
        for signal in StopSignal::heard() {
            // Whether that one came from the terminal is not known yet.
            let is_new = all.iter().all(|it| it.signal != signal);
            if is_new && self.is_about_to_tell(signal.signal()) {
                all.push(OverheardStop { signal, from_terminal: false });
            }
        }
        all
    }
}

/// What one has told; nothing where it has ended.
fn read(socket: &OwnedFd) -> Result<Option<Overheard>, Errno> {
    let mut words = [0; 2];
    if recv(socket, &mut words[..], RecvFlags::DONTWAIT)? != (2, 2) {
        return Ok(None);
    }
    let signal = Signal::try_from(i32::from(words[0])).ok();
    if signal == Some(Signal::SIGTSTP) {
        return Ok(Some(Overheard::Suspension));
    }
    let stop = signal.and_then(StopSignal::of);
    let from_terminal = words[1] == 1;
    Ok(stop.map(|signal| Overheard::Stop(OverheardStop { signal, from_terminal })))
}

/// Whether there is nothing to read, nor will be: see [`read`].
fn recv_nothing(socket: &OwnedFd) -> bool {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    recv(socket, &mut [0; 2][..], flags).err() == Some(Errno::AGAIN)
}

/// Whether this process was started as one; the variable alone may be anybody's.
#[must_use]
pub fn is_one() -> bool {
    socket_type(io::stdin()).is_ok_and(|kind| kind == SocketType::SEQPACKET)
}

/// The stand-in itself, under the name that it is to have. Returns when it is not needed any more.
///
/// # Errors
/// When it cannot listen.
pub fn run(name: &str, clock: impl Fn() -> Uptime) -> io::Result<()> {
    SigSet::all().thread_set_mask()?;
    if let Ok(name) = std::ffi::CString::new(name) {
        // Another name is no reason not to listen.
        let _unnamed = set_name(&name);
    }
    close_all_else();
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let signals = SignalFd::with_flags(&SigSet::all(), flags)?;
    let socket = io::stdin();
    let tfwrap = ProcessId::of(getppid());
    let mut reported = Vec::new();
    let mut ends_at: Option<Uptime> = None;
    loop {
        let mut left = ends_at.map(|at| at.since(clock()));
        if left.is_some_and(|left| left.is_zero()) {
            if !tfwrap.is_some_and(ProcessId::stands_still) {
                return Ok(());
            }
            ends_at = Some(clock().plus(AFTER_REPORT));
            left = Some(AFTER_REPORT);
        }
        // Nothing is ever said to it: tfwrap is gone. Dropped by tfwrap, it is killed.
        if wait_for_either(socket.as_fd(), &signals, left)? {
            return bear_witness(&reported);
        }
        while let Some(info) = signals.read_signal()? {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            let Ok(signal) = Signal::try_from(number) else { continue };
            let is_stop = StopSignal::unignored().any(|stop| stop.signal() == signal);
            let is_tfwraps = i64::from(info.ssi_pid) == i64::from(getppid().as_raw());
            let from_terminal = info.ssi_code == nix::libc::SI_KERNEL;
            if (!is_stop && signal != Signal::SIGTSTP) || (is_tfwraps && !from_terminal) {
                continue;
            }
            let words = [u8::try_from(number).unwrap_or_default(), u8::from(from_terminal)];
            // Whether tfwrap is still there to read it, the socket tells.
            let _unheard = send(&socket, &words, SendFlags::NOSIGNAL);
            if is_stop {
                reported.push(signal);
                if !from_terminal {
                    ends_at = ends_at.or(Some(clock().plus(AFTER_REPORT)));
                }
            }
        }
    }
}

/// Stays where the child is, for whoever ends it now, with all stops that came here waiting.
fn bear_witness(reported: &[Signal]) -> io::Result<()> {
    for signal in reported {
        // It is blocked, so it waits as those do that were not taken.
        kill(getpid(), *signal)?;
    }
    let _slept = poll(&mut [], PollTimeout::try_from(WITNESS).unwrap_or(PollTimeout::ZERO));
    Ok(())
}
