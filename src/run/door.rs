//! The door of a lock that a `run` or a `hold` holds: a small file in its holder's directory,
//! through which the commands inside come under the lock.
//!
//! Three of its bytes are locked, each for an open file description (`F_OFD_SETLK`):
//!
//! - the *presence*, by the holder for as long as it or its guardian lives. It tells the real file
//!   from a copy (of the directory, in an overlay, in an image), where nobody would see who is
//!   inside;
//! - the *turn*, by the one command that uses the state;
//! - the *threshold*, shared by all that are inside. Before the holder releases the lock, it takes
//!   the threshold exclusively, and with that the door is closed.
//!
//! The kernel keeps such a lock while any process has the description open, whether we can see that
//! process or not. Our child inherits it and it is lent to our guardian, so it outlives us. Any of
//! them can end it with an explicit unlock, however many still have it open. So what a provisioner
//! leaves behind on purpose does not keep it. And it still holds where `/proc` shows nothing, in
//! another PID namespace or as another user.
//!
//! If the kernel keeps the lock itself (a local state), the file says which file is locked:
//! `DEVICE:INODE` and a newline. Otherwise it is empty.
//!
//! Only the holder creates the file. A command that does not find it (another directory, another
//! machine's) or may not use it (another user's) could neither take turns nor be waited for.
//!
//! Its rules: `docs/protocol.md#t2-the-door`.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use sha2::{Digest as _, Sha256};

use crate::file_id::{self, FileId};
use crate::lock::LockId;
use crate::opened::{self, Opened};
use crate::supervise::{Member, holders_of_lock};

/// The bytes, which need not exist to be locked.
const TURN: libc::off_t = 0;
const THRESHOLD: libc::off_t = 1;
const PRESENCE: libc::off_t = 2;

/// One open file description of a door, with whatever locks it has.
#[derive(Debug)]
pub(crate) struct Door(File);

/// What came of an attempt to get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    Inside,
    /// Another command uses the state.
    InUse,
    /// The holder gives the lock back, or looks whether it can.
    Closing,
}

/// Where the door of the lock with this ID is.
pub(super) fn path(dir: &Path, id: &LockId) -> PathBuf {
    let mut name = "turn-".to_owned();
    for byte in Sha256::digest(id.0.as_bytes()) {
        let _infallible = write!(name, "{byte:02x}");
    }
    dir.join(name)
}

/// Who is inside, or has got the place of one who was; as far as `/proc` shows.
pub(super) fn inside(dir: &Path, id: &LockId) -> Vec<Member> {
    holders_of_lock(&path(dir, id), Some(THRESHOLD))
}

/// Takes the door away, after the lock is given back.
pub(super) fn remove(dir: &Path, id: &LockId) {
    // One that stays lets nobody in: the lock has another ID by then.
    drop(std::fs::remove_file(path(dir, id)));
}

impl Door {
    /// Makes the door of a lock that is ours.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let door = Self(opened::make(path)?);
        door.lock(libc::F_WRLCK, PRESENCE)?;
        Ok(door)
    }

    /// Notes which file the kernel has locked, by which the lock is known whatever is written
    /// beside that file.
    pub(super) fn note_locked(&self, file: FileId) -> io::Result<()> {
        self.0.write_all_at(format!("{file}\n").as_bytes(), 0)
    }

    /// Whether this is the file that the kernel has locked.
    pub(super) fn is_of(&self, file: FileId) -> bool {
        let mut noted = [0; 64];
        let read = self.0.read_at(&mut noted, 0).unwrap_or(0);
        noted[..read] == *format!("{file}\n").as_bytes()
    }

    /// Whether its holder, or that one's guardian, has it open.
    pub(super) fn has_holder(&self) -> io::Result<bool> {
        Ok(self.against(libc::F_WRLCK, PRESENCE)? != libc::F_UNLCK)
    }

    /// Whether its holder has closed it, to give its lock back.
    pub(super) fn is_closed(&self) -> io::Result<bool> {
        Ok(self.against(libc::F_RDLCK, THRESHOLD)? == libc::F_WRLCK)
    }

    /// Opens the door of somebody's lock; none where there is no such file.
    ///
    /// # Errors
    /// It is another user's, or cannot be opened.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let opened = opened::with(File::options().read(true).write(true), libc::O_NOFOLLOW, path);
        let Opened { file, metadata } = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !metadata.is_file() || metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Some(Self(file)))
    }

    /// One that was lent to this process.
    pub(super) fn of(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    /// Whether the path still names it.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        file_id::is_at(&self.0, path)
    }

    /// Comes in; with the turn or, for what only has others below it, without.
    pub(super) fn enter(&self, with_turn: bool) -> io::Result<Entered> {
        if with_turn && !self.lock(libc::F_WRLCK, TURN)? {
            return Ok(Entered::InUse);
        }
        if self.lock(libc::F_RDLCK, THRESHOLD)? {
            return Ok(Entered::Inside);
        }
        self.leave();
        Ok(Entered::Closing)
    }

    /// Closes it; not while anybody is inside.
    pub(super) fn close(&self) -> bool {
        // Where the kernel has no locks for this file, nobody can be inside.
        self.lock(libc::F_WRLCK, THRESHOLD).unwrap_or(true)
    }

    /// Ends whatever lock this description has, for all processes that have it open.
    pub(super) fn leave(&self) {
        for byte in [TURN, THRESHOLD] {
            // Nothing that a lock on a byte needs can be missing to end it.
            let _ended = self.lock(libc::F_UNLCK, byte);
        }
    }

    /// The kind of lock of others that keeps one of this kind from us; `F_UNLCK` if none does.
    fn against(&self, kind: libc::c_int, byte: libc::off_t) -> io::Result<libc::c_int> {
        let mut lock = lock_of(kind, byte)?;
        fcntl(&self.0, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(lock.l_type.into())
    }

    fn lock(&self, kind: libc::c_int, byte: libc::off_t) -> io::Result<bool> {
        let lock = lock_of(kind, byte)?;
        match fcntl(&self.0, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn lock_of(kind: libc::c_int, byte: libc::off_t) -> io::Result<libc::flock> {
    let short = |n: libc::c_int| libc::c_short::try_from(n).map_err(io::Error::other);
    Ok(libc::flock {
        l_type: short(kind)?,
        l_whence: short(libc::SEEK_SET)?,
        l_start: byte,
        l_len: 1,
        // Must be zero for the description's locks.
        l_pid: 0,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), &LockId("1-2".to_owned()));
        (dir, path)
    }

    fn open(path: &Path) -> Door {
        Door::open(path).unwrap().unwrap()
    }

    #[test]
    fn one_at_a_time_has_the_turn_and_the_door_closes_behind_the_last() {
        let (_dir, path) = place();
        let holder = Door::create(&path).unwrap();
        let (inside, had) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let door = open(&path);
                        if door.enter(true).unwrap() != Entered::Inside {
                            continue;
                        }
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                        assert!(!holder.close(), "closed under somebody");
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        had.fetch_add(1, Ordering::SeqCst);
                        door.leave();
                    }
                });
            }
        });
        assert!(had.into_inner() > 0, "nobody had it");
        assert!(holder.close());
        assert_eq!(open(&path).enter(true).unwrap(), Entered::Closing);
        holder.leave();
        assert_eq!(open(&path).enter(true).unwrap(), Entered::Inside);
    }

    /// All versions on one machine meet at one door.
    #[test]
    fn name_and_bytes_of_a_door_are_those_of_the_protocol() {
        let (dir, path) = place();
        let digest = "412a4789b02cad19bacb029f5c8ec8e9b115375d82b97df1d6b15997a8e70e01";
        assert_eq!(path, dir.path().join(format!("turn-{digest}")));
        assert_eq!((TURN, THRESHOLD, PRESENCE), (0, 1, 2));
    }

    #[test]
    fn a_copy_has_no_holder() {
        let (dir, path) = place();
        let holder = Door::create(&path).unwrap();
        assert!(open(&path).has_holder().unwrap());
        let copy = dir.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        assert!(!open(&copy).has_holder().unwrap());
        let guardians = holder.as_fd().try_clone_to_owned().unwrap();
        drop(holder);
        assert!(open(&path).has_holder().unwrap());
        drop(guardians);
        assert!(!open(&path).has_holder().unwrap());
    }

    #[test]
    fn runs_are_inside_together_and_keep_nobody_from_a_turn() {
        let (_dir, path) = place();
        let holder = Door::create(&path).unwrap();
        let (one, two, command) = (open(&path), open(&path), open(&path));
        for run in [&one, &two] {
            assert_eq!(run.enter(false).unwrap(), Entered::Inside);
        }
        assert_eq!(command.enter(true).unwrap(), Entered::Inside);
        assert_eq!(open(&path).enter(true).unwrap(), Entered::InUse);
        for door in [one, two, command] {
            assert!(!holder.close());
            drop(door);
        }
        assert!(holder.close());
    }

    /// As a child or a guardian has it, which ends after us or never.
    #[test]
    fn a_place_inside_lasts_while_anybody_has_it_open_or_until_a_word() {
        let (_dir, path) = place();
        let holder = Door::create(&path).unwrap();
        let ours = open(&path);
        assert_eq!(ours.enter(true).unwrap(), Entered::Inside);
        let theirs = ours.as_fd().try_clone_to_owned().unwrap();
        drop(ours);
        assert!(!holder.close(), "it died with the first");
        let guardians = Door::of(theirs.try_clone().unwrap());
        guardians.leave();
        assert!(holder.close(), "a word is not heard");
        drop(theirs);
    }

    #[test]
    fn only_its_holder_makes_it_and_a_link_is_not_followed() {
        let (dir, path) = place();
        assert!(Door::open(&path).unwrap().is_none());
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(Door::open(&path).is_err());
        assert!(Door::create(&path).is_err());
    }

    #[test]
    fn the_locked_file_is_known_by_its_inode() {
        let (dir, path) = place();
        let file = |name| FileId::of_metadata(&std::fs::metadata(name).unwrap());
        let (this, other) = (file(dir.path()), file(Path::new("/")));
        let holder = Door::create(&path).unwrap();
        assert!(!open(&path).is_of(this), "nothing is noted");
        holder.note_locked(this).unwrap();
        assert!(open(&path).is_of(this) && !open(&path).is_of(other));
    }

    #[test]
    fn one_that_was_removed_is_known_as_such() {
        let (_dir, path) = place();
        let door = Door::create(&path).unwrap();
        assert!(door.is_at(&path));
        std::fs::remove_file(&path).unwrap();
        assert!(!door.is_at(&path));
        let other = Door::create(&path).unwrap();
        assert!(!door.is_at(&path) && other.is_at(&path));
    }
}
