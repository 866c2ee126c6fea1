//! The credentials of one configuration: asked for once, kept, and renewed before they end.
//!
//! They are got before a request, and not within it: a program that asks for a one-time password
//! may take longer than any request may. What asks is a task of its own, so that nobody who stops
//! waiting stops it, too; it ends with the process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use jiff::Timestamp;

use super::super::StoreError;
use super::chain::{Chain, SettingPlace, Source};
use super::role;
use super::session::Session;
use super::wires::Wires;
use crate::backend::AwsSettings;
use crate::clock::wall;

/// How long before their end credentials are renewed beside the requests that still use them; a
/// quarter of their time where that is less.
const EARLY: Duration = Duration::from_mins(5);
/// How long before it they are not used any more; a tenth where that is less.
const LAST: Duration = Duration::from_secs(10);
/// For how long nobody is asked again who has just refused, or given what was over already.
const PAUSE: Duration = Duration::from_secs(10);
/// For how long at least where there were credentials, and there are none: a short lease is lost soon.
const SHORT_PAUSE: Duration = Duration::from_secs(2);

/// How long keys of a shared file count before they are read anew: who rotates them writes the file,
/// and each Terraform below a long hold reads it.
const SHARED_FILE: Duration = Duration::from_secs(5);

/// Whose credentials are used.
#[derive(Clone)]
pub(in super::super) struct Identity(Arc<Inner>);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.0.chain).finish()
    }
}

struct Inner {
    /// None where there is no way to any; why is told to whoever asks.
    chain: Result<Chain, StoreError>,
    wires: Wires,
    memory: Arc<Mutex<Memory>>,
}

/// What is known of one configuration, whichever client asks.
#[derive(Default)]
struct Memory {
    /// Of the source and of each role after it.
    stages: Vec<Option<Stage>>,
    /// Until when nobody is asked again, and why.
    refused: Option<(Timestamp, StoreError)>,
    /// Since when a store refuses whatever credentials it is shown.
    rejected: Option<Timestamp>,
    asking: Option<Asking>,
}

type Asking = Shared<BoxFuture<'static, Result<Session, StoreError>>>;

#[derive(Clone)]
struct Stage {
    session: Session,
    since: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Fresh,
    /// Still good, and to be renewed.
    Old,
    Over,
}

/// Credentials of an end that is past when they come are good for a moment: the clock may be off,
/// and whoever gave them is not asked again at once.
fn age(ends: Option<Timestamp>, since: Timestamp, now: Timestamp) -> Age {
    let Some(ends) = ends else { return Age::Fresh };
    let life = Duration::try_from(ends.duration_since(since)).unwrap_or_default();
    let good_for_now = life.is_zero() && now < since + PAUSE;
    if good_for_now || now < ends - EARLY.min(life / 4) {
        Age::Fresh
    } else if now < over(ends, since) {
        Age::Old
    } else {
        Age::Over
    }
}

/// From when on they are not used any more.
fn over(ends: Timestamp, since: Timestamp) -> Timestamp {
    let life = Duration::try_from(ends.duration_since(since)).unwrap_or_default();
    ends - LAST.min(life / 10)
}

/// For how long a source that has just refused is not asked again, where the credentials that it
/// gave before are over then. Who is asked by hand may be asked in vain: not before there is need,
/// and the longer it lasts, the less often.
fn pause(over: Option<Timestamp>, now: Timestamp) -> Duration {
    let Some(over) = over else { return PAUSE };
    let between = |from: Timestamp, to| Duration::try_from(from.duration_until(to));
    let pause = between(now, over).or_else(|_| between(over, now).map(|without| without / 4));
    pause.unwrap_or_default().clamp(SHORT_PAUSE, PAUSE)
}

impl Identity {
    pub(super) fn new(
        chain: Result<Chain, StoreError>,
        wires: Wires,
        settings: &AwsSettings,
    ) -> Self {
        let memory = memory_of(settings);
        Self(Arc::new(Inner { chain, wires, memory }))
    }

    /// Whether the credentials are keys of the environment, before any role.
    pub(super) fn is_of_environment(&self) -> bool {
        let source = self.0.chain.as_ref().map(|chain| &chain.source);
        matches!(source, Ok(Source::Keys(_, SettingPlace::Environment)))
    }

    /// Whether the source can give others than it gave first.
    pub(in super::super) fn is_renewed(&self) -> bool {
        let source = self.0.chain.as_ref().map(|chain| &chain.source);
        !matches!(
            source,
            Ok(Source::Keys(_, SettingPlace::Environment | SettingPlace::Backend)) | Err(_)
        )
    }

    /// Whose credentials they are, in words.
    pub(in super::super) fn whose(&self) -> Option<String> {
        self.0.chain.as_ref().ok().map(ToString::to_string)
    }

    /// Gets the credentials, unless they are known.
    ///
    /// # Errors
    /// When there are none; nothing was sent to a store.
    pub(in super::super) async fn ready(&self) -> Result<(), StoreError> {
        self.session().await.map(drop)
    }

    /// Who that is, as STS has it.
    ///
    /// # Errors
    /// As of [`Identity::ready`]; and what STS says.
    pub(super) async fn caller(&self) -> Result<String, StoreError> {
        let session = self.session().await?;
        let sts = self.0.wires.sts(&SettingPlace::Backend, Some(&session))?;
        role::caller(&sts).await.map(|caller| caller.arn.unwrap_or_default())
    }

    /// Sends a request that is signed with the credentials, and once more where the store refuses
    /// them and their source has others by now: nothing has come of what is refused so.
    ///
    /// # Errors
    /// When there are no credentials; and those of the request.
    pub(in super::super) async fn signed<T, F>(&self, send: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let last = self.chain()?.roles.len();
        let used = self.session().await?;
        let answer = send().await;
        let answer = match answer {
            Err(StoreError::Credentials(_)) if self.forget(last, &used) => {
                let other = self.session().await?;
                if other.keys == used.keys { answer } else { send().await }
            }
            answer => answer,
        };
        if answer.is_ok() {
            self.memory().rejected = None;
        }
        answer
    }

    fn chain(&self) -> Result<&Chain, StoreError> {
        self.0.chain.as_ref().map_err(Clone::clone)
    }

    async fn session(&self) -> Result<Session, StoreError> {
        let chain = self.chain()?;
        let asking = {
            let mut memory = self.memory();
            let now = wall();
            let last = memory.stages.get(chain.roles.len()).cloned().flatten();
            let known = last.map(|it| (age(it.session.ends, it.since, now), it.session));
            let refused = memory.refused.clone().filter(|(until, _)| now < *until);
            match (known, refused) {
                (Some((Age::Fresh, session)), _) | (Some((Age::Old, session)), Some(_)) => {
                    return Ok(session);
                }
                (Some((Age::Old, session)), None) => {
                    // The task goes on by itself.
                    drop(self.ask(&mut memory));
                    return Ok(session);
                }
                (_, Some((_, error))) => return Err(error),
                (_, None) => self.ask(&mut memory),
            }
        };
        asking.await
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to ask, unless that is under way.
    fn ask(&self, memory: &mut Memory) -> Asking {
        if let Some(asking) = memory.asking.clone().filter(|asking| asking.peek().is_none()) {
            return asking;
        }
        let this = self.clone();
        let task = tokio::runtime::Handle::current().spawn(async move { this.renew().await });
        let ended = || {
            let detail =
                "the AWS credentials could not be obtained: the program is ending".to_owned();
            Err(StoreError::Unavailable { detail, sent: false })
        };
        let asking = async move { task.await.unwrap_or_else(|_| ended()) }.boxed().shared();
        memory.asking = Some(asking.clone());
        asking
    }

    async fn renew(&self) -> Result<Session, StoreError> {
        let last = self.chain()?.roles.len();
        let result = self.get(last).await;
        self.memory().asking = None;
        result
    }

    /// Of the source, or of a role by what is before it.
    fn get(&self, at: usize) -> BoxFuture<'_, Result<Session, StoreError>> {
        async move {
            let session = match at.checked_sub(1) {
                None => self.ask_source().await?,
                Some(before) => self.assume(before).await?,
            };
            self.keep(at, session).await
        }
        .boxed()
    }

    async fn ask_source(&self) -> Result<Session, StoreError> {
        let (chain, began) = (self.chain()?, wall());
        let answer = self.0.wires.ask(&chain.source).await;
        let answer = answer.and_then(|it| it.checked(&chain.to_string()));
        self.note_refusal(began, answer.as_ref().err());
        let mut session = answer?;
        if let Source::Keys(_, SettingPlace::Profile(_)) = &chain.source {
            session.ends = Some(wall() + SHARED_FILE);
        }
        Ok(session)
    }

    /// The role after a stage. What that gave once and STS refuses is asked for anew, as in
    /// [`Identity::signed`].
    async fn assume(&self, after: usize) -> Result<Session, StoreError> {
        let (chain, wires) = (self.chain()?, &self.0.wires);
        let next = &chain.roles[after];
        let assume = async |by: &Session| {
            let sts = wires.sts(&next.place, Some(by))?;
            role::assume(&sts, &next.role).await?.checked(&chain.to_string())
        };
        let used = self.fresh(after).await?;
        let answer = assume(&used).await;
        if !(matches!(answer, Err(StoreError::Credentials(_))) && self.forget(after, &used)) {
            return answer;
        }
        let other = self.fresh(after).await?;
        if other.keys == used.keys { answer } else { assume(&other).await }
    }

    /// What a stage gave, if that is still good, else anew.
    async fn fresh(&self, at: usize) -> Result<Session, StoreError> {
        let known = self.memory().stages.get(at).cloned().flatten();
        match known.filter(|it| age(it.session.ends, it.since, wall()) == Age::Fresh) {
            Some(stage) => Ok(stage.session),
            None => self.get(at).await,
        }
    }

    /// Lets go of credentials that have just been refused, whatever end they have; whether their
    /// source is to be asked now. Not where it gave them a moment ago: then it has no others, and is
    /// asked ever less often.
    fn forget(&self, at: usize, refused: &Session) -> bool {
        let (mut memory, now) = (self.memory(), wall());
        let since = *memory.rejected.get_or_insert(now);
        let Some(Some(stage)) = memory.stages.get_mut(at) else { return true };
        if stage.session.keys == refused.keys {
            if now < stage.since + pause(Some(since), now) {
                return false;
            }
            stage.session.ends = Some(now);
        }
        true
    }

    /// Keeps what the source refused with, if it did, and until when it is not asked again.
    fn note_refusal(&self, began: Timestamp, error: Option<&StoreError>) {
        let (mut memory, now) = (self.memory(), wall());
        let before = memory.stages.first().and_then(Option::as_ref);
        let before = before.and_then(|it| Some(over(it.session.ends?, it.since)));
        memory.refused = error.map(|error| {
            // What may pass by itself is tried again by whoever asked, and so is a role; but not at
            // once where that was long in coming.
            let took = Duration::try_from(now.duration_since(began)).unwrap_or_default();
            let pause = match pause(before, now) {
                pause if !error.is_transient() => pause,
                pause if before.is_some() => took.min(pause),
                _ => took,
            };
            (now + pause, error.clone())
        });
    }

    /// Keeps what a stage gave; the last one only if its account may be used.
    async fn keep(&self, at: usize, session: Session) -> Result<Session, StoreError> {
        let chain = self.chain()?;
        if at == chain.roles.len() {
            let by_instance = at == 0 && matches!(chain.source, Source::Instance { .. });
            self.0.wires.allow(&session, by_instance).await?;
        }
        let mut memory = self.memory();
        if memory.stages.len() <= at {
            memory.stages.resize(at + 1, None);
        }
        memory.stages[at] = Some(Stage { session: session.clone(), since: wall() });
        Ok(session)
    }
}

impl ProvideCredentials for Identity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let session = self.session().await.map_err(CredentialsError::provider_error)?;
            Ok::<Credentials, _>(session.credentials())
        })
    }
}

/// Clients of one configuration share what they know: nobody types a one-time password twice.
fn memory_of(settings: &AwsSettings) -> Arc<Mutex<Memory>> {
    static KNOWN: Mutex<Vec<(AwsSettings, Arc<Mutex<Memory>>)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, memory)) = known.iter().find(|(other, _)| other == settings) {
        return memory.clone();
    }
    let memory = Arc::default();
    known.push((settings.clone(), Arc::clone(&memory)));
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_renewed_before_their_end_and_not_used_up_to_it() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        for (ends, expected) in [
            // An hour: five minutes and ten seconds before.
            (3600, [(0, Age::Fresh), (3299, Age::Fresh), (3301, Age::Old), (3591, Age::Over)]),
            // Six seconds: their last quarter, their last tenth.
            (6, [(0, Age::Fresh), (4, Age::Fresh), (5, Age::Old), (6, Age::Over)]),
            // Over when they came.
            (0, [(0, Age::Fresh), (9, Age::Fresh), (10, Age::Over), (3600, Age::Over)]),
            (-60, [(0, Age::Fresh), (9, Age::Fresh), (10, Age::Over), (3600, Age::Over)]),
        ] {
            for (now, expected) in expected {
                assert_eq!(age(Some(at(ends)), at(0), at(now)), expected, "{ends} {now}");
            }
        }
        assert_eq!(age(None, at(0), at(1 << 33)), Age::Fresh);
    }

    #[test]
    fn a_source_is_asked_again_soon_where_its_credentials_are_over_and_ever_less_often() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        assert_eq!(pause(None, at(100)), PAUSE);
        for (now, expected) in [
            // An hour's keys, five minutes before their end: there is no hurry.
            (0, 10),
            (292, 8),
            (299, 2),
            (300, 2),
            (308, 2),
            (320, 5),
            (340, 10),
            (99_999, 10),
        ] {
            assert_eq!(pause(Some(at(300)), at(now)), Duration::from_secs(expected), "{now}");
        }
    }
}
