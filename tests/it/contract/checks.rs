//! What every store of registers must do: named checks, each on keys of its own.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use tfwrap::lock::{LockId, LockInfo, LockKey};
use tfwrap::store::{Expect, Record, RecordVersion, Registers, RemoveReply, Stored, WriteReply};

/// Opens a store anew, as another process would.
pub(super) type Open = Arc<dyn Fn(&LockKey) -> Arc<dyn Registers> + Send + Sync>;

/// The store that a check is about, with keys of its own.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) open: Open,
    /// Of its keys.
    pub(super) prefix: String,
    /// Whether others than the writer see the lease.
    pub(super) shows_lease: bool,
}

impl Subject {
    fn key(&self, name: &str) -> LockKey {
        LockKey(format!("{}{name}", self.prefix))
    }

    fn open(&self, key: &LockKey) -> Arc<dyn Registers> {
        (self.open)(key)
    }

    fn as_others_see(&self, record: &Record) -> Record {
        let lease = record.lease.clone().filter(|_| self.shows_lease);
        Record { info: record.info.clone(), lease }
    }
}

fn info(id: &str) -> LockInfo {
    LockInfo {
        id: LockId(id.to_owned()),
        operation: "OperationTypeApply".to_owned(),
        info: String::new(),
        who: "root@vm".to_owned(),
        version: "1.11.4".to_owned(),
        created: "2026-01-02T03:04:05.6Z".to_owned(),
        path: "b/k".to_owned(),
    }
}

fn record(id: &str) -> Record {
    Record { info: Some(info(id).to_json()), lease: Some(format!("{{\"beat\":\"{id}\"}}")) }
}

fn applied(reply: WriteReply) -> RecordVersion {
    match reply {
        WriteReply::Applied(version) => version,
        WriteReply::Conflict(current) => panic!("refused, stored is {current:?}"),
    }
}

async fn create(store: &dyn Registers, key: &LockKey, record: &Record) -> RecordVersion {
    applied(store.write(key, record, &Expect::Absent).await.unwrap())
}

async fn overwrite(
    store: &dyn Registers,
    key: &LockKey,
    record: &Record,
    version: &RecordVersion,
) -> RecordVersion {
    applied(store.write(key, record, &Expect::Version(version.clone())).await.unwrap())
}

/// A refusal says what is stored, or nothing; then a read does.
async fn refused(store: &dyn Registers, key: &LockKey, reply: WriteReply) -> Option<Stored> {
    match reply {
        WriteReply::Applied(_) => panic!("applied"),
        WriteReply::Conflict(Some(current)) => current,
        WriteReply::Conflict(None) => store.read(key).await.unwrap(),
    }
}

async fn not_removed(store: &dyn Registers, key: &LockKey, reply: RemoveReply) -> Option<Stored> {
    match reply {
        RemoveReply::Removed => panic!("removed"),
        RemoveReply::Conflict(Some(current)) => current,
        RemoveReply::Conflict(None) => store.read(key).await.unwrap(),
    }
}

async fn absent_reads_as_absent(subject: Subject) {
    let key = subject.key("absent");
    assert_eq!(subject.open(&key).read(&key).await.unwrap(), None);
}

async fn what_was_created_is_read(subject: Subject) {
    let key = subject.key("created");
    let (mine, theirs) = (subject.open(&key), subject.open(&key));
    let version = create(&*mine, &key, &record("1")).await;
    let stored = Stored { record: record("1"), version };
    assert_eq!(mine.read(&key).await.unwrap(), Some(stored));
    let seen = theirs.read(&key).await.unwrap().unwrap();
    assert_eq!(seen.record, subject.as_others_see(&record("1")));
}

async fn a_second_create_is_refused_and_told_who_is_there(subject: Subject) {
    let key = subject.key("second");
    let (mine, theirs) = (subject.open(&key), subject.open(&key));
    create(&*mine, &key, &record("1")).await;
    for store in [&theirs, &mine] {
        let reply = store.write(&key, &record("2"), &Expect::Absent).await.unwrap();
        let current = refused(&**store, &key, reply).await.unwrap();
        assert_eq!(current.record.info, record("1").info);
    }
    assert_eq!(mine.read(&key).await.unwrap().unwrap().record, record("1"));
}

async fn a_write_over_the_current_version_is_applied(subject: Subject) {
    let key = subject.key("over");
    let store = subject.open(&key);
    let first = create(&*store, &key, &record("1")).await;
    let second = overwrite(&*store, &key, &record("2"), &first).await;
    assert_ne!(first, second);
    // A beat: the lease alone changes.
    let beat = Record { lease: Some("next".to_owned()), ..record("2") };
    let third = overwrite(&*store, &key, &beat, &second).await;
    assert_ne!(second, third);
    let stored = Stored { record: beat, version: third };
    assert_eq!(store.read(&key).await.unwrap(), Some(stored));
}

async fn a_write_over_a_stale_version_is_refused(subject: Subject) {
    let key = subject.key("stale");
    let store = subject.open(&key);
    let first = create(&*store, &key, &record("1")).await;
    overwrite(&*store, &key, &record("2"), &first).await;
    let reply = store.write(&key, &record("3"), &Expect::Version(first)).await.unwrap();
    let current = refused(&*store, &key, reply).await.unwrap();
    assert_eq!(current.record, record("2"));
    assert_eq!(store.read(&key).await.unwrap().unwrap().record, record("2"));
}

async fn a_write_over_what_is_gone_is_refused(subject: Subject) {
    let key = subject.key("gone");
    let store = subject.open(&key);
    let version = create(&*store, &key, &record("1")).await;
    assert_eq!(store.remove(&key, &version).await.unwrap(), RemoveReply::Removed);
    let reply = store.write(&key, &record("2"), &Expect::Version(version)).await.unwrap();
    assert_eq!(refused(&*store, &key, reply).await, None);
    assert_eq!(store.read(&key).await.unwrap(), None);
}

async fn what_was_removed_is_absent(subject: Subject) {
    let key = subject.key("removed");
    let (mine, theirs) = (subject.open(&key), subject.open(&key));
    let version = create(&*mine, &key, &record("1")).await;
    assert_eq!(mine.remove(&key, &version).await.unwrap(), RemoveReply::Removed);
    assert_eq!(mine.read(&key).await.unwrap(), None);
    assert_eq!(theirs.read(&key).await.unwrap(), None);
}

async fn a_stale_remove_is_refused(subject: Subject) {
    let key = subject.key("stale-remove");
    let store = subject.open(&key);
    let first = create(&*store, &key, &record("1")).await;
    overwrite(&*store, &key, &record("2"), &first).await;
    let reply = store.remove(&key, &first).await.unwrap();
    assert_eq!(not_removed(&*store, &key, reply).await.unwrap().record, record("2"));
    assert_eq!(store.read(&key).await.unwrap().unwrap().record, record("2"));
}

async fn a_remove_of_what_is_absent_is_refused(subject: Subject) {
    let key = subject.key("twice");
    let store = subject.open(&key);
    let version = create(&*store, &key, &record("1")).await;
    assert_eq!(store.remove(&key, &version).await.unwrap(), RemoveReply::Removed);
    let reply = store.remove(&key, &version).await.unwrap();
    assert_eq!(not_removed(&*store, &key, reply).await, None);
}

async fn the_first_tenure_cannot_touch_the_second(subject: Subject) {
    let key = subject.key("tenures");
    let (one, two) = (subject.open(&key), subject.open(&key));
    let first = create(&*one, &key, &record("1")).await;
    assert_eq!(one.remove(&key, &first).await.unwrap(), RemoveReply::Removed);
    let second = create(&*two, &key, &record("2")).await;
    assert_ne!(first, second);
    let late = one.write(&key, &record("late"), &Expect::Version(first.clone())).await.unwrap();
    refused(&*one, &key, late).await.unwrap();
    let late = one.remove(&key, &first).await.unwrap();
    not_removed(&*one, &key, late).await.unwrap();
    let stored = Stored { record: record("2"), version: second };
    assert_eq!(two.read(&key).await.unwrap(), Some(stored));
}

async fn of_fifty_creators_exactly_one_wins(subject: Subject) {
    let key = subject.key("fifty");
    let creators = (0..50).map(|n| {
        let (store, key) = (subject.open(&key), key.clone());
        async move {
            let mine = record(&n.to_string());
            match store.write(&key, &mine, &Expect::Absent).await.unwrap() {
                WriteReply::Applied(_) => Some((mine, store)),
                WriteReply::Conflict(_) => None,
            }
        }
    });
    let winners: Vec<_> =
        join_all(creators.map(tokio::spawn)).await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(winners.len(), 1);
    let (record, store) = &winners[0];
    assert_eq!(store.read(&key).await.unwrap().unwrap().record, *record);
}

async fn a_counter_changed_by_compare_and_swap_loses_nothing(subject: Subject) {
    const TASKS: u64 = 5;
    const STEPS: u64 = 8;
    let key = subject.key("counter");
    let count = |n: u64| Record { info: Some(n.to_string()), lease: None };
    create(&*subject.open(&key), &key, &count(0)).await;
    let tasks = (0..TASKS).map(|_| {
        let (store, key) = (subject.open(&key), key.clone());
        async move {
            let mut done = 0;
            while done < STEPS {
                let Stored { record, version } = store.read(&key).await.unwrap().unwrap();
                let next = count(record.info.unwrap().parse::<u64>().unwrap() + 1);
                match store.write(&key, &next, &Expect::Version(version)).await.unwrap() {
                    WriteReply::Applied(_) => done += 1,
                    WriteReply::Conflict(_) => {}
                }
            }
        }
    });
    for task in join_all(tasks.map(tokio::spawn)).await {
        task.unwrap();
    }
    let sum = subject.open(&key).read(&key).await.unwrap().unwrap();
    assert_eq!(sum.record, count(TASKS * STEPS));
}

async fn another_may_take_over_what_it_read(subject: Subject) {
    let key = subject.key("take-over");
    let (mine, theirs) = (subject.open(&key), subject.open(&key));
    let first = create(&*mine, &key, &record("1")).await;
    let seen = theirs.read(&key).await.unwrap().unwrap();
    let taken = overwrite(&*theirs, &key, &record("2"), &seen.version).await;
    let late = mine.remove(&key, &first).await.unwrap();
    assert_eq!(not_removed(&*mine, &key, late).await.unwrap().record, record("2"));
    assert_eq!(theirs.remove(&key, &taken).await.unwrap(), RemoveReply::Removed);
}

async fn any_key_is_a_register_of_its_own(subject: Subject) {
    let long = "k".repeat(1024 - subject.prefix.len());
    let names = [
        "",
        "a",
        "a/b",
        "a%2Fb",
        "../up",
        "..",
        "/rooted",
        "with space",
        "ünï\u{1F512}",
        ".lock",
        ".next",
        "A",
        "a\nb",
        "<&>\"'",
        long.as_str(),
        &long[1..],
    ];
    let mut versions = Vec::new();
    for name in names {
        let key = subject.key(name);
        versions.push(create(&*subject.open(&key), &key, &record(name)).await);
    }
    for (name, version) in names.iter().zip(&versions) {
        let key = subject.key(name);
        let store = subject.open(&key);
        assert_eq!(store.read(&key).await.unwrap().unwrap().record, record(name), "{name:?}");
        assert_eq!(store.remove(&key, version).await.unwrap(), RemoveReply::Removed, "{name:?}");
    }
}

async fn a_part_that_is_none_is_not_an_empty_one(subject: Subject) {
    let some = || Some(String::new());
    let parts = [(None, None), (some(), None), (None, some()), (some(), some())];
    for (n, (info, lease)) in parts.into_iter().enumerate() {
        let key = subject.key(&format!("parts-{n}"));
        let store = subject.open(&key);
        let record = Record { info, lease };
        let first = create(&*store, &key, &record).await;
        assert_eq!(store.read(&key).await.unwrap().unwrap().record, record);
        let second = overwrite(&*store, &key, &self::record("2"), &first).await;
        let reply = store.remove(&key, &first).await.unwrap();
        not_removed(&*store, &key, reply).await.unwrap();
        assert_eq!(store.remove(&key, &second).await.unwrap(), RemoveReply::Removed);
    }
}

async fn records_come_back_byte_for_byte(subject: Subject) {
    let key = subject.key("bytes");
    let (mine, theirs) = (subject.open(&key), subject.open(&key));
    let text = "<a href=\"x\">&amp;\u{2028}\u{2029}\\/é\u{1F512}\u{7f}\t\n\u{1}";
    let full = LockInfo { info: text.to_owned(), who: "x".repeat(100_000), ..info("bytes") };
    let record = Record { info: Some(full.to_json()), lease: Some("<>&\u{2028}".to_owned()) };
    create(&*mine, &key, &record).await;
    assert_eq!(mine.read(&key).await.unwrap().unwrap().record, record);
    let seen = theirs.read(&key).await.unwrap().unwrap();
    assert_eq!(seen.record, subject.as_others_see(&record));
}

pub(super) type Check = (&'static str, fn(Subject) -> BoxFuture<'static, ()>);

macro_rules! checks {
    ($($check:ident),* $(,)?) => {
        &[$((stringify!($check), |subject| $check(subject).boxed())),*]
    };
}

/// For a register that only its writer can change: the local backend's lock.
pub(super) const ONE_WRITER: &[Check] = checks![
    absent_reads_as_absent,
    what_was_created_is_read,
    a_second_create_is_refused_and_told_who_is_there,
    a_write_over_the_current_version_is_applied,
    a_write_over_a_stale_version_is_refused,
    a_write_over_what_is_gone_is_refused,
    what_was_removed_is_absent,
    a_stale_remove_is_refused,
    a_remove_of_what_is_absent_is_refused,
    the_first_tenure_cannot_touch_the_second,
    of_fifty_creators_exactly_one_wins,
    records_come_back_byte_for_byte,
];

/// What a store of shared registers does besides.
pub(super) const SHARED: &[Check] = checks![
    a_counter_changed_by_compare_and_swap_loses_nothing,
    another_may_take_over_what_it_read,
    any_key_is_a_register_of_its_own,
    a_part_that_is_none_is_not_an_empty_one,
];

/// The names of the checks that `subject` fails.
pub(super) async fn failures(subject: &Subject, suites: &[&[Check]]) -> Vec<&'static str> {
    let mut failed = Vec::new();
    for (n, (name, check)) in suites.iter().copied().flatten().enumerate() {
        // Each has its keys to itself.
        let prefix = format!("{}{n}-", subject.prefix);
        let subject = Subject { prefix, ..subject.clone() };
        if tokio::spawn(check(subject)).await.is_err() {
            failed.push(*name);
        }
    }
    failed
}
