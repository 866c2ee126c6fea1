//! Who is in a process group, read from `/proc`.

use nix::sys::signal::killpg;
use nix::unistd::{Pid, getpgrp, getpid};

use crate::supervise::process::{Stat, processes};

/// Whether nobody but us and our own children is in our process group; `None` without a `/proc`
/// that shows our processes.
pub(super) fn alone_in_our_group() -> Option<bool> {
    let me = getpid();
    let others = members(getpgrp())?;
    Some(others.iter().all(|(pid, other)| *pid == me || other.parent == me || other.zombie))
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
    members(group).is_some_and(|members| members.iter().all(|(_, member)| member.zombie))
}

/// The members of a group; `None` without a `/proc` that shows our processes.
pub(crate) fn members(group: Pid) -> Option<Vec<(Pid, Stat)>> {
    let mut members = processes()?;
    members.retain(|(_, stat)| stat.group == group.as_raw());
    Some(members)
}
