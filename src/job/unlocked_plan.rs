//! A plan that may go without the lock: what has to be known of it.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::LockedJob;
use crate::backend::{self, Backend, Resolved};
use crate::settings::{PlanLock, Settings};
use crate::store::StateFile;
use crate::target::LockTarget;
use crate::terraform::Invocation;

/// A plan that takes no lock unless the state changes under it.
#[derive(Debug)]
pub struct UnlockedPlan {
    /// Where the state is that it reads.
    pub state: StateFile,
    /// What it writes (`-out`): worth nothing before it is known that the plan is of one moment.
    pub plan_file: Option<PathBuf>,
    /// Whether its command line lets Terraform ask for values.
    pub may_ask: bool,
}

/// Notes how this call plans, if it is to take no lock; where it must all the same, says why with `-v`.
pub(super) fn note(
    job: &mut LockedJob,
    invocation: &Invocation,
    resolved: Option<&Resolved>,
    settings: &Settings,
) {
    let is_plan = invocation.command().is_some_and(|command| command.words() == ["plan"]);
    if !is_plan || settings.plan_lock.value == PlanLock::Exclusive {
        return;
    }
    let Some(resolved) = resolved else { return };
    match of(invocation, &resolved.backend, &job.targets, &job.dir) {
        Ok(plan) => job.unlocked_plan = Some(plan),
        Err(why) => job.details.push(format!("planning under the lock: {why}")),
    }
}

/// The plan; in words why it takes the lock.
fn of(
    invocation: &Invocation,
    backend: &Backend,
    further: &[LockTarget],
    dir: &Path,
) -> Result<UnlockedPlan, &'static str> {
    let state = match backend {
        Backend::S3(backend) => StateFile::S3(backend.clone()),
        Backend::Local { state_path } => StateFile::Local(state_path.clone()),
        Backend::Other(_) => return Err("the backend tells no version of its state"),
    };
    let plan_file = invocation.plan_output().map(|path| dir.join(path));
    let is_odd = |path: &Path| path.metadata().is_ok_and(|it| !it.is_file());
    // A link may lead to a file that is not ours to remove, and a second name would keep what is removed.
    let is_no_file =
        |path: &Path| path.symlink_metadata().is_ok_and(|it| !it.is_file() || it.nlink() > 1);
    let has_pipes = backend::waited_for(dir).is_some()
        || invocation.values("var-file").any(|name: &OsStr| is_odd(&dir.join(name)));
    if !further.is_empty() {
        // What those protect has no version.
        Err("`--lock` names further locks")
    } else if has_pipes {
        Err("a file of variables is no regular file, so it cannot be read twice")
    } else if plan_file.as_deref().is_some_and(is_no_file) {
        Err("`-out` names no regular file of one name, so it cannot be written twice")
    } else if invocation.values("generate-config-out").next().is_some() {
        Err("Terraform refuses to write the file of `-generate-config-out` twice")
    } else {
        Ok(UnlockedPlan { state, plan_file, may_ask: !invocation.has_not("input") })
    }
}
