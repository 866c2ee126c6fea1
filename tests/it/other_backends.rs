//! Backends whose lock only Terraform can take: a queue and a lease by `--lock`, and Terraform's own
//! lock beside it.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::http_state::HttpStates;
use crate::support::harness::{
    Finished, Gate, Running, applying, eventually, fake_terraform, run, tfwrap,
};
use crate::support::servers::{local_backend_dir, terraform};

/// A directory whose state is on the server, and that is initialised; and the lock that is named.
struct Stage {
    states: HttpStates,
    dir: TempDir,
    lock: String,
}

const STATE: &str = "state";

fn stage() -> Stage {
    let states = HttpStates::start();
    let dir = local_backend_dir();
    fs::write(dir.path().join("backend.tf"), states.block(STATE, true)).unwrap();
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    fs::create_dir(dir.path().join("locks")).unwrap();
    let lock = format!("file://{}/locks/state", dir.path().display());
    Stage { states, dir, lock }
}

impl Stage {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn tfwrap(&self, options: &[&str]) -> Command {
        let mut command = tfwrap(self.path());
        command.args(["--lock", &self.lock]).args(options);
        command
    }

    fn stock(&self) -> Command {
        terraform(self.path())
    }

    /// Who has Terraform's own lock, by its operation.
    fn native(&self) -> Option<String> {
        Some(self.states.state(STATE).lock?["Operation"].as_str().unwrap().to_owned())
    }

    /// What the named lock is like, as `status` has it.
    fn named(&self) -> String {
        run(self.tfwrap(&["status"]).stdin(std::process::Stdio::null())).expect_code(0).stdout
    }

    /// Both are free, and nothing was ever written by somebody without the lock.
    #[track_caller]
    fn expect_free(&self) {
        assert_eq!(self.native(), None);
        assert!(self.named().contains("free"), "{}", self.named());
        assert_eq!(self.states.state(STATE).writes[1], 0);
    }
}

const PLAN: [&str; 2] = ["plan", "-no-color"];

#[test]
fn terraform_keeps_its_own_lock_and_whoever_names_one_waits_in_the_queue() {
    let stage = stage();
    let gate = Gate::new(stage.path(), "ours");
    let ours = Running::start(&mut applying(stage.tfwrap(&[]), &gate.command()));
    gate.reached();
    assert_eq!(stage.native().as_deref(), Some("OperationTypeApply"));
    assert!(stage.named().contains("held by"), "{}", stage.named());
    let theirs = Running::start(stage.tfwrap(&[]).args(PLAN));
    theirs.says("waiting for the lock");
    gate.open();
    ours.finish().expect_code(0);
    theirs.finish().expect_code(0);
    let seen = stage.states.state(STATE);
    assert_eq!(seen.got, ["OperationTypeApply", "OperationTypePlan"]);
    assert_eq!(seen.refused, 0, "who waits in the queue does not ask for the other lock");
    stage.expect_free();
}

/// The control: of those who name none, each asks for the lock again and again.
#[test]
fn without_a_named_lock_terraforms_wait_on_the_backends_alone() {
    let stage = stage();
    let gate = Gate::new(stage.path(), "theirs");
    let theirs = Running::start(&mut applying(stage.stock(), &gate.command()));
    gate.reached();
    let other = Running::start(stage.stock().args(PLAN).arg("-lock-timeout=1m"));
    eventually("it is refused", || stage.states.state(STATE).refused > 0);
    gate.open();
    theirs.finish().expect_code(0);
    other.finish().expect_code(0);
}

#[test]
fn a_stock_terraform_that_has_the_backends_lock_is_waited_for_as_long_as_the_wait_is() {
    let stage = stage();
    let gate = Gate::new(stage.path(), "stock");
    let theirs = Running::start(&mut applying(stage.stock(), &gate.command()));
    gate.reached();
    // Terraform says so in its own words, and the lock that was named is given back.
    let done = run(stage.tfwrap(&["--lock-timeout", "1s"]).args(PLAN)).expect_code(1);
    assert!(done.stderr.contains("Error acquiring the state lock"), "{}", done.stderr);
    assert!(done.stderr.contains("already locked"), "{}", done.stderr);
    assert!(stage.named().contains("free"), "{}", stage.named());
    let before = stage.states.state(STATE).refused;
    let ours = Running::start(stage.tfwrap(&["--lock-timeout", "1m"]).args(PLAN));
    eventually("it is refused", || stage.states.state(STATE).refused > before);
    gate.open();
    theirs.finish().expect_code(0);
    ours.finish().expect_code(0);
    stage.expect_free();
    // And the other way about.
    let gate = Gate::new(stage.path(), "ours");
    let ours = Running::start(&mut applying(stage.tfwrap(&[]), &gate.command()));
    gate.reached();
    let shut_out = run(stage.stock().args(PLAN)).expect_code(1);
    assert!(shut_out.stderr.contains("already locked"), "{}", shut_out.stderr);
    gate.open();
    ours.finish().expect_code(0);
    stage.expect_free();
}

/// What Terraform is called with, as a scripted one prints it.
fn called_with(done: &Finished) -> &str {
    done.stdout.split_once(" args=").expect("it says so").1
}

/// How long Terraform is told to wait, in milliseconds.
fn timeout_of(called: &str) -> u32 {
    let (_, timeout) = called.split_once("-lock-timeout=").expect("it is told");
    let (milliseconds, _) = timeout.split_once("ms").expect("milliseconds");
    milliseconds.parse().expect("a number")
}

#[test]
fn terraform_gets_what_is_left_of_the_wait() {
    let stage = stage();
    let fake = fake_terraform();
    let fake = ["--terraform", fake.to_str().unwrap()];
    let with_fake = |options: &[&str], words: &[&str]| {
        let mut command = stage.tfwrap(&[&fake, options].concat());
        command.args(words).env("FAKE_TERRAFORM_SCRIPT", "describe; exit 0");
        Running::start(&mut command)
    };
    let apply = ["apply", "-lock-timeout=9s", "-auto-approve"];
    let done = with_fake(&[], &apply).finish().expect_code(0);
    let called = called_with(&done);
    assert!(called.contains("-auto-approve") && !called.contains("-lock=false"), "{called}");
    assert!((1..=9000).contains(&timeout_of(called)), "{called}");
    // The wait for the named lock is a part of it.
    let gate = Gate::new(stage.path(), "first");
    let script = gate.command();
    let first = Running::start(stage.tfwrap(&["run", "--", "sh", "-c"]).arg(&script));
    gate.reached();
    let ours = with_fake(&["--lock-timeout", "50s"], &["workspace", "delete", "x"]);
    ours.says("waiting for the lock");
    crate::support::harness::pause(std::time::Duration::from_secs(2));
    gate.open();
    first.finish().expect_code(0);
    let done = ours.finish().expect_code(0);
    let called = called_with(&done);
    assert!((1..48_000).contains(&timeout_of(called)), "{called}");
}

#[test]
fn below_a_run_and_a_hold_the_named_lock_is_that_of_each_terraform() {
    let stage = stage();
    let between = Gate::new(stage.path(), "between");
    let text = format!(
        "set -e; terraform plan -no-color -out=p.bin; ( {} ); terraform apply -no-color p.bin",
        between.command()
    );
    let mut command = stage.tfwrap(&["run", "--", "sh", "-c"]);
    let ours = Running::start(command.arg(&text));
    between.reached();
    assert_eq!(stage.native(), None, "Terraform has its lock while it runs");
    // Whoever names it waits; stock Terraform, which does not, gets in.
    run(stage.tfwrap(&["--lock-timeout", "0s"]).args(PLAN)).expect_code(75);
    run(stage.stock().args(PLAN)).expect_code(0);
    between.open();
    let done = ours.finish().expect_code(0);
    assert!(!done.stderr.contains("waiting"), "{}", done.stderr);
    let plan = ["OperationTypePlan"; 2];
    assert_eq!(stage.states.state(STATE).got, [&plan[..], &["OperationTypeApply"]].concat());
    stage.expect_free();

    let text = format!(
        "set -e; eval \"$('{us}' --lock '{lock}' hold)\"; terraform plan -no-color; \
         terraform plan -no-color & terraform plan -no-color; wait $!; '{us}' release",
        us = env!("CARGO_BIN_EXE_tfwrap"),
        lock = stage.lock,
    );
    let mut shell = Command::new("sh");
    crate::support::servers::clean(&mut shell, stage.path());
    shell.env("TFWRAP_STATE_DIR", stage.path().join(".tfwrap-state"));
    let done = run(shell.args(["-c", &text])).expect_code(0);
    assert_eq!(stage.states.state(STATE).refused, 0, "side by side they take turns");
    assert!(done.stderr.contains("another command of this run"), "{}", done.stderr);
    stage.expect_free();
}

/// Two states of such backends, one of which is used by a provisioner of the other: the named lock is
/// not its, and nobody waits for what is above it.
#[test]
fn a_terraform_below_a_terraform_does_not_wait_for_what_is_above_it() {
    let stage = stage();
    let inner = local_backend_dir();
    fs::write(inner.path().join("backend.tf"), stage.states.block("inner", true)).unwrap();
    run(terraform(inner.path()).args(["init", "-no-color"])).expect_code(0);
    let work = format!("terraform -chdir={} plan -no-color", inner.path().display());
    let apply = format!("terraform apply -no-color -auto-approve -var 'command={work}'");
    let run_below = ["--lock-timeout", "5s", "run", "--", "sh", "-c"];
    let done = run(stage.tfwrap(&run_below).arg(apply)).expect_code(1);
    let all = done.stdout + &done.stderr;
    assert!(all.contains("no `--lock` names one") && !all.contains("waiting"), "{all}");
    stage.expect_free();
}

#[test]
fn a_killed_run_gives_back_both() {
    let stage = stage();
    let gate = Gate::new(stage.path(), "ours");
    let ours = Running::start(&mut applying(stage.tfwrap(&[]), &gate.command()));
    gate.reached();
    ours.signal(Signal::SIGKILL);
    eventually("both locks are free", || {
        stage.native().is_none() && stage.named().contains("free")
    });
    run(stage.stock().args(PLAN)).expect_code(0);
    stage.expect_free();
}

/// One that locks nothing is no exception: what is named is taken.
#[test]
fn an_http_backend_without_a_lock_has_the_one_that_is_named() {
    let stage = stage();
    fs::write(stage.path().join("backend.tf"), stage.states.block(STATE, false)).unwrap();
    run(terraform(stage.path()).args(["init", "-no-color", "-reconfigure"])).expect_code(0);
    let done = run(tfwrap(stage.path()).args(PLAN)).expect_code(78);
    assert!(done.stderr.contains("has no locking configured"), "{}", done.stderr);
    let gate = Gate::new(stage.path(), "ours");
    let ours = Running::start(&mut applying(stage.tfwrap(&[]), &gate.command()));
    gate.reached();
    run(stage.tfwrap(&["--lock-timeout", "0s"]).args(PLAN)).expect_code(75);
    gate.open();
    ours.finish().expect_code(0);
}

/// The line that is proposed can be pasted, for each backend there is.
#[test]
fn without_a_named_lock_it_is_78_with_the_line_to_paste() {
    for (kind, config, name) in [
        (
            "azurerm",
            r#"{"storage_account_name":"a","container_name":"c","key":"k"}"#,
            "azurerm-a-c-k",
        ),
        ("cloud", r#"{"organization":"o","workspaces":{"name":"w"}}"#, "cloud-o-w"),
        ("consul", r#"{"path":"p/q"}"#, "consul-p-q"),
        ("cos", r#"{"bucket":"b","prefix":"p","key":"k"}"#, "cos-b-p-k"),
        ("gcs", r#"{"bucket":"b","prefix":"p"}"#, "gcs-b-p"),
        ("http", r#"{"address":"http://u:hunter2@h/s","lock_address":"http://h/s"}"#, "http-h-s"),
        ("kubernetes", r#"{"secret_suffix":"s","namespace":"n"}"#, "kubernetes-n-s"),
        ("oss", r#"{"bucket":"b","key":"k","tablestore_table":"t"}"#, "oss-b-k"),
        ("pg", r#"{"conn_str":"postgres://u:hunter2@h/d"}"#, "pg"),
        ("remote", r#"{"organization":"o","workspaces":[{"name":"w"}]}"#, "remote-o-w"),
        ("inmem", "{}", "inmem"),
    ] {
        let dir = local_backend_dir();
        let record =
            format!(r#"{{"version":3,"backend":{{"type":"{kind}","config":{config},"hash":1}}}}"#);
        fs::create_dir(dir.path().join(".terraform")).unwrap();
        fs::write(dir.path().join(".terraform/terraform.tfstate"), record).unwrap();
        fs::create_dir(dir.path().join("SHARED-DIRECTORY")).unwrap();
        for words in [&["plan"][..], &["hold"], &["status"]] {
            let done = run(tfwrap(dir.path()).args(words)).expect_code(78);
            assert!(done.stderr.contains(&format!("`{kind}`")), "{}", done.stderr);
            assert!(done.stderr.contains(&format!("/{name}.tflock")), "{}", done.stderr);
            assert!(!done.stderr.contains("hunter2"), "{}", done.stderr);
        }
        let fake = fake_terraform();
        let mut command = tfwrap(dir.path());
        command.env("FAKE_TERRAFORM_SCRIPT", "describe; exit 0").arg("--terraform").arg(&fake);
        let refused = run(command.arg("plan")).expect_code(78);
        let line = refused.stderr.lines().find(|line| line.contains("file:///")).unwrap();
        let line = line.trim_start_matches("tfwrap:").trim();
        let line = line.replace("file://", &format!("file://{}", dir.path().display()));
        fs::write(dir.path().join(".tfwrap.yaml"), line).unwrap();
        let done = run(&mut command).expect_code(0);
        assert!(called_with(&done).contains("-lock-timeout="), "{kind}: {}", done.stdout);
        assert!(!called_with(&done).contains("-lock=false"), "{kind}: {}", done.stdout);
    }
}
