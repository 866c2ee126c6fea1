//! What lies beside a receipt: who acts on it, and what was asked of its run. The receipt itself is
//! its run's, which replaces it as a whole; others leave their word here.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::libc;

use super::ReceiptFile;
use crate::file_id::is_at;
use crate::opened;

/// Whoever ends what a dead run left.
const ACTING: &str = "acting";
/// That the hold is to be given back.
const RELEASE: &str = "release";
/// That the run was told to end.
const TOLD: &str = "told";

/// The next receipt, while it is written.
pub(super) const NEXT: &str = "next";

/// All of them.
pub(super) const ALL: [&str; 4] = [ACTING, RELEASE, TOLD, NEXT];

/// Leave to act on a receipt, which one process at a time has; it ends with this.
#[derive(Debug)]
pub struct Acting(#[expect(dead_code, reason = "it is locked while it is open")] File);

impl ReceiptFile {
    /// Takes the leave to act on it; nothing while somebody else has it. To be followed by a look
    /// at the receipt: whoever had it may have changed it.
    ///
    /// # Errors
    /// The directory is read-only or gone, the disk is full, or there are no such locks.
    pub fn act(&self) -> io::Result<Option<Acting>> {
        let path = self.path().with_extension(ACTING);
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        let file = opened::with(&mut options, libc::O_NOFOLLOW, &path)?.file;
        opened::keep_for_owner(&file)?;
        match file.try_lock() {
            // Else it was removed, with its receipt, by whoever had it.
            Ok(()) => Ok(is_at(&file, &path).then(|| Acting(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Leaves the word that the hold is to be given back; whether nobody had done so.
    ///
    /// # Errors
    /// The directory is read-only or gone, or the disk is full.
    pub fn ask_for_release(&self) -> io::Result<bool> {
        leave_word(&self.path().with_extension(RELEASE))
    }

    /// Whether somebody asks for that.
    #[must_use]
    pub fn is_release_asked(&self) -> bool {
        self.path().with_extension(RELEASE).exists()
    }

    /// Notes, before it is done, that the run is told to end; whether nobody had told it.
    ///
    /// # Errors
    /// The directory is read-only or gone, or the disk is full.
    pub fn note_told(&self) -> io::Result<bool> {
        leave_word(&self.path().with_extension(TOLD))
    }
}

fn leave_word(path: &Path) -> io::Result<bool> {
    match opened::make(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_at_a_time_acts_on_a_receipt() {
        let dir = tempfile::tempdir().unwrap();
        let file = ReceiptFile::new_in(dir.path());
        let first = file.act().unwrap().unwrap();
        assert!(file.act().unwrap().is_none());
        // With the receipt goes what lies beside it, and whoever waited sees that.
        file.remove().unwrap();
        let second = file.act().unwrap().unwrap();
        drop(first);
        assert!(file.act().unwrap().is_none());
        drop(second);
        assert!(file.act().unwrap().is_some());
    }

    #[test]
    fn a_word_is_left_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = ReceiptFile::new_in(dir.path());
        assert!(!file.is_release_asked());
        assert!(file.ask_for_release().unwrap() && !file.ask_for_release().unwrap());
        assert!(file.is_release_asked());
        assert!(file.note_told().unwrap() && !file.note_told().unwrap());
        file.remove().unwrap();
        assert!(!file.is_release_asked());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
