//! A process that never got its own group, and what it has started.

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::process::{ProcessId, processes};

/// Kills it and all that is below it, as far as `/proc` shows that.
pub fn kill_below(leader: Pid) {
    let all = processes().unwrap_or_default();
    let (mut open, mut found) = (vec![leader], Vec::new());
    while let Some(pid) = open.pop() {
        found.extend(
            all.iter()
                .filter(|(one, _)| *one == pid)
                .map(|(_, stat)| ProcessId { pid: pid.as_raw(), born: Some(stat.born) }),
        );
        open.extend(all.iter().filter(|(_, stat)| stat.parent == pid).map(|(below, _)| *below));
    }
    for process in found {
        // One that may not be killed is left, as without us.
        let _refused = process.signal(Signal::SIGKILL);
    }
}
