//! Whether one commit comes before another, asked of git.
//!
//! The repository may be a stranger's (a pull request, a work tree of another user), and a configuration can
//! make git start programs (`core.fsmonitor`, the remote of a partial clone). So git gets an empty repository
//! of ours, whose objects are those of the other by a link. It reads neither configuration nor hooks,
//! references or replacements of the other, so that it does not matter whose it is (`safe.directory`), and
//! without a remote it fetches nothing. Nothing of our environment gets through, where a `GIT_…` variable
//! could change all this.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::Command;

use super::{common_dir, git_dir, is_commit};

/// The length of a name in SHA-256.
const LENGTH_OF_SHA256: usize = 64;

/// Is one commit a strict ancestor of the other?
#[derive(Debug, Clone)]
pub struct AncestryQuery {
    /// The program, by its absolute path.
    pub git: PathBuf,
    /// A directory in the work tree that has the commits.
    pub dir: PathBuf,
    /// The one that may come before.
    pub older: String,
    /// The one that may come after.
    pub newer: String,
}

impl AncestryQuery {
    /// Asks git, which ends with whoever drops this.
    ///
    /// # Errors
    /// In words: there is no repository, git cannot be run, or it does not have both commits, as in a
    /// shallow clone.
    pub async fn answer(&self) -> Result<bool, String> {
        let Self { git, dir, older, newer } = self;
        // Also, neither is an option.
        if !is_commit(older) || !is_commit(newer) || older.len() != newer.len() {
            return Err("these are not two commits of one repository".to_owned());
        }
        if older == newer {
            return Ok(false);
        }
        let theirs = dir.ancestors().find_map(git_dir).ok_or("there is no git repository")?;
        let ours = beside(&common_dir(&theirs), older.len())
            .map_err(|error| format!("no temporary directory can be made: {error}"))?;
        let mut command = Command::new(git);
        command.args(["merge-base", "--is-ancestor", older, newer]);
        command.current_dir(ours.path()).env_clear().env("GIT_DIR", ours.path());
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.kill_on_drop(true).status().await;
        let status = status.map_err(|error| format!("`{}`: {error}", git.display()))?;
        match status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err("git does not know both commits".to_owned()),
        }
    }
}

/// An empty repository with the objects of this one (gitrepository-layout(5)), and with where they end if it
/// is shallow.
fn beside(theirs: &Path, length: usize) -> io::Result<TempDir> {
    let ours = tempfile::tempdir()?;
    let at = |name: &str| ours.path().join(name);
    fs::write(at("HEAD"), "ref: refs/heads/none\n")?;
    if length == LENGTH_OF_SHA256 {
        let format =
            "[core]\n\trepositoryFormatVersion = 1\n[extensions]\n\tobjectFormat = sha256\n";
        fs::write(at("config"), format)?;
    }
    fs::create_dir(at("refs"))?;
    let theirs = std::path::absolute(theirs)?;
    for name in ["objects", "shallow"] {
        symlink(theirs.join(name), at(name))?;
    }
    Ok(ours)
}

#[cfg(test)]
mod tests;
