//! What Terraform would use changes while its lock is waited for: the lock that is held is the one
//! that is used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tfwrap::store::{Expect, LocalState, Record, RecordVersion, Registers as _, WriteReply};

use crate::aftermath::{Receipt, STATE_DIR};
use crate::support::harness::{Finished, Gate, Running, applying, eventually, run, s3_dir, tfwrap};
use crate::support::servers::{BUCKET, dynamodb, local_backend_dir, s3, terraform};

fn stock(dir: &Path, args: &[&str]) -> Finished {
    run(terraform(dir).args(args))
}

/// Workspaces with a state, the first of them selected.
pub(crate) fn with_workspaces(dir: &Path, names: &[&str]) {
    for name in names {
        stock(dir, &["workspace", "new", name]).expect_code(0);
    }
    stock(dir, &["workspace", "select", names[0]]).expect_code(0);
}

/// Whether a stock Terraform is shut out of a workspace.
fn is_locked(dir: &Path, workspace: &str) -> bool {
    let mut command = terraform(dir);
    let done = run(command.args(["plan", "-no-color"]).env("TF_WORKSPACE", workspace));
    let refused = done.stderr.contains("Error acquiring the state lock");
    assert_eq!(done.status.code(), Some(i32::from(refused)), "{}", done.stderr);
    refused
}

/// An `apply` of ours that waits for a stock one in the workspace that is selected.
struct Waiting {
    theirs: Gate,
    stock: Running,
    gate: Gate,
    ours: Running,
}

impl Waiting {
    fn begin(dir: &Path) -> Self {
        let (theirs, gate) = (Gate::new(dir, "theirs"), Gate::new(dir, "ours"));
        let stock = Running::start(&mut applying(terraform(dir), &theirs.command()));
        theirs.reached();
        let ours = Running::start(&mut applying(tfwrap(dir), &gate.command()));
        ours.says("waiting for the lock");
        Self { theirs, stock, gate, ours }
    }

    /// The stock one ends; what is true while ours is at work; ours ends.
    fn go_on(self, meanwhile: impl FnOnce()) -> Finished {
        self.theirs.open();
        self.stock.finish().expect_code(0);
        self.gate.reached();
        meanwhile();
        self.gate.open();
        self.ours.finish().expect_code(0)
    }
}

const BEGUN_ANEW: &str = "releasing everything and starting over";

fn resources(state: &[u8]) -> usize {
    let state: serde_json::Value = serde_json::from_slice(state).expect("a state");
    state["resources"].as_array().expect("resources").len()
}

#[test]
fn the_lock_of_a_workspace_selected_while_we_wait_is_the_one_that_is_held() {
    let dir = local_backend_dir();
    let dir = dir.path();
    with_workspaces(dir, &["a", "b"]);
    let state = |name| dir.join("terraform.tfstate.d").join(name).join("terraform.tfstate");
    let applied = |name| resources(&fs::read(state(name)).expect("a state"));

    // The control: nothing changes.
    let done = Waiting::begin(dir).go_on(|| assert!(is_locked(dir, "a") && !is_locked(dir, "b")));
    assert!(!done.stderr.contains(BEGUN_ANEW), "{}", done.stderr);
    assert!(!state("b").exists());

    for file in ["theirs.go", "theirs.ready", "ours.go", "ours.ready"] {
        fs::remove_file(dir.join(file)).expect("a gate");
    }
    let waiting = Waiting::begin(dir);
    stock(dir, &["workspace", "select", "b"]).expect_code(0);
    let done = waiting.go_on(|| {
        assert!(is_locked(dir, "b") && !is_locked(dir, "a"));
        let receipts = Receipt::all(&dir.join(STATE_DIR));
        assert_eq!(receipts.iter().map(Receipt::locks).collect::<Vec<_>>(), [1]);
    });
    let said = "the workspace changed from `a` to `b`: releasing everything and starting over";
    assert!(done.stderr.contains(said), "{}", done.stderr);
    assert_eq!((applied("a"), applied("b")), (1, 1));
    assert_eq!(Receipt::all(&dir.join(STATE_DIR)).len(), 0);
}

#[tokio::test]
async fn so_it_is_in_a_table() {
    let dir = s3_dir("changes/workspace").await;
    with_workspaces(dir.path(), &["a", "b"]);
    let waiting = Waiting::begin(dir.path());
    stock(dir.path(), &["workspace", "select", "b"]).expect_code(0);
    let done = waiting.go_on(|| assert!(is_locked(dir.path(), "b") && !is_locked(dir.path(), "a")));
    assert!(done.stderr.contains("from `a` to `b`"), "{}", done.stderr);
    for name in ["a", "b"] {
        let state = s3().get(BUCKET, &format!("env:/{name}/{}", dir.key)).expect("a state");
        assert_eq!(resources(&state), 1, "{name}");
        let lock = format!("{BUCKET}/env:/{name}/{}", dir.key);
        assert_eq!(dynamodb().get_raw(&dir.table, &lock).await, None, "{name}");
    }
}

#[tokio::test]
async fn the_lock_of_a_backend_configured_while_we_wait_is_the_one_that_is_held() {
    let dir = s3_dir("changes/init").await;
    let waiting = Waiting::begin(dir.path());
    let file = dir.path().join("backend.tf");
    let text = fs::read_to_string(&file).unwrap().replace("changes/init/", "changes/moved/");
    fs::write(&file, text).unwrap();
    stock(dir.path(), &["init", "-reconfigure"]).expect_code(0);
    let done = waiting.go_on(|| assert!(is_locked(dir.path(), "default")));
    let said = "changed from `s3://tfstate/changes/init/terraform.tfstate";
    assert!(done.stderr.contains(said), "{}", done.stderr);
    assert!(s3().get(BUCKET, "changes/moved/terraform.tfstate").is_some());
    assert_eq!(dynamodb().get_raw(&dir.table, &dir.lock_id()).await, None);
}

#[test]
fn the_lock_where_a_link_leads_now_is_the_one_that_is_held() {
    let (top, one, two) = (tempfile::tempdir().unwrap(), local_backend_dir(), local_backend_dir());
    let link = top.path().join("current");
    std::os::unix::fs::symlink(one.path(), &link).unwrap();
    let (theirs, gate) = (Gate::new(top.path(), "theirs"), Gate::new(top.path(), "ours"));
    let stock = Running::start(&mut applying(terraform(one.path()), &theirs.command()));
    theirs.reached();
    let mut command = tfwrap(top.path());
    let ours = Running::start(&mut applying_in(&mut command, "current", &gate));
    ours.says("waiting for the lock");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(two.path(), &link).unwrap();
    theirs.open();
    stock.finish().expect_code(0);
    gate.reached();
    assert!(is_locked(two.path(), "default") && !is_locked(one.path(), "default"));
    gate.open();
    let done = ours.finish().expect_code(0);
    assert!(done.stderr.contains("the directory changed from"), "{}", done.stderr);
    assert!(two.path().join("terraform.tfstate").exists());
}

fn applying_in(command: &mut Command, dir: &str, gate: &Gate) -> Command {
    command.arg(format!("-chdir={dir}"));
    let command = std::mem::replace(command, Command::new("false"));
    applying(command, &gate.command())
}

#[test]
fn a_plan_written_anew_while_we_wait_is_said() {
    for rewritten in [false, true] {
        let dir = local_backend_dir();
        let dir = dir.path();
        let plan = |name: &str| {
            let command = format!("command=touch {name}");
            let args = ["plan", "-lock=false", "-out=p.bin", "-var", &command];
            stock(dir, &args).expect_code(0);
        };
        plan("first");
        let theirs = Gate::new(dir, "theirs");
        // Held by someone who changes nothing: a failed provisioner would make the plan stale.
        let holder = format!("( {} )", theirs.command());
        let stock = Running::start(tfwrap(dir).args(["run", "--", "sh", "-c", &holder]));
        theirs.reached();
        let ours = Running::start(tfwrap(dir).args(["apply", "-no-color", "p.bin"]));
        ours.says("waiting");
        if rewritten {
            plan("second");
        }
        theirs.open();
        stock.finish().expect_code(0);
        let done = ours.finish().expect_code(0);
        assert_eq!(done.stderr.contains("p.bin` was rewritten"), rewritten, "{}", done.stderr);
        assert_eq!(dir.join("second").exists(), rewritten);
        assert_eq!(dir.join("first").exists(), !rewritten);
    }
}

/// As `make -j2` does it.
#[test]
fn two_jobs_of_one_checkout_never_use_one_state_at_once() {
    let dir = local_backend_dir();
    let dir = dir.path();
    with_workspaces(dir, &["a", "b"]);
    let theirs = Gate::new(dir, "theirs");
    let stock = Running::start(&mut applying(terraform(dir), &theirs.command()));
    theirs.reached();
    let (first, second) = (Gate::new(dir, "first"), Gate::new(dir, "second"));
    let one = Running::start(&mut applying(tfwrap(dir), &first.command()));
    one.says("waiting for the lock");
    self::stock(dir, &["workspace", "select", "b"]).expect_code(0);
    let two = Running::start(&mut applying(tfwrap(dir), &second.command()));
    second.reached();
    theirs.open();
    stock.finish().expect_code(0);
    one.says("from `a` to `b`");
    one.says("/b/terraform.tfstate`: held by");
    assert!(!first.is_reached() && is_locked(dir, "b"));
    second.open();
    two.finish().expect_code(0);
    first.reached();
    assert!(is_locked(dir, "b"));
    first.open();
    one.finish().expect_code(0);
}

#[test]
fn a_workspace_selected_during_the_wait_for_a_turn_is_not_used_unlocked() {
    let dir = local_backend_dir();
    let dir = dir.path();
    with_workspaces(dir, &["a", "b"]);
    let (first, second) = (Gate::new(dir, "first"), Gate::new(dir, "second"));
    let apply = |gate: &Gate| {
        format!("terraform apply -auto-approve -no-color -var 'command={}'", gate.command())
    };
    let script = format!(
        "{} & while ! test -e first.ready; do sleep 0.05; done; {}; echo $? > code; wait",
        apply(&first),
        apply(&second)
    );
    let ours = Running::start(tfwrap(dir).args(["run", "--", "sh", "-c", &script]));
    ours.says("another command of this run");
    stock(dir, &["workspace", "select", "b"]).expect_code(0);
    first.open();
    second.reached();
    assert!(is_locked(dir, "b"), "the second uses it without a lock: {}", ours.stderr());
    assert!(is_locked(dir, "a"), "the run still has its own");
    second.open();
    let done = ours.finish().expect_code(0);
    assert!(done.stderr.contains("from `a` to `b`"), "{}", done.stderr);
    assert_eq!(fs::read_to_string(dir.join("code")).unwrap(), "0\n");
}

/// Somebody who holds the state of a workspace.
struct Stranger(LocalState, RecordVersion);

impl Stranger {
    async fn in_workspace(dir: &Path, name: &str) -> Self {
        let state = dir.join("terraform.tfstate.d").join(name).join("terraform.tfstate");
        fs::create_dir_all(state.parent().unwrap()).unwrap();
        let lock = LocalState::new(state).unwrap();
        let info = format!(
            r#"{{"ID":"{name}-1","Operation":"x","Info":"","Who":"{name}@elsewhere","Version":"1","Created":"2026-01-02T03:04:05Z","Path":"p"}}"#
        );
        let record = Record { info: Some(info), lease: None };
        match lock.write(&lock.key(), &record, &Expect::Absent).await.unwrap() {
            WriteReply::Applied(version) => Self(lock, version),
            WriteReply::Conflict(current) => panic!("refused, stored is {current:?}"),
        }
    }

    async fn leaves(self) {
        self.0.remove(&self.0.key(), &self.1).await.unwrap();
    }
}

pub(crate) fn select(dir: &Path, name: &str) {
    fs::create_dir_all(dir.join(".terraform")).unwrap();
    fs::write(dir.join(".terraform/environment"), name).unwrap();
}

/// A directory with a scripted child, for [`tfwrap`].
fn scripted(script: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scripted");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    run(Command::new("chmod").arg("+x").arg(&path)).expect_code(0);
    (dir, path)
}

#[tokio::test]
async fn what_changes_again_and_again_is_78_and_nothing_is_run_or_left() {
    for changes in [3, 4] {
        let (dir, program) = scripted("touch ran");
        let dir = dir.path();
        let mut strangers = Vec::new();
        for name in ["w0", "w1", "w2", "w3"] {
            strangers.push(Stranger::in_workspace(dir, name).await);
        }
        select(dir, "w0");
        let ours = Running::start(tfwrap(dir).arg("apply").env("TFWRAP_TERRAFORM", &program));
        for (at, stranger) in strangers.into_iter().enumerate() {
            ours.says(&format!("w{at}@elsewhere"));
            if at < changes {
                select(dir, &format!("w{}", at + 1));
            }
            stranger.leaves().await;
        }
        let done = ours.finish();
        let expected = if changes > 3 { 78 } else { 0 };
        assert_eq!(done.status.code(), Some(expected), "{}", done.stderr);
        assert_eq!(done.stderr.matches(BEGUN_ANEW).count(), 3, "{}", done.stderr);
        assert_eq!(done.stderr.contains("keeps changing"), changes > 3, "{}", done.stderr);
        assert_eq!(dir.join("ran").exists(), changes <= 3);
        assert_eq!(Receipt::all(&dir.join(STATE_DIR)).len(), 0);
        for name in ["w0", "w1", "w2", "w3", "w4"] {
            Stranger::in_workspace(dir, name).await.leaves().await;
        }
    }
}

#[tokio::test]
async fn a_stop_while_all_begins_anew_is_heard() {
    let (dir, program) = scripted("touch ran");
    let dir = dir.path();
    let (one, two) =
        (Stranger::in_workspace(dir, "w0").await, Stranger::in_workspace(dir, "w1").await);
    select(dir, "w0");
    let ours = Running::start(tfwrap(dir).arg("apply").env("TFWRAP_TERRAFORM", &program));
    ours.says("w0@elsewhere");
    select(dir, "w1");
    one.leaves().await;
    ours.says("w1@elsewhere");
    ours.signal(nix::sys::signal::Signal::SIGTERM);
    let done = ours.finish().expect_code(143);
    two.leaves().await;
    assert!(!dir.join("ran").exists(), "{}", done.stderr);
    assert_eq!(Receipt::all(&dir.join(STATE_DIR)).len(), 0);
}

/// A renamed directory does not confuse who takes over for a killed tfwrap.
#[test]
fn what_a_killed_run_left_in_a_renamed_directory_is_cleared() {
    let (top, made) = (TempDir::new().expect("a directory"), local_backend_dir());
    let [before, dir, states] = ["before", "after", "states"].map(|name| top.path().join(name));
    fs::rename(made.path(), &before).expect("one file system");
    let gate = Gate::new(top.path(), "ours");
    let mut ours = applying(tfwrap(&before), &gate.command());
    let ours = Running::start(ours.env("TFWRAP_STATE_DIR", &states));
    gate.reached();
    fs::rename(&before, &dir).expect("one file system");
    ours.signal(Signal::SIGKILL);
    assert!(is_locked(&dir, "default"));
    gate.open();
    drop(ours.finish());
    let said = || {
        let files = fs::read_dir(&states).expect("a directory").flatten();
        files.filter_map(|file| fs::read_to_string(file.path()).ok()).collect::<String>()
    };
    eventually("the lock is released", || !is_locked(&dir, "default"));
    assert!(!said().contains("lost"), "{}", said());
    assert!(!dir.join(".terraform.tfstate.lock.info").exists());
    assert!(!before.exists());
}
