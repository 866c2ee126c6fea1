//! Who is in a process group, read from `/proc`.

use std::fs;
use std::path::Path;

use nix::sys::signal::killpg;
use nix::unistd::{Pid, getpgrp, getpid};

/// A process of a group.
struct Member {
    pid: Pid,
    parent: Pid,
    /// It has ended, and only its parent has not noticed yet.
    zombie: bool,
}

/// Whether nobody but us and our own children is in our process group; `None` without a `/proc`
/// that shows our processes.
pub(super) fn alone_in_our_group() -> Option<bool> {
    let me = getpid();
    let others = members(getpgrp())?;
    Some(others.iter().all(|other| other.pid == me || other.parent == me || other.zombie))
}

/// Whether no process of this group lives any more.
///
/// Zombies do not count: whoever their parent is, they run no code. Without `/proc` they cannot be
/// told from the living and do count, which errs on the side of waiting.
pub(super) fn is_empty(group: Pid) -> bool {
    // EPERM: there is one, and it is not ours.
    if killpg(group, None) == Err(nix::Error::ESRCH) {
        return true;
    }
    members(group).is_some_and(|members| members.iter().all(|member| member.zombie))
}

fn members(group: Pid) -> Option<Vec<Member>> {
    // In a PID namespace without a `/proc` of its own, the numbers there mean other processes.
    if fs::read_link("/proc/self").ok()? != Path::new(&getpid().to_string()) {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?;
    Some(processes.flatten().filter_map(|entry| member(&entry.path(), group)).collect())
}

/// Reads one process; nothing when it is in another group, has gone meanwhile, or is no process.
fn member(process: &Path, group: Pid) -> Option<Member> {
    let pid = process.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read(process.join("stat")).ok()?;
    // The name stands in brackets and may hold anything, brackets too (proc_pid_stat(5)).
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after_name..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let its_group: i32 = fields.next()?.parse().ok()?;
    (its_group == group.as_raw()).then(|| Member {
        pid: Pid::from_raw(pid),
        parent: Pid::from_raw(parent),
        zombie: matches!(state, "Z" | "X"),
    })
}
