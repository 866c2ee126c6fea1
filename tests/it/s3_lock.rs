//! The lock file of the S3 backend: written as Terraform writes it, under Terraform's keys; what stores
//! and networks do to it; and what a killed run leaves.

mod odd_stores;
mod terraform;

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::harness::{Running, tfwrap};
use crate::support::s3_server::Bucket;
use crate::support::servers::{BUCKET, REGION};

/// A lock of `--lock`, at a server or at a proxy before it.
fn lock_at(url: &str, name: &str) -> String {
    format!("s3://{BUCKET}/{name}.tflock?region={REGION}&endpoint={url}")
}

/// `tfwrap` that has this lock and no other, around a command.
fn under(dir: &Path, lock: &str, options: &[&str], command: &[&str]) -> Command {
    let mut tfwrap = tfwrap(dir);
    tfwrap.args(["--no-backend-lock", "--lock", lock]).args(options).arg("run").arg("--");
    tfwrap.args(command);
    tfwrap
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The record of a holder that beats no more.
fn dead(id: &str, lease: &str) -> String {
    let info = r#""Operation":"apply","Info":"","Who":"them@there","Version":"1","Created":"2026-01-02T03:04:05Z","Path":"""#;
    format!(r#"{{"ID":"{id}",{info}{lease}}}"#)
}

/// Waits until it holds the lock, or does not.
fn until_held(server: &Bucket, key: &str, running: &Running) {
    crate::support::harness::eventually("the lock is held", || {
        assert!(!running.is_over(), "{}", running.stderr());
        server.get(key).is_some()
    });
}
