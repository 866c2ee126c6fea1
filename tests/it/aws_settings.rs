//! What of the backend's configuration reaches the wire: credentials, roles, proxies, TLS.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tfwrap::backend::{
    AssumeRole, AwsEndpoints, AwsSettings, ProxySettings, WebIdentity, aws_from_env,
};
use tfwrap::env::Env;
use tfwrap::lock::LockKey;
use tfwrap::store::{AwsClients, DynamoTable, Registers as _, StoreError, Stored, Timeouts};

use crate::support::recorder::{Recorder, Sessions};
use crate::support::servers::{aws_settings, clean};

/// What a session lasts; the real STS gives none under 15 minutes.
const SHORT: Duration = Duration::from_secs(1);

pub(crate) async fn read(settings: &AwsSettings) -> Result<Option<Stored>, StoreError> {
    let short = Duration::from_secs(2);
    let timeouts = Timeouts { connect: short, read: short, operation: short };
    let clients = AwsClients::new(settings, timeouts).await?;
    DynamoTable::new(&clients, "t")?.read(&LockKey("b/k".to_owned())).await
}

#[expect(clippy::unnecessary_wraps, reason = "what nearly every field of the settings takes")]
fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test]
async fn a_role_is_assumed_with_all_that_is_configured() {
    let server = Recorder::start();
    let settings = AwsSettings {
        sts_region: text("us-west-2"),
        assume_role: Some(AssumeRole {
            role_arn: "arn:aws:iam::1:role/r".to_owned(),
            duration: Some(Duration::from_mins(20)),
            external_id: text("external"),
            policy: text("{}"),
            policy_arns: vec!["arn:p".to_owned()],
            session_name: text("job-7"),
            source_identity: text("jane"),
            tags: vec![("Team".to_owned(), "infra".to_owned())],
            transitive_tag_keys: vec!["Team".to_owned()],
        }),
        ..aws_settings(&server.url)
    };
    assert_eq!(read(&settings).await, Ok(None));
    let requests = server.requests();
    let [sts, table] = &requests[..] else { panic!("{requests:?}") };
    for part in [
        "Credential=test/",
        "/us-west-2/sts/",
        "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr",
        "DurationSeconds=1200",
        "ExternalId=external",
        "Policy=%7B%7D",
        "PolicyArns.member.1.arn=arn%3Ap",
        "RoleSessionName=job-7",
        "SourceIdentity=jane",
        "Tags.member.1.Key=Team",
        "Tags.member.1.Value=infra",
        "TransitiveTagKeys.member.1=Team",
    ] {
        assert!(sts.contains(part), "{part}: {sts}");
    }
    for part in ["Credential=ASIAROLE/", "/eu-west-1/dynamodb/", "x-amz-security-token: session"] {
        assert!(table.contains(part), "{part}: {table}");
    }
}

#[tokio::test]
async fn the_bearer_of_a_token_needs_no_keys() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "from-a-file\n").unwrap();
    for (identity, token) in [
        (WebIdentity { token: text("given"), ..WebIdentity::default() }, "given"),
        (WebIdentity { token_file: Some(file), ..WebIdentity::default() }, "from-a-file%0A"),
    ] {
        let server = Recorder::start();
        let role_arn = text("arn:aws:iam::1:role/r");
        let settings = AwsSettings {
            access_key: None,
            secret_key: None,
            web_identity: Some(WebIdentity { role_arn, ..identity }),
            ..aws_settings(&server.url)
        };
        assert_eq!(read(&settings).await, Ok(None));
        let requests = server.requests();
        let [sts, table] = &requests[..] else { panic!("{requests:?}") };
        assert!(
            sts.contains(&format!("WebIdentityToken={token}&")) || sts.ends_with(token),
            "{sts}"
        );
        assert!(!sts.to_lowercase().contains("authorization:"), "{sts}");
        assert!(table.contains("Credential=ASIAROLE/"), "{table}");
    }
}

#[tokio::test]
async fn the_session_of_a_role_is_renewed_when_it_ends() {
    let role_arn = "arn:aws:iam::1:role/r".to_owned();
    let role = AssumeRole { role_arn: role_arn.clone(), ..AssumeRole::default() };
    let token = text("given");
    let bearer = WebIdentity { role_arn: Some(role_arn), token, ..WebIdentity::default() };
    for (assume_role, web_identity) in [(Some(role), None), (None, Some(bearer))] {
        let server = Recorder::giving(Sessions::Of(SHORT));
        let by_keys = assume_role.is_some();
        let keys = || text("test").filter(|_| by_keys);
        let settings = AwsSettings {
            access_key: keys(),
            secret_key: keys(),
            assume_role,
            web_identity,
            ..aws_settings(&server.url)
        };
        let clients = AwsClients::new(&settings, Timeouts::default()).await.unwrap();
        let store = DynamoTable::new(&clients, "t").unwrap();
        assert_eq!(store.credentials_end(), None);
        for _ in 0..2 {
            assert_eq!(store.read(&LockKey("b/k".to_owned())).await, Ok(None));
            tokio::time::sleep(SHORT).await;
        }
        let requests = server.requests();
        let [_, first, _, second] = &requests[..] else { panic!("{requests:?}") };
        let key = |request: &str| {
            let (_, rest) = request.split_once("Credential=ASIA").expect("a session's key");
            rest.split_once('/').expect("more").0.to_owned()
        };
        assert_ne!(key(first), key(second));
    }
}

/// Tells the child below which profile to use; `-` for none.
const CHILD_PROFILE: &str = "TFWRAP_TEST_AWS_PROFILE";

/// Reads once with what the environment says; nothing by itself.
#[tokio::test]
async fn child_that_reads_with_its_environment() {
    #[expect(clippy::disallowed_methods, reason = "the parent's word to its child")]
    let Ok(profile) = std::env::var(CHILD_PROFILE) else { return };
    let env = Env::of_process();
    let settings = AwsSettings {
        profile: Some(profile).filter(|profile| profile != "-"),
        ..aws_from_env(&env, Path::new("/"), Some("eu-west-1")).unwrap()
    };
    assert_eq!(read(&settings).await, Ok(None));
}

/// What the server is sent when a process with these variables reads.
fn request_of_a_child(dir: &Path, profile: &str, more: &[(&str, &str)]) -> String {
    let server = Recorder::start();
    let mut child = Command::new(std::env::current_exe().unwrap());
    clean(&mut child, dir);
    let status = child
        .args(["--exact", "aws_settings::child_that_reads_with_its_environment"])
        .env(CHILD_PROFILE, profile)
        .env("AWS_ENDPOINT_URL_DYNAMODB", &server.url)
        .envs(more.iter().copied())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    server.only_request()
}

#[test]
fn the_backends_profile_beats_the_environment_and_the_environments_does_not() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    let keys = "[ci]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = s\n";
    std::fs::write(home.path().join(".aws/credentials"), keys).unwrap();
    let request = request_of_a_child(home.path(), "ci", &[]);
    assert!(request.contains("Credential=AKIAPROFILE/"), "{request}");
    let request = request_of_a_child(home.path(), "-", &[("AWS_PROFILE", "ci")]);
    assert!(request.contains("Credential=test/"), "{request}");
}

#[tokio::test]
async fn a_proxy_is_used_for_its_scheme_and_left_out_where_told() {
    let proxy = Recorder::start();
    let elsewhere = "http://dynamodb.invalid:8000";
    let settings = AwsSettings {
        // A bare host and port, as Go takes it.
        proxies: ProxySettings {
            http: text(proxy.url.trim_start_matches("http://")),
            https: text("http://127.0.0.1:1"),
            no_proxy: text("direct.invalid"),
            is_cgi: false,
            set_by: [Some("a variable"); 2],
        },
        ..aws_settings(elsewhere)
    };
    assert_eq!(read(&settings).await, Ok(None));
    let request = proxy.only_request();
    assert!(request.starts_with("POST http://dynamodb.invalid:8000/ "), "{request}");
    let dynamodb = text("http://direct.invalid:8000");
    let endpoints = AwsEndpoints { dynamodb, ..AwsEndpoints::default() };
    let error = read(&AwsSettings { endpoints, ..settings }).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { sent: false, .. }), "{error:?}");
    assert_eq!(proxy.requests().len(), 1);
}

#[tokio::test]
async fn fips_and_dual_stack_change_the_host_that_is_asked_for() {
    for (use_fips, use_dualstack, host) in [
        (false, false, "dynamodb.eu-west-1.amazonaws.com:443"),
        (true, false, "dynamodb-fips.eu-west-1.amazonaws.com:443"),
        (false, true, "dynamodb.eu-west-1.api.aws:443"),
        (true, true, "dynamodb-fips.eu-west-1.api.aws:443"),
    ] {
        let proxy = Recorder::start();
        let settings = AwsSettings {
            proxies: ProxySettings { https: text(&proxy.url), ..ProxySettings::default() },
            endpoints: AwsEndpoints::default(),
            use_fips: Some(use_fips),
            use_dualstack: Some(use_dualstack),
            ..aws_settings("")
        };
        // The recorder is no tunnel.
        let error = read(&settings).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { sent: false, .. }), "{error:?}");
        let request = proxy.only_request();
        assert!(request.starts_with(&format!("CONNECT {host} ")), "{host}: {request}");
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_if_its_bundle_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let authority = |name: &str| {
        let (server, authority) = Recorder::trusted();
        let path = dir.path().join(name);
        // With text around it, as such bundles often have.
        std::fs::write(&path, format!("# {name}\n{authority}\n")).unwrap();
        (server, path)
    };
    let (server, ours_path) = authority("ours.pem");
    let (_, other_path) = authority("other.pem");
    let with = |ca_bundle| AwsSettings { ca_bundle, ..aws_settings(&server.url) };
    assert_eq!(read(&with(Some(ours_path))).await, Ok(None));
    for (bundle, says) in
        [(Some(other_path), "`custom_ca_bundle` of the backend"), (None, "`AWS_CA_BUNDLE`")]
    {
        let error = read(&with(bundle)).await.unwrap_err();
        assert!(matches!(error, StoreError::Misconfigured(_)), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(server.requests().len(), 1);
}
