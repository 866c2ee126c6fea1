//! A fleet in motion, at work at once: some clients have both locks, some have one of them.

use std::path::Path;

use super::*;

/// How often each client works.
const ROUNDS: usize = 6;

/// Says where another one works at the same time, and does this meanwhile.
fn script(top: &Path, meanwhile: &str) -> String {
    let top = top.display();
    format!("mkdir {top}/busy || touch {top}/overlap; {meanwhile}; rmdir {top}/busy || true")
}

fn work(dir: &TempDir, script: &str) {
    let mut command = tfwrap(dir.path());
    command.args(["--lock-timeout=60s", "run", "--", "sh", "-c", script]);
    run(&mut command).expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_fleet_works_one_after_the_other() {
    for (name, fleet) in [
        ("item", [Mode::Both, Mode::Item, Mode::Both]),
        ("file", [Mode::Both, Mode::File, Mode::Both]),
    ] {
        let stage = Stage::new(&format!("fleet-{name}")).await;
        let top = tempfile::tempdir().unwrap();
        let dirs = fleet.map(|mode| stage.dir_of(mode));
        let script = script(top.path(), "sleep 0.05");
        std::thread::scope(|scope| {
            for dir in &dirs {
                scope.spawn(|| (0..ROUNDS).for_each(|_| work(dir, &script)));
            }
        });
        assert!(!top.path().join("overlap").exists(), "{name}: two at once");
        stage.expect_free().await;
    }
}

/// Of two that share no lock, each waits here for the other to be at work, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_negative_control_of_a_fleet_that_shares_no_lock_overlaps() {
    let stage = Stage::new("fleet-apart").await;
    let top = tempfile::tempdir().unwrap();
    let dirs = [Mode::Item, Mode::File].map(|mode| stage.dir_of(mode));
    let there = top.path().display();
    let both = format!(
        "touch {there}/at-$$; for i in $(seq 200); do \
         test $(ls {there} | grep -c at-) -ge 2 && break; sleep 0.05; done"
    );
    let script = script(top.path(), &both);
    std::thread::scope(|scope| {
        for dir in &dirs {
            scope.spawn(|| work(dir, &script));
        }
    });
    assert!(top.path().join("overlap").exists(), "nobody notices an overlap");
    stage.expect_free().await;
}
