//! The instance metadata service of EC2, version 2.

use std::time::Duration;

use aws_config::imds::Client;
use aws_config::imds::client::error::ImdsError;
use aws_config::imds::client::{Builder, EndpointMode};
use aws_config::provider_config::ProviderConfig;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use serde_json::Value;
use url::Url;

use super::super::{FlawKind, StoreError};
use super::error::{chain_text, untried};
use super::profile::InUse;
use super::role;
use super::session::Session;
use crate::backend::AwsSettings;
use crate::shown_url::shown_url;

/// Away from EC2 nothing answers at the metadata service's address, not even a refusal; this is
/// what bounds the wait for "no credentials".
const PATIENCE: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 2;

/// Where it is by itself.
pub(super) const USUAL: &str = "http://169.254.169.254/";

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

/// Builds the client. Its endpoint is always named: else the SDK would look for one itself.
pub(super) fn client(endpoint: &str, http: SharedHttpClient) -> Result<Client, StoreError> {
    if endpoint.contains('?') {
        let message = format!(
            "the endpoint of the instance metadata service `{}` has a query, which tfwrap does not \
             send",
            shown_url(endpoint)
        );
        return Err(StoreError::Misconfigured(message.into()));
    }
    let client = Client::builder()
        .configure(&ProviderConfig::without_region().with_http_client(http))
        .connect_timeout(PATIENCE)
        .read_timeout(PATIENCE)
        .max_attempts(ATTEMPTS);
    client.endpoint(endpoint).map(Builder::build).map_err(|_| not_a_url())
}

fn not_a_url() -> StoreError {
    let message = "the endpoint of the instance metadata service is not a URL";
    StoreError::Misconfigured(message.into())
}

/// The service at this URL.
pub(super) fn at(url: &str) -> Result<String, StoreError> {
    let mut url = Url::parse(url).map_err(|_| not_a_url())?;
    // Go's SDK replaces the path, and keeps a query.
    url.set_path("/");
    Ok(url.into())
}

/// Where it is: an endpoint beats a mode, the backend the environment, and that the profile.
pub(super) fn endpoint(settings: &AwsSettings, profile: &InUse) -> Result<String, StoreError> {
    let of_profile = |key| profile.profile()?.text(key).map(ToOwned::to_owned);
    let url = settings.metadata_endpoint.clone();
    if let Some(url) = url.or_else(|| of_profile("ec2_metadata_service_endpoint")) {
        return at(&url);
    }
    let mode = settings.metadata_endpoint_mode.clone();
    let mode = mode.or_else(|| of_profile("ec2_metadata_service_endpoint_mode"));
    match mode.as_deref().map(str::parse) {
        None | Some(Ok(EndpointMode::IpV4)) => Ok(USUAL.to_owned()),
        Some(Ok(_)) => Ok("http://[fd00:ec2::254]/".to_owned()),
        Some(Err(_)) => Err(StoreError::Misconfigured(
            format!(
                "the mode of the instance metadata service is `IPv4` or `IPv6`, not `{}`",
                mode.unwrap_or_default()
            )
            .into(),
        )),
    }
}

/// Asks for the instance's role. `tried` is what else was looked for.
pub(super) async fn session(client: &Client, tried: &str) -> Result<Session, StoreError> {
    let none = |why: &str| {
        StoreError::Credentials(FlawKind::NoCredentials.flaw(format!(
            "no AWS credentials were found; looked in: {tried}, instance metadata ({why})"
        )))
    };
    let roles = client.get(ROLES).await.map_err(|error| match &error {
        error if let Some(untried) = untried(error) => untried,
        ImdsError::ErrorResponse(answer) if answer.response().status().as_u16() == 404 => {
            none("the instance has no role")
        }
        ImdsError::FailedToLoadToken(token) if token.is_dispatch_failure() => none("no answer"),
        error => none(&chain_text(Some(error))),
    })?;
    let role = roles.as_ref().lines().next().unwrap_or_default().trim().to_owned();
    if role.is_empty() {
        return Err(none("the instance has no role"));
    }
    let failed = |why: &str| {
        StoreError::Credentials(
            format!("the instance metadata service gives none for its role: {why}").into(),
        )
    };
    let answer = client
        .get(format!("{ROLES}{role}"))
        .await
        .map_err(|error| failed(&chain_text(Some(&error))))?;
    let text = answer.as_ref();
    let fields: Value = serde_json::from_str(text).unwrap_or_default();
    match fields.get("Code").and_then(Value::as_str) {
        Some("Success") | None => Session::parse(text.as_bytes(), "Token").map_err(|e| failed(&e)),
        Some(code) => Err(failed(&format!("`{code}`"))),
    }
}

/// The account of the instance, if it says that.
pub(super) async fn account(client: &Client) -> Option<String> {
    let answer = client.get("/latest/meta-data/iam/info").await.ok()?;
    let fields: Value = serde_json::from_str(answer.as_ref()).ok()?;
    let field = |name: &str| fields.get(name).and_then(Value::as_str);
    field("Code").filter(|code| code.eq_ignore_ascii_case("success"))?;
    role::account_in(field("InstanceProfileArn")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::aws::profile::Profiles;

    #[test]
    fn the_endpoint_is_that_of_the_backend_or_the_profile() {
        let text = |text: &str| Some(text.to_owned());
        let own = "[default]\nec2_metadata_service_endpoint = http://p/x\n";
        let mode = "[default]\nec2_metadata_service_endpoint_mode = IPv6\n";
        for (profile, url, in_mode, expected) in [
            ("", None, None, Ok("http://169.254.169.254/")),
            ("", text("http://m:1/path?q"), text("IPv6"), Ok("http://m:1/?q")),
            ("", None, text("IPv6"), Ok("http://[fd00:ec2::254]/")),
            (own, None, None, Ok("http://p/")),
            (own, text("http://m"), None, Ok("http://m/")),
            (mode, None, None, Ok("http://[fd00:ec2::254]/")),
            (mode, None, text("IPv4"), Ok("http://169.254.169.254/")),
            ("", None, text("v6"), Err(())),
        ] {
            let settings = AwsSettings {
                metadata_endpoint: url,
                metadata_endpoint_mode: in_mode,
                ..AwsSettings::default()
            };
            let profile = InUse::of(&settings, Profiles::new([profile], [""])).unwrap();
            let found = endpoint(&settings, &profile).map_err(|_| ());
            assert_eq!(found.as_deref(), expected.as_ref().copied());
            // Only who asks there is told of a query.
            let Ok(found) = found else { continue };
            let trust = crate::store::aws::trust::Trust::of(&settings, &profile).unwrap();
            let http = crate::store::aws::http::client(&settings.proxies, &trust);
            let refused = client(&found, http).map(drop);
            assert_eq!(refused.is_err(), found.contains('?'), "{found}: {refused:?}");
        }
    }
}
