//! Mutual exclusion under load: many processes count in a plain file.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Running, tfwrap};
use crate::servers::{REGION, dynamodb, local_backend_dir};

const PROCESSES: usize = 20;
const ROUNDS: usize = 5;

/// Reads the counter, lets some time pass, writes it back one higher.
const COUNT: &str = "n=$(cat counter); sleep 0.02; echo $((n + 1)) > counter";

/// Lets all of them count and returns what the counter says.
fn count(dir: &Path, command: impl Fn() -> Command) -> usize {
    fs::write(dir.join("counter"), "0").unwrap();
    let turns = format!("for i in $(seq {ROUNDS}); do \"$@\" sh -c '{COUNT}' || exit 1; done");
    let all: Vec<_> = (0..PROCESSES)
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

#[test]
fn nothing_is_lost_under_the_local_lock() {
    let dir = local_backend_dir();
    assert_eq!(under(dir.path(), &[]), PROCESSES * ROUNDS);
}

#[tokio::test]
async fn nothing_is_lost_under_a_dynamodb_lock() {
    dynamodb().create_lock_table("counter").await;
    let dir = local_backend_dir();
    let lock = format!("dynamodb://counter/count?region={REGION}&endpoint={}", dynamodb().url);
    let options = ["--lock", &lock, "--no-backend-lock"];
    assert_eq!(under(dir.path(), &options), PROCESSES * ROUNDS);
}

#[test]
fn nothing_is_lost_under_a_file_lock() {
    let dir = local_backend_dir();
    let lock = format!("file://{}/locks/count", dir.path().display());
    fs::create_dir(dir.path().join("locks")).unwrap();
    let options = ["--lock", &lock, "--no-backend-lock"];
    assert_eq!(under(dir.path(), &options), PROCESSES * ROUNDS);
}

#[test]
fn the_negative_control_without_a_lock_loses_counts() {
    let dir = local_backend_dir();
    let counted = count(dir.path(), || {
        let mut command = Command::new("env");
        crate::servers::clean(&mut command, dir.path());
        command
    });
    assert!(counted < PROCESSES * ROUNDS, "{counted}: the test proves nothing");
}
