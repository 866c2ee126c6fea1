//! Exit codes, in one place and total. Terraform's own code always passes through unchanged; ours
//! stay clear of 0, 1, 2, 3, 11 and 128+N (the names follow `sysexits.h`), but for commands that
//! start no Terraform.

use crate::error::Error;
use crate::lock::release::ReleaseOutcome;
use crate::store::StoreError;
use crate::supervise::ChildStatus;

/// `unlock` refused to remove the lock, or a check of `doctor` failed.
pub const REFUSED: u8 = 1;
/// Wrong usage.
pub const USAGE: u8 = 64;
/// The lock store cannot be reached, or does not exist.
pub const UNAVAILABLE: u8 = 69;
/// A bug in tfwrap, or a machine that lacks what every run needs.
pub const BUG: u8 = 70;
/// The child succeeded, but the lock could not be given back.
pub const NOT_RELEASED: u8 = 74;
/// Not acquired within the wait.
pub const NOT_ACQUIRED: u8 = 75;
/// The lock was lost while the child ran.
pub const LOST: u8 = 76;
/// Access denied, or no credentials.
pub const DENIED: u8 = 77;
/// The configuration is wrong or incomplete.
pub const CONFIG: u8 = 78;
/// A newer run was applied already, and that is to be a failure.
pub const OUTDATED: u8 = 79;
/// The command is not executable.
pub const NOT_EXECUTABLE: u8 = 126;
/// The command is not found.
pub const NOT_FOUND: u8 = 127;

/// The code of a failure of ours.
#[must_use]
pub fn of_error(error: &Error) -> u8 {
    match error {
        Error::Usage { .. } => USAGE,
        Error::Config { .. } => CONFIG,
        Error::Store { source, .. } => of_store(source),
        Error::NotAcquired { .. } | Error::NotFree { .. } => NOT_ACQUIRED,
        Error::Refused { .. } => REFUSED,
        Error::LeftBehind { .. } => NOT_RELEASED,
        Error::Outdated { .. } => OUTDATED,
        Error::Lost { .. } => LOST,
        Error::Interrupted { signal, .. } => of_signal(*signal),
        Error::NotFound { .. } => NOT_FOUND,
        Error::NotExecutable { .. } => NOT_EXECUTABLE,
        Error::Machine { .. } | Error::Internal(_) => BUG,
    }
}

fn of_store(error: &StoreError) -> u8 {
    match error {
        StoreError::Throttled(_)
        | StoreError::Busy(_)
        | StoreError::Unavailable { .. }
        | StoreError::Full(_)
        | StoreError::Failed(_)
        | StoreError::NotTheStore { .. }
        | StoreError::Missing(_) => UNAVAILABLE,
        StoreError::Denied(_) | StoreError::Credentials(_) => DENIED,
        StoreError::Misconfigured(_) => CONFIG,
    }
}

/// The shell's code of a death by signal.
#[must_use]
pub fn of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// The child's own code.
#[must_use]
pub fn of_child(status: ChildStatus) -> u8 {
    match status {
        ChildStatus::Exited(code) => code,
        ChildStatus::Signaled(signal) => of_signal(signal),
    }
}

/// What a run's code depends on besides what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRules {
    /// Off with `--on-lock-lost warn`.
    pub lost_is_fatal: bool,
    /// On with `-detailed-exitcode`: 2 says "changes present".
    pub two_is_success: bool,
}

/// The code of a run whose child ended: the child's own, unless it succeeded and the lock did not
/// end well.
#[must_use]
pub fn of_run(child: ChildStatus, releases: &[ReleaseOutcome], rules: RunRules) -> u8 {
    let own = of_child(child);
    let succeeded = own == 0 || (own == 2 && rules.two_is_success);
    if !succeeded {
        return own;
    }
    let mut code = own;
    for release in releases {
        match release {
            ReleaseOutcome::Released => {}
            ReleaseOutcome::AlreadyGone | ReleaseOutcome::TakenOver(_) => {
                if rules.lost_is_fatal {
                    return LOST;
                }
            }
            ReleaseOutcome::Unconfirmed(_) => code = NOT_RELEASED,
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: RunRules = RunRules { lost_is_fatal: true, two_is_success: false };

    #[test]
    fn the_childs_code_passes_through() {
        for code in 0..=255 {
            let status = ChildStatus::Exited(code);
            assert_eq!(of_run(status, &[ReleaseOutcome::Released], RULES), code);
        }
        assert_eq!(of_run(ChildStatus::Signaled(9), &[], RULES), 137);
    }

    #[test]
    fn a_failed_child_keeps_its_code_whatever_became_of_the_lock() {
        let stuck = ReleaseOutcome::Unconfirmed(StoreError::Missing(String::new()));
        for release in [stuck, ReleaseOutcome::AlreadyGone] {
            assert_eq!(of_run(ChildStatus::Exited(1), &[release], RULES), 1);
        }
    }

    #[test]
    fn a_success_with_a_lock_that_did_not_end_well_has_a_code_of_its_own() {
        let stuck = || ReleaseOutcome::Unconfirmed(StoreError::Missing(String::new()));
        let ok = ChildStatus::Exited(0);
        assert_eq!(of_run(ok, &[ReleaseOutcome::Released, stuck()], RULES), NOT_RELEASED);
        assert_eq!(of_run(ok, &[ReleaseOutcome::AlreadyGone], RULES), LOST);
        assert_eq!(of_run(ok, &[stuck(), ReleaseOutcome::AlreadyGone], RULES), LOST);
        let warn = RunRules { lost_is_fatal: false, ..RULES };
        assert_eq!(of_run(ok, &[ReleaseOutcome::AlreadyGone], warn), 0);
    }

    #[test]
    fn two_is_a_success_only_with_detailed_exit_codes() {
        let two = ChildStatus::Exited(2);
        assert_eq!(of_run(two, &[ReleaseOutcome::AlreadyGone], RULES), 2);
        let detailed = RunRules { two_is_success: true, ..RULES };
        assert_eq!(of_run(two, &[ReleaseOutcome::AlreadyGone], detailed), LOST);
    }
}
