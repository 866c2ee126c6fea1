//! Who runs under a lock of ours without being our child: a tfwrap below a `run`, or in another
//! step of a `hold`. Its receipt names our lock as inherited.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::shell::Shell;
use crate::clock::uptime;
use crate::lock::LockId;
use crate::receipt::{Receipt, ReceiptFile};
use crate::report::Notice;
use crate::supervise::Orphans;
use crate::supervise::{ProcessId, Sight, World};

const LOOK: Duration = Duration::from_millis(200);

/// Waits until nobody runs under a lock that is ours to give back: a free lock with a Terraform
/// that lives is worse than a stuck lock. Whoever asks us to end asks them, too.
pub(super) async fn wait(shell: &mut Shell, dir: &Path) {
    let ids: Vec<_> = shell
        .kept
        .iter()
        .filter(|kept| !kept.inherited)
        .map(|kept| kept.grant.id.clone())
        .collect();
    let mut said = false;
    let mut asked = false;
    loop {
        let living = living(dir, &ids);
        let Some(first) = living.first() else { return };
        if !std::mem::replace(&mut said, true) {
            shell.say(Notice::Note {
                message: format!(
                    "process {} still runs under the lock, which is given back when it has ended",
                    first.runner.pid
                ),
            });
        }
        let stop = shell.next(Some(uptime().plus(LOOK)), None).await.stop().is_some();
        if stop && !std::mem::replace(&mut asked, true) {
            for receipt in living {
                // It ends its child, or its guardian does.
                drop(receipt.runner.signal(Signal::SIGTERM));
            }
        }
    }
}

/// The runs of this machine that inherited one of these locks and are not over.
pub(crate) fn living(dir: &Path, ids: &[LockId]) -> Vec<Receipt> {
    let Some(here) = World::here() else { return Vec::new() };
    // Without the directory there are no receipts; with a broken one they say nothing.
    let files = ReceiptFile::all_in(dir).unwrap_or_default();
    let receipts = files.iter().filter_map(|file| file.read().ok());
    let inherits = |receipt: &Receipt| {
        receipt.locks.iter().any(|entry| entry.inherited && ids.contains(&entry.id))
    };
    receipts.filter(inherits).filter(|receipt| is_living(receipt, &here)).collect()
}

/// Whether any process of the run is known to live.
pub(crate) fn is_living(receipt: &Receipt, here: &World) -> bool {
    receipt.world.seen_from(here) == Sight::Here
        && (receipt.runner.is_alive()
            || receipt.guardian.is_some_and(ProcessId::is_alive)
            || receipt.child.is_some_and(|child| !Orphans::are_gone(&child)))
}
