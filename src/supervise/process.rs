//! Processes by number and birth: a number alone may mean another process by the time it is used.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::StopSignal;
use super::targets::runs_tfwrap;

/// How far up is looked.
const MOST_ANCESTORS: usize = 64;

/// A process of this boot and PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`starttime` of `proc_pid_stat(5)`); nothing where
    /// that is hidden (`hidepid` of `proc(5)`: a `sudo`, for all but root).
    pub born: Option<u64>,
}

impl ProcessId {
    /// The process that has this number now; nothing if none has, or without `/proc`.
    #[must_use]
    pub fn of(pid: Pid) -> Option<Self> {
        let born = Stat::of(pid).map(|stat| stat.born);
        let is_there = born.is_some() || (proc_is_ours() && exists(pid));
        is_there.then_some(Self { pid: pid.as_raw(), born })
    }

    /// This process.
    #[must_use]
    pub fn me() -> Option<Self> {
        Self::of(getpid())
    }

    /// Its number, to be used while it is known to live.
    #[must_use]
    pub fn pid(self) -> Pid {
        Pid::from_raw(self.pid)
    }

    /// Whether this signal was sent to it and waits to be taken, which is where signals go that it
    /// blocks (`ShdPnd` of `proc_pid_status(5)`).
    #[must_use]
    pub fn has_pending(self, signal: Signal) -> bool {
        Waiting::of(self.pid()).has("ShdPnd:", signal) && self.is_alive()
    }

    /// Whether somebody has asked it to end, and it takes no signals.
    #[must_use]
    pub fn has_pending_stop(self) -> bool {
        StopSignal::unignored().any(|stop| self.has_pending(stop.signal()))
    }

    /// Whether it lives. A zombie does not: it runs no code. One that cannot be seen does, for as
    /// long as the kernel knows its number.
    #[must_use]
    pub fn is_alive(self) -> bool {
        match Stat::of(self.pid()) {
            Some(stat) => !stat.zombie && !self.was_before(stat),
            None => exists(self.pid()),
        }
    }

    /// Whether it was stopped, and can hear nothing until it is continued.
    #[must_use]
    pub fn stands_still(self) -> bool {
        Stat::of(self.pid()).is_some_and(|stat| stat.stopped && !self.was_before(stat))
    }

    /// The directory in which it works; nothing where that cannot be read.
    #[must_use]
    pub fn working_dir(self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }

    /// Whether it is our parent, or one of that one's.
    #[must_use]
    pub fn is_above_us(self) -> bool {
        ancestors().contains(&self.pid())
            && Stat::of(self.pid()).is_some_and(|stat| !self.was_before(stat))
    }

    /// Whether the process that has its number now came after it.
    pub(super) fn was_before(self, now: Stat) -> bool {
        self.born.is_some_and(|born| born != now.born)
    }

    /// Signals it, and nobody who got its number since; returns whether it was there.
    ///
    /// # Errors
    /// When the signal is refused.
    pub fn signal(self, signal: Signal) -> io::Result<bool> {
        let pid = Some(self.pid).filter(|pid| *pid > 0).and_then(rustix::process::Pid::from_raw);
        let Some(pid) = pid else { return Ok(false) };
        // The handle names one process for ever; which one is looked at after it was opened.
        let handle = pidfd_open(pid, PidfdFlags::empty());
        if !self.is_alive() {
            return Ok(false);
        }
        let sent = match handle {
            Ok(handle) => {
                // Both have numbers from 1 to 31 alike.
                let signal = rustix::process::Signal::from_named_raw(signal as i32)
                    .ok_or(io::ErrorKind::InvalidInput)?;
                pidfd_send_signal(handle, signal).map_err(io::Error::from)
            }
            // Before Linux 5.3, or a sandbox refuses it.
            Err(_) => kill(self.pid(), signal).map_err(io::Error::from),
        };
        match sent {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            sent => sent.map(|()| true),
        }
    }
}

/// Our parent, its parent, and so on.
pub(crate) fn ancestors() -> Vec<Pid> {
    let mut pids = vec![getppid()];
    while pids.len() < MOST_ANCESTORS
        && let Some(last) = pids.last()
        && let Some(stat) = Stat::of(*last)
        && stat.parent.as_raw() > 0
    {
        pids.push(stat.parent);
    }
    pids
}

/// Tells the tfwrap above us, in our session, of a signal that may have come to us alone.
pub(crate) fn tell_the_tfwrap_above(signal: Signal) {
    let of = |pid: &Pid| ProcessId::of(*pid).filter(|_| runs_tfwrap(*pid));
    let above = ancestors().iter().find_map(of);
    let session = |pid| nix::unistd::getsid(Some(pid));
    if let Some(above) = above.filter(|above| session(above.pid()) == session(getpid())) {
        // One that is gone, or somebody else's, is told nothing.
        let _refused = above.signal(signal);
    }
}

/// Whether any process has this number, a zombie included. The kernel tells that of processes, too,
/// that are not ours to signal or that `/proc` hides. By a number below 1 it would mean many.
fn exists(pid: Pid) -> bool {
    pid.as_raw() > 0 && kill(pid, None) != Err(nix::Error::ESRCH)
}

/// How a process stands to signals (`proc_pid_status(5)`); to none in any way once it is gone.
pub(super) struct Waiting(String);

impl Waiting {
    pub(super) fn of(pid: Pid) -> Self {
        Self(fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default())
    }

    pub(super) fn ignores(&self, signal: Signal) -> bool {
        self.has("SigIgn:", signal)
    }

    /// Whether it ignores this signal, or blocks it.
    pub(super) fn is_deaf_to(&self, signal: Signal) -> bool {
        self.ignores(signal) || self.has("SigBlk:", signal)
    }

    fn has(&self, set: &str, signal: Signal) -> bool {
        let set = self.0.lines().find_map(|line| line.strip_prefix(set));
        let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
        set.is_some_and(|set| set >> (signal as i32 - 1) & 1 == 1)
    }
}

/// All processes; `None` without a `/proc` that shows ours.
pub(super) fn processes() -> Option<Vec<(Pid, Stat)>> {
    // In a PID namespace without a `/proc` of its own, the numbers there mean other processes.
    if !proc_is_ours() {
        return None;
    }
    let entries = fs::read_dir("/proc").ok()?;
    let process = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((Pid::from_raw(pid), Stat::read(&entry.path())?))
    };
    Some(entries.flatten().filter_map(process).collect())
}

/// Our children, zombies included; `None` where the kernel does not list them (`CONFIG_PROC_CHILDREN`,
/// `proc_tid_children(5)`).
pub(super) fn children() -> Option<Vec<Pid>> {
    children_of(getpid())
}

/// The same of any process; none once it is gone.
pub(super) fn children_of(pid: Pid) -> Option<Vec<Pid>> {
    if !proc_is_ours() {
        return None;
    }
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Some(Vec::new()) };
    let mut threads: Vec<_> = threads.flatten().map(|thread| thread.path()).collect();
    // Those of a thread that ends go to the first one, and so do those who lose their parent.
    threads.sort_by_key(|thread| thread.ends_with(pid.to_string()));
    let mut children = Vec::new();
    for thread in threads {
        match fs::read_to_string(thread.join("children")) {
            Ok(list) => {
                for pid in list.split_ascii_whitespace() {
                    children.push(Pid::from_raw(pid.parse().ok()?));
                }
            }
            Err(_) if !thread.exists() => {}
            Err(_) => return None,
        }
    }
    Some(children)
}

/// What is read of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) parent: Pid,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) born: u64,
    /// It has ended, and only its parent has not noticed yet.
    pub(crate) zombie: bool,
    /// It stands still until it is continued.
    pub(crate) stopped: bool,
}

impl Stat {
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        Self::read(Path::new(&format!("/proc/{pid}")))
    }

    /// Reads a directory of `/proc`; nothing when the process has gone, or it is none.
    pub(crate) fn read(process: &Path) -> Option<Self> {
        let mut stat = Vec::with_capacity(1024);
        File::open(process.join("stat")).ok()?.take(1024).read_to_end(&mut stat).ok()?;
        // The name stands in brackets and may hold anything, brackets too (proc_pid_stat(5)).
        let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let rest = std::str::from_utf8(&stat[after_name..]).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        // `starttime` is field 22, and `session` was field 6.
        let born = fields.nth(15)?.parse().ok()?;
        let (zombie, stopped) = (matches!(state, "Z" | "X"), state == "T");
        Some(Self { parent: Pid::from_raw(parent), group, session, born, zombie, stopped })
    }
}

/// Whether `/proc` shows other users' processes, too (no `hidepid`); every PID namespace has a first.
pub(super) fn proc_shows_all() -> bool {
    Stat::of(Pid::from_raw(1)).is_some()
}

/// Whether `/proc` shows the processes of our own PID namespace.
pub(crate) fn proc_is_ours() -> bool {
    fs::read_link("/proc/self").is_ok_and(|link| link == Path::new(&getpid().to_string()))
}

/// Where processes can be seen: what is gone there is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostScope {
    /// The machine's name.
    pub host: String,
    /// New at every boot.
    pub boot: String,
    /// Which PID namespace; the inode of its handle.
    pub namespace: String,
    /// Which time namespace, by which `/proc` shifts when processes began (`time_namespaces(7)`);
    /// empty before Linux 5.6.
    #[serde(default)]
    pub time: String,
}

/// What another world means for the processes in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// They can be seen.
    Here,
    /// Another machine or another container: nothing is known of them.
    Elsewhere,
}

impl HostScope {
    /// This one; nothing without a `/proc` of our own.
    #[must_use]
    pub fn here() -> Option<Self> {
        if !proc_is_ours() {
            return None;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        let time = fs::read_link("/proc/self/ns/time").unwrap_or_default();
        let host = nix::unistd::gethostname().ok()?;
        Some(Self {
            host: host.to_string_lossy().into_owned(),
            boot: boot.trim().to_owned(),
            namespace: namespace.to_string_lossy().into_owned(),
            time: time.to_string_lossy().into_owned(),
        })
    }

    /// What can be said from `here` about the processes of this world.
    #[must_use]
    pub fn seen_from(&self, here: &Self) -> Sight {
        let of_one = self.namespace == here.namespace && self.time == here.time;
        if self.boot == here.boot && of_one { Sight::Here } else { Sight::Elsewhere }
    }

    /// Whether it may be `here` before the last boot, so that all of it is gone; or it is another
    /// machine of the same name.
    #[must_use]
    pub fn may_be_before_boot(&self, here: &Self) -> bool {
        self.boot != here.boot && self.host == here.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let me = ProcessId::me().unwrap();
        assert!(me.is_alive());
        let reused = ProcessId { born: me.born.map(|born| born + 1), ..me };
        assert!(!reused.is_alive());
        assert!(!reused.signal(Signal::SIGKILL).unwrap(), "nobody was signalled");
    }

    #[test]
    fn what_cannot_be_seen_lives_for_as_long_as_the_kernel_knows_it() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let hidden = ProcessId { pid: child.id().cast_signed(), born: None };
        assert!(hidden.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!hidden.is_alive());
    }

    #[test]
    fn the_children_of_each_thread_are_our_children() {
        let start = || std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (started, go_on) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        std::thread::scope(|scope| {
            let (tell, wait) = (started.0, go_on.1);
            scope.spawn(move || {
                tell.send(start()).unwrap();
                let _ended = wait.recv();
            });
            let mut ours = [start(), started.1.recv().unwrap()];
            let listed = children().unwrap();
            for child in &mut ours {
                assert!(listed.contains(&Pid::from_raw(child.id().cast_signed())), "{listed:?}");
                child.kill().unwrap();
                child.wait().unwrap();
                let pid = Pid::from_raw(child.id().cast_signed());
                assert!(!children().unwrap().contains(&pid));
            }
            drop(go_on.0);
        });
    }

    #[test]
    fn what_has_ended_is_not_alive_even_before_it_is_reaped() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let id = ProcessId::of(Pid::from_raw(child.id().cast_signed())).unwrap();
        assert!(id.signal(Signal::SIGKILL).unwrap());
        rustix::process::waitid(
            rustix::process::WaitId::Pid(rustix::process::Pid::from_raw(id.pid).unwrap()),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .unwrap();
        assert!(!id.is_alive(), "a zombie");
        child.wait().unwrap();
        assert!(!id.signal(Signal::SIGTERM).unwrap());
    }

    /// The signal is one that nobody sees, if it were sent after all.
    #[test]
    fn a_number_that_means_many_processes_in_a_damaged_receipt_means_none() {
        for pid in [0, -1, i32::MIN, -getpid().as_raw()] {
            let id = ProcessId { pid, born: None };
            assert!(!id.is_alive(), "{pid}");
            assert!(!id.signal(Signal::SIGURG).unwrap(), "{pid}");
        }
        for pid in [1, 0, -1, i32::MIN] {
            let leader = ProcessId { pid, born: None };
            let orphans =
                crate::supervise::ProcessTree { leader, session: 0, own_group: true, runner: None };
            assert!(orphans.are_gone(), "{pid}");
        }
    }

    #[test]
    fn a_blocked_signal_is_seen_to_wait() {
        let script = "trap '' TERM; exec sleep 60";
        let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
        let id = ProcessId::of(Pid::from_raw(child.id().cast_signed())).unwrap();
        assert!(!id.has_pending(Signal::SIGTSTP));
        assert!(id.signal(Signal::SIGSTOP).unwrap());
        // A stopped process takes none but SIGKILL and SIGCONT.
        // Not SIGINT, which a background job of a script is started to ignore.
        assert!(id.signal(Signal::SIGUSR1).unwrap());
        assert!(id.has_pending(Signal::SIGUSR1));
        assert!(!id.has_pending(Signal::SIGHUP));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!id.has_pending(Signal::SIGUSR1));
    }

    #[test]
    fn worlds_are_told_apart() {
        let world = |host: &str, boot: &str, namespace: &str| HostScope {
            host: host.to_owned(),
            boot: boot.to_owned(),
            namespace: namespace.to_owned(),
            time: "t".to_owned(),
        };
        let here = world("a", "1", "x");
        assert_eq!(world("b", "1", "x").seen_from(&here), Sight::Here, "only renamed");
        assert_eq!(world("a", "0", "x").seen_from(&here), Sight::Elsewhere);
        assert!(world("a", "0", "x").may_be_before_boot(&here));
        assert!(!world("b", "0", "x").may_be_before_boot(&here));
        assert!(!world("a", "1", "y").may_be_before_boot(&here));
        assert_eq!(world("a", "1", "y").seen_from(&here), Sight::Elsewhere, "a container");
        assert_eq!(world("b", "0", "x").seen_from(&here), Sight::Elsewhere);
        // There `/proc` tells other times of birth: every process would count as gone.
        let elsewhen = HostScope { time: "u".to_owned(), ..here.clone() };
        assert_eq!(elsewhen.seen_from(&here), Sight::Elsewhere);
    }
}
