//! What a bucket is like.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::super::StoreError;
use super::super::aws::{Asked, AwsClients, classify};
use super::ServerDate;

/// What is known of one part, for each needs a permission of its own.
pub type Known<T> = Result<T, StoreError>;

/// As far as it matters for lock files.
#[derive(Debug)]
pub struct BucketFacts {
    /// Where it is, for people.
    pub place: String,
    /// Whether it keeps versions.
    pub is_versioned: Known<bool>,
    /// Whether Object Lock is on, with the retention that each new object gets.
    pub object_lock: Known<Option<Retention>>,
    /// How objects are encrypted by default.
    pub encryption: Known<Option<String>>,
}

/// For how long a new object cannot be removed; empty where it is not said.
type Retention = String;

/// Lists one name of it, which is what tells whether it is there, and asks for the rest.
pub(super) async fn look(
    clients: &AwsClients,
    bucket: &str,
    date: &ServerDate,
) -> Result<BucketFacts, StoreError> {
    let (client, place) = clients.objects()?;
    let (identity, object) = (clients.identity(), format!("bucket `{bucket}` {place}"));
    let failed = |action, error: &_| classify(asked(action, &object), error);
    let request = client.list_objects_v2().bucket(bucket).max_keys(1);
    let send = || async {
        let sent = request.clone().customize().interceptor(date.clone()).send().await;
        sent.map_err(|error| failed("s3:ListBucket", &error))
    };
    identity.signed(send).await?;

    let action = "s3:GetBucketVersioning";
    let answer = client.get_bucket_versioning().bucket(bucket).send().await;
    let answer = answer.map_err(|error| classify(asked(action, &object), &error));
    let is_versioned = answer.map(|it| it.status().is_some_and(|it| it.as_str() == "Enabled"));

    let action = "s3:GetBucketObjectLockConfiguration";
    let answer = client.get_object_lock_configuration().bucket(bucket).send().await;
    let object_lock = unless(answer, "ObjectLockConfigurationNotFoundError", action, &object);
    let object_lock = object_lock.map(|answer| {
        let found = answer?.object_lock_configuration?;
        let retention = found.rule.and_then(|rule| rule.default_retention);
        let retention = retention.map(|it| match (it.days, it.years) {
            (Some(1), _) => "1 day".to_owned(),
            (Some(days), _) => format!("{days} days"),
            (None, Some(1)) => "1 year".to_owned(),
            (None, Some(years)) => format!("{years} years"),
            (None, None) => String::new(),
        });
        Some(retention.unwrap_or_default())
    });

    let action = "s3:GetEncryptionConfiguration";
    let answer = client.get_bucket_encryption().bucket(bucket).send().await;
    let code = "ServerSideEncryptionConfigurationNotFoundError";
    let encryption = unless(answer, code, action, &object).map(|answer| {
        let found = answer?.server_side_encryption_configuration?;
        let by_default =
            found.rules.into_iter().find_map(|it| it.apply_server_side_encryption_by_default);
        by_default.map(|it| it.sse_algorithm.as_str().to_owned())
    });
    Ok(BucketFacts { place: place.to_string(), is_versioned, object_lock, encryption })
}

fn asked<'a>(action: &'a str, object: &'a str) -> Asked<'a> {
    Asked { action, object, must: None }
}

/// The answer; nothing where there is no such configuration.
fn unless<T, E>(
    answer: Result<T, SdkError<E, HttpResponse>>,
    code: &str,
    action: &str,
    object: &str,
) -> Known<Option<T>>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code() == Some(code) => Ok(None),
        Err(error) => Err(classify(asked(action, object), &error)),
    }
}
