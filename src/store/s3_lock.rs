//! Registers as objects of an S3 bucket: Terraform's lock files.
//!
//! The lock info is Terraform's own, our lease one more member of the same JSON object, which stock
//! clients skip. The version of a record is its `ETag`, compared in the condition of the request
//! itself. Objects are written as Terraform writes its lock file: encryption, ACL, checksum, type.
//!
//! Needs `s3:GetObject`, `s3:PutObject` and `s3:DeleteObject` on `*.tflock`, as Terraform does.
//!
//! Its rules: `docs/protocol.md#f9-s3`.

mod body;
mod list;
mod proof;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ObjectCannedAcl, ServerSideEncryption};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::base64;
use md5::Digest as _;
use tokio::sync::OnceCell;

use super::aws::{Asked, AwsClients, Identity, classify};
use super::{
    Conditions, Expect, Record, RecordVersion, RegisterPage, Registers, RemoveReply, StoreError,
    Stored, WriteReply,
};
use crate::backend::{Encryption, ObjectSettings};
use crate::lock::LockKey;

/// What the name of every object of ours ends with, so that a policy on Terraform's lock files covers
/// them, and none looks like a state.
const SUFFIX: &str = ".tflock";

/// How long the name of an object may be, in bytes.
const LONGEST: usize = 1024;

/// How long a shortened one is at most: some stores count more than the name.
const SHORTENED: usize = 900;

/// What the version of a record begins with whose reply had no `ETag`. No `ETag` does.
const NO_ETAG: &str = "sha256:";

/// For how long the content of an object may be on its way.
const CONTENT: Duration = Duration::from_secs(5);

/// The objects beside one lock, itself among them.
#[derive(Debug)]
pub struct LockObjects {
    client: Client,
    bucket: String,
    /// The bucket and where it is, for messages.
    object: String,
    settings: ObjectSettings,
    /// The customer's key and its digest, as headers have them.
    customer_key: Option<(String, String)>,
    identity: Identity,
    credentials_end: Option<jiff::Timestamp>,
    lock: LockKey,
    honours: OnceCell<Conditions>,
    has_answered: AtomicBool,
    /// What the store was tried with and has not removed yet.
    probe: Mutex<Option<LockKey>>,
    /// Versions that a remove without a condition was sent for: none is ever sent again.
    given_up: Mutex<BTreeSet<(LockKey, String)>>,
}

/// On which condition a request is sent.
#[derive(Debug, Clone, Copy)]
enum Only<'a> {
    IfAbsent,
    IfIs(&'a RecordVersion),
    Always,
}

/// What came of a request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// Done; with the `ETag` of what was written.
    Done(Option<String>),
    /// The condition did not hold.
    Refused,
    /// Not applied, for another request with a condition was under way: that one may have been applied,
    /// or not.
    Busy,
    /// There is no such object.
    Absent,
}

impl LockObjects {
    /// Names the objects beside the lock of the state under `lock`. Nothing is sent.
    ///
    /// # Errors
    /// When the settings ask for what the client cannot do.
    pub fn new(
        clients: &AwsClients,
        bucket: &str,
        lock: &LockKey,
        settings: &ObjectSettings,
        known: Conditions,
    ) -> Result<Self, StoreError> {
        let (client, place) = clients.objects()?;
        let customer_key = match &settings.encryption {
            Encryption::CustomerKey(key) => Some(with_digest(key)?),
            Encryption::None | Encryption::Aes256 | Encryption::Kms(_) => None,
        };
        let known = match known {
            Conditions::Untried => place.is_aws().then_some(Conditions::All),
            known => Some(known),
        };
        Ok(Self {
            client,
            bucket: bucket.to_owned(),
            object: format!("bucket `{bucket}` {place}"),
            settings: settings.clone(),
            customer_key,
            identity: clients.identity(),
            credentials_end: clients.credentials_end(),
            lock: lock.clone(),
            honours: OnceCell::new_with(known),
            has_answered: AtomicBool::new(false),
            probe: Mutex::default(),
            given_up: Mutex::default(),
        })
    }

    fn asked<'a>(&'a self, action: &'a str) -> Asked<'a> {
        Asked { action, object: &self.object, must: None }
    }

    /// What the store honours; on the first call off AWS that is tried.
    async fn honours(&self) -> Result<Conditions, StoreError> {
        self.honours.get_or_try_init(|| self.prove()).await.copied()
    }

    /// What a failed trial means for the lock itself, of which nothing was asked.
    fn not_of_the_lock(&self, error: StoreError) -> StoreError {
        let has_answered = self.has_answered.load(Ordering::Relaxed);
        match error {
            StoreError::Unavailable { detail, .. } if has_answered => StoreError::Busy(detail),
            error => error.of_nothing_written(),
        }
    }

    /// Notes whether the store has answered anything.
    fn noted<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        self.has_answered.fetch_or(answer.is_ok(), Ordering::Relaxed);
        answer
    }

    async fn get(&self, key: &LockKey) -> Result<Option<Stored>, StoreError> {
        self.noted(self.identity.signed(|| self.get_once(key)).await)
    }

    async fn put(
        &self,
        key: &LockKey,
        content: String,
        only: Only<'_>,
    ) -> Result<Answer, StoreError> {
        self.noted(self.identity.signed(|| self.put_once(key, content.clone(), only)).await)
    }

    async fn delete(&self, key: &LockKey, only: Only<'_>) -> Result<Answer, StoreError> {
        self.noted(self.identity.signed(|| self.delete_once(key, only)).await)
    }

    async fn get_once(&self, key: &LockKey) -> Result<Option<Stored>, StoreError> {
        let mut request = self.client.get_object().bucket(&self.bucket).key(name_of(key));
        if let Some((secret, digest)) = &self.customer_key {
            request = request
                .sse_customer_algorithm("AES256")
                .sse_customer_key(secret)
                .sse_customer_key_md5(digest);
        }
        let found = match request.send().await {
            Ok(found) => found,
            Err(error) if code(&error) == "NoSuchKey" => return Ok(None),
            Err(error) => return Err(classify(self.asked("s3:GetObject"), &error)),
        };
        let etag = found.e_tag.clone();
        let broken = |what: String| StoreError::Unavailable {
            detail: format!("no answer from {} to `s3:GetObject`: {what}", self.object),
            sent: true,
        };
        let content = tokio::time::timeout(CONTENT, found.body.collect()).await;
        let content = content.map_err(|_| broken("it took too long".to_owned()))?;
        let content = content.map_err(|error| broken(error.to_string()))?.to_vec();
        // Every store of objects names a version, or holds what one of us wrote.
        if etag.is_none() && content.trim_ascii_start().starts_with(b"<") {
            return Err(self.is_not_s3());
        }
        let version = version(etag, &content);
        Ok(Some(Stored { record: body::decode(&content), version }))
    }

    async fn put_once(
        &self,
        key: &LockKey,
        content: String,
        only: Only<'_>,
    ) -> Result<Answer, StoreError> {
        let settings = &self.settings;
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(name_of(key))
            .content_type("application/json")
            .set_acl(settings.acl.as_deref().map(ObjectCannedAcl::from))
            // Without it the SDK sends a checksum of another kind, as Terraform's does.
            .set_checksum_algorithm((!settings.skip_checksum).then_some(ChecksumAlgorithm::Sha256))
            .set_tagging(settings.lock_tags.clone())
            .body(ByteStream::from(content.into_bytes()));
        let request = match &settings.encryption {
            Encryption::None => request,
            Encryption::Aes256 => request.server_side_encryption(ServerSideEncryption::Aes256),
            Encryption::Kms(id) => {
                request.server_side_encryption(ServerSideEncryption::AwsKms).ssekms_key_id(id)
            }
            Encryption::CustomerKey(_) => {
                let (secret, digest) = self.customer_key.clone().unzip();
                request
                    .sse_customer_algorithm("AES256")
                    .set_sse_customer_key(secret)
                    .set_sse_customer_key_md5(digest)
            }
        };
        let sent = match only {
            Only::IfAbsent => request.if_none_match("*"),
            Only::IfIs(version) => request.if_match(&version.0),
            Only::Always => request,
        };
        match sent.send().await {
            Ok(done) => Ok(Answer::Done(done.e_tag)),
            Err(error) => self.refusal("s3:PutObject", &error),
        }
    }

    async fn delete_once(&self, key: &LockKey, only: Only<'_>) -> Result<Answer, StoreError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(name_of(key));
        let request = match only {
            Only::IfIs(version) => request.if_match(&version.0),
            Only::IfAbsent | Only::Always => request,
        };
        match request.send().await {
            Ok(_) => Ok(Answer::Done(None)),
            Err(error) => self.refusal("s3:DeleteObject", &error),
        }
    }

    /// What an error says of a request with a condition.
    fn refusal<E>(
        &self,
        action: &str,
        error: &SdkError<E, HttpResponse>,
    ) -> Result<Answer, StoreError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let status = error.raw_response().map_or(0, |answer| answer.status().as_u16());
        match (status, code(error)) {
            (412, _) => Ok(Answer::Refused),
            (_, "ConditionalRequestConflict") | (409, "OperationAborted") => Ok(Answer::Busy),
            (404, "NoSuchKey") => Ok(Answer::Absent),
            _ => Err(classify(self.asked(action), error)),
        }
    }

    fn is_not_s3(&self) -> StoreError {
        StoreError::NotTheStore {
            detail: format!(
                "what answers for {} is not S3: its answer has no `ETag`; is a proxy or a login \
                 page in between?",
                self.object
            ),
            sent: true,
        }
    }

    /// The remove of a store that looks at no condition: as Terraform's own, after a look, and never
    /// a second time, for one that is late would remove whatever is there by then.
    async fn remove_unconditionally(
        &self,
        key: &LockKey,
        expect: &RecordVersion,
    ) -> Result<RemoveReply, StoreError> {
        let current = self.get(key).await?;
        if current.as_ref().is_none_or(|stored| stored.version != *expect) {
            return Ok(RemoveReply::Conflict(Some(current)));
        }
        let is_first = {
            let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
            given_up.insert((key.clone(), expect.0.clone()))
        };
        if !is_first {
            return Err(StoreError::Misconfigured(
                format!(
                    "the only request to remove it may still be on its way, and {} ignores \
                     conditions: a second one could remove somebody else's lock",
                    self.object
                )
                .into(),
            ));
        }
        let answer = self.delete(key, Only::Always).await;
        let is_certainly_not_applied = match &answer {
            Ok(answer) => matches!(answer, Answer::Refused | Answer::Busy),
            Err(error) => !error.outcome_is_unknown(),
        };
        if is_certainly_not_applied {
            let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
            given_up.remove(&(key.clone(), expect.0.clone()));
        }
        Ok(removed(&answer?))
    }
}

#[async_trait]
impl Registers for LockObjects {
    fn credentials_end(&self) -> Option<jiff::Timestamp> {
        self.credentials_end
    }

    fn credentials(&self) -> Option<String> {
        self.identity.whose()
    }

    fn renews_credentials(&self) -> bool {
        self.identity.is_renewed()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.identity.ready().await
    }

    async fn try_conditions(&self) -> Result<(), StoreError> {
        self.honours().await.map(drop)
    }

    fn conditions(&self) -> Conditions {
        self.honours.get().copied().unwrap_or(Conditions::Untried)
    }

    async fn read(&self, key: &LockKey) -> Result<Option<Stored>, StoreError> {
        let mut found = self.get(key).await?;
        if let (Some(stored), Conditions::OfCreates) = (&mut found, self.conditions()) {
            // Nobody could take it over safely: for us it never expires.
            stored.record.lease = None;
        }
        Ok(found)
    }

    async fn list(&self, from: Option<&str>) -> Result<RegisterPage, StoreError> {
        self.page(from).await
    }

    async fn write(
        &self,
        key: &LockKey,
        record: &Record,
        expect: &Expect,
    ) -> Result<WriteReply, StoreError> {
        // Until it is known, nothing is sent for the lock itself.
        let honours = self.honours().await.map_err(|error| self.not_of_the_lock(error))?;
        let only = match expect {
            Expect::Absent => Only::IfAbsent,
            Expect::Version(version) => Only::IfIs(version),
        };
        let is_leased = record.lease.is_some() || matches!(expect, Expect::Version(_));
        if honours == Conditions::OfCreates && is_leased {
            let message = format!(
                "{} honours only the condition of a create: nothing there can be changed safely",
                self.object
            );
            return Err(StoreError::Misconfigured(message.into()));
        }
        let content = body::encode(record);
        match self.put(key, content.clone(), only).await? {
            Answer::Done(None) if honours == Conditions::All => Err(self.is_not_s3()),
            Answer::Done(etag) => Ok(WriteReply::Applied(version(etag, content.as_bytes()))),
            Answer::Refused | Answer::Busy => Ok(WriteReply::Conflict(None)),
            Answer::Absent => Ok(WriteReply::Conflict(Some(None))),
        }
    }

    async fn remove(
        &self,
        key: &LockKey,
        expect: &RecordVersion,
    ) -> Result<RemoveReply, StoreError> {
        // Whoever removes a lock that another process took has not tried what the store honours.
        if self.conditions() != Conditions::All {
            return self.remove_unconditionally(key, expect).await;
        }
        Ok(removed(&self.delete(key, Only::IfIs(expect)).await?))
    }
}

fn removed(answer: &Answer) -> RemoveReply {
    match answer {
        Answer::Done(_) => RemoveReply::Removed,
        Answer::Absent => RemoveReply::Conflict(Some(None)),
        Answer::Refused | Answer::Busy => RemoveReply::Conflict(None),
    }
}

/// The name of a register's object. One that would be too long is cut behind a `/`, its digest in the
/// place of its end: only registers beside a lock can be.
fn name_of(key: &LockKey) -> String {
    let name = format!("{key}{SUFFIX}");
    if name.len() <= LONGEST {
        return name;
    }
    let end = format!("~{}{SUFFIX}", digest(key.0.as_bytes()));
    let fits = &key.0[..key.0.floor_char_boundary(SHORTENED - end.len())];
    // Some stores take no part of a name that is longer than that of a file.
    let directory = fits.rfind('/').map_or("", |slash| &fits[..=slash]);
    format!("{directory}{end}")
}

fn version(etag: Option<String>, content: &[u8]) -> RecordVersion {
    RecordVersion(etag.unwrap_or_else(|| format!("{NO_ETAG}{}", digest(content))))
}

fn digest(content: &[u8]) -> String {
    let digest = sha2::Sha256::digest(content);
    digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The code of an error; empty where it has none.
pub(super) fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> &str {
    error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default()
}

/// A customer's key with its digest.
pub(super) fn with_digest(key: &str) -> Result<(String, String), StoreError> {
    let wrong = |what: &str| {
        StoreError::Misconfigured(
            format!(
                "the customer's key of the state {what}: `sse_customer_key` or \
                 `AWS_SSE_CUSTOMER_KEY` must be 32 bytes in base64"
            )
            .into(),
        )
    };
    if key.is_empty() {
        return Err(wrong("is not kept in receipts, and was not found again"));
    }
    let bytes = base64::decode(key).map_err(|_| wrong("is no base64"))?;
    if bytes.len() != 32 {
        return Err(wrong("does not have the length of a key"));
    }
    Ok((key.to_owned(), base64::encode(md5::Md5::digest(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_of_ours_looks_like_a_state() {
        let key = LockKey("env:/dev/a b/k".to_owned());
        assert_eq!(name_of(&key), "env:/dev/a b/k.tflock");
        let line = crate::lock::line::Slot::Line.key(&key);
        assert_eq!(name_of(&line), "env:/dev/a b/k.tfwrap/line.tflock");
        for length in 900..1100 {
            let key = LockKey("é".repeat(length / 2) + &"k".repeat(length % 2));
            let name = name_of(&key);
            assert!(name.len() <= LONGEST && name.ends_with(SUFFIX), "{name}");
            assert_eq!(name.contains('~'), length + SUFFIX.len() > LONGEST);
        }
    }

    #[test]
    fn a_customers_key_goes_with_its_digest_or_is_refused() {
        let key = base64::encode([7; 32]);
        let (same, digest) = with_digest(&key).unwrap();
        assert_eq!((same, digest.len()), (key, 24));
        for (key, says) in [("", "in receipts"), ("%", "no base64"), ("AAAA", "the length")] {
            let error = with_digest(key).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
