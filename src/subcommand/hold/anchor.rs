//! Whose end is the end of the job: the keeper of a `hold` must not outlive it.

use std::fs;

use nix::unistd::{Pid, getppid};

use crate::ci::{Ci, System, job_variable};
use crate::env::Env;
use crate::supervise::{ProcessId, Stat, ancestors};

/// The process whose end is the job's; nothing where there is none to go by, as with a `sh` step
/// of Jenkins, each of which has processes of its own. Then `--max-hold` ends the hold.
pub(crate) fn anchor(ci: &Ci, env: &Env) -> Option<ProcessId> {
    let ancestors = ancestors();
    let Some((name, value)) = job_variable(env) else {
        // A person: the session of their shell.
        return (!ci.in_ci).then(of_session).flatten();
    };
    let entry = format!("{name}={value}");
    // Below the topmost everything belongs to the job.
    let topmost = ancestors.iter().rposition(|pid| has(*pid, entry.as_bytes()))?;
    match ci.system? {
        // The runner's worker, one for each job, tells its steps what it does not know itself.
        System::GitHub | System::Azure => ancestors.get(topmost + 1).and_then(|pid| lasting(*pid)),
        // The agent's own process for the job.
        System::Buildkite if topmost > 0 => ProcessId::of(ancestors[topmost]),
        System::GitLab => of_script(&ancestors[topmost + 1..]),
        _ => None,
    }
}

/// The shell of `script`, among what is above everything that was told which job this is. It exports
/// the job's variables, so it does not have them where they can be seen from outside; and the runner
/// starts it as the leader of a process group. What it starts may lead groups, too, which end sooner:
/// `timeout`, a script under `set -m`.
fn of_script(above: &[Pid]) -> Option<ProcessId> {
    let leader = Pid::from_raw(Stat::of(*above.first()?)?.group);
    above.contains(&leader).then(|| ProcessId::of(leader)).flatten()
}

/// The leader of the session that the `hold` was typed in. The keeper itself leads one of its own.
fn of_session() -> Option<ProcessId> {
    let leader = Pid::from_raw(Stat::of(getppid())?.session);
    // Under `setsid`, the `hold` itself: its end is near and means nothing.
    (leader != getppid()).then(|| ProcessId::of(leader)).flatten()
}

/// The first process of a machine or a container ends with everything else anyway.
fn lasting(pid: Pid) -> Option<ProcessId> {
    (pid.as_raw() > 1).then(|| ProcessId::of(pid)).flatten()
}

/// Whether the environment with which it was started holds this entry.
fn has(pid: Pid, entry: &[u8]) -> bool {
    // One of another user cannot be read, and is no part of the job.
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    environment.split(|byte| *byte == 0).any(|it| it == entry)
}
