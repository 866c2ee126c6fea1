//! Registers as files of one directory: one file per key, changed under an advisory lock.
//!
//! A register's file is only ever replaced as a whole (write aside, sync, rename, sync the
//! directory), so a reader needs no lock and a crash at any instruction leaves the old content or
//! the new. The version is the content: no two writes to one key have the same bytes.
//!
//! All paths are resolved from a descriptor of the directory, never through a symbolic link.
//!
//! Who may write in the directory may share what lies there: a file can be read by its group, or by
//! everybody, where these can write in the directory, and by nobody else. More is not needed: a
//! register is replaced and never written, and reading is enough for the advisory lock.
//!
//! Its rules: `docs/protocol.md#f7-files`.

mod anchor;
mod directory;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::blocking::{Workers, request};
use super::{
    Expect, Record, RecordVersion, Registers, RemoveReply, StoreError, Stored, WriteReply,
};
use crate::lock::LockKey;
use anchor::{Anchor, Anchored};
use directory::Directory;

/// Whoever changes a register holds a `flock` on this file for that time, and looks whether it is
/// still there: it goes with a directory that is of no more use.
const LOCK_FILE: &str = "lock";
/// The next content of a register. One name is enough, for there is one writer at a time; what a
/// crash left in it is thrown away by the next writer.
const ASIDE: &str = "next";

/// A holder of the advisory lock works for a few milliseconds; one that was stopped in between
/// must not stop us for ever.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// Begins the version of what has no content that could be compared: a pipe, a directory, a long file.
const NO_CONTENT: char = '\0';

/// Kept as they are in file names.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
/// File systems allow 255 bytes.
const NAME_LEN: usize = 200;

/// A directory of registers.
#[derive(Debug, Clone)]
pub struct FileStore {
    dir: PathBuf,
    /// The one lock that is meant, of what may be somebody else's directory: the rest of it is not
    /// ours.
    lock: Option<LockKey>,
    /// Of one that is not to be lost where it, or what is above it, gets another name.
    anchor: Option<Anchor>,
    workers: Workers,
}

/// What a register's file holds.
#[derive(Serialize, Deserialize)]
struct Content {
    /// The file's name may be abridged; and a file without it is none of ours.
    key: String,
    info: Option<String>,
    lease: Option<String>,
}

impl FileStore {
    /// Names the directory. It is made by the first write if only its last part is missing.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        // Put together anew, because a slash at the end would follow a symbolic link.
        let dir = dir.into().components().collect();
        Self { dir, lock: None, anchor: None, workers: Workers::new() }
    }

    /// The same directory from the first look on, if one above it gets another name, or a link on the way
    /// to it leads elsewhere: what was put there can be removed again.
    #[must_use]
    pub fn anchored(dir: impl Into<PathBuf>) -> Self {
        Self { anchor: Some(Anchor::default()), ..Self::new(dir) }
    }

    fn reach(&self) -> Anchored {
        match &self.anchor {
            Some(anchor) => anchor.reach(&self.dir),
            None => Anchored::at(self.dir.clone()),
        }
    }

    /// Names one file of a directory that has others, too: all else of the lock lies beside it and
    /// bears its name.
    #[must_use]
    pub fn of_lock(dir: impl Into<PathBuf>, lock: &LockKey) -> Self {
        Self { lock: Some(lock.clone()), ..Self::new(dir) }
    }

    /// The name of a file that is no register: no register's has a leading dot, and no lock's the
    /// end that this has.
    fn beside(&self, what: &str) -> String {
        match &self.lock {
            Some(lock) => format!("{}.tfwrap.{what}", file_name(lock)),
            None => format!(".{what}"),
        }
    }

    /// The file of a register.
    #[must_use]
    pub fn file_of(&self, key: &LockKey) -> PathBuf {
        self.dir.join(file_name(key))
    }

    /// Whether it is no register at all that lies there, and can only be moved away.
    #[must_use]
    pub fn is_in_the_way(stored: &Stored) -> bool {
        stored.version.0.starts_with(NO_CONTENT)
    }

    /// The file on which whoever changes a register holds a `flock`.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.dir.join(self.beside(LOCK_FILE))
    }

    /// Removes the registers that `are_idle`, and the directory with the last one. What fails leaves
    /// it, which does no harm. Returns whether that was tried: not while somebody is at work there.
    pub(super) fn remove_idle(
        &self,
        are_idle: impl FnOnce(&[(LockKey, Record)]) -> Vec<bool>,
    ) -> bool {
        let Ok(Some(dir)) = Directory::open(self) else { return true };
        let Ok(lock) = dir.lock() else { return true };
        if lock.is_some() {
            drop(dir.clear(are_idle));
        }
        lock.is_some()
    }

    /// Runs `change` as the only one who changes registers of this directory.
    async fn exclusively<T: Send + 'static>(
        &self,
        change: impl Fn(&Directory) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut waited = Duration::ZERO;
        loop {
            let (store, change) = (self.clone(), change.clone());
            let work = move || {
                let dir = Directory::open_or_make(&store)?;
                match dir.lock()? {
                    // Given back when the descriptor closes.
                    Some(_lock) => change(&dir).map(Some),
                    None => Ok(None),
                }
            };
            let done = self.workers.run(work).await?;
            if let Some(done) = done {
                return Ok(done);
            }
            if waited >= LOCK_PATIENCE {
                let path = self.lock_file();
                let detail = format!("another process does not release `{}`", path.display());
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
        let (store, key) = (self.clone(), key.clone());
        request(self.workers.run(move || match Directory::open(&store)? {
            Some(dir) => dir.read(&key),
            None => Ok(None),
        }))
        .await
    }

    async fn write(
        &self,
        key: &LockKey,
        record: &Record,
        expect: &Expect,
    ) -> Result<WriteReply, StoreError> {
        let Record { info, lease } = record.clone();
        let content =
            serde_json::to_string(&Content { key: key.0.clone(), info, lease }).map_err(|e| {
                StoreError::Misconfigured(format!("cannot encode a record: {e}").into())
            })?;
        let (key, expect) = (key.clone(), expect.clone());
        request(self.exclusively(move |dir| {
            let current = match expect {
                Expect::Absent => dir.read(&key)?,
                Expect::Version(_) => dir.read_anything(&key)?,
            };
            if !expect.holds(current.as_ref()) {
                return Ok(WriteReply::Conflict(Some(current)));
            }
            dir.replace(&file_name(&key), content.as_bytes())?;
            Ok(WriteReply::Applied(RecordVersion(content.clone())))
        }))
        .await
    }

    async fn remove(
        &self,
        key: &LockKey,
        expect: &RecordVersion,
    ) -> Result<RemoveReply, StoreError> {
        let (key, expect) = (key.clone(), Expect::Version(expect.clone()));
        request(self.exclusively(move |dir| {
            let current = dir.read_anything(&key)?;
            if !expect.holds(current.as_ref()) {
                return Ok(RemoveReply::Conflict(Some(current)));
            }
            dir.remove(&file_name(&key))?;
            Ok(RemoveReply::Removed)
        }))
        .await
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
