//! The history: what real runs leave in it, and that it costs the lock nothing.

mod told;

use std::process::Command;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::faults::Stage;
use crate::support::harness::{Gate, Running, applying, pause, run, tfwrap};
use crate::support::proxy::{Fault, Rule};
use crate::support::s3_server;
use crate::support::servers::{dynamodb, local_backend_dir, terraform};

impl Stage {
    fn history(&self) -> String {
        format!("{}.tfwrap/history", self.lock_id())
    }

    /// The text of the register.
    async fn recorded(&self) -> Option<String> {
        let item = dynamodb().get_raw(&self.table, &self.history()).await?;
        assert!(!item.contains_key("Info"), "it is no lock: {item:?}");
        Some(item["Tfwrap"].as_s().unwrap().clone())
    }

    /// The runs in it, in the order in which they were written.
    async fn past(&self) -> Vec<Value> {
        let Some(text) = self.recorded().await else { return Vec::new() };
        let document: Value = serde_json::from_str(&text).expect(&text);
        assert_eq!(document["version"], 1);
        document["runs"].as_array().unwrap().clone()
    }

    /// Waits until the lock is free.
    async fn is_free_at_last(&self) {
        for _ in 0..400 {
            if self.info().await.is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the lock is still held");
    }

    async fn put_history(&self, text: &str) {
        dynamodb().put_texts(&self.table, &self.history(), &[("Tfwrap", text)]).await;
    }
}

fn git(dir: &std::path::Path, args: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=x", "-c", "user.email=x@x", "-C"]).arg(dir).args(args);
    let done = git.env("GIT_CONFIG_GLOBAL", "/dev/null").output().expect("git");
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn who_ran_what_waited_for_whom_and_how_it_ended() {
    let stage = Stage::initialised("history/told").await;
    git(stage.path(), &["init", "--quiet"]);
    git(stage.path(), &["commit", "--quiet", "--allow-empty", "--message=x"]);
    let commit = git(stage.path(), &["rev-parse", "HEAD"]);
    let of_alice = || {
        let mut command = tfwrap(stage.path());
        for (name, value) in [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_REPOSITORY", "acme/infra"),
            ("GITHUB_RUN_ID", "19532180001"),
            ("GITHUB_RUN_NUMBER", "412"),
            ("GITHUB_ACTOR", "alice"),
            ("GITHUB_WORKFLOW", "deploy"),
            ("GITHUB_REF", "refs/heads/main"),
            ("GITHUB_SHA", "ffffffffffffffffffffffffffffffffffffffff"),
        ] {
            command.env(name, value);
        }
        command
    };
    let gate = Gate::new(stage.path(), "first");
    let first = Running::start(&mut applying(of_alice(), &gate.command()));
    gate.reached();
    let second = Running::start(&mut applying(tfwrap(stage.path()), "exit 3 # s3cr3t"));
    second.says("waiting");
    // Longer than the wait itself may be off by.
    pause(Duration::from_millis(1500));
    gate.open();
    first.finish().expect_code(0);
    second.finish().expect_code(1);

    let text = stage.recorded().await.expect("a history");
    assert!(!text.contains("s3cr3t") && !text.contains("command="), "{text}");
    let past = stage.past().await;
    let [first, second] = &past[..] else { panic!("{past:?}") };
    assert_eq!(first["who"], tfwrap::identity::who());
    assert_eq!(first["actor"], "alice");
    assert_eq!(first["operation"], "OperationTypeApply");
    assert!(first["info"].as_str().unwrap().starts_with("https://github.com/acme/infra/"));
    assert_eq!((&first["outcome"], &first["code"]), (&json!("success"), &json!(0)));
    assert_eq!(first["commit"], json!(commit), "what is checked out, whatever the CI says");
    let pipeline = json!({
        "repository": "acme/infra", "workflow": "deploy", "ref": "refs/heads/main", "number": 412
    });
    assert_eq!(first["pipeline"], pipeline);
    assert_eq!(first["behind"], Value::Null);
    assert!(first["held"].as_u64().unwrap() >= 1500, "{first}");

    assert_eq!((&second["outcome"], &second["code"]), (&json!("failure"), &json!(1)));
    let [behind] = &second["behind"].as_array().unwrap()[..] else { panic!("{second}") };
    assert_eq!((&behind["id"], &behind["who"]), (&first["id"], &first["who"]));
    let (waited, behind) = (second["waited"].as_u64().unwrap(), behind["waited"].as_u64().unwrap());
    assert!(waited >= 1500 && behind + 1000 >= waited && behind <= waited, "{second}");
    assert_eq!(second["pipeline"], Value::Null);
    assert_eq!(stage.info().await, None, "and the lock is free");
}

#[tokio::test]
async fn each_end_has_its_word() {
    let stage = Stage::initialised("history/ends").await;
    let theirs = Gate::new(stage.path(), "theirs");
    let stock = Running::start(&mut applying(terraform(stage.path()), &theirs.command()));
    theirs.reached();
    let mut late = tfwrap(stage.path());
    run(late.args(["--lock-timeout", "2s", "plan", "-no-color"])).expect_code(75);
    let stopped = Running::start(tfwrap(stage.path()).args(["plan", "-no-color"]));
    stopped.says("waiting");
    stopped.signal(Signal::SIGTERM);
    stopped.finish().expect_code(143);
    theirs.open();
    stock.finish().expect_code(0);
    let gate = Gate::new(stage.path(), "ours");
    let ours = Running::start(&mut applying(tfwrap(stage.path()), &gate.command()));
    gate.reached();
    ours.signal(Signal::SIGINT);
    ours.finish().expect_code(1);
    let shown = run(tfwrap(stage.path()).args(["hold", "--format", "json"])).expect_code(0);
    let held: Value = serde_json::from_str(&shown.stdout).unwrap();
    // A command that comes under the lock of another asks for none.
    let mut inside = tfwrap(stage.path());
    for name in ["TFWRAP_HELD", "TFWRAP_STATE_DIR"] {
        inside.env(name, held["env"][name].as_str().expect(&shown.stdout));
    }
    run(inside.args(["plan", "-no-color"])).expect_code(0);
    run(tfwrap(stage.path()).arg("release")).expect_code(0);
    let mut past = Vec::new();
    for _ in 0..200 {
        past = stage.past().await;
        if past.len() == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let words: Vec<_> = past
        .iter()
        .map(|run| {
            let word = |name: &str| run[name].as_str().unwrap().to_owned();
            (word("operation"), word("outcome"), run["code"].as_u64().unwrap())
        })
        .collect();
    let expected = [
        ("OperationTypePlan", "timed-out", 75),
        ("OperationTypePlan", "interrupted", 143),
        ("OperationTypeApply", "interrupted", 1),
        ("hold", "success", 0),
    ]
    .map(|(operation, outcome, code)| (operation.to_owned(), outcome.to_owned(), code));
    assert_eq!(words, expected);
    assert_eq!((&past[0]["held"], &past[1]["held"]), (&Value::Null, &Value::Null));
    // A stock Terraform leaves no entry, and is named all the same.
    assert!(past[0]["behind"][0]["waited"].as_u64().unwrap() >= 1000, "{}", past[0]);
}

/// Where the store does not answer the request for the history: that the lock goes all the same, and how long
/// the exit takes from there.
#[tokio::test]
async fn a_silent_history_does_not_keep_the_lock_and_the_exit_waits_a_second() {
    let stage = Stage::new("history/slow").await;
    let key = stage.history();
    // The longer one is at work when its history is read.
    for (operation, script) in [("GetItem", "true"), ("GetItem", "sleep 0.5"), ("PutItem", "true")]
    {
        stage.proxy.plan([Rule::on(operation, Fault::Hold).key(&key)]);
        let (asked, removed) =
            (stage.proxy.count_of(operation, &key), stage.requests("DeleteItem"));
        let running = Running::start(&mut stage.around(script));
        stage.proxy.arrived(&format!("{operation} {key}"), asked + 1).await;
        if operation == "GetItem" {
            stage.arrived("DeleteItem", removed + 1).await;
            stage.is_free_at_last().await;
        }
        let arrived = tfwrap::clock::uptime();
        assert_eq!(stage.info().await, None, "the lock has gone before");
        // Another one has it at once.
        let mut next = stage.with(&["--no-history", "--lock-timeout", "0s"], "true");
        run(&mut next).expect_code(0);
        let done = running.finish().expect_code(0);
        let took = tfwrap::clock::uptime().since(arrived);
        // A second is what it waits; the rest is for this machine.
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert_eq!(done.stderr, "");
        let mut told = stage.with(&["-v"], "true");
        let done = run(&mut told).expect_code(0);
        assert!(done.stderr.contains("is not in the history of"), "{}", done.stderr);
        assert!(done.stderr.contains("no answer within 1s"), "{}", done.stderr);
        stage.proxy.release();
    }
}

#[tokio::test]
async fn a_stop_ends_the_wait_for_the_history_and_changes_nothing() {
    let stage = Stage::new("history/stop").await;
    let key = stage.history();
    stage.proxy.plan([Rule::on("PutItem", Fault::Hold).key(&key)]);
    let running = Running::start(&mut stage.with(&["-v"], "true"));
    stage.proxy.arrived(&format!("PutItem {key}"), 1).await;
    running.signal(Signal::SIGTERM);
    let done = running.finish().expect_code(0);
    assert!(done.stderr.contains(": interrupted"), "{}", done.stderr);
    stage.proxy.release();
}

/// So the run ends a request earlier. Nothing waits for the read, and there is no second one.
#[tokio::test]
async fn the_history_is_read_while_the_child_works() {
    let stage = Stage::new("history/ahead").await;
    let key = stage.history();
    let counts = || ["GetItem", "PutItem"].map(|it| stage.proxy.count_of(it, &key));
    let gate = Gate::new(stage.path(), "ahead");
    let running = Running::start(&mut stage.around(&gate.command()));
    stage.proxy.arrived(&format!("GetItem {key}"), 1).await;
    gate.reached();
    assert!(stage.info().await.is_some(), "under the lock");
    assert_eq!(counts(), [1, 0], "written last");
    gate.open();
    running.finish().expect_code(0);
    assert_eq!((counts(), stage.past().await.len()), ([1, 1], 1));

    // The read is out when the child ends: it counts when it is answered.
    let gate = Gate::new(stage.path(), "out");
    stage.proxy.plan([Rule::on("GetItem", Fault::Hold).key(&key)]);
    let running = Running::start(&mut stage.around(&gate.command()));
    stage.proxy.arrived(&format!("GetItem {key}"), 2).await;
    gate.reached();
    gate.open();
    stage.is_free_at_last().await;
    stage.proxy.release();
    running.finish().expect_code(0);
    assert_eq!((counts(), stage.past().await.len()), ([2, 2], 2));

    // It failed: it is read afresh.
    let gate = Gate::new(stage.path(), "failed");
    stage.proxy.plan([Rule::on("GetItem", Fault::SERVER_ERROR).key(&key).times(1)]);
    let running = Running::start(&mut stage.around(&gate.command()));
    stage.proxy.arrived(&format!("GetItem {key}"), 3).await;
    gate.reached();
    // The answer has come by then.
    pause(Duration::from_millis(300));
    gate.open();
    running.finish().expect_code(0);
    assert_eq!((counts(), stage.past().await.len()), ([4, 3], 3));
}

/// Whoever had the lock before writes its entry after the release: a read before that would be in vain.
#[tokio::test]
async fn after_another_holder_the_history_is_read_a_second_later() {
    let stage = Stage::new("history/after").await;
    let key = stage.history();
    let counts = || ["GetItem", "PutItem"].map(|it| stage.proxy.count_of(it, &key));
    let gates = ["first", "second"].map(|name| Gate::new(stage.path(), name));
    let first = Running::start(&mut stage.around(&gates[0].command()));
    gates[0].reached();
    stage.proxy.arrived(&format!("GetItem {key}"), 1).await;
    let second = Running::start(&mut stage.around(&gates[1].command()));
    second.says("waiting");
    stage
        .proxy
        .plan([Rule::on("PutItem", Fault::Delay(Duration::from_millis(500))).key(&key).times(1)]);
    gates[0].open();
    gates[1].reached();
    stage.proxy.arrived(&format!("GetItem {key}"), 2).await;
    assert_eq!((counts(), stage.past().await.len()), ([2, 1], 1), "the other's entry is there");
    gates[1].open();
    for running in [first, second] {
        running.finish().expect_code(0);
    }
    assert_eq!((counts(), stage.past().await.len()), ([2, 2], 2), "nothing was refused");
}

#[tokio::test]
async fn what_the_store_refuses_fails_nothing_and_is_said_with_v_only() {
    let stage = Stage::new("history/refused").await;
    let key = stage.history();
    for (fault, words) in [
        (Fault::DENIED, "access denied"),
        (Fault::SERVER_ERROR, "InternalServerError"),
        (Fault::Refuse, "is not in the history of"),
        (Fault::THROTTLED, "throttling"),
    ] {
        stage.proxy.plan([Rule::on("PutItem", fault).key(&key)]);
        let done = run(&mut stage.around("exit 7")).expect_code(7);
        assert_eq!(done.stderr, "");
        let done = run(&mut stage.with(&["-v"], "true")).expect_code(0);
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
    assert_eq!(stage.past().await, [Value::Null; 0]);
    // Whoever may write and not read: the refusal shows what is there.
    stage.proxy.plan([Rule::on("GetItem", Fault::DENIED).key(&key)]);
    for n in 1..=2 {
        run(&mut stage.around("true")).expect_code(0);
        assert_eq!(stage.past().await.len(), n);
    }
}

#[tokio::test]
async fn two_that_write_at_once_are_both_in_it() {
    let stage = Stage::new("history/both").await;
    let key = stage.history();
    stage.proxy.plan([Rule::on("GetItem", Fault::HoldReply).key(&key)]);
    let running = Running::start(&mut stage.around("true"));
    stage.proxy.arrived(&format!("GetItem {key}"), 1).await;
    stage.put_history(r#"{"version":1,"runs":[{"id":"other","asked":1,"later":{"x":1}}]}"#).await;
    stage.proxy.release();
    running.finish().expect_code(0);
    let past = stage.past().await;
    assert_eq!(past.len(), 2);
    // Of a version that knows more: nothing is lost.
    assert_eq!(past[0], json!({"id": "other", "asked": 1, "later": {"x": 1}}));

    // What was read while the child worked is out of date, too.
    let gate = Gate::new(stage.path(), "both");
    stage.proxy.plan([]);
    let reads = stage.proxy.count_of("GetItem", &key);
    let running = Running::start(&mut stage.around(&gate.command()));
    stage.proxy.arrived(&format!("GetItem {key}"), reads + 1).await;
    gate.reached();
    run(&mut stage.with(&["--lock-timeout", "0s"], "true")).expect_code(75);
    gate.open();
    running.finish().expect_code(0);
    let past = stage.past().await;
    assert_eq!((past.len(), &past[2]["outcome"]), (4, &json!("timed-out")));
}

#[tokio::test]
async fn whoever_wants_none_asks_for_none() {
    let stage = Stage::new("history/none").await;
    run(&mut stage.with(&["--no-history"], "true")).expect_code(0);
    run(stage.around("true").env("TFWRAP_NO_HISTORY", "1")).expect_code(0);
    std::fs::write(stage.path().join(".tfwrap.yaml"), "no-history: true\n").unwrap();
    run(&mut stage.around("true")).expect_code(0);
    assert_eq!(stage.proxy.count_with(".tfwrap/history"), 0);
    std::fs::remove_file(stage.path().join(".tfwrap.yaml")).unwrap();
    run(&mut stage.around("true")).expect_code(0);
    assert_eq!(stage.proxy.count_with(".tfwrap/history"), 2, "one read, one write");
}

#[tokio::test]
async fn a_damaged_register_is_begun_anew_and_one_that_is_not_ours_stays() {
    let stage = Stage::new("history/damaged").await;
    for text in ["", "{", "\u{1b}[2J", r#"{"version":1,"runs":7}"#, &"[".repeat(300_000)] {
        stage.put_history(text).await;
        run(&mut stage.around("true")).expect_code(0);
        assert_eq!(stage.past().await.len(), 1, "{text}");
    }
    let newer = r#"{"version":2,"runs":[]}"#;
    stage.put_history(newer).await;
    let done = run(&mut stage.with(&["-v"], "true")).expect_code(0);
    assert!(done.stderr.contains("a newer version of tfwrap"), "{}", done.stderr);
    assert_eq!(stage.recorded().await.as_deref(), Some(newer));
    // A lock of this name.
    let lock = [("LockID", stage.history()), ("Info", "{\"ID\":\"1\"}".to_owned())];
    let lock = lock.map(|(name, value)| (name.to_owned(), AttributeValue::S(value)));
    dynamodb().put_raw(&stage.table, lock.clone().into()).await;
    run(&mut stage.around("true")).expect_code(0);
    let there = dynamodb().get_raw(&stage.table, &stage.history()).await;
    assert_eq!(there, Some(lock.into()));
}

#[test]
fn a_lock_file_in_s3_and_one_in_a_directory_have_theirs_beside_them() {
    let server = s3_server::aws_like();
    let key = "history/s3/terraform.tfstate";
    let dir = s3_server::backend_dir(&server.url, key, "");
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    run(tfwrap(dir.path()).args(["plan", "-no-color"])).expect_code(0);
    let text = server.text(&format!("{key}.tfwrap/history.tflock")).expect("an object");
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["tfwrap"]["runs"][0]["operation"], "OperationTypePlan", "{text}");

    let dir = local_backend_dir();
    std::fs::create_dir(dir.path().join("locks")).unwrap();
    let lock = format!("file://{}/locks/x", dir.path().display());
    let before: Vec<_> = names(dir.path());
    run(tfwrap(dir.path()).args(["--lock", &lock, "plan", "-no-color"])).expect_code(0);
    let locks = names(&dir.path().join("locks"));
    assert!(locks.iter().any(|name| name.contains("history")), "{locks:?}");
    // Beside a local state nothing is left.
    let after: Vec<_> = names(dir.path());
    let new: Vec<_> = after.iter().filter(|name| !before.contains(name)).collect();
    assert!(
        new.iter().all(|name| name.starts_with(".tfwrap-state") || *name == ".terraform"),
        "{new:?}"
    );
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let names = std::fs::read_dir(dir).unwrap().map(name);
    names.map(|name| name.into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_pair_has_one_history_beside_the_item() {
    let stage = crate::pair::Stage::initialised("history").await;
    run(tfwrap(stage.dir.path()).args(["plan", "-no-color"])).expect_code(0);
    assert_eq!(stage.items.count_with(".tfwrap/history"), 2);
    assert_eq!(stage.s3.count_with(".tfwrap/history"), 0);
}
