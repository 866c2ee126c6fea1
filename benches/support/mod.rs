//! What the benches share: whole processes, timed with a bound, and their figures.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::s3_server::{self, aws_like};
use crate::servers;

/// The longest that one process may take; reached only when something is wrong.
const LIMIT: Duration = Duration::from_mins(10);

/// The arguments of a bench that times pairs.
#[derive(Debug, clap::Parser)]
pub(crate) struct Args {
    /// How many pairs for each comparison.
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,
    #[command(flatten)]
    pub(crate) rival: Rival,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    pub(crate) fn pairs(&self) -> usize {
        self.pairs.into()
    }
}

/// What tfwrap is compared with.
#[derive(Debug, clap::Args)]
pub(crate) struct Rival {
    /// Another tfwrap, such as one of an older commit, instead of Terraform alone.
    #[arg(long = "against", value_name = "TFWRAP")]
    tfwrap: Option<PathBuf>,
}

impl Rival {
    /// What it is called in the tables.
    pub(crate) fn name(&self) -> &'static str {
        if self.is_terraform() { "terraform" } else { "the other tfwrap" }
    }

    /// Whether it is Terraform alone.
    pub(crate) fn is_terraform(&self) -> bool {
        self.tfwrap.is_none()
    }

    /// It, without arguments.
    pub(crate) fn command(&self, place: &Place) -> Command {
        self.tfwrap.as_deref().map_or_else(|| place.terraform(), |path| place.this_tfwrap(path))
    }
}

/// What tfwrap locks: the lock that goes with each of these backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Backend {
    /// State in S3, lock in DynamoDB.
    Dynamodb,
    /// State in S3, lock in a file beside it.
    LockFile,
    /// State in S3, both locks.
    Both,
    /// State and lock in a file.
    Local,
}

impl Backend {
    pub(crate) const ALL: [Self; 4] = [Self::Dynamodb, Self::LockFile, Self::Both, Self::Local];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dynamodb => "S3 + DynamoDB",
            Self::LockFile => "S3 lock file",
            Self::Both => "S3, both locks",
            Self::Local => "local",
        }
    }
}

/// S3 by AWS' own name: of any other server, tfwrap first tries whether it honours conditions. Its requests
/// go to a server here, which stands in for a proxy.
pub(crate) const S3: &str = "http://s3.eu-west-1.amazonaws.com";

/// An initialised directory with a state of its own.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
    /// What answers for [`S3`].
    s3: Option<String>,
}

impl Place {
    /// `name`: of the state and of the lock table.
    pub(crate) fn new(backend: Backend, name: &str) -> Self {
        Self::behind(backend, name, str::to_owned)
    }

    /// With the server of the lock reached by another URL, such as a proxy's before it.
    pub(crate) fn behind(backend: Backend, name: &str, before: impl Fn(&str) -> String) -> Self {
        let key = key(name);
        let s3 = || Some(before(&aws_like().url));
        let place = match backend {
            Backend::Local => return Self { dir: servers::local_backend_dir(), s3: None },
            Backend::Dynamodb => {
                let dynamodb = &lock_table(name).url;
                let dir = servers::s3_backend_dir_at(&before(dynamodb), &key, name);
                Self { dir, s3: None }
            }
            Backend::LockFile => Self { dir: s3_server::backend_dir(S3, &key, ""), s3: s3() },
            Backend::Both => {
                // Another backend of the same name may have a table already.
                let table = format!("{name}-both");
                let dynamodb = before(&lock_table(&table).url);
                let lines = format!(
                    r#"use_lockfile                = true
    dynamodb_table              = "{table}"
    endpoints                   = {{ s3 = "{S3}", dynamodb = "{dynamodb}" }}"#
                );
                Self { dir: servers::dir_of_s3_backend(&key, &lines), s3: s3() }
            }
        };
        timed(place.terraform().args(["init", "-no-color"]));
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `terraform`, with nothing else.
    pub(crate) fn terraform(&self) -> Command {
        self.reaching_s3(servers::terraform(self.path()))
    }

    /// `tfwrap`, of the profile of this bench.
    pub(crate) fn tfwrap(&self) -> Command {
        self.this_tfwrap(Path::new(env!("CARGO_BIN_EXE_tfwrap")))
    }

    fn this_tfwrap(&self, path: &Path) -> Command {
        let mut command = Command::new(path);
        servers::clean(&mut command, self.path());
        command.env("TFWRAP_STATE_DIR", self.state_dir());
        self.reaching_s3(command)
    }

    fn reaching_s3(&self, mut command: Command) -> Command {
        if let Some(s3) = &self.s3 {
            command.env("HTTP_PROXY", s3);
        }
        command
    }

    /// Where its receipts lie.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.path().join(".tfwrap-state")
    }
}

/// The server with the lock table called `name`, which it has from now on.
fn lock_table(name: &str) -> &'static servers::Endpoint {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(servers::dynamodb().create_lock_table(name));
    servers::dynamodb()
}

/// The key of the state called `name`.
pub(crate) fn key(name: &str) -> String {
    format!("{name}/terraform.tfstate")
}

/// `apply` with these arguments, running `provisioner` in the shell.
pub(crate) fn apply(mut command: Command, args: &[&str], provisioner: &str) -> Command {
    command.args(["apply", "-auto-approve", "-no-color"]).args(args);
    command.arg(format!("-var=command={provisioner}"));
    command
}

/// Now, for measuring.
pub(crate) fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a bench measures, it decides nothing")]
    Instant::now()
}

/// Starts a command; what it says and how long it took comes when it has ended.
pub(crate) fn start(command: &mut Command) -> Started {
    let shown = format!("{command:?}");
    let from = now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        // Nobody listens any more only after a time-out.
        drop(ended.send((output, from.elapsed())));
    });
    Started { shown, pid, end }
}

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Started {
    shown: String,
    pid: Pid,
    end: mpsc::Receiver<(Output, Duration)>,
}

impl Started {
    /// Waits for its end.
    pub(crate) fn end(self) -> (Output, Duration) {
        self.end.recv_timeout(LIMIT).unwrap_or_else(|_| {
            let _ = kill(self.pid, Signal::SIGTERM);
            panic!("not within {LIMIT:?}: {}", self.shown)
        })
    }

    /// Waits for its end; it must succeed.
    pub(crate) fn success(self) -> Duration {
        let shown = self.shown.clone();
        let (output, took) = self.end();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{shown}: {}: {text}", output.status);
        took
    }

    /// The most memory that it ever had, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        kib(&PathBuf::from(format!("/proc/{}/status", self.pid)), "VmHWM:")
    }

    /// What it and its stand-in take of the machine's memory now, each, in KiB; as [`share`].
    pub(crate) fn shares(&self) -> (u64, u64) {
        let pid = self.pid;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let is_stand_in = |pid: &&str| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains("LOCK_STAND_IN=")
        };
        let stand_in = children.split_whitespace().find(is_stand_in).expect("a stand-in");
        (share(pid), share(stand_in))
    }
}

/// The proportional set size of a process in KiB (`proc_pid_smaps(5)`): what it shares with `n` others
/// counts as the `n`-th part.
pub(crate) fn share(pid: impl std::fmt::Display) -> u64 {
    kib(&PathBuf::from(format!("/proc/{pid}/smaps_rollup")), "Pss:")
}

fn kib(file: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).expect("the process lives");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line of it");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// Runs a command that must succeed.
pub(crate) fn timed(command: &mut Command) -> Duration {
    start(command).success()
}

/// Sleeps.
pub(crate) fn pause(span: Duration) {
    #[expect(clippy::disallowed_methods, reason = "a bench has no loop that it could block")]
    std::thread::sleep(span);
}

/// A quartile of some figures: 1, 2 (the median) or 3, between two of them where need be.
pub(crate) fn quartile(figures: &[f64], which: u8) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "there are few of them")]
    let at = (sorted.len() - 1) as f64 * f64::from(which) / 4.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index, rounded down"
    )]
    let below = at as usize;
    let above = (below + 1).min(sorted.len() - 1);
    (sorted[above] - sorted[below]).mul_add(at.fract(), sorted[below])
}

/// Times two commands by turns, each first every other time.
pub(crate) fn pairs(count: usize, one: impl Fn() -> Command, other: impl Fn() -> Command) -> Pairs {
    let mut pairs = Pairs::default();
    for index in 0..count {
        let (a, b) = if index % 2 == 0 {
            let a = timed(&mut one());
            (a, timed(&mut other()))
        } else {
            let b = timed(&mut other());
            (timed(&mut one()), b)
        };
        pairs.one.push(a.as_secs_f64() * 1000.0);
        pairs.other.push(b.as_secs_f64() * 1000.0);
        pairs.ratios.push(a.as_secs_f64() / b.as_secs_f64());
    }
    pairs
}

/// The times in milliseconds, and the ratios of the first to the second.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    one: Vec<f64>,
    other: Vec<f64>,
    ratios: Vec<f64>,
}

impl Pairs {
    /// As cells of a table: both medians, the ratio's median, its quartiles, the count.
    pub(crate) fn cells(&self) -> String {
        format!(
            "{:.0} ms | {:.0} ms | **{:.3}** | {:.3}–{:.3} | {}",
            quartile(&self.one, 2),
            quartile(&self.other, 2),
            quartile(&self.ratios, 2),
            quartile(&self.ratios, 1),
            quartile(&self.ratios, 3),
            self.ratios.len()
        )
    }
}

/// Says what was measured on: a figure without it says nothing.
pub(crate) fn say_where(place: &Place) {
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let (output, _) = start(place.terraform().arg("version")).end();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!("{}, {cores} cores, tfwrap built as {profile}\n", text.lines().next().unwrap_or(""));
}
