//! Whose credentials a lock is asked for with: sources that take long, that fail, that are odd. Which
//! of them it is, is held beside stock Terraform in `tests/aws`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::net::{self, AddressFamily, SocketType};
use tfwrap::backend::{AssumeRole, AwsEndpoints, AwsSettings, WebIdentity};
use tfwrap::lock::LockKey;
use tfwrap::store::{AwsClients, DynamoTable, FlawKind, Registers as _, StoreError, Timeouts};

use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::recorder::{Recorder, Sessions};
use crate::support::servers::{REGION, aws_settings, dynamodb};
use crate::wrapped::{Scene, is_gone, uptime, wait_for_end};

/// A request may take so long; what gives credentials takes longer.
const REQUEST: Duration = Duration::from_secs(1);

/// The settings of a profile with a program that does this.
fn of_process(dir: &Path, url: &str, script: &str) -> AwsSettings {
    let (program, config) = (dir.join("provider"), dir.join("config"));
    fs::write(&program, script).expect("a script");
    let profile = format!("[profile p]\ncredential_process = sh {}\n", program.display());
    fs::write(&config, profile).expect("a profile");
    AwsSettings {
        access_key: None,
        secret_key: None,
        profile: Some("p".to_owned()),
        shared_config_files: vec![config],
        dir: dir.to_owned(),
        ..aws_settings(url)
    }
}

async fn table(settings: &AwsSettings) -> Result<DynamoTable, StoreError> {
    let timeouts = Timeouts { connect: REQUEST, read: REQUEST, operation: REQUEST };
    DynamoTable::new(&AwsClients::new(settings, timeouts).await?, "t")
}

fn key() -> LockKey {
    LockKey("b/k".to_owned())
}

#[tokio::test]
async fn a_program_may_take_longer_than_a_request_and_is_asked_once_for_all_clients() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Recorder::start());
    let script = "echo >> calls; sleep 2\n\
                  echo '{\"Version\": 1, \"AccessKeyId\": \"AKIAP\", \"SecretAccessKey\": \"s\"}'";
    let settings = of_process(dir.path(), &server.url, script);
    for _ in 0..2 {
        let table = table(&settings).await.unwrap();
        assert_eq!(table.prepare().await, Ok(()));
        assert_eq!(table.credentials().as_deref(), Some("`credential_process` of profile `p`"));
        assert_eq!(table.read(&key()).await, Ok(None));
    }
    assert!(server.requests().iter().all(|it| it.contains("Credential=AKIAP/")));
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    assert_eq!(calls.lines().count(), 1);
}

#[tokio::test]
async fn a_program_that_fails_is_not_run_again_at_once_and_its_error_is_kept() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Recorder::start());
    let settings = of_process(dir.path(), &server.url, "echo >> calls; exit 7");
    for _ in 0..2 {
        let table = table(&settings).await.unwrap();
        for error in [table.prepare().await.unwrap_err(), table.read(&key()).await.unwrap_err()] {
            let text = "the `credential_process` of profile `p` failed: exit status: 7";
            assert_eq!(error, StoreError::Credentials(FlawKind::Process.flaw(text)));
        }
    }
    assert_eq!(server.requests(), [] as [&str; 0]);
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    assert_eq!(calls.lines().count(), 1);
}

/// A lease of 15 s is lost 7 s after the last beat.
#[tokio::test]
async fn a_program_that_gives_credentials_again_is_asked_soon_and_one_that_does_not_is_not_hammered()
 {
    const SOON: Duration = Duration::from_secs(4);
    let (dir, server) = (tempfile::tempdir().unwrap(), Recorder::start());
    let at = |name: &str| dir.path().join(name);
    let script = "echo >> calls; test ! -e down || exit 7\n\
                  ends=$(date -u -d '+4 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
                  echo '{\"Version\": 1, \"AccessKeyId\": \"AKIAP\", \"SecretAccessKey\": \"s\",\n\
                  \"Expiration\": \"'$ends'\"}'";
    let settings = of_process(dir.path(), &server.url, script);
    let table = table(&settings).await.unwrap();
    let becomes = async |good: bool| {
        let began = uptime();
        while table.prepare().await.is_ok() != good {
            assert!(uptime().since(began) < Duration::from_secs(30), "it goes on as it was");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        uptime().since(began)
    };
    let calls = || fs::read_to_string(at("calls")).unwrap().lines().count();
    becomes(true).await;
    fs::write(at("down"), "").unwrap();
    becomes(false).await;
    let (before, began) = (calls(), uptime());
    while uptime().since(began) < Duration::from_secs(3) {
        assert!(table.prepare().await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = usize::try_from(uptime().since(began).as_secs()).unwrap();
    assert!(calls() - before <= took / 2 + 1, "{} in {took} s", calls() - before);
    fs::remove_file(at("down")).unwrap();
    let took = becomes(true).await;
    assert!(took < SOON, "{took:?}");
}

/// A container's endpoint, which counts its calls, and answers with the file `key`.
fn container(dir: &Path) -> String {
    let (listener, url) = silent();
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            whole_request(&mut connection);
            let mut calls =
                fs::OpenOptions::new().create(true).append(true).open(dir.join("calls"));
            writeln!(calls.as_mut().unwrap()).unwrap();
            let body = fs::read_to_string(dir.join("key")).unwrap();
            let length = body.len();
            let head = format!("HTTP/1.1 200 x\r\ncontent-length: {length}\r\nconnection: close");
            write!(connection, "{head}\r\n\r\n{body}").unwrap();
        }
    });
    url
}

/// What STS says to keys that were replaced.
const EXPIRED_FOR_STS: Fault = Fault::Page(
    "HTTP/1.1 403 x\r\ncontent-length: 85\r\nconnection: close\r\n\r\n\
     <ErrorResponse><Error><Type>S</Type><Code>ExpiredToken</Code></Error></ErrorResponse>",
);

/// Nothing says when these end: who took them back only refuses them. A source that still has none
/// but those is not hammered, whoever asks.
#[tokio::test]
async fn credentials_without_an_end_are_asked_for_anew_once_they_are_refused() {
    let sources = ["process", "container", "role"].map(are_asked_for_anew);
    futures_util::future::join_all(sources).await;
}

async fn are_asked_for_anew(source: &'static str) {
    const LONGEST_PAUSE: Duration = Duration::from_secs(10);
    let dir = tempfile::tempdir().unwrap();
    // Of another key each.
    let server = Recorder::giving(Sessions::Of(Duration::from_hours(1)));
    let proxy = Proxy::before(&server.url);
    let mut settings = of_process(dir.path(), proxy.url(), "echo >> calls; cat key");
    let role = AssumeRole { role_arn: "r".to_owned(), ..AssumeRole::default() };
    let refused = |id| match source {
        "role" => {
            vec![Rule::signed_by(id, EXPIRED_FOR_STS), Rule::on("GetItem", Fault::EXPIRED)]
        }
        _ => vec![Rule::signed_by(id, Fault::EXPIRED)],
    };
    match source {
        "container" => {
            let url = container(dir.path());
            let env = [("AWS_CONTAINER_CREDENTIALS_FULL_URI".to_owned(), url)];
            settings = AwsSettings { profile: None, env: env.into_iter().collect(), ..settings };
            fs::write(&settings.shared_config_files[0], "").unwrap();
        }
        "role" => {
            settings.assume_role = Some(role);
            settings.endpoints.sts = Some(proxy.url().to_owned());
        }
        _ => {}
    }
    let gives = |id: &str| {
        let keys = format!(r#"{{"Version": 1, "AccessKeyId": "{id}", "SecretAccessKey": "s"}}"#);
        fs::write(dir.path().join("key"), keys).unwrap();
    };
    let calls = || fs::read_to_string(dir.path().join("calls")).unwrap().lines().count();
    gives("AKIAOLD");
    let table = table(&settings).await.unwrap();
    assert_eq!(table.read(&key()).await, Ok(None), "{source}");
    tokio::time::sleep(Duration::from_secs(3)).await;

    // As a hold does: the first who is refused has the others at once, and knows no more of it.
    gives("AKIANEW");
    proxy.plan(refused("AKIAOLD").into_iter().map(|rule| match source {
        "role" => rule.times(1),
        _ => rule,
    }));
    assert_eq!(table.read(&key()).await, Ok(None), "{source}");
    assert_eq!(calls(), 2, "{source}");
    let last = server.requests().pop().expect("a request");
    let signer = if source == "role" { "ASIA" } else { "AKIANEW/" };
    assert!(last.contains(&format!("Credential={signer}")), "{source}: {last}");

    // The same for good: whoever asks is refused, and the source is asked now and then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    proxy.plan(refused("AKIANEW"));
    let (before, began) = (calls(), uptime());
    while uptime().since(began) < Duration::from_secs(4) {
        let error = table.read(&key()).await.unwrap_err();
        assert!(matches!(error, StoreError::Credentials(_)), "{source}: {error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = usize::try_from(uptime().since(began).as_secs()).unwrap();
    let more = calls() - before;
    assert!((1..=took / 2 + 1).contains(&more), "{source}: {more} in {took} s");
    gives("AKIALAST");
    proxy.plan(refused("AKIANEW").into_iter().take(1));
    let began = uptime();
    while table.read(&key()).await.is_err() {
        assert!(uptime().since(began) < LONGEST_PAUSE, "{source}: it goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn credentials_of_an_account_that_is_not_allowed_are_not_used() {
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    for (allowed, forbidden, refused_by) in [
        (&[][..], &[][..], None),
        (&["2", "1"], &["3"], None),
        (&["2"], &[], Some("`allowed_account_ids`")),
        (&["1"], &["1"], Some("`forbidden_account_ids`")),
    ] {
        let server = Recorder::start();
        let settings = AwsSettings {
            allowed_account_ids: ids(allowed),
            forbidden_account_ids: ids(forbidden),
            ..aws_settings(&server.url)
        };
        let read = table(&settings).await.unwrap().read(&key()).await;
        let expected = refused_by.map_or(Ok(None), |by| {
            let text = format!("the AWS account `1` is not allowed by {by} of the backend");
            Err(StoreError::Credentials(text.into()))
        });
        assert_eq!(read, expected);
        let asked = server.requests();
        assert_eq!(asked.iter().any(|it| it.contains("GetItem")), expected.is_ok(), "{asked:?}");
    }
}

#[tokio::test]
async fn keys_of_a_file_that_is_written_anew_are_used_from_then_on() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Recorder::start());
    let mut settings = of_process(dir.path(), &server.url, "");
    let file = dir.path().join("credentials");
    settings.shared_credentials_files = vec![file.clone()];
    let write = |text: &str| fs::write(&file, text).unwrap();
    let keys = |id: &str| format!("[p]\naws_access_key_id = {id}\naws_secret_access_key = s\n");
    write(&keys("AKIAOLD"));
    let table = table(&settings).await.unwrap();
    assert_eq!(table.read(&key()).await, Ok(None));
    // Half of it does no harm.
    write("[p]\naws_access_key_id = AKIAHALF\n");
    let is_old = |request: &String| request.contains("Credential=AKIAOLD/");
    let until = uptime().plus(Duration::from_secs(8));
    while uptime() < until {
        assert_eq!(table.read(&key()).await, Ok(None));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(server.requests().iter().all(is_old), "{:?}", server.requests());
    write(&keys("AKIANEW"));
    let until = uptime().plus(Duration::from_secs(30));
    while !server.requests().last().is_some_and(|it| it.contains("Credential=AKIANEW/")) {
        assert!(uptime() < until, "{:?}", server.requests().last());
        assert_eq!(table.read(&key()).await, Ok(None));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// In lower case.
fn whole_request(from: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        let mut part = [0; 4096];
        let count = from.read(&mut part).unwrap();
        text += &String::from_utf8_lossy(&part[..count]).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert!(count > 0, "{text}");
            continue;
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        if count == 0 || body.len() >= length.map_or(0, |length| length.trim().parse().unwrap()) {
            return text;
        }
    }
}

/// A login that somebody else renews while we ask for it: what we have to offer is refused.
#[tokio::test]
async fn a_login_that_somebody_else_has_renewed_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join(".aws/sso/cache");
    fs::create_dir_all(&cache).unwrap();
    // The SHA-1 of the session's name.
    let file = cache.join("a0f1490a20d0211c997b44bc357e1972deab8ae3.json");
    let login = |token: &str, ends: &str| {
        format!(
            r#"{{"accessToken": "{token}", "expiresAt": "{ends}-01-01T00:00:00Z", "clientId": "c",
            "clientSecret": "s", "refreshToken": "r"}}"#
        )
    };
    fs::write(&file, login("old", "2020")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let theirs = login("theirs", "2099");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let request = whole_request(&mut connection);
            let (status, body) = if request.starts_with("post /token") {
                fs::write(&file, &theirs).unwrap();
                (
                    "400 x\r\nx-amzn-errortype: InvalidGrantException",
                    r#"{"error": "invalid_grant"}"#,
                )
            } else if request.contains("x-amz-sso_bearer_token: theirs") {
                let keys = r#"{"roleCredentials": {"accessKeyId": "A", "secretAccessKey": "s",
                    "sessionToken": "t", "expiration": 4070908800000}}"#;
                ("200 x", keys)
            } else {
                ("401 x", "{}")
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            connection.write_all(answer.as_bytes()).unwrap();
        }
    });
    let mut settings = of_process(dir.path(), &url, "");
    let profile = "[profile p]\nsso_session = s\nsso_account_id = 1\nsso_role_name = n\n\
                   [sso-session s]\nsso_region = r\nsso_start_url = u\n";
    fs::write(&settings.shared_config_files[0], profile).unwrap();
    settings.home = dir.path().to_owned();
    settings.endpoints.sso = Some(url.clone());
    settings.env = [("AWS_ENDPOINT_URL_SSO_OIDC", url)].into_iter().collect();
    assert_eq!(table(&settings).await.unwrap().prepare().await, Ok(()));
}

/// Takes connections, and says nothing on them.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// Refuses connections, and keeps its port from other tests.
fn closed() -> (OwnedFd, String) {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    net::bind(&socket, &any).unwrap();
    let bound = SocketAddrV4::try_from(net::getsockname(&socket).unwrap()).unwrap();
    (socket, format!("http://{bound}"))
}

#[tokio::test]
async fn a_source_that_was_long_in_failing_is_not_asked_again_at_once() {
    let (listener, url) = silent();
    let endpoints = AwsEndpoints { sts: Some(url.clone()), ..AwsEndpoints::default() };
    let identity = WebIdentity {
        role_arn: Some("r".to_owned()),
        token: Some("t".to_owned()),
        ..WebIdentity::default()
    };
    let settings = AwsSettings {
        access_key: None,
        secret_key: None,
        web_identity: Some(identity),
        endpoints,
        ..aws_settings(&url)
    };
    let table = table(&settings).await.unwrap();
    for _ in 0..2 {
        let error = table.prepare().await.unwrap_err();
        assert!(error.is_transient() && !error.outcome_is_unknown(), "{error:?}");
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(std::iter::from_fn(|| listener.accept().ok()).count(), 1, "it was asked once");
}

/// Measured on an idle machine: 15 s where a request may have been received, 13 s where none was,
/// a second for the instance. Terraform takes a minute and more of each, and of some no end.
#[test]
fn an_answer_comes_in_time_whoever_is_silent() {
    const MOST: Duration = Duration::from_secs(45);
    let (_listener, silent) = silent();
    let (_closed, closed) = closed();
    let keys = "aws_access_key_id = A\naws_secret_access_key = s";
    let role = format!("{keys}\nrole_arn = r");
    let (item, file) = ("dynamodb://t/state", "s3://b/state.tflock");
    let role_is_silent = "`sts:AssumeRole`: HTTP read timeout";
    let began = uptime();
    let runs = [
        (item, keys, &silent, None, 69, "`dynamodb:GetItem`: HTTP read timeout"),
        (item, keys, &closed, None, 69, "Connection refused"),
        // Whether it honours conditions is tried first.
        (file, keys, &silent, None, 69, "`s3:DeleteObject`: HTTP read timeout"),
        (file, keys, &closed, None, 69, "Connection refused"),
        (item, &role, &closed, Some("AWS_ENDPOINT_URL_STS"), 69, role_is_silent),
        (
            item,
            "",
            &closed,
            Some("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
            77,
            "instance metadata (no answer)",
        ),
    ]
    .map(|(lock, profile, endpoint, variable, code, says)| {
        let url = format!("{lock}?region={REGION}&endpoint={endpoint}&profile=p");
        let mut scene = scene_at(&url, profile, &[]);
        if let Some(variable) = variable {
            scene = scene.env(variable, &silent);
        }
        (scene.start(), code, says)
    });
    for (mut run, code, says) in runs {
        assert_eq!(run.bare_code(), Some(code), "{says}: {}", run.stderr());
        assert!(run.stderr().contains(says), "{says}: {}", run.stderr());
        let told = run.stderr().matches("; retrying").count();
        assert_eq!(told, usize::from(code == 69), "{says}: {}", run.stderr());
    }
    assert!(uptime().since(began) < MOST, "{:?}", uptime().since(began));
}

/// A command under a lock in DynamoDB, with this profile `p` and further options.
async fn scene(name: &str, profile: &str, options: &[&str]) -> Scene {
    let table = format!("identity-{name}");
    dynamodb().create_lock_table(&table).await;
    let endpoint = &dynamodb().url;
    let url = format!("dynamodb://{table}/state?region={REGION}&endpoint={endpoint}&profile=p");
    scene_at(&url, profile, options)
}

fn scene_at(url: &str, profile: &str, options: &[&str]) -> Scene {
    let scene = Scene::unguarded("exit 0");
    fs::create_dir(scene.path(".aws")).expect("a directory");
    fs::write(scene.path(".aws/config"), format!("[profile p]\n{profile}\n")).expect("a profile");
    scene.options(&[&["--no-backend-lock", "--lock", url], options].concat())
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_program_and_takes_it_along() {
    let provider = "credential_process = echo ready $$ > pid; mv pid started; exec sleep 60";
    let mut run = scene("stop", provider, &[]).await.start();
    let program = run.scene.pid_in("started");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.bare_code(), Some(143), "{}", run.stderr());
    assert!(run.stderr().contains("nothing was run"), "{}", run.stderr());
    wait_for_end("the program", program, None);
    assert!(is_gone(program));
}

#[tokio::test]
async fn it_is_said_whose_credentials_are_used_and_never_what_they_are() {
    let keys = "aws_access_key_id = AKIAHUNTER2\naws_secret_access_key = hunter2";
    for (options, expected) in [(&["-v"][..], true), (&[], false)] {
        let name = format!("said-{expected}");
        let mut run = scene(&name, keys, options).await.start();
        assert_eq!(run.bare_code(), Some(0), "{}", run.stderr());
        let said = run.stderr();
        assert_eq!(said.contains("credentials: keys of profile `p`"), expected, "{said}");
        assert!(!said.to_lowercase().contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_named_at_once() {
    for (name, profile, code, expected) in [
        ("gone", "[profile other]", 78, "there is no profile `p`, which the configuration names"),
        ("mfa", "role_arn = r\nmfa_serial = m", 78, "asks for a one-time password"),
        ("loop", "role_arn = r\nsource_profile = p", 78, "which has no credentials"),
        (
            "newline",
            "aws_access_key_id = AKIAHUNTER2\n  next\naws_secret_access_key = s",
            77,
            "the access key ID has a line break in it (credentials: keys of profile `p`)",
        ),
    ] {
        let scene = scene(name, profile, &[]).await;
        if name == "gone" {
            fs::write(scene.path(".aws/config"), profile).expect("a profile");
        }
        let mut run = scene.start();
        assert_eq!(run.bare_code(), Some(code), "{name}: {}", run.stderr());
        let said = run.stderr();
        assert!(said.contains(expected), "{name}: {said}");
        assert_eq!(said.matches("tfwrap: ").count(), said.lines().count(), "{said}");
        assert!(!said.contains("HUNTER2") && !said.contains("may still appear"), "{said}");
    }
}
