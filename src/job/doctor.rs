//! What `doctor` looks at: all that a run would find out, each by itself, so that one that is wrong
//! does not hide the others.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::locks::{self, FoundLocks, dialect_in, of_backend};
use super::{Place, find_terraform, table};
use crate::backend::{self, Backend, BackendQuery, Resolved};
use crate::error::Error;
use crate::program;
use crate::settings::{Settings, SettingsError};
use crate::target::LockTarget;

/// What a run in this directory would find.
#[derive(Debug)]
pub struct DoctorJob {
    /// What is set, by whom.
    pub settings: Result<Settings, SettingsError>,
    /// The Terraform that it would run.
    pub terraform: Result<PathBuf, Error>,
    /// What a shell finds as `terraform`, be it tfwrap.
    pub first_on_path: Option<PathBuf>,
    /// Whether that is tfwrap.
    pub is_first_us: bool,
    /// Which state it would use.
    pub resolved: Result<Resolved, Error>,
    /// Which locks it would take.
    pub found: Result<FoundLocks, Error>,
    /// The bucket in which its workspace is looked for.
    pub listed: Option<LockTarget>,
    /// The lock file that the backend does not use, and others may: they and we share no lock.
    pub unused: Option<LockTarget>,
}

/// Which state a run would use.
pub(super) fn resolve(settings: &Settings, place: &Place<'_>) -> Result<Resolved, Error> {
    let terraform = find_terraform(settings, place);
    let program = terraform.as_deref().ok();
    let request = BackendQuery {
        dialect: dialect_in(&place.dir, program),
        program,
        allow_hcl_fallback: true,
        ..BackendQuery::new(&place.dir, place.env)
    };
    backend::resolve(&request).map_err(of_backend)
}

pub(super) fn of_doctor(settings: &Settings, place: &Place<'_>) -> DoctorJob {
    let first_on_path = program::search(OsStr::new("terraform"), place.env, None).ok();
    let past_us = program::search(OsStr::new("terraform"), place.env, place.this).ok();
    let resolved = resolve(settings, place);
    let unused = match resolved.as_ref().map(|it| &it.backend) {
        Ok(Backend::S3(backend)) if !backend.use_lockfile => {
            Some(LockTarget::of_lock_file(backend))
        }
        _ => None,
    };
    DoctorJob {
        settings: settings.whole().cloned(),
        terraform: find_terraform(settings, place),
        is_first_us: first_on_path.is_some() && past_us != first_on_path,
        first_on_path,
        resolved,
        unused,
        found: locks::find(settings, place),
        listed: table::listed(settings, place),
    }
}
