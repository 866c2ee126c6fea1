//! Files that tfwrap reads and Terraform after it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc;

/// Larger than any file of keys, tokens or certificates; a guard against a device that never ends.
const LIMIT: u64 = 64 << 20;

/// Opens it without waiting for whoever writes to it.
///
/// # Errors
/// Those of `open(2)`, and [`io::ErrorKind::InvalidInput`] for a pipe or a socket: what we take out of
/// that (`<(…)` of a shell) Terraform would not find any more, and it would go on as somebody else.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() || kind.is_socket() {
        let what = "it is a pipe, which can be read once, and Terraform reads it, too; name a file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(file)
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
pub(super) fn all_of(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return Err(io::Error::other("it is larger than 64 MiB"));
    }
    Ok(bytes)
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
        assert_eq!(read(dir.path()).unwrap_err().raw_os_error(), Some(libc::EISDIR));
    }
}
