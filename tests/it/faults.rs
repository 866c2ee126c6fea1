//! The whole program while its store misbehaves: a proxy between it and the lock table loses
//! replies, throttles, refuses and holds requests back. The child is a shell script under `run`,
//! whose backend is read from `backend.tf`, so nothing of Terraform's own comes in between.

mod access;
mod outages;
mod panics;
mod release;
mod signals;
mod streams;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tempfile::TempDir;

use crate::support::harness::{Finished, Running, applying, eventually, run, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{BUCKET, dynamodb, s3_backend_dir, terraform};

/// A directory whose backend has its lock table behind a proxy of its own.
#[derive(Debug)]
pub(crate) struct Stage {
    dir: TempDir,
    pub(crate) table: String,
    pub(crate) key: String,
    pub(crate) proxy: Proxy,
}

impl Stage {
    pub(crate) async fn new(name: &str) -> Self {
        let (table, key) = (name.replace('/', "-"), format!("{name}/terraform.tfstate"));
        dynamodb().create_lock_table(&table).await;
        let proxy = Proxy::before(&dynamodb().url);
        let dir = s3_backend_dir(&key, &table);
        let stage = Self { dir, table, key, proxy };
        stage.edit_backend(&dynamodb().url, stage.proxy.url());
        stage
    }

    /// With `terraform init` done, for those tests whose child is a real Terraform.
    pub(crate) async fn initialised(name: &str) -> Self {
        let stage = Self::new(name).await;
        run(terraform(stage.path()).args(["init", "-no-color"])).expect_code(0);
        stage
    }

    /// Puts one more proxy between ours and the server.
    fn behind_another_proxy(&mut self) -> Proxy {
        let server = Proxy::before(&dynamodb().url);
        let before = std::mem::replace(&mut self.proxy, Proxy::before(server.url()));
        self.edit_backend(before.url(), self.proxy.url());
        server
    }

    /// Changes `backend.tf`.
    pub(crate) fn edit_backend(&self, from: &str, to: &str) {
        let file = self.path().join("backend.tf");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&file, text.replace(from, to)).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The key of the lock item.
    pub(crate) fn lock_id(&self) -> String {
        format!("{BUCKET}/{}", self.key)
    }

    /// `tfwrap run` around a script that counts its starts.
    pub(crate) fn around(&self, script: &str) -> Command {
        self.with(&[], script)
    }

    /// The same with options of tfwrap's.
    pub(crate) fn with(&self, options: &[&str], script: &str) -> Command {
        let mut command = tfwrap(self.path());
        let script = format!("echo x >> runs; {script}");
        command.args(options).args(["run", "--", "sh", "-c", &script]);
        command
    }

    /// How often the script was started.
    pub(crate) fn runs(&self) -> usize {
        fs::read_to_string(self.path().join("runs")).map_or(0, |text| text.lines().count())
    }

    /// A rule for requests about the lock item, not those about its digest.
    pub(crate) fn on(&self, operation: &str, fault: Fault) -> Rule {
        Rule::on(operation, fault).key(&self.lock_id())
    }

    /// What happens to requests about the lock item from now on.
    pub(crate) fn plan(&self, rules: &[(&str, Fault, usize)]) {
        let rule = |(operation, fault, times): &(&str, Fault, usize)| {
            self.on(operation, fault.clone()).times(*times)
        };
        self.proxy.plan(rules.iter().map(rule));
    }

    /// How many requests about the lock item have come.
    pub(crate) fn requests(&self, operation: &str) -> usize {
        self.proxy.count(&format!("{operation} {}", self.lock_id()))
    }

    /// Waits until the `n`th request about the lock item is there.
    pub(crate) async fn arrived(&self, operation: &str, n: usize) {
        self.proxy.arrived(&format!("{operation} {}", self.lock_id()), n).await;
    }

    /// The lock info in the table.
    pub(crate) async fn info(&self) -> Option<String> {
        let item = dynamodb().get_raw(&self.table, &self.lock_id()).await?;
        Some(item["Info"].as_s().unwrap().clone())
    }

    /// Someone else takes the lock; returns what they wrote.
    pub(crate) async fn taken_by_a_stranger(&self) -> String {
        let info = serde_json::json!({
            "ID": "11111111-2222-3333-4444-555555555555", "Operation": "OperationTypeApply",
            "Info": "", "Who": "stranger@elsewhere", "Version": "1.11.4",
            "Created": "2026-01-02T03:04:05Z", "Path": self.lock_id(),
        })
        .to_string();
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let item = HashMap::from([
            ("LockID".to_owned(), text(&self.lock_id())),
            ("Info".to_owned(), text(&info)),
        ]);
        dynamodb().put_raw(&self.table, item).await;
        info
    }

    /// The item goes, whosever it is.
    pub(crate) async fn cleared(&self) {
        let key = AttributeValue::S(self.lock_id());
        let request = dynamodb().client().delete_item().table_name(&self.table);
        request.key("LockID", key).send().await.unwrap();
    }

    /// Fails unless the script ran just once, its success came through, and the lock is free.
    pub(crate) async fn went_well(&self, done: Finished, what: &str) -> Finished {
        assert_eq!(done.status.code(), Some(0), "{what}: {}", done.stderr);
        assert_eq!(self.runs(), 1, "{what}: {}", done.stderr);
        assert_eq!(self.info().await, None, "{what}: {}", done.stderr);
        fs::remove_file(self.path().join("runs")).unwrap();
        done
    }
}

fn says(done: &Finished, words: &[&str]) {
    for words in words {
        assert!(done.stderr.contains(words), "{words:?} in: {}", done.stderr);
    }
}

#[tokio::test]
async fn a_create_that_was_applied_and_not_answered_is_found_again() {
    let stage = Stage::new("faults/create-lost").await;
    for fault in [Fault::DropReply, Fault::HalfReply, Fault::FailAfter] {
        let before = stage.requests("PutItem");
        stage.plan(&[("PutItem", fault.clone(), 1)]);
        let done = run(&mut stage.around("true"));
        let done = stage.went_well(done, &format!("{fault:?}")).await;
        assert_eq!(done.stderr, "", "{fault:?}: it is found, so there is nothing to say");
        // Finding our ID does not date it: the second one is the beat that does.
        assert_eq!(stage.requests("PutItem") - before, 2, "{fault:?}");
    }
}

#[tokio::test]
async fn a_create_that_was_not_applied_is_sent_again() {
    let stage = Stage::new("faults/create-not-done").await;
    for fault in [Fault::Refuse, Fault::SERVER_ERROR, Fault::THROTTLED, Fault::CONFLICT] {
        let before = stage.requests("PutItem");
        stage.plan(&[("PutItem", fault.clone(), 1)]);
        let done = run(&mut stage.around("true"));
        stage.went_well(done, &format!("{fault:?}")).await;
        assert_eq!(stage.requests("PutItem") - before, 2, "{fault:?}");
    }
}

#[tokio::test]
async fn a_create_that_lands_after_all_is_announced_with_the_command_that_removes_it() {
    let stage = Stage::new("faults/create-late").await;
    stage.plan(&[("PutItem", Fault::Hold, 1)]);
    // The guardian would be faster than whoever reads that.
    let done = run(stage.around("true").env("TFWRAP_TEST_OFF", "guardian"));
    let done = stage.went_well(done, "held back").await;
    says(&done, &["may still appear"]);
    stage.proxy.release();
    lands_late(&stage, &done).await;
}

/// What was held back is done now; the printed command removes it.
async fn lands_late(stage: &Stage, done: &Finished) {
    let mut info = None;
    for _ in 0..250 {
        info = stage.info().await;
        if info.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(info.is_some(), "the late write lands");
    let command = release::Command::printed_in(&done.stderr);
    assert!(command.apply().await, "{}", done.stderr);
    assert_eq!(stage.info().await, None);
}

#[tokio::test]
async fn a_create_that_may_land_after_a_wait_in_vain_is_announced_too() {
    let stage = Stage::new("faults/create-late-in-vain").await;
    stage.plan(&[("PutItem", Fault::Hold, 1)]);
    let mut command = stage.with(&["--lock-timeout=7s"], "true");
    let ours = Running::start(command.env("TFWRAP_TEST_OFF", "guardian"));
    stage.arrived("PutItem", 1).await;
    // Someone else was faster.
    stage.taken_by_a_stranger().await;
    let done = ours.finish().expect_code(75);
    says(&done, &["may still appear", "stranger@elsewhere"]);
    stage.cleared().await;
    stage.proxy.release();
    lands_late(&stage, &done).await;
    assert_eq!(stage.runs(), 0);
}

#[tokio::test]
async fn throttling_and_errors_while_acquiring_are_survived() {
    let stage = Stage::new("faults/acquire").await;
    for fault in [Fault::THROTTLED, Fault::OVER_CAPACITY, Fault::SERVER_ERROR, Fault::Refuse] {
        stage.plan(&[("PutItem", fault.clone(), 3), ("GetItem", fault.clone(), 2)]);
        let done = run(&mut stage.around("true"));
        stage.went_well(done, &format!("{fault:?}")).await;
    }
}

#[tokio::test]
async fn throttling_and_errors_while_waiting_are_survived() {
    let stage = Stage::new("faults/wait").await;
    for fault in [Fault::THROTTLED, Fault::SERVER_ERROR, Fault::DropReply] {
        let before = stage.requests("GetItem");
        stage.taken_by_a_stranger().await;
        stage.plan(&[("GetItem", fault.clone(), 3)]);
        let waiting = Running::start(&mut stage.around("true"));
        waiting.says("stranger@elsewhere");
        stage.arrived("GetItem", before + 4).await;
        assert_eq!(stage.runs(), 0, "{fault:?}: someone else has the lock");
        stage.cleared().await;
        stage.went_well(waiting.finish(), &format!("{fault:?}")).await;
    }
}

#[tokio::test]
async fn a_store_that_never_answers_is_69_and_named() {
    let stage = Stage::new("faults/never").await;
    stage.proxy.plan([Rule::all(Fault::SERVER_ERROR)]);
    // Long before the half hour of the wait is over.
    let done = run(&mut stage.around("true")).expect_code(69);
    says(&done, &["faults-never", "InternalServerError", "hint: "]);
    assert_eq!(stage.runs(), 0);
    let mut impatient = stage.with(&["--lock-timeout", "300ms"], "true");
    let done = run(&mut impatient).expect_code(69);
    says(&done, &["faults-never"]);
    assert_eq!(stage.runs(), 0);
}

#[tokio::test]
async fn a_store_that_answers_after_the_wait_began_is_no_outage() {
    let stage = Stage::new("faults/slow").await;
    stage.plan(&[("PutItem", Fault::Delay(Duration::from_secs(2)), 1)]);
    let done = run(&mut stage.around("true"));
    stage.went_well(done, "slow").await;
}

#[tokio::test]
async fn an_apply_without_contention_costs_one_write_and_one_removal() {
    let stage = Stage::initialised("faults/cost").await;
    run(&mut applying(tfwrap(stage.path()), "true")).expect_code(0);
    let count = |operation| stage.requests(operation);
    assert_eq!([count("PutItem"), count("DeleteItem"), count("GetItem")], [1, 1, 0]);
    // What else came is Terraform's own, about the digest of its state.
    let digest = stage.proxy.count(&format!("GetItem {}-md5", stage.lock_id()));
    let beside =
        |name: &str| stage.proxy.count(&format!("GetItem {}.tfwrap/{name}", stage.lock_id()));
    assert_eq!((beside("line"), beside("history")), (1, 1), "whether anybody waits; who has run");
    assert!(digest > 0 && stage.proxy.count("GetItem") == digest + 2, "{digest}");
    // The control: the counters see what Terraform itself costs.
    run(&mut applying(terraform(stage.path()), "true")).expect_code(0);
    assert_eq!([count("PutItem"), count("DeleteItem"), count("GetItem")], [2, 2, 1]);
}

#[tokio::test]
async fn a_terraform_below_a_run_survives_errors_while_it_checks_the_lock() {
    let stage = Stage::initialised("faults/nested").await;
    for fault in [Fault::SERVER_ERROR, Fault::THROTTLED, Fault::DropReply] {
        stage.plan(&[("GetItem", fault.clone(), 2)]);
        // One lock for both: its own it would wait for as long as the outer one has it.
        let done = run(&mut stage.around("terraform apply -auto-approve -no-color"));
        stage.went_well(done, &format!("{fault:?}")).await;
    }
}

#[tokio::test]
async fn further_locks_are_taken_in_order_and_all_given_back() {
    let stage = Stage::new("faults/several").await;
    let further = |name: &str| {
        let endpoint = stage.proxy.url();
        format!("dynamodb://faults-several/{name}?region=eu-west-1&endpoint={endpoint}")
    };
    let (before, after) = (further("a"), further("z"));
    let item = async |name: &str| dynamodb().get_raw("faults-several", name).await.is_some();

    let mut order = stage.with(&["--lock", &after, "--lock", &before], "echo $TFWRAP_HELD > held");
    stage.went_well(run(&mut order), "free").await;
    let held = fs::read_to_string(stage.path().join("held")).unwrap();
    let at = |part: &str| held.find(part).unwrap_or_else(|| panic!("{part} in {held}"));
    let own = at(&format!("/{}#", stage.lock_id()));
    assert!(at("/a#") < own && own < at("/z#"), "{held}");
    assert!(!item("a").await && !item("z").await, "given back");

    // Someone else has the last one: what was taken before it goes back.
    let theirs = stage.with(&["--no-backend-lock", "--lock", &after], "touch in; sleep 60");
    let theirs = Running::start(&mut { theirs });
    eventually("the last lock is held", || stage.path().join("in").exists());
    fs::remove_file(stage.path().join("runs")).unwrap();
    let options = ["--lock-timeout", "1s", "--lock", &after, "--lock", &before];
    let done = run(&mut stage.with(&options, "true")).expect_code(75);
    says(&done, &["faults-several/z"]);
    assert_eq!(stage.runs(), 0, "not without all of them");
    assert_eq!(stage.info().await, None, "given back");
    assert!(!item("a").await && item("z").await, "the first given back, the last still theirs");
    // The control: without the one that is held it runs.
    let done = run(&mut stage.with(&["--lock", &before], "true"));
    stage.went_well(done, "without the last").await;
    theirs.signal(nix::sys::signal::Signal::SIGTERM);
    theirs.finish();
    assert!(!item("z").await, "theirs is given back too");
}
