//! Both locks of the S3 backend at once, the lock file and the item in DynamoDB: taken and given back as
//! Terraform does it, under one ID; beside stock Terraform in each of the three modes; and halves of it
//! that are left.

mod crash;
mod fleet;
mod halves;
mod migration;
mod told;

use std::process::Command;

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tfwrap::lock::LockInfo;

use crate::aftermath::{EndsHolds, STATE_DIR};
use crate::support::harness::{Finished, Gate, Running, applying, eventually, run, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::s3_server::{Bucket, Manners, aws_like, backend_dir, start};
use crate::support::servers::{BUCKET, dynamodb, terraform};

/// Which of the two locks a backend has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Item,
    File,
    Both,
}

const MODES: [Mode; 3] = [Mode::Item, Mode::File, Mode::Both];

impl Mode {
    /// Whether two clients meet at one lock.
    fn meets(self, other: Self) -> bool {
        self == other || self == Self::Both || other == Self::Both
    }
}

/// One state, and its two locks behind proxies.
pub(crate) struct Stage {
    server: Bucket,
    key: String,
    table: String,
    pub(crate) s3: Proxy,
    pub(crate) items: Proxy,
    pub(crate) dir: TempDir,
}

impl Stage {
    async fn new(name: &str) -> Self {
        Self::at(aws_like().clone(), name).await
    }

    async fn at(server: Bucket, name: &str) -> Self {
        let (key, table) = (format!("pair/{name}/terraform.tfstate"), format!("pair-{name}"));
        dynamodb().create_lock_table(&table).await;
        let (s3, items) = (Proxy::before(&server.url), Proxy::before(&dynamodb().url));
        let dir = tempfile::tempdir().unwrap();
        let mut stage = Self { server, key, table, s3, items, dir };
        stage.dir = stage.dir_of(Mode::Both);
        stage
    }

    pub(crate) async fn initialised(name: &str) -> Self {
        let stage = Self::new(name).await;
        init(&stage.dir);
        stage
    }

    /// A directory whose backend has these locks of the state.
    fn dir_of(&self, mode: Mode) -> TempDir {
        let dir = backend_dir(self.s3.url(), &self.key, "");
        let file = dir.path().join("backend.tf");
        let text = std::fs::read_to_string(&file).unwrap();
        let s3 = format!("s3 = \"{}\"", self.s3.url());
        let table = format!("dynamodb_table = \"{}\"", self.table);
        let lock_file = "use_lockfile                = true";
        assert!(text.contains(&s3) && text.contains(lock_file), "{text}");
        let text = text.replace(&s3, &format!("{s3}, dynamodb = \"{}\"", self.items.url()));
        let text = match mode {
            Mode::File => text,
            Mode::Item => text.replace(lock_file, &table),
            Mode::Both => text.replace(lock_file, &format!("{lock_file}\n    {table}")),
        };
        std::fs::write(file, text).unwrap();
        dir
    }

    /// Of the lock file.
    fn file(&self) -> String {
        format!("{}.tflock", self.key)
    }

    /// The same, as a request has it.
    fn path(&self) -> String {
        format!("/{BUCKET}/{}", self.file())
    }

    /// Of the item.
    fn lock_id(&self) -> String {
        format!("{BUCKET}/{}", self.key)
    }

    fn in_file(&self) -> Option<LockInfo> {
        Some(LockInfo::parse(&self.server.text(&self.file())?).expect("a lock info"))
    }

    async fn in_item(&self) -> Option<LockInfo> {
        let item = dynamodb().get_raw(&self.table, &self.lock_id()).await?;
        Some(LockInfo::parse(item["Info"].as_s().expect("a string")).expect("a lock info"))
    }

    async fn remove_item(&self) {
        let key = AttributeValue::S(self.lock_id());
        let client = dynamodb().client();
        client.delete_item().table_name(&self.table).key("LockID", key).send().await.unwrap();
    }

    /// A lock of stock Terraform's, written by hand.
    async fn put_item(&self, id: &str) {
        let info = LockInfo::parse(&format!(r#"{{"ID":"{id}","Who":"them@there"}}"#)).unwrap();
        let info = LockInfo { created: "2026-01-02T03:04:05Z".to_owned(), ..info };
        self.put_raw(&info.to_json(), None).await;
    }

    async fn put_raw(&self, info: &str, lease: Option<&str>) {
        let item = [("LockID", Some(self.lock_id())), ("Info", Some(info.to_owned()))];
        let item = item.into_iter().chain([("Tfwrap", lease.map(str::to_owned))]);
        let item =
            item.filter_map(|(name, value)| Some((name.to_owned(), AttributeValue::S(value?))));
        dynamodb().put_raw(&self.table, item.collect()).await;
    }

    async fn expect_free(&self) {
        assert!(self.in_file().is_none(), "the lock file is there");
        assert!(self.in_item().await.is_none(), "the item is there");
    }

    /// `tfwrap run` that says when it has the lock, and then does this.
    fn around(&self, options: &[&str], script: &str) -> Command {
        let mut command = tfwrap(self.dir.path());
        let script = format!("touch ready; {script}");
        command.args(options).args(["run", "--", "sh", "-c", &script]);
        command
    }

    fn is_ready(&self) -> bool {
        self.dir.path().join("ready").exists()
    }

    /// Starts it, and waits until it has the lock.
    fn held(&self, options: &[&str], script: &str) -> Running {
        let running = Running::start(&mut self.around(options, script));
        eventually("it has the lock", || {
            assert!(!running.is_over(), "{}", running.stderr());
            self.is_ready()
        });
        running
    }
}

fn init(dir: &TempDir) {
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
}

fn stock(dir: &TempDir, args: &[&str]) -> Finished {
    run(terraform(dir.path()).args(args).arg("-no-color"))
}

/// Terraform takes the lock file first and gives it back first, and so do we; both bear one ID, and one
/// text.
#[tokio::test(flavor = "multi_thread")]
async fn both_are_taken_and_given_back_in_terraforms_order_under_one_id() {
    let stage = Stage::initialised("order").await;
    for command in [terraform, tfwrap] {
        let held = |operation| Rule::on(operation, Fault::Hold).key(&stage.lock_id()).times(1);
        stage.items.plan([held("PutItem"), held("DeleteItem")]);
        let of_item = |operation| stage.items.count_of(operation, &stage.lock_id());
        let before = [of_item("PutItem"), of_item("DeleteItem")];
        let running = Running::start(command(stage.dir.path()).args(["plan", "-no-color"]));
        eventually("the item is asked for", || of_item("PutItem") > before[0]);
        let first = stage.in_file().expect("the lock file comes first");
        assert!(stage.in_item().await.is_none());
        stage.items.release();
        eventually("the item is given back", || of_item("DeleteItem") > before[1]);
        assert!(stage.in_file().is_none(), "the lock file goes first");
        assert_eq!(stage.in_item().await, Some(first));
        stage.items.release();
        running.finish().expect_code(0);
        stage.expect_free().await;
    }
    // A workspace that is not there yet: Terraform makes it, under both of its locks.
    run(tfwrap(stage.dir.path()).args(["plan", "-no-color"]).env("TF_WORKSPACE", "dev"))
        .expect_code(0);
    let made = stage.server.versions(&format!("env:/dev/{}", stage.file()));
    assert_eq!(made, 4, "Terraform's and ours, each with its end");
}

/// Some have the item, some the lock file, some both: whoever shares a lock is excluded, both ways. Those
/// that share none are the negative control.
#[tokio::test(flavor = "multi_thread")]
async fn beside_stock_terraform_in_each_mode_whoever_shares_a_lock_is_excluded() {
    let stage = Stage::new("mixed").await;
    let dirs = MODES.map(|mode| stage.dir_of(mode));
    dirs.iter().for_each(init);
    for (holder, dir) in MODES.into_iter().zip(&dirs) {
        let gate = Gate::new(dir.path(), "ours");
        let ours =
            Running::start(tfwrap(dir.path()).args(["run", "--", "sh", "-c", &gate.command()]));
        gate.reached();
        let id =
            [stage.in_file(), stage.in_item().await].into_iter().flatten().next().unwrap().id.0;
        for (client, dir) in MODES.into_iter().zip(&dirs) {
            let done = stock(dir, &["plan"]);
            let refused = done.status.code() == Some(1) && done.stderr.contains(&id);
            assert_eq!(refused, holder.meets(client), "{holder:?} {client:?}: {}", done.stderr);
        }
        gate.open();
        ours.finish().expect_code(0);
        stage.expect_free().await;
        // Killed, it leaves its lock.
        let gate = Gate::new(dir.path(), "theirs");
        let theirs = Running::start(&mut applying(terraform(dir.path()), &gate.command()));
        gate.reached();
        theirs.signal(Signal::SIGKILL);
        theirs.finish();
        gate.open();
        for (client, dir) in MODES.into_iter().zip(&dirs) {
            let done = run(tfwrap(dir.path()).args(["--lock-timeout=0s", "plan", "-no-color"]));
            let refused = done.status.code() == Some(75);
            assert_eq!(refused, holder.meets(client), "{holder:?} {client:?}: {}", done.stderr);
        }
        let found = [stage.in_file(), stage.in_item().await].into_iter().flatten();
        let mut ids: Vec<_> = found.map(|info| info.id.0).collect();
        assert_eq!(ids.len(), if holder == Mode::Both { 2 } else { 1 });
        ids.dedup();
        assert_eq!(ids.len(), 1, "one ID");
        let unlocked = run(tfwrap(dir.path()).args(["unlock", &ids[0], "--yes"])).expect_code(0);
        assert!(unlocked.stdout.contains("removed the lock"), "{}", unlocked.stdout);
        stage.expect_free().await;
    }
}

/// Beside stock Terraform, the control. The queue is read once.
#[tokio::test(flavor = "multi_thread")]
async fn a_free_lock_costs_a_write_and_a_remove_of_each_register_in_each_mode() {
    let stage = Stage::new("cost").await;
    for mode in MODES {
        let dir = stage.dir_of(mode);
        init(&dir);
        let (path, id) = (stage.path(), stage.lock_id());
        let counts = || {
            let of_file = ["PUT", "DELETE", "GET"].map(|what| stage.s3.count_of(what, &path));
            let items = ["PutItem", "DeleteItem", "GetItem"];
            [of_file, items.map(|what| stage.items.count_of(what, &id))]
        };
        let spent = |command: &mut Command| {
            let before = counts();
            run(command.args(["plan", "-no-color"])).expect_code(0);
            let after = counts();
            [0, 1].map(|at| [0, 1, 2].map(|what| after[at][what] - before[at][what]))
        };
        let (file, item) = match mode {
            Mode::Item => ([0, 0, 0], [1, 1, 0]),
            Mode::File => ([1, 1, 0], [0, 0, 0]),
            // The item is looked at before the lock file is made.
            Mode::Both => ([1, 1, 0], [1, 1, 1]),
        };
        let lines = || stage.s3.count_with(".tfwrap/line") + stage.items.count_with(".tfwrap/line");
        let before = lines();
        assert_eq!(
            spent(&mut tfwrap(dir.path())),
            [file, item],
            "{mode:?}: writes, removes, reads"
        );
        assert_eq!(lines() - before, 1, "{mode:?}");
        let stocks = spent(&mut terraform(dir.path()));
        let changes = |of: [[usize; 3]; 2]| of.map(|[writes, removes, _]| [writes, removes]);
        assert_eq!(changes(stocks), changes([file, item]), "{mode:?}");
        assert!(stocks.iter().any(|[.., reads]| *reads > 0), "{mode:?}: it reads what it removes");
    }
}

/// A waiter makes no lock file at its looks; Terraform, the control, makes one at each.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_the_item_does_not_make_the_lock_file() {
    let stage = Stage::initialised("looks").await;
    stage.put_item("11111111-2222-3333-4444-555555555555").await;
    let made = || stage.s3.count_of("PUT", &stage.path());
    let ours = run(&mut stage.around(&["--lock-timeout=3s"], "true")).expect_code(75);
    assert_eq!((made(), stage.is_ready()), (0, false), "{}", ours.stderr);
    assert!(ours.stderr.contains("dynamodb://"), "{}", ours.stderr);
    stock(&stage.dir, &["plan", "-lock-timeout=2s"]).expect_code(1);
    assert!(made() > 1, "the control");
    stage.remove_item().await;
    stage.expect_free().await;
}

/// `status` shows both, `hold` has both, what runs below goes on under both, `release` gives both back.
#[tokio::test(flavor = "multi_thread")]
async fn status_hold_and_release_know_both() {
    let stage = Stage::initialised("hold").await;
    let status = || {
        let done =
            run(tfwrap(stage.dir.path()).args(["status", "--format", "json"])).expect_code(0);
        let status: Value = serde_json::from_str(&done.stdout).unwrap();
        ["lock", "state"].map(|name| [0, 1].map(|n| status["locks"][n][name].clone()))
    };
    let names = [
        format!("s3://{BUCKET}/{}", stage.file()),
        format!("dynamodb://{}/{}", stage.table, stage.lock_id()),
    ];
    let [names_shown, shown] = status();
    assert_eq!(
        (names_shown, shown),
        (names.clone().map(Value::from), ["free", "free"].map(Value::from))
    );
    let _ends = EndsHolds(stage.dir.path().join(STATE_DIR));
    let held = run(tfwrap(stage.dir.path()).args(["--lease", "10m", "hold", "--format", "json"]));
    let held: Value = serde_json::from_str(&held.expect_code(0).stdout).unwrap();
    let env = held["env"].as_object().unwrap();
    let below = || {
        let mut below = tfwrap(stage.dir.path());
        below.envs(env.iter().map(|(name, value)| (name, value.as_str().unwrap())));
        below
    };
    let [_, shown] = status();
    assert_eq!(shown, ["held", "held"].map(Value::from));
    let id = stage.in_file().expect("held").id;
    assert_eq!(stage.in_item().await.expect("held").id, id);
    let told = env["TFWRAP_HELD"].as_str().unwrap();
    assert_eq!(told.matches(&id.0).count(), 2, "{told}");
    let done = run(&mut applying(below(), "true")).expect_code(0);
    assert!(!done.stderr.contains("waiting"), "{}", done.stderr);
    assert_eq!(stage.in_file().expect("held still").id, id);
    // It keeps both halves, too.
    let mut inner = below();
    inner.args(["run", "--", "sh", "-c"]);
    inner.arg(format!("cat {STATE_DIR}/run-*.json"));
    let receipts = run(&mut inner).expect_code(0).stdout.replace(' ', "");
    assert_eq!(receipts.matches(r#""inherited":true"#).count(), 2, "{receipts}");
    run(below().arg("release")).expect_code(0);
    stage.expect_free().await;
}

/// The release of both is tried, and each that fails is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_that_cannot_be_given_back_is_named_and_the_other_goes() {
    let stage = Stage::at(start(Manners::NoDeletes), "stuck").await;
    let mut command = stage.around(&[], "true");
    let done = run(command.env("TFWRAP_RELEASE_PATIENCE", "1s")).expect_code(74);
    assert!(
        done.stderr.contains(&format!("`s3://{BUCKET}/{}` could not", stage.file())),
        "{}",
        done.stderr
    );
    assert!(!done.stderr.contains("`dynamodb://"), "{}", done.stderr);
    assert!(stage.in_file().is_some() && stage.in_item().await.is_none());
    let other = Stage::new("stuck-item").await;
    other.items.plan([Rule::on("DeleteItem", Fault::DENIED).key(&other.lock_id())]);
    let mut command = other.around(&[], "true");
    let done = run(command.env("TFWRAP_RELEASE_PATIENCE", "1s")).expect_code(74);
    assert!(
        done.stderr.contains("`dynamodb://") && !done.stderr.contains("`s3://"),
        "{}",
        done.stderr
    );
    assert!(other.in_file().is_none() && other.in_item().await.is_some());
}
