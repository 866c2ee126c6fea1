//! What a job was resolved from. Nothing keeps others from these files while a lock is waited
//! for, so they are read again after it: the lock that is held must be the one that is used.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::LockedJob;
use crate::backend::{Backend, Resolved, S3Backend};
use crate::program::FileId;
use crate::target::{LockTarget, real_path};

/// What a job was resolved from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Basis {
    /// Where the configuration is.
    dir: Spot,
    /// Of the state whose lock is held, where one is.
    workspace: Option<String>,
    /// Likewise.
    backend: Option<Backend>,
    /// The directory of a local state.
    state_dir: Option<FileId>,
    /// What `apply` was given, and its digest if it is a file.
    plan: Option<(PathBuf, Option<[u8; 32]>)>,
    /// The locks, and where those that are files really are.
    locks: Vec<(LockTarget, Option<PathBuf>)>,
    program: PathBuf,
    args: Vec<OsString>,
}

/// A directory: where it is once all links are followed, and which it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Spot {
    path: PathBuf,
    id: Option<FileId>,
}

impl Basis {
    pub(super) fn of(job: &LockedJob, resolved: Option<&Resolved>) -> Self {
        // Of a backend that Terraform locks for itself, it finds what to lock for itself.
        let resolved = resolved.filter(|resolved| match &resolved.backend {
            Backend::Local { .. } => true,
            Backend::S3(backend) => backend.dynamodb_table.is_some() && !backend.use_lockfile,
            Backend::Other(_) => false,
        });
        let located = |target: &LockTarget| (target.clone(), target.real_path());
        let local = resolved.and_then(|resolved| local_state(&resolved.backend));
        Self {
            dir: Spot { path: real_path(&job.dir), id: FileId::of(&job.dir) },
            workspace: resolved.map(|resolved| resolved.workspace.name.clone()),
            backend: resolved.map(|resolved| resolved.backend.clone()),
            state_dir: local.and_then(Path::parent).and_then(FileId::of),
            plan: job.kind.saved_plan().map(|plan| (plan.to_owned(), digest(plan))),
            locks: job.targets.iter().map(located).collect(),
            program: job.child.program.clone(),
            args: job.child.args.clone(),
        }
    }

    /// What is different in a later one, as the end of a sentence that begins with "while the lock
    /// was waited for".
    #[must_use]
    pub fn change_to(&self, later: &Self) -> Option<String> {
        if let Some(change) = self.read_change_to(later) {
            return Some(change);
        }
        if self.program != later.program {
            let (before, now) = (self.program.display(), later.program.display());
            return Some(format!("the program to run changed from `{before}` to `{now}`"));
        }
        if self.locks != later.locks {
            let words = |basis: &Self| {
                let urls: Vec<_> = basis.locks.iter().map(|(lock, _)| lock.url()).collect();
                if urls.is_empty() { "none of ours".to_owned() } else { urls.join(" ") }
            };
            return Some(format!("the lock changed from `{}` to `{}`", words(self), words(later)));
        }
        (self.args != later.args).then(|| "the arguments for Terraform changed".to_owned())
    }

    /// The same, of what Terraform itself reads, once it runs: it goes on in its directory, whatever
    /// that is called by now.
    #[must_use]
    pub fn change_below_terraform(&self, later: &Self) -> Option<String> {
        let is_same_dir = self.dir.id.is_some() && self.dir.id == later.dir.id;
        if !is_same_dir || self.dir.path == later.dir.path {
            return self.read_change_to(later);
        }
        let mut now = Self { dir: self.dir.clone(), ..later.clone() };
        let states = [&self.backend, &later.backend].map(|it| it.as_ref().and_then(local_state));
        if let [Some(before), Some(after)] = states
            && before.file_name() == after.file_name()
            && self.state_dir.is_some()
            && self.state_dir == later.state_dir
        {
            now.backend.clone_from(&self.backend);
        }
        if let (Some((_, Some(before))), Some((_, Some(after)))) = (&self.plan, &later.plan)
            && before == after
        {
            now.plan.clone_from(&self.plan);
        }
        self.read_change_to(&now)
    }

    /// What is different in what Terraform itself reads.
    fn read_change_to(&self, later: &Self) -> Option<String> {
        let from_to = |what: &str, before: String, now: String| {
            Some(format!("{what} changed from `{before}` to `{now}`"))
        };
        if self.dir.path != later.dir.path {
            let (before, now) = (self.dir.path.display(), later.dir.path.display());
            return from_to("the directory", before.to_string(), now.to_string());
        }
        if self.dir.id != later.dir.id {
            return Some(format!(
                "another directory took the place of `{}`",
                self.dir.path.display()
            ));
        }
        if let (Some(before), Some(now)) = (&self.workspace, &later.workspace)
            && before != now
        {
            return from_to("the workspace", before.clone(), now.clone());
        }
        if self.backend != later.backend {
            let words = |backend: &Option<Backend>| match backend {
                Some(Backend::Local { state_path }) => state_path.display().to_string(),
                Some(Backend::S3(backend)) => s3_words(backend),
                Some(Backend::Other(kind)) => kind.clone(),
                None => "one that Terraform locks for itself".to_owned(),
            };
            let (before, now) = (words(&self.backend), words(&later.backend));
            if before == now {
                return Some(format!("the settings of the backend `{now}` changed"));
            }
            return from_to("the backend", before, now);
        }
        match (&self.plan, &later.plan) {
            (before, now) if before == now => {}
            (_, Some((plan, _))) => {
                return Some(format!("the saved plan `{}` was written anew", plan.display()));
            }
            (_, None) => return Some("there is no saved plan any more".to_owned()),
        }
        for (lock, before) in &self.locks {
            let same = later.locks.iter().find(|(other, _)| other == lock);
            if let (Some(before), Some((_, Some(now)))) = (before, same)
                && before != now
            {
                let what = format!("where `{}` leads", lock.url());
                return from_to(&what, before.display().to_string(), now.display().to_string());
            }
        }
        None
    }
}

fn local_state(backend: &Backend) -> Option<&Path> {
    match backend {
        Backend::Local { state_path } => Some(state_path),
        Backend::S3(_) | Backend::Other(_) => None,
    }
}

fn s3_words(backend: &S3Backend) -> String {
    let state = format!("s3://{}/{}", backend.bucket, backend.state_key());
    match &backend.dynamodb_table {
        Some(table) => format!("{state} with the lock table {table}"),
        None => state,
    }
}

/// Nothing where it is no file, or cannot be read.
fn digest(path: &Path) -> Option<[u8; 32]> {
    // A pipe could be read only once.
    if !std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return None;
    }
    let (mut file, mut hash) = (File::open(path).ok()?, Sha256::new());
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Some(hash.finalize().into()),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}
