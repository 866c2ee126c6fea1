//! Files of Terraform's own directory that are none, and would keep it waiting under our lock: pipes,
//! and devices but for `/dev/null`. What else may lie there (a socket, a directory, a link that leads
//! nowhere) Terraform passes over, or refuses in its own words.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::hcl::is_configuration;
use super::{BackendError, Dialect};
use crate::opened::Kind;

/// Read by every command.
const DEPENDENCIES: &str = ".terraform.lock.hcl";

/// Refuses what Terraform reads more than once, and so never to its end.
///
/// # Errors
/// With the first of them by name.
pub fn expect_readable(
    dir: &Path,
    dialect: Dialect,
    with_sources: bool,
) -> Result<(), BackendError> {
    let is_read = |name: &[u8]| {
        name == DEPENDENCIES.as_bytes() || with_sources && is_configuration(name, dialect)
    };
    match find(dir, is_read) {
        None => Ok(()),
        Some((name, kind)) => Err(BackendError::NotRegular { path: dir.join(name), kind }),
    }
}

/// A file of variables that somebody has to write while Terraform reads it, as people do with
/// secrets; what is to be said of that.
#[must_use]
pub fn waited_for(dir: &Path) -> Option<String> {
    let is_read = |name: &[u8]| {
        [&b"terraform.tfvars"[..], b"terraform.tfvars.json"].contains(&name)
            || name.ends_with(b".auto.tfvars")
            || name.ends_with(b".auto.tfvars.json")
    };
    let (name, kind) = find(dir, is_read)?;
    Some(format!(
        "`{}` is {kind}, not a regular file: Terraform waits until somebody writes to it, and the \
         lock stays held",
        Path::new(&name).display()
    ))
}

/// The first by name of those that are read and are odd.
fn find(dir: &Path, is_read: impl Fn(&[u8]) -> bool) -> Option<(OsString, Kind)> {
    let names = std::fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.file_name()));
    let odd = names.filter(|name| is_read(name.as_bytes())).filter_map(|name| {
        let kind = kept_waiting(&dir.join(&name).metadata().ok()?)?;
        Some((name, kind))
    });
    odd.min_by(|one, other| one.0.cmp(&other.0))
}

/// The kind of what may never come to its end.
fn kept_waiting(metadata: &Metadata) -> Option<Kind> {
    let is_null =
        || Path::new("/dev/null").metadata().is_ok_and(|null| null.rdev() == metadata.rdev());
    match Kind::of(metadata.file_type()) {
        Kind::Pipe => Some(Kind::Pipe),
        Kind::Device if !is_null() => Some(Kind::Device),
        _ => None,
    }
}
