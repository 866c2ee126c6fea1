//! The history beside a lock: whether it can be read. It is not written; that this is allowed the probe tells,
//! which lies under the same prefix.

use super::super::Opened;
use crate::error::Error;
use crate::job::DoctorJob;
use crate::lock::history::{History, key};
use crate::report::Check;
use crate::run::EventLoop;
use crate::run::store_requests::{self, LockRegister};
use crate::target::StoreSpec;

const NAME: &str = "history";

/// Looks at it. A run does without it, so nothing here is a failure.
pub(super) async fn check(
    event_loop: &mut EventLoop,
    lock: &Opened<'_>,
    job: &DoctorJob,
) -> Result<Check, Error> {
    let unwanted = job.settings.as_ref().ok().filter(|settings| settings.no_history.value);
    if let Some(settings) = unwanted {
        return Ok(Check::skip(NAME, format!("no-history = on ({})", settings.no_history.origin)));
    }
    let (store, lock_key) = &lock.line;
    let register =
        LockRegister { lock: lock.register.lock.clone(), store: store.clone(), key: key(lock_key) };
    let found = match store_requests::read(event_loop, &register, store_requests::PATIENCE).await {
        // S3 answers so where nothing is, and that was said.
        Err(Error::Store { source, .. }) => {
            let hint = match &lock.target.store {
                StoreSpec::File { .. } => {
                    "give this user the right to read it; `--no-history` does without"
                }
                _ => "`tfwrap table policy` prints the whole policy; `--no-history` does without",
            };
            return Ok(Check::warn(
                NAME,
                format!("`{}` cannot be read: {source}", register.key),
                hint,
            ));
        }
        found => found?,
    };
    Ok(match History::of(found.as_ref().map(|stored| &stored.record)) {
        Ok(history) => {
            let runs = match history.runs().count() {
                1 => "1 run".to_owned(),
                runs => format!("{runs} runs"),
            };
            Check::pass(NAME, format!("{runs} in `{}`", register.key))
        }
        Err(why) => {
            let hint = "`tfwrap history` does not show it, and no run changes it";
            Check::warn(NAME, format!("`{}` is left alone: {why}", register.key), hint)
        }
    })
}
