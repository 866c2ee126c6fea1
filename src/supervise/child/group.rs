//! Who is in a process group, read from `/proc`.

use nix::sys::signal::killpg;
use nix::unistd::{Pid, getpgrp, getpid};

use crate::supervise::process::{Stat, ancestors, proc_shows_all, processes};
use crate::supervise::targets::runs_tfwrap;

/// Whether nobody but us and our own children is in our process group; `None` without a `/proc`
/// that shows our processes.
pub(super) fn alone_in_our_group() -> Option<bool> {
    let me = getpid();
    let others = members(getpgrp())?;
    Some(others.iter().all(|(pid, other)| *pid == me || other.parent == me || other.zombie))
}

/// Whether our group is the job of a shell, which would resume us if we stopped. The one that
/// started it stands outside, in our session; and is no tfwrap, unless that one is such a job
/// itself.
pub(super) fn is_job_of_a_shell() -> bool {
    let Some(me) = Stat::of(getpid()) else { return false };
    let (mut group, mut above) = (me.group, me.parent);
    while let Some(stat) = Stat::of(above) {
        if stat.session != me.session {
            return false;
        }
        if stat.group != group {
            if !runs_tfwrap(above) {
                return true;
            }
            group = stat.group;
        }
        above = stat.parent;
    }
    false
}

/// Whether a tfwrap that we run under is in this group.
pub(super) fn is_of_an_outer_tfwrap(group: Pid) -> bool {
    let is_one = |pid: &Pid| Stat::of(*pid).is_some_and(|stat| stat.group == group.as_raw());
    ancestors().iter().any(|pid| is_one(pid) && runs_tfwrap(*pid))
}

/// Whether no process of this group lives any more, but for our stand-in.
///
/// Zombies do not count: whoever their parent is, they run no code. Without `/proc` they cannot be
/// told from the living and do count, which errs on the side of waiting.
pub(super) fn is_empty(group: Pid, stand_in: Option<Pid>) -> bool {
    // EPERM: there is one, and it is not ours.
    if killpg(group, None) == Err(nix::Error::ESRCH) {
        return true;
    }
    let counts = |(pid, member): &(Pid, Stat)| !member.zombie && Some(*pid) != stand_in;
    members(group).is_some_and(|members| !members.iter().any(counts))
}

/// Whether any process of this group stands still.
pub(super) fn has_stopped(group: Pid) -> bool {
    members(group).is_some_and(|members| members.iter().any(|(_, stat)| stat.stopped))
}

/// Whether this group is a job that somebody of the other group has made, and stands still.
pub(super) fn is_stopped_job_of(job: Pid, group: Pid) -> bool {
    let is_of = |pid: Pid| Stat::of(pid).is_some_and(|stat| stat.group == group.as_raw());
    job != group
        && members(job).is_some_and(|members| {
            members.iter().any(|(_, stat)| stat.stopped)
                && members.iter().any(|(_, stat)| is_of(stat.parent))
        })
}

/// The members of a group; `None` without a `/proc` that shows all of our PID namespace.
pub(crate) fn members(group: Pid) -> Option<Vec<(Pid, Stat)>> {
    if !proc_shows_all() {
        return None;
    }
    let mut members = processes()?;
    members.retain(|(_, stat)| stat.group == group.as_raw());
    Some(members)
}
