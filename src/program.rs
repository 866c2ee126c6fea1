//! Which binary a name means: the search along `PATH` that never finds tfwrap itself; and which of
//! the two programs it is.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use crate::env::Env;
use crate::error::Error;
use crate::file_id::FileId;
use crate::opened::{self, Kind};
use crate::report::{shell_command, shell_quote};
use crate::settings::{Origin, Sourced};
use crate::supervise;
use crate::terraform::Dialect;

/// As much of a script's first line as the kernel reads, in bytes.
const LONGEST_FIRST_LINE: u64 = 256;

/// Whose flags and files count: told by the name of what the path leads to, else by its own; where
/// neither tells and it `matters`, by what the binary says of itself.
pub fn dialect(program: &Path, matters: impl FnOnce() -> bool) -> Dialect {
    static ASKED: Mutex<Option<(PathBuf, Dialect)>> = Mutex::new(None);
    if let Some(dialect) = dialect_of_name(program) {
        return dialect;
    }
    if !matters() {
        return Dialect::default();
    }
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*asked {
        Some((known, dialect)) if known == program => *dialect,
        _ => {
            let answer = supervise::first_words(program, "version").unwrap_or_default();
            let dialect =
                if answer.contains("OpenTofu") { Dialect::OpenTofu } else { Dialect::Terraform };
            *asked = Some((program.to_owned(), dialect));
            dialect
        }
    }
}

/// Nothing where no name tells.
fn dialect_of_name(program: &Path) -> Option<Dialect> {
    let target = program.canonicalize().ok();
    target.iter().map(PathBuf::as_path).chain([program]).find_map(|path| {
        let name = path.file_name()?.to_string_lossy();
        if name.starts_with("tofu") || name.starts_with("opentofu") {
            return Some(Dialect::OpenTofu);
        }
        name.starts_with("terraform").then_some(Dialect::Terraform)
    })
}

/// Searches `PATH` for a command, passing over tfwrap itself.
///
/// A relative entry is not searched: what stands there depends on where one is, and a Terraform
/// starts others elsewhere. A shell does search it, so whatever the shell would find there is not
/// passed over in silence.
///
/// # Errors
/// Not found, found only where it cannot be executed, or another one is first for the shell.
pub fn search(name: &OsStr, env: &Env, this: Option<FileId>) -> Result<PathBuf, Error> {
    let path = env.get_os("PATH").map(OsStr::to_os_string).unwrap_or_default();
    let (mut refused, mut relative) = (None, None);
    for dir in std::env::split_paths(&path) {
        // An empty entry is the working directory.
        let candidate =
            if dir.as_os_str().is_empty() { Path::new(".").join(name) } else { dir.join(name) };
        let Some(id) = FileId::of(&candidate) else { continue };
        if Some(id) == this || !candidate.is_file() {
            continue;
        }
        match (access(&candidate, AccessFlags::X_OK), dir.is_absolute()) {
            (Ok(()), true) => return not_before(relative, candidate),
            (Ok(()), false) => relative = relative.or(Some(candidate)),
            (Err(_), true) => refused = refused.or(Some(candidate)),
            (Err(_), false) => {}
        }
    }
    match (relative, refused) {
        (Some(relative), _) => {
            let relative = relative.display().to_string();
            let quoted = shell_command(&[&relative]);
            Err(Error::NotFound {
                message: format!(
                    "`{}` was not found on PATH: `{relative}` is there through a relative entry, \
                     which tfwrap does not follow",
                    name.display()
                ),
                hint: Some(format!(
                    "name it with `--terraform {quoted}` or `TFWRAP_TERRAFORM`, or make the entry \
                     of PATH absolute"
                )),
            })
        }
        (None, Some(path)) => {
            let path = path.display().to_string();
            Err(Error::NotExecutable {
                message: format!("`{path}` is not executable"),
                hint: Some(format!(
                    "make it executable with `{}`",
                    shell_command(&["chmod", "+x", &path])
                )),
            })
        }
        (None, None) => Err(Error::NotFound {
            message: format!("`{}` was not found on PATH", name.display()),
            hint: None,
        }),
    }
}

/// What was found, unless a shell runs another one.
fn not_before(relative: Option<PathBuf>, found: PathBuf) -> Result<PathBuf, Error> {
    let Some(relative) = relative else { return Ok(found) };
    let (relative, found) = (relative.display().to_string(), found.display().to_string());
    Err(Error::Config {
        message: format!(
            "a shell runs `{relative}`, which is on PATH through a relative entry; tfwrap does not \
             follow such entries and would run `{found}`"
        ),
        hint: Some(format!(
            "choose one with `--terraform {}` or `--terraform {}` (or `TFWRAP_TERRAFORM`), or make \
             the PATH entry absolute",
            shell_command(&[&relative]),
            shell_command(&[&found])
        )),
    })
}

/// Whether a shell finds the command on `PATH`, where `search` will, or will say why not.
#[must_use]
pub fn is_on_path(name: &OsStr, env: &Env, this: Option<FileId>) -> bool {
    match search(name, env, this) {
        Ok(_) | Err(Error::Config { .. }) => true,
        Err(Error::NotFound { hint, .. }) => hint.is_some(),
        Err(_) => false,
    }
}

/// What is known before of a command that cannot be started, by the rules of `execvp(3)`. Nobody need
/// wait for a lock to learn it.
///
/// # Errors
/// There is none, or none that can be executed; where nothing tells, that is no error.
pub fn expect_startable(name: &OsStr, env: &Env) -> Result<(), Error> {
    let shown = name.to_string_lossy();
    if name.as_encoded_bytes().contains(&b'/') {
        let path = Path::new(name);
        if path.try_exists().unwrap_or(true) {
            return obstacle(path).map_or(Ok(()), |it| Err(it.of(path)));
        }
        let hint = Some(format!("check `ls -l {}`", shell_quote(&shown)));
        return Err(Error::NotFound { message: format!("`{shown}` is not found"), hint });
    }
    // Without PATH, the system has one of its own.
    let Some(path) = env.get_os("PATH") else { return Ok(()) };
    let mut refused = None;
    for candidate in std::env::split_paths(path).map(|dir| dir.join(name)) {
        if !candidate.try_exists().unwrap_or(true) {
            continue;
        }
        match obstacle(&candidate) {
            None => return Ok(()),
            // No shell calls that a command.
            Some(Obstacle::Kind(_)) => {}
            Some(it) => refused = refused.or(Some(it.of(&candidate))),
        }
    }
    Err(refused.unwrap_or_else(|| Error::NotFound {
        message: format!("`{shown}` is not found"),
        hint: Some("check its name, and the directories on PATH".to_owned()),
    }))
}

/// Why a file that is there cannot be executed.
enum Obstacle {
    Kind(Kind),
    Mode,
    Interpreter(PathBuf),
}

impl Obstacle {
    fn of(&self, path: &Path) -> Error {
        let quoted = shell_quote(&path.to_string_lossy());
        let (why, hint) = match self {
            Self::Kind(kind) => (format!("it is {kind}"), format!("check `ls -ld {quoted}`")),
            Self::Mode => (
                "its mode, or that of the file system, does not allow it".to_owned(),
                format!("make it executable with `chmod +x {quoted}`"),
            ),
            Self::Interpreter(it) => {
                let it = it.to_string_lossy();
                let hint = if it.ends_with('\r') {
                    format!("save it with the line ends of Unix: `sed -i 's/\\r$//' {quoted}`")
                } else {
                    format!("install it, or correct the first line of {quoted}")
                };
                (format!("its interpreter `{}` does not exist", it.escape_debug()), hint)
            }
        };
        let message = format!("`{}` cannot be executed: {why}", path.display());
        Error::NotExecutable { message, hint: Some(hint) }
    }
}

fn obstacle(path: &Path) -> Option<Obstacle> {
    match path.metadata().ok().map(|it| Kind::of(it.file_type()))? {
        Kind::Regular => {}
        kind => return Some(Obstacle::Kind(kind)),
    }
    if access(path, AccessFlags::X_OK) == Err(Errno::EACCES) {
        return Some(Obstacle::Mode);
    }
    let interpreter = interpreter(path)?;
    let is_missing = !interpreter.try_exists().unwrap_or(true);
    is_missing.then_some(Obstacle::Interpreter(interpreter))
}

/// What the kernel starts for a script, by its first line (`execve(2)`, "Interpreter scripts"); nothing of
/// one that cannot be read, or that is none.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    let script = opened::to_read(path).ok()?.regular().ok()?;
    script.take(LONGEST_FIRST_LINE).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let name = line.trim_ascii_start().split(is_space).next()?;
    // One that goes on, or that is cut off, is left to the kernel.
    let is_whole = !name.is_empty() && line.len() < start.len() - 2 && !name.contains(&0);
    is_whole.then(|| PathBuf::from(OsStr::from_bytes(name)))
}

/// Finds Terraform: the one that was set, else the one tfwrap was called as, else `terraform`,
/// else `tofu`.
///
/// # Errors
/// Not found, not executable, or tfwrap itself.
pub fn find_terraform(
    set: Option<&Sourced<OsString>>,
    called_as: Option<&OsStr>,
    env: &Env,
    this: Option<FileId>,
) -> Result<PathBuf, Error> {
    if let Some(Sourced { value, origin }) = set {
        return find_set(value, env, this).map_err(|error| set_by(error, origin));
    }
    let names: &[&OsStr] = match &called_as {
        Some(name) => std::slice::from_ref(name),
        None => &[OsStr::new("terraform"), OsStr::new("tofu")],
    };
    let mut last = None;
    for name in names {
        match search(name, env, this) {
            Err(error @ Error::NotFound { hint: None, .. }) => last = last.or(Some(error)),
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

/// The same error with who named the program, and what to do about that.
fn set_by(error: Error, origin: &Origin) -> Error {
    let instead = "`terraform`, else `tofu`, on PATH is run instead";
    let hint = Some(match origin {
        Origin::Env(name) => format!("correct `{name}`, or unset it: {instead}"),
        Origin::File { .. } => format!("correct or remove that line: without it {instead}"),
        Origin::Flag(name) | Origin::Argument(name) => {
            format!("correct `{name}`, or leave it out: {instead}")
        }
        Origin::Default => return error,
    });
    let message = format!("{origin}: {error}");
    match error {
        Error::NotFound { .. } => Error::NotFound { message, hint },
        Error::NotExecutable { .. } => Error::NotExecutable { message, hint },
        Error::Config { hint: None, .. } => Error::Config { message, hint },
        error => error,
    }
}

/// The error of a program that could not be started, with who named it if somebody did.
#[must_use]
pub fn named(error: Error, program: &Path, set: Option<&Sourced<OsString>>) -> Error {
    let is_set = |value: &OsStr| {
        let is_one = std::path::absolute(value).is_ok_and(|path| path == program);
        is_one || program.file_name() == Some(value)
    };
    match set {
        Some(Sourced { value, origin }) if is_set(value) => set_by(error, origin),
        _ => error,
    }
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
                hint: None,
            })
        }
        None => Err(Error::NotFound {
            message: format!("`{}` was not found", path.display()),
            hint: None,
        }),
        id if id == this => Err(Error::Config {
            message: format!("`{}` is tfwrap itself, not Terraform", path.display()),
            hint: None,
        }),
        Some(_) if !path.is_file() || access(&path, AccessFlags::X_OK).is_err() => {
            let why = match path.metadata().map(|it| Kind::of(it.file_type())) {
                Ok(kind) if kind != Kind::Regular => format!("it is {kind}"),
                _ => "its mode does not allow it (`chmod +x`)".to_owned(),
            };
            let message = format!("`{}` is not executable: {why}", path.display());
            Err(Error::NotExecutable { message, hint: None })
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
    fn tfwrap_itself_is_passed_over() {
        let top = tempfile::tempdir().unwrap();
        let me = file(&top.path().join("me/tfwrap"), 0o755);
        std::fs::create_dir(top.path().join("shim")).unwrap();
        symlink(&me, top.path().join("shim/terraform")).unwrap();
        std::fs::hard_link(&me, top.path().join("me/terraform")).unwrap();
        file(&top.path().join("data/terraform"), 0o644);
        std::fs::create_dir_all(top.path().join("dir/terraform")).unwrap();
        let real = file(&top.path().join("real/terraform"), 0o755);
        let dirs = ["shim", "me", "data", "dir", "real"].map(|name| top.path().join(name));
        // A relative entry with nothing in it changes nothing.
        let path = std::env::join_paths(
            [PathBuf::new(), PathBuf::from("no-such")].into_iter().chain(dirs.iter().cloned()),
        )
        .unwrap();
        let env: Env = [(OsString::from("PATH"), path)].into_iter().collect();
        let this = FileId::of(&me);
        assert_eq!(find_terraform(None, None, &env, this), Ok(real.clone()));
        let set = |path: &Path| Sourced {
            value: path.to_owned().into_os_string(),
            origin: Origin::Env("TFWRAP_TERRAFORM".to_owned()),
        };
        let shim = set(&top.path().join("shim/terraform"));
        let error = find_terraform(Some(&shim), None, &env, this).unwrap_err();
        assert!(matches!(error, Error::Config { hint: Some(_), .. }), "{error}");
        assert!(error.to_string().starts_with("`TFWRAP_TERRAFORM`: `"), "{error}");
        assert_eq!(find_terraform(Some(&set(&real)), None, &env, this), Ok(real));
    }

    #[test]
    fn the_name_of_what_a_link_leads_to_tells_the_dialect() {
        let top = tempfile::tempdir().unwrap();
        for (file_name, link, expected) in [
            ("tofu1.9.0", "terraform", Some(Dialect::OpenTofu)),
            ("terraform-bin", "tofu", Some(Dialect::Terraform)),
            ("opentofu", "tf", Some(Dialect::OpenTofu)),
            ("tenv", "tofu", Some(Dialect::OpenTofu)),
            ("tenv", "tf", None),
        ] {
            let dir = top.path().join(format!("{file_name}-{link}"));
            let target = file(&dir.join(file_name), 0o755);
            symlink(&target, dir.join(link)).unwrap();
            assert_eq!(dialect_of_name(&dir.join(link)), expected, "{link} -> {file_name}");
        }
    }

    #[test]
    fn what_cannot_be_started_is_known_before() {
        let top = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = file(&top.path().join(name), 0o755);
            std::fs::write(&path, text).unwrap();
            path
        };
        let env: Env = [("PATH", top.path().as_os_str())].into_iter().collect();
        let said = |name: &OsStr| match expect_startable(name, &env) {
            Ok(()) => String::new(),
            Err(error) => format!("{error}; {}", error.hint().unwrap()),
        };
        for text in ["#!/bin/sh\n", "#! /bin/sh -e\n", "#!\n", "", "#!/no/such", "\x7fELF"] {
            let path = script("good", text);
            assert_eq!([said(path.as_os_str()), said("good".as_ref())], ["", ""], "{text:?}");
        }
        let mode = file(&top.path().join("mode"), 0o644);
        for (path, parts) in [
            (script("gone", "#!/no/such -x\n"), ["interpreter `/no/such` does not", "first line"]),
            (script("crlf", "#!/bin/sh\r\n"), ["interpreter `/bin/sh\\r` does not", "sed -i"]),
            (mode, ["mode", "chmod +x "]),
            (top.path().to_owned(), ["it is a directory", "ls -ld"]),
            (top.path().join("none"), ["is not found", "ls -l "]),
        ] {
            let said = said(path.as_os_str());
            assert!(parts.iter().all(|it| said.contains(it)), "{said}");
        }
        let whole = said("gone".as_ref());
        assert!(whole.contains("/gone` cannot be executed: its interpreter"), "{whole}");
        // What comes later on PATH is found, as by the system.
        let other = top.path().join("other");
        file(&other.join("mode"), 0o755);
        let both = std::env::join_paths([top.path(), &other]).unwrap();
        let env: Env = [(OsString::from("PATH"), both)].into_iter().collect();
        assert_eq!(expect_startable("mode".as_ref(), &env), Ok(()));
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
