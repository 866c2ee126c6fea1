//! `tfwrap doctor`: the way to the lock, step by step, with what helps beside each that does not work.
//!
//! It leaves nothing behind: what it writes is on keys of its own, and is removed again ([`probe`]).

mod here;
mod history;
mod leftovers;
mod probe;
mod runner;
mod stores;

use super::Opened;
use crate::cli::{DoctorArgs, Format};
use crate::env::Env;
use crate::error::Error;
use crate::job::DoctorJob;
use crate::report::{Check, CheckStatus, answer, checks_as_json, checks_as_text, count_of};
use crate::run::EventLoop;
use crate::target::StoreSpec;

/// Looks, and says what was found.
pub(crate) async fn run(
    event_loop: &mut EventLoop,
    job: &DoctorJob,
    args: DoctorArgs,
    env: &Env,
) -> Result<(), Error> {
    let checks = all(event_loop, job, env).await?;
    let text = match args.format {
        Format::Text => checks_as_text(&checks),
        Format::Json => checks_as_json(&checks),
    };
    Error::expect_answered(answer(&text))?;
    match count_of(&checks, CheckStatus::Fail) {
        0 => Ok(()),
        failed => Err(Error::Refused {
            message: format!("{failed} of {} checks failed", checks.len()),
            hint: Some("stdout has what helps beside each".to_owned()),
        }),
    }
}

async fn all(event_loop: &mut EventLoop, job: &DoctorJob, env: &Env) -> Result<Vec<Check>, Error> {
    let mut checks = here::checks(job, env);
    if let Ok(settings) = &job.settings {
        checks.extend(runner::checks(settings, env));
    }
    let targets = job.found.as_ref().map_or(&[][..], |found| &found.targets);
    let mut opened = Vec::new();
    for target in targets {
        match Opened::one(target).await {
            Ok(lock) => opened.push(lock),
            Err(error) => checks.push(Check::fail("lock", error.to_string(), error.hint())),
        }
    }
    let mut usable = Vec::new();
    for lock in opened {
        let (found, is_usable) = match &lock.target.store {
            StoreSpec::DynamoDb { .. } | StoreSpec::S3 { .. } => {
                stores::checks(event_loop, &lock, job, env).await?
            }
            StoreSpec::File { .. } | StoreSpec::LocalState { .. } => {
                let (mut found, is_usable) = here::of_file(lock.target);
                if is_usable && lock.target.has_history() {
                    found.push(history::check(event_loop, &lock, job).await?);
                }
                (found, is_usable)
            }
        };
        checks.extend(found);
        if is_usable {
            usable.push(lock);
        }
    }
    if let Some(bucket) =
        job.listed.as_ref().filter(|it| targets.iter().all(|target| target.store != it.store))
    {
        checks.push(stores::listed(event_loop, bucket).await?);
    }
    checks.extend(leftovers::checks(event_loop, &usable, job.unused.as_ref(), env).await?);
    Ok(checks)
}
