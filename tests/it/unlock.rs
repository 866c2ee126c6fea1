//! `tfwrap unlock`: removes the lock of a holder that is gone, and no other.

use std::fs;
use std::path::Path;
use std::process::Command;

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rexpect::session::{PtySession, spawn_command};
use serde_json::Value;

use crate::faults::Stage;
use crate::support::harness::{Finished, Gate, Running, S3Dir, applying, run, s3_dir, tfwrap};
use crate::support::proxy::Fault;
use crate::support::servers::{REGION, dynamodb, local_backend_dir, terraform};

const NOBODY: &str = "11111111-2222-3333-4444-555555555555";

fn unlock(dir: &Path, args: &[&str]) -> Finished {
    run(tfwrap(dir).arg("unlock").args(args))
}

/// The ID under which the lock is held, as `status` says it.
#[track_caller]
fn held_id(dir: &Path) -> String {
    let done = run(tfwrap(dir).args(["status", "--format", "json"])).expect_code(0);
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    document["locks"][0]["holder"]["id"].as_str().expect("it is held").to_owned()
}

async fn item(dir: &S3Dir) -> Option<std::collections::HashMap<String, AttributeValue>> {
    dynamodb().get_raw(&dir.table, &dir.lock_id()).await
}

/// A run of ours that beats every 1.5 s.
fn holding(dir: &S3Dir, gate: &Gate) -> Running {
    let mut command = tfwrap(dir.path());
    command.args(["--lease", "15s"]);
    let ours = Running::start(&mut applying(command, &gate.command()));
    gate.reached();
    ours
}

/// Kills a process and all below it, the oldest first.
fn kill_tree(top: Pid) {
    let mut pids = vec![top];
    let mut at = 0;
    while let Some(pid) = pids.get(at) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        pids.extend(children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())));
        at += 1;
    }
    for pid in pids {
        // A later one may have ended with an earlier one.
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// Leaves the lock of a run behind that is gone with all of its processes.
async fn abandoned(dir: &S3Dir) -> String {
    let ours = holding(dir, &Gate::new(dir.path(), "dead"));
    let id = held_id(dir.path());
    kill_tree(ours.pid());
    ours.finish();
    assert!(item(dir).await.is_some(), "the lock is left behind");
    id
}

#[tokio::test]
async fn the_lock_of_a_dead_holder_goes_by_its_id_only() {
    let dir = s3_dir("unlock/dead").await;
    let free = unlock(dir.path(), &[NOBODY, "--yes"]).expect_code(1);
    assert!(free.stderr.contains("is free"), "{}", free.stderr);
    let id = abandoned(&dir).await;
    let before = item(&dir).await;

    let wrong = unlock(dir.path(), &[NOBODY, "--yes", "--force"]).expect_code(1);
    for words in [NOBODY, "is held by", &id, "tfwrap status"] {
        assert!(wrong.stderr.contains(words), "{words:?} in {}", wrong.stderr);
    }
    let unasked = unlock(dir.path(), &[&id]).expect_code(1);
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    assert_eq!(item(&dir).await, before, "nothing was touched");

    let digest = format!("{}-md5", dir.lock_id());
    dynamodb()
        .put_raw(
            &dir.table,
            [("LockID", digest.as_str()), ("Digest", "x")]
                .map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())))
                .into(),
        )
        .await;
    let done = unlock(dir.path(), &[&id, "--yes"]).expect_code(0);
    assert!(done.stdout.contains("held by") && done.stdout.contains("removed"), "{}", done.stdout);
    assert_eq!(item(&dir).await, None);
    assert!(dynamodb().get_raw(&dir.table, &digest).await.is_some(), "the digest stays");
    unlock(dir.path(), &[&id, "--yes"]).expect_code(1);
}

#[tokio::test]
async fn a_holder_that_lives_is_refused_unless_forced() {
    let dir = s3_dir("unlock/living").await;
    let gate = Gate::new(dir.path(), "ours");
    let ours = holding(&dir, &gate);
    let id = held_id(dir.path());
    let refused = unlock(dir.path(), &[&id, "--yes"]).expect_code(1);
    for words in ["has just sent a heartbeat", "--force"] {
        assert!(refused.stderr.contains(words), "{words:?} in {}", refused.stderr);
    }
    assert_eq!(held_id(dir.path()), id);
    let waited = run(tfwrap(dir.path()).args(["--lock-timeout=0s", "plan"])).expect_code(75);
    assert!(waited.stderr.contains(&format!("tfwrap unlock {id}")), "{}", waited.stderr);
    unlock(dir.path(), &[&id, "--yes", "--force"]).expect_code(0);
    assert_eq!(item(&dir).await, None);
    let ours = ours.finish().expect_code(76);
    assert!(ours.stderr.contains("lost"), "{}", ours.stderr);
    assert_eq!(item(&dir).await, None);
}

#[tokio::test]
async fn a_stock_terraforms_lock_goes_by_its_id() {
    let dir = s3_dir("unlock/stock").await;
    let gate = Gate::new(dir.path(), "theirs");
    let stock = Running::start(&mut applying(terraform(dir.path()), &gate.command()));
    gate.reached();
    let done = unlock(dir.path(), &[&held_id(dir.path()), "--yes"]).expect_code(0);
    assert!(done.stdout.contains("does not show whether its holder is alive"), "{}", done.stdout);
    assert_eq!(item(&dir).await, None);
    gate.open();
    // It says that its lock is gone.
    stock.finish();
}

#[test]
fn the_lock_of_a_local_state_is_the_kernels() {
    let dir = local_backend_dir();
    let gate = Gate::new(dir.path(), "ours");
    let ours = Running::start(&mut applying(tfwrap(dir.path()), &gate.command()));
    gate.reached();
    let done = unlock(dir.path(), &[&held_id(dir.path()), "--yes", "--force"]).expect_code(1);
    for words in ["kernel", "fuser -v", "terraform.tfstate"] {
        assert!(done.stderr.contains(words), "{words:?} in {}", done.stderr);
    }
    gate.open();
    ours.finish().expect_code(0);
}

#[tokio::test]
async fn a_file_lock_goes_too() {
    let dir = local_backend_dir();
    let lock = format!("file://{}/locks/x", dir.path().display());
    let ours = |words: &[&str]| {
        let mut command = tfwrap(dir.path());
        command.args(["--lock", &lock, "--no-backend-lock", "--lease", "15s"]).args(words);
        command
    };
    let holder = Running::start(&mut ours(&["run", "--", "sh", "-c", "echo up >&2; sleep 60"]));
    holder.says("up");
    let status = run(&mut ours(&["status", "--format", "json"])).expect_code(0);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    let id = status["locks"][0]["holder"]["id"].as_str().unwrap().to_owned();
    kill_tree(holder.pid());
    holder.finish();
    run(&mut ours(&["unlock", &id, "--yes"])).expect_code(0);
    let status = run(&mut ours(&["status"])).expect_code(0);
    assert_eq!(status.stdout, format!("{lock}: free\n"));
}

/// On a terminal; it watches for seconds before it asks.
fn on_a_terminal(dir: &S3Dir, id: &str) -> PtySession {
    let mut command: Command = tfwrap(dir.path());
    command.args(["unlock", id]);
    spawn_command(command, Some(60_000)).expect("a terminal")
}

/// On a terminal, up to its question.
fn asked(dir: &S3Dir, id: &str) -> PtySession {
    up_to_its_question(on_a_terminal(dir, id))
}

fn up_to_its_question(mut session: PtySession) -> PtySession {
    session.exp_string("Only `yes` does:").expect("the question");
    session
}

#[track_caller]
fn answered(mut session: PtySession, answer: &str) -> (String, i32) {
    session.send_line(answer).expect("the terminal takes it");
    ended(session)
}

#[track_caller]
fn ended(mut session: PtySession) -> (String, i32) {
    let said = session.exp_eof().expect("it ends");
    match session.process_mut().wait().expect("it ended") {
        nix::sys::wait::WaitStatus::Exited(_, code) => (said, code),
        other => panic!("{other:?}: {said}"),
    }
}

#[tokio::test]
async fn the_terminal_is_asked_and_only_yes_removes() {
    let dir = s3_dir("unlock/asked").await;
    let id = abandoned(&dir).await;
    let before = item(&dir).await;
    // All watch at once; none of them changes anything.
    let refused = ["no", "y", ""].map(|no| (no, on_a_terminal(&dir, &id)));
    let (interrupted, confirmed) = (on_a_terminal(&dir, &id), on_a_terminal(&dir, &id));
    for (no, session) in refused {
        let (said, code) = answered(up_to_its_question(session), no);
        assert_eq!(code, 1, "{said}");
        assert_eq!(item(&dir).await, before);
    }
    let mut session = up_to_its_question(interrupted);
    session.send_control('c').expect("the terminal takes it");
    let (said, code) = ended(session);
    assert_eq!(code, 130, "{said}");
    // On a line of its own, and of the lock that was looked at.
    assert!(said.starts_with(" \r\ntfwrap: "), "{said:?}");
    assert!(said.contains("interrupted by SIGINT: the lock stays"), "{said}");
    assert_eq!(item(&dir).await, before);
    let (said, code) = answered(up_to_its_question(confirmed), "yes");
    assert_eq!(code, 0, "{said}");
    assert_eq!(item(&dir).await, None);
}

#[tokio::test]
async fn what_changed_after_it_was_shown_stays() {
    let dir = s3_dir("unlock/race").await;
    let id = abandoned(&dir).await;
    let original = item(&dir).await.unwrap();
    let changed = |attribute: &str, from: &str, to: &str| {
        let mut changed = original.clone();
        let text = changed[attribute].as_s().unwrap().clone();
        assert!(text.contains(from), "{text}");
        changed.insert(attribute.to_owned(), AttributeValue::S(text.replacen(from, to, 1)));
        changed
    };
    let taken = changed("Info", &id, NOBODY);
    let beaten = changed("Tfwrap", "\"beat\":", "\"beat\":7");
    for (now, words) in [(taken, NOBODY), (beaten, "has just sent a heartbeat")] {
        dynamodb().put_raw(&dir.table, original.clone()).await;
        let session = asked(&dir, &id);
        dynamodb().put_raw(&dir.table, now.clone()).await;
        let (said, code) = answered(session, "yes");
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(words), "{words:?} in {said}");
        assert_eq!(item(&dir).await, Some(now));
    }
}

#[tokio::test]
async fn a_removal_is_sent_again_and_a_lost_reply_read_back() {
    let stage = Stage::new("unlock/faults").await;
    let faults = [Fault::DropReply, Fault::FailAfter, Fault::SERVER_ERROR, Fault::THROTTLED];
    for fault in faults {
        stage.taken_by_a_stranger().await;
        let id = held_id(stage.path());
        stage.plan(&[("DeleteItem", fault.clone(), 1)]);
        let done = unlock(stage.path(), &[&id, "--yes"]).expect_code(0);
        assert!(done.stdout.contains("removed"), "{fault:?}: {}", done.stdout);
        assert_eq!(stage.info().await, None, "{fault:?}");
    }
    // Denied, it stays, and says so.
    stage.taken_by_a_stranger().await;
    let id = held_id(stage.path());
    stage.plan(&[("DeleteItem", Fault::Status(400, "AccessDeniedException"), 9)]);
    unlock(stage.path(), &[&id, "--yes"]).expect_code(77);
    assert!(stage.info().await.is_some());
}

/// What the command that is printed with a text would do: the words of the `aws` in it.
#[track_caller]
fn delete_item_in(text: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.contains("aws dynamodb delete-item"));
    let line = line.unwrap_or_else(|| panic!("no command in {text}"));
    shell_words::split(&line[line.find("aws dynamodb").unwrap()..]).unwrap()
}

/// Does it, and tells whether the item was removed.
async fn delete_item(words: &[String]) -> bool {
    let option = |name: &str| &words[words.iter().position(|word| word == name).unwrap() + 1];
    let json = |name: &str| serde_json::from_str::<Value>(option(name)).unwrap();
    let text = |value: &Value| AttributeValue::S(value["S"].as_str().unwrap().to_owned());
    let request = dynamodb()
        .client()
        .delete_item()
        .table_name(option("--table-name"))
        .key("LockID", text(&json("--key")["LockID"]))
        .condition_expression(option("--condition-expression"));
    let values = json("--expression-attribute-values");
    let values = values.as_object().unwrap().iter().map(|(name, it)| (name.clone(), text(it)));
    match request.set_expression_attribute_values(Some(values.collect())).send().await {
        Ok(_) => true,
        Err(error) => {
            assert!(error.into_service_error().is_conditional_check_failed_exception());
            false
        }
    }
}

#[tokio::test]
async fn a_record_that_names_nobody_goes_by_what_it_is() {
    let (table, key) = ("unlock-nameless", "b/k");
    dynamodb().create_lock_table(table).await;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let item = |info: Option<AttributeValue>| {
        let mut item = std::collections::HashMap::from([("LockID".to_owned(), text(key))]);
        item.extend(info.map(|info| ("Info".to_owned(), info)));
        item
    };
    let dir = tempfile::tempdir().unwrap();
    let url = format!("dynamodb://{table}/{key}?region={REGION}&endpoint={}", dynamodb().url);
    let ours = |words: &[&str]| {
        let mut command = tfwrap(dir.path());
        run(command.args(["--no-backend-lock", "--lock", &url]).args(words))
    };
    let long = format!("junk '\u{1b}[31m {}", "x".repeat(5000));
    for info in [
        None,
        Some(text("junk")),
        Some(text("")),
        Some(text(&long)),
        Some(text(r#"{"ID":7}"#)),
        Some(text(r#"{"ID":"","Who":"x"}"#)),
        Some(AttributeValue::N("1".to_owned())),
        Some(AttributeValue::L(vec![])),
        Some(AttributeValue::Null(true)),
    ] {
        dynamodb().put_raw(table, item(info.clone())).await;
        let waited = ours(&["--lock-timeout", "0s", "run", "--", "true"]).expect_code(75);
        let refused = ours(&["unlock", "junk", "--yes"]).expect_code(1);
        assert!(!refused.stderr.contains("tfwrap status"), "{}", refused.stderr);
        let status = ours(&["status"]).expect_code(0);
        let words = delete_item_in(&waited.stderr);
        for other in [&refused.stderr, &status.stdout] {
            assert_eq!(delete_item_in(other), words, "{info:?}");
            assert!(!other.contains('\u{1b}'), "{other}");
        }
        // Somebody has taken it since.
        dynamodb().put_raw(table, item(Some(text(r#"{"ID":"1-2-3"}"#)))).await;
        assert!(!delete_item(&words).await, "{info:?}: {words:?}");
        dynamodb().put_raw(table, item(info.clone())).await;
        assert!(delete_item(&words).await, "{info:?}: {words:?}");
    }
}
