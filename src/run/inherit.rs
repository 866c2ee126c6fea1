//! Locks that an outer tfwrap holds for us.
//!
//! Its rules: `docs/protocol.md#t3-coming-in`.

use super::acquire::Wait;
use super::context::Context;
use super::custody::Use;
use super::door::{self, Door};
use super::event_loop::EventLoop;
use super::fail_point;
use super::kept::Kept;
use super::sibling_lock::{self, Under};
use super::store_requests::{self, LockRegister};
use crate::clock::uptime;
use crate::error::Error;
use crate::file_id::FileId;
use crate::lock::LockId;
use crate::lock::lease::{Lease, LeaseTerm};
use crate::lock::lease_keeper::{LeaseKeeper, LeaseStart};
use crate::lock::tenure::Tenure;
use crate::store::Stored;
use crate::target::{LockTarget, StoreSpec};

/// Whether an outer tfwrap holds this lock for us, and under which ID: its register bears one that
/// we were told. Then the lock is kept here, too: whoever started the child beats for it and fences
/// it, whatever becomes of the outer one, and by the lease that its record declares, whatever our
/// own setting is.
///
/// First the place under the lock, then the receipt, and only then the look that counts: from
/// there on nobody gives the lock back before we are done.
pub(super) async fn inherit(
    event_loop: &mut EventLoop,
    target: &LockTarget,
    context: &Context,
    around_command: bool,
    wait: Wait,
    had: &[LockId],
) -> Result<Option<LockId>, Error> {
    if context.held.is_empty() {
        return Ok(None);
    }
    let mut found = None;
    for target in target.as_held(context.held.urls()) {
        let register = LockRegister::open(&target).await?;
        let stored = store_requests::read(event_loop, &register, store_requests::PATIENCE).await?;
        let Some(stored) = stored else { continue };
        let told = context.held.ids().find(|id| is_held_by(&target, &stored, id, context));
        if let Some(id) = told.cloned() {
            found = Some((target, register, id));
            break;
        }
    }
    let Some((target, register, id)) = found else { return Ok(None) };
    let (target, lock, store) = (&target, register.lock.clone(), register.store.clone());
    // Under another name, or reached with other settings: one is inside only once.
    if event_loop.custody.door(&id).is_some() {
        return Ok(Some(id));
    }
    let under = Under { lock: &lock, id: &id, dir: &context.state_dir };
    // The place under it is taken once.
    let mut inside = had.contains(&id);
    if inside {
        // By another name; else it is the other half of a pair.
        if event_loop.custody.has_inherited(target, &id) {
            return Ok(Some(id));
        }
        leave_word(event_loop, target, under)?;
    } else if let Some(door) = sibling_lock::take(event_loop, under, !around_command, wait).await? {
        inside = true;
        fail_point::crash();
        event_loop.custody.lend(&id, Use::Inside(door));
        fail_point::crash();
        leave_word(event_loop, target, under)?;
        // Its holder may be killed, with all that has the lock by its descriptor.
        let joined =
            store.join().await.map_err(|source| Error::Store { lock: lock.clone(), source });
        if let Some(joined) = joined? {
            event_loop.custody.lend(&id, Use::Joined(joined));
        }
    }
    let since = uptime();
    let stored = store_requests::read(event_loop, &register, store_requests::PATIENCE).await?;
    let Some(stored) = stored.filter(|stored| is_held_by(target, stored, &id, context)) else {
        event_loop.custody.forget(target, &id);
        return Ok(None);
    };
    if !inside {
        let dir = context.state_dir.display();
        let why = format!("its files are not in `{dir}`, the state directory of this command");
        return Err(sibling_lock::refused(under, &why));
    }
    if let Some(lease) = stored.record.lease.as_deref().and_then(Lease::parse) {
        let (record, version) = (stored.record, Some(stored.version));
        // Found by reading, a lease that can end is of unknown age: no child before an answered
        // beat.
        let answered = lease.term == LeaseTerm::Never;
        let id = id.clone();
        let known = LeaseStart { id, info: record.info, version, lease, since, answered };
        let tenure = Tenure::inherited(LeaseKeeper::beside(known, uptime()));
        event_loop.keep(Kept::new(target.clone(), store, since, tenure));
    }
    Ok(Some(id))
}

/// Whether the lock is held under this ID. The text beside a local state may be gone (`git clean`),
/// or another state's; what the kernel has locked is the state itself.
fn is_held_by(target: &LockTarget, stored: &Stored, id: &LockId, context: &Context) -> bool {
    if stored.record.is_held_by(id) {
        return true;
    }
    let StoreSpec::LocalState { path } = &target.store else { return false };
    let door = Door::open(&door::path(&context.state_dir, id));
    let (Some(state), Ok(Some(door))) = (FileId::of(path), door) else { return false };
    door.is_of(state) && door.has_holder().unwrap_or(false)
}

/// The receipt, by which whoever gives the lock back finds us, and what we leave if we are killed.
fn leave_word(
    event_loop: &mut EventLoop,
    target: &LockTarget,
    under: Under<'_>,
) -> Result<(), Error> {
    let failed = event_loop.custody.ask(target, under.id, true);
    if failed.is_empty() && event_loop.custody.is_written() {
        return Ok(());
    }
    let dir = under.dir.display();
    Err(sibling_lock::refused(
        under,
        &format!("tfwrap cannot keep a receipt of this command in `{dir}`"),
    ))
}
