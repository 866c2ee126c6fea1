//! What Terraform does with the files of a local state's lock, done as it does it (version 1.11.4,
//! seen by strace).

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use sha2::{Digest as _, Sha256};

use super::super::blocking::io_error;
use super::super::file::FileStore;
use super::super::{Record, RecordVersion, StoreError, Stored, WriteReply};
use super::LocalState;
use crate::backend::go_path;
use crate::file_id::FileId;
use crate::lock::line::{Line, Slot, Ticket, Waiter};
use crate::lock::{LockId, LockInfo, LockKey};
use crate::opened::{self, Kind};
use crate::supervise::may_be_open_elsewhere;

/// How often a state file may be replaced under us before we say so. Terraform removes an empty
/// one each time it unlocks.
const RACES: u32 = 20;

/// No info of Terraform's is longer, in bytes.
const LONGEST_INFO: u64 = 1024 * 1024;

/// The state file and what lies beside it.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) state: PathBuf,
    /// The directory that Terraform makes for it.
    dir: PathBuf,
    /// Where the line for it is.
    pub(super) line: PathBuf,
    info: PathBuf,
    /// The next info; renamed over the info, because Terraform does not wait for a holder whose
    /// half-written info it cannot read.
    info_aside: PathBuf,
}

/// A lock that is ours.
#[derive(Debug)]
pub(super) struct HeldState {
    pub(super) file: File,
    pub(super) created: Option<PathBuf>,
    pub(super) record: Record,
}

/// What came of locking an open file.
#[derive(Debug, PartialEq, Eq)]
enum Locked {
    Ours,
    Taken,
    /// The path names another file by now, or none.
    NotTheState,
}

impl Files {
    pub(super) fn beside(state: PathBuf) -> Result<Self, StoreError> {
        let Some(name) = state.file_name() else {
            let path = state.display();
            return Err(StoreError::Misconfigured(
                format!("`{path}` cannot be a state file").into(),
            ));
        };
        // Terraform's rule: one leading dot is dropped, then `.<name>.lock.info`.
        let bytes = name.as_encoded_bytes();
        let bare = bytes.strip_prefix(b".").unwrap_or(bytes);
        let info = OsString::from_vec([b".", bare, b".lock.info"].concat());
        // Terraform cleans the path of these two as text, and not that of the state.
        let dir = go_path::dir(&state);
        // Of one length, since a name that leaves room for Terraform's info need not leave more.
        let mut aside = String::from(".tfwrap-");
        for byte in &Sha256::digest(bytes)[..8] {
            let _ = write!(aside, "{byte:02x}");
        }
        let (info, info_aside) = (dir.join(info), dir.join(aside));
        let line = OsString::from_vec([b".", bare, b".tfwrap"].concat());
        let line = state.with_file_name(line);
        Ok(Self { state, dir, line, info, info_aside })
    }

    /// Who has the state's lock.
    pub(super) fn current(&self, ours: Option<&HeldState>) -> Result<Option<Stored>, StoreError> {
        if let Some(ours) = ours
            && self.is_current(&ours.file)?
        {
            return Ok(Some(stored(ours.record.clone())));
        }
        self.expect_file()?;
        let fail = |error: &io::Error| io_error("read the lock of", &self.state, error, false);
        let file = match opened::to_read(&self.state) {
            Ok(opened) => opened.file,
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
        let info = read_info(&self.info).filter(|text| LockInfo::parse(text).is_ok());
        Ok(Some(stored(Record { info, lease: None })))
    }

    pub(super) fn acquire(
        &self,
        record: Record,
        held: &mut Option<HeldState>,
    ) -> Result<WriteReply, StoreError> {
        let fail = |error: &io::Error| io_error("lock", &self.state, error, false);
        self.expect_file()?;
        for _ in 0..RACES {
            let (file, created) = self.open().map_err(|e| fail(&e))?;
            match self.lock(&file)? {
                Locked::Ours => {}
                Locked::Taken => return Ok(WriteReply::Conflict(Some(self.current(None)?))),
                Locked::NotTheState => continue,
            }
            let ours = HeldState { file, created, record };
            if let Err(error) = self.tell(&ours.record) {
                self.release(&ours)?;
                return Err(error);
            }
            // A shared lock excludes all who want the exclusive one, and lets those come beside us
            // for whom we hold it. That is told by the info, so not before. Where it cannot be
            // had, nobody comes beside us.
            let _shared = fcntl(&ours.file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_RDLCK)));
            let version = version(&ours.record);
            *held = Some(ours);
            return Ok(WriteReply::Applied(version));
        }
        let state = self.state.display();
        let detail = format!("`{state}` is replaced again and again while it is being locked");
        Err(StoreError::Unavailable { detail, sent: false })
    }

    /// Locks the state beside whoever holds it for us.
    pub(super) fn join(&self) -> Result<Option<File>, StoreError> {
        let fail = |error: &io::Error| io_error("lock", &self.state, error, false);
        let file = match opened::to_read(&self.state) {
            Ok(opened) => opened.file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(&error)),
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_RDLCK))) {
            Ok(_) => Ok(self.is_current(&file)?.then_some(file)),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(fail(&error.into())),
        }
    }

    fn lock(&self, file: &File) -> Result<Locked, StoreError> {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            // Between our open and our lock a Terraform may have unlocked, and removed the file.
            Ok(_) if self.is_current(file)? => Ok(Locked::Ours),
            Ok(_) => Ok(Locked::NotTheState),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(Locked::Taken),
            Err(error) => Err(io_error("lock", &self.state, &error.into(), false)),
        }
    }

    /// Refuses what Terraform would wait for under our lock, or cannot open. A device is a state that is
    /// always empty (`-state=/dev/null`).
    fn expect_file(&self) -> Result<(), StoreError> {
        let Ok(metadata) = self.state.metadata() else { return Ok(()) };
        match Kind::of(metadata.file_type()) {
            Kind::Regular | Kind::Device | Kind::Link => Ok(()),
            kind @ (Kind::Directory | Kind::Pipe | Kind::Socket) => {
                let path = self.state.display();
                let what = format!("`{path}` is {kind}, not the file of a state: move it away");
                Err(StoreError::Misconfigured(what.into()))
            }
        }
    }

    /// Opens the state file as Terraform does, directories and file made if need be.
    fn open(&self) -> io::Result<(File, Option<PathBuf>)> {
        let created = match std::fs::metadata(&self.state) {
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let missing = self.dir.ancestors().take_while(|dir| !dir.exists());
                Some(missing.last().unwrap_or(&self.state).to_owned())
            }
            Err(error) => return Err(error),
        };
        if created.is_some() {
            DirBuilder::new().recursive(true).mode(0o755).create(&self.dir)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o666);
        let file = opened::with(&mut options, 0, &self.state)?.file;
        if created.is_some() {
            // Terraform goes on with the file that it has open. Ours opens it anew.
            opened::keep_for_owner(&file)?;
        }
        Ok((file, created))
    }

    /// Whether the descriptor's file is the one that the path names.
    pub(super) fn is_current(&self, file: &File) -> Result<bool, StoreError> {
        let fail = |error: &io::Error| io_error("look at", &self.state, error, false);
        let ours = file.metadata().map_err(|e| fail(&e))?;
        match std::fs::metadata(&self.state) {
            Ok(named) => Ok(FileId::of_metadata(&named) == FileId::of_metadata(&ours)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fail(&error)),
        }
    }

    /// Writes the info file.
    pub(super) fn tell(&self, record: &Record) -> Result<(), StoreError> {
        let fail = |error: &io::Error| io_error("write", &self.info, error, false);
        if let Some(what) = not_an_info(&self.info).map_err(|e| fail(&e))? {
            let path = self.info.display();
            return Err(StoreError::Misconfigured(
                format!(
                    "`{path}` {what}, not the lock info that Terraform keeps there: move it away"
                )
                .into(),
            ));
        }
        let Some(info) = &record.info else {
            return remove_if_there(&self.info).map_err(|e| fail(&e));
        };
        remove_if_there(&self.info_aside).map_err(|e| fail(&e))?;
        let write = || {
            let mut file = opened::make(&self.info_aside)?;
            file.write_all(info.as_bytes())?;
            std::fs::rename(&self.info_aside, &self.info)
        };
        write().map_err(|error| {
            drop(remove_if_there(&self.info_aside));
            fail(&error)
        })
    }

    /// Gives the lock back, the files of its own first, as Terraform does; returns whether it
    /// still was the lock of the state. It was, too, when there is no state file any more: nobody
    /// else locked it meanwhile, and `workspace delete` removes it under the lock.
    ///
    /// An empty state file goes *before* the lock, not after it as Terraform has it: whoever
    /// locks it in between would lock what is about to be removed.
    pub(super) fn release(&self, ours: &HeldState) -> Result<bool, StoreError> {
        let fail = |error: &io::Error| io_error("unlock", &self.state, error, false);
        let current = self.is_current(&ours.file)?;
        if current {
            self.clear(ours).map_err(|e| fail(&e))?;
        } else if let Some(moved) = self.moved_to(&ours.file) {
            moved.clear(ours).map_err(|e| fail(&e))?;
        } else {
            self.take_back(&ours.record);
        }
        // Said to the description and not left to the close: a guardian may have a descriptor too.
        unlock(&ours.file).map_err(|e| fail(&e.into()))?;
        Ok(current || !self.state.exists())
    }
}

impl Files {
    /// Where our state and what lies beside it are by now, if a directory above them was renamed: by the
    /// kernel's own word, and still under the same name. We have its lock there, too.
    pub(super) fn moved_to(&self, file: &File) -> Option<Self> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        let moved = Self::beside(path).ok()?;
        let is_ours = moved.state.file_name() == self.state.file_name();
        (is_ours && moved.is_current(file).unwrap_or(false)).then_some(moved)
    }

    /// Removes our info where the path names another state by now; not that of whoever has locked this one.
    fn take_back(&self, ours: &Record) {
        let id = |info: Option<String>| LockInfo::parse(&info?).ok().map(|info| info.id);
        let told = id(read_info(&self.info));
        if told.is_some() && told == id(ours.info.clone()) {
            // The lock must go even where this cannot.
            drop(remove_if_there(&self.info));
        }
    }

    /// Removes what the lock has put beside the state, and the state that it made if that is empty.
    fn clear(&self, ours: &HeldState) -> io::Result<()> {
        let empty = ours.file.metadata()?.len() == 0;
        // The lock must go even where its files cannot: without the lock a left-over info is
        // harmless, and an empty state is no state.
        if let Ok(None) = not_an_info(&self.info) {
            drop(remove_if_there(&self.info));
        }
        // A killed process may have left it.
        drop(remove_if_there(&self.info_aside));
        // Whoever waits stands in it; without it, what the lock made is not empty.
        let _somebody_is_at_work_there = self.clear_line(|_| false);
        // Whoever waits has it open and locks that very file: removed, it would be another one than
        // the next would make.
        if let (Some(first), true) = (&ours.created, empty)
            && !may_be_open_elsewhere(&ours.file)
        {
            // What the lock made, and not a link to it that was there before.
            let state = std::fs::canonicalize(&self.state);
            drop(remove_if_there(state.as_deref().unwrap_or(&self.state)));
            let made = self.dir.ancestors().take_while(|dir| dir.starts_with(first));
            for dir in made {
                if std::fs::remove_dir(dir).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Files {
    /// Removes the tickets of waiters that are gone, and the line with them if nobody waits. Who joins
    /// just now has a ticket, or will find the line gone and begin it anew.
    /// Returns whether that was tried: not while somebody is at work there.
    pub(super) fn clear_line(&self, is_gone: impl Fn(&LockId) -> bool) -> bool {
        FileStore::new(&self.line).remove_idle(|registers| {
            let key = LocalState::line_key();
            let line_at = Slot::Line.key(&key);
            let line = registers.iter().find(|(at, _)| *at == line_at);
            // Without a line, or with a damaged one, nobody knows whose turn was.
            let head = line.and_then(|(_, record)| Line::of(record)).map(|line| line.head);
            let is_over = |(at, record): &(LockKey, Record)| {
                let had_turn = |Ticket(n)| head.is_some_and(|head| n < head);
                Slot::ticket_of(&key, at).is_some_and(had_turn)
                    || Waiter::of(record).is_some_and(|waiter| is_gone(&LockId(waiter.id)))
            };
            let mut idle: Vec<_> = registers.iter().map(is_over).collect();
            let all_over =
                registers.iter().zip(&idle).all(|((at, _), over)| *over || *at == line_at);
            for (idle, (at, _)) in idle.iter_mut().zip(registers) {
                *idle |= *at == line_at && all_over && head.is_some();
            }
            idle
        })
    }
}

/// What lies there as the info: anybody who can write into the directory may have put it there.
fn read_info(path: &Path) -> Option<String> {
    let opened = opened::to_read(path).ok().filter(|opened| opened.kind() == Kind::Regular)?;
    String::from_utf8(opened.read_within(LONGEST_INFO).ok()??).ok()
}

/// What lies in the place of the info and is none. Terraform waits for ever to write into a pipe, and
/// writes through a link over whatever it leads to. One that a kill or a power cut left empty, half
/// written or full of zeros is one; so is one that cannot be read.
fn not_an_info(path: &Path) -> io::Result<Option<String>> {
    let kind = match path.symlink_metadata() {
        Ok(metadata) => Kind::of(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if kind != Kind::Regular {
        return Ok(Some(format!("is {kind}")));
    }
    let mut start = Vec::new();
    if let Ok(opened) = opened::to_read(path) {
        opened.file.take(1).read_to_end(&mut start)?;
    }
    let is_one = matches!(start.as_slice(), [] | [b'{' | 0]);
    Ok((!is_one).then(|| "holds something else".to_owned()))
}

/// Ends the description's lock, whoever has it open.
pub(super) fn unlock(file: &File) -> nix::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK))).map(drop)
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
pub(super) fn version(record: &Record) -> RecordVersion {
    let part = |text: &Option<String>| match text {
        Some(text) => format!("{}:{text}", text.len()),
        None => "-".to_owned(),
    };
    RecordVersion(format!("{} {}", part(&record.info), part(&record.lease)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_removed_between_open_and_lock_is_not_taken_for_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::beside(dir.path().join("terraform.tfstate")).unwrap();
        let (early, created) = files.open().unwrap();
        assert_eq!(created.as_deref(), Some(&*files.state));
        std::fs::remove_file(&files.state).unwrap();
        assert_eq!(files.lock(&early).unwrap(), Locked::NotTheState);
        let (now, _) = files.open().unwrap();
        assert_eq!(files.lock(&early).unwrap(), Locked::NotTheState);
        assert_eq!(files.lock(&now).unwrap(), Locked::Ours);
        let (late, created) = files.open().unwrap();
        assert_eq!(created, None);
        assert_eq!(files.lock(&late).unwrap(), Locked::Taken);
    }
}
