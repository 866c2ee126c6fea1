//! What this machine knows of whoever holds a lock: their receipt may lie here.

use std::path::Path;

use super::dependents::{self, Who};
use super::inheritors::Inheritors;
use crate::error::Error;
use crate::lock::{Holder, LockId};
use crate::receipt::{Receipt, ReceiptFile};
use crate::report::{clean, shell_quote};
use crate::supervise::{HostScope, ProcessId, Sight};

/// The run of a holder, as its receipt here has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Here {
    /// A hold that lives.
    Hold(LockId),
    /// A run or a hold of which no process is left that could release its lock.
    Dead(LockId),
    /// The same where others have the lock from it.
    Inherited(Inheritors),
    /// The same where something of it still runs, or under it.
    Orphaned {
        who: Who,
        /// The command that ends it, where one is known.
        end: Option<String>,
    },
}

impl Here {
    /// Looks for the receipt of this holder; nothing if there is none, or if there is nothing to say about it.
    pub(crate) fn of(dir: &Path, holder: &Holder) -> Option<Self> {
        let id = &holder.info().filter(|info| !info.id.0.is_empty())?.id;
        let here = HostScope::here()?;
        let is_theirs = |receipt: &Receipt| {
            !receipt.is_over
                && receipt.own().any(|entry| entry.id == *id)
                && receipt.world.seen_from(&here) == Sight::Here
        };
        let receipt = ReceiptFile::readable_in(dir).find(is_theirs)?;
        let lives = receipt.runner.is_alive() || receipt.guardian.is_some_and(ProcessId::is_alive);
        match (lives, receipt.is_hold) {
            (false, _) => Some(Self::after_death(dir, &receipt, id)),
            (true, true) => Some(Self::Hold(id.clone())),
            (true, false) => None,
        }
    }

    fn after_death(dir: &Path, receipt: &Receipt, id: &LockId) -> Self {
        let (ids, child) = (receipt.own_ids(), receipt.living_child());
        let below = dependents::living(dir, &ids);
        let Some(living) = child.map(|_| receipt).or(below.first()) else {
            let mut own = receipt.own().filter(|entry| entry.id == *id);
            let inheritors = own.find_map(Inheritors::seen);
            return inheritors.map_or(Self::Dead(id.clone()), Self::Inherited);
        };
        let end = child.map(|child| child.end_command());
        let end = end.or_else(|| dependents::end_command(dir, &ids));
        Self::Orphaned { who: dependents::living_of(living), end }
    }

    /// The error of a wait that is over, with what helps here.
    pub(crate) fn helps(error: Error, dir: &Path, holder: Option<&Holder>) -> Error {
        match error {
            Error::NotAcquired { waited, holder: described, hint } => {
                let known = holder.and_then(|holder| Self::of(dir, holder));
                let hint = known.map(|it| it.told().1).or(hint);
                Error::NotAcquired { waited, holder: described, hint }
            }
            error => error,
        }
    }

    /// What is known, and what to do about it.
    pub(crate) fn told(&self) -> (String, String) {
        match self {
            Self::Hold(id) => {
                let id = shell_quote(&id.0);
                let then = format!(
                    "to run under it, `eval` what `tfwrap hold` printed; to end it: `tfwrap release {id}`"
                );
                ("a `hold` of this machine has the lock".to_owned(), then)
            }
            Self::Dead(_) => (
                "the run that has the lock was on this machine, and is dead".to_owned(),
                "`tfwrap recover` releases the lock".to_owned(),
            ),
            Self::Inherited(by) => (
                format!(
                    "the run that has the lock was on this machine, and is dead, but {}",
                    by.told()
                ),
                format!("{}; then `tfwrap recover` removes what else the run has left", by.end()),
            ),
            Self::Orphaned { who, end } => {
                let what = format!(
                    "the run that has the lock was killed on this machine, and {who} still {}",
                    who.run()
                );
                let end = end.as_ref().map(|end| format!("; to end it, once: `{end}`"));
                let then = "after that has ended, `tfwrap recover` releases the lock";
                (what, then.to_owned() + &end.unwrap_or_default())
            }
        }
    }
}

/// The error of a wait that could not end: who uses the lock waits for us.
pub(super) fn waits_for_us(lock: &str, around: &Receipt) -> Error {
    let (pid, operation) = (around.runner.pid, clean(&around.operation));
    let hint = if around.operation == "run" {
        "call it with the environment that the `run` sets, `TFWRAP_HELD` and `PATH` above all: without \
         `env -i`, and with `sudo -E`"
    } else {
        "what a Terraform starts (a provisioner, an external data source) cannot use the state that this \
         Terraform works on: `terraform` alone fails there, too"
    };
    Error::NotFree {
        message: format!(
            "the lock `{lock}` is in use by process {pid} (`{operation}`), the tfwrap around this \
             command: it cannot become free before this command has ended"
        ),
        hint: Some(hint.to_owned()),
    }
}
