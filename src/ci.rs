//! Which CI this is and what it says about the run: the link, who started it, the job. It goes into
//! the lock's `Info`, which whoever is locked out gets to read, also from a stock Terraform.
//!
//! Everything here comes from the environment, hence from outside: text is cleaned, links are taken
//! only as http(s) without user info.

mod detect;
mod link;
mod pipeline;

use crate::env::Env;
use crate::lock::history::Pipeline;
use crate::report::{clean, clean_to};
pub use detect::System;
use detect::{Facts, facts};

/// The most characters of `Info`: Terraform prints it in a box of 78 columns, two or three lines
/// of it are read.
const MAX_INFO: usize = 200;

/// The most characters of an actor's or a job's name in `Info`.
const MAX_NAME: usize = 60;

/// The variable with the link to this run.
pub const RUN_URL: &str = "TFWRAP_RUN_URL";
/// The variable with the name of who started it.
pub const ACTOR: &str = "TFWRAP_ACTOR";

/// What is known about the run that this process belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ci {
    /// Which CI, if it is one that tfwrap knows.
    pub system: Option<System>,
    /// Whether this is a CI at all; also true where only `CI` says so.
    pub in_ci: bool,
    /// The link to the run, `TFWRAP_RUN_URL` first.
    pub run_url: Option<String>,
    /// Who started it, `TFWRAP_ACTOR` first.
    pub actor: Option<String>,
    /// The job's name.
    pub job: Option<String>,
    /// Which attempt at the job this is, from 1.
    pub attempt: Option<u32>,
    /// A value that this very job has and no other, not even another leg of its matrix. Raw: it is
    /// compared, never shown.
    pub job_key: Option<String>,
    /// The commit that it runs for.
    pub commit: Option<String>,
    /// The pipeline that it is a run of, where its runs are numbered.
    pub pipeline: Option<Pipeline>,
}

impl Ci {
    /// Reads it from the environment.
    #[must_use]
    pub fn from_env(env: &Env) -> Self {
        let system = System::detect(env);
        let Facts { run_url, actor, job, attempt } =
            system.map(|system| facts(system, env)).unwrap_or_default();
        let text = |value: Option<String>| {
            value.map(|value| clean_to(value.trim(), MAX_NAME)).filter(|value| !value.is_empty())
        };
        Self {
            system,
            in_ci: system.is_some() || is_set(env, "CI"),
            run_url: env
                .get(RUN_URL)
                .map(str::to_owned)
                .or(run_url)
                .and_then(|url| link::checked(&url)),
            actor: text(env.get(ACTOR).map(str::to_owned).or(actor)),
            job: text(job),
            attempt,
            job_key: job_key(env),
            commit: system.and_then(|system| pipeline::commit(system, env)),
            pipeline: system.and_then(|system| pipeline::pipeline(system, env)),
        }
    }

    /// What goes into the lock's `Info`: `https://… (deploy by alice, attempt 2)`. Without a CI it
    /// names the process, since `Who` already names the user and the machine.
    #[must_use]
    pub fn info_text(&self) -> String {
        let subject = match (&self.run_url, self.system) {
            (Some(url), _) => url.clone(),
            (None, Some(system)) => system.name().to_owned(),
            (None, None) => format!("tfwrap, process {}", std::process::id()),
        };
        let mut details = self.job.clone().unwrap_or_default();
        if let Some(actor) = &self.actor {
            let space = if details.is_empty() { "" } else { " " };
            details = format!("{details}{space}by {actor}");
        }
        if let Some(attempt) = self.attempt.filter(|attempt| *attempt > 1) {
            let comma = if details.is_empty() { "" } else { ", " };
            details = format!("{details}{comma}attempt {attempt}");
        }
        if details.is_empty() {
            return clean_to(&subject, MAX_INFO);
        }
        // The link must stay whole to be of use, so it is the details that give way.
        let room = MAX_INFO.saturating_sub(subject.chars().count() + " ()".len());
        if room < 10 {
            return clean_to(&subject, MAX_INFO);
        }
        format!("{} ({})", clean(&subject), clean_to(&details, room))
    }
}

/// What tells this very job from all others, the legs of a matrix too: variables that every process
/// of it has, all of a row together, and those after them where they are set. The first row that is
/// there counts.
const JOB_KEYS: [(&[&str], &[&str]); 8] = [
    (&["RUNNER_TRACKING_ID"], &[]),
    // A job in a container of GitHub's has no other: a runner has one job at a time.
    (&["GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB", "RUNNER_NAME"], &[]),
    // act, Gitea, Forgejo: legs and, with act, even runs share the first; but where they share a
    // machine, each has directories of its own.
    (
        &["GITHUB_RUN_ID", "GITHUB_JOB"],
        &["GITHUB_RUN_ATTEMPT", "GITHUB_REPOSITORY", "RUNNER_TEMP", "GITHUB_WORKSPACE"],
    ),
    (&["CI_JOB_ID"], &[]),
    (&["BUILDKITE_JOB_ID"], &[]),
    (&["VSTS_PROCESS_LOOKUP_ID"], &[]),
    // The ID of a job is the same in every run of its pipeline.
    (&["SYSTEM_JOBID", "BUILD_BUILDID"], &[]),
    // The cookie is the server's, or a workspace's; the tag is a build's.
    (&["JENKINS_SERVER_COOKIE"], &["BUILD_TAG"]),
];

/// The first variable that tells this job from others, with its value.
pub(crate) fn job_variable(env: &Env) -> Option<(&'static str, &str)> {
    let is_here = |row: &&[&str]| row.iter().all(|name| env.get(name).is_some());
    let row = JOB_KEYS.into_iter().map(|(row, _)| row).find(is_here)?;
    env.get(row[0]).map(|value| (row[0], value))
}

/// All of them together.
fn job_key(env: &Env) -> Option<String> {
    JOB_KEYS.into_iter().find_map(|(row, also)| {
        let values: Option<Vec<_>> = row.iter().map(|name| env.get(name)).collect();
        let also = also.iter().filter_map(|name| env.get(name));
        Some(values?.into_iter().chain(also).collect::<Vec<_>>().join("\n"))
    })
}

/// Whether a flag-like variable is set to something that does not mean no.
fn is_set(env: &Env, name: &str) -> bool {
    env.get(name).is_some_and(|value| !matches!(value, "0" | "false" | "False" | "FALSE"))
}

#[cfg(test)]
mod tests;
