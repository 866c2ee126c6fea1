//! `tfwrap wait`: it comes back when the lock is free, takes nothing, and holds nobody up.

use std::path::Path;
use std::process::Command;

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::harness::{Gate, Running, applying, run, s3_dir, tfwrap, wrapper};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{dynamodb, local_backend_dir, terraform};

fn waiting(dir: &Path, words: &[&str]) -> Command {
    let mut command = tfwrap(dir);
    command.args(words);
    command
}

/// A real apply that holds the lock until the gate is opened.
fn applied(dir: &Path, gate: &Gate) -> Running {
    let running = Running::start(&mut applying(tfwrap(dir), &gate.command()));
    gate.reached();
    running
}

/// Waits for ours and for stock Terraform; with nobody there it does not wait.
fn waits_for_whoever_holds_it(dir: &Path, is_local: bool) {
    let free = run(&mut waiting(dir, &["wait"])).expect_code(0);
    assert!(free.stdout.ends_with(": free\n") && free.stderr.is_empty(), "{free:?}");
    for (name, command) in [("ours", tfwrap(dir)), ("stock", terraform(dir))] {
        let gate = Gate::new(dir, name);
        let holder = Running::start(&mut applying(command, &gate.command()));
        gate.reached();
        let timed_out = run(&mut waiting(dir, &["--lock-timeout=0s", "wait"])).expect_code(75);
        assert!(timed_out.stderr.contains("error: not free within 0s: "), "{}", timed_out.stderr);
        assert!(timed_out.stderr.contains("is held by "), "{}", timed_out.stderr);
        // The kernel lets nobody take a local state from its holder.
        let hint = if is_local { ": fuser -v " } else { "is dead: tfwrap unlock " };
        assert!(timed_out.stderr.contains(hint), "{}", timed_out.stderr);
        let waiter = Running::start(&mut waiting(dir, &["wait"]));
        waiter.says("waiting for the lock `");
        gate.open();
        holder.finish().expect_code(0);
        let done = waiter.finish().expect_code(0);
        assert!(done.stdout.contains(": free after "), "{}", done.stdout);
        let who = format!("  was held by {}", tfwrap::identity::who());
        assert!(done.stdout.contains(&who) && done.stdout.contains("for apply"), "{}", done.stdout);
    }
}

#[tokio::test]
async fn it_waits_for_whoever_holds_the_lock_in_dynamodb() {
    let stage = s3_dir("wait-dynamodb").await;
    waits_for_whoever_holds_it(stage.path(), false);
}

#[test]
fn it_waits_for_whoever_holds_a_local_state() {
    let dir = local_backend_dir();
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    waits_for_whoever_holds_it(dir.path(), true);
}

/// With `--line` it lets all go first, and without it only the holder; it is never in the queue.
#[tokio::test]
async fn it_waits_for_the_queue_where_asked_to_and_is_not_in_it() {
    let stage = s3_dir("wait-line").await;
    let dir = stage.path();
    let gates = ["first", "second"].map(|name| Gate::new(dir, name));
    let first = applied(dir, &gates[0]);
    let second = Running::start(&mut applying(tfwrap(dir), &gates[1].command()));
    second.says("we are next");
    let patient = Running::start(&mut waiting(dir, &["wait", "--line"]));
    patient.says("waiting for the lock `");
    let status = run(&mut waiting(dir, &["status", "--format", "json"])).expect_code(0);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    assert_eq!(status["locks"][0]["waiters"].as_array().map(Vec::len), Some(1), "{status}");
    gates[0].open();
    first.finish().expect_code(0);
    gates[1].reached();
    assert!(!patient.is_over(), "{}", patient.stderr());
    gates[1].open();
    second.finish().expect_code(0);
    let done = patient.finish().expect_code(0);
    assert!(done.stdout.contains(": free after "), "{}", done.stdout);
}

/// A number is nobody's once its waiter has left, and there may be more of them than one look reads.
#[tokio::test]
async fn numbers_that_nobody_has_are_looked_through_and_are_not_waited_for() {
    let stage = s3_dir("wait-numbers").await;
    let (dir, lock) = (stage.path(), stage.lock_id());
    let line = format!("{lock}.tfwrap/line");
    let put = async |key: &str, text: &str| {
        dynamodb().put_texts(&stage.table, key, &[("Tfwrap", text)]).await;
    };
    put(&line, r#"{"next":350,"head":2}"#).await;
    let status = run(&mut waiting(dir, &["status"])).expect_code(0);
    assert!(status.stdout.contains("and up to 248 more"), "{}", status.stdout);
    let done = run(&mut waiting(dir, &["--lock-timeout=20s", "wait", "--line"])).expect_code(0);
    assert!(done.stdout.contains(": free"), "{}", done.stdout);

    // And one that is there is found, and let go first.
    let ticket = format!("{lock}.tfwrap/ticket/340");
    put(&ticket, r#"{"id":"x","beat":1}"#).await;
    let patient = Running::start(&mut waiting(dir, &["wait", "--line"]));
    patient.says("is free, but up to 248 runs wait for it");
    let before = run(&mut waiting(dir, &["--lock-timeout=5s", "wait", "--line"])).expect_code(75);
    assert!(before.stderr.contains("others wait for the lock"), "{}", before.stderr);
    assert!(!patient.is_over(), "{}", patient.stderr());
    let removed = dynamodb().client().delete_item().table_name(&stage.table);
    removed.key("LockID", AttributeValue::S(ticket)).send().await.expect("removed");
    patient.finish().expect_code(0);

    put(&line, r#"{"next":9007199254740991,"head":2}"#).await;
    let done = run(&mut waiting(dir, &["--lock-timeout=2s", "wait", "--line"])).expect_code(75);
    assert!(done.stderr.contains("others may wait for the lock"), "{}", done.stderr);
}

#[tokio::test]
async fn under_a_run_it_says_at_once_that_it_would_wait_for_itself() {
    let stage = s3_dir("wait-below").await;
    let tfwrap = wrapper();
    let tfwrap = tfwrap.to_str().expect("UTF-8");
    let done = run(&mut waiting(stage.path(), &["run", "--", tfwrap, "wait"])).expect_code(75);
    assert!(done.stderr.contains("is held for this command by the `run`"), "{}", done.stderr);
}

#[tokio::test]
async fn an_interrupt_ends_the_wait_and_an_outage_does_not() {
    let stage = s3_dir("wait-outage").await;
    let (dir, proxy) = (stage.path(), Proxy::before(&dynamodb().url));
    let gate = Gate::new(dir, "held");
    let holder = applied(dir, &gate);
    let lock = format!(
        "dynamodb://{}/{}?region=eu-west-1&endpoint={}",
        stage.table,
        stage.lock_id(),
        proxy.url()
    );
    let words = ["--no-backend-lock", "--lock", &lock, "wait"];
    let interrupted = Running::start(&mut waiting(dir, &words));
    let patient = Running::start(&mut waiting(dir, &words));
    for waiter in [&interrupted, &patient] {
        waiter.says("waiting for the lock `");
    }
    interrupted.signal(Signal::SIGINT);
    interrupted.finish().expect_code(130);
    // `tfwrap unlock` looks for the backend's lock, which this may not be.
    let late = [&["--lock-timeout=0s"], &words[..]].concat();
    let late = run(&mut waiting(dir, &late)).expect_code(75).stderr;
    assert!(late.contains("is dead: aws dynamodb delete-item "), "{late}");
    proxy.plan([Rule::all(Fault::SERVER_ERROR)]);
    patient.says("requests for `dynamodb://");
    gate.open();
    holder.finish().expect_code(0);
    assert!(!patient.is_over(), "{}", patient.stderr());
    proxy.plan([]);
    let done = patient.finish().expect_code(0);
    assert!(done.stdout.contains(": free after "), "{}", done.stdout);
}

/// Whoever was seen last may have gone: nobody is said to hold what nobody has seen.
#[tokio::test]
async fn at_the_end_of_the_time_an_outage_is_the_reason() {
    let stage = s3_dir("wait-end").await;
    let proxy = Proxy::before(&dynamodb().url);
    let gate = Gate::new(stage.path(), "held");
    let holder = applied(stage.path(), &gate);
    let lock = format!(
        "dynamodb://{}/{}?region=eu-west-1&endpoint={}",
        stage.table,
        stage.lock_id(),
        proxy.url()
    );
    let words = ["--lock-timeout=8s", "--no-backend-lock", "--lock", &lock, "wait"];
    let waiter = Running::start(&mut waiting(stage.path(), &words));
    waiter.says("waiting for the lock `");
    proxy.plan([Rule::all(Fault::SERVER_ERROR)]);
    let done = waiter.finish().expect_code(69);
    assert!(!done.stderr.contains("not free within"), "{}", done.stderr);
    gate.open();
    holder.finish().expect_code(0);
}

#[tokio::test]
async fn the_log_is_json_where_asked_for() {
    let stage = s3_dir("wait-json").await;
    let gate = Gate::new(stage.path(), "held");
    let holder = applied(stage.path(), &gate);
    let words = ["--log-format=json", "--lock-timeout=1s", "wait"];
    let done = run(&mut waiting(stage.path(), &words)).expect_code(75);
    let events: Vec<serde_json::Value> =
        done.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(events[0]["event"], "waiting", "{}", done.stderr);
    assert_eq!(events[0]["holder"]["operation"], json!("OperationTypeApply"), "{}", done.stderr);
    assert_eq!(events.last().expect("an end")["code"], 75, "{}", done.stderr);
    gate.open();
    holder.finish().expect_code(0);
}
