//! The way from the item to the lock file, as `docs/migration.md` has it: each command of its, and the trap.

use super::*;

/// A client of the state, in its own checkout.
struct Client(TempDir);

impl Client {
    fn new(stage: &Stage, mode: Mode) -> Self {
        let dir = stage.dir_of(mode);
        init(&dir);
        Self(dir)
    }

    /// Changes its backend, as a commit would.
    fn becomes(&self, stage: &Stage, mode: Mode) {
        let text = std::fs::read_to_string(stage.dir_of(mode).path().join("backend.tf")).unwrap();
        std::fs::write(self.0.path().join("backend.tf"), text).unwrap();
        // Without it nothing runs.
        let before = stock(&self.0, &["plan"]).expect_code(1);
        assert!(before.stderr.contains("terraform init"), "{}", before.stderr);
        stock(&self.0, &["init", "-reconfigure"]).expect_code(0);
        stock(&self.0, &["plan"]).expect_code(0);
    }

    fn apply(&self) {
        run(&mut applying(tfwrap(self.0.path()), "true")).expect_code(0);
    }

    /// What `tfwrap status --format json` says of each lock.
    fn status(&self) -> Vec<(String, String)> {
        let done = run(tfwrap(self.0.path()).args(["status", "--format", "json"])).expect_code(0);
        let status: Value = serde_json::from_str(&done.stdout).unwrap();
        let text = |lock: &Value, name| lock[name].as_str().unwrap().to_owned();
        let scheme = |lock: &Value| text(lock, "lock").split("://").next().unwrap().to_owned();
        let locks = status["locks"].as_array().unwrap();
        locks.iter().map(|lock| (scheme(lock), text(lock, "state"))).collect()
    }
}

fn locks<const N: usize>(locks: [(&str, &str); N]) -> Vec<(String, String)> {
    locks.map(|(scheme, state)| (scheme.to_owned(), state.to_owned())).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_from_the_item_to_the_lock_file_has_no_gap_and_one_trap() {
    let stage = Stage::new("move").await;
    let (moved, late) = (Client::new(&stage, Mode::Item), Client::new(&stage, Mode::Item));
    moved.apply();
    assert_eq!(moved.status(), locks([("dynamodb", "free")]));
    // Both. Who has not moved yet is excluded all the same, and seen by whoever has.
    moved.becomes(&stage, Mode::Both);
    assert_eq!(moved.status(), locks([("s3", "free"), ("dynamodb", "free")]));
    let gate = Gate::new(late.0.path(), "late");
    let running = Running::start(&mut applying(tfwrap(late.0.path()), &gate.command()));
    gate.reached();
    assert_eq!(moved.status(), locks([("s3", "free"), ("dynamodb", "held")]));
    run(tfwrap(moved.0.path()).args(["--lock-timeout=0s", "plan"])).expect_code(75);
    gate.open();
    running.finish().expect_code(0);
    moved.apply();
    // The lock file alone: too early, for those that have the item alone.
    moved.becomes(&stage, Mode::File);
    assert_eq!(moved.status(), locks([("s3", "free")]));
    moved.apply();
    // The digest in the table is older than the state by now: whoever comes late, or goes back, finds that.
    let trapped = stock(&late.0, &["plan"]).expect_code(1);
    assert!(trapped.stderr.contains("does not have the expected"), "{}", trapped.stderr);
    let key = AttributeValue::S(format!("{}-md5", stage.lock_id()));
    let client = dynamodb().client();
    let digest = client.delete_item().table_name(&stage.table).key("LockID", key);
    digest.send().await.unwrap();
    stock(&late.0, &["plan"]).expect_code(0);
    // With the digest gone, back by the same three steps.
    moved.becomes(&stage, Mode::Both);
    moved.apply();
    late.apply();
    stage.expect_free().await;
}
