//! tfwrap killed at every point of its way through both locks, and through the lock file alone: before each
//! request, and wherever its shell may fail.

use std::os::unix::process::ExitStatusExt as _;

use super::*;

/// Each kills at every so manieth point.
const LANES: usize = 4;

/// Kills a run at a point, and looks whether the next one gets both locks, without waiting for a lease.
fn killed(stage: &Stage, point: usize) {
    let mut command = stage.around(&[], "true");
    let dead = run(command.env("TFWRAP_CRASH_POINT", point.to_string()));
    assert_eq!(dead.status.signal(), Some(9), "point {point}: {}", dead.stderr);
    let next = run(&mut stage.around(&["--lock-timeout=40s"], "true"));
    assert_eq!(next.status.code(), Some(0), "point {point}: {}", next.stderr);
    assert!(!next.stderr.contains("took over"), "point {point}: {}", next.stderr);
    assert!(stage.in_file().is_none(), "point {point}: {}", next.stderr);
}

/// Of a mode: how many points there are, and each killed in turn.
async fn killed_everywhere(mode: Mode, least: usize) {
    let mut stages = Vec::new();
    for lane in 0..LANES {
        let mut stage = Stage::new(&format!("points-{mode:?}-{lane}")).await;
        stage.dir = stage.dir_of(mode);
        stages.push(stage);
    }
    let count = stages[0].dir.path().join("count");
    let mut command = stages[0].around(&[], "true");
    command.env("TFWRAP_CRASH_POINT", "count").env("TFWRAP_CRASH_COUNT_FILE", &count);
    run(&mut command).expect_code(0);
    let points: usize = std::fs::read_to_string(count).unwrap().trim().parse().unwrap();
    assert!(points > least, "{points}");
    std::thread::scope(|scope| {
        for (lane, stage) in stages.iter().enumerate() {
            scope.spawn(move || {
                (1..=points).skip(lane).step_by(LANES).for_each(|point| killed(stage, point));
            });
        }
    });
    for stage in &stages {
        stage.expect_free().await;
    }
}

/// Two creates, two removals and their looks among the points.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_both_locks_come_free() {
    killed_everywhere(Mode::Both, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_the_lock_file_comes_free() {
    killed_everywhere(Mode::File, 5).await;
}
