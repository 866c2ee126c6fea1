//! One contract for every store of registers, run unchanged on each; and stores that break it.

mod checks;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tfwrap::lock::LockKey;
use tfwrap::store::{
    AwsClients, Conditions, DynamoTable, Expect, FileStore, LocalState, LockObjects, MemoryStore,
    Record, RecordVersion, Registers, RemoveReply, StoreError, Stored, Timeouts, WriteReply,
};

use crate::support::s3_server::{self, Manners};
use crate::support::servers::{BUCKET, Endpoint, aws_settings, dynamodb, named};
use checks::{ONE_WRITER, Open, SHARED, Subject, failures};

fn shared(store: impl Fn() -> Arc<dyn Registers> + Send + Sync + 'static) -> Subject {
    let open: Open = Arc::new(move |_| store());
    Subject { open, prefix: "contract/".to_owned(), shows_lease: true }
}

fn one(store: impl Registers + 'static) -> Subject {
    let store: Arc<dyn Registers> = Arc::new(store);
    shared(move || Arc::clone(&store))
}

const NONE: [&str; 0] = [];

#[tokio::test]
async fn memory_keeps_the_contract() {
    assert_eq!(failures(&one(MemoryStore::new()), &[ONE_WRITER, SHARED]).await, NONE);
}

#[tokio::test]
async fn files_keep_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registers");
    let subject = shared(move || Arc::new(FileStore::new(&path)));
    assert_eq!(failures(&subject, &[ONE_WRITER, SHARED]).await, NONE);
}

/// The lock belongs to whoever opened the file, so nobody can swap it or take it over; the key is
/// a path; and what others see of it is a lock info or nothing. The rest holds for it too.
#[tokio::test]
async fn the_lock_of_a_local_state_keeps_the_contract_of_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let open: Open = Arc::new(|key| Arc::new(LocalState::new(&key.0).unwrap()));
    let prefix = format!("{}/", dir.path().display());
    let subject = Subject { open, prefix, shows_lease: false };
    assert_eq!(failures(&subject, &[ONE_WRITER]).await, NONE);
}

async fn table_keeps_the_contract(server: &Endpoint) {
    let table = format!("contract-{}", std::process::id());
    server.create_lock_table(&table).await;
    // Each handle with connections of its own.
    let settings = server.settings();
    let clients = AwsClients::new(&settings, Timeouts::default()).await.unwrap();
    let subject = shared(move || Arc::new(DynamoTable::new(&clients, &table).unwrap()));
    assert_eq!(failures(&subject, &[ONE_WRITER, SHARED]).await, NONE);
}

#[tokio::test]
async fn a_dynamodb_table_keeps_the_contract() {
    // Where a second server is named, it counts as much as the emulator.
    let further = named("TFWRAP_TEST_DYNAMODB_URL").into_iter().map(|url| Endpoint { url });
    for server in std::iter::once(dynamodb().clone()).chain(further) {
        table_keeps_the_contract(&server).await;
    }
}

async fn bucket_keeps_the_contract(url: &str) {
    let prefix = format!("contract-{}/", std::process::id());
    let lock = LockKey(format!("{prefix}lock"));
    // Fifty at once, each with a signature, on a machine that has more to do.
    let [connect, read, operation] = [30, 60, 90].map(Duration::from_secs);
    let timeouts = Timeouts { connect, read, operation };
    let clients = AwsClients::new(&aws_settings(url), timeouts).await.unwrap();
    let open = move |known| {
        let objects = tfwrap::backend::ObjectSettings::default();
        LockObjects::new(&clients, BUCKET, &lock, &objects, known).unwrap()
    };
    // SeaweedFS makes a bucket that is missing with the first object in it, and the trial begins with a
    // remove.
    let (first, known) = (LockKey(format!("{prefix}first")), open(Conditions::All));
    let mut made = known.write(&first, &Record::default(), &Expect::Absent).await;
    // It answers before its parts have found each other.
    for _ in 0..100 {
        if !made.as_ref().is_err_and(StoreError::is_transient) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        made = known.write(&first, &Record::default(), &Expect::Absent).await;
    }
    let made = made.unwrap();
    let WriteReply::Applied(version) = made else { panic!("{url}: {made:?}") };
    known.remove(&first, &version).await.unwrap();
    let tried = open(Conditions::Untried);
    tried.try_conditions().await.unwrap();
    assert_eq!(tried.conditions(), Conditions::All, "{url}");
    let subject = Subject { prefix, ..shared(move || Arc::new(open(Conditions::All))) };
    assert_eq!(failures(&subject, &[ONE_WRITER, SHARED]).await, NONE, "{url}");
}

#[tokio::test]
async fn a_bucket_keeps_the_contract() {
    let ours = [Manners::Aws, Manners::Seaweed].map(|manners| s3_server::start(manners).url);
    // Where further servers are named, they count as much as those of ours.
    for url in ours.into_iter().chain(named("TFWRAP_TEST_S3_URLS")) {
        bucket_keeps_the_contract(&url).await;
    }
}

/// The bad examples: no server on which a lock could be taken twice is taken for one that keeps it.
#[tokio::test]
async fn a_bucket_that_ignores_conditions_is_found_out() {
    let ours = [
        (s3_server::start(Manners::None).url, None),
        (s3_server::start(Manners::CreatesOnly).url, Some(Conditions::OfCreates)),
    ];
    let none = named("TFWRAP_TEST_S3_IGNORES_ALL_URL").into_iter().map(|url| (url, None));
    let creates = named("TFWRAP_TEST_S3_CREATES_ONLY_URL").into_iter();
    let creates = creates.map(|url| (url, Some(Conditions::OfCreates)));
    for (url, expected) in ours.into_iter().chain(none).chain(creates) {
        let clients = AwsClients::new(&aws_settings(&url), Timeouts::default()).await.unwrap();
        let objects = tfwrap::backend::ObjectSettings::default();
        let lock = LockKey(format!("careless-{}/lock", std::process::id()));
        let store =
            LockObjects::new(&clients, BUCKET, &lock, &objects, Conditions::Untried).unwrap();
        let tried = store.try_conditions().await;
        let is_refused = matches!(&tried, Err(StoreError::Misconfigured(flaw))
            if flaw.to_string().contains("cannot hold a lock"));
        assert!(if expected.is_some() { tried.is_ok() } else { is_refused }, "{url}: {tried:?}");
        assert_eq!(store.conditions(), expected.unwrap_or(Conditions::Untried), "{url}");
        let left = store.list(None).await.unwrap().registers;
        assert!(left.is_empty(), "{url}: {left:?}");
    }
}

/// Reads before it writes, as if that were the same.
#[derive(Debug, Default)]
struct Careless {
    store: MemoryStore,
    writes: bool,
    removes: bool,
}

#[async_trait]
impl Registers for Careless {
    async fn read(&self, key: &LockKey) -> Result<Option<Stored>, StoreError> {
        self.store.read(key).await
    }

    async fn write(
        &self,
        key: &LockKey,
        record: &Record,
        expect: &Expect,
    ) -> Result<WriteReply, StoreError> {
        if !self.writes {
            return self.store.write(key, record, expect).await;
        }
        let current = self.store.read(key).await?.map(|stored| stored.version);
        let expect = current.map_or(Expect::Absent, Expect::Version);
        self.store.write(key, record, &expect).await
    }

    async fn remove(
        &self,
        key: &LockKey,
        expect: &RecordVersion,
    ) -> Result<RemoveReply, StoreError> {
        match self.store.read(key).await? {
            Some(stored) if self.removes => self.store.remove(key, &stored.version).await,
            _ => self.store.remove(key, expect).await,
        }
    }
}

#[tokio::test]
async fn a_store_that_writes_without_a_condition_is_found_out() {
    let careless = Careless { writes: true, ..Careless::default() };
    let failed = failures(&one(careless), &[ONE_WRITER, SHARED]).await;
    for check in [
        "a_second_create_is_refused_and_told_who_is_there",
        "a_write_over_a_stale_version_is_refused",
        "a_write_over_what_is_gone_is_refused",
        "the_first_tenure_cannot_touch_the_second",
        "of_fifty_creators_exactly_one_wins",
    ] {
        assert!(failed.contains(&check), "{check} let it pass: {failed:?}");
    }
}

#[tokio::test]
async fn a_store_that_removes_without_a_condition_is_found_out() {
    let careless = Careless { removes: true, ..Careless::default() };
    let failed = failures(&one(careless), &[ONE_WRITER, SHARED]).await;
    for check in [
        "a_stale_remove_is_refused",
        "the_first_tenure_cannot_touch_the_second",
        "another_may_take_over_what_it_read",
    ] {
        assert!(failed.contains(&check), "{check} let it pass: {failed:?}");
    }
}
