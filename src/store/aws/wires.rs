//! What the sources of credentials are reached by: the clients of STS and SSO, each where Terraform
//! has it.

use std::sync::Arc;
use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::timeout::TimeoutConfig;

use super::super::StoreError;
use super::answer::OwnAnswers;
use super::chain::{Place, Source};
use super::profile::InUse;
use super::session::Session;
use super::{container, credential_process, found_endpoint, instance, role, sso};
use crate::backend::AwsSettings;

/// What Identity Center may take for its answer; Terraform waits without a limit.
const SSO: Duration = Duration::from_mins(1);

/// Whoever asks for credentials has these.
#[derive(Debug, Clone)]
pub(super) struct Wires {
    pub(super) settings: AwsSettings,
    pub(super) profile: Arc<InUse>,
    /// Where the instance metadata service is.
    pub(super) metadata: String,
    /// Without credentials.
    pub(super) sdk: SdkConfig,
    pub(super) http: SharedHttpClient,
}

impl Wires {
    /// Asks a source.
    pub(super) async fn ask(&self, source: &Source) -> Result<Session, StoreError> {
        let settings = &self.settings;
        match source {
            Source::Keys(keys, place) => {
                let account = match place {
                    Place::Backend => None,
                    Place::Environment => settings.env.get("AWS_ACCOUNT_ID").map(ToOwned::to_owned),
                    Place::Profile(name) => self.profile.account_of(name),
                };
                Ok(Session::lasting(keys.clone(), account))
            }
            Source::WebIdentity(identity, place) => {
                role::bear(&self.sts(place, None), identity).await
            }
            Source::Sso(login, place) => {
                let clients = self.sso(&login.region);
                sso::session(login, place, &settings.home, &clients).await
            }
            Source::Process(command, place) => {
                credential_process::session(command, place, &settings.dir).await
            }
            Source::Container { url, token } => {
                container::session(url, token.as_ref(), self.http.clone()).await
            }
            Source::Nothing(why) => Err(StoreError::Credentials(why.clone())),
            Source::Instance { tried } => {
                let client = instance::client(&self.metadata, self.http.clone())?;
                instance::session(&client, tried).await
            }
        }
    }

    /// The client of STS. For the backend's own roles it is where Go's SDK finds any service. For
    /// those of profiles and the environment aws-sdk-go-base puts a resolver of the old form in its
    /// way, which knows the backend's endpoint and else AWS' own alone; and there `sts_region` is
    /// but the region to sign for at that endpoint.
    pub(super) fn sts(&self, place: &Place, session: Option<&Session>) -> aws_sdk_sts::Client {
        let settings = &self.settings;
        let own = settings.endpoints.sts.clone();
        let of_backend = *place == Place::Backend;
        let endpoint = if of_backend {
            own.or_else(|| found_endpoint(settings, &self.profile, "STS"))
        } else {
            own
        };
        let mut config = aws_sdk_sts::config::Builder::from(&self.sdk).interceptor(OwnAnswers::Sts);
        if let Some(region) =
            settings.sts_region.clone().filter(|_| of_backend || endpoint.is_some())
        {
            config = config.region(Region::new(region));
        }
        config.set_endpoint_url(endpoint);
        let credentials = session.map(|it| SharedCredentialsProvider::new(it.credentials()));
        config.set_credentials_provider(credentials);
        aws_sdk_sts::Client::from_conf(config.build())
    }

    /// The clients of Identity Center, by the same rule.
    fn sso(&self, region: &str) -> sso::Clients {
        let region = Region::new(region.to_owned());
        let patient = || {
            let config = self.sdk.timeout_config().cloned().unwrap_or(TimeoutConfig::disabled());
            config.to_builder().read_timeout(SSO).operation_timeout(SSO).build()
        };
        let mut portal = aws_sdk_sso::config::Builder::from(&self.sdk)
            .region(region.clone())
            .timeout_config(patient());
        portal.set_endpoint_url(self.settings.endpoints.sso.clone());
        let oidc = aws_sdk_ssooidc::config::Builder::from(&self.sdk)
            .region(region)
            .timeout_config(patient());
        sso::Clients {
            portal: aws_sdk_sso::Client::from_conf(portal.build()),
            oidc: aws_sdk_ssooidc::Client::from_conf(oidc.build()),
        }
    }

    /// Refuses credentials of an account that the backend does not allow.
    pub(super) async fn allow(&self, session: &Session) -> Result<(), StoreError> {
        let AwsSettings { allowed_account_ids, forbidden_account_ids, .. } = &self.settings;
        if allowed_account_ids.is_empty() && forbidden_account_ids.is_empty() {
            return Ok(());
        }
        let account = role::account(&self.sts(&Place::Backend, Some(session))).await?;
        let by = if forbidden_account_ids.contains(&account) {
            "`forbidden_account_ids`"
        } else if !allowed_account_ids.is_empty() && !allowed_account_ids.contains(&account) {
            "`allowed_account_ids`"
        } else {
            return Ok(());
        };
        Err(StoreError::Credentials(format!(
            "the AWS account `{account}` is not allowed by {by} of the backend"
        )))
    }
}
