//! The stores of the locks that a dead run has left. Opening one reads files, and a mount whose server
//! is gone answers nothing: the child's interrupt does not wait for it, and until its store is open the
//! fence of a lock is the one that was told last.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;

use super::{cannot_open, complete};
use crate::env::Env;
use crate::error::Error;
use crate::guardian::Head;
use crate::lock::lease::Lease;
use crate::lock::lease_keeper::{LeaseKeeper, LeaseStart};
use crate::lock::tenure::Tenure;
use crate::lock::{LockId, Uptime};
use crate::receipt::{Entry, Receipt};
use crate::run::custody::CaseTenure;
use crate::run::event_loop::{EventLoop, LoopEvent};
use crate::run::kept::Kept;
use crate::store::{HeldFile, LocalState, RecordVersion, Registers as _, StoreError};
use crate::supervise::lent_descriptor;
use crate::target::{LockTarget, StoreSpec};

/// The stores that are being opened, in the order in which their locks were taken.
#[derive(Default)]
pub(super) struct Openings<'a> {
    /// What each gives to keep; nothing where nobody has to keep it.
    coming: FuturesOrdered<BoxFuture<'a, Result<Option<Kept>, Error>>>,
    /// Whose they are, and when the child must be dead if it is not kept.
    awaited: VecDeque<(&'a Entry, Option<Uptime>)>,
    failed: Vec<(&'a Entry, Option<Uptime>)>,
}

impl<'a> Openings<'a> {
    /// Begins to open the store of a lock that its holder does not keep any more, or somebody below it.
    pub(super) fn add(
        &mut self,
        entry: &'a Entry,
        known: &'a CaseTenure,
        head: &'a Head,
        receipt: &'a Receipt,
        env: &'a Env,
    ) {
        self.coming.push_back(Box::pin(open(entry, known, head, receipt, env)));
        self.awaited.push_back((entry, known.kill_at()));
    }

    /// One whose store never opens.
    #[cfg(test)]
    pub(super) fn await_in_vain(&mut self, entry: &'a Entry, fence: Option<Uptime>) {
        self.coming.push_back(Box::pin(std::future::pending()));
        self.awaited.push_back((entry, fence));
    }

    /// When the child must be dead for the sake of a lock that nobody keeps, or not yet: its lease ends
    /// where it was told last.
    pub(super) fn fence(&self) -> Option<Uptime> {
        self.awaited.iter().chain(&self.failed).filter_map(|(_, kill_at)| *kill_at).min()
    }

    /// The next thing that happens, or nothing where a store was opened instead. From then on its lock
    /// is kept.
    pub(super) async fn next(
        &mut self,
        event_loop: &mut EventLoop,
        until: Option<Uptime>,
    ) -> Option<LoopEvent> {
        let opened = tokio::select! {
            biased;
            Some(opened) = self.coming.next() => opened,
            happened = event_loop.next(until, None) => return Some(happened),
        };
        self.opened(event_loop, opened);
        None
    }

    /// Waits until all are open; returns the run's own that could not be. Nobody is left whom a fence would
    /// end, and what else happens is for whoever gives back.
    pub(super) async fn finish(mut self, event_loop: &mut EventLoop) -> Vec<Entry> {
        while let Some(opened) = self.coming.next().await {
            self.opened(event_loop, opened);
        }
        let own = self.failed.into_iter().map(|(entry, _)| entry).filter(|entry| !entry.inherited);
        own.cloned().collect()
    }

    fn opened(&mut self, event_loop: &mut EventLoop, opened: Result<Option<Kept>, Error>) {
        let Some((entry, kill_at)) = self.awaited.pop_front() else { return };
        match opened {
            Ok(kept) => kept.into_iter().for_each(|kept| event_loop.keep(kept)),
            Err(error) => {
                cannot_open(event_loop, entry, &error);
                self.failed.push((entry, kill_at));
            }
        }
    }
}

async fn open(
    entry: &Entry,
    known: &CaseTenure,
    head: &Head,
    receipt: &Receipt,
    env: &Env,
) -> Result<Option<Kept>, Error> {
    let completing = {
        let (entry, receipt, env) = (entry.clone(), receipt.clone(), env.clone());
        tokio::task::spawn_blocking(move || complete(&entry, &receipt, &env))
    };
    let target = completing.await.map_err(|error| Error::Internal(error.to_string()))?;
    let lock = target.url();
    let failed = |source| Error::Store { lock: lock.clone(), source };
    let id = entry.id.clone();
    let store = target.open().await.map_err(failed)?;
    if let StoreSpec::LocalState { path } = &target.store {
        let lent = head.files.iter().find(|file| file.id == id.0 && !file.door);
        // Without its descriptor the kernel has ended this lock with its holder.
        let Some(lent) = lent else { return Ok(None) };
        let descriptor = HeldFile { fd: lent_descriptor(lent.fd), created: lent.created.clone() };
        let (descriptor, path) = descriptor.follow(path);
        let (store, version) = inherit(&path, &id, descriptor).await.map_err(failed)?;
        let (target, store) = (LockTarget::of_state_file(&path), Arc::new(store));
        let tenure = Tenure::unleased(id, Some(version));
        return Ok(Some(Kept::new(target, store, known.renewed(), tenure)));
    }
    let since = known.renewed();
    if !target.has_lease() {
        // Of one that an outer run has, that has to be looked after by nobody.
        return Ok((!entry.inherited).then(|| {
            let tenure = Tenure::unleased(id, None).after_a_remove(known.removed);
            Kept::new(target, store, since, tenure)
        }));
    }
    let lease = Lease { term: known.term(), beat: known.beat };
    let lease = LeaseStart { id, info: None, version: None, lease, since, answered: true };
    let keeper = LeaseKeeper::adopt(lease, crate::clock::uptime());
    let tenure = if entry.inherited { Tenure::inherited(keeper) } else { Tenure::leased(keeper) };
    let tenure = tenure.after_a_remove(known.removed);
    Ok(Some(Kept::new(target, store, since, tenure)))
}

/// Goes on with the kernel's lock on a state file, by the descriptor that was lent.
async fn inherit(
    path: &Path,
    id: &LockId,
    held: HeldFile,
) -> Result<(LocalState, RecordVersion), StoreError> {
    let state = LocalState::new(path)?;
    let record = state.read(&state.key()).await?.map(|stored| stored.record);
    let record = record.filter(|record| record.is_held_by(id)).unwrap_or_default();
    let state = LocalState::inherit(path, held, record)?;
    let stored = state.read(&state.key()).await?;
    let version = stored.map_or(RecordVersion(String::new()), |stored| stored.version);
    Ok((state, version))
}
