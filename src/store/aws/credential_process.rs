//! `credential_process`: a program that a profile names, which prints credentials.
//!
//! Not the SDK's own provider: that keeps the program's standard error from whoever is to type a
//! one-time password, leaves it running when we end, and reads a number as no expiry.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::super::StoreError;
use super::super::blocking::reason;
use super::chain::SettingPlace;
use super::session::Session;

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
        StoreError::Credentials(format!("the `credential_process` of {place} {why}").into())
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
    let mut answer = Vec::new();
    let heard = async {
        if let Some(output) = running.stdout.take() {
            output.take((MOST << 20) + 1).read_to_end(&mut answer).await?;
        }
        if answer.len() as u64 > MOST << 20 {
            return Ok(None);
        }
        running.wait().await.map(Some)
    };
    // Whatever is left of it is killed, or meets a closed pipe. It has no group of its own: from
    // there it could neither ask at the terminal nor hear Ctrl-C.
    let status = match timeout(PATIENCE, heard).await {
        Err(_) => return Err(failed("did not answer within a minute".to_owned())),
        Ok(Err(error)) => return Err(failed(format!("cannot be heard: {}", reason(&error)))),
        Ok(Ok(None)) => {
            return Err(failed(format!("writes more than {MOST} MiB, which are no credentials")));
        }
        Ok(Ok(Some(status))) => status,
    };
    if !status.success() {
        return Err(failed(format!("failed: {status}")));
    }
    read(&answer).map_err(|why| failed(format!("gives no credentials: {why}")))
}

fn read(answer: &[u8]) -> Result<Session, String> {
    let session = Session::parse(answer, "SessionToken")?;
    let fields: Value = serde_json::from_slice(answer).unwrap_or_default();
    let fields = fields.as_object().into_iter().flatten();
    let mut version = fields.filter(|(key, _)| key.eq_ignore_ascii_case("version")).map(|it| it.1);
    if version.next_back().and_then(Value::as_i64) != Some(1) {
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
            (String::new(), "the answer is no JSON object"),
        ] {
            let error = run(&format!("echo '{answer}'")).await.unwrap_err();
            assert!(error.ends_with(expected) && !error.contains("hunter2"), "{error}");
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
                "the `credential_process` of profile `p` writes more than 1 MiB, which are no \
                 credentials"
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
