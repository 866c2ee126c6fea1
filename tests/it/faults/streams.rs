//! Streams that are closed, full or stalled cost words, never the lock and never the child's code.

use std::fs::OpenOptions;
use std::io::{PipeReader, Write as _, pipe};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, fcntl};

use super::Stage;
use crate::support::harness::{LIMIT, eventually, pause, run};

/// Starts it with these streams, waits for its end and returns its code.
fn code_of(command: &mut Command, out: Stdio, err: Stdio) -> Option<i32> {
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
    let mut status = None;
    for _ in 0..LIMIT.as_millis() / 20 {
        status = child.try_wait().unwrap();
        if status.is_some() {
            break;
        }
        pause(std::time::Duration::from_millis(20));
    }
    if status.is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    status.expect("it hangs").code()
}

/// The same by way of a shell that closes a stream.
fn closing(command: &Command, redirection: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$@\" {redirection}"), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

/// A pipe that takes nothing more, and whoever could read it.
fn stalled() -> (PipeReader, Stdio) {
    let (reader, mut writer) = pipe().unwrap();
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    writer.write_all(&vec![b'.'; usize::try_from(size).unwrap()]).unwrap();
    (reader, writer.into())
}

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

fn broken() -> Stdio {
    pipe().unwrap().1.into()
}

#[tokio::test]
async fn closed_streams_lose_no_lock_and_no_code() {
    let stage = Stage::new("streams/closed").await;
    for redirection in ["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"] {
        let ours = stage.with(&["-v"], "exit 5");
        let code = code_of(&mut closing(&ours, redirection), Stdio::null(), Stdio::null());
        assert_eq!(code, Some(5), "{redirection}");
        assert_eq!(stage.info().await, None, "{redirection}");
    }
    assert_eq!(stage.runs(), 5);
}

#[tokio::test]
async fn a_full_or_broken_stderr_loses_no_lock_and_no_code() {
    let stage = Stage::new("streams/full").await;
    for (stderr, what) in [(full(), "full"), (broken(), "broken")] {
        let mut ours = stage.with(&["-v"], "exit 5");
        assert_eq!(code_of(&mut ours, Stdio::null(), stderr), Some(5), "{what}");
        assert_eq!(stage.info().await, None, "{what}");
    }
    // Also where there is a lot to say, and the wait goes on.
    stage.taken_by_a_stranger().await;
    let mut ours = stage.with(&["-v", "--lock-timeout=1s"], "exit 5");
    assert_eq!(code_of(&mut ours, Stdio::null(), broken()), Some(75));
    assert_eq!(stage.runs(), 2);
}

#[tokio::test]
async fn a_stalled_stderr_keeps_neither_the_lock_nor_the_end() {
    let stage = Stage::new("streams/stalled").await;
    for options in [&["-v"][..], &["-v", "--log-format=json"]] {
        let (reader, stderr) = stalled();
        let mut ours = stage.with(options, "exit 5");
        assert_eq!(code_of(&mut ours, Stdio::null(), stderr), Some(5), "{options:?}");
        assert_eq!(stage.info().await, None, "{options:?}");
        drop(reader);
    }
}

#[tokio::test]
async fn a_panic_with_a_stalled_stderr_still_gives_the_lock_back() {
    let stage = Stage::new("streams/panic").await;
    let (reader, stderr) = stalled();
    let mut ours = stage.around("true");
    ours.env("TFWRAP_FAIL_POINT", "before-spawn");
    assert_eq!(code_of(&mut ours, Stdio::null(), stderr), Some(70));
    assert_eq!(stage.info().await, None);
    drop(reader);
}

#[tokio::test]
async fn a_lost_release_with_a_stalled_stderr_still_ends() {
    let stage = Stage::new("streams/release").await;
    stage.plan(&[("DeleteItem", crate::support::proxy::Fault::DENIED, usize::MAX)]);
    let (reader, stderr) = stalled();
    assert_eq!(code_of(&mut stage.around("true"), Stdio::null(), stderr), Some(74));
    eventually("it was asked for", || stage.requests("DeleteItem") == 1);
    drop(reader);
}

#[tokio::test]
async fn files_of_the_runner_that_cannot_be_written_lose_no_lock_and_no_code() {
    let stage = Stage::new("streams/files").await;
    for file in ["/dev/full", "/no/such/directory/file", "/"] {
        let mut ours = stage.around("exit 5");
        ours.env("GITHUB_ACTIONS", "true");
        ours.env("GITHUB_OUTPUT", file).env("GITHUB_STEP_SUMMARY", file);
        let done = run(&mut ours).expect_code(5);
        for (variable, missing) in
            [("GITHUB_OUTPUT", "later steps"), ("GITHUB_STEP_SUMMARY", "summary does not mention")]
        {
            let named = format!("tfwrap: warning: cannot write to `{file}` (from `{variable}`)");
            // Annotations say the same once more.
            let warned = done.stderr.lines().filter(|line| line.starts_with(&named)).count();
            assert_eq!(warned, 1, "{file} {variable}: {}", done.stderr);
            let hinted = |line: &str| line.starts_with("tfwrap: hint: ") && line.contains(missing);
            assert_eq!(done.stderr.lines().filter(|line| hinted(line)).count(), 1, "{variable}");
        }
        assert_eq!(stage.info().await, None, "{file}");
    }
}

#[tokio::test]
async fn a_child_whose_reader_has_gone_ends_as_without_us() {
    let stage = Stage::new("streams/pipe").await;
    let mut ours = stage.around("yes");
    assert_eq!(code_of(&mut ours, broken(), Stdio::null()), Some(141), "by SIGPIPE");
    assert_eq!(stage.info().await, None);
}
