//! Whose `.tfwrap.yaml` counts, and what it may say.
//!
//! One that is *named* (`--config`, `TFWRAP_CONFIG`) is trusted as it is: whoever names it has
//! looked at it. One that is *found* came with the work tree, perhaps with a pull request. So it may
//! choose among what is installed, but neither name a program nor say where signed requests go or
//! who signs them. And it must be in no more hands than Terraform's own files: whoever may write
//! those needs no file of ours.

use std::ffi::OsStr;

use super::lock_url::LockUrl;

/// How a file came to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConfigFileOrigin {
    /// Somebody named it.
    Named,
    /// It was found on the way up from the working directory.
    Found,
}

/// In whose hands a file or a directory is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hands {
    pub(super) owner: u32,
    pub(super) group: u32,
    pub(super) mode: u32,
}

impl Hands {
    fn all_may_write(self) -> bool {
        self.mode & 0o002 != 0
    }

    fn group_may_write(self) -> bool {
        self.mode & 0o020 != 0 && self.group != 0
    }

    /// Whether this file, which `us` has found, is in no more hands than `dir`, where Terraform's
    /// files are.
    ///
    /// # Errors
    /// In whose hands it is.
    pub(super) fn check(self, us: u32, dir: Self) -> Result<(), String> {
        let Self { owner, group, mode } = self;
        if ![us, 0, dir.owner].contains(&owner) {
            return Err(format!(
                "belongs to user {owner}, who is neither you, nor root, nor the owner of the \
                 directory in which Terraform works (user {})",
                dir.owner
            ));
        }
        let mode = mode & 0o7777;
        if self.all_may_write() && !dir.all_may_write() {
            return Err(format!("can be written by everybody (mode {mode:04o})"));
        }
        let is_dirs_group = dir.group_may_write() && dir.group == group;
        if self.group_may_write() && !is_dirs_group && !dir.all_may_write() {
            return Err(format!(
                "can be written by the group {group} (mode {mode:04o}), and the directory in which \
                 Terraform works cannot"
            ));
        }
        Ok(())
    }
}

/// What a file that was found may say for `terraform`: a name to be sought on `PATH`, and one of
/// Terraform's or OpenTofu's: `sh plan` would run a file of the work tree.
pub(super) fn check_program(program: &OsStr) -> Result<(), String> {
    let name = program.as_encoded_bytes();
    let is_a_name = !name.contains(&b'/');
    if is_a_name && (name.starts_with(b"terraform") || name.starts_with(b"tofu")) {
        return Ok(());
    }
    Err(format!(
        "`terraform: {}`: a file that tfwrap found by searching may only name a `terraform…` or \
         `tofu…` that is on PATH",
        program.display()
    ))
}

/// What a file that was found may say for a lock.
pub(super) fn check_lock(lock: &LockUrl) -> Result<(), String> {
    let parameter = match lock {
        LockUrl { endpoint: Some(_), .. } => "endpoint",
        LockUrl { profile: Some(_), .. } => "profile",
        _ => return Ok(()),
    };
    Err(format!(
        "`{}`: a file that tfwrap found by searching may not set `{parameter}`",
        lock.place
    ))
}
