//! Jobs side by side on one state, and who is signalled meanwhile.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::look::Outcome;
use crate::support::dice::Dice;
use crate::support::harness::{self, fake_terraform, pause, wrapper};
use crate::support::procs::{self, Process};
use crate::support::servers::{self, BUCKET, dynamodb};
use crate::tree::{Grower, Lock, Node, Writer};

/// All that a round starts has this in its environment.
const MARKER: &str = "TFWRAP_TEST_ROUND";
/// What every tfwrap of a round is told; short, so that nobody waits for long.
const SETTINGS: [(&str, &str); 4] = [
    ("TFWRAP_LEASE", "15s"),
    ("TFWRAP_ORPHAN_GRACE", "2s"),
    ("TFWRAP_MAX_HOLD", "4s"),
    ("TFWRAP_LOCK_TIMEOUT", "8s"),
];
/// Reached only when something does not end. Some commands wait one after the other.
const PATIENCE: Duration = Duration::from_secs(100);
/// How long what is left may go on: a grace, a longest hold, and what a busy machine adds.
const QUIET: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(20);

/// A signal to some member.
#[derive(Debug, Clone)]
pub(crate) struct Blow {
    /// From the first Terraform's begin on, else from the round's.
    at_work: bool,
    after: Duration,
    signal: Signal,
    to_group: bool,
    /// Only to a tfwrap, where there is one; else to any member.
    to_tfwrap: bool,
    /// Which of those that run, by a number to be taken modulo their count.
    member: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    jobs: Vec<Node>,
    blows: Vec<Blow>,
    /// A CI holds second signals back.
    in_ci: bool,
    recover: bool,
}

fn dice(seed: u64, round: usize) -> Dice {
    let round = u64::try_from(round).expect("not so many");
    Dice::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round.wrapping_mul(0xd1b5_4a32_d192_ed03))
}

impl Plan {
    pub(crate) fn new(seed: u64, round: usize) -> Self {
        let mut dice = dice(seed, round);
        // With one stop in all, each interrupt can be told from a second one.
        let calm = dice.percent(60);
        let jobs = grow(&mut dice, calm);
        let count = if calm { 1 } else { dice.between(1, 5) };
        let blows = (0..count).map(|_| blow(&mut dice)).collect();
        Self { jobs, blows, in_ci: dice.percent(50), recover: dice.percent(70) }
    }

    /// Nobody is signalled.
    pub(crate) fn calm(seed: u64, round: usize) -> Self {
        let mut dice = dice(seed, round);
        Self { jobs: grow(&mut dice, true), blows: Vec::new(), in_ci: false, recover: true }
    }

    /// How many stops there can be: each signal, and what a job brings along.
    pub(crate) fn stops(&self) -> usize {
        self.blows.len() + self.jobs.iter().map(stops).sum::<usize>()
    }
}

fn grow(dice: &mut Dice, calm: bool) -> Vec<Node> {
    let count = dice.between(1, 4);
    (0..count).map(|_| Grower { dice, calm, count: 0 }.tree(0)).collect()
}

fn stops(node: &Node) -> usize {
    let all = |nodes: &[Node]| nodes.iter().map(stops).sum();
    match node {
        Node::Timeout(_, below) => 1 + stops(below),
        Node::Recover { waits } => usize::from(*waits),
        Node::Run(below) | Node::Wrapped(_, below) => stops(below),
        Node::Hold(nodes, _) | Node::Steps(nodes) | Node::Jobs(nodes) | Node::Make(nodes) => {
            all(nodes)
        }
        Node::Apply { .. } | Node::Terraform { .. } | Node::Release => 0,
    }
}

fn blow(dice: &mut Dice) -> Blow {
    use Signal as S;
    Blow {
        at_work: dice.percent(85),
        after: Duration::from_millis(dice.between(0, 800)),
        signal: dice.one(&[S::INT, S::INT, S::TERM, S::TERM, S::HUP, S::KILL, S::KILL]),
        to_group: dice.percent(30),
        to_tfwrap: dice.percent(50),
        member: dice.between(0, 1 << 32),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for job in &self.jobs {
            writeln!(to, "job {job:?}")?;
        }
        for blow in &self.blows {
            writeln!(to, "{blow:?}")?;
        }
        write!(to, "in CI: {}, then `recover`: {}", self.in_ci, self.recover)
    }
}

/// A state of its own, with rounds on it one after the other.
pub(crate) struct Lane {
    name: String,
    dir: TempDir,
    table: String,
    key: String,
    terraform: PathBuf,
    runtime: tokio::runtime::Runtime,
}

struct Job {
    child: Child,
    said: PathBuf,
}

impl Lane {
    pub(crate) fn new(name: &str) -> Self {
        let (table, key) = (format!("nest-{name}"), format!("nest/{name}/terraform.tfstate"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(dynamodb().create_lock_table(&table));
        let dir = servers::s3_backend_dir(&key, &table);
        harness::run(servers::terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
        let script =
            format!("#!/bin/sh\nsetsid -w {} \"$@\"\nexit $?\n", fake_terraform().display());
        harness::program(&dir.path().join("apart"), &script);
        let mut find = Command::new("sh");
        let found = harness::run(find.args(["-c", "command -v terraform"])).stdout;
        let terraform = PathBuf::from(found.trim());
        Self { name: name.to_owned(), dir, table, key, terraform, runtime }
    }

    fn command(&self, program: &str, marker: &str, plan: &Plan) -> Command {
        let mut command = Command::new(program);
        servers::clean(&mut command, self.dir.path());
        command.env(MARKER, marker).envs(SETTINGS);
        command.env("TFWRAP_STATE_DIR", self.dir.path().join(".tfwrap-state"));
        command.env("TFWRAP_TERRAFORM", fake_terraform());
        if plan.in_ci {
            command.env("CI", "true");
        }
        command.process_group(0).stdin(Stdio::null());
        command
    }

    pub(crate) fn play(&self, round: usize, plan: &Plan, lock: Lock) -> Outcome {
        let marker = format!("{}-{round}-{}", self.name, std::process::id());
        let work = self.dir.path().join(format!("work-{round}"));
        let mut jobs: Vec<Job> = plan
            .jobs
            .iter()
            .enumerate()
            .map(|(job, node)| {
                let terraform = self.terraform.clone();
                let apart = self.dir.path().join("apart");
                let words = Writer { work: work.clone(), job, lock, terraform, apart }.words(node);
                let said = work.with_extension(format!("said-{job}"));
                let file = File::create(&said).expect("a file");
                let mut command = self.command(&words[0], &marker, plan);
                command.args(&words[1..]);
                command.stdout(file.try_clone().expect("a descriptor")).stderr(file);
                let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
                Job { child, said }
            })
            .collect();
        let mut struck = Vec::new();
        for blow in &plan.blows {
            struck.extend(strike(blow, &marker, &work));
        }
        let mut outcome = Outcome { struck, stops: plan.stops(), ..Outcome::default() };
        for job in &mut jobs {
            let code = ends(&mut job.child);
            if code.is_none() {
                let left = procs::with_variable(MARKER, &marker);
                let left: Vec<_> = left.iter().map(Process::describe).collect();
                outcome.faults.push(format!("a job does not end: {left:#?}"));
                Process::of_child(job.child.id()).signal(Signal::KILL);
                drop(job.child.wait());
            }
            outcome.codes.push(code);
        }
        let left = left_after(&marker);
        if !left.is_empty() {
            outcome.faults.push(format!("left running: {left:#?}"));
        }
        outcome.read(&work);
        for job in &jobs {
            outcome.said.push(fs::read_to_string(&job.said).unwrap_or_default());
        }
        if lock == Lock::Taken {
            outcome.check();
            self.clear(plan, &marker, &mut outcome);
        }
        outcome
    }

    fn lock_id(&self) -> String {
        format!("{BUCKET}/{}", self.key)
    }

    fn holder(&self) -> Option<String> {
        let item: HashMap<String, AttributeValue> =
            self.runtime.block_on(dynamodb().get_raw(&self.table, &self.lock_id()))?;
        Some(item["Info"].as_s().expect("text").clone())
    }

    /// Clears what the dead left, by `recover` or by waiting for the lease.
    fn clear(&self, plan: &Plan, marker: &str, outcome: &mut Outcome) {
        // A Terraform that was killed between the state and its digest leaves the two apart.
        let key = AttributeValue::S(format!("{}-md5", self.lock_id()));
        let client = dynamodb().client();
        let request = client.delete_item().table_name(&self.table).key("LockID", key);
        self.runtime.block_on(request.send()).expect("it can be removed");
        let Some(held) = self.holder() else { return };
        outcome.left += 1;
        let mut command = self.command(&wrapper().display().to_string(), marker, plan);
        command.env("TFWRAP_LOCK_TIMEOUT", "30s");
        command.args(if plan.recover { &["recover"][..] } else { &["run", "--", "true"] });
        let finished = harness::run(&mut command);
        if finished.status.code() != Some(0) || self.holder().is_some() {
            let by = if plan.recover { "`recover`" } else { "the next run" };
            outcome.faults.push(format!("the lock stays with {held}; {by}: {finished:?}"));
        }
    }
}

/// Sends the signal; says to whom.
fn strike(blow: &Blow, marker: &str, work: &Path) -> Option<String> {
    if blow.at_work {
        let begun = || fs::read_to_string(work).is_ok_and(|work| work.contains("begin "));
        for _ in 0..200 {
            if begun() {
                break;
            }
            pause(LOOK);
        }
    }
    pause(blow.after);
    let mut members = procs::with_variable(MARKER, marker);
    if blow.to_tfwrap && members.iter().any(is_tfwrap) {
        members.retain(is_tfwrap);
    }
    let count = u64::try_from(members.len()).expect("not so many");
    let member = blow.member.checked_rem(count)?;
    let member = &members[usize::try_from(member).expect("not so many")];
    let what = member.describe();
    let hit =
        if blow.to_group { signal_group(member, blow.signal) } else { member.signal(blow.signal) };
    let to = if blow.to_group { "the group of " } else { "" };
    hit.then(|| format!("{:?} to {to}{what}", blow.signal))
}

/// Not a guardian or a keeper: they have other names.
fn is_tfwrap(member: &Process) -> bool {
    member.program() == wrapper().display().to_string() && !member.describe().contains("lock-")
}

fn signal_group(member: &Process, signal: Signal) -> bool {
    let pid = nix::unistd::Pid::from_raw(member.pid);
    let Ok(group) = nix::unistd::getpgid(Some(pid)) else { return false };
    let signal = nix::sys::signal::Signal::try_from(signal.as_raw()).expect("one");
    // Each job began a group of its own: none of them is the test's.
    group != nix::unistd::getpgrp() && nix::sys::signal::killpg(group, signal).is_ok()
}

/// How it ends, as a shell says it; nothing if it does not.
fn ends(child: &mut Child) -> Option<i32> {
    for _ in 0..=PATIENCE.as_millis() / LOOK.as_millis() {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            return status.code().or_else(|| status.signal().map(|number| 128 + number));
        }
        pause(LOOK);
    }
    None
}

/// What still runs after a while, and is ended here.
fn left_after(marker: &str) -> Vec<String> {
    for _ in 0..QUIET.as_millis() / LOOK.as_millis() {
        if procs::with_variable(MARKER, marker).is_empty() {
            return Vec::new();
        }
        pause(LOOK);
    }
    let left = procs::with_variable(MARKER, marker);
    let described = left.iter().map(Process::describe).collect();
    for process in left {
        process.signal(Signal::KILL);
    }
    described
}
