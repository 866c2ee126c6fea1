//! `.tfwrap.yaml`: where it is, whether to trust it, and its values with their lines.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use super::source::{Origin, SettingsError, Sourced};
use super::trust::{ConfigFileOrigin, Hands};
use crate::nearest::nearest;
use crate::opened::{self, Kind};

pub(super) const NAME: &str = ".tfwrap.yaml";
/// What it is often called, and is not.
const NEAR: &str = ".tfwrap.yml";
const MOST_BYTES: u64 = 64 * 1024;

/// The keys: the long options' names that make sense in a file, and `unlocked`.
pub(super) const KEYS: [&str; 20] = [
    "lock-timeout",
    "lock",
    "no-backend-lock",
    "lease",
    "no-line",
    "no-history",
    "plan-lock",
    "outdated",
    "summary",
    "on-lock-lost",
    "grace",
    "orphan-grace",
    "max-hold",
    "second-signal",
    "terraform",
    "log-format",
    "quiet",
    "verbose",
    "color",
    "unlocked",
];

/// A configuration file that was read and whose keys are known.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    way: ConfigFileOrigin,
    text: String,
    values: Mapping,
}

/// Finds the nearest file from `dir` up to the first directory with a `.git`; where there is no
/// `.git` above, in `dir` only.
pub(super) fn search(dir: &Path) -> Result<Option<PathBuf>, SettingsError> {
    find(dir, NAME)
}

/// A file that would have been found by its right name. Where that cannot be told, there is none.
pub(super) fn misnamed(dir: &Path) -> Option<PathBuf> {
    find(dir, NEAR).ok().flatten()
}

fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>, SettingsError> {
    let exists = |path: &Path| match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => {
            let message = format!("cannot look for `{}`: {error}", path.display());
            let look = crate::report::shell_quote(&path.to_string_lossy());
            Err(SettingsError::of_file(message).with_hint(format!("check `ls -ld {look}`")))
        }
    };
    let mut candidates = Vec::new();
    let mut in_repository = false;
    for parent in dir.ancestors() {
        candidates.push(parent.join(name));
        if exists(&parent.join(".git"))? {
            in_repository = true;
            break;
        }
    }
    if !in_repository {
        candidates.truncate(1);
    }
    for path in candidates {
        if exists(&path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn hands(metadata: &std::fs::Metadata) -> Hands {
    Hands { owner: metadata.uid(), group: metadata.gid(), mode: metadata.mode() }
}

impl ConfigFile {
    /// Reads one that somebody named: regular, at most 64 KiB, known keys only.
    ///
    /// # Errors
    /// With the file, and the line where there is one.
    pub fn named(path: &Path) -> Result<Self, SettingsError> {
        if path.as_os_str().is_empty() {
            let message = "the name of the configuration file is empty".to_owned();
            return Err(SettingsError::of_file(message)
                .with_hint("name it with `--config` or `TFWRAP_CONFIG`, or leave both out"));
        }
        Self::read(path, None)
    }

    /// Reads one that was found above `dir`, where Terraform works; also, it must be in no more
    /// hands than that.
    ///
    /// # Errors
    /// With the file, and the line where there is one.
    pub fn found(path: &Path, dir: &Path) -> Result<Self, SettingsError> {
        Self::read(path, Some(dir))
    }

    fn read(path: &Path, found_from: Option<&Path>) -> Result<Self, SettingsError> {
        let fail = |what: String| SettingsError::of_file(format!("`{}`: {what}", path.display()));
        let fail = |what: String| {
            let look =
                format!("check `ls -l {}`", crate::report::shell_quote(&path.to_string_lossy()));
            fail(what).with_hint(match found_from {
                Some(_) => look,
                None => format!("{look}; it is named by `--config` or `TFWRAP_CONFIG`"),
            })
        };
        let unreadable = |error| fail(format!("cannot be read: {error}"));
        let opened = opened::to_read(path).map_err(unreadable)?;
        match opened.kind() {
            Kind::Regular => {}
            kind => return Err(fail(format!("is {kind}, not a regular file"))),
        }
        let metadata = &opened.metadata;
        let us = nix::unistd::geteuid().as_raw();
        if let Some(dir) = found_from
            // Without a directory to enter there is no Terraform to lead astray.
            && let Ok(dir) = dir.metadata()
            && let Err(whose) = hands(metadata).check(us, hands(&dir))
        {
            return Err(fail(format!("is not trusted: it {whose}")).with_hint(format!(
                "change its owner or mode (`chown`, `chmod go-w`); or, once you have read it, name it: \
                 `TFWRAP_CONFIG={}`",
                crate::report::shell_quote(&path.to_string_lossy())
            )));
        }
        let Some(bytes) = opened.read_within(MOST_BYTES).map_err(unreadable)? else {
            return Err(fail("is larger than 64 KiB".to_owned()));
        };
        let way =
            if found_from.is_some() { ConfigFileOrigin::Found } else { ConfigFileOrigin::Named };
        Self::parse(path.to_owned(), text_of(path, bytes)?, way)
    }

    fn parse(path: PathBuf, text: String, way: ConfigFileOrigin) -> Result<Self, SettingsError> {
        let fail = |what: String| SettingsError::of_file(format!("`{}`{what}", path.display()));
        let value: Value = serde_yaml::from_str(&text).map_err(|error| {
            // The parser tells where the mapping begins.
            let twice = second_of_a_key(&text).filter(|_| error.to_string().contains("duplicate"));
            let line = twice.or(error.location().map(|at| at.line()));
            match (line, second_document(&text)) {
                (None, Some(line)) => fail(format!(" line {line}: a second document begins here"))
                    .with_hint("merge them into one, without `---` in between"),
                (line, _) => fail(format!(" line {}: {error}", line.unwrap_or(1)))
                    .with_hint(hint_on(&error.to_string())),
            }
        })?;
        let values = match value {
            Value::Null => Mapping::new(),
            Value::Mapping(values) => values,
            _ => {
                return Err(fail(" line 1: must be a mapping of keys and values".to_owned())
                    .with_hint("write one key and value per line, such as `lock-timeout: 45m`"));
            }
        };
        let file = Self { path, way, text, values };
        for key in file.values.keys() {
            let Some(name) = key.as_str() else {
                return Err(file
                    .error_at_line(1, "keys must be words")
                    .with_hint("write one key and value per line, such as `lock-timeout: 45m`"));
            };
            if !KEYS.contains(&name) {
                let known = KEYS.map(|key| format!("`{key}`")).join(", ");
                let hint = match nearest(name, KEYS) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("correct or remove `{name}`"),
                };
                return Err(file
                    .error(name, format!("unknown key `{name}`; known are {known}"))
                    .with_hint(hint));
            }
        }
        Ok(file)
    }

    /// The one value of a key, as text.
    pub(super) fn scalar(&self, name: &str) -> Result<Option<Sourced<String>>, SettingsError> {
        match self.values.get(name) {
            None => Ok(None),
            Some(value) => self.text(name, value).map(Some),
        }
    }

    /// The list under a key; a single value is a list of one.
    pub(super) fn list(&self, name: &str) -> Result<Vec<Sourced<String>>, SettingsError> {
        match self.values.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Sequence(values)) => {
                let item = |value| {
                    let mut text = self.text(name, value)?;
                    let line = self.line_of_item(name, &text.value);
                    text.origin = Origin::File { path: self.path.clone(), line };
                    Ok(text)
                };
                values.iter().map(item).collect()
            }
            Some(value) => Ok(vec![self.text(name, value)?]),
        }
    }

    fn text(&self, name: &str, value: &Value) -> Result<Sourced<String>, SettingsError> {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            Value::Null => {
                return Err(self
                    .error(name, format!("`{name}` has no value"))
                    .with_hint(format!("write `{name}: VALUE`, or remove the line")));
            }
            _ => {
                return Err(self
                    .error(name, format!("`{name}` must be a single value"))
                    .with_hint(format!("write it on one line: `{name}: VALUE`")));
            }
        };
        Ok(Sourced { value, origin: self.origin(name) })
    }

    /// Whether the value of `name` may stand here, if it does.
    pub(super) fn check(
        &self,
        name: &str,
        origin: &Origin,
        allowed: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), SettingsError> {
        if self.way == ConfigFileOrigin::Named || !matches!(origin, Origin::File { .. }) {
            return Ok(());
        }
        allowed().map_err(|what| {
            SettingsError::at(origin, what).with_hint(format!(
                "such a file may come with a pull request: set `{}` instead, or name a file that \
                 no pull request can change with `TFWRAP_CONFIG`",
                super::source::variable(name)
            ))
        })
    }

    fn origin(&self, name: &str) -> Origin {
        Origin::File { path: self.path.clone(), line: self.line_of(name) }
    }

    fn error(&self, name: &str, what: String) -> SettingsError {
        self.error_at_line(self.line_of(name), what)
    }

    fn error_at_line(&self, line: usize, what: impl std::fmt::Display) -> SettingsError {
        SettingsError::at(&Origin::File { path: self.path.clone(), line }, what)
    }

    /// The line of one of a key's values; that of the key where the item is written otherwise.
    fn line_of_item(&self, name: &str, item: &str) -> usize {
        let key = self.line_of(name);
        let lines = self.text.lines().enumerate().skip(key - 1);
        lines.into_iter().find(|(_, line)| line.contains(item)).map_or(key, |(index, _)| index + 1)
    }

    /// The line of a top-level key; the first where the file is written in flow style.
    fn line_of(&self, name: &str) -> usize {
        let is_key = |line: &str| {
            let line = line.trim_start_matches(['{', ' ']);
            ["", "\"", "'"].iter().any(|quote| {
                line.strip_prefix(quote)
                    .and_then(|line| line.strip_prefix(name))
                    .and_then(|line| line.strip_prefix(quote))
                    .is_some_and(|line| line.trim_start().starts_with(':'))
            })
        };
        self.text.lines().position(is_key).map_or(1, |index| index + 1)
    }
}

/// What helps with a text that is no YAML. The library tells its errors apart by their words alone.
fn hint_on(error: &str) -> &'static str {
    if error.contains("duplicate") {
        "keep only one of them"
    } else if error.contains("cannot start any token") || error.contains("a tab character") {
        "indent with spaces, not tabs, and quote a value that begins with a special character"
    } else {
        "write one key and value per line, such as `lock-timeout: 45m`, and quote a value that \
         contains YAML's special characters"
    }
}

fn text_of(path: &Path, bytes: Vec<u8>) -> Result<String, SettingsError> {
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        let origin = Origin::File { path: path.to_owned(), line };
        SettingsError::at(&origin, "is not UTF-8").with_hint("save it as UTF-8")
    })
}

/// Where a key at the start of a line stands for the second time.
fn second_of_a_key(text: &str) -> Option<usize> {
    let mut seen = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some((key, _)) = line.split_once(':') else { continue };
        let key = key.trim_end().trim_matches(['"', '\'']);
        if KEYS.contains(&key) && seen.contains(&key) {
            return Some(index + 1);
        }
        seen.push(key);
    }
    None
}

/// The line of the `---` that ends a first document.
fn second_document(text: &str) -> Option<usize> {
    let is_content = |line: &str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
    };
    let mut lines = text.lines().enumerate().filter(|(_, line)| is_content(line));
    lines.next();
    lines.find(|(_, line)| line.starts_with("---")).map(|(index, _)| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile, SettingsError> {
        ConfigFile::parse(PathBuf::from(".tfwrap.yaml"), text.to_owned(), ConfigFileOrigin::Named)
    }

    #[test]
    fn values_know_their_line() {
        let file = parse("# ours\nlock-timeout: 5m\n\nunlocked: [plan, refresh]\n").unwrap();
        let value = file.scalar("lock-timeout").unwrap().unwrap();
        assert_eq!(value.value, "5m");
        assert_eq!(value.origin.to_string(), "`.tfwrap.yaml` line 2");
        let list = file.list("unlocked").unwrap();
        assert_eq!(list.iter().map(|v| v.value.as_str()).collect::<Vec<_>>(), ["plan", "refresh"]);
        assert_eq!(list[0].origin.to_string(), "`.tfwrap.yaml` line 4");
        assert_eq!(file.scalar("lease").unwrap(), None);
        assert!(parse("").unwrap().list("lock").unwrap().is_empty());
    }

    #[test]
    fn mistakes_name_file_and_line() {
        for (text, line, what) in [
            ("lease: never\nlok: x\n", 2, "unknown key `lok`"),
            ("lease: never\n# x\n\"lease\" : 5m\n", 3, "duplicate entry with key \"lease\""),
            ("lease: [\n", 2, ""),
            ("lease: 5m\n\tquiet: true\n", 2, ""),
            ("lease: *x\n", 1, ""),
            ("1: a\n", 1, "keys must be words"),
            ("---\nlease: 5m\n\n---\nquiet: true\n", 4, "a second document"),
            ("- a\n", 1, "mapping"),
            ("\n\nlease: {a: b}\n", 3, "single value"),
            ("chdir: x\n", 1, "unknown key `chdir`"),
        ] {
            let error = parse(text).and_then(|file| file.scalar("lease")).unwrap_err();
            assert!(error.hint.is_some(), "{text:?}: {error}");
            let error = error.to_string();
            assert!(error.contains(&format!("`.tfwrap.yaml` line {line}")), "{text:?}: {error}");
            assert!(error.contains(what), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_search_ends_at_the_repository() {
        let top = tempfile::tempdir().unwrap();
        let deep = top.path().join("repo/a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(top.path().join(NAME), "").unwrap();
        assert_eq!(search(&deep).unwrap(), None, "no repository: only the directory itself");
        std::fs::create_dir(top.path().join("repo/.git")).unwrap();
        assert_eq!(search(&deep).unwrap(), None, "not above the repository");
        std::fs::write(top.path().join("repo").join(NAME), "").unwrap();
        assert_eq!(search(&deep).unwrap(), Some(top.path().join("repo").join(NAME)));
        std::fs::write(deep.join(NAME), "").unwrap();
        assert_eq!(search(&deep).unwrap(), Some(deep.join(NAME)));
    }

    #[test]
    fn what_is_no_regular_small_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ConfigFile::named(dir.path()).unwrap_err().message.contains("regular"));
        let path = dir.path().join(NAME);
        assert!(ConfigFile::named(&path).unwrap_err().message.contains("cannot be read"));
        std::fs::write(&path, "#".repeat(65_537)).unwrap();
        assert!(ConfigFile::named(&path).unwrap_err().message.contains("64 KiB"));
        std::fs::write(&path, b"lease: never\n# gr\xfcn\n").unwrap();
        let error = ConfigFile::named(&path).unwrap_err().to_string();
        assert!(error.ends_with(".tfwrap.yaml` line 2: is not UTF-8"), "{error}");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(ConfigFile::named(&fifo).unwrap_err().message.contains("regular"));
    }
}
