//! What a case needs: a state and its lock, a child, the environment of a job, and eyes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tfwrap::clock::uptime;

use crate::lock::{self, Kind, Lock, TABLE, Watch};
use crate::step::{Group, Output, Step, within};
use crate::support::harness::{self, fake_terraform, pause, wrapper as tfwrap};
use crate::support::procs::{self, Process};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{self, BUCKET};

/// Of the state that is there before.
const LINEAGE: &str = "6a1f7d2e-3b0c-4c1e-9f55-1d2a3b4c5d6e";
/// Whatever a case starts has this in its environment.
pub(crate) const MARKER: &str = "TFWRAP_TEST_CASE";
/// Only a broken test waits for so long.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(20);

/// How much of the time in life a replay takes.
pub(crate) fn scale() -> f64 {
    #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
    let asked = std::env::var("TFWRAP_CANCEL_SCALE").ok();
    asked.map_or(0.2, |scale| scale.parse().expect("TFWRAP_CANCEL_SCALE is a number"))
}

/// A time of a runner or a child, in the replay.
pub(crate) fn scaled(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds * scale())
}

/// How long the guardian lets a child end (in life, 3 minutes by default).
pub(crate) fn orphan_grace() -> Duration {
    scaled(30.0)
}

/// How long `recover` waits where it does.
pub(crate) fn recover_wait() -> Duration {
    scaled(60.0)
}

/// What runs under tfwrap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Work {
    /// A real `terraform apply` whose stop takes this long, in seconds of life: so slow is the
    /// store of its state.
    Terraform(f64),
    /// A child that ends so many seconds of life after its first interrupt.
    Ends(f64),
    /// A child that heeds no signal.
    Never,
}

/// A state under a lock, and a job that works on it.
pub(crate) struct Stage {
    dir: TempDir,
    marker: String,
    work: Work,
    lock: Lock,
    output: Output,
    job: Vec<(&'static str, String)>,
    /// Delays the writes of the state.
    _slow: Option<Proxy>,
    options: Vec<String>,
    /// What tfwrap takes for Terraform, if not what is found on the `PATH`.
    terraform: Option<PathBuf>,
    /// Without tfwrap: the control.
    is_bare: bool,
}

impl Stage {
    /// For a job with these variables, and a lock in the table.
    pub(crate) fn new(name: &str, work: Work, job: &[(&'static str, &str)]) -> Self {
        Self::under(Kind::Item, name, work, job)
    }

    /// The same with another lock; that of a real Terraform is always in the table.
    pub(crate) fn under(kind: Kind, name: &str, work: Work, job: &[(&'static str, &str)]) -> Self {
        lock::make_table();
        let state = format!("{name}/terraform.tfstate");
        let (dir, slow, lock, terraform) = match work {
            Work::Terraform(stop) => {
                let slow = Proxy::before(&servers::s3().url);
                let dir = terraform_dir(&state, &slow);
                slow.plan([Rule::on("PUT", Fault::Slow(scaled(stop))).times(1)]);
                let lock = Lock::of(Kind::Item, format!("{BUCKET}/{state}"));
                (dir, Some(slow), lock, None)
            }
            Work::Ends(_) | Work::Never => {
                let dir = tempfile::tempdir().expect("a directory");
                let lock = Lock::of(kind, format!("{BUCKET}/fake/{name}"));
                if kind != Kind::Item {
                    lock.record_backend(dir.path());
                }
                (dir, None, lock, Some(fake_terraform()))
            }
        };
        let marker = format!("{}-{name}", uptime().0.as_nanos());
        let here = dir.path().display().to_string();
        let job = job.iter().map(|(name, value)| (*name, value.replace('@', &here))).collect();
        let grace = format!("{}ms", orphan_grace().as_millis());
        let options = ["--lease", "15s", "--orphan-grace", &grace].map(str::to_owned).into();
        let output = Output::default();
        let is_bare = false;
        Self { dir, marker, work, lock, output, job, _slow: slow, options, terraform, is_bare }
    }

    /// A real Terraform that locks for itself, without tfwrap.
    pub(crate) fn bare(name: &str, work: Work, job: &[(&'static str, &str)]) -> Self {
        assert!(matches!(work, Work::Terraform(_)), "a real one");
        let mut stage = Self::new(name, work, job);
        stage.is_bare = true;
        stage
    }

    pub(crate) fn is_bare(&self) -> bool {
        self.is_bare
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    pub(crate) fn lock(&self) -> &Lock {
        &self.lock
    }

    /// A variable of the job, for all that starts from now on.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.job.push((name, value.to_owned()));
    }

    /// A command with the job's environment, and nothing of the tests' own but the `PATH`.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        servers::clean(&mut command, self.dir.path());
        command.env(MARKER, &self.marker).env("TERM", "dumb");
        command.env("FAKE_TERRAFORM_SCRIPT", self.script());
        let ready = self.path("ready");
        command.env("TF_VAR_command", format!("touch {}; exec sleep 900", ready.display()));
        command.envs(self.job.iter().map(|(name, value)| (*name, value)));
        command
    }

    fn script(&self) -> String {
        let here = self.dir.path().display();
        let heeds = match self.work {
            Work::Ends(seconds) => {
                let after = scaled(seconds).as_millis();
                format!("on SIGINT exit 1 after {after}; on SIGTERM exit 1 after {after}")
            }
            Work::Never | Work::Terraform(_) => "on SIGINT log; on SIGTERM log".to_owned(),
        };
        format!("log {here}/log; {heeds}; ready {here}/ready; wait 3000")
    }

    /// tfwrap and what it takes the lock with.
    fn locking(&self) -> Vec<String> {
        let mut words = vec![tfwrap().display().to_string()];
        words.extend(self.options.iter().cloned());
        if !matches!(self.work, Work::Terraform(_))
            && let Some(url) = self.lock.url()
        {
            words.extend(["--no-backend-lock", "--lock", &url].map(str::to_owned));
        }
        if let Some(program) = &self.terraform {
            words.extend(["--terraform".to_owned(), program.display().to_string()]);
        }
        words
    }

    /// The words that run the child under the lock.
    pub(crate) fn words(&self) -> Vec<String> {
        let child: &[&str] = match self.work {
            Work::Terraform(_) => &["apply", "-auto-approve", "-no-color"],
            Work::Ends(_) | Work::Never => &["apply"],
        };
        let before = if self.is_bare {
            let program = self.terraform.clone().unwrap_or_else(harness::real_terraform);
            vec![program.display().to_string()]
        } else {
            self.locking()
        };
        before.into_iter().chain(child.iter().map(|&word| word.to_owned())).collect()
    }

    /// The words that run a program of the user's under the lock.
    pub(crate) fn words_of_run(&self, program: &Path) -> Vec<String> {
        let run = ["run", "--"].map(str::to_owned);
        let program = program.display().to_string();
        if self.is_bare {
            return vec![program];
        }
        self.locking().into_iter().chain(run).chain([program]).collect()
    }

    /// The next run, which does nothing under the lock. Returns its code, if it gets that far.
    pub(crate) fn next_run(&self, wait: &str) -> Option<i32> {
        let mut words = self.locking();
        words.extend(["--lock-timeout", wait, "run", "--", "true"].map(str::to_owned));
        let mut step = self.start(self.command(&words[0]).args(&words[1..]), Group::Own);
        step.ends_within(PATIENCE);
        step.code()
    }

    /// The same for a shell.
    pub(crate) fn shell_words(&self) -> String {
        shell_words::join(self.words())
    }

    /// Starts a step of the job.
    pub(crate) fn start(&self, command: &mut Command, group: Group) -> Step {
        Step::start(command, group, &self.output)
    }

    /// A script of the user's, in a file.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// The same for one that can be run.
    pub(crate) fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name, text);
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("a mode");
        path
    }

    /// Puts a program where tfwrap looks for Terraform. It finds the real one in `$REAL`.
    pub(crate) fn put_before_terraform(&mut self, text: &str) {
        let real = self.terraform.take().unwrap_or_else(harness::real_terraform);
        self.set("REAL", &real.display().to_string());
        self.terraform = Some(self.program("terraform-before", text));
    }

    /// Starts tfwrap with the child by itself.
    pub(crate) fn start_plainly(&self) -> Step {
        let words = self.words();
        self.start(self.command(&words[0]).args(&words[1..]), Group::Own)
    }

    /// Waits until the child is at work; from here on the lock is watched.
    pub(crate) fn at_work(&self) -> Watch {
        let arrived = within(PATIENCE, || self.path("ready").exists() && !self.childs().is_empty());
        assert!(arrived, "the child does not start: {}", self.output.text());
        assert!(self.lock.is_held(), "the child works without a lock: {}", self.output.text());
        Watch::start(self.lock.clone(), self.childs())
    }

    /// The processes of the child itself.
    fn childs(&self) -> Vec<Process> {
        let program = match self.work {
            Work::Terraform(_) => "/terraform",
            Work::Ends(_) | Work::Never => "/fake-terraform",
        };
        let mut all = self.processes();
        all.retain(|process| process.program().ends_with(program));
        all
    }

    /// All that was started and still runs.
    pub(crate) fn processes(&self) -> Vec<Process> {
        procs::with_variable(MARKER, &self.marker)
    }

    /// What marks a process that is not to be waited for.
    pub(crate) fn other_marker(&self) -> String {
        format!("{}-next", self.marker)
    }

    /// Waits until nothing runs any more; returns what does.
    pub(crate) fn left_after(&self, limit: Duration) -> Vec<String> {
        within(limit, || {
            pause(LOOK);
            self.processes().is_empty()
        });
        self.processes().iter().map(Process::describe).collect()
    }

    /// Runs `tfwrap recover` in another step of the job, to its end; returns its code. Nothing of a
    /// Terraform without tfwrap.
    pub(crate) fn recover(&self, before: &[&str], options: &[&str]) -> Option<i32> {
        if self.is_bare {
            return None;
        }
        let words = before.iter().map(|&word| word.to_owned());
        let mut words: Vec<_> = words.chain([tfwrap().display().to_string()]).collect();
        words.push("recover".to_owned());
        words.extend(options.iter().map(|&option| option.to_owned()));
        self.output.push(&format!("--- {}\n", words[before.len()..].join(" ")));
        let mut step = self.start(self.command(&words[0]).args(&words[1..]), Group::Own);
        step.ends_within(recover_wait() + orphan_grace() + PATIENCE);
        // Its last words.
        step.closes_within(Duration::from_secs(1));
        // Nothing if it has not ended.
        step.code()
    }

    /// `recover --wait`, as in all that runs after a step.
    pub(crate) fn recover_waiting(&self) -> Option<i32> {
        self.recover(&[], &["--wait", &format!("{}ms", recover_wait().as_millis())])
    }

    /// How many interrupts the child got.
    pub(crate) fn interrupts(&self) -> usize {
        if let Work::Terraform(_) = self.work {
            let said = self.said();
            let count = |words: &str| said.matches(words).count();
            return count("Interrupt received.") + count("Two interrupts received.");
        }
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().count()
    }

    /// What all said that was read, or went to a file.
    pub(crate) fn said(&self) -> String {
        let file = std::fs::read_to_string(self.path("out")).unwrap_or_default();
        self.output.text() + &file
    }

    /// Whether the interrupted apply is in the state: what it made, and that it did not finish.
    pub(crate) fn state_is_saved(&self) -> Option<bool> {
        let Work::Terraform(_) = self.work else { return None };
        let (_, key) = self.lock.key().split_once('/').expect("a bucket");
        let state = servers::s3().get(BUCKET, key).unwrap_or_default();
        let state: Option<serde_json::Value> = serde_json::from_slice(&state).ok();
        let at = |place: &str| state.as_ref().and_then(|state| state.pointer(place));
        let is_same = at("/lineage").is_some_and(|lineage| lineage == LINEAGE);
        let status = at("/resources/0/instances/0/status");
        Some(is_same && status.is_some_and(|status| status == "tainted"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let next = procs::with_variable(MARKER, &self.other_marker());
        for process in self.processes().into_iter().chain(next) {
            process.signal(Signal::KILL);
        }
    }
}

fn terraform_dir(state: &str, slow: &Proxy) -> TempDir {
    let dir = servers::s3_backend_dir(state, TABLE);
    // In a state that is new Terraform 1.11 loses what it saved, now and then: interrupted, it writes
    // an empty one, reads that back, and writes it again in place of its own.
    let empty = format!(
        r#"{{"version":4,"terraform_version":"1.11.4","serial":1,"lineage":"{LINEAGE}","outputs":{{}},"resources":[]}}"#
    );
    servers::s3().put(BUCKET, state, empty.as_bytes());
    let file = dir.path().join("backend.tf");
    let backend = std::fs::read_to_string(&file).expect("the backend");
    let backend = backend.replace(&servers::s3().url, slow.url());
    std::fs::write(file, backend).expect("the backend");
    harness::run(servers::terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    dir
}
