//! The step summary of GitHub Actions: whom a run waited for, where it stood, and what to do.

use std::path::PathBuf;
use std::process::Command;

use crate::support::harness::{Gate, Running, applying, eventually, run, tfwrap};
use crate::support::servers::local_backend_dir;

/// A step of a job whose summary is this file, which is empty yet.
fn step(mut command: Command, summary: &PathBuf) -> Command {
    std::fs::write(summary, "").unwrap();
    command
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_SERVER_URL", "https://github.com")
        .env("GITHUB_REPOSITORY", "acme/infra")
        .env("GITHUB_RUN_ID", "7")
        .env("GITHUB_STEP_SUMMARY", summary);
    command
}

/// The cell beside this one, its character references read.
fn cell(summary: &str, name: &str) -> Option<String> {
    let rows = summary.lines().filter_map(|line| line.strip_prefix(&format!("| {name} | ")));
    let cells: Vec<_> = rows.filter_map(|rest| rest.strip_suffix(" |")).collect();
    let mut text = cells.first()?.to_string();
    assert_eq!(cells.len(), 1, "{summary}");
    while let Some((before, rest)) = text.split_once("&#") {
        let (code, after) = rest.split_once(';').unwrap();
        let c = char::from_u32(code.parse().unwrap()).unwrap();
        text = format!("{before}{c}{after}");
    }
    Some(text)
}

#[test]
fn a_run_that_waited_says_for_whom_and_one_that_gave_up_what_to_do() {
    let dir = local_backend_dir();
    let file = |name: &str| dir.path().join(name);
    let gate = Gate::new(dir.path(), "holder");
    let holder = step(tfwrap(dir.path()), &file("holder.md"));
    let holder = Running::start(&mut applying(holder, &gate.command()));
    gate.reached();
    let waiter = step(tfwrap(dir.path()), &file("waiter.md"));
    let waiter = Running::start(&mut applying(waiter, "sleep 1"));
    eventually("the waiter has its place", || {
        let shown = run(tfwrap(dir.path()).args(["status", "--format", "json"])).expect_code(0);
        let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
        shown["locks"][0]["waiters"].as_array().is_some_and(|waiters| waiters.len() == 1)
    });
    // It gives up.
    let mut late = step(tfwrap(dir.path()), &file("late.md"));
    late.args(["--lock-timeout", "1s"]);
    let late = run(&mut applying(late, "true")).expect_code(75);
    gate.open();
    holder.finish().expect_code(0);
    waiter.finish().expect_code(0);

    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    let summary = read("holder.md");
    assert!(summary.starts_with("### tfwrap: done\n"), "{summary}");
    assert_eq!((cell(&summary, "waited for"), cell(&summary, "reason")), (None, None));
    let summary = read("waiter.md");
    let awaited = cell(&summary, "waited for").expect(&summary);
    assert!(
        awaited.contains("for apply, https://github.com/acme/infra/actions/runs/7"),
        "{awaited}"
    );
    assert_eq!(cell(&summary, "place in the queue").as_deref(), Some("1"), "{summary}");
    assert!(summary.contains("    waited for ") && summary.contains("    held "), "{summary}");
    let summary = read("late.md");
    assert!(summary.starts_with("### tfwrap: the lock was not acquired in time\n"), "{summary}");
    assert_eq!(cell(&summary, "place in the queue").as_deref(), Some("2"), "{summary}");
    let reason = cell(&summary, "reason").expect(&summary);
    assert!(late.stderr.contains(&reason), "{reason}: {}", late.stderr);
    let advice = cell(&summary, "what to do").expect(&summary);
    assert!(advice.starts_with("wait longer with `--lock-timeout`"), "{advice}");
    assert!(advice.ends_with("/terraform.tfstate"), "{advice}");
    assert!(!summary.contains("    held "), "{summary}");
}

/// The place in the queue is that of `status`, although one before us gave up.
#[test]
fn the_place_is_that_of_status() {
    let dir = local_backend_dir();
    let file = |name: &str| dir.path().join(name);
    let gate = Gate::new(dir.path(), "holder");
    let holder = Running::start(&mut applying(tfwrap(dir.path()), &gate.command()));
    gate.reached();
    let waiting = |count: usize| {
        eventually(&format!("{count} wait"), || {
            let shown = run(tfwrap(dir.path()).args(["status", "--format", "json"])).expect_code(0);
            let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
            shown["locks"][0]["waiters"].as_array().is_some_and(|waiters| waiters.len() == count)
        });
    };
    let mut waiters = Vec::new();
    for n in 0..3 {
        waiters.push(Running::start(&mut applying(tfwrap(dir.path()), "true")));
        waiting(n + 1);
    }
    let gone = waiters.remove(1);
    gone.signal(nix::sys::signal::Signal::SIGTERM);
    gone.finish().expect_code(143);
    waiting(2);
    let last = Running::start(&mut applying(step(tfwrap(dir.path()), &file("last.md")), "true"));
    waiting(3);
    eventually("it says its place", || last.stderr().contains("ahead of us"));
    assert!(last.stderr().contains("; 2 ahead of us"), "{}", last.stderr());
    gate.open();
    holder.finish().expect_code(0);
    for waiter in waiters {
        waiter.finish().expect_code(0);
    }
    last.finish().expect_code(0);
    let summary = std::fs::read_to_string(file("last.md")).unwrap();
    assert_eq!(cell(&summary, "place in the queue").as_deref(), Some("3"), "{summary}");
}

/// What the runner's files are instead costs a warning each, never the lock.
#[test]
fn files_that_cannot_be_written_are_named_and_the_lock_is_given_back() {
    let dir = local_backend_dir();
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let lock = dir.path().join(".terraform.tfstate.lock.info");
    for (variable, missing) in [("GITHUB_OUTPUT", "outputs"), ("GITHUB_STEP_SUMMARY", "summary")] {
        for path in [&other, &dir.path().join("no/such")] {
            let mut command = tfwrap(dir.path());
            command.env("GITHUB_ACTIONS", "true").env(variable, path);
            let said = run(&mut applying(command, "true")).expect_code(0).stderr;
            let warning = format!(
                "tfwrap: warning: cannot write to `{}` (from `{variable}`): ",
                path.display()
            );
            assert_eq!(said.matches(&warning).count(), 1, "{said}");
            assert!(said.contains(missing) && !said.contains("panicked"), "{said}");
            assert!(!lock.exists());
        }
    }
    for variable in ["GITHUB_ENV", "GITHUB_PATH"] {
        let mut command = tfwrap(dir.path());
        command.env("GITHUB_ACTIONS", "true");
        for name in ["GITHUB_ENV", "GITHUB_PATH"] {
            std::fs::write(dir.path().join(name), "").unwrap();
            command.env(name, dir.path().join(name));
        }
        command.env(variable, &other).args(["hold", "--format", "github"]);
        let said = run(&mut command);
        assert_ne!(said.status.code(), Some(0), "{}", said.stderr);
        assert!(said.stderr.contains(&format!("(from `{variable}`)")), "{}", said.stderr);
        let shown = run(tfwrap(dir.path()).args(["status", "--format", "json"])).expect_code(0);
        let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
        assert!(shown["locks"][0]["holder"].is_null(), "{shown}");
    }
}

#[test]
fn a_summary_is_written_where_it_is_wanted() {
    let dir = local_backend_dir();
    let summary = dir.path().join("summary.md");
    for (actions, mode, is_written) in [
        ("true", "auto", true),
        ("true", "never", false),
        ("", "auto", false),
        ("", "always", true),
    ] {
        let mut command = step(tfwrap(dir.path()), &summary);
        command.env("GITHUB_ACTIONS", actions).env("TFWRAP_SUMMARY", mode);
        run(&mut applying(command, "true")).expect_code(0);
        let text = std::fs::read_to_string(&summary).unwrap();
        assert_eq!(text.starts_with("### tfwrap: done\n"), is_written, "{actions} {mode}: {text}");
        assert_eq!(text.is_empty(), !is_written);
    }
}
