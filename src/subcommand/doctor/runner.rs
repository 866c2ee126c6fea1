//! What the runner of a CI says of itself, beside our own times.

use std::time::Duration;

use crate::duration;
use crate::env::Env;
use crate::report::Check;
use crate::settings::Settings;

const RUNNER: &str = "runner";

/// GitLab's default for `after_script`.
const AFTER_SCRIPT: Duration = Duration::from_mins(5);

/// Set where a job is for a proposed change, by each CI; and what it is then not.
const CHANGES: [(&str, &str); 6] = [
    ("GITHUB_HEAD_REF", ""),
    ("CI_MERGE_REQUEST_IID", ""),
    ("BUILDKITE_PULL_REQUEST", "false"),
    ("CHANGE_ID", ""),
    ("SYSTEM_PULLREQUEST_PULLREQUESTID", ""),
    ("BITBUCKET_PR_ID", ""),
];

pub(super) fn checks(settings: &Settings, env: &Env) -> Vec<Check> {
    let mut checks = gitlab(settings, env);
    checks.extend(buildkite(settings, env));
    let is_change = CHANGES.iter().any(|(name, not)| env.get(name).is_some_and(|it| it != *not));
    if is_change && settings.unlocked.iter().all(|it| it.value != "plan") {
        checks.push(Check::warn(
            "plans",
            "this job is for a proposed change: its plan waits for the plans of all others",
            "where it only informs, run `tfwrap plan -lock=false`, or say `unlocked: [plan]` in \
             `.tfwrap.yaml`",
        ));
    }
    checks
}

fn seconds(env: &Env, name: &str) -> Option<Duration> {
    env.get(name)?.parse().ok().map(Duration::from_secs)
}

fn gitlab(settings: &Settings, env: &Env) -> Vec<Check> {
    if env.get("GITLAB_CI").is_none() {
        return Vec::new();
    }
    let mut checks = Vec::new();
    let (grace, wait) = (settings.orphan_grace.value, settings.lock_timeout.value);
    let after = env.get("RUNNER_AFTER_SCRIPT_TIMEOUT").and_then(|it| duration::parse(it).ok());
    let after = after.unwrap_or(AFTER_SCRIPT);
    if after <= grace {
        checks.push(Check::warn(
            RUNNER,
            format!(
                "`after_script` may take {}, and Terraform {} to end after a kill (`--orphan-grace`): \
                 `tfwrap recover --wait` in it may not see the end",
                duration::format(after),
                duration::format(grace)
            ),
            "raise the variable `RUNNER_AFTER_SCRIPT_TIMEOUT`, or lower `--orphan-grace`",
        ));
    }
    if let Some(job) = seconds(env, "CI_JOB_TIMEOUT").filter(|job| *job <= wait) {
        checks.push(Check::warn(
            RUNNER,
            format!(
                "the job may take {}, and the wait for the lock alone {} (`--lock-timeout`)",
                duration::format(job),
                duration::format(wait)
            ),
            "raise the job's `timeout`, or lower `--lock-timeout`",
        ));
    }
    if checks.is_empty() {
        checks.push(Check::pass(
            RUNNER,
            "GitLab's time-outs leave room for `--orphan-grace` and the wait",
        ));
    }
    checks
}

fn buildkite(settings: &Settings, env: &Env) -> Option<Check> {
    let grace = seconds(env, "BUILDKITE_CANCEL_GRACE_PERIOD")?;
    let ours = settings.orphan_grace.value;
    if grace > ours {
        return Some(Check::pass(
            RUNNER,
            "the agent's `cancel-grace-period` leaves room for `--orphan-grace`",
        ));
    }
    Some(Check::warn(
        RUNNER,
        format!(
            "the agent kills a cancelled job after {} (`cancel-grace-period`), and Terraform may take {} \
             to end (`--orphan-grace`)",
            duration::format(grace),
            duration::format(ours)
        ),
        format!(
            "raise `cancel-grace-period` of the agent above {}, or lower `--orphan-grace`",
            ours.as_secs()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Options;
    use crate::report::CheckStatus;
    use crate::settings::Inputs;

    #[test]
    fn a_runner_that_leaves_too_little_time_is_told() {
        let said = |variables: &[(&str, &str)]| {
            let env: Env = variables.iter().copied().collect();
            let options = Options::default();
            let inputs = Inputs { options: &options, env: &env, file: None, in_ci: true };
            let checks = checks(&Settings::resolve(&inputs).unwrap(), &env);
            let said = checks.iter().filter(|check| check.status == CheckStatus::Warn);
            said.map(|check| check.detail.clone()).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(said(&[]), "");
        assert_eq!(said(&[("GITLAB_CI", "true"), ("CI_JOB_TIMEOUT", "3600")]), "");
        assert_eq!(said(&[("BUILDKITE_PULL_REQUEST", "false")]), "");
        for (variables, says) in [
            (&[("GITLAB_CI", "true"), ("CI_JOB_TIMEOUT", "1200")][..], "the job may take 20m"),
            (&[("GITLAB_CI", "true"), ("RUNNER_AFTER_SCRIPT_TIMEOUT", "2m")], "may take 2m, and"),
            (&[("BUILDKITE_CANCEL_GRACE_PERIOD", "10")], "a cancelled job after 10s"),
            (&[("BUILDKITE_PULL_REQUEST", "7")], "a proposed change"),
            (&[("GITHUB_HEAD_REF", "topic")], "a proposed change"),
        ] {
            assert!(said(variables).contains(says), "{variables:?}: {}", said(variables));
        }
    }
}
