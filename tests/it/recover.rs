//! `recover`: what dead runs left is given back, and nothing else.

mod nested;
mod rest;
mod stopped;
mod together;

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;
use tfwrap::lock::lease::LeaseTerm;

use crate::aftermath::{Lock, Receipt, STATE_DIR, TTL, kill_dead, ours};
use crate::support::harness::{self, Finished, pause, run};
use crate::support::servers::dynamodb;
use crate::wrapped::{LOGS_ALL, Running, Scene, is_gone};

type Env<'a> = &'a [(&'a str, &'a str)];

/// A child that ends soon when it is asked to.
const WILLING: &str = "log @/log; on SIGTERM log; on SIGINT exit 0 after 300; ready @/ready; wait";

/// A run as it is left when the runner has killed it and its guardian.
fn left(scene: Scene) -> (Running, Pid) {
    let mut running = scene.start().ready();
    let child = running.scene.pid_in("ready");
    let guardian = Receipt::of(&running.scene).guardian().expect("a guardian");
    // Stopped, it starts no other guardian.
    running.signal(Signal::SIGSTOP);
    kill_dead(guardian);
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    (running, child)
}

fn recover(scene: &Scene, words: &[&str], env: Env<'_>) -> Finished {
    let words: Vec<_> = ["recover"].into_iter().chain(words.iter().copied()).collect();
    run(ours(scene, &words).envs(env.iter().copied()))
}

fn receipts(scene: &Scene) -> usize {
    Receipt::all(&scene.path(STATE_DIR)).len()
}

#[test]
fn where_there_is_nothing_there_is_nothing_to_do() {
    let scene = Scene::unguarded("");
    let done = recover(&scene, &[], &[]).expect_code(0);
    assert!(done.stderr.contains("nothing to recover"), "{}", done.stderr);
    fs::create_dir(scene.path(STATE_DIR)).expect("a directory");
    recover(&scene, &["--wait", "5m"], &[("CI_JOB_ID", "1")]).expect_code(0);
}

#[tokio::test]
async fn what_a_dead_run_left_is_given_back_once() {
    let lock = Lock::new("dead").await;
    let (left, child) = left(lock.scene(LOGS_ALL));
    kill_dead(child);
    assert!(lock.is_held().await);
    let done = recover(&left.scene, &[], &[]).expect_code(0);
    assert!(done.stderr.contains("its lock is released"), "{}", done.stderr);
    assert!(!lock.is_held().await);
    assert_eq!(receipts(&left.scene), 0);
    let again = recover(&left.scene, &[], &[]).expect_code(0);
    assert!(again.stderr.contains("nothing to recover"), "{}", again.stderr);
}

#[tokio::test]
async fn who_meets_the_lock_of_a_killed_run_is_told_what_releases_it() {
    let lock = Lock::new("met").await;
    let (left, child) = left(lock.scene(LOGS_ALL));
    let asked = |words: &[&str]| {
        let mut command = ours(&left.scene, words);
        command.env("TFWRAP_LOCK", lock.url_at(&dynamodb().url));
        run(command.env("TFWRAP_NO_BACKEND_LOCK", "true"))
    };
    let living = asked(&["--lock-timeout", "1s", "run", "--", "true"]).expect_code(75).stderr;
    let still = format!("was killed on this machine, and process {child} (`");
    let end =
        format!("`tfwrap recover` releases the lock; to end it, once: `kill -INT -- -{child}`");
    assert!(living.contains(&still) && living.contains("still runs\n"), "{living}");
    assert!(living.contains(&end) && !living.contains("is dead"), "{living}");
    kill_dead(child);
    let known = "warning: the run that has the lock was on this machine, and is dead";
    let fix = "hint: `tfwrap recover` releases the lock";
    let waited = asked(&["--lock-timeout", "1s", "run", "--", "true"]).expect_code(75).stderr;
    assert_eq!(waited.matches(known).count(), 1, "{waited}");
    assert_eq!(waited.matches(fix).count(), 2, "beside it, and at the end: {waited}");
    let seen = asked(&["status"]).expect_code(0).stderr;
    assert!(seen.contains(known) && seen.contains(fix), "{seen}");
    // Elsewhere nothing is known of it.
    let elsewhere = left.scene.path("elsewhere");
    let mut command = ours(&left.scene, &["status"]);
    command.env("TFWRAP_LOCK", lock.url_at(&dynamodb().url));
    command.env("TFWRAP_NO_BACKEND_LOCK", "true").env("TFWRAP_STATE_DIR", elsewhere);
    assert_eq!(run(&mut command).expect_code(0).stderr, "");
    let told = recover(&left.scene, &[], &[]).expect_code(0).stderr;
    // To the second, as all other times.
    let (_, since) = told.split_once("(since ").expect(&told);
    assert_eq!(since.find("Z)"), Some("2026-11-21T09:11:59".len()), "{told}");
    assert_eq!(asked(&["run", "--", "true"]).expect_code(0).stderr, "");
}

/// The negative control: without receipts nobody knows.
#[tokio::test]
async fn without_a_receipt_what_a_dead_run_left_stays() {
    let lock = Lock::new("unknown").await;
    let scene = lock.scene(LOGS_ALL).env("TFWRAP_TEST_OFF", "receipts,guardian");
    let mut running = scene.start().ready();
    let child = running.scene.pid_in("ready");
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    kill_dead(child);
    recover(&running.scene, &["--wait", "1s"], &[]).expect_code(0);
    assert!(lock.is_held().await);
}

#[tokio::test]
async fn a_terraform_that_still_runs_keeps_the_lock_unless_it_may_be_ended() {
    let lock = Lock::new("alive").await;
    let job = [("CI_JOB_ID", "7")];
    let (left, child) = left(lock.scene(WILLING).env("CI_JOB_ID", "7"));
    // Without time, and for others at any time.
    let others: [(&[&str], Env<'_>); 4] = [
        (&[], &job),
        (&["--wait", "2s"], &[]),
        (&["--wait", "2s"], &[("CI_JOB_ID", "8")]),
        (&[], &[]),
    ];
    for (words, env) in others {
        let done = recover(&left.scene, words, env).expect_code(74);
        assert!(done.stderr.contains(&format!("process {child} (`")), "{}", done.stderr);
        let help = format!("`kill -INT -- -{child}`");
        assert_eq!(done.stderr.contains(&help), env != job, "{}", done.stderr);
    }
    assert!(lock.is_held().await && !is_gone(child));
    assert!(left.scene.log().is_empty(), "{:?}", left.scene.log());
    let done = recover(&left.scene, &["--wait", "3s"], &job).expect_code(0);
    assert!(is_gone(child) && !lock.is_held().await, "{}", done.stderr);
    assert_eq!(left.scene.count("SIGINT"), 1, "{:?}", left.scene.log());
    assert_eq!(receipts(&left.scene), 0);
}

#[tokio::test]
async fn a_terraform_that_does_not_end_within_the_wait_is_killed() {
    let lock = Lock::new("deaf").await;
    let script = "ignore SIGINT; log @/log; on SIGTERM log; ready @/ready; wait";
    let scene = lock.scene(script).env("CI_JOB_ID", "7");
    let (left, child) = left(scene);
    let done = recover(&left.scene, &["--wait", "1s"], &[("CI_JOB_ID", "7")]).expect_code(0);
    assert!(done.stderr.contains("killed the child"), "{}", done.stderr);
    assert!(is_gone(child) && !lock.is_held().await);
}

/// Whoever ends a run for the dead may be killed, too: what it declares must still expire.
#[tokio::test]
async fn the_lease_of_the_dead_is_kept_as_they_declared_it() {
    let lock = Lock::new("declared").await;
    let scene = lock.scene(WILLING).options(&["--lease", "15s"]).env("CI_JOB_ID", "7");
    let (left, child) = left(scene);
    let before = lock.lease().await.expect("a lease");
    let mut recovering = ours(&left.scene, &["recover", "--wait", "4s"]);
    let recovering = harness::Running::start(recovering.env("CI_JOB_ID", "7"));
    let mut renewed = before;
    while renewed == before {
        assert!(!recovering.is_over(), "{}", recovering.stderr());
        renewed = lock.lease().await.expect("a lease");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(renewed.term, LeaseTerm::After(TTL));
    assert!(renewed.beat > before.beat);
    recovering.finish().expect_code(0);
    assert!(is_gone(child) && !lock.is_held().await);
}

/// One store that does not answer is no reason to leave the rest.
#[tokio::test]
async fn a_run_that_cannot_be_looked_at_does_not_keep_others_from_being_settled() {
    let lock = Lock::new("beside").await;
    let (left, child) = left(lock.scene(LOGS_ALL).env("CI_JOB_ID", "7"));
    kill_dead(child);
    let real = Receipt::all(&left.scene.path(STATE_DIR)).remove(0);
    let mut other = Receipt { path: left.scene.path(STATE_DIR).join("run-0.json"), ..real.clone() };
    other.text["world"]["host"] = json!("another-host");
    other.text["world"]["boot"] = json!("00000000-0000-0000-0000-000000000000");
    other.text["locks"][0]["target"]["store"]["dynamo-db"]["table"] = json!("no-such-table");
    // The oldest comes first.
    fs::remove_file(&real.path).expect("it is there");
    other.write();
    pause(Duration::from_millis(20));
    real.write();
    let done = recover(&left.scene, &[], &[("CI_JOB_ID", "7")]).expect_code(74);
    assert!(done.stderr.contains("no-such-table"), "{}", done.stderr);
    assert!(!lock.is_held().await, "{}", done.stderr);
    assert_eq!(receipts(&left.scene), 1);
}

#[tokio::test]
async fn a_live_run_ends_for_its_own_job_only() {
    let lock = Lock::new("live").await;
    let scene = lock.scene(WILLING).env("CI_JOB_ID", "7");
    let mut running = scene.start().ready();
    let child = running.scene.pid_in("ready");
    let id = lock.id().await.expect("it is held");
    for env in [&[("CI_JOB_ID", "8")][..], &[]] {
        let done = recover(&running.scene, &["--wait", "1s"], env).expect_code(0);
        // Whose it is, and why it is left alone.
        assert!(done.stderr.contains("left alone") && done.stderr.contains(&id), "{}", done.stderr);
        assert!(!done.stderr.contains("nothing to recover"), "{}", done.stderr);
    }
    // Without leave to wait, nobody is told anything.
    recover(&running.scene, &[], &[("CI_JOB_ID", "7")]).expect_code(74);
    pause(Duration::from_millis(300));
    assert!(running.is_running() && lock.is_held().await && running.scene.log().is_empty());
    recover(&running.scene, &["--wait", "20s"], &[("CI_JOB_ID", "7")]).expect_code(0);
    assert!(is_gone(child) && !lock.is_held().await);
    assert_eq!(running.bare_code(), Some(0), "{}", running.stderr());
    assert_eq!(running.scene.count("SIGINT"), 1, "{:?}", running.scene.log());
}

#[tokio::test]
async fn a_guardian_at_work_is_waited_for() {
    let lock = Lock::new("at-work").await;
    let slow = WILLING.replace("after 300", "after 1500");
    let mut running = lock.scene(&slow).env("CI_JOB_ID", "7").start().ready();
    let child = running.scene.pid_in("ready");
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    running.scene.wait_for_log("SIGINT 1");
    let job = [("CI_JOB_ID", "7")];
    recover(&running.scene, &[], &job).expect_code(74);
    assert!(lock.is_held().await && !is_gone(child));
    let done = recover(&running.scene, &["--wait", "30s"], &job).expect_code(0);
    assert!(done.stderr.contains("earlier: interrupted the child"), "{}", done.stderr);
    assert!(is_gone(child) && !lock.is_held().await);
    assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
    assert_eq!(receipts(&running.scene), 0);
}

#[tokio::test]
async fn whoever_has_the_lock_by_now_keeps_it() {
    let lock = Lock::new("robbed").await;
    let (left, child) = left(lock.scene(LOGS_ALL));
    kill_dead(child);
    lock.remove().await;
    lock.hold_as("theirs", 1).await;
    let done = recover(&left.scene, &[], &[]).expect_code(0);
    assert!(done.stderr.contains("no longer held anything"), "{}", done.stderr);
    assert_eq!(lock.id().await.as_deref(), Some("theirs"));
    assert_eq!(receipts(&left.scene), 0);
}

/// Each is a receipt that somebody could have put there, or that means nothing here.
#[tokio::test]
async fn a_forged_receipt_gives_nothing_back() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let lock = Lock::new("forged").await;
    let (left, child) = left(lock.scene(LOGS_ALL));
    kill_dead(child);
    let real = Receipt::all(&left.scene.path(STATE_DIR)).remove(0);
    let scene = &left.scene;

    let mut other = real.clone();
    other.path = scene.path(STATE_DIR).join("run-other.json");
    other.text["locks"][0]["id"] = json!("11111111-2222-3333-4444-555555555555");
    fs::remove_file(&real.path).expect("it is there");
    other.write();
    recover(scene, &[], &[]).expect_code(0);
    assert!(lock.is_held().await, "another ID");
    assert_eq!(receipts(scene), 0);

    fs::write(&real.path, "{\"format\": 1").expect("a file");
    fs::set_permissions(&real.path, fs::Permissions::from_mode(0o600)).expect("a mode");
    let done = recover(scene, &[], &[]).expect_code(0);
    assert!(done.stderr.contains("is left alone"), "{}", done.stderr);
    assert!(lock.is_held().await, "broken JSON");

    fs::remove_file(&real.path).expect("it is there");
    let elsewhere = Receipt { path: scene.path("elsewhere"), ..real.clone() };
    elsewhere.write();
    symlink(&elsewhere.path, &real.path).expect("a link");
    let done = recover(scene, &[], &[]).expect_code(0);
    assert!(done.stderr.contains("is left alone"), "{}", done.stderr);
    assert!(lock.is_held().await, "a link");

    fs::remove_file(&real.path).expect("it is there");
    real.write();
    fs::set_permissions(&real.path, fs::Permissions::from_mode(0o620)).expect("a mode");
    let done = recover(scene, &[], &[]).expect_code(0);
    assert!(done.stderr.contains("is left alone"), "{}", done.stderr);
    assert!(lock.is_held().await, "others may write it");

    // The control: as it was, it does give back.
    fs::set_permissions(&real.path, fs::Permissions::from_mode(0o600)).expect("a mode");
    recover(scene, &[], &[]).expect_code(0);
    assert!(!lock.is_held().await);
}

#[tokio::test]
async fn a_number_that_another_process_has_by_now_is_no_sign_of_life() {
    let lock = Lock::new("reused").await;
    let (left, child) = left(lock.scene(LOGS_ALL).env("CI_JOB_ID", "7"));
    kill_dead(child);
    // Somebody who must not be signalled, under the numbers of the dead.
    let stranger = Scene::unguarded(LOGS_ALL).start_bare().ready();
    let mut receipt = Receipt::all(&left.scene.path(STATE_DIR)).remove(0);
    for process in ["/runner", "/guardian", "/child/leader"] {
        let process = receipt.text.pointer_mut(process).expect("a process");
        process["pid"] = json!(stranger.pid().as_raw());
    }
    receipt.write();
    recover(&left.scene, &["--wait", "2s"], &[("CI_JOB_ID", "7")]).expect_code(0);
    assert!(!lock.is_held().await);
    assert!(stranger.scene.log().is_empty(), "{:?}", stranger.scene.log());
}

/// More than the lease of the locks here, which nobody beats for.
const A_LEASE: &[&str] = &["--wait", "18s"];

/// Somebody else beats for the lock meanwhile.
async fn recover_while_it_beats(scene: &Scene, lock: &Lock, env: Env<'_>) -> Finished {
    let id = lock.id().await.expect("it is held");
    lock.hold_as(&id, 100).await;
    let mut looking = ours(scene, &["recover", "--wait", "18s"]);
    let looking = harness::Running::start(looking.envs(env.iter().copied()));
    let mut beat = 101;
    while !looking.is_over() {
        lock.hold_as(&id, beat).await;
        beat += 1;
        pause(Duration::from_millis(200));
        assert!(beat < 300, "it does not end: {}", looking.stderr());
    }
    looking.finish()
}

#[tokio::test]
async fn another_world_is_dead_only_if_its_locks_stand_still_for_their_whole_lease() {
    let lock = Lock::new("worlds").await;
    let (left, child) = left(lock.scene(LOGS_ALL).env("CI_JOB_ID", "7"));
    kill_dead(child);
    let scene = &left.scene;
    let real = Receipt::all(&scene.path(STATE_DIR)).remove(0);
    let id = lock.id().await.expect("it is held");
    let job = [("CI_JOB_ID", "7")];

    let mut elsewhere = real.clone();
    elsewhere.text["world"]["host"] = json!("another-host");
    elsewhere.text["world"]["boot"] = json!("00000000-0000-0000-0000-000000000000");
    elsewhere.write();
    for env in [&[("CI_JOB_ID", "8")][..], &[]] {
        let done = recover(scene, &["--wait", "1s"], env).expect_code(0);
        assert!(done.stderr.contains("left alone"), "{}", done.stderr);
        assert!(done.stderr.contains(&id), "{}", done.stderr);
        assert!(!done.stderr.contains("nothing to recover"), "{}", done.stderr);
    }
    assert_eq!((lock.id().await.as_ref(), receipts(scene)), (Some(&id), 1), "another machine's");

    // For its own job it is left alone while it beats.
    let done = recover_while_it_beats(scene, &lock, &job).await.expect_code(74);
    assert!(done.stderr.contains("still sends heartbeats"), "{}", done.stderr);
    assert_eq!((lock.id().await.as_ref(), receipts(scene)), (Some(&id), 1));
    // Silence for less than the lease proves nothing, and where it never ends, none does.
    for words in [&[][..], &["--wait", "7s"]] {
        let done = recover(scene, words, &job).expect_code(74);
        for words in ["whole lease of 15s", "tfwrap recover --wait 45s"] {
            assert!(done.stderr.contains(words), "{words:?} in {}", done.stderr);
        }
        assert_eq!((lock.id().await.as_ref(), receipts(scene)), (Some(&id), 1));
    }
    lock.hold_for(&id, 2, LeaseTerm::Never).await;
    let done = recover(scene, &["--wait", "1s"], &job).expect_code(74);
    for words in ["never expires", "make sure", "delete-item", &id] {
        assert!(done.stderr.contains(words), "{words:?} in {}", done.stderr);
    }
    assert_eq!((lock.id().await.as_ref(), receipts(scene)), (Some(&id), 1));
    // It is given back when it stands still for that long.
    lock.hold_as(&id, 3).await;
    recover(scene, A_LEASE, &job).expect_code(0);
    assert_eq!((lock.id().await, receipts(scene)), (None, 0));

    // The same name: the same machine before its last boot, or a clone of it.
    lock.hold_as(&id, 1).await;
    let mut booted = real;
    booted.text["world"]["boot"] = json!("00000000-0000-0000-0000-000000000000");
    // Its numbers mean other processes now.
    let me = std::process::id();
    booted.text["runner"]["pid"] = json!(me);
    booted.write();
    for env in [&job[..], &[("CI_JOB_ID", "8")], &[]] {
        let code = if env == job { 74 } else { 0 };
        let done = recover_while_it_beats(scene, &lock, env).await.expect_code(code);
        assert!(done.stderr.contains("still sends heartbeats"), "{}", done.stderr);
        assert_eq!((lock.id().await.as_ref(), receipts(scene)), (Some(&id), 1));
    }
    recover(scene, A_LEASE, &[]).expect_code(0);
    assert_eq!((lock.id().await, receipts(scene)), (None, 0), "before the boot");
}

#[tokio::test]
async fn a_receipt_that_came_with_the_checkout_is_not_read() {
    let lock = Lock::new("checkout").await;
    let (left, child) = left(lock.scene(LOGS_ALL));
    kill_dead(child);
    let real = Receipt::all(&left.scene.path(STATE_DIR)).remove(0);
    let top = tempfile::tempdir().expect("a directory");
    let checkout = top.path().join("checkout");
    fs::create_dir(&checkout).expect("a directory");
    for dir in [STATE_DIR, "tfwrap", ".local/state/tfwrap", "."] {
        let dir = checkout.join(dir);
        fs::create_dir_all(&dir).expect("a directory");
        Receipt { path: dir.join("run-1.json"), text: real.text.clone() }.write();
    }
    let mut command = harness::tfwrap(&checkout);
    command.env_remove("TFWRAP_STATE_DIR").env("HOME", top.path()).arg("recover");
    run(command.env("CI_PROJECT_DIR", &checkout)).expect_code(0);
    assert!(lock.is_held().await);
    // The control: beside it, where a checkout cannot bring anything, the same is read.
    let beside = top.path().join("checkout.tmp/tfwrap");
    fs::create_dir_all(&beside).expect("a directory");
    Receipt { path: beside.join("run-1.json"), text: real.text }.write();
    run(command.env("CI_PROJECT_DIR", &checkout)).expect_code(0);
    assert!(!lock.is_held().await);
}

/// Two legs of one matrix on one machine: the same run, the same job's name.
#[tokio::test]
async fn the_legs_of_a_matrix_leave_each_other_alone() {
    let (mine, other) = (Lock::new("leg-a").await, Lock::new("leg-b").await);
    let dir = tempfile::tempdir().expect("a directory");
    let leg = |lock: &Lock, tracking: &str| {
        let scene = lock.scene(WILLING).env("GITHUB_ACTIONS", "true");
        let scene = scene.env("GITHUB_RUN_ID", "1").env("GITHUB_JOB", "plan");
        let scene = scene.env("RUNNER_TRACKING_ID", tracking);
        scene.env("TFWRAP_STATE_DIR", &dir.path().display().to_string())
    };
    let mut a = leg(&mine, "github_a").start().ready();
    let mut b = leg(&other, "github_b").start().ready();
    let mut recover = ours(&a.scene, &["recover", "--wait", "20s"]);
    recover.env("TFWRAP_STATE_DIR", dir.path()).env("GITHUB_ACTIONS", "true");
    recover.env("GITHUB_RUN_ID", "1").env("GITHUB_JOB", "plan");
    run(recover.env("RUNNER_TRACKING_ID", "github_a")).expect_code(0);
    assert!(!a.is_running() && !mine.is_held().await);
    assert!(b.is_running() && other.is_held().await && b.scene.log().is_empty());
    run(recover.env("RUNNER_TRACKING_ID", "github_b")).expect_code(0);
    assert!(!b.is_running() && !other.is_held().await);
}
