//! `run` and `hold`: locks around whatever finds the environment that is in the child's.

use std::ffi::OsString;
use std::path::PathBuf;

use super::backend_lock::{BackendLock, lock_of};
use super::basis::Basis;
use super::by_path;
use super::handed_down::handed_down;
use super::locks::{further_locks, or_those_around, query, resolve};
use super::reading::WayIn;
use super::{
    ChildCommand, Job, JobKind, LockedJob, Place, WorkspaceBootstrap, create_workspace_in,
    find_terraform, finish,
};
use crate::backend::{Backend, Resolved, has_configuration};
use crate::error::Error;
use crate::program;
use crate::settings::Settings;
use crate::shim;
use crate::state_dir;
use crate::target::LockTarget;
use crate::terraform::{Dialect, Invocation};

pub(super) fn of_run(
    command: &[OsString],
    settings: &Settings,
    place: &Place<'_>,
) -> Result<Job, Error> {
    let Some((program, args)) = command.split_first() else {
        return Err(Error::Usage { message: "`run` needs a command".to_owned(), hint: None });
    };
    if program.is_empty() {
        let hint = Some("name it after `--`: `tfwrap run -- COMMAND`".to_owned());
        return Err(Error::Usage { message: "the command of `run` is empty".to_owned(), hint });
    }
    // Nobody need wait for a lock to learn that. tfwrap itself is `terraform` and `tofu` there.
    let is_shim = program == "terraform" || program == "tofu";
    if !is_shim {
        program::expect_startable(program, place.env)?;
    }
    let (program, args) = (PathBuf::from(program), args.to_vec());
    around(Some(ChildCommand { program, args, env: Vec::new() }), settings, place)
}

pub(super) fn of_hold(settings: &Settings, place: &Place<'_>) -> Result<Box<LockedJob>, Error> {
    match around(None, settings, place)? {
        Job::Locked(job) => Ok(job),
        _ => Err(nothing_to_hold()),
    }
}

/// A `hold` is for its locks and nothing else.
#[must_use]
pub fn nothing_to_hold() -> Error {
    Error::Config {
        message: "there is no lock here to hold".to_owned(),
        hint: Some("name one with `--lock`".to_owned()),
    }
}

/// Where Terraform has nothing to do, so that its default state is nobody's.
fn nothing_here(
    resolved: Option<&Resolved>,
    further: &[LockTarget],
    place: &Place<'_>,
) -> Option<String> {
    let Backend::Local { state_path } = &resolved?.backend else { return None };
    let is_used = !further.is_empty() || state_path.exists() || has_configuration(&place.dir);
    (!is_used).then(|| {
        format!(
            "there is no Terraform configuration in `{}`: this holds the lock of `{}`, which \
             protects no other state",
            place.dir.display(),
            state_path.display()
        )
    })
}

/// Where the command is itself a call of Terraform.
fn has_detailed_exit_code(child: &ChildCommand, place: &Place<'_>) -> bool {
    crate::cli::is_terraforms_name(child.program.as_os_str())
        && Invocation::parse(&child.args, place.env, Dialect::Terraform)
            .is_ok_and(|invocation| invocation.has("detailed-exitcode"))
}

/// Locks around a command, or around nothing yet (`hold`). Holds what can be known. Of what cannot,
/// `run` says so: each Terraform below it takes its own lock, or refuses, by what it finds then.
fn around(
    command: Option<ChildCommand>,
    settings: &Settings,
    place: &Place<'_>,
) -> Result<Job, Error> {
    let settings = settings.whole()?;
    let terraform = find_terraform(settings, place).ok();
    let request = query(place, terraform.as_deref());
    let further = further_locks(settings, place)?;
    let mut notes = Vec::new();
    let mut named = further.clone();
    let known = resolve(&request, &further, settings).and_then(|resolved| {
        named = or_those_around(further, resolved.as_ref(), place)?;
        Ok((lock_of(resolved.as_ref(), settings, &named, place)?, resolved))
    });
    let (lock, resolved) = match known {
        Err(Error::Config { message, .. }) if command.is_some() => {
            notes.push(format!(
                "no backend lock is held for the whole command ({message}): each Terraform inside \
                 locks for itself"
            ));
            (BackendLock::Native, None)
        }
        known => known?,
    };
    notes.extend(nothing_here(resolved.as_ref(), &named, place));
    let called = terraform.as_deref().map(|it| program::dialect(it, || false)).unwrap_or_default();
    let set = settings.terraform.is_some().then_some(called);
    let nameable = state_dir::can_be_on_path(place.env, command.is_none());
    let prepare = |()| shim::prepare(place.env, &place.this_path, set);
    let shim = nameable.and_then(prepare).map_err(|what| Error::Config {
        message: format!("{what}: `terraform` cannot be put on PATH from there"),
        hint: state_dir::hint(place.env.get(crate::held::VARIABLE).is_some()),
    })?;
    let mut env = handed_down(settings, place.env);
    env.push(("PATH".into(), shim::path_with(&shim, place.env)));
    let (operation, child, kind) = match command {
        Some(command) => {
            let child = ChildCommand { env, ..command };
            let by_path = by_path::find(&child, place);
            ("run", child, JobKind::Command { shim, by_path })
        }
        None => ("hold", ChildCommand { env, ..ChildCommand::none() }, JobKind::Hold { shim }),
    };
    let two_is_success = has_detailed_exit_code(&child, place);
    let mut job = LockedJob {
        dir: place.dir.clone(),
        targets: named,
        child,
        operation: operation.to_owned(),
        lock_timeout: settings.lock_timeout.clone(),
        bootstrap: None,
        notes,
        details: Vec::new(),
        kind,
        two_is_success,
        native: None,
        unlocked_plan: None,
        basis: Basis::default(),
    };
    match lock {
        BackendLock::Take(targets) => {
            if let Some(Resolved { backend: Backend::S3(backend), initialised, .. }) = &resolved
                && !backend.is_default_workspace()
            {
                // Without Terraform there is nobody who could create the workspace, and nobody
                // who could fall into the trap.
                if let Some(program) = terraform {
                    job.bootstrap = Some(WorkspaceBootstrap {
                        backend: (**backend).clone(),
                        create: create_workspace_in(&program, &backend.workspace, &[]),
                        probe: None,
                        is_refused: false,
                        native: None,
                        cannot_create: (!initialised).then_some(
                            "this directory is not initialised, so each Terraform below takes the \
                             lock for itself",
                        ),
                    });
                }
            }
            job.targets.extend(targets);
        }
        BackendLock::Native => {}
        BackendLock::None { why } => job.notes.push(why),
    }
    let way_in = WayIn { here: place.dir.clone(), entered_as: job.dir.clone() };
    finish(job, resolved, way_in)
}
