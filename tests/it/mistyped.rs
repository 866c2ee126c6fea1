//! A workspace that is not there, its name mistyped perhaps: tfwrap makes it where stock Terraform
//! makes it, and nowhere else.

use std::fs;
use std::process::Command;

use crate::support::harness::{S3Dir, run, s3_dir, tfwrap};
use crate::support::servers::{BUCKET, dynamodb, s3, terraform};

/// What is left of a call: its code, whether the workspace is there, and its digest.
async fn end(
    stage: &S3Dir,
    mut command: Command,
    workspace: &str,
    args: &[&str],
) -> (i32, bool, bool) {
    let done = run(command.env("TF_WORKSPACE", workspace).args(args));
    let key = format!("env:/{workspace}/{}", stage.key);
    let lock_id = format!("{BUCKET}/{key}");
    assert!(dynamodb().get_raw(&stage.table, &lock_id).await.is_none(), "{}", done.stderr);
    let digest = dynamodb().get_raw(&stage.table, &format!("{lock_id}-md5")).await.is_some();
    let code = done.status.code().unwrap();
    (code, s3().get(BUCKET, &key).is_some(), digest)
}

#[tokio::test]
async fn a_mistyped_workspace_is_created_only_where_terraform_creates_it() {
    let stage = s3_dir("mistyped").await;
    fs::write(stage.path().join("empty.json"), "{}").unwrap();
    for (n, (args, is_created)) in [
        (&["plan", "word"][..], false),
        (&["plan", "-no-such-flag"], false),
        (&["plan", "-parallelism=many"], false),
        (&["plan", "-var-file=nope"], false),
        (&["plan", "-var", "nope"], false),
        (&["plan", "-refresh=false", "-refresh-only"], false),
        (&["apply", "-json", "word"], false),
        (&["apply", "no-such-plan"], false),
        (&["refresh", "word"], false),
        (&["destroy", "word"], false),
        (&["import", "terraform_data.work"], false),
        (&["import", "terraform_data.other", "x"], false),
        (&["taint"], false),
        (&["taint", "terraform_data.work.x.y"], false),
        (&["untaint", "a", "b"], false),
        (&["state", "mv", "terraform_data.work"], false),
        (&["state", "rm"], false),
        (&["state", "push", "no-such-file"], false),
        (&["state", "push", "empty.json"], false),
        (&["state", "replace-provider", "a"], false),
        (&["workspace", "delete", "no-such"], false),
        // The controls: these come to the state.
        (&["plan", "-var-file=/dev/null"], true),
        (&["import", "terraform_data.work", "x"], true),
        (&["taint", "terraform_data.work"], true),
        (&["untaint", "terraform_data.work"], true),
        (&["state", "mv", "terraform_data.work", "terraform_data.other"], true),
        (&["state", "rm", "terraform_data.work"], true),
    ]
    .into_iter()
    .enumerate()
    {
        let (theirs, ours) = (format!("stock{n}"), format!("wrapped{n}"));
        let stock = end(&stage, terraform(stage.path()), &theirs, args).await;
        let wrapped = end(&stage, tfwrap(stage.path()), &ours, args).await;
        assert_eq!(wrapped, stock, "{args:?}");
        assert_eq!(stock.1, is_created, "stock has another end: {args:?}");
    }
}
