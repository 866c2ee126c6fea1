//! AWS as the S3 backend's configuration means it: one place that builds clients and reads their
//! errors, for the lock table and for the state's bucket.
//!
//! The clients never retry: a retry after a lost reply meets its own record and takes it for a
//! stranger's. Every request has a time-out, for the SDK by itself waits for ever.

mod answer;
mod chain;
mod container;
mod credential_process;
mod error;
mod http;
mod identity;
mod instance;
mod profile;
mod role;
mod session;
mod sso;
mod wires;

use std::sync::Arc;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use super::StoreError;
use crate::backend::AwsSettings;
use answer::OwnAnswers;
use profile::InUse;
use wires::Wires;

pub(super) use error::{Asked, classify};
pub(super) use identity::Identity;

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Name look-up, connection and TLS.
    pub connect: Duration,
    /// From the request to the first byte of the answer.
    pub read: Duration,
    /// The whole operation. Credentials are got before it.
    pub operation: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            read: Duration::from_secs(5),
            operation: Duration::from_secs(10),
        }
    }
}

/// What all clients of one configuration share: credentials, TLS, time-outs.
#[derive(Debug, Clone)]
pub struct AwsClients {
    sdk: SdkConfig,
    settings: AwsSettings,
    profile: Arc<InUse>,
    identity: Identity,
    region: String,
}

impl AwsClients {
    /// Prepares the clients. Nothing is sent: credentials are looked for at the first request.
    ///
    /// # Errors
    /// When the settings are incomplete or name something that cannot be used.
    pub async fn new(settings: &AwsSettings, timeouts: Timeouts) -> Result<Self, StoreError> {
        let Some(region) = settings.region.clone() else {
            let message = "no AWS region: neither `region` in the backend nor `AWS_REGION` is set";
            return Err(StoreError::Misconfigured(message.to_owned()));
        };
        let http = http::client(settings)?;
        let timeout_config = TimeoutConfig::builder()
            .connect_timeout(timeouts.connect)
            .read_timeout(timeouts.read)
            .operation_timeout(timeouts.operation)
            .build();
        let profile = InUse::read(settings).await?;
        // Only ever switched on here: off would overrule what the profile says.
        let switch =
            |on: bool, key: &str| Some(true).filter(|_| on).or_else(|| profile.switch(key));
        // By hand, and not by the SDK's loader: that reads the process environment and `~/.aws`
        // past us, and by other rules than Terraform's.
        let mut sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .http_client(http.clone())
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeout_config);
        sdk.set_use_fips(switch(settings.use_fips, "use_fips_endpoint"));
        sdk.set_use_dual_stack(switch(settings.use_dualstack, "use_dualstack_endpoint"));
        let sdk = sdk.build();
        let chain = chain::decide(settings, &profile.linked());
        let metadata = instance::endpoint(settings, &profile)?;
        let profile = Arc::new(profile);
        let wires = Wires {
            settings: settings.clone(),
            profile: Arc::clone(&profile),
            metadata,
            sdk: sdk.clone(),
            http,
        };
        let identity = Identity::new(chain, wires, settings);
        let sdk = sdk
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(identity.clone()))
            .build();
        Ok(Self { sdk, settings: settings.clone(), profile, identity, region })
    }

    /// Whose credentials the requests are signed with. To be made ready before each.
    pub(super) fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// The client of the lock table.
    pub(super) fn dynamodb(&self) -> Result<(aws_sdk_dynamodb::Client, Place), StoreError> {
        let explicit = self.settings.endpoints.dynamodb.as_deref();
        let place = self.place("DynamoDB", explicit)?;
        let mut config =
            aws_sdk_dynamodb::config::Builder::from(&self.sdk).interceptor(OwnAnswers::DynamoDb);
        config.set_endpoint_url(place.endpoint.clone());
        config.set_account_id_endpoint_mode(self.account_mode().parse().ok());
        Ok((aws_sdk_dynamodb::Client::from_conf(config.build()), place))
    }

    /// Whether the account's own host is asked. This SDK knows such hosts also where Terraform's does
    /// not: beside dual-stack, and in other partitions.
    fn account_mode(&self) -> &str {
        let of_profile = || self.profile.profile()?.text("account_id_endpoint_mode");
        let mode = self.settings.env.get("AWS_ACCOUNT_ID_ENDPOINT_MODE").or_else(of_profile);
        let elsewhere = ["cn-", "us-gov-", "us-iso", "eu-iso"];
        let has_none = self.sdk.use_dual_stack() == Some(true)
            || elsewhere.iter().any(|region| self.region.starts_with(region));
        match mode.unwrap_or("preferred") {
            "preferred" if has_none => "disabled",
            mode => mode,
        }
    }

    /// The client of the state's bucket.
    pub(super) fn s3(&self) -> Result<(aws_sdk_s3::Client, Place), StoreError> {
        let place = self.place("S3", self.settings.endpoints.s3.as_deref())?;
        let mut config = aws_sdk_s3::config::Builder::from(&self.sdk)
            .force_path_style(self.settings.use_path_style)
            .interceptor(OwnAnswers::S3);
        config.set_endpoint_url(place.endpoint.clone());
        Ok((aws_sdk_s3::Client::from_conf(config.build()), place))
    }

    /// When the credentials end, if they are a session that cannot be renewed. A role assumed with
    /// it may last a little longer, but is not renewed after it either.
    pub(super) fn credentials_end(&self) -> Option<jiff::Timestamp> {
        self.settings.session_ends.filter(|_| self.identity.is_of_environment())
    }

    fn place(&self, service: &str, explicit: Option<&str>) -> Result<Place, StoreError> {
        let endpoint = explicit
            .map(ToOwned::to_owned)
            .or_else(|| found_endpoint(&self.settings, &self.profile, service));
        let encrypted = endpoint.as_deref().is_none_or(|url| !url.starts_with("http://"));
        if self.settings.insecure && encrypted {
            let message = "`insecure = true` is not supported: tfwrap always verifies \
                           certificates; name the authority in `custom_ca_bundle` or `AWS_CA_BUNDLE`";
            return Err(StoreError::Misconfigured(message.to_owned()));
        }
        Ok(Place { region: self.region.clone(), endpoint })
    }
}

/// Where Go's SDK finds a service by itself, in its order: `AWS_ENDPOINT_URL_…`,
/// `AWS_ENDPOINT_URL`, the profile's `services`, its `endpoint_url`.
fn found_endpoint(settings: &AwsSettings, profile: &InUse, service: &str) -> Option<String> {
    let env = &settings.env;
    let ignored = match env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
        Some(value) => value.eq_ignore_ascii_case("true"),
        None => profile.switch("ignore_configured_endpoint_urls").unwrap_or(false),
    };
    if ignored {
        return None;
    }
    let profile = profile.profile();
    env.get(&format!("AWS_ENDPOINT_URL_{}", service.to_uppercase()))
        .or_else(|| env.get("AWS_ENDPOINT_URL"))
        .or_else(|| profile?.endpoint_of(&service.to_lowercase()))
        .or_else(|| profile?.text("endpoint_url"))
        .map(ToOwned::to_owned)
}

/// Where a service is, for messages.
#[derive(Debug, Clone)]
pub(super) struct Place {
    region: String,
    endpoint: Option<String>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "in `{}`", self.region)?;
        match &self.endpoint {
            Some(url) => write!(f, " at `{}`", without_password(url)),
            None => Ok(()),
        }
    }
}

/// For messages: an endpoint is a URL and may have credentials in it.
fn without_password(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) if url.password().is_some() || !url.username().is_empty() => {
            // Fails only for URLs that cannot have any.
            let cleaned = url.set_password(None).and_then(|()| url.set_username(""));
            if cleaned.is_ok() { url.to_string() } else { "(hidden)".to_owned() }
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_without_its_password() {
        let at = |url: &str| {
            let place = Place { region: "r".to_owned(), endpoint: Some(url.to_owned()) };
            place.to_string()
        };
        assert_eq!(at("https://u:secret@h:1/x"), "in `r` at `https://h:1/x`");
        assert_eq!(at("http://127.0.0.1:8000"), "in `r` at `http://127.0.0.1:8000`");
    }
}
