//! The backend that a directory's configuration declares, for a directory that is not initialised.
//!
//! Read only where the data directory records no backend: what `terraform init` was told beside
//! the files is not in them. Of the files, only the blocks in question are read. Where one is missed
//! that Terraform sees, it refuses to run before it asks for any lock.

mod decimal;
mod json;
mod native;
mod scan;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
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
    let (mut found, mut overridden): (Option<Declared>, Option<Declared>) = (None, None);
    for name in configuration_files(dir, dialect)? {
        let path = dir.join(&name);
        let mut of_override = None;
        let place = if is_override(name.as_bytes()) { &mut of_override } else { &mut found };
        for declared in declared_in(&path, dialect)? {
            if let Some(first) = place {
                let reason = format!("a second backend; the first one is in {}", first.place);
                return Err(BackendError::BadHcl { place: declared.place, reason });
            }
            *place = Some(declared);
        }
        overridden = of_override.or(overridden);
    }
    Ok(overridden.or(found))
}

fn declared_in(path: &Path, dialect: Dialect) -> Result<Vec<Declared>, BackendError> {
    let Some(bytes) = read::optional(path)? else { return Ok(Vec::new()) };
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    if path.extension().is_some_and(|extension| extension == "json") {
        json::declared(path, text, dialect)
    } else {
        native::declared(path, text)
    }
}

/// The names of the files that make up the configuration, sorted.
fn configuration_files(dir: &Path, dialect: Dialect) -> Result<Vec<OsString>, BackendError> {
    let unreadable = |source| BackendError::Unreadable { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if is_configuration(name.as_bytes(), dialect) && is_file(&dir.join(&name))? {
            names.push(name);
        }
    }
    names.sort();
    // For `OpenTofu`, `x.tofu` stands in the place of `x.tf`.
    let all = names.clone();
    let has = |stem: &[u8], extension: &[u8]| {
        all.iter().any(|name| name.as_bytes().strip_prefix(stem) == Some(extension))
    };
    names.retain(|name| match split(name.as_bytes(), dialect) {
        Some((stem, ".tf")) => !has(stem, b".tofu"),
        Some((stem, ".tf.json")) => !has(stem, b".tofu.json"),
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
fn split(name: &[u8], dialect: Dialect) -> Option<(&[u8], &'static str)> {
    let left_behind = name.starts_with(b".")
        || name.ends_with(b"~")
        || (name.starts_with(b"#") && name.ends_with(b"#"));
    if left_behind {
        return None;
    }
    let extensions: &[&str] = match dialect {
        Dialect::Terraform => &[".tf", ".tf.json"],
        Dialect::OpenTofu => &[".tf", ".tf.json", ".tofu", ".tofu.json"],
    };
    let stem_of = |extension: &str| name.strip_suffix(extension.as_bytes());
    extensions.iter().find_map(|extension| Some((stem_of(extension)?, *extension)))
}

/// Whether a file of this name is one of the configuration.
pub(super) fn is_configuration(name: &[u8], dialect: Dialect) -> bool {
    split(name, dialect).is_some()
}

fn is_override(name: &[u8]) -> bool {
    split(name, Dialect::OpenTofu)
        .is_some_and(|(stem, _)| stem == b"override" || stem.ends_with(b"_override"))
}

#[cfg(test)]
mod tests;
