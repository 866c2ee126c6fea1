//! Turns among the commands of one run. The lock around a `run` is held for everything below it;
//! without this, two Terraforms side by side below it (`make -j`, `&` in a script) would both use
//! the state at once, each with its own locking off.
//!
//! A turn is a `flock` on a file of ours on this machine, named from the lock and its ID. A `run`
//! inside a run takes none: it would keep the commands below itself from theirs.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use sha2::{Digest as _, Sha256};

use super::acquire::Wait;
use super::shell::Shell;
use crate::clock::uptime;
use crate::duration;
use crate::env::Env;
use crate::error::Error;
use crate::lock::LockId;
use crate::report::Notice;
use crate::state_dir;

/// Between two looks whether it is our turn; nothing remote is asked.
const LOOK: Duration = Duration::from_millis(100);

/// Ours until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    path: PathBuf,
    _file: File,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While it is still locked: whoever opened it before sees that it is gone, and looks anew.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Waits until no other command of the run that holds `lock` under `id` is at work.
pub(super) async fn take(
    shell: &mut Shell,
    lock: &str,
    id: &LockId,
    env: &Env,
    Wait { give_up_at, limit }: Wait,
) -> Result<Turn, Error> {
    let dir = state_dir::path(env);
    let failed = |what: String| Error::Config {
        message: format!("cannot take turns with the other commands of this run: {what}"),
        hint: Some("name a directory of your own with `TFWRAP_STATE_DIR`".to_owned()),
    };
    state_dir::secure(&dir).map_err(failed)?;
    let path = dir.join(name(lock, id));
    let mut said = false;
    loop {
        match try_take(&path) {
            Ok(Some(turn)) => return Ok(turn),
            Ok(None) => {}
            Err(error) => return Err(failed(format!("`{}`: {error}", path.display()))),
        }
        if uptime() >= give_up_at {
            return Err(Error::NotAcquired {
                waited: duration::format(limit),
                holder: format!("`{lock}` is held by this run, and another command of it uses it"),
                hint: Some(
                    "call them one after the other, or wait longer with `--lock-timeout`"
                        .to_owned(),
                ),
            });
        }
        if !said {
            said = true;
            shell.say(Notice::Warning {
                message: format!(
                    "another command of this run uses the state of the lock `{lock}`: waiting for \
                     its end, up to {}",
                    duration::format(limit)
                ),
                hint: None,
            });
        }
        super::pause(shell, uptime().plus(LOOK).min(give_up_at)).await?;
    }
}

fn name(lock: &str, id: &LockId) -> String {
    let mut name = "turn-".to_owned();
    for byte in Sha256::digest(format!("{lock}#{id}").as_bytes()) {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// `None`: someone else has it.
fn try_take(path: &Path) -> io::Result<Option<Turn>> {
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever had it has removed it: then what is locked here is nobody's any more.
        let ours = file.metadata()?;
        match std::fs::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                return Ok(Some(Turn { path: path.to_owned(), _file: file }));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_has_it_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name("dynamodb://t/k", &LockId("1".to_owned())));
        let (inside, had) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let Some(turn) = try_take(&path).unwrap() else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        had.fetch_add(1, Ordering::SeqCst);
                        drop(turn);
                    }
                });
            }
        });
        assert!(had.into_inner() > 0, "nobody had it");
        assert!(try_take(&path).unwrap().is_some(), "whoever is alone gets it");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn each_lock_and_each_tenure_has_its_own() {
        let id = |text: &str| LockId(text.to_owned());
        assert_ne!(name("a", &id("1")), name("b", &id("1")));
        assert_ne!(name("a", &id("1")), name("a", &id("2")));
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("turn"), dir.path().join("victim"));
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(try_take(&path).is_err());
        assert!(!victim.exists());
    }
}
