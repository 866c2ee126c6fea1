//! Runs that are less simple than one lock and one child.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::{SLOW, gone, kill_tfwrap, started};
use crate::aftermath::{Lock, Receipt, STATE_DIR, kill_dead, ours};
use crate::support::harness::run;
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::dynamodb;
use crate::wrapped::{is_gone, state, uptime, wait_until};

#[tokio::test]
async fn all_locks_of_a_killed_run_go_with_its_child() {
    let (first, second) = (Lock::new("first").await, Lock::new("second").await);
    let scene = first.scene(SLOW).env("TFWRAP_LOCK", "");
    let urls = [first.url_at(&dynamodb().url), second.url_at(&dynamodb().url)];
    let scene = scene.options(&["--lock", &urls[0], "--lock", &urls[1]]);
    let (mut running, guardian, child) = started(scene);
    assert!(second.is_held().await);
    kill_tfwrap(&mut running);
    second.freed_after(child).await;
    first.freed().await;
    gone("the guardian", guardian);
    assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
}

/// The kernel itself hangs up on a stopped group that has lost its parent, and wakes it. A child
/// that ignores that gets its one interrupt and the time to end.
#[tokio::test]
async fn a_child_that_stands_still_goes_on_to_its_end() {
    let lock = Lock::new("standing").await;
    let scene = lock.scene(&format!("ignore SIGHUP; {SLOW}"));
    let (mut running, _, child) = started(scene);
    kill(child, Signal::SIGSTOP).expect("it is there");
    wait_until("its stop", || (state(child) == Some('T')).then_some(()));
    kill_tfwrap(&mut running);
    lock.freed_after(child).await;
    assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
}

/// A script with a Terraform in it: two tfwraps, each with a guardian, and one child that counts.
#[tokio::test]
async fn the_innermost_child_gets_one_interrupt_whoever_is_killed() {
    for (name, outer, inner) in
        [("outer", true, false), ("inner", false, true), ("both", true, true)]
    {
        let lock = Lock::new(&format!("nested-{name}")).await;
        let scene = lock.scene(SLOW).in_ci();
        let script = "terraform apply; test -e go-on";
        let mut running = scene.command(&["run", "--", "sh", "-c", script]).start().ready();
        let child = running.scene.pid_in("ready");
        let all = wait_until("both receipts", || {
            let all = Receipt::all(&running.scene.path(STATE_DIR));
            let is_full = |receipt: &Receipt| !receipt.text["child"].is_null();
            (all.iter().filter(|receipt| is_full(receipt)).count() == 2).then_some(all)
        });
        for receipt in &all {
            let is_outer = receipt.runner() == running.pid();
            if if is_outer { outer } else { inner } {
                kill(receipt.runner(), Signal::SIGKILL).expect("it is there");
            }
        }
        lock.freed_after(child).await;
        let code = running.bare_code();
        assert_eq!(code, (!outer).then_some(1), "{name}: {}", running.stderr());
        for guardian in all.iter().filter_map(Receipt::guardian) {
            gone("a guardian", guardian);
        }
        assert_eq!(running.scene.log().len(), 1, "{name}: {:?}", running.scene.log());
    }
}

/// The child need not wait for a store that does not answer, and nobody forgets the lock.
#[tokio::test]
async fn with_the_store_out_of_reach_the_child_ends_and_the_receipt_stays() {
    for (name, fault) in [("refused", Fault::Refuse), ("silent", Fault::Hold)] {
        let lock = Lock::new(&format!("cut-off-{name}")).await;
        let proxy = Proxy::before(&dynamodb().url);
        let scene = lock.scene_at(proxy.url(), SLOW).env("TFWRAP_RELEASE_PATIENCE", "500ms");
        let (mut running, guardian, child) = started(scene);
        proxy.plan([Rule::all(fault)]);
        kill_tfwrap(&mut running);
        let since = uptime();
        running.scene.wait_for_log("SIGINT 1");
        let took = uptime().since(since);
        assert!(took < Duration::from_secs(3), "{name}: interrupted after {took:?}");
        gone("the child", child);
        gone("the guardian", guardian);
        proxy.plan([]);
        let left = Receipt::all(&running.scene.path(STATE_DIR));
        assert_eq!((left.len(), left[0].locks()), (1, 1), "{name}: {left:?}");
        assert!(lock.is_held().await && is_gone(child), "{name}");
        run(&mut ours(&running.scene, &["recover"])).expect_code(0);
        assert!(!lock.is_held().await, "{name}");
        proxy.release();
    }
}

/// Nobody was killed here, but a write was never answered: tfwrap warns, and its guardian stays.
#[tokio::test]
async fn what_lands_after_a_run_is_removed_by_its_guardian() {
    let lock = Lock::new("lands-later").await;
    let proxy = Proxy::before(&dynamodb().url);
    proxy.plan([Rule::on("PutItem", Fault::Hold).key(&lock.key).times(1)]);
    let mut running = lock.scene_at(proxy.url(), "exit 0").start();
    assert_eq!(running.bare_code(), Some(0), "{}", running.stderr());
    assert!(running.stderr().contains("may still appear"), "{}", running.stderr());
    let left = Receipt::all(&running.scene.path(STATE_DIR));
    let guardian = left[0].guardian().expect("a guardian");
    assert!(!lock.is_held().await && !is_gone(guardian));
    let removes = format!("DeleteItem {}", lock.key);
    let before = proxy.count(&removes);
    proxy.release();
    proxy.arrived(&removes, before + 1).await;
    lock.freed().await;
    gone("the guardian", guardian);
    run(&mut ours(&running.scene, &["recover"])).expect_code(0);
    assert_eq!(Receipt::all(&running.scene.path(STATE_DIR)).len(), 0);
}

/// Whoever asks it to end wants what it is about to do.
#[tokio::test]
async fn a_guardian_at_work_heeds_no_signal() {
    let lock = Lock::new("deaf-guardian").await;
    let (mut running, guardian, child) = started(lock.scene(SLOW));
    kill_tfwrap(&mut running);
    running.scene.wait_for_log("SIGINT 1");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        kill(guardian, signal).expect("it is there");
    }
    lock.freed_after(child).await;
    gone("the guardian", guardian);
    assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
}

/// Nobody knows any more what the child was told; it gets the time to end of what it may have been.
#[tokio::test]
async fn a_guardian_that_is_killed_at_work_leaves_the_rest_to_recover() {
    let lock = Lock::new("at-work-killed").await;
    let script = SLOW.replace("after 700", "after 2000");
    let (mut running, guardian, child) = started(lock.scene(&script).env("CI_JOB_ID", "7"));
    kill_tfwrap(&mut running);
    running.scene.wait_for_log("SIGINT 1");
    kill_dead(guardian);
    assert!(lock.is_held().await && !is_gone(child));
    let mut recover = ours(&running.scene, &["recover", "--wait", "60s"]);
    run(recover.env("CI_JOB_ID", "7")).expect_code(0);
    assert!(!lock.is_held().await && is_gone(child));
    assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
    assert_eq!(Receipt::all(&running.scene.path(STATE_DIR)).len(), 0);
}

/// A script that leaves a tfwrap in the background which somebody has stopped. Nobody else would
/// ever continue it.
#[tokio::test]
async fn an_inner_tfwrap_that_stands_still_is_named_and_goes_on_to_its_end() {
    let by_itself = "log @/log; on SIGINT exit 0 after 300; ready @/ready; sleep 1500; exit 0";
    for (name, end, script, asked, code) in [
        ("exits", "exit 0", by_itself, false, Some(0)),
        ("killed", "kill -9 $$", by_itself, false, Some(137)),
        ("asked", "exit 0", SLOW, true, None),
    ] {
        let lock = Lock::new(&format!("stopped-{name}")).await;
        let scene = lock.scene(script).in_ci();
        let go_on = scene.path("go-on");
        let wait = format!(
            "terraform apply & for i in $(seq 600); do test -e '{}' && {end}; sleep 0.05; done",
            go_on.display()
        );
        let mut running = scene.command(&["run", "--", "sh", "-c", &wait]).start().ready();
        let of_inner = |receipt: &Receipt| receipt.runner() != running.pid();
        let inner = wait_until("the inner receipt", || {
            Receipt::all(&running.scene.path(STATE_DIR)).into_iter().find(of_inner)
        });
        let inner = inner.runner();
        let stop = || {
            kill(inner, Signal::SIGSTOP).expect("it is there");
            wait_until("its stop", || (state(inner) == Some('T')).then_some(()));
        };
        stop();
        std::fs::write(&go_on, "").expect("a file");
        wait_until(name, || running.stderr().contains("was stopped by a signal").then_some(()));
        if asked {
            wait_until("its going on", || (state(inner) != Some('T')).then_some(()));
            stop();
            running.signal(Signal::SIGTERM);
            assert!(running.bare_code().is_some(), "{}", running.stderr());
            assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
        } else {
            assert_eq!(running.bare_code(), code, "{name}: {}", running.stderr());
        }
        let said = running.stderr();
        assert!(said.contains(&format!("kill -CONT {inner}")), "{name}: {said}");
        lock.freed().await;
        wait_until("its end", || is_gone(inner).then_some(()));
    }
}
