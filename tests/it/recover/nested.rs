//! What is left where one run was below another, and all of tfwrap was killed.

use std::fs::File;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::aftermath::{Receipt, STATE_DIR, kill_dead};
use crate::support::harness::{Finished, Gate, run, tfwrap, wrapper};
use crate::support::servers::{local_backend_dir, terraform};
use crate::wrapped::{is_gone, wait_until};

const JOB: (&str, &str) = ("CI_JOB_ID", "7");

/// A real Terraform at work below this many runs, the receipts of all, and of its own tfwrap last.
fn left(runs: usize) -> (TempDir, Vec<Receipt>) {
    let dir = local_backend_dir();
    let gate = Gate::new(dir.path(), "work");
    let file = |name: &str| File::create(dir.path().join(name)).expect("a file");
    let mut command = tfwrap(dir.path());
    for _ in 1..runs {
        command.args(["run", "--"]).arg(wrapper());
    }
    command.args(["run", "--", "terraform", "apply", "-auto-approve", "-no-color", "-var"]);
    command.arg(format!("command={}", gate.command())).env(JOB.0, JOB.1);
    // Streams in files: a Terraform that is left behind keeps no pipe of ours open.
    command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
    let mut running = command.spawn().expect("it starts");
    gate.reached();
    let mut receipts = wait_until("all receipts with a child", || {
        let all = Receipt::all(&dir.path().join(STATE_DIR));
        let have_child = all.iter().all(|it| !it.text["child"].is_null());
        (all.len() == runs + 1 && have_child).then_some(all)
    });
    receipts.sort_by_key(|it| it.text["operation"] != "run");
    // Neither may end what the other began.
    let signal = |pid: Pid, signal| kill(pid, signal).expect("it is there");
    for receipt in &receipts {
        signal(receipt.guardian().expect("a guardian"), Signal::SIGSTOP);
        signal(receipt.runner(), Signal::SIGSTOP);
    }
    for receipt in &receipts {
        kill_dead(receipt.guardian().expect("a guardian"));
    }
    for receipt in &receipts {
        signal(receipt.runner(), Signal::SIGKILL);
    }
    running.wait().expect("it has ended");
    for receipt in &receipts {
        wait_until("its end", || is_gone(receipt.runner()).then_some(()));
    }
    (dir, receipts)
}

fn recover(dir: &TempDir, words: &[&str], env: Option<(&str, &str)>) -> Finished {
    run(tfwrap(dir.path()).arg("recover").args(words).envs(env))
}

fn child(receipt: &Receipt) -> Pid {
    let leader = receipt.text["child"]["leader"]["pid"].as_i64().expect("a number");
    Pid::from_raw(i32::try_from(leader).expect("a number"))
}

fn is_settled(dir: &TempDir) -> bool {
    run(terraform(dir.path()).args(["plan", "-no-color"])).expect_code(0);
    Receipt::all(&dir.path().join(STATE_DIR)).is_empty()
}

#[test]
fn one_recovery_of_its_job_settles_whatever_was_below_what() {
    for runs in [1, 2] {
        let (dir, receipts) = left(runs);
        let at_work = child(receipts.last().expect("one"));
        let done = recover(&dir, &[], None).expect_code(74);
        // Terraform, and what it has started, of which one may end while it is named.
        assert!(done.stderr.contains(" run under a lock of"), "{}", done.stderr);
        assert!(!is_gone(at_work), "it is not to be ended without its job");
        let done = recover(&dir, &["--wait", "1m"], Some(JOB)).expect_code(0);
        assert!(is_gone(at_work) && is_settled(&dir), "{}", done.stderr);
        assert!(!done.stderr.contains("under a lock of"), "{}", done.stderr);
    }
}

/// Its lock is another's, so there is none to release.
#[test]
fn the_last_command_for_one_that_was_just_starting_below_another_can_be_pasted() {
    let (dir, mut receipts) = left(1);
    let mut inner = receipts.pop().expect("one");
    let at_work = child(&inner);
    kill(Pid::from_raw(-at_work.as_raw()), Signal::SIGKILL).expect("it is there");
    wait_until("its end", || is_gone(at_work).then_some(()));
    inner.text["child"] = serde_json::Value::Null;
    // A moment that never is over.
    inner.text["starting_since"] = u64::MAX.into();
    inner.write();
    let said = recover(&dir, &[], None).expect_code(74).stderr;
    let (_, rest) = said.split_once("finish with: `").expect("a command");
    let command = rest.split('`').next().expect("its end");
    run(Command::new("sh").args(["-ec", command])).expect_code(0);
    assert!(!inner.path.exists(), "{command}");
    recover(&dir, &[], Some(JOB)).expect_code(0);
    assert!(is_settled(&dir));
}
