//! A disk that is full, or read-only, where receipts are: no state of it lets anybody give back a
//! lock under a child that lives, or interrupt a child twice.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::aftermath::{EndsHolds, Lock, Receipt, kill_dead, ours};
use crate::support::harness::{fake_terraform, run};
use crate::wrapped::{LOGS_ALL, Running, Scene, is_gone, wait_until};

/// A small file system of its own, in a mount namespace that ends with this; a shell there does
/// what is asked of it.
struct Disk {
    shell: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    dir: PathBuf,
    _mounted_at: tempfile::TempDir,
}

const SHELL: &str = "mount -t tmpfs -o size=64k,mode=0700 none \"$1\" && echo done && \
                     while read -r line; do eval \"$line\"; echo done; done";

impl Disk {
    /// None where nothing may be mounted.
    fn new() -> Option<Self> {
        let at = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", SHELL, "sh"]).arg(at.path());
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let dir = PathBuf::from(format!("/proc/{}/root{}", shell.id(), at.path().display()));
        let stdin = shell.stdin.take().expect("a pipe");
        let stdout = BufReader::new(shell.stdout.take().expect("a pipe"));
        let mut disk = Self { shell, stdin, stdout, dir, _mounted_at: at };
        if disk.is_done() {
            return Some(disk);
        }
        #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
        {
            eprintln!("skipped: unshare(1) or mount(8) may not make a file system here");
        }
        None
    }

    fn is_done(&mut self) -> bool {
        let mut line = String::new();
        self.stdout.read_line(&mut line).is_ok_and(|_| line == "done\n")
    }

    fn does(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("the shell lives");
        assert!(self.is_done(), "{command}");
    }

    fn path(&self) -> &str {
        self.dir.to_str().expect("UTF-8")
    }

    /// Leaves nothing of it.
    fn fill(&self) {
        let mut file = File::create(self.dir.join("full")).expect("a file");
        let full = (0..1024).find_map(|_| file.write_all(&[b'x'; 1024]).err());
        let full = full.or_else(|| (0..1024).find_map(|_| file.write_all(b"x").err()));
        assert_eq!(full.expect("an end").kind(), std::io::ErrorKind::StorageFull);
        // The rest of the last page.
        let _full = (0..4096).find_map(|_| file.write_all(b"x").err());
    }

    fn empty(&self) {
        fs::remove_file(self.dir.join("full")).expect("it is there");
    }

    /// Remounts it.
    fn turns(&mut self, how: &str) {
        self.does(&format!("mount -n -i -o remount,{how} none \"$1\""));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone_meanwhile = self.shell.kill();
        let _reaped = self.shell.wait();
    }
}

/// A run that waits for a lock that somebody else has, its receipt on the disk.
async fn waiting(disk: &Disk, lock: &Lock, script: &str, command: &[&str]) -> Running {
    lock.hold_as("somebody", 1).await;
    let scene = lock.scene(script).env("TFWRAP_STATE_DIR", disk.path()).env("CI_JOB_ID", "7");
    let running = scene.command(command).start();
    wait_until("a receipt, and the wait", || {
        let waits = running.stderr().contains("waiting for");
        (waits && Receipt::all(&disk.dir).len() == 1).then_some(())
    });
    running
}

/// Where there was never room for a receipt, its guardian leaves nothing that belonged to one.
#[tokio::test]
async fn what_is_ended_on_a_full_disk_leaves_nothing_there() {
    let Some(disk) = Disk::new() else { return };
    disk.fill();
    let lock = Lock::new("always-full").await;
    let scene = lock.scene(LOGS_ALL).env("TFWRAP_STATE_DIR", disk.path());
    let mut running = scene.start().ready();
    let child = running.scene.pid_in("ready");
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    let names = || -> Vec<_> {
        let files = fs::read_dir(&disk.dir).expect("a directory");
        files.map(|file| file.expect("an entry").file_name()).collect()
    };
    wait_until("its guardian's worker", || (names().len() > 1).then_some(()));
    kill_dead(child);
    wait_until("all is gone", || (names() == ["full"]).then_some(()));
    assert!(!lock.is_held().await);
}

/// The runner kills all but the child.
fn killed_but_for_its_child(disk: &Disk, running: &mut Running) -> Pid {
    let child = running.scene.pid_in("ready");
    let receipts = Receipt::all(&disk.dir);
    let guardian = receipts.iter().find_map(Receipt::guardian).expect("a guardian");
    running.signal(Signal::SIGSTOP);
    kill_dead(guardian);
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    child
}

fn recover(disk: &Disk, scene: &Scene, words: &[&str]) -> Command {
    let mut command = ours(scene, words);
    command.env("TFWRAP_STATE_DIR", &disk.dir).env("CI_JOB_ID", "7");
    command
}

fn all_commands() -> [Vec<String>; 2] {
    let program = fake_terraform().display().to_string();
    [vec!["apply".to_owned()], vec!["run".to_owned(), "--".to_owned(), program]]
}

/// The disk fills while the lock is waited for: what is known of the child by then is written all
/// the same.
#[tokio::test]
async fn a_disk_that_fills_before_the_child_starts_costs_it_neither_its_lock_nor_its_state() {
    for command in all_commands() {
        let Some(disk) = Disk::new() else { return };
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        let lock = Lock::new(&format!("full-{}", words[0])).await;
        let mut running = waiting(&disk, &lock, LOGS_ALL, &words).await;
        disk.fill();
        lock.remove().await;
        running.scene.wait_for("ready");
        assert!(!running.stderr().contains("receipt"), "{}", running.stderr());
        // Its one interrupt.
        running.signal(Signal::SIGTERM);
        running.scene.wait_for_log("SIGINT 1");
        wait_until("that it was sent", || {
            let receipt = Receipt::all(&disk.dir).pop()?;
            (receipt.text["interrupts"] == "sent").then_some(())
        });
        let child = killed_but_for_its_child(&disk, &mut running);
        // With the disk as it is, and without what fills it.
        for is_full in [true, false] {
            if !is_full {
                disk.empty();
            }
            let done = run(&mut recover(&disk, &running.scene, &["recover"])).expect_code(74);
            assert!(done.stderr.contains(&child.to_string()), "{words:?}: {}", done.stderr);
            assert!(lock.is_held().await && !is_gone(child), "{words:?}: {}", done.stderr);
        }
        let words_of = ["recover", "--wait", "2s"];
        run(&mut recover(&disk, &running.scene, &words_of)).expect_code(0);
        assert!(is_gone(child) && !lock.is_held().await, "{words:?}");
        assert_eq!(running.scene.count("SIGINT"), 1, "{words:?}: {:?}", running.scene.log());
    }
}

/// Where it can be neither written nor removed, nothing is started under it; where it can be
/// removed, nobody is misled by it.
#[tokio::test]
async fn a_receipt_that_cannot_be_put_right_is_removed_or_nothing_is_started() {
    let Some(mut disk) = Disk::new() else { return };
    let lock = Lock::new("read-only").await;
    let mut running = waiting(&disk, &lock, LOGS_ALL, &["apply"]).await;
    disk.turns("ro");
    lock.remove().await;
    assert_eq!(running.bare_code(), Some(78), "{}", running.stderr());
    let said = running.stderr();
    let path = Receipt::all(&disk.dir)[0].path.display().to_string();
    for words in ["nothing was started", &path, "TFWRAP_STATE_DIR"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!running.scene.path("ready").exists() && !lock.is_held().await, "{said}");
    disk.turns("rw");
    let settled = run(&mut recover(&disk, &running.scene, &["recover"])).expect_code(0);
    assert!(settled.stderr.contains("no longer held anything"), "{}", settled.stderr);

    let lock = Lock::new("withdrawn").await;
    let mut running = waiting(&disk, &lock, LOGS_ALL, &["apply"]).await;
    let receipt = Receipt::all(&disk.dir).remove(0);
    // It is not ours alone any more, and so not written over.
    fs::set_permissions(&receipt.path, fs::Permissions::from_mode(0o644)).expect("a mode");
    disk.fill();
    lock.remove().await;
    running.scene.wait_for("ready");
    let said = running.stderr();
    assert!(said.contains("cannot keep a receipt of this run"), "{said}");
    // There is room for it where it was, or a heartbeat after there is some.
    disk.empty();
    let receipt = wait_until("a receipt", || Receipt::all(&disk.dir).pop());
    assert!(!receipt.text["child"].is_null(), "{receipt:?}");
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.bare_code(), Some(5), "{}", running.stderr());
    assert!(!lock.is_held().await && Receipt::all(&disk.dir).is_empty());
}

/// Full from the beginning: a run goes on without a receipt, a hold does not.
#[tokio::test]
async fn on_a_full_disk_a_run_goes_on_and_a_hold_ends_with_nothing_locked() {
    let Some(disk) = Disk::new() else { return };
    disk.fill();
    for command in all_commands() {
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        let lock = Lock::new(&format!("no-room-{}", words[0])).await;
        let scene = lock.scene("exit 3").env("TFWRAP_STATE_DIR", disk.path()).command(&words);
        let mut running = scene.start();
        assert_eq!(running.bare_code(), Some(3), "{}", running.stderr());
        let said = running.stderr();
        assert!(said.contains("cannot keep a receipt of this run"), "{words:?}: {said}");
        assert!(said.contains("No space left"), "{words:?}: {said}");
        assert!(!lock.is_held().await, "{words:?}: {said}");
    }
    let lock = Lock::new("no-room-hold").await;
    let scene = lock.scene("").env("TFWRAP_STATE_DIR", disk.path()).command(&["hold"]);
    let _ends = EndsHolds(disk.dir.clone());
    let mut running = scene.start();
    assert_eq!(running.bare_code(), Some(78), "{}", running.stderr());
    let said = running.stderr();
    for words in ["a hold needs its receipt", "No space left", "TFWRAP_STATE_DIR"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!lock.is_held().await, "{said}");
    assert!(Receipt::all(&disk.dir).is_empty());
}

/// It fills under a hold: a command below it, which could leave no receipt, is refused; the hold
/// goes on, and can be given back.
#[tokio::test]
async fn on_a_disk_that_fills_later_a_hold_goes_on_and_lets_nobody_in() {
    let Some(disk) = Disk::new() else { return };
    let lock = Lock::new("full-hold").await;
    let scene = lock.scene(LOGS_ALL).env("TFWRAP_STATE_DIR", disk.path());
    let _ends = EndsHolds(disk.dir.clone());
    let mut holding = scene.command(&["hold", "--format", "json"]).start();
    assert_eq!(holding.bare_code(), Some(0), "{}", holding.stderr());
    disk.fill();
    let given = fs::read_to_string(holding.scene.path("stdout")).expect("its environment");
    let given: serde_json::Value = serde_json::from_str(&given).expect("JSON");
    let given = given["env"]["TFWRAP_HELD"].as_str().expect("a string");
    let id = lock.id().await;
    let refused = run(&mut below(&holding.scene, given)).expect_code(78);
    for words in ["cannot keep a receipt of this command", "if the disk is full, free space on it"]
    {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    assert!(!holding.scene.path("ready").exists(), "{}", refused.stderr);
    assert_eq!(lock.id().await, id);
    let mut release = recover(&disk, &holding.scene, &["release"]);
    run(release.env("TFWRAP_HELD", given)).expect_code(0);
    assert!(!lock.is_held().await);
}

/// A later command of the job that has this hold.
fn below(scene: &Scene, held: &str) -> Command {
    let words = scene.words();
    let ours = words.iter().position(|word| word.ends_with("/tfwrap")).expect("the program");
    let command_at = words.iter().position(|word| word == "hold").expect("the command");
    let mut command = Command::new(&words[0]);
    command.args(&words[1..ours]).arg(format!("TFWRAP_HELD={held}"));
    command.args(&words[ours..command_at]).arg("apply");
    command
}
