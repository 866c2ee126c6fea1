//! `status --all`: every lock of a table or a bucket.

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::waiters;
use crate::support::harness::{Gate, Running, applying, eventually, run, s3_dir, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::s3_server::{Manners, backend_dir, start};
use crate::support::servers::{REGION, dynamodb, local_backend_dir, terraform};

#[track_caller]
fn all(dir: &Path) -> Vec<Value> {
    let done = run(tfwrap(dir).args(["status", "--all", "--format", "json"])).expect_code(0);
    assert_eq!(done.stderr, "");
    let document: Value = serde_json::from_str(&done.stdout).expect(&done.stdout);
    assert_eq!(document["version"], 1);
    document["locks"].as_array().unwrap().clone()
}

fn names(locks: &[Value]) -> Vec<&str> {
    locks.iter().map(|lock| lock["lock"].as_str().unwrap()).collect()
}

/// What a holder writes that was killed at this time.
fn info(id: &str, created: &str) -> String {
    let link = "https://ci.example/run/9";
    json!({
        "ID": id, "Operation": "OperationTypeApply", "Info": link, "Who": "them@there",
        "Version": "1.11.4", "Created": created, "Path": "",
    })
    .to_string()
}

#[tokio::test]
async fn every_lock_of_the_table_is_shown_with_who_waits_and_nothing_else() {
    let dir = s3_dir("status-all/table").await;
    assert_eq!(all(dir.path()), [Value::Null; 0]);
    let gate = Gate::new(dir.path(), "ours");
    let ours = Running::start(&mut applying(tfwrap(dir.path()), &gate.command()));
    gate.reached();
    let waiter = Running::start(tfwrap(dir.path()).args(["plan", "-no-color"]));
    eventually("it stands in line", || waiters(dir.path()).len() == 1);
    let old = info("1-old", "2026-01-02T03:04:05Z");
    dynamodb().put_texts(&dir.table, "other/prod", &[("Info", &old)]).await;
    dynamodb().put_texts(&dir.table, "other/prod-md5", &[("Digest", "0123")]).await;
    dynamodb().put_texts(&dir.table, "other/by-hand", &[]).await;
    dynamodb()
        .put_texts(&dir.table, "free.tfwrap/line", &[("Tfwrap", r#"{"next":7,"head":7}"#)])
        .await;
    // More than comes at once.
    for n in 0..4 {
        let long = info(&"x".repeat(350_000), "2026-01-03T03:04:05Z");
        dynamodb().put_texts(&dir.table, &format!("long/{n}"), &[("Info", &long)]).await;
    }
    let locks = all(dir.path());
    let mine = format!("dynamodb://{}/{}", dir.table, dir.lock_id());
    let expected =
        ["other/prod", "long/0", "long/1", "long/2", "long/3", &dir.lock_id(), "other/by-hand"];
    let expected: Vec<_> = expected.map(|key| format!("dynamodb://{}/{key}", dir.table)).into();
    assert_eq!(names(&locks), expected);
    let of_ours = locks.iter().find(|lock| lock["lock"] == mine).unwrap();
    assert_eq!(of_ours["waiters"][0]["operation"], "OperationTypePlan");
    assert_eq!(locks[0]["kept_by"], "nothing");
    assert_eq!(locks[0]["holder"]["id"], "1-old");
    // Also where a second lock is in that table, reached with other settings.
    let endpoint = &dynamodb().url;
    let second = format!("dynamodb://{}/second?region={REGION}&endpoint={endpoint}", dir.table);
    let mut command = tfwrap(dir.path());
    command.args(["--lock", &second, "status", "--all"]);
    let text = run(&mut command).expect_code(0).stdout;
    assert!(text.contains("https://ci.example/run/9"), "{text}");
    assert_eq!(text.matches("other/prod").count(), 1, "{text}");
    let last = text.lines().last().unwrap();
    assert_eq!(last, format!("7 locks are held in dynamodb://{}, 1 waiting", dir.table));
    gate.open();
    ours.finish().expect_code(0);
    waiter.finish().expect_code(0);
    assert_eq!(all(dir.path()).len(), 6);
}

#[tokio::test]
async fn two_looks_put_the_silent_one_first() {
    let dir = s3_dir("status-all/silent").await;
    let silent = info("2-silent", "2036-01-02T03:04:05Z");
    dynamodb()
        .put_texts(
            &dir.table,
            "silent",
            &[("Info", &silent), ("Tfwrap", r#"{"beat":3,"ttl":15000}"#)],
        )
        .await;
    let gate = Gate::new(dir.path(), "ours");
    let mut command = tfwrap(dir.path());
    command.args(["--lease", "15s"]);
    let ours = Running::start(&mut applying(command, &gate.command()));
    gate.reached();
    let mut command = tfwrap(dir.path());
    let watching = Running::start(command.args(["status", "--all", "--watch", "--format", "json"]));
    let said = || -> Vec<Vec<String>> {
        let out = watching.stdout();
        let documents = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let names = |document: Value| {
            names(document["locks"].as_array().unwrap()).into_iter().map(str::to_owned).collect()
        };
        documents.map(names).collect()
    };
    eventually("it is seen to be silent", || said().len() == 2);
    let (mine, theirs) = (
        format!("dynamodb://{}/{}", dir.table, dir.lock_id()),
        format!("dynamodb://{}/silent", dir.table),
    );
    assert_eq!(said(), [[mine.clone(), theirs.clone()], [theirs, mine]]);
    watching.signal(Signal::SIGINT);
    watching.finish().expect_code(0);
    let mut command = tfwrap(dir.path());
    let watching = Running::start(command.args(["status", "--watch"]));
    eventually("it has looked", || !watching.stdout().is_empty());
    watching.signal(Signal::SIGTERM);
    let told = watching.finish().expect_code(143).stderr;
    assert_eq!(told, "tfwrap: error: interrupted by SIGTERM\n");
    gate.open();
    ours.finish().expect_code(0);
}

#[test]
fn every_lock_file_of_the_bucket_is_shown_wherever_it_is() {
    let server = start(Manners::Aws);
    let dir = backend_dir(&server.url, "a/terraform.tfstate", "");
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    for n in 0..1500 {
        server.put(&format!("logs/{n}"), b"x");
    }
    server.put("z/env/terraform.tfstate", b"{}");
    server.put("z/env/terraform.tfstate.tflock", info("3-z", "2026-01-02T03:04:05Z").as_bytes());
    let line = br#"{"tfwrap":{"next":5,"head":4}}"#;
    server.put("z/waited-for.tfwrap/line.tflock", line);
    let ticket =
        br#"{"tfwrap":{"id":"x","beat":1,"who":"me@here","operation":"OperationTypePlan"}}"#;
    server.put("z/waited-for.tfwrap/ticket/4.tflock", ticket);
    server.put("z/waited-for.tfwrap/probe/1.tflock", b"{}");
    let locks = all(dir.path());
    let expected =
        ["s3://tfstate/z/env/terraform.tfstate.tflock", "s3://tfstate/z/waited-for.tflock"];
    assert_eq!(names(&locks), expected);
    assert_eq!(locks[0]["holder"]["id"], "3-z");
    assert_eq!(
        (&locks[1]["state"], &locks[1]["waiters"][0]["who"]),
        (&json!("free"), &json!("me@here"))
    );
}

#[tokio::test]
async fn without_the_permission_it_says_which_and_a_local_state_has_no_table() {
    let (dir, table) = (local_backend_dir(), "status-all-denied");
    dynamodb().create_lock_table(table).await;
    let proxy = Proxy::before(&dynamodb().url);
    proxy.plan([Rule::on("Scan", Fault::DENIED)]);
    let lock = format!("dynamodb://{table}/x?region={REGION}&endpoint={}", proxy.url());
    let asked = |options: &[&str]| {
        let mut command = tfwrap(dir.path());
        command.args(["--no-backend-lock", "--lock", &lock, "status"]).args(options);
        run(&mut command)
    };
    let done = asked(&["--all"]).expect_code(77);
    assert!(done.stderr.contains("`dynamodb:Scan` on DynamoDB table"), "{}", done.stderr);
    assert!(done.stderr.contains("hint: allow `dynamodb:Scan`"), "{}", done.stderr);
    asked(&[]).expect_code(0);

    let mut command = tfwrap(dir.path());
    let done = run(command.args(["status", "--all"])).expect_code(78);
    assert!(done.stderr.contains("no lock here is in one"), "{}", done.stderr);
}
