//! What the lease keeper receives, wants and reports.

use std::time::Duration;

use crate::lock::lease::Lease;
use crate::lock::register::{Record, RecordVersion, StoreError, Stored, WriteReply};
use crate::lock::{LockId, Uptime};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// [`LeaseKeeper::deadline`] has passed.
    Tick,
    /// The beat that [`Action::Beat`] asked for came back.
    Beaten(Result<WriteReply, StoreError>),
    /// The read that [`Action::Look`] asked for came back.
    Looked(Result<Option<Stored>, StoreError>),
}

/// What the event loop does next, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write this record over this version, within [`LeaseKeeper::patience`].
    Beat(Record, RecordVersion),
    /// Read the register.
    Look,
    /// Tell the run.
    Say(LeaseEvent),
}

/// What the run must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// We were paused beyond the first fence: the child must stand still until the lease is known.
    Freeze,
    /// The lease is good: it may go on.
    Thaw,
    /// The first fence: the child must end, gracefully.
    Interrupt,
    /// The second fence: the child must be gone now.
    Kill(Unconfirmed),
    /// The record is gone, or is this one of somebody else.
    Lost(Option<Stored>),
    /// The store refuses our credentials since just now.
    Refused {
        /// What it says.
        error: StoreError,
        /// How long they were good, as far as we know.
        after: Duration,
        /// How far the first fence is.
        fence: Option<Duration>,
    },
    /// The credentials end in so long; what is stored now never expires.
    LastBeat {
        /// From now.
        left: Duration,
    },
}

/// Why no heartbeat was confirmed in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unconfirmed {
    /// The store confirmed none for so long, though we asked.
    Unanswered(Duration),
    /// We did not run for so long, and asked for none.
    StoodStill(Duration),
}

/// What is known of a lock when its keeper begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseStart {
    /// Our ID.
    pub id: LockId,
    /// Terraform's part of the record, as written; found out with the version where that is none.
    pub info: Option<String>,
    /// What is stored; `None` where it must be found out before anything is written.
    pub version: Option<RecordVersion>,
    /// The lease that is stored.
    pub lease: Lease,
    /// Before the request was sent that took it.
    pub since: Uptime,
    /// Whether that request was answered; otherwise no child may start before a beat was.
    pub answered: bool,
}
