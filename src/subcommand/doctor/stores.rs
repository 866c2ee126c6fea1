//! A table or a bucket: who asks, what it is like, what may be done there, whose clock is right.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::super::Opened;
use super::super::table::{another_table, create_command};
use super::{history, probe};
use crate::backend::{AwsSettings, ObjectSettings};
use crate::clock::wall;
use crate::duration;
use crate::env::Env;
use crate::error::Error;
use crate::job::DoctorJob;
use crate::report::{Check, CheckStatus, shell_command};
use crate::run::{EventLoop, store_requests};
use crate::store::{BucketFacts, Known, StoreError, StoreFacts, Survey, TableFacts};
use crate::target::{LockTarget, StoreSpec, lock_file};

const CREDENTIALS: &str = "credentials";
const CLOCK: &str = "clock";

/// AWS refuses what was signed 5 minutes off (S3: 15).
const TOO_FAR: SignedDuration = SignedDuration::from_mins(4);

/// A server's clock is known to the second, and its answer takes a moment.
const EXACT: SignedDuration = SignedDuration::from_secs(30);

/// All of them, and whether the lock can be looked at.
pub(super) async fn checks(
    event_loop: &mut EventLoop,
    lock: &Opened<'_>,
    job: &DoctorJob,
    env: &Env,
) -> Result<(Vec<Check>, bool), Error> {
    let (mut checks, url) = (Vec::new(), &lock.register.lock);
    let failed = |name, source| {
        let error = Error::Store { lock: url.clone(), source };
        Check::fail(name, error.to_string(), error.hint())
    };
    if let Err(source) = store_requests::prepare(event_loop, &lock.register.store, false).await? {
        return Ok((vec![failed(CREDENTIALS, source)], false));
    }
    checks.push(credentials(event_loop, lock, job, env).await?);

    let (survey, name) = match &lock.target.store {
        StoreSpec::DynamoDb { table, aws } => (Survey::Table(aws.clone(), table.clone()), "table"),
        StoreSpec::S3 { bucket, aws, .. } => {
            (Survey::Bucket(aws.clone(), bucket.clone()), "bucket")
        }
        StoreSpec::File { .. } | StoreSpec::LocalState { .. } => return Ok((checks, true)),
    };
    let found = store_requests::survey(event_loop, survey).await?;
    let check = match found.facts {
        Ok(StoreFacts::Table(facts)) => table(lock.target, &facts),
        Ok(StoreFacts::Bucket(facts)) => bucket(lock.target, &facts),
        Ok(StoreFacts::Caller(_)) => Check::skip(name, "an answer to something else"),
        // The lock does without it.
        Err(error @ StoreError::Denied(_)) => {
            Check::skip(name, format!("could not be checked: {error}"))
        }
        // So says an emulator that cannot tell.
        Err(error @ StoreError::Misconfigured(_)) if name == "table" => {
            Check::skip(name, format!("could not be checked: {error}"))
        }
        Err(StoreError::Missing(what)) if name == "table" => {
            let hint =
                format!("make it with `{}`, or correct its name or region", create(lock.target));
            Check::fail(name, what, Some(hint))
        }
        Err(source) => failed(name, source),
    };
    let is_usable = check.status != CheckStatus::Fail;
    checks.extend([check, clock(found.date, wall())]);
    if !is_usable {
        return Ok((checks, false));
    }
    if let Some(check) = probe::try_conditions(event_loop, lock).await? {
        checks.push(check);
        return Ok((checks, true));
    }
    checks.extend(probe::run(event_loop, lock).await?);
    if lock.target.has_history() {
        checks.push(history::check(event_loop, lock, job).await?);
    }
    // Who holds it may be seen without leave to take it.
    Ok((checks, true))
}

/// The bucket in which a workspace is looked for before a run, where the lock is elsewhere.
pub(super) async fn listed(
    event_loop: &mut EventLoop,
    target: &LockTarget,
) -> Result<Check, Error> {
    const NAME: &str = "bucket";
    let StoreSpec::S3 { bucket: name, aws, .. } = &target.store else {
        return Ok(Check::skip(NAME, "there is none"));
    };
    let found =
        store_requests::survey(event_loop, Survey::Bucket(aws.clone(), name.clone())).await?;
    Ok(match found.facts {
        Ok(StoreFacts::Bucket(facts)) => bucket(target, &facts),
        Ok(_) => Check::skip(NAME, "an answer to something else"),
        Err(StoreError::Denied(why)) => {
            let hint =
                "allow `s3:ListBucket` on it: a workspace is looked for there before each run";
            Check::fail(NAME, format!("access denied: {why}"), Some(hint.to_owned()))
        }
        Err(source) => {
            let error = Error::Store { lock: target.store_url(), source };
            Check::fail(NAME, error.to_string(), error.hint())
        }
    })
}

/// The command that makes the table of this lock.
fn create(target: &LockTarget) -> String {
    match &target.store {
        StoreSpec::DynamoDb { table, aws } if !target.of_backend => create_command(table, aws),
        _ => "tfwrap table create".to_owned(),
    }
}

async fn credentials(
    event_loop: &mut EventLoop,
    lock: &Opened<'_>,
    job: &DoctorJob,
    env: &Env,
) -> Result<Check, Error> {
    let store = &lock.register.store;
    let (StoreSpec::DynamoDb { aws, .. } | StoreSpec::S3 { aws, .. }) = &lock.target.store else {
        return Ok(Check::pass(CREDENTIALS, "none are needed"));
    };
    let whose = store.credentials().unwrap_or_else(|| "none".to_owned());
    let who = match store_requests::survey(event_loop, Survey::Caller(aws.clone())).await?.facts {
        Ok(StoreFacts::Caller(Some(arn))) => format!("{whose}; they are {arn}"),
        Ok(_) => format!("{whose}; STS was not asked whose they are"),
        Err(source @ StoreError::Credentials(_)) => {
            let error = Error::Store { lock: lock.register.lock.clone(), source };
            return Ok(Check::fail(CREDENTIALS, error.to_string(), error.hint()));
        }
        Err(error) => format!("{whose}; whose they are is not known: {error}"),
    };
    let longest = job.settings.as_ref().map_or(Duration::ZERO, |set| set.max_hold.value);
    let is_session = env.get("AWS_SESSION_TOKEN").is_some() && aws.access_key.is_none();
    Ok(lifetime(&who, store.credentials_end(), store.renews_credentials(), is_session, longest))
}

/// How long they last, beside the longest hold.
fn lifetime(
    who: &str,
    end: Option<Timestamp>,
    is_renewed: bool,
    is_session: bool,
    longest: Duration,
) -> Check {
    const HINT: &str = "let a long run have credentials that can be renewed (a profile, a role, a web \
                        identity): docs/aws.md#credentials";
    let longest = duration::format(longest);
    match end {
        _ if is_renewed => Check::pass(CREDENTIALS, format!("{who}; renewed before they end")),
        Some(end) => {
            let left = Duration::try_from(end.duration_since(wall())).unwrap_or_default();
            let left = duration::in_seconds(left);
            let detail = format!(
                "{who}; they end in {left} and cannot be renewed, and `--max-hold` is {longest}"
            );
            Check::warn(CREDENTIALS, detail, HINT)
        }
        None if is_session => Check::warn(
            CREDENTIALS,
            format!("{who}; a session that cannot be renewed, and whose end is not known"),
            "set `AWS_CREDENTIAL_EXPIRATION`, as `aws configure export-credentials --format env` prints it",
        ),
        None => Check::pass(CREDENTIALS, format!("{who}; they do not expire")),
    }
}

fn table(target: &LockTarget, facts: &TableFacts) -> Check {
    const NAME: &str = "table";
    let url = target.store_url();
    if let Some(what) = facts.wrong_key() {
        let hint = match &target.store {
            StoreSpec::DynamoDb { aws, .. } => another_table(target.of_backend, aws),
            _ => String::new(),
        };
        return Check::fail(NAME, format!("`{url}`: {what}"), Some(hint));
    }
    if !facts.is_active() {
        let hint = format!("`{}` waits until it is active", create(target));
        return Check::fail(NAME, format!("`{url}` is {}", facts.status), Some(hint));
    }
    let protection = if facts.is_protected { "on" } else { "off" };
    let detail = format!("`{url}`: hash key `LockID` (S); deletion protection {protection}");
    if facts.replicas.is_empty() {
        return Check::pass(NAME, detail);
    }
    Check::warn(
        NAME,
        format!("{detail}; also written in {}", facts.replicas.join(", ")),
        "let all runs use one region: conditions keep nobody out who asks in another one",
    )
}

fn bucket(target: &LockTarget, facts: &BucketFacts) -> Check {
    const NAME: &str = "bucket";
    let said = |known: &Known<String>| match known {
        Ok(text) => text.clone(),
        Err(StoreError::Denied(_)) => "unknown (access denied)".to_owned(),
        Err(_) => "not known".to_owned(),
    };
    let text = |known: &Known<Option<String>>, none: &str| {
        said(&known.clone().map(|it| it.unwrap_or_else(|| none.to_owned())))
    };
    let versions = facts.is_versioned.clone();
    let versions = said(&versions.map(|it| if it { "on" } else { "off" }.to_owned()));
    let lock = facts.object_lock.clone().map(|it| {
        it.map(|for_how_long| match for_how_long.as_str() {
            "" => "on".to_owned(),
            time => format!("on, {time}"),
        })
    });
    let detail = format!(
        "`{}` {}: versioning {versions}; Object Lock {}; default encryption {}",
        target.store_url(),
        facts.place,
        text(&lock, "off"),
        text(&facts.encryption, "off"),
    );
    let (StoreSpec::S3 { bucket, aws, objects, .. }, of_state) = (&target.store, target.of_backend)
    else {
        return Check::pass(NAME, detail);
    };
    if matches!(facts.object_lock, Ok(Some(_))) && is_without_checksum(objects) {
        let hint = "take `skip_s3_checksum` out of the backend: Object Lock needs a checksum";
        return Check::warn(NAME, detail, hint);
    }
    if of_state && matches!(facts.is_versioned, Ok(false)) {
        return Check::warn(NAME, detail, versioning(bucket, aws));
    }
    Check::pass(NAME, detail)
}

fn is_without_checksum(objects: &ObjectSettings) -> bool {
    objects.skip_checksum
}

/// The command that lets a bucket keep versions, without which a broken state is lost.
fn versioning(bucket: &str, aws: &AwsSettings) -> String {
    let mut words = vec!["aws", "s3api", "put-bucket-versioning", "--bucket", bucket];
    words.extend(["--versioning-configuration", "Status=Enabled"]);
    let options = lock_file::options(aws);
    words.extend(options.iter().map(String::as_str));
    format!("keep versions of the state: `{}`", shell_command(&words))
}

fn clock(theirs: Option<Timestamp>, ours: Timestamp) -> Check {
    let Some(theirs) = theirs else {
        return Check::skip(CLOCK, "the server does not say its time");
    };
    let off = ours.duration_since(theirs);
    let side = if off.is_positive() { "fast" } else { "slow" };
    let by = duration::in_seconds(off.unsigned_abs());
    let hint = "set it right: `timedatectl set-ntp true`";
    match off.abs() {
        off if off <= EXACT => Check::pass(CLOCK, "agrees with the server's"),
        off if off <= TOO_FAR => Check::warn(CLOCK, format!("this machine's is {by} {side}"), hint),
        _ => {
            let detail = format!("this machine's is {by} {side}: AWS refuses what it signs");
            Check::fail(CLOCK, detail, Some(hint.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_by_degrees() {
        let ours: Timestamp = "2026-11-21T09:16:11Z".parse().unwrap();
        for (off, status, says) in [
            (0, CheckStatus::Pass, "the server"),
            (-29, CheckStatus::Pass, "the server"),
            (90, CheckStatus::Warn, "1m30s slow"),
            (-90, CheckStatus::Warn, "1m30s fast"),
            (600, CheckStatus::Fail, "10m slow"),
        ] {
            let check = clock(Some(ours + SignedDuration::from_secs(off)), ours);
            assert_eq!(check.status, status, "{off}: {check:?}");
            assert!(check.detail.contains(says), "{off}: {check:?}");
        }
        assert_eq!(clock(None, ours).status, CheckStatus::Skip);
    }

    #[test]
    fn an_end_that_cannot_be_moved_is_told() {
        let end = Some(wall() + SignedDuration::from_hours(1));
        let hold = Duration::from_hours(6);
        let of = |end, renewed, session| lifetime("k", end, renewed, session, hold);
        assert_eq!(of(end, true, true).status, CheckStatus::Pass);
        assert_eq!(of(None, false, false).status, CheckStatus::Pass);
        assert_eq!(of(None, false, true).status, CheckStatus::Warn);
        let ends = of(end, false, true);
        assert!(
            ends.detail.contains("59m") && ends.detail.contains("`--max-hold` is 6h"),
            "{ends:?}"
        );
    }
}
