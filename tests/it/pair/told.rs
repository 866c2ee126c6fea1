//! Which half is meant by what is said, and which is left: one half fails, the other does not.

use nix::unistd::Pid;

use super::*;
use crate::aftermath::{Receipt, kill_dead};

const LEASE: &str = r#"{"beat":7,"ttl":15000}"#;

/// A lock info, with the lease that is in it in a lock file.
fn info(id: &str, in_file: bool) -> String {
    let lease = if in_file { format!(r#","tfwrap":{LEASE}"#) } else { String::new() };
    format!(
        r#"{{"ID":"{id}","Operation":"apply","Info":"","Who":"{id}@there","Version":"1","Created":"2026-01-02T03:04:05Z","Path":""{lease}}}"#
    )
}

/// What was never asked for cannot appear, and is not to blame.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_in_the_lock_file_is_said_of_the_lock_file() {
    let refused = Fault::Status(409, "ConditionalRequestConflict");
    for (name, fault, code, says) in [
        ("open", Fault::DropReply, 69, "`s3://"),
        ("elsewhere", Fault::Status(400, "IllegalLocationConstraintException"), 78, "s3://"),
        ("phantom", refused, 75, "`s3://"),
    ] {
        let stage = Stage::new(&format!("told-{name}")).await;
        // The answer of the look is missing, too: nobody knows whether it is there.
        let reads = Rule::on("GET", Fault::Refuse).key(&stage.path());
        let writes = Rule::on("PUT", fault).key(&stage.path());
        let rules = if name == "open" { vec![reads, writes] } else { vec![writes] };
        stage.s3.plan(rules);
        let done = run(&mut stage.around(&["--lock-timeout=4s"], "true")).expect_code(code);
        assert_eq!(stage.items.count_of("PutItem", &stage.lock_id()), 0, "{name}");
        assert!(done.stderr.contains(says), "{name}: {}", done.stderr);
        assert!(!done.stderr.contains("dynamodb://"), "{name}: {}", done.stderr);
    }
}

/// What cannot be given back is named with its command, and so is why the rest could not be had; neither
/// is tried again where that does not help.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_file_that_cannot_be_given_back_is_named_beside_what_refused_the_item() {
    for (name, code) in [("denied", 77), ("taken", 75)] {
        let stage = Stage::at(start(Manners::NoDeletes), &format!("kept-{name}")).await;
        if name == "denied" {
            stage.items.plan([Rule::on("PutItem", Fault::DENIED).key(&stage.lock_id())]);
        } else {
            // By somebody who comes between the look and the create.
            stage.items.plan([Rule::on("PutItem", Fault::Hold).key(&stage.lock_id())]);
        }
        let running =
            Running::start(&mut stage.around(&["--lease", "never", "--lock-timeout=3s"], "true"));
        if name == "taken" {
            eventually("the item is asked for", || {
                stage.items.count_of("PutItem", &stage.lock_id()) > 0
            });
            stage.put_item("4-5-6").await;
            stage.items.release();
        }
        let done = running.finish().expect_code(code);
        let id = stage.in_file().expect("it stays").id.0;
        let kept = format!("the lock `s3://{BUCKET}/{}` could not be released", stage.file());
        assert_eq!(done.stderr.matches(&kept).count(), 1, "{name}: {}", done.stderr);
        assert!(done.stderr.contains(&id), "{name}: {}", done.stderr);
        let why = if name == "denied" { "dynamodb:PutItem" } else { "4-5-6" };
        assert!(done.stderr.contains(why), "{name}: {}", done.stderr);
        // Its receipt knows of it.
        let left = Receipt::all(&stage.dir.path().join(STATE_DIR));
        assert!(left.iter().any(|receipt| receipt.locks() == 1), "{name}: {left:?}");
    }
}

/// Each of two dead ones is told of.
#[tokio::test(flavor = "multi_thread")]
async fn two_dead_holders_of_a_half_each_are_both_said_to_be_taken_over() {
    let stage = Stage::new("two-dead").await;
    stage.server.put(&stage.file(), info("1-1-1", true).as_bytes());
    stage.put_raw(&info("2-2-2", false), Some(LEASE)).await;
    let done = run(&mut stage.around(&["--lock-timeout=60s"], "true")).expect_code(0);
    for id in ["1-1-1", "2-2-2"] {
        let told = done.stderr.lines().filter(|line| line.contains("took over"));
        assert_eq!(told.filter(|line| line.contains(id)).count(), 1, "{id}: {}", done.stderr);
    }
    stage.expect_free().await;
}

/// The command that is named for half a lock of stock Terraform's ends with 0.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_lock_of_stock_terraform_goes_by_the_command_that_is_named() {
    let stage = Stage::initialised("half-named").await;
    stage.put_item("4-5-6").await;
    let done = run(&mut stage.around(&["--lock-timeout=0s"], "true")).expect_code(75);
    assert!(done.stderr.contains("tfwrap unlock 4-5-6"), "{}", done.stderr);
    run(tfwrap(stage.dir.path()).args(["unlock", "4-5-6", "--yes"])).expect_code(0);
    stage.expect_free().await;
}

/// Its two locks have one ID, and one door.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_run_or_hold_leaves_of_both_is_given_back() {
    for is_hold in [false, true] {
        let stage = Stage::new(&format!("dead-{is_hold}")).await;
        let receipts = stage.dir.path().join(STATE_DIR);
        let _ends = EndsHolds(receipts.clone());
        let script = "echo $$ > child; exec sleep 60";
        let mut running = None;
        if is_hold {
            run(tfwrap(stage.dir.path()).args(["--lease", "never", "hold"])).expect_code(0);
        } else {
            running = Some(stage.held(&["--lease", "never"], script));
        }
        let child =
            || std::fs::read_to_string(stage.dir.path().join("child")).ok()?.trim().parse().ok();
        if running.is_some() {
            // Killed before that is noted, nobody could tell what runs.
            let is_noted = || !Receipt::all(&receipts).remove(0).text["child"].is_null();
            eventually("its child", || child().is_some() && is_noted());
        }
        let receipt = Receipt::all(&receipts).remove(0);
        nix::sys::signal::kill(receipt.runner(), Signal::SIGSTOP).expect("it lives");
        kill_dead(receipt.guardian().expect("a guardian"));
        kill_dead(receipt.runner());
        if running.is_some() {
            kill_dead(Pid::from_raw(child().expect("a number")));
        }
        drop(running);
        assert!(stage.in_file().is_some() && stage.in_item().await.is_some());
        run(tfwrap(stage.dir.path()).arg("recover")).expect_code(0);
        stage.expect_free().await;
    }
}

/// Only what may still land is said to; what was found has landed; and half a lock that stands is one.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_still_appear_is_said_of_that_half_alone() {
    let lines = |done: &Finished, words: &str| {
        done.stderr
            .lines()
            .filter(|line| line.contains(words))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for (name, of_file, fault, warned) in [
        ("item-lost", false, Fault::Refuse, &["`dynamodb://"][..]),
        ("item-found", false, Fault::DropReply, &[]),
        ("file-found", true, Fault::DropReply, &[]),
    ] {
        let stage = Stage::new(&format!("appear-{name}")).await;
        if of_file {
            stage.s3.plan([Rule::on("PUT", fault).key(&stage.path()).times(1)]);
        } else {
            stage.items.plan([Rule::on("PutItem", fault).key(&stage.lock_id()).times(1)]);
        }
        let done = run(&mut stage.around(&["--lease", "15s"], "true")).expect_code(0);
        let said = lines(&done, "may still appear");
        assert_eq!(said.len(), warned.len(), "{name}: {}", done.stderr);
        assert!(
            said.iter().zip(warned).all(|(line, lock)| line.contains(lock)),
            "{name}: {said:?}"
        );
    }
    let stage = Stage::new("appear-half").await;
    stage.items.plan([Rule::on("PutItem", Fault::Refuse).key(&stage.lock_id())]);
    stage.s3.plan([Rule::on("DELETE", Fault::SERVER_ERROR).key(&stage.path())]);
    let options = ["--lease", "15s", "--lock-timeout=3s"];
    let done = run(&mut stage.around(&options, "true")).expect_code(69);
    assert!(stage.in_file().is_some(), "{}", done.stderr);
    assert_eq!(lines(&done, "not the rest of it").len(), 1, "{}", done.stderr);
    let said = lines(&done, "may still appear");
    assert!(said.iter().all(|line| line.contains("`dynamodb://")), "{}", done.stderr);
    stage.s3.plan([]);
    eventually("its guardian releases it", || stage.in_file().is_none());
}
