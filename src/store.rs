//! Conditional registers: small records under keys, changed by compare-and-swap only.
//!
//! Three operations, each atomic on one key. One trait, several stores, one contract suite that
//! every store passes unchanged. One store is one file, with what belongs to it in a directory of
//! its name; no other room names an SDK.
//!
//! Every reply to a write is one of *applied* (`Applied`), *refused* (`Conflict`) or *unknown*
//! (an error whose [`StoreError::outcome_is_unknown`] says so). An unknown write is answered by a
//! read, never by hope. Stores do not retry by themselves: a retry after a lost reply would meet
//! its own record and take it for a stranger's.
//!
//! Its rules: `docs/protocol.md#registers`.

mod aws;
mod blocking;
mod dynamodb;
mod file;
mod local_state;
mod memory;
mod s3_lock;
mod s3_state;
mod state_version;
mod survey;

pub(crate) use aws::post_json;
pub use aws::{AwsClients, Timeouts};
pub use dynamodb::DynamoTable;
pub use file::FileStore;
pub use local_state::{HeldFile, JoinedLock, LocalState};
pub use memory::MemoryStore;
pub use s3_lock::LockObjects;
pub use s3_state::{StateObject, workspace_state};
pub use state_version::StateFile;
pub use survey::{
    BucketFacts, KeyAttribute, Known, StoreFacts, Survey, Surveyed, TableChange, TableFacts, survey,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::lock::LockKey;
pub use crate::lock::register::{
    Expect, LeftOpen, Record, RecordVersion, RemoveReply, StoreError, Stored, WriteReply,
};
pub use crate::lock::{Flaw, FlawKind};

/// Which conditions a store looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conditions {
    /// Nobody has tried.
    #[default]
    Untried,
    /// All of them.
    All,
    /// That of a create alone: a record cannot be changed safely, so it has no lease, and is removed
    /// as Terraform itself does it.
    OfCreates,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterPage {
    /// What is in it. What is no register (a state, its digest) is left out.
    pub registers: Vec<(LockKey, Stored)>,
    /// Where the next one begins, if there is one.
    pub next: Option<String>,
}

/// A store of registers.
#[async_trait]
pub trait Registers: std::fmt::Debug + Send + Sync {
    /// When the credentials end for good, by the wall clock; `None` where that is not known, and
    /// where they are renewed or there are none.
    fn credentials_end(&self) -> Option<jiff::Timestamp> {
        None
    }

    /// Whose credentials every request is signed with, in words; `None` where there are none.
    fn credentials(&self) -> Option<String> {
        None
    }

    /// Whether they come from a source that is asked again before they end and once they are refused.
    fn renews_credentials(&self) -> bool {
        false
    }

    /// Gets them, as far as they are not there yet. It may take as long as a person needs to log in.
    ///
    /// # Errors
    /// When they cannot be had; nothing was sent.
    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Finds out, on a key of its own, which conditional requests the store honours, where that is not
    /// known.
    ///
    /// # Errors
    /// When it cannot hold a lock, or did not answer.
    async fn try_conditions(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Which conditions it looks at, as far as that is known: it is once they are
    /// [tried](Self::try_conditions).
    fn conditions(&self) -> Conditions {
        Conditions::All
    }

    /// A descriptor by which another process holds the lock on, where the kernel keeps it.
    ///
    /// # Errors
    /// When no further descriptor can be had.
    fn lend(&self) -> Result<Option<HeldFile>, StoreError> {
        Ok(None)
    }

    /// Of a lock that the kernel keeps: a lock of our own on the file that our holder has locked. `None`
    /// elsewhere, and where it is not held for anybody but its holder.
    ///
    /// # Errors
    /// When the state cannot be opened.
    async fn join(&self) -> Result<Option<JoinedLock>, StoreError> {
        Ok(None)
    }

    /// A version that no record has: what is asked for on its condition is refused, and changes
    /// nothing.
    fn no_version(&self) -> RecordVersion {
        RecordVersion("\"00000000000000000000000000000000\"".to_owned())
    }

    /// Reads a register, strongly consistent; `None` when it is empty.
    async fn read(&self, key: &LockKey) -> Result<Option<Stored>, StoreError>;

    /// All that is stored, of every lock: the first page, or the one that begins there.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] where each lock is in a place of its own.
    async fn list(&self, from: Option<&str>) -> Result<RegisterPage, StoreError> {
        let _ = from;
        let message = "it is no table and no bucket, in which other locks could be looked for";
        Err(StoreError::Misconfigured(message.into()))
    }

    /// Stores `record` if `expect` holds. No two writes to one key may have the same bytes.
    async fn write(
        &self,
        key: &LockKey,
        record: &Record,
        expect: &Expect,
    ) -> Result<WriteReply, StoreError>;

    /// Empties the register if it still is at `expect`.
    async fn remove(
        &self,
        key: &LockKey,
        expect: &RecordVersion,
    ) -> Result<RemoveReply, StoreError>;
}
