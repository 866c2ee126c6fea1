//! A stop that ends whoever reads what Terraform says: it does not die of its next word.

use std::io::pipe;
use std::process::Stdio;

use nix::sys::signal::{kill, killpg};

use super::*;
use crate::wrapped::is_gone;

/// Waits for the end of the child and of the lock; returns what is in the state.
#[track_caller]
fn left(scene: &Scene, key: &str) -> String {
    let next = || {
        let mut next = harness::tfwrap(&scene.path("."));
        harness::run(next.args(["--lock-timeout=0s", "run", "--", "true"]))
    };
    wait_until("a free lock", || (next().status.code() == Some(0)).then_some(()));
    String::from_utf8_lossy(&s3().get(BUCKET, key).unwrap_or_default()).into_owned()
}

#[track_caller]
fn expect_saved(scene: &Scene, key: &str, shape: &str) {
    let state = left(scene, key);
    let said = fs::read_to_string(scene.path("stderr")).expect("its stderr");
    assert!(state.contains("\"first\"") && state.contains("tainted"), "{shape}: {state}{said}");
    assert_eq!(said.matches("Two interrupts").count(), 0, "{shape}: {said}");
}

#[test]
fn a_reader_that_the_stop_ends_costs_no_state() {
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        let Stage { scene, key, _slow } = stage(None);
        let scene = scene.command(&APPLY);
        let said = scene.path("said").display().to_string();
        let pipeline = format!("{} | cat > {}", scene.shell_words(), shell_words::quote(&said));
        let scene = scene.through(&["sh", "-c", &pipeline, "--"]);
        let running = scene.start().ready();
        running.signal_group(signal);
        expect_saved(&running.scene, &key, signal.as_str());
    }
}

#[test]
fn a_reader_that_is_gone_before_the_stop_costs_no_state() {
    for (name, wrapper) in [("alone", None), ("node", Some(NODE))] {
        if wrapper.is_some() && !has(name) {
            continue;
        }
        let Stage { scene, key, _slow } = stage(wrapper);
        let (reader, writer) = pipe().expect("a pipe");
        let running = scene.command(&APPLY).start_with(|command| command.stdout(writer)).ready();
        drop(reader);
        running.signal(Signal::SIGTERM);
        expect_saved(&running.scene, &key, name);
    }
}

/// GitHub's runner: it kills tfwrap, and soon after goes on without the rest.
#[test]
fn a_reader_that_goes_with_tfwrap_costs_no_state() {
    let Stage { scene, key, _slow } = stage(None);
    let (reader, writer) = pipe().expect("a pipe");
    let mut running = scene.command(&APPLY).start_with(|command| command.stdout(writer)).ready();
    drop(reader);
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    expect_saved(&running.scene, &key, "killed");
}

/// Until there is a worker, and the sweep has passed, its guardian keeps the pipe: Terraform may have a
/// word to say at any time.
#[test]
fn nor_does_one_that_goes_before_there_is_a_worker() {
    let script = "trap 'touch heard; exit 0' INT; echo ready $$ > r; mv r ready; \
                  while :; do echo a line; sleep 0.02; done";
    let scene = Scene::of_program("terraform").in_ci().command(&["run", "--", "sh", "-c", script]);
    let (reader, writer) = pipe().expect("a pipe");
    let mut running = scene.start_with(|command| command.stdout(writer)).ready();
    let child = running.scene.pid_in("ready");
    let guardian = Receipt::of(&running.scene).guardian().expect("a guardian");
    let stdout = fs::read_link(format!("/proc/{child}/fd/1")).expect("it is there");
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    wait_until("the guardian's end of the pipe", || {
        let mut open = fs::read_dir(format!("/proc/{guardian}/fd")).ok()?.flatten();
        open.any(|it| fs::read_link(it.path()).is_ok_and(|it| it == stdout)).then_some(())
    });
    drop(reader);
    wait_until("its end", || is_gone(child).then_some(()));
    assert!(running.scene.path("heard").exists(), "it died of what it said");
}

/// The negative control: Terraform alone dies of what it says of its interrupt. A process that
/// another test starts may have the reader for a moment: so it is tried some times.
#[test]
fn without_tfwrap_a_reader_that_is_gone_costs_the_state() {
    assert!((0..5).any(|_| stock_dies_of_its_reader()), "never");
}

fn stock_dies_of_its_reader() -> bool {
    let Stage { scene, key, _slow } = stage(None);
    let (reader, writer) = pipe().expect("a pipe");
    let mut stock = servers::terraform(&scene.path("."));
    let mut stock =
        stock.args(APPLY).stdout(writer).stderr(Stdio::null()).spawn().expect("it runs");
    scene.wait_for("ready");
    drop(reader);
    let pid = Pid::from_raw(stock.id().cast_signed());
    kill(pid, Signal::SIGINT).expect("it is there");
    let status = wait_until("its end", || stock.try_wait().expect("it can be waited for"));
    let by = std::os::unix::process::ExitStatusExt::signal(&status);
    let state = String::from_utf8_lossy(&s3().get(BUCKET, &key).unwrap_or_default()).into_owned();
    by == Some(Signal::SIGPIPE as i32) && !state.contains("tainted")
}

/// A command that heeds no interrupt and never ceases to speak ends as it would have ended before.
#[test]
fn what_has_more_to_say_than_a_pipe_holds_does_not_wait_for_ever() {
    let script = "trap '' INT; echo ready $$ > r; mv r ready; while :; do echo a line; done";
    let scene = Scene::of_program("terraform").in_ci().command(&["run", "--", "sh", "-c", script]);
    let (reader, writer) = pipe().expect("a pipe");
    let mut running = scene.start_with(|command| command.stdout(writer)).ready();
    let child = running.scene.pid_in("ready");
    running.signal(Signal::SIGTERM);
    drop(reader);
    assert_eq!(running.code(), Some(128 + Signal::SIGPIPE as i32), "{}", running.stderr());
    assert!(is_gone(child) && killpg(child, None).is_err());
}
