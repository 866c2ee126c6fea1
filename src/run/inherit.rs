//! Locks that an outer tfwrap holds for us.
//!
//! Its rules: `docs/protocol.md#t3-coming-in`.

use super::Context;
use super::acquire::{Grant, Wait};
use super::fail_point;
use super::guard::Use;
use super::look::{self, Register};
use super::shell::{Kept, Shell};
use super::turn::{self, Under};
use crate::clock::uptime;
use crate::error::Error;
use crate::lock::LockId;
use crate::lock::keeper::{Keeper, Tenure};
use crate::lock::lease::{Lease, LeaseTerm};
use crate::store::Stored;
use crate::target::LockTarget;

/// Whether an outer tfwrap holds this lock for us, and under which ID: its register bears one that
/// we were told. Then the lock is kept here, too: whoever started the child beats for it and fences
/// it, whatever becomes of the outer one, and by the lease that its record declares, whatever our
/// own setting is.
///
/// First the place under the lock, then the receipt, and only then the look that counts: from
/// there on nobody gives the lock back before we are done.
pub(super) async fn inherit(
    shell: &mut Shell,
    target: &LockTarget,
    context: &Context,
    around_command: bool,
    wait: Wait,
    had: &[LockId],
) -> Result<Option<LockId>, Error> {
    if context.held.is_empty() {
        return Ok(None);
    }
    // A state may be reached by a link; what is said of its lock lies beside the file itself.
    let target = &target.at_real_path().as_held(context.held.urls());
    let lock = target.url();
    let store = match target.open().await {
        Ok(store) => store,
        Err(source) => return Err(Error::Store { lock, source }),
    };
    let register = Register { lock: lock.clone(), store: store.clone(), key: target.key.clone() };
    let told = |stored: Stored| context.held.ids().find(|id| stored.record.is_held_by(id)).cloned();
    let Some(id) = look::read(shell, &register, look::PATIENCE).await?.and_then(told) else {
        return Ok(None);
    };
    // Under another name, or reached with other settings: one is inside only once.
    if shell.guard.door(&id).is_some() {
        return Ok(Some(id));
    }
    // By another name; the place under it is taken once.
    if had.contains(&id) {
        return Ok(Some(id));
    }
    let under = Under { lock: &lock, id: &id, dir: &context.state_dir };
    let door = turn::take(shell, under, !around_command, wait).await?;
    let inside = door.is_some();
    if let Some(door) = door {
        fail_point::crash();
        shell.guard.lend(&id, Use::Inside(door));
        fail_point::crash();
        leave_word(shell, target, under)?;
    }
    let since = uptime();
    let stored = look::read(shell, &register, look::PATIENCE).await?;
    let Some(stored) = stored.filter(|stored| stored.record.is_held_by(&id)) else {
        shell.guard.forget(&id);
        return Ok(None);
    };
    if !inside {
        let dir = context.state_dir.display();
        let why = format!("nothing of it is in `{dir}`, the state directory of this one");
        return Err(turn::refused(under, &why));
    }
    if let Some(lease) = stored.record.lease.as_deref().and_then(Lease::parse) {
        let (record, version) = (stored.record, Some(stored.version));
        let grant = Grant {
            target: target.clone(),
            store,
            id: id.clone(),
            version: version.clone(),
            since,
            left_open: None,
        };
        // Found by reading, a lease that can end is of unknown age: no child before an answered
        // beat.
        let answered = lease.term == LeaseTerm::Never;
        let tenure = Tenure { id: id.clone(), info: record.info, version, lease, since, answered };
        shell.keep(Kept::inherited(grant, Keeper::beside(tenure, uptime())));
    }
    Ok(Some(id))
}

/// The receipt, by which whoever gives the lock back finds us, and what we leave if we are killed.
fn leave_word(shell: &mut Shell, target: &LockTarget, under: Under<'_>) -> Result<(), Error> {
    let failed = shell.guard.ask(target, under.id, true);
    if failed.is_empty() && shell.guard.is_written() {
        return Ok(());
    }
    let dir = under.dir.display();
    Err(turn::refused(under, &format!("no receipt of it can be kept in `{dir}`")))
}
