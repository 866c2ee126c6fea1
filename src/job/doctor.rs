//! What `doctor` looks at: all that a run would find out, each by itself, so that one that is wrong
//! does not hide the others.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::locks::{self, FoundLocks, dialect_in, of_backend};
use super::{Place, find_terraform};
use crate::backend::{self, BackendQuery, Resolved};
use crate::error::Error;
use crate::program;
use crate::settings::{Settings, SettingsError};

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
}

pub(super) fn of_doctor(settings: &Settings, place: &Place<'_>) -> DoctorJob {
    let terraform = find_terraform(settings, place);
    let program = terraform.as_deref().ok();
    let request = BackendQuery {
        dialect: dialect_in(&place.dir, program),
        program,
        allow_hcl_fallback: true,
        ..BackendQuery::new(&place.dir, place.env)
    };
    let resolved = backend::resolve(&request).map_err(of_backend);
    let first_on_path = program::search(OsStr::new("terraform"), place.env, None).ok();
    DoctorJob {
        settings: settings.whole().cloned(),
        is_first_us: first_on_path.is_some()
            && program::search(OsStr::new("terraform"), place.env, place.this).ok()
                != first_on_path,
        first_on_path,
        found: locks::find(settings, place),
        terraform,
        resolved,
    }
}
