//! Where tfwrap keeps files of its own on this machine: never inside a work tree, where a merge
//! request could bring one.

use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::opened;

const VARIABLE: &str = "TFWRAP_STATE_DIR";

/// The directory: `TFWRAP_STATE_DIR`, else below `RUNNER_TEMP`, beside GitLab's project directory,
/// XDG's state directory, or `/tmp/tfwrap-UID`.
#[must_use]
pub fn path(env: &Env) -> PathBuf {
    place(env).0
}

/// The same, with the variable that says so.
fn place(env: &Env) -> (PathBuf, Option<&'static str>) {
    if let Some(dir) = env.get_os(VARIABLE) {
        let path = std::path::absolute(dir).unwrap_or_else(|_| PathBuf::from(dir));
        return (path, Some(VARIABLE));
    }
    let absolute = |name: &str| env.get_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    if let Some(dir) = absolute("RUNNER_TEMP") {
        return (dir.join("tfwrap"), Some("RUNNER_TEMP"));
    }
    if let Some(dir) = absolute("CI_PROJECT_DIR") {
        let mut beside = dir.into_os_string();
        beside.push(".tmp");
        return (PathBuf::from(beside).join("tfwrap"), Some("CI_PROJECT_DIR"));
    }
    if let Some(dir) = absolute("XDG_STATE_HOME") {
        return (dir.join("tfwrap"), Some("XDG_STATE_HOME"));
    }
    if let Some(home) = absolute("HOME") {
        return (home.join(".local/state/tfwrap"), Some("HOME"));
    }
    (PathBuf::from(format!("/tmp/tfwrap-{}", nix::unistd::geteuid())), None)
}

/// Makes sure of the directory as [`secure`] does, and gives it.
///
/// # Errors
/// In words, with the path and the variable that says so.
pub fn secured(env: &Env) -> Result<PathBuf, String> {
    let (dir, variable) = place(env);
    make(&dir).map_err(|what| said(&dir, variable, &what))?;
    Ok(dir)
}

/// Makes sure that what is in the directory can be named on a `PATH`, which a `:` parts; `in_text`:
/// and in text, as a `hold` gives it to a shell.
///
/// # Errors
/// In words, with the path and the variable that says so.
pub fn can_be_on_path(env: &Env, in_text: bool) -> Result<(), String> {
    let (dir, variable) = place(env);
    let what = if dir.as_os_str().as_bytes().contains(&b':') {
        "contains a `:`, which separates the directories of `PATH`"
    } else if in_text && dir.to_str().is_none() {
        "is not UTF-8"
    } else {
        return Ok(());
    };
    Err(said(&dir, variable, what))
}

fn said(dir: &Path, variable: Option<&str>, what: &str) -> String {
    let from = variable.map(|name| format!(" (from `{name}`)")).unwrap_or_default();
    format!("`{}`{from} {what}", dir.display())
}

/// Makes sure that a directory is there and that nobody else can write in it. What is missing is
/// made so; what is there is left as it is, whoever made it.
///
/// # Errors
/// In words, with the path.
pub fn secure(dir: &Path) -> Result<(), String> {
    make(dir).map_err(|what| format!("`{}` {what}", dir.display()))
}

fn make(dir: &Path) -> Result<(), String> {
    let fail = |error: io::Error| format!("cannot be used: {error}");
    let make = |dir: &Path, mode| match opened::make_dir(dir, mode) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(fail(error)),
        _ => Ok(()),
    };
    let above: Vec<_> = dir.ancestors().skip(1).take_while(|above| !above.exists()).collect();
    for missing in above.into_iter().rev() {
        make(missing, 0o777)?;
    }
    make(dir, 0o700)?;
    let metadata = dir.symlink_metadata().map_err(fail)?;
    if metadata.is_symlink() {
        return Err("is a symbolic link; name the directory itself".to_owned());
    }
    if !metadata.is_dir() {
        return Err("is not a directory".to_owned());
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(format!("belongs to user {}", metadata.uid()));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(format!("can be written by others (mode {mode:04o})"));
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
    let uid = nix::unistd::geteuid();
    let text = if is_below {
        "run it as the user of the `run` or `hold` (without `sudo`), with the `TFWRAP_STATE_DIR` \
         that it sets; in a container, mount that directory; if the disk is full, free space on \
         it; if the directory has been removed, or there was no space for its files, end the `run` \
         or `hold` and start it again"
            .to_owned()
    } else {
        format!("name a directory of your own with `TFWRAP_STATE_DIR`, such as `/tmp/tfwrap-{uid}`")
    };
    Some(text)
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
    fn what_no_path_can_name_is_said_with_the_variable() {
        use std::ffi::OsStr;
        let of = |dir: &[u8], in_text| {
            let env: Env = [("RUNNER_TEMP", OsStr::from_bytes(dir))].into_iter().collect();
            can_be_on_path(&env, in_text).err()
        };
        let colon = "`/r:t/tfwrap` (from `RUNNER_TEMP`) contains a `:`, which separates the \
                     directories of `PATH`";
        for in_text in [false, true] {
            assert_eq!(of(b"/r t", in_text), None);
            assert_eq!(of(b"/r:t", in_text).as_deref(), Some(colon));
        }
        assert_eq!(of(b"/r\xff", false), None);
        assert!(of(b"/r\xff", true).unwrap().ends_with("(from `RUNNER_TEMP`) is not UTF-8"));
    }

    #[test]
    fn what_others_can_write_or_turn_is_refused_and_left_as_it_is() {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::PermissionsExt as _;
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("a/b");
        let mode = |dir: &Path| dir.metadata().unwrap().mode() & 0o7777;
        secure(&dir).unwrap();
        assert_eq!(mode(&dir), 0o700, "what we make is ours alone");
        for (given, works) in [(0o755, true), (0o1777, false), (0o770, false), (0o700, true)] {
            set_permissions(&dir, Permissions::from_mode(given)).unwrap();
            assert_eq!(secure(&dir).is_ok(), works, "{given:o}");
            assert_eq!(mode(&dir), given, "never changed");
        }
        let link = top.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert!(secure(&link).unwrap_err().contains("name the directory itself"));
        std::fs::write(top.path().join("file"), "").unwrap();
        let env: Env = [("TFWRAP_STATE_DIR", top.path().join("file"))].into_iter().collect();
        let error = secured(&env).unwrap_err();
        assert!(error.ends_with("/file` (from `TFWRAP_STATE_DIR`) is not a directory"), "{error}");
    }
}
