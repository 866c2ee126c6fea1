//! Roles: `assume_role` and `assume_role_with_web_identity` of the backend.
//!
//! Asked of STS directly, because aws-config's providers have no source identity, no transitive
//! tags and no web identity token in the configuration itself.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_sts::types::{PolicyDescriptorType, Tag};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::super::StoreError;
use super::super::blocking::reason;
use super::endpoint::{self, Asker, Service};
use super::error::{Asked, classify};
use super::profile::InUse;
use crate::backend::{AssumeRole, AwsSettings, WebIdentity};

/// Shown in AWS' logs where the configuration gives no name.
const SESSION_NAME: &str = "tfwrap";

/// The client of STS for the backend's own roles.
pub(super) fn sts(
    settings: &AwsSettings,
    profile: &InUse,
    sdk: &SdkConfig,
    base: Option<SharedCredentialsProvider>,
) -> Result<aws_sdk_sts::Client, StoreError> {
    let place = endpoint::find(settings, profile, Service::Sts, Asker::Backend, None)?;
    let mut config =
        aws_sdk_sts::config::Builder::from(&place.put_into(sdk)).interceptor(place.as_go());
    config.set_credentials_provider(base);
    Ok(aws_sdk_sts::Client::from_conf(config.build()))
}

/// The credentials of the configured role, or `base` where none is.
pub(super) fn assumed(
    settings: &AwsSettings,
    profile: &InUse,
    sdk: &SdkConfig,
    base: SharedCredentialsProvider,
) -> Result<SharedCredentialsProvider, StoreError> {
    let Some(role) = &settings.assume_role else { return Ok(base) };
    if role.role_arn.is_empty() {
        let message = "`assume_role` of the backend has no `role_arn`";
        return Err(StoreError::Misconfigured(message.to_owned()));
    }
    let (role, duration) = (role.clone(), seconds(role.duration)?);
    let sts = sts(settings, profile, sdk, Some(base))?;
    Ok(SharedCredentialsProvider::new(AssumedRole { role, duration, sts }))
}

#[derive(Debug)]
struct AssumedRole {
    role: AssumeRole,
    duration: Option<i32>,
    sts: aws_sdk_sts::Client,
}

impl ProvideCredentials for AssumedRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let role = &self.role;
            let tags: Vec<_> =
                role.tags.iter().map(|(key, value)| tag(key, value)).collect::<Result<_, _>>()?;
            let answer = self
                .sts
                .assume_role()
                .role_arn(&role.role_arn)
                .role_session_name(role.session_name.as_deref().unwrap_or(SESSION_NAME))
                .set_duration_seconds(self.duration)
                .set_external_id(role.external_id.clone())
                .set_policy(role.policy.clone())
                .set_policy_arns(policies(&role.policy_arns))
                .set_source_identity(role.source_identity.clone())
                .set_tags(some(tags))
                .set_transitive_tag_keys(some(role.transitive_tag_keys.clone()))
                .send()
                .await
                .map_err(|error| refused("sts:AssumeRole", &role.role_arn, &error))?;
            session(answer.credentials, "AssumeRole")
        })
    }
}

/// A role for the bearer of a token.
#[derive(Debug)]
pub(super) struct WebIdentityRole {
    role_arn: String,
    session_name: String,
    duration: Option<i32>,
    policy: Option<String>,
    policy_arns: Vec<String>,
    token: Token,
    sts: aws_sdk_sts::Client,
}

enum Token {
    Given(String),
    /// Read each time: whoever writes it renews it.
    File(PathBuf),
}

// Written by hand: a derived form would print the token.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl WebIdentityRole {
    pub(super) fn new(
        identity: &WebIdentity,
        sts: aws_sdk_sts::Client,
    ) -> Result<Self, StoreError> {
        let missing = |what: &str| {
            StoreError::Misconfigured(format!("`assume_role_with_web_identity` has no {what}"))
        };
        let token = match (&identity.token, &identity.token_file) {
            (Some(token), _) => Token::Given(token.clone()),
            (None, Some(path)) => Token::File(path.clone()),
            (None, None) => return Err(missing("token")),
        };
        Ok(Self {
            role_arn: identity.role_arn.clone().ok_or_else(|| missing("`role_arn`"))?,
            session_name: identity.session_name.clone().unwrap_or_else(|| SESSION_NAME.to_owned()),
            duration: seconds(identity.duration)?,
            policy: identity.policy.clone(),
            policy_arns: identity.policy_arns.clone(),
            token,
            sts,
        })
    }

    async fn token(&self) -> Result<String, CredentialsError> {
        match &self.token {
            Token::Given(token) => Ok(token.clone()),
            Token::File(path) => {
                let read = tokio::task::spawn_blocking({
                    let path = path.clone();
                    move || std::fs::read_to_string(path)
                });
                let text = read.await.map_err(CredentialsError::unhandled)?.map_err(|e| {
                    CredentialsError::invalid_configuration(format!(
                        "cannot read the web identity token `{}`: {}",
                        path.display(),
                        reason(&e)
                    ))
                })?;
                Ok(text.trim_end().to_owned())
            }
        }
    }
}

impl ProvideCredentials for WebIdentityRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let answer = self
                .sts
                .assume_role_with_web_identity()
                .role_arn(&self.role_arn)
                .role_session_name(&self.session_name)
                .web_identity_token(self.token().await?)
                .set_duration_seconds(self.duration)
                .set_policy(self.policy.clone())
                .set_policy_arns(policies(&self.policy_arns))
                .send()
                .await
                .map_err(|error| {
                    refused("sts:AssumeRoleWithWebIdentity", &self.role_arn, &error)
                })?;
            session(answer.credentials, "AssumeRoleWithWebIdentity")
        })
    }
}

/// Carries the meaning of STS' answer through the credentials machinery.
fn refused<E>(action: &str, role: &str, error: &SdkError<E, HttpResponse>) -> CredentialsError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let asked = Asked { action, object: &format!("role `{role}`"), must: None };
    CredentialsError::provider_error(classify(asked, error))
}

fn session(
    credentials: Option<aws_sdk_sts::types::Credentials>,
    name: &'static str,
) -> provider::Result {
    let found = credentials
        .ok_or_else(|| CredentialsError::unhandled("STS answered without credentials"))?;
    let expiry = SystemTime::try_from(found.expiration).map_err(CredentialsError::unhandled)?;
    Ok(Credentials::new(
        found.access_key_id,
        found.secret_access_key,
        Some(found.session_token),
        Some(expiry),
        name,
    ))
}

fn seconds(duration: Option<Duration>) -> Result<Option<i32>, StoreError> {
    duration
        .map(|duration| i32::try_from(duration.as_secs()))
        .transpose()
        .map_err(|_| StoreError::Misconfigured("the duration of the role is too long".to_owned()))
}

fn tag(key: &str, value: &str) -> Result<Tag, CredentialsError> {
    Tag::builder().key(key).value(value).build().map_err(CredentialsError::invalid_configuration)
}

fn policies(arns: &[String]) -> Option<Vec<PolicyDescriptorType>> {
    some(arns.iter().map(|arn| PolicyDescriptorType::builder().arn(arn).build()).collect())
}

/// An empty list is not sent.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list) }
}
