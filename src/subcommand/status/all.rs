//! Every lock of a table or a bucket.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use super::super::{Opened, holding};
use super::queue_of;
use crate::error::Error;
use crate::lock::LockKey;
use crate::lock::line::Slot;
use crate::report::{KeptBy, LockState, Notice, QueueState, clean_line};
use crate::run::{EventLoop, store_requests};
use crate::store::Stored;
use crate::target::{LockTarget, StoreSpec};

/// How many pages of one store are read: a million objects, or a thousand megabytes of items.
const MOST_PAGES: usize = 1000;

/// The locks whose stores are looked through, one for each store; and those that have none.
pub(super) fn split(targets: &[LockTarget]) -> Result<(Vec<&LockTarget>, Vec<&LockTarget>), Error> {
    let (mut whole, mut single): (Vec<&LockTarget>, _) = (Vec::new(), Vec::new());
    for target in targets {
        match target.store {
            StoreSpec::DynamoDb { .. } | StoreSpec::S3 { .. } => {
                if !whole.iter().any(|known| known.shares_store(target)) {
                    whole.push(target);
                }
            }
            StoreSpec::File { .. } | StoreSpec::LocalState { .. } => single.push(target),
        }
    }
    if whole.is_empty() {
        return Err(Error::Config {
            message: "`--all` looks through a table or a bucket, and no lock here is in one".to_owned(),
            hint: Some(
                "name the table with `--lock 'dynamodb://TABLE/x?region=REGION' --no-backend-lock`, or \
                 leave `--all` out for the lock of this directory"
                    .to_owned(),
            ),
        });
    }
    Ok((whole, single))
}

/// What is held or waited for in the store of this lock.
pub(super) async fn look(
    event_loop: &mut EventLoop,
    lock: &Opened<'_>,
    patience: Duration,
) -> Result<Vec<LockState>, Error> {
    let mut register = lock.register.clone();
    register.lock = lock.target.store_url();
    let (mut found, mut from) = (BTreeMap::new(), None);
    for _ in 0..MOST_PAGES {
        let page = store_requests::list(event_loop, &register, from, patience).await?;
        found.extend(page.registers);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    if from.is_some() {
        event_loop.reporter.say(Notice::warning(format!(
            "`{}` keeps more than can be looked through: what comes after its first {MOST_PAGES} \
             pages is not shown",
            register.lock
        )));
    }
    Ok(locks(&found)
        .into_iter()
        .map(|key| {
            let target = LockTarget { key, ..lock.target.clone() };
            LockState {
                lock: target.url(),
                holding: found.get(&target.key).map(|stored| holding(&target, stored)),
                line: queue(&found, &target.key),
            }
        })
        .filter(|state| state.holding.is_some() || waiting(state) > 0)
        .collect())
}

/// The keys of the locks among all registers: what has the record of one, and what is waited for.
fn locks(found: &BTreeMap<LockKey, Stored>) -> BTreeSet<LockKey> {
    let keys = found.iter().map(|(key, stored)| match lock_beside(&key.0) {
        Some(lock) if stored.record.info.is_none() => LockKey(lock.to_owned()),
        _ => key.clone(),
    });
    keys.filter(|key| !is_cut(&key.0)).collect()
}

/// The lock whose register this would be.
fn lock_beside(key: &str) -> Option<&str> {
    key.rsplit_once(".tfwrap/").map(|(lock, _)| lock)
}

/// Whether this is what is left of a register's name that was too long (`docs/protocol.md#f9-s3`).
fn is_cut(key: &str) -> bool {
    let name = key.rsplit('/').next().and_then(|name| name.strip_prefix('~'));
    name.is_some_and(|digest| digest.len() == 64 && digest.bytes().all(|c| c.is_ascii_hexdigit()))
}

fn queue(found: &BTreeMap<LockKey, Stored>, lock: &LockKey) -> QueueState {
    let register = |slot: Slot| found.get(&slot.key(lock)).map(|stored| &stored.record);
    queue_of(register(Slot::Line), None, |ticket| register(Slot::Ticket(ticket)))
}

fn waiting(state: &LockState) -> usize {
    match &state.line {
        QueueState::Known { waiters, .. } => waiters.len(),
        QueueState::Unasked | QueueState::Unreadable => 0,
    }
}

/// Whether its holder was seen to give no sign of life for longer than one takes.
fn is_silent(state: &LockState) -> bool {
    match state.holding.as_ref().map(|it| &it.kept_by) {
        Some(KeptBy::Lease { lease, unchanged: Some(still) }) => *still > lease.term.sign_of_life(),
        _ => false,
    }
}

/// The silent ones first, then those that are held for the longest time, then the others.
pub(super) fn in_order(states: &mut [LockState]) {
    states.sort_by_cached_key(|state| {
        let held = state.holding.as_ref();
        let since = held.and_then(|it| it.info.as_ref()?.created.parse::<Timestamp>().ok());
        let key = (since.is_none(), since, state.lock.clone());
        (Reverse(is_silent(state)), held.is_none(), key)
    });
}

/// How many there are, as the last line.
pub(super) fn summary(states: &[LockState], stores: &[Opened<'_>]) -> String {
    let held = states.iter().filter(|state| state.holding.is_some()).count();
    let urls: Vec<_> = stores.iter().map(|lock| clean_line(&lock.target.store_url())).collect();
    let mut out = match held {
        0 => "no lock is held".to_owned(),
        1 => "1 lock is held".to_owned(),
        held => format!("{held} locks are held"),
    };
    let _ = write!(out, " in {}", urls.join(" and "));
    let silent = states.iter().filter(|state| is_silent(state)).count();
    if silent > 0 {
        let _ = write!(out, ", {silent} of them without a heartbeat");
    }
    let waiting: usize = states.iter().map(waiting).sum();
    if waiting > 0 {
        let _ = write!(out, ", {waiting} waiting");
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::lease::{Lease, LeaseTerm};
    use crate::lock::{LockId, LockInfo};
    use crate::report::Holding;
    use crate::store::{Record, RecordVersion};

    fn stored(info: Option<&str>, lease: Option<&str>) -> Stored {
        let record = Record { info: info.map(Into::into), lease: lease.map(Into::into) };
        Stored { record, version: RecordVersion(String::new()) }
    }

    #[test]
    fn registers_of_a_queue_are_no_locks_and_lead_to_theirs() {
        let cut = format!("b/~{}", "0f".repeat(32));
        let found = [
            ("b/held", Some("{}"), None),
            ("b/by-hand", None, None),
            ("b/waited-for.tfwrap/line", None, Some(r#"{"next":2,"head":1}"#)),
            ("b/waited-for.tfwrap/ticket/1", None, Some(r#"{"id":"x","beat":1}"#)),
            ("b/a-state.tfwrap/named-so", Some("{}"), None),
            (&cut, None, Some("{}")),
        ];
        let found: BTreeMap<_, _> = found
            .into_iter()
            .map(|(key, info, lease)| (LockKey(key.to_owned()), stored(info, lease)))
            .collect();
        let keys: Vec<_> = locks(&found).into_iter().map(|key| key.0).collect();
        assert_eq!(keys, ["b/a-state.tfwrap/named-so", "b/by-hand", "b/held", "b/waited-for"]);
        let QueueState::Known { waiters, more: 0, .. } =
            queue(&found, &LockKey("b/waited-for".to_owned()))
        else {
            panic!()
        };
        assert_eq!(waiters.len(), 1);
    }

    #[test]
    fn the_silent_come_first_then_the_oldest_then_the_free() {
        let state = |lock: &str, created: Option<&str>, still: u64| {
            let info = created.map(|created| {
                Box::new(LockInfo {
                    id: LockId(String::new()),
                    operation: String::new(),
                    info: String::new(),
                    who: String::new(),
                    version: String::new(),
                    created: created.to_owned(),
                    path: String::new(),
                })
            });
            let lease = Lease { term: LeaseTerm::Never, beat: 1 };
            let kept_by = KeptBy::Lease { lease, unchanged: Some(Duration::from_secs(still)) };
            let holding =
                (lock != "free").then_some(Holding { info, kept_by, nameless_removal: None });
            LockState { lock: lock.to_owned(), holding, line: QueueState::Unasked }
        };
        let mut states = [
            state("free", None, 0),
            state("new", Some("2026-11-21T09:11:59Z"), 10),
            state("nobody", None, 10),
            state("old", Some("2026-11-20T09:11:59.5Z"), 10),
            state("silent", Some("2026-11-21T10:11:59Z"), 33),
        ];
        in_order(&mut states);
        let order: Vec<_> = states.iter().map(|state| state.lock.as_str()).collect();
        assert_eq!(order, ["silent", "old", "new", "nobody", "free"]);
    }
}
