//! Where the credentials come from, in the S3 backend's order: its own keys, its `profile`, a web
//! identity of its own, and only then the SDK's chain, environment first.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::client::EndpointMode;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use super::super::StoreError;
use super::endpoint::{self, Asker, Service};
use super::profile::InUse;
use super::role::WebIdentityRole;
use crate::backend::AwsSettings;

/// Away from EC2 nothing answers at the metadata service's address, not even a refusal; this is
/// what bounds the wait for "no credentials".
const IMDS_PATIENCE: Duration = Duration::from_secs(1);
const IMDS_ATTEMPTS: u32 = 2;

/// Builds the provider of the credentials before any `assume_role`.
pub(super) fn base(
    settings: &AwsSettings,
    in_use: &InUse,
    sdk: &SdkConfig,
    http: SharedHttpClient,
    timeouts: TimeoutConfig,
) -> Result<SharedCredentialsProvider, StoreError> {
    match (&settings.access_key, &settings.secret_key) {
        (Some(key), Some(secret)) => {
            let credentials =
                Credentials::new(key, secret, settings.token.clone(), None, "backend");
            return Ok(SharedCredentialsProvider::new(credentials));
        }
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => {
            let message = "the backend has only one of `access_key` and `secret_key`";
            return Err(StoreError::Credentials(message.to_owned()));
        }
    }
    if let Some(identity) = &settings.web_identity {
        let role = WebIdentityRole::new(identity, super::role::sts(settings, in_use, sdk, None)?)?;
        return Ok(SharedCredentialsProvider::new(role));
    }
    let sdk = &endpoint::find(settings, in_use, Service::Sts, Asker::Chain, None)?.put_into(sdk);
    let config = ProviderConfig::default()
        .with_region(sdk.region().cloned())
        .with_http_client(http)
        .with_retry_config(RetryConfig::disabled())
        .with_timeout_config(timeouts)
        .with_use_fips(sdk.use_fips())
        .with_use_dual_stack(sdk.use_dual_stack());
    let mut profile = ProfileFileCredentialsProvider::builder().configure(&config);
    if let Some(files) = profile_files(settings) {
        profile = profile.profile_files(files);
    }
    if let Some(name) = &settings.profile {
        let provider = profile.profile_name(name).build();
        let tried = format!("profile `{name}`");
        return Ok(SharedCredentialsProvider::new(Tried { provider, tried }));
    }
    let mut tried = "environment, profile, web identity token, container".to_owned();
    let mut chain = CredentialsProviderChain::first_try(
        "Environment",
        EnvironmentVariableCredentialsProvider::new(),
    )
    .or_else("Profile", profile.build())
    .or_else(
        "WebIdentityToken",
        WebIdentityTokenCredentialsProvider::builder().configure(&config).build(),
    )
    .or_else("EcsContainer", EcsCredentialsProvider::builder().configure(&config).build());
    if settings.skip_metadata_api_check == Some(true) {
        tried.push_str("; the instance metadata service is switched off");
    } else {
        chain = chain.or_else("Ec2InstanceMetadata", instance_metadata(settings, &config)?);
        tried.push_str(", instance metadata");
    }
    Ok(SharedCredentialsProvider::new(Tried { provider: chain, tried }))
}

/// Whether nothing comes before the environment.
pub(super) fn may_be_of_environment(settings: &AwsSettings) -> bool {
    settings.access_key.is_none() && settings.web_identity.is_none() && settings.profile.is_none()
}

/// The files that replace `~/.aws/config` and `~/.aws/credentials`. One that does not exist is
/// passed over, as by Go's SDK; this SDK would fail.
pub(super) fn profile_files(settings: &AwsSettings) -> Option<EnvConfigFiles> {
    let (configs, credentials) =
        (&settings.shared_config_files, &settings.shared_credentials_files);
    if configs.is_empty() && credentials.is_empty() {
        return None;
    }
    let mut files = EnvConfigFiles::builder()
        .include_default_config_file(configs.is_empty())
        .include_default_credentials_file(credentials.is_empty())
        // The builder panics when nothing at all is left.
        .with_contents(EnvConfigFileKind::Config, "");
    for file in configs.iter().filter(|file| file.exists()) {
        files = files.with_file(EnvConfigFileKind::Config, file);
    }
    for file in credentials.iter().filter(|file| file.exists()) {
        files = files.with_file(EnvConfigFileKind::Credentials, file);
    }
    Some(files.build())
}

fn instance_metadata(
    settings: &AwsSettings,
    config: &ProviderConfig,
) -> Result<ImdsCredentialsProvider, StoreError> {
    let mut client = aws_config::imds::Client::builder()
        .configure(config)
        .connect_timeout(IMDS_PATIENCE)
        .read_timeout(IMDS_PATIENCE)
        .max_attempts(IMDS_ATTEMPTS);
    if let Some(url) = &settings.metadata_endpoint {
        client = client.endpoint(url).map_err(|_| {
            let message = "the endpoint of the instance metadata service is not a URL";
            StoreError::Misconfigured(message.to_owned())
        })?;
    }
    if let Some(mode) = &settings.metadata_endpoint_mode {
        let mode: EndpointMode = mode.parse().map_err(|_| {
            StoreError::Misconfigured(format!(
                "the mode of the instance metadata service is `IPv4` or `IPv6`, not `{mode}`"
            ))
        })?;
        client = client.endpoint_mode(mode);
    }
    Ok(ImdsCredentialsProvider::builder().configure(config).imds_client(client.build()).build())
}

/// Says where was looked when nothing was found; the SDK's own error does not.
#[derive(Debug)]
struct Tried<P> {
    provider: P,
    tried: String,
}

impl<P: ProvideCredentials> ProvideCredentials for Tried<P> {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.provider.provide_credentials().await.map_err(|error| match error {
                CredentialsError::CredentialsNotLoaded(_) => {
                    CredentialsError::not_loaded(format!("looked in: {}", self.tried))
                }
                error => error,
            })
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.provider.fallback_on_interrupt()
    }
}
