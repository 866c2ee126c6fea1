//! Which workspace Terraform will use.

use std::ffi::OsStr;
use std::path::Path;

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
}

/// Finds the workspace: `named` (what `workspace delete` was told), else `TF_WORKSPACE`, else the
/// data directory's `environment`, else `default`.
pub(super) fn select(
    named: Option<&OsStr>,
    env: &Env,
    data_dir: &Path,
) -> Result<Workspace, BackendError> {
    if let Some(name) = named {
        return checked(name, "the command");
    }
    if let Some(name) = env.get_os("TF_WORKSPACE") {
        return checked(name, "`TF_WORKSPACE`");
    }
    let path = data_dir::environment(data_dir);
    let origin = format!("`{}`", path.display());
    let Some(bytes) = read::optional(&path)? else { return Ok(fallback()) };
    let name = String::from_utf8(bytes).map_err(|error| BackendError::BadWorkspace {
        name: String::from_utf8_lossy(error.as_bytes()).trim().to_owned(),
        origin: origin.clone(),
    })?;
    // Not checked further: Terraform takes what stands there as it is.
    match name.trim() {
        "" => Ok(fallback()),
        name => Ok(Workspace { name: name.to_owned(), origin }),
    }
}

fn fallback() -> Workspace {
    Workspace { name: DEFAULT.to_owned(), origin: "no other one is selected".to_owned() }
}

fn checked(name: &OsStr, origin: &str) -> Result<Workspace, BackendError> {
    match name.to_str().filter(|name| is_valid(name)) {
        Some(name) => Ok(Workspace { name: name.to_owned(), origin: origin.to_owned() }),
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
    use std::os::unix::ffi::OsStrExt;

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
                "error: `TF_WORKSPACE` names the workspace `{name}`, which is no valid name"
            );
            assert_eq!(selected(None, Some(name), None), error);
            assert!(selected(Some(name), None, None).starts_with("error: the command names"));
        }
        for name in ["..", "a$b&c+d=e:f@g", "A-Z_0.9~"] {
            assert_eq!(selected(None, Some(name), None), name);
        }
    }

    #[test]
    fn a_name_that_is_no_text_is_an_error_and_not_the_default() {
        assert!(selected(None, None, Some(b"\xff")).starts_with("error: "));
        let env = Env::from_iter([("TF_WORKSPACE", OsStr::from_bytes(b"\xff"))]);
        assert!(select(None, &env, Path::new("/nowhere")).is_err());
    }
}
