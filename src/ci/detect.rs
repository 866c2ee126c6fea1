//! One row per CI: how it is recognised, and where it says what.

use super::is_set;
use super::link::encode;
use crate::env::Env;

/// A CI that tfwrap knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum System {
    /// Gitea (and Forgejo) Actions.
    Gitea,
    /// GitHub Actions.
    GitHub,
    /// GitLab CI.
    GitLab,
    /// Buildkite.
    Buildkite,
    /// Jenkins.
    Jenkins,
    /// CircleCI.
    CircleCi,
    /// Azure Pipelines.
    Azure,
    /// Atlantis.
    Atlantis,
    /// Bitbucket Pipelines.
    Bitbucket,
    /// AWS CodeBuild.
    CodeBuild,
    /// Travis CI.
    Travis,
    /// Semaphore.
    Semaphore,
    /// Bamboo.
    Bamboo,
    /// TeamCity.
    TeamCity,
    /// Drone.
    Drone,
    /// Woodpecker.
    Woodpecker,
}

/// In the order in which they are looked for: whoever also sets another's variables comes first.
/// Gitea sets GitHub's; CodeBuild can be the machine under another CI's job, so it comes last.
const ORDER: [System; 16] = [
    System::Gitea,
    System::GitHub,
    System::GitLab,
    System::Buildkite,
    System::Woodpecker,
    System::CircleCi,
    System::Azure,
    System::Atlantis,
    System::Bitbucket,
    System::Travis,
    System::Semaphore,
    System::Bamboo,
    System::TeamCity,
    System::Drone,
    System::Jenkins,
    System::CodeBuild,
];

impl System {
    pub(super) fn detect(env: &Env) -> Option<Self> {
        ORDER.into_iter().find(|system| system.is_here(env))
    }

    fn is_here(self, env: &Env) -> bool {
        match self {
            Self::Gitea => is_set(env, "GITEA_ACTIONS") || is_set(env, "FORGEJO_ACTIONS"),
            Self::GitHub => is_set(env, "GITHUB_ACTIONS"),
            Self::GitLab => is_set(env, "GITLAB_CI"),
            Self::Buildkite => is_set(env, "BUILDKITE"),
            Self::Jenkins => is_set(env, "JENKINS_URL"),
            Self::CircleCi => is_set(env, "CIRCLECI"),
            Self::Azure => is_set(env, "TF_BUILD"),
            Self::Atlantis => is_set(env, "ATLANTIS_TERRAFORM_VERSION"),
            Self::Bitbucket => is_set(env, "BITBUCKET_BUILD_NUMBER"),
            Self::CodeBuild => is_set(env, "CODEBUILD_BUILD_ARN"),
            Self::Travis => is_set(env, "TRAVIS"),
            Self::Semaphore => is_set(env, "SEMAPHORE"),
            Self::Bamboo => is_set(env, "bamboo_buildNumber"),
            Self::TeamCity => is_set(env, "TEAMCITY_VERSION"),
            Self::Drone => is_set(env, "DRONE"),
            Self::Woodpecker => env.get("CI") == Some("woodpecker"),
        }
    }

    /// Its name as people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gitea => "Gitea Actions",
            Self::GitHub => "GitHub Actions",
            Self::GitLab => "GitLab CI",
            Self::Buildkite => "Buildkite",
            Self::Jenkins => "Jenkins",
            Self::CircleCi => "CircleCI",
            Self::Azure => "Azure Pipelines",
            Self::Atlantis => "Atlantis",
            Self::Bitbucket => "Bitbucket Pipelines",
            Self::CodeBuild => "AWS CodeBuild",
            Self::Travis => "Travis CI",
            Self::Semaphore => "Semaphore",
            Self::Bamboo => "Bamboo",
            Self::TeamCity => "TeamCity",
            Self::Drone => "Drone",
            Self::Woodpecker => "Woodpecker",
        }
    }
}

/// What a CI says, as it says it; not yet checked or cleaned.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) run_url: Option<String>,
    pub(super) actor: Option<String>,
    pub(super) job: Option<String>,
    pub(super) attempt: Option<u32>,
}

pub(super) fn facts(system: System, env: &Env) -> Facts {
    // The first of several that is set.
    let first = |names: &[&str]| names.iter().find_map(|name| env.get(name)).map(str::to_owned);
    let number = |name: &str| env.get(name).and_then(|value| value.parse::<u32>().ok());
    let none = Facts::default;
    match system {
        System::Gitea => Facts {
            run_url: github_run(env, "GITHUB_RUN_NUMBER", None),
            actor: first(&["GITHUB_ACTOR"]),
            job: first(&["GITHUB_JOB"]),
            ..none()
        },
        System::GitHub => Facts {
            run_url: github_run(env, "GITHUB_RUN_ID", env.get("GITHUB_RUN_ATTEMPT")),
            actor: first(&["GITHUB_TRIGGERING_ACTOR", "GITHUB_ACTOR"]),
            job: joined(env, "GITHUB_WORKFLOW", " / ", "GITHUB_JOB"),
            attempt: number("GITHUB_RUN_ATTEMPT"),
        },
        System::GitLab => Facts {
            run_url: first(&["CI_JOB_URL", "CI_PIPELINE_URL"]),
            actor: first(&["GITLAB_USER_LOGIN"]),
            job: first(&["CI_JOB_NAME"]),
            ..none()
        },
        System::Buildkite => Facts {
            run_url: joined(env, "BUILDKITE_BUILD_URL", "#", "BUILDKITE_JOB_ID"),
            actor: first(&["BUILDKITE_BUILD_CREATOR"]),
            job: first(&["BUILDKITE_LABEL", "BUILDKITE_STEP_KEY"]),
            attempt: number("BUILDKITE_RETRY_COUNT").and_then(|retries| retries.checked_add(1)),
        },
        System::Jenkins => Facts {
            run_url: first(&["BUILD_URL", "RUN_DISPLAY_URL"]),
            actor: first(&["BUILD_USER_ID"]),
            job: joined(env, "JOB_NAME", " #", "BUILD_NUMBER"),
            ..none()
        },
        System::CircleCi => Facts {
            run_url: first(&["CIRCLE_BUILD_URL"]),
            actor: first(&["CIRCLE_USERNAME"]),
            job: first(&["CIRCLE_JOB"]),
            ..none()
        },
        System::Azure => Facts {
            run_url: azure_run(env),
            actor: first(&["BUILD_REQUESTEDFOR"]),
            job: first(&["SYSTEM_JOBDISPLAYNAME"]),
            attempt: number("SYSTEM_JOBATTEMPT"),
        },
        System::Atlantis => Facts {
            // Older versions say owner, name and number but not on which host.
            run_url: first(&["PULL_URL"]),
            actor: first(&["USER_NAME", "PULL_AUTHOR"]),
            job: atlantis_pull(env),
            ..none()
        },
        System::Bitbucket => Facts {
            run_url: bitbucket_run(env),
            actor: first(&["BITBUCKET_STEP_TRIGGERER_UUID"]),
            job: first(&["BITBUCKET_STEP_UUID"]),
            ..none()
        },
        System::CodeBuild => Facts {
            run_url: first(&["CODEBUILD_PUBLIC_BUILD_URL"]).or_else(|| codebuild_run(env)),
            actor: first(&["CODEBUILD_INITIATOR"]),
            job: first(&["CODEBUILD_BUILD_NUMBER"]).map(|number| format!("build {number}")),
            ..none()
        },
        System::Travis => Facts {
            run_url: first(&["TRAVIS_JOB_WEB_URL", "TRAVIS_BUILD_WEB_URL"]),
            job: first(&["TRAVIS_JOB_NUMBER"]),
            ..none()
        },
        System::Semaphore => Facts {
            run_url: joined(env, "SEMAPHORE_ORGANIZATION_URL", "/jobs/", "SEMAPHORE_JOB_ID"),
            ..none()
        },
        System::Bamboo => Facts { run_url: first(&["bamboo_buildResultsUrl"]), ..none() },
        System::TeamCity => {
            Facts { job: joined(env, "TEAMCITY_BUILDCONF_NAME", " #", "BUILD_NUMBER"), ..none() }
        }
        System::Drone => Facts { run_url: first(&["DRONE_BUILD_LINK"]), ..none() },
        System::Woodpecker => Facts { run_url: first(&["CI_PIPELINE_URL"]), ..none() },
    }
}

/// Both values with `between`, or the first alone.
fn joined(env: &Env, first: &str, between: &str, second: &str) -> Option<String> {
    let first = env.get(first)?;
    Some(match env.get(second) {
        Some(second) => format!("{first}{between}{second}"),
        None => first.to_owned(),
    })
}

/// Gitea names runs by their number within the repository and has no page for an attempt.
fn github_run(env: &Env, run: &str, attempt: Option<&str>) -> Option<String> {
    let server = env.get("GITHUB_SERVER_URL")?.trim_end_matches('/');
    let (repository, run) = (env.get("GITHUB_REPOSITORY")?, env.get(run)?);
    let attempt = attempt.map(|attempt| format!("/attempts/{attempt}")).unwrap_or_default();
    Some(format!("{server}/{repository}/actions/runs/{run}{attempt}"))
}

fn azure_run(env: &Env) -> Option<String> {
    let collection = env
        .get("SYSTEM_COLLECTIONURI")
        .or_else(|| env.get("SYSTEM_TEAMFOUNDATIONCOLLECTIONURI"))?
        .trim_end_matches('/');
    let project = encode(env.get("SYSTEM_TEAMPROJECT")?);
    let build = encode(env.get("BUILD_BUILDID")?);
    let job = env
        .get("SYSTEM_JOBID")
        .map(|job| format!("&view=logs&j={}", encode(job)))
        .unwrap_or_default();
    Some(format!("{collection}/{project}/_build/results?buildId={build}{job}"))
}

fn atlantis_pull(env: &Env) -> Option<String> {
    let (owner, name) = (env.get("BASE_REPO_OWNER")?, env.get("BASE_REPO_NAME")?);
    Some(format!("{owner}/{name} #{}", env.get("PULL_NUM")?))
}

fn bitbucket_run(env: &Env) -> Option<String> {
    let repository = env.get("BITBUCKET_REPO_FULL_NAME")?;
    let build = env.get("BITBUCKET_BUILD_NUMBER")?;
    Some(format!("https://bitbucket.org/{repository}/pipelines/results/{build}"))
}

/// From `arn:aws:codebuild:REGION:ACCOUNT:build/PROJECT:ID`.
fn codebuild_run(env: &Env) -> Option<String> {
    let mut parts = env.get("CODEBUILD_BUILD_ARN")?.splitn(6, ':').skip(1);
    let (partition, _service, region, account, build) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let host = match partition {
        "aws-cn" => "console.amazonaws.cn",
        "aws-us-gov" => "console.amazonaws-us-gov.com",
        _ => "console.aws.amazon.com",
    };
    let build = build.strip_prefix("build/")?;
    let project = build.split_once(':')?.0;
    Some(format!(
        "https://{region}.{host}/codesuite/codebuild/{account}/projects/{}/build/{}/",
        encode(project),
        encode(build)
    ))
}
