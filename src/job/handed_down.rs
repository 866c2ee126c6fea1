//! The settings that calls below a `run` inherit.
//!
//! Its rules: `docs/protocol.md#h2-other-variables`.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::locks::NAMED_LOCKS;
use crate::env::Env;
use crate::lock::lease::LeaseTerm;
use crate::settings::{OnLockLost, Origin, Settings};
use crate::state_dir;
use crate::supervise::SecondSignal;

/// What was typed for `run` holds for the calls below it, too: they see only the environment.
pub(super) fn handed_down(settings: &Settings, outer: &Env) -> Vec<(Cow<'static, str>, OsString)> {
    let mut env: Vec<(Cow<'static, str>, OsString)> = Vec::new();
    let mut typed = |name: &'static str, origin: &Origin, value: &dyn Fn() -> OsString| {
        if matches!(origin, Origin::Flag(_)) {
            env.push((name.into(), value()));
        }
    };
    let duration = |value: Duration| OsString::from(crate::duration::format(value));
    typed("TFWRAP_ORPHAN_GRACE", &settings.orphan_grace.origin, &|| {
        duration(settings.orphan_grace.value)
    });
    typed("TFWRAP_LOCK_TIMEOUT", &settings.lock_timeout.origin, &|| {
        duration(settings.lock_timeout.value)
    });
    typed("TFWRAP_GRACE", &settings.grace.origin, &|| {
        settings.grace.value.map_or_else(|| OsString::from("none"), duration)
    });
    // For the locks that they take themselves: of ours, the record says how long its lease is.
    typed("TFWRAP_LEASE", &settings.lease.origin, &|| match settings.lease.value {
        LeaseTerm::Never => OsString::from("never"),
        LeaseTerm::After(ttl) => duration(ttl),
    });
    typed("TFWRAP_NO_LINE", &settings.no_line.origin, &|| "true".into());
    typed("TFWRAP_NO_HISTORY", &settings.no_history.origin, &|| "true".into());
    typed("TFWRAP_SUMMARY", &settings.summary.origin, &|| settings.summary.value.as_str().into());
    typed("TFWRAP_PLAN_LOCK", &settings.plan_lock.origin, &|| {
        settings.plan_lock.value.as_str().into()
    });
    typed("TFWRAP_OUTDATED", &settings.outdated.origin, &|| {
        settings.outdated.value.as_str().into()
    });
    typed("TFWRAP_ON_LOCK_LOST", &settings.on_lock_lost.origin, &|| {
        OsString::from(match settings.on_lock_lost.value {
            OnLockLost::Stop => "stop",
            OnLockLost::Warn => "warn",
        })
    });
    typed("TFWRAP_NO_BACKEND_LOCK", &settings.no_backend_lock.origin, &|| "true".into());
    if let Some(set) = &settings.terraform {
        // Resolved now: the calls below may run elsewhere.
        let path = if set.value.as_encoded_bytes().contains(&b'/') {
            std::path::absolute(&set.value)
                .map_or_else(|_| set.value.clone(), PathBuf::into_os_string)
        } else {
            set.value.clone()
        };
        typed("TFWRAP_TERRAFORM", &set.origin, &|| path.clone());
    }
    if !settings.locks.is_empty() {
        let urls: Vec<_> = settings.locks.iter().map(|lock| lock.value.to_string()).collect();
        env.push((NAMED_LOCKS.into(), urls.join(" ").into()));
    }
    // Always: what is one stop here must be one stop below, too.
    let second_signal = match settings.second_signal.value {
        SecondSignal::Hold => "hold",
        SecondSignal::Forward => "forward",
    };
    env.push(("TFWRAP_SECOND_SIGNAL".into(), second_signal.into()));
    // Wherever they run: by it they find us, and we them.
    env.push(("TFWRAP_STATE_DIR".into(), state_dir::path(outer).into_os_string()));
    env
}
