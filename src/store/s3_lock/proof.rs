//! What a store is worth: whether it honours the conditions that a lock stands on. On AWS that is
//! known; anywhere else it is tried, before anything of anybody's is touched, on an object of our own
//! beside the lock.
//!
//! Not on the lock itself: where a second create goes through, the first may have replaced a
//! stranger's lock already.

use std::sync::{MutexGuard, PoisonError};

use uuid::Uuid;

use super::super::Conditions;
use super::{Answer, LockObjects, Only, version};
use crate::lock::LockKey;
use crate::lock::register::StoreError;

impl LockObjects {
    /// Finds out what the store honours.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] where it lets a second create through. Whatever else goes wrong
    /// on the way proves nothing.
    pub(super) async fn prove(&self) -> Result<Conditions, StoreError> {
        // One after the other, or each try in an outage would leave another object.
        self.remove_probe().await?;
        let key = LockKey(format!("{}.tfwrap/probe/{}", self.lock, Uuid::new_v4()));
        *self.probe() = Some(key.clone());
        let found = self.tried_on(&key).await;
        if matches!(found, Ok(Conditions::All)) {
            *self.probe() = None;
        } else {
            // Nobody else knows its name, so what is left of it costs nobody anything.
            drop(self.remove_probe().await);
        }
        found
    }

    fn probe(&self) -> MutexGuard<'_, Option<LockKey>> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what the last try left.
    async fn remove_probe(&self) -> Result<(), StoreError> {
        let left = self.probe().clone();
        if let Some(key) = left {
            self.settled(self.delete(&key, Only::Always).await?)?;
            *self.probe() = None;
        }
        Ok(())
    }

    async fn tried_on(&self, key: &LockKey) -> Result<Conditions, StoreError> {
        let content = |n: u8| format!("{{\"tfwrap\":{{\"probe\":{n}}}}}");
        let weighed = |answer| self.weighed(answer);
        let created = || async { self.settled(self.put(key, content(1), Only::IfAbsent).await?) };
        let Answer::Done(etag) = created().await? else {
            return Err(self.is_no_store("refuses to create an object that is not there"));
        };
        if let Answer::Done(again) = created().await? {
            // A store that names versions names each, and one that does not none.
            let is_its_own = again.is_some() == etag.is_some();
            let ignores = self.is_no_store("ignores `If-None-Match`");
            return Err(if is_its_own { ignores } else { self.is_not_s3() });
        }
        let Some(etag) = etag else { return Ok(Conditions::OfCreates) };
        // From here on it can be locked at least as Terraform itself does it.
        let first = version(Some(etag), &[]);
        let etag = match weighed(self.put(key, content(2), Only::IfIs(&first)).await)? {
            Answer::Done(Some(etag)) => etag,
            Answer::Done(None) => return Err(self.is_not_s3()),
            Answer::Refused | Answer::Busy | Answer::Absent => return Ok(Conditions::OfCreates),
        };
        let second = version(Some(etag), &[]);
        match weighed(self.put(key, content(3), Only::IfIs(&first)).await)? {
            Answer::Done(None) => return Err(self.is_not_s3()),
            Answer::Done(Some(_)) => return Ok(Conditions::OfCreates),
            Answer::Refused | Answer::Busy | Answer::Absent if second == first => {
                return Ok(Conditions::OfCreates);
            }
            Answer::Refused | Answer::Busy | Answer::Absent => {}
        }
        let removed = weighed(self.delete(key, Only::IfIs(&first)).await)?;
        if removed != Answer::Refused {
            return Ok(Conditions::OfCreates);
        }
        match weighed(self.delete(key, Only::IfIs(&second)).await)? {
            Answer::Done(_) => Ok(Conditions::All),
            Answer::Refused | Answer::Busy | Answer::Absent => Ok(Conditions::OfCreates),
        }
    }

    /// What an answer proves: a store that does not know a condition at all refuses it, too.
    fn weighed(&self, answer: Result<Answer, StoreError>) -> Result<Answer, StoreError> {
        match answer {
            Err(StoreError::Misconfigured(_)) => Ok(Answer::Absent),
            answer => self.settled(answer?),
        }
    }

    /// One that is busy with another request proves nothing.
    fn settled(&self, answer: Answer) -> Result<Answer, StoreError> {
        if answer == Answer::Busy {
            let detail = format!("{} is busy with another request", self.object);
            return Err(StoreError::Unavailable { detail, sent: false });
        }
        Ok(answer)
    }

    fn is_no_store(&self, why: &str) -> StoreError {
        let message = format!(
            "{} cannot hold a lock: it {why}, so nothing there keeps two runs apart; \
             name a lock elsewhere: `--lock dynamodb://TABLE/NAME` or `--lock file:///PATH`",
            self.object
        );
        StoreError::Misconfigured(message.into())
    }
}
