//! What a tfwrap was about to start when it was killed: whether that runs, and which process it is.

use std::time::Duration;

use super::Receipt;
use crate::clock::uptime;
use crate::lock::Uptime;
use crate::supervise::{HostScope, ProcessTree, Sight};

/// So long after the receipt said that it starts, a child may still be between its fork and its program, where
/// nothing tells it from the tfwrap that forked it.
pub(crate) const MAY_APPEAR_FOR: Duration = Duration::from_secs(5);

/// Looks for the child of a dead tfwrap whose receipt does not name it yet. Where not all processes
/// can be seen, it stays unknown.
pub(super) fn look_for(receipt: &mut Receipt) {
    let Some(since) = receipt.starting_since.filter(|_| !receipt.runner.is_alive()) else { return };
    let here = HostScope::here().map(|here| receipt.world.seen_from(&here));
    if here != Some(Sight::Here) {
        return;
    }
    let Some(found) = ProcessTree::started_by(receipt.runner) else { return };
    let appears_until = Uptime(Duration::from_millis(since)).plus(MAY_APPEAR_FOR);
    if found.is_some() || uptime() > appears_until {
        (receipt.child, receipt.starting_since) = (found, None);
    }
}
