//! What a killed run leaves: receipts and guardians to be looked at, locks to be found free or not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tfwrap::clock::uptime;
use tfwrap::lock::LockInfo;
use tfwrap::lock::lease::{Lease, LeaseTerm};

use crate::support::harness;
use crate::support::servers::{REGION, dynamodb};
use crate::wrapped::{Scene, born, is_gone, wait_until};

/// Where the scenes keep their receipts.
pub(crate) const STATE_DIR: &str = ".tfwrap-state";

/// The shortest lease there is.
pub(crate) const TTL: Duration = Duration::from_secs(15);

/// A lock in a table of its own.
#[derive(Debug)]
pub(crate) struct Lock {
    table: String,
    pub(crate) key: String,
}

impl Lock {
    pub(crate) async fn new(name: &str) -> Self {
        let table = format!("after-{name}");
        dynamodb().create_lock_table(&table).await;
        Self { table, key: "state".to_owned() }
    }

    /// Where it is, with the server at `endpoint`.
    pub(crate) fn url_at(&self, endpoint: &str) -> String {
        format!("dynamodb://{}/{}?region={REGION}&endpoint={endpoint}", self.table, self.key)
    }

    /// A child under this lock.
    pub(crate) fn scene(&self, script: &str) -> Scene {
        self.scene_at(&dynamodb().url, script)
    }

    pub(crate) fn scene_at(&self, endpoint: &str, script: &str) -> Scene {
        // By the environment, so that commands below find it, too.
        Scene::unguarded(script)
            .env("TFWRAP_LOCK", &self.url_at(endpoint))
            .env("TFWRAP_NO_BACKEND_LOCK", "true")
    }

    /// The ID under which it is held, if it is.
    pub(crate) async fn id(&self) -> Option<String> {
        let item = dynamodb().get_raw(&self.table, &self.key).await?;
        let info = item["Info"].as_s().expect("a string");
        Some(LockInfo::parse(info).expect("lock info").id.0)
    }

    /// What its holder declares.
    pub(crate) async fn lease(&self) -> Option<Lease> {
        let item = dynamodb().get_raw(&self.table, &self.key).await?;
        Lease::parse(item["Tfwrap"].as_s().expect("a string"))
    }

    pub(crate) async fn is_held(&self) -> bool {
        self.id().await.is_some()
    }

    /// Waits until it is free.
    pub(crate) async fn freed(&self) {
        for _ in 0..1500 {
            if !self.is_held().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the lock stays");
    }

    /// Waits until it is free, and holds that it was not before this process had gone.
    pub(crate) async fn freed_after(&self, child: Pid) {
        let began = born(child);
        while !is_gone(child) && born(child) == began {
            let held = self.is_held().await;
            assert!(held || is_gone(child), "the lock was free under a child");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.freed().await;
    }

    /// Writes a record as a holder with this ID would.
    pub(crate) async fn hold_as(&self, id: &str, beat: u64) {
        self.hold_for(id, beat, LeaseTerm::After(TTL)).await;
    }

    /// The same, with this lease.
    pub(crate) async fn hold_for(&self, id: &str, beat: u64, term: LeaseTerm) {
        let info =
            format!(r#"{{"ID":"{id}","Operation":"apply","Info":"","Who":"","Version":""}}"#);
        let lease = Lease { term, beat }.to_text();
        let item = [("LockID", self.key.clone()), ("Info", info), ("Tfwrap", lease)];
        let item = item.map(|(name, text)| (name.to_owned(), AttributeValue::S(text)));
        dynamodb().put_raw(&self.table, item.into()).await;
    }

    /// As somebody does by hand.
    pub(crate) async fn remove(&self) {
        let key = AttributeValue::S(self.key.clone());
        let request = dynamodb().client().delete_item().table_name(&self.table);
        request.key("LockID", key).send().await.expect("it is removed");
    }
}

/// A receipt as it lies on the disk.
#[derive(Debug, Clone)]
pub(crate) struct Receipt {
    pub(crate) path: PathBuf,
    pub(crate) text: Value,
}

impl Receipt {
    /// All in this directory.
    pub(crate) fn all(dir: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let is_receipt = |path: &PathBuf| path.extension().is_some_and(|it| it == "json");
        let read = |path: PathBuf| {
            let text = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            Some(Self { path, text })
        };
        paths.filter(is_receipt).filter_map(read).collect()
    }

    /// The one of a scene's run, once its child is in it.
    #[track_caller]
    pub(crate) fn of(scene: &Scene) -> Self {
        wait_until("a receipt with a child", || {
            let all = Self::all(&scene.path(STATE_DIR));
            assert!(all.len() < 2, "{all:?}");
            all.into_iter().find(|it| !it.text["child"].is_null())
        })
    }

    /// Its guardian.
    pub(crate) fn guardian(&self) -> Option<Pid> {
        pid(&self.text["guardian"])
    }

    /// Its child.
    pub(crate) fn child(&self) -> Option<Pid> {
        pid(&self.text["child"]["leader"])
    }

    /// Who holds the locks.
    pub(crate) fn runner(&self) -> Pid {
        pid(&self.text["runner"]).expect("a process")
    }

    /// Whether a `hold` has left it.
    pub(crate) fn is_hold(&self) -> bool {
        self.text["is_hold"] == Value::Bool(true)
    }

    /// How many locks it may give back.
    pub(crate) fn locks(&self) -> usize {
        self.text["locks"].as_array().map_or(0, Vec::len)
    }

    /// Writes it anew, as this program would.
    pub(crate) fn write(&self) {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&self.path);
        file.and_then(|mut file| file.write_all(self.text.to_string().as_bytes()))
            .expect("the receipt is written");
    }
}

fn pid(process: &Value) -> Option<Pid> {
    process["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
}

/// Kills one process, which must be there.
#[track_caller]
pub(crate) fn kill_dead(pid: Pid) {
    kill(pid, Signal::SIGKILL).expect("the process is there");
    wait_until("its end", || is_gone(pid).then_some(()));
}

/// `tfwrap WORDS` in the directory of a scene.
pub(crate) fn ours(scene: &Scene, words: &[&str]) -> Command {
    let mut command = harness::tfwrap(&scene.path("."));
    command.args(words).env("TFWRAP_STATE_DIR", scene.path(STATE_DIR));
    command
}

/// Ends what holds have left, when a test is over or has failed: keepers and guardians, each by
/// number and birth.
pub(crate) struct EndsHolds(pub(crate) PathBuf);

impl Drop for EndsHolds {
    fn drop(&mut self) {
        for receipt in Receipt::all(&self.0).into_iter().filter(Receipt::is_hold) {
            for process in ["guardian", "runner"] {
                let process = &receipt.text[process];
                let Some(pid) = pid(process) else { continue };
                if born(pid) == process["born"].as_u64().map(|born| born.to_string()) {
                    let _gone_meanwhile = kill(pid, Signal::SIGKILL);
                }
            }
        }
    }
}

/// As receipts have it.
pub(crate) fn uptime_ms() -> u64 {
    u64::try_from(uptime().0.as_millis()).expect("not that long")
}
