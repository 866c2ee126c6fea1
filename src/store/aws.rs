//! AWS as the S3 backend's configuration means it: one place that builds clients and reads their
//! errors, for the lock table and for the bucket of the state and its lock file.
//!
//! The clients never retry: a retry after a lost reply meets its own record and takes it for a
//! stranger's. Every request has a time-out, for the SDK by itself waits for ever.

mod answer;
mod as_go;
mod chain;
mod connector;
mod container;
mod credential_process;
mod endpoint;
mod error;
mod file;
mod go_certificate;
mod go_json;
mod go_url;
mod http;
mod identity;
mod instance;
mod post;
mod profile;
mod role;
mod session;
mod sso;
mod token_file;
mod trust;
mod verifier;
mod wires;

use std::sync::Arc;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use super::StoreError;
use crate::backend::{AccountBy, AwsSettings};
use answer::OwnAnswers;
use endpoint::{Asker, Service};
use profile::InUse;
use trust::Trust;
use wires::Wires;

pub(super) use endpoint::Endpoint;
pub(super) use error::{Asked, classify};
pub(super) use identity::Identity;
pub(crate) use post::post_json;

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
}

impl AwsClients {
    /// Prepares the clients. Nothing is sent: credentials are looked for at the first request.
    ///
    /// # Errors
    /// When the settings are incomplete or name something that cannot be used.
    pub async fn new(settings: &AwsSettings, timeouts: Timeouts) -> Result<Self, StoreError> {
        let Some(region) = settings.region.clone() else {
            let message = "no AWS region: neither `region` in the backend nor `AWS_REGION` is set";
            return Err(StoreError::Misconfigured(message.into()));
        };
        let timeout_config = TimeoutConfig::builder()
            .connect_timeout(timeouts.connect)
            .read_timeout(timeouts.read)
            .operation_timeout(timeouts.operation)
            .build();
        let profile = InUse::read(settings).await?;
        let trust = Trust::of(settings, &profile)?;
        let http = http::client(&settings.proxies, &trust);
        // By hand, and not by the SDK's loader: that reads the process environment and `~/.aws`
        // past us, and by other rules than Terraform's.
        let sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .http_client(http.clone())
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            // Terraform's clients do not set their clock right: what it may not ask, we do not.
            .disable_clock_skew_correction(true)
            .timeout_config(timeout_config)
            .build();
        let chain = chain::decide(settings, &profile.linked());
        let metadata = instance::endpoint(settings, &profile)?;
        let profile = Arc::new(profile);
        let wires = Wires {
            settings: settings.clone(),
            profile: Arc::clone(&profile),
            metadata,
            sdk: sdk.clone(),
            http,
            container: http::client(&settings.environment_proxies, &trust),
        };
        let identity = Identity::new(chain, wires, settings);
        let sdk = sdk
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(identity.clone()))
            .build();
        Ok(Self { sdk, settings: settings.clone(), profile, identity })
    }

    /// Whose credentials the requests are signed with. To be made ready before each.
    pub(super) fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// The client of the lock table.
    pub(super) fn dynamodb(&self) -> Result<(aws_sdk_dynamodb::Client, Endpoint), StoreError> {
        let place = self.place(Service::DynamoDb)?;
        let config = aws_sdk_dynamodb::config::Builder::from(&place.put_into(&self.sdk))
            .interceptor(place.as_go())
            .interceptor(OwnAnswers::DynamoDb);
        Ok((aws_sdk_dynamodb::Client::from_conf(config.build()), place))
    }

    /// The client of the state's bucket, to list it.
    pub(super) fn s3(&self) -> Result<(aws_sdk_s3::Client, Endpoint), StoreError> {
        self.s3_that(OwnAnswers::S3)
    }

    /// The client of the objects in it.
    pub(super) fn objects(&self) -> Result<(aws_sdk_s3::Client, Endpoint), StoreError> {
        self.s3_that(OwnAnswers::Objects)
    }

    fn s3_that(&self, own: OwnAnswers) -> Result<(aws_sdk_s3::Client, Endpoint), StoreError> {
        let place = self.place(Service::S3)?;
        let config = aws_sdk_s3::config::Builder::from(&place.put_into(&self.sdk))
            .force_path_style(self.settings.use_path_style)
            .interceptor(place.as_go())
            .interceptor(own);
        Ok((aws_sdk_s3::Client::from_conf(config.build()), place))
    }

    /// When the credentials end, if they are a session that cannot be renewed. A role assumed with
    /// it may last a little longer, but is not renewed after it either.
    pub(super) fn credentials_end(&self) -> Option<jiff::Timestamp> {
        self.settings.session_ends.filter(|_| self.identity.is_of_environment())
    }

    /// The ARN of the credentials; nothing where the backend says that nobody is to be asked, or where
    /// only AWS itself could be, and the store is not there.
    pub(super) async fn caller(&self) -> Result<Option<String>, StoreError> {
        let is_elsewhere = |service| Ok::<_, StoreError>(!self.place(service)?.is_aws());
        let is_store_elsewhere = is_elsewhere(Service::DynamoDb)? || is_elsewhere(Service::S3)?;
        if self.settings.account_by == AccountBy::Nobody
            || is_store_elsewhere && !is_elsewhere(Service::Sts)?
        {
            return Ok(None);
        }
        self.identity.caller().await.map(Some)
    }

    fn place(&self, service: Service) -> Result<Endpoint, StoreError> {
        let endpoint =
            endpoint::find(&self.settings, &self.profile, service, Asker::Backend, None)?;
        if self.settings.insecure && endpoint.is_encrypted() {
            let message = "`insecure = true` is not supported: tfwrap always verifies \
                           certificates; name the authority in `custom_ca_bundle` or `AWS_CA_BUNDLE`";
            return Err(StoreError::Misconfigured(message.into()));
        }
        Ok(endpoint)
    }
}
