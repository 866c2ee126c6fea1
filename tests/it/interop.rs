//! tfwrap and stock Terraform, beside each other and over one state: both ways, on the DynamoDB
//! lock, on the lock file in S3 and on the local backend's.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::harness::{Finished, Gate, Running, S3Dir, applying, run, s3_dir, tfwrap};
use crate::support::proxy::Proxy;
use crate::support::s3_server;
use crate::support::servers::{BUCKET, dynamodb, local_backend_dir, s3_backend_dir_at, terraform};

/// A directory for Terraform, initialised.
enum Stage {
    Local(TempDir),
    Dynamo(S3Dir),
    LockFile(TempDir),
}

impl Stage {
    fn local() -> Self {
        Self::Local(local_backend_dir())
    }

    async fn dynamodb(name: &str) -> Self {
        Self::Dynamo(s3_dir(&format!("interop/{name}")).await)
    }

    fn lock_file(name: &str) -> Self {
        let key = format!("interop/{name}/terraform.tfstate");
        let stage = Self::LockFile(s3_server::backend_dir(&s3_server::aws_like().url, &key, ""));
        stage.stock(&["init"]).expect_code(0);
        stage
    }

    fn path(&self) -> &Path {
        match self {
            Self::Local(dir) | Self::LockFile(dir) => dir.path(),
            Self::Dynamo(dir) => dir.path(),
        }
    }

    fn remote(&self) -> &S3Dir {
        match self {
            Self::Local(_) | Self::LockFile(_) => panic!("there is no table"),
            Self::Dynamo(dir) => dir,
        }
    }

    fn lock_id(&self) -> String {
        self.remote().lock_id()
    }

    /// The `Info` of the lock item, if the lock is held.
    async fn raw_info(&self, lock_id: &str) -> Option<String> {
        let item = dynamodb().get_raw(&self.remote().table, lock_id).await?;
        let mut names: Vec<_> = item.keys().cloned().collect();
        names.sort();
        assert!(
            ["Info", "LockID"].iter().all(|name| names.iter().any(|it| it == name)),
            "{names:?}"
        );
        Some(item["Info"].as_s().unwrap().clone())
    }

    fn stock(&self, args: &[&str]) -> Finished {
        run(terraform(self.path()).args(args).arg("-no-color"))
    }
}

fn id_in(text: &str) -> String {
    let line = text.lines().find(|line| line.trim_start().starts_with("ID:")).expect("an ID line");
    line.trim_start().trim_start_matches("ID:").trim().to_owned()
}

/// tfwrap holds the lock; a stock Terraform is shut out and prints who we are.
fn shuts_stock_out(stage: &Stage) -> Finished {
    let gate = Gate::new(stage.path(), "ours");
    let mut command = tfwrap(stage.path());
    command.env("TFWRAP_RUN_URL", "https://ci.example/run/7").env("TFWRAP_ACTOR", "alice");
    let ours = Running::start(&mut applying(command, &gate.command()));
    gate.reached();
    let stock = stage.stock(&["plan"]).expect_code(1);
    assert!(stock.stderr.contains("Error acquiring the state lock"), "{}", stock.stderr);
    assert!(stock.stderr.contains("Operation: OperationTypeApply"), "{}", stock.stderr);
    assert!(stock.stderr.contains("https://ci.example/run/7"), "{}", stock.stderr);
    assert!(stock.stderr.contains("alice"), "{}", stock.stderr);
    assert!(stock.stderr.contains(&tfwrap::identity::who()), "{}", stock.stderr);
    gate.open();
    let ours = ours.finish().expect_code(0);
    assert_eq!(ours.stderr, "", "an uncontended run is silent");
    stage.stock(&["plan"]).expect_code(0);
    stock
}

#[tokio::test]
async fn stock_terraform_is_shut_out_while_we_hold_the_dynamodb_lock() {
    let stage = Stage::dynamodb("out").await;
    shuts_stock_out(&stage);
    assert_eq!(stage.raw_info(&stage.lock_id()).await, None, "given back");
    let digest = format!("{}-md5", stage.lock_id());
    let digest = dynamodb().get_raw(&stage.remote().table, &digest).await;
    assert!(digest.is_some_and(|item| item.contains_key("Digest")), "the digest stays");
}

#[test]
fn stock_terraform_is_shut_out_while_we_hold_the_local_lock() {
    shuts_stock_out(&Stage::local());
}

/// Stock Terraform holds the lock; tfwrap waits, names it, and goes on after it.
fn waits_for_stock(stage: &Stage) {
    let (theirs, ours) = (Gate::new(stage.path(), "theirs"), Gate::new(stage.path(), "ours"));
    let stock = Running::start(&mut applying(terraform(stage.path()), &theirs.command()));
    theirs.reached();
    let waiting = Running::start(&mut applying(tfwrap(stage.path()), &ours.command()));
    waiting.says("waiting");
    let said = waiting.stderr();
    for words in ["tfwrap: ", &tfwrap::identity::who(), "apply", "30m"] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    assert!(!ours.is_reached(), "both run");
    theirs.open();
    stock.finish().expect_code(0);
    ours.reached();
    ours.open();
    waiting.finish().expect_code(0);
}

#[tokio::test]
async fn we_wait_for_stock_terraform_on_the_dynamodb_lock() {
    waits_for_stock(&Stage::dynamodb("wait").await);
}

#[test]
fn we_wait_for_stock_terraform_on_the_local_lock() {
    waits_for_stock(&Stage::local());
}

/// The rest of it is in `s3_lock`.
#[test]
fn stock_terraform_is_shut_out_while_we_hold_the_lock_file() {
    shuts_stock_out(&Stage::lock_file("out"));
}

#[test]
fn we_wait_for_stock_terraform_on_the_lock_file() {
    waits_for_stock(&Stage::lock_file("wait"));
}

#[test]
fn the_negative_control_without_the_lock_overlaps() {
    let stage = Stage::local();
    let (theirs, ours) = (Gate::new(stage.path(), "theirs"), Gate::new(stage.path(), "ours"));
    let stock = Running::start(&mut applying(terraform(stage.path()), &theirs.command()));
    theirs.reached();
    let mut command = applying(tfwrap(stage.path()), &ours.command());
    let unlocked = Running::start(command.arg("-lock=false"));
    // Reached although the other one still runs: this is what the lock prevents.
    ours.reached();
    ours.open();
    let unlocked = unlocked.finish();
    assert!(unlocked.stderr.contains("without a lock"), "{}", unlocked.stderr);
    theirs.open();
    stock.finish();
}

#[tokio::test]
async fn a_wait_that_ends_says_who_and_what_to_do() {
    let stage = Stage::dynamodb("timeout").await;
    let theirs = Gate::new(stage.path(), "theirs");
    let stock = Running::start(&mut applying(terraform(stage.path()), &theirs.command()));
    theirs.reached();
    let id = id_in(&stage.stock(&["plan"]).stderr);
    for args in [
        &["--lock-timeout", "300ms", "plan"][..],
        &["plan", "-lock-timeout=300ms"],
        &["--lock-timeout=0s", "plan"],
    ] {
        let ours = run(tfwrap(stage.path()).args(args)).expect_code(75);
        assert!(ours.stderr.contains(&format!("terraform force-unlock {id}")), "{}", ours.stderr);
        assert!(ours.stderr.contains(&tfwrap::identity::who()), "{}", ours.stderr);
        assert_eq!(ours.stdout, "");
    }
    theirs.open();
    stock.finish().expect_code(0);
}

/// `terraform force-unlock` cannot: what keeps this lock is the kernel.
#[test]
fn a_wait_for_a_local_lock_that_ends_says_what_ends_that_lock() {
    let stage = Stage::local();
    for (name, holder) in [("stock", terraform(stage.path())), ("ours", tfwrap(stage.path()))] {
        let gate = Gate::new(stage.path(), name);
        let holder = Running::start(&mut applying(holder, &gate.command()));
        gate.reached();
        let ours = run(tfwrap(stage.path()).args(["--lock-timeout=0s", "plan"])).expect_code(75);
        let command = format!("fuser -v {}/terraform.tfstate", stage.path().display());
        for words in [command.as_str(), "end the process", &tfwrap::identity::who()] {
            assert!(ours.stderr.contains(words), "{words:?} in {}", ours.stderr);
        }
        assert!(!ours.stderr.contains("force-unlock"), "{}", ours.stderr);
        gate.open();
        holder.finish().expect_code(0);
    }
}

#[tokio::test]
async fn an_interrupted_wait_leaves_nothing_behind() {
    let stage = Stage::dynamodb("interrupted").await;
    let theirs = Gate::new(stage.path(), "theirs");
    let stock = Running::start(&mut applying(terraform(stage.path()), &theirs.command()));
    theirs.reached();
    let before = stage.raw_info(&stage.lock_id()).await;
    let signals = [
        (Signal::SIGINT, 130),
        (Signal::SIGTERM, 143),
        (Signal::SIGHUP, 129),
        (Signal::SIGQUIT, 131),
    ];
    for (signal, code) in signals {
        let ours = Running::start(tfwrap(stage.path()).arg("plan"));
        ours.says("waiting");
        ours.signal(signal);
        let ours = ours.finish().expect_code(code);
        assert!(ours.stderr.contains("nothing is left behind"), "{}", ours.stderr);
    }
    assert_eq!(stage.raw_info(&stage.lock_id()).await, before, "their lock is untouched");
    theirs.open();
    stock.finish().expect_code(0);
    assert_eq!(stage.raw_info(&stage.lock_id()).await, None);
}

#[tokio::test]
async fn force_unlock_works_on_our_lock_with_its_id_only() {
    let stage = Stage::dynamodb("force").await;
    let gate = Gate::new(stage.path(), "ours");
    let ours = Running::start(&mut applying(tfwrap(stage.path()), &gate.command()));
    gate.reached();
    let id = id_in(&stage.stock(&["plan"]).stderr);
    let wrong = "11111111-2222-3333-4444-555555555555";
    run(terraform(stage.path()).args(["force-unlock", "-force", wrong])).expect_code(1);
    assert!(stage.raw_info(&stage.lock_id()).await.unwrap().contains(&id));
    run(terraform(stage.path()).args(["force-unlock", "-force", &id])).expect_code(0);
    assert_eq!(stage.raw_info(&stage.lock_id()).await, None);
    gate.open();
    // The child succeeded, but the lock was not ours any more.
    let ours = ours.finish().expect_code(76);
    assert!(ours.stderr.contains("lost"), "{}", ours.stderr);
}

#[tokio::test]
async fn a_strangers_lock_that_took_the_place_of_ours_stays() {
    let stage = Stage::dynamodb("stranger").await;
    let gate = Gate::new(stage.path(), "ours");
    let ours = Running::start(&mut applying(tfwrap(stage.path()), &gate.command()));
    gate.reached();
    let id = id_in(&stage.stock(&["plan"]).stderr);
    run(terraform(stage.path()).args(["force-unlock", "-force", &id])).expect_code(0);
    let theirs = Gate::new(stage.path(), "theirs");
    let stock = Running::start(&mut applying(terraform(stage.path()), &theirs.command()));
    theirs.reached();
    let before = stage.raw_info(&stage.lock_id()).await;
    gate.open();
    let ours = ours.finish().expect_code(76);
    assert!(ours.stderr.contains("leaves it as it is"), "{}", ours.stderr);
    assert_eq!(stage.raw_info(&stage.lock_id()).await, before);
    theirs.open();
    // Two applies overlapped by force; whether the second can write its state is Terraform's.
    stock.finish();
}

/// The raw keys for workspaces and prefixes are Terraform's own: while we hold the lock under
/// `key`, Terraform's own lock of that state is refused by just this item.
#[tokio::test]
async fn our_keys_are_terraforms_keys() {
    for (name, prefix, workspace, expected) in [
        ("default", None, "default", "{key}"),
        ("env", None, "dev", "env:/dev/{key}"),
        ("prefix", Some("ws/x"), "dev", "ws/x/dev/{key}"),
        ("empty", Some(""), "dev", "dev/{key}"),
    ] {
        let stage = Stage::dynamodb(&format!("key-{name}")).await;
        let key = &stage.remote().key;
        if let Some(prefix) = prefix {
            let backend = stage.path().join("backend.tf");
            let text = std::fs::read_to_string(&backend).unwrap();
            let line = format!("  backend \"s3\" {{\n    workspace_key_prefix = \"{prefix}\"");
            std::fs::write(&backend, text.replace("  backend \"s3\" {", &line)).unwrap();
            stage.stock(&["init", "-reconfigure"]).expect_code(0);
        }
        let gate = Gate::new(stage.path(), "ours");
        let mut command = applying(tfwrap(stage.path()), &gate.command());
        command.env("TF_WORKSPACE", workspace);
        let ours = Running::start(&mut command);
        gate.reached();
        let lock_id = format!("{BUCKET}/{}", expected.replace("{key}", key));
        let info = stage.raw_info(&lock_id).await.expect("our item under Terraform's key");
        assert!(info.contains(&format!(r#""Path":"{lock_id}""#)), "{info}");
        let stock =
            run(terraform(stage.path()).args(["plan", "-no-color"]).env("TF_WORKSPACE", workspace));
        let stock = stock.expect_code(1);
        assert!(info.contains(&format!(r#""ID":"{}""#, id_in(&stock.stderr))), "{info}");
        gate.open();
        ours.finish().expect_code(0);
        assert_eq!(stage.raw_info(&lock_id).await, None);
    }
}

/// What Terraform stores is what our encoder makes of it.
#[tokio::test]
async fn terraforms_own_info_survives_our_round_trip() {
    let stage = Stage::dynamodb("bytes").await;
    for round in 0..3 {
        let gate = Gate::new(stage.path(), ["a", "b", "c"][round]);
        let stock = Running::start(&mut applying(terraform(stage.path()), &gate.command()));
        gate.reached();
        let info = stage.raw_info(&stage.lock_id()).await.unwrap();
        assert_eq!(tfwrap::lock::LockInfo::parse(&info).unwrap().to_json(), info);
        gate.open();
        stock.finish().expect_code(0);
    }
}

/// Every command of Terraform's that takes the lock runs under ours.
fn every_command(stage: &Stage) {
    let ours = |args: &[&str]| {
        let done = run(tfwrap(stage.path()).args(args)).expect_code(0);
        assert!(!done.stderr.contains("tfwrap: "), "{args:?}: {}", done.stderr);
    };
    let auto = "-auto-approve";
    ours(&["plan", "-out=p.bin"]);
    ours(&["apply", auto, "p.bin"]);
    ours(&["apply", auto, "-lock-timeout=5s"]);
    ours(&["refresh"]);
    ours(&["taint", "terraform_data.work"]);
    ours(&["untaint", "terraform_data.work"]);
    ours(&["state", "mv", "terraform_data.work", "terraform_data.other"]);
    ours(&["state", "rm", "terraform_data.other"]);
    ours(&["import", "terraform_data.work", "some-id"]);
    let pulled = run(tfwrap(stage.path()).args(["state", "pull"])).expect_code(0).stdout;
    std::fs::write(stage.path().join("pulled.json"), pulled).unwrap();
    ours(&["state", "push", "pulled.json"]);
    ours(&[
        "state",
        "replace-provider",
        auto,
        "terraform.io/builtin/terraform",
        "terraform.io/builtin/terraform",
    ]);
    ours(&["destroy", auto]);
    ours(&["workspace", "new", "gone"]);
    ours(&["workspace", "select", "default"]);
    ours(&["workspace", "delete", "gone"]);
}

#[tokio::test]
async fn every_locking_command_runs_under_the_dynamodb_lock() {
    every_command(&Stage::dynamodb("commands").await);
}

#[test]
fn every_locking_command_runs_under_the_lock_file() {
    every_command(&Stage::lock_file("commands"));
}

#[test]
fn every_locking_command_runs_under_the_local_lock() {
    every_command(&Stage::local());
}

/// 20 pairs of tfwrap and stock Terraform in a tight loop: tfwrap never fails. (Stock may: it
/// does not wait without being told, and fails in some races even then.)
fn pairs(stage: &Stage) {
    for round in 0..20 {
        let mut stock = terraform(stage.path());
        stock.args(["apply", "-auto-approve", "-no-color", "-lock-timeout=60s"]);
        let stock = Running::start(&mut stock);
        let ours =
            Running::start(tfwrap(stage.path()).args(["apply", "-auto-approve", "-no-color"]));
        let ours = ours.finish();
        assert_eq!(ours.status.code(), Some(0), "round {round}: {}", ours.stderr);
        stock.finish();
    }
    stage.stock(&["plan"]).expect_code(0);
}

#[tokio::test]
async fn beside_stock_terraform_we_never_fail_on_the_dynamodb_lock() {
    pairs(&Stage::dynamodb("pairs").await);
}

#[test]
fn beside_stock_terraform_we_never_fail_on_the_lock_file() {
    pairs(&Stage::lock_file("pairs"));
}

#[test]
fn beside_stock_terraform_we_never_fail_on_the_local_lock() {
    pairs(&Stage::local());
}

#[tokio::test]
async fn a_workspace_that_does_not_exist_yet_is_created_and_locked() {
    let stage = Stage::dynamodb("trap").await;
    let gate = Gate::new(stage.path(), "ours");
    let mut command = applying(tfwrap(stage.path()), &gate.command());
    let ours = Running::start(command.env("TF_WORKSPACE", "fresh"));
    gate.reached();
    let key = &stage.remote().key;
    let info = stage.raw_info(&format!("{BUCKET}/env:/fresh/{key}")).await;
    assert!(info.is_some_and(|info| info.contains("OperationTypeApply")));
    gate.open();
    ours.finish().expect_code(0);
}

#[test]
fn the_output_of_terraform_is_not_touched() {
    let stage = Stage::local();
    std::fs::write(stage.path().join("out.tf"), "output \"x\" {\n  value = \"é\\n\"\n}\n").unwrap();
    run(tfwrap(stage.path()).args(["apply", "-auto-approve"])).expect_code(0);
    let same = |args: &[&str]| {
        let ours = run(tfwrap(stage.path()).args(args)).expect_code(0).stdout;
        let stock = run(terraform(stage.path()).args(args)).expect_code(0).stdout;
        assert_eq!(ours, stock);
    };
    same(&["output", "-json"]);
    same(&["version"]);
    same(&["show", "-no-color"]);
    let version = |mut command: Command| run(command.arg("-version")).stdout;
    assert_eq!(version(tfwrap(stage.path())), version(terraform(stage.path())));
}

#[tokio::test]
async fn a_free_lock_costs_one_write_and_one_remove() {
    let proxy = Proxy::before(&dynamodb().url);
    let (table, key) = ("requests", "requests/terraform.tfstate");
    dynamodb().create_lock_table(table).await;
    let dir = s3_backend_dir_at(proxy.url(), key, table);
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    let lock = format!("{BUCKET}/{key}");
    let counts = || ["PutItem", "GetItem", "DeleteItem"].map(|what| proxy.count_of(what, &lock));
    let before = counts();
    run(&mut applying(tfwrap(dir.path()), "true")).expect_code(0);
    let spent: Vec<_> = counts().iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(spent, [1, 0, 1], "writes, reads, removes");
}
