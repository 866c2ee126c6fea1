//! Which pipeline a run belongs to, and for which commit, as the CI says.

use super::System;
use crate::env::Env;
use crate::lock::history::{MOST_OF_A_NAME, Pipeline, cut};

/// The variables: the repository (joined by `/`), the workflow, the ref, the run's number, the commit.
struct Names {
    repository: &'static [&'static str],
    workflow: &'static [&'static str],
    reference: &'static [&'static str],
    number: &'static str,
    commit: &'static str,
}

fn names(system: System) -> Option<Names> {
    let names = |repository, workflow, reference, number, commit| {
        Some(Names { repository, workflow, reference, number, commit })
    };
    match system {
        System::GitHub | System::Gitea => names(
            &["GITHUB_REPOSITORY"],
            &["GITHUB_WORKFLOW"],
            &["GITHUB_REF"],
            "GITHUB_RUN_NUMBER",
            "GITHUB_SHA",
        ),
        System::GitLab => names(
            &["CI_PROJECT_PATH"],
            &[],
            &["CI_COMMIT_REF_NAME"],
            "CI_PIPELINE_IID",
            "CI_COMMIT_SHA",
        ),
        System::Buildkite => names(
            &["BUILDKITE_ORGANIZATION_SLUG", "BUILDKITE_PIPELINE_SLUG"],
            &[],
            &["BUILDKITE_BRANCH"],
            "BUILDKITE_BUILD_NUMBER",
            "BUILDKITE_COMMIT",
        ),
        System::Jenkins => names(&["JOB_NAME"], &[], &["GIT_BRANCH"], "BUILD_NUMBER", "GIT_COMMIT"),
        System::CircleCi => names(
            &["CIRCLE_PROJECT_USERNAME", "CIRCLE_PROJECT_REPONAME"],
            &["CIRCLE_JOB"],
            &["CIRCLE_BRANCH", "CIRCLE_TAG"],
            "CIRCLE_BUILD_NUM",
            "CIRCLE_SHA1",
        ),
        System::Azure => names(
            &["BUILD_REPOSITORY_NAME"],
            &["BUILD_DEFINITIONNAME"],
            &["BUILD_SOURCEBRANCH"],
            "BUILD_BUILDID",
            "BUILD_SOURCEVERSION",
        ),
        System::Bitbucket => names(
            &["BITBUCKET_REPO_FULL_NAME"],
            &[],
            &["BITBUCKET_BRANCH", "BITBUCKET_TAG"],
            "BITBUCKET_BUILD_NUMBER",
            "BITBUCKET_COMMIT",
        ),
        System::Woodpecker => {
            names(&["CI_REPO"], &[], &["CI_COMMIT_REF"], "CI_PIPELINE_NUMBER", "CI_COMMIT_SHA")
        }
        System::Drone => names(
            &["DRONE_REPO"],
            &[],
            &["DRONE_COMMIT_REF"],
            "DRONE_BUILD_NUMBER",
            "DRONE_COMMIT_SHA",
        ),
        System::Atlantis => names(
            &["BASE_REPO_OWNER", "BASE_REPO_NAME"],
            &["PROJECT_NAME"],
            &["HEAD_BRANCH_NAME"],
            // A pull request's is not that of a run.
            "",
            "HEAD_COMMIT",
        ),
        System::CodeBuild
        | System::Travis
        | System::Semaphore
        | System::Bamboo
        | System::TeamCity => None,
    }
}

/// The pipeline, where all that tells it from others is known.
pub(super) fn pipeline(system: System, env: &Env) -> Option<Pipeline> {
    let names = names(system)?;
    let number = env.get(names.number)?.parse().ok()?;
    let repository: Option<Vec<_>> = names.repository.iter().map(|name| env.get(name)).collect();
    let first = |names: &[&str]| {
        cut(names.iter().find_map(|name| env.get(name)).unwrap_or_default(), MOST_OF_A_NAME)
    };
    Some(Pipeline {
        repository: cut(&repository?.join("/"), MOST_OF_A_NAME),
        workflow: first(names.workflow),
        reference: first(names.reference),
        number,
    })
}

/// The commit that the CI runs for.
pub(super) fn commit(system: System, env: &Env) -> Option<String> {
    let commit = env.get(names(system)?.commit)?;
    crate::git::is_commit(commit).then(|| commit.to_owned())
}
