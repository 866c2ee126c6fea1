//! The fence of a holder, for what works below its lock and nobody looks after any more.
//!
//! Its rules: `docs/protocol.md#t4-heartbeats-below`.

use std::path::Path;

use nix::sys::signal::Signal;

use super::message::Interrupts;
use crate::lock::LockId;
use crate::receipt::{Receipt, ReceiptFile};
use crate::supervise::process::{HostScope, ProcessId, Sight};

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
pub fn fence_below(dir: &Path, ids: &[LockId], fence: Fence) {
    let Some(here) = HostScope::here() else { return };
    for (file, mut receipt) in inheriting(dir, ids) {
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
}

/// The last fence of the locks that this receipt names as its own.
pub(super) fn kill_below(receipt: Option<&Path>) {
    if let Some(path) = receipt
        && let Some(dir) = path.parent()
        && let Ok(ours) = ReceiptFile::at(path.to_owned()).read()
    {
        fence_below(dir, &ours.own_ids(), Fence::Kill);
    }
}

/// Whether anybody sends heartbeats for it and fences it.
fn is_kept(receipt: &Receipt) -> bool {
    let works = |process: ProcessId| process.is_alive() && !process.stands_still();
    works(receipt.runner) || receipt.guardian.is_some_and(works)
}

/// The receipts of those who inherited one of these locks.
pub fn inheriting(dir: &Path, ids: &[LockId]) -> impl Iterator<Item = (ReceiptFile, Receipt)> {
    // Without the directory there are no receipts; with a broken one they say nothing.
    let files = ReceiptFile::all_in(dir).unwrap_or_default().into_iter();
    let receipts = files.filter_map(|file| file.read().ok().map(|receipt| (file, receipt)));
    receipts.filter(|(_, receipt)| receipt.inherited().any(|entry| ids.contains(&entry.id)))
}
