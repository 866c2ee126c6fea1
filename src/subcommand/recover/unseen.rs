//! A run whose processes cannot be seen from here (another container, another boot) shows whether it
//! lives by its locks alone. So only the rule of a take-over tells that it is dead: each of its locks
//! has stood still for the whole term that it declares. Before that, and with a lease that never
//! ends, nobody can tell (`docs/protocol.md#l6-observation-and-take-over`).

use std::time::Duration;

use super::living::whole;
use super::{Recovery, run_of, unlock_commands};
use crate::clock::uptime;
use crate::duration;
use crate::error::Error;
use crate::lock::lease::{Lease, LeaseTerm};
use crate::lock::{LockId, Uptime};
use crate::receipt::Receipt;
use crate::report::Notice;
use crate::run::EventLoop;
use crate::run::orphan::complete;
use crate::run::store_requests::{self, LockRegister};
use crate::store::Stored;
use crate::subcommand::removal::{self, Removal, is_same_tenure};

/// Between two looks at a lock.
const LOOK: Duration = Duration::from_secs(1);

/// What a wait needs beside the lease: for the first look, the last one and the removal.
const ROOM: Duration = Duration::from_secs(30);

/// A lock that is still its run's, as it was seen first.
pub(super) struct Watched {
    id: LockId,
    register: LockRegister,
    stored: Stored,
    /// None where the kernel holds it, for a process that lives.
    term: Option<LeaseTerm>,
    /// After the reply that showed it.
    since: Uptime,
}

/// What the locks of a run say.
pub(super) enum Verdict {
    /// These have stood still for the whole of their leases; it has no others.
    Dead(Vec<Watched>),
    /// It gave a sign of life.
    Lives,
    /// Nobody can tell; why not, and what helps.
    Unknown { why: String, hint: String },
}

/// The locks of the run that are still its own.
pub(super) async fn held(
    event_loop: &mut EventLoop,
    recovery: &Recovery<'_>,
    receipt: &Receipt,
    patience: Duration,
) -> Result<Vec<Watched>, Error> {
    let mut all = Vec::new();
    for entry in receipt.own() {
        let target = complete(entry, receipt, recovery.env);
        let register = LockRegister::open(&target).await?;
        let stored = store_requests::read(event_loop, &register, patience).await?;
        let Some(stored) = stored.filter(|it| it.record.is_held_by(&entry.id)) else { continue };
        let lease = stored.record.lease.as_deref().and_then(Lease::parse);
        // What says nothing that can be read never expires.
        let declared = lease.map_or(LeaseTerm::Never, |lease| lease.term);
        let term = (!target.is_kept_by_kernel()).then_some(declared);
        all.push(Watched { id: entry.id.clone(), register, stored, term, since: uptime() });
    }
    Ok(all)
}

/// Watches its locks for as long as that may tell something, at most until then. `seen` is what was
/// looked at earlier.
pub(super) async fn judge(
    event_loop: &mut EventLoop,
    recovery: &Recovery<'_>,
    receipt: &Receipt,
    seen: &[Watched],
    until: Uptime,
) -> Result<Verdict, Error> {
    let mut watched = held(event_loop, recovery, receipt, store_requests::PATIENCE).await?;
    for lock in &mut watched {
        let is_it =
            |before: &&Watched| before.id == lock.id && before.register.lock == lock.register.lock;
        let Some(before) = seen.iter().find(is_it) else { continue };
        if before.stored.version != lock.stored.version {
            return Ok(Verdict::Lives);
        }
        lock.since = before.since;
    }
    let mut said = false;
    loop {
        if watched.iter().any(|lock| lock.term.is_none()) {
            return Ok(Verdict::Lives);
        }
        let by = decided_at(&watched);
        let now = uptime();
        let end = match by {
            Some(by) if by <= until => by,
            // It could only show that it lives.
            _ => until.min(shows_itself_by(&watched)),
        };
        if now >= end {
            return Ok(match by {
                Some(by) if by <= now => Verdict::Dead(watched),
                _ => unknown(receipt, &watched, by.map(|by| by.since(now))),
            });
        }
        if !std::mem::replace(&mut said, true) {
            event_loop.say(Notice::Note { message: watching(receipt, &watched, end.since(now)) });
        }
        event_loop.pause(uptime().plus(LOOK.min(end.since(now)))).await?;
        if look_again(event_loop, &mut watched).await? {
            return Ok(Verdict::Lives);
        }
    }
}

/// Looks whether any of them gave a sign of life, and drops those that are not the run's any more.
async fn look_again(event_loop: &mut EventLoop, watched: &mut Vec<Watched>) -> Result<bool, Error> {
    let mut still = Vec::new();
    for lock in watched.drain(..) {
        match store_requests::read(event_loop, &lock.register, store_requests::PATIENCE).await? {
            Some(now) if now.version == lock.stored.version => still.push(lock),
            Some(now) if now.record.is_held_by(&lock.id) => return Ok(true),
            _ => {}
        }
    }
    *watched = still;
    Ok(false)
}

/// When all of them have stood still for long enough; nothing where that never is.
fn decided_at(watched: &[Watched]) -> Option<Uptime> {
    watched.iter().try_fold(Uptime::default(), |by, lock| match lock.term? {
        LeaseTerm::After(ttl) => Some(by.max(lock.since.plus(ttl))),
        LeaseTerm::Never => None,
    })
}

/// By when a run that lives has given a sign of life.
fn shows_itself_by(watched: &[Watched]) -> Uptime {
    let all = watched.iter().filter_map(|lock| Some(lock.since.plus(lock.term?.sign_of_life())));
    all.max().unwrap_or_default()
}

fn names(watched: &[Watched]) -> String {
    let names: Vec<_> = watched.iter().map(|lock| format!("`{}`", lock.register.lock)).collect();
    names.join(", ")
}

fn watching(receipt: &Receipt, watched: &[Watched], span: Duration) -> String {
    format!(
        "{} cannot be seen from here: watching its lock {} for a heartbeat, up to {}",
        run_of(receipt),
        names(watched),
        duration::format(whole(span))
    )
}

/// Why nobody can tell whether it lives; `left` until its leases have ended, if they ever do.
fn unknown(receipt: &Receipt, watched: &[Watched], left: Option<Duration>) -> Verdict {
    let (run, locks) = (run_of(receipt), names(watched));
    let (Some(left), Some(ttl)) = (left, longest(watched)) else {
        return Verdict::Unknown {
            why: format!(
                "{run} cannot be seen from here, and may be alive: the lease of {locks} never \
                 expires, and a run whose credentials have expired or a machine that sleeps sends \
                 no heartbeat"
            ),
            hint: format!(
                "make sure that the run is gone, and finish with: {}",
                unlock_commands(receipt).collect::<Vec<_>>().join("; ")
            ),
        };
    };
    Verdict::Unknown {
        why: format!(
            "{run} cannot be seen from here, and may be alive until {locks} has shown no heartbeat \
             for its whole lease of {}: that takes at least another {}, and then whoever waits for \
             the lock takes it over",
            duration::format(ttl),
            duration::format(whole(left))
        ),
        hint: format!("to release it then: tfwrap recover --wait {}", duration::format(ttl + ROOM)),
    }
}

fn longest(watched: &[Watched]) -> Option<Duration> {
    let terms = watched.iter().filter_map(|lock| match lock.term? {
        LeaseTerm::After(ttl) => Some(ttl),
        LeaseTerm::Never => None,
    });
    terms.max()
}

/// Removes what has stood still, by the very versions that did; says how many are gone, or which one
/// lives after all.
pub(super) async fn give_back(
    event_loop: &mut EventLoop,
    dead: Vec<Watched>,
) -> Result<Result<usize, String>, Error> {
    let mut released = 0;
    for lock in dead {
        let name = lock.register.lock.clone();
        match removal::remove(event_loop, &lock.register, &lock.stored, false).await? {
            Removal::Removed => released += 1,
            Removal::Changed(Some(now)) if is_same_tenure(&lock.stored, &now) => {
                return Ok(Err(format!("the holder of `{name}` has just sent a heartbeat")));
            }
            // Somebody was quicker.
            Removal::Changed(_) => {}
            Removal::Kept => {
                return Ok(Err(format!("the store does not remove the lock `{name}`")));
            }
        }
    }
    Ok(Ok(released))
}
