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

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::blocking::{io_error, run};
use super::{
    Expect, Record, RecordVersion, Registers, RemoveReply, StoreError, Stored, WriteReply,
};
use crate::lock::{LockInfo, LockKey};

/// How often a state file may be replaced under us before we say so. Terraform removes an empty
/// one each time it unlocks.
const RACES: u32 = 20;

/// The lock of one state file. Clones share what is held.
#[derive(Debug, Clone)]
pub struct LocalState {
    files: Arc<Files>,
    held: Arc<Mutex<Option<Held>>>,
}

/// The locked descriptor, for a process that shall hold it on.
#[derive(Debug)]
pub struct HeldFile {
    /// Shares the open file description, and so the lock, with the register it came from.
    pub fd: OwnedFd,
    /// Whether the state file came into being with the lock; it then goes with it if it is still
    /// empty.
    pub created: bool,
}

#[derive(Debug)]
struct Files {
    state: PathBuf,
    info: PathBuf,
    /// The next info; renamed over the info, because Terraform does not wait for a holder whose
    /// half-written info it cannot read.
    info_aside: PathBuf,
}

#[derive(Debug)]
struct Held {
    file: File,
    created: bool,
    record: Record,
}

impl LocalState {
    /// Names the state file: the very one that Terraform would lock.
    ///
    /// # Errors
    /// When the path has no file name.
    pub fn new(state_path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let files = Files::beside(state_path.into())?;
        Ok(Self { files: Arc::new(files), held: Arc::new(Mutex::new(None)) })
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
        *this.held() = Some(Held { file: File::from(fd), created, record });
        Ok(this)
    }

    /// The one key of this store: the path.
    #[must_use]
    pub fn key(&self) -> LockKey {
        LockKey(self.files.state.display().to_string())
    }

    /// A further descriptor of the held lock, close-on-exec; `None` when nothing is held.
    ///
    /// # Errors
    /// When no further descriptor can be had.
    pub fn lock_fd(&self) -> Result<Option<HeldFile>, StoreError> {
        let held = self.held();
        let Some(held) = held.as_ref() else { return Ok(None) };
        let fd = held
            .file
            .try_clone()
            .map_err(|e| io_error("share the lock on", &self.files.state, &e, false))?;
        Ok(Some(HeldFile { fd: fd.into(), created: held.created }))
    }

    /// Every step under this lock leaves it whole, so a panic elsewhere is no reason to lose it.
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, key: &LockKey) -> Result<(), StoreError> {
        if *key == self.key() {
            return Ok(());
        }
        let state = self.files.state.display();
        Err(StoreError::Misconfigured(format!("this is the lock of `{state}`, not of `{key}`")))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files, &mut Option<Held>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = self.clone();
        run(move || work(&this.files, &mut this.held())).await
    }
}

#[async_trait]
impl Registers for LocalState {
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

impl Files {
    fn beside(state: PathBuf) -> Result<Self, StoreError> {
        let Some(name) = state.file_name() else {
            let path = state.display();
            return Err(StoreError::Misconfigured(format!("`{path}` cannot be a state file")));
        };
        // Terraform's rule: one leading dot is dropped, then `.<name>.lock.info`.
        let bytes = name.as_encoded_bytes();
        let bare = bytes.strip_prefix(b".").unwrap_or(bytes);
        let named = |suffix: &str| {
            use std::os::unix::ffi::OsStringExt as _;
            let name = [b".", bare, suffix.as_bytes()].concat();
            state.with_file_name(std::ffi::OsString::from_vec(name))
        };
        let (info, info_aside) = (named(".lock.info"), named(".lock.info.next"));
        Ok(Self { state, info, info_aside })
    }

    /// Who has the state's lock.
    fn current(&self, ours: Option<&Held>) -> Result<Option<Stored>, StoreError> {
        if let Some(ours) = ours
            && self.is_current(&ours.file)?
        {
            return Ok(Some(stored(ours.record.clone())));
        }
        let fail = |error: &io::Error| io_error("read the lock of", &self.state, error, false);
        // A pipe in its place must not hold us up.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.state);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(&error)),
        };
        let mut asked = whole_file(libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut asked)).map_err(|e| fail(&e.into()))?;
        if i32::from(asked.l_type) == libc::F_UNLCK {
            // Whatever info lies there is left over.
            return Ok(None);
        }
        // The lock is the file's; the info only tells whose. It is written after the lock was
        // taken and may be absent, half written or unreadable: held it is all the same.
        let info = std::fs::read_to_string(&self.info).ok();
        let info = info.filter(|text| LockInfo::parse(text).is_ok());
        Ok(Some(stored(Record { info, lease: None })))
    }

    fn acquire(&self, record: Record, held: &mut Option<Held>) -> Result<WriteReply, StoreError> {
        let fail = |error: &io::Error| io_error("lock", &self.state, error, false);
        for _ in 0..RACES {
            let (file, created) = self.open().map_err(|e| fail(&e))?;
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    return Ok(WriteReply::Conflict(Some(self.current(None)?)));
                }
                Err(error) => return Err(fail(&error.into())),
            }
            // Between our open and our lock a Terraform may have unlocked, and removed the file.
            if !self.is_current(&file)? {
                continue;
            }
            let ours = Held { file, created, record };
            if let Err(error) = self.tell(&ours.record) {
                self.release(&ours)?;
                return Err(error);
            }
            let version = version(&ours.record);
            *held = Some(ours);
            return Ok(WriteReply::Applied(version));
        }
        let state = self.state.display();
        let detail = format!("`{state}` is replaced again and again while it is being locked");
        Err(StoreError::Unavailable { detail, sent: false })
    }

    /// Opens the state file as Terraform does, directories and file made if need be.
    fn open(&self) -> io::Result<(File, bool)> {
        let created = match std::fs::metadata(&self.state) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if created && let Some(dir) = self.state.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o666);
        Ok((options.custom_flags(libc::O_NONBLOCK).open(&self.state)?, created))
    }

    /// Whether the descriptor's file is the one that the path names.
    fn is_current(&self, file: &File) -> Result<bool, StoreError> {
        let fail = |error: &io::Error| io_error("look at", &self.state, error, false);
        let ours = file.metadata().map_err(|e| fail(&e))?;
        match std::fs::metadata(&self.state) {
            Ok(named) => Ok(identity(&named) == identity(&ours)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fail(&error)),
        }
    }

    /// Writes the info file.
    fn tell(&self, record: &Record) -> Result<(), StoreError> {
        let fail = |error: &io::Error| io_error("write", &self.info, error, false);
        let Some(info) = &record.info else {
            return remove_if_there(&self.info).map_err(|e| fail(&e));
        };
        remove_if_there(&self.info_aside).map_err(|e| fail(&e))?;
        let write = || {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create_new(true).mode(0o600).open(&self.info_aside)?;
            file.write_all(info.as_bytes())?;
            std::fs::rename(&self.info_aside, &self.info)
        };
        write().map_err(|e| fail(&e))
    }

    /// Gives the lock back, the files of its own first, as Terraform does; returns whether it
    /// still was the lock of the state. It was, too, when there is no state file any more: nobody
    /// else locked it meanwhile, and `workspace delete` removes it under the lock.
    ///
    /// An empty state file goes *before* the lock, not after it as Terraform has it: whoever
    /// locks it in between would lock what is about to be removed.
    fn release(&self, ours: &Held) -> Result<bool, StoreError> {
        let fail = |error: &io::Error| io_error("unlock", &self.state, error, false);
        let current = self.is_current(&ours.file)?;
        if current {
            let empty = ours.file.metadata().map_err(|e| fail(&e))?.len() == 0;
            // The lock must go even where its files cannot: without the lock a left-over info is
            // harmless, and an empty state is no state.
            drop(remove_if_there(&self.info));
            if ours.created && empty {
                drop(remove_if_there(&self.state));
            }
        }
        // Said to the description and not left to the close: a guardian may have a descriptor too.
        fcntl(&ours.file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)))
            .map_err(|e| fail(&e.into()))?;
        Ok(current || !self.state.exists())
    }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    let short = |n: libc::c_int| libc::c_short::try_from(n).expect("a lock type fits its field");
    libc::flock {
        l_type: short(kind),
        l_whence: short(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        // Must be zero for the description's locks.
        l_pid: 0,
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn stored(record: Record) -> Stored {
    Stored { version: version(&record), record }
}

/// The content; the lengths keep the parts apart.
fn version(record: &Record) -> RecordVersion {
    let part = |text: &Option<String>| match text {
        Some(text) => format!("{}:{text}", text.len()),
        None => "-".to_owned(),
    };
    RecordVersion(format!("{} {}", part(&record.info), part(&record.lease)))
}
