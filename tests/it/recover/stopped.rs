//! A dead run whose guardian was stopped: it ends nothing until somebody continues it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Env, WILLING, receipts, recover};
use crate::aftermath::{Lock, Receipt, STATE_DIR, ours};
use crate::support::harness::{self, Gate, applying, eventually, run};
use crate::support::servers::{local_backend_dir, terraform};
use crate::wrapped::{Running, is_gone, state, wait_until};

const JOB: &[(&str, &str)] = &[("CI_JOB_ID", "7")];

/// Stops a process, and sees it stand.
#[track_caller]
fn stop(pid: Pid) {
    kill(pid, Signal::SIGSTOP).expect("it is there");
    wait_until("its stop", || (state(pid) == Some('T')).then_some(()));
}

fn killed(running: &mut Running) {
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
}

#[tokio::test]
async fn a_stopped_guardian_of_the_dead_is_named_and_continued_for_its_own_job_only() {
    let lock = Lock::new("stopped-guardian").await;
    let mut running = lock.scene(WILLING).env("CI_JOB_ID", "7").start().ready();
    let child = running.scene.pid_in("ready");
    let guardian = Receipt::of(&running.scene).guardian().expect("a guardian");
    stop(guardian);
    killed(&mut running);
    let scene = &running.scene;
    let help = format!("kill -CONT {guardian}");
    let others: [(&[&str], Env<'_>); 4] = [
        (&[], JOB),
        (&["--wait", "2s"], &[]),
        (&["--wait", "2s"], &[("CI_JOB_ID", "8")]),
        (&[], &[]),
    ];
    for (words, env) in others {
        let done = recover(scene, words, env).expect_code(74);
        assert!(done.stderr.contains("is stopped by a signal"), "{}", done.stderr);
        assert!(done.stderr.contains(&help), "{}", done.stderr);
        assert_eq!(state(guardian), Some('T'));
    }
    assert!(lock.is_held().await && !is_gone(child) && scene.log().is_empty());
    let done = recover(scene, &["--wait", "60s"], JOB).expect_code(0);
    for words in ["was stopped by a signal", &help] {
        assert!(done.stderr.contains(words), "{words:?} in {}", done.stderr);
    }
    // It heeds nothing but that.
    assert!(!done.stderr.contains(&format!("`kill {guardian}`")), "{}", done.stderr);
    assert!(is_gone(child) && is_gone(guardian) && !lock.is_held().await, "{}", done.stderr);
    assert_eq!((scene.count("SIGINT"), receipts(scene)), (1, 0), "{:?}", scene.log());
}

/// A person who types `fg`, or has a reason, is not got ahead of; but in its own job it must hear.
#[tokio::test]
async fn a_run_that_stands_still_is_said_to_and_ends_for_its_own_job() {
    let lock = Lock::new("stopped-run").await;
    let mut running = lock.scene(WILLING).env("CI_JOB_ID", "7").start().ready();
    let child = running.scene.pid_in("ready");
    stop(running.pid());
    let help = format!("kill -CONT {}", running.pid());
    for (env, code) in [(&[][..], 0), (JOB, 74)] {
        let done = recover(&running.scene, &[], env).expect_code(code);
        assert!(done.stderr.contains("is stopped by a signal"), "{}", done.stderr);
        assert!(code == 0 || done.stderr.contains(&help), "{}", done.stderr);
    }
    assert_eq!(state(running.pid()), Some('T'));
    recover(&running.scene, &["--wait", "60s"], JOB).expect_code(0);
    assert_eq!(running.bare_code(), Some(0), "{}", running.stderr());
    assert!(is_gone(child) && !lock.is_held().await);
    assert_eq!(running.scene.count("SIGINT"), 1, "{:?}", running.scene.log());
}

/// The kernel's lock: without a guardian that goes on nobody could ever have it.
#[test]
fn a_real_terraform_below_a_stopped_guardian_is_ended_and_its_state_is_free() {
    let dir = local_backend_dir();
    let working = Gate::new(dir.path(), "working");
    let mut apply = applying(harness::tfwrap(dir.path()), &working.command());
    let apply = harness::Running::start(apply.envs(JOB.iter().copied()));
    working.reached();
    let receipt = Receipt::all(&dir.path().join(STATE_DIR)).remove(0);
    stop(receipt.guardian().expect("a guardian"));
    apply.signal(Signal::SIGKILL);
    eventually("its end", || apply.is_over());
    let plan = || run(terraform(dir.path()).args(["plan", "-no-color"]));
    plan().expect_code(1);
    let mut recover = harness::tfwrap(dir.path());
    recover.args(["recover", "--wait", "90s"]).envs(JOB.iter().copied());
    let done = run(&mut recover).expect_code(0);
    assert!(done.stderr.contains("interrupted the child"), "{}", done.stderr);
    plan().expect_code(0);
    let applied = apply.finish();
    assert!(applied.stdout.contains("nterrupt"), "{}", applied.stdout);
    assert!(dir.path().join("terraform.tfstate").exists());
}

/// Whoever waits for a dead command of the same run: an outer tfwrap that has nothing else to do.
#[tokio::test]
async fn an_outer_run_continues_the_guardian_of_a_dead_inner_one() {
    let lock = Lock::new("stopped-inner").await;
    let scene = lock.scene(WILLING).in_ci();
    let go_on = scene.path("go-on");
    let wait = format!(
        "terraform apply & for i in $(seq 1200); do test -e '{}' && exit 0; sleep 0.05; done",
        go_on.display()
    );
    let mut running = scene.command(&["run", "--", "sh", "-c", &wait]).start().ready();
    let child = running.scene.pid_in("ready");
    let inner = wait_until("the inner receipt", || {
        let mut all = Receipt::all(&running.scene.path(STATE_DIR)).into_iter();
        let is_inner = |it: &Receipt| it.runner() != running.pid() && !it.text["child"].is_null();
        all.find(is_inner)
    });
    let guardian = inner.guardian().expect("a guardian");
    stop(guardian);
    kill(inner.runner(), Signal::SIGKILL).expect("it is there");
    std::fs::write(&go_on, "").expect("a file");
    assert_eq!(running.bare_code(), Some(0), "{}", running.stderr());
    assert!(running.stderr().contains(&format!("kill -CONT {guardian}")), "{}", running.stderr());
    assert!(is_gone(child));
    lock.freed().await;
    assert_eq!(running.scene.count("SIGINT"), 1, "{:?}", running.scene.log());
    run(&mut ours(&running.scene, &["recover"])).expect_code(0);
}
