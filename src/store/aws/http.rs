//! The HTTP client of all AWS requests: whom it trusts and through which proxy it goes.

use std::sync::OnceLock;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use super::super::StoreError;
use super::trust::Trust;
use crate::backend::AwsSettings;

/// Builds the client.
pub(super) fn client(
    settings: &AwsSettings,
    trust: &Trust,
) -> Result<SharedHttpClient, StoreError> {
    let proxy = |name: &str, url: &Option<String>| match url {
        Some(url) => proxy(name, url, settings.no_proxy.as_deref()),
        None => Ok(ProxyConfig::disabled()),
    };
    let http = proxy("http_proxy", &settings.http_proxy)?;
    let https = proxy("https_proxy", &settings.https_proxy)?;
    // A proxy that is itself reached by TLS needs it for plain requests, too.
    let secure_proxy =
        settings.http_proxy.as_deref().is_some_and(|url| url.trim().starts_with("https:"));
    let http = if secure_proxy { through(http, trust.clone()) } else { plainly_through(http) };
    Ok(SharedHttpClient::new(ByScheme { http, https: through(https, trust.clone()) }))
}

fn plainly_through(proxy: ProxyConfig) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = Connector::builder().proxy_config(proxy.clone());
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        builder.build_http()
    })
}

fn through(proxy: ProxyConfig, trust: Trust) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = Connector::builder()
            .proxy_config(proxy.clone())
            .tls_provider(Provider::rustls(CryptoMode::Ring))
            .tls_context(trust.context());
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        builder.build()
    })
}

/// A proxy for all requests of a client that sees only one scheme.
fn proxy(name: &str, url: &str, no_proxy: Option<&str>) -> Result<ProxyConfig, StoreError> {
    // Go takes a bare `host:port` for http.
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    // The URL may hold a password: it is not repeated.
    let config = ProxyConfig::all(full)
        .map_err(|_| StoreError::Misconfigured(format!("`{name}` is not a usable proxy URL")))?;
    Ok(match no_proxy {
        Some(rules) => config.no_proxy(rules),
        None => config,
    })
}

/// The library's client knows one proxy; this chooses between two clients.
#[derive(Debug)]
struct ByScheme {
    http: SharedHttpClient,
    https: SharedHttpClient,
}

impl HttpClient for ByScheme {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let later = |client: &SharedHttpClient| Later {
            client: client.clone(),
            settings: settings.clone(),
            components: components.clone(),
            connector: OnceLock::new(),
        };
        let (http, https) = (later(&self.http), later(&self.https));
        SharedHttpConnector::new(ConnectorByScheme { http, https })
    }
}

#[derive(Debug)]
struct ConnectorByScheme {
    http: Later,
    https: Later,
}

impl HttpConnector for ConnectorByScheme {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let scheme = request.uri().split_once(':').map_or("", |(scheme, _)| scheme);
        let later = if scheme.eq_ignore_ascii_case("http") { &self.http } else { &self.https };
        later.connector().call(request)
    }
}

/// A connector that is made when it is needed: that for TLS reads all the system's certificates.
#[derive(Debug)]
struct Later {
    client: SharedHttpClient,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
    connector: OnceLock<SharedHttpConnector>,
}

impl Later {
    fn connector(&self) -> &SharedHttpConnector {
        self.connector.get_or_init(|| self.client.http_connector(&self.settings, &self.components))
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::InUse;
    use super::*;

    #[test]
    fn a_bad_proxy_is_refused_without_its_password() {
        let trust = Trust::of(&AwsSettings::default(), &InUse::default()).unwrap();
        for url in ["ftp://u:secret@h", "http://u:secret@"] {
            let settings =
                AwsSettings { https_proxy: Some(url.to_owned()), ..AwsSettings::default() };
            let text = client(&settings, &trust).unwrap_err().to_string();
            assert!(text.contains("`https_proxy`") && !text.contains("secret"), "{text}");
        }
    }
}
