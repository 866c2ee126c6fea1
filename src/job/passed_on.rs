//! A call that comes back: what is found under Terraform's name may be a shim that looks for it again, and
//! finds us.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::state_in_use::StateInUse;
use crate::env::Env;
use crate::target::LockTarget;

/// Set for a Terraform that runs under our locks.
pub(crate) const PASSED_ON: &str = "TFWRAP_PASSED_ON";

/// How long each half of its value is.
const HASH: usize = 64;

/// What tells that call from others, and what is held for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PassedOn<'a> {
    call: &'a str,
    held: &'a str,
}

impl<'a> PassedOn<'a> {
    /// What was told to us.
    pub(super) fn to_us(env: &'a Env) -> Option<Self> {
        let (call, held) = env.get(PASSED_ON)?.split_at_checked(HASH)?;
        Some(Self { call, held })
    }

    /// Whether this is that call.
    pub(super) fn is(&self, args: &[OsString]) -> bool {
        self.call == of_call(args)
    }

    /// Whether the lock of this state is held for it.
    pub(super) fn holds(&self, state: &StateInUse) -> bool {
        match state {
            StateInUse::Locked(locks) => self.held == of_locks(locks),
            StateInUse::ByTerraform(_) => false,
        }
    }

    /// Whether Terraform, which takes the lock itself, is called in the directory for which it was told to.
    pub(super) fn is_in(&self, dir: &Path) -> bool {
        self.held == of_dir(dir)
    }
}

/// Whether it is a value that we would have set.
pub(crate) fn is_of_ours(value: &str) -> bool {
    value.len() == 2 * HASH && value.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What to tell a Terraform whose state's locks are held for it.
pub(super) fn under_locks(args: &[OsString], targets: &[LockTarget]) -> OsString {
    let of_backend: Vec<_> = targets.iter().filter(|it| it.of_backend).cloned().collect();
    (of_call(args) + &of_locks(&of_backend)).into()
}

/// The same of one that takes the lock itself.
pub(crate) fn without_locks(args: &[OsString], dir: &Path) -> OsString {
    (of_call(args) + &of_dir(dir)).into()
}

/// The directory aside: a shim may go elsewhere.
fn of_call(args: &[OsString]) -> String {
    hash(args[usize::from(is_chdir_first(args))..].iter().map(OsString::as_os_str))
}

/// Whether they begin with a `-chdir`, which counts there only.
pub(crate) fn is_chdir_first(args: &[OsString]) -> bool {
    args.first().is_some_and(|arg| arg.as_encoded_bytes().starts_with(b"-chdir="))
}

fn of_locks(targets: &[LockTarget]) -> String {
    let mut all: Vec<_> = targets.iter().map(LockTarget::identity).collect();
    all.sort_unstable();
    hash(all.iter().map(OsStr::new))
}

fn of_dir(dir: &Path) -> String {
    hash([dir.as_os_str()])
}

fn hash<'a>(parts: impl IntoIterator<Item = &'a OsStr>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part.as_encoded_bytes());
    }
    hash.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
