//! The HTTP endpoint that gives credentials to a container: ECS, EKS, and whoever speaks like them.
//!
//! Not the SDK's own provider: that reads the process environment past us, prefers the other of the
//! two variables, and gives up after 5 s.

use std::net::IpAddr;
use std::time::Duration;

use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::timeout::TimeoutConfig;
use url::{Host, Url};

use super::super::StoreError;
use super::chain::ContainerToken;
use super::error::{chain_text, too_long, unsent, untried};
use super::go_url::GoUrl;
use super::session::{Session, unsendable};
use super::token_file;
use crate::shown_url::shown_url;

/// It is on this machine.
const CONNECT: Duration = Duration::from_secs(2);
/// It may have to ask others; Go's SDK waits without a limit.
const ANSWER: Duration = Duration::from_mins(1);

/// Asks for the container's role.
pub(super) async fn session(
    url: &str,
    given: Option<&ContainerToken>,
    http: SharedHttpClient,
) -> Result<Session, StoreError> {
    let as_set = url;
    let url = Url::parse(url).map_err(|_| not_allowed(url))?;
    if url.scheme() != "https" && !is_near(&url).await {
        return Err(not_allowed(url.as_str()));
    }
    let token = match given {
        Some(ContainerToken::Given(token)) => Some(token.clone()),
        Some(ContainerToken::File(path)) => {
            Some(token_file::read(path, "the container's token").await?)
        }
        None => None,
    };
    let failed =
        |why: &str| format!("the container's credentials endpoint `{}` {why}", shown(&url));
    if let Some(odd) = token.as_deref().and_then(unsendable) {
        let place = match given {
            Some(ContainerToken::File(path)) => format!("`{}`", path.display()),
            Some(ContainerToken::Given(_)) | None => {
                "`AWS_CONTAINER_AUTHORIZATION_TOKEN`".to_owned()
            }
        };
        let why = format!("cannot be asked: the token in {place} has {odd} in it");
        return Err(StoreError::Misconfigured(odd.kind().flaw(failed(&why))));
    }
    let operation = Operation::builder()
        .service_name("ContainerCredentials")
        .operation_name("Get")
        .endpoint_url(&url.origin().ascii_serialization())
        .no_auth()
        .no_retry()
        .http_client(http)
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT)
                .read_timeout(ANSWER)
                .operation_timeout(CONNECT + ANSWER)
                .build(),
        )
        .serializer(|(path, token): (String, Option<String>)| {
            let mut request = HttpRequest::empty();
            request.set_uri(path)?;
            request.headers_mut().try_insert("accept", "application/json")?;
            if let Some(token) = token {
                request.headers_mut().try_insert("authorization", token)?;
            }
            Ok(request)
        })
        .deserializer(|response: &HttpResponse| {
            let bytes = response.body().bytes().unwrap_or_default();
            if !response.status().is_success() {
                let status = response.status().as_u16();
                return Err(OrchestratorError::operation(Refusal(format!("HTTP status {status}"))));
            }
            Session::parse(bytes, "Token").map_err(|why| OrchestratorError::operation(Refusal(why)))
        })
        .build();
    let path = path_and_query(as_set, &url);
    operation.invoke((path, token)).await.map_err(|error| match &error {
        SdkError::ServiceError(refusal) => {
            StoreError::Credentials(failed(&format!("gives none: {}", refusal.err().0)).into())
        }
        error => untried(error).or_else(|| too_long(error).map(unsent)).unwrap_or_else(|| {
            let detail = failed(&format!("does not answer: {}", chain_text(Some(error))));
            StoreError::Unavailable { detail, sent: false }
        }),
    })
}

/// As it was set: the parser cleans a path, and Go's does not.
fn path_and_query(as_set: &str, url: &Url) -> String {
    let written = GoUrl::split(as_set).written_path();
    let path = if written.is_empty() { "/".to_owned() } else { written };
    match url.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

/// What was answered instead of credentials.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// Without TLS, only what is on this machine, or where ECS and EKS have theirs.
async fn is_near(url: &Url) -> bool {
    let found = match url.host() {
        None => return false,
        Some(Host::Ipv4(ip)) => vec![IpAddr::V4(ip)],
        Some(Host::Ipv6(ip)) => vec![IpAddr::V6(ip)],
        Some(Host::Domain(name)) => match tokio::net::lookup_host((name, 80)).await {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(_) => return false,
        },
    };
    let known = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];
    !found.is_empty()
        && found.iter().all(|ip| ip.is_loopback() || known.contains(&ip.to_string().as_str()))
}

fn not_allowed(url: &str) -> StoreError {
    StoreError::Misconfigured(
        format!(
            "the container's credentials endpoint `{}` is neither on this machine nor reached over \
         TLS",
            shown_url(url)
        )
        .into(),
    )
}

fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}
