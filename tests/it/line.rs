//! The line, with real processes: who comes first has the lock first, and the dead, the impatient
//! and stock Terraform hold up nobody for long.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tfwrap::lock::Uptime;

use crate::support::harness::{self, Gate, Running, applying, eventually, s3_dir, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{REGION, dynamodb, terraform};
use crate::wrapped::uptime;

/// What the dead may cost those behind them.
const DEAD: Duration = Duration::from_secs(20);
/// What a busy machine may add to anything.
const SLACK: Duration = Duration::from_secs(3);

/// A lock in a table of its own, reached through a proxy that counts.
struct Stage {
    dir: TempDir,
    table: String,
    proxy: Proxy,
}

impl Stage {
    async fn new(name: &str) -> Self {
        let table = format!("line-{name}");
        dynamodb().create_lock_table(&table).await;
        let dir = tempfile::tempdir().unwrap();
        Self { dir, table, proxy: Proxy::before(&dynamodb().url) }
    }

    fn command(&self, program: Command, options: &[&str], script: &str) -> Command {
        let mut command = program;
        let endpoint = self.proxy.url();
        let url = format!("dynamodb://{}/state?region={REGION}&endpoint={endpoint}", self.table);
        command.args(["--no-backend-lock", "--lock", &url]).args(options);
        command.args(["run", "--", "sh", "-c", script]);
        command
    }

    /// `run` under this lock.
    fn run(&self, options: &[&str], script: &str) -> Running {
        Running::start(&mut self.command(tfwrap(self.dir.path()), options, script))
    }

    /// One that has the lock until its gate is opened.
    fn holder(&self, options: &[&str]) -> (Running, Gate) {
        let gate = Gate::new(self.dir.path(), "holder");
        let script = format!("echo $$ > holder.pid; {}", gate.command());
        let holder = self.run(options, &script);
        gate.reached();
        (holder, gate)
    }

    /// The next in line, once it stands there: `n` was the last number given.
    async fn join(&self, n: usize, options: &[&str]) -> Running {
        let waiter = self.run(options, &format!("echo {n} >> log"));
        for _ in 0..3000 {
            if self.next().await > n as u64 && self.ticket(n as u64).await {
                return waiter;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("number {n} has no ticket: {}", waiter.stderr());
    }

    async fn next(&self) -> u64 {
        let item = dynamodb().get_raw(&self.table, "state.tfwrap/line").await;
        let texts = item.into_iter().flat_map(std::collections::HashMap::into_values);
        let lines = texts.filter_map(|value| {
            serde_json::from_str::<serde_json::Value>(value.as_s().ok()?).ok()?["next"].as_u64()
        });
        lines.max().unwrap_or(0)
    }

    /// Puts a register of the line there.
    async fn put(&self, key: &str, text: &str) {
        let item = [("LockID", key), ("Tfwrap", text)];
        let item = item.map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
        dynamodb().put_raw(&self.table, item.into()).await;
    }

    async fn ticket(&self, n: u64) -> bool {
        dynamodb().get_raw(&self.table, &format!("state.tfwrap/ticket/{n}")).await.is_some()
    }

    /// Everything in the table, by key.
    async fn keys(&self) -> Vec<String> {
        let all = dynamodb().client().scan().table_name(&self.table).send().await.unwrap();
        let keys = all.items().iter().map(|item| item["LockID"].as_s().unwrap().clone());
        keys.collect()
    }

    fn log(&self) -> Vec<usize> {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn holders_child(&self) -> Pid {
        let text = fs::read_to_string(self.dir.path().join("holder.pid")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap())
    }

    /// How long it takes until so many have had the lock.
    fn had(&self, count: usize, since: Uptime) -> Duration {
        eventually(&format!("{count} have had the lock"), || self.log().len() >= count);
        uptime().since(since)
    }
}

fn kill_all(waiters: Vec<Running>) {
    for waiter in waiters {
        waiter.signal(Signal::SIGKILL);
        assert_eq!(waiter.finish().status.code(), None);
    }
}

#[tokio::test]
async fn twenty_waiters_have_the_lock_in_the_order_in_which_they_came() {
    let stage = Stage::new("order").await;
    let (holder, gate) = stage.holder(&[]);
    let mut waiters = Vec::new();
    for n in 0..20 {
        waiters.push(stage.join(n, &[]).await);
    }
    gate.open();
    holder.finish().expect_code(0);
    for waiter in waiters {
        waiter.finish().expect_code(0);
    }
    assert_eq!(stage.log(), (0..20).collect::<Vec<_>>());
    let left = ["state.tfwrap/history", "state.tfwrap/line"];
    assert_eq!(stage.keys().await, left, "nothing else is left");
}

/// Kills waiters 1 to `dead` of `dead + 2`, and lets the holder end.
async fn with_dead_in_the_middle(name: &str, dead: usize) {
    let stage = Stage::new(name).await;
    let (holder, gate) = stage.holder(&[]);
    let first = stage.join(0, &[]).await;
    let mut doomed = Vec::new();
    for n in 1..=dead {
        doomed.push(stage.join(n, &[]).await);
    }
    let last = stage.join(dead + 1, &[]).await;
    kill_all(doomed);
    let since = uptime();
    gate.open();
    holder.finish().expect_code(0);
    let took = stage.had(2, since);
    assert!(took <= DEAD + SLACK, "{dead} dead cost {took:?}");
    assert_eq!(stage.log(), [0, dead + 1]);
    first.finish().expect_code(0);
    last.finish().expect_code(0);
}

#[tokio::test]
async fn one_dead_waiter_costs_those_behind_at_most_twenty_seconds() {
    with_dead_in_the_middle("dead-1", 1).await;
}

#[tokio::test]
async fn five_dead_waiters_in_a_row_cost_no_more_than_one() {
    with_dead_in_the_middle("dead-5", 5).await;
}

#[tokio::test]
async fn behind_a_dead_holder_and_two_dead_waiters_the_third_takes_over() {
    let stage = Stage::new("take-over").await;
    let lease = ["--lease", "15s"];
    let (holder, _gate) = stage.holder(&lease);
    let doomed = vec![stage.join(0, &lease).await, stage.join(1, &lease).await];
    let third = stage.join(2, &lease).await;
    holder.signal(Signal::SIGKILL);
    // The shell, and with it what it waits for.
    kill(stage.holders_child(), Signal::SIGKILL).unwrap();
    let since = uptime();
    kill_all(doomed);
    let took = stage.had(1, since);
    assert!(took <= Duration::from_secs(15) + DEAD + SLACK, "it took {took:?}");
    let third = third.finish().expect_code(0);
    assert!(third.stderr.contains("took over the lock"), "{}", third.stderr);
    drop(holder);
}

#[tokio::test]
async fn who_times_out_or_is_interrupted_leaves_no_ticket_and_holds_up_nobody() {
    let stage = Stage::new("leave").await;
    let (holder, gate) = stage.holder(&[]);
    let impatient = stage.join(0, &["--lock-timeout", "2s"]).await;
    let interrupted = stage.join(1, &[]).await;
    let patient = stage.join(2, &[]).await;
    interrupted.signal(Signal::SIGTERM);
    interrupted.finish().expect_code(128 + 15);
    impatient.finish().expect_code(75);
    assert!(!stage.ticket(0).await && !stage.ticket(1).await, "{:?}", stage.keys().await);
    let since = uptime();
    gate.open();
    holder.finish().expect_code(0);
    let took = stage.had(1, since);
    assert!(took <= DEAD, "it took {took:?}");
    patient.finish().expect_code(0);
    assert_eq!(stage.keys().await, ["state.tfwrap/history", "state.tfwrap/line"]);
}

/// As damage leaves it, or a weekend of waiters that died.
#[tokio::test]
async fn a_damaged_line_is_passed_in_time_and_mended() {
    let stage = Stage::new("damaged").await;
    let line = "state.tfwrap/line".to_owned();
    let ticket = |n: u64| format!("state.tfwrap/ticket/{n}");
    for n in 999_400..1_000_000 {
        stage.put(&ticket(n), r#"{"id":"gone","beat":1}"#).await;
    }
    for (next, reads) in [(1_000_000, 1_200), (2_000_000, 600), (u64::MAX, 40)] {
        stage.put(&line, &format!(r#"{{"next":{next},"head":0}}"#)).await;
        let before = stage.proxy.count("GetItem");
        // What it may read is bounded below; how long that takes is the machine's affair.
        let run = stage.run(&["--lock-timeout", "2m"], "exit 0").finish().expect_code(0);
        assert_eq!(run.stderr.matches("error").count(), 0, "{}", run.stderr);
        let asked = stage.proxy.count("GetItem") - before;
        assert!(asked <= reads, "{next}: {asked} reads");
        // The next one finds nobody before it.
        let before = stage.proxy.count("GetItem");
        stage.run(&["--no-history"], "exit 0").finish().expect_code(0);
        assert_eq!(stage.proxy.count("GetItem") - before, 1, "{next}: mended");
    }
}

#[tokio::test]
async fn where_the_line_may_not_be_written_it_says_so_once_and_the_lock_still_works() {
    let stage = Stage::new("denied").await;
    stage.proxy.plan([Rule::all(Fault::DENIED).key_with(".tfwrap/")]);
    let (holder, gate) = stage.holder(&[]);
    let waiter = stage.run(&[], "echo 1 >> log");
    waiter.says("waiting");
    gate.open();
    let holder = holder.finish().expect_code(0);
    assert_eq!(holder.stderr, "", "who finds the lock free needs no line");
    let waiter = waiter.finish().expect_code(0);
    let warnings = waiter.stderr.matches("no queue can be kept").count();
    assert_eq!(warnings, 1, "{}", waiter.stderr);
    assert_eq!(stage.keys().await, [""; 0]);
}

#[tokio::test]
async fn without_the_line_its_keys_are_neither_written_nor_read() {
    let stage = Stage::new("none").await;
    let (holder, gate) = stage.holder(&["--no-line", "--no-history"]);
    let waiter = stage.run(&["--no-line", "--no-history"], "echo 1 >> log");
    waiter.says("waiting");
    gate.open();
    holder.finish().expect_code(0);
    waiter.finish().expect_code(0);
    assert_eq!(stage.proxy.count_with(".tfwrap/"), 0);
}

#[tokio::test]
async fn a_run_alone_costs_a_read_a_write_and_a_remove() {
    let stage = Stage::new("alone").await;
    let counts =
        || ["GetItem", "PutItem", "DeleteItem"].map(|operation| stage.proxy.count(operation));
    stage.run(&["--no-history"], "exit 0").finish().expect_code(0);
    assert_eq!(counts(), [1, 1, 1]);
    // And a read and a write for the history, after the remove.
    stage.run(&[], "exit 0").finish().expect_code(0);
    assert_eq!(counts(), [3, 3, 2]);
}

#[tokio::test]
async fn stock_terraform_beside_the_line_may_barge_in_but_holds_up_nobody_for_good() {
    let dir = s3_dir("line/stock").await;
    let gate = Gate::new(dir.path(), "ours");
    let ours = Running::start(&mut applying(tfwrap(dir.path()), &gate.command()));
    gate.reached();
    let mut stock = applying(terraform(dir.path()), "true");
    let stock = Running::start(stock.arg("-lock-timeout=60s"));
    let waiters: Vec<_> =
        (0..3).map(|_| Running::start(&mut applying(tfwrap(dir.path()), "true"))).collect();
    for waiter in &waiters {
        waiter.says("waiting");
    }
    gate.open();
    ours.finish().expect_code(0);
    for waiter in waiters {
        waiter.finish().expect_code(0);
    }
    // It does not survive that the lock goes away just when it looks who has it.
    let stock = stock.finish();
    let own_race = stock.stderr.contains("unexpected end of JSON input");
    assert!(stock.status.success() || own_race, "{}", stock.stderr);
}

/// A boot-time clock a day ahead: that is the clock by which leases and tickets are judged.
fn a_day_ahead(dir: &TempDir) -> Command {
    let mut command = Command::new("unshare");
    crate::support::servers::clean(&mut command, dir.path());
    command.env("TFWRAP_STATE_DIR", dir.path().join(".tfwrap-state"));
    command.args(["-Ur", "-T", "--boottime", "86400", "--monotonic", "86400", "--"]);
    command
}

#[tokio::test]
async fn clocks_a_day_apart_make_no_difference() {
    let stage = Stage::new("clocks").await;
    let mut control = a_day_ahead(&stage.dir);
    let control = harness::run(control.args(["cat", "/proc/uptime"])).expect_code(0);
    let ahead: f64 = control.stdout.split(' ').next().unwrap().parse().unwrap();
    assert!(ahead > uptime().0.as_secs_f64() + 80_000.0, "{ahead}: the test proves nothing");

    let lease = ["--lease", "15s"];
    let (holder, gate) = stage.holder(&lease);
    let mut program = a_day_ahead(&stage.dir);
    program.arg(PathBuf::from(env!("CARGO_BIN_EXE_tfwrap")));
    let mut command = stage.command(program, &lease, "echo 0 >> log");
    let ahead = Running::start(&mut command);
    ahead.says("waiting");
    let behind = stage.join(1, &lease).await;
    // Longer than the lease: who compared clocks would have taken over by now.
    tokio::time::sleep(Duration::from_secs(17)).await;
    assert_eq!(stage.log(), [0; 0], "{}{}", ahead.stderr(), behind.stderr());
    gate.open();
    holder.finish().expect_code(0);
    ahead.finish().expect_code(0);
    behind.finish().expect_code(0);
    assert_eq!(stage.log(), [0, 1]);
}

/// A store that is slower than a stop may be.
#[tokio::test]
async fn a_stop_that_leaves_its_place_in_the_queue_says_so() {
    let stage = Stage::new("left").await;
    let (holder, gate) = stage.holder(&[]);
    let waiter = stage.join(0, &[]).await;
    stage.proxy.plan([Rule::on("DeleteItem", Fault::Hold)]);
    waiter.signal(Signal::SIGTERM);
    waiter.says("a place in the queue may be left");
    assert!(stage.ticket(0).await, "it is");
    stage.proxy.plan([]);
    stage.proxy.release();
    assert!(!waiter.finish().expect_code(143).stderr.contains("nothing is left"));
    // The control.
    let waiter = stage.join(1, &[]).await;
    waiter.signal(Signal::SIGTERM);
    let done = waiter.finish().expect_code(143);
    assert!(done.stderr.contains("nothing is left behind"), "{}", done.stderr);
    assert!(!stage.ticket(1).await);
    gate.open();
    holder.finish().expect_code(0);
}
