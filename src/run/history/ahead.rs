//! Reads the histories while the child works. What is left for after the release is their write, so the run
//! ends a request earlier. Nobody waits for such a read: what it shows is a start, and the write is conditional.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use super::{BOUND, HistoryRegister, LockRequest};
use crate::lock::Uptime;
use crate::lock::register::Stored;
use crate::store::StoreError;

/// How long a child must have been at work. One that ends before that would have its lock released while the
/// connection is taken by this read, and opening another one takes longer than the read saves.
const SETTLED: Duration = Duration::from_millis(20);

/// The same where somebody held the lock before: that one writes its entry after the release, and what was read
/// before would be out of date.
const PREDECESSOR_IS_DONE: Duration = BOUND;

/// What a store shows of a history.
pub(in crate::run) type HistoryRead = Result<Option<Stored>, StoreError>;

/// The reads of one run, one for each history at most.
#[derive(Default)]
pub(in crate::run) struct ReadsAhead(Vec<ReadAhead>);

struct ReadAhead {
    register: HistoryRegister,
    after: Duration,
    progress: Progress,
}

enum Progress {
    /// The child does not run yet.
    Planned,
    Due(Uptime),
    Asked(BoxFuture<'static, HistoryRead>),
    Answered(HistoryRead),
}

impl ReadsAhead {
    /// Those for what these requests will write.
    pub(in crate::run) fn of<'a>(requests: impl Iterator<Item = &'a LockRequest>) -> Self {
        let read = |request: &LockRequest| ReadAhead {
            register: request.register.clone(),
            after: if request.behind.is_empty() { SETTLED } else { PREDECESSOR_IS_DONE },
            progress: Progress::Planned,
        };
        Self(requests.map(read).collect())
    }

    /// The child runs.
    pub(in crate::run) fn begin(&mut self, now: Uptime) {
        for read in &mut self.0 {
            if matches!(read.progress, Progress::Planned) {
                read.progress = Progress::Due(now.plus(read.after));
            }
        }
    }

    /// The child has ended: what was not asked by now is asked when it is written.
    pub(in crate::run) fn end(&mut self) {
        self.0.retain(|read| matches!(read.progress, Progress::Asked(_) | Progress::Answered(_)));
    }

    /// When the next one is to be sent.
    pub(in crate::run) fn deadline(&self) -> Option<Uptime> {
        let due = |read: &ReadAhead| match read.progress {
            Progress::Due(at) => Some(at),
            _ => None,
        };
        self.0.iter().filter_map(due).min()
    }

    /// Sends what is due.
    pub(in crate::run) fn send(&mut self, now: Uptime) {
        for read in &mut self.0 {
            if matches!(read.progress, Progress::Due(at) if now >= at) {
                let HistoryRegister { store, key } = read.register.clone();
                read.progress = Progress::Asked(async move { store.read(&key).await }.boxed());
            }
        }
    }

    /// Goes on with what was sent. An answer changes nothing for the child, so this wakes nobody.
    pub(in crate::run) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for read in &mut self.0 {
            if let Progress::Asked(answer) = &mut read.progress
                && let Poll::Ready(answer) = answer.poll_unpin(context)
            {
                read.progress = Progress::Answered(answer);
            }
        }
        Poll::Pending
    }

    /// What was read of this history, or is about to be; nothing if it is to be read afresh, also after an error.
    pub(in crate::run) fn take(
        &mut self,
        register: &HistoryRegister,
    ) -> Option<BoxFuture<'static, HistoryRead>> {
        let is_of = |read: &ReadAhead| read.register.is(register);
        let at = self.0.iter().position(is_of)?;
        match self.0.swap_remove(at).progress {
            Progress::Asked(answer) => Some(answer),
            Progress::Answered(answer @ (Ok(_) | Err(StoreError::Denied(_)))) => {
                Some(ready(answer).boxed())
            }
            Progress::Planned | Progress::Due(_) | Progress::Answered(Err(_)) => None,
        }
    }
}
