//! What tfwrap says, to whom: one [`Notice`] per thing worth a line, rendered as text or JSON.

use std::time::Duration;

/// One thing worth telling the user. All text in it that comes from records is untrusted; the
/// renderers clean it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The lock is held by someone else; said at once, when the holder changes, and at growing
    /// intervals.
    Waiting {
        /// The lock, as the user may name it.
        lock: String,
        /// Who has it, where the record says so.
        holder: Option<Box<crate::lock::LockInfo>>,
        /// How long we wait already.
        waited: Duration,
        /// The time we are ready to wait in all.
        limit: Duration,
    },
    /// The lock is ours after a wait.
    Acquired {
        /// The lock.
        lock: String,
        /// Our lock ID.
        id: String,
        /// How long the wait was.
        waited: Duration,
        /// Whether anybody else held it in between; an uncontended acquisition is silent in text.
        contended: bool,
    },
    /// The lock is given back.
    Released {
        /// The lock.
        lock: String,
        /// Our lock ID.
        id: String,
        /// How long it was held.
        held: Duration,
        /// Whether it is worth a line of text (after a stop or trouble); JSON says it always.
        worth_saying: bool,
    },
    /// A stop came in; what happens about it.
    Stopping {
        /// The signal's name, such as `SIGTERM`.
        signal: String,
        /// What tfwrap does about it, in words.
        doing: String,
    },
    /// Something the user should know; goes on.
    Warning {
        /// What and where.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The reason of a failure of ours.
    Error {
        /// What and where.
        message: String,
        /// What to do about it, with the exact command.
        hint: Option<String>,
        /// The exit code it leads to.
        code: u8,
    },
    /// Only with `-v`.
    Detail {
        /// What.
        message: String,
    },
}
