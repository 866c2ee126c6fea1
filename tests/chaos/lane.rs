//! A state of its own, with rounds on it one after the other.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::killpg;
use rustix::process::Signal;
use tempfile::TempDir;
use tfwrap::clock::uptime;

use crate::look::{Look, Outcome};
use crate::plan::{Blow, Contender, Kind, Mode, Plan, Shape};
use crate::support::harness::{self, fake_terraform, pause, wrapper as tfwrap};
use crate::support::procs::{self, Process};
use crate::support::proxy::Proxy;
use crate::support::s3_server::{self, aws_like};
use crate::support::servers::{self, dynamodb};

/// All that a round starts has this in its environment.
const MARKER: &str = "TFWRAP_TEST_ROUND";
const LEASE: Duration = Duration::from_secs(15);
/// `--max-hold`, and what a busy machine adds to that, or to an orphan's grace.
const QUIET: Duration = Duration::from_secs(25);
/// In this time a guardian that has nothing else to do gives back what it keeps.
const ALONE: Duration = Duration::from_secs(5);
/// How long it looks on when a create was never answered, and may still land.
const LANDING: Duration = Duration::from_secs(80);
/// Reached only when something does not end.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long each contender waits for the lock.
const WAIT: &str = "8s";
const LOOK: Duration = Duration::from_millis(10);
/// How long a delayed request can be on its way after all have ended.
const LATE: Duration = Duration::from_secs(1);

/// Whether the contenders lock at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    Taken,
    None,
}

pub(crate) struct Lane {
    name: String,
    /// With the stores behind the proxies; and straight to them, for stock Terraform.
    wrapped: Dirs,
    stock: Dirs,
    proxy: Proxy,
    /// Before where lock files are.
    files: Proxy,
    look: Look,
}

/// A directory for each backend that there is.
struct Dirs(Vec<(Mode, TempDir)>);

impl Dirs {
    fn of(&self, mode: Mode) -> &Path {
        let found = self.0.iter().find(|(one, _)| *one == mode);
        found.expect("a directory").1.path()
    }

    /// Where nothing depends on the backend.
    fn any(&self) -> &Path {
        self.0[0].1.path()
    }
}

/// A contender that was started.
struct Entry {
    child: Child,
    process: Process,
}

/// How a contender ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) kind: Kind,
    /// As a shell says it; nothing if it did not end.
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
}

impl Lane {
    pub(crate) fn new(name: &str) -> Self {
        let (table, key) = (format!("chaos-{name}"), format!("chaos/{name}/terraform.tfstate"));
        let look = Look::new(&table, &key, false);
        let proxy = Proxy::before(&dynamodb().url);
        let dirs = |dynamodb: &str| {
            let dir = servers::s3_backend_dir_at(dynamodb, &key, &table);
            harness::run(servers::terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
            Dirs(vec![(Mode::Item, dir)])
        };
        let (wrapped, stock) = (dirs(proxy.url()), dirs(&dynamodb().url));
        let files = Proxy::before(&aws_like().url);
        Self { name: name.to_owned(), wrapped, stock, proxy, files, look }
    }

    /// One state, with a directory for each of the three backends.
    pub(crate) fn of_fleet(name: &str) -> Self {
        let (table, key) = (format!("chaos-{name}"), format!("chaos/{name}/terraform.tfstate"));
        let look = Look::new(&table, &key, true);
        let (proxy, files) = (Proxy::before(&dynamodb().url), Proxy::before(&aws_like().url));
        let dirs = |dynamodb: &str, s3: &str| {
            let dir = |mode| {
                let item = format!("dynamodb_table = \"{table}\"");
                let dir = s3_server::backend_dir(s3, &key, "");
                let file = dir.path().join("backend.tf");
                let text = fs::read_to_string(&file).expect("a backend");
                let at = format!("s3 = \"{s3}\"");
                let text = text.replace(&at, &format!("{at}, dynamodb = \"{dynamodb}\""));
                let line = "use_lockfile                = true";
                let text = match mode {
                    Mode::File => text,
                    Mode::Item => text.replace(line, &item),
                    Mode::Both => text.replace(line, &format!("{line}\n    {item}")),
                };
                fs::write(&file, text).expect("a backend");
                let mut init = servers::terraform(dir.path());
                harness::run(init.args(["init", "-no-color"])).expect_code(0);
                (mode, dir)
            };
            Dirs([Mode::Both, Mode::Item, Mode::File].map(dir).into())
        };
        let wrapped = dirs(proxy.url(), files.url());
        let stock = dirs(&dynamodb().url, &aws_like().url);
        Self { name: name.to_owned(), wrapped, stock, proxy, files, look }
    }

    /// When all rounds are over: the last guardian goes, too, and the lock is free.
    pub(crate) fn end(&self) -> Result<(), String> {
        let left = || {
            let homes = self.wrapped.0.iter().map(|(_, dir)| dir.path().display().to_string());
            homes.flat_map(|home| procs::with_variable("HOME", &home)).collect::<Vec<_>>()
        };
        for _ in 0..LANDING.as_millis() / 50 {
            if left().is_empty() {
                return self.look.check_end();
            }
            pause(Duration::from_millis(50));
        }
        Err(format!("left: {:?}", left().iter().map(Process::describe).collect::<Vec<_>>()))
    }

    /// Plays a round. An error says what must not be.
    pub(crate) fn play(&self, round: usize, plan: &Plan, lock: Lock) -> Result<Outcome, String> {
        let place = Place {
            marker: format!("{}-{round}-{}", self.name, std::process::id()),
            work: self.wrapped.any().join(format!("work-{round}")),
            round,
            lane: self,
            line: plan.line,
            lock,
        };
        self.proxy.plan(plan.faults.clone());
        self.files.plan(plan.faults_of_files.clone());
        let ends: Vec<End> = std::thread::scope(|scope| {
            let all: Vec<_> = plan
                .contenders
                .iter()
                .enumerate()
                .map(|(index, one)| {
                    let place = &place;
                    scope.spawn(move || place.contend(index, one))
                })
                .collect();
            all.into_iter().map(|one| one.join().expect("no panic")).collect()
        });
        let left = place.left_after(QUIET);
        self.proxy.plan([]);
        self.files.plan([]);
        if !(plan.faults.is_empty() && plan.faults_of_files.is_empty()) {
            pause(LATE);
        }
        let mut outcome = Outcome::new(&fs::read_to_string(&place.work).unwrap_or_default(), ends);
        if lock == Lock::None {
            return Ok(outcome);
        }
        let result = self.look.check(&outcome, &left).and_then(|()| {
            // Of two locks two may be left, each by another.
            place.clear(plan.recover, &mut outcome)?;
            place.clear(plan.recover, &mut outcome)?;
            self.look.check_end()
        });
        result.map(|()| outcome.clone()).map_err(|what| format!("{what}\n{outcome:#?}"))
    }
}

/// Where the contenders of one round are.
struct Place<'a> {
    lane: &'a Lane,
    round: usize,
    marker: String,
    /// Where the children note their begin and end.
    work: PathBuf,
    line: bool,
    lock: Lock,
}

impl Place<'_> {
    fn command(&self, program: &Path, dir: &Path) -> Command {
        let mut command = Command::new(program);
        servers::clean(&mut command, dir);
        command.env(MARKER, &self.marker).env("CI", "true");
        command.env("TFWRAP_STATE_DIR", self.lane.wrapped.any().join(".tfwrap-state"));
        command.process_group(0).stdin(Stdio::null());
        command
    }

    fn options(&self, wait: &str) -> Vec<String> {
        let options = ["--lease", "15s", "--orphan-grace", "2s", "--max-hold", "4s"];
        let line = (!self.line).then_some("--no-line");
        let options = options.into_iter().chain(["--lock-timeout", wait]).chain(line);
        options.map(str::to_owned).collect()
    }

    fn of_contender(&self, index: usize, one: &Contender) -> Command {
        let (work, heeds) = (self.work.display(), one.heeds.as_millis());
        let (id, span) = (format!("{:?}-{index}", one.kind), one.works.as_millis());
        let spans = |begin: &str| format!("{begin} {work} {id}; sleep {span}; end {work}");
        let stops = format!("on SIGINT exit 1 after {heeds}; on SIGTERM exit 1 after {heeds}");
        let fake = fake_terraform();
        let in_terraform = |begin: &str| {
            format!("exec env FAKE_TERRAFORM_SCRIPT='{}' {}", spans(begin), fake.display())
        };
        let apply = ["apply", "-auto-approve", "-no-color"];
        let (wrapped, stock) = (self.lane.wrapped.of(one.mode), self.lane.stock.of(one.mode));
        let mut command = match one.kind {
            _ if self.lock == Lock::None => self.command(&fake, wrapped),
            Kind::Stock => {
                let mut command = self.command(Path::new("terraform"), stock);
                command.args(apply).arg(format!("-lock-timeout={WAIT}"));
                command.env("TF_VAR_command", in_terraform("begin-parent"));
                command
            }
            Kind::Scripted => {
                let mut command = self.command(&tfwrap(), wrapped);
                command.args(self.options(WAIT)).arg("--terraform").arg(&fake).args(apply);
                command
            }
            Kind::Terraform => {
                let mut command = self.command(&tfwrap(), wrapped);
                command.args(self.options(WAIT)).args(apply);
                command.env("TF_VAR_command", in_terraform("begin"));
                command
            }
            Kind::Hold => {
                let mut command = self.command(Path::new("sh"), wrapped);
                command.args(["-c", &self.holding(&fake)]);
                command
            }
        };
        if !matches!(one.kind, Kind::Terraform | Kind::Stock) || self.lock == Lock::None {
            command.env("FAKE_TERRAFORM_SCRIPT", format!("{stops}; {}", spans("begin")));
        }
        command
    }

    /// A job in three steps.
    fn holding(&self, fake: &Path) -> String {
        let tfwrap_with = |more: &[&str]| {
            let ours = [tfwrap().display().to_string()].into_iter().chain(self.options(WAIT));
            shell_words::join(ours.chain(more.iter().map(|&word| word.to_owned())))
        };
        let fake = fake.display().to_string();
        format!(
            "held=$({}) || exit\neval \"$held\"\n{}\ncode=$?\n{} || exit\nexit $code\n",
            tfwrap_with(&["hold", "--format", "shell"]),
            tfwrap_with(&["--terraform", &fake, "apply"]),
            tfwrap_with(&["release"]),
        )
    }

    fn contend(&self, index: usize, one: &Contender) -> End {
        pause(one.starts);
        let said = self.work.with_extension(format!("said-{index}"));
        let mut command = self.of_contender(index, one);
        let file = File::create(&said).expect("a file");
        command.stdout(file.try_clone().expect("a descriptor")).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let process = Process::of_child(child.id());
        let mut entry = Entry { child, process };
        if let Some(blow) = &one.blow {
            if blow.at_work {
                entry.begins(&self.work, &format!(" {:?}-{index} ", one.kind));
            }
            if entry.ends_within(blow.after).is_none() {
                entry.strike(blow);
            }
        }
        let status = entry.ends_within(PATIENCE);
        if status.is_none() {
            entry.process.signal(Signal::KILL);
            drop(entry.child.wait());
        }
        let code = status.and_then(|status| {
            status.code().or_else(|| status.signal().map(|number| 128 + number))
        });
        End { kind: one.kind, code, said: fs::read_to_string(said).unwrap_or_default() }
    }

    fn processes(&self) -> Vec<Process> {
        procs::with_variable(MARKER, &self.marker)
    }

    /// Waits until nothing of the round runs, but for guardians that look on; returns what does, and
    /// ends it.
    fn left_after(&self, limit: Duration) -> Vec<String> {
        let mut quiet_since = uptime();
        for _ in 0..limit.as_millis() / 50 {
            let left = self.processes();
            if !left.iter().all(is_guardian) {
                quiet_since = uptime();
            }
            if left.is_empty() || uptime().since(quiet_since) > ALONE {
                return Vec::new();
            }
            pause(Duration::from_millis(50));
        }
        let left: Vec<_> = self.processes().into_iter().filter(|one| !is_guardian(one)).collect();
        let described = left.iter().map(Process::describe).collect();
        for process in left {
            process.signal(Signal::KILL);
        }
        described
    }

    /// Clears what the dead left: a stock Terraform's lock as a person does; a tfwrap's by
    /// `recover`, or by waiting for its lease.
    fn clear(&self, recover: bool, outcome: &mut Outcome) -> Result<(), String> {
        let Some(held) = self.lane.look.holder() else { return Ok(()) };
        if held.is_stock {
            outcome.of_stock += 1;
            let mut command = servers::terraform(self.lane.stock.of(held.mode));
            harness::run(command.args(["force-unlock", "-force", &held.id])).expect_code(0);
            return Ok(());
        }
        // It looks every few seconds for what lands late.
        for _ in 0..LANDING.as_millis() / 50 {
            if self.processes().is_empty() {
                break;
            }
            if self.lane.look.holder().is_none() {
                return Ok(());
            }
            pause(Duration::from_millis(50));
        }
        outcome.left += 1;
        let mut command = self.command(&tfwrap(), self.lane.wrapped.any());
        if recover {
            command.arg("recover");
        } else {
            let wait = format!("{}s", (LEASE + Duration::from_secs(8)).as_secs());
            command.args(self.options(&wait)).args(["run", "--", "true"]);
        }
        let finished = harness::run(&mut command);
        if finished.status.code() == Some(0) && self.lane.look.holder().is_none() {
            return Ok(());
        }
        let by = if recover { "recover" } else { "the next run" };
        Err(format!("after round {} the lock stays with {held:?}; {by}: {finished:?}", self.round))
    }
}

fn is_guardian(process: &Process) -> bool {
    process.describe().contains("lock-guardian")
}

impl Entry {
    fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        for _ in 0..=limit.as_millis() / LOOK.as_millis() {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return Some(status);
            }
            pause(LOOK);
        }
        None
    }

    /// Waits until its child has noted its begin, or it has ended.
    fn begins(&mut self, work: &Path, id: &str) {
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            let noted = fs::read_to_string(work).is_ok_and(|work| work.contains(id));
            if noted || self.ends_within(Duration::ZERO).is_some() {
                return;
            }
        }
    }

    /// It has not been waited for: its number, and its group's, are its own.
    fn strike(&self, blow: &Blow) {
        let tree = self.process.tree();
        self.send(blow.shape, blow.signal, &tree);
        if blow.signal == Signal::STOP {
            // A child that stands still beyond its lease is another matter: it is let be.
            let whole = matches!(blow.shape, Shape::Tree | Shape::TreeTwice);
            pause(if whole { blow.stands.min(Duration::from_secs(2)) } else { blow.stands });
            self.send(blow.shape, Signal::CONT, &tree);
        }
    }

    fn send(&self, shape: Shape, signal: Signal, tree: &[Process]) {
        match shape {
            Shape::Process => {
                self.process.signal(signal);
            }
            Shape::Group => {
                let group = nix::unistd::Pid::from_raw(self.process.pid);
                let signal = nix::sys::signal::Signal::try_from(signal.as_raw()).expect("one");
                killpg(group, signal).expect("its leader is not reaped");
            }
            Shape::Tree | Shape::TreeTwice => {
                for _ in 0..if shape == Shape::Tree { 1 } else { 2 } {
                    for process in tree {
                        process.signal(signal);
                    }
                }
            }
        }
    }
}
