//! Waiters for a local state that were killed: their tickets lie beside the state, and so does the
//! directory of the line, for as long as somebody seems to wait.
//!
//! The receipt of a waiter tells that it is dead, and its lock ID which ticket was its own. Without
//! that, a ticket is dead when it has not changed for a minute, which only who waits behind it sees.
//!
//! Its rules: `docs/protocol.md#f8-local-state`.

use std::path::Path;

use crate::lock::LockId;
use crate::receipt::ReceiptFile;
use crate::store::LocalState;
use crate::supervise::{HostScope, Sight};
use crate::target::{LockTarget, StoreSpec};

/// Takes those out of the line of this lock that are known to be dead: the one with this ID, and
/// whoever has left a receipt in this directory. With the last one the line goes.
pub(super) async fn forget_dead(target: &LockTarget, dir: Option<&Path>, dead: Option<&LockId>) {
    let StoreSpec::LocalState { path } = &target.store else { return };
    let Ok(state) = LocalState::new(path) else { return };
    if !state.line_dir().exists() {
        return;
    }
    let dead = dir.map(known_dead).into_iter().flatten().chain(dead.cloned()).collect();
    // What stays is dead for whoever waits behind it, too, only later.
    drop(state.forget_waiters(dead).await);
}

/// The IDs that dead runs of this machine have asked for locks under.
fn known_dead(dir: &Path) -> Vec<LockId> {
    let Some(here) = HostScope::here() else { return Vec::new() };
    let receipts = ReceiptFile::readable_in(dir);
    let dead =
        receipts.filter(|it| it.world.seen_from(&here) == Sight::Here && !it.runner.is_alive());
    dead.flat_map(|receipt| receipt.own_ids()).collect()
}
