//! The requests to a register and its replies, as the machines see them. [`crate::store`] carries
//! the requests out; nothing here does.

use super::{Flaw, LockId, LockInfo};

/// The content of a register.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Record {
    /// Terraform's part: the lock info as JSON, byte for byte. `None` when a stored record has
    /// none (written by hand, or no lock).
    pub info: Option<String>,
    /// Our part, beside it, where stock clients do not look; `None` in a record of theirs.
    pub lease: Option<String>,
}

impl Record {
    /// Whether the lock info in it bears this ID.
    #[must_use]
    pub fn is_held_by(&self, id: &LockId) -> bool {
        self.info
            .as_deref()
            .and_then(|text| LockInfo::parse(text).ok())
            .is_some_and(|info| info.id == *id)
    }
}

/// Names one stored state of a register; compared for equality only. Opaque to all but the store
/// that made it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordVersion(pub String);

/// A record and the version under which it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stored {
    /// The content.
    pub record: Record,
    /// Its version, for a later conditional write or remove.
    pub version: RecordVersion,
}

/// The condition of a write.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expect {
    /// Only if the register is empty.
    Absent,
    /// Only if the register still is at this version.
    Version(RecordVersion),
}

impl Expect {
    /// Whether the condition holds where `current` is what is stored.
    #[must_use]
    pub fn holds(&self, current: Option<&Stored>) -> bool {
        match (self, current) {
            (Self::Absent, None) => true,
            (Self::Version(version), Some(stored)) => *version == stored.version,
            (Self::Absent, Some(_)) | (Self::Version(_), None) => false,
        }
    }
}

/// What came of a write that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WriteReply {
    /// The record is stored, under this version.
    Applied(RecordVersion),
    /// The condition did not hold; what is stored now, where the store says so with the refusal
    /// (`Some(None)`: it is absent). `None`: not said, read to know.
    Conflict(Option<Option<Stored>>),
}

/// What came of a remove that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RemoveReply {
    /// The register is empty now.
    Removed,
    /// Another version is stored (or none); as in [`WriteReply::Conflict`].
    Conflict(Option<Option<Stored>>),
}

/// What is asked of a register.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Request {
    /// Store this record, if the register is as expected.
    Write(Record, Expect),
    /// Say what is stored.
    Read,
    /// Empty the register, if this version is stored.
    Remove(RecordVersion),
}

/// What a register answered, by what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reply {
    /// To [`Request::Write`].
    Wrote(Result<WriteReply, StoreError>),
    /// To [`Request::Read`].
    Read(Result<Option<Stored>, StoreError>),
    /// To [`Request::Remove`].
    Removed(Result<RemoveReply, StoreError>),
}

impl Reply {
    /// Why there is no answer, if there is none.
    #[must_use]
    pub fn error(&self) -> Option<&StoreError> {
        match self {
            Self::Wrote(answer) => answer.as_ref().err(),
            Self::Read(answer) => answer.as_ref().err(),
            Self::Removed(answer) => answer.as_ref().err(),
        }
    }
}

impl Request {
    /// The reply that this brought no answer.
    #[must_use]
    pub fn failed(&self, error: StoreError) -> Reply {
        match self {
            Self::Write(..) => Reply::Wrote(Err(error)),
            Self::Read => Reply::Read(Err(error)),
            Self::Remove(_) => Reply::Removed(Err(error)),
        }
    }
}

/// Why an operation brought no answer. Messages are lower-case fragments without a secret in them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StoreError {
    /// The store asks for fewer requests; nothing was applied.
    #[error("the store is throttling: {0}")]
    Throttled(String),
    /// It answered that it did not do this now, and may later; nothing was applied.
    #[error("{0}")]
    Busy(String),
    /// No answer: connection, time-out. A write may or may not have been applied
    /// (`sent` is false where the request certainly never left, such as a refused connection).
    #[error("{detail}")]
    Unavailable {
        /// What went wrong.
        detail: String,
        /// Whether the request may have reached the store.
        sent: bool,
    },
    /// The disk is full; nothing was applied.
    #[error("{0}")]
    Full(String),
    /// The store answered that it failed (5xx). A write may have been applied.
    #[error("{0}")]
    Failed(String),
    /// Something else answered (a proxy, a login page, a wrong address), or the answer was damaged
    /// on its way.
    #[error("{detail}")]
    NotTheStore {
        /// Who, and what it answered.
        detail: String,
        /// Whether the request may have been passed on to the store.
        sent: bool,
    },
    /// The identity lacks a permission; names the action where known, such as `dynamodb:PutItem`.
    #[error("access denied: {0}")]
    Denied(Flaw),
    /// No credentials were found, or they are expired or invalid.
    #[error("{0}")]
    Credentials(Flaw),
    /// The table, bucket or directory does not exist.
    #[error("{0}")]
    Missing(String),
    /// It exists but cannot serve as a lock store: wrong key schema, not a directory, no region.
    #[error("{0}")]
    Misconfigured(Flaw),
}

/// How a write was answered that may have been applied, in words that follow "it was".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOpen {
    /// By something that is not the store.
    ByAnother,
    /// With a failure.
    Failed,
    /// Not at all.
    Unanswered,
}

impl std::fmt::Display for LeftOpen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ByAnother => "answered only by something else",
            Self::Failed => "answered only with an error",
            Self::Unanswered => "never answered",
        })
    }
}

impl StoreError {
    /// Whether trying again may help without anyone doing something about it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Throttled(_)
                | Self::Busy(_)
                | Self::Unavailable { .. }
                | Self::Full(_)
                | Self::Failed(_)
                | Self::NotTheStore { .. }
        )
    }

    /// The same of a store that never answered before: no login page goes away by being asked
    /// again.
    #[must_use]
    pub fn is_worth_another_try(&self) -> bool {
        self.is_transient() && !matches!(self, Self::NotTheStore { .. })
    }

    /// What this means for a write that was not sent because of it: nothing of that can be applied.
    #[must_use]
    pub fn of_nothing_written(self) -> Self {
        match self {
            Self::Unavailable { detail, .. } => Self::Unavailable { detail, sent: false },
            Self::Failed(detail) => Self::Busy(detail),
            Self::NotTheStore { detail, .. } => Self::NotTheStore { detail, sent: false },
            error => error,
        }
    }

    /// Whether a write that ended so may have been applied nevertheless.
    #[must_use]
    pub fn outcome_is_unknown(&self) -> bool {
        self.left_open().is_some()
    }

    /// How a write that may have been applied nevertheless was answered.
    #[must_use]
    pub fn left_open(&self) -> Option<LeftOpen> {
        match self {
            Self::Unavailable { sent: true, .. } => Some(LeftOpen::Unanswered),
            Self::Failed(_) => Some(LeftOpen::Failed),
            Self::NotTheStore { sent: true, .. } => Some(LeftOpen::ByAnother),
            _ => None,
        }
    }
}
