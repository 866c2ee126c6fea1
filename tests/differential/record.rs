//! A server that hands on and keeps what it handed on, in order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::proxy::{Request, forward};
use crate::support::servers::serve;

/// A request and its answer, each with its place in the order of all.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) operation: String,
    pub(crate) key: String,
    pub(crate) done: bool,
    /// Before it was handed on; after the answer had come.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

static CLOCK: AtomicU64 = AtomicU64::new(0);

fn tick() -> u64 {
    CLOCK.fetch_add(1, Ordering::SeqCst)
}

/// One request per connection.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) url: String,
    kept: Arc<Mutex<Vec<Exchange>>>,
}

impl Recorder {
    /// Starts one before the server at `upstream`, a URL.
    pub(crate) fn before(upstream: &str) -> Self {
        let upstream: Arc<str> = upstream.trim_start_matches("http://").into();
        let kept = Arc::<Mutex<Vec<Exchange>>>::default();
        let address = serve({
            let kept = Arc::clone(&kept);
            |listener| async move {
                loop {
                    let (client, _) = listener.accept().await.expect("a connection");
                    let (upstream, kept) = (Arc::clone(&upstream), Arc::clone(&kept));
                    // A client that goes away in the middle is no failure of ours.
                    tokio::spawn(async move { drop(hand_on(client, &upstream, &kept).await) });
                }
            }
        });
        Self { url: format!("http://{address}"), kept }
    }

    /// What was handed on since the last time.
    pub(crate) fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.kept.lock().expect("not poisoned"))
    }
}

async fn hand_on(
    mut client: TcpStream,
    upstream: &str,
    kept: &Mutex<Vec<Exchange>>,
) -> std::io::Result<()> {
    let Some(request) = Request::read(&mut client).await? else { return Ok(()) };
    let from = tick();
    let reply = forward(upstream, &request).await?;
    let status = reply.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let Request { operation, key, .. } = request;
    let done = status.starts_with(b"2");
    // Kept before the client can know: whatever follows from the answer comes later.
    kept.lock().expect("not poisoned").push(Exchange { operation, key, done, from, to: tick() });
    client.write_all(&reply).await?;
    client.shutdown().await
}

/// The writes that do not lie between the taking of their own lock and its giving back, by what
/// they do to what. The locks are of this bucket.
pub(crate) fn unlocked(bucket: &str, all: &[Exchange]) -> Vec<String> {
    let mut found = Vec::new();
    for write in all.iter().filter(|one| one.done) {
        let Some(lock) = lock_of(bucket, write) else { continue };
        let file = format!("{lock}.tflock");
        let about = |one: &&Exchange| {
            one.done && (one.key == lock || object_of(one).is_some_and(|object| object == file))
        };
        let locks = || all.iter().filter(about);
        let is = |one: &Exchange, operations: [&str; 2]| operations.contains(&&*one.operation);
        let taken = locks()
            .filter(|one| is(one, ["PutItem", "PUT"]) && one.to < write.from)
            .map(|one| one.to)
            .max();
        // From a request to give back on, whether it was answered yet or not, it may be free.
        let given_back = |taken: u64| {
            let mut ends = locks().filter(|one| is(one, ["DeleteItem", "DELETE"]));
            ends.any(|one| one.to > taken && one.from < write.to)
        };
        if taken.is_none_or(given_back) {
            found.push(format!("{} {}", write.operation, write.key));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Whose lock must be held for this, if it is a write of a state or of its digest.
fn lock_of(bucket: &str, write: &Exchange) -> Option<String> {
    match write.operation.as_str() {
        "PutItem" | "DeleteItem" => write.key.strip_suffix("-md5").map(str::to_owned),
        // A lock file, and what is beside one, is no state.
        _ => object_of(write).filter(|path| path.starts_with(bucket) && !path.ends_with(".tflock")),
    }
}

/// The bucket and the key of what is written or removed in S3.
fn object_of(write: &Exchange) -> Option<String> {
    if !matches!(write.operation.as_str(), "PUT" | "DELETE") {
        return None;
    }
    let path = write.key.split('?').next().unwrap_or_default();
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
    path.strip_prefix('/').map(str::to_owned)
}
