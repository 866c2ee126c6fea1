//! Wall clocks that are a day apart make no difference: none is compared across machines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use crate::aftermath::{Lock, TTL};
use crate::support::harness::run;
use crate::support::json_log;
use crate::wrapped::{LOGS_ALL, Running, uptime};

const DAY: i64 = 24 * 60 * 60;

/// Loaded into a program before the C library, moves its wall clock and no other.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
  long failed = syscall(SYS_clock_gettime, clock, now);
  const char *shift = getenv("WALL_CLOCK_SHIFT");
  if (!failed && clock == CLOCK_REALTIME && shift) now->tv_sec += atol(shift);
  return failed;
}
"#;

fn library(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("shift.c"), dir.join("shift.so"));
    fs::write(&source, LIBRARY).expect("a file");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
    run(&mut compile).expect_code(0);
    library
}

/// Waits for the lock with a wall clock that is so many seconds off, and says when in JSON.
fn shifted(lock: &Lock, library: &Path, shift: i64, wait: &str) -> Running {
    lock.scene("exit 0")
        .env("LD_PRELOAD", &library.display().to_string())
        .env("WALL_CLOCK_SHIFT", &shift.to_string())
        .options(&["--lease", "15s", "--log-format", "json", "--lock-timeout", wait])
        .start()
}

/// How far off its clock was, by the first line that it said.
#[track_caller]
fn shift_of(waiter: &Running) -> i64 {
    let said = waiter.stderr();
    let lines = json_log::lines(&said);
    let line = lines.first().expect("it says that it waits");
    let at: jiff::Timestamp = line["ts"].as_str().expect("a time").parse().expect("a time");
    at.duration_since(jiff::Timestamp::now()).as_secs()
}

#[tokio::test]
async fn who_lives_is_not_taken_over_by_a_clock_a_day_ahead_or_behind() {
    let dir = TempDir::new().expect("a directory");
    let library = library(dir.path());
    let mut waiting = Vec::new();
    for (name, shift) in [("ahead", DAY), ("behind", -DAY)] {
        let lock = Lock::new(&format!("clock-{name}")).await;
        let holder = lock.scene(LOGS_ALL).options(&["--lease", "15s"]).start().ready();
        let waiter = shifted(&lock, &library, shift, "18s");
        waiting.push((lock, holder, waiter, shift));
    }
    for (lock, mut holder, mut waiter, shift) in waiting {
        assert_eq!(waiter.bare_code(), Some(75), "{}", waiter.stderr());
        assert!((shift_of(&waiter) - shift).abs() < 3600, "{}", waiter.stderr());
        let child = holder.scene.pid_in("ready");
        kill(child, Signal::SIGUSR1).expect("the child is there");
        assert_eq!(holder.bare_code(), Some(5), "{}", holder.stderr());
        lock.freed().await;
    }
}

#[tokio::test]
async fn who_is_dead_is_taken_over_in_time_by_a_clock_a_day_ahead_or_behind() {
    let dir = TempDir::new().expect("a directory");
    let library = library(dir.path());
    let mut waiting = Vec::new();
    for (name, shift) in [("dead-ahead", DAY), ("dead-behind", -DAY)] {
        let lock = Lock::new(&format!("clock-{name}")).await;
        // The machine is gone, its guardian too.
        let holder = lock.scene(LOGS_ALL).env("TFWRAP_TEST_OFF", "guardian");
        let mut holder = holder.options(&["--lease", "15s"]).start().ready();
        holder.signal(Signal::SIGKILL);
        kill(holder.scene.pid_in("ready"), Signal::SIGKILL).expect("the child is there");
        assert_eq!(holder.bare_code(), None);
        let (since, waiter) = (uptime(), shifted(&lock, &library, shift, "60s"));
        waiting.push((lock, since, waiter));
    }
    for (lock, since, mut waiter) in waiting {
        assert_eq!(waiter.bare_code(), Some(0), "{}", waiter.stderr());
        let waited = uptime().since(since);
        assert!(waited >= TTL && waited < Duration::from_secs(30), "{waited:?}");
        lock.freed().await;
    }
}
