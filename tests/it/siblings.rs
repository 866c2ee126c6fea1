//! Commands side by side below one `run`: the lock is held for all of them, and still only one may
//! use the state at a time.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::harness::{Gate, Running, eventually, run, s3_dir, tfwrap};
use crate::support::servers::local_backend_dir;

fn script(dir: &Path, script: &str) -> Command {
    let mut command = tfwrap(dir);
    command.args(["run", "--", "sh", "-c", script]);
    command
}

/// `apply` in the background, for a script; `provisioner` writes down when it begins and ends.
fn noted_apply(name: &str, options: &str) -> String {
    let provisioner = format!("echo {name} begins >> turns; sleep 1; echo {name} ends >> turns");
    format!("terraform apply -auto-approve -no-color {options} -var 'command={provisioner}' & ")
}

fn overlap(dir: &Path) -> bool {
    let turns = fs::read_to_string(dir.join("turns")).unwrap();
    let lines: Vec<_> = turns.lines().collect();
    assert_eq!(lines.len(), 4, "{turns}");
    let name = |line: &str| line.split(' ').next().unwrap().to_owned();
    name(lines[0]) != name(lines[1])
}

fn take_turns(dir: &Path) {
    let both = noted_apply("a", "") + &noted_apply("b", "") + "wait";
    let done = run(&mut script(dir, &both)).expect_code(0);
    assert!(!overlap(dir), "{}", done.stderr);
    assert!(!done.stdout.contains("Error") && !done.stderr.contains("Error"), "{}", done.stderr);
    fs::remove_file(dir.join("turns")).unwrap();
    // What was put there for the turns is gone with them.
    let left: Vec<_> = fs::read_dir(dir.join(".tfwrap-state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("turn-"))
        .collect();
    assert_eq!(left, [""; 0]);
    // The control: without any lock they overlap.
    let both = noted_apply("a", "-lock=false") + &noted_apply("b", "-lock=false") + "wait";
    run(&mut script(dir, &both));
    assert!(overlap(dir), "the test proves nothing");
}

#[tokio::test]
async fn two_at_once_below_a_run_take_turns_on_a_dynamodb_lock() {
    take_turns(s3_dir("siblings/remote").await.path());
}

#[test]
fn two_at_once_below_a_run_take_turns_on_the_local_lock() {
    take_turns(local_backend_dir().path());
}

#[tokio::test]
async fn a_turn_that_does_not_come_in_time_is_75() {
    let dir = s3_dir("siblings/timeout").await;
    let first = Gate::new(dir.path(), "first");
    let text = format!(
        "terraform apply -auto-approve -no-color -var 'command={}' & \
         while ! test -e first.ready; do sleep 0.05; done; \
         terraform apply -auto-approve -no-color -lock-timeout=300ms; echo $? > code; wait",
        first.command()
    );
    let ours = Running::start(&mut script(dir.path(), &text));
    ours.says("another command of this run");
    eventually("it gave up", || dir.path().join("code").exists());
    first.open();
    let done = ours.finish().expect_code(0);
    assert_eq!(fs::read_to_string(dir.path().join("code")).unwrap(), "75\n", "{}", done.stderr);
}

#[tokio::test]
async fn a_stop_while_waiting_for_a_turn_ends_all() {
    let dir = s3_dir("siblings/stop").await;
    let first = Gate::new(dir.path(), "first");
    let text = format!(
        "trap : INT; terraform apply -auto-approve -no-color -var 'command={}' & \
         while ! test -e first.ready; do sleep 0.05; done; \
         terraform apply -auto-approve -no-color -var 'command=touch second'; echo $? > code; wait",
        first.command()
    );
    let ours = Running::start(&mut script(dir.path(), &text));
    ours.says("another command of this run");
    ours.signal(nix::sys::signal::Signal::SIGTERM);
    // The first is in the background, where a shell lets nothing hear SIGINT.
    eventually("the second gave up", || dir.path().join("code").exists());
    first.open();
    let done = ours.finish();
    assert_eq!(fs::read_to_string(dir.path().join("code")).unwrap(), "130\n", "{}", done.stderr);
    assert!(!dir.path().join("second").exists());
    assert_eq!(crate::support::servers::dynamodb().get_raw(&dir.table, &dir.lock_id()).await, None);
}
