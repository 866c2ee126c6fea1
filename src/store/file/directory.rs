//! The open directory: what is done in it, relative to its descriptor.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::anchor::Anchored;
use super::{ASIDE, Content, FileStore, LOCK_FILE, NO_CONTENT, decode, file_name};
use crate::lock::LockKey;
use crate::opened::{self, Kind};
use crate::store::blocking::io_error;
use crate::store::{FlawKind, Record, RecordVersion, StoreError, Stored};

/// Nothing that is longer is a register.
const LONGEST: u64 = 1024 * 1024;

/// What lies in the place of a register.
enum Found {
    Content(Vec<u8>),
    TooLong,
    Other(Kind),
}

/// The open directory.
pub(super) struct Directory {
    fd: OwnedFd,
    at: Anchored,
    store: FileStore,
}

impl Directory {
    pub(super) fn open(store: &FileStore) -> Result<Option<Self>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (path, at) = (&store.dir, store.reach());
        match rustix::fs::open(&at.path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, at, store: store.clone() })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) if at.path.is_symlink() => Err(is_a_link(path)),
            Err(error) => Err(io_error("open the directory", path, &error.into(), false)),
        }
    }

    pub(super) fn open_or_make(store: &FileStore) -> Result<Self, StoreError> {
        if let Some(dir) = Self::open(store)? {
            return Ok(dir);
        }
        let path = &store.dir;
        match opened::make_dir(&store.reach().path, 0o700) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("make the directory", path, &error, false)),
        }
        Self::open(store)?.ok_or_else(|| {
            StoreError::Missing(format!("the directory `{}` disappeared", path.display()))
        })
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.store.dir.join(name)
    }

    /// Takes the advisory lock, or says that it is taken.
    pub(super) fn lock(&self) -> Result<Option<File>, StoreError> {
        let fail = |error: std::io::Error| io_error("lock", &self.store.lock_file(), &error, false);
        let file = match self.open_lock_file() {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            // The directory was removed since it was opened.
            Err(Errno::NOENT) if rustix::fs::fstat(&self.fd).is_ok_and(|it| it.st_nlink == 0) => {
                return Ok(None);
            }
            Err(Errno::LOOP) => return Err(is_a_link(&self.store.lock_file())),
            Err(error) if is_a_socket(error, &self.store.lock_file()) => {
                return Err(in_the_way(&self.store.lock_file(), Kind::Socket));
            }
            Err(error) => return Err(fail(error.into())),
        };
        let kind = Kind::of(file.metadata().map_err(fail)?.file_type());
        if kind != Kind::Regular {
            return Err(in_the_way(&self.store.lock_file(), kind));
        }
        match file.try_lock() {
            Ok(()) if self.has(&file).map_err(|e| fail(e.into()))? => Ok(Some(file)),
            // It was removed with the directory, or another one stands in its place.
            Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(fail(error)),
        }
    }

    /// Opens the file for the advisory lock, another user's for reading; makes it if it is missing.
    /// Nothing where somebody else does just that.
    fn open_lock_file(&self) -> Result<Option<File>, Errno> {
        let name = self.store.beside(LOCK_FILE);
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |more| rustix::fs::openat(&self.fd, &name, flags | more, Mode::empty());
        let opened = match open(OFlags::RDWR) {
            Err(Errno::ACCESS) => open(OFlags::RDONLY),
            opened => opened,
        };
        match opened {
            Ok(file) => Ok(Some(File::from(file))),
            // Never of a name that is there: in a sticky directory the kernel refuses that.
            Err(Errno::NOENT) => match self.make(&name, OFlags::RDWR) {
                Err(Errno::EXIST) => Ok(None),
                made => made.map(Some),
            },
            Err(error) => Err(error),
        }
    }

    /// Makes a file that is not there, for all who may write in the directory.
    fn make(&self, name: &str, access: OFlags) -> Result<File, Errno> {
        let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
        let (dir, made) = (rustix::fs::fstat(&self.fd)?, rustix::fs::fstat(&file)?);
        let writers = Mode::from_raw_mode(dir.st_mode);
        let mut readers = Mode::empty();
        if writers.contains(Mode::WGRP) && dir.st_gid == made.st_gid {
            readers |= Mode::RGRP;
        }
        if writers.contains(Mode::WOTH) {
            readers |= Mode::RGRP | Mode::ROTH;
        }
        let needed = Mode::RUSR | Mode::WUSR | readers;
        if !Mode::from_raw_mode(made.st_mode).contains(needed) {
            rustix::fs::fchmod(&file, needed)?;
        }
        Ok(File::from(file))
    }

    /// Whether this is the file on which whoever comes now takes the lock.
    fn has(&self, file: &File) -> Result<bool, Errno> {
        let ours = rustix::fs::fstat(file)?;
        match rustix::fs::statat(&self.fd, self.store.beside(LOCK_FILE), AtFlags::SYMLINK_NOFOLLOW)
        {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the registers that `are_idle`, and with the last one the directory. Nothing where there
    /// is something else.
    pub(super) fn clear(
        &self,
        are_idle: impl FnOnce(&[(LockKey, Record)]) -> Vec<bool>,
    ) -> std::io::Result<()> {
        let ours = [LOCK_FILE, ASIDE].map(|what| self.store.beside(what));
        let (mut names, mut registers) = (Vec::new(), Vec::new());
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let Ok(name) = entry?.file_name().to_str().map(str::to_owned) else { return Ok(()) };
            if [".", ".."].contains(&name.as_str()) || ours.contains(&name) {
                continue;
            }
            let Ok(Some(bytes)) = self.read_file(&name) else { return Ok(()) };
            // Of what was written by hand the key is not known.
            let key = serde_json::from_slice::<Content>(&bytes).map(|it| it.key);
            registers.push((LockKey(key.unwrap_or_default()), decode(bytes).record));
            names.push(name);
        }
        let are_idle = are_idle(&registers);
        let is_empty = are_idle.iter().all(|idle| *idle);
        let idle = names.into_iter().zip(are_idle).filter_map(|(name, idle)| idle.then_some(name));
        let mut idle: Vec<_> = idle.collect();
        if is_empty {
            // The file of the lock last: until then nobody can come between.
            let [lock, aside] = ours;
            idle.extend([aside, lock]);
        }
        for name in idle {
            match rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if is_empty { std::fs::remove_dir(&self.at.path) } else { Ok(()) }
    }

    pub(super) fn read(&self, key: &LockKey) -> Result<Option<Stored>, StoreError> {
        let name = file_name(key);
        let Some(bytes) = self.read_file(&name)? else { return Ok(None) };
        let is_ours = || serde_json::from_slice::<Content>(&bytes).is_ok_and(|it| it.key == key.0);
        if self.store.lock.as_ref() == Some(key) && !is_ours() {
            return Err(is_no_lock(&self.path_of(&name)));
        }
        Ok(Some(decode(bytes)))
    }

    /// The same for who has a lock already: whatever else lies there, the lock is lost to it.
    pub(super) fn read_anything(&self, key: &LockKey) -> Result<Option<Stored>, StoreError> {
        let of_other = |what: &str| Stored {
            record: Record::default(),
            version: RecordVersion(format!("{NO_CONTENT}{what}")),
        };
        Ok(self.look(&file_name(key))?.map(|found| match found {
            Found::Content(bytes) => decode(bytes),
            Found::TooLong => of_other("too long"),
            Found::Other(kind) => of_other(&kind.to_string()),
        }))
    }

    fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path_of(name);
        match self.look(name)? {
            None => Ok(None),
            Some(Found::Content(bytes)) => Ok(Some(bytes)),
            Some(Found::TooLong) => Err(is_no_lock(&path)),
            Some(Found::Other(kind)) => Err(in_the_way(&path, kind)),
        }
    }

    fn look(&self, name: &str) -> Result<Option<Found>, StoreError> {
        let path = self.path_of(name);
        let fail = |error: std::io::Error| io_error("read", &path, &error, false);
        // A pipe put in its place must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Ok(Some(Found::Other(Kind::Link))),
            Err(error) if is_a_socket(error, &path) => {
                return Ok(Some(Found::Other(Kind::Socket)));
            }
            Err(error) => return Err(fail(error.into())),
        };
        let metadata = file.metadata().map_err(fail)?;
        let kind = Kind::of(metadata.file_type());
        if kind != Kind::Regular {
            return Ok(Some(Found::Other(kind)));
        }
        if metadata.len() > LONGEST {
            return Ok(Some(Found::TooLong));
        }
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).map_err(fail)?;
        Ok(Some(Found::Content(bytes)))
    }

    /// Puts `content` in the place of the register's file. An error before the rename means that
    /// nothing was applied.
    pub(super) fn replace(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let fail = |error: std::io::Error| io_error("write", &self.path_of(name), &error, false);
        let aside = self.store.beside(ASIDE);
        let written = self
            .write_aside(&aside, content)
            .and_then(|()| Ok(rustix::fs::renameat(&self.fd, &aside, &self.fd, name)?));
        if let Err(error) = written {
            // For the space it takes; the next writer would remove it too.
            self.remove_aside(&aside).map_err(fail)?;
            return Err(fail(error));
        }
        self.sync(name)
    }

    fn write_aside(&self, aside: &str, content: &[u8]) -> std::io::Result<()> {
        self.remove_aside(aside)?;
        let mut file = self.make(aside, OFlags::WRONLY)?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn remove_aside(&self, aside: &str) -> std::io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, aside, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), StoreError> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())
            .map_err(|e| io_error("remove", &self.path_of(name), &e.into(), false))?;
        self.sync(name)
    }

    /// Makes the change of a name last. Others see it already, whatever comes of this. Some file
    /// systems (CIFS, some in user space) know no sync of a directory: what they promise they keep.
    fn sync(&self, name: &str) -> Result<(), StoreError> {
        made_lasting(rustix::fs::fsync(&self.fd), &self.path_of(name))
    }
}

fn made_lasting(synced: Result<(), Errno>, path: &Path) -> Result<(), StoreError> {
    match synced {
        Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(io_error("make lasting", path, &error.into(), true)),
    }
}

/// What the system calls "no such device or address".
fn is_a_socket(error: Errno, path: &Path) -> bool {
    error == Errno::NXIO
        && path.symlink_metadata().is_ok_and(|it| Kind::of(it.file_type()) == Kind::Socket)
}

fn in_the_way(path: &Path, kind: Kind) -> StoreError {
    if kind == Kind::Link {
        return is_a_link(path);
    }
    let text = format!("`{}` is {kind}, not a tfwrap lock file", path.display());
    StoreError::Misconfigured(FlawKind::InTheWay.flaw(text))
}

fn is_a_link(path: &Path) -> StoreError {
    let path = path.display();
    StoreError::Misconfigured(
        format!("`{path}` is a symbolic link, which tfwrap does not follow: name its target")
            .into(),
    )
}

fn is_no_lock(path: &Path) -> StoreError {
    let path = path.display();
    StoreError::Misconfigured(
        FlawKind::InTheWay.flaw(format!(
            "`{path}` is not a tfwrap lock file: name a file that does not exist yet"
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_synced_is_no_failure_and_what_was_renamed_is_there() {
        let of = |synced| made_lasting(synced, Path::new("/d/x"));
        for none in [Ok(()), Err(Errno::INVAL), Err(Errno::OPNOTSUPP)] {
            assert_eq!(of(none), Ok(()), "{none:?}");
        }
        for error in [Errno::IO, Errno::ROFS, Errno::ACCESS, Errno::NOSPC] {
            assert!(of(Err(error)).unwrap_err().outcome_is_unknown(), "{error:?}");
        }
    }
}
