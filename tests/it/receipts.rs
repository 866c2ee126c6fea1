//! Receipts that cannot be kept, and what is in those that can.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::aftermath::{EndsHolds, Lock, Receipt, STATE_DIR, kill_dead, ours};
use crate::support::harness::{pause, run, s3_dir, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{SECRET, dynamodb, local_backend_dir};
use crate::wrapped::{LOGS_ALL, Scene, is_gone, wait_until};

#[tokio::test]
async fn without_a_place_for_receipts_the_run_goes_on_with_a_warning() {
    let lock = Lock::new("no-place").await;
    // A file in its place, and where nobody can make a directory, root neither.
    for dir in ["@/file", "@/file/below", "/proc/tfwrap"] {
        let scene = lock.scene("exit 3").env("TFWRAP_STATE_DIR", dir);
        fs::write(scene.path("file"), "").expect("a file");
        let mut running = scene.start();
        assert_eq!(running.bare_code(), Some(3), "{dir}: {}", running.stderr());
        let said = running.stderr();
        assert!(said.contains("cannot keep a receipt of this run"), "{dir}: {said}");
        assert!(!lock.is_held().await, "{dir}");
    }
}

/// `command` after these of a shell.
fn after(before: &str, command: &Command) -> Command {
    let mut limited = Command::new("bash");
    let script = format!("{before}; exec \"$@\"");
    limited.args(["-c", &script, "bash"]).arg(command.get_program()).args(command.get_args());
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    limited.env_clear().envs(set).current_dir(command.get_current_dir().expect("a directory"));
    limited
}

/// No file may grow.
const NO_FILES: &str = "ulimit -f 0";

/// What cannot be written is said and given up, as on a full disk, and nobody dies of a
/// signal; Terraform meets it as it would without us.
#[tokio::test]
async fn beyond_the_limit_of_files_everything_is_said_and_nothing_left() {
    let dir = s3_dir("receipts/limited").await;
    let child = ["run", "--", "sed", "-n", "s/^SigIgn:[^0-9a-f]*//p", "/proc/self/status"];
    for (before, is_ignored) in [("", false), ("trap '' XFSZ; ", true)] {
        let mut command = tfwrap(dir.path());
        let before = format!("{before}{NO_FILES}");
        let done = run(&mut after(&before, command.args(child))).expect_code(0);
        assert!(done.stderr.contains("cannot keep a receipt of this run"), "{}", done.stderr);
        assert!(done.stderr.contains("File too large"), "{}", done.stderr);
        let ignored = u64::from_str_radix(done.stdout.trim(), 16).expect("a set of signals");
        let bit = 1 << (nix::libc::SIGXFSZ - 1);
        assert_eq!(ignored & bit != 0, is_ignored, "{}", done.stdout);
    }
    let hold = run(&mut after(NO_FILES, tfwrap(dir.path()).arg("hold"))).expect_code(78);
    assert!(hold.stderr.contains("a hold needs its receipt"), "{}", hold.stderr);
    assert_eq!(dynamodb().get_raw(&dir.table, &dir.lock_id()).await, None);
    let local = local_backend_dir();
    let apply = ["apply", "-auto-approve", "-no-color"];
    let refused = run(&mut after(NO_FILES, tfwrap(local.path()).args(apply))).expect_code(78);
    assert!(refused.stderr.contains("file too large"), "{}", refused.stderr);
    for dir in [dir.path(), local.path()] {
        let names = fs::read_dir(dir.join(STATE_DIR)).expect("it is there");
        let names: Vec<_> = names.map(|it| it.expect("an entry").file_name()).collect();
        let left = names.iter().filter(|it| it.to_string_lossy().starts_with("run-"));
        assert_eq!(left.count(), 0, "{names:?}");
        assert!(!dir.join(".terraform.tfstate.lock.info").exists());
    }
    // The control: without the limit.
    run(tfwrap(local.path()).args(apply)).expect_code(0);
}

/// Whoever comes later, not root, opens what was made under a umask that takes even the owner's bits.
#[test]
fn whatever_the_umask_its_owner_can_use_what_is_made() {
    for umask in ["umask 0777", "umask 0477"] {
        let dir = local_backend_dir();
        // Root makes its way where others could not.
        let state_dir = dir.path().join("missing").join(STATE_DIR);
        let _ends = EndsHolds(state_dir.clone());
        let command = |words: &[&str]| {
            let mut command = tfwrap(dir.path());
            command.args(words).env("TFWRAP_STATE_DIR", &state_dir);
            command
        };
        let further = format!("file://{}", dir.path().join("locks/one").display());
        let hold = command(&["--lock", &further, "hold", "--format", "json"]);
        let given = run(&mut after(umask, &hold)).expect_code(0).stdout;
        let given: Value = serde_json::from_str(&given).expect("JSON");
        let mut made = Vec::new();
        let mut dirs = vec![dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                // One that is being written: it gets its mode before its name, and may be gone by now.
                if path.extension().is_some_and(|it| it == "next") {
                    continue;
                }
                let metadata = path.symlink_metadata().expect("it is there");
                let needed = if metadata.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(metadata.mode() & needed, needed, "{umask}: {}", path.display());
                dirs.extend(metadata.is_dir().then(|| path.clone()));
                made.push(path.display().to_string());
            }
        }
        let kinds =
            [".json", ".log", "/turn-", "/bin-", "locks/", ".lock.info", "/terraform.tfstate"];
        for kind in kinds {
            assert!(made.iter().any(|path| path.contains(kind)), "{kind}: {made:?}");
        }
        let mut release = command(&["release"]);
        let env = given["env"].as_object().expect("variables").iter();
        release.envs(env.map(|(name, value)| (name, value.as_str().expect("text"))));
        let released = run(&mut after(umask, &release)).expect_code(0);
        assert!(released.stderr.contains("released"), "{}", released.stderr);
    }
}

/// The guardian needs no receipt.
#[tokio::test]
async fn without_a_place_for_receipts_a_killed_run_is_still_ended() {
    let lock = Lock::new("no-receipt").await;
    let script = "log @/log; on SIGINT exit 0; ready @/ready; wait";
    let scene = lock.scene(script).env("TFWRAP_STATE_DIR", "/proc/tfwrap");
    let mut running = scene.start().ready();
    let child = running.scene.pid_in("ready");
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    lock.freed_after(child).await;
    assert_eq!(running.scene.count("SIGINT"), 1);
}

#[test]
fn recover_says_where_it_could_not_look() {
    let scene = Scene::unguarded("");
    fs::write(scene.path(STATE_DIR), "").expect("a file");
    let done = run(&mut ours(&scene, &["recover"])).expect_code(78);
    assert!(done.stderr.contains(STATE_DIR), "{}", done.stderr);
}

#[tokio::test]
async fn a_directory_that_vanishes_meanwhile_costs_only_the_receipt() {
    let lock = Lock::new("vanishing").await;
    let mut running = lock.scene(LOGS_ALL).start().ready();
    let guardian = Receipt::of(&running.scene).guardian().expect("a guardian");
    fs::remove_dir_all(running.scene.path(STATE_DIR)).expect("it is there");
    // Another one cannot be written into the receipt, but works.
    kill_dead(guardian);
    pause(Duration::from_millis(300));
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.bare_code(), Some(5), "{}", running.stderr());
    assert!(!lock.is_held().await);
}

fn is_private(path: &Path, mode: u32) {
    let found = path.symlink_metadata().expect("it is there");
    assert_eq!(found.permissions().mode() & 0o777, mode, "{}", path.display());
    assert_eq!(found.uid(), nix::unistd::geteuid().as_raw());
}

#[tokio::test]
async fn a_receipt_is_private_and_holds_no_secret() {
    let lock = Lock::new("private").await;
    let scene = lock.scene(LOGS_ALL).env("CI_JOB_ID", "the-jobs-own-value");
    let scene = scene.env("AWS_SECRET_ACCESS_KEY", SECRET).env("TF_VAR_password", "hunter2");
    let mut running = scene.command(&["apply", "-var", "token=hunter2"]).start().ready();
    let receipt = Receipt::of(&running.scene);
    is_private(&running.scene.path(STATE_DIR), 0o700);
    is_private(&receipt.path, 0o600);
    let text = fs::read_to_string(&receipt.path).expect("it is there");
    for secret in ["hunter2", "the-jobs-own-value", &format!("\"{SECRET}\"")] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert_eq!(receipt.runner(), running.pid());
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.bare_code(), Some(5));
    assert_eq!(fs::read_dir(running.scene.path(STATE_DIR)).expect("it is there").count(), 0);
}

/// Written before the lock is asked for: whatever the store made of that request, it is known.
#[tokio::test]
async fn the_receipt_is_there_before_the_first_write() {
    let lock = Lock::new("before").await;
    let proxy = Proxy::before(&dynamodb().url);
    proxy.plan([Rule::on("PutItem", Fault::Hold).key(&lock.key)]);
    let scene = lock.scene_at(proxy.url(), "exit 0").env("TFWRAP_TEST_OFF", "guardian");
    let mut running = scene.start();
    proxy.arrived(&format!("PutItem {}", lock.key), 1).await;
    let left = Receipt::all(&running.scene.path(STATE_DIR));
    assert_eq!((left.len(), left[0].locks()), (1, 1), "{left:?}");
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    // It lands when nobody waits for it any more.
    proxy.release();
    let landed = async || {
        for _ in 0..500 {
            if lock.is_held().await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    };
    assert!(landed().await);
    proxy.plan([]);
    run(&mut ours(&running.scene, &["recover"])).expect_code(0);
    assert!(!lock.is_held().await);
}

/// A lock that could not be given back stays in the receipt, for `recover`.
#[tokio::test]
async fn what_could_not_be_given_back_is_recovered() {
    let lock = Lock::new("not-given-back").await;
    let proxy = Proxy::before(&dynamodb().url);
    let scene = lock.scene_at(proxy.url(), LOGS_ALL).env("TFWRAP_RELEASE_PATIENCE", "300ms");
    let mut running = scene.start().ready();
    let guardian = Receipt::of(&running.scene).guardian().expect("a guardian");
    proxy.plan([Rule::on("DeleteItem", Fault::SERVER_ERROR)]);
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.bare_code(), Some(5), "{}", running.stderr());
    wait_until("the guardian's end", || is_gone(guardian).then_some(()));
    let mut recover = ours(&running.scene, &["recover"]);
    recover.env("TFWRAP_RELEASE_PATIENCE", "300ms");
    run(&mut recover).expect_code(74);
    assert!(lock.is_held().await);
    proxy.plan([]);
    run(&mut recover).expect_code(0);
    assert!(!lock.is_held().await);
}
