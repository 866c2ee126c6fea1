//! What cannot be seen is not gone: processes that `/proc` hides, and another time namespace, in
//! which it tells other times of birth.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tfwrap::clock::uptime;

use crate::aftermath::{Lock, Receipt, STATE_DIR, kill_dead, ours, uptime_ms};
use crate::support::harness;
use crate::wrapped::{LOGS_ALL, Scene};

/// Our own command in another time namespace.
fn elsewhen(scene: &Scene, words: &[&str]) -> Command {
    apart(&["-Ur", "-T", "--boottime", "86400"], scene, words)
}

/// Our own command in other namespaces, by util-linux.
fn apart(namespaces: &[&str], scene: &Scene, words: &[&str]) -> Command {
    let ours = ours(scene, words);
    let mut command = Command::new("unshare");
    command.args(namespaces).arg("--");
    command.arg(ours.get_program()).args(ours.get_args());
    command.current_dir(ours.get_current_dir().expect("it has one"));
    command.env_clear();
    for (name, value) in ours.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
}

#[tokio::test]
async fn a_living_run_is_not_recovered_from_another_time_namespace() {
    let lock = Lock::new("elsewhen").await;
    let mut running = lock.scene(LOGS_ALL).start().ready();
    harness::run(&mut elsewhen(&running.scene, &["recover"])).expect_code(0);
    assert!(lock.is_held().await && running.is_running());
    assert_eq!(running.scene.log(), Vec::<String>::new());
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.bare_code(), Some(5), "{}", running.stderr());
    lock.freed().await;
}

/// A receipt that was written before the child was started, and could not be after it: the disk
/// was full. Then all were killed but the child, which is known by its environment.
#[tokio::test]
async fn a_receipt_that_names_no_child_yet_is_no_proof_that_there_is_none() {
    let lock = Lock::new("starting").await;
    let mut running = lock.scene(LOGS_ALL).start().ready();
    let child = running.scene.pid_in("ready");
    let mut receipt = Receipt::of(&running.scene);
    let guardian = receipt.guardian().expect("a guardian");
    // Both at once: neither may end what the other began.
    running.signal(Signal::SIGSTOP);
    kill_dead(guardian);
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    receipt.text["child"] = serde_json::Value::Null;
    receipt.text["starting_since"] = uptime_ms().into();
    receipt.write();
    let said = harness::run(&mut ours(&running.scene, &["recover"])).expect_code(74);
    let named = format!("what it started still runs: process {child} ");
    assert!(said.stderr.contains(&named), "{}", said.stderr);
    assert!(lock.is_held().await, "its child lives");
    assert_eq!(Receipt::all(&running.scene.path(STATE_DIR)).len(), 1);
    // The control: it is gone, and what was not to be seen a moment ago may still appear.
    kill_dead(child);
    let begun = uptime();
    receipt.text["starting_since"] = uptime_ms().into();
    receipt.write();
    harness::run(&mut ours(&running.scene, &["recover"])).expect_code(0);
    assert!(uptime().since(begun) > Duration::from_secs(4));
    lock.freed().await;
}

/// The `/proc` of a PID namespace that is not its own shows no process by its own number.
#[tokio::test]
async fn a_run_that_cannot_see_itself_says_how_to_change_that() {
    let lock = Lock::new("unseen").await;
    let scene = lock.scene("exit 0");
    let words = &["run", "--", "true"];
    let mut command = apart(&["-Urpf"], &scene, words);
    let said = harness::run(&mut command).expect_code(0).stderr;
    assert!(said.contains("there is no `/proc` that shows this process"), "{said}");
    assert!(said.contains("(`unshare --mount-proc`)"), "{said}");
    // The control.
    let said = harness::run(&mut apart(&["-Urpf", "--mount-proc"], &scene, words)).expect_code(0);
    assert!(!said.stderr.contains("/proc"), "{}", said.stderr);
}
