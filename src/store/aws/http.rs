//! The HTTP client of all AWS requests: whom it trusts, through which proxy it goes, and how much of
//! an answer it reads.

use std::sync::{Arc, OnceLock};

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http_body_util::{BodyExt as _, Limited};

use super::super::{Flaw, FlawKind};
use super::connector::OneWay;
use super::trust::Trust;
use crate::backend::ProxySettings;
use crate::backend::proxy::{Proxies, Proxy, Route};

/// Builds the client that goes through these proxies.
pub(super) fn client(proxies: &ProxySettings, trust: &Trust) -> SharedHttpClient {
    let [plain_by, tls_by] = proxies.set_by;
    let proxies = Proxies::of(proxies);
    let is_usable = |proxy: &&Proxy| proxy.is_http();
    let http = Routes {
        set_by: plain_by,
        direct: SharedHttpClient::new(OneWay::direct(None)),
        through_proxy: proxies.http.as_ref().filter(is_usable).and_then(|it| forward(it, trust)),
    };
    let tunnel = |proxy: &Proxy| OneWay::through(&proxy.url(), trust).map(SharedHttpClient::new);
    let https = Routes {
        set_by: tls_by,
        direct: SharedHttpClient::new(OneWay::direct(Some(trust))),
        through_proxy: proxies.https.as_ref().filter(is_usable).and_then(tunnel),
    };
    SharedHttpClient::new(ByRoute { proxies: Arc::new(proxies), http, https })
}

/// The ways for one scheme: without a proxy, and through the proxy, if it is one that the library
/// can use.
#[derive(Debug)]
struct Routes<T> {
    /// What names the proxy.
    set_by: Option<&'static str>,
    direct: T,
    through_proxy: Option<T>,
}

impl<T> Routes<T> {
    fn map<U>(&self, to: impl Fn(&T) -> U) -> Routes<U> {
        Routes {
            set_by: self.set_by,
            direct: to(&self.direct),
            through_proxy: self.through_proxy.as_ref().map(to),
        }
    }
}

/// The SDK's own client, for requests that a proxy reads and passes on.
fn forward(proxy: &Proxy, trust: &Trust) -> Option<SharedHttpClient> {
    let config = ProxyConfig::all(proxy.url()).ok()?;
    let trust = (proxy.scheme == "https").then(|| trust.clone());
    Some(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = Connector::builder().proxy_config(config.clone());
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        match &trust {
            Some(trust) => builder
                .tls_provider(Provider::rustls(CryptoMode::Ring))
                .tls_context(trust.to_proxies())
                .build(),
            None => builder.build_http(),
        }
    }))
}

/// What is read of one answer, in MiB. DynamoDB answers with one item of 400 kB at most, S3 with
/// 1000 names of 1 kB.
const MOST: usize = 16;

/// An answer that is longer than any of a service's, if it ends at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TooLong {
    at: String,
    status: u16,
}

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, status } = self;
        write!(
            f,
            "`{at}` is not an AWS service: it answered HTTP {status} with more than {MOST} MiB; is \
             a proxy or a login page in between?"
        )
    }
}

impl std::error::Error for TooLong {}

/// The scheme, the host and the port of an address.
pub(super) fn origin(uri: &str) -> String {
    url::Url::parse(uri)
        .map_or_else(|_| "the endpoint".to_owned(), |url| url.origin().ascii_serialization())
}

/// The same answer, of which no more is read than can be one.
fn bounded(at: &str, answer: HttpResponse) -> HttpResponse {
    let status = answer.status().as_u16();
    answer.map(|body| {
        let at = at.to_owned();
        let body = Limited::new(body, MOST << 20).map_err(move |error| {
            if error.is::<http_body_util::LengthLimitError>() {
                TooLong { at: at.clone(), status }.into()
            } else {
                error
            }
        });
        SdkBody::from_body_1_x(body)
    })
}

/// Why a request was not even tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unusable(pub(super) Flaw);

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unusable {}

/// Whom a request did not get through to.
#[derive(Debug)]
struct Through {
    /// By which way.
    way: String,
    source: ConnectorError,
}

impl std::fmt::Display for Through {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.way)
    }
}

impl std::error::Error for Through {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

/// The same kind of error, with the way in its text.
fn through(way: String, source: ConnectorError) -> ConnectorError {
    let (timeout, io, user) = (source.is_timeout(), source.is_io(), source.is_user());
    let error = Box::new(Through { way, source });
    match (timeout, io, user) {
        (true, ..) => ConnectorError::timeout(error),
        (_, true, _) => ConnectorError::io(error),
        (.., true) => ConnectorError::user(error),
        _ => ConnectorError::other(error, None),
    }
}

/// Whether a name was asked for that has no address. Nobody guesses that of an account's endpoint.
fn is_unknown_name(error: &ConnectorError) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.to_string().starts_with("dns error") {
            return true;
        }
        source = error.source();
    }
    false
}

/// The host and the port of an address.
fn at(uri: &str) -> String {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    format!("at `{}`", rest.split('/').next().unwrap_or(rest))
}

/// The library's client goes one way; this chooses among four, two for each scheme: directly, and
/// through the proxy.
#[derive(Debug)]
struct ByRoute {
    proxies: Arc<Proxies>,
    http: Routes<SharedHttpClient>,
    https: Routes<SharedHttpClient>,
}

impl HttpClient for ByRoute {
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
        let (http, https) = (self.http.map(later), self.https.map(later));
        SharedHttpConnector::new(ConnectorByRoute { proxies: self.proxies.clone(), http, https })
    }
}

#[derive(Debug)]
struct ConnectorByRoute {
    proxies: Arc<Proxies>,
    http: Routes<Later>,
    https: Routes<Later>,
}

impl HttpConnector for ConnectorByRoute {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let scheme = request.uri().split_once(':').map_or("", |(scheme, _)| scheme);
        let is_plain = scheme.eq_ignore_ascii_case("http");
        let routes = if is_plain { &self.http } else { &self.https };
        let unusable = |why: Flaw| {
            let error = ConnectorError::user(Box::new(Unusable(why)));
            HttpConnectorFuture::ready(Err(error))
        };
        let uri = request.uri().to_owned();
        match self.proxies.way(&uri) {
            Route::Direct => {
                let answer = routes.direct.connector().call(request);
                HttpConnectorFuture::new(async move {
                    let answer = answer.await.map_err(|error| {
                        if is_unknown_name(&error) { through(at(&uri), error) } else { error }
                    });
                    Ok(bounded(&origin(&uri), answer?))
                })
            }
            Route::Refused => unusable(
                "`REQUEST_METHOD` is set, as below a CGI server, where `HTTP_PROXY` may come from \
                 a stranger: Terraform refuses to use it; unset one of them"
                    .into(),
            ),
            Route::Through(proxy) => {
                let shown = proxy.shown();
                let Some(later) = &routes.through_proxy else {
                    let (name, kind) = match proxy.scheme.as_str() {
                        "" => ("proxy", FlawKind::Named),
                        _ => ("SOCKS proxy", FlawKind::SocksProxy),
                    };
                    let by = routes.set_by.map_or_else(String::new, |by| format!(" set by {by}"));
                    return unusable(kind.flaw(format!(
                        "tfwrap cannot use the {name} `{shown}`{by}, only HTTP proxies"
                    )));
                };
                let answer = later.connector().call(request);
                HttpConnectorFuture::new(async move {
                    let way = format!("through the proxy `{shown}`");
                    let answer = answer.await.map_err(|error| through(way, error));
                    Ok(bounded(&origin(&uri), answer?))
                })
            }
        }
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
