//! Terraforms of tfwraps below us that are dead. They are our children now, since we are a subreaper,
//! and have a guardian of their own, or had an interrupt already: a second one of ours would cost them
//! their state.
//!
//! Its rules: `docs/protocol.md#s3-whom-an-interrupt-goes-to`.

use super::event_loop::EventLoop;
use super::standstill::Standstill;
use crate::receipt::{Receipt, ReceiptFile};
use crate::supervise::ending::Interrupts;
use crate::supervise::{Child, HostScope, ProcessId, Sight};

/// Takes each of them for one that has been told, unless nobody has told it and nobody will.
pub(super) fn leave_to_their_own(event_loop: &EventLoop, child: &mut Child) {
    let dir =
        event_loop.custody.file().and_then(|file| file.path().parent().map(ToOwned::to_owned));
    let (Some(dir), Some(here)) = (dir, HostScope::here()) else { return };
    // Now, since a tfwrap among them may die meanwhile.
    let targets = child.choose_targets();
    // Without the directory there are no receipts.
    for file in ReceiptFile::all_in(&dir).unwrap_or_default() {
        let Ok(receipt) = file.read() else { continue };
        let is_dead = receipt.world.seen_from(&here) == Sight::Here && !receipt.runner.is_alive();
        let Some(tree) = receipt.child.filter(|_| is_dead) else { continue };
        // One of an odd name counts for us once nothing is above it, and in its own tree it does not.
        let theirs = [tree.targets(), vec![tree.leader]].concat();
        let ours: Vec<_> = targets.iter().copied().filter(|it| theirs.contains(it)).collect();
        if !ours.is_empty() && is_left_to_others(event_loop, &file, &receipt) {
            child.have_been_told(ours);
        }
    }
}

/// Whether somebody else has told the child of this dead run, or is about to. If not, it is noted that we
/// do.
fn is_left_to_others(event_loop: &EventLoop, file: &ReceiptFile, receipt: &Receipt) -> bool {
    if receipt.guardian.is_some_and(ProcessId::is_alive) {
        // It does nothing while it is stopped.
        Standstill::default().end(event_loop, receipt, true);
        return true;
    }
    let acting = file.act();
    if matches!(acting, Ok(None)) {
        // A `recover` is at work on it.
        return true;
    }
    // Whoever was, may have told it meanwhile.
    let Ok(mut receipt) = file.read() else { return receipt.interrupts != Interrupts::None };
    if receipt.interrupts != Interrupts::None {
        return true;
    }
    receipt.interrupts = Interrupts::Maybe;
    // A disk that is full keeps nobody from being told.
    drop(file.write(&receipt));
    receipt.child.is_some_and(|child| child.was_swept())
}
