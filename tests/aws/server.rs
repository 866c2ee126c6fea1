//! The recording server: every port, plain or by TLS, as AWS' hosts themselves and as a proxy.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::seen::{Request, Way};
use crate::services::Desk;

/// Plain, TLS, an emulator's, and proxies: what comes first on a connection tells which.
const PORTS: [u16; 6] = [80, 443, 8000, 8443, 3128, 3129];
/// Those that are proxies.
const PROXIES: [u16; 2] = [3128, 3129];
/// A connection that brings nothing for so long is closed.
const IDLE: Duration = Duration::from_mins(1);

/// An authority that certifies whatever host is asked for.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    made: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, made: Mutex::default() }
    }

    /// For a bundle.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn certify(&self, host: &str) -> Arc<CertifiedKey> {
        let mut made = self.made.lock().unwrap();
        let certified = || {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let key = any_supported_type(&private).unwrap();
            Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key))
        };
        made.entry(host.to_owned()).or_insert_with(certified).clone()
    }
}

/// Certificates by the authority that the case wants, for the host that the client names.
#[derive(Debug)]
struct Certificates {
    desk: Arc<Desk>,
    local: IpAddr,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // An address is not named.
        let host = hello.server_name().map_or_else(|| self.local.to_string(), ToOwned::to_owned);
        Some(self.desk.authority().certify(&host))
    }
}

/// Listens on all ports and answers names, in threads that live as long as the process.
pub(crate) fn start(desk: &Arc<Desk>) {
    for port in PORTS {
        // Both families; where the machine has no IPv6, the one.
        let listener = TcpListener::bind(("::", port))
            .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
            .unwrap_or_else(|error| panic!("port {port}: {error}"));
        let desk = desk.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, desk) = (connection.unwrap(), desk.clone());
                // A client that goes away in the middle is no failure of the server.
                std::thread::spawn(move || drop(serve(connection, port, &desk)));
            }
        });
    }
    let names = UdpSocket::bind(("127.0.0.1", 53)).unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        loop {
            let (length, from) = names.recv_from(&mut packet).unwrap();
            if let Some(answer) = name_answer(&packet[..length]) {
                drop(names.send_to(&answer, from));
            }
        }
    });
}

/// Every name is this machine, but those below `invalid`.
fn name_answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut last: &[u8] = &[];
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        last = query.get(at..at + length)?;
        at += length;
    }
    let question = query.get(12..at + 4)?;
    let is_address = question[question.len() - 4..] == [0, 1, 0, 1];
    let is_known = !last.eq_ignore_ascii_case(b"invalid");
    let has_answer = is_address && is_known;
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, if is_known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(has_answer)]);
    answer.extend([0, 0, 0, 0]);
    answer.extend(question);
    if has_answer {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

fn serve(connection: TcpStream, port: u16, desk: &Arc<Desk>) -> io::Result<()> {
    connection.set_read_timeout(Some(IDLE))?;
    let local = connection.local_addr()?.ip().to_canonical();
    let way = Way { tls: false, local, proxy: None };
    let as_proxy = PROXIES.contains(&port).then_some(port);
    talk(Box::new(connection), way, as_proxy, desk)
}

/// Unwraps TLS where the client begins with it.
fn talk(
    mut stream: Box<dyn Stream>,
    mut way: Way,
    as_proxy: Option<u16>,
    desk: &Arc<Desk>,
) -> io::Result<()> {
    let mut first = [0];
    if stream.read(&mut first)? == 0 {
        return Ok(());
    }
    let stream = Again { first: Some(first[0]), stream };
    if first[0] != 0x16 {
        return converse(stream, &way, as_proxy, desk);
    }
    let certificates = Certificates { desk: desk.clone(), local: way.local };
    let config =
        ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(certificates));
    let tls = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
    // TLS to the proxy itself says nothing about the request.
    way.tls = as_proxy.is_none();
    converse(StreamOwned::new(tls, stream), &way, as_proxy, desk)
}

/// Answers requests until the client has no more, or wants a tunnel.
fn converse(
    mut stream: impl Stream + 'static,
    way: &Way,
    as_proxy: Option<u16>,
    desk: &Arc<Desk>,
) -> io::Result<()> {
    let mut kept = Vec::new();
    while let Some(mut request) = read_request(&mut stream, way, &mut kept)? {
        if let Some(port) = as_proxy {
            let user = request.header("proxy-authorization").map(ToOwned::to_owned);
            let proxy = user.map_or_else(|| port.to_string(), |user| format!("{port} ({user})"));
            request.way.proxy = Some(proxy);
            if request.method == "CONNECT" {
                desk.saw_tunnel(&request);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                stream.flush()?;
                let way = Way { tls: false, ..request.way };
                return talk(Box::new(stream), way, None, desk);
            }
            let (host, path) = absolute(&request.path);
            request.headers.retain(|(name, _)| name != "host");
            request.headers.push(("host".to_owned(), host));
            request.path = path;
        }
        let Some(answer) = desk.answer(&request) else { return Ok(()) };
        let mut head = format!(
            "HTTP/1.1 {} Answer\r\ncontent-length: {}\r\nconnection: keep-alive\r\n",
            answer.status,
            answer.body.len()
        );
        for (name, value) in &answer.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        if request.method != "HEAD" {
            head.push_str(&answer.body);
        }
        stream.write_all(head.as_bytes())?;
        stream.flush()?;
    }
    Ok(())
}

/// Host and path of `http://host/path`.
fn absolute(target: &str) -> (String, String) {
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (host.to_owned(), if path.is_empty() { "/".to_owned() } else { path.to_owned() })
}

/// Reads one request. `kept` is what came beyond it.
fn read_request(
    stream: &mut impl Stream,
    way: &Way,
    kept: &mut Vec<u8>,
) -> io::Result<Option<Request>> {
    let mut more = |kept: &mut Vec<u8>| -> io::Result<bool> {
        let mut part = [0; 8192];
        let count = stream.read(&mut part)?;
        kept.extend(&part[..count]);
        Ok(count > 0)
    };
    let end = loop {
        if let Some(end) = kept.windows(4).position(|it| it == b"\r\n\r\n") {
            break end;
        }
        if !more(kept)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&kept[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ').map(ToOwned::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    while kept.len() < end + 4 + length {
        if !more(kept)? {
            return Ok(None);
        }
    }
    let body = String::from_utf8_lossy(&kept[end + 4..end + 4 + length]).into_owned();
    kept.drain(..end + 4 + length);
    Ok(Some(Request { method, path, headers, body, way: way.clone() }))
}

/// A stream whose first byte was read already.
struct Again {
    first: Option<u8>,
    stream: Box<dyn Stream>,
}

impl Read for Again {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match (self.first.take(), to) {
            (Some(first), [place, ..]) => {
                *place = first;
                Ok(1)
            }
            (_, to) => self.stream.read(to),
        }
    }
}

impl Write for Again {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
