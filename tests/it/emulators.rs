//! That a real Terraform works with the servers of the tests.

use std::process::Command;

use crate::support::servers::{BUCKET, dynamodb, s3, s3_backend_dir, terraform};

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text
}

#[tokio::test]
async fn a_real_terraform_keeps_state_and_lock_on_these_servers() {
    let (key, table) = ("servers/a/terraform.tfstate", "servers-locks");
    dynamodb().create_lock_table(table).await;
    let dir = s3_backend_dir(key, table);
    let run = |args: &[&str]| succeed(terraform(dir.path()).args(args).arg("-no-color"));
    run(&["init"]);
    run(&["apply", "-auto-approve"]);
    let first = s3().get(BUCKET, key).unwrap();
    // The second one reads what the first one wrote, by its digest too.
    run(&["apply", "-auto-approve"]);
    assert_ne!(s3().get(BUCKET, key).unwrap(), first);
    run(&["workspace", "new", "dev"]);
    run(&["apply", "-auto-approve"]);
    assert!(s3().get(BUCKET, &format!("env:/dev/{key}")).is_some());
    // Given back, but the digest stays.
    let lock_id = format!("{BUCKET}/{key}");
    assert_eq!(dynamodb().get_raw(table, &lock_id).await, None);
    assert!(dynamodb().get_raw(table, &format!("{lock_id}-md5")).await.is_some());
}
