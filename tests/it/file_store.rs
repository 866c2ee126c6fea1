//! The directory of registers: what lies in it, what may be put in its way, and a writer that is
//! killed.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tfwrap::lock::LockKey;
use tfwrap::store::{
    Expect, FileStore, Record, Registers as _, RemoveReply, StoreError, WriteReply,
};

fn key(name: &str) -> LockKey {
    LockKey(name.to_owned())
}

fn record(text: &str) -> Record {
    Record { info: Some(text.to_owned()), lease: None }
}

async fn create(store: &FileStore, name: &str) -> Result<WriteReply, StoreError> {
    store.write(&key(name), &record("1"), &Expect::Absent).await
}

/// Names the path and is of the expected kind.
fn assert_names(error: &StoreError, path: &Path, kind: fn(&StoreError) -> bool) {
    assert!(kind(error), "{error:?}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

fn misconfigured(error: &StoreError) -> bool {
    matches!(error, StoreError::Misconfigured(_))
}

#[tokio::test]
async fn only_the_owner_reads_what_lies_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registers");
    create(&FileStore::new(&path), "../b/k").await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600);
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["%2E.%2Fb%2Fk", ".lock"]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let link = dir.path().join("link");
    symlink(dir.path(), &link).unwrap();
    for path in [&file, &file.join("below"), &link] {
        let store = FileStore::new(path);
        assert_names(&create(&store, "k").await.unwrap_err(), path, misconfigured);
        assert_names(&store.read(&key("k")).await.unwrap_err(), path, misconfigured);
    }
    // A slash at the end does not open the link's target.
    let slash = format!("{}/", link.display());
    assert_names(&create(&FileStore::new(slash), "k").await.unwrap_err(), &link, misconfigured);
    let far = dir.path().join("no/such/parent");
    let store = FileStore::new(&far);
    assert_eq!(store.read(&key("k")).await.unwrap(), None);
    let missing = |error: &StoreError| matches!(error, StoreError::Missing(_));
    assert_names(&create(&store, "k").await.unwrap_err(), &far, missing);
}

#[tokio::test]
async fn links_in_the_directory_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::write(&outside, "precious").unwrap();
    for name in ["k", ".lock", ".next"] {
        let path = dir.path().join(format!("with{name}"));
        fs::create_dir(&path).unwrap();
        symlink(&outside, path.join(name)).unwrap();
        let reply = create(&FileStore::new(&path), "k").await;
        if name == ".next" {
            // Thrown away like whatever else a crash left there.
            assert!(matches!(reply, Ok(WriteReply::Applied(_))), "{reply:?}");
        } else {
            assert_names(&reply.unwrap_err(), &path.join(name), misconfigured);
        }
        assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
    }
}

#[tokio::test]
async fn a_register_written_by_hand_is_there_and_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::new(dir.path());
    for garbage in [&b""[..], b"{", b"\xff\xfe", b"[]"] {
        fs::write(dir.path().join("k"), garbage).unwrap();
        let found = store.read(&key("k")).await.unwrap().unwrap();
        assert_eq!(found.record, Record::default());
        assert!(matches!(create(&store, "k").await, Ok(WriteReply::Conflict(Some(Some(_))))));
        let removed = store.remove(&key("k"), &found.version).await.unwrap();
        assert_eq!(removed, RemoveReply::Removed);
    }
}

#[tokio::test]
async fn a_writer_that_was_stopped_does_not_stop_us_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::new(dir.path());
    create(&store, "before").await.unwrap();
    let lock = fs::File::open(dir.path().join(".lock")).unwrap();
    lock.lock().unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(30), create(&store, "k")).await.unwrap();
    let error = asked.unwrap_err();
    assert!(error.is_transient() && !error.outcome_is_unknown(), "{error:?}");
    // Readers need no lock.
    assert!(store.read(&key("before")).await.unwrap().is_some());
    drop(lock);
    create(&store, "k").await.unwrap();
}

/// Tells the child below where to write.
const CHILD_DIR: &str = "TFWRAP_TEST_FILE_STORE_WRITER";

/// Counts in a register until it is killed; nothing by itself.
#[tokio::test]
async fn child_that_writes_without_end() {
    #[expect(clippy::disallowed_methods, reason = "the parent's word to its child")]
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let store = FileStore::new(dir);
    for n in count(&store).await.. {
        let expect = match store.read(&key("k")).await.unwrap() {
            Some(stored) => Expect::Version(stored.version),
            None => Expect::Absent,
        };
        let reply = store.write(&key("k"), &record(&(n + 1).to_string()), &expect).await.unwrap();
        assert!(matches!(reply, WriteReply::Applied(_)), "{reply:?}");
    }
}

async fn count(store: &FileStore) -> u64 {
    let stored = store.read(&key("k")).await.unwrap();
    stored.map_or(0, |stored| stored.record.info.unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_writer_killed_at_any_moment_leaves_the_old_content_or_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::new(dir.path());
    let mut last = 0;
    for round in 1..=15 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "file_store::child_that_writes_without_end"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let written = async { while count(&store).await < last + round {} };
        tokio::time::timeout(Duration::from_secs(30), written).await.unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // Readable, not set back, and free for the next writer.
        let now = count(&store).await;
        assert!(now >= last + round, "{now}");
        last = now;
    }
}
