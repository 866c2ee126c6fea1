//! Runners that signal a process group, every process of the job, or the first one only.

use std::time::Duration;

use nix::sys::signal::Signal as Sent;
use rustix::process::Signal;
use tfwrap::clock::uptime;
use tfwrap::lock::Uptime;

use super::Played;
use super::container::Container;
use crate::stage::{PATIENCE, Stage, orphan_grace, scaled};
use crate::step::{Group, within};
use crate::support::procs::{self, Process};

pub(super) const BUILDKITE: &[(&str, &str)] = &[
    ("CI", "true"),
    ("BUILDKITE", "true"),
    ("BUILDKITE_JOB_ID", "0190-@"),
    ("BUILDKITE_BUILD_URL", "https://buildkite.com/acme/infra/builds/7"),
];

const COOKIE: &str = "JENKINS_SERVER_COOKIE";

pub(crate) const JENKINS: &[(&str, &str)] = &[
    ("CI", "true"),
    ("JENKINS_URL", "https://jenkins.example/"),
    ("BUILD_URL", "https://jenkins.example/job/infra/7/"),
    (COOKIE, "durable-@"),
];

pub(crate) const POD: &[(&str, &str)] = &[("CI", "true")];

/// bash becomes a command that is the only one.
pub(super) fn buildkite(stage: &mut Stage) -> Played {
    cancel_group(stage, &stage.shell_words())
}

/// bash dies of the TERM at once, and for the agent the job is over.
pub(super) fn buildkite_script(stage: &mut Stage) -> Played {
    cancel_group(stage, &format!("{}\necho 'the next line'\n", stage.shell_words()))
}

fn cancel_group(stage: &Stage, script: &str) -> Played {
    let mut command = stage.command("bash");
    command.args(["-e", "-c", script]);
    let mut step = stage.start(&mut command, Group::Own);
    let mut played = Played::new(stage.at_work());
    step.signal_group(Sent::SIGTERM);
    if !step.ends_within(scaled(9.0)) {
        step.signal_group(Sent::SIGKILL);
        step.ends_within(PATIENCE);
    }
    // Whoever is left may write for a second.
    step.closes_within(Duration::from_secs(1));
    step.close();
    played.code = step.code();
    played
}

/// `ProcessTree.killAll`: every process with the cookie is killed with all below it, those first.
pub(crate) fn jenkins(stage: &mut Stage) -> Played {
    let script = stage.file("script.sh", &format!("{}\n", stage.shell_words()));
    let mut step = stage.start(stage.command("sh").arg("-xe").arg(script), Group::Own);
    let mut played = Played::new(stage.at_work());
    let cookie = format!("durable-{}", stage.path("").display().to_string().trim_end_matches('/'));
    for process in procs::with_variable(COOKIE, &cookie) {
        if process.is_alive() {
            let give_up_at = uptime().plus(scaled(5.0));
            kill_recursively(&mut played, &process, give_up_at);
        }
    }
    // Nothing is killed on Unix; the pipeline goes on to `post` when the script has ended or not.
    played.recover = stage.recover_waiting();
    step.ends_within(PATIENCE);
    played.code = step.code();
    played
}

fn kill_recursively(played: &mut Played, process: &Process, give_up_at: Uptime) {
    for one in process.tree() {
        played.signal(&one, Signal::TERM);
        let left = give_up_at.since(uptime());
        within(left, || !one.is_alive());
    }
}

pub(super) fn pod(stage: &mut Stage) -> Played {
    let mut container = Container::start(stage, &stage.words());
    let mut played = Played::new(stage.at_work());
    container.stop(scaled(30.0));
    played.code = container.step.code();
    if !within(Duration::from_millis(500), || played.watch.is_free()) {
        played.taken_over(stage);
    }
    played
}

/// Out of memory, and runners that kill at once.
pub(super) fn kill(stage: &mut Stage) -> Played {
    let mut step = stage.start_plainly();
    let mut played = Played::new(stage.at_work());
    step.signal(Signal::KILL);
    step.ends_within(PATIENCE);
    played.code = step.code();
    // Whoever killed it reads on.
    step.closes_within(orphan_grace() + PATIENCE);
    played
}
