//! What the sources of credentials are reached by: the clients of STS and SSO, each where Terraform
//! has it.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::timeout::TimeoutConfig;

use super::super::{FlawKind, StoreError};
use super::answer::OwnAnswers;
use super::chain::{self, SettingPlace, Source};
use super::endpoint::{self, Asker, Service};
use super::profile::{InUse, StaticKeys};
use super::session::Session;
use super::{container, credential_process, instance, role, sso};
use crate::backend::{AccountBy, AwsSettings};

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
    /// The backend's way, for the instance metadata service.
    pub(super) http: SharedHttpClient,
    /// For the container, and for the account of an instance, whose clients in Go do not know
    /// `http_proxy` and the like.
    pub(super) container: SharedHttpClient,
}

impl Wires {
    /// Asks a source.
    pub(super) async fn ask(&self, source: &Source) -> Result<Session, StoreError> {
        self.asked(source).await.map_err(|error| self.profile.explained(error))
    }

    async fn asked(&self, source: &Source) -> Result<Session, StoreError> {
        let settings = &self.settings;
        match source {
            Source::Keys(keys, SettingPlace::Backend) => Ok(Session::lasting(keys.clone(), None)),
            Source::Keys(keys, SettingPlace::Environment) => {
                let account = settings.env.get("AWS_ACCOUNT_ID").map(ToOwned::to_owned);
                Ok(Session::lasting(keys.clone(), account))
            }
            Source::Keys(keys, SettingPlace::Profile(name)) => {
                // In the middle of a change, those that were there count on.
                let (keys, account) = match self.keys_in_file(name).await {
                    Some(found) => found,
                    None => (keys.clone(), self.profile.account_of(name)),
                };
                Ok(Session::lasting(keys, account))
            }
            Source::WebIdentity(identity, place) => {
                role::bear(&self.sts(place, None)?, identity).await
            }
            Source::Sso(login, place) => {
                let clients = self.sso(&login.region)?;
                sso::session(login, place, &settings.home, &clients).await
            }
            Source::Process(command, place) => {
                credential_process::session(command, place, &settings.dir).await
            }
            Source::Container { url, token } => {
                container::session(url, token.as_ref(), self.container.clone()).await
            }
            Source::Nothing(why) => Err(StoreError::Credentials(FlawKind::NoCredentials.flaw(why))),
            Source::Instance { tried } => {
                let client = instance::client(&self.metadata, self.http.clone())?;
                instance::session(&client, tried).await
            }
        }
    }

    /// The keys of a profile as they are now, and their account.
    async fn keys_in_file(&self, of: &str) -> Option<(StaticKeys, Option<String>)> {
        let profile = InUse::read(&self.settings).await.ok()?;
        match chain::decide(&self.settings, &profile.linked()).ok()?.source {
            Source::Keys(keys, SettingPlace::Profile(name)) if name == of => {
                Some((keys, profile.account_of(of)))
            }
            _ => None,
        }
    }

    /// The client of STS, as who asks has it.
    ///
    /// # Errors
    /// When it cannot be asked where it is said to be.
    pub(super) fn sts(
        &self,
        place: &SettingPlace,
        session: Option<&Session>,
    ) -> Result<aws_sdk_sts::Client, StoreError> {
        let asker = if *place == SettingPlace::Backend { Asker::Backend } else { Asker::Chain };
        let endpoint = endpoint::find(&self.settings, &self.profile, Service::Sts, asker, None)?;
        let mut config = aws_sdk_sts::config::Builder::from(&endpoint.put_into(&self.sdk))
            .interceptor(endpoint.as_go())
            .interceptor(OwnAnswers::Sts);
        let credentials = session.map(|it| SharedCredentialsProvider::new(it.credentials()));
        config.set_credentials_provider(credentials);
        Ok(aws_sdk_sts::Client::from_conf(config.build()))
    }

    /// The clients of Identity Center.
    fn sso(&self, region: &str) -> Result<sso::Clients, StoreError> {
        let find = |service| {
            endpoint::find(&self.settings, &self.profile, service, Asker::Chain, Some(region))
        };
        let patient = || {
            let config = self.sdk.timeout_config().cloned().unwrap_or(TimeoutConfig::disabled());
            config.to_builder().read_timeout(SSO).operation_timeout(SSO).build()
        };
        let (portal, oidc) = (find(Service::Sso)?, find(Service::SsoOidc)?);
        let portal = aws_sdk_sso::config::Builder::from(&portal.put_into(&self.sdk))
            .interceptor(portal.as_go())
            .timeout_config(patient());
        let oidc = aws_sdk_ssooidc::config::Builder::from(&oidc.put_into(&self.sdk))
            .interceptor(oidc.as_go())
            .timeout_config(patient());
        Ok(sso::Clients {
            portal: aws_sdk_sso::Client::from_conf(portal.build()),
            oidc: aws_sdk_ssooidc::Client::from_conf(oidc.build()),
        })
    }

    /// Refuses credentials of an account that the backend does not allow. `by_instance` are those
    /// that the instance gave itself, before any role.
    pub(super) async fn allow(
        &self,
        session: &Session,
        by_instance: bool,
    ) -> Result<(), StoreError> {
        let AwsSettings { allowed_account_ids, forbidden_account_ids, .. } = &self.settings;
        if allowed_account_ids.is_empty() && forbidden_account_ids.is_empty() {
            return Ok(());
        }
        let account = match self.settings.account_by {
            // Terraform takes the one that it does not know for the empty one.
            AccountBy::Nobody
                if allowed_account_ids.is_empty()
                    || allowed_account_ids.contains(&String::new()) =>
            {
                Some(String::new())
            }
            AccountBy::Nobody => {
                let message = "`allowed_account_ids` allows none: `skip_credentials_validation` \
                               with `skip_requesting_account_id` leaves the account unknown";
                return Err(StoreError::Misconfigured(message.into()));
            }
            AccountBy::InstanceOrSts if by_instance => self.account_of_instance().await,
            AccountBy::InstanceOrSts | AccountBy::Sts => None,
        };
        let account = match account {
            Some(account) => account,
            None => role::account(&self.sts(&SettingPlace::Backend, Some(session))?).await?,
        };
        let by = if forbidden_account_ids.contains(&account) {
            "`forbidden_account_ids`"
        } else if !allowed_account_ids.is_empty() && !allowed_account_ids.contains(&account) {
            "`allowed_account_ids`"
        } else {
            return Ok(());
        };
        Err(StoreError::Credentials(
            format!("the AWS account `{account}` is not allowed by {by} of the backend").into(),
        ))
    }

    /// The account of the instance. Terraform's client for it knows the environment alone, and not
    /// where the backend or a profile have the service.
    async fn account_of_instance(&self) -> Option<String> {
        let endpoint = self.settings.env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let endpoint = instance::at(endpoint.unwrap_or(instance::USUAL)).ok()?;
        instance::account(&instance::client(&endpoint, self.container.clone()).ok()?).await
    }
}
