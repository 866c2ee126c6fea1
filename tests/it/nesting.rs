//! `run`: safe by construction. Every Terraform below it is locked, once, by whoever should.

use std::fs;
use std::path::Path;

use crate::support::harness::{Gate, Running, applying, run, s3_dir, tfwrap};
use crate::support::servers::{local_backend_dir, terraform};

/// `tfwrap run -- sh -c SCRIPT`
fn script(dir: &Path, script: &str) -> std::process::Command {
    let mut command = tfwrap(dir);
    command.args(["run", "--", "sh", "-ec", script]);
    command
}

#[tokio::test]
async fn terraform_inside_a_run_does_not_wait_for_the_lock_around_it() {
    let (remote, local) = (s3_dir("nesting/inside").await, local_backend_dir());
    for dir in [remote.path(), local.path()] {
        let one = "terraform plan -out=p.bin -no-color; terraform apply -no-color p.bin; \
                   terraform output; tfwrap_state=$(terraform state pull); terraform version";
        let done = run(&mut script(dir, one)).expect_code(0);
        assert!(!done.stderr.contains("waiting"), "{}", done.stderr);
        run(terraform(dir).args(["plan", "-no-color"])).expect_code(0);
    }
}

#[tokio::test]
async fn a_run_shuts_stock_terraform_out_all_along() {
    let dir = s3_dir("nesting/along").await;
    let gate = Gate::new(dir.path(), "between");
    let text =
        format!("terraform plan -no-color; ( {} ); terraform plan -no-color", gate.command());
    let ours = Running::start(&mut script(dir.path(), &text));
    gate.reached();
    let stock = run(terraform(dir.path()).args(["plan", "-no-color"])).expect_code(1);
    assert!(stock.stderr.contains("Operation: run"), "{}", stock.stderr);
    gate.open();
    ours.finish().expect_code(0);
    run(terraform(dir.path()).args(["plan", "-no-color"])).expect_code(0);
}

/// A stranger holds the lock of `other`; a run in `here` that applies in `other` is shut out,
/// however it gets there. The negative control: with `-lock=false` it gets in.
fn is_shut_out(here: &Path, other: &Path, ways: &[String]) {
    let theirs = Gate::new(other, "theirs");
    let stock = Running::start(&mut applying(terraform(other), &theirs.command()));
    theirs.reached();
    for way in ways {
        let mut command = script(here, way);
        let done = run(command.env("TFWRAP_LOCK_TIMEOUT", "0s"));
        assert_ne!(done.status.code(), Some(0), "{way}: {}", done.stdout);
        assert!(!other.join("in").exists(), "{way}: an unlocked write");
    }
    let control = format!(
        "cd {}; terraform apply -lock=false -auto-approve -var 'command=touch in'",
        other.display()
    );
    run(&mut script(here, &control));
    assert!(other.join("in").exists(), "the control must get in, or the test proves nothing");
    theirs.open();
    stock.finish();
}

/// By whatever name the state is called: it is one file, and so one lock.
#[test]
fn a_link_to_the_state_is_held_by_the_lock_around_it() {
    for link in ["ln -s", "ln"] {
        let dir = local_backend_dir();
        let text = format!(
            "terraform apply -no-color -auto-approve; {link} terraform.tfstate linked.tfstate; \
             terraform plan -no-color -lock-timeout=5s -state=linked.tfstate; \
             cp terraform.tfstate copied.tfstate; \
             terraform plan -no-color -lock-timeout=5s -state=copied.tfstate"
        );
        let done = run(&mut script(dir.path(), &text)).expect_code(0);
        assert!(!done.stderr.contains("waiting"), "{link}: {}", done.stderr);
        // The control: outside of it, that lock is somebody else's by either name.
        let gate = Gate::new(dir.path(), "outside");
        let ours = Running::start(&mut script(dir.path(), &gate.command()));
        gate.reached();
        for name in ["terraform.tfstate", "linked.tfstate"] {
            let mut other = tfwrap(dir.path());
            other.args(["--lock-timeout=0s", "plan", "-no-color", &format!("-state={name}")]);
            run(&mut other).expect_code(75);
        }
        gate.open();
        ours.finish().expect_code(0);
    }
}

#[tokio::test]
async fn another_state_below_a_run_takes_its_own_lock() {
    let (here, other) = (s3_dir("nesting/here").await, s3_dir("nesting/other").await);
    let dir = other.path().display();
    let apply = "apply -no-color -auto-approve -var 'command=touch in'";
    let absolute = run(std::process::Command::new("sh").args(["-c", "command -v terraform"]));
    let absolute = absolute.stdout.trim().to_owned();
    fs::write(here.path().join("Makefile"), format!("all:\n\tcd {dir} && terraform {apply}\n"))
        .unwrap();
    let ways = [
        format!("cd {dir}; terraform {apply}"),
        format!("terraform -chdir={dir} {apply}"),
        "make".to_owned(),
        format!("{absolute} -chdir={dir} {apply}"),
        format!("cd {dir}; {absolute} {apply}"),
        format!("cd {dir}; tfwrap=$0; {} {apply}", env!("CARGO_BIN_EXE_tfwrap")),
    ];
    is_shut_out(here.path(), other.path(), &ways);
}

#[tokio::test]
async fn a_stale_data_directory_below_a_run_takes_the_lock_it_names() {
    let (here, other) = (s3_dir("nesting/stale-here").await, s3_dir("nesting/stale-other").await);
    // The same directory, another state: what `init` recorded counts, not where one stands.
    let text = format!(
        "export TF_DATA_DIR={}/.terraform; cp {}/backend.tf backend.tf; \
         terraform apply -no-color -auto-approve -var 'command=touch {}/in'",
        other.path().display(),
        other.path().display(),
        other.path().display()
    );
    is_shut_out(here.path(), other.path(), &[text]);
}

#[tokio::test]
async fn a_terraform_called_by_its_path_fails_on_our_lock_and_gets_a_hint() {
    let dir = s3_dir("nesting/path").await;
    let absolute =
        run(std::process::Command::new("sh").args(["-c", "command -v terraform"])).stdout;
    let text = format!("{} plan -no-color", absolute.trim());
    let done = run(&mut script(dir.path(), &text)).expect_code(1);
    assert!(done.stderr.contains("Error acquiring the state lock"), "{}", done.stderr);
    assert!(done.stderr.contains("call it as `terraform`"), "{}", done.stderr);
}

#[tokio::test]
async fn after_a_force_unlock_below_a_run_terraform_locks_for_itself_again() {
    let dir = s3_dir("nesting/lost").await;
    let gate = Gate::new(dir.path(), "cut");
    let text = format!("( {} ); terraform apply -no-color -auto-approve", gate.command());
    let mut command = script(dir.path(), &text);
    let ours = Running::start(command.env("TFWRAP_LOCK_TIMEOUT", "0s"));
    gate.reached();
    let stock = run(terraform(dir.path()).args(["plan", "-no-color"])).expect_code(1).stderr;
    let id = stock.lines().find_map(|line| line.trim().strip_prefix("ID:")).unwrap().trim();
    run(terraform(dir.path()).args(["force-unlock", "-force", id])).expect_code(0);
    let theirs = Gate::new(dir.path(), "theirs");
    let stock = Running::start(&mut applying(terraform(dir.path()), &theirs.command()));
    theirs.reached();
    gate.open();
    let done = ours.finish();
    assert!(done.stderr.contains("not acquired"), "{}", done.stderr);
    assert_ne!(done.status.code(), Some(0));
    theirs.open();
    stock.finish().expect_code(0);
}

#[test]
fn wraps_may_nest() {
    let dir = local_backend_dir();
    let tfwrap_path = env!("CARGO_BIN_EXE_tfwrap");
    let text = format!(
        "{tfwrap_path} apply -no-color -auto-approve; {tfwrap_path} run -- {tfwrap_path} plan -no-color"
    );
    let done = run(&mut script(dir.path(), &text)).expect_code(0);
    assert!(!done.stderr.contains("waiting"), "{}", done.stderr);
}

#[test]
fn a_terraform_started_by_a_provisioner_is_not_let_into_the_same_state() {
    let dir = local_backend_dir();
    // However long it may wait: it is waited for itself.
    let inner = format!("{} --lock-timeout=10m plan -no-color", env!("CARGO_BIN_EXE_tfwrap"));
    for outer in ["apply", "run"] {
        let mut command = tfwrap(dir.path());
        if outer == "run" {
            command.args(["run", "--", "terraform"]);
        }
        let done = run(&mut applying(command, &inner));
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains("cannot become free before this command"), "{outer}: {said}");
        assert!(said.contains("`terraform` alone fails there, too"), "{outer}: {said}");
        assert_ne!(done.status.code(), Some(0), "{outer}");
    }
}

/// A command that was not told of the lock around it waits for what waits for it.
#[test]
fn whoever_was_not_told_of_the_lock_around_it_does_not_wait_for_that() {
    let dir = local_backend_dir();
    for (command, says) in [("plan", "`TFWRAP_HELD`"), ("wait", "before this command has ended")] {
        let mut outer = tfwrap(dir.path());
        outer.args(["--lock-timeout=10m", "run", "--", "env", "-u", "TFWRAP_HELD"]);
        let done = run(outer.args([env!("CARGO_BIN_EXE_tfwrap"), command])).expect_code(75);
        assert!(done.stderr.contains(says), "{command}: {}", done.stderr);
    }
}

#[test]
fn called_as_terraform_everything_is_terraforms() {
    let dir = local_backend_dir();
    let bin = tempfile::tempdir().unwrap();
    let link = bin.path().join("terraform");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tfwrap"), &link).unwrap();
    let theirs = Gate::new(dir.path(), "theirs");
    let stock = Running::start(&mut applying(terraform(dir.path()), &theirs.command()));
    theirs.reached();
    let called = |args: &[&str]| {
        let mut command = std::process::Command::new(&link);
        crate::support::servers::clean(&mut command, dir.path());
        run(command.args(args).env("TFWRAP_LOCK_TIMEOUT", "0s"))
    };
    called(&["plan"]).expect_code(75);
    let version = called(&["--version"]).expect_code(0);
    assert!(version.stdout.contains("Terraform v"), "{}", version.stdout);
    let unknown = called(&["--lock-timeout", "5m", "plan"]);
    assert!(unknown.stderr.contains("no command named"), "{}{}", unknown.stdout, unknown.stderr);
    theirs.open();
    stock.finish().expect_code(0);
}

#[test]
fn what_is_typed_for_a_run_holds_below_it() {
    let dir = local_backend_dir();
    let typed = [
        ("--lease", "TFWRAP_LEASE", "20s"),
        ("--on-lock-lost", "TFWRAP_ON_LOCK_LOST", "warn"),
        ("--second-signal", "TFWRAP_SECOND_SIGNAL", "hold"),
        ("--grace", "TFWRAP_GRACE", "5s"),
        ("--lock-timeout", "TFWRAP_LOCK_TIMEOUT", "7s"),
    ];
    let mut command = tfwrap(dir.path());
    command.args(typed.iter().flat_map(|(option, _, value)| [*option, *value]));
    let found = run(command.args(["run", "--", "env"])).expect_code(0).stdout;
    for (_, name, value) in typed {
        assert!(found.lines().any(|line| line == format!("{name}={value}")), "{name}: {found}");
    }
}
