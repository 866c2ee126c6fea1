//! The line beside a local state, with real processes and a real Terraform: the kernel keeps the
//! lock there, and the line is in files.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tfwrap::lock::line::{Line, Slot, Ticket};
use tfwrap::lock::{LockKey, Uptime};
use tfwrap::store::{FileStore, Registers as _};

use crate::support::harness::{Gate, Running, applying, tfwrap};
use crate::support::servers::local_backend_dir;

/// What a dead waiter may cost those behind it.
const DEAD: Duration = Duration::from_secs(20);
/// What a start of tfwrap and Terraform, and a busy machine, may add.
const SLACK: Duration = Duration::from_secs(5);

/// A directory with its state beside it.
struct Stage {
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self { dir: local_backend_dir() }
    }

    fn apply(&self, options: &[&str], provisioner: &str) -> Running {
        let mut command = tfwrap(self.dir.path());
        command.args(options);
        Running::start(&mut applying(command, provisioner))
    }

    /// One that has the lock until its gate is opened.
    fn holder(&self, options: &[&str]) -> (Running, Gate) {
        let gate = Gate::new(self.dir.path(), "holder");
        let holder = self.apply(options, &gate.command());
        gate.reached();
        (holder, gate)
    }

    /// A waiter that notes its number and the time when it has the lock, and then once more.
    fn waiter(&self, n: usize, options: &[&str]) -> Running {
        let note = |what: &str| format!("echo {what} {n} $(cut -d' ' -f1 /proc/uptime) >> log");
        let waiter = self.apply(options, &format!("{}; {}", note("in"), note("out")));
        waiter.says("waiting");
        waiter
    }

    fn line_dir(&self) -> PathBuf {
        self.dir.path().join(".terraform.tfstate.tfwrap")
    }

    /// The next in line, once it stands there: `n` was the last number given.
    async fn join(&self, n: usize) -> Running {
        let waiter = self.waiter(n, &[]);
        let line = FileStore::new(self.line_dir());
        let key = |slot: Slot| slot.key(&LockKey("state".to_owned()));
        let n = n as u64;
        for _ in 0..3000 {
            let ends = line.read(&key(Slot::Line)).await.unwrap();
            let next = ends.and_then(|stored| Line::of(&stored.record)).map_or(0, |line| line.next);
            let ticket = line.read(&key(Slot::Ticket(Ticket(n)))).await.unwrap();
            if next > n && ticket.is_some() {
                return waiter;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("number {n} has no ticket: {}", waiter.stderr());
    }

    /// What the waiters noted, with the times.
    fn log(&self) -> Vec<(String, usize, Uptime)> {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines = text.lines().map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let at = Uptime(Duration::from_secs_f64(words[2].parse().unwrap()));
            (words[0].to_owned(), words[1].parse().unwrap(), at)
        });
        lines.collect()
    }

    /// Who had the lock, in this order and never two at once, and when each began.
    fn tenures(&self) -> Vec<(usize, Uptime)> {
        let log = self.log();
        for pair in log.chunks(2) {
            let [(first, n, _), (second, same, _)] = pair else { panic!("{log:?}") };
            assert_eq!((first.as_str(), second.as_str(), n), ("in", "out", same), "{log:?}");
        }
        log.into_iter().step_by(2).map(|(_, n, at)| (n, at)).collect()
    }

    fn order(&self) -> Vec<usize> {
        self.tenures().into_iter().map(|(n, _)| n).collect()
    }
}

#[tokio::test]
async fn six_waiters_for_a_local_state_have_it_in_the_order_in_which_they_came() {
    let stage = Stage::new();
    let (holder, gate) = stage.holder(&[]);
    let mut waiters = Vec::new();
    for n in 0..6 {
        waiters.push(stage.join(n).await);
    }
    gate.open();
    holder.finish().expect_code(0);
    for waiter in waiters {
        waiter.finish().expect_code(0);
    }
    assert_eq!(stage.order(), [0, 1, 2, 3, 4, 5]);
    let mut left: Vec<_> = fs::read_dir(stage.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("terraform.tfstate"))
        .collect();
    left.sort();
    let gate = ["holder.go", "holder.ready", "log", "main.tf"];
    assert_eq!(left, [&[".tfwrap-state"][..], &gate].concat(), "the line goes with the last one");
}

#[tokio::test]
async fn a_dead_waiter_for_a_local_state_costs_those_behind_at_most_twenty_seconds() {
    let stage = Stage::new();
    let (holder, gate) = stage.holder(&[]);
    let mut waiters = Vec::new();
    for n in 0..6 {
        waiters.push(stage.join(n).await);
    }
    let dead = waiters.remove(3);
    dead.signal(Signal::SIGKILL);
    assert_eq!(dead.finish().status.code(), None);
    gate.open();
    holder.finish().expect_code(0);
    for waiter in waiters {
        waiter.finish().expect_code(0);
    }
    let tenures = stage.tenures();
    // Where the dead leave a lock lying, the first behind them to look may be the first to try.
    let (before, behind) = tenures.split_at(3);
    let numbers = |part: &[(usize, Uptime)]| part.iter().map(|(n, _)| *n).collect::<Vec<_>>();
    assert_eq!(numbers(before), [0, 1, 2]);
    let mut alive = numbers(behind);
    alive.sort_unstable();
    assert_eq!(alive, [4, 5]);
    let lost = behind[0].1.since(before[2].1);
    assert!(lost <= DEAD + SLACK, "it cost {lost:?}");
    // And those before it nothing.
    for pair in before.windows(2) {
        assert!(pair[1].1.since(pair[0].1) <= SLACK, "{tenures:?}");
    }
}

/// The control: without a line it is luck who comes when.
#[tokio::test]
async fn without_the_line_the_order_for_a_local_state_is_another_and_no_line_is_written() {
    // Once in 720 times luck has them in order; twice running, hardly ever.
    let mut orders = Vec::new();
    for _ in 0..2 {
        let stage = Stage::new();
        let (holder, gate) = stage.holder(&["--no-line"]);
        let waiters: Vec<_> = (0..6).map(|n| stage.waiter(n, &["--no-line"])).collect();
        gate.open();
        holder.finish().expect_code(0);
        for waiter in waiters {
            waiter.finish().expect_code(0);
        }
        assert!(!stage.line_dir().exists());
        let order = stage.order();
        assert_eq!(order.len(), 6, "each had it once");
        let in_order = order.is_sorted();
        orders.push(order);
        if !in_order {
            return;
        }
    }
    panic!("in order without a line: {orders:?}");
}
