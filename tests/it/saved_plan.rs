//! `apply` of a saved plan: the plan says which state, whatever the directory says now. And the
//! other ways to say where and how: `-chdir`, `TF_DATA_DIR`, `TF_CLI_ARGS`.

use std::fs;
use std::path::Path;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::faults::Stage;
use crate::support::harness::{Finished, Gate, Running, applying, eventually, run, tfwrap};
use crate::support::servers::{BUCKET, dynamodb, s3, terraform};

fn stock(dir: &Path, args: &[&str]) -> Finished {
    run(terraform(dir).args(args).arg("-no-color")).expect_code(0)
}

fn plan(stage: &Stage, command: &str) {
    let var = format!("command={command}");
    stock(stage.path(), &["plan", "-out=p.bin", "-var", &var]);
}

/// Moves the directory's backend to another key.
fn reinitialise(stage: &Stage, key: &str) {
    stage.edit_backend(&stage.key, key);
    stock(stage.path(), &["init", "-reconfigure"]);
}

#[tokio::test]
async fn the_plans_own_backend_is_locked_and_not_the_directorys() {
    let stage = Stage::initialised("plan/moved").await;
    let gate = Gate::new(stage.path(), "ours");
    plan(&stage, &gate.command());
    let other = "plan/moved-elsewhere";
    reinitialise(&stage, other);
    let held = async |key: &str| {
        let lock_id = format!("{BUCKET}/{key}");
        dynamodb().get_raw(&stage.table, &lock_id).await.is_some()
    };
    let mut command = tfwrap(stage.path());
    let ours = Running::start(command.args(["apply", "-no-color", "p.bin"]));
    gate.reached();
    assert!(held(&stage.key).await && !held(other).await, "{}", ours.stderr());
    gate.open();
    let done = ours.finish().expect_code(0);
    for words in ["the saved plan `p.bin` is for the backend", &stage.key, other] {
        assert!(done.stderr.contains(words), "{words:?} in {}", done.stderr);
    }
    assert!(!held(&stage.key).await);
    // The control: without the plan it is the directory's.
    let gate = Gate::new(stage.path(), "control");
    let ours = Running::start(&mut applying(tfwrap(stage.path()), &gate.command()));
    gate.reached();
    assert!(!held(&stage.key).await && held(other).await);
    gate.open();
    let done = ours.finish().expect_code(0);
    assert_eq!(done.stderr, "");
}

#[tokio::test]
async fn a_plan_for_the_directorys_own_backend_is_nothing_to_talk_about() {
    let stage = Stage::initialised("plan/same").await;
    plan(&stage, "touch applied");
    let done = run(tfwrap(stage.path()).args(["apply", "-no-color", "p.bin"])).expect_code(0);
    // Terraform itself warns of `dynamodb_table` here.
    assert!(!done.stderr.contains("tfwrap: "), "{}", done.stderr);
    assert!(stage.path().join("applied").exists());
    assert_eq!(stage.info().await, None);
}

#[tokio::test]
async fn what_is_no_plan_locks_the_directorys_backend_and_fails_in_terraforms_words() {
    let stage = Stage::initialised("plan/none").await;
    fs::write(stage.path().join("text"), "no plan").unwrap();
    let before = stage.requests("PutItem");
    for file in ["text", "missing"] {
        let done = run(tfwrap(stage.path()).args(["apply", "-no-color", file])).expect_code(1);
        let note = format!("`{file}` is not a saved plan");
        assert!(done.stderr.contains(&note), "{}", done.stderr);
        assert!(done.stderr.contains("Failed to load"), "Terraform says why: {}", done.stderr);
        assert_eq!(stage.info().await, None);
    }
    assert_eq!(stage.requests("PutItem") - before, 2);
}

/// The workspace of the plan's state was deleted, and the directory belongs to another state by
/// now: nothing may be created there.
#[tokio::test]
async fn a_missing_workspace_of_a_plan_is_not_created_in_the_directorys_backend() {
    let stage = Stage::initialised("plan/workspace").await;
    let object = |key: &str| format!("env:/w/{key}");
    let in_workspace = |args: &[&str]| {
        run(terraform(stage.path()).args(args).arg("-no-color").env("TF_WORKSPACE", "w"))
    };
    in_workspace(&["plan", "-out=p.bin"]).expect_code(0);
    s3().remove(BUCKET, &object(&stage.key));
    let digest = format!("{BUCKET}/{}-md5", object(&stage.key));
    let request = dynamodb().client().delete_item().table_name(&stage.table);
    request.key("LockID", AttributeValue::S(digest)).send().await.unwrap();
    let other = "plan/workspace-elsewhere";
    reinitialise(&stage, other);
    let mut command = tfwrap(stage.path());
    command.args(["apply", "-no-color", "p.bin"]).env("TF_WORKSPACE", "w");
    let done = run(&mut command);
    // Whether the plan still fits is Terraform's to say.
    assert!(done.stderr.contains("Terraform locks for itself: "), "{}", done.stderr);
    assert_eq!(s3().get(BUCKET, &object(other)), None, "{}", done.stderr);
    let lock_id = format!("{BUCKET}/{}", object(&stage.key));
    assert_eq!(dynamodb().get_raw(&stage.table, &lock_id).await, None, "given back");
}

#[tokio::test]
async fn a_plan_that_went_stale_during_the_wait_is_explained() {
    let stage = Stage::initialised("plan/stale").await;
    stock(stage.path(), &["apply", "-auto-approve"]);
    plan(&stage, "touch stale");
    let theirs = Gate::new(stage.path(), "theirs");
    let other = Running::start(&mut applying(terraform(stage.path()), &theirs.command()));
    theirs.reached();
    let mut command = tfwrap(stage.path());
    let ours = Running::start(command.args(["apply", "-no-color", "p.bin"]));
    ours.says("waiting");
    theirs.open();
    other.finish().expect_code(0);
    let done = ours.finish().expect_code(1);
    for words in ["Saved plan is stale", "tfwrap: hint: plan again", "tfwrap run --"] {
        assert!(done.stderr.contains(words), "{words:?} in {}", done.stderr);
    }
    assert!(!stage.path().join("stale").exists());
    assert_eq!(stage.info().await, None);
    // The remedy that the hint names.
    let script = "terraform plan -out=p -no-color -var 'command=touch fresh' && \
                  terraform apply -no-color p";
    run(&mut stage.around(script)).expect_code(0);
    assert!(stage.path().join("fresh").exists());
}

#[tokio::test]
async fn chdir_and_a_relative_data_directory_are_followed() {
    let stage = Stage::new("plan/chdir").await;
    let above = stage.path().parent().unwrap();
    let chdir = format!("-chdir={}", stage.path().file_name().unwrap().to_str().unwrap());
    // Inside the directory, as Terraform takes it.
    let data = [("TF_DATA_DIR", "data")];
    run(terraform(above).args([&chdir, "init", "-no-color"]).envs(data)).expect_code(0);
    assert!(stage.path().join("data/terraform.tfstate").exists());
    let gate = Gate::new(stage.path(), "ours");
    let mut command = tfwrap(above);
    command.env("TFWRAP_STATE_DIR", stage.path().join(".tfwrap-state")).envs(data).arg(&chdir);
    let ours = Running::start(&mut applying(command, &gate.command()));
    gate.reached();
    assert!(stage.info().await.is_some(), "{}", ours.stderr());
    gate.open();
    ours.finish().expect_code(0);
    assert_eq!(stage.info().await, None);
    // The same by our own option, with a plan of its own.
    let name = chdir.trim_start_matches("-chdir=");
    let var = format!("command=touch {}/planned", stage.path().display());
    let made = run(terraform(above)
        .args([&chdir, "plan", "-out=p.bin", "-no-color", "-var", &var])
        .envs(data));
    made.expect_code(0);
    let before = stage.requests("PutItem");
    let mut command = tfwrap(above);
    command.env("TFWRAP_STATE_DIR", stage.path().join(".tfwrap-state")).envs(data);
    run(command.args(["--chdir", name, "apply", "-no-color", "p.bin"])).expect_code(0);
    assert!(stage.path().join("planned").exists());
    assert_eq!(stage.requests("PutItem") - before, 1);
    // Without the variable the directory is not initialised: never the wrong lock.
    let mut command = tfwrap(above);
    run(command.args([&chdir, "plan"])).expect_code(78);
}

#[tokio::test]
async fn lock_flags_in_the_environment_count() {
    let stage = Stage::initialised("plan/environment").await;
    let theirs = stage.taken_by_a_stranger().await;
    let before = stage.requests("PutItem");
    for name in ["TF_CLI_ARGS", "TF_CLI_ARGS_apply"] {
        let mut command = tfwrap(stage.path());
        command.env(name, "-lock=false");
        let done = run(&mut applying(command, "touch in"));
        assert_eq!(done.status.code(), Some(0), "{name}: {}", done.stderr);
        let said = format!("without a lock: `-lock=false` in `{name}`");
        assert!(done.stderr.contains(&said), "{name}: {}", done.stderr);
        fs::remove_file(stage.path().join("in")).unwrap();
    }
    assert_eq!(stage.requests("PutItem"), before, "nobody asked for the lock");
    for name in ["TF_CLI_ARGS", "TF_CLI_ARGS_apply"] {
        let mut command = tfwrap(stage.path());
        command.env(name, "-lock-timeout=300ms").env("TFWRAP_LOCK_TIMEOUT", "1h");
        let done = run(&mut applying(command, "touch in")).expect_code(75);
        assert!(done.stderr.contains("within 300ms"), "{name}: {}", done.stderr);
    }
    // Of another command they are not ours.
    let mut command = tfwrap(stage.path());
    command.env("TF_CLI_ARGS_plan", "-lock=false").env("TFWRAP_LOCK_TIMEOUT", "300ms");
    run(&mut applying(command, "touch in")).expect_code(75);
    assert!(!stage.path().join("in").exists());
    assert_eq!(stage.info().await, Some(theirs));
    stage.cleared().await;
    // The user's own word beats the environment's.
    let mut command = tfwrap(stage.path());
    command.env("TF_CLI_ARGS", "-lock=false");
    let mut command = applying(command, "touch in");
    let before = stage.requests("PutItem");
    run(command.arg("-lock=true")).expect_code(0);
    assert_eq!(stage.requests("PutItem") - before, 1);
    eventually("it ran", || stage.path().join("in").exists());
}
