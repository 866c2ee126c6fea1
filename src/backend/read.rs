//! Thin readers of files.

use std::fs::File;
use std::io;
use std::path::Path;

use super::BackendError;
use crate::opened::{self, Kind};

/// Larger than any configuration or record; a guard against reading a log.
const LIMIT_MIB: u64 = 64;

/// Reads a file that need not exist.
pub(super) fn optional(path: &Path) -> Result<Option<Vec<u8>>, BackendError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let fail = |source| BackendError::Unreadable { path: path.to_owned(), source };
    opened::within(file, LIMIT_MIB << 20)
        .map_err(fail)?
        .map(Some)
        .ok_or_else(|| BackendError::TooLarge { path: path.to_owned(), limit: LIMIT_MIB })
}

/// Opens a file or a directory that need not exist. A pipe or a device in its place would hold us
/// up, and Terraform as well.
pub(super) fn open(path: &Path) -> Result<Option<File>, BackendError> {
    let opened = match opened::to_read(path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(BackendError::Unreadable { path: path.to_owned(), source }),
    };
    match opened.kind() {
        Kind::Regular | Kind::Directory => Ok(Some(opened.file)),
        kind @ (Kind::Pipe | Kind::Socket | Kind::Device | Kind::Link) => {
            Err(BackendError::NotRegular { path: path.to_owned(), kind })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_nothing_and_a_directory_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(optional(&dir.path().join("x")).unwrap().is_none());
        let error = optional(dir.path()).unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, kind) in [(&*pipe, "a pipe"), (Path::new("/dev/zero"), "a device")] {
            let error = optional(path).unwrap_err().to_string();
            assert!(error.ends_with(&format!("is {kind}, not a regular file")), "{error}");
        }
    }
}
