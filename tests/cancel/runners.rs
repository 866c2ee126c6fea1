//! How each runner starts a step and cancels it, on real processes.
//!
//! | module | replays |
//! | --- | --- |
//! | `actions` | GitHub Actions and Azure Pipelines, which share their way to end a process |
//! | `gitlab` | GitLab's executors |
//! | `groups` | Buildkite, Jenkins, a pod, a kill without warning |
//! | `terminal` | Ctrl-C, and a terminal that is closed |
//! | `between` | `timeout`, a program in Terraform's place, a script below `run` |
//! | `container` | a PID namespace, whose processes die with its first |

mod actions;
mod between;
mod container;
mod gitlab;
mod groups;
mod terminal;

use rustix::process::Signal;

use crate::lock::Watch;
use crate::stage::{Stage, Work};
use crate::support::procs::Process;

pub(crate) use actions::{GITHUB, github_alone, github_exec};
pub(crate) use gitlab::JOB as GITLAB;
pub(crate) use groups::{JENKINS, POD, jenkins};

/// A runner, and how it is replayed.
pub(crate) struct Runner {
    pub(crate) name: &'static str,
    /// What a cancel is, for people.
    pub(crate) cancel: &'static str,
    /// Variables of the job; `@` is the directory of the case.
    pub(crate) job: &'static [(&'static str, &'static str)],
    /// Whether it ends a child that does not end by itself.
    pub(crate) ends_all: bool,
    /// Whether only a real Terraform can be told from what is around it.
    pub(crate) real_only: bool,
    pub(crate) play: fn(&mut Stage) -> Played,
}

impl Runner {
    /// Whether it comes to an end around such a child.
    pub(crate) fn plays(&self, work: Work) -> bool {
        match work {
            Work::Terraform(_) => true,
            Work::Ends(_) => !self.real_only,
            Work::Never => !self.real_only && self.ends_all,
        }
    }

    /// Whether there is such a runner without tfwrap.
    pub(crate) fn has_control(&self) -> bool {
        self.name != ACTION
    }
}

/// How a replay went.
pub(crate) struct Played {
    pub(crate) watch: Watch,
    /// The entry process's exit code.
    pub(crate) code: Option<i32>,
    /// That of `tfwrap recover`, where there was one.
    pub(crate) recover: Option<i32>,
    /// How often the runner itself signalled the child.
    pub(crate) direct: usize,
    /// Whether the next run had to wait for the lease.
    pub(crate) lease: bool,
    /// What else went wrong.
    pub(crate) problems: Vec<String>,
}

impl Played {
    fn new(watch: Watch) -> Self {
        let problems = Vec::new();
        Self { watch, code: None, recover: None, direct: 0, lease: false, problems }
    }

    /// Signals a process that the runner found by itself.
    fn signal(&mut self, process: &Process, signal: Signal) {
        let is_child = self.watch.child.contains(process);
        self.direct += usize::from(process.signal(signal) && is_child);
    }

    /// Nobody is left, and whoever wants the lock next takes it over when its lease is over.
    fn taken_over(&mut self, stage: &Stage) {
        if stage.is_bare() {
            return;
        }
        self.lease = true;
        let code = stage.next_run("40s");
        self.problem(code != Some(0), || format!("the next run ended with {code:?}"));
    }

    fn problem(&mut self, there_is: bool, what: impl FnOnce() -> String) {
        if there_is {
            self.problems.push(what());
        }
    }
}

/// It runs nothing but tfwrap.
const ACTION: &str = "GitHub Actions, the action";

pub(crate) const RUNNERS: &[Runner] = &[
    Runner {
        name: "GitHub Actions, `exec tfwrap`",
        cancel: "INT, after 7.5 s TERM, after 2.5 s KILL, to the step's process; `recover --wait` after it",
        job: actions::GITHUB,
        ends_all: true,
        real_only: false,
        play: actions::github_exec,
    },
    Runner {
        name: "GitHub Actions, `exec tfwrap`, nothing after it",
        cancel: "the same; then KILL to all that have the job's `RUNNER_TRACKING_ID`",
        job: actions::GITHUB,
        ends_all: true,
        real_only: false,
        play: actions::github_alone,
    },
    Runner {
        name: "GitHub Actions, without `exec`",
        cancel: "the same, to bash: tfwrap hears nothing before `recover --wait`",
        job: actions::GITHUB,
        ends_all: true,
        real_only: false,
        play: actions::github_child,
    },
    Runner {
        name: ACTION,
        cancel: "the same, to the action's node; its post step after it",
        job: actions::GITHUB,
        ends_all: true,
        real_only: false,
        play: actions::github_action,
    },
    Runner {
        name: "Azure Pipelines, `exec tfwrap`",
        cancel: "node makes INT a TERM, and dies of the TERM after 7.5 s; `recover --wait` after it",
        job: actions::AZURE,
        ends_all: true,
        real_only: false,
        play: actions::azure,
    },
    Runner {
        name: "GitLab, shell",
        cancel: "TERM to the process group, after 10 min KILL; `recover --wait` in `after_script`",
        job: gitlab::JOB,
        ends_all: true,
        real_only: false,
        play: gitlab::shell,
    },
    Runner {
        name: "GitLab, docker",
        cancel: "TERM to every process, highest PID first, up to 6 s each, 10 s in all; TERM to PID 1, after 10 s all are gone; `recover --wait` in `after_script`",
        job: gitlab::JOB,
        ends_all: true,
        real_only: false,
        play: gitlab::docker,
    },
    Runner {
        name: "GitLab, kubernetes",
        cancel: "TERM once to the children of the script's shells, `recover --wait` in `after_script` at once beside it; then TERM to PID 1, after 30 s all are gone",
        job: gitlab::JOB,
        ends_all: true,
        real_only: false,
        play: gitlab::kubernetes,
    },
    Runner {
        name: "Buildkite, one command",
        cancel: "TERM to the process group, after 9 s KILL; nothing after it",
        job: groups::BUILDKITE,
        ends_all: true,
        real_only: false,
        play: groups::buildkite,
    },
    Runner {
        name: "Buildkite, a script of several commands",
        cancel: "the same; bash dies of the TERM, and the job is over",
        job: groups::BUILDKITE,
        ends_all: false,
        real_only: false,
        play: groups::buildkite_script,
    },
    Runner {
        name: "Jenkins",
        cancel: "TERM to every process that has the job's cookie, children first, up to 5 s, again for each that is left; `recover --wait` after it",
        job: groups::JENKINS,
        ends_all: true,
        real_only: false,
        play: groups::jenkins,
    },
    Runner {
        name: "A pod or `docker stop`, tfwrap as PID 1",
        cancel: "TERM to PID 1, after 30 s all are gone",
        job: groups::POD,
        ends_all: true,
        real_only: false,
        play: groups::pod,
    },
    Runner {
        name: "No warning: out of memory, CircleCI, Bitbucket",
        cancel: "KILL to tfwrap alone; nothing after it",
        job: groups::POD,
        ends_all: true,
        real_only: false,
        play: groups::kill,
    },
    Runner {
        name: "Ctrl-C on a terminal",
        cancel: "INT to the foreground group",
        job: &[],
        ends_all: false,
        real_only: false,
        play: terminal::ctrl_c,
    },
    Runner {
        name: "A terminal that is closed",
        cancel: "HUP to the shell and its jobs",
        job: &[],
        ends_all: false,
        real_only: false,
        play: terminal::closed,
    },
    Runner {
        name: "`timeout 600 tfwrap`",
        cancel: "TERM to tfwrap, and at once to the group of both",
        job: groups::POD,
        ends_all: false,
        real_only: false,
        play: between::timeout,
    },
    Runner {
        name: "`terraform` is a wrapper without handlers",
        cancel: "TERM to the process group",
        job: groups::POD,
        ends_all: false,
        real_only: false,
        play: between::deaf,
    },
    Runner {
        name: "`terraform` is a program that passes signals on",
        cancel: "INT to the process group",
        job: groups::POD,
        ends_all: false,
        real_only: true,
        play: between::forwarder,
    },
    Runner {
        name: "`tfwrap run -- ./deploy`, a script that calls `terraform`",
        cancel: "TERM to tfwrap",
        job: groups::POD,
        ends_all: false,
        real_only: false,
        play: between::script,
    },
];
