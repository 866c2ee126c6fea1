//! A lock that is held, as the event loop sees it: what its [`Tenure`] decides, and the one request
//! of it that is out.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::outage::{Access, Outage};
use super::{fail_point, request};
use crate::clock::uptime;
use crate::lock::register::{LeftOpen, Reply, Request, StoreError};
use crate::lock::tenure::Tenure;
use crate::lock::{LockId, Uptime};
use crate::store::Registers;
use crate::target::LockTarget;

/// A lock that is ours until [`super::release::all`], or that is held for us.
pub(super) struct Kept {
    pub(super) target: LockTarget,
    pub(super) store: Arc<dyn Registers>,
    /// Since when, for people.
    pub(super) since: Uptime,
    /// How a create of ours was answered that may still be applied after the release.
    pub(super) left_open: Option<LeftOpen>,
    pub(super) tenure: Tenure,
    pub(super) outage: Outage,
    /// The answer to its one request that is out.
    answer: Option<BoxFuture<'static, Reply>>,
}

impl Kept {
    pub(super) fn new(
        target: LockTarget,
        store: Arc<dyn Registers>,
        since: Uptime,
        tenure: Tenure,
    ) -> Self {
        let outage = Outage::of_one_that_answered(uptime());
        Self { target, store, since, left_open: None, tenure, outage, answer: None }
    }

    pub(super) fn id(&self) -> &LockId {
        self.tenure.id()
    }

    /// Sends what the machine asks for.
    pub(super) fn send(&mut self, request: Request) {
        let patience = self.tenure.patience();
        // A heartbeat is no step of the run.
        if patience.is_none() {
            fail_point::crash();
        }
        let unanswered = request
            .failed(StoreError::Unavailable { detail: "no answer in time".to_owned(), sent: true });
        self.outage.asked(uptime(), Access::of(&unanswered));
        let answer = request::register(self.store.clone(), self.target.key.clone(), request);
        self.answer = Some(match patience {
            None => answer,
            Some(patience) => tokio::time::timeout(patience, answer)
                .map(|reply| reply.unwrap_or(unanswered))
                .boxed(),
        });
    }

    /// The answer to the request that is out, once.
    pub(super) fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Reply> {
        let Some(answer) = &mut self.answer else { return Poll::Pending };
        let polled = answer.poll_unpin(context);
        if polled.is_ready() {
            self.answer = None;
        }
        polled
    }
}
