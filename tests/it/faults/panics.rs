//! A bug of ours ends neither Terraform without warning nor the lock's life: fail points panic
//! where a debug build is told to.

use std::process::Command;

use nix::sys::signal::Signal;

use super::{Stage, says};
use crate::support::harness::{Finished, Running, eventually, run};
use crate::support::proxy::Fault;

fn failing(mut command: Command, point: &str) -> Command {
    command.env("TFWRAP_FAIL_POINT", point);
    command
}

fn asks_for_a_report(done: Finished) {
    let done = done.expect_code(70);
    says(&done, &["panicked at src/run/", "a bug in tfwrap", "report this as a bug"]);
    let ours = |line: &str| line.is_empty() || line.starts_with("tfwrap: ");
    assert!(done.stderr.lines().all(ours), "{}", done.stderr);
}

#[tokio::test]
async fn a_panic_before_the_start_gives_the_lock_back() {
    let stage = Stage::new("panics/before").await;
    asks_for_a_report(run(&mut failing(stage.around("true"), "before-spawn")));
    assert_eq!((stage.runs(), stage.info().await), (0, None));
    assert_eq!([stage.requests("PutItem"), stage.requests("DeleteItem")], [1, 1]);
    // The control.
    let done = run(&mut failing(stage.around("true"), "no-such-point"));
    stage.went_well(done, "no panic").await;
}

/// After all is confirmed and looked at once more: the start asks a last time.
#[tokio::test]
async fn a_stop_just_before_the_start_starts_nothing() {
    let stage = Stage::new("panics/stopped").await;
    let done = run(&mut failing(stage.around("true"), "planned")).expect_code(143);
    says(&done, &["SIGTERM"]);
    assert_eq!((stage.runs(), stage.info().await), (0, None));
    // The control.
    let done = run(&mut failing(stage.around("true"), "no-such-point"));
    stage.went_well(done, "no stop").await;
}

#[tokio::test]
async fn a_panic_while_the_child_runs_ends_it_before_the_release() {
    let stage = Stage::new("panics/running").await;
    stage.plan(&[("DeleteItem", Fault::Hold, 1)]);
    let script = "trap 'echo end > ended; exit 0' INT; touch in; \
                  for i in $(seq 600); do sleep 0.1; done";
    let ours = Running::start(&mut failing(stage.around(script), "running"));
    eventually("the child runs", || stage.path().join("in").exists());
    assert!(stage.info().await.is_some());
    // Something happens, and the supervision panics over it.
    ours.signal(Signal::SIGWINCH);
    stage.arrived("DeleteItem", 1).await;
    let ended = std::fs::read_to_string(stage.path().join("ended"));
    assert_eq!(ended.unwrap(), "end\n", "the child is gone before the release");
    stage.proxy.release();
    asks_for_a_report(ours.finish());
    assert_eq!(stage.info().await, None);
}

#[tokio::test]
async fn a_panic_between_two_locks_gives_the_first_back() {
    let stage = Stage::new("panics/between").await;
    let further =
        format!("dynamodb://{}/z?region=eu-west-1&endpoint={}", stage.table, stage.proxy.url());
    let ours = stage.with(&["--lock", &further], "true");
    asks_for_a_report(run(&mut failing(ours, "acquired")));
    assert_eq!((stage.runs(), stage.info().await), (0, None));
    assert_eq!([stage.requests("PutItem"), stage.requests("DeleteItem")], [1, 1]);
    assert_eq!(stage.proxy.count("PutItem z"), 0, "it did not come to the second");
}
