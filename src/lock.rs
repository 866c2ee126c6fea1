//! The vocabulary of locks, shared by every layer.
//!
//! A *register* is a small record under a key that is changed by compare-and-swap only
//! ([`crate::store`]). The lock is one register. Its content is what Terraform itself would write
//! ([`LockInfo`]).

pub mod acquire;
pub mod backoff;
mod flaw;
pub mod history;
mod info;
pub mod jitter;
pub mod landing;
pub mod lease;
pub mod lease_keeper;
pub mod line;
pub mod optimistic_read;
pub mod pair;
pub mod queue;
pub mod register;
pub mod release;
pub mod tenure;

pub use flaw::{Flaw, FlawKind};
pub use info::{LockInfo, LockInfoError};

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use register::Record;

/// The name of a register: for a Terraform lock in DynamoDB the `LockID` attribute,
/// `<bucket>/<state key>`; for a file store a path relative to its directory.
///
/// Not to be confused with [`LockId`], the ID that `terraform force-unlock` takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LockKey(pub String);

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one tenure of a lock: the `ID` of Terraform's lock info, the argument of
/// `terraform force-unlock`. Never used for a second tenure.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LockId(pub String);

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The operation of those who only read the state, in Terraform's words.
pub const PLAN_OPERATION: &str = "OperationTypePlan";

/// The operation of `apply` and `destroy`.
pub const APPLY_OPERATION: &str = "OperationTypeApply";

/// Who has a lock, as its record says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Introduced by its lock info.
    Known(Box<LockInfo>),
    /// Its record cannot be read. Held it is all the same.
    Unreadable,
}

impl Holder {
    /// Reads the record.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let info = record.info.as_deref().and_then(|text| LockInfo::parse(text).ok());
        info.map_or(Self::Unreadable, |info| Self::Known(Box::new(info)))
    }

    /// Whether it may write the state: all that is not known to plan.
    #[must_use]
    pub fn may_write(&self) -> bool {
        self.info().is_none_or(|info| info.operation != PLAN_OPERATION)
    }

    /// Its lock info, where it can be read.
    #[must_use]
    pub fn info(&self) -> Option<&LockInfo> {
        match self {
            Self::Known(info) => Some(info),
            Self::Unreadable => None,
        }
    }
}

/// Time since this machine booted, suspend included (`CLOCK_BOOTTIME`). The only time that
/// decides anything; never compared across machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uptime(pub Duration);

impl Uptime {
    /// The point `after` later.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(after))
    }

    /// The point `before` earlier, but not before the start of this clock.
    #[must_use]
    pub fn minus(self, before: Duration) -> Self {
        Self(self.0.saturating_sub(before))
    }

    /// The time from `earlier` to this point; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
