//! `credential_process`: a program that a profile names, which prints credentials.
//!
//! Not the SDK's own provider: that keeps the program's standard error from whoever is to type a
//! one-time password, leaves it running when we end, and reads a number as no expiry.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::super::blocking::reason;
use super::super::{FlawKind, StoreError};
use super::chain::SettingPlace;
use super::go_json;
use super::session::Session;
use crate::supervise::kill_below;

/// As long as Go's SDK waits.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is read of its output, in MiB; credentials have some kB.
const MOST: u64 = 1;

/// Runs the program as Terraform would: by the shell, in the directory of the run, with our standard
/// error, and with our input where that is a terminal. A pipe's input is the command's own.
pub(super) async fn session(
    command: &str,
    place: &SettingPlace,
    dir: &Path,
) -> Result<Session, StoreError> {
    let failed = |why: String| {
        StoreError::Credentials(
            FlawKind::Process.flaw(format!("the `credential_process` of {place} {why}")),
        )
    };
    let input = if std::io::stdin().is_terminal() { Stdio::inherit() } else { Stdio::null() };
    let mut program = Command::new("sh");
    program.arg("-c").arg(command).kill_on_drop(true);
    program.stdin(input).stdout(Stdio::piped()).stderr(Stdio::inherit());
    if !dir.as_os_str().is_empty() {
        program.current_dir(dir);
    }
    // `output` would take its standard error, too.
    let mut running =
        program.spawn().map_err(|error| failed(format!("cannot be run: {}", reason(&error))))?;
    // Closed after all is killed: one that dies of a closed pipe leaves what it has started.
    let mut output = running.stdout.take();
    let mut ended = EndWithAll(running.id());
    let mut answer = Vec::new();
    let heard = async {
        if let Some(output) = &mut output {
            output.take((MOST << 20) + 1).read_to_end(&mut answer).await?;
        }
        if answer.len() as u64 > MOST << 20 {
            return Ok(None);
        }
        running.wait().await.map(Some)
    };
    // It has no group of its own: from there it could neither ask at the terminal nor hear Ctrl-C.
    let status = match timeout(PATIENCE, heard).await {
        Err(_) => return Err(failed("did not answer within a minute".to_owned())),
        Ok(Err(error)) => {
            return Err(failed(format!("wrote output that cannot be read: {}", reason(&error))));
        }
        Ok(Ok(None)) => {
            return Err(failed(format!(
                "writes more than {MOST} MiB, so this cannot be credentials"
            )));
        }
        Ok(Ok(Some(status))) => status,
    };
    // What it has left goes on, as an agent that keeps a login.
    ended.0 = None;
    if !status.success() {
        return Err(failed(format!("failed: {status}")));
    }
    read(&answer).map_err(|why| failed(format!("gives no credentials: {why}")))
}

/// A program that has not ended, and what it has started: killed with whoever waited for it.
struct EndWithAll(Option<u32>);

impl Drop for EndWithAll {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|pid| i32::try_from(pid).ok()) {
            kill_below(Pid::from_raw(pid));
        }
    }
}

fn read(answer: &[u8]) -> Result<Session, String> {
    let session = Session::parse(answer, "SessionToken")?;
    let fields = go_json::object(answer).into_iter().flatten();
    let mut version = fields.filter(|(key, _)| key.eq_ignore_ascii_case("version")).map(|it| it.1);
    if version.next_back().and_then(|version| version.as_i64()) != Some(1) {
        return Err("the answer's `Version` is not 1".to_owned());
    }
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> SettingPlace {
        SettingPlace::Profile("p".to_owned())
    }

    async fn run(command: &str) -> Result<Session, String> {
        session(command, &place(), Path::new("/")).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_program_gives_credentials_or_says_why_not() {
        let whole = r#"{"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "hunter2"}"#;
        assert_eq!(run(&format!("echo '{whole}'")).await.unwrap().keys.id, "AKIA");
        assert_eq!(run(r#"[ "$PWD" = / ] && exit 3"#).await.unwrap_err(), {
            "the `credential_process` of profile `p` failed: exit status: 3"
        });
        for (answer, expected) in [
            (whole.replace('1', "2"), "the answer's `Version` is not 1"),
            (whole.replace("\"Version\": 1, ", ""), "the answer's `Version` is not 1"),
            (whole.replace("AccessKeyId", "Id"), "the answer has no `AccessKeyId`"),
            (String::new(), "the answer is not a JSON object"),
        ] {
            let error = run(&format!("echo '{answer}'")).await.unwrap_err();
            assert!(error.ends_with(expected) && !error.contains("hunter2"), "{error}");
        }
    }

    /// A zombie is gone: nobody need have reaped it yet.
    fn is_gone(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
    }

    /// The control ends by itself, and its agent goes on.
    #[tokio::test]
    async fn what_it_has_started_ends_with_one_that_is_killed() {
        const FOR_EVER: &str = "sleep 60";
        const TOO_MUCH: &str = "exec cat /dev/zero";
        for (then, is_killed) in [(FOR_EVER, true), (TOO_MUCH, true), ("echo {}", false)] {
            let dir = tempfile::tempdir().unwrap();
            let pid = dir.path().join("pid");
            let command = format!(
                "(sleep 60 & echo $! > {at}.next; mv {at}.next {at}; wait) > /dev/null & \
                 until test -e {at}; do sleep 0.01; done; {then}",
                at = pid.display()
            );
            let begun = async {
                while !pid.exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            {
                let asked = std::pin::pin!(run(&command));
                // Whoever asks goes away in the middle.
                match futures_util::future::select(asked, std::pin::pin!(begun)).await {
                    futures_util::future::Either::Right(((), asked)) if then != FOR_EVER => {
                        assert!(asked.await.is_err());
                    }
                    _ => {}
                }
            }
            let id = std::fs::read_to_string(&pid).unwrap();
            let id = id.trim();
            if is_killed {
                let gone = async {
                    while !is_gone(id) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                timeout(Duration::from_secs(30), gone).await.expect("killed");
            } else {
                assert!(!is_gone(id));
                kill_below(Pid::from_raw(id.parse().unwrap()));
            }
        }
    }

    #[tokio::test]
    async fn one_that_writes_without_end_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        for command in ["exec yes", "yes | cat", "exec head -c 1048577 /dev/zero"] {
            let command = format!("echo $$ > {}; {command}", pid.display());
            let asked = timeout(Duration::from_secs(30), run(&command)).await;
            assert_eq!(
                asked.expect("not heard to its end").unwrap_err(),
                "the `credential_process` of profile `p` writes more than 1 MiB, so this \
                 cannot be credentials"
            );
            let id = std::fs::read_to_string(&pid).unwrap();
            let id = nix::unistd::Pid::from_raw(id.trim().parse().unwrap());
            let gone = async {
                while nix::sys::signal::kill(id, None).is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(30), gone).await.expect("killed and reaped");
        }
        // As much as there may be.
        let whole = r#"{"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "s"}"#;
        let spaces = format!("printf '%1048515s' ''; printf '%s' '{whole}'");
        assert_eq!(whole.len() + 1_048_515, 1 << 20);
        assert_eq!(run(&spaces).await.unwrap().keys.id, "AKIA");
    }
}
