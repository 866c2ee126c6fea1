//! One row per CI, with the environment as that CI sets it.

use proptest::prelude::*;

use super::*;

fn ci(vars: &[(&str, &str)]) -> Ci {
    Ci::from_env(&vars.iter().copied().collect())
}

struct Row {
    system: Option<System>,
    vars: &'static [(&'static str, &'static str)],
    info: &'static str,
    job_key: Option<&'static str>,
}

const ROWS: &[Row] = &[
    Row {
        system: Some(System::GitHub),
        vars: &[
            ("CI", "true"),
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_REPOSITORY", "acme/infra"),
            ("GITHUB_RUN_ID", "19532180001"),
            ("GITHUB_RUN_NUMBER", "412"),
            ("GITHUB_RUN_ATTEMPT", "2"),
            ("GITHUB_ACTOR", "bob"),
            ("GITHUB_TRIGGERING_ACTOR", "alice"),
            ("GITHUB_WORKFLOW", "deploy"),
            ("GITHUB_JOB", "apply"),
            ("RUNNER_TRACKING_ID", "github_0f1e2d3c"),
        ],
        info: "https://github.com/acme/infra/actions/runs/19532180001/attempts/2 \
               (deploy / apply by alice, attempt 2)",
        job_key: Some("github_0f1e2d3c"),
    },
    Row {
        system: Some(System::Gitea),
        vars: &[
            ("CI", "true"),
            ("GITEA_ACTIONS", "true"),
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_SERVER_URL", "https://gitea.example/"),
            ("GITHUB_REPOSITORY", "acme/infra"),
            ("GITHUB_RUN_ID", "9001"),
            ("GITHUB_RUN_NUMBER", "12"),
            ("GITHUB_ACTOR", "alice"),
            ("GITHUB_JOB", "apply"),
        ],
        info: "https://gitea.example/acme/infra/actions/runs/12 (apply by alice)",
        job_key: Some("9001\napply\nacme/infra"),
    },
    Row {
        system: Some(System::GitLab),
        vars: &[
            ("CI", "true"),
            ("GITLAB_CI", "true"),
            ("CI_JOB_URL", "https://gitlab.com/acme/infra/-/jobs/8123"),
            ("CI_PIPELINE_URL", "https://gitlab.com/acme/infra/-/pipelines/99"),
            ("CI_REPOSITORY_URL", "https://gitlab-ci-token:t0k3n@gitlab.com/acme/infra.git"),
            ("CI_JOB_NAME", "apply"),
            ("CI_JOB_ID", "8123"),
            ("GITLAB_USER_LOGIN", "alice"),
        ],
        info: "https://gitlab.com/acme/infra/-/jobs/8123 (apply by alice)",
        job_key: Some("8123"),
    },
    Row {
        system: Some(System::Buildkite),
        vars: &[
            ("CI", "true"),
            ("BUILDKITE", "true"),
            ("BUILDKITE_BUILD_URL", "https://buildkite.com/acme/infra/builds/7"),
            ("BUILDKITE_JOB_ID", "0190-aa"),
            ("BUILDKITE_BUILD_CREATOR", "Alice Doe"),
            ("BUILDKITE_LABEL", ":terraform: apply"),
            ("BUILDKITE_STEP_KEY", "apply"),
            ("BUILDKITE_RETRY_COUNT", "1"),
        ],
        info: "https://buildkite.com/acme/infra/builds/7#0190-aa \
               (:terraform: apply by Alice Doe, attempt 2)",
        job_key: Some("0190-aa"),
    },
    Row {
        system: Some(System::Jenkins),
        vars: &[
            ("JENKINS_URL", "https://jenkins.example/"),
            ("BUILD_URL", "https://jenkins.example/job/infra/42/"),
            ("JOB_NAME", "infra"),
            ("BUILD_NUMBER", "42"),
            ("BUILD_USER_ID", "alice"),
            ("JENKINS_SERVER_COOKIE", "durable-17"),
        ],
        info: "https://jenkins.example/job/infra/42/ (infra #42 by alice)",
        job_key: Some("durable-17"),
    },
    Row {
        system: Some(System::CircleCi),
        vars: &[
            ("CI", "true"),
            ("CIRCLECI", "true"),
            ("CIRCLE_BUILD_URL", "https://circleci.com/gh/acme/infra/88"),
            ("CIRCLE_USERNAME", "alice"),
            ("CIRCLE_JOB", "apply"),
        ],
        info: "https://circleci.com/gh/acme/infra/88 (apply by alice)",
        job_key: None,
    },
    Row {
        system: Some(System::Azure),
        vars: &[
            ("TF_BUILD", "True"),
            ("SYSTEM_COLLECTIONURI", "https://dev.azure.com/acme/"),
            ("SYSTEM_TEAMPROJECT", "My Infra & Co"),
            ("BUILD_BUILDID", "1234"),
            ("SYSTEM_JOBID", "12f1170f-54f2"),
            ("BUILD_REQUESTEDFOR", "Alice"),
            ("SYSTEM_JOBDISPLAYNAME", "Apply"),
            ("SYSTEM_JOBATTEMPT", "1"),
        ],
        info: "https://dev.azure.com/acme/My%20Infra%20%26%20Co/_build/results\
               ?buildId=1234&view=logs&j=12f1170f-54f2 (Apply by Alice)",
        job_key: Some("12f1170f-54f2\n1234"),
    },
    Row {
        system: Some(System::Atlantis),
        vars: &[
            ("ATLANTIS_TERRAFORM_VERSION", "1.11.4"),
            ("BASE_REPO_OWNER", "acme"),
            ("BASE_REPO_NAME", "infra"),
            ("PULL_NUM", "17"),
            ("PULL_AUTHOR", "alice"),
        ],
        info: "Atlantis (acme/infra #17 by alice)",
        job_key: None,
    },
    Row {
        system: Some(System::Bitbucket),
        vars: &[
            ("CI", "true"),
            ("BITBUCKET_BUILD_NUMBER", "5"),
            ("BITBUCKET_REPO_FULL_NAME", "acme/infra"),
            ("BITBUCKET_STEP_UUID", "{a1}"),
            ("BITBUCKET_STEP_TRIGGERER_UUID", "{b2}"),
        ],
        info: "https://bitbucket.org/acme/infra/pipelines/results/5 ({a1} by {b2})",
        job_key: None,
    },
    Row {
        system: Some(System::CodeBuild),
        vars: &[
            (
                "CODEBUILD_BUILD_ARN",
                "arn:aws:codebuild:eu-central-1:123456789012:build/infra:0a1b-2c3d",
            ),
            ("CODEBUILD_INITIATOR", "codepipeline/infra"),
            ("CODEBUILD_BUILD_NUMBER", "31"),
        ],
        info: "https://eu-central-1.console.aws.amazon.com/codesuite/codebuild/123456789012/\
               projects/infra/build/infra%3A0a1b-2c3d/ (build 31 by codepipeline/infra)",
        job_key: None,
    },
    Row {
        system: Some(System::Travis),
        vars: &[
            ("CI", "true"),
            ("TRAVIS", "true"),
            ("TRAVIS_JOB_WEB_URL", "https://app.travis-ci.com/acme/infra/jobs/6"),
            ("TRAVIS_JOB_NUMBER", "4.1"),
        ],
        info: "https://app.travis-ci.com/acme/infra/jobs/6 (4.1)",
        job_key: None,
    },
    Row {
        system: Some(System::Semaphore),
        vars: &[
            ("CI", "true"),
            ("SEMAPHORE", "true"),
            ("SEMAPHORE_ORGANIZATION_URL", "https://acme.semaphoreci.com"),
            ("SEMAPHORE_JOB_ID", "b4"),
        ],
        info: "https://acme.semaphoreci.com/jobs/b4",
        job_key: None,
    },
    Row {
        system: Some(System::Bamboo),
        vars: &[
            ("bamboo_buildNumber", "3"),
            ("bamboo_buildResultsUrl", "https://bamboo.example/browse/INF-3"),
        ],
        info: "https://bamboo.example/browse/INF-3",
        job_key: None,
    },
    Row {
        system: Some(System::TeamCity),
        vars: &[
            ("TEAMCITY_VERSION", "2026.1"),
            ("TEAMCITY_BUILDCONF_NAME", "Apply"),
            ("BUILD_NUMBER", "9"),
        ],
        info: "TeamCity (Apply #9)",
        job_key: None,
    },
    Row {
        system: Some(System::Drone),
        vars: &[
            ("CI", "true"),
            ("DRONE", "true"),
            ("DRONE_BUILD_LINK", "https://drone.example/acme/infra/2"),
        ],
        info: "https://drone.example/acme/infra/2",
        job_key: None,
    },
    Row {
        system: Some(System::Woodpecker),
        vars: &[
            ("CI", "woodpecker"),
            ("CI_PIPELINE_URL", "https://woodpecker.example/repos/1/pipeline/2"),
        ],
        info: "https://woodpecker.example/repos/1/pipeline/2",
        job_key: None,
    },
];

#[test]
fn every_ci_is_recognised_and_says_who_runs_where() {
    for Row { system, vars, info, job_key } in ROWS {
        let ci = ci(vars);
        assert_eq!(ci.system, *system, "{vars:?}");
        assert!(ci.in_ci);
        assert_eq!(ci.info_text(), *info);
        assert_eq!(ci.job_key.as_deref(), *job_key, "{system:?}");
    }
}

/// `RUNNER_TRACKING_ID` is empty there, `RUNNER_NAME` unset, and every run of act's is number 1.
#[test]
fn the_legs_of_a_matrix_are_told_apart_where_no_runner_tracks_them() {
    let leg = |temp: &str, attempt: &str| {
        let fixed = [
            ("GITHUB_ACTIONS", "true"),
            ("ACT", "true"),
            ("RUNNER_TRACKING_ID", ""),
            ("GITHUB_RUN_ID", "1"),
            ("GITHUB_JOB", "apply"),
        ];
        let own = [("RUNNER_TEMP", temp), ("GITHUB_RUN_ATTEMPT", attempt)];
        ci(&fixed.into_iter().chain(own).collect::<Vec<_>>()).job_key.unwrap()
    };
    assert_eq!(leg("/tmp/act-1/tmp", "1"), leg("/tmp/act-1/tmp", "1"));
    assert_ne!(leg("/tmp/act-1/tmp", "1"), leg("/tmp/act-2/tmp", "1"));
    assert_ne!(leg("/tmp/act-1/tmp", "1"), leg("/tmp/act-1/tmp", "2"));
}

#[test]
fn no_ci_is_forgotten_in_the_table() {
    let name = |row: &Row| row.system.map(System::name).unwrap_or_default();
    let mut names: Vec<_> = ROWS.iter().map(name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 16);
}

#[test]
fn a_plain_ci_is_a_ci_and_a_shell_is_not() {
    assert!(ci(&[("CI", "true")]).in_ci && ci(&[("CI", "1")]).in_ci);
    for vars in [&[][..], &[("CI", "false")], &[("CI", "0")], &[("CI", "")], &[("TERM", "xterm")]] {
        assert!(!ci(vars).in_ci, "{vars:?}");
    }
    let process = format!("tfwrap, process {}", std::process::id());
    assert_eq!(ci(&[]).info_text(), process);
    assert_eq!(ci(&[("TFWRAP_ACTOR", "alice")]).info_text(), format!("{process} (by alice)"));
}

#[test]
fn a_github_job_on_a_codebuild_machine_is_githubs() {
    let vars = [("CODEBUILD_BUILD_ARN", "arn:x"), ("GITHUB_ACTIONS", "true")];
    assert_eq!(ci(&vars).system, Some(System::GitHub));
}

#[test]
fn the_users_own_words_win() {
    let ci = ci(&[
        ("GITLAB_CI", "true"),
        ("CI_JOB_URL", "https://gitlab.com/acme/infra/-/jobs/8123"),
        ("GITLAB_USER_LOGIN", "bot"),
        ("TFWRAP_RUN_URL", "https://portal.example/run/1"),
        ("TFWRAP_ACTOR", "alice"),
    ]);
    assert_eq!(ci.info_text(), "https://portal.example/run/1 (by alice)");
}

#[test]
fn a_link_with_a_token_never_gets_into_the_lock() {
    let ci = ci(&[
        ("GITLAB_CI", "true"),
        ("CI_JOB_URL", "https://gitlab-ci-token:t0k3n@gitlab.com/x"),
        ("CI_JOB_NAME", "apply"),
    ]);
    assert_eq!(ci.info_text(), "GitLab CI (apply)");
}

#[test]
fn a_newer_atlantis_names_the_pull_request_and_who_commented() {
    let ci = ci(&[
        ("ATLANTIS_TERRAFORM_VERSION", "1.11.4"),
        ("PULL_URL", "https://github.com/acme/infra/pull/17"),
        ("PULL_AUTHOR", "bob"),
        ("USER_NAME", "alice"),
    ]);
    assert_eq!(ci.info_text(), "https://github.com/acme/infra/pull/17 (by alice)");
}

#[test]
fn arns_that_are_none_give_no_link() {
    for arn in
        ["x", "arn:aws:codebuild", "arn:aws:codebuild:r:1:build/x", "arn:aws:codebuild:r:1:x:y"]
    {
        assert_eq!(ci(&[("CODEBUILD_BUILD_ARN", arn)]).run_url, None, "{arn}");
    }
    let china = "arn:aws-cn:codebuild:cn-north-1:1:build/p:i";
    let url = ci(&[("CODEBUILD_BUILD_ARN", china)]).run_url.unwrap();
    assert!(url.starts_with("https://cn-north-1.console.amazonaws.cn/"), "{url}");
}

proptest! {
    #![proptest_config(crate::seeded::seeded(256))]

    #[test]
    fn info_is_one_harmless_line_whatever_the_ci_says(
        url in "(https?://)?[ -~\u{0}-\u{2fff}]{0,300}",
        actor in crate::report::hostile_text(),
        job in crate::report::hostile_text(),
        row in 0..ROWS.len(),
    ) {
        let drop_nul = |text: String| text.replace('\0', "");
        let mut vars: Vec<(String, String)> = ROWS[row]
            .vars
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        for (name, value) in &mut vars {
            if name.ends_with("URL") || name.ends_with("REPOSITORY") {
                value.push_str(&drop_nul(url.clone()));
            } else if name.contains("JOB") || name.contains("NAME") {
                value.push_str(&drop_nul(job.clone()));
            }
        }
        vars.push(("TFWRAP_ACTOR".into(), drop_nul(actor)));
        let info = Ci::from_env(&vars.into_iter().collect()).info_text();
        prop_assert!(info.chars().count() <= MAX_INFO, "{}", info);
        prop_assert_eq!(clean(&info), info);
    }
}

#[test]
fn a_pipeline_and_its_commit_are_what_the_ci_says() {
    let sha = "1f2e3d4c5b6a79880f1e2d3c4b5a69788f9e0d1c";
    let of = |vars: &[(&str, &str)]| {
        let ci = ci(vars);
        let parts = ci.pipeline.map(|it| (it.repository, it.workflow, it.reference, it.number));
        (parts, ci.commit)
    };
    let is = |parts: (&str, &str, &str, u64)| {
        let (repository, workflow, reference, number) = parts;
        Some((repository.to_owned(), workflow.to_owned(), reference.to_owned(), number))
    };
    let commit = Some(sha.to_owned());
    let github = [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_REPOSITORY", "acme/infra"),
        ("GITHUB_WORKFLOW", "deploy"),
        ("GITHUB_REF", "refs/heads/main"),
        ("GITHUB_RUN_NUMBER", "412"),
        ("GITHUB_SHA", sha),
    ];
    let expected = is(("acme/infra", "deploy", "refs/heads/main", 412));
    assert_eq!(of(&github), (expected, commit.clone()));
    let gitlab = [
        ("GITLAB_CI", "true"),
        ("CI_PROJECT_PATH", "acme/infra"),
        ("CI_COMMIT_REF_NAME", "main"),
        ("CI_PIPELINE_IID", "7"),
        ("CI_COMMIT_SHA", sha),
    ];
    assert_eq!(of(&gitlab), (is(("acme/infra", "", "main", 7)), commit.clone()));
    let buildkite = [
        ("BUILDKITE", "true"),
        ("BUILDKITE_ORGANIZATION_SLUG", "acme"),
        ("BUILDKITE_PIPELINE_SLUG", "infra"),
        ("BUILDKITE_BRANCH", "main\u{1b}[2J"),
        ("BUILDKITE_BUILD_NUMBER", "7"),
        ("BUILDKITE_COMMIT", "HEAD"),
    ];
    assert_eq!(of(&buildkite), (is(("acme/infra", "", "main\u{fffd}[2J", 7)), None));
    // The number of a pull request is not that of a run.
    let atlantis = [
        ("ATLANTIS_TERRAFORM_VERSION", "1.11.4"),
        ("BASE_REPO_OWNER", "acme"),
        ("BASE_REPO_NAME", "infra"),
        ("PULL_NUM", "7"),
        ("HEAD_COMMIT", sha),
    ];
    assert_eq!(of(&atlantis), (None, commit));
    for missing in 1..4 {
        let some = [&github[..missing], &github[missing + 1..]].concat();
        assert_eq!(of(&some).0.is_none(), missing == 1, "without {}", github[missing].0);
    }
    assert_eq!(of(&github[..4]).0, None, "without a number");
}
