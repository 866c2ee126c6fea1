//! What lives on of a run whose tfwrap, guardian and Terraform are all dead: what a provisioner has
//! started.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::aftermath::{Receipt, STATE_DIR, kill_dead};
use crate::support::harness::{Gate, Running, applying, eventually, run, tfwrap};
use crate::support::servers::{local_backend_dir, terraform};
use crate::wrapped::{is_gone, wait_until};

const JOB: (&str, &str) = ("CI_JOB_ID", "7");

/// Ends its group with the test: the number stays its own while a member lives.
struct Left {
    dir: tempfile::TempDir,
    terraform: Pid,
    /// The provisioner's last process.
    sleep: Pid,
}

impl Drop for Left {
    fn drop(&mut self) {
        if !is_gone(self.sleep) {
            let _gone_meanwhile = kill(self.sleep, Signal::SIGKILL);
        }
    }
}

/// Real Terraform, killed with all of tfwrap.
fn left() -> Left {
    let dir = local_backend_dir();
    let file = |name: &str| File::create(dir.path().join(name)).expect("a file");
    let mut command = applying(tfwrap(dir.path()), "echo $$ > pid; exec sleep 900");
    command.env(JOB.0, JOB.1).stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
    let mut running = command.process_group(0).spawn().expect("it starts");
    let sleep = wait_until("the provisioner", || {
        let pid = std::fs::read_to_string(dir.path().join("pid")).ok()?;
        pid.strip_suffix('\n')?.parse().ok().map(Pid::from_raw)
    });
    let comm = || std::fs::read_to_string(format!("/proc/{sleep}/comm")).unwrap_or_default();
    eventually("what it executes", || comm() == "sleep\n");
    let receipt = Receipt::all(&dir.path().join(STATE_DIR)).remove(0);
    let terraform = receipt.child().expect("Terraform");
    kill(receipt.runner(), Signal::SIGSTOP).expect("it is there");
    kill_dead(receipt.guardian().expect("a guardian"));
    kill_dead(terraform);
    running.kill().expect("it is there");
    running.wait().expect("it has ended");
    Left { dir, terraform, sleep }
}

fn recover(left: &Left, words: &[&str]) -> Command {
    let mut command = tfwrap(left.dir.path());
    command.arg("recover").args(words);
    command
}

#[test]
fn what_lives_on_of_the_dead_is_named_and_ended_by_its_own_job_or_by_hand() {
    for in_job in [false, true] {
        let left = left();
        // `--wait` is for the job's own.
        for words in [&[][..], &["--wait", "1s"]] {
            let done = run(&mut recover(&left, words)).expect_code(74);
            let said = done.stderr;
            for words in
                [format!("process {} (`sleep`)", left.sleep), format!("`kill {}`", left.sleep)]
            {
                assert!(said.contains(&words), "{words} in {said}");
            }
            let dead = left.terraform.to_string();
            let is_named = |word: &str| word.trim_matches(|c: char| !c.is_ascii_digit()) == dead;
            assert!(!said.split_whitespace().any(is_named), "{dead} is dead: {said}");
            assert!(!is_gone(left.sleep));
        }
        if in_job {
            let job = |words: &[&str]| run(recover(&left, words).env(JOB.0, JOB.1));
            let said = job(&[]).expect_code(74).stderr;
            assert!(said.contains(&format!("process {} (`sleep`)", left.sleep)), "{said}");
            let said = job(&["--wait", "60s"]).expect_code(0).stderr;
            assert!(said.contains(&format!("process {} (`sleep`)", left.sleep)), "{said}");
            assert!(is_gone(left.sleep), "{said}");
        } else {
            kill(left.sleep, Signal::SIGTERM).expect("it is there");
            wait_until("its end", || is_gone(left.sleep).then_some(()));
            run(&mut recover(&left, &[])).expect_code(0);
        }
        assert_eq!(Receipt::all(&left.dir.path().join(STATE_DIR)).len(), 0);
        run(terraform(left.dir.path()).args(["plan", "-no-color"])).expect_code(0);
    }
}

/// A daemon that a provisioner has started in a session of its own has the descriptor of the lock, as
/// Terraform had. With the tfwrap and its guardian dead, nobody can end the lock but the daemon.
#[test]
fn a_daemon_that_has_inherited_the_lock_is_named_and_the_receipt_stays() {
    // Terraform ends by itself, or `recover` ends it.
    for ends in [true, false] {
        let dir = local_backend_dir();
        let gate = Gate::new(dir.path(), "ours");
        let daemon = "setsid sleep 900 < /dev/null > /dev/null 2>&1 & echo $! > pid";
        let script = format!("{daemon}; {}", gate.command());
        let mut command = applying(tfwrap(dir.path()), &script);
        let running = Running::start(command.env(JOB.0, JOB.1));
        gate.reached();
        let pid = std::fs::read_to_string(dir.path().join("pid")).expect("its number");
        let sleep = Pid::from_raw(pid.trim().parse().expect("a number"));
        let receipt = Receipt::all(&dir.path().join(STATE_DIR)).remove(0);
        let child = receipt.child().expect("Terraform");
        kill(receipt.runner(), Signal::SIGSTOP).expect("it is there");
        kill_dead(receipt.guardian().expect("a guardian"));
        running.signal(Signal::SIGKILL);
        let left = Left { dir, terraform: child, sleep };
        if ends {
            gate.open();
            wait_until("Terraform's end", || is_gone(left.terraform).then_some(()));
        } else {
            wait_until("tfwrap's end", || is_gone(receipt.runner()).then_some(()));
        }

        let help = format!("to release it, end process {sleep} (`sleep`): `kill {sleep}`");
        let says = |command: &mut Command, code: i32| {
            let said = run(command.env(JOB.0, JOB.1)).expect_code(code).stderr;
            assert!(said.contains(&help), "{ends}: {said}");
        };
        says(&mut recover(&left, &["--wait", "5s"]), 74);
        assert!(is_gone(left.terraform));
        says(tfwrap(left.dir.path()).arg("status"), 0);
        says(tfwrap(left.dir.path()).args(["--lock-timeout=0", "plan"]), 75);
        says(&mut recover(&left, &[]), 74);
        assert_eq!(Receipt::all(&left.dir.path().join(STATE_DIR)).len(), 1);

        kill(sleep, Signal::SIGTERM).expect("it is there");
        wait_until("its end", || is_gone(sleep).then_some(()));
        run(&mut recover(&left, &[])).expect_code(0);
        assert_eq!(Receipt::all(&left.dir.path().join(STATE_DIR)).len(), 0);
        run(terraform(left.dir.path()).args(["plan", "-no-color"])).expect_code(0);
    }
}
