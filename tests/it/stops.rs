//! A stop or a loss while no child runs: in every request around the grant, and in the release.
//! The child is a script that says that it was started.

use std::process::Command;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tfwrap::lock::Uptime;

use crate::support::harness::{Finished, Gate, Running, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{REGION, dynamodb};
use crate::wrapped::uptime;

/// What a stop may take, and what a busy machine may add to it.
const STOP: Duration = Duration::from_secs(4);
const SLACK: Duration = Duration::from_secs(3);

/// Two locks in a table of their own, behind a proxy.
struct Stage {
    dir: TempDir,
    table: String,
    proxy: Proxy,
}

impl Stage {
    async fn new(name: &str) -> Self {
        let table = format!("stops-{name}");
        dynamodb().create_lock_table(&table).await;
        let dir = tempfile::tempdir().unwrap();
        Self { dir, table, proxy: Proxy::before(&dynamodb().url) }
    }

    fn url(&self, key: &str, endpoint: &str) -> String {
        format!("dynamodb://{}/{key}?region={REGION}&endpoint={endpoint}", self.table)
    }

    fn command(&self, keys: &[&str], endpoint: &str, script: &str) -> Command {
        let mut command = tfwrap(self.dir.path());
        command.args(["--no-backend-lock", "--lease", "15s"]);
        for key in keys {
            command.args(["--lock", &self.url(key, endpoint)]);
        }
        command.args(["run", "--", "sh", "-c", script]);
        command
    }

    /// One that has these locks until its gate is opened; past the proxy.
    fn holder(&self, keys: &[&str]) -> (Running, Gate) {
        let gate = Gate::new(self.dir.path(), "holder");
        let script = gate.command();
        let holder = Running::start(&mut self.command(keys, &dynamodb().url, &script));
        gate.reached();
        (holder, gate)
    }

    /// One that wants these locks and says whether it was started.
    fn waiter(&self, keys: &[&str]) -> Running {
        Running::start(&mut self.command(keys, self.proxy.url(), "echo x >> started"))
    }

    fn was_started(&self) -> bool {
        self.dir.path().join("started").exists()
    }

    async fn is_there(&self, key: &str) -> bool {
        dynamodb().get_raw(&self.table, key).await.is_some()
    }

    /// Waits until there is such an item.
    async fn comes(&self, key: &str) {
        for _ in 0..3000 {
            if self.is_there(key).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no `{key}`");
    }

    /// The item goes, whosever it is.
    async fn cleared(&self, key: &str) {
        let request = dynamodb().client().delete_item().table_name(&self.table);
        request.key("LockID", AttributeValue::S(key.to_owned())).send().await.unwrap();
    }

    /// The holder ends while what `operation` sends about `key` is held up; returns when that is
    /// so.
    async fn hold_up(&self, operation: &str, key: &str, (holder, gate): (Running, Gate)) {
        let before = self.proxy.count_of(operation, key);
        self.proxy.plan([Rule::on(operation, Fault::Hold).key(key)]);
        gate.open();
        holder.finish().expect_code(0);
        self.proxy.arrived(&format!("{operation} {key}"), before + 1).await;
    }

    /// Fails unless it ended with this code soon after `since`, started nothing and left nothing.
    async fn ended(&self, done: Finished, code: i32, since: Uptime) -> Finished {
        let took = uptime().since(since);
        let done = done.expect_code(code);
        assert!(!self.was_started(), "{}", done.stderr);
        assert!(took < STOP + SLACK, "{took:?}: {}", done.stderr);
        for key in ["a", "b"] {
            assert!(!self.is_there(key).await, "the lock `{key}` is left: {}", done.stderr);
        }
        done
    }
}

#[tokio::test]
async fn an_interrupt_after_the_grant_starts_nothing_and_releases_the_lock() {
    for (name, operation, key) in
        [("told", "PutItem", "a.tfwrap/line"), ("removed", "DeleteItem", "a.tfwrap/ticket/0")]
    {
        let stage = Stage::new(name).await;
        let holder = stage.holder(&["a"]);
        let waiter = stage.waiter(&["a"]);
        stage.comes("a.tfwrap/ticket/0").await;
        stage.comes("a.tfwrap/line").await;
        // What it sends with the lock in hand does not come through.
        stage.hold_up(operation, key, holder).await;
        assert!(stage.is_there("a").await, "{name}: it has the lock");
        let since = uptime();
        waiter.signal(Signal::SIGINT);
        let done = stage.ended(waiter.finish(), 130, since).await;
        assert!(done.stderr.contains("SIGINT"), "{name}: {}", done.stderr);
    }
}

#[tokio::test]
async fn every_stop_signal_has_its_code_while_the_line_cannot_be_read() {
    let signals = [
        (Signal::SIGHUP, 129),
        (Signal::SIGINT, 130),
        (Signal::SIGQUIT, 131),
        (Signal::SIGTERM, 143),
    ];
    let stage = Stage::new("read").await;
    for (signal, code) in signals {
        let before = stage.proxy.count_of("GetItem", "a.tfwrap/line");
        stage.proxy.plan([Rule::on("GetItem", Fault::HoldThen(Box::new(Fault::SERVER_ERROR)))]);
        let waiter = stage.waiter(&["a"]);
        stage.proxy.arrived("GetItem a.tfwrap/line", before + 1).await;
        let since = uptime();
        waiter.signal(signal);
        // It is heard before the answer is.
        tokio::time::sleep(Duration::from_millis(200)).await;
        stage.proxy.release();
        stage.ended(waiter.finish(), code, since).await;
        assert_eq!(stage.proxy.count_of("PutItem", "a"), 0, "{signal}: the lock is not asked for");
    }
}

#[tokio::test]
async fn a_lock_that_is_lost_while_the_next_one_is_taken_is_named_and_nothing_starts() {
    let stage = Stage::new("lost").await;
    let holder = stage.holder(&["b"]);
    let waiter = stage.waiter(&["a", "b"]);
    stage.comes("b.tfwrap/ticket/0").await;
    stage.comes("b.tfwrap/line").await;
    stage.hold_up("PutItem", "b.tfwrap/line", holder).await;
    let since = uptime();
    stage.cleared("a").await;
    let done = waiter.finish();
    // A beat is due every 1.5 s.
    let done = stage.ended(done, 76, since).await;
    assert!(done.stderr.contains("/a`") && done.stderr.contains("was lost"), "{}", done.stderr);
}

#[tokio::test]
async fn a_lock_that_is_found_lost_while_another_is_released_is_named() {
    let stage = Stage::new("releasing").await;
    stage.proxy.plan([Rule::on("DeleteItem", Fault::Hold).key("b")]);
    let run = stage.waiter(&["a", "b"]);
    stage.proxy.arrived("DeleteItem b", 1).await;
    stage.cleared("a").await;
    run.says("was lost");
    stage.proxy.plan([]);
    stage.proxy.release();
    let done = run.finish().expect_code(76);
    let losses = done.stderr.lines().filter(|line| line.contains("was lost"));
    assert_eq!(losses.filter(|line| line.contains("/a`")).count(), 1, "{}", done.stderr);
}
