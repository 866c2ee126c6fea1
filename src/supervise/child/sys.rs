//! What has no safe interface: all `unsafe` is here.
//!
//! Most of it gives a child what we inherited, unchanged. A child must find signals as if it had
//! been started in our place. Three parties come in between: Rust's runtime ignores SIGPIPE before
//! `main`, we install handlers, and `std` gives every child an empty signal mask and the default
//! SIGPIPE. So what we got is recorded before all of them, when the program is loaded.
#![expect(
    unsafe_code,
    reason = "sigaction(2), leases of files, the hook before exec, the note at load time and AsyncFd have no \
              safe interface"
)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::libc;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, raise, sigaction,
};
use nix::unistd::{Pid, getpid, setpgid, setsid, tcsetpgrp};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The highest signal number of Linux.
const LAST_SIGNAL: libc::c_int = 64;

/// Bit `n - 1`: signal `n` was ignored when this program was loaded.
static IGNORED: AtomicU64 = AtomicU64::new(0);

/// Bit `n - 1`: signal `n` was blocked when this program was loaded.
static BLOCKED: AtomicU64 = AtomicU64::new(0);

/// Whether stdout was closed then. Rust's runtime opens `/dev/null` in its place, where every answer
/// would be written and lost.
static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Makes the loader call [`note`] before Rust's runtime starts (gABI, "Initialization and
/// Termination Functions"; glibc and musl both do).
#[used]
// SAFETY: the section holds pointers to functions of this type, and `note` needs no runtime.
#[unsafe(link_section = ".init_array")]
static NOTE_AT_LOAD: extern "C" fn() = note;

extern "C" fn note() {
    let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: without a new mask, this only fills the old one; all zeroes is a valid empty set.
    let mask = unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, ptr::null(), mask.as_mut_ptr());
        mask.assume_init()
    };
    let (mut ignored, mut blocked) = (0, 0);
    for signal in 1..=LAST_SIGNAL {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: without a new action, this only fills the old one; all zeroes is a valid default
        // action, which stays for the numbers that the C library keeps to itself (EINVAL).
        let action = unsafe {
            libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
            action.assume_init()
        };
        ignored |= u64::from(action.sa_sigaction == libc::SIG_IGN) << (signal - 1);
        // SAFETY: `mask` is initialised above.
        blocked |=
            u64::from(unsafe { libc::sigismember(&raw const mask, signal) } == 1) << (signal - 1);
    }
    // SAFETY: this looks at a number, whether it is a descriptor or not.
    let stdout = unsafe { libc::fcntl(1, libc::F_GETFD) };
    STDOUT_WAS_CLOSED.store(stdout == -1, Ordering::Relaxed);
    IGNORED.store(ignored, Ordering::Relaxed);
    BLOCKED.store(blocked, Ordering::Relaxed);
}

/// Makes a file that would be longer than `ulimit -f` allows an error like that of a full disk, and no
/// end without a word. For whatever of us runs, by whatever name; the child has it as we got it.
pub(crate) fn outlive_the_limit_of_files() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn has(set: &AtomicU64, signal: libc::c_int) -> bool {
    set.load(Ordering::Relaxed) >> (signal - 1) & 1 == 1
}

/// Whether this signal was ignored when we were started (`nohup`, a background job of a script).
pub(crate) fn ignored_at_start(signal: Signal) -> bool {
    has(&IGNORED, signal as libc::c_int)
}

/// Whether this signal was blocked when we were started. What this program starts for itself has all blocked.
pub(crate) fn blocked_at_start(signal: Signal) -> bool {
    has(&BLOCKED, signal as libc::c_int)
}

/// Whether stdout was closed when we were started.
pub(crate) fn stdout_was_closed() -> bool {
    STDOUT_WAS_CLOSED.load(Ordering::Relaxed)
}

/// Whether a hang-up reaches a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hangup {
    /// As it would have reached it in our place.
    AsInherited,
    /// We hear of it and pass an interrupt on.
    Ignored,
}

/// Makes the command start with the signals as we got them and, with a terminal, as its
/// foreground group: from the first instruction, so that it never reads it from the background.
pub(super) fn restore_before_exec(
    command: &mut Command,
    terminal: Option<OwnedFd>,
    hangup: Hangup,
    announce: Option<Announce>,
) {
    let before_exec = move || {
        // Before all else: from here on the guardian knows whom to end. It hears of our own end
        // only after this, for until its exec this process has the guardian's socket open, too.
        if let Some(announce) = &announce {
            announce.send();
        }
        // Nothing may interrupt this, least of all a handler of ours that the fork copied; and
        // with SIGTTOU blocked a background process may set the foreground group (POSIX).
        SigSet::all().thread_set_mask()?;
        restore_actions();
        if hangup == Hangup::Ignored {
            // SAFETY: ignoring a signal runs no code of ours.
            unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        }
        if let Some(terminal) = &terminal {
            // Fails when the terminal has just hung up, which is no reason not to run: without
            // us, the command would have been started too. The parent looks at what came of it.
            let _hung_up = tcsetpgrp(terminal.as_fd(), getpid());
        }
        restore_mask()
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed (fork(2)): the hook
    // makes system calls and reads atomics; it neither allocates nor locks.
    unsafe { command.pre_exec(before_exec) };
}

/// Tells the guardian, from the child itself, which process the child is.
#[derive(Debug, Clone, Copy)]
pub struct Announce {
    socket: RawFd,
    tag: u8,
}

impl Announce {
    pub(crate) fn new(socket: &impl AsRawFd, tag: u8) -> Self {
        Self { socket: socket.as_raw_fd(), tag }
    }

    fn send(self) {
        let [a, b, c, d] = getpid().as_raw().to_le_bytes();
        let words = [self.tag, a, b, c, d];
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the buffer is ours and as long as said; a socket that is closed is an error that
        // changes nothing. A guardian that is gone is started anew by whoever starts this child.
        unsafe { libc::send(self.socket, words.as_ptr().cast(), words.len(), flags) };
    }
}

/// Makes the command join a group that is not ours, with all signals blocked, and hear only of what
/// comes to it there.
///
/// A process is born in the group of its parent. What comes to that until it has left pends in it,
/// too, and would pass for a signal to the group that it joins.
pub(in crate::supervise) fn join_group(command: &mut Command, group: Pid) {
    let before_exec = move || {
        SigSet::all().thread_set_mask()?;
        setpgid(Pid::from_raw(0), group)?;
        forget_pending();
        Ok(())
    };
    // SAFETY: as for `restore_before_exec`: system calls only.
    unsafe { command.pre_exec(before_exec) };
}

/// Takes every signal that is pending, without waiting.
fn forget_pending() {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set is a valid one, nothing is to be filled in, and the time is ours. Each call
    // takes one signal; of each there is one at most, but of real-time signals.
    while unsafe { libc::sigtimedwait(SigSet::all().as_ref(), ptr::null_mut(), &raw const now) } > 0
    {
    }
}

/// Makes the command start apart from everything: in a session of its own, with the signals as we
/// got them, and no descriptor open but its three streams.
pub(crate) fn detach(command: &mut Command) {
    let before_exec = || {
        setsid()?;
        close_the_rest_on_exec();
        restore_actions();
        restore_mask()
    };
    // SAFETY: as for `restore_before_exec`: system calls only.
    unsafe { command.pre_exec(before_exec) };
}

/// Sets this process apart from everything, as [`detach`] does from outside, with all signals
/// blocked. To be called first of all: whatever is open beside the three streams is somebody
/// else's.
///
/// From inside and not before the exec, because without a hook there the start of a process needs
/// no copy of ours, which is most of what it costs.
pub(crate) fn stand_apart() -> io::Result<()> {
    SigSet::all().thread_set_mask()?;
    setsid()?;
    close_all_else();
    Ok(())
}

/// Closes all but the three streams. To be called first of all: whatever else is open is somebody
/// else's.
pub(crate) fn close_all_else() {
    // SAFETY: nothing in this process has opened anything yet, so nothing of ours is closed.
    unsafe {
        if libc::syscall(libc::SYS_close_range, FIRST_OTHER, libc::c_uint::MAX, 0) != 0 {
            // Before Linux 5.9.
            for descriptor in 3..4096 {
                libc::close(descriptor);
            }
        }
    }
}

/// The first descriptor that is no standard stream.
const FIRST_OTHER: libc::c_uint = 3;

fn close_the_rest_on_exec() {
    // SAFETY: marking descriptors changes nothing before the exec, and nothing of ours lives after
    // it. Both calls are system calls on plain numbers.
    unsafe {
        let flag = libc::CLOSE_RANGE_CLOEXEC;
        if libc::syscall(libc::SYS_close_range, FIRST_OTHER, libc::c_uint::MAX, flag) != 0 {
            // Before Linux 5.11.
            for descriptor in 3..4096 {
                libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
    }
}

fn restore_actions() {
    for signal in 1..=LAST_SIGNAL {
        let action = if has(&IGNORED, signal) { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: both are valid actions for any signal. It fails for SIGKILL, SIGSTOP and the C
        // library's own two, which nobody can have changed.
        unsafe { libc::signal(signal, action) };
    }
}

fn restore_mask() -> io::Result<()> {
    let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `mask` is made a valid empty set first and used only as such; the number is in range.
    unsafe {
        libc::sigemptyset(mask.as_mut_ptr());
        for signal in (1..=LAST_SIGNAL).filter(|signal| has(&BLOCKED, *signal)) {
            libc::sigaddset(mask.as_mut_ptr(), signal);
        }
        if libc::sigprocmask(libc::SIG_SETMASK, mask.as_ptr(), ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Becomes the command, with the signals as we got them. Returns only when that fails.
#[must_use]
pub fn exec(mut command: Command) -> io::Error {
    restore_before_exec(&mut command, None, Hangup::AsInherited, None);
    command.exec()
}

/// Stops this process by the signal's default action, until somebody continues it; with
/// `all_of_our_group`, everybody in that, as the terminal does it.
///
/// A real SIGTSTP and not SIGSTOP: where nobody could ever continue us (an orphaned process group,
/// as in a container or under `setsid`; or PID 1) the kernel drops the first, and this returns at
/// once.
pub fn suspend_self(signal: Signal, all_of_our_group: bool) -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    let mask = SigSet::from(signal).thread_swap_mask(SigmaskHow::SIG_UNBLOCK)?;
    // SAFETY: the default action runs no code of ours.
    let handler = unsafe { sigaction(signal, &default) }?;
    let raised = if all_of_our_group { kill(Pid::from_raw(0), signal) } else { raise(signal) };
    // SAFETY: what was in place before is valid still: handlers are never removed.
    let restored = unsafe { sigaction(signal, &handler) };
    mask.thread_set_mask()?;
    raised?;
    restored?;
    Ok(())
}

/// Ignores SIGTTOU and SIGTTIN from here on. While the child has the terminal we are in its
/// background, and with `stty tostop` our first line about a slow release would stop us; and what
/// others of our group do to the terminal would, for the kernel stops all of it.
pub(super) fn ignore_the_background() -> io::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTTOU, Signal::SIGTTIN] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { sigaction(signal, &ignore) }?;
    }
    Ok(())
}

/// Does something while this thread takes none of these signals; whatever it starts takes none either.
pub(crate) fn with_blocked<T>(signals: &SigSet, act: impl FnOnce() -> T) -> nix::Result<T> {
    let mask = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let done = act();
    mask.thread_set_mask()?;
    Ok(done)
}

/// Lets no handler of these signals interrupt another's, so that they run in the order in which the
/// kernel delivers the signals. To be called when the handlers are in place.
pub(crate) fn one_handler_at_a_time(signals: &[libc::c_int]) -> io::Result<()> {
    for signal in signals {
        let mut action = MaybeUninit::uninit();
        // SAFETY: without a new action the call only writes the one in place.
        if unsafe { libc::sigaction(*signal, ptr::null(), action.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so it has been written.
        let mut action = unsafe { action.assume_init() };
        for other in signals {
            // SAFETY: the mask is a part of the action, and initialised as it is.
            unsafe { libc::sigaddset(&raw mut action.sa_mask, *other) };
        }
        // SAFETY: the handler is the one that was in place, and runs with fewer signals.
        if unsafe { libc::sigaction(*signal, &raw const action, ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A descriptor that was left open for this program by the one that it replaced.
pub(crate) fn lent_descriptor(number: RawFd) -> OwnedFd {
    // SAFETY: it was open when this program began, under this number, and nothing else here knows
    // it; one that is not open gives errors at its first use.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Which signal tells that a lease is asked back (fcntl(2); `asm-generic/fcntl.h`), not in `libc`.
const F_SETSIG: libc::c_int = 10;

/// Whether somebody else may have opened this file, which is open for writing: the kernel leases it
/// only to whoever alone did (fcntl(2), "Leases"). Whoever has our descriptor from us is one with us.
/// So, too, where there are no leases.
pub(crate) fn may_be_open_elsewhere(file: &File) -> bool {
    let alone = lease(file, libc::F_WRLCK);
    if alone {
        lease(file, libc::F_UNLCK);
    }
    !alone
}

/// Takes or ends a lease, and tells whether that was done.
fn lease(file: &File, kind: libc::c_int) -> bool {
    let ask = |what, value: libc::c_int| {
        // SAFETY: the descriptor is open, and these take and give numbers only.
        unsafe { libc::fcntl(file.as_raw_fd(), what, value) == 0 }
    };
    // Of whoever opens it in this very moment SIGIO would tell, and end us.
    ask(F_SETSIG, libc::SIGURG) && ask(libc::F_SETLEASE, kind)
}

/// Makes a descriptor's readiness known to the runtime.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open, and the same, for as long as the value lives.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "another thread is waited for, and no loop")]
    fn whoever_opens_a_leased_file_waits_for_the_end_of_the_lease() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(lease(file.as_file(), libc::F_WRLCK));
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| crate::opened::to_read(file.path()));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(lease(file.as_file(), libc::F_UNLCK));
            opened.join().expect("no panic").expect("it is open");
        });
    }

    #[test]
    fn what_came_before_it_joined_its_group_is_not_heard() {
        let mut leader = Command::new("sleep").arg("60").process_group(0).spawn().expect("a group");
        let group = Pid::from_raw(leader.id().cast_signed());
        let mut member = Command::new("cat");
        member.arg("/proc/self/status");
        let signalled = || {
            SigSet::all().thread_set_mask()?;
            Ok(raise(Signal::SIGTERM)?)
        };
        // SAFETY: system calls only.
        unsafe { member.pre_exec(signalled) };
        join_group(&mut member, group);
        let status = member.output().expect("cat");
        leader.kill().and_then(|()| leader.wait()).expect("it is ours");
        let status = String::from_utf8(status.stdout).expect("UTF-8");
        for pending in ["SigPnd:\t0000000000000000", "ShdPnd:\t0000000000000000"] {
            assert!(status.contains(pending), "{status}");
        }
    }
}
