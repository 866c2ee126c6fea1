//! The backend that a directory's configuration declares, for a directory that is not initialised.
//!
//! Read only where the data directory records no backend: what `terraform init` was told beside
//! the files is not in them. Only files in which `backend` or `cloud` can begin a block are
//! parsed, so that a file which Terraform reads and this parser does not hardly ever matters.

mod json;
mod native;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{BackendError, Dialect, read};

/// A backend as declared.
#[derive(Debug)]
pub(super) struct Declared {
    /// Its type; `cloud` for a `cloud` block.
    pub(super) kind: String,
    /// File and, where known, line, in backticks.
    pub(super) place: String,
    /// Its attributes, if all of them are literal values.
    pub(super) attributes: Result<Map<String, Value>, BackendError>,
}

/// Whether there are files here that only `OpenTofu` reads.
#[must_use]
pub fn has_tofu_files(dir: &Path) -> bool {
    let names = |dialect| configuration_files(dir, dialect).unwrap_or_default();
    names(Dialect::OpenTofu) != names(Dialect::Terraform)
}

/// Finds the backend that the configuration in `dir` declares. Override files win, as with
/// Terraform.
pub(super) fn find(dir: &Path, dialect: Dialect) -> Result<Option<Declared>, BackendError> {
    let mut found: Option<Declared> = None;
    let mut overridden: Option<Declared> = None;
    for name in configuration_files(dir, dialect)? {
        let path = dir.join(&name);
        for declared in declared_in(&path)? {
            if is_override(&name) {
                overridden = Some(declared);
            } else if let Some(first) = &found {
                return Err(BackendError::BadHcl {
                    place: declared.place,
                    reason: format!("a second backend; the first one is in {}", first.place),
                });
            } else {
                found = Some(declared);
            }
        }
    }
    Ok(overridden.or(found))
}

fn declared_in(path: &Path) -> Result<Vec<Declared>, BackendError> {
    let Some(bytes) = read::optional(path)? else { return Ok(Vec::new()) };
    if !may_begin_block(&bytes, b"backend") && !may_begin_block(&bytes, b"cloud") {
        return Ok(Vec::new());
    }
    let text = String::from_utf8(bytes).map_err(|_| BackendError::BadHcl {
        place: format!("`{}`", path.display()),
        reason: "it is not UTF-8".to_owned(),
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if path.extension().is_some_and(|extension| extension == "json") {
        json::declared(path, text)
    } else {
        native::declared(path, text)
    }
}

/// Whether `word` stands somewhere as a word of its own and before a label, a body or a comment;
/// in JSON, before a closing quote.
fn may_begin_block(text: &[u8], word: &[u8]) -> bool {
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
    text.windows(word.len()).enumerate().any(|(at, part)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        let next = after.iter().find(|byte| !byte.is_ascii_whitespace());
        part == word
            && !before.last().is_some_and(in_name)
            && !after.first().is_some_and(in_name)
            && next.is_some_and(|next| in_name(next) || !next.is_ascii() || b"\"{/#".contains(next))
    })
}

/// The names of the files that make up the configuration, sorted.
fn configuration_files(dir: &Path, dialect: Dialect) -> Result<Vec<String>, BackendError> {
    let unreadable = |source| BackendError::Unreadable { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        // A name that is no text is none of a configuration file that people write.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if split(&name, dialect).is_some() && is_file(&dir.join(&name))? {
            names.push(name);
        }
    }
    names.sort();
    // For `OpenTofu`, `x.tofu` stands in the place of `x.tf`.
    let all = names.clone();
    names.retain(|name| match split(name, dialect) {
        Some((stem, ".tf")) => !all.contains(&format!("{stem}.tofu")),
        Some((stem, ".tf.json")) => !all.contains(&format!("{stem}.tofu.json")),
        _ => true,
    });
    Ok(names)
}

/// Whether there is anything for Terraform or `OpenTofu` to do in the directory; also where that
/// cannot be known.
#[must_use]
pub fn has_configuration(dir: &Path) -> bool {
    configuration_files(dir, Dialect::OpenTofu).map_or(true, |names| !names.is_empty())
}

/// Whether it is a file after links are followed; a dangling link is none.
fn is_file(path: &PathBuf) -> Result<bool, BackendError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_file()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(BackendError::Unreadable { path: path.clone(), source }),
    }
}

/// Splits the name of a configuration file into stem and extension; nothing for other files, and
/// for those that editors leave behind.
fn split(name: &str, dialect: Dialect) -> Option<(&str, &str)> {
    let left_behind = name.starts_with('.')
        || name.ends_with('~')
        || (name.starts_with('#') && name.ends_with('#'));
    if left_behind {
        return None;
    }
    let extensions: &[&str] = match dialect {
        Dialect::Terraform => &[".tf", ".tf.json"],
        Dialect::OpenTofu => &[".tf", ".tf.json", ".tofu", ".tofu.json"],
    };
    extensions.iter().find_map(|extension| Some((name.strip_suffix(extension)?, *extension)))
}

fn is_override(name: &str) -> bool {
    split(name, Dialect::OpenTofu)
        .is_some_and(|(stem, _)| stem == "override" || stem.ends_with("_override"))
}

#[cfg(test)]
mod tests;
