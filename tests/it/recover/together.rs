//! Whoever ends what a dead run left: one interrupt for its Terraform, however many there are.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{WILLING, left};
use crate::aftermath::{Lock, Receipt, STATE_DIR, kill_dead, ours};
use crate::support::harness::{self, applying, eventually, pause, run, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{self, BUCKET, dynamodb, s3, terraform};
use crate::wrapped::{is_gone, wait_until};

const JOB: (&str, &str) = ("CI_JOB_ID", "7");

/// How long the store of the state takes for a write.
const SLOW: Duration = Duration::from_secs(3);

/// A real Terraform at work, whose tfwrap and guardian are dead: one resource is made, the next is
/// being made, and to save the state of both takes seconds.
struct Dead {
    dir: tempfile::TempDir,
    /// The child, the leader of its group.
    child: Pid,
    _slow: Proxy,
}

impl Dead {
    async fn new(name: &str) -> Self {
        let (table, key) = (format!("dead-{name}"), format!("dead/{name}/terraform.tfstate"));
        dynamodb().create_lock_table(&table).await;
        let dir = servers::s3_backend_dir(&key, &table);
        // A state that is new Terraform 1.11 loses now and then when it is interrupted.
        let empty = r#"{"version":4,"terraform_version":"1.11.4","serial":1,"lineage":"6a1f7d2e-3b0c-4c1e-9f55-1d2a3b4c5d6f","outputs":{},"resources":[]}"#;
        s3().put(BUCKET, &key, empty.as_bytes());
        let slow = Proxy::before(&s3().url);
        let backend = dir.path().join("backend.tf");
        let text = std::fs::read_to_string(&backend).expect("a file");
        let text =
            text.replace(&s3().url, slow.url()) + "\nresource \"terraform_data\" \"made\" {}\n";
        std::fs::write(&backend, text).expect("a file");
        run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
        let file = |name: &str| File::create(dir.path().join(name)).expect("a file");
        // Streams in files: a Terraform that is left behind keeps no pipe of ours open.
        let mut command = applying(tfwrap(dir.path()), "touch making; exec sleep 900");
        command.env(JOB.0, JOB.1).env("TFWRAP_STATE_DIR", dir.path().join(STATE_DIR));
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        let mut running = command.process_group(0).spawn().expect("it starts");
        let pid = Pid::from_raw(running.id().cast_signed());
        eventually("the second resource", || dir.path().join("making").exists());
        let receipt = Receipt::all(&dir.path().join(STATE_DIR)).remove(0);
        kill(pid, Signal::SIGSTOP).expect("it is there");
        kill_dead(receipt.guardian().expect("a guardian"));
        running.kill().expect("it is there");
        running.wait().expect("it has ended");
        let leader = receipt.text["child"]["leader"]["pid"].as_i64().expect("a number");
        slow.plan([Rule::on("PUT", Fault::Slow(SLOW))]);
        let child = Pid::from_raw(i32::try_from(leader).expect("a number"));
        Self { dir, child, _slow: slow }
    }

    fn recover(&self, wait: &str) -> harness::Running {
        let mut command = tfwrap(self.dir.path());
        command.args(["recover", "--wait", wait]).env(JOB.0, JOB.1);
        harness::Running::start(command.env("TFWRAP_STATE_DIR", self.dir.path().join(STATE_DIR)))
    }

    /// What its state tells of.
    fn saved(&self) -> String {
        let mut list = terraform(self.dir.path());
        run(list.args(["state", "list"])).stdout
    }

    /// Whether it was interrupted twice, in its own words.
    fn was_hurried(&self) -> bool {
        let said = |name: &str| fs::read_to_string(self.dir.path().join(name)).expect("a file");
        (said("stdout") + &said("stderr")).contains("Two interrupts received")
    }
}

/// Parallel stages with `post { always }`; a step and `after_script`.
#[tokio::test]
async fn two_recoveries_at_once_interrupt_a_terraform_once() {
    let dead = Dead::new("two").await;
    let (one, other) = (dead.recover("60s"), dead.recover("60s"));
    for done in [one.finish(), other.finish()] {
        done.expect_code(0);
    }
    assert!(is_gone(dead.child) && !dead.was_hurried());
    let saved = dead.saved();
    assert!(saved.contains("terraform_data.made"), "its state was lost: {saved:?}");
    assert_eq!(Receipt::all(&dead.dir.path().join(STATE_DIR)).len(), 0);
}

/// The control: it saves its state for long enough to be hit by a second one.
#[tokio::test]
async fn a_second_interrupt_would_have_come_while_the_state_was_saved() {
    let dead = Dead::new("control").await;
    for _ in 0..2 {
        kill(dead.child, Signal::SIGINT).expect("it is there");
        pause(SLOW / 2);
    }
    eventually("its end", || is_gone(dead.child));
    assert!(dead.was_hurried(), "the test above proves nothing");
    // What it has left of its group ends only by force.
    dead.recover("2s").finish().expect_code(0);
}

/// What a guardian that was killed at work had sent stands in the receipt.
#[tokio::test]
async fn a_recovery_after_a_guardian_that_had_interrupted_does_not_again() {
    let lock = Lock::new("guardian-sent").await;
    let slow = WILLING.replace("after 300", "after 4000");
    let mut running = lock.scene(&slow).env(JOB.0, JOB.1).start().ready();
    let child = running.scene.pid_in("ready");
    let guardian = Receipt::of(&running.scene).guardian().expect("a guardian");
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    running.scene.wait_for_log("SIGINT 1");
    wait_until("its word", || {
        let receipt = Receipt::of(&running.scene);
        (receipt.text["interrupts"] == "sent").then_some(())
    });
    kill_dead(guardian);
    // Half of this wait would be over before the child ends.
    let mut recover = ours(&running.scene, &["recover", "--wait", "6s"]);
    run(recover.env(JOB.0, JOB.1)).expect_code(0);
    assert!(is_gone(child) && !lock.is_held().await);
    assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
}

/// Nor is a tfwrap told that was told, by whomever: a second signal it might pass on.
#[tokio::test]
async fn a_run_that_ends_already_is_not_told_again() {
    for by_recover in [false, true] {
        let lock = Lock::new(&format!("told-{by_recover}")).await;
        let slow = WILLING.replace("after 300", "after 4000");
        let scene = lock.scene(&slow).env(JOB.0, JOB.1).env("TFWRAP_SECOND_SIGNAL", "forward");
        let mut running = scene.start().ready();
        let recover = || {
            let mut recover = ours(&running.scene, &["recover", "--wait", "20s"]);
            harness::Running::start(recover.env(JOB.0, JOB.1))
        };
        let first = if by_recover {
            Some(recover())
        } else {
            running.signal(Signal::SIGTERM);
            None
        };
        running.scene.wait_for_log("SIGINT 1");
        let second = recover();
        second.says("not asking again");
        for recovery in [first, Some(second)].into_iter().flatten() {
            recovery.finish().expect_code(0);
        }
        assert_eq!(running.scene.count("SIGINT"), 1, "{:?}", running.scene.log());
        assert_eq!(running.bare_code(), Some(0), "{}", running.stderr());
        assert!(!lock.is_held().await);
    }
}

/// A recovery that is told to end leaves the child to the next, which does not interrupt it again.
#[tokio::test]
async fn a_recovery_that_is_stopped_leaves_the_lock_and_the_next_goes_on() {
    let lock = Lock::new("stopped-recovery").await;
    let slow = WILLING.replace("after 300", "after 4000");
    let (left, child) = left(lock.scene(&slow).env(JOB.0, JOB.1));
    let recover = || {
        let mut recover = ours(&left.scene, &["recover", "--wait", "20s"]);
        harness::Running::start(recover.env(JOB.0, JOB.1))
    };
    let first = recover();
    left.scene.wait_for_log("SIGINT 1");
    first.signal(Signal::SIGTERM);
    let done = first.finish().expect_code(143);
    assert!(done.stderr.contains("keeps its lock"), "{}", done.stderr);
    assert!(lock.is_held().await && !is_gone(child));
    recover().finish().expect_code(0);
    assert!(!lock.is_held().await && is_gone(child));
    assert_eq!(left.scene.count("SIGINT"), 1, "{:?}", left.scene.log());
}
