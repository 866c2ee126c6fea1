//! Which source gives the credentials: decided from the backend's settings, the environment and the
//! profile alone, in the order of Terraform and of Go's SDK below it. Nothing is asked here.
//!
//! After `getCredentialsProvider` of aws-sdk-go-base 2.0.0-beta.62 and `resolveCredentialChain` of
//! aws-sdk-go-v2 config 1.29 (Terraform 1.11). There is no trying out: what is configured first
//! gives the credentials, or there are none.

use std::fmt;
use std::path::{Path, PathBuf};

use super::super::{Flaw, StoreError};
use super::profile::{Linked, Sso, StaticKeys};
use crate::backend::{AssumeRole, AwsSettings, FULL_URI, RELATIVE_URI, WebIdentity};
use crate::env::Env;

/// The way to the credentials: a source, and roles that are assumed one with the other's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    /// Where the first credentials come from.
    pub(super) source: Source,
    /// The roles in the order in which they are assumed.
    pub(super) roles: Vec<Role>,
}

/// A source of credentials, and in whose name it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Keys that stand somewhere.
    Keys(StaticKeys, SettingPlace),
    /// A role for the bearer of a token.
    WebIdentity(WebIdentity, SettingPlace),
    /// A login by IAM Identity Center.
    Sso(Sso, SettingPlace),
    /// A program.
    Process(String, SettingPlace),
    /// An HTTP endpoint of the container.
    Container {
        /// Where.
        url: String,
        /// What is sent along.
        token: Option<ContainerToken>,
    },
    /// The instance metadata service.
    Instance {
        /// What else was looked for, for whoever finds nothing there.
        tried: String,
    },
    /// There is none; in words. Told when credentials are needed, and not before.
    Nothing(String),
}

/// What a container's endpoint wants to see.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum ContainerToken {
    /// The token itself.
    Given(String),
    /// Read each time: whoever writes it renews it.
    File(PathBuf),
}

// Written by hand: a derived form would print the token.
impl fmt::Debug for ContainerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SettingPlace {
    /// The backend's configuration.
    Backend,
    /// Variables.
    Environment,
    /// The profile of this name.
    Profile(String),
}

/// A role to assume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Role {
    /// How.
    pub(super) role: AssumeRole,
    /// Who wants it: STS is elsewhere for the backend than for a profile.
    pub(super) place: SettingPlace,
}

impl fmt::Display for SettingPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend => f.write_str("the backend"),
            Self::Environment => f.write_str("the environment"),
            Self::Profile(name) => write!(f, "profile `{name}`"),
        }
    }
}

/// For people: whose credentials these are.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Keys(_, place) => write!(f, "keys of {place}")?,
            Source::WebIdentity(identity, place) => {
                write!(f, "web identity of {place}")?;
                if let Some(role) = &identity.role_arn {
                    write!(f, ", as `{role}`")?;
                }
            }
            Source::Sso(sso, place) => {
                let Sso { role_name, account_id, .. } = sso;
                write!(f, "SSO login of {place}, as `{role_name}` in `{account_id}`")?;
            }
            Source::Process(_, place) => write!(f, "`credential_process` of {place}")?,
            Source::Container { .. } => f.write_str("container")?,
            Source::Instance { .. } => f.write_str("instance metadata")?,
            Source::Nothing(why) => f.write_str(why)?,
        }
        for Role { role, place } in &self.roles {
            write!(f, ", then role `{}` of {place}", role.role_arn)?;
        }
        Ok(())
    }
}

/// Decides. `linked` is the profile in use, an empty one where there is none.
///
/// # Errors
/// What Terraform refuses, and what cannot be followed here.
pub(super) fn decide(settings: &AwsSettings, linked: &Linked) -> Result<Chain, StoreError> {
    let mut chain = base(settings, linked)?;
    if let Some(role) = &settings.assume_role {
        if role.role_arn.is_empty() {
            return Err(wrong("`assume_role` of the backend has no `role_arn`"));
        }
        chain.roles.push(Role { role: role.clone(), place: SettingPlace::Backend });
    }
    Ok(chain)
}

/// The credentials before the backend's own role.
fn base(settings: &AwsSettings, linked: &Linked) -> Result<Chain, StoreError> {
    let AwsSettings { access_key, secret_key, token, .. } = settings;
    match (access_key, secret_key) {
        (Some(id), Some(secret)) => {
            let (id, secret, token) = (id.clone(), secret.clone(), token.clone());
            let keys = StaticKeys { id, secret, token };
            return Ok(Source::Keys(keys, SettingPlace::Backend).into());
        }
        (None, None) if token.is_none() => {}
        (None, None) => return Err(none("the backend has a `token` and no keys")),
        _ => return Err(none("the backend has only one of `access_key` and `secret_key`")),
    }
    // Also where a web identity of the backend's own is what counts: what is wrong is refused.
    let chain = of_sdk(settings, linked)?;
    let Some(identity) = &settings.web_identity else { return Ok(chain) };
    let lacks = |what: &str| wrong(format!("`assume_role_with_web_identity` has no {what}"));
    if identity.role_arn.is_none() {
        return Err(lacks("`role_arn`"));
    }
    if identity.token.is_none() && identity.token_file.is_none() {
        return Err(lacks("`web_identity_token` or `web_identity_token_file`"));
    }
    Ok(Source::WebIdentity(identity.clone(), SettingPlace::Backend).into())
}

/// Go's `resolveCredentialChain`.
fn of_sdk(settings: &AwsSettings, linked: &Linked) -> Result<Chain, StoreError> {
    let AwsSettings { env, .. } = settings;
    if settings.profile.is_some() {
        return of_profile(settings, linked);
    }
    if let Some(keys) = keys_of_environment(env) {
        return Ok(Source::Keys(keys, SettingPlace::Environment).into());
    }
    if let Some(file) = env.get_os("AWS_WEB_IDENTITY_TOKEN_FILE") {
        let Some(role) = env.get("AWS_ROLE_ARN") else {
            return Err(none("`AWS_WEB_IDENTITY_TOKEN_FILE` is set, and `AWS_ROLE_ARN` is not"));
        };
        let session_name = env.get("AWS_ROLE_SESSION_NAME");
        let identity = web_identity(settings, file, role, session_name);
        return Ok(Source::WebIdentity(identity, SettingPlace::Environment).into());
    }
    of_profile(settings, linked)
}

/// The keys of the environment, by the names that Go knows. One alone is none.
pub(super) fn keys_of_environment(env: &Env) -> Option<StaticKeys> {
    let first = |names: [&str; 2]| names.iter().find_map(|name| env.get(name)).map(str::to_owned);
    Some(StaticKeys {
        id: first(["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"])?,
        secret: first(["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"])?,
        token: env.get("AWS_SESSION_TOKEN").map(str::to_owned),
    })
}

/// Go's `resolveCredsFromProfile`.
fn of_profile(settings: &AwsSettings, linked: &Linked) -> Result<Chain, StoreError> {
    let place = || SettingPlace::Profile(linked.name.clone());
    let mut chain: Chain = if let Some(source) = &linked.source {
        of_profile(settings, source)?
    } else if let Some(keys) = &linked.keys {
        Source::Keys(keys.clone(), place()).into()
    } else if let Some(name) = &linked.credential_source {
        of_credential_source(settings, linked, name)?.into()
    } else if let (Some(file), Some(role)) = (&linked.web_identity_token_file, &linked.role_arn) {
        let session_name = linked.role_session_name.as_deref();
        let identity = web_identity(settings, file, role, session_name);
        // The role is in it.
        return Ok(Source::WebIdentity(identity, place()).into());
    } else if let Some(sso) = &linked.sso {
        Source::Sso(sso.clone().map_err(|error| wrong(error.to_string()))?, place()).into()
    } else if let Some(command) = &linked.credential_process {
        Source::Process(command.clone(), place()).into()
    } else {
        of_machine(settings, linked)?.into()
    };
    if let Some(role_arn) = &linked.role_arn {
        if let Some(device) = &linked.mfa_serial {
            return Err(wrong(format!(
                "profile `{}` asks for a one-time password (`mfa_serial = {device}`), which \
                 neither Terraform's backend nor tfwrap can ask for",
                linked.name
            )));
        }
        let role = AssumeRole {
            role_arn: role_arn.clone(),
            duration: linked.role_duration,
            external_id: linked.external_id.clone(),
            session_name: linked.role_session_name.clone(),
            ..AssumeRole::default()
        };
        chain.roles.push(Role { role, place: place() });
    }
    Ok(chain)
}

fn web_identity(
    settings: &AwsSettings,
    file: impl AsRef<Path>,
    role: &str,
    session_name: Option<&str>,
) -> WebIdentity {
    WebIdentity {
        role_arn: Some(role.to_owned()),
        session_name: session_name.map(ToOwned::to_owned),
        token_file: Some(settings.dir.join(file)),
        ..WebIdentity::default()
    }
}

/// Go's `resolveCredsFromSource`.
fn of_credential_source(
    settings: &AwsSettings,
    linked: &Linked,
    name: &str,
) -> Result<Source, StoreError> {
    let profile = &linked.name;
    match name {
        "Ec2InstanceMetadata" => Ok(instance(settings, format!("profile `{profile}`"))),
        "Environment" => Ok(match keys_of_environment(&settings.env) {
            Some(keys) => Source::Keys(keys, SettingPlace::Environment),
            None => Source::Nothing(format!(
                "profile `{profile}` takes the keys of the environment, which has none"
            )),
        }),
        "EcsContainer" => container(settings).transpose()?.ok_or_else(|| {
            none(format!(
                "profile `{profile}` takes the credentials of the container, and neither \
                     `{RELATIVE_URI}` nor `{FULL_URI}` is set"
            ))
        }),
        other => Err(wrong(format!(
            "profile `{profile}` has `credential_source = {other}`, which is none of \
             `EcsContainer`, `Ec2InstanceMetadata`, `Environment`"
        ))),
    }
}

/// Where nothing else is configured.
fn of_machine(settings: &AwsSettings, linked: &Linked) -> Result<Source, StoreError> {
    if let Some(container) = container(settings) {
        return container;
    }
    let name = Some(linked.name.as_str()).filter(|name| !name.is_empty()).unwrap_or("default");
    let tried = if settings.profile.is_some() {
        format!("profile `{name}`, container")
    } else {
        let half = half_a_key(&settings.env).unwrap_or_default();
        format!("environment{half}, web identity token, profile `{name}`, container")
    };
    Ok(instance(settings, tried))
}

/// Which half of a key the environment has, if it has no whole one.
fn half_a_key(env: &Env) -> Option<&'static str> {
    match ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| env.get(name).is_some()) {
        [true, false] => Some(" (`AWS_ACCESS_KEY_ID` is set, `AWS_SECRET_ACCESS_KEY` is not)"),
        [false, true] => Some(" (`AWS_SECRET_ACCESS_KEY` is set, `AWS_ACCESS_KEY_ID` is not)"),
        _ => None,
    }
}

/// The container's endpoint.
fn container(settings: &AwsSettings) -> Option<Result<Source, StoreError>> {
    let env = &settings.env;
    let names = [RELATIVE_URI, FULL_URI];
    let (name, value) = names.into_iter().find_map(|name| Some((name, env.get(name)?)))?;
    let url = if name == RELATIVE_URI {
        format!("http://169.254.170.2{value}")
    } else {
        value.to_owned()
    };
    if url::Url::parse(&url).is_err() {
        return Some(Err(wrong(format!("`{name}` is not a URI: `{value}`"))));
    }
    let file = env.get_os("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    let given =
        || Some(ContainerToken::Given(env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")?.to_owned()));
    let token = file.map(|file| ContainerToken::File(settings.dir.join(file))).or_else(given);
    Some(Ok(Source::Container { url, token }))
}

fn instance(settings: &AwsSettings, tried: String) -> Source {
    let disabled = settings.env.get("AWS_EC2_METADATA_DISABLED");
    let by = match settings.skip_metadata_api_check {
        Some(skip) => skip.then_some("`skip_metadata_api_check`"),
        None => disabled
            .filter(|value| value.eq_ignore_ascii_case("true"))
            .map(|_| "`AWS_EC2_METADATA_DISABLED`"),
    };
    match by {
        None => Source::Instance { tried },
        Some(by) => Source::Nothing(format!(
            "no AWS credentials were found; looked in: {tried}; the instance metadata service is \
             switched off by {by}"
        )),
    }
}

impl From<Source> for Chain {
    fn from(source: Source) -> Self {
        Self { source, roles: Vec::new() }
    }
}

/// A configuration that cannot be meant.
fn wrong(message: impl Into<Flaw>) -> StoreError {
    StoreError::Misconfigured(message.into())
}

/// No credentials.
fn none(message: impl Into<Flaw>) -> StoreError {
    StoreError::Credentials(message.into())
}

#[cfg(test)]
mod tests;
