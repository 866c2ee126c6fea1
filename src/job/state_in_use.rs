//! Which state a call of Terraform's works on: of one that was started, not of one that we start.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::Place;
use super::reading::{read, terraforms_dir};
use crate::backend::{self, Backend, BackendQuery, Dialect};
use crate::target::LockTarget;
use crate::terraform::{Invocation, LockUse};

/// The state that a call works on.
#[derive(Debug)]
pub enum StateInUse {
    /// Its locks are ours to take; none where the backend has none.
    Locked(Vec<LockTarget>),
    /// Only Terraform can take its lock; the kind of its backend.
    ByTerraform(String),
}

impl StateInUse {
    /// Of this call, as far as Terraform's own files tell; nothing where Terraform would refuse it.
    #[must_use]
    pub fn of(args: &[OsString], program: &Path, place: &Place<'_>) -> Option<Self> {
        let (dialect, invocation) = read(args, program, place).ok()?;
        if invocation.lock_use() != LockUse::Locks {
            return None;
        }
        let dir = terraforms_dir(&invocation, place)?;
        let resolved = backend::resolve(&query(&invocation, dialect, program, &dir, place)).ok()?;
        if resolved.locks_alone {
            return None;
        }
        Some(match &resolved.backend {
            Backend::Other(other) => Self::ByTerraform(other.kind.clone()),
            backend => Self::Locked(locks_of(backend)),
        })
    }

    /// The first lock of it that is not among these, in words.
    #[must_use]
    pub fn not_among(&self, held: &[LockTarget]) -> Option<String> {
        let is_held = |lock: &&LockTarget| {
            let identity = lock.identity();
            held.iter().any(|it| it.identity() == identity)
        };
        match self {
            Self::Locked(locks) => locks.iter().find(|lock| !is_held(lock)).map(LockTarget::url),
            Self::ByTerraform(kind) => Some(format!("that of the backend {kind}")),
        }
    }
}

/// What to ask of the directory of a call.
pub(super) fn query<'a>(
    invocation: &'a Invocation,
    dialect: Dialect,
    program: &'a Path,
    dir: &'a Path,
    place: &Place<'a>,
) -> BackendQuery<'a> {
    BackendQuery {
        chdir: invocation.chdir().map(PathBuf::as_path),
        dialect,
        program: Some(program),
        state_flag: invocation.state_flag(),
        plan_file: invocation.plan_file(),
        workspace_override: invocation.workspace_argument().map(OsStr::to_os_string),
        ..BackendQuery::new(dir, place.env)
    }
}

/// The locks of a backend that are ours to take, in the order in which Terraform takes them.
pub(super) fn locks_of(backend: &Backend) -> Vec<LockTarget> {
    match backend {
        Backend::Local { state_path } => vec![LockTarget::of_state_file(state_path)],
        Backend::S3(backend) => {
            let file = backend.use_lockfile.then(|| LockTarget::of_lock_file(backend));
            let table = backend.dynamodb_table.as_deref();
            file.into_iter()
                .chain(table.map(|table| LockTarget::of_table(backend, table)))
                .collect()
        }
        Backend::Other(_) => Vec::new(),
    }
}
