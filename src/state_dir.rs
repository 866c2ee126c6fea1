//! Where tfwrap keeps files of its own on this machine: never inside a work tree, where a merge
//! request could bring one.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::env::Env;

/// The directory: `TFWRAP_STATE_DIR`, else below `RUNNER_TEMP`, beside GitLab's project directory,
/// XDG's state directory, or `/tmp/tfwrap-UID`.
#[must_use]
pub fn path(env: &Env) -> PathBuf {
    if let Some(dir) = env.get_os("TFWRAP_STATE_DIR") {
        return std::path::absolute(dir).unwrap_or_else(|_| PathBuf::from(dir));
    }
    let absolute = |name: &str| env.get_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    if let Some(dir) = absolute("RUNNER_TEMP") {
        return dir.join("tfwrap");
    }
    if let Some(dir) = absolute("CI_PROJECT_DIR") {
        let mut beside = dir.into_os_string();
        beside.push(".tmp");
        return PathBuf::from(beside).join("tfwrap");
    }
    if let Some(dir) = absolute("XDG_STATE_HOME") {
        return dir.join("tfwrap");
    }
    if let Some(home) = absolute("HOME") {
        return home.join(".local/state/tfwrap");
    }
    PathBuf::from(format!("/tmp/tfwrap-{}", nix::unistd::geteuid()))
}

/// Makes sure that a directory is there and that nobody else can write in it: 0700 and ours, no
/// link.
///
/// # Errors
/// In words, with the path.
pub fn secure(dir: &Path) -> Result<(), String> {
    let fail = |what: String| format!("`{}`: {what}", dir.display());
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(|error| fail(error.to_string()))?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fail(error.to_string())),
    }
    let metadata = dir.symlink_metadata().map_err(|error| fail(error.to_string()))?;
    if !metadata.is_dir() {
        return Err(fail("is not a directory".to_owned()));
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(fail(format!("belongs to user {}", metadata.uid())));
    }
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
            .map_err(|error| fail(error.to_string()))?;
    }
    Ok(())
}

/// Whose the directory is; nothing where there is none.
#[must_use]
pub fn owner(dir: &Path) -> Option<u32> {
    dir.symlink_metadata().ok().map(|metadata| metadata.uid())
}

/// What to do about one that cannot be used; `is_below`: by a command below a `run` or a `hold`.
/// That must find the files of the latter, and another directory would part the two.
#[must_use]
pub fn hint(is_below: bool) -> Option<String> {
    let text = if is_below {
        "call it as the user of the `run` or `hold` (without `sudo`), with the `TFWRAP_STATE_DIR` that \
         it gives; in a container, with that directory mounted there; if the directory was removed \
         meanwhile, end the `run` or `hold` and begin it anew"
    } else {
        "name a directory of your own with `TFWRAP_STATE_DIR`"
    };
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_that_is_set_is_used() {
        let of = |pairs: &[(&str, &str)]| path(&pairs.iter().copied().collect());
        let all = [
            ("TFWRAP_STATE_DIR", "/s"),
            ("RUNNER_TEMP", "/r"),
            ("CI_PROJECT_DIR", "/builds/p"),
            ("XDG_STATE_HOME", "/x"),
            ("HOME", "/h"),
        ];
        let expected =
            ["/s", "/r/tfwrap", "/builds/p.tmp/tfwrap", "/x/tfwrap", "/h/.local/state/tfwrap"];
        for (skip, expected) in expected.iter().enumerate() {
            assert_eq!(of(&all[skip..]), PathBuf::from(expected));
        }
        assert!(of(&[]).starts_with("/tmp"));
    }

    #[test]
    fn a_link_or_a_file_is_refused_and_a_loose_directory_tightened() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("a/b");
        secure(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        secure(&dir).unwrap();
        assert_eq!(dir.metadata().unwrap().mode() & 0o777, 0o700);
        let link = top.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert!(secure(&link).unwrap_err().contains("not a directory"));
    }
}
