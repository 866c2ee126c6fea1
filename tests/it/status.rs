//! `tfwrap status`: what it says of locks that real runs hold and wait for.

mod all;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use rexpect::session::spawn_command;
use serde_json::{Value, json};

use crate::support::harness::{Gate, Running, applying, eventually, run, s3_dir, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{REGION, dynamodb, local_backend_dir, terraform};

/// The document, with its one lock.
#[track_caller]
fn status(dir: &Path) -> Value {
    let done = run(tfwrap(dir).args(["status", "--format", "json"])).expect_code(0);
    assert_eq!(done.stderr, "");
    let document: Value = serde_json::from_str(&done.stdout).expect(&done.stdout);
    assert_eq!(document["version"], 1);
    assert_eq!(document["locks"].as_array().unwrap().len(), 1, "{document}");
    document["locks"][0].clone()
}

#[track_caller]
fn text(dir: &Path) -> String {
    let done = run(tfwrap(dir).arg("status")).expect_code(0);
    assert_eq!(done.stderr, "");
    done.stdout
}

fn waiters(dir: &Path) -> Vec<Value> {
    status(dir)["waiters"].as_array().unwrap().clone()
}

/// A free lock, one of ours with two waiters, a stock Terraform's.
fn says_who_holds_and_who_waits(dir: &Path, kept_by: &str) {
    let free = status(dir);
    assert_eq!(free["state"], "free");
    assert_eq!([&free["holder"], &free["lease"], &free["kept_by"]], [&Value::Null; 3]);
    assert_eq!(free["waiters"], json!([]));
    assert!(text(dir).ends_with(": free\n"));

    let gate = Gate::new(dir, "ours");
    let mut command = tfwrap(dir);
    command.env("TFWRAP_RUN_URL", "https://ci.example/run/7").args(["--lease", "10m"]);
    let ours = Running::start(&mut applying(command, &gate.command()));
    gate.reached();
    let held = status(dir);
    assert_eq!(held["state"], "held");
    assert_eq!(held["holder"]["who"], tfwrap::identity::who());
    assert_eq!(held["holder"]["operation"], "OperationTypeApply");
    assert!(held["holder"]["info"].as_str().unwrap().contains("https://ci.example/run/7"));
    assert_eq!(held["kept_by"], kept_by);
    assert_eq!(held["lease"].is_object(), kept_by == "lease", "{held}");

    let mut runs = vec![ours];
    for (place, words) in [["plan", "-no-color"], ["destroy", "-auto-approve"]].iter().enumerate() {
        runs.push(Running::start(tfwrap(dir).args(["--lock-timeout", "2m"]).args(words)));
        eventually("it stands in line", || waiters(dir).len() == place + 1);
    }
    let waiting = waiters(dir);
    let operations: Vec<_> = waiting.iter().map(|waiter| &waiter["operation"]).collect();
    assert_eq!(operations, ["OperationTypePlan", "OperationTypeApply"], "{waiting:?}");
    assert!(waiting[0]["ticket"].as_u64() < waiting[1]["ticket"].as_u64());
    let said = text(dir);
    for words in ["held by ", " for apply since ", " ago)", "https://ci.example/run/7", "lock ID `"]
    {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    let lease = said.contains("lease: expires ") && said.contains("; beat ");
    assert_eq!(lease, kept_by == "lease", "{said}");
    let lines: Vec<_> = said.lines().map(str::trim_start).collect();
    let at = lines.iter().position(|line| line.starts_with("1. ")).expect(&said);
    assert!(lines[at].contains(" for plan since "), "{said}");
    assert!(lines[at + 1].starts_with("2. ") && lines[at + 1].contains(" for apply "), "{said}");
    gate.open();
    for run in runs {
        run.finish().expect_code(0);
    }
    assert_eq!(status(dir)["state"], "free");
    assert_eq!(waiters(dir), [Value::Null; 0]);

    let theirs = Gate::new(dir, "theirs");
    let stock = Running::start(&mut applying(terraform(dir), &theirs.command()));
    theirs.reached();
    let held = status(dir);
    assert_eq!((&held["state"], &held["lease"]), (&json!("held"), &Value::Null));
    assert_eq!(held["kept_by"], if kept_by == "lease" { "nothing" } else { kept_by });
    assert_eq!(held["holder"]["operation"], "OperationTypeApply");
    let never = text(dir).contains("without a lease: never expires");
    assert_eq!(never, kept_by == "lease");
    theirs.open();
    stock.finish().expect_code(0);
}

#[tokio::test]
async fn status_of_a_dynamodb_lock_names_holder_lease_and_waiters() {
    says_who_holds_and_who_waits(s3_dir("status/dynamodb").await.path(), "lease");
}

#[test]
fn status_of_a_local_lock_names_holder_and_waiters() {
    says_who_holds_and_who_waits(local_backend_dir().path(), "kernel");
}

#[test]
fn a_look_leaves_no_file_behind() {
    let dir = local_backend_dir();
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    let before = files();
    text(dir.path());
    assert_eq!(files(), before);
}

#[tokio::test]
async fn hostile_records_reach_no_terminal_and_end() {
    let dir = s3_dir("status/hostile").await;
    let hostile = "\u{1b}[2J\u{7}\n::set-output name=x::y ##[error]z ##vso[x] \u{202e}`x`";
    let info = json!({
        "ID": hostile, "Operation": hostile, "Info": hostile.repeat(200), "Who": hostile,
        "Version": hostile, "Created": "2026-01-02T03:04:05Z", "Path": hostile
    });
    let lock = dir.lock_id();
    let ticket = json!({
        "id": hostile, "beat": 1, "who": hostile, "operation": hostile, "info": hostile,
        "joined": hostile
    });
    // One more, and it is no line.
    let next = (1_u64 << 53) - 1;
    let line = json!({ "next": next, "head": 3 });
    for (key, info, ours) in [
        (lock.clone(), Some(info.to_string()), "nonsense".to_owned()),
        (format!("{lock}.tfwrap/line"), None, line.to_string()),
        (format!("{lock}.tfwrap/ticket/4"), None, ticket.to_string()),
        (format!("{lock}.tfwrap/ticket/5"), None, "nonsense".to_owned()),
    ] {
        let fields = [("LockID", Some(key)), ("Info", info), ("Tfwrap", Some(ours))];
        let item = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), AttributeValue::S(value?))));
        dynamodb().put_raw(&dir.table, item.collect()).await;
    }
    for format in ["text", "json"] {
        let done = run(tfwrap(dir.path()).args(["status", "--format", format])).expect_code(0);
        let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!done.stdout.contains(bad), "{}", done.stdout);
        for start in ["::set-output", "##[", "##vso["] {
            assert!(!done.stdout.contains(start), "{start} in {}", done.stdout);
        }
    }
    let held = status(dir.path());
    assert_eq!((&held["state"], &held["kept_by"]), (&json!("held"), &json!("nothing")));
    assert_eq!(held["waiters"].as_array().unwrap().len(), 2);
    assert_eq!(held["more_waiters"].as_u64(), Some(next - 103));
}

#[tokio::test]
async fn watching_says_what_changes_and_an_interrupt_ends_it_well() {
    let dir = s3_dir("status/watch").await;
    let mut command = tfwrap(dir.path());
    let watching = Running::start(command.args(["status", "--watch", "--format", "json"]));
    eventually("the first look", || watching.stdout().lines().count() == 1);
    let gate = Gate::new(dir.path(), "ours");
    let ours = Running::start(&mut applying(tfwrap(dir.path()), &gate.command()));
    gate.reached();
    eventually("the second look", || watching.stdout().lines().count() == 2);
    gate.open();
    ours.finish().expect_code(0);
    eventually("the third look", || watching.stdout().lines().count() == 3);
    watching.signal(Signal::SIGINT);
    let done = watching.finish().expect_code(0);
    let states: Vec<_> = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["locks"][0]["state"].clone())
        .collect();
    assert_eq!(states, ["free", "held", "free"]);
    assert_eq!(done.stderr, "");
}

#[test]
fn watching_ends_when_nobody_reads_it_any_more() {
    let dir = local_backend_dir();
    let mut command = tfwrap(dir.path());
    command.args(["status", "--watch", "--format", "json"]);
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(watching.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains(r#""state":"free""#), "{first}");
    // Nothing changes, so nothing more is written.
    eventually("its end", || watching.try_wait().unwrap().is_some());
    assert_eq!(watching.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn watching_goes_on_through_an_outage_and_says_so_once() {
    let (dir, table) = (local_backend_dir(), "status-outage");
    dynamodb().create_lock_table(table).await;
    let proxy = Proxy::before(&dynamodb().url);
    let lock = format!("dynamodb://{table}/x?region={REGION}&endpoint={}", proxy.url());
    let mut command = tfwrap(dir.path());
    command.args(["--lock", &lock, "--no-backend-lock"]);
    let watching = Running::start(command.args(["status", "--watch", "--format", "json"]));
    eventually("the first look", || watching.stdout().lines().count() == 1);
    proxy.plan([Rule::all(Fault::Refuse)]);
    watching.says("requests for `dynamodb://");
    let before = proxy.count("GetItem");
    eventually("further looks", || proxy.count("GetItem") >= before + 2);
    proxy.plan([]);
    eventually("the look after it", || watching.stdout().lines().count() == 2);
    watching.signal(Signal::SIGINT);
    let done = watching.finish().expect_code(0);
    assert_eq!(done.stderr.matches("tfwrap: warning").count(), 1, "{}", done.stderr);
    assert!(done.stderr.contains(table), "{}", done.stderr);
    assert_eq!(done.stderr.matches("succeed again").count(), 1, "{}", done.stderr);
    let lines: Vec<_> = done.stdout.lines().collect();
    assert_eq!(lines[0], lines[1]);
}

#[test]
fn every_lock_of_a_run_is_looked_at() {
    let dir = local_backend_dir();
    let lock = format!("file://{}/locks/x", dir.path().display());
    let mut command = tfwrap(dir.path().parent().unwrap());
    let name = dir.path().to_str().unwrap();
    let done = run(command.args(["--chdir", name, "--lock", &lock, "status"])).expect_code(0);
    assert_eq!(done.stdout.lines().count(), 2, "{}", done.stdout);
    assert!(done.stdout.starts_with(&format!("{lock}: free\n")), "{}", done.stdout);
    let mut command = tfwrap(dir.path());
    let done = run(command.args(["--lock", &lock, "--no-backend-lock", "status"])).expect_code(0);
    assert_eq!(done.stdout, format!("{lock}: free\n"));
}

#[tokio::test]
async fn what_cannot_be_looked_at_has_its_code() {
    let dir = s3_dir("status/errors").await;
    let recorded = dir.path().join(".terraform/terraform.tfstate");
    let text = std::fs::read_to_string(&recorded).unwrap();
    let done = |text: &str| {
        std::fs::write(&recorded, text).unwrap();
        run(tfwrap(dir.path()).arg("status"))
    };
    let done_missing = done(&text.replace("\"status-errors\"", "\"status-none\"")).expect_code(69);
    assert!(done_missing.stderr.contains("status-none"), "{}", done_missing.stderr);
    done(&text.replace("\"dynamodb_table\": \"status-errors\"", "\"dynamodb_table\": null"))
        .expect_code(78);
    std::fs::write(&recorded, &text).unwrap();
    let mut command = tfwrap(dir.path());
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    run(command.arg("status")).expect_code(77);
    run(tfwrap(dir.path()).args(["status", "x"])).expect_code(64);
}

#[tokio::test]
async fn a_terminal_is_redrawn_until_control_c() {
    let dir = s3_dir("status/terminal").await;
    let mut command = tfwrap(dir.path());
    command.args(["status", "--watch"]);
    let mut session = spawn_command(command, Some(60_000)).expect("a terminal");
    session.exp_string(": free").expect("the first look");
    session.exp_string("Ctrl-C to quit").expect("how to leave");
    let gate = Gate::new(dir.path(), "ours");
    let mut ours = tfwrap(dir.path());
    ours.args(["--lease", "15s"]);
    let ours = Running::start(&mut applying(ours, &gate.command()));
    gate.reached();
    session.exp_string("\u{1b}[H\u{1b}[J").expect("a redraw");
    session.exp_string("held by").expect("the holder");
    session.exp_string("unchanged for").expect("the age of the beat");
    gate.open();
    ours.finish().expect_code(0);
    session.exp_string(": free").expect("given back");
    session.send_control('c').expect("the terminal takes it");
    let last = session.exp_eof().expect("it ends");
    assert!(last.ends_with("\r\n\r\n"), "the prompt begins a line: {last:?}");
    let status = session.process_mut().wait().expect("it ended");
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
}
