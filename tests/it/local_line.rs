//! The line beside a local state, with real processes and a real Terraform: the kernel keeps the
//! lock there, and the line is in files.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tfwrap::lock::line::{Line, Slot, Ticket, Waiter};
use tfwrap::lock::{LockId, Uptime};
use tfwrap::store::{Expect, FileStore, LocalState, Record, Registers as _};

use crate::aftermath::{Receipt, STATE_DIR, kill_dead};
use crate::support::harness::{Gate, Running, applying, eventually, run, tfwrap};
use crate::support::servers::{local_backend_dir, terraform};

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

    /// Kills a waiter and its guardian, both at once; returns what it leaves.
    fn kill(&self, waiter: Running) -> Receipt {
        let all = Receipt::all(&self.dir.path().join(STATE_DIR)).into_iter();
        let receipt = all.into_iter().find(|it| it.runner() == waiter.pid()).expect("a receipt");
        waiter.signal(Signal::SIGSTOP);
        kill_dead(receipt.guardian().expect("a guardian"));
        waiter.signal(Signal::SIGKILL);
        assert_eq!(waiter.finish().status.code(), None);
        receipt
    }

    fn line_dir(&self) -> PathBuf {
        self.dir.path().join(".terraform.tfstate.tfwrap")
    }

    /// The next in line, once it stands there: `n` was the last number given.
    async fn join(&self, n: usize) -> Running {
        let waiter = self.waiter(n, &[]);
        let line = FileStore::new(self.line_dir());
        let key = |slot: Slot| slot.key(&LocalState::line_key());
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
    // Without a word: its guardian is dead, too, and its receipt is gone.
    let receipt = stage.kill(waiters.remove(3));
    fs::remove_file(receipt.path).unwrap();
    gate.open();
    holder.finish().expect_code(0);
    let ends: Vec<_> = waiters.into_iter().map(|it| it.finish().expect_code(0)).collect();
    // Behind the dead, nobody is told that somebody has the lock.
    let (_, behind) = ends.split_at(3);
    let said = "nobody has it, and it is left to those before us; ";
    assert!(behind.iter().any(|end| end.stderr.contains(said)), "{behind:?}");
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
    assert!(!stage.line_dir().exists(), "the ticket of the dead goes with the line");
}

/// Whoever comes first: the guardian of the dead waiter, the next to release the lock, or `recover`.
#[tokio::test]
async fn nothing_of_a_dead_waiter_stays_beside_a_local_state() {
    for by in ["guardian", "release", "recover"] {
        let stage = Stage::new();
        let (holder, gate) = stage.holder(&[]);
        let waiter = stage.join(0).await;
        if by == "guardian" {
            waiter.signal(Signal::SIGKILL);
            drop(waiter.finish());
        } else {
            stage.kill(waiter);
            assert!(stage.line_dir().exists());
        }
        if by == "recover" {
            run(tfwrap(stage.dir.path()).arg("recover")).expect_code(0);
            assert!(!stage.line_dir().exists(), "{by}");
        } else if by == "guardian" {
            eventually("the end of the line", || !stage.line_dir().exists());
        }
        gate.open();
        holder.finish().expect_code(0);
        assert!(!stage.line_dir().exists(), "{by}");
    }
}

/// Stock Terraform knows nothing of the line, and removes nothing of it.
#[tokio::test]
async fn a_waiter_that_gives_up_behind_stock_terraform_leaves_nothing() {
    for (options, signal) in [(&[][..], Some(Signal::SIGTERM)), (&["--lock-timeout=2s"], None)] {
        let stage = Stage::new();
        let gate = Gate::new(stage.dir.path(), "holder");
        let stock = terraform(stage.dir.path());
        let holder = Running::start(&mut applying(stock, &gate.command()));
        gate.reached();
        let waiter = stage.waiter(0, options);
        eventually("a line", || stage.line_dir().exists());
        if let Some(signal) = signal {
            waiter.signal(signal);
        }
        waiter.finish().expect_code(if signal.is_some() { 143 } else { 75 });
        assert!(!stage.line_dir().exists());
        gate.open();
        holder.finish().expect_code(0);
    }
}

/// Who waits, or joins just now, has a ticket: it stays, and the line with it.
#[tokio::test]
async fn a_line_stays_for_the_living_when_the_dead_are_taken_out() {
    let stage = Stage::new();
    let locked = LocalState::new(stage.dir.path().join("terraform.tfstate")).unwrap();
    let store = FileStore::new(stage.line_dir());
    let write = async |slot: Slot, record: Record| {
        let key = slot.key(&LocalState::line_key());
        store.write(&key, &record, &Expect::Absent).await.unwrap();
    };
    let ticket = |id: &str| Waiter { id: id.to_owned(), ..Waiter::default() }.to_record();
    let dead = || vec![LockId("dead".to_owned())];
    let left = || {
        let entries = fs::read_dir(stage.line_dir()).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    };
    for (next, living) in [(3, true), (2, true), (3, false)] {
        let line = Line { next, head: 1, ..Line::default() };
        write(Slot::Line, line.signed("w")).await;
        // One that had its turn, a dead one, and one that waits or has just joined.
        write(Slot::Ticket(Ticket(0)), ticket("over")).await;
        write(Slot::Ticket(Ticket(1)), ticket("dead")).await;
        if living {
            write(Slot::Ticket(Ticket(2)), ticket("alive")).await;
        }
        locked.forget_waiters(dead()).await.unwrap();
        let there: &[&str] =
            if living { &["state.tfwrap%2Fline", "state.tfwrap%2Fticket%2F2"] } else { &[] };
        assert_eq!(left(), there, "{next}");
        if living {
            fs::remove_dir_all(stage.line_dir()).unwrap();
        }
    }
    assert!(!stage.line_dir().exists());
    // Nobody knows whom a damaged line is for.
    write(Slot::Line, Record::default()).await;
    locked.forget_waiters(dead()).await.unwrap();
    assert_eq!(left(), ["state.tfwrap%2Fline"]);
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

/// During a wait, a link turns or the directory gets another name: the waiter begins anew where its state
/// is now, and nobody stands in the line that it was in.
#[test]
fn a_waiter_leaves_no_ticket_where_its_state_is_no_longer() {
    for turns in [true, false] {
        let (top, made) = (tempfile::tempdir().unwrap(), local_backend_dir());
        let at = |name: &str| top.path().join(name);
        for dir in ["work", "one", "two"] {
            fs::create_dir(at(dir)).unwrap();
        }
        fs::copy(made.path().join("main.tf"), at("work/main.tf")).unwrap();
        std::os::unix::fs::symlink("one", at("link")).unwrap();
        let gate = Gate::new(top.path(), "holder");
        let apply = |dir: &str, provisioner: &str| {
            let mut command = applying(tfwrap(&at(dir)), provisioner);
            command.env("TFWRAP_STATE_DIR", at("own"));
            Running::start(command.args(turns.then_some("-state=../link/x.tfstate")))
        };
        let turn_to = |to: &str| {
            std::os::unix::fs::symlink(to, at("new")).unwrap();
            fs::rename(at("new"), at("link")).unwrap();
        };
        let holder = apply("work", &gate.command());
        gate.reached();
        let waiter = apply("work", "true");
        waiter.says("waiting");
        if turns {
            turn_to("two");
        } else {
            fs::rename(at("work"), at("moved")).unwrap();
        }
        waiter.says("releasing everything and starting over");
        gate.open();
        // The holder's own state is elsewhere once the link turns.
        holder.finish().expect_code(if turns { 76 } else { 0 });
        let said = waiter.finish().expect_code(0).stderr;
        assert!(!said.contains("ahead of us"), "it waits for itself: {said}");
        // Whoever comes next where they were waits for nobody.
        if turns {
            turn_to("one");
        }
        let done = apply(if turns { "work" } else { "moved" }, "true").finish().expect_code(0);
        assert!(!done.stderr.contains("waiting"), "{}", done.stderr);
        for dir in ["work", "moved", "one"].map(at) {
            for file in fs::read_dir(&dir).into_iter().flatten() {
                let name = file.unwrap().file_name().to_string_lossy().into_owned();
                assert!(!name.ends_with(".tfwrap"), "{}/{name}", dir.display());
            }
        }
        assert_eq!((at("work").exists(), at("moved").exists()), (turns, !turns));
    }
}
