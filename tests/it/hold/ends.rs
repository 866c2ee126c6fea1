//! Ends that nobody meant: whoever is killed, a lock of a hold is free when nobody runs under it,
//! and not before.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::turns::Held;
use super::{Holding, holds, in_scene, release};
use crate::aftermath::{EndsHolds, Lock, Receipt, STATE_DIR, kill_dead, ours, uptime_ms};
use crate::support::harness::{Gate, Running, eventually, pause, run, tfwrap};
use crate::support::servers::{local_backend_dir, terraform};
use crate::wrapped::{LOGS_ALL, Scene, is_gone, only_child, state, uptime, wait_until, wrapper};

/// How long what a killed command was about to start may appear.
const MAY_APPEAR_FOR: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_killed_keepers_lock_is_given_back() {
    let lock = Lock::new("keeper").await;
    let scene = lock.scene(LOGS_ALL);
    let hold = Holding::begin(&scene, &[]);
    kill_dead(hold.keeper);
    lock.freed().await;
    hold.is_over();
    run(&mut ours(&scene, &["recover"])).expect_code(0);

    // With its guardian: by whoever looks.
    let hold = Holding::begin(&scene, &[]);
    kill(hold.keeper, Signal::SIGSTOP).expect("it is there");
    kill_dead(hold.guardian);
    kill_dead(hold.keeper);
    assert!(lock.is_held().await);
    run(&mut ours(&scene, &["recover"])).expect_code(0);
    assert!(!lock.is_held().await);
}

/// A guardian that was stopped ends nothing, and nobody who waits for that would ever get on: not
/// the next command, nor the release.
#[tokio::test]
async fn who_waits_for_what_a_stopped_guardian_is_to_end_continues_it() {
    let stop = |pid: Pid| {
        kill(pid, Signal::SIGSTOP).expect("it is there");
        wait_until("its stop", || (state(pid) == Some('T')).then_some(()));
    };
    let script = "log @/log; on SIGINT exit 0 after 300; ready @/ready; wait";
    for waiter in ["turn", "release", "keeper"] {
        let lock = Lock::new(&format!("stopped-{waiter}")).await;
        let scene = lock.scene(script);
        let hold = Holding::begin(&scene, &[]);
        let releasing = || Running::start(&mut release(&scene, &hold.env, &[]));
        if waiter == "keeper" {
            stop(hold.guardian);
            kill_dead(hold.keeper);
            let released = releasing();
            released.says(&format!("kill -CONT {}", hold.guardian));
            released.finish().expect_code(0);
            assert!(!lock.is_held().await);
            continue;
        }
        let first = hold.apply(&scene);
        let child = scene.pid_in("ready");
        let guardian = wait_until("its guardian", || {
            let all = Receipt::all(&scene.path(STATE_DIR)).into_iter();
            all.filter(|it| !it.is_hold() && !it.text["child"].is_null())
                .find_map(|it| it.guardian())
        });
        stop(guardian);
        kill_dead(first.pid());
        let next = if waiter == "turn" { hold.apply(&scene) } else { releasing() };
        if waiter == "turn" {
            next.says(&format!("kill -CONT {guardian}"));
            scene.pid_in("ready");
            next.signal(Signal::SIGTERM);
        }
        let done = next.finish().expect_code(0);
        assert!(done.stderr.contains(&format!("kill -CONT {guardian}")), "{}", done.stderr);
        assert!(is_gone(child), "{waiter}");
        drop(first.finish());
        releasing().finish().expect_code(0);
        assert!(!lock.is_held().await, "{waiter}");
        let interrupts = if waiter == "turn" { 2 } else { 1 };
        assert_eq!(scene.count("SIGINT"), interrupts, "{waiter}: {:?}", scene.log());
    }
}

/// The kernel's lock, by the descriptor that the keeper has lent.
#[test]
fn a_killed_keepers_local_lock_stays_while_somebody_runs_under_it() {
    let scene = Scene::new(LOGS_ALL);
    let hold = Holding::begin(&scene, &[]);
    let apply = hold.apply(&scene);
    let child = scene.pid_in("ready");
    kill_dead(hold.keeper);
    pause(Duration::from_secs(1));
    assert!(!is_gone(hold.guardian) && scene.log().is_empty(), "{:?}", scene.log());
    kill(child, Signal::SIGUSR1).expect("the child is there");
    apply.finish().expect_code(5);
    hold.is_over();
    scene.expect_free();
}

/// A free lock with a Terraform that lives is worse than a stuck lock.
#[tokio::test]
async fn a_killed_keepers_lock_stays_while_somebody_runs_under_it() {
    let lock = Lock::new("keeper-used").await;
    let scene = lock.scene(LOGS_ALL);
    let hold = Holding::begin(&scene, &[]);
    let id = lock.id().await;
    let apply = hold.apply(&scene);
    let child = scene.pid_in("ready");
    kill_dead(hold.keeper);
    pause(Duration::from_secs(1));
    assert_eq!(lock.id().await, id, "given back under a child");
    assert!(scene.log().is_empty(), "{:?}", scene.log());
    kill(child, Signal::SIGUSR1).expect("the child is there");
    apply.finish().expect_code(5);
    lock.freed_after(child).await;
    hold.is_over();
}

/// Its own heartbeats keep the lock of a hold of which nobody is left, and tell it of the loss.
#[tokio::test]
async fn a_command_keeps_the_lock_above_it_when_the_keeper_and_its_guardian_are_killed() {
    let lock = Lock::new("keeper-gone").await;
    let scene = lock.scene(LOGS_ALL);
    let hold = Holding::begin(&scene, &["--lease", "15s"]);
    let apply = hold.apply(&scene);
    let child = scene.pid_in("ready");
    // Both at once: neither may end what the other began.
    kill(hold.keeper, Signal::SIGSTOP).expect("it is there");
    kill_dead(hold.guardian);
    kill_dead(hold.keeper);
    let first = lock.lease().await.expect("a lease").beat;
    let mut beat = first;
    for _ in 0..500 {
        beat = lock.lease().await.expect("a lease").beat;
        if beat > first + 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(beat > first + 1, "nobody beats");
    lock.remove().await;
    scene.wait_for_log("SIGINT 1");
    kill(child, Signal::SIGUSR1).expect("the child is there");
    apply.finish().expect_code(76);
}

/// Whom a release waits for when the keeper is killed: its guardian, be it the first or another.
#[tokio::test]
async fn a_release_waits_for_the_guardian_that_took_anothers_place() {
    let lock = Lock::new("guardian-replaced").await;
    let scene = lock.scene(LOGS_ALL);
    let hold = Holding::begin(&scene, &[]);
    let apply = hold.apply(&scene);
    let child = scene.pid_in("ready");
    let releasing = Running::start(&mut release(&scene, &hold.env, &[]));
    releasing.says("still runs under the lock");
    kill_dead(hold.guardian);
    wait_until("another guardian", || {
        let now = holds(&scene).first().and_then(Receipt::guardian);
        now.filter(|it| *it != hold.guardian)
    });
    kill_dead(hold.keeper);
    releasing.says("is ending what it left behind");
    pause(Duration::from_millis(500));
    assert!(lock.is_held().await && !releasing.is_over(), "{}", releasing.stderr());
    kill(child, Signal::SIGUSR1).expect("the child is there");
    let said = releasing.finish().expect_code(0).stderr;
    assert!(!lock.is_held().await);
    apply.finish().expect_code(5);
    // What was said earlier is told once.
    for line in ["earlier: asked to release the lock", "earlier: released the lock"] {
        assert_eq!(said.matches(line).count(), 1, "{said}");
    }
}

/// The keeper, the command under its hold and both guardians are killed at once: their Terraform goes
/// on, and is waited for as long as a release waits.
#[test]
fn a_release_waits_for_what_runs_under_a_hold_of_which_nobody_is_left() {
    let held = Held::begin(&[]);
    let gate = Gate::new(held.path(), "work");
    let apply = Running::start(&mut held.apply(&gate.command()));
    gate.reached();
    let all = wait_until("its receipts", || {
        let all = Receipt::all(&held.path().join(STATE_DIR));
        let works = all.iter().any(|it| !it.text["child"].is_null());
        (all.len() == 2 && works).then_some(all)
    });
    let child = all.iter().find_map(Receipt::child).expect("a child");
    // All at once: nobody may end what another began.
    for receipt in &all {
        kill(receipt.runner(), Signal::SIGSTOP).expect("it is there");
    }
    for receipt in &all {
        kill_dead(receipt.guardian().expect("a guardian"));
        kill_dead(receipt.runner());
    }
    let mut release = held.release();
    let done = run(release.env("TFWRAP_LOCK_TIMEOUT", "1s")).expect_code(74).stderr;
    assert!(done.contains(" run under a lock of the hold of process"), "{done}");
    assert!(done.contains(&format!("end it once with `kill -INT {child}`")), "{done}");
    let releasing = Running::start(&mut held.release());
    pause(Duration::from_secs(1));
    assert!(!releasing.is_over() && !is_gone(child), "{}", releasing.stderr());
    gate.open();
    releasing.finish().expect_code(0);
    assert!(is_gone(child));
    drop(apply.finish());
    run(terraform(held.path()).args(["plan", "-no-color"])).expect_code(0);
}

/// What runs under a hold has a guardian of its own; the lock stays the keeper's.
#[tokio::test]
async fn a_killed_run_under_a_hold_is_ended_and_the_hold_goes_on() {
    let lock = Lock::new("run-used").await;
    let scene = lock.scene("log @/log; on SIGINT exit 0 after 500; ready @/ready; wait");
    let hold = Holding::begin(&scene, &[]);
    let id = lock.id().await;
    let apply = hold.apply(&scene);
    let child = scene.pid_in("ready");
    apply.signal(Signal::SIGKILL);
    drop(apply.finish());
    scene.wait_for_log("SIGINT 1");
    // It waits for that guardian and that child, too.
    run(&mut release(&scene, &hold.env, &[])).expect_code(0);
    assert!(is_gone(child) && !lock.is_held().await);
    assert_eq!(scene.log().len(), 1, "{:?}", scene.log());
    assert!(id.is_some());
    hold.is_over();
}

/// However the foreground of a `hold` that waits is ended, nothing of it is left.
#[test]
fn a_hold_that_waits_ends_with_its_foreground() {
    let holder = Scene::new(LOGS_ALL).start().ready();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let _ends = EndsHolds(holder.scene.path(STATE_DIR));
        let wrapper = wrapper().display().to_string();
        let waiting = Running::start(&mut in_scene(&holder.scene, &[], &[&wrapper, "hold"]));
        waiting.says("waiting");
        let hold = holds(&holder.scene).remove(0);
        waiting.signal(signal);
        let done = waiting.finish();
        let code = (signal != Signal::SIGKILL).then_some(128 + signal as i32);
        assert_eq!((done.status.code(), &*done.stdout), (code, ""), "{}", done.stderr);
        for pid in [Some(hold.runner()), hold.guardian()].into_iter().flatten() {
            wait_until("its end", || is_gone(pid).then_some(()));
        }
        assert_eq!(holds(&holder.scene).len(), 0, "{signal}");
        assert!(holder.scene.log().is_empty(), "the holder's child heard of it");
    }
}

/// Also when it is killed before the keeper can know.
#[test]
fn a_hold_whose_foreground_is_killed_at_once_leaves_nothing_that_waits() {
    let holder = Scene::new(LOGS_ALL).start().ready();
    let _ends = EndsHolds(holder.scene.path(STATE_DIR));
    for _ in 0..8 {
        let wrapper = wrapper().display().to_string();
        let waiting = Running::start(&mut in_scene(&holder.scene, &[], &[&wrapper, "hold"]));
        let keeper = wait_until("the keeper", || only_child(waiting.pid()));
        waiting.signal(Signal::SIGKILL);
        wait_until("the keeper's end", || is_gone(keeper).then_some(()));
        drop(waiting.finish());
    }
    wait_until("no receipt", || holds(&holder.scene).is_empty().then_some(()));
}

/// A lock that nobody knows of helps nobody.
#[tokio::test]
async fn a_hold_that_cannot_say_what_it_holds_gives_it_back() {
    let lock = Lock::new("unsaid").await;
    let scene = lock.scene("");
    let _ends = EndsHolds(scene.path(STATE_DIR));
    for words in ["$TFWRAP hold > /dev/full", "$TFWRAP hold --format github"] {
        let done = run(&mut in_scene(&scene, &[], &["sh", "-c", words])).expect_code(78);
        assert!(done.stderr.contains("the lock is released"), "{}", done.stderr);
        assert!(!lock.is_held().await && holds(&scene).is_empty(), "{words}");
    }
}

/// What runs under a hold is ended before it, and each is told in time.
#[tokio::test]
async fn a_recovery_ends_holds_and_whoever_runs_under_them() {
    let lock = Lock::new("all-ended").await;
    let script = "log @/log; on SIGINT exit 0 after 300; ready @/ready; wait";
    let scene = lock.scene(script).env("CI_JOB_ID", "7");
    let hold = Holding::begin(&scene, &[]);
    let wrapper = wrapper().display().to_string();
    run(&mut in_scene(&scene, &hold.env, &[&wrapper, "hold"])).expect_code(0);
    let apply = hold.apply(&scene);
    let child = scene.pid_in("ready");
    let recover = [&wrapper, "recover", "--wait", "60s"];
    let since = uptime();
    run(&mut in_scene(&scene, &[], &recover)).expect_code(0);
    let took = uptime().since(since);
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(is_gone(child) && !lock.is_held().await);
    assert_eq!(scene.log().len(), 1, "{:?}", scene.log());
    apply.finish().expect_code(0);
    assert_eq!(Receipt::all(&scene.path(STATE_DIR)).len(), 0);
}

/// As act, Gitea and Forgejo set a job up: no runner tracks it, and every run is number 1.
#[tokio::test]
async fn the_post_step_of_a_job_that_no_runner_tracks_ends_its_hold() {
    let lock = Lock::new("untracked").await;
    let scene = lock.scene("").env("GITHUB_ACTIONS", "true").env("ACT", "true");
    let scene = scene.env("GITHUB_RUN_ID", "1").env("GITHUB_JOB", "apply");
    let hold = Holding::begin(&scene, &[]);
    let wrapper = wrapper().display().to_string();
    let recover = ["env", "RUNNER_TRACKING_ID=", &wrapper, "recover", "--wait", "30s"];
    let leg = |dir: &str| vec![("GITHUB_WORKSPACE".to_owned(), dir.to_owned())];
    let other = run(&mut in_scene(&scene, &leg("/other"), &recover)).expect_code(0);
    assert!(other.stderr.contains("it belongs to another CI job"), "{}", other.stderr);
    assert!(lock.is_held().await && !is_gone(hold.keeper));
    run(&mut in_scene(&scene, &[], &recover)).expect_code(0);
    assert!(!lock.is_held().await);
    hold.is_over();
}

/// A keeper may have been started where colours were wanted; who reads its log later is elsewhere.
#[test]
fn what_a_keeper_said_in_colours_is_told_without() {
    let dir = local_backend_dir();
    let file = dir.path().join("x");
    let lock = format!("file://{}", file.display());
    let options = ["--color", "always", "--no-backend-lock", "--lock", &lock, "--lease", "15s"];
    let hold = run(tfwrap(dir.path()).args(options).arg("hold")).expect_code(0);
    assert!(hold.stdout.contains("TFWRAP_HOLD="), "{}", hold.stdout);
    std::fs::remove_file(file).unwrap();
    let logged = || {
        let files = std::fs::read_dir(dir.path().join(STATE_DIR)).unwrap();
        let texts = files.filter_map(|it| std::fs::read(it.unwrap().path()).ok());
        texts.map(|it| String::from_utf8_lossy(&it).into_owned()).find(|it| it.contains("was lost"))
    };
    eventually("the hold has lost its lock", || logged().is_some());
    assert!(logged().unwrap().contains("\u{1b}["), "{:?}", logged());
    let told = run(tfwrap(dir.path()).arg("release")).stderr;
    assert!(told.contains("earlier: ") && told.contains("was lost"), "{told}");
    assert!(!told.contains(['\u{1b}', '\u{fffd}']), "{told}");
}

/// Who waits for a hold that was begun here waits for oneself, perhaps.
#[test]
fn who_waits_for_a_hold_of_this_machine_is_told_so() {
    let dir = local_backend_dir();
    let lock = format!("file://{}/x", dir.path().display());
    let asked = |words: &[&str]| {
        let options = ["--no-backend-lock", "--lock", &lock, "--lock-timeout", "1s"];
        run(tfwrap(dir.path()).args(options).args(words))
    };
    asked(&["hold"]).expect_code(0);
    let said = asked(&["run", "--", "true"]).expect_code(75).stderr;
    assert!(said.contains("warning: a `hold` of this machine has the lock"), "{said}");
    assert_eq!(said.matches("hint: to run under it, `eval` what `tfwrap hold` printed").count(), 2);
    let (_, fix) = said.split_once("to end it: `tfwrap ").expect(&said);
    let words: Vec<_> = fix.split('`').next().unwrap().split(' ').collect();
    run(tfwrap(dir.path()).args(words)).expect_code(0);
    assert_eq!(asked(&["run", "--", "true"]).expect_code(0).stderr, "");
}

/// Killed with its guardian between the start of its Terraform and the note of it: what no receipt
/// names is looked for, and what is not there keeps nothing.
#[tokio::test]
async fn a_command_killed_while_it_started_its_terraform_keeps_the_lock_as_long_as_that_runs() {
    for lives in [true, false] {
        let lock = Lock::new(&format!("starting-{lives}")).await;
        let scene = lock.scene(LOGS_ALL);
        let hold = Holding::begin(&scene, &[]);
        let apply = hold.apply(&scene);
        let child = scene.pid_in("ready");
        let mut receipt = wait_until("its receipt", || {
            let mut all = Receipt::all(&scene.path(STATE_DIR)).into_iter();
            all.rfind(|it| !it.is_hold() && !it.text["child"].is_null())
        });
        // Both at once: neither may end what the other began.
        kill(apply.pid(), Signal::SIGSTOP).expect("it is there");
        kill_dead(receipt.guardian().expect("a guardian"));
        kill_dead(apply.pid());
        if !lives {
            kill_dead(child);
        }
        receipt.text["child"] = serde_json::Value::Null;
        receipt.text["starting_since"] = uptime_ms().into();
        receipt.write();
        let releasing = Running::start(&mut release(&scene, &hold.env, &[]));
        if lives {
            releasing.says(&format!("process {child} "));
            pause(MAY_APPEAR_FOR);
            assert!(lock.is_held().await && !is_gone(child) && !releasing.is_over());
            kill(child, Signal::SIGUSR1).expect("it is there");
        }
        releasing.finish().expect_code(0);
        assert!(!lock.is_held().await);
        drop(apply.finish());
        hold.is_over();
    }
}
