//! The lock of a case, looked at from outside all the time.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tfwrap::clock::uptime;

use crate::step::within;
use crate::support::procs::{DEEPEST, Process};
use crate::support::rounds::variable;
use crate::support::s3_server::aws_like;
use crate::support::servers::{BUCKET, REGION, dynamodb};

/// The table of all cases.
pub(crate) const TABLE: &str = "cancel";
const LOOK: Duration = Duration::from_millis(20);

/// Creates the table, the first time.
pub(crate) fn make_table() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| block_on(dynamodb().create_lock_table(TABLE)));
}

/// In a loop of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Which locks a backend has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An item of the table.
    Item,
    /// A lock file.
    File,
    Both,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Item, Kind::File, Kind::Both];

impl Kind {
    /// The one that `TFWRAP_CANCEL_LOCK` asks for, else one of all by turns.
    pub(crate) fn of_case(number: usize) -> Self {
        match variable("TFWRAP_CANCEL_LOCK").as_deref() {
            None => KINDS[number % KINDS.len()],
            Some("item") => Self::Item,
            Some("file") => Self::File,
            Some("both") => Self::Both,
            Some(other) => panic!("TFWRAP_CANCEL_LOCK is item, file or both, not {other}"),
        }
    }
}

/// The lock of a state, or the one that a URL names.
#[derive(Debug, Clone)]
pub(crate) struct Lock {
    kind: Kind,
    /// Of the item.
    key: String,
}

impl Lock {
    pub(crate) fn of(kind: Kind, key: String) -> Self {
        Self { kind, key }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    fn state_key(&self) -> &str {
        let (_, key) = self.key.split_once('/').expect("a bucket");
        key
    }

    /// The item's name, where that is all there is.
    pub(crate) fn url(&self) -> Option<String> {
        let endpoint = &dynamodb().url;
        let url = format!("dynamodb://{TABLE}/{}?region={REGION}&endpoint={endpoint}", self.key);
        (self.kind == Kind::Item).then_some(url)
    }

    /// What `terraform init` leaves of a backend with the lock file, from which it is read else.
    pub(crate) fn record_backend(&self, dir: &Path) {
        let table = (self.kind == Kind::Both).then_some(TABLE);
        let config = serde_json::json!({
            "bucket": BUCKET, "key": self.state_key(), "region": REGION,
            "use_lockfile": true, "dynamodb_table": table, "use_path_style": true,
            "skip_credentials_validation": true, "skip_requesting_account_id": true,
            "skip_metadata_api_check": "true", "skip_region_validation": true,
            "endpoints": { "s3": aws_like().url, "dynamodb": dynamodb().url },
        });
        let backend = serde_json::json!({ "type": "s3", "config": config, "hash": 1 });
        let record = serde_json::json!({ "version": 3, "backend": backend });
        std::fs::create_dir(dir.join(".terraform")).expect("a directory");
        let file = dir.join(".terraform/terraform.tfstate");
        std::fs::write(file, record.to_string()).expect("a file");
    }

    pub(crate) fn is_held(&self) -> bool {
        block_on(self.is_held_in(&dynamodb().client()))
    }

    async fn is_held_in(&self, client: &aws_sdk_dynamodb::Client) -> bool {
        let file = || aws_like().get(&format!("{}.tflock", self.state_key()));
        if self.kind != Kind::Item && file().is_some() {
            return true;
        }
        let key = AttributeValue::S(self.key.clone());
        let request = client.get_item().table_name(TABLE).key("LockID", key).consistent_read(true);
        request.send().await.expect("the table can be read").item.is_some()
    }
}

/// Looks at a lock all the time, from just before the first signal on.
pub(crate) struct Watch {
    /// The processes of the child itself.
    pub(crate) child: Vec<Process>,
    enough: Arc<AtomicBool>,
    thread: JoinHandle<Option<Freed>>,
}

/// A lock that came free.
#[derive(Debug, Clone)]
pub(crate) struct Freed {
    /// How long after the first signal.
    pub(crate) after: Duration,
    /// What of the child lived then.
    pub(crate) under: Vec<String>,
    /// Whether the tfwrap above the child lived at the look before: then it was that which gave it back.
    pub(crate) by_tfwrap: bool,
}

impl Watch {
    pub(crate) fn start(lock: Lock, child: Vec<Process>) -> Self {
        let since = uptime();
        let enough = Arc::<AtomicBool>::default();
        let (theirs, watched) = (enough.clone(), child.clone());
        // A `run` holds the lock for the tfwrap below it.
        let above = std::iter::successors(child.first().cloned(), Process::parent).take(DEEPEST);
        let wrapper = above.filter(|process| process.program().ends_with("/tfwrap")).last();
        let watching = async move {
            let client = dynamodb().client();
            // As of the look before.
            let mut by_tfwrap = true;
            loop {
                if !lock.is_held_in(&client).await {
                    let after = uptime().since(since);
                    let alive = watched.iter().filter(|process| process.is_alive());
                    let under = alive.map(Process::describe).collect();
                    return Some(Freed { after, under, by_tfwrap });
                }
                if theirs.load(Ordering::SeqCst) {
                    return None;
                }
                by_tfwrap = wrapper.as_ref().is_some_and(Process::is_alive);
                tokio::time::sleep(LOOK).await;
            }
        };
        Self { child, enough, thread: std::thread::spawn(move || block_on(watching)) }
    }

    /// Whether it has come free.
    pub(crate) fn is_free(&self) -> bool {
        self.thread.is_finished()
    }

    /// When it came free, if it does in time.
    pub(crate) fn freed_within(self, limit: Duration) -> Option<Freed> {
        within(limit, || self.thread.is_finished());
        self.enough.store(true, Ordering::SeqCst);
        self.thread.join().expect("the lock can be watched")
    }
}
