//! The check while others run: after a wait, below a `run` and a `hold`, and under a stop.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::harness::{Gate, Running, applying, run, tfwrap};
use crate::support::proxy::{Fault, Rule};
use crate::support::servers::terraform;

use super::{CiRun, MAIN, Scene};

/// The run before gives the lock back first, and then writes that it is over.
#[tokio::test]
async fn whoever_waited_for_the_newer_one_sees_its_entry() {
    let scene = Scene::new("waited").await;
    let (first, _) = (scene.commit(), scene.commit());
    let gate = Gate::new(&scene.dir, "ran.gate");
    let newer = Running::start(&mut applying(tfwrap(&scene.dir), &gate.command()));
    gate.reached();
    scene.check_out(&first);
    let mut older = tfwrap(&scene.dir);
    older.args(["--outdated", "skip"]);
    let older = Running::start(&mut applying(older, "touch ran.tmp"));
    older.says("waiting");
    let key = scene.history();
    scene.stage.proxy.plan([Rule::on("PutItem", Fault::Hold).key(&key).times(1)]);
    let reads = scene.reads();
    gate.open();
    // The newer run has read it before; the older one does not find it, and looks again.
    scene.stage.proxy.arrived(&format!("PutItem {key}"), 1).await;
    scene.stage.proxy.arrived(&format!("GetItem {key}"), reads + 2).await;
    scene.stage.proxy.release();
    newer.finish().expect_code(0);
    let done = older.finish().expect_code(0);
    assert!(done.stderr.contains("outdated, Terraform is not started"), "{}", done.stderr);
    assert_eq!(done.stdout, "");
    assert_eq!(scene.stage.info().await, None);
}

/// A newer run that is told to say so in its entry, and an older one that waits for it, as far as the lock.
struct Pair {
    newer: Running,
    older: Running,
}

impl Pair {
    /// Both are to write this fault's entry.
    fn of(scene: &Scene, newer: &[&str], fault: Fault) -> Self {
        let (first, _) = (scene.commit(), scene.commit());
        let gate = Gate::new(&scene.dir, "ran.gate");
        let mut command = tfwrap(&scene.dir);
        command.args(newer);
        let newer = Running::start(&mut applying(command, &gate.command()));
        gate.reached();
        scene.check_out(&first);
        let older = Running::start(&mut scene.applying(&["--outdated", "fail"]));
        older.says("waiting");
        let key = scene.history();
        scene.stage.proxy.plan([Rule::on("PutItem", fault).key(&key).times(1)]);
        gate.open();
        Self { newer, older }
    }
}

/// Its store may be slow; whoever waited for it waits on.
#[tokio::test]
async fn an_entry_that_comes_late_is_waited_for() {
    let scene = Scene::new("late").await;
    let Pair { newer, older } = Pair::of(&scene, &["--outdated", "fail"], Fault::Hold);
    let newer = newer.finish().expect_code(0);
    for words in
        ["warning: this run may be missing", "no answer within 1s", "`tfwrap history` shows"]
    {
        assert!(newer.stderr.contains(words), "{words}: {}", newer.stderr);
    }
    older.says("waiting up to 10s until the apply by ");
    let state = scene.state().await;
    scene.stage.proxy.release();
    let done = older.finish().expect_code(79);
    assert!(done.stderr.contains("outdated, Terraform is not started"), "{}", done.stderr);
    assert!(!done.stderr.contains("cannot tell"), "{}", done.stderr);
    assert_eq!(scene.state().await, state);
}

/// Nobody knows then which commit it was of.
#[tokio::test]
async fn an_entry_that_never_comes_is_said() {
    let scene = Scene::new("missing").await;
    let Pair { newer, older } = Pair::of(&scene, &[], Fault::DENIED);
    let newer = newer.finish().expect_code(0);
    assert!(!newer.stderr.contains("missing"), "it compares nothing: {}", newer.stderr);
    let done = older.finish().expect_code(0);
    for words in [
        "warning: `--outdated fail` cannot tell whether this run is outdated, and it goes on: the apply by ",
        "which had the lock before, is not in the history of `",
        "`tfwrap history` shows",
    ] {
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
    assert!(done.stdout.contains("Apply complete!"), "{}", done.stdout);
}

/// It never writes to a history.
#[tokio::test]
async fn after_stock_terraform_no_entry_is_waited_for() {
    let scene = Scene::new("after-stock").await;
    scene.commit();
    let gate = Gate::new(&scene.dir, "ran.gate");
    let stock = Running::start(&mut applying(terraform(&scene.dir), &gate.command()));
    gate.reached();
    let ours = Running::start(&mut scene.applying(&["--outdated", "fail"]));
    ours.says("waiting");
    let reads = scene.reads();
    gate.open();
    stock.finish().expect_code(0);
    let done = ours.finish().expect_code(0);
    assert!(!done.stderr.contains("cannot tell"), "{}", done.stderr);
    assert_eq!(scene.reads() - reads, 2, "one is for its own entry");
}

#[tokio::test]
async fn below_a_run_and_a_hold_each_apply_compares_itself_under_their_lock() {
    let scene = Scene::new("below").await;
    let (first, second) = (scene.commit(), scene.commit());
    let script = |scene: &Scene| {
        let change = scene.change();
        format!("terraform apply -auto-approve -no-color -var \"{change}\"; echo code $?")
    };
    let around = |options: &[&str]| {
        let mut command = tfwrap(&scene.dir);
        command.args(options).args(["run", "--", "sh", "-c", &script(&scene)]);
        run(&mut command).expect_code(0)
    };
    // A run that applied nothing is nothing to compare with.
    run(tfwrap(&scene.dir).args(["run", "--", "true"])).expect_code(0);
    scene.check_out(&first);
    let done = around(&["--outdated", "fail"]);
    assert!(done.stdout.contains("code 0"), "{}\n{}", done.stdout, done.stderr);
    scene.check_out(&second);
    assert!(around(&[]).stdout.contains("code 0"));
    scene.check_out(&first);
    // What was applied below a run counts for one alone, and the other way round.
    scene.is_outdated(None, &[&second[..7]]).await;
    let before = (scene.state().await, scene.ran());
    for (option, code) in [("skip", "code 0"), ("fail", "code 79")] {
        let done = around(&["--outdated", option]);
        assert!(done.stderr.contains("outdated, Terraform is not started"), "{}", done.stderr);
        assert_eq!(done.stdout.trim(), code);
    }
    let shown = run(tfwrap(&scene.dir).args(["hold", "--format", "json"])).expect_code(0);
    let held: Value = serde_json::from_str(&shown.stdout).unwrap();
    let mut inside = scene.applying(&["--outdated", "fail"]);
    for name in ["TFWRAP_HELD", "TFWRAP_STATE_DIR"] {
        inside.env(name, held["env"][name].as_str().expect(&shown.stdout));
    }
    run(&mut inside).expect_code(79);
    assert!(scene.stage.info().await.is_some(), "the hold keeps its lock");
    run(tfwrap(&scene.dir).arg("release")).expect_code(0);
    assert_eq!((scene.state().await, scene.ran()), before);
    // `history` shows the runs that took the lock, each once.
    let shown = run(tfwrap(&scene.dir).args(["history", "--format=json", "--limit=100"]));
    let shown: Value = serde_json::from_str(&shown.expect_code(0).stdout).unwrap();
    let is_apply = |run: &&Value| run["operation"] == "OperationTypeApply";
    let applies = shown["runs"].as_array().unwrap().iter().filter(is_apply).count();
    assert_eq!(applies, 2, "those that were skipped alone: {shown}");
}

#[tokio::test]
async fn a_stop_ends_the_check_and_a_slow_history_does_not_hold_up_for_ever() {
    let scene = Scene::new("stop").await;
    scene.commit();
    scene.runs("before", scene.apply(&[])).await;
    let (key, before) = (scene.history(), scene.state().await);
    let hold = || scene.stage.proxy.plan([Rule::on("GetItem", Fault::Hold).key(&key).times(1)]);
    hold();
    let reads = scene.reads();
    let running = Running::start(&mut scene.applying(&["--outdated", "skip"]));
    scene.stage.proxy.arrived(&format!("GetItem {key}"), reads + 1).await;
    assert!(scene.stage.info().await.is_some(), "under the lock");
    running.signal(Signal::SIGTERM);
    let done = running.finish().expect_code(143);
    assert!(done.stderr.contains("nothing was run"), "{}", done.stderr);
    assert_eq!((scene.stage.info().await, scene.state().await), (None, before));
    scene.stage.proxy.release();

    hold();
    let done = scene.apply(&["--outdated", "skip"]).expect_code(0);
    assert!(done.stderr.contains("cannot tell whether this run is outdated"), "{}", done.stderr);
    assert!(done.stdout.contains("Apply complete!"), "{}", done.stdout);
    scene.stage.proxy.release();
}

#[tokio::test]
async fn only_what_succeeded_is_compared_with() {
    let scene = Scene::new("failed").await;
    let (first, second) = (scene.commit(), scene.commit());
    let fails = || run(&mut applying(tfwrap(&scene.dir), "exit 1"));
    fails().expect_code(1);
    scene.check_out(&first);
    let of = |number| CiRun { number, ..MAIN };
    scene.runs("after a failure", scene.apply_in(of(5), &["--outdated", "fail"])).await;
    scene.check_out(&second);
    scene.runs("newer", scene.apply_in(of(6), &["--outdated", "fail"])).await;
    fails().expect_code(1);
    scene.check_out(&first);
    scene.is_outdated(Some(of(5)), &[&second[..7]]).await;
}
