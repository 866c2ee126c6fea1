//! The environment of a `hold`, for those who run the next commands.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cli::HoldFormat;
use crate::env::Env;
use crate::report::github::append_environment;
use crate::report::{answer, shell_quote};
use crate::run::hold::Handed;

/// Gives it in this form.
///
/// # Errors
/// In words: where it could not be written.
pub(super) fn print(handed: &Handed, format: HoldFormat, env: &Env) -> Result<(), String> {
    let text = match format {
        HoldFormat::Shell => as_shell(handed),
        HoldFormat::Json => as_json(handed),
        HoldFormat::Github => {
            let path = handed.path.to_string_lossy();
            return append_environment(env, &handed.env, &path);
        }
    };
    answer(&text).map_err(|error| format!("stdout: {error}"))
}

fn as_shell(handed: &Handed) -> String {
    let mut text = String::new();
    for (name, value) in &handed.env {
        let _infallible = writeln!(text, "export {name}={}", shell_quote(value));
    }
    let path = shell_quote(&handed.path.to_string_lossy());
    let _infallible = writeln!(text, "export PATH={path}\":$PATH\"");
    text
}

fn as_json(handed: &Handed) -> String {
    let env: serde_json::Map<String, Value> =
        handed.env.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let locks: Vec<_> =
        handed.locks.iter().map(|(lock, id)| json!({ "lock": lock, "id": id })).collect();
    format!("{}\n", json!({ "env": env, "path": handed.path, "locks": locks }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_what_was_meant() {
        let handed = Handed {
            env: vec![("TFWRAP_HELD".to_owned(), "dynamodb://t/a'b $(x)#1".to_owned())],
            path: "/state dir/bin".into(),
            locks: vec![("dynamodb://t/k".to_owned(), "1".to_owned())],
        };
        let script = format!("{}printf '%s|%s' \"$TFWRAP_HELD\" \"$PATH\"", as_shell(&handed));
        let shell = std::process::Command::new("/bin/sh")
            .env("PATH", "/old")
            .args(["-c", &script])
            .output()
            .unwrap();
        let read = String::from_utf8(shell.stdout).unwrap();
        assert_eq!(read, "dynamodb://t/a'b $(x)#1|/state dir/bin:/old");
        let json: Value = serde_json::from_str(&as_json(&handed)).unwrap();
        assert_eq!(json["locks"][0]["id"], "1");
    }
}
