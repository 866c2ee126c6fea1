//! What stores make of what goes wrong: between them and the server, in the server, and in files.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tfwrap::backend::{AssumeRole, AwsEndpoints, AwsSettings};
use tfwrap::lock::LockKey;
use tfwrap::store::{
    AwsClients, DynamoTable, Expect, Record, RecordVersion, Registers, RemoveReply, StateObject,
    StoreError, Timeouts, WriteReply, workspace_state,
};

use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{aws_settings, dynamodb, s3};

const KEY: &str = "b/k";

fn key() -> LockKey {
    LockKey(KEY.to_owned())
}

fn record(text: &str) -> Record {
    Record { info: Some(text.to_owned()), lease: Some("lease".to_owned()) }
}

/// Short, so that a silent server does not hold up the tests. As in the program, the time to
/// connect is the shorter one: which of two equal ones ends first is luck.
fn impatient() -> Timeouts {
    let short = Duration::from_millis(700);
    Timeouts { connect: short, read: short * 3 / 2, operation: short * 3 }
}

async fn table_at(settings: &AwsSettings, table: &str) -> DynamoTable {
    let clients = AwsClients::new(settings, impatient()).await.unwrap();
    DynamoTable::new(&clients, table).unwrap()
}

/// A table of its own behind a proxy of its own.
async fn behind_a_proxy(table: &str) -> (DynamoTable, Proxy) {
    dynamodb().create_lock_table(table).await;
    let proxy = Proxy::before(&dynamodb().url);
    (table_at(&aws_settings(proxy.url()), table).await, proxy)
}

async fn create(store: &DynamoTable, text: &str) -> Result<WriteReply, StoreError> {
    store.write(&key(), &record(text), &Expect::Absent).await
}

async fn created(store: &DynamoTable, text: &str) -> RecordVersion {
    match create(store, text).await.unwrap() {
        WriteReply::Applied(version) => version,
        WriteReply::Conflict(current) => panic!("refused, stored is {current:?}"),
    }
}

#[tokio::test]
async fn a_reply_that_does_not_come_leaves_the_outcome_unknown() {
    let (store, proxy) = behind_a_proxy("faults-unknown").await;
    let faults = [
        (Fault::DropReply, true),
        (Fault::HalfReply, true),
        (Fault::FailAfter, true),
        (Fault::HoldReply, true),
        (Fault::Refuse, false),
        (Fault::Hold, false),
        (Fault::SERVER_ERROR, false),
    ];
    for (fault, done) in faults {
        proxy.plan([Rule::on("PutItem", fault.clone())]);
        let before = proxy.count("PutItem");
        let error = create(&store, "1").await.unwrap_err();
        assert!(error.outcome_is_unknown() && error.is_transient(), "{fault:?}: {error:?}");
        assert!(error.to_string().contains("`dynamodb:PutItem`"), "{fault:?}: {error}");
        // No retry inside: it would meet its own record.
        assert_eq!(proxy.count("PutItem") - before, 1, "{fault:?}");
        proxy.plan([]);
        let found = store.read(&key()).await.unwrap();
        assert_eq!(found.is_some(), done, "{fault:?}");
        if let Some(found) = found {
            assert_eq!(found.record, record("1"), "{fault:?}");
            let removed = store.remove(&key(), &found.version).await.unwrap();
            assert_eq!(removed, RemoveReply::Removed, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_write_given_up_may_land_later() {
    let (store, proxy) = behind_a_proxy("faults-late").await;
    proxy.plan([Rule::on("PutItem", Fault::Hold).key(KEY)]);
    assert!(create(&store, "late").await.unwrap_err().outcome_is_unknown());
    assert_eq!(store.read(&key()).await.unwrap(), None);
    proxy.release();
    let landed = async { while store.read(&key()).await.unwrap().is_none() {} };
    tokio::time::timeout(Duration::from_secs(10), landed).await.unwrap();
}

#[tokio::test]
async fn a_lost_reply_to_a_remove_or_an_overwrite_is_unknown_too() {
    let (store, proxy) = behind_a_proxy("faults-lost").await;
    let version = created(&store, "1").await;
    proxy.plan([Rule::all(Fault::DropReply)]);
    let expect = Expect::Version(version.clone());
    let error = store.write(&key(), &record("2"), &expect).await.unwrap_err();
    assert!(error.outcome_is_unknown(), "{error:?}");
    proxy.plan([]);
    let second = store.read(&key()).await.unwrap().unwrap();
    assert_eq!(second.record, record("2"));
    proxy.plan([Rule::on("DeleteItem", Fault::DropReply)]);
    let error = store.remove(&key(), &second.version).await.unwrap_err();
    assert!(error.outcome_is_unknown(), "{error:?}");
    assert_eq!(store.read(&key()).await.unwrap(), None);
}

#[tokio::test]
async fn a_refused_request_was_not_applied() {
    let (store, proxy) = behind_a_proxy("faults-refused").await;
    for fault in [Fault::THROTTLED, Fault::OVER_CAPACITY] {
        proxy.plan([Rule::on("PutItem", fault)]);
        let error = create(&store, "1").await.unwrap_err();
        assert!(matches!(error, StoreError::Throttled(_)), "{error:?}");
        assert!(error.is_transient() && !error.outcome_is_unknown(), "{error:?}");
    }
    // What AWS' SDKs try again, and nobody says whether it was done.
    for code in ["RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete"] {
        proxy.plan([Rule::all(Fault::Status(400, code))]);
        let error = create(&store, "1").await.unwrap_err();
        assert!(error.is_transient() && error.outcome_is_unknown(), "{code}: {error:?}");
        let version = RecordVersion("[\"Absent\",\"Absent\"]".to_owned());
        let error = store.remove(&key(), &version).await.unwrap_err();
        assert!(error.is_transient() && error.outcome_is_unknown(), "{code}: {error:?}");
    }
    proxy.plan([Rule::on("PutItem", Fault::CONFLICT)]);
    let error = create(&store, "1").await.unwrap_err();
    assert!(error.is_transient() && !error.outcome_is_unknown(), "{error:?}");
    proxy.plan([Rule::all(Fault::DENIED)]);
    let error = create(&store, "1").await.unwrap_err();
    assert!(matches!(error, StoreError::Denied(_)), "{error:?}");
    assert!(error.to_string().contains("`dynamodb:PutItem`"), "{error}");
    assert!(error.to_string().contains("`faults-refused`"), "{error}");
    let error = store.read(&key()).await.unwrap_err();
    assert!(error.to_string().contains("`dynamodb:GetItem`"), "{error}");
    for code in ["ExpiredTokenException", "UnrecognizedClientException"] {
        proxy.plan([Rule::all(Fault::Status(400, code))]);
        let error = store.read(&key()).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Credentials(flaw) if flaw.text.contains(code)),
            "{error}"
        );
    }
    proxy.plan([]);
    assert_eq!(store.read(&key()).await.unwrap(), None);
}

#[tokio::test]
async fn a_rule_counts_and_a_delay_only_delays() {
    let (store, proxy) = behind_a_proxy("faults-rules").await;
    proxy.plan([
        Rule::on("GetItem", Fault::DENIED).after(1).times(1),
        Rule::on("PutItem", Fault::Delay(Duration::from_millis(50))),
    ]);
    assert_eq!(store.read(&key()).await, Ok(None));
    assert!(store.read(&key()).await.is_err());
    assert_eq!(store.read(&key()).await, Ok(None));
    created(&store, "1").await;
    proxy.arrived("GetItem", 3).await;
    let waiting = proxy.clone();
    std::thread::spawn(move || waiting.wait_for("PutItem", 1)).join().unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_was_not_asked() {
    // Bound and closed again: nobody listens.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    for (url, why) in [
        (format!("http://127.0.0.1:{port}"), "refused"),
        ("http://no-such-host.invalid:1".to_owned(), "dns error"),
    ] {
        let store = table_at(&aws_settings(&url), "t").await;
        let error = create(&store, "1").await.unwrap_err();
        assert!(error.is_transient() && !error.outcome_is_unknown(), "{error:?}");
        let text = error.to_string().to_lowercase();
        assert!(text.contains(why) && text.contains(&url) && text.contains("`t`"), "{text}");
    }
}

#[tokio::test]
async fn a_silent_server_does_not_hang_us() {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let store = table_at(&aws_settings(&url), "t").await;
    let asked = tokio::time::timeout(Duration::from_secs(5), create(&store, "1")).await.unwrap();
    assert!(asked.unwrap_err().outcome_is_unknown());
    // Where not even TLS comes about, nothing was asked.
    let store = table_at(&aws_settings(&url.replace("http:", "https:")), "t").await;
    let asked = tokio::time::timeout(Duration::from_secs(5), create(&store, "1")).await.unwrap();
    let error = asked.unwrap_err();
    assert!(error.is_transient() && !error.outcome_is_unknown(), "{error:?}");
}

#[tokio::test]
async fn a_missing_table_is_named_with_its_place() {
    let store = table_at(&dynamodb().settings(), "no-such-table").await;
    let error = store.read(&key()).await.unwrap_err();
    assert!(matches!(error, StoreError::Missing(_)), "{error:?}");
    for part in ["`no-such-table`", "`eu-west-1`", &dynamodb().url] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_table_with_another_key_is_no_lock_table() {
    dynamodb().create_table("faults-schema", "Id").await;
    let store = table_at(&dynamodb().settings(), "faults-schema").await;
    for error in [store.read(&key()).await.unwrap_err(), create(&store, "1").await.unwrap_err()] {
        assert!(matches!(error, StoreError::Misconfigured(_)), "{error:?}");
        assert!(error.to_string().contains("hash key `LockID` of type string"), "{error}");
    }
}

#[tokio::test]
async fn a_record_without_a_lease_has_just_the_attributes_of_terraform() {
    let table = "faults-vanilla";
    dynamodb().create_lock_table(table).await;
    let store = table_at(&dynamodb().settings(), table).await;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let vanilla = Record { info: Some("i".to_owned()), lease: None };
    store.write(&key(), &vanilla, &Expect::Absent).await.unwrap();
    let mut item =
        HashMap::from([("LockID".to_owned(), text(KEY)), ("Info".to_owned(), text("i"))]);
    assert_eq!(dynamodb().get_raw(table, KEY).await, Some(item.clone()));
    let found = store.read(&key()).await.unwrap().unwrap();
    let expect = Expect::Version(found.version);
    let leased = Record { lease: Some("l".to_owned()), ..vanilla };
    store.write(&key(), &leased, &expect).await.unwrap();
    item.insert("Tfwrap".to_owned(), text("l"));
    assert_eq!(dynamodb().get_raw(table, KEY).await, Some(item));
}

#[tokio::test]
async fn an_item_written_by_hand_is_read_and_can_be_removed() {
    let table = "faults-by-hand";
    dynamodb().create_lock_table(table).await;
    let store = table_at(&dynamodb().settings(), table).await;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let strange: [(&str, AttributeValue); 4] = [
        ("Info", AttributeValue::N("1".to_owned())),
        ("Info", AttributeValue::Null(true)),
        ("Note", text("mine")),
        ("Tfwrap", AttributeValue::L(vec![])),
    ];
    for (name, value) in strange {
        let item = HashMap::from([("LockID".to_owned(), text(KEY)), (name.to_owned(), value)]);
        dynamodb().put_raw(table, item).await;
        let found = store.read(&key()).await.unwrap().unwrap();
        assert_eq!(found.record, Record::default(), "{name}");
        assert!(matches!(
            store.write(&key(), &record("1"), &Expect::Absent).await.unwrap(),
            WriteReply::Conflict(Some(Some(_)))
        ));
        // Someone repairs it in between.
        let repaired =
            HashMap::from([("LockID".to_owned(), text(KEY)), ("Info".to_owned(), text("i"))]);
        dynamodb().put_raw(table, repaired).await;
        let late = store.remove(&key(), &found.version).await.unwrap();
        let RemoveReply::Conflict(Some(Some(current))) = late else { panic!("{name}: {late:?}") };
        let removed = store.remove(&key(), &current.version).await.unwrap();
        assert_eq!(removed, RemoveReply::Removed, "{name}");
    }
}

#[tokio::test]
async fn missing_credentials_are_said_soon_and_with_where_was_looked() {
    // Like the metadata service's address away from EC2: no answer, and no refusal either.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let black_hole = format!("http://{}", silent.local_addr().unwrap());
    let nowhere = tempfile::tempdir().unwrap();
    let settings = AwsSettings {
        access_key: None,
        secret_key: None,
        skip_metadata_api_check: None,
        metadata_endpoint: Some(black_hole),
        shared_config_files: vec![nowhere.path().join("config")],
        shared_credentials_files: vec![nowhere.path().join("credentials")],
        ..dynamodb().settings()
    };
    let clients = AwsClients::new(&settings, Timeouts::default()).await.unwrap();
    let store = DynamoTable::new(&clients, "t").unwrap();
    let asked = key();
    let soon = tokio::time::timeout(Duration::from_secs(5), store.read(&asked)).await;
    let error = soon.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Credentials(_)), "{error:?}");
    assert!(error.to_string().contains("environment, "), "{error}");
    assert!(error.to_string().contains("profile `default`"), "{error}");
    assert!(error.to_string().contains("instance metadata"), "{error}");

    let settings = AwsSettings { profile: Some("nobody".to_owned()), ..settings };
    let error = AwsClients::new(&settings, Timeouts::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured(_)), "{error:?}");
    assert!(error.to_string().contains("`nobody`"), "{error}");
}

#[tokio::test]
async fn a_role_that_is_refused_is_named() {
    let proxy = Proxy::before(&dynamodb().url);
    proxy.plan([Rule::on("POST", Fault::Status(403, "AccessDenied"))]);
    let role_arn = "arn:aws:iam::123456789012:role/deploy";
    let mut settings = dynamodb().settings();
    settings.endpoints.sts = Some(proxy.url().to_owned());
    settings.assume_role =
        Some(AssumeRole { role_arn: role_arn.to_owned(), ..AssumeRole::default() });
    let store = table_at(&settings, "t").await;
    let error = store.read(&key()).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied(_)), "{error:?}");
    assert!(error.to_string().contains(role_arn), "{error}");
    assert_eq!(proxy.count("POST"), 1);
    // Of the lock nothing was asked: a later try is free to ask.
    proxy.plan([Rule::on("POST", Fault::Refuse)]);
    let error = create(&store, "1").await.unwrap_err();
    assert!(error.is_transient() && !error.outcome_is_unknown(), "{error:?}");
}

#[tokio::test]
async fn a_state_is_found_as_terraform_lists_it() {
    let clients = AwsClients::new(&aws_settings(&s3().url), impatient()).await.unwrap();
    s3().create_bucket("listing");
    for key in ["env:/dev/a/terraform.tfstate", "env:/dev/a/terraform.tfstatf", "plain"] {
        s3().put("listing", key, b"{}");
    }
    let look = async |prefix: &str, key: &str| {
        workspace_state(&clients, "listing", prefix, key).await.unwrap()
    };
    assert_eq!(look("env:/", "env:/dev/a/terraform.tfstate").await, StateObject::Exists);
    assert_eq!(look("env:/", "env:/dev/a/terraform.tfstat").await, StateObject::Missing);
    assert_eq!(look("env:/", "env:/prod/a/terraform.tfstate").await, StateObject::Missing);
    assert_eq!(look("", "plain").await, StateObject::Exists);
    let error = workspace_state(&clients, "no-bucket", "", "k").await.unwrap_err();
    assert!(matches!(&error, StoreError::Missing(text) if text.contains("`no-bucket`")), "{error}");
}

#[tokio::test]
async fn a_refused_listing_names_its_permission() {
    let proxy = Proxy::before(&s3().url);
    proxy.plan([Rule::on("ListObjectsV2", Fault::Status(403, "AccessDenied"))]);
    let clients = AwsClients::new(&aws_settings(proxy.url()), impatient()).await.unwrap();
    let error = workspace_state(&clients, "b", "env:/", "k").await.unwrap_err();
    assert!(matches!(error, StoreError::Denied(_)), "{error:?}");
    assert!(error.to_string().contains("`s3:ListBucket`"), "{error}");
}

#[tokio::test]
async fn what_cannot_work_is_said_before_anything_is_sent() {
    let base = AwsSettings { endpoints: AwsEndpoints::default(), ..dynamodb().settings() };
    let refused = async |settings: AwsSettings| -> String {
        let error = match AwsClients::new(&settings, impatient()).await {
            Ok(clients) => DynamoTable::new(&clients, "t").unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(error, StoreError::Misconfigured(_)), "{error:?}");
        error.to_string()
    };
    let none = AwsSettings { region: None, ..base.clone() };
    assert!(refused(none).await.contains("`AWS_REGION`"));
    let insecure = AwsSettings { insecure: true, ..base.clone() };
    assert!(refused(insecure).await.contains("`insecure = true`"));
    let mode = AwsSettings {
        access_key: None,
        secret_key: None,
        skip_metadata_api_check: None,
        metadata_endpoint_mode: Some("IPv5".to_owned()),
        ..base
    };
    assert!(refused(mode).await.contains("`IPv5`"));
}
