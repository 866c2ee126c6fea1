//! How to reach AWS: what the S3 backend's configuration and the environment say together.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::env::Env;

/// Everything a client of DynamoDB, S3 or STS is built from. What is `None` here may still be said
/// by the environment or a profile.
///
/// What is secret, or may hold a secret (a proxy's password), is not serialized: it comes from
/// where it came from, [`AwsSettings::complete`].
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwsSettings {
    /// From the configuration, else `AWS_REGION`, else `AWS_DEFAULT_REGION`; a region in a profile
    /// alone is not accepted, as with Terraform.
    pub region: Option<String>,
    /// Static credentials of the configuration; they win over everything.
    #[serde(skip)]
    pub access_key: Option<String>,
    /// Belongs to `access_key`.
    #[serde(skip)]
    pub secret_key: Option<String>,
    /// Belongs to `access_key`.
    #[serde(skip)]
    pub token: Option<String>,
    /// The configuration's `profile`; it wins over keys in the environment.
    pub profile: Option<String>,
    /// All config files with profiles, each overriding those before it. One that does not exist is
    /// passed over.
    #[serde(with = "crate::path_text::list")]
    pub shared_config_files: Vec<PathBuf>,
    /// All credentials files with profiles; they override the config files.
    #[serde(with = "crate::path_text::list")]
    pub shared_credentials_files: Vec<PathBuf>,
    /// The user's home directory, below which a login by SSO lies.
    #[serde(skip)]
    pub home: PathBuf,
    /// The directory of the run, which the files that a profile names are relative to.
    #[serde(skip)]
    pub dir: PathBuf,
    /// Per service, `None` where the SDK finds its own.
    pub endpoints: AwsEndpoints,
    /// Roles to assume with the credentials found.
    pub assume_role: Option<AssumeRole>,
    /// A role to assume with a web identity token.
    pub web_identity: Option<WebIdentity>,
    /// The region of STS, where it is not `region`.
    pub sts_region: Option<String>,
    /// Whether to use FIPS endpoints, where that is not for the profile to say.
    pub use_fips: Option<bool>,
    /// The same of dual-stack endpoints.
    pub use_dualstack: Option<bool>,
    /// A PEM file to trust instead of the system's roots (`custom_ca_bundle`, `AWS_CA_BUNDLE`).
    #[serde(with = "crate::path_text::option", default)]
    pub ca_bundle: Option<PathBuf>,
    /// `insecure = true`: certificates are not verified.
    pub insecure: bool,
    /// The proxies of requests to AWS: those of the environment, overridden by `http_proxy`,
    /// `https_proxy` and `no_proxy`.
    #[serde(skip)]
    pub proxies: ProxySettings,
    /// The proxies of requests for credentials that no service of AWS' gives.
    #[serde(skip)]
    pub environment_proxies: ProxySettings,
    /// `true` switches the instance metadata service off, `false` on, `None` as the SDK has it.
    pub skip_metadata_api_check: Option<bool>,
    /// Where the instance metadata service is.
    pub metadata_endpoint: Option<String>,
    /// `IPv4` or `IPv6`.
    pub metadata_endpoint_mode: Option<String>,
    /// The accounts that may be used; all where it is empty.
    #[serde(default)]
    pub allowed_account_ids: Vec<String>,
    /// The accounts that may not be used.
    #[serde(default)]
    pub forbidden_account_ids: Vec<String>,
    /// Who says which account it is, where one of these lists is not empty.
    #[serde(default)]
    pub account_by: AccountBy,
    /// Path-style addressing of S3.
    pub use_path_style: bool,
    /// When the session in the environment ends, where there is one and its end is told. Means
    /// something only where nothing comes before the environment.
    #[serde(skip)]
    pub session_ends: Option<jiff::Timestamp>,
    /// What the environment says to AWS' SDKs: its variables whose names begin with `AWS_`, or with
    /// `SSL_CERT_`.
    #[serde(skip)]
    pub env: Env,
}

/// Proxies as they were given, by `http_proxy` and the like.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// For `http`; may hold a password.
    pub http: Option<String>,
    /// For `https`; may hold a password.
    pub https: Option<String>,
    /// Hosts without proxy, as `NO_PROXY` has them.
    pub no_proxy: Option<String>,
    /// What `http` and `https` are set by, in words, where they are.
    pub set_by: [Option<&'static str>; 2],
    /// Whether `REQUEST_METHOD` is set, as below a CGI server.
    pub is_cgi: bool,
}

/// Who says whose account the credentials are of: by `GetAwsAccountIDAndPartition` of
/// aws-sdk-go-base 2.0.0-beta.62 (Terraform 1.11).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountBy {
    /// STS.
    #[default]
    Sts,
    /// The instance, where it gave the credentials itself, and STS where it does not say:
    /// `skip_credentials_validation`.
    InstanceOrSts,
    /// Nobody, so that it is none of those listed: `skip_requesting_account_id`, too.
    Nobody,
}

/// Custom endpoints, each a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwsEndpoints {
    /// For the lock table.
    pub dynamodb: Option<String>,
    /// For the state.
    pub s3: Option<String>,
    /// For roles.
    pub sts: Option<String>,
    /// For logins by SSO.
    #[serde(default)]
    pub sso: Option<String>,
}

/// The `assume_role` block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssumeRole {
    /// Which role.
    pub role_arn: String,
    /// How long each session lasts.
    pub duration: Option<Duration>,
    /// As AWS has it.
    pub external_id: Option<String>,
    /// An inline session policy.
    pub policy: Option<String>,
    /// Managed session policies.
    pub policy_arns: Vec<String>,
    /// Shown in AWS' logs.
    pub session_name: Option<String>,
    /// As AWS has it.
    pub source_identity: Option<String>,
    /// Session tags.
    pub tags: Vec<(String, String)>,
    /// Which tags pass on to further roles.
    pub transitive_tag_keys: Vec<String>,
}

/// The `assume_role_with_web_identity` block. Nothing that it lacks comes from the environment.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebIdentity {
    /// Which role.
    pub role_arn: Option<String>,
    /// How long each session lasts.
    pub duration: Option<Duration>,
    /// An inline session policy.
    pub policy: Option<String>,
    /// Managed session policies.
    pub policy_arns: Vec<String>,
    /// Shown in AWS' logs.
    pub session_name: Option<String>,
    /// The token itself.
    #[serde(skip)]
    pub token: Option<String>,
    /// Where the token lies.
    #[serde(with = "crate::path_text::option", default)]
    pub token_file: Option<PathBuf>,
}

impl AwsSettings {
    /// All that lies in a file.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let token = self.web_identity.as_mut().and_then(|it| it.token_file.as_mut());
        let lists = self.shared_config_files.iter_mut().chain(&mut self.shared_credentials_files);
        lists.chain([&mut self.home, &mut self.dir]).chain(self.ca_bundle.as_mut()).chain(token)
    }

    /// Takes what is not serialized from settings of the same origin that were read anew.
    pub fn complete(&mut self, fresh: Self) {
        let Self {
            access_key,
            secret_key,
            token,
            proxies,
            environment_proxies,
            session_ends,
            env,
            ..
        } = fresh;
        (self.access_key, self.secret_key, self.token) = (access_key, secret_key, token);
        (self.proxies, self.environment_proxies) = (proxies, environment_proxies);
        (self.session_ends, self.env) = (session_ends, env);
        (self.home, self.dir) = (fresh.home, fresh.dir);
        // Receipts of a version that left the default files to the SDK have none.
        for (ours, fresh) in [
            (&mut self.shared_config_files, fresh.shared_config_files),
            (&mut self.shared_credentials_files, fresh.shared_credentials_files),
        ] {
            if ours.is_empty() {
                *ours = fresh;
            }
        }
        if let (Some(ours), Some(fresh)) = (&mut self.web_identity, fresh.web_identity) {
            ours.token = fresh.token;
        }
    }
}

// Written by hand: a derived form would print keys and tokens.
impl fmt::Debug for AwsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSettings")
            .field("region", &self.region)
            .field("profile", &self.profile)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WebIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebIdentity").field("role_arn", &self.role_arn).finish_non_exhaustive()
    }
}
