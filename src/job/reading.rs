//! What a call of Terraform says, and where it will work.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Place;
use crate::backend::has_tofu_files;
use crate::program::dialect;
use crate::terraform::{ArgsError, Dialect, Invocation, LockUse};
use crate::version::{self, ConsoleLock};

/// Reads the arguments as the program will.
pub(super) fn read(
    args: &[OsString],
    program: &Path,
    place: &Place<'_>,
) -> Result<(Dialect, Invocation), ArgsError> {
    let as_terraform = Invocation::parse(args, place.env, Dialect::Terraform)?;
    let as_tofu = Invocation::parse(args, place.env, Dialect::OpenTofu)?;
    let dialect = dialect(program, || {
        as_tofu != as_terraform
            || as_tofu.lock_use() == LockUse::Locks
                && terraforms_dir(&as_tofu, place).is_some_and(|dir| has_tofu_files(&dir))
    });
    let invocation = if dialect == Dialect::OpenTofu { as_tofu } else { as_terraform };
    let has_flags = || version::console_lock(program) == ConsoleLock::WithFlags;
    if invocation.is_unlockable_console() && has_flags() {
        return Ok((dialect, Invocation::parse_locked_console(args, place.env, dialect)?));
    }
    Ok((dialect, invocation))
}

/// Whether the lock of this state would make no directory: what stock Terraform does where there is
/// none depends on the command, and on how the path is written.
pub(super) fn has_directory(state: &Path) -> bool {
    state.parent().is_some_and(Path::is_dir)
}

/// Where Terraform will work, without a link in it: what it joins is then the same as text and for
/// the kernel. Nothing where it cannot go there.
pub(super) fn terraforms_dir(invocation: &Invocation, place: &Place<'_>) -> Option<PathBuf> {
    entered_as(invocation, place).canonicalize().ok().filter(|dir| dir.is_dir())
}

/// The same with its links, which Terraform follows only then.
fn entered_as(invocation: &Invocation, place: &Place<'_>) -> PathBuf {
    match invocation.chdir() {
        Some(chdir) => place.dir.join(chdir),
        None => place.dir.clone(),
    }
}

/// How Terraform comes to where it will work.
pub(super) struct WayIn {
    /// The directory that tfwrap works in; empty where it matters what that is called.
    pub(super) here: PathBuf,
    /// Where Terraform will work, with all links.
    pub(super) entered_as: PathBuf,
}

impl WayIn {
    /// If Terraform finds all that it reads from the directory in which it is started, as far as the call
    /// and the environment say, it is no matter what that and the directories above are called.
    pub(super) fn of(invocation: &Invocation, place: &Place<'_>) -> Self {
        let data_dir = place.env.get_os("TF_DATA_DIR").map(PathBuf::from);
        let state = invocation.state_flag().map(|flag| flag.path);
        let named = [invocation.chdir().cloned(), data_dir, state, invocation.plan_file()];
        let is_relative = !named.iter().flatten().any(|path| path.is_absolute());
        Self {
            here: if is_relative { place.dir.clone() } else { PathBuf::new() },
            entered_as: entered_as(invocation, place),
        }
    }
}
