//! A child that has ended already when its tfwrap is killed: by force, so that a request of its may
//! still be on its way; or of its own accord, and what it left behind is nobody's to end.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tfwrap::supervise::ProcessTree;

use super::{gone, kill_tfwrap, started};
use crate::aftermath::{Lock, kill_dead, ours};
use crate::support::harness::{self, Gate, applying, eventually, run};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{dynamodb, local_backend_dir, terraform};
use crate::wrapped::{LOGS_ALL, Running, is_gone, uptime};

/// What everybody waits after an end by force, but for what a test takes to see it.
const SETTLED: Duration = Duration::from_millis(1900);

/// Who ends whom: the run, its guardian, its child.
type Ends = fn(&mut Running, Pid, Pid);

/// GitHub's last kill to everything, the kernel's for want of memory: nobody saw how the child
/// ended.
fn all_at_once(running: &mut Running, _: Pid, child: Pid) {
    running.signal(Signal::SIGSTOP);
    kill(child, Signal::SIGKILL).expect("it is there");
    kill_tfwrap(running);
}

/// Tfwrap has killed it, and was about to wait for what is in flight.
fn in_its_settle(running: &mut Running, _: Pid, child: Pid) {
    running.signal(Signal::SIGTERM);
    gone("the child", child);
    kill_tfwrap(running);
}

/// And nobody is left but `recover`.
fn the_guardian_too(running: &mut Running, guardian: Pid, child: Pid) {
    running.signal(Signal::SIGSTOP);
    kill_dead(guardian);
    let tree = ProcessTree::of(child, None).expect("it is there");
    kill(child, Signal::SIGKILL).expect("it is there");
    // So that `recover` does not come before the end of the child and of what it had started.
    gone("the child", child);
    kill_tfwrap(running);
    eventually("its group has ended", || tree.are_gone());
    run(&mut ours(&running.scene, &["recover"])).expect_code(0);
}

#[tokio::test]
async fn after_a_kill_of_tfwrap_and_child_the_lock_is_kept_for_what_is_in_flight() {
    let all: [(&str, Ends); 3] = [
        ("at-once", all_at_once),
        ("in-its-settle", in_its_settle),
        ("all-three", the_guardian_too),
    ];
    for (name, ends) in all {
        let lock = Lock::new(&format!("ended-{name}")).await;
        let scene = lock.scene(LOGS_ALL).options(&["--grace", "300ms"]);
        let (mut running, guardian, child) = started(scene);
        // Before it ends.
        let since = uptime();
        ends(&mut running, guardian, child);
        lock.freed().await;
        let took = uptime().since(since);
        assert!(took >= SETTLED, "{name}: free {took:?} after the end of the child");
        gone("the child", child);
        gone("the guardian", guardian);
    }
}

/// The daemon logs what it gets, and is alive in the end.
#[tokio::test]
async fn what_a_child_leaves_on_purpose_outlives_a_tfwrap_that_is_killed_in_its_release() {
    for by_recover in [false, true] {
        let lock = Lock::new(&format!("daemon-{by_recover}")).await;
        let proxy = Proxy::before(&dynamodb().url);
        let script = "spawn BACKGROUND; ready @/ready; sleep 500; exit 0";
        let daemon = "log @/log; on SIGINT log; on SIGTERM log; ready @/background; wait";
        let scene = lock.scene_at(proxy.url(), script).background(daemon);
        proxy.plan([Rule::on("DeleteItem", Fault::SERVER_ERROR)]);
        let (mut running, guardian, child) = started(scene);
        let daemon = running.scene.pid_in("background");
        gone("the child", child);
        // Told before it is tried.
        proxy.arrived(&format!("DeleteItem {}", lock.key), 1).await;
        assert!(lock.is_held().await);
        let since = uptime();
        if by_recover {
            running.signal(Signal::SIGSTOP);
            kill_dead(guardian);
        }
        kill_tfwrap(&mut running);
        proxy.plan([]);
        if by_recover {
            run(&mut ours(&running.scene, &["recover"])).expect_code(0);
        }
        lock.freed().await;
        gone("the guardian", guardian);
        let took = uptime().since(since);
        assert!(took < Duration::from_secs(20), "by recover {by_recover}: waited for it {took:?}");
        assert!(!is_gone(daemon), "by recover: {by_recover}");
        assert_eq!(running.scene.log(), Vec::<String>::new(), "by recover: {by_recover}");
        kill_dead(daemon);
    }
}

/// The remove lands late, before the one of the guardian, which then finds nothing: no stranger has
/// taken the lock away.
#[tokio::test]
async fn a_lock_whose_remove_a_killed_tfwrap_had_sent_is_released_and_not_lost() {
    let lock = Lock::new("remove-sent").await;
    let proxy = Proxy::before(&dynamodb().url);
    proxy.plan([Rule::on("DeleteItem", Fault::Hold)]);
    let script = "ready @/ready; sleep 300; exit 0";
    let (mut running, guardian, _) = started(lock.scene_at(proxy.url(), script));
    let removes = format!("DeleteItem {}", lock.key);
    proxy.arrived(&removes, 1).await;
    kill_tfwrap(&mut running);
    proxy.arrived(&removes, 2).await;
    lock.remove().await;
    proxy.release();
    gone("the guardian", guardian);
    let told = run(&mut ours(&running.scene, &["recover"])).expect_code(0).stderr;
    assert!(told.contains("released the lock"), "{told}");
}

/// Terraform ends its provisioner's shell, and what that had started lives on.
#[test]
fn what_a_provisioner_had_started_keeps_no_lock_after_a_kill() {
    let dir = local_backend_dir();
    let command = "touch working.ready; sleep 110; true";
    let ours = harness::Running::start(&mut applying(harness::tfwrap(dir.path()), command));
    Gate::new(dir.path(), "working").reached();
    let since = uptime();
    ours.signal(Signal::SIGKILL);
    drop(ours.finish());
    eventually("stock Terraform gets in", || {
        run(terraform(dir.path()).args(["plan", "-no-color"])).status.success()
    });
    let took = uptime().since(since);
    assert!(took < Duration::from_secs(90), "free after {took:?}");
}

/// A provisioner's command whose shell Terraform has ended: it hears one interrupt, and if it does
/// not heed that, it is killed, as by a tfwrap that lives; not after the orphan grace.
#[tokio::test]
async fn what_outlives_an_interrupted_child_is_ended_soon_and_is_no_killed_child() {
    for by_recover in [false, true] {
        let lock = Lock::new(&format!("outlives-{by_recover}")).await;
        let script = "spawn BACKGROUND; on SIGINT exit 0 after 300; ready @/ready; wait";
        let rest = "log @/log; on SIGINT log; ready @/background; wait";
        let (mut running, guardian, child) =
            started(lock.scene(script).env("CI_JOB_ID", "7").background(rest));
        let rest = running.scene.pid_in("background");
        let since = uptime();
        if by_recover {
            running.signal(Signal::SIGSTOP);
            kill_dead(guardian);
        }
        kill_tfwrap(&mut running);
        let wait: &[&str] = if by_recover { &["recover", "--wait", "100s"] } else { &["recover"] };
        if !by_recover {
            lock.freed_after(child).await;
            gone("the guardian", guardian);
        }
        let told = run(ours(&running.scene, wait).env("CI_JOB_ID", "7"));
        let told = told.expect_code(0).stderr;
        lock.freed().await;
        let took = uptime().since(since);
        assert!(took < Duration::from_secs(40), "by recover {by_recover}: {took:?}");
        assert!(is_gone(rest), "by recover: {by_recover}");
        let log = running.scene.log();
        assert!(log.len() == 1 && log[0].starts_with("SIGINT 1 "), "{by_recover}: {log:?}");
        let killed = format!("killed what is left of the child, process {rest} (`");
        let is_told = told.contains(&killed) && !told.contains("check the state");
        assert!(is_told, "by recover {by_recover}: {told}");
    }
}
