//! Thin readers of files.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::libc;

use super::BackendError;

/// Larger than any configuration or record; a guard against reading a log.
const LIMIT_MIB: u64 = 64;

/// Reads a file that need not exist.
pub(super) fn optional(path: &Path) -> Result<Option<Vec<u8>>, BackendError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let fail = |source| BackendError::Unreadable { path: path.to_owned(), source };
    limited(file, LIMIT_MIB << 20)
        .map_err(fail)?
        .map(Some)
        .ok_or_else(|| BackendError::TooLarge { path: path.to_owned(), limit: LIMIT_MIB })
}

/// Opens a file or a directory that need not exist. A pipe or a device in its place would hold us
/// up, and Terraform as well.
pub(super) fn open(path: &Path) -> Result<Option<File>, BackendError> {
    let fail = |source| BackendError::Unreadable { path: path.to_owned(), source };
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let kind = file.metadata().map_err(fail)?.file_type();
    if kind.is_file() || kind.is_dir() {
        Ok(Some(file))
    } else {
        Err(BackendError::NotRegular { path: path.to_owned() })
    }
}

/// Reads to the end, or gives nothing when there is more than `limit` bytes.
pub(super) fn limited(from: impl io::Read, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let length = from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    let within = u64::try_from(length).is_ok_and(|length| length <= limit);
    Ok(within.then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_to_the_byte() {
        assert_eq!(limited(&b"1234"[..], 4).unwrap().as_deref(), Some(&b"1234"[..]));
        assert_eq!(limited(&b"12345"[..], 4).unwrap(), None);
        assert_eq!(limited(&b""[..], 0).unwrap().as_deref(), Some(&b""[..]));
    }

    #[test]
    fn a_missing_file_is_nothing_and_a_directory_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(optional(&dir.path().join("x")).unwrap().is_none());
        let error = optional(dir.path()).unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&pipe, Path::new("/dev/zero")] {
            let error = optional(path).unwrap_err().to_string();
            assert!(error.ends_with("is not a regular file"), "{error}");
        }
    }
}
