//! A server that answers whatever it is asked, keeps what it was sent, and gives sessions.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tfwrap::clock::wall;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::proxy::session_end;
use super::servers::serve;

/// A server that keeps what it is sent: of DynamoDB an empty table, of STS one that gives any
/// role, of a proxy one that answers by itself.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

/// The sessions that STS gives. The key of one that ends is `ASIA` and when that is, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sessions {
    /// They outlast every test.
    Long,
    /// Each lasts so long.
    Of(Duration),
    /// The first one lasts so long, and there is never another.
    Once(Duration),
}

impl Recorder {
    pub(crate) fn start() -> Self {
        Self::giving(Sessions::Long)
    }

    pub(crate) fn with_tls(tls: TlsAcceptor) -> Self {
        Self::with(Some(tls), Sessions::Long)
    }

    /// One for `localhost`, and the certificate of its authority, in PEM.
    pub(crate) fn trusted() -> (Self, String) {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        (Self::with_tls(TlsAcceptor::from(Arc::new(config))), authority.pem())
    }

    pub(crate) fn giving(sessions: Sessions) -> Self {
        Self::with(None, sessions)
    }

    fn with(tls: Option<TlsAcceptor>, sessions: Sessions) -> Self {
        let first = OnceLock::new();
        let key = move || {
            let end = match sessions {
                Sessions::Long => return "ASIAROLE".to_owned(),
                Sessions::Of(time) => wall() + time,
                Sessions::Once(time) => *first.get_or_init(|| wall() + time),
            };
            format!("ASIA{}", end.as_second())
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let requests = Arc::default();
        let kept = Arc::clone(&requests);
        let address = serve(|listener| async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                // A client that does not trust us goes away in the middle.
                match &tls {
                    None => drop(answer(connection, &kept, &key).await),
                    Some(tls) => {
                        if let Ok(connection) = tls.accept(connection).await {
                            drop(answer(connection, &kept, &key).await);
                        }
                    }
                }
            }
        });
        Self { url: format!("{scheme}://localhost:{}", address.port()), requests }
    }

    /// The requests so far, in lower case up to their values.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn only_request(&self) -> String {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }
}

const FAR_AWAY: Timestamp = Timestamp::constant(4_000_000_000, 0);

const STS_ANSWER: &str = "<Answer><Result><Credentials>\
    <AccessKeyId>KEY</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
    <SessionToken>session</SessionToken><Expiration>END</Expiration>\
    </Credentials></Result></Answer>";

/// Whoever asks is of account 1.
const CALLER: &str = "<GetCallerIdentityResponse><GetCallerIdentityResult><Account>1</Account>\
    </GetCallerIdentityResult></GetCallerIdentityResponse>";

async fn answer(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    kept: &Mutex<Vec<String>>,
    key: &impl Fn() -> String,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let whole = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length = length.map_or(0, |(_, value)| value.parse().unwrap());
        (body.len() >= length).then(|| text.into_owned())
    };
    let request = loop {
        if connection.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        if let Some(request) = whole(&bytes) {
            break request;
        }
    };
    let body = if request.contains("x-amz-target") { "{}" } else { STS_ANSWER };
    let body = if request.contains("Action=GetCallerIdentity") {
        CALLER.to_owned()
    } else if request.contains("AssumeRoleWithWebIdentity") {
        body.replace("Answer>", "AssumeRoleWithWebIdentityResponse>")
            .replace("Result>", "AssumeRoleWithWebIdentityResult>")
    } else {
        body.replace("Answer>", "AssumeRoleResponse>").replace("Result>", "AssumeRoleResult>")
    };
    let key = key();
    let end = session_end(&key).unwrap_or(FAR_AWAY).to_string();
    let body = body.replace("KEY", &key).replace("END", &end);
    kept.lock().unwrap().push(request);
    let length = body.len();
    let reply =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    connection.write_all(reply.as_bytes()).await?;
    connection.shutdown().await
}
