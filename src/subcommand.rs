//! The commands of ours that start no child: they look at the locks that a run would take.

pub(crate) mod doctor;
pub(crate) mod history;
pub(crate) mod hold;
pub(crate) mod recover;
pub(crate) mod release;
mod removal;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod unlock;
pub(crate) mod wait;

use std::sync::Arc;

use crate::error::Error;
use crate::lock::lease::Lease;
use crate::lock::line::Slot;
use crate::lock::{Holder, LockKey};
use crate::report::{Holding, KeptBy};
use crate::run::store_requests::LockRegister;
use crate::store::{Registers, Stored};
use crate::target::LockTarget;

/// A lock with its store open.
struct Opened<'a> {
    target: &'a LockTarget,
    register: LockRegister,
    /// Where the line's registers are, and what their keys are made from.
    line: (Arc<dyn Registers>, LockKey),
}

impl<'a> Opened<'a> {
    async fn all(targets: impl IntoIterator<Item = &'a LockTarget>) -> Result<Vec<Self>, Error> {
        let mut opened = Vec::new();
        for target in targets {
            opened.push(Self::one(target).await?);
        }
        Ok(opened)
    }

    async fn one(target: &'a LockTarget) -> Result<Self, Error> {
        let register = LockRegister::open(target).await?;
        let failed = |source| Error::Store { lock: target.url(), source };
        let line = target.open_line(&register.store).map_err(failed)?;
        Ok(Self { target, register, line })
    }

    /// A register of the line.
    fn beside(&self, slot: Slot) -> LockRegister {
        let (store, lock_key) = &self.line;
        let (lock, key) = (self.register.lock.clone(), slot.key(lock_key));
        LockRegister { lock, store: store.clone(), key }
    }

    /// What its record says.
    fn holding(&self, stored: &Stored) -> Holding {
        holding(self.target, stored)
    }
}

/// What the record of a lock says.
fn holding(target: &LockTarget, stored: &Stored) -> Holding {
    let lease = lease_of(stored);
    Holding {
        info: Holder::of(&stored.record).info().cloned().map(Box::new),
        kept_by: match lease {
            _ if target.is_kept_by_kernel() => KeptBy::Kernel,
            Some(lease) => KeptBy::Lease { lease, unchanged: None },
            None => KeptBy::Nothing,
        },
        nameless_removal: target.nameless_removal(stored),
    }
}

fn lease_of(stored: &Stored) -> Option<Lease> {
    stored.record.lease.as_deref().and_then(Lease::parse)
}
