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
        let locks = match self {
            Self::Locked(locks) => locks,
            Self::ByTerraform(kind) => return Some(format!("that of the backend {kind}")),
        };
        let is_held = |lock: &&LockTarget| {
            let identity = lock.identity();
            held.iter().any(|it| it.identity() == identity)
        };
        let url = locks.iter().find(|lock| !is_held(lock))?.url();
        let is_named_alike = held.iter().any(|it| it.url() == url);
        let apart = if is_named_alike { " at another endpoint or in another region" } else { "" };
        Some(format!("`{url}`{apart}"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::settings::LockUrl;

    #[test]
    fn two_locks_of_one_name_are_told_apart_in_words() {
        let at = |region: &str| {
            let url = LockUrl::parse(&format!("dynamodb://t/k?region={region}")).unwrap();
            LockTarget::of_url(&url, &Env::default(), Path::new("/")).unwrap()
        };
        let state = StateInUse::Locked(vec![at("eu-west-1")]);
        assert_eq!(state.not_among(&[at("eu-west-1")]), None);
        assert_eq!(state.not_among(&[]).unwrap(), "`dynamodb://t/k`");
        let said = state.not_among(&[at("us-east-1")]).unwrap();
        assert_eq!(said, "`dynamodb://t/k` at another endpoint or in another region");
    }
}
