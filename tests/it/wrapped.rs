//! Runs the wrapper around a scripted child, shakes hands with it, and ends what it started.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tempfile::TempDir;
use tfwrap::lock::Uptime;
use tfwrap::store::{Expect, LocalState, Record, Registers as _, WriteReply};

pub(crate) use crate::support::harness::{fake_terraform, wrapper};
use crate::support::{harness, json_log, servers};

/// The longest any single wait of a test takes; reached only when the test fails.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);

/// The script of a child that logs whatever comes, and ends by SIGUSR1 only.
pub(crate) const LOGS_ALL: &str = "log @/log; on SIGINT log; on SIGTERM log; on SIGHUP log; \
                                   on SIGWINCH log; on SIGUSR1 exit 5; ready @/ready; wait";

/// A directory for Terraform with its state beside it, and a child's script.
pub(crate) struct Scene {
    directory: TempDir,
    script: String,
    environment: Vec<(String, String)>,
    options: Vec<String>,
    program: PathBuf,
    command: Vec<String>,
    through: Vec<String>,
}

impl Scene {
    /// A child that follows the script, under the lock of the state; `@` in it is this scene's
    /// directory. It notes when the lock is free while it lives, which [`Running::code`] and
    /// [`Scene::expect_free`] look at.
    pub(crate) fn new(script: &str) -> Self {
        Self::unguarded(&format!("guard {}; {script}", Self::STATE))
    }

    /// The state, in a script.
    const STATE: &str = "@/terraform.tfstate";

    /// The same, where the lock is not the one of the state.
    pub(crate) fn unguarded(script: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut scene = Self {
            script: String::new(),
            directory,
            environment: Vec::new(),
            options: Vec::new(),
            program: fake_terraform(),
            command: vec!["apply".to_owned()],
            through: Vec::new(),
        };
        scene.script = scene.filled_in_quoted(script);
        scene
    }

    /// A child that is this shell script.
    pub(crate) fn of_shell(script: &str) -> Self {
        let mut scene = Self::unguarded("");
        scene.program = scene.path("terraform");
        harness::program(&scene.program, &format!("#!/bin/sh\n{script}\n"));
        scene
    }

    /// A child that is whatever this path names.
    pub(crate) fn of_program(program: impl Into<PathBuf>) -> Self {
        let mut scene = Self::unguarded("");
        scene.program = program.into();
        scene
    }

    fn filled_in(&self, text: &str) -> String {
        text.replace('@', &self.directory.path().display().to_string())
    }

    /// In the child's script a path is quoted as for a shell.
    fn filled_in_quoted(&self, script: &str) -> String {
        script.replace('@', &harness::quoted(self.directory.path()))
    }

    /// What `spawn BACKGROUND` runs.
    pub(crate) fn background(self, script: &str) -> Self {
        let script = self.filled_in_quoted(script);
        self.env("FAKE_TERRAFORM_BACKGROUND", &script)
    }

    /// A variable of the wrapper's environment, which has nothing of the tests' own but the
    /// `PATH`.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        let value = self.filled_in(value);
        self.environment.push((name.to_owned(), value));
        self
    }

    /// As if in a CI.
    pub(crate) fn in_ci(self) -> Self {
        self.env("CI", "true")
    }

    /// Options of the wrapper.
    pub(crate) fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// What comes after the options, instead of `apply`.
    pub(crate) fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Starts the wrapper through another program, such as `env`.
    pub(crate) fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The words that run the wrapper, without what [`Scene::through`] says.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = self.environment_words();
        words.push(wrapper().display().to_string());
        words.extend(self.options.iter().cloned());
        words.extend(["--terraform".to_owned(), self.program.display().to_string()]);
        words.extend(self.command.iter().cloned());
        words
    }

    /// The same for a shell.
    pub(crate) fn shell_words(&self) -> String {
        shell_words::join(self.words())
    }

    /// `env` with the directory and the environment of the scene; it becomes what follows.
    fn environment_words(&self) -> Vec<String> {
        servers::heed_signals();
        let here = self.directory.path().display().to_string();
        #[expect(clippy::disallowed_methods, reason = "terraform and its shell must be found")]
        let path = std::env::var("PATH").expect("a PATH");
        let fixed = [
            ("PATH", path.as_str()),
            ("HOME", &here),
            ("TERM", "dumb"),
            ("TFWRAP_STATE_DIR", &format!("{here}/.tfwrap-state")),
            ("CHECKPOINT_DISABLE", "1"),
            ("AWS_ACCESS_KEY_ID", servers::SECRET),
            ("AWS_SECRET_ACCESS_KEY", servers::SECRET),
            ("FAKE_TERRAFORM_SCRIPT", &self.script),
        ];
        let own = self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let variables = fixed.into_iter().chain(own).map(|(name, value)| format!("{name}={value}"));
        let env = ["env".to_owned(), format!("--chdir={here}"), "-i".to_owned()];
        env.into_iter().chain(variables).collect()
    }

    /// Starts the wrapper in a group of its own, its streams in files: a process that is left
    /// behind keeps no pipe of ours open.
    pub(crate) fn start(self) -> Running {
        self.start_with(|command| command)
    }

    pub(crate) fn start_with(self, adapt: impl FnOnce(&mut Command) -> &mut Command) -> Running {
        let words: Vec<_> = self.through.iter().cloned().chain(self.words()).collect();
        self.start_words(&words, adapt)
    }

    /// Starts the child itself, as if there were no wrapper.
    pub(crate) fn start_bare(self) -> Running {
        let mut words = self.environment_words();
        words.push(self.program.display().to_string());
        self.start_words(&words, |command| command)
    }

    fn start_words(
        self,
        words: &[String],
        adapt: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Running {
        let mut command = Command::new(&words[0]);
        let stream = |name| File::create(self.path(name)).expect("a file");
        command.args(&words[1..]).process_group(0);
        command.stdout(stream("stdout")).stderr(stream("stderr"));
        let child = adapt(&mut command).spawn().expect("the wrapper starts");
        Running { scene: self, child }
    }

    /// Another tfwrap with the same child in the same directory, in a group of its own.
    pub(crate) fn rival(&self) -> Command {
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).process_group(0);
        command
    }

    /// Takes the lock of the state as tfwrap does and gives it back; and it was never free while
    /// the child lived.
    #[track_caller]
    pub(crate) fn expect_takeable(&self) {
        let unlocked = fs::read_to_string(self.path("terraform.tfstate.unlocked"));
        assert!(unlocked.is_err(), "the lock was free under a child: {unlocked:?}");
        assert!(!self.path(".terraform.tfstate.lock.info").exists(), "the lock's info is left");
        let lock = LocalState::new(self.path("terraform.tfstate")).expect("a state's name");
        let (key, record) = (lock.key(), Record { info: None, lease: None });
        // A thread of its own, since the test may have a runtime already.
        let taken = std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                runtime.expect("a runtime").block_on(async {
                    let reply = lock.write(&key, &record, &Expect::Absent).await;
                    if let Ok(WriteReply::Applied(version)) = &reply {
                        lock.remove(&key, version).await.expect("it can be given back");
                    }
                    reply
                })
            });
            work.join().expect("no panic")
        });
        assert!(matches!(taken, Ok(WriteReply::Applied(_))), "the lock is not free: {taken:?}");
    }

    /// The same, and another tfwrap that does not wait gets it.
    #[track_caller]
    pub(crate) fn expect_free(&self) {
        self.expect_takeable();
        let mut next = harness::tfwrap(self.directory.path());
        harness::run(next.args(["--lock-timeout=0s", "run", "--", "true"])).expect_code(0);
        self.expect_takeable();
    }

    /// Waits until the file is there, and returns it.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str) -> String {
        let path = self.path(name);
        wait_until(&format!("the file {name}"), || fs::read_to_string(&path).ok())
    }

    /// The process that said it was ready: `ready PID`. A shell makes the file before it writes.
    #[track_caller]
    pub(crate) fn pid_in(&self, name: &str) -> Pid {
        wait_until(&format!("`ready PID` in the file {name}"), || {
            let said = fs::read_to_string(self.path(name)).ok()?;
            said.trim().strip_prefix("ready ")?.parse().ok().map(Pid::from_raw)
        })
    }

    /// The lines of the child's log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        let log = match fs::read_to_string(self.path("log")) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => panic!("{error}"),
        };
        log.lines().map(str::to_owned).collect()
    }

    /// Waits until the log has a line that begins so.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, beginning: &str) -> String {
        wait_until(&format!("`{beginning}` in the log"), || {
            self.log().into_iter().find(|line| line.starts_with(beginning))
        })
    }

    /// How often the child got the signal.
    pub(crate) fn count(&self, signal: &str) -> usize {
        self.log().iter().filter(|line| line.starts_with(&format!("{signal} "))).count()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // What said that it was ready, and is still the program that said it.
        for name in ["ready", "background"] {
            let Ok(ready) = fs::read_to_string(self.path(name)) else { continue };
            let pid = ready.trim().trim_start_matches("ready ");
            let runs = fs::read_link(format!("/proc/{pid}/exe")).ok();
            if let (Ok(pid), true) = (pid.parse(), runs == Some(fake_terraform())) {
                let _gone_meanwhile = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// A wrapper at work.
pub(crate) struct Running {
    pub(crate) scene: Scene,
    child: Child,
}

impl Running {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal to the wrapper alone.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the wrapper is there");
    }

    /// Sends a signal to the wrapper's whole group.
    pub(crate) fn signal_group(&self, signal: Signal) {
        killpg(self.pid(), signal).expect("the wrapper's group is there");
    }

    /// Waits for the child's word.
    #[track_caller]
    pub(crate) fn ready(self) -> Self {
        self.scene.wait_for("ready");
        self
    }

    /// Waits for the wrapper's end. Then the lock of its state is free, and was not before.
    #[track_caller]
    pub(crate) fn code(&mut self) -> Option<i32> {
        let code = self.bare_code();
        self.scene.expect_free();
        code
    }

    /// Waits for its end, and looks at nothing else.
    #[track_caller]
    pub(crate) fn bare_code(&mut self) -> Option<i32> {
        let child = &mut self.child;
        wait_until("the wrapper's end", || child.try_wait().expect("it can be waited for")).code()
    }

    /// Whether the wrapper still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_none()
    }

    pub(crate) fn stderr(&self) -> String {
        let stderr = fs::read_to_string(self.scene.path("stderr")).expect("its stderr");
        json_log::lines(&stderr);
        stderr
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _gone_meanwhile = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// The clock of the child's notes.
pub(crate) fn uptime() -> Uptime {
    Uptime(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is a clock").into())
}

/// Looks until there is something, and fails the test when it takes too long.
#[track_caller]
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        if let Some(found) = look() {
            return found;
        }
        #[expect(clippy::disallowed_methods, reason = "a test may block its own thread")]
        std::thread::sleep(LOOK);
    }
    panic!("waited {PATIENCE:?} for {what} in vain; meanwhile there is:\n{}", all_of_ours());
}

/// Each process of our program that runs now, of whatever test, and what lies in its state directory: for
/// whoever has nothing but a log of what failed, once, on a loaded machine.
fn all_of_ours() -> String {
    let mut found = String::new();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for path in pids.map(|it| it.path()) {
        let program = fs::read_link(path.join("exe")).unwrap_or_default();
        if !program.to_string_lossy().contains("/tfwrap") {
            continue;
        }
        let read = |name: &str| {
            let text = fs::read(path.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&text).replace('\0', " ")
        };
        let told = ["State:", "PPid:", "SigPnd:", "ShdPnd:", "SigBlk:"];
        let status = read("status");
        let status = status.lines().filter(|line| told.iter().any(|it| line.starts_with(it)));
        let status: Vec<_> = status.map(|line| line.replace('\t', " ")).collect();
        found.extend([&*path.to_string_lossy(), ": ", &read("cmdline"), &status.join(", "), "\n"]);
        let environment = read("environ");
        let dir = environment.split(' ').find_map(|it| it.strip_prefix("TFWRAP_STATE_DIR="));
        for file in dir.and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten() {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            found.extend(["  ", &*file.path().to_string_lossy(), ": ", text.trim_end(), "\n"]);
        }
    }
    found
}

/// The state of a process as in `/proc`: `R`, `S`, `T`, `Z`; nothing when it is gone.
pub(crate) fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

/// Whether it runs no more.
pub(crate) fn is_gone(pid: Pid) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// When a process began, in the kernel's ticks: with its number, it names one process for good.
/// The number alone comes back, in a suite of tens of thousands of processes and threads.
pub(crate) fn born(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name come the third field and those that follow; this is the 22nd.
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(19).map(str::to_owned)
}

/// Waits until a process that began then runs no more.
pub(crate) fn wait_for_end(what: &str, pid: Pid, born_at: Option<&String>) {
    wait_until(what, || (is_gone(pid) || born(pid).as_ref() != born_at).then_some(()));
}

/// The one child of a process.
pub(crate) fn only_child(parent: Pid) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.trim().parse().ok().map(Pid::from_raw)
}
