//! Locks that stay, tickets of the dead, receipts of killed runs.

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;
use tfwrap::clock::wall;

use super::{Said, with_lock};
use crate::support::harness::{Gate, Running, applying, s3_dir, tfwrap};
use crate::support::s3_server::{aws_like, backend_dir};
use crate::support::servers::{REGION, dynamodb, local_backend_dir, terraform};

fn info(id: &str, operation: &str, created: &str) -> String {
    json!({
        "ID": id, "Operation": operation, "Info": "https://ci.example/run/9", "Who": "them@there",
        "Version": "1.11.4", "Created": created, "Path": "",
    })
    .to_string()
}

#[tokio::test]
async fn a_holder_is_silent_or_gives_signs_of_life() {
    let dir = s3_dir("doctor/held").await;
    let gate = Gate::new(dir.path(), "ours");
    let mut command = tfwrap(dir.path());
    command.args(["--lease", "15s"]);
    let ours = Running::start(&mut applying(command, &gate.command()));
    gate.reached();
    let said = Said::of(&mut tfwrap(dir.path()));
    said.expect("holder", "pass", "it sends heartbeats");
    assert_eq!(said.code, 0, "{}", said.text);
    gate.open();
    ours.finish().expect_code(0);

    let silent = info("7-silent", "OperationTypeApply", "2026-01-02T03:04:05Z");
    dynamodb()
        .put_texts(
            &dir.table,
            &dir.lock_id(),
            &[("Info", &silent), ("Tfwrap", r#"{"beat":3,"ttl":15000}"#)],
        )
        .await;
    let said = Said::of(&mut tfwrap(dir.path()));
    said.expect("holder", "warn", "no heartbeat for");
    said.expect("holder", "warn", "`tfwrap unlock 7-silent`");
    assert_eq!(said.code, 0, "{}", said.text);
}

#[tokio::test]
async fn an_old_lock_of_stock_terraform_and_the_dead_in_the_queue_are_told() {
    let (dir, table) = (local_backend_dir(), "doctor-stock");
    dynamodb().create_lock_table(table).await;
    let asked = || Said::of(&mut with_lock(dir.path(), table, &dynamodb().url));
    let now = wall().to_string();
    dynamodb()
        .put_texts(table, "a/lock", &[("Info", &info("8", "OperationTypeApply", &now))])
        .await;
    asked().expect("holder", "pass", "without a lease");
    let old = info("8", "OperationTypePlan", "2026-01-02T03:04:05Z");
    dynamodb().put_texts(table, "a/lock", &[("Info", &old)]).await;
    dynamodb()
        .put_texts(table, "a/lock.tfwrap/line", &[("Tfwrap", r#"{"next":6,"head":5}"#)])
        .await;
    let ticket = r#"{"id":"9","beat":4,"operation":"OperationTypePlan"}"#;
    dynamodb().put_texts(table, "a/lock.tfwrap/ticket/5", &[("Tfwrap", ticket)]).await;
    let said = asked();
    said.expect(
        "holder",
        "warn",
        "it stays until it is removed\nfix: when that run is gone for good",
    );
    said.expect("queue", "warn", "1 waiting, 1 of them without a heartbeat");
    said.expect("plans", "warn", "held for a plan, and 1 in the queue are plans, too");
}

#[tokio::test]
async fn half_of_a_pair_is_told() {
    let table = "doctor-half";
    dynamodb().create_lock_table(table).await;
    let server = aws_like();
    let lines = format!(
        "dynamodb_table = \"{table}\"\n    endpoints = {{ s3 = \"{}\", dynamodb = \"{}\" }}",
        server.url,
        dynamodb().url
    );
    let dir = backend_dir(&server.url, "doctor/half", "");
    let file = dir.path().join("backend.tf");
    let text = std::fs::read_to_string(&file).unwrap();
    let endpoints = format!("endpoints                   = {{ s3 = \"{}\" }}", server.url);
    std::fs::write(&file, text.replace(&endpoints, &lines)).unwrap();
    crate::support::harness::run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    let said = Said::of(&mut tfwrap(dir.path()));
    assert!(!said.names().contains(&"pair"), "{}", said.text);
    assert_eq!(said.names().iter().filter(|name| **name == "conditions").count(), 2);
    let now = wall().to_string();
    dynamodb()
        .put_texts(
            table,
            "tfstate/doctor/half",
            &[("Info", &info("half-1", "OperationTypeApply", &now))],
        )
        .await;
    let said = Said::of(&mut tfwrap(dir.path()));
    said.expect("pair", "warn", &format!("half of the lock is held: dynamodb://{table}/"));
    said.expect("pair", "warn", "`tfwrap unlock half-1`");

    // Of two who share no lock, each has one half.
    let other = info("half-2", "OperationTypeApply", &now);
    server.put("doctor/half.tflock", other.as_bytes());
    let said = Said::of(&mut tfwrap(dir.path()));
    said.expect("pair", "warn", "these two have no lock in common");
    said.expect("pair", "warn", "docs/migration.md");
    // And so is it seen by whoever uses the item alone, unless the other one has that, too.
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.lines().filter(|line| !line.contains("use_lockfile")).collect::<Vec<_>>();
    std::fs::write(&file, text.join("\n")).unwrap();
    let init = ["init", "-no-color", "-reconfigure"];
    crate::support::harness::run(terraform(dir.path()).args(init)).expect_code(0);
    let said = Said::of(&mut tfwrap(dir.path()));
    said.expect("pair", "warn", "does not use that lock, so both can work at once");
    server.put("doctor/half.tflock", info("half-1", "OperationTypeApply", &now).as_bytes());
    let said = Said::of(&mut tfwrap(dir.path()));
    assert!(!said.names().contains(&"pair"), "{}", said.text);
}

#[tokio::test]
async fn a_killed_run_of_this_machine_is_told() {
    let (dir, table) = (local_backend_dir(), "doctor-killed");
    dynamodb().create_lock_table(table).await;
    let lock = format!("dynamodb://{table}/a/lock?region={REGION}&endpoint={}", dynamodb().url);
    let mut command = tfwrap(dir.path());
    command.env("TFWRAP_TEST_OFF", "guardian").args(["--no-backend-lock", "--lock", &lock]);
    let running = Running::start(command.args(["run", "--", "sh", "-c", "echo $$; exec sleep 60"]));
    crate::support::harness::eventually("it runs", || running.stdout().ends_with('\n'));
    let child: i32 = running.stdout().trim().parse().unwrap();
    running.signal(Signal::SIGKILL);
    nix::sys::signal::kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
    running.finish();
    let said = Said::of(&mut with_lock(dir.path(), table, &dynamodb().url));
    said.expect("receipts", "warn", "runs that were killed here and left something: 1");
    said.expect("receipts", "warn", "`tfwrap recover`");
}
