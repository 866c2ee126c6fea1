//! Connections of our own making: the SDK's client takes no verifier of certificates, and reads no
//! answer with more than 100 headers. The parts are those it has itself.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http::Uri;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{self, CaptureConnection, Connect, capture_connection};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower_service::Service;

use super::trust::Trust;

/// Go has a limit of bytes alone; each costs memory for every answer.
const MOST_HEADERS: usize = 1000;

/// A client that goes one way: straight to the host, or by TLS through a proxy.
#[derive(Debug)]
pub(super) struct OneWay {
    /// `None`: without TLS.
    trust: Option<Trust>,
    tunnel: Option<Intercept>,
    made: Mutex<Vec<(Limits, SharedHttpConnector)>>,
}

/// How long may it take?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    connect: Option<Duration>,
    read: Option<Duration>,
}

impl OneWay {
    /// Straight to the host.
    pub(super) fn direct(trust: Option<&Trust>) -> Self {
        Self { trust: trust.cloned(), tunnel: None, made: Mutex::default() }
    }

    /// Through this proxy; `None` where that is no URL.
    pub(super) fn through(proxy: &str, trust: &Trust) -> Option<Self> {
        // Any host: who goes through it is decided elsewhere.
        let anywhere = Uri::from_static("https://anywhere");
        let tunnel = Matcher::builder().all(proxy).build().intercept(&anywhere)?;
        let trust = Some(trust.clone());
        Some(Self { trust, tunnel: Some(tunnel), made: Mutex::default() })
    }

    fn make(&self, limits: Limits) -> SharedHttpConnector {
        let mut tcp = connect::HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let Some(trust) = &self.trust else { return asking(tcp, limits) };
        let direct = HttpsConnector::from((tcp, trust.tls()));
        let Some(proxy) = &self.tunnel else { return asking(direct, limits) };
        let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
        if let Some(login) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(login.clone());
        }
        asking(HttpsConnector::from((tunnel, trust.tls())), limits)
    }
}

impl HttpClient for OneWay {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let limits = Limits { connect: settings.connect_timeout(), read: settings.read_timeout() };
        let mut made = self.made.lock().expect("nothing panics while it is locked");
        if let Some((_, connector)) = made.iter().find(|(of, _)| *of == limits) {
            return connector.clone();
        }
        let connector = self.make(limits);
        made.push((limits, connector.clone()));
        connector
    }
}

fn asking<C>(connect: C, limits: Limits) -> SharedHttpConnector
where
    C: Clone + Send + Sync + 'static,
    Timed<C>: Connect,
{
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .http1_max_headers(MOST_HEADERS)
        .build(Timed { connect, limit: limits.connect });
    SharedHttpConnector::new(Asking { client, read: limits.read })
}

/// hyper's client, as the SDK calls one.
struct Asking<C> {
    client: Client<Timed<C>, SdkBody>,
    read: Option<Duration>,
}

impl<C> fmt::Debug for Asking<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("read", &self.read).finish_non_exhaustive()
    }
}

impl<C> HttpConnector for Asking<C>
where
    C: Clone + Send + Sync + 'static,
    Timed<C>: Connect,
{
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => {
                return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into())));
            }
        };
        let connection = capture_connection(&mut request);
        if let Some(capture) = request.extensions().get::<CaptureSmithyConnection>() {
            capture.set_connection_retriever(move || discardable(&connection));
        }
        let (asked, read) = (self.client.request(request), self.read);
        HttpConnectorFuture::new(async move {
            let answer = within(read, "read", asked).await.map_err(|error| {
                if times_out(error.as_ref()) {
                    ConnectorError::timeout(error)
                } else {
                    ConnectorError::io(error)
                }
            })?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// The connection, so that the SDK uses none again on which something went wrong.
fn discardable(connection: &CaptureConnection) -> Option<ConnectionMetadata> {
    connection.connection_metadata().as_ref()?;
    let connection = connection.clone();
    let discard = move || {
        if let Some(connected) = connection.connection_metadata().as_ref() {
            connected.poison();
        }
    };
    // Whether there is a proxy is not looked at.
    Some(ConnectionMetadata::builder().proxied(false).poison_fn(discard).build())
}

/// A connector with a limit on name look-up, connection and TLS together.
#[derive(Debug, Clone)]
struct Timed<C> {
    connect: C,
    limit: Option<Duration>,
}

impl<C> Service<Uri> for Timed<C>
where
    C: Service<Uri, Future: Send + 'static, Error: Into<BoxError>> + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connect.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(within(self.limit, "connect", self.connect.call(to)))
    }
}

async fn within<T, E: Into<BoxError>>(
    limit: Option<Duration>,
    what: &'static str,
    done: impl Future<Output = Result<T, E>>,
) -> Result<T, BoxError> {
    let Some(limit) = limit else { return done.await.map_err(Into::into) };
    match tokio::time::timeout(limit, done).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(TookTooLong { what, limit }.into()),
    }
}

/// A limit was reached.
#[derive(Debug, thiserror::Error)]
#[error("HTTP {what} timeout occurred after {limit:?}")]
struct TookTooLong {
    what: &'static str,
    limit: Duration,
}

fn times_out(error: &(dyn Error + 'static)) -> bool {
    error.is::<TookTooLong>() || error.source().is_some_and(times_out)
}
