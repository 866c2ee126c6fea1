//! Files that tfwrap reads and Terraform after it.

use std::io;
use std::path::Path;

use crate::opened::{self, Kind, Opened};

/// Larger than any file of keys, tokens or certificates; a guard against a device that never ends.
const LIMIT: u64 = 64 << 20;

/// Opens it without waiting for whoever writes to it.
///
/// # Errors
/// Those of `open(2)`, and [`io::ErrorKind::InvalidInput`] for a pipe: what we take out of
/// that (`<(…)` of a shell) Terraform would not find any more, and it would go on as somebody else.
pub(super) fn open(path: &Path) -> io::Result<Opened> {
    let opened = opened::to_read(path)?;
    if opened.kind() == Kind::Pipe {
        let what = "it is a pipe, which can be read only once, and Terraform must read it too; \
                    name a file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(opened)
}

/// Reads all of it.
///
/// # Errors
/// As [`open`]; and those of reading it.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    all_of(open(path)?)
}

/// Reads all of what was opened.
///
/// # Errors
/// Those of `read(2)`; more than 64 MiB.
pub(super) fn all_of(opened: Opened) -> io::Result<Vec<u8>> {
    opened.read_within(LIMIT)?.ok_or_else(|| io::Error::other("it is larger than 64 MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_once_only_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = read(&pipe).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"", "it is named to have none");
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("64 MiB"));
        assert_eq!(read(dir.path()).unwrap_err().raw_os_error(), Some(nix::libc::EISDIR));
    }
}
