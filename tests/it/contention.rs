//! Mutual exclusion under load: many processes count in a plain file.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::harness::{Running, tfwrap};
use crate::support::s3_server::{self, Manners};
use crate::support::servers::{BUCKET, REGION, dynamodb, local_backend_dir};

const PROCESSES: usize = 20;
const ROUNDS: usize = 5;

/// Reads the counter, lets some time pass, writes it back one higher.
const COUNT: &str = "n=$(cat counter); sleep 0.02; echo $((n + 1)) > counter";

/// Lets all of them count and returns what the counter says.
fn count(dir: &Path, command: impl Fn() -> Command) -> usize {
    count_in(dir, PROCESSES, ROUNDS, command)
}

/// The same, of so many and so often.
fn count_in(dir: &Path, processes: usize, rounds: usize, command: impl Fn() -> Command) -> usize {
    fs::write(dir.join("counter"), "0").unwrap();
    let turns = format!("for i in $(seq {rounds}); do \"$@\" sh -c '{COUNT}' || exit 1; done");
    let all: Vec<_> = (0..processes)
        .map(|_| {
            let inner = command();
            let mut outer = Command::new("sh");
            outer.args(["-c", &turns, "sh"]).arg(inner.get_program()).args(inner.get_args());
            outer.current_dir(dir).env_clear();
            outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
            Running::start(&mut outer)
        })
        .collect();
    for one in all {
        one.finish().expect_code(0);
    }
    fs::read_to_string(dir.join("counter")).unwrap().trim().parse().unwrap()
}

fn under(dir: &Path, options: &[&str]) -> usize {
    count(dir, || {
        let mut command = tfwrap(dir);
        command.args(options).args(["run", "--"]);
        command
    })
}

/// What the counter says when none was lost.
const ALL: usize = PROCESSES * ROUNDS;

#[test]
fn nothing_is_lost_under_the_local_lock() {
    let dir = local_backend_dir();
    assert_eq!(under(dir.path(), &[]), ALL);
}

#[tokio::test]
async fn nothing_is_lost_under_a_dynamodb_lock() {
    dynamodb().create_lock_table("counter").await;
    let dir = local_backend_dir();
    let lock = format!("dynamodb://counter/count?region={REGION}&endpoint={}", dynamodb().url);
    let options = ["--lock", &lock, "--no-backend-lock"];
    assert_eq!(under(dir.path(), &options), ALL);
}

/// Fewer: each request is signed and looked at on both sides, by programs that were not optimised.
#[test]
fn nothing_is_lost_under_a_lock_file_in_s3() {
    let (server, dir) = (s3_server::start(Manners::Seaweed), local_backend_dir());
    let lock = format!("s3://{BUCKET}/count.tflock?region={REGION}&endpoint={}", server.url);
    let counted = count_in(dir.path(), 8, 2, || {
        let mut command = tfwrap(dir.path());
        command.args(["--lock", &lock, "--no-backend-lock", "run", "--"]);
        command
    });
    assert_eq!(counted, 16);
}

#[test]
fn nothing_is_lost_under_a_file_lock() {
    let dir = local_backend_dir();
    let lock = format!("file://{}/locks/count", dir.path().display());
    fs::create_dir(dir.path().join("locks")).unwrap();
    let options = ["--lock", &lock, "--no-backend-lock"];
    assert_eq!(under(dir.path(), &options), ALL);
}

#[test]
fn the_negative_control_without_a_lock_loses_counts() {
    let dir = local_backend_dir();
    let counted = count(dir.path(), || {
        let mut command = Command::new("env");
        crate::support::servers::clean(&mut command, dir.path());
        command
    });
    assert!(counted < ALL, "{counted}: the test proves nothing");
}
