//! Which binary a name means: the search along `PATH` that never finds tfwrap itself.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::env::Env;
use crate::error::Error;
use crate::terraform::Dialect;

/// A file by device and inode: tfwrap itself, under whatever name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    dev: u64,
    ino: u64,
}

impl FileId {
    /// Follows links; nothing where there is no such file.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { dev: metadata.dev(), ino: metadata.ino() })
    }
}

/// Whose flags and files count: told by the name of what the path leads to, else by its own.
#[must_use]
pub fn dialect(program: &Path) -> Dialect {
    named_dialect(program).unwrap_or_default()
}

/// Nothing where no name tells.
fn named_dialect(program: &Path) -> Option<Dialect> {
    let target = program.canonicalize().ok();
    target.iter().map(PathBuf::as_path).chain([program]).find_map(|path| {
        let name = path.file_name()?.to_string_lossy();
        if name.starts_with("tofu") || name.starts_with("opentofu") {
            return Some(Dialect::OpenTofu);
        }
        name.starts_with("terraform").then_some(Dialect::Terraform)
    })
}

/// Searches `PATH` for a command, passing over tfwrap itself and relative entries.
///
/// # Errors
/// Not found, or found only where it cannot be executed.
pub fn search(name: &OsStr, env: &Env, this: Option<FileId>) -> Result<PathBuf, Error> {
    let path = env.get_os("PATH").map(OsStr::to_os_string).unwrap_or_default();
    let mut refused = None;
    for dir in std::env::split_paths(&path).filter(|dir| dir.is_absolute()) {
        let candidate = dir.join(name);
        let Some(id) = FileId::of(&candidate) else { continue };
        if Some(id) == this || !candidate.is_file() {
            continue;
        }
        match access(&candidate, AccessFlags::X_OK) {
            Ok(()) => return Ok(candidate),
            Err(_) => refused = refused.or(Some(candidate)),
        }
    }
    match refused {
        Some(path) => {
            Err(Error::NotExecutable { message: format!("`{}` is not executable", path.display()) })
        }
        None => Err(Error::NotFound {
            message: format!("`{}` was not found on PATH", name.display()),
            hint: None,
        }),
    }
}

/// Finds Terraform: the one that was set, else the one tfwrap was called as, else `terraform`,
/// else `tofu`.
///
/// # Errors
/// Not found, not executable, or tfwrap itself.
pub fn find_terraform(
    set: Option<&OsString>,
    called_as: Option<&OsStr>,
    env: &Env,
    this: Option<FileId>,
) -> Result<PathBuf, Error> {
    if let Some(set) = set {
        return find_set(set, env, this);
    }
    let names: &[&OsStr] = match &called_as {
        Some(name) => std::slice::from_ref(name),
        None => &[OsStr::new("terraform"), OsStr::new("tofu")],
    };
    let mut last = None;
    for name in names {
        match search(name, env, this) {
            Err(error @ Error::NotFound { .. }) => last = last.or(Some(error)),
            found => return found,
        }
    }
    let message = match last {
        Some(error) => error.to_string(),
        None => "no Terraform was found".to_owned(),
    };
    Err(Error::NotFound {
        message,
        hint: Some(
            "install Terraform or OpenTofu, or name it with `--terraform PATH` or `TFWRAP_TERRAFORM`"
                .to_owned(),
        ),
    })
}

fn find_set(set: &OsStr, env: &Env, this: Option<FileId>) -> Result<PathBuf, Error> {
    if !set.as_encoded_bytes().contains(&b'/') {
        return search(set, env, this);
    }
    let path = std::path::absolute(set).map_err(|error| Error::NotFound {
        message: format!("`{}`: {error}", set.display()),
        hint: None,
    })?;
    match FileId::of(&path) {
        // As a shell: something is there, but it is no directory.
        None if path.parent().is_some_and(|parent| parent.exists() && !parent.is_dir()) => {
            Err(Error::NotExecutable {
                message: format!("`{}` is not executable: not in a directory", path.display()),
            })
        }
        None => Err(Error::NotFound {
            message: format!("`{}` was not found", path.display()),
            hint: Some("set with `--terraform`, `TFWRAP_TERRAFORM` or `.tfwrap.yaml`".to_owned()),
        }),
        id if id == this => Err(Error::Config {
            message: format!("`{}` is tfwrap itself, not Terraform", path.display()),
            hint: None,
        }),
        Some(_) if !path.is_file() || access(&path, AccessFlags::X_OK).is_err() => {
            Err(Error::NotExecutable { message: format!("`{}` is not executable", path.display()) })
        }
        Some(_) => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn file(path: &Path, mode: u32) -> PathBuf {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, path.to_string_lossy().as_bytes()).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_owned()
    }

    #[test]
    fn tfwrap_itself_and_relative_entries_are_passed_over() {
        let top = tempfile::tempdir().unwrap();
        let me = file(&top.path().join("me/tfwrap"), 0o755);
        std::fs::create_dir(top.path().join("shim")).unwrap();
        symlink(&me, top.path().join("shim/terraform")).unwrap();
        std::fs::hard_link(&me, top.path().join("me/terraform")).unwrap();
        file(&top.path().join("data/terraform"), 0o644);
        std::fs::create_dir_all(top.path().join("dir/terraform")).unwrap();
        let real = file(&top.path().join("real/terraform"), 0o755);
        let dirs = ["shim", "me", "data", "dir", "real"].map(|name| top.path().join(name));
        let path =
            std::env::join_paths(std::iter::once(PathBuf::from(".")).chain(dirs.iter().cloned()))
                .unwrap();
        let env: Env = [(OsString::from("PATH"), path)].into_iter().collect();
        let this = FileId::of(&me);
        assert_eq!(find_terraform(None, None, &env, this), Ok(real.clone()));
        let shim = top.path().join("shim/terraform").into_os_string();
        let error = find_terraform(Some(&shim), None, &env, this).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        let named = real.clone().into_os_string();
        assert_eq!(find_terraform(Some(&named), None, &env, this), Ok(real));
    }

    #[test]
    fn not_found_and_not_executable_are_told_apart() {
        let top = tempfile::tempdir().unwrap();
        file(&top.path().join("terraform"), 0o644);
        // Root may execute what has any x bit; this file has none.
        let env: Env = [("PATH", top.path().as_os_str())].into_iter().collect();
        let error = find_terraform(None, None, &env, None).unwrap_err();
        assert!(matches!(error, Error::NotExecutable { .. }), "{error}");
        let error = find_terraform(None, Some(OsStr::new("tofu")), &env, None).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }) && error.hint().is_some(), "{error}");
    }
}
