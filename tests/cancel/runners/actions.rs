//! GitHub Actions and Azure Pipelines: both send INT, TERM and KILL to the entry process alone.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::Played;
use crate::stage::{PATIENCE, Stage, orphan_grace, recover_wait, scaled};
use crate::step::{Group, Step};
use crate::support::procs;

const TRACKING: &str = "RUNNER_TRACKING_ID";
const LOOKUP: &str = "VSTS_PROCESS_LOOKUP_ID";

pub(crate) const GITHUB: &[(&str, &str)] = &[
    ("CI", "true"),
    ("GITHUB_ACTIONS", "true"),
    ("GITHUB_SERVER_URL", "https://github.com"),
    ("GITHUB_REPOSITORY", "acme/infra"),
    ("GITHUB_RUN_ID", "19532180001"),
    ("GITHUB_RUN_ATTEMPT", "1"),
    ("GITHUB_JOB", "deploy"),
    (TRACKING, "github_@"),
    ("RUNNER_TEMP", "@/_temp"),
];

pub(super) const AZURE: &[(&str, &str)] = &[
    ("TF_BUILD", "True"),
    ("SYSTEM_JOBID", "12f1170f-54f2-53f3-20dd-22fc7dff55f9@"),
    (LOOKUP, "vsts_@"),
    ("AGENT_TEMPDIRECTORY", "@/_temp"),
];

/// The runner's worker. The step is in its process group, so a signal to our own group would hit
/// it.
struct Worker(Step);

impl Worker {
    fn start(stage: &Stage) -> Self {
        let mut command = Command::new("sleep");
        command.arg("3000").stdout(Stdio::null());
        Self(stage.start(&mut command, Group::Own))
    }

    fn group(&self) -> Group {
        Group::Of(self.0.process().pid)
    }

    fn check(&mut self, played: &mut Played) {
        let hit = !self.0.process().is_alive();
        played.problem(hit, || "the runner's own process group was signalled".to_owned());
    }
}

/// `ProcessInvoker`: INT, TERM, KILL to one process, the waits between them, and then up to five
/// seconds for streams that others still have. They are read on for as long as the job lives: .NET
/// does not close what its user reads.
fn invoke(step: &mut Step) {
    for (signal, wait) in [(Signal::INT, 7.5), (Signal::TERM, 2.5)] {
        step.signal(signal);
        if step.ends_within(scaled(wait)) {
            break;
        }
    }
    if !step.ends_within(scaled(0.0)) {
        step.signal(Signal::KILL);
        step.ends_within(PATIENCE);
    }
    step.closes_within(scaled(5.0));
}

/// "Complete job": the orphans that still say whose they are.
fn complete_job(variable: &str, value: &str) {
    for process in procs::with_variable(variable, value) {
        process.signal(Signal::KILL);
    }
}

fn tracked(stage: &Stage, prefix: &str) -> String {
    format!("{prefix}_{}", stage.path("").display().to_string().trim_end_matches('/'))
}

pub(crate) fn github_exec(stage: &mut Stage) -> Played {
    github(stage, "exec ", true)
}

pub(crate) fn github_alone(stage: &mut Stage) -> Played {
    github(stage, "exec ", false)
}

pub(super) fn github_child(stage: &mut Stage) -> Played {
    github(stage, "", true)
}

/// The action's own entry in place of a shell. The inputs are in variables, as the runner sets them.
pub(super) fn github_action(stage: &mut Stage) -> Played {
    let mut worker = Worker::start(stage);
    let words = stage.words();
    let [saved, path] = ["saved", "path"].map(|name| stage.file(name, ""));
    let entry = |name: &str| {
        let mut command = stage.command("node");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("action").join(name));
        command.env("INPUT_PATH", &words[0]).env("INPUT_COMMAND", words[1..].join("\n"));
        command.env("GITHUB_WORKSPACE", stage.path("")).env("GITHUB_PATH", &path);
        command.env("GITHUB_STATE", &saved);
        command.env("INPUT_RECOVER-WAIT", format!("{}ms", recover_wait().as_millis()));
        command
    };
    let mut step = stage.start(&mut entry("main.mjs"), worker.group());
    let mut played = Played::new(stage.at_work());
    invoke(&mut step);
    played.code = step.code();
    let mut post = entry("post.mjs");
    for line in std::fs::read_to_string(&saved).expect("the step's state").lines() {
        let (name, value) = line.split_once('=').expect("a name");
        post.env(format!("STATE_{name}"), value);
    }
    let mut post = stage.start(&mut post, worker.group());
    post.ends_within(recover_wait() + orphan_grace() + PATIENCE);
    played.recover = post.code();
    complete_job(TRACKING, &tracked(stage, "github"));
    worker.check(&mut played);
    played
}

fn github(stage: &mut Stage, exec: &str, cleanup: bool) -> Played {
    let mut worker = Worker::start(stage);
    let script = format!("{exec}{}\necho 'the next line'\n", stage.shell_words());
    let file = stage.file("step.sh", &script);
    let mut command = stage.command("bash");
    command.arg("-e").arg(file);
    let mut step = stage.start(&mut command, worker.group());
    let mut played = Played::new(stage.at_work());
    invoke(&mut step);
    played.code = step.code();
    if cleanup {
        played.recover = stage.recover_waiting();
    }
    complete_job(TRACKING, &tracked(stage, "github"));
    worker.check(&mut played);
    played
}

/// What the task's node does: turns INT into TERM for the bash of the script, and is not prepared
/// for a TERM of its own. Job control, because a shell without it lets its background ignore INT.
const TASK: &str = "
set -m
bash \"$1\" &
child=$!
trap 'kill -TERM \"$child\"' INT
while :; do
  wait \"$child\"
  code=$?
  kill -0 \"$child\" 2>/dev/null || exit \"$code\"
done
";

pub(super) fn azure(stage: &mut Stage) -> Played {
    let mut worker = Worker::start(stage);
    let script = stage.file("step.sh", &format!("exec {}\n", stage.shell_words()));
    let task = stage.file("task.sh", TASK);
    let mut step = stage.start(stage.command("bash").arg(task).arg(script), worker.group());
    let mut played = Played::new(stage.at_work());
    invoke(&mut step);
    played.code = step.code();
    played.recover = stage.recover_waiting();
    complete_job(LOOKUP, &tracked(stage, "vsts"));
    worker.check(&mut played);
    played
}
