//! The shim of `run`: a directory first on `PATH` in which `terraform` and `tofu` are tfwrap, so
//! that each call below resolves its own state and its own lock.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::file_id::FileId;
use crate::program;
use crate::state_dir;
use crate::terraform::Dialect;

/// Makes the directory, with a link for each of the two that exists on `PATH`: a script that asks
/// whether there is a `tofu` must not be told so by us. What `--terraform` names is `terraform`, and
/// if it is an `OpenTofu`, `tofu` as well.
///
/// # Errors
/// In words; without the shim nothing below would be safe.
pub fn prepare(env: &Env, this_path: &Path, set: Option<Dialect>) -> Result<PathBuf, String> {
    let this = std::fs::metadata(this_path)
        .map_err(|error| format!("`{}`: {error}", this_path.display()))?;
    let top = state_dir::secured(env)?;
    let id = FileId::of(this_path);
    let names: Vec<&str> = ["terraform", "tofu"]
        .into_iter()
        .filter(|name| {
            let is_set = set.is_some_and(|it| *name == "terraform" || it == Dialect::OpenTofu);
            is_set || program::is_on_path(name.as_ref(), env, id)
        })
        .collect();
    // One directory per binary and set of names, so that runs side by side never undo each
    // other's links.
    let dir = top.join(format!("bin-{:x}-{:x}-{}", this.dev(), this.ino(), names.join("-")));
    state_dir::secure(&dir)?;
    for name in names {
        make_link(this_path, &dir.join(name), id)?;
    }
    Ok(dir)
}

/// `PATH` with the shim first.
#[must_use]
pub fn path_with(dir: &Path, env: &Env) -> OsString {
    let mut path = dir.as_os_str().to_owned();
    if let Some(rest) = env.get_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

/// Puts a link in place atomically: other runs use the same directory.
fn make_link(this_path: &Path, link: &Path, id: Option<FileId>) -> Result<(), String> {
    if FileId::of(link) == id {
        return Ok(());
    }
    let fresh = link.with_extension(uuid::Uuid::new_v4().to_string());
    std::os::unix::fs::symlink(this_path, &fresh)
        .and_then(|()| std::fs::rename(&fresh, link))
        .map_err(|error| format!("`{}`: {error}", link.display()))
}
