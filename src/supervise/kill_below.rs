//! Processes and all that they have started, which have no group that could be signalled.

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::process::{ProcessId, Stat, processes};

/// Kills it and all that is below it, as far as `/proc` shows that.
pub fn kill_below(leader: Pid) {
    signal(below(leader, |_, _| true), Signal::SIGKILL);
}

/// Signals it and what is below it in its session, as far as `/proc` shows that. Whoever has left that
/// lives by itself (a guardian, a daemon).
pub(super) fn signal_below(top: ProcessId, signal_: Signal) {
    if top.is_alive() {
        signal(below(top.pid(), |top, stat| stat.session == top.session), signal_);
    }
}

/// It and all below it, but for what does not count and what is below that. `counts` is asked with the top
/// and each of them.
pub(super) fn below(top: Pid, counts: impl Fn(&Stat, &Stat) -> bool) -> Vec<ProcessId> {
    let all = processes().unwrap_or_default();
    let Some((_, of_top)) = all.iter().find(|(pid, _)| *pid == top) else { return Vec::new() };
    let (mut open, mut found) = (vec![(top, of_top)], Vec::new());
    while let Some((pid, stat)) = open.pop() {
        if counts(of_top, stat) {
            found.push(ProcessId { pid: pid.as_raw(), born: Some(stat.born) });
            let children = all.iter().filter(|(_, stat)| stat.parent == pid);
            open.extend(children.map(|(below, stat)| (*below, stat)));
        }
    }
    found
}

fn signal(processes: Vec<ProcessId>, signal: Signal) {
    for process in processes {
        // One that may not be signalled is left, as without us.
        let _refused = process.signal(signal);
    }
}
