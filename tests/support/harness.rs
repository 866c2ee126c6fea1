//! Processes of the tests: started in a clean environment, watched with bounds, ended by PID.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tfwrap::supervise::ProcessId;

use super::{json_log, servers};

/// The longest that anything in a test may take; reached only when something is wrong.
pub(crate) const LIMIT: Duration = Duration::from_mins(2);

const STEP: Duration = Duration::from_millis(20);

/// The program under test.
pub(crate) fn wrapper() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tfwrap"))
}

/// Where `terraform` really is.
pub(crate) fn real_terraform() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "terraform must be found")]
    let path = std::env::var("PATH").expect("a PATH");
    let found = std::env::split_paths(&path).map(|dir| dir.join("terraform"));
    found.into_iter().find(|path| path.exists()).expect("a terraform on the PATH")
}

/// The scripted child.
pub(crate) fn fake_terraform() -> PathBuf {
    let binaries = Path::new(env!("CARGO_BIN_EXE_tfwrap")).parent().expect("a directory");
    let path = binaries.join("examples/fake-terraform");
    assert!(path.exists(), "{} is missing: run `cargo build --examples`", path.display());
    path
}

/// `tfwrap` in `dir`, with nothing of the tests' own environment but the `PATH`.
pub(crate) fn tfwrap(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tfwrap"));
    servers::clean(&mut command, dir);
    command.env("TFWRAP_STATE_DIR", dir.join(".tfwrap-state"));
    command
}

/// An initialised directory whose state is at `<name>/terraform.tfstate` of the bucket, with a lock
/// table of its own.
pub(crate) async fn s3_dir(name: &str) -> S3Dir {
    let (table, key) = (name.replace('/', "-"), format!("{name}/terraform.tfstate"));
    servers::dynamodb().create_lock_table(&table).await;
    let dir = servers::s3_backend_dir(&key, &table);
    run(servers::terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    S3Dir { dir, table, key }
}

/// A directory for Terraform with its state in S3 and its lock in DynamoDB.
#[derive(Debug)]
pub(crate) struct S3Dir {
    dir: TempDir,
    pub(crate) table: String,
    pub(crate) key: String,
}

impl S3Dir {
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The key of the lock item.
    pub(crate) fn lock_id(&self) -> String {
        format!("{}/{}", servers::BUCKET, self.key)
    }
}

/// A command with `apply`'s usual arguments, running `provisioner` in the shell.
pub(crate) fn applying(mut command: Command, provisioner: &str) -> Command {
    command.args([
        "apply",
        "-auto-approve",
        "-no-color",
        "-var",
        &format!("command={provisioner}"),
    ]);
    command
}

/// Waits until `condition` holds; fails when it does not within the limit.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..LIMIT.as_millis() / STEP.as_millis() {
        if condition() {
            return;
        }
        pause(STEP);
    }
    panic!("not within {LIMIT:?}: {what}");
}

/// Sleeps; a test has no loop that it could block.
pub(crate) fn pause(span: Duration) {
    #[expect(clippy::disallowed_methods, reason = "a test has no loop that it could block")]
    std::thread::sleep(span);
}

/// What a finished process left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Fails unless the code is this one.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// A process that runs; killed by PID when the test ends before it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts it, its streams watched.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (out, stdout) = watch(child.stdout.take().unwrap());
        let (err, stderr) = watch(child.stderr.take().unwrap());
        Self { child, stdout, stderr, readers: vec![out, err] }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Sends a signal to the process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    /// Waits until stderr holds this text.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        eventually(&format!("stderr says {text:?}; it said: {}", self.stderr()), || {
            self.stderr().contains(text)
        });
    }

    /// Whether it has ended, waited for or not.
    pub(crate) fn is_over(&self) -> bool {
        ProcessId::of(self.pid()).is_none_or(|process| !process.is_alive())
    }

    /// Waits for its end, within the limit.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let mut status = None;
        for _ in 0..LIMIT.as_millis() / STEP.as_millis() {
            status = self.child.try_wait().unwrap();
            if status.is_some() {
                break;
            }
            pause(STEP);
        }
        let Some(status) = status else {
            panic!("it does not end: {}", self.stderr());
        };
        // Bounded by the processes that hold the streams open; all of them are the test's own.
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let take = |text: &Arc<Mutex<String>>| std::mem::take(&mut *text.lock().unwrap());
        let stderr = take(&self.stderr);
        json_log::lines(&stderr);
        Finished { status, stdout: take(&self.stdout), stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its own child is told by the interrupt; what does not heed it is killed.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(self.pid(), Signal::SIGTERM);
            for _ in 0..250 {
                if let Ok(Some(_)) = self.child.try_wait() {
                    return;
                }
                pause(STEP);
            }
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A path for a shell.
pub(crate) fn quoted(path: &Path) -> String {
    shell_words::quote(path.to_str().expect("UTF-8")).into_owned()
}

/// Makes a program of this text. By another process: a file that is open for writing cannot be
/// executed, and for a moment every program that another test starts has open what we have.
pub(crate) fn program(path: &Path, text: &str) {
    let mut sh = Command::new("sh");
    sh.args(["-c", "mkdir -p \"${1%/*}\" && cat > \"$1\" && chmod 755 \"$1\"", "sh"]).arg(path);
    let mut sh = sh.stdin(Stdio::piped()).spawn().expect("a shell");
    let mut stdin = sh.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("it is read");
    drop(stdin);
    assert!(sh.wait().expect("its end").success(), "{}", path.display());
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Finished {
    Running::start(command).finish()
}

fn watch(stream: impl Read + Send + 'static) -> (JoinHandle<()>, Arc<Mutex<String>>) {
    let text = Arc::new(Mutex::new(String::new()));
    let theirs = text.clone();
    let reader = std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            theirs.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    (reader, text)
}

/// A hand-shake with a provisioner: it says that it runs, and goes on when it is told to.
#[derive(Debug)]
pub(crate) struct Gate {
    dir: PathBuf,
    name: &'static str,
}

impl Gate {
    pub(crate) fn new(dir: &Path, name: &'static str) -> Self {
        Self { dir: dir.to_owned(), name }
    }

    fn file(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}.{what}", self.name))
    }

    /// The shell command of the other side; gives up by itself after a minute.
    pub(crate) fn command(&self) -> String {
        let [ready, go] = ["ready", "go"].map(|what| quoted(&self.file(what)));
        format!(
            "touch {ready}; for i in $(seq 600); do test -e {go} && exit 0; sleep 0.1; done; exit 9"
        )
    }

    /// Waits until the other side runs.
    #[track_caller]
    pub(crate) fn reached(&self) {
        eventually(&format!("gate `{}` is reached", self.name), || self.is_reached());
    }

    pub(crate) fn is_reached(&self) -> bool {
        self.file("ready").exists()
    }

    /// Lets it go on.
    pub(crate) fn open(&self) {
        std::fs::write(self.file("go"), "").unwrap();
    }
}
