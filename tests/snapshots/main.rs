//! What people and programs read of tfwrap, as it was last agreed: a change of it is seen in review,
//! text by text.
//!
//! | module | is |
//! | --- | --- |
//! | `help` | `--help` of every command |
//! | `events` | each line of the JSON log, and what text says in its place |
//! | `errors` | each error, with its hint and its exit code |
//! | `json_log` | holds each line of the JSON log to its schema |
//! | `typed` | what is said of wrong usage and wrong configuration, through the program itself |
//!
//! The texts are in the directories of those names. A difference fails, and nothing is written, until
//! `INSTA_UPDATE=always cargo test --test snapshots` accepts it.

mod errors;
mod events;
mod help;
#[path = "../support/json_log.rs"]
mod json_log;
mod typed;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// Fails unless the files of this directory are these texts, no more and no fewer.
#[track_caller]
fn agreed(dir: &str, texts: &BTreeMap<String, String>) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(dir);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, text) in texts {
            insta::assert_snapshot!(name.as_str(), text);
        }
    });
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(dir);
    for entry in std::fs::read_dir(&dir).expect("snapshots") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        let name = name.trim_end_matches(".new").trim_end_matches(".snap");
        assert!(texts.contains_key(name), "nothing says what is in {}/{name}.snap", dir.display());
    }
}

/// What tfwrap says in `dir` when this is typed, and its exit code; nothing but `PATH` of the tests'
/// own environment reaches it.
fn typed(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> (String, String, Option<i32>) {
    #[expect(clippy::disallowed_methods, reason = "terraform must be found")]
    let path = std::env::var_os("PATH").expect("a PATH");
    let done = Command::new(env!("CARGO_BIN_EXE_tfwrap"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", path)
        .env("HOME", dir)
        .env("COLUMNS", "100")
        .env("TFWRAP_STATE_DIR", dir.join(".tfwrap-state"))
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("tfwrap");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (text(done.stdout), text(done.stderr), done.status.code())
}
