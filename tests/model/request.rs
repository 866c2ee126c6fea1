//! What is asked of the store, and where that is on its way.

use tfwrap::lock::register::{Reply, Request, StoreError};

use crate::config::Millis;

/// No answer came.
pub(crate) fn unknown(request: &Request) -> Reply {
    request.failed(StoreError::Unavailable { detail: String::new(), sent: true })
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
