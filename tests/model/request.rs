//! What is asked of the store, and where that is on its way.

use tfwrap::store::{Expect, Record, RecordVersion, RemoveReply, StoreError, Stored, WriteReply};

use crate::config::Millis;

/// What is sent to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    Write(Record, Expect),
    Read,
    Remove(RecordVersion),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    Wrote(Result<WriteReply, StoreError>),
    Read(Result<Option<Stored>, StoreError>),
    Removed(Result<RemoveReply, StoreError>),
}

impl Request {
    pub(crate) fn failed(&self, error: StoreError) -> Reply {
        match self {
            Self::Write(..) => Reply::Wrote(Err(error)),
            Self::Read => Reply::Read(Err(error)),
            Self::Remove(_) => Reply::Removed(Err(error)),
        }
    }

    /// No answer came.
    pub(crate) fn unknown(&self) -> Reply {
        self.failed(StoreError::Unavailable { detail: String::new(), sent: true })
    }
}

/// Where a request is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// Sent; what becomes of it is open.
    Fresh,
    /// Slow: it reaches the store then.
    Arrives(Millis),
    /// It reaches the store now.
    Arrived,
    /// This is what the client will see.
    Answered(Millis, Reply),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) sent: Millis,
    /// When whoever waits gives it up.
    pub(crate) limit: Millis,
    pub(crate) way: Way,
    /// Only under [`Mutation::RenewedByReadBack`]: this read stands for an unanswered beat.
    pub(crate) for_beat: bool,
}
