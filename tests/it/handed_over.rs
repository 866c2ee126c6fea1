//! Commands that are handed over although they lock: they wait as ours do, or it is said why not.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::one_stop::has;
use crate::support::harness::{self, Gate, Running, applying, pause, run, s3_dir, tfwrap};
use crate::support::servers::{clean, local_backend_dir, terraform};
use crate::wrapped::wrapper;

/// Variable, its value, arguments.
type Call = (&'static str, &'static str, &'static [&'static str]);

const MOVES: Call = (
    "IRRELEVANT",
    "",
    &["state", "mv", "-state-out=other.tfstate", "terraform_data.work", "terraform_data.there"],
);
const PLAN_IN_VARIABLE: Call = ("TF_CLI_ARGS_apply", "p.bin", &["apply", "-no-color"]);
const NEWLINE: Call = ("TF_CLI_ARGS_plan", r"-var=command=a\nb", &["plan", "-no-color"]);
const OPERATOR: Call = ("TF_CLI_ARGS", "-var=command=a|b", &["plan", "-no-color"]);

fn calling(mut command: Command, (name, value, args): Call) -> Command {
    command.env(name, value).args(args);
    command
}

/// A directory with a state and a saved plan for it.
fn with_plan() -> tempfile::TempDir {
    let dir = local_backend_dir();
    run(&mut applying(terraform(dir.path()), "true")).expect_code(0);
    run(terraform(dir.path()).args(["plan", "-out=p.bin"])).expect_code(0);
    dir
}

/// It waits for whoever has the lock, and then works; stock Terraform fails at once.
fn waits(dir: &Path, holder: &mut Command, gate: &Gate, call: Call) {
    let holder = Running::start(holder);
    gate.reached();
    let stock = run(&mut calling(terraform(dir), call)).expect_code(1);
    let said = format!("{}{}", stock.stdout, stock.stderr);
    assert!(said.contains("acquiring the state lock") || said.contains("lock"), "{said}");
    let ours = Running::start(&mut calling(tfwrap(dir), call));
    pause(Duration::from_secs(2));
    assert!(!ours.is_over(), "{call:?}: {}{}", ours.stdout(), ours.stderr());
    gate.open();
    holder.finish().expect_code(0);
    ours.finish().expect_code(0);
}

#[test]
fn what_can_wait_waits_as_long_as_we_would() {
    for call in [MOVES, PLAN_IN_VARIABLE, NEWLINE, OPERATOR] {
        let dir = with_plan();
        let gate = Gate::new(dir.path(), "holder");
        let mut holder = tfwrap(dir.path());
        holder.args(["run", "--", "sh", "-c", &format!("( {} )", gate.command())]);
        waits(dir.path(), &mut holder, &gate, call);
    }
}

#[tokio::test]
async fn a_state_that_is_moved_to_another_backend_is_waited_for() {
    let dir = s3_dir("handed-over/migrate").await;
    run(&mut applying(terraform(dir.path()), "true")).expect_code(0);
    let gate = Gate::new(dir.path(), "holder");
    let mut holder = tfwrap(dir.path());
    holder.args(["run", "--", "sh", "-c", &format!("( {} )", gate.command())]);
    let holder = Running::start(&mut holder);
    gate.reached();
    let file = dir.path().join("backend.tf");
    let text = fs::read_to_string(&file).unwrap().replace("/migrate/", "/migrated/");
    fs::write(&file, text).unwrap();
    let call: Call = ("IRRELEVANT", "", &["init", "-migrate-state", "-force-copy", "-no-color"]);
    run(&mut calling(terraform(dir.path()), call)).expect_code(1);
    let ours = Running::start(&mut calling(tfwrap(dir.path()), call));
    pause(Duration::from_secs(2));
    assert!(!ours.is_over(), "{}{}", ours.stdout(), ours.stderr());
    gate.open();
    holder.finish().expect_code(0);
    ours.finish().expect_code(0);
}

#[test]
fn what_the_user_says_about_the_wait_counts() {
    let dir = with_plan();
    let gate = Gate::new(dir.path(), "holder");
    let mut holder = tfwrap(dir.path());
    holder.args(["run", "--", "sh", "-c", &format!("( {} )", gate.command())]);
    let holder = Running::start(&mut holder);
    gate.reached();
    for (name, value, args) in [
        ("TF_CLI_ARGS_plan", r"-lock-timeout=0s -var=command=a\nb", &["plan"][..]),
        ("TF_CLI_ARGS_plan", r"-var=command=a\nb", &["plan", "-lock-timeout=0s"]),
        ("X", "", &["state", "mv", "-lock-timeout=0s", "-state-out=o", "a", "b"]),
    ] {
        run(tfwrap(dir.path()).env(name, value).args(args)).expect_code(1);
    }
    gate.open();
    holder.finish().expect_code(0);
}

#[test]
fn what_cannot_wait_says_so() {
    let dir = local_backend_dir();
    let said = "`console` takes the lock itself and cannot be told to wait";
    let done = run(tfwrap(dir.path()).arg("console"));
    assert!(done.stderr.contains(said), "{}", done.stderr);
    // What locks nothing says nothing.
    for args in [&["console", "-help"][..], &["init", "-no-color"], &["workspace", "new", "w"]] {
        let done = run(tfwrap(dir.path()).args(args));
        assert!(!done.stderr.contains("tfwrap: "), "{args:?}: {}", done.stderr);
    }
}

/// From 1.15 on Terraform's takes no lock; from 1.12 on OpenTofu's has the flags of other commands.
#[test]
fn a_console_is_locked_as_its_release_has_it() {
    const PLAIN: &str = "console 1\n";
    const LOCKED: &str = "console -lock=false 1\n";
    let dir = local_backend_dir();
    for (name, release, called, waits, below) in [
        ("terraform", "Terraform v1.14.9", PLAIN, false, "run it outside of them"),
        ("terraform", "Terraform v1.15.0", PLAIN, true, ""),
        ("tofu", "OpenTofu v1.11.5", PLAIN, false, "run it outside of them"),
        ("tofu", "OpenTofu v1.12.0", LOCKED, true, ""),
    ] {
        let program = dir.path().join(release).join(name);
        let text = format!("#!/bin/sh\ntest \"$1\" = version && echo '{release}' || echo \"$@\"\n");
        harness::program(&program, &text);
        let ours = || {
            let mut command = tfwrap(dir.path());
            command.args(["--lock-timeout=9s", "--terraform"]).arg(&program);
            command
        };
        let done = run(ours().args(["console", "1"])).expect_code(0);
        assert_eq!(done.stdout, called, "{release}");
        let warns = done.stderr.contains("cannot be told to wait");
        assert_eq!(warns, !waits, "{release}: {}", done.stderr);
        let done = run(ours().args(["run", "--", "terraform", "console", "1"])).expect_code(0);
        assert_eq!(done.stdout, called, "{release}");
        assert_eq!(
            below.is_empty(),
            !done.stderr.contains("console"),
            "{release}: {}",
            done.stderr
        );
        assert!(done.stderr.contains(below), "{release}: {}", done.stderr);
    }
}

#[test]
fn below_a_run_what_meets_its_lock_says_so_and_how_to_avoid_it() {
    let dir = with_plan();
    let console: Call = ("X", "", &["console"]);
    for (call, way_out) in [
        (console, "run it outside of them"),
        (MOVES, "or add `-lock=false`"),
        (PLAN_IN_VARIABLE, "on its command line"),
        (NEWLINE, "on its command line"),
        (OPERATOR, "on its command line"),
    ] {
        let (name, value, args) = call;
        let mut command = tfwrap(dir.path());
        command.args(["run", "--", "env", &format!("{name}={value}"), "terraform"]).args(args);
        let done = run(&mut command).expect_code(1);
        let said = "takes the lock itself";
        assert!(done.stderr.contains(said), "{call:?}: {}", done.stderr);
        assert!(
            done.stderr.contains("a `run` or `hold` around it holds `local://"),
            "{}",
            done.stderr
        );
        assert!(done.stderr.contains(way_out), "{call:?}: {}", done.stderr);
    }
    // The ways out.
    let script = "terraform init -no-color && \
                  terraform state mv -lock=false -state-out=o.tfstate terraform_data.work \
                  terraform_data.there && terraform plan -no-color";
    let done = run(tfwrap(dir.path()).args(["run", "--", "sh", "-c", script])).expect_code(0);
    assert!(!done.stderr.contains("takes the lock itself"), "{}", done.stderr);
}

/// A shell removes them, other programs need not.
#[test]
fn of_a_variable_that_is_there_twice_the_first_counts_as_in_terraform() {
    if !has("python3") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let execve = "import ctypes, os, sys
words = [word.encode() for word in sys.argv[1:]]
env = [b'TF_WORKSPACE=first', b'TF_WORKSPACE=second']
env += [f'{name}={value}'.encode() for name, value in os.environ.items()]
array = lambda of: (ctypes.c_char_p * (len(of) + 1))(*of, None)
ctypes.CDLL(None).execve(words[0], array(words), array(env))";
    let tfwrap = wrapper().display().to_string();
    let handed_over = [&tfwrap, "workspace", "show"];
    let below = [&tfwrap, "run", "--", "printenv", "TF_WORKSPACE"];
    for words in [&handed_over[..], &below] {
        let mut command = Command::new("python3");
        clean(&mut command, dir.path());
        let done = run(command.args(["-c", execve]).args(words)).expect_code(0);
        assert_eq!(done.stdout, "first\n", "{words:?}");
    }
}
