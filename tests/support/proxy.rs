//! A proxy before a server of the tests that does to a request what a network or a busy server
//! would do. No emulator throttles or drops replies by itself.
//!
//! One request per connection, so that a reset hits just the request it is meant for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tfwrap::clock::wall;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::servers::serve;

/// Longer than anything here takes; only a broken test waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing special.
    Pass,
    /// It is done, but the connection is reset before the reply.
    DropReply,
    /// It is done, but the reply breaks off.
    HalfReply,
    /// It is done, but the reply says 500.
    FailAfter,
    /// It is not done; the connection is reset.
    Refuse,
    /// It is not done before [`Proxy::release`]; then as usual, whether its sender still waits
    /// or not: a late write.
    Hold,
    /// It is done; the reply waits for [`Proxy::release`].
    HoldReply,
    /// This, but not before [`Proxy::release`].
    HoldThen(Box<Self>),
    /// It is done after this long.
    Delay(Duration),
    /// It takes this long to arrive, so it is not done if its sender goes away before.
    Slow(Duration),
    /// It is not done; something else answers with this, head and all.
    Page(&'static str),
    /// It is done, but the reply has lost its body.
    EmptyReply,
    /// It is done, and these headers come first in the reply.
    Headed(String),
    /// It is not done; this status and error code come back.
    Status(u16, &'static str),
    /// The server's clock is so far ahead; as AWS does, it refuses what is signed 5 minutes off.
    Clock(SignedDuration),
}

impl Fault {
    pub(crate) const SERVER_ERROR: Self = Self::Status(500, "InternalServerError");
    pub(crate) const THROTTLED: Self = Self::Status(400, "ThrottlingException");
    pub(crate) const OVER_CAPACITY: Self =
        Self::Status(400, "ProvisionedThroughputExceededException");
    pub(crate) const EXPIRED: Self = Self::Status(400, "ExpiredTokenException");
    pub(crate) const DENIED: Self = Self::Status(400, "AccessDeniedException");
    pub(crate) const CONFLICT: Self = Self::Status(409, "TransactionConflictException");
}

/// Which requests, and what becomes of them.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    operation: Option<String>,
    key: Option<String>,
    part: Option<&'static str>,
    signed_too_late: bool,
    signed_by: Option<&'static str>,
    fault: Fault,
    skip: usize,
    times: usize,
}

impl Rule {
    /// Every request meets `fault`.
    pub(crate) fn all(fault: Fault) -> Self {
        let (skip, times) = (0, usize::MAX);
        Self {
            operation: None,
            key: None,
            part: None,
            signed_too_late: false,
            signed_by: None,
            fault,
            skip,
            times,
        }
    }

    /// What AWS does: every request by a session that has ended is refused.
    pub(crate) fn expiry() -> Self {
        Self { signed_too_late: true, ..Self::all(Fault::EXPIRED) }
    }

    /// What AWS does with keys that were replaced: every request that is signed with them is refused.
    pub(crate) fn signed_by(access_key: &'static str, fault: Fault) -> Self {
        Self { signed_by: Some(access_key), ..Self::all(fault) }
    }

    /// Every request for `operation` (such as `PutItem`; of S3 `ListObjectsV2`, else the method)
    /// meets `fault`.
    pub(crate) fn on(operation: &str, fault: Fault) -> Self {
        Self { operation: Some(operation.to_owned()), ..Self::all(fault) }
    }

    /// Only those about this `LockID` (of S3: this path).
    pub(crate) fn key(self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self }
    }

    /// Only those about a key that contains this.
    pub(crate) fn key_with(self, part: &'static str) -> Self {
        Self { part: Some(part), ..self }
    }

    /// Only so many.
    pub(crate) fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// Only after the first so many.
    pub(crate) fn after(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    fn applies(&mut self, request: &Request) -> bool {
        let same = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        if !self.part.is_none_or(|part| request.key.contains(part)) {
            return false;
        }
        if !same(&self.operation, &request.operation) || !same(&self.key, &request.key) {
            return false;
        }
        if self.signed_too_late && !request.is_of_an_ended_session() {
            return false;
        }
        if self.signed_by.is_some_and(|key| request.access_key() != key) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let left = self.times > 0;
        self.times = self.times.saturating_sub(1);
        left
    }
}

type Arrived = BTreeMap<(String, String), usize>;

/// The proxy. Works in a thread of its own, so a test may block.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    /// The first rule that applies decides.
    rules: Mutex<Vec<Rule>>,
    /// By operation and key.
    arrived: watch::Sender<Arrived>,
    /// How often what was held has been released.
    released: watch::Sender<usize>,
    signed: Mutex<Vec<Signed>>,
}

/// Who signed a request, and when it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) operation: String,
    pub(crate) access_key: String,
    pub(crate) at: Timestamp,
}

impl Proxy {
    /// Starts a proxy before the server at `upstream`, a URL.
    pub(crate) fn before(upstream: &str) -> Self {
        let shared = Arc::new(Shared {
            upstream: upstream.trim_start_matches("http://").to_owned(),
            rules: Mutex::default(),
            arrived: watch::Sender::new(Arrived::new()),
            released: watch::Sender::new(0),
            signed: Mutex::default(),
        });
        let address = serve({
            let shared = Arc::clone(&shared);
            move |listener| accept(listener, shared)
        });
        Self { url: format!("http://{address}"), shared }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Sets the rules anew.
    pub(crate) fn plan(&self, rules: impl IntoIterator<Item = Rule>) {
        *self.shared.rules.lock().unwrap() = rules.into_iter().collect();
    }

    /// How many requests for `operation` have arrived; of those about one key, when that follows
    /// the operation, as in `PutItem b/k`.
    pub(crate) fn count(&self, operation: &str) -> usize {
        sum(&self.shared.arrived.borrow(), operation)
    }

    /// How many requests about keys that contain this have arrived.
    pub(crate) fn count_with(&self, part: &str) -> usize {
        let arrived = self.shared.arrived.borrow();
        arrived.iter().filter(|((_, key), _)| key.contains(part)).map(|(_, count)| count).sum()
    }

    /// How many requests for `operation` about `key` have arrived.
    pub(crate) fn count_of(&self, operation: &str, key: &str) -> usize {
        let of = (operation.to_owned(), key.to_owned());
        self.shared.arrived.borrow().get(&of).copied().unwrap_or(0)
    }

    /// Who signed the requests so far, in order.
    pub(crate) fn signed(&self) -> Vec<Signed> {
        self.shared.signed.lock().unwrap().clone()
    }

    /// Waits until `n` requests for `operation` have arrived in all.
    pub(crate) async fn arrived(&self, operation: &str, n: usize) {
        let mut counts = self.shared.arrived.subscribe();
        let enough = counts.wait_for(|counts| sum(counts, operation) >= n);
        let reached = tokio::time::timeout(PATIENCE, enough).await.is_ok();
        assert!(reached, "request {n} for {operation} did not arrive");
    }

    /// [`Proxy::arrived`] for a test without a loop.
    pub(crate) fn wait_for(&self, operation: &str, n: usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(self.arrived(operation, n));
    }

    /// Lets go of what is held now.
    pub(crate) fn release(&self) {
        self.shared.released.send_modify(|n| *n += 1);
    }
}

/// Those for an operation, or for one key of it: `PutItem` or `PutItem b/k`.
fn sum(arrived: &Arrived, operation: &str) -> usize {
    let (operation, key) = match operation.split_once(' ') {
        Some((operation, key)) => (operation, Some(key)),
        None => (operation, None),
    };
    let wanted =
        |of: &str, about: &str| of == operation && key.is_none_or(|wanted| wanted == about);
    arrived.iter().filter(|((of, about), _)| wanted(of, about)).map(|(_, count)| count).sum()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A client that goes away is a fault like others.
            drop(exchange(connection, &shared).await);
        });
    }
}

async fn exchange(mut client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let Some(request) = Request::read(&mut client).await? else { return Ok(()) };
    let released = shared.released.subscribe();
    shared.signed.lock().unwrap().push(Signed {
        operation: request.operation.clone(),
        access_key: request.access_key().to_owned(),
        at: wall(),
    });
    let fault = {
        let mut rules = shared.rules.lock().unwrap();
        rules.iter_mut().find_map(|rule| rule.applies(&request).then(|| rule.fault.clone()))
    };
    let of = (request.operation.clone(), request.key.clone());
    shared.arrived.send_modify(|counts| *counts.entry(of).or_default() += 1);
    let upstream = || forward(&shared.upstream, &request);
    let mut fault = fault.unwrap_or(Fault::Pass);
    if let Fault::HoldThen(then) = fault {
        next(released.clone()).await;
        fault = *then;
    }
    match fault {
        // One hold is enough.
        Fault::HoldThen(_) => unreachable!("a hold after a hold"),
        Fault::Pass => client.write_all(&upstream().await?).await?,
        Fault::DropReply => {
            upstream().await?;
            return reset(&client);
        }
        Fault::HalfReply => {
            let reply = upstream().await?;
            client.write_all(&reply[..reply.len() - 2]).await?;
        }
        Fault::FailAfter => {
            upstream().await?;
            client.write_all(&request.error(500, "InternalServerError")).await?;
        }
        Fault::Refuse => return reset(&client),
        Fault::Hold => {
            next(released).await;
            client.write_all(&upstream().await?).await?;
        }
        Fault::HoldReply => {
            let reply = upstream().await?;
            next(released).await;
            client.write_all(&reply).await?;
        }
        Fault::Delay(time) => {
            tokio::time::sleep(time).await;
            client.write_all(&upstream().await?).await?;
        }
        Fault::Slow(time) => {
            let mut more = [0];
            tokio::select! {
                () = tokio::time::sleep(time) => client.write_all(&upstream().await?).await?,
                _gone = client.read(&mut more) => return Ok(()),
            }
        }
        Fault::Page(page) => client.write_all(page.as_bytes()).await?,
        Fault::EmptyReply => {
            upstream().await?;
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            client.write_all(head.as_bytes()).await?;
        }
        Fault::Status(status, code) => client.write_all(&request.error(status, code)).await?,
        Fault::Clock(ahead) => {
            let now = wall() + ahead;
            let off = request.signed_at().duration_since(now).abs();
            let reply = if off > SignedDuration::from_mins(5) {
                request.error(400, "InvalidSignatureException")
            } else {
                upstream().await?
            };
            let date = now.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n").to_string();
            client.write_all(&headed(&reply, &date)).await?;
        }
        Fault::Headed(headers) => client.write_all(&headed(&upstream().await?, &headers)).await?,
    }
    client.shutdown().await
}

/// The reply with these headers before its own.
fn headed(reply: &[u8], headers: &str) -> Vec<u8> {
    let start = reply.iter().position(|byte| *byte == b'\n').expect("a head") + 1;
    [&reply[..start], headers.as_bytes(), &reply[start..]].concat()
}

async fn next(mut released: watch::Receiver<usize>) {
    // An error means that the test is over.
    drop(released.changed().await);
}

/// Makes the drop of `client` a reset.
fn reset(client: &TcpStream) -> std::io::Result<()> {
    client.set_zero_linger()
}

/// What the server at `upstream` answers.
pub(crate) async fn forward(upstream: &str, request: &Request) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(request.head.as_bytes()).await?;
    server.write_all(&request.body).await?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply).await?;
    Ok(reply)
}

/// A request as it came, but for its `connection` header.
pub(crate) struct Request {
    head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) operation: String,
    pub(crate) key: String,
    /// Of S3, which speaks XML.
    is_s3: bool,
}

impl Request {
    fn access_key(&self) -> &str {
        let signature = self.head.split_once("Credential=").map_or("", |(_, rest)| rest);
        signature.split_once('/').map_or("", |(key, _)| key)
    }

    fn signed_at(&self) -> Timestamp {
        let head = self.head.to_ascii_lowercase();
        let (_, rest) = head.split_once("x-amz-date: ").expect("a signed request");
        let at = DateTime::strptime("%Y%m%dt%H%M%Sz", rest.lines().next().unwrap()).unwrap();
        at.to_zoned(TimeZone::UTC).unwrap().timestamp()
    }

    fn is_of_an_ended_session(&self) -> bool {
        session_end(self.access_key()).is_some_and(|end| end <= wall())
    }

    /// A refusal, as the server would word it.
    fn error(&self, status: u16, code: &str) -> Vec<u8> {
        let message = "said by the proxy";
        let (kind, body) = if self.is_s3 {
            let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
            ("application/xml", body)
        } else {
            let name = format!("com.amazonaws.dynamodb.v20120810#{code}");
            let body = format!(r#"{{"__type":"{name}","message":"{message}"}}"#);
            ("application/x-amz-json-1.0", body)
        };
        format!(
            "HTTP/1.1 {status} Fault\r\ncontent-type: {kind}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// `None`: the client closed the connection without one.
    pub(crate) async fn read(client: &mut TcpStream) -> std::io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        };
        let mut body = bytes.split_off(end + 4);
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let (first, fields) = text.split_once("\r\n").unwrap_or((&text, ""));
        let mut head = format!("{first}\r\n");
        let (mut length, mut target) = (0, None);
        for line in fields.split("\r\n") {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            match name.to_ascii_lowercase().as_str() {
                "connection" => continue,
                "content-length" => length = value.trim().parse().unwrap(),
                "x-amz-target" => target = Some(value.trim()),
                _ => {}
            }
            head.push_str(line);
            head.push_str("\r\n");
        }
        head.push_str("connection: close\r\n\r\n");
        while body.len() < length {
            if client.read_buf(&mut body).await? == 0 {
                return Ok(None);
            }
        }
        let is_s3 = target.is_none();
        let (operation, key) = if let Some(target) = target {
            let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
            (operation, lock_id(&body).unwrap_or_default())
        } else {
            let mut words = first.split(' ');
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (method, path) = (word(), word());
            if path.contains("list-type=2") {
                ("ListObjectsV2".to_owned(), path)
            } else {
                // The name of the operation again, which the SDKs add.
                let path = path.split_once("?x-id=").map_or(path.as_str(), |(path, _)| path);
                (method, path.to_owned())
            }
        };
        Ok(Some(Self { head, body, operation, key, is_s3 }))
    }
}

/// When a session ends whose key says so: `ASIA` and the time, in seconds.
pub(crate) fn session_end(access_key: &str) -> Option<Timestamp> {
    let seconds = access_key.strip_prefix("ASIA")?.parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

fn lock_id(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let at = |part: &str| body.pointer(&format!("/{part}/LockID/S"))?.as_str().map(str::to_owned);
    at("Key").or_else(|| at("Item"))
}
