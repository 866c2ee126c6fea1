//! Registers as files of one directory: one file per key, changed under an advisory lock.
//!
//! A register's file is only ever replaced as a whole (write aside, sync, rename, sync the
//! directory), so a reader needs no lock and a crash at any instruction leaves the old content or
//! the new. The version is the content: no two writes to one key have the same bytes.
//!
//! All paths are resolved from a descriptor of the directory, never through a symbolic link.
//!
//! Its rules: `docs/protocol.md#f7-files`.

use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::blocking::{io_error, run};
use super::{
    Expect, Record, RecordVersion, Registers, RemoveReply, StoreError, Stored, WriteReply,
};
use crate::lock::LockKey;

/// Whoever changes a register holds a `flock` on this file for that time, and looks whether it is
/// still there: it goes with a directory that is of no more use.
const LOCK_FILE: &str = ".lock";
/// The next content of a register. One name is enough, for there is one writer at a time; what a
/// crash left in it is thrown away by the next writer.
const ASIDE: &str = ".next";

/// No record of ours or Terraform's is longer, in bytes.
const LONGEST: u64 = 1 << 20;

/// A holder of the advisory lock works for a few milliseconds; one that was stopped in between
/// must not stop us for ever.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// Kept as they are in file names.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
/// File systems allow 255 bytes.
const NAME_LEN: usize = 200;

/// A directory of registers.
#[derive(Debug, Clone)]
pub struct FileStore {
    dir: PathBuf,
}

/// What a register's file holds.
#[derive(Serialize, Deserialize)]
struct Content<'a> {
    /// For people: the file's name may be abridged.
    key: &'a str,
    info: Option<String>,
    lease: Option<String>,
}

impl FileStore {
    /// Names the directory. It is made by the first write if only its last part is missing.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        // Put together anew, because a slash at the end would follow a symbolic link.
        Self { dir: dir.into().components().collect() }
    }

    /// The file of a register.
    #[must_use]
    pub fn file_of(&self, key: &LockKey) -> PathBuf {
        self.dir.join(file_name(key))
    }

    /// The file on which whoever changes a register holds a `flock`.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.dir.join(LOCK_FILE)
    }

    /// Removes the directory, if every register in it `is_idle` and nobody is at work there. What
    /// fails leaves it, which does no harm.
    pub(super) fn remove_if_idle(&self, is_idle: impl Fn(&Record) -> bool) {
        if let Ok(Some(dir)) = Directory::open(&self.dir)
            && let Ok(Some(_lock)) = dir.lock()
        {
            drop(dir.clear(is_idle));
        }
    }

    /// Runs `change` as the only one who changes registers of this directory.
    async fn exclusively<T: Send + 'static>(
        &self,
        change: impl Fn(&Directory) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut waited = Duration::ZERO;
        loop {
            let (path, change) = (self.dir.clone(), change.clone());
            let done = run(move || {
                let dir = Directory::open_or_make(&path)?;
                match dir.lock()? {
                    // Given back when the descriptor closes.
                    Some(_lock) => change(&dir).map(Some),
                    None => Ok(None),
                }
            })
            .await?;
            if let Some(done) = done {
                return Ok(done);
            }
            if waited >= LOCK_PATIENCE {
                let path = self.dir.join(LOCK_FILE);
                let detail = format!("another process does not give back `{}`", path.display());
                return Err(StoreError::Unavailable { detail, sent: false });
            }
            tokio::time::sleep(LOCK_LOOK).await;
            waited += LOCK_LOOK;
        }
    }
}

#[async_trait]
impl Registers for FileStore {
    async fn read(&self, key: &LockKey) -> Result<Option<Stored>, StoreError> {
        let (path, name) = (self.dir.clone(), file_name(key));
        run(move || match Directory::open(&path)? {
            Some(dir) => dir.read(&name),
            None => Ok(None),
        })
        .await
    }

    async fn write(
        &self,
        key: &LockKey,
        record: &Record,
        expect: &Expect,
    ) -> Result<WriteReply, StoreError> {
        let Record { info, lease } = record.clone();
        let content = serde_json::to_string(&Content { key: &key.0, info, lease })
            .map_err(|e| StoreError::Misconfigured(format!("cannot encode a record: {e}")))?;
        let (name, expect) = (file_name(key), expect.clone());
        self.exclusively(move |dir| {
            let current = dir.read(&name)?;
            if !expect.holds(current.as_ref()) {
                return Ok(WriteReply::Conflict(Some(current)));
            }
            dir.replace(&name, content.as_bytes())?;
            Ok(WriteReply::Applied(RecordVersion(content.clone())))
        })
        .await
    }

    async fn remove(
        &self,
        key: &LockKey,
        expect: &RecordVersion,
    ) -> Result<RemoveReply, StoreError> {
        let (name, expect) = (file_name(key), Expect::Version(expect.clone()));
        self.exclusively(move |dir| {
            let current = dir.read(&name)?;
            if !expect.holds(current.as_ref()) {
                return Ok(RemoveReply::Conflict(Some(current)));
            }
            dir.remove(&name)?;
            Ok(RemoveReply::Removed)
        })
        .await
    }
}

/// The open directory.
struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path: path.to_owned() })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(io_error("open the directory", path, &error.into(), false)),
        }
    }

    fn open_or_make(path: &Path) -> Result<Self, StoreError> {
        if let Some(dir) = Self::open(path)? {
            return Ok(dir);
        }
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(io_error("make the directory", path, &error.into(), false)),
        }
        Self::open(path)?.ok_or_else(|| {
            StoreError::Missing(format!("the directory `{}` disappeared", path.display()))
        })
    }

    /// Takes the advisory lock, or says that it is taken.
    fn lock(&self) -> Result<Option<File>, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fail =
            |error: std::io::Error| io_error("lock", &self.path.join(LOCK_FILE), &error, false);
        let file = match rustix::fs::openat(&self.fd, LOCK_FILE, flags, mode) {
            Ok(file) => File::from(file),
            // The directory was removed since it was opened.
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(fail(error.into())),
        };
        match file.try_lock() {
            Ok(()) if self.has(&file).map_err(|e| fail(e.into()))? => Ok(Some(file)),
            // It was removed with the directory, or another one stands in its place.
            Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(fail(error)),
        }
    }

    /// Whether this is the file on which whoever comes now takes the lock.
    fn has(&self, file: &File) -> Result<bool, Errno> {
        let ours = rustix::fs::fstat(file)?;
        match rustix::fs::statat(&self.fd, LOCK_FILE, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes all registers and the directory, if every register `is_idle`.
    fn clear(&self, is_idle: impl Fn(&Record) -> bool) -> std::io::Result<()> {
        let mut names = vec![LOCK_FILE.to_owned(), ASIDE.to_owned()];
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let Ok(name) = entry?.file_name().to_str().map(str::to_owned) else { return Ok(()) };
            if [".", "..", LOCK_FILE, ASIDE].contains(&name.as_str()) {
                continue;
            }
            match self.read(&name) {
                Ok(Some(stored)) if is_idle(&stored.record) => names.push(name),
                _ => return Ok(()),
            }
        }
        // The file of the lock last: until then nobody can come between.
        for name in names.iter().rev() {
            match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        std::fs::remove_dir(&self.path)
    }

    fn read(&self, name: &str) -> Result<Option<Stored>, StoreError> {
        let fail = |error: std::io::Error| io_error("read", &self.path.join(name), &error, false);
        // A pipe put in its place must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(fail(error.into())),
        };
        let mut bytes = Vec::new();
        let length = file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(fail)?;
        if length as u64 > LONGEST {
            let path = self.path.join(name);
            let what = format!("`{}` is longer than any lock: it is another file", path.display());
            return Err(StoreError::Misconfigured(what));
        }
        Ok(Some(decode(bytes)))
    }

    /// Puts `content` in the place of the register's file. An error before the rename means that
    /// nothing was applied.
    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let fail = |error: std::io::Error| io_error("write", &self.path.join(name), &error, false);
        let written = self
            .write_aside(content)
            .and_then(|()| Ok(rustix::fs::renameat(&self.fd, ASIDE, &self.fd, name)?));
        if let Err(error) = written {
            // For the space it takes; the next writer would remove it too.
            self.remove_aside().map_err(fail)?;
            return Err(fail(error));
        }
        self.sync(name)
    }

    fn write_aside(&self, content: &[u8]) -> std::io::Result<()> {
        self.remove_aside()?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(rustix::fs::openat(&self.fd, ASIDE, flags, mode)?);
        file.write_all(content)?;
        file.sync_all()
    }

    fn remove_aside(&self) -> std::io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, ASIDE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())
            .map_err(|e| io_error("remove", &self.path.join(name), &e.into(), false))?;
        self.sync(name)
    }

    /// Makes the change of a name last. Others see it already, whatever comes of this.
    fn sync(&self, name: &str) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.fd)
            .map_err(|e| io_error("make lasting", &self.path.join(name), &e.into(), true))
    }
}

/// Content that is not ours (written by hand) is a record without parts; its version is its bytes
/// all the same, so that it can be removed.
fn decode(bytes: Vec<u8>) -> Stored {
    /// Borrowing would fail on a key with escapes.
    #[derive(Deserialize)]
    struct Parts {
        info: Option<String>,
        lease: Option<String>,
    }
    let record = match serde_json::from_slice(&bytes) {
        Ok(Parts { info, lease }) => Record { info, lease },
        Err(_) => Record::default(),
    };
    let version = String::from_utf8(bytes)
        .unwrap_or_else(|error| percent_encode(error.as_bytes(), NON_ALPHANUMERIC).to_string());
    Stored { record, version: RecordVersion(version) }
}

/// A name for each key, and no two keys of one name: percent-encoded, the slash and a leading dot
/// too, so it stays in the directory; of a long one the beginning and its digest.
fn file_name(key: &LockKey) -> String {
    let mut name = utf8_percent_encode(&key.0, NAME).to_string();
    if name.starts_with('.') {
        name.replace_range(..1, "%2E");
    }
    if name.is_empty() {
        // No encoding is just this.
        name.push('%');
    }
    if name.len() > NAME_LEN {
        let digest = Sha256::digest(key.0.as_bytes());
        name.truncate(NAME_LEN - 2 * digest.len() - 1);
        // No encoding has a tilde.
        name.push('~');
        for byte in digest {
            let _ = write!(name, "{byte:02x}");
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_key_leaves_the_directory_and_no_two_share_a_file() {
        let long = "é/".repeat(600);
        let keys = [
            "",
            ".",
            "..",
            "../x",
            "/etc/passwd",
            "a/b",
            "a%2Fb",
            "a b",
            ".lock",
            ".next",
            "%",
            "a\0b",
            "ü",
            "%2E",
            "a~b",
            long.as_str(),
            &long[2..],
        ];
        let mut names = BTreeSet::new();
        for key in keys {
            let name = file_name(&LockKey(key.to_owned()));
            assert!(!name.starts_with('.') && !name.contains(['/', '\0']), "{key:?}: {name}");
            assert!((1..=NAME_LEN).contains(&name.len()), "{key:?}: {name}");
            assert!(names.insert(name), "{key:?}");
        }
    }
}
