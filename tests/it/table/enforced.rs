//! A server that lets through only what a policy allows, as IAM would; and what works there with the
//! policy that `table policy` prints.

use std::path::Path;
use std::sync::{Arc, Mutex};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::policy;
use crate::support::harness::{Gate, Running, applying, eventually, run, tfwrap};
use crate::support::proxy::{Request, forward};
use crate::support::s3_server::{aws_like, backend_dir};
use crate::support::servers::{BUCKET, REGION, dynamodb, s3_backend_dir_at, serve, terraform};

/// The server, and what it refused.
#[derive(Debug, Clone)]
struct Enforcer {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    /// Nothing: all is allowed.
    statements: Mutex<Option<Vec<Value>>>,
    refused: Mutex<Vec<String>>,
}

/// What is asked for, as policies name it.
#[derive(Debug)]
struct Action {
    name: String,
    resource: String,
    leading_key: Option<String>,
}

impl Enforcer {
    fn before(upstream: &str) -> Self {
        let shared = Arc::new(Shared {
            upstream: upstream.trim_start_matches("http://").to_owned(),
            statements: Mutex::default(),
            refused: Mutex::default(),
        });
        let address = serve({
            let shared = Arc::clone(&shared);
            move |listener| accept(listener, shared)
        });
        Self { url: format!("http://{address}"), shared }
    }

    /// From now on only this is allowed.
    fn enforce(&self, policies: &[&Value]) {
        let all = policies.iter().flat_map(|it| it["Statement"].as_array().unwrap().clone());
        *self.shared.statements.lock().unwrap() = Some(all.collect());
    }

    fn take_refused(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.refused.lock().unwrap())
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        // A client that goes away is none of our business.
        tokio::spawn(async move { drop(exchange(connection, &shared).await) });
    }
}

async fn exchange(mut client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let Some(request) = Request::read(&mut client).await? else { return Ok(()) };
    let action = action_of(&request);
    let is_allowed = {
        let statements = shared.statements.lock().unwrap();
        statements.as_ref().is_none_or(|all| all.iter().any(|it| allows(it, &action)))
    };
    let reply = if is_allowed {
        forward(&shared.upstream, &request).await?
    } else {
        shared.refused.lock().unwrap().push(format!("{action:?}"));
        refusal(&action)
    };
    client.write_all(&reply).await?;
    client.shutdown().await
}

fn refusal(action: &Action) -> Vec<u8> {
    let (status, body) = if action.name.starts_with("s3:") {
        (403, "<Error><Code>AccessDenied</Code><Message>by the policy</Message></Error>".to_owned())
    } else {
        (
            400,
            json!({ "__type": "x#AccessDeniedException", "message": "by the policy" }).to_string(),
        )
    };
    let head = format!(
        "HTTP/1.1 {status} No\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head, body].concat().into_bytes()
}

fn action_of(request: &Request) -> Action {
    let method = request.operation.as_str();
    if let Ok(body) = serde_json::from_slice::<Value>(&request.body)
        && let Some(table) = body["TableName"].as_str()
    {
        return Action {
            name: format!("dynamodb:{method}"),
            resource: format!("arn:aws:dynamodb:{REGION}:123456789012:table/{table}"),
            leading_key: Some(request.key.clone()).filter(|key| !key.is_empty()),
        };
    }
    let path = request.key.split('?').next().unwrap().trim_start_matches('/');
    let path = percent_decode_str(path).decode_utf8().unwrap();
    let name = match method {
        "ListObjectsV2" => "ListBucket",
        "GET" if !path.trim_end_matches('/').contains('/') => "GetBucketConfiguration",
        "GET" | "HEAD" => "GetObject",
        "PUT" => "PutObject",
        "DELETE" => "DeleteObject",
        other => other,
    };
    Action {
        name: format!("s3:{name}"),
        resource: format!("arn:aws:s3:::{}", path.trim_end_matches('/')),
        leading_key: None,
    }
}

/// One or several.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

fn allows(statement: &Value, action: &Action) -> bool {
    assert_eq!(statement["Effect"], "Allow");
    let conditions = statement["Condition"].as_object();
    let holds = conditions.is_none_or(|conditions| {
        conditions.iter().all(|(test, of)| {
            assert_eq!(test, "ForAllValues:StringLike", "no other one is understood");
            let keys = of.as_object().unwrap();
            keys.iter().all(|(name, values)| {
                assert_eq!(name, "dynamodb:LeadingKeys");
                let key = action.leading_key.as_ref();
                key.is_none_or(|key| texts(values).iter().any(|it| is_like(it, key)))
            })
        })
    });
    holds
        && texts(&statement["Action"]).contains(&action.name.as_str())
        && texts(&statement["Resource"]).iter().any(|it| is_like(it, &action.resource))
}

/// As IAM compares: `*` is anything.
fn is_like(pattern: &str, text: &str) -> bool {
    assert!(!pattern.contains(['?', '$']), "not needed here");
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// What Terraform needs for the state itself, and for its list of workspaces.
fn of_the_state(key: &str) -> Value {
    json!({ "Statement": [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject"],
            "Resource": format!("arn:aws:s3:::{BUCKET}/{key}"),
        },
        { "Effect": "Allow", "Action": "s3:ListBucket", "Resource": format!("arn:aws:s3:::{BUCKET}") },
    ] })
}

fn init(dir: TempDir) -> TempDir {
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    dir
}

/// One applies, two wait in the queue, and stock Terraform is shut out and then works.
fn contend(dir: &Path) {
    let gate = Gate::new(dir, "first");
    let first = Running::start(&mut applying(tfwrap(dir), &gate.command()));
    gate.reached();
    let others: Vec<_> = (0..2)
        .map(|n| {
            let running = Running::start(&mut applying(tfwrap(dir), "true"));
            running.says("waiting for the lock");
            eventually("it stands in line", || {
                let out =
                    run(tfwrap(dir).args(["status", "--format", "json"])).expect_code(0).stdout;
                let document: Value = serde_json::from_str(&out).unwrap();
                document["locks"][0]["waiters"].as_array().is_some_and(|all| all.len() == n + 1)
            });
            running
        })
        .collect();
    let stock = run(&mut applying(terraform(dir), "true")).expect_code(1);
    assert!(stock.stderr.contains("Error acquiring the state lock"), "{}", stock.stderr);
    gate.open();
    for run in [first].into_iter().chain(others) {
        run.finish().expect_code(0);
    }
    run(&mut applying(terraform(dir), "true")).expect_code(0);
}

/// What `doctor` says of the permissions.
fn examined(dir: &Path, code: i32) -> String {
    let done = run(tfwrap(dir).args(["doctor"])).expect_code(code);
    let lines: Vec<_> = done.stdout.lines().filter(|it| it.contains("permissions")).collect();
    lines.join("\n")
}

/// Takes what a value of the policy ends with out of it.
fn without(policy: &Value, end: &str) -> Value {
    let text = policy.to_string();
    let changed = text.replace(&format!("{end}\""), ".nowhere\"");
    assert_ne!(changed, text);
    serde_json::from_str(&changed).unwrap()
}

#[tokio::test]
async fn a_contended_apply_works_with_the_printed_policy_of_a_table_and_nothing_else() {
    let (key, table) = ("table/enforced/terraform.tfstate", "table-enforced");
    dynamodb().create_lock_table(table).await;
    let server = Enforcer::before(&dynamodb().url);
    let dir = init(s3_backend_dir_at(&server.url, key, table));
    let printed: Value = serde_json::from_str(&policy(dir.path(), "json")).unwrap();
    server.enforce(&[&printed]);
    contend(dir.path());
    assert_eq!(server.take_refused(), [""; 0]);
    let said = examined(dir.path(), 0);
    assert!(said.starts_with("pass"), "{said}");
    // It looks at the table, too, and does without.
    let refused = server.take_refused();
    assert!(refused.len() == 1 && refused[0].contains("dynamodb:DescribeTable"), "{refused:?}");

    // Each part of it is needed.
    server.enforce(&[&without(&printed, "dynamodb:DeleteItem")]);
    assert!(examined(dir.path(), 1).contains("dynamodb:DeleteItem"));
    server.enforce(&[&without(&printed, ".tfwrap/*")]);
    assert!(examined(dir.path(), 1).starts_with("fail"));
    server.enforce(&[&without(&printed, "-md5")]);
    server.take_refused();
    run(&mut applying(tfwrap(dir.path()), "true"));
    assert!(server.take_refused().iter().any(|it| it.contains("-md5")));
}

#[test]
fn a_contended_apply_works_with_the_printed_policy_of_lock_files_and_nothing_else() {
    let key = "table/enforced-files/terraform.tfstate";
    let server = Enforcer::before(&aws_like().url);
    let dir = init(backend_dir(&server.url, key, ""));
    let printed: Value = serde_json::from_str(&policy(dir.path(), "json")).unwrap();
    server.enforce(&[&printed, &of_the_state(key)]);
    contend(dir.path());
    assert_eq!(server.take_refused(), [""; 0]);
    let said = examined(dir.path(), 0);
    assert!(said.starts_with("pass"), "{said}");
    let refused = server.take_refused();
    assert!(refused.iter().all(|it| it.contains("GetBucketConfiguration")), "{refused:?}");

    server.enforce(&[&without(&printed, "s3:DeleteObject"), &of_the_state(key)]);
    assert!(examined(dir.path(), 1).contains("s3:DeleteObject"));
    server.enforce(&[&without(&printed, ".tfwrap/*.tflock"), &of_the_state(key)]);
    assert!(examined(dir.path(), 1).starts_with("fail"));
}

#[tokio::test]
async fn in_another_workspace_the_bucket_is_listed_and_doctor_says_whether_it_may_be() {
    let (key, table) = ("table/ws/terraform.tfstate", "table-ws");
    dynamodb().create_lock_table(table).await;
    let dir = init(s3_backend_dir_at(&dynamodb().url, key, table));
    run(terraform(dir.path()).args(["workspace", "new", "-no-color", "dev"])).expect_code(0);
    let printed: Value = serde_json::from_str(&policy(dir.path(), "json")).unwrap();
    let item = format!("{BUCKET}/env:/dev/{key}");
    let keys =
        &printed["Statement"][0]["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"];
    assert_eq!(keys[0], item);
    assert_eq!(printed["Statement"][1]["Action"][0], "s3:ListBucket");
    let done = run(tfwrap(dir.path()).args(["doctor"])).expect_code(0);
    assert!(done.stdout.contains("  bucket "), "{}", done.stdout);
}
