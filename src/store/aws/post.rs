//! A document that is sent to whoever is no service of AWS, by the same client: the same proxies, and the
//! certificates of the system.

use std::path::Path;

use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_types::body::SdkBody;
use url::Url;

use super::error::chain_text;
use super::http;
use super::profile::InUse;
use super::trust::Trust;
use crate::backend::{AwsSettings, ProxySettings};
use crate::env::Env;

/// Sends a JSON document once. It has no limit of time: its caller has.
///
/// # Errors
/// In words, without any header: what came of it, where it was not taken.
pub(crate) async fn post_json(
    to: &Url,
    headers: &[(String, String)],
    body: String,
    (env, dir): (&Env, &Path),
) -> Result<(), String> {
    let settings = AwsSettings {
        env: env.only(&["SSL_CERT_"]),
        dir: dir.to_owned(),
        ..AwsSettings::default()
    };
    let trust = Trust::of(&settings, &InUse::default()).map_err(|error| error.to_string())?;
    let operation = Operation::builder()
        .service_name("Receiver")
        .operation_name("Post")
        .endpoint_url(&to.origin().ascii_serialization())
        .no_auth()
        .no_retry()
        .http_client(http::client(&ProxySettings::of_environment(env), &trust))
        .serializer(|request: HttpRequest| Ok(request))
        .deserializer(|response: &HttpResponse| {
            let status = response.status();
            if status.is_success() {
                return Ok(());
            }
            Err(OrchestratorError::operation(Refused(status.as_u16())))
        })
        .build();
    let mut request = HttpRequest::new(SdkBody::from(body));
    let path = &to[url::Position::BeforePath..url::Position::AfterQuery];
    let unsendable = |what: &str| format!("{what} cannot be sent");
    request.set_uri(path).map_err(|_| unsendable("its path"))?;
    request.set_method("POST").map_err(|_| unsendable("its method"))?;
    let own = [("content-type".to_owned(), "application/json".to_owned())];
    for (name, value) in own.iter().chain(headers) {
        let added = request.headers_mut().try_insert(name.clone(), value.clone());
        added.map_err(|_| unsendable("a header"))?;
    }
    operation.invoke(request).await.map_err(|error| chain_text(Some(&error)))
}

/// What it answered instead.
#[derive(Debug, thiserror::Error)]
#[error("it answered HTTP {0}")]
struct Refused(u16);
