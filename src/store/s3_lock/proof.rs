//! What a store is worth: whether it honours the conditions that a lock stands on. On AWS that is
//! known; anywhere else it is tried, before anything of anybody's is touched, on an object of our own
//! beside the lock.
//!
//! Not on the lock itself: where a second create goes through, the first may have replaced a
//! stranger's lock already.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::super::Conditions;
use super::{Answer, LockObjects, Only, version};
use crate::clock::uptime;
use crate::lock::LockKey;
use crate::lock::register::StoreError;

/// How much longer each pause is before a request of a trial is sent again, and after which it is not.
const PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// After how long it is not sent again either: a store that is silent is asked anew by whoever began the trial.
const PATIENCE: Duration = Duration::from_secs(2);

/// A request of a trial.
#[derive(Debug, Clone, Copy)]
enum Trial<'a> {
    /// Of the object with this number in it.
    Put(u8, Only<'a>),
    Delete(Only<'a>),
}

/// Whether a request can be sent again that may have been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeated {
    /// It changes nothing the second time: it is to be refused, or removes what nobody else knows.
    Harmless,
    /// Its second answer would tell of the first one.
    Telltale,
}

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
        // Nothing is made that may not be removed.
        self.tried(&key, Trial::Delete(Only::Always), Repeated::Harmless).await?;
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
            self.tried(&key, Trial::Delete(Only::Always), Repeated::Harmless).await?;
            *self.probe() = None;
        }
        Ok(())
    }

    async fn tried_on(&self, key: &LockKey) -> Result<Conditions, StoreError> {
        let weighed = Self::weighed;
        let put = |n, only, repeated| self.tried(key, Trial::Put(n, only), repeated);
        let delete = |only, repeated| self.tried(key, Trial::Delete(only), repeated);
        let create = |repeated| put(1, Only::IfAbsent, repeated);
        let Answer::Done(etag) = create(Repeated::Telltale).await? else {
            return Err(self.is_no_store("refuses to create an object that is not there"));
        };
        if let Answer::Done(again) = create(Repeated::Harmless).await? {
            // A store that names versions names each, and one that does not none.
            let is_its_own = again.is_some() == etag.is_some();
            let ignores = self.is_no_store("ignores `If-None-Match`");
            return Err(if is_its_own { ignores } else { self.is_not_s3() });
        }
        let Some(etag) = etag else { return Ok(Conditions::OfCreates) };
        // From here on it can be locked at least as Terraform itself does it.
        let first = version(Some(etag), &[]);
        let etag = match weighed(put(2, Only::IfIs(&first), Repeated::Telltale).await)? {
            Answer::Done(Some(etag)) => etag,
            Answer::Done(None) => return Err(self.is_not_s3()),
            Answer::Refused | Answer::Busy | Answer::Absent => return Ok(Conditions::OfCreates),
        };
        let second = version(Some(etag), &[]);
        match weighed(put(3, Only::IfIs(&first), Repeated::Harmless).await)? {
            Answer::Done(None) => return Err(self.is_not_s3()),
            Answer::Done(Some(_)) => return Ok(Conditions::OfCreates),
            Answer::Refused | Answer::Busy | Answer::Absent if second == first => {
                return Ok(Conditions::OfCreates);
            }
            Answer::Refused | Answer::Busy | Answer::Absent => {}
        }
        let removed = weighed(delete(Only::IfIs(&first), Repeated::Harmless).await)?;
        if removed != Answer::Refused {
            return Ok(Conditions::OfCreates);
        }
        match weighed(delete(Only::IfIs(&second), Repeated::Telltale).await)? {
            Answer::Done(_) => Ok(Conditions::All),
            Answer::Refused | Answer::Busy | Answer::Absent => Ok(Conditions::OfCreates),
        }
    }

    /// What an answer proves: a store that does not know a condition at all refuses it, too.
    fn weighed(answer: Result<Answer, StoreError>) -> Result<Answer, StoreError> {
        match answer {
            Err(StoreError::Misconfigured(_)) => Ok(Answer::Absent),
            answer => answer,
        }
    }

    /// Asks a few times: the trial takes several requests, and a store that fails some of them would
    /// hardly ever get through it.
    async fn tried(
        &self,
        key: &LockKey,
        request: Trial<'_>,
        repeated: Repeated,
    ) -> Result<Answer, StoreError> {
        let may_repeat =
            |error: &StoreError| repeated == Repeated::Harmless || !error.outcome_is_unknown();
        let (mut pause, began) = (Duration::ZERO, uptime());
        loop {
            let answer = match request {
                Trial::Put(n, only) => {
                    self.put(key, format!("{{\"tfwrap\":{{\"probe\":{n}}}}}"), only).await
                }
                Trial::Delete(only) => self.delete(key, only).await,
            };
            pause += PAUSE;
            match answer.and_then(|answer| self.settled(answer)) {
                Err(error)
                    if error.is_worth_another_try()
                        && may_repeat(&error)
                        && pause < LAST_PAUSE
                        && uptime().since(began) < PATIENCE =>
                {
                    tokio::time::sleep(pause).await;
                }
                answer => return answer,
            }
        }
    }

    /// One that is busy with another request proves nothing.
    fn settled(&self, answer: Answer) -> Result<Answer, StoreError> {
        if answer == Answer::Busy {
            let detail = format!("{} is busy with another request", self.object);
            return Err(StoreError::Busy(detail));
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
