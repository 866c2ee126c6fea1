//! What `run` and further locks hold where not all can be known, or one lock has several names.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::harness::{Finished, Gate, Running, applying, run, s3_dir, tfwrap};
use crate::support::servers::{BUCKET, dynamodb, local_backend_dir, s3_backend_dir, terraform};

fn below_run(dir: &Path, words: &[&str]) -> Command {
    let mut command = tfwrap(dir);
    command.args(["run", "--"]).args(words);
    command
}

const NOT_HELD: &str = "each Terraform inside locks for itself";

#[tokio::test]
async fn a_script_may_complete_a_partial_backend() {
    let (table, key) = ("partial", "around/partial/terraform.tfstate");
    dynamodb().create_lock_table(table).await;
    let dir = s3_backend_dir(key, table);
    let file = dir.path().join("backend.tf");
    let text = fs::read_to_string(&file).unwrap();
    let line = text.lines().find(|line| line.trim_start().starts_with("key ")).unwrap();
    fs::write(&file, text.replace(line, "")).unwrap();
    let gate = Gate::new(dir.path(), "ours");
    let script = format!(
        "terraform init -no-color -backend-config='key={key}' && \
         terraform apply -no-color -auto-approve -var 'command={}'",
        gate.command()
    );
    let ours = Running::start(&mut below_run(dir.path(), &["sh", "-c", &script]));
    gate.reached();
    let shut_out = run(terraform(dir.path()).args(["plan", "-no-color"])).expect_code(1);
    assert!(shut_out.stderr.contains("OperationTypeApply"), "{}", shut_out.stderr);
    gate.open();
    let done = ours.finish().expect_code(0);
    assert!(done.stderr.contains(NOT_HELD) && done.stderr.contains("`key`"), "{}", done.stderr);
    let lock = format!("{BUCKET}/{key}");
    assert_eq!(dynamodb().get_raw(table, &lock).await, None);
    // The control: now it is known, and held around the whole script.
    let done = run(&mut below_run(dir.path(), &["sh", "-c", &script])).expect_code(0);
    assert!(!done.stderr.contains(NOT_HELD), "{}", done.stderr);
    // A `hold` is for its lock and nothing else.
    fs::remove_dir_all(dir.path().join(".terraform")).unwrap();
    run(tfwrap(dir.path()).arg("hold")).expect_code(78);
}

#[test]
fn what_needs_no_lock_runs_below_a_run_whatever_the_backend() {
    let dir = local_backend_dir();
    let file = dir.path().join("cloud.tf");
    fs::write(&file, "terraform {\n  cloud {\n    organization = \"x\"\n  }\n}\n").unwrap();
    let done = run(&mut below_run(dir.path(), &["terraform", "fmt"])).expect_code(0);
    assert!(done.stderr.contains("`cloud`") && done.stderr.contains(NOT_HELD), "{}", done.stderr);
    // What is named is held.
    let lock = format!("file://{}/locks/x", dir.path().display());
    let mut command = tfwrap(dir.path());
    command.args(["--lock", &lock, "run", "--", "sh", "-c", "test -e locks/x"]);
    run(&mut command).expect_code(0);
    // What needs one refuses by itself.
    run(&mut below_run(dir.path(), &["terraform", "plan"])).expect_code(78);
    fs::remove_file(&file).unwrap();

    let mut command = below_run(dir.path(), &["terraform", "version"]);
    let done = run(command.env("TF_WORKSPACE", "not valid")).expect_code(0);
    assert!(done.stderr.contains("`not valid`"), "{}", done.stderr);
}

fn with_locks(dir: &Path, locks: &[&str]) -> Finished {
    let mut command = tfwrap(dir);
    command.args(["--lock-timeout", "1s", "--no-backend-lock"]);
    command.args(locks.iter().flat_map(|lock| ["--lock", lock]));
    run(&mut applying(command, "touch applied"))
}

#[test]
fn a_file_lock_is_one_whatever_it_is_called() {
    let dir = local_backend_dir();
    let here = dir.path().canonicalize().unwrap();
    fs::create_dir(here.join("real")).unwrap();
    std::os::unix::fs::symlink(here.join("real"), here.join("link")).unwrap();
    let url = |path: &str| format!("file://{}/{path}", here.display());
    for other in ["/real/x", "link/x", "./real/x", "real/../real/x", "link/../real/x"] {
        let done = with_locks(dir.path(), &[&url("real/x"), &url(other)]).expect_code(64);
        assert!(done.stderr.contains("is given twice"), "{other}: {}", done.stderr);
    }
    for other in ["real/y", "x", "link2/x"] {
        with_locks(dir.path(), &[&url("real/x"), &url(other)]).expect_code(0);
    }
}

/// The table of the tests is one in all regions: only a look in the register tells.
#[tokio::test]
async fn a_lock_of_another_region_is_another_one_and_the_same_one_is_not_waited_for() {
    let dir = s3_dir("around/regions").await;
    let url = |table: &str, region: &str| {
        format!("dynamodb://{table}/further?region={region}&endpoint={}", dynamodb().url)
    };
    let both = |one: &str, two: &str| {
        with_locks(dir.path(), &[&url(&dir.table, one), &url(&dir.table, two)])
    };
    let done = both("eu-west-1", "us-east-1").expect_code(0);
    assert!(dir.path().join("applied").exists(), "{}", done.stderr);
    assert_eq!(dynamodb().get_raw(&dir.table, "further").await, None);
    let done = both("eu-west-1", "eu-west-1").expect_code(64);
    assert!(done.stderr.contains("is given twice"), "{}", done.stderr);
}
