//! What is said to a new user: each input with its exit code and the words that it must and must
//! not bring. A row is a line of shell in a directory of its own.

mod config;
mod ends;
mod files;
mod limits;
mod odd;
mod sandbox;
mod urls;
mod wrong;

use std::process::Command;

use crate::aftermath::{EndsHolds, STATE_DIR};
use crate::support::harness::{Finished, run, wrapper};
use crate::support::servers;

/// A row: what makes the directory, what is typed, and what comes of it. `HERE` is the directory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Row<'a> {
    pub(crate) make: &'a str,
    pub(crate) typed: &'a str,
    pub(crate) code: i32,
    pub(crate) says: &'a [&'a str],
    pub(crate) never: &'a [&'a str],
}

/// What no answer may ever hold.
const NEVER: [&str; 5] =
    ["panicked", "please report", "RUST_BACKTRACE", "Request {", "already taken"];

impl Row<'_> {
    /// Plays it, and gives what came of it.
    #[track_caller]
    pub(crate) fn play(&self) -> Finished {
        let dir = servers::local_backend_dir();
        let state_dir = dir.path().join(STATE_DIR);
        let _ends = EndsHolds(state_dir.clone());
        let here = dir.path().to_str().expect("a path");
        let filled = |text: &str| text.replace("HERE", here);
        let shell = |script: &str| {
            let mut shell = Command::new("sh");
            servers::clean(&mut shell, dir.path());
            shell.env("TFWRAP_STATE_DIR", &state_dir);
            shell.env("T", wrapper()).args(["-ec", &filled(script)]);
            shell
        };
        if !self.make.is_empty() {
            run(&mut shell(self.make)).expect_code(0);
        }
        let done = run(&mut shell(&format!("tfwrap() {{ \"$T\" \"$@\"; }}; {}", self.typed)));
        let all = format!("{}\n{}\n{}", self.typed, done.stdout, done.stderr);
        assert_eq!(done.status.code(), Some(self.code), "{all}");
        for words in self.says {
            assert!(done.stderr.contains(&filled(words)), "{words:?} is missing in: {all}");
        }
        for words in self.never.iter().chain(&NEVER) {
            assert!(!done.stderr.contains(&filled(words)), "{words:?} is in: {all}");
        }
        done
    }
}
