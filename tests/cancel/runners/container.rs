//! A container as far as signals go: a PID namespace, all of which dies with its first process.

use std::process::Command;

use rustix::process::Signal;

use crate::stage::{PATIENCE, Stage};
use crate::step::{Group, Step, within};
use crate::support::procs::{self, Process};

/// Makes the command the first process of a namespace. No root is needed; where the kernel refuses
/// this, a container cannot be replayed, and the test fails and says so (`.ci/run` asks for it).
pub(super) const ENTER: [&str; 6] =
    ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];

pub(super) struct Container {
    pub(super) step: Step,
    pub(super) first: Process,
    namespace: String,
    directory: std::path::PathBuf,
}

impl Container {
    /// Starts the command as PID 1.
    pub(super) fn start(stage: &Stage, words: &[String]) -> Self {
        let mut command: Command = stage.command(ENTER[0]);
        command.args(&ENTER[1..]).args(words);
        let step = stage.start(&mut command, Group::Own);
        let outside = step.process().namespace();
        let mut first = None;
        within(PATIENCE, || {
            // `unshare` itself is in it before its `/proc` is.
            let inside = |process: &Process| {
                process.namespace() != outside && !process.program().ends_with("/unshare")
            };
            first = step.process().children().into_iter().find(inside);
            first.is_some()
        });
        let first = first.unwrap_or_else(|| {
            panic!(
                "a replay of containers needs user and PID namespaces, which fail here: {}",
                stage.output().text()
            )
        });
        let namespace = first.namespace().expect("it runs");
        Self { step, first, namespace, directory: stage.path("") }
    }

    /// All in it, the highest PID first.
    pub(super) fn processes(&self) -> Vec<Process> {
        procs::in_namespace(&self.namespace)
    }

    /// Words that run another command in it, as `docker exec` does.
    pub(super) fn enter(&self) -> Vec<String> {
        let target = self.first.pid.to_string();
        // The other mount namespace would leave it in the root directory.
        let here = format!("--wd={}", self.directory.display());
        let words = ["nsenter", "--target", &target, "--user", "--preserve-credentials", "--pid"];
        words.into_iter().chain(["--mount", &here]).map(str::to_owned).collect()
    }

    /// TERM to PID 1; after the grace the end of all.
    pub(super) fn stop(&mut self, grace: std::time::Duration) {
        self.first.signal(Signal::TERM);
        if !self.step.ends_within(grace) {
            self.first.signal(Signal::KILL);
            self.step.ends_within(PATIENCE);
        }
    }
}
