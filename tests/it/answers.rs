//! What is not DynamoDB's answer is never taken for one: neither for a lock that is had, nor for
//! one that was given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tfwrap::backend::{AssumeRole, AwsSettings};
use tfwrap::env::Env;
use tfwrap::lock::LockKey;
use tfwrap::store::{
    AwsClients, DynamoTable, Expect, Record, Registers, RemoveReply, StoreError, Timeouts,
    WriteReply,
};

use crate::said::Row;
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{REGION, aws_settings, dynamodb, serve};
use crate::wrapped::uptime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

macro_rules! page {
    ($status:literal, $head:literal, $body:literal) => {
        concat!("HTTP/1.1 ", $status, "\r\nconnection: close\r\n", $head, "\r\n", $body)
    };
}

const LOGIN: &str = page!("403 Forbidden", "content-type: text/html\r\n", "<html>Log in</html>");

/// What answers, and what is said of it.
const PAGES: [(&str, &str); 9] = [
    (LOGIN, "HTTP 403 with text/html; is a proxy or a login page in between?"),
    (page!("200 OK", "content-type: text/html\r\n", "<html/>"), "HTTP 200 with text/html"),
    (page!("302 Found", "location: http://h/\r\n", ""), "HTTP 302 with nothing in it"),
    (page!("404 Not Found", "content-type: text/plain\r\n", "no"), "HTTP 404 with text/plain"),
    (
        page!("407 Login", "content-type: text/html\r\n", "no"),
        "407 with text/html; the proxy wants",
    ),
    (
        page!("200 OK", "content-type: application/x-amz-json-1.0\r\n", "{\"Item\":{"),
        "is cut short",
    ),
    (page!("200 OK", "content-type: application/x-amz-json-1.0\r\n", ""), "200 with nothing in it"),
    (page!("200 OK", "x-amz-crc32: 1\r\n", "{}"), "its checksum `x-amz-crc32`"),
    (
        page!(
            "400 Bad",
            "x-amz-crc32: 1\r\n",
            "{\"__type\":\"a#ConditionalCheckFailedException\"}"
        ),
        "its checksum",
    ),
];

fn key() -> LockKey {
    LockKey("b/k".to_owned())
}

fn record() -> Record {
    Record { info: Some("1".to_owned()), lease: None }
}

async fn table(name: &str, proxy: &Proxy) -> DynamoTable {
    dynamodb().create_lock_table(name).await;
    let clients = AwsClients::new(&aws_settings(proxy.url()), Timeouts::default()).await.unwrap();
    DynamoTable::new(&clients, name).unwrap()
}

#[tokio::test]
async fn what_is_not_dynamodb_is_not_believed() {
    let proxy = Proxy::before(&dynamodb().url);
    let store = table("answers-pages", &proxy).await;
    let WriteReply::Applied(version) =
        store.write(&key(), &record(), &Expect::Absent).await.unwrap()
    else {
        panic!("the table was empty")
    };
    for (page, says) in PAGES {
        proxy.plan([Rule::all(Fault::Page(page))]);
        let read = store.read(&key()).await.unwrap_err();
        let write = store.write(&key(), &record(), &Expect::Absent).await.unwrap_err();
        let remove = store.remove(&key(), &version).await.unwrap_err();
        for error in [read, write, remove] {
            assert!(matches!(error, StoreError::NotTheStore { .. }), "{page}: {error:?}");
            let text = error.to_string();
            assert!(text.contains(says) && text.contains(proxy.url()), "{page}: {text}");
            // A proxy that wants a login has passed nothing on; of the others nobody knows.
            assert_eq!(error.outcome_is_unknown(), !page.contains("407"), "{page}: {error:?}");
        }
    }
}

/// As proxies add them, and as Terraform reads them.
#[tokio::test]
async fn an_answer_may_have_many_headers() {
    let proxy = Proxy::before(&dynamodb().url);
    let store = table("answers-headers", &proxy).await;
    let many = "x-h: v\r\n".repeat(900);
    proxy.plan([Rule::all(Fault::Headed(many))]);
    let written = store.write(&key(), &record(), &Expect::Absent).await;
    let Ok(WriteReply::Applied(version)) = written else { panic!("{written:?}") };
    assert!(store.read(&key()).await.unwrap().is_some());
    assert_eq!(store.remove(&key(), &version).await, Ok(RemoveReply::Removed));
}

#[tokio::test]
async fn an_answer_without_its_body_leaves_the_outcome_unknown() {
    let proxy = Proxy::before(&dynamodb().url);
    let store = table("answers-empty", &proxy).await;
    proxy.plan([Rule::all(Fault::EmptyReply)]);
    let error = store.write(&key(), &record(), &Expect::Absent).await.unwrap_err();
    assert!(error.outcome_is_unknown(), "{error:?}");
    proxy.plan([]);
    let found = store.read(&key()).await.unwrap().expect("it was done");
    proxy.plan([Rule::on("DeleteItem", Fault::EmptyReply)]);
    let error = store.remove(&key(), &found.version).await.unwrap_err();
    assert!(error.outcome_is_unknown(), "{error:?}");
    proxy.plan([]);
    assert_eq!(store.read(&key()).await.unwrap(), None);
    let gone = store.remove(&key(), &found.version).await.unwrap();
    assert!(matches!(gone, RemoveReply::Conflict(_)), "{gone:?}");
}

/// What is typed for a lock behind the proxy.
fn typed(proxy: &Proxy, table: &str, more: &str) -> String {
    format!(
        "tfwrap --no-backend-lock {more} --lock 'dynamodb://{table}/k?region={REGION}&endpoint={}' \
         run -- touch HERE/ran; ls HERE/ran >&2",
        proxy.url()
    )
}

#[tokio::test]
async fn a_login_page_is_named_at_once_and_nothing_is_run() {
    let proxy = Proxy::before(&dynamodb().url);
    proxy.plan([Rule::all(Fault::Page(LOGIN))]);
    let says = format!(
        "`{}` is not DynamoDB: it answered HTTP 403 with text/html; is a proxy or a login page \
         in between?",
        proxy.url()
    );
    let before = uptime();
    let line = typed(&proxy, "answers-login", "");
    Row {
        typed: &line,
        code: 69,
        says: &[&says],
        never: &["may still appear", "allow `dynamodb", "hash key", "HERE/ran", "released"],
        ..Row::default()
    }
    .play();
    assert_eq!(proxy.count("PutItem"), 0, "nothing is written to what is not the store");
    // The control would wait ten seconds for a first answer.
    let took = uptime().since(before);
    assert!(took < Duration::from_secs(9), "{took:?}");
}

#[tokio::test]
async fn a_lock_whose_answers_come_without_a_body_is_found_and_given_back() {
    let proxy = Proxy::before(&dynamodb().url);
    dynamodb().create_lock_table("answers-found").await;
    proxy.plan([
        Rule::on("PutItem", Fault::EmptyReply).key("k").times(1),
        Rule::on("DeleteItem", Fault::EmptyReply).key("k").times(1),
    ]);
    let line = typed(&proxy, "answers-found", "");
    Row { typed: &line, code: 0, says: &["HERE/ran"], never: &["warning"], ..Row::default() }
        .play();
    assert_eq!(dynamodb().get_raw("answers-found", "k").await, None, "given back");
}

#[tokio::test]
async fn a_page_is_no_release() {
    let proxy = Proxy::before(&dynamodb().url);
    dynamodb().create_lock_table("answers-kept").await;
    let (page, _) = PAGES[6];
    proxy.plan([Rule::on("DeleteItem", Fault::Page(page)).key("k")]);
    let line = typed(&proxy, "answers-kept", "");
    let line = format!("export TFWRAP_RELEASE_PATIENCE=1s; {line}");
    Row {
        typed: &line,
        code: 74,
        says: &["is not DynamoDB", "finish with: aws dynamodb delete-item"],
        never: &["released the lock"],
        ..Row::default()
    }
    .play();
    assert!(dynamodb().get_raw("answers-kept", "k").await.is_some(), "it was not done");
}

#[tokio::test]
async fn a_failure_of_the_server_is_an_answer() {
    let proxy = Proxy::before(&dynamodb().url);
    dynamodb().create_lock_table("answers-failed").await;
    proxy.plan([Rule::on("PutItem", Fault::SERVER_ERROR)]);
    let line = typed(&proxy, "answers-failed", "--no-line --lock-timeout 1s");
    Row {
        typed: &line,
        code: 69,
        says: &[
            "was answered only with an error: the lock may still appear",
            "aws dynamodb delete-item",
        ],
        never: &["never answered"],
        ..Row::default()
    }
    .play();
}

#[tokio::test]
async fn what_cannot_be_asked_is_not_tried_again() {
    // Not a URI: the SDK never comes to its client, and nothing was sent.
    let settings = aws_settings("127.0.0.1:8000");
    let asked = async {
        let clients = AwsClients::new(&settings, Timeouts::default()).await?;
        DynamoTable::new(&clients, "t")?.write(&key(), &record(), &Expect::Absent).await
    };
    let error = asked.await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured(_)), "{error:?}");
}

/// A proxy that filters by what is asked lets reads pass.
#[tokio::test]
async fn a_page_in_the_place_of_every_write_is_told_of_and_given_up() {
    let pages = [PAGES[0], PAGES[1], PAGES[3]];
    let runs: Vec<_> = pages
        .into_iter()
        .zip(["", "--no-line", ""])
        .enumerate()
        .map(|(at, ((page, says), more))| {
            tokio::spawn(async move {
                let proxy = Proxy::before(&dynamodb().url);
                let table = format!("answers-writes-{at}");
                dynamodb().create_lock_table(&table).await;
                proxy.plan([Rule::on("PutItem", Fault::Page(page))]);
                let line = typed(&proxy, &table, more);
                let played = tokio::task::spawn_blocking(move || {
                    let before = uptime();
                    Row {
                        typed: &line,
                        code: 69,
                        says: &[says, "requests for `", "; retrying"],
                        never: &["HERE/ran", "Log in"],
                        ..Row::default()
                    }
                    .play();
                    let took = uptime().since(before);
                    assert!(took > Duration::from_secs(9), "{took:?}");
                    assert!(took < Duration::from_mins(1), "{took:?}");
                });
                played.await.unwrap();
                assert!(proxy.count("PutItem") < 40, "{}", proxy.count("PutItem"));
            })
        })
        .collect();
    for run in runs {
        run.await.unwrap();
    }
}

/// Whoever asks it is answered until they go away, or at the latest after this much.
const ENDLESS: u64 = 256 << 20;

/// Where that is, and how much it got rid of.
fn endless() -> (String, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let address = serve(|listener| async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{\"\r\n";
                let chunk = format!("10000\r\n{}\r\n", "a".repeat(0x10000));
                let mut request = [0; 4096];
                let _asked = connection.read(&mut request).await?;
                connection.write_all(head.as_bytes()).await?;
                while count.fetch_add(0x10000, Ordering::Relaxed) < ENDLESS {
                    connection.write_all(chunk.as_bytes()).await?;
                }
                connection.shutdown().await
            });
        }
    });
    (format!("http://{address}"), sent)
}

#[tokio::test]
async fn an_answer_without_an_end_is_not_read_to_its_end() {
    let asked = async |settings: AwsSettings, writes: bool| {
        let clients = AwsClients::new(&settings, Timeouts::default()).await.unwrap();
        let table = DynamoTable::new(&clients, "t").unwrap();
        if writes {
            table.write(&key(), &record(), &Expect::Absent).await.map(drop).unwrap_err()
        } else {
            table.read(&key()).await.map(drop).unwrap_err()
        }
    };
    let without_keys = |url: &str| AwsSettings {
        access_key: None,
        secret_key: None,
        shared_config_files: vec!["/nowhere".into()],
        shared_credentials_files: vec!["/nowhere".into()],
        ..aws_settings(url)
    };
    let container = |url: &str| {
        let env = Env::from_iter([("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{url}/creds"))]);
        AwsSettings { env, ..without_keys(url) }
    };
    let role = |url: &str| {
        let role =
            AssumeRole { role_arn: "arn:aws:iam::1:role/r".to_owned(), ..Default::default() };
        AwsSettings { assume_role: Some(role), ..aws_settings(url) }
    };
    let instance = |url: &str| AwsSettings {
        skip_metadata_api_check: None,
        metadata_endpoint: Some(url.to_owned()),
        ..without_keys(url)
    };
    let servers = [(); 5].map(|()| endless());
    let url = |at: usize| servers[at].0.as_str();
    let settings = [
        (aws_settings(url(0)), false, Some(true)),
        (aws_settings(url(1)), true, Some(true)),
        (role(url(2)), true, Some(false)),
        (container(url(3)), true, Some(false)),
        (instance(url(4)), true, None),
    ];
    for (at, (settings, writes, sent)) in settings.into_iter().enumerate() {
        let (url, count) = &servers[at];
        let error = asked(settings, writes).await;
        let is_said = error.to_string().contains(&format!("`{url}` is not an AWS service"));
        assert!(is_said && error.to_string().contains("more than 16 MiB"), "{at}: {error}");
        match &error {
            StoreError::NotTheStore { sent: may, .. } => assert_eq!(Some(*may), sent, "{at}"),
            StoreError::Credentials(_) => assert_eq!(None, sent, "{at}"),
            error => panic!("{at}: {error:?}"),
        }
        // What lies in buffers, and a second try of the instance's.
        let sent = count.load(Ordering::Relaxed);
        assert!(sent < ENDLESS / 2, "{at}: {sent} bytes");
    }
}
