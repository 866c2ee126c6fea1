//! What a job was resolved from. Nothing keeps others from these files while a lock is waited
//! for, so they are read again after it: the lock that is held must be the one that is used.

use std::ffi::OsString;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::LockedJob;
use super::reading::WayIn;
use crate::backend::{Backend, Resolved, S3Backend};
use crate::file_id::FileId;
use crate::opened::{self, Kind};
use crate::path_watch::{PathWatch, WatchedPath};
use crate::target::{LockTarget, StoreSpec, real_path};

/// What a job was resolved from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Basis {
    /// Where the configuration is.
    dir: Spot,
    /// The same with its links.
    entered_as: PathBuf,
    /// The directory that tfwrap works in; empty where it matters what that is called.
    here: PathBuf,
    /// Of the state whose lock is held, where one is.
    workspace: Option<String>,
    /// Likewise.
    backend: Option<Backend>,
    /// What `apply` was given, and its digest if it is a file.
    plan: Option<(PathBuf, Option<[u8; 32]>)>,
    /// The files that named workspace and backend.
    read_from: Vec<PathBuf>,
    /// The locks, and where those that are files really are.
    locks: Vec<(LockTarget, Option<PathBuf>)>,
    program: PathBuf,
    args: Vec<OsString>,
}

/// A directory: how it is called, where it is once all links are followed, and which it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Spot {
    name: PathBuf,
    path: PathBuf,
    id: Option<FileId>,
}

impl Basis {
    pub(super) fn of(job: &LockedJob, resolved: Option<&Resolved>, way_in: WayIn) -> Self {
        // Of a backend that Terraform locks for itself, it finds what to lock for itself.
        let resolved = resolved.filter(|resolved| match &resolved.backend {
            Backend::Local { .. } => true,
            Backend::S3(backend) => backend.dynamodb_table.is_some() || backend.use_lockfile,
            Backend::Other(_) => false,
        });
        let located = |target: &LockTarget| (target.clone(), target.real_path());
        Self {
            dir: Spot {
                name: job.dir.clone(),
                path: real_path(&job.dir),
                id: FileId::of(&job.dir),
            },
            entered_as: way_in.entered_as,
            here: way_in.here,
            workspace: resolved.map(|resolved| resolved.workspace.name.clone()),
            backend: resolved.map(|resolved| resolved.backend.clone()),
            plan: job.kind.saved_plan().map(|plan| (plan.to_owned(), digest(plan))),
            read_from: resolved.map(|resolved| resolved.read_from.clone()).unwrap_or_default(),
            locks: job.targets.iter().map(located).collect(),
            program: job.child.program.clone(),
            args: job.child.args.clone(),
        }
    }

    /// What is different in a later one, as the end of a sentence that begins with "while the lock
    /// was waited for".
    #[must_use]
    pub fn change_to(&self, later: &Self) -> Option<String> {
        // Our own files name the place: after a mere rename, too, all is to begin anew.
        if self.dir.path != later.dir.path {
            return Some(self.other_directory(later));
        }
        if let Some(change) = self.read_change_to(later) {
            return Some(change);
        }
        if let (Some((plan, Some(_))), Some((_, None))) = (&self.plan, &later.plan) {
            return Some(format!("the saved plan `{}` was removed", plan.display()));
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

    /// Watches the ways to all that Terraform itself reads, from now on. What is read again tells no change
    /// that was undone in between: a workspace that was selected for a moment.
    #[must_use]
    pub fn watch(&self) -> Option<PathWatch> {
        let read = self.read_from.iter().chain(self.plan.as_ref().map(|(plan, _)| plan));
        let read = read.map(|path| WatchedPath { path: path.clone(), with_file: true });
        let entered = WatchedPath { path: self.entered_as.clone(), with_file: false };
        PathWatch::over(read.chain([entered]).collect(), &self.here)
    }

    /// Watches the ways to local states, which Terraform opens again to write them.
    #[must_use]
    pub fn watch_states(&self) -> Option<PathWatch> {
        let states = self.locks.iter().filter_map(|(lock, _)| match &lock.store {
            StoreSpec::LocalState { path } => {
                Some(WatchedPath { path: path.clone(), with_file: false })
            }
            _ => None,
        });
        let states: Vec<_> = states.collect();
        if states.is_empty() { None } else { PathWatch::over(states, &self.here) }
    }

    fn other_directory(&self, later: &Self) -> String {
        let (before, now) = (self.dir.path.display(), later.dir.path.display());
        format!("the directory changed from `{before}` to `{now}`")
    }

    /// The backend, as it is called once `from` has got the name `to`.
    fn backend_after(&self, from: &Path, to: &Path) -> Option<Backend> {
        let mut backend = self.backend.clone();
        match &mut backend {
            Some(Backend::Local { state_path }) => rename(state_path, from, to),
            Some(Backend::S3(backend)) => {
                backend.aws.paths_mut().for_each(|path| rename(path, from, to));
            }
            Some(Backend::Other(_)) | None => {}
        }
        backend
    }

    /// The same, of what Terraform itself reads once it runs. It works on in its directory whatever
    /// that is called by now, so a rename of it, or of one above it, is no change.
    #[must_use]
    pub fn read_change_to(&self, later: &Self) -> Option<String> {
        let from_to = |what: &str, before: String, now: String| {
            Some(format!("{what} changed from `{before}` to `{now}`"))
        };
        if self.dir.id != later.dir.id {
            if self.dir.path != later.dir.path {
                return Some(self.other_directory(later));
            }
            return Some(format!("`{}` is now a different directory", self.dir.path.display()));
        }
        if let (Some(before), Some(now)) = (&self.workspace, &later.workspace)
            && before != now
        {
            return from_to("the workspace", before.clone(), now.clone());
        }
        let (from, to) = (&self.dir.name, &later.dir.name);
        if self.backend_after(from, to) != later.backend_after(from, to) {
            let words = |backend: &Option<Backend>| match backend {
                Some(Backend::Local { state_path }) => state_path.display().to_string(),
                Some(Backend::S3(backend)) => s3_words(backend),
                Some(Backend::Other(other)) => other.kind.clone(),
                None => "one that Terraform locks for itself".to_owned(),
            };
            let (before, now) = (words(&self.backend), words(&later.backend));
            if before == now {
                return Some(format!("the settings of the backend `{now}` changed"));
            }
            return from_to("the backend", before, now);
        }
        // One that is gone is not read.
        if let (Some((_, before)), Some((plan, Some(now)))) = (&self.plan, &later.plan)
            && *before != Some(*now)
        {
            return Some(format!("the saved plan `{}` was rewritten", plan.display()));
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

fn rename(path: &mut PathBuf, from: &Path, to: &Path) {
    if let Ok(rest) = path.strip_prefix(from) {
        *path = to.join(rest);
    }
}

fn s3_words(backend: &S3Backend) -> String {
    let state = format!("s3://{}/{}", backend.bucket, backend.state_key());
    match (&backend.dynamodb_table, backend.use_lockfile) {
        (Some(table), true) => format!("{state} with its lock file and the lock table {table}"),
        (Some(table), false) => format!("{state} with the lock table {table}"),
        (None, true) => format!("{state} with its lock file"),
        (None, false) => state,
    }
}

/// Nothing where it is no file, or cannot be read.
fn digest(path: &Path) -> Option<[u8; 32]> {
    // A pipe could be read only once.
    let opened = opened::to_read(path).ok().filter(|it| it.kind() == Kind::Regular)?;
    let (mut file, mut hash) = (opened.file, Sha256::new());
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
