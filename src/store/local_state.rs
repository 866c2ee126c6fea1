//! The local backend's own lock as a register: a lock on the state file itself.
//!
//! Terraform takes a POSIX record lock (`F_SETLK`) on the whole state file and tells the others
//! who it is in `.<name>.lock.info` beside it. The register takes an open-file-description lock
//! (`F_OFD_SETLK`) in its place: it conflicts with Terraform's, but belongs to the descriptor and
//! not to the process, so a guardian that inherits the descriptor keeps it (fcntl(2), "Open file
//! description locks (non-POSIX)").
//!
//! The kernel ends the lock with its last descriptor, hence it needs no lease and nobody can take
//! it over: [`Record::lease`] stays in the holder's memory, others read `None`.
//!
//! Its rules: `docs/protocol.md#f8-local-state`.

mod files;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::blocking::{Workers, io_error, request};
use super::{
    Expect, Record, RecordVersion, Registers, RemoveReply, StoreError, Stored, WriteReply,
};
use crate::lock::{LockId, LockKey};
use files::{Files, HeldState, version};

/// How often the dead are tried to be taken out of a line in which others are at work, and with what
/// pauses.
const MOST_TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// The lock of one state file. Clones share what is held.
#[derive(Debug, Clone)]
pub struct LocalState {
    files: Arc<Files>,
    held: Arc<Mutex<Option<HeldState>>>,
    workers: Workers,
}

/// The locked descriptor, for a process that shall hold it on.
#[derive(Debug)]
pub struct HeldFile {
    /// Shares the open file description, and so the lock, with the register it came from.
    pub fd: OwnedFd,
    /// What came into being with the lock: the state file, or the first directory that was made for
    /// it. It then goes with it if it is still empty.
    pub created: Option<PathBuf>,
}

impl HeldFile {
    /// Where the state is by now that was locked by this name: elsewhere, if a directory above it was
    /// renamed meanwhile.
    #[must_use]
    pub fn follow(self, state_path: &Path) -> (Self, PathBuf) {
        let file = File::from(self.fd);
        let moved = Files::beside(state_path.to_owned()).ok().and_then(|files| {
            let is_there = files.is_current(&file).unwrap_or(true);
            (!is_there).then(|| files.moved_to(&file)).flatten()
        });
        let fd = file.into();
        match moved {
            None => (Self { fd, created: self.created }, state_path.to_owned()),
            Some(moved) => {
                // Directories that were made for it are known by a name that they no longer have.
                let created = self.created.map(|_| moved.state.clone());
                (Self { fd, created }, moved.state)
            }
        }
    }
}

/// A lock of ours on a state beside its holder's. It excludes everybody whom that excludes, and lasts
/// for as long as a process has it open, or until a word.
#[derive(Debug)]
pub struct JoinedLock(File);

impl JoinedLock {
    /// Ends it, for all processes that have it open.
    pub(crate) fn leave(&self) {
        // It is open, and to end a lock needs nothing else.
        let _ended = files::unlock(&self.0);
    }
}

impl From<OwnedFd> for JoinedLock {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl AsFd for JoinedLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl LocalState {
    /// Names the state file: the very one that Terraform would lock.
    ///
    /// # Errors
    /// When the path has no file name.
    pub fn new(state_path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let files = Files::beside(state_path.into())?;
        let held = Arc::new(Mutex::new(None));
        Ok(Self { files: Arc::new(files), held, workers: Workers::new() })
    }

    /// Goes on with a lock whose descriptor was inherited; `record` is what its holder wrote.
    ///
    /// # Errors
    /// When the path has no file name.
    pub fn inherit(
        state_path: impl Into<PathBuf>,
        held: HeldFile,
        record: Record,
    ) -> Result<Self, StoreError> {
        let this = Self::new(state_path)?;
        let HeldFile { fd, created } = held;
        *this.held() = Some(HeldState { file: File::from(fd), created, record });
        Ok(this)
    }

    /// The directory in which the line for this lock stands.
    #[must_use]
    pub fn line_dir(&self) -> PathBuf {
        self.files.line.clone()
    }

    /// What the keys of the line are made from.
    #[must_use]
    pub fn line_key() -> LockKey {
        LockKey("state".to_owned())
    }

    /// Takes the waiters with these IDs, which are dead, out of the line, and removes the line if nobody
    /// else waits.
    ///
    /// # Errors
    /// Too many requests hang already.
    pub async fn forget_waiters(&self, dead: Vec<LockId>) -> Result<(), StoreError> {
        // Whoever is at work there is so for a few milliseconds.
        for _ in 0..MOST_TRIES {
            let dead = dead.clone();
            if self.run(move |files, _| Ok(files.clear_line(|id| dead.contains(id)))).await? {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// The one key of this store: the path.
    #[must_use]
    pub fn key(&self) -> LockKey {
        LockKey(self.files.state.display().to_string())
    }

    /// Every step under this lock leaves it whole, so a panic elsewhere is no reason to lose it.
    fn held(&self) -> MutexGuard<'_, Option<HeldState>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, key: &LockKey) -> Result<(), StoreError> {
        if *key == self.key() {
            return Ok(());
        }
        let state = self.files.state.display();
        Err(StoreError::Misconfigured(
            format!("this is the lock of `{state}`, not of `{key}`").into(),
        ))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files, &mut Option<HeldState>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = self.clone();
        request(self.workers.run(move || work(&this.files, &mut this.held()))).await
    }
}

#[async_trait]
impl Registers for LocalState {
    fn lend(&self) -> Result<Option<HeldFile>, StoreError> {
        let held = self.held();
        let Some(held) = held.as_ref() else { return Ok(None) };
        let fd = held
            .file
            .try_clone()
            .map_err(|e| io_error("share the lock on", &self.files.state, &e, false))?;
        Ok(Some(HeldFile { fd: fd.into(), created: held.created.clone() }))
    }

    async fn join(&self) -> Result<Option<JoinedLock>, StoreError> {
        self.run(|files, _| files.join()).await.map(|joined| joined.map(JoinedLock))
    }

    async fn read(&self, key: &LockKey) -> Result<Option<Stored>, StoreError> {
        self.check(key)?;
        self.run(|files, held| files.current(held.as_ref())).await
    }

    async fn write(
        &self,
        key: &LockKey,
        record: &Record,
        expect: &Expect,
    ) -> Result<WriteReply, StoreError> {
        self.check(key)?;
        let (record, expect) = (record.clone(), expect.clone());
        self.run(move |files, held| match held {
            None if expect == Expect::Absent => files.acquire(record, held),
            None => Ok(WriteReply::Conflict(Some(files.current(None)?))),
            Some(ours) => {
                let current = files.current(Some(ours))?;
                // Ours is the lock of a file that is no longer the state: nothing to write to.
                if !files.is_current(&ours.file)? || !expect.holds(current.as_ref()) {
                    return Ok(WriteReply::Conflict(Some(current)));
                }
                files.tell(&record)?;
                ours.record = record;
                Ok(WriteReply::Applied(version(&ours.record)))
            }
        })
        .await
    }

    async fn remove(
        &self,
        key: &LockKey,
        expect: &RecordVersion,
    ) -> Result<RemoveReply, StoreError> {
        self.check(key)?;
        let expect = expect.clone();
        self.run(move |files, held| {
            let Some(ours) = held.take() else {
                return Ok(RemoveReply::Conflict(Some(files.current(None)?)));
            };
            if version(&ours.record) != expect {
                let current = files.current(Some(&ours));
                *held = Some(ours);
                return Ok(RemoveReply::Conflict(Some(current?)));
            }
            match files.release(&ours) {
                Ok(true) => Ok(RemoveReply::Removed),
                Ok(false) => Ok(RemoveReply::Conflict(Some(files.current(None)?))),
                Err(error) => {
                    *held = Some(ours);
                    Err(error)
                }
            }
        })
        .await
    }
}
