//! Calls of Terraform that are handed over, and those of them that lock for themselves: what they
//! meet there.

use std::path::PathBuf;

use super::backend_lock::{BackendLock, lock_of};
use super::locks::resolve;
use super::{ChildCommand, Job, Place, mistyped, terraforms_dir};
use crate::backend::{BackendQuery, Dialect};
use crate::held::Held;
use crate::settings::Settings;
use crate::terraform::{Command, Invocation, OwnLock, StateFlag};
use crate::version::{self, ConsoleLock};

/// Hands over, with a word on what was probably meant for us.
pub(super) fn hand_over(
    invocation: &Invocation,
    child: ChildCommand,
    dialect: Dialect,
    settings: &Settings,
    place: &Place<'_>,
) -> Job {
    let words = child.args.clone();
    let job = as_it_locks(invocation, child, dialect, settings, place);
    mistyped::told(job, &words, invocation, place)
}

/// What locks for itself waits for so long as we would, if it can; if not, and where it
/// will meet a lock that is held around it, that is said.
fn as_it_locks(
    invocation: &Invocation,
    mut child: ChildCommand,
    dialect: Dialect,
    settings: &Settings,
    place: &Place<'_>,
) -> Job {
    let Some(it) = invocation.handed_over() else {
        return Job::Exec { child, warning: None, detail: None };
    };
    let detail = Some(format!("handed over to `{}`: {}", child.program.display(), it.why));
    let Some(own_lock) = &as_released(it.own_lock.clone(), &child) else {
        return Job::Exec { child, warning: None, detail };
    };
    let name = invocation.command().map(Command::name).unwrap_or_default();
    if let Some(lock) = held_around(own_lock, invocation, dialect, settings, place) {
        // To wait for what this very run or hold has would be in vain.
        let warning = own_lock.certain.then(|| {
            let way_out = own_lock.way_out.map(|way| format!(", or {way}")).unwrap_or_default();
            format!(
                "`{name}` takes the lock itself ({}), and a `run` or `hold` around it holds \
                 `{lock}`: it fails if it needs that lock; run it outside of them{way_out}",
                it.why
            )
        });
        return Job::Exec { child, warning, detail };
    }
    if !own_lock.can_wait() {
        let warning = Some(format!(
            "`{name}` takes the lock itself and cannot be told to wait: if somebody holds it, it \
             fails at once"
        ));
        return Job::Exec { child, warning, detail };
    }
    let (args, variable) = own_lock.waiting(&child.args, settings.lock_timeout.value);
    child.args = args;
    child.env.extend(variable.map(|(name, value)| (name.into(), value)));
    Job::Exec { child, warning: None, detail }
}

/// What it locks by itself, as the release of the program has it.
fn as_released(own_lock: Option<OwnLock>, child: &ChildCommand) -> Option<OwnLock> {
    // Of all that lock by themselves only `console` cannot be told to wait.
    let own_lock = own_lock?;
    if own_lock.can_wait() {
        return Some(own_lock);
    }
    (version::console_lock(&child.program) != ConsoleLock::None).then_some(own_lock)
}

/// The lock that the call will meet, if whatever is around it has it. By its name: nobody is asked
/// for a call that is handed over.
fn held_around(
    own_lock: &OwnLock,
    invocation: &Invocation,
    dialect: Dialect,
    settings: &Settings,
    place: &Place<'_>,
) -> Option<String> {
    let held = Held::from_env(place.env);
    if held.is_empty() {
        return None;
    }
    let dir = terraforms_dir(invocation, place)?;
    let state = |path: &PathBuf| StateFlag { path: path.clone(), any_backend: true };
    let request = BackendQuery {
        dialect,
        state_flag: own_lock.state.as_ref().map(state),
        allow_hcl_fallback: true,
        ..BackendQuery::new(&dir, place.env)
    };
    let resolved = resolve(&request, &[], settings).ok()?;
    let BackendLock::Take(targets) = lock_of(resolved.as_ref(), settings, &[], place).ok()? else {
        return None;
    };
    let is_theirs = |url: &&str| targets.iter().any(|target| target.is_named(url));
    held.urls().find(is_theirs).map(ToOwned::to_owned)
}
