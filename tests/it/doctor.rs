//! `tfwrap doctor`: what it finds, that one check that fails hides no other, and that nothing is left.

mod buckets;
mod leftovers;
mod probes;

use std::path::Path;
use std::process::Command;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use serde_json::{Value, json};

use crate::support::harness::{run, s3_dir, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{REGION, dynamodb, local_backend_dir, s3_backend_dir};

/// All that there are, in the order of the reference.
const NAMES: [&str; 22] = [
    "settings",
    "terraform",
    "path",
    "backend",
    "workspace",
    "lock",
    "state-dir",
    "runner",
    "plans",
    "directory",
    "credentials",
    "table",
    "bucket",
    "clock",
    "permissions",
    "conditions",
    "history",
    "probe",
    "holder",
    "queue",
    "pair",
    "receipts",
];

/// What it says, by the names of the checks, with its exit code.
struct Said {
    code: i32,
    checks: Vec<Value>,
    text: String,
}

impl Said {
    #[track_caller]
    fn of(command: &mut Command) -> Self {
        let done = run(command.args(["doctor", "--format", "json"]));
        let document: Value =
            serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{}", done.stderr));
        assert_eq!(document["version"], 1);
        let checks = document["checks"].as_array().unwrap().clone();
        let unknown = checks.iter().find(|it| !NAMES.contains(&it["name"].as_str().unwrap()));
        assert_eq!(unknown, None);
        let failed = checks.iter().any(|check| check["status"] == "fail");
        let code = done.status.code().unwrap();
        assert_eq!(code, i32::from(failed), "{}", done.stderr);
        Self { code, checks, text: done.stdout }
    }

    /// The status, and what is said, of the first check of this name.
    #[track_caller]
    fn check(&self, name: &str) -> (&str, String) {
        let found = self.checks.iter().find(|check| check["name"] == name);
        let found = found.unwrap_or_else(|| panic!("{name}: {}", self.text));
        let text = |part: &str| found[part].as_str().unwrap_or_default().to_owned();
        let said = format!("{}\nfix: {}", text("detail"), text("hint"));
        (found["status"].as_str().unwrap(), said)
    }

    #[track_caller]
    fn expect(&self, name: &str, status: &str, says: &str) {
        let (found, said) = self.check(name);
        assert_eq!(found, status, "{name}: {said}");
        assert!(said.contains(says), "{name}: {says:?} in {said}");
    }

    fn names(&self) -> Vec<&str> {
        self.checks.iter().map(|check| check["name"].as_str().unwrap()).collect()
    }
}

/// A lock of `--lock` in this table and no other, at a server or at a proxy before it.
fn with_lock(dir: &Path, table: &str, url: &str) -> Command {
    let mut command = tfwrap(dir);
    let lock = format!("dynamodb://{table}/a/lock?region={REGION}&endpoint={url}");
    command.args(["--no-backend-lock", "--lock", &lock]);
    command
}

/// How many items a table has.
async fn items(table: &str) -> usize {
    let found = dynamodb().client().scan().table_name(table).consistent_read(true).send().await;
    found.unwrap().items().len()
}

/// A table with a key like no lock table's.
async fn odd_table(name: &str, parts: &[(&str, ScalarAttributeType)]) {
    let mut request = dynamodb()
        .client()
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest);
    for (n, (part, kind)) in parts.iter().enumerate() {
        let role = if n == 0 { KeyType::Hash } else { KeyType::Range };
        let attribute = AttributeDefinition::builder().attribute_name(*part);
        let key = KeySchemaElement::builder().attribute_name(*part).key_type(role);
        request = request
            .attribute_definitions(attribute.attribute_type(kind.clone()).build().unwrap())
            .key_schema(key.build().unwrap());
    }
    request.send().await.unwrap();
}

#[test]
fn the_reference_lists_every_check() {
    let reference = include_str!("../../docs/reference.md");
    let (_, section) = reference.split_once("\n## `tfwrap doctor`\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.collect::<Vec<_>>(), NAMES);
}

#[tokio::test]
async fn where_all_is_well_every_check_passes_and_nothing_is_left() {
    let dir = s3_dir("doctor/well").await;
    let said = Said::of(&mut tfwrap(dir.path()));
    assert_eq!(said.code, 0, "{}", said.text);
    let expected = [
        "settings",
        "terraform",
        "path",
        "backend",
        "workspace",
        "lock",
        "state-dir",
        "credentials",
        "table",
        "clock",
        "permissions",
        "conditions",
        "history",
        "holder",
        "receipts",
    ];
    assert_eq!(said.names(), expected, "{}", said.text);
    assert!(said.checks.iter().all(|check| check["status"] == "pass"), "{}", said.text);
    said.expect("settings", "pass", "lock-timeout = 30m (the default)");
    said.expect("terraform", "pass", "Terraform v");
    said.expect("backend", "pass", "bucket `tfstate`, key `doctor/well/terraform.tfstate`");
    said.expect("workspace", "pass", "`default`");
    said.expect("lock", "pass", &format!("dynamodb://{}/{}", dir.table, dir.lock_id()));
    said.expect("table", "pass", "hash key `LockID` (S)");
    let all = "dynamodb:GetItem, dynamodb:PutItem, dynamodb:DeleteItem";
    let (_, permissions) = said.check("permissions");
    for action in all.split(", ") {
        assert!(permissions.contains(action), "{permissions}");
    }
    assert_eq!(items(&dir.table).await, 0);

    let done = run(tfwrap(dir.path()).arg("doctor")).expect_code(0);
    let lines: Vec<_> = done.stdout.lines().collect();
    assert!(lines[0].starts_with("pass  settings     lock-timeout = 30m"), "{}", done.stdout);
    assert!(lines[1].starts_with("                   lease = never"), "{}", done.stdout);
    assert_eq!(*lines.last().unwrap(), "15 passed, 0 warnings, 0 failed, 0 skipped");
    assert_eq!(done.stderr, "");
}

#[test]
fn a_local_state_is_looked_at_and_left_as_it_is() {
    let dir = local_backend_dir();
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    let before = files();
    let said = Said::of(&mut tfwrap(dir.path()));
    assert_eq!((said.code, files()), (0, before), "{}", said.text);
    said.expect("directory", "pass", "can be written");
    said.expect("holder", "pass", "free");
}

#[tokio::test]
async fn each_setting_is_shown_with_who_set_it() {
    let dir = s3_dir("doctor/settings").await;
    std::fs::write(dir.path().join(".tfwrap.yaml"), "# c\nlock-timeout: 45m\n").unwrap();
    let mut command = tfwrap(dir.path());
    command.env("TFWRAP_LEASE", "20m").args(["--max-hold", "1h"]);
    let said = Said::of(&mut command);
    said.expect("settings", "pass", "lock-timeout = 45m (`");
    said.expect("settings", "pass", ".tfwrap.yaml` line 2)");
    said.expect("settings", "pass", "lease = 20m (`TFWRAP_LEASE`)");
    said.expect("settings", "pass", "max-hold = 1h (`--max-hold`)");
    std::fs::write(dir.path().join(".tfwrap.yaml"), "lock-timout: 45m\n").unwrap();
    let said = Said::of(&mut tfwrap(dir.path()));
    said.expect("settings", "fail", "lock-timout");
    said.expect("backend", "pass", "s3");
    std::fs::remove_file(dir.path().join(".tfwrap.yaml")).unwrap();
    let said = Said::of(tfwrap(dir.path()).env("TFWRAP_LEASE", "soon"));
    said.expect("settings", "fail", "`TFWRAP_LEASE`: `soon` is not a duration");
    said.expect("settings", "fail", "fix: correct or unset `TFWRAP_LEASE`");
    said.expect("backend", "pass", "s3");
}

#[tokio::test]
async fn what_is_wrong_in_the_directory_hides_nothing_else() {
    let dir = s3_backend_dir("doctor/raw/terraform.tfstate", "doctor-raw");
    let mut command = tfwrap(dir.path());
    let said = Said::of(command.env("TFWRAP_TERRAFORM", "/missing/terraform"));
    said.expect("terraform", "fail", "/missing/terraform");
    said.expect("backend", "warn", "not initialised\nfix: run `terraform init`");
    said.expect("table", "fail", "does not exist");
    said.expect("table", "fail", "fix: make it with `tfwrap table create`");
    assert!(!said.names().contains(&"permissions"), "{}", said.text);

    let mut command = tfwrap(dir.path());
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let said = Said::of(&mut command);
    said.expect("credentials", "fail", "AWS_PROFILE");

    std::fs::write(dir.path().join("backend.tf"), "terraform {\n  backend \"gcs\" {}\n}\n")
        .unwrap();
    let said = Said::of(&mut tfwrap(dir.path()));
    said.expect("lock", "fail", "only Terraform can take the lock of the backend `gcs`");
    said.expect("terraform", "pass", "Terraform v");
}

#[tokio::test]
async fn a_wrapper_that_stands_in_between_is_named() {
    let dir = s3_dir("doctor/wrapper").await;
    let bin = dir.path().join("bin");
    let path = |command: &mut Command| {
        #[expect(clippy::disallowed_methods, reason = "terraform must be found")]
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", bin.display()));
    };
    let real = crate::support::harness::real_terraform();
    let script = |last: &str| {
        let text = format!("#!/bin/sh\n{last}\"{}\" \"$@\"\n", real.display());
        crate::support::harness::program(&bin.join("terraform"), &text);
        let mut command = tfwrap(dir.path());
        path(&mut command);
        Said::of(&mut command)
    };
    script("").expect("path", "warn", "a script: it stands between");
    script("exec ").expect("path", "pass", "a script that executes another");
    std::fs::remove_file(bin.join("terraform")).unwrap();
    std::os::unix::fs::symlink(crate::support::harness::wrapper(), bin.join("terraform")).unwrap();
    let mut command = tfwrap(dir.path());
    path(&mut command);
    Said::of(&mut command).expect("path", "pass", "`terraform` is tfwrap");
}

#[tokio::test]
async fn a_key_that_is_not_a_lock_tables_is_told_by_its_fault() {
    use ScalarAttributeType::{N, S};
    let dir = local_backend_dir();
    for (table, key, says) in [
        ("doctor-case", &[("LockId", S)][..], "`LockId` and must be `LockID` (case counts)"),
        ("doctor-type", &[("LockID", N)], "of type N and must be S"),
        ("doctor-range", &[("LockID", S), ("at", S)], "a range key, `at`"),
    ] {
        odd_table(table, key).await;
        let said = Said::of(&mut with_lock(dir.path(), table, &dynamodb().url));
        said.expect("table", "fail", says);
        said.expect("table", "fail", "fix: a key cannot be changed");
        // What helps is a command that works, at the endpoint of this lock.
        let new = format!("{table}-new");
        fixed(dir.path(), &said, "make another table with `", |it| it.replace("NAME", &new));
        let said = Said::of(&mut with_lock(dir.path(), &new, &dynamodb().url));
        said.expect("table", "pass", "hash key `LockID` (S)");
    }
}

/// Runs what the check of the table says that helps.
#[track_caller]
fn fixed(dir: &Path, said: &Said, before: &str, filled: impl Fn(&str) -> String) {
    let (_, text) = said.check("table");
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("{text}"));
    let command = filled(rest.split('`').next().unwrap());
    let ours = command.strip_prefix("tfwrap ").unwrap_or_else(|| panic!("{command}"));
    let mut made = tfwrap(dir);
    run(made.args(shell_words::split(ours).unwrap())).expect_code(0);
}

#[tokio::test]
async fn the_fix_for_a_missing_table_makes_it_where_the_lock_is() {
    let backend = s3_backend_dir("doctor/fix/terraform.tfstate", "doctor-fix");
    let local = local_backend_dir();
    let ours = || tfwrap(backend.path());
    let theirs = || with_lock(local.path(), "doctor-fix-lock", &dynamodb().url);
    for (dir, asked) in [(backend.path(), &ours as &dyn Fn() -> Command), (local.path(), &theirs)] {
        let said = Said::of(&mut asked());
        said.expect("table", "fail", "does not exist");
        fixed(dir, &said, "make it with `", str::to_owned);
        Said::of(&mut asked()).expect("table", "pass", "hash key `LockID` (S)");
    }
    // A backend's other keys and roles are in the backend alone.
    odd_table("doctor-fix-odd", &[("LockId", ScalarAttributeType::S)]).await;
    let odd = s3_backend_dir("doctor/fix-odd/terraform.tfstate", "doctor-fix-odd");
    let said = Said::of(&mut tfwrap(odd.path()));
    said.expect("table", "fail", "`terraform init -reconfigure` and `tfwrap table create`");
    let done = run(tfwrap(odd.path()).args(["table", "create"])).expect_code(78);
    assert!(done.stderr.contains("`terraform init -reconfigure`"), "{}", done.stderr);
}

#[test]
fn the_history_of_a_lock_in_a_directory_is_read_and_a_local_state_has_none() {
    let dir = local_backend_dir();
    let locks = dir.path().join("locks");
    std::fs::create_dir(&locks).unwrap();
    let lock = format!("file://{}/x", locks.display());
    let with = || {
        let mut command = tfwrap(dir.path());
        command.args(["--no-backend-lock", "--lock", &lock]);
        command
    };
    Said::of(&mut with()).expect("history", "pass", "0 runs in `");
    run(with().args(["run", "--", "true"])).expect_code(0);
    Said::of(&mut with()).expect("history", "pass", "1 run in `");
    // Something that is no register: a run does without, and every other check is made.
    let history = |name: &str| name.contains("history").then(|| locks.join(name));
    let entries = std::fs::read_dir(&locks).unwrap();
    let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
    let file = names.into_iter().find_map(|name| history(&name)).expect("a history");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let said = Said::of(&mut with());
    let (status, told) = said.check("history");
    assert_eq!((said.code, status), (0, "warn"), "{told}");
    said.expect("holder", "pass", "free");
    let said = Said::of(&mut tfwrap(dir.path()));
    assert!(!said.names().contains(&"history"), "{}", said.text);
}

#[tokio::test]
async fn who_asks_is_said_where_sts_may_be_asked() {
    const WHO: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\nconnection: close\r\n\r\n\
        <GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
        <GetCallerIdentityResult><Arn>arn:aws:sts::123456789012:assumed-role/ci/x</Arn>\
        <Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>";
    let (dir, table) = (local_backend_dir(), "doctor-who");
    dynamodb().create_lock_table(table).await;
    let sts = Proxy::before("127.0.0.1:9");
    sts.plan([Rule::all(Fault::Page(WHO))]);
    let asked = |variables: &[(&str, &str)]| {
        let mut command = with_lock(dir.path(), table, &dynamodb().url);
        command.envs(variables.iter().copied());
        Said::of(&mut command)
    };
    asked(&[]).expect("credentials", "pass", "STS was not asked");
    let said = asked(&[("AWS_ENDPOINT_URL_STS", sts.url())]);
    said.expect(
        "credentials",
        "pass",
        "arn:aws:sts::123456789012:assumed-role/ci/x; they do not expire",
    );
    let said = asked(&[("AWS_SESSION_TOKEN", "t")]);
    said.expect("credentials", "warn", "whose end is not known");
    let end = (tfwrap::clock::wall() + jiff::SignedDuration::from_hours(1)).to_string();
    let said = asked(&[("AWS_SESSION_TOKEN", "t"), ("AWS_CREDENTIAL_EXPIRATION", &end)]);
    said.expect("credentials", "warn", "they end in 59m");
    assert_eq!(json!(items(table).await), 0);
}
