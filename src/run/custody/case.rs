//! What a process needs to know to end a run for a tfwrap that cannot.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::uptime;
use crate::lock::lease::{Lease, LeaseTerm};
use crate::lock::{LockId, Uptime};
use crate::receipt::{Entry, Receipt, ReceiptFile};
use crate::target::LockTarget;

/// What whoever takes over must know besides what the guardian itself needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Case {
    /// The receipt's file; none where there is no place for one.
    #[serde(with = "crate::path_text::option")]
    pub(crate) file: Option<PathBuf>,
    pub(crate) receipt: Receipt,
    pub(crate) tenures: Vec<CaseTenure>,
}

/// How things stand with one lock of the receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CaseTenure {
    /// Its name: the halves of a pair have one ID.
    pub(crate) lock: String,
    pub(crate) id: LockId,
    /// Whether it is ours; otherwise a request that may make it ours is out, or was never answered.
    pub(crate) granted: bool,
    /// The start of the last request that renewed the lease, in milliseconds of the boot-time
    /// clock.
    pub(crate) renewed: u64,
    /// What that declared, in milliseconds; none: never expires.
    pub(crate) ttl: Option<u64>,
    /// The number of the last beat that was sent.
    pub(crate) beat: u64,
    /// Whether an earlier create was never answered, so that the lock may appear once more.
    pub(crate) unanswered: bool,
    /// Whether a remove of it was sent: it may be gone by our own doing.
    pub(crate) removed: bool,
}

impl Case {
    /// What is known of a run when neither it nor its guardian is left: that it may hold what it
    /// asked for, and that nobody beats for it.
    pub(crate) fn of_the_dead(file: &ReceiptFile, receipt: &Receipt, wait: Duration) -> Self {
        let tenure = |entry: &Entry| CaseTenure {
            granted: true,
            renewed: millis(uptime().0),
            ..CaseTenure::asked(&entry.target, &entry.id)
        };
        let tenures = receipt.locks.iter().map(tenure).collect();
        let mut receipt = receipt.clone();
        // Within the wait of whoever gives it back, where that is shorter.
        receipt.orphan_grace = receipt.orphan_grace.min(millis(wait));
        Self { file: Some(file.path().to_owned()), receipt, tenures }
    }

    /// What they have declared last.
    pub(crate) fn declared(&mut self, entry: &Entry, lease: Lease) {
        let of_it = |tenure: &&mut CaseTenure| tenure.is_of(&entry.target, &entry.id);
        for tenure in self.tenures.iter_mut().filter(of_it) {
            tenure.beat = lease.beat;
            if let LeaseTerm::After(ttl) = lease.term {
                tenure.ttl = Some(millis(ttl));
            }
        }
    }
}

impl CaseTenure {
    pub(super) fn asked(target: &LockTarget, id: &LockId) -> Self {
        Self {
            lock: target.url(),
            id: id.clone(),
            granted: false,
            renewed: 0,
            ttl: None,
            beat: 0,
            unanswered: false,
            removed: false,
        }
    }

    pub(crate) fn is_of(&self, target: &LockTarget, id: &LockId) -> bool {
        self.id == *id && self.lock == target.url()
    }

    pub(crate) fn renewed(&self) -> Uptime {
        Uptime(Duration::from_millis(self.renewed))
    }

    /// When the child must be dead if nobody renews the lease.
    pub(crate) fn kill_at(&self) -> Option<Uptime> {
        self.term().fences().map(|(_, kill)| self.renewed().plus(kill))
    }

    pub(crate) fn term(&self) -> LeaseTerm {
        self.ttl.map_or(LeaseTerm::Never, |ttl| LeaseTerm::After(Duration::from_millis(ttl)))
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
