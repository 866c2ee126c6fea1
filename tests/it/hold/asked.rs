//! `release` has a word of its own: however often it is called, nobody under the hold is interrupted.
//! And it never says that nothing is held while something is.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::turns::Held;
use super::{Holding, release};
use crate::aftermath::{Lock, Receipt, STATE_DIR};
use crate::support::harness::{Gate, Running, pause, run};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::dynamodb;
use crate::wrapped::{LOGS_ALL, is_gone, state, wait_until, wrapper};

fn keeper(held: &Held) -> Pid {
    let all = Receipt::all(&held.path().join(STATE_DIR)).into_iter();
    all.filter(Receipt::is_hold).map(|it| it.runner()).next().expect("a keeper")
}

/// `timeout 2 tfwrap release; tfwrap release`, and a trap beside a call.
#[test]
fn a_second_release_waits_too_and_interrupts_nobody() {
    let held = Held::begin(&[]);
    let gate = Gate::new(held.path(), "under-way");
    let apply = Running::start(&mut held.apply(&gate.command()));
    gate.reached();
    let tfwrap = wrapper().display().to_string();
    let limited = held.command(&["timeout", "2", &tfwrap, "release"]);
    let limited = run(&mut { limited }).expect_code(124);
    assert!(limited.stderr.contains("still runs under the lock"), "{}", limited.stderr);
    let others = [Running::start(&mut held.release()), Running::start(&mut held.release())];
    for other in &others {
        other.says("is already being released");
    }
    pause(Duration::from_millis(500));
    assert!(!apply.is_over() && held.is_held());
    gate.open();
    let applied = apply.finish().expect_code(0);
    assert!(!applied.stdout.contains("nterrupt"), "{}", applied.stdout);
    for other in others {
        other.finish().expect_code(0);
    }
    assert!(!held.is_held());
}

/// The control: a signal to the keeper keeps its meaning.
#[test]
fn a_second_signal_to_the_keeper_ends_who_runs_under_the_hold() {
    let held = Held::begin(&[]);
    let gate = Gate::new(held.path(), "ended");
    let apply = Running::start(&mut held.apply(&gate.command()));
    gate.reached();
    let releasing = Running::start(&mut held.release());
    releasing.says("still runs under the lock");
    kill(keeper(&held), Signal::SIGTERM).expect("it is there");
    let applied = apply.finish();
    assert!(applied.stdout.contains("nterrupt"), "{}", applied.stdout);
    releasing.finish().expect_code(0);
    assert!(!held.is_held());
}

#[test]
fn a_keeper_that_was_stopped_hears_of_the_release() {
    let held = Held::begin(&[]);
    let keeper = keeper(&held);
    kill(keeper, Signal::SIGSTOP).expect("it is there");
    wait_until("its stop", || (state(keeper) == Some('T')).then_some(()));
    run(&mut held.release()).expect_code(0);
    assert!(is_gone(keeper) && !held.is_held());
}

/// `trap 'tfwrap release' EXIT` in a script that is run under the hold by `tfwrap run`.
#[test]
fn a_release_below_a_command_that_it_would_wait_for_refuses() {
    let held = Held::begin(&[]);
    let tfwrap = wrapper().display().to_string();
    let script = format!("trap '{tfwrap} release; echo code $?' EXIT; terraform plan -no-color");
    let mut command = held.command(&[&tfwrap, "run", "--", "sh", "-c", &script]);
    let done = run(&mut command).expect_code(0);
    assert!(done.stdout.contains("code 74"), "{}\n{}", done.stdout, done.stderr);
    assert!(done.stderr.contains("each would wait for the other"), "{}", done.stderr);
    assert!(held.is_held());
    run(&mut held.release()).expect_code(0);
    assert!(!held.is_held());
}

/// What no receipt tells of is looked for where it is held.
#[tokio::test]
async fn a_hold_without_a_receipt_is_still_held() {
    let lock = Lock::new("lost-receipt").await;
    let scene = lock.scene("");
    let hold = Holding::begin(&scene, &[]);
    let id = lock.id().await.expect("it is held");
    let elsewhere = scene.path("elsewhere").display().to_string();
    let mut env = hold.env.clone();
    env.retain(|(name, _)| name != "TFWRAP_STATE_DIR");
    env.push(("TFWRAP_STATE_DIR".to_owned(), elsewhere.clone()));
    for there in [false, true] {
        if there {
            fs::create_dir(&elsewhere).expect("a directory");
        }
        let done = run(&mut release(&scene, &env, &[])).expect_code(74);
        let says = done.stderr;
        assert!(says.contains(&id) && says.contains("is still held by"), "{says}");
        assert!(says.contains("lock-keeper") && !says.contains("nothing is held"), "{says}");
    }
    assert_eq!(lock.id().await, Some(id));
    run(&mut release(&scene, &hold.env, &[])).expect_code(0);
    hold.is_over();
    // The control: when it is over, so it says.
    let done = run(&mut release(&scene, &env, &[])).expect_code(0);
    assert!(done.stderr.contains("nothing is held"), "{}", done.stderr);
}

/// Nor where neither the receipt nor what lies beside the lock tells whose it is.
#[test]
fn a_hold_whose_receipt_cannot_be_read_is_still_held() {
    let held = Held::begin(&[]);
    let mut files = fs::read_dir(held.path().join(STATE_DIR)).expect("a directory");
    let is_receipt = |path: &Path| path.extension().is_some_and(|it| it == "json");
    let receipt = files.find_map(|it| Some(it.ok()?.path()).filter(|path| is_receipt(path)));
    let receipt = receipt.expect("a receipt");
    let info = held.path().join(".terraform.tfstate.lock.info");
    let told = fs::read(&info).expect("an info");
    fs::remove_file(&info).expect("it is there");
    // Root reads what nobody may, but not what others can.
    fs::set_permissions(&receipt, Permissions::from_mode(0o644)).expect("a mode");
    let says = run(&mut held.release()).expect_code(74).stderr;
    assert!(says.contains("is still held") && says.contains("others can read"), "{says}");
    assert!(!says.contains("nothing is held") && held.is_held(), "{says}");
    fs::set_permissions(&receipt, Permissions::from_mode(0o600)).expect("a mode");
    fs::write(&info, told).expect("the info");
    run(&mut held.release()).expect_code(0);
    assert!(!held.is_held());
}

/// A release does not wait for ever, and says what it waits for.
#[tokio::test]
async fn a_release_gives_up_with_a_word() {
    let lock = Lock::new("never-ends").await;
    let scene = lock.scene(LOGS_ALL);
    let hold = Holding::begin(&scene, &[]);
    let apply = hold.apply(&scene);
    let child = scene.pid_in("ready");
    let receipts = Receipt::all(&scene.path(STATE_DIR)).into_iter();
    let below = receipts.filter(|it| !it.is_hold()).map(|it| it.runner()).next().expect("a run");
    let mut env = hold.env.clone();
    env.push(("TFWRAP_LOCK_TIMEOUT".to_owned(), "7s".to_owned()));
    let done = run(&mut release(&scene, &env, &[])).expect_code(74);
    assert!(done.stderr.contains("(5s of up to 7s)"), "{}", done.stderr);
    assert!(done.stderr.contains(&format!("process {below}")), "{}", done.stderr);
    assert!(lock.is_held().await && scene.log().is_empty(), "{:?}", scene.log());
    kill(child, Signal::SIGUSR1).expect("the child is there");
    apply.finish().expect_code(5);
    run(&mut release(&scene, &hold.env, &[])).expect_code(0);
    assert!(!lock.is_held().await);
    hold.is_over();
}

/// The store is what it waits for, and only for what is left.
#[tokio::test]
async fn a_release_that_the_store_does_not_confirm_blames_nobody_who_runs_under_it() {
    let lock = Lock::new("unconfirmed").await;
    let proxy = Proxy::before(&dynamodb().url);
    let scene = lock.scene_at(proxy.url(), LOGS_ALL);
    let further = format!("file://{}", scene.path("further").display());
    let item = lock.url_at(proxy.url());
    let hold = Holding::begin(&scene, &["--lock", &item, "--lock", &further]);
    proxy.plan([Rule::on("DeleteItem", Fault::SERVER_ERROR)]);
    let mut env = hold.env.clone();
    env.push(("TFWRAP_LOCK_TIMEOUT".to_owned(), "12s".to_owned()));
    let done = run(&mut release(&scene, &env, &[])).expect_code(74);
    proxy.plan([]);
    assert!(done.stderr.contains("has not confirmed the release yet"), "{}", done.stderr);
    assert!(!done.stderr.contains("fuser"), "{}", done.stderr);
    let waits = done.stderr.lines().find(|line| line.contains("still waiting")).expect("a word");
    assert!(!waits.contains(&further) && waits.contains("dynamodb://"), "{waits}");
    run(&mut release(&scene, &hold.env, &[])).expect_code(0);
    hold.is_over();
}

/// Its terminal is another one, and nobody there knows of the release.
#[test]
fn who_stands_still_under_the_hold_is_named_and_continued_by_its_release() {
    let held = Held::begin(&[]);
    let gate = Gate::new(held.path(), "standing");
    let apply = Running::start(&mut held.apply(&gate.command()));
    gate.reached();
    apply.signal(Signal::SIGSTOP);
    gate.open();
    let releasing = Running::start(&mut held.release());
    releasing.says("was stopped by a signal");
    let applied = apply.finish().expect_code(0);
    assert!(!applied.stdout.contains("nterrupt"), "{}", applied.stdout);
    releasing.finish().expect_code(0);
    assert!(!held.is_held());
}

/// A variable of our own that somebody has set: the keeper is no stand-in.
#[test]
fn a_keeper_is_one_whatever_its_environment_says() {
    let held = Held::nothing();
    let words = [wrapper().display().to_string(), "hold".to_owned()];
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    run(held.command(&words).env("LOCK_STAND_IN", "yes")).expect_code(0);
    assert!(held.is_held());
    run(&mut held.release()).expect_code(0);
    assert!(!held.is_held());
}

/// A step that cleans up has removed the directory that it works in.
#[test]
fn release_and_recover_need_no_working_directory() {
    let held = Held::begin(&[]);
    let tfwrap = wrapper().display().to_string();
    for (command, code) in [("recover", 0), ("status", 78), ("release", 0)] {
        let script = format!("mkdir w && cd w && rmdir ../w && exec {tfwrap} {command}");
        let ended = run(&mut held.command(&["sh", "-c", &script])).expect_code(code);
        if code == 78 {
            assert!(ended.stderr.contains("change to one that exists"), "{}", ended.stderr);
        }
    }
    assert!(!held.is_held());
}

#[test]
fn what_a_hold_said_before_its_end_is_said_once() {
    let held = Held::begin(&["--max-hold", "1s"]);
    wait_until("the end of the hold", || (!held.is_held()).then_some(()));
    let said = run(&mut held.release()).expect_code(0).stderr;
    assert_eq!(said.matches("the maximum").count(), 1, "{said}");
}
