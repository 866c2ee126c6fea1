//! Roles, asked of STS: those of the backend and those of profiles.
//!
//! Asked directly, because aws-config's providers have no source identity, no transitive tags and
//! no web identity token in the configuration itself, and send no `DurationSeconds` where Go's SDK
//! does.

use std::path::Path;
use std::time::Duration;

use aws_sdk_sts::Client;
use aws_sdk_sts::operation::get_caller_identity::GetCallerIdentityOutput;
use aws_sdk_sts::types::{AssumedRoleUser, PolicyDescriptorType, Tag};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use jiff::Timestamp;

use super::super::{FlawKind, StoreError};
use super::error::{Asked, classify, unsent};
use super::profile::StaticKeys;
use super::session::Session;
use super::token_file;
use crate::backend::{AssumeRole, WebIdentity};

/// Shown in AWS' logs where the configuration gives no name.
const SESSION_NAME: &str = "tfwrap";

/// What Go's SDK asks for where the configuration says nothing. AWS' own default is an hour.
const DURATION: Duration = Duration::from_mins(15);

/// Assumes a role with the credentials of the client.
pub(super) async fn assume(sts: &Client, role: &AssumeRole) -> Result<Session, StoreError> {
    let tags: Vec<_> =
        role.tags.iter().map(|(key, value)| tag(key, value)).collect::<Result<_, _>>()?;
    let answer = sts
        .assume_role()
        .role_arn(&role.role_arn)
        .role_session_name(role.session_name.as_deref().unwrap_or(SESSION_NAME))
        .duration_seconds(seconds(role.duration.unwrap_or(DURATION))?)
        .set_external_id(role.external_id.clone())
        .set_policy(role.policy.clone())
        .set_policy_arns(policies(&role.policy_arns))
        .set_source_identity(role.source_identity.clone())
        .set_tags(some(tags))
        .set_transitive_tag_keys(some(role.transitive_tag_keys.clone()))
        .send()
        .await
        .map_err(|error| refused("sts:AssumeRole", &role.role_arn, &error))?;
    session(answer.credentials, answer.assumed_role_user)
}

/// Gets the role of the bearer of a token, which is sent as it is, newline and all.
pub(super) async fn bear(sts: &Client, identity: &WebIdentity) -> Result<Session, StoreError> {
    let role_arn = identity.role_arn.as_deref().unwrap_or_default();
    let duration = identity.duration.map(seconds).transpose()?;
    let answer = sts
        .assume_role_with_web_identity()
        .role_arn(role_arn)
        .role_session_name(identity.session_name.as_deref().unwrap_or(SESSION_NAME))
        .web_identity_token(token(identity).await?)
        .set_duration_seconds(duration)
        .set_policy(identity.policy.clone())
        .set_policy_arns(policies(&identity.policy_arns))
        .send()
        .await
        .map_err(|error| refused("sts:AssumeRoleWithWebIdentity", role_arn, &error))?;
    session(answer.credentials, answer.assumed_role_user)
}

/// The account of the client's credentials.
pub(super) async fn account(sts: &Client) -> Result<String, StoreError> {
    Ok(caller(sts).await?.account.unwrap_or_default())
}

/// Whose they are.
pub(super) async fn caller(sts: &Client) -> Result<GetCallerIdentityOutput, StoreError> {
    let asked = Asked { action: "sts:GetCallerIdentity", object: "STS", must: None };
    let answer = sts.get_caller_identity().send().await;
    answer.map_err(|error| unsent(classify(asked, &error)))
}

/// The account that an ARN names.
pub(super) fn account_in(arn: &str) -> Option<String> {
    arn.split(':').nth(4).filter(|account| !account.is_empty()).map(ToOwned::to_owned)
}

async fn token(identity: &WebIdentity) -> Result<String, StoreError> {
    if let Some(token) = &identity.token {
        return Ok(token.clone());
    }
    let path = identity.token_file.as_deref().unwrap_or(Path::new(""));
    let token = token_file::read(path, "the web identity token").await?;
    if token.trim().is_empty() {
        let message =
            format!("cannot read the web identity token `{}`: it is empty", path.display());
        return Err(StoreError::Credentials(FlawKind::Unreadable.flaw(message)));
    }
    Ok(token)
}

fn refused<E>(action: &str, role: &str, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    unsent(classify(Asked { action, object: &format!("role `{role}`"), must: None }, error))
}

fn session(
    found: Option<aws_sdk_sts::types::Credentials>,
    user: Option<AssumedRoleUser>,
) -> Result<Session, StoreError> {
    let odd = |what: &str| StoreError::Credentials(format!("STS answered {what}").into());
    let found = found.ok_or_else(|| odd("without credentials"))?;
    let ends = Timestamp::from_second(found.expiration.secs());
    let ends = ends.map_err(|_| odd("with an expiration that is not a time"))?;
    let keys = StaticKeys {
        id: found.access_key_id,
        secret: found.secret_access_key,
        token: Some(found.session_token),
    };
    // As Go's SDK finds it.
    let account = user.and_then(|user| account_in(&user.arn));
    Ok(Session { keys, ends: Some(ends), account })
}

fn seconds(duration: Duration) -> Result<i32, StoreError> {
    i32::try_from(duration.as_secs())
        .map_err(|_| StoreError::Misconfigured("the duration of the role is too long".into()))
}

fn tag(key: &str, value: &str) -> Result<Tag, StoreError> {
    Tag::builder().key(key).value(value).build().map_err(|error| {
        StoreError::Misconfigured(
            format!("the tag `{key}` of the role cannot be sent: {error}").into(),
        )
    })
}

fn policies(arns: &[String]) -> Option<Vec<PolicyDescriptorType>> {
    some(arns.iter().map(|arn| PolicyDescriptorType::builder().arn(arn).build()).collect())
}

/// An empty list is not sent.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list) }
}
