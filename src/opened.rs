//! Files that may be something else: opened without waiting, and with word of what they are. And files
//! of our own: made so that we can open them again.

use std::fs::{DirBuilder, File, FileType, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use rustix::fs::{Mode, OFlags};

/// What a name leads to, or is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What a file mostly is.
    Regular,
    /// It cannot be read as a file.
    Directory,
    /// A FIFO: what is read from it is gone.
    Pipe,
    /// Cannot be opened, but looked at.
    Socket,
    /// Such as `/dev/null`; others never end.
    Device,
    /// Only where links are looked at and not followed.
    Link,
}

impl Kind {
    /// The kind that the system calls so.
    #[must_use]
    pub fn of(kind: FileType) -> Self {
        if kind.is_file() {
            Self::Regular
        } else if kind.is_dir() {
            Self::Directory
        } else if kind.is_fifo() {
            Self::Pipe
        } else if kind.is_socket() {
            Self::Socket
        } else if kind.is_symlink() {
            Self::Link
        } else {
            Self::Device
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Regular => "a regular file",
            Self::Directory => "a directory",
            Self::Pipe => "a pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Link => "a symbolic link",
        })
    }
}

/// A file that is open, whatever it is.
#[derive(Debug)]
pub struct Opened {
    /// With `O_NONBLOCK`, which changes nothing for a regular file.
    pub file: File,
    /// Of the very file that is open.
    pub metadata: Metadata,
}

impl Opened {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::of(self.metadata.file_type())
    }

    /// The file, if that is what it is.
    ///
    /// # Errors
    /// What it is instead.
    pub fn regular(self) -> io::Result<File> {
        match self.kind() {
            Kind::Regular => Ok(self.file),
            kind => Err(io::Error::other(format!("it is {kind}, not a regular file"))),
        }
    }

    /// Reads to the end, or gives nothing when there are more than `limit` bytes.
    ///
    /// # Errors
    /// Those of `read(2)`.
    pub fn read_within(self, limit: u64) -> io::Result<Option<Vec<u8>>> {
        within(self.file, limit)
    }
}

/// Opens what is to be read, through links. Nobody is waited for: a pipe that nobody writes to would
/// hold us up for ever.
///
/// # Errors
/// Those of `open(2)`.
pub fn to_read(path: &Path) -> io::Result<Opened> {
    with(File::options().read(true), 0, path)
}

/// For how long a file may be leased to somebody else, who is asked by the kernel to end that (fcntl(2),
/// "Leases"). Whoever gives a local state's lock back has a lease for microseconds, to learn whether
/// anybody else has the state open.
const LONGEST_LEASE: Duration = Duration::from_secs(1);

/// Opens it with these options and further flags, such as `O_NOFOLLOW`; waits for nobody either, except
/// up to 1 s for the end of a lease.
///
/// # Errors
/// Those of `open(2)`.
#[expect(
    clippy::disallowed_methods,
    reason = "a lease is over at once, or held by another program"
)]
pub fn with(options: &mut OpenOptions, flags: libc::c_int, path: &Path) -> io::Result<Opened> {
    options.custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY);
    let mut opened = options.open(path);
    for _ in 0..LONGEST_LEASE.as_millis() {
        match &opened {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
                opened = options.open(path);
            }
            _ => break,
        }
    }
    let file = opened.map_err(|error| named(path, error))?;
    Ok(Opened { metadata: file.metadata()?, file })
}

/// Makes a file of our own, to read and to write, where nothing lies; nobody else can open it.
///
/// # Errors
/// Those of `open(2)`.
pub fn make(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
    keep_for_owner(&file)?;
    Ok(file)
}

/// Gives the owner of a file that was just made what the umask may have taken: to open it again.
///
/// # Errors
/// Those of `fchmod(2)`.
pub fn keep_for_owner(file: &File) -> io::Result<()> {
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o600 == 0o600 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(mode & 0o7777 | 0o600))
}

/// Makes a directory with this mode, less what the umask takes; never from its owner.
///
/// # Errors
/// Those of `mkdir(2)`, and of `chmod(2)`.
pub fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let has = dir.metadata()?.permissions().mode();
    if has & 0o700 == 0o700 {
        return Ok(());
    }
    // Nothing else changes the mode of a directory that nobody can open, and follows no link.
    let this = format!("/proc/self/fd/{}", dir.as_raw_fd());
    std::fs::set_permissions(this, Permissions::from_mode(has & 0o7777 | 0o700))
}

/// What the system calls "no such device or address".
fn named(path: &Path, error: io::Error) -> io::Error {
    let is_socket = || path.metadata().is_ok_and(|it| Kind::of(it.file_type()) == Kind::Socket);
    if error.raw_os_error() == Some(libc::ENXIO) && is_socket() {
        return io::Error::other("it is a socket");
    }
    error
}

/// Reads to the end, or gives nothing when there are more than `limit` bytes.
///
/// # Errors
/// Those of reading.
pub fn within(from: impl io::Read, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let length = from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    let is_within = u64::try_from(length).is_ok_and(|length| length <= limit);
    Ok(is_within.then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_to_the_byte() {
        assert_eq!(within(&b"1234"[..], 4).unwrap().as_deref(), Some(&b"1234"[..]));
        assert_eq!(within(&b"12345"[..], 4).unwrap(), None);
        assert_eq!(within(&b""[..], 0).unwrap().as_deref(), Some(&b""[..]));
    }

    #[test]
    fn nobody_is_waited_for_and_each_kind_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("pipe", at("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (path, kind) in [
            (at("file"), Kind::Regular),
            (dir.path().to_owned(), Kind::Directory),
            (at("pipe"), Kind::Pipe),
            (at("link"), Kind::Pipe),
            ("/dev/zero".into(), Kind::Device),
        ] {
            assert_eq!(to_read(&path).unwrap().kind(), kind, "{}", path.display());
        }
        let error = with(File::options().read(true), libc::O_NOFOLLOW, &at("link")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        assert_eq!(to_read(&at("socket")).unwrap_err().to_string(), "it is a socket");
        for (name, kind) in [("socket", Kind::Socket), ("link", Kind::Link)] {
            assert_eq!(Kind::of(at(name).symlink_metadata().unwrap().file_type()), kind);
        }
    }
}
