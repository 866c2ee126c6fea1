//! The local backend's lock, between tfwrap and a real Terraform.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tfwrap::lock::{LockId, LockInfo};
use tfwrap::store::{
    Expect, LocalState, Record, RecordVersion, Registers as _, RemoveReply, StoreError, WriteReply,
};

use crate::support::harness::{Gate, Running, applying, eventually, run, tfwrap};
use crate::support::servers::{local_backend_dir, terraform};

const INFO_FILE: &str = ".terraform.tfstate.lock.info";

fn record(id: &str) -> Record {
    let info = LockInfo {
        id: LockId(id.to_owned()),
        operation: "OperationTypeApply".to_owned(),
        info: "run 4711, started by jane".to_owned(),
        who: "jane@ci".to_owned(),
        version: "1.11.4".to_owned(),
        created: "2026-01-02T03:04:05Z".to_owned(),
        path: "terraform.tfstate".to_owned(),
    };
    Record { info: Some(info.to_json()), lease: None }
}

fn lock_of(dir: &TempDir) -> LocalState {
    LocalState::new(dir.path().join("terraform.tfstate")).unwrap()
}

async fn write(lock: &LocalState, record: &Record, expect: &Expect) -> WriteReply {
    lock.write(&lock.key(), record, expect).await.unwrap()
}

async fn take(lock: &LocalState, id: &str) -> RecordVersion {
    match write(lock, &record(id), &Expect::Absent).await {
        WriteReply::Applied(version) => version,
        WriteReply::Conflict(current) => panic!("refused, stored is {current:?}"),
    }
}

async fn give_back(lock: &LocalState, version: &RecordVersion) {
    assert_eq!(lock.remove(&lock.key(), version).await.unwrap(), RemoveReply::Removed);
}

fn apply(dir: &TempDir, args: &[&str]) -> Output {
    let args = [&["apply", "-auto-approve", "-no-color"], args].concat();
    terraform(dir.path()).args(args).output().unwrap()
}

/// An apply that holds the lock until a file `go` is there.
struct Applying<'a> {
    child: Child,
    dir: &'a Path,
}

impl<'a> Applying<'a> {
    async fn start(dir: &'a TempDir) -> Self {
        let dir = dir.path();
        let command = "touch ready; until [ -e go ]; do sleep 0.02; done";
        let child = terraform(dir)
            .args(["apply", "-auto-approve", &format!("-var=command={command}")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let ready = async {
            while !dir.join("ready").exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready).await.unwrap();
        Self { child, dir }
    }

    fn finish(mut self) {
        fs::write(self.dir.join("go"), "").unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Applying<'_> {
    /// A test that failed must not leave its Terraform waiting for ever.
    fn drop(&mut self) {
        fs::write(self.dir.join("go"), "").unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn our_lock_shuts_terraform_out_and_tells_it_why() {
    let dir = local_backend_dir();
    let lock = lock_of(&dir);
    let version = take(&lock, "ours").await;
    let refused = apply(&dir, &[]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    for part in ["Error acquiring the state lock", "ours", "jane@ci", "run 4711, started by jane"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    give_back(&lock, &version).await;
    // The negative control: without the lock it goes.
    assert!(apply(&dir, &[]).status.success());
    assert!(!dir.path().join(INFO_FILE).exists());
}

#[tokio::test]
async fn terraform_without_its_own_lock_works_under_ours_and_leaves_it_alone() {
    let dir = local_backend_dir();
    let lock = lock_of(&dir);
    let first = take(&lock, "ours").await;
    assert!(apply(&dir, &["-lock=false"]).status.success());
    // A beat.
    let WriteReply::Applied(second) = write(&lock, &record("beat"), &Expect::Version(first)).await
    else {
        panic!("the beat was refused")
    };
    assert_eq!(fs::read_to_string(dir.path().join(INFO_FILE)).ok(), record("beat").info);
    assert_eq!(apply(&dir, &[]).status.code(), Some(1));
    give_back(&lock, &second).await;
    // What Terraform wrote stays.
    assert!(fs::metadata(dir.path().join("terraform.tfstate")).unwrap().len() > 0);
}

#[tokio::test]
async fn terraforms_lock_shuts_us_out_and_is_read() {
    let dir = local_backend_dir();
    let lock = lock_of(&dir);
    let terraform = Applying::start(&dir).await;
    let seen = lock.read(&lock.key()).await.unwrap().unwrap();
    let stored = seen.record.info.clone().unwrap();
    let info = LockInfo::parse(&stored).unwrap();
    assert_eq!(info.operation, "OperationTypeApply");
    assert_eq!(info.to_json(), stored);
    assert_eq!(seen.record.lease, None);
    let refused = write(&lock, &record("ours"), &Expect::Absent).await;
    assert_eq!(refused, WriteReply::Conflict(Some(Some(seen.clone()))));
    // Nobody takes over what the kernel holds.
    let over = write(&lock, &record("ours"), &Expect::Version(seen.version.clone())).await;
    assert_eq!(over, WriteReply::Conflict(Some(Some(seen.clone()))));
    let removed = lock.remove(&lock.key(), &seen.version).await.unwrap();
    assert_eq!(removed, RemoveReply::Conflict(Some(Some(seen))));
    // Held it is, whoever it says.
    fs::write(dir.path().join(INFO_FILE), "{\"ID\":").unwrap();
    let unnamed = lock.read(&lock.key()).await.unwrap().unwrap();
    assert_eq!(unnamed.record, Record::default());
    terraform.finish();
    assert_eq!(lock.read(&lock.key()).await.unwrap(), None);
    let version = take(&lock, "ours").await;
    give_back(&lock, &version).await;
}

#[tokio::test]
async fn a_left_over_info_is_no_lock() {
    let dir = local_backend_dir();
    let lock = lock_of(&dir);
    fs::write(dir.path().join(INFO_FILE), record("dead").info.unwrap()).unwrap();
    assert_eq!(lock.read(&lock.key()).await.unwrap(), None);
    let state = dir.path().join("terraform.tfstate");
    fs::write(&state, "").unwrap();
    assert_eq!(lock.read(&lock.key()).await.unwrap(), None);
    let version = take(&lock, "ours").await;
    let info = dir.path().join(INFO_FILE);
    assert_eq!(fs::read_to_string(&info).ok(), record("ours").info);
    assert_eq!(fs::metadata(&info).unwrap().permissions().mode() & 0o777, 0o600);
    give_back(&lock, &version).await;
    // It was there before the lock.
    assert!(state.exists());
}

/// Each tenure ends with the removal of the empty state, under those who just opened it.
#[tokio::test]
async fn many_that_come_and_go_never_hold_it_at_once() {
    let dir = local_backend_dir();
    let held = Arc::new(AtomicBool::new(false));
    let contenders = (0..6).map(|n| {
        let (lock, held) = (lock_of(&dir), Arc::clone(&held));
        async move {
            let mut tenures = 0;
            while tenures < 30 {
                let mine = record(&format!("{n}-{tenures}"));
                let WriteReply::Applied(version) = write(&lock, &mine, &Expect::Absent).await
                else {
                    continue;
                };
                assert!(!held.swap(true, Ordering::SeqCst), "two at once");
                tokio::task::yield_now().await;
                held.store(false, Ordering::SeqCst);
                give_back(&lock, &version).await;
                tenures += 1;
            }
        }
    });
    let all = futures_util::future::join_all(contenders.map(tokio::spawn));
    for contender in tokio::time::timeout(Duration::from_mins(1), all).await.unwrap() {
        contender.unwrap();
    }
}

/// A Terraform that waits has the empty state open, and goes on with that very file.
#[tokio::test]
async fn an_empty_state_stays_while_somebody_waits_for_its_lock() {
    let dir = local_backend_dir();
    let state = dir.path().join("terraform.tfstate");
    let lock = lock_of(&dir);
    let version = take(&lock, "ours").await;
    let gate = Gate::new(dir.path(), "waiter");
    let mut waiter = applying(terraform(dir.path()), &gate.command());
    let waiter = Running::start(waiter.arg("-lock-timeout=1m"));
    let fds = format!("/proc/{}/fd", waiter.pid());
    eventually("it waits", || {
        fs::read_dir(&fds)
            .unwrap()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|it| it == state))
    });
    // As whoever goes on for a killed tfwrap does.
    let held = lock.lend().unwrap().unwrap();
    drop(lock);
    give_back(&LocalState::inherit(&state, held, record("ours")).unwrap(), &version).await;
    gate.reached();
    let mut next = tfwrap(dir.path());
    run(next.args(["--lock-timeout=0s", "plan", "-no-color"])).expect_code(75);
    gate.open();
    waiter.finish().expect_code(0);
    run(next.args(["-detailed-exitcode"])).expect_code(2);
    assert!(!dir.path().join(INFO_FILE).exists());
}

#[tokio::test]
async fn the_directory_of_a_new_workspace_is_made_as_terraform_makes_it() {
    let dir = local_backend_dir();
    let state = dir.path().join("terraform.tfstate.d/dev/.hidden.tfstate");
    let lock = LocalState::new(&state).unwrap();
    let version = take(&lock, "ours").await;
    // One leading dot is dropped.
    let info = state.with_file_name(".hidden.tfstate.lock.info");
    assert_eq!(fs::read_to_string(info).ok(), record("ours").info);
    let refused = terraform(dir.path())
        .args(["plan", "-no-color", "-state=terraform.tfstate.d/dev/.hidden.tfstate"])
        .output()
        .unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("run 4711, started by jane"), "{text}");
    give_back(&lock, &version).await;
    // Made with the lock and still empty: gone with it.
    assert!(!dir.path().join("terraform.tfstate.d").exists());
}

#[tokio::test]
async fn a_descriptor_handed_on_holds_the_lock_on() {
    let dir = local_backend_dir();
    let lock = lock_of(&dir);
    assert!(lock.lend().unwrap().is_none());
    let version = take(&lock, "ours").await;
    let held = lock.lend().unwrap().unwrap();
    assert!(held.created.is_some());
    drop(lock);
    let other = lock_of(&dir);
    let refused = write(&other, &record("theirs"), &Expect::Absent).await;
    assert!(matches!(refused, WriteReply::Conflict(Some(Some(_)))), "{refused:?}");
    let state = dir.path().join("terraform.tfstate");
    let heir = LocalState::inherit(&state, held, record("ours")).unwrap();
    // Given back for all who have a descriptor.
    let further = heir.lend().unwrap().unwrap();
    give_back(&heir, &version).await;
    take(&other, "theirs").await;
    drop(further);
    assert!(other.read(&other.key()).await.unwrap().is_some());
}

#[tokio::test]
async fn the_lock_of_a_replaced_state_is_lost() {
    let dir = local_backend_dir();
    let lock = lock_of(&dir);
    let version = take(&lock, "ours").await;
    fs::write(dir.path().join("new"), "{}").unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("terraform.tfstate")).unwrap();
    let expect = Expect::Version(version.clone());
    assert_eq!(write(&lock, &record("beat"), &expect).await, WriteReply::Conflict(Some(None)));
    let other = lock_of(&dir);
    take(&other, "theirs").await;
    let RemoveReply::Conflict(Some(Some(current))) =
        lock.remove(&lock.key(), &version).await.unwrap()
    else {
        panic!("it was not ours to give back")
    };
    assert_eq!(current.record, record("theirs"));
    // Theirs stays as it is.
    assert_eq!(fs::read_to_string(dir.path().join(INFO_FILE)).ok(), record("theirs").info);
}

/// The kernel's lock goes along, and what tells of it is found there; what has the old name by then is
/// somebody else's.
#[tokio::test]
async fn nothing_stays_in_a_directory_that_is_renamed_meanwhile() {
    for (has_state, is_handed_on, taken_by_another) in
        [(true, false, false), (true, true, false), (false, false, false), (true, false, true)]
    {
        let top = tempfile::tempdir().unwrap();
        let (dir, moved) = (top.path().join("a/b"), top.path().join("c/b"));
        fs::create_dir_all(&dir).unwrap();
        let state = dir.join("terraform.tfstate");
        if has_state {
            fs::write(&state, "{}").unwrap();
        }
        let mut lock = LocalState::new(&state).unwrap();
        let version = take(&lock, "ours").await;
        fs::rename(top.path().join("a"), top.path().join("c")).unwrap();
        assert!(moved.join(INFO_FILE).exists());
        if is_handed_on {
            let held = lock.lend().unwrap().unwrap();
            lock = LocalState::inherit(&state, held, record("ours")).unwrap();
        }
        if taken_by_another {
            let other = LocalState::new(&state).unwrap();
            take(&other, "theirs").await;
            let reply = lock.remove(&lock.key(), &version).await.unwrap();
            assert!(matches!(reply, RemoveReply::Conflict(Some(Some(_)))), "{reply:?}");
            assert_eq!(fs::read_to_string(dir.join(INFO_FILE)).ok(), record("theirs").info);
        } else {
            give_back(&lock, &version).await;
        }
        let left = fs::read_dir(&moved).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.collect();
        let expected: &[&str] = if has_state { &["terraform.tfstate"] } else { &[] };
        assert_eq!(left, expected, "{is_handed_on} {taken_by_another}");
        take(&LocalState::new(moved.join("terraform.tfstate")).unwrap(), "free").await;
    }
}

/// Whoever takes over for a killed tfwrap goes by the new name, and removes no more than that one would:
/// an empty state that came with the lock, alone or with directories for it, and no other.
#[tokio::test]
async fn whoever_follows_a_lock_removes_what_was_made_for_it_and_nothing_else() {
    for (has_state, makes_dirs, is_renamed) in [
        (false, false, false),
        (false, true, false),
        (true, false, false),
        (false, false, true),
        (false, true, true),
        (true, false, true),
    ] {
        let top = tempfile::tempdir().unwrap();
        let (before, after) = (top.path().join("before"), top.path().join("after"));
        fs::create_dir(&before).unwrap();
        let name = if makes_dirs { "made/for-it/terraform.tfstate" } else { "terraform.tfstate" };
        let state = before.join(name);
        if has_state {
            fs::write(&state, "").unwrap();
        }
        let lock = LocalState::new(&state).unwrap();
        let version = take(&lock, "ours").await;
        let held = lock.lend().unwrap().unwrap();
        drop(lock);
        let dir = if is_renamed { &after } else { &before };
        if is_renamed {
            fs::rename(&before, &after).unwrap();
        }
        let (held, path) = held.follow(&state);
        let case = format!("{has_state} {makes_dirs} {is_renamed}");
        assert_eq!(path, dir.join(name), "{case}");
        // By a name that they no longer have, directories are not looked for.
        let made = match (has_state, is_renamed) {
            (true, _) => None,
            (false, true) => Some(path.clone()),
            (false, false) => Some(if makes_dirs { dir.join("made") } else { path.clone() }),
        };
        assert_eq!(held.created, made, "{case}");
        give_back(&LocalState::inherit(&path, held, record("ours")).unwrap(), &version).await;
        assert_eq!(path.exists(), has_state, "{case}");
        assert_eq!(dir.join("made").exists(), makes_dirs && is_renamed, "{case}");
        assert!(!path.with_file_name(INFO_FILE).exists(), "{case}");
    }
}

/// The state was made through the link, which was there before.
#[tokio::test]
async fn a_link_to_a_state_stays_when_an_empty_one_is_removed() {
    let dir = local_backend_dir();
    let [link, target] = ["terraform.tfstate", "elsewhere"].map(|name| dir.path().join(name));
    std::os::unix::fs::symlink("elsewhere", &link).unwrap();
    let lock = lock_of(&dir);
    let version = take(&lock, "ours").await;
    assert!(target.exists());
    give_back(&lock, &version).await;
    assert!(link.is_symlink() && !target.exists());
}

#[tokio::test]
async fn a_path_that_cannot_be_is_named() {
    let dir = local_backend_dir();
    let state = dir.path().join("main.tf/terraform.tfstate");
    let lock = LocalState::new(&state).unwrap();
    let error = lock.write(&lock.key(), &record("1"), &Expect::Absent).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured(_)), "{error:?}");
    assert!(error.to_string().contains(&state.display().to_string()), "{error}");
    assert!(LocalState::new("/").is_err());
    let elsewhere = lock_of(&dir);
    assert!(elsewhere.read(&lock.key()).await.is_err());
}

/// Beside threads, the kernel lets the table of descriptors grow only after 5 to 15 ms, in which the lock is
/// held and nothing runs.
#[test]
fn the_table_of_descriptors_does_not_grow_for_what_is_lent() {
    let dir = local_backend_dir();
    let look = "ls /proc/$PPID/fd; grep FDSize /proc/$PPID/status";
    let said = run(tfwrap(dir.path()).args(["run", "--", "sh", "-c", look])).expect_code(0).stdout;
    // The lock and its door are above 100: for these alone, a table of 128 would do.
    assert!(said.lines().any(|fd| fd == "101"), "{said}");
    let size = said.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap().trim();
    assert!(size.parse::<u32>().unwrap() >= 256, "{said}");
}
