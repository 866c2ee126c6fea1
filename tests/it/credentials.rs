//! Credentials that run out during a hold: renewed where they can be, told of where not.
//!
//! The times are those of a lease of 15 s: a beat every 1.5 s, the interrupt at 10 s.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tfwrap::clock::wall;
use tfwrap::lock::lease::{Lease, LeaseTerm};

use crate::support::harness::pause;
use crate::support::proxy::{Fault, Proxy, Rule, session_end};
use crate::support::recorder::{Recorder, Sessions};
use crate::support::servers::{REGION, dynamodb};
use crate::wrapped::{Running, Scene, wait_until};

/// Longer than the way to the first fence.
const BEYOND_THE_FENCE: Duration = Duration::from_secs(12);

/// A child that ends by SIGUSR1, and by an interrupt.
const CHILD: &str = "log @/log; on SIGINT exit 0; on SIGUSR1 exit 0; ready @/ready; wait";

/// A lock in a table of its own, behind a proxy.
struct Lock {
    table: String,
    proxy: Proxy,
}

impl Lock {
    async fn new(name: &str) -> Self {
        let table = format!("credentials-{name}");
        dynamodb().create_lock_table(&table).await;
        Self { table, proxy: Proxy::before(&dynamodb().url) }
    }

    /// A child under it; `more` goes into its URL.
    fn scene(&self, more: &str) -> Scene {
        let (table, endpoint) = (&self.table, self.proxy.url());
        let url = format!("dynamodb://{table}/state?region={REGION}&endpoint={endpoint}{more}");
        let scene = Scene::unguarded(CHILD);
        scene.options(&["--lease", "15s", "--no-backend-lock", "--lock", &url])
    }

    /// The same with a session that cannot be renewed.
    fn with_session(&self) -> Scene {
        self.scene("").env("AWS_SESSION_TOKEN", "t").env("TFWRAP_RELEASE_PATIENCE", "1s")
    }

    async fn item(&self, key: &str) -> Option<HashMap<String, AttributeValue>> {
        dynamodb().get_raw(&self.table, key).await
    }

    async fn lease(&self) -> Option<Lease> {
        let item = self.item("state").await?;
        Lease::parse(item["Tfwrap"].as_s().expect("a string"))
    }
}

/// Each session lasts six seconds, and its key says when it ends.
const PROVIDER: &str = r#"end=$(($(date +%s) + 6)); at=$(date -u -d @$end +%Y-%m-%dT%H:%M:%SZ)
echo $end >> "$HOME/calls"
echo "{\"Version\": 1, \"AccessKeyId\": \"ASIA$end\", \"SecretAccessKey\": \"s\","
echo "\"SessionToken\": \"t\", \"Expiration\": \"$at\"}"
"#;

#[tokio::test]
async fn a_process_that_gives_credentials_is_asked_again_before_they_run_out() {
    let lock = Lock::new("process").await;
    let scene = lock.scene("&profile=ci");
    fs::write(scene.path("provider"), PROVIDER).expect("a script");
    fs::create_dir(scene.path(".aws")).expect("a directory");
    let script = scene.path("provider").display().to_string();
    let profile = format!("[profile ci]\ncredential_process = sh {script}\n");
    fs::write(scene.path(".aws/config"), profile).expect("a profile");

    let mut holder = scene.start().ready();
    let first = outlives_its_first_session(&lock);
    holder.signal(Signal::SIGUSR1);
    assert_eq!(holder.bare_code(), Some(0), "{}", holder.stderr());
    assert_eq!(holder.stderr(), "");
    assert_eq!(lock.lease().await, None, "given back");
    let signed = lock.proxy.signed();
    let end = |key: &str| session_end(key).expect("a key of the process");
    // By a second at most, for it was signed before it arrived.
    let late = Duration::from_secs(1);
    assert!(signed.iter().all(|it| it.at < end(&it.access_key) + late), "{signed:?}");
    let last = signed.iter().rfind(|it| it.operation == "DeleteItem").expect("a release");
    assert!(end(&last.access_key) > first, "{signed:?}");
    assert!(holder.scene.wait_for("calls").lines().count() >= 2);
}

/// A hold with keys without an end, which are taken back: its program gives others by then, or not.
async fn whose_keys_are_taken_back(name: &str, others: bool) -> (Lock, Running) {
    let lock = Lock::new(name).await;
    let scene = lock.scene("&profile=ci").env("TFWRAP_RELEASE_PATIENCE", "1s");
    fs::create_dir(scene.path(".aws")).expect("a directory");
    let profile = "[profile ci]\ncredential_process = cat \"$HOME/keys\"\n";
    fs::write(scene.path(".aws/config"), profile).expect("a profile");
    let keys = scene.path("keys");
    let of =
        |id: &str| format!(r#"{{"Version": 1, "AccessKeyId": "{id}", "SecretAccessKey": "s"}}"#);
    fs::write(&keys, of("AKIAOLD")).expect("keys");
    let holder = scene.start().ready();
    // For longer than it takes until the program may be run again.
    lock.proxy.arrived("PutItem state", 4).await;
    if others {
        fs::write(&keys, of("AKIANEW")).expect("keys");
    }
    lock.proxy.plan([Rule::signed_by("AKIAOLD", Fault::EXPIRED)]);
    (lock, holder)
}

#[tokio::test]
async fn keys_without_an_end_that_are_replaced_during_a_hold_are_used_from_then_on() {
    let (_control, mut fenced) = whose_keys_are_taken_back("taken-back", false).await;
    let (lock, mut holder) = whose_keys_are_taken_back("replaced", true).await;
    lock.proxy.arrived("PutItem state", 12).await;
    fenced.scene.wait_for_log("SIGINT 1");
    assert_eq!(fenced.bare_code(), Some(76), "{}", fenced.stderr());
    assert!(!fenced.stderr().contains("that tfwrap can renew"), "{}", fenced.stderr());
    holder.signal(Signal::SIGUSR1);
    assert_eq!(holder.bare_code(), Some(0), "{}", holder.stderr());
    assert_eq!(holder.stderr(), "");
    assert_eq!(lock.lease().await, None, "given back");
    assert_eq!(lock.proxy.signed().pop().expect("requests").access_key, "AKIANEW");
}

#[tokio::test]
async fn a_program_that_fails_during_a_hold_is_what_has_to_be_looked_at() {
    let lock = Lock::new("failing").await;
    let scene = lock.scene("&profile=ci").env("TFWRAP_RELEASE_PATIENCE", "1s");
    fs::create_dir(scene.path(".aws")).expect("a directory");
    let profile = "[profile ci]\ncredential_process = sh \"$HOME/provider\"\n";
    fs::write(scene.path(".aws/config"), profile).expect("a profile");
    fs::write(scene.path("provider"), PROVIDER).expect("a script");
    let provider = scene.path("provider");
    let holder = scene.start().ready();
    fs::write(provider, "exit 7\n").expect("a script");
    let hint = "run that program by hand";
    wait_until("the hint", || holder.stderr().contains(hint).then_some(()));
    let said = holder.stderr();
    assert!(said.contains("failed: exit status: 7"), "{said}");
    assert!(!said.contains("that tfwrap can renew"), "{said}");
}

/// How long a role's session lasts. The SDK renews it ten seconds before its end, so at every
/// request.
const SESSION: Duration = Duration::from_secs(6);

/// Where STS is, for a role that the backend's configuration names.
struct Role {
    sts: Recorder,
    attribute: &'static str,
    more: Value,
}

impl Role {
    fn assumed(sessions: Sessions) -> Self {
        Self { sts: Recorder::giving(sessions), attribute: "assume_role", more: json!({}) }
    }

    fn of_bearer(sessions: Sessions) -> Self {
        let (sts, attribute) = (Recorder::giving(sessions), "assume_role_with_web_identity");
        Self { sts, attribute, more: json!({ "web_identity_token_file": "token" }) }
    }

    /// A child under the lock of an S3 backend with this role, behind the lock's proxy, which
    /// refuses sessions that have ended.
    fn scene(&self, lock: &Lock) -> Scene {
        lock.proxy.plan([Rule::expiry()]);
        let scene = Scene::unguarded(CHILD).options(&["--lease", "15s"]);
        let mut role = self.more.clone();
        role["role_arn"] = "arn:aws:iam::123456789012:role/ci".into();
        let mut config = json!({
            "bucket": "b",
            "key": "k",
            "region": REGION,
            "dynamodb_table": lock.table,
            "endpoints": { "dynamodb": lock.proxy.url(), "sts": self.sts.url }
        });
        config[self.attribute] = role;
        let recorded = json!({ "version": 3, "backend": { "type": "s3", "config": config } });
        fs::create_dir(scene.path(".terraform")).expect("a directory");
        let file = scene.path(".terraform/terraform.tfstate");
        fs::write(file, recorded.to_string()).expect("a backend");
        fs::write(scene.path("main.tf"), "terraform {\n  backend \"s3\" {}\n}\n").expect("a file");
        fs::write(scene.path("token"), "a token").expect("a token");
        scene
    }
}

/// Waits until a holder's first session has ended and it has beaten, or tried to, since; says when
/// it ended.
fn outlives_its_first_session(lock: &Lock) -> Timestamp {
    let first = session_end(&lock.proxy.signed()[0].access_key).expect("a key of a session");
    let beats = || lock.proxy.signed().into_iter().filter(|it| it.operation == "PutItem");
    wait_until("a beat after it", || beats().find(|beat| beat.at > first));
    first
}

/// Two holds that are longer than a session: one with an STS that gives further sessions, and the
/// control, where the end of the first is the end of the credentials.
async fn is_renewed_during_a_hold(name: &str, role: impl Fn(Sessions) -> Role) {
    let (lock, other) = (Lock::new(name).await, Lock::new(&format!("{name}-once")).await);
    let (renewed, once) = (role(Sessions::Of(SESSION)), role(Sessions::Once(SESSION)));
    let mut holder = renewed.scene(&lock).start().ready();
    let scene = once.scene(&other).env("TFWRAP_RELEASE_PATIENCE", "1s");
    let mut control = scene.start().ready();

    let first = outlives_its_first_session(&lock);
    assert!(lock.item("b/k").await.is_some(), "it is held");
    holder.signal(Signal::SIGUSR1);
    assert_eq!(holder.bare_code(), Some(0), "{}", holder.stderr());
    assert_eq!(holder.stderr(), "");
    assert_eq!(lock.item("b/k").await, None, "given back");
    let signed = lock.proxy.signed();
    let last = signed.iter().rfind(|it| it.operation == "DeleteItem").expect("a release");
    assert!(session_end(&last.access_key) > Some(first), "{signed:?}");

    outlives_its_first_session(&other);
    control.signal(Signal::SIGUSR1);
    assert_eq!(control.bare_code(), Some(74), "{}", control.stderr());
    assert!(control.stderr().contains("have expired"), "{}", control.stderr());
    assert!(other.item("b/k").await.is_some(), "it stays");
}

#[tokio::test]
async fn the_session_of_an_assumed_role_is_renewed_during_a_hold() {
    is_renewed_during_a_hold("role", Role::assumed).await;
}

#[tokio::test]
async fn the_session_of_a_web_identity_is_renewed_during_a_hold() {
    is_renewed_during_a_hold("bearer", Role::of_bearer).await;
}

/// With a session that is known to end, when its last beat was made and then it has ended.
async fn outlives_its_session(lock: &Lock, variable: &str) -> Running {
    let end = (wall() + Duration::from_secs(6)).to_string();
    let holder = lock.with_session().env(variable, &end).start().ready();
    wait_until("the warning", || holder.stderr().contains("never expires").then_some(()));
    let lease = lock.lease().await.expect("a lease");
    assert_eq!(lease.term, LeaseTerm::Never);
    lock.proxy.plan([Rule::all(Fault::EXPIRED)]);
    pause(BEYOND_THE_FENCE);
    assert_eq!(holder.scene.log(), [] as [&str; 0], "nobody stops the child");
    assert_eq!(lock.lease().await.map(|lease| lease.term), Some(LeaseTerm::Never));
    holder
}

#[tokio::test]
async fn a_session_that_is_known_to_end_leaves_a_lock_that_never_expires() {
    let lock = Lock::new("known").await;
    let mut holder = outlives_its_session(&lock, "AWS_CREDENTIAL_EXPIRATION").await;
    holder.signal(Signal::SIGUSR1);
    assert_eq!(holder.bare_code(), Some(74), "{}", holder.stderr());
    let said = holder.stderr();
    assert_eq!(said.matches("tfwrap: warning").count(), 1, "{said}");
    for words in ["expire in", "cannot be renewed", "finish with: aws dynamodb delete-item"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(lock.lease().await.is_some(), "it stays");
}

#[tokio::test]
async fn with_fresh_credentials_at_the_end_the_lock_is_given_back() {
    let lock = Lock::new("fresh").await;
    let mut holder = outlives_its_session(&lock, "AWS_SESSION_EXPIRATION").await;
    lock.proxy.plan([]);
    holder.signal(Signal::SIGUSR1);
    assert_eq!(holder.bare_code(), Some(0), "{}", holder.stderr());
    assert_eq!(lock.lease().await, None);
}

#[tokio::test]
async fn an_end_that_has_passed_is_not_believed_of_credentials_that_are_good() {
    let lock = Lock::new("stale").await;
    let past = "2020-01-01T00:00:00+00:00";
    let scene = lock.with_session().env("AWS_CREDENTIAL_EXPIRATION", past);
    let mut holder = scene.start().ready();
    lock.proxy.arrived("PutItem state", 3).await;
    let lease = lock.lease().await.expect("a lease");
    assert_eq!(lease.term, LeaseTerm::After(Duration::from_secs(15)));
    holder.signal(Signal::SIGUSR1);
    assert_eq!(holder.bare_code(), Some(0), "{}", holder.stderr());
    assert_eq!(holder.stderr(), "");
}

#[tokio::test]
async fn a_session_that_ends_without_notice_is_told_of_and_then_fenced() {
    let lock = Lock::new("unknown").await;
    let mut holder = lock.with_session().start().ready();
    lock.proxy.arrived("PutItem state", 2).await;
    lock.proxy.plan([Rule::all(Fault::EXPIRED)]);
    wait_until("the warning", || holder.stderr().contains("are refused after").then_some(()));
    let said = holder.stderr();
    for words in [&lock.table, "have expired", "after it was held for", "will be interrupted in"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(holder.is_running());
    holder.scene.wait_for_log("SIGINT 1");
    assert_eq!(holder.bare_code(), Some(76), "{}", holder.stderr());
    let said = holder.stderr();
    assert_eq!(said.matches("are refused after").count(), 1, "{said}");
    assert!(said.contains("refused credentials (first after"), "{said}");
    assert!(said.contains("over half of the lease"), "{said}");
}
