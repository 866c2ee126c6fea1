//! Who has the lock, and what dead runs left: looked at twice where something may live.

use std::collections::HashMap;
use std::path::Path;
use std::slice;
use std::time::Duration;

use super::super::Opened;
use super::super::status::{Beats, look_at_all};
use crate::clock::{uptime, wall};
use crate::duration;
use crate::env::Env;
use crate::error::Error;
use crate::lock::lease::SETTLE;
use crate::lock::line::{TICKET_BEAT, Ticket};
use crate::lock::{Holder, LockInfo};
use crate::receipt::ReceiptFile;
use crate::report::{
    Check, Holding, KeptBy, LockState, Notice, QueueState, describe_holder, shell_quote,
};
use crate::run::EventLoop;
use crate::run::here::Here;
use crate::state_dir;
use crate::supervise::{HostScope, ProcessId, Sight};
use crate::target::LockTarget;

/// Longer than any two requests for the two halves of one lock are apart.
const BETWEEN_HALVES: Duration = Duration::from_secs(3);

const NAME_OF_PAIR: &str = "pair";

const SHARE_ONE: &str = "give every client of this state both locks first (docs/migration.md)";

/// After so long a lock without a lease is probably nobody's any more.
const LONG_AGO: Duration = Duration::from_hours(1);

pub(super) async fn checks(
    event_loop: &mut EventLoop,
    locks: &[Opened<'_>],
    unused: Option<&LockTarget>,
    env: &Env,
) -> Result<Vec<Check>, Error> {
    let mut checks = Vec::new();
    let mut beats = Beats::default();
    let (mut seen, first) = (Vec::new(), look(event_loop, locks, &mut checks).await?);
    for (lock, mut state) in first {
        beats.observe(slice::from_mut(&mut state), uptime());
        seen.push((lock, state));
    }
    let before = tickets(&seen);
    let patience = patience(&seen);
    if patience > Duration::ZERO {
        let time = duration::format(patience);
        let message =
            format!("the lock is held or waited for: looking again in {time} for a heartbeat");
        event_loop.reporter.say(Notice::Note { message });
        event_loop.pause(uptime().plus(patience)).await?;
        let again: Vec<_> = look(event_loop, locks, &mut Vec::new()).await?;
        seen = again;
        for (_, state) in &mut seen {
            beats.observe(slice::from_mut(state), uptime());
        }
    }
    for (_, state) in &seen {
        checks.push(holder(state, &state_dir::path(env)));
        checks.extend(queue(state, &before));
        checks.extend(plans(state));
    }
    checks.extend(halves(&seen));
    if let Some(unused) = unused {
        checks.extend(who_shares_none(event_loop, unused, &seen).await?);
    }
    checks.extend(receipts(env));
    Ok(checks)
}

async fn look<'a>(
    event_loop: &mut EventLoop,
    locks: &'a [Opened<'a>],
    checks: &mut Vec<Check>,
) -> Result<Vec<(&'a LockTarget, LockState)>, Error> {
    let mut seen = Vec::new();
    for lock in locks {
        match look_at_all(event_loop, slice::from_ref(lock), Duration::ZERO).await {
            Ok(states) => seen.extend(states.into_iter().map(|state| (lock.target, state))),
            Err(error @ Error::Interrupted { .. }) => return Err(error),
            Err(error) => {
                checks.push(Check::skip("holder", format!("could not be checked: {error}")));
            }
        }
    }
    Ok(seen)
}

/// For how long whoever lives may show nothing new.
fn patience(seen: &[(&LockTarget, LockState)]) -> Duration {
    let each = seen.iter().map(|(_, state)| {
        let holder = match state.holding.as_ref().map(|it| &it.kept_by) {
            Some(KeptBy::Lease { lease, .. }) => lease.term.sign_of_life() + Duration::from_secs(1),
            Some(KeptBy::Kernel | KeptBy::Nothing) | None => Duration::ZERO,
        };
        let waiters = waiters(state).next().map(|_| TICKET_BEAT + SETTLE);
        holder.max(waiters.unwrap_or_default())
    });
    let halves = halves(seen).first().map(|_| BETWEEN_HALVES);
    each.chain(halves).max().unwrap_or_default()
}

fn waiters(state: &LockState) -> impl Iterator<Item = (Ticket, u64, bool)> {
    let waiters = match &state.line {
        QueueState::Known { waiters, .. } => &waiters[..],
        QueueState::Unasked | QueueState::Unreadable => &[],
    };
    waiters.iter().map(|(ticket, waiter)| (*ticket, waiter.beat, waiter.is_plan()))
}

type Tickets = HashMap<(String, Ticket), u64>;

fn tickets(seen: &[(&LockTarget, LockState)]) -> Tickets {
    let of = |state: &LockState| {
        let lock = state.lock.clone();
        waiters(state).map(|it| ((lock.clone(), it.0), it.1)).collect::<Vec<_>>()
    };
    seen.iter().flat_map(|(_, state)| of(state)).collect()
}

fn holder(state: &LockState, receipts: &Path) -> Check {
    const NAME: &str = "holder";
    let Some(Holding { info, kept_by, nameless_removal }) = &state.holding else {
        return Check::pass(NAME, format!("{}: free", state.lock));
    };
    let who = match info {
        Some(info) => describe_holder(info, wall()),
        None => "held, its record does not say by whom".to_owned(),
    };
    let detail = format!("{}: {who}", state.lock);
    let id = info.as_ref().map(|info| shell_quote(&info.id.0)).unwrap_or_default();
    // Of one that was here, more is known.
    let here = info.clone().and_then(|info| Here::of(receipts, &Holder::Known(info)));
    let hint = match (here, nameless_removal) {
        (Some(here), _) => here.told().1,
        (None, Some(command)) => format!("when you are sure that its holder is dead: {command}"),
        (None, None) => {
            format!("when that run is gone for good: `tfwrap unlock {id}` (docs/stuck-lock.md)")
        }
    };
    match kept_by {
        KeptBy::Kernel => Check::pass(NAME, format!("{detail}; its process lives")),
        KeptBy::Lease { lease, unchanged } => {
            let still = unchanged.unwrap_or_default();
            if still <= lease.term.sign_of_life() {
                return Check::pass(NAME, format!("{detail}; it sends heartbeats"));
            }
            let still = duration::in_seconds(still);
            Check::warn(NAME, format!("{detail}; no heartbeat for {still}"), hint)
        }
        KeptBy::Nothing if info.as_ref().is_some_and(|info| is_recent(info)) => {
            Check::pass(NAME, format!("{detail}; without a lease"))
        }
        KeptBy::Nothing => Check::warn(
            NAME,
            format!("{detail}; without a lease, so it stays until it is removed"),
            hint,
        ),
    }
}

fn is_recent(info: &LockInfo) -> bool {
    let created = info.created.parse::<jiff::Timestamp>();
    created.is_ok_and(|at| wall().duration_since(at).unsigned_abs() < LONG_AGO)
}

/// Whoever died in the queue.
fn queue(state: &LockState, before: &Tickets) -> Option<Check> {
    const NAME: &str = "queue";
    if state.line == QueueState::Unreadable {
        return Some(Check::skip(NAME, format!("{}: the queue cannot be read", state.lock)));
    }
    let all = waiters(state).count();
    let key = |ticket| (state.lock.clone(), ticket);
    let dead = waiters(state).filter(|it| before.get(&key(it.0)) == Some(&it.1)).count();
    let detail = format!("{}: {all} waiting", state.lock);
    match (all, dead) {
        (0, _) => None,
        (_, 0) => Some(Check::pass(NAME, detail)),
        _ => Some(Check::warn(
            NAME,
            format!("{detail}, {dead} of them without a heartbeat"),
            "nothing is to be done: a dead one is passed over when its turn comes",
        )),
    }
}

fn plans(state: &LockState) -> Option<Check> {
    let info = state.holding.as_ref()?.info.as_ref()?;
    let waiting = waiters(state).filter(|it| it.2).count();
    (info.operation == "OperationTypePlan" && waiting > 0).then(|| {
        Check::warn(
            "plans",
            format!("{}: held for a plan, and {waiting} in the queue are plans, too", state.lock),
            "let plans that only inform run without the lock: `tfwrap --plan-lock optimistic plan` plans again \
             if the state changes meanwhile; `tfwrap plan -lock=false` does not look",
        )
    })
}

/// Whoever holds the lock file that the backend does not use, and not its item as well.
async fn who_shares_none(
    event_loop: &mut EventLoop,
    unused: &LockTarget,
    seen: &[(&LockTarget, LockState)],
) -> Result<Option<Check>, Error> {
    let Ok(lock) = Opened::one(unused).await else { return Ok(None) };
    // Whoever may not read it could not use it either.
    let mut ignored = Vec::new();
    let found = look(event_loop, slice::from_ref(&lock), &mut ignored).await?;
    let holder = found.first().and_then(|(_, state)| holder_of(state));
    let is_known = |it: &&LockInfo| {
        seen.iter().filter_map(|(_, state)| holder_of(state)).any(|of| of.id == it.id)
    };
    Ok(holder.filter(|it| !is_known(it)).map(|it| {
        Check::warn(
            NAME_OF_PAIR,
            format!(
                "{}: {}; this backend does not use that lock, so both can work at once",
                unused.url(),
                describe_holder(it, wall())
            ),
            SHARE_ONE,
        )
    }))
}

fn holder_of(state: &LockState) -> Option<&LockInfo> {
    state.holding.as_ref()?.info.as_deref()
}

/// Of a backend with two locks, one without the other, or each with another holder.
fn halves(seen: &[(&LockTarget, LockState)]) -> Vec<Check> {
    let pairs =
        seen.array_windows().filter(|[(one, _), (two, _)]| one.of_backend && two.of_backend);
    let half = pairs.filter_map(|[(_, one), (_, two)]| {
        let (held, free) = match (&one.holding, &two.holding) {
            (Some(_), None) => (one, two),
            (None, Some(_)) => (two, one),
            (None, None) => return None,
            (Some(_), Some(_)) => {
                let (first, second) = (holder_of(one)?, holder_of(two)?);
                return (first.id != second.id).then(|| {
                    let each = "each half of the lock has another holder, and these two have no lock in common";
                    Check::warn(NAME_OF_PAIR, format!("{each}: {}, {}", one.lock, two.lock), SHARE_ONE)
                });
            }
        };
        let id = holder_of(held).map(|info| shell_quote(&info.id.0)).unwrap_or_default();
        Some(Check::warn(
            NAME_OF_PAIR,
            format!("half of the lock is held: {}; and {} is free", held.lock, free.lock),
            format!(
                "when its run is gone for good: `tfwrap unlock {id}`, which removes what is there"
            ),
        ))
    });
    half.collect()
}

/// Runs of this machine that were killed.
fn receipts(env: &Env) -> Option<Check> {
    const NAME: &str = "receipts";
    let dir = state_dir::path(env);
    let here = HostScope::here()?;
    let files = match ReceiptFile::all_in(&dir) {
        Ok(files) => files,
        Err(error) => {
            return Some(Check::skip(NAME, format!("`{}` cannot be read: {error}", dir.display())));
        }
    };
    let all = files.iter().filter_map(|file| file.read().ok());
    let dead = all.filter(|receipt| {
        let has_guardian = receipt.guardian.is_some_and(ProcessId::is_alive);
        let is_here = receipt.world.seen_from(&here) == Sight::Here;
        !receipt.is_over && is_here && !receipt.runner.is_alive() && !has_guardian
    });
    match dead.count() {
        0 => {
            Some(Check::pass(NAME, format!("no killed run of this machine in `{}`", dir.display())))
        }
        dead => Some(Check::warn(
            NAME,
            format!("runs that were killed here and left something: {dead}"),
            "`tfwrap recover` releases it",
        )),
    }
}
