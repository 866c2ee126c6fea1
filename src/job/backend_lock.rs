//! What is done about the lock of the backend itself.

use super::Place;
use super::state_in_use::locks_of;
use crate::backend::{Backend, Resolved};
use crate::error::Error;
use crate::settings::{Origin, Settings};
use crate::target::LockTarget;

/// What is done about the lock of the backend.
pub(super) enum BackendLock {
    /// We take it: what there is of it, in the order in which Terraform takes that.
    Take(Vec<LockTarget>),
    /// Terraform takes it for itself.
    Native,
    /// There is none.
    None { why: String },
}

pub(super) fn lock_of(
    resolved: Option<&Resolved>,
    settings: &Settings,
    further: &[LockTarget],
    place: &Place<'_>,
) -> Result<BackendLock, Error> {
    let Some(resolved) = resolved else { return Ok(BackendLock::Native) };
    if resolved.locks_alone {
        return Ok(BackendLock::Native);
    }
    let leave_it = settings.no_backend_lock.value;
    let targets = match &resolved.backend {
        backend @ (Backend::Local { .. } | Backend::S3(_)) => {
            let targets = locks_of(backend);
            match targets.is_empty() {
                true if leave_it => return Ok(nothing_to_take()),
                true => return Err(no_locking(&resolved.origin)),
                false => targets,
            }
        }
        Backend::Other(_) if !further.is_empty() => return Ok(BackendLock::Native),
        Backend::Other(other) if other.is_lockless && leave_it => return Ok(nothing_to_take()),
        Backend::Other(other) if other.is_lockless => {
            return Err(Error::Config {
                message: format!(
                    "the backend `{}` in {} has no locking configured",
                    other.kind, resolved.origin
                ),
                hint: Some(format!(
                    "configure it and run `terraform init -reconfigure`, or run unlocked with \
                     `--no-backend-lock`, or {}",
                    naming_one(&other.lock_name)
                )),
            });
        }
        Backend::Other(other) => {
            return Err(Error::Config {
                message: format!(
                    "only Terraform can take the lock of the backend `{}` in {}, and no `--lock` \
                     names one for tfwrap",
                    other.kind, resolved.origin
                ),
                hint: Some(naming_one(&other.lock_name)),
            });
        }
    };
    let below_another = place.env.get(crate::held::VARIABLE).is_some();
    if leave_it && further.is_empty() && !below_another {
        return Err(Error::Usage {
            message: format!(
                "{}: the backend has a lock, and no `--lock` replaces it",
                settings.no_backend_lock.origin
            ),
            hint: Some(format!(
                "{}, or pass `-lock=false` to Terraform to run unlocked",
                match &settings.no_backend_lock.origin {
                    Origin::Env(name) => format!("unset `{name}`"),
                    Origin::File { .. } => "take `no-backend-lock` out there".to_owned(),
                    _ => "leave `--no-backend-lock` out".to_owned(),
                }
            )),
        });
    }
    Ok(if leave_it { BackendLock::Native } else { BackendLock::Take(targets) })
}

fn nothing_to_take() -> BackendLock {
    BackendLock::None {
        why: "the backend locks nothing, and `--no-backend-lock` says to continue: nothing keeps \
              another run from this state"
            .to_owned(),
    }
}

/// How to name a lock, the same one as others do who use that state.
fn naming_one(name: &str) -> String {
    format!(
        "name a lock that all who use this state name, by `--lock URL` or one of these lines in \
         `.tfwrap.yaml`; it gives them a queue and a lease, and Terraform keeps its own lock:\n  \
         lock: s3://BUCKET/{name}.tflock\n  lock: dynamodb://TABLE/{name}\n  \
         lock: file:///SHARED-DIRECTORY/{name}"
    )
}

fn no_locking(origin: &str) -> Error {
    Error::Config {
        message: format!("the S3 backend in {origin} has no locking configured"),
        hint: Some(
            "add one of these lines to the block `backend \"s3\"` and run \
             `terraform init -reconfigure`, or run unlocked with `--no-backend-lock`:\n  \
             use_lockfile = true\n  dynamodb_table = \"NAME-OF-THE-LOCK-TABLE\""
                .to_owned(),
        ),
    }
}
