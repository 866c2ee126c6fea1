//! The HTTP client of all AWS requests: whom it trusts and through which proxy it goes.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::base64;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::super::StoreError;
use super::super::blocking::reason;
use crate::backend::AwsSettings;

/// Builds the client.
pub(super) fn client(settings: &AwsSettings) -> Result<SharedHttpClient, StoreError> {
    let trust = match &settings.ca_bundle {
        Some(path) => trust_of(path)?,
        None => TrustStore::default(),
    };
    let tls = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|e| StoreError::Misconfigured(format!("cannot set up TLS: {e}")))?;
    let proxy = |name: &str, url: &Option<String>| match url {
        Some(url) => proxy(name, url, settings.no_proxy.as_deref()),
        None => Ok(ProxyConfig::disabled()),
    };
    let http = proxy("http_proxy", &settings.http_proxy)?;
    let https = proxy("https_proxy", &settings.https_proxy)?;
    // A proxy that is itself reached by TLS needs it for plain requests, too.
    let secure_proxy =
        settings.http_proxy.as_deref().is_some_and(|url| url.trim().starts_with("https:"));
    let http = if secure_proxy { through(http, tls.clone()) } else { plainly_through(http) };
    Ok(SharedHttpClient::new(ByScheme { http, https: through(https, tls) }))
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

fn through(proxy: ProxyConfig, tls: TlsContext) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = Connector::builder()
            .proxy_config(proxy.clone())
            .tls_provider(Provider::rustls(CryptoMode::Ring))
            .tls_context(tls.clone());
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

/// Reads the certificates to trust. Those that cannot be used are left out, as Go does; the
/// client would panic on them.
fn trust_of(path: &Path) -> Result<TrustStore, StoreError> {
    let name = path.display();
    let bytes = fs::read(path).map_err(|e| {
        StoreError::Misconfigured(format!("cannot read the CA bundle `{name}`: {}", reason(&e)))
    })?;
    let mut trust = TrustStore::empty();
    let mut usable = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|e| {
            StoreError::Misconfigured(format!("the CA bundle `{name}` is not in PEM form: {e}"))
        })?;
        if usable.add(certificate.clone()).is_ok() {
            let body = base64::encode(&certificate);
            let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
            trust.add_pem_certificate(pem);
        }
    }
    if usable.is_empty() {
        let message = format!("the CA bundle `{name}` has no usable certificate in PEM form");
        return Err(StoreError::Misconfigured(message));
    }
    Ok(trust)
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
    use super::*;

    fn with_bundle(path: &Path) -> Result<SharedHttpClient, StoreError> {
        let settings = AwsSettings { ca_bundle: Some(path.to_owned()), ..AwsSettings::default() };
        client(&settings)
    }

    #[test]
    fn a_bad_ca_bundle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let refused = |why: &str| {
            let error = with_bundle(&path).unwrap_err();
            assert!(matches!(error, StoreError::Misconfigured(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()) && text.contains(why), "{text}");
        };
        refused("no such file");
        fs::write(&path, "garbage").unwrap();
        refused("no usable certificate");
        fs::write(&path, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").unwrap();
        refused("not in PEM form");
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        refused("no usable certificate");
    }

    #[test]
    fn a_bad_proxy_is_refused_without_its_password() {
        for url in ["ftp://u:secret@h", "http://u:secret@"] {
            let settings =
                AwsSettings { https_proxy: Some(url.to_owned()), ..AwsSettings::default() };
            let text = client(&settings).unwrap_err().to_string();
            assert!(text.contains("`https_proxy`") && !text.contains("secret"), "{text}");
        }
    }
}
