//! Which workspace Terraform will use.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{BackendError, data_dir, read};
use crate::env::Env;

/// The workspace that exists always.
pub(super) const DEFAULT: &str = "default";

/// A workspace and where its name comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Its name.
    pub name: String,
    /// Where it was named, for people.
    pub origin: String,
    /// The file in which it was looked for, if it was.
    pub file: Option<PathBuf>,
}

/// Finds the workspace: `named` (what `workspace delete` was told), else `TF_WORKSPACE`, else the
/// data directory's `environment`, else `default`. Of these, Terraform checks `TF_WORKSPACE` alone.
pub(super) fn select(
    named: Option<&OsStr>,
    env: &Env,
    data_dir: &Path,
) -> Result<Workspace, BackendError> {
    if let Some(name) = named {
        let (name, origin) = (text(name.as_bytes()), "the command".to_owned());
        return Ok(Workspace { name, origin, file: None });
    }
    if let Some(name) = env.get_os("TF_WORKSPACE") {
        return checked(name, "`TF_WORKSPACE`");
    }
    let path = data_dir::environment(data_dir);
    let (name, origin) = match read::optional(&path) {
        Ok(bytes) => match text(&bytes.unwrap_or_default()).trim() {
            "" => (DEFAULT.to_owned(), "no other one is selected".to_owned()),
            name => (name.to_owned(), format!("`{}`", path.display())),
        },
        // A directory, or not ours to read: for Terraform nothing is selected then.
        Err(error @ BackendError::Unreadable { .. }) => (DEFAULT.to_owned(), error.to_string()),
        Err(error) => return Err(error),
    };
    Ok(Workspace { name, origin, file: Some(path) })
}

/// With a sign of its own for what is no text.
fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Whether the lock of a workspace of this name can be known: Terraform puts any bytes into the
/// name of a file, and what it makes of them elsewhere is its own affair.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['\0', char::REPLACEMENT_CHARACTER])
}

fn checked(name: &OsStr, origin: &str) -> Result<Workspace, BackendError> {
    match name.to_str().filter(|name| is_valid(name)) {
        Some(name) => {
            Ok(Workspace { name: name.to_owned(), origin: origin.to_owned(), file: None })
        }
        None => Err(BackendError::BadWorkspace {
            name: name.to_string_lossy().into_owned(),
            origin: origin.to_owned(),
        }),
    }
}

/// Whether Go's `url.PathEscape` leaves the name as it is, which is Terraform's rule.
fn is_valid(name: &str) -> bool {
    let stays = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+=:@".contains(&byte);
    !name.is_empty() && name.bytes().all(stays)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(named: Option<&str>, variable: Option<&str>, file: Option<&[u8]>) -> String {
        let dir = tempfile::tempdir().unwrap();
        if let Some(file) = file {
            std::fs::write(dir.path().join("environment"), file).unwrap();
        }
        let env = Env::from_iter(variable.map(|value| ("TF_WORKSPACE", value)));
        match select(named.map(OsStr::new), &env, dir.path()) {
            Ok(workspace) => workspace.name,
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn the_workspace_is_the_named_the_variables_the_files_or_the_default() {
        for (named, variable, file, expected) in [
            (None, None, None, "default"),
            (None, None, Some(&b""[..]), "default"),
            (None, None, Some(b" \n"), "default"),
            (None, None, Some(b" blue \n"), "blue"),
            (None, None, Some(b"a/b"), "a/b"),
            (None, Some(""), Some(b"blue"), "blue"),
            (None, Some("red"), Some(b"blue"), "red"),
            (Some("old"), Some("red"), Some(b"blue"), "old"),
        ] {
            assert_eq!(
                selected(named, variable, file),
                expected,
                "{named:?} {variable:?} {file:?}"
            );
        }
    }

    #[test]
    fn a_name_that_terraform_refuses_is_refused() {
        for name in ["a/b", "a b", "ü", "a%20b", "a?b", "a,b", "a;b", "(a)"] {
            let error = format!(
                "error: `TF_WORKSPACE` names the workspace `{name}`, which is not a valid name"
            );
            assert_eq!(selected(None, Some(name), None), error);
            assert_eq!(selected(Some(name), None, None), name, "it may be there to be deleted");
        }
        for name in ["..", "a$b&c+d=e:f@g", "A-Z_0.9~"] {
            assert_eq!(selected(None, Some(name), None), name);
        }
    }

    #[test]
    fn a_file_that_terraform_cannot_read_selects_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("environment")).unwrap();
        let workspace = select(None, &Env::default(), dir.path()).unwrap();
        assert_eq!(workspace.name, DEFAULT);
        assert!(workspace.origin.contains("environment` cannot be read: "), "{workspace:?}");
    }

    #[test]
    fn a_name_that_is_no_text_is_known_for_one_and_not_the_default() {
        for name in [&b"\xff"[..], b"a\0b", b"caf\xe9"] {
            let name = selected(None, None, Some(name));
            assert!(name != DEFAULT && !is_plain(&name), "{name:?}");
        }
        assert!(is_plain("a b") && is_plain("..") && !is_plain(""));
        let env = Env::from_iter([("TF_WORKSPACE", OsStr::from_bytes(b"\xff"))]);
        assert!(select(None, &env, Path::new("/nowhere")).is_err());
    }
}
