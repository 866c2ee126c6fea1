//! What tfwrap and its guardian tell each other, one datagram each.
//!
//! Its rules: `docs/protocol.md#g2-messages`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::supervise::ProcessTree;
use crate::supervise::ending::Interrupts;

/// From the child, before its program runs: its number.
/// See [`crate::supervise::Announce`].
pub(super) const CHILD: u8 = b'c';
/// From tfwrap: how things stand, a [`Head`] and after a line feed what the guardian only keeps.
pub(super) const STATE: u8 = b's';
/// From tfwrap: a descriptor that holds something while it is open, a [`LentFile`].
pub(super) const FILE: u8 = b'f';
/// From tfwrap: all is given back.
pub(super) const DONE: u8 = b'd';
/// From the guardian: it killed the child, whose lease was about to end.
pub(super) const FENCED: u8 = b'k';

/// From the guardian: a stop came to it, and so probably to every process there is.
pub(super) const SWEPT: u8 = b'a';

/// From the guardian: why it cannot watch; then it ends.
pub(super) const FAILED: u8 = b'e';

/// No datagram is longer.
pub(super) const LONGEST: usize = 128 * 1024;

/// What the guardian itself must know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// When the child must be dead, in milliseconds of the boot-time clock.
    pub kill_at: Option<u64>,
    /// Whom to end.
    pub child: Option<ProcessTree>,
    /// Whether it was asked to end.
    pub interrupts: Interrupts,
    /// The receipt, beside which lines go, once the guardian has something to say.
    #[serde(with = "crate::path_text::option")]
    pub receipt: Option<PathBuf>,
    /// Whether the child was killed.
    #[serde(default)]
    pub killed: bool,
    /// How long the child may take to end once tfwrap is gone, in milliseconds.
    #[serde(default)]
    pub grace: u64,
    /// How much of that is over, in milliseconds.
    #[serde(default)]
    pub waited: u64,
    /// Descriptors that were lent, open in this process.
    #[serde(default)]
    pub files: Vec<LentFile>,
}

/// A descriptor of a local lock, or of the door of a lock that others use, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LentFile {
    /// The ID of the lock.
    pub id: String,
    /// What came into being with the lock.
    #[serde(with = "crate::path_text::option", default)]
    pub created: Option<PathBuf>,
    /// Whether it is of a door.
    #[serde(default)]
    pub door: bool,
    /// Its number in the process that reads this.
    pub fd: i32,
}
