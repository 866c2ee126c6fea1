//! The fence of a holder, for commands under its lock that nobody looks after any more.
//!
//! Its rules: `docs/protocol.md#t4-heartbeats-below`.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::lock::LockId;
use crate::receipt::{Receipt, ReceiptFile};
use crate::supervise::ending::Interrupts;
use crate::supervise::{HostScope, ProcessId, Sight};

/// What a fence does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// The first: once, unless it was interrupted already.
    Interrupt,
    /// The last, before anybody may take the lock over.
    Kill,
}

/// Ends what works below these locks of ours, where neither its tfwrap nor its guardian can: both are
/// dead or stopped, so that no fence but this one comes for it.
///
/// # Errors
/// When it cannot be looked for: no descriptor to be had, a directory that cannot be read.
pub fn fence_below(dir: &Path, ids: &[LockId], fence: Fence) -> io::Result<()> {
    let here = HostScope::here().ok_or_else(|| io::Error::other("`/proc` cannot be read"))?;
    for (file, mut receipt) in those_below(ReceiptFile::all_in(dir)?, ids) {
        if is_kept(&receipt) || receipt.world.seen_from(&here) != Sight::Here {
            continue;
        }
        let Some(child) = receipt.child else { continue };
        if fence == Fence::Kill {
            // What is refused here is ended by nobody.
            drop(child.signal(Signal::SIGKILL));
        } else if receipt.interrupts == Interrupts::None {
            let mut note = |interrupts| {
                receipt.interrupts = interrupts;
                // A disk that is full keeps nobody from being told.
                drop(file.write(&receipt));
            };
            note(Interrupts::Maybe);
            drop(child.interrupt());
            note(Interrupts::Sent);
        }
    }
    Ok(())
}

/// How many descriptors a look for processes needs at once.
const SPARE: usize = 2;

/// The last fence of a guardian, below the locks that its receipt names as its own. No descriptor may
/// be to be had just then, so it keeps those that it needs.
pub(super) struct LastFence {
    spare: Vec<OwnedFd>,
    is_said: bool,
}

impl LastFence {
    pub(super) fn new() -> Self {
        let mut this = Self { spare: Vec::new(), is_said: false };
        this.keep_spare();
        this
    }

    fn keep_spare(&mut self) {
        let missing = SPARE - self.spare.len();
        let copy = |_| io::stdin().as_fd().try_clone_to_owned().ok();
        self.spare.extend((0..missing).filter_map(copy));
    }

    /// Kills what nobody else would. Where it cannot be looked for, a line says so as soon as one can
    /// be left.
    pub(super) fn kill_below(&mut self, receipt: Option<&Path>) {
        // Without a receipt nobody could have come under them.
        let Some(path) = receipt.filter(|path| path.exists()) else { return };
        self.spare.clear();
        let file = ReceiptFile::at(path.to_owned());
        let looked = file.read().map_err(io::Error::other).and_then(|ours| {
            fence_below(path.parent().unwrap_or(Path::new("/")), &ours.own_ids(), Fence::Kill)
        });
        if let (Err(error), false) = (looked, self.is_said) {
            let what = format!(
                "the guardian cannot look for commands that run under the locks of this run, so it \
                 cannot kill them before somebody else may acquire these locks: {error}; retrying"
            );
            self.is_said = leave_line(&file, &what).is_ok();
        }
        self.keep_spare();
    }
}

/// Leaves a line for whoever comes for the receipt.
///
/// # Errors
/// No descriptor, no place on the disk.
pub(super) fn leave_line(file: &ReceiptFile, what: &str) -> io::Result<()> {
    writeln!(file.open_log()?, "tfwrap: {what}")
}

/// Whether anybody sends heartbeats for it and fences it.
fn is_kept(receipt: &Receipt) -> bool {
    let works = |process: ProcessId| process.is_alive() && !process.stands_still();
    works(receipt.runner) || receipt.guardian.is_some_and(works)
}

/// The receipts of those who inherited one of these locks.
pub fn inheriting(dir: &Path, ids: &[LockId]) -> impl Iterator<Item = (ReceiptFile, Receipt)> {
    // Without the directory there are no receipts; with a broken one they say nothing.
    those_below(ReceiptFile::all_in(dir).unwrap_or_default(), ids)
}

fn those_below(
    files: Vec<ReceiptFile>,
    ids: &[LockId],
) -> impl Iterator<Item = (ReceiptFile, Receipt)> {
    let files = files.into_iter();
    let receipts = files.filter_map(|file| file.read().ok().map(|receipt| (file, receipt)));
    receipts.filter(|(_, receipt)| receipt.inherited().any(|entry| ids.contains(&entry.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line, and not one each second.
    #[test]
    fn what_cannot_be_looked_for_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = ReceiptFile::at(dir.path().join("run-1.json"));
        let mut fence = LastFence::new();
        fence.kill_below(None);
        fence.kill_below(Some(file.path()));
        assert_eq!(file.read_log(), "", "there is no receipt, so nobody below it");
        std::fs::write(file.path(), "{}").unwrap();
        fence.kill_below(Some(file.path()));
        fence.kill_below(Some(file.path()));
        let log = file.read_log();
        assert_eq!(log.matches("cannot look for").count(), 1, "{log}");
        assert_eq!(fence.spare.len(), SPARE);
        // No directory.
        fence_below(file.path(), &[], Fence::Kill).unwrap_err();
    }
}
