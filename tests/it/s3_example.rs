//! `examples/s3-dynamodb` does what its README says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::harness::{Finished, Running, run, tfwrap};
use crate::support::servers::{dynamodb, s3, terraform};

const BUCKET: &str = "my-terraform-states";
const TABLE: &str = "terraform-locks";

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/s3-dynamodb")
}

/// A copy of it, without what somebody may have left there.
fn copied() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["main.tf", "backend.tf"] {
        fs::copy(example().join(file), dir.path().join(file)).unwrap();
    }
    dir
}

/// Sends the example to the emulators. Bucket, key and table stay as they are written.
const EMULATORS: [&str; 5] = [
    "use_path_style=true",
    "skip_credentials_validation=true",
    "skip_requesting_account_id=true",
    "skip_metadata_api_check=true",
    "encrypt=false",
];

fn init(dir: &Path) -> Finished {
    let mut command = terraform(dir);
    command.args(["init", "-no-color"]);
    let endpoints = format!("endpoints={{s3=\"{}\",dynamodb=\"{}\"}}", s3().url, dynamodb().url);
    for option in EMULATORS.into_iter().chain([endpoints.as_str()]) {
        command.arg(format!("-backend-config={option}"));
    }
    run(&mut command)
}

fn applying(mut command: Command, seconds: u32) -> Command {
    let var = format!("seconds={seconds}");
    command.args(["apply", "-auto-approve", "-no-color", "-var", &var]);
    command
}

#[tokio::test]
async fn the_example_applies_one_at_a_time() {
    s3().create_bucket(BUCKET);
    dynamodb().create_lock_table(TABLE).await;
    let (here, there) = (copied(), copied());
    for dir in [here.path(), there.path()] {
        init(dir).expect_code(0);
    }
    let first = Running::start(&mut applying(tfwrap(here.path()), 3));
    let lock_id = format!("{BUCKET}/example/terraform.tfstate");
    let mut held = false;
    for _ in 0..500 {
        held = dynamodb().get_raw(TABLE, &lock_id).await.is_some();
        if held {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(held, "{}", first.stderr());
    let stock = run(&mut applying(terraform(there.path()), 0)).expect_code(1);
    assert!(stock.stderr.contains("Error acquiring the state lock"), "{}", stock.stderr);
    let second = Running::start(&mut applying(tfwrap(there.path()), 0));
    // As the README shows it.
    second.says(&format!("waiting for the lock `dynamodb://{TABLE}/{lock_id}`: held by "));
    first.finish().expect_code(0);
    second.finish().expect_code(0);
    let both = "terraform plan -out=p.bin && terraform apply p.bin";
    let mut command = tfwrap(here.path());
    command.args(["run", "--", "sh", "-c", both]).env("TF_VAR_seconds", "0");
    run(&mut command).expect_code(0);
    assert_eq!(dynamodb().get_raw(TABLE, &lock_id).await, None, "given back");
}

#[test]
fn the_example_is_written_as_terraform_would_write_it() {
    let mut command = terraform(&example());
    let done = run(command.args(["fmt", "-check", "-diff", "-recursive", "-no-color"]));
    assert_eq!(done.status.code(), Some(0), "{}{}", done.stdout, done.stderr);
}

#[test]
fn the_commands_of_the_readme_name_what_is_there() {
    let readme = fs::read_to_string(example().join("README.md")).unwrap();
    let table = fs::read_to_string(example().join("lock-table/main.tf")).unwrap();
    let backend = fs::read_to_string(example().join("backend.tf")).unwrap();
    assert!(backend.contains(&format!("\"{TABLE}\"")) && backend.contains(BUCKET), "{backend}");
    for words in [format!("name         = \"{TABLE}\""), "\"LockID\"".to_owned()] {
        assert!(table.contains(&words), "{words}");
    }
    for words in [TABLE, "AttributeName=LockID,AttributeType=S", "-chdir=lock-table", "eu-west-1"] {
        assert!(readme.contains(words), "{words}");
    }
}
