//! Spans of a run at a receiver of OpenTelemetry's, with real Terraform.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::harness::{Finished, Gate, Running, applying, pause, run, tfwrap};
use crate::support::recorder::Recorder;
use crate::support::servers::{local_backend_dir, serve};
use crate::wrapped::uptime;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SECRET: &str = "sesame";

fn traced(dir: &Path, to: &str) -> Command {
    let mut command = tfwrap(dir);
    command
        .env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01"))
        .env("TRACESTATE", "vendor=1")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", to)
        .env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-key={SECRET}"));
    command
}

/// What a receiver has got in one request.
struct Document {
    head: String,
    spans: Vec<Value>,
}

impl Document {
    fn read(request: &str) -> Self {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).expect(body);
        let scope = &body["resourceSpans"][0]["scopeSpans"][0];
        Self { head: head.to_lowercase(), spans: scope["spans"].as_array().unwrap().clone() }
    }

    /// The spans of the one run that was received.
    fn only(receiver: &Recorder) -> Self {
        Self::read(&receiver.only_request())
    }

    fn names(&self) -> Vec<&str> {
        self.spans.iter().map(|span| span["name"].as_str().unwrap()).collect()
    }

    fn attribute(&self, span: usize, key: &str) -> Value {
        let all = self.spans[span]["attributes"].as_array().unwrap();
        all.iter().find(|it| it["key"] == key).map_or(Value::Null, |it| it["value"].clone())
    }

    /// Begin and end, in nanoseconds.
    fn times(&self, span: usize) -> [u128; 2] {
        ["startTimeUnixNano", "endTimeUnixNano"]
            .map(|key| self.spans[span][key].as_str().unwrap().parse().unwrap())
    }
}

#[tokio::test]
async fn the_spans_of_a_run_are_children_and_the_command_is_below_its_hold() {
    let (dir, receivers) = (local_backend_dir(), [Recorder::start(), Recorder::start()]);
    let path = dir.path();
    let gate = Gate::new(path, "first");
    let provisioner =
        format!("echo $TRACEPARENT $TRACESTATE > {}/told; {}", path.display(), gate.command());
    let mut command = traced(path, &receivers[0].url);
    command.env("OTEL_SERVICE_NAME", "deploy");
    let first = Running::start(&mut applying(command, &provisioner));
    gate.reached();
    let mut second = traced(path, &receivers[1].url);
    let second = Running::start(second.args(["plan", "-no-color", "-var", "command=sesame"]));
    second.says("waiting");
    pause(Duration::from_millis(1200));
    assert!(receivers[0].requests().is_empty(), "they are sent when all is over");
    gate.open();
    for one in [first, second] {
        let said = one.finish().expect_code(0).stderr;
        assert!(!said.contains("span"), "{said}");
    }

    let sent = Document::only(&receivers[0]);
    assert!(sent.head.starts_with("post /v1/traces http/1.1\r\n"), "{}", sent.head);
    assert!(sent.head.contains("\r\ncontent-type: application/json"), "{}", sent.head);
    assert!(sent.head.contains("\r\nx-key: sesame"), "{}", sent.head);
    assert!(receivers[0].only_request().contains(r#""stringValue":"deploy""#));
    assert_eq!(sent.names(), ["tfwrap wait", "tfwrap hold", "tfwrap release"]);
    let mut ids = Vec::new();
    for (index, span) in sent.spans.iter().enumerate() {
        assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(TRACE), &json!(PARENT)));
        let [begin, end] = sent.times(index);
        assert!(begin <= end && (index == 0 || sent.times(index - 1)[1] == begin), "{span}");
        assert_eq!(span["status"], json!({}));
        assert_eq!(sent.attribute(index, "tfwrap.outcome"), json!({ "stringValue": "success" }));
        assert_eq!(sent.attribute(index, "tfwrap.exit_code"), json!({ "intValue": "0" }));
        ids.push(span["spanId"].as_str().unwrap().to_owned());
    }
    assert_eq!(sent.attribute(1, "tfwrap.operation"), json!({ "stringValue": "apply" }));
    let lock = sent.attribute(1, "tfwrap.lock")["arrayValue"]["values"][0].to_string();
    assert!(lock.contains("local://"), "{lock}");
    // The provisioner of the Terraform that ran.
    let told = std::fs::read_to_string(path.join("told")).unwrap();
    assert_eq!(told, format!("00-{TRACE}-{}-01 vendor=1\n", ids[1]));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each has its own ID");

    let waited = Document::only(&receivers[1]);
    let [begin, end] = waited.times(0);
    assert!(end - begin > 1_000_000_000, "{begin} {end}");
    let whom = waited.attribute(0, "tfwrap.waited_for")["stringValue"].to_string();
    assert!(whom.contains(" (apply)"), "{whom}");
    for request in receivers.iter().flat_map(Recorder::requests) {
        let (_, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(!body.contains(SECRET) && !body.contains("command="), "{body}");
    }
}

#[tokio::test]
async fn how_a_run_ended_is_in_the_span_in_which_it_did() {
    let (dir, receiver) = (local_backend_dir(), Recorder::start());
    let mut failing = traced(dir.path(), &receiver.url);
    run(applying_failing(&mut failing)).expect_code(1);
    let sent = Document::only(&receiver);
    let codes: Vec<_> = sent.spans.iter().map(|span| span["status"]["code"].clone()).collect();
    assert_eq!(codes, [Value::Null, json!(2), Value::Null]);
    assert_eq!(sent.attribute(1, "tfwrap.exit_code"), json!({ "intValue": "1" }));

    let gate = Gate::new(dir.path(), "held");
    let holder = Running::start(&mut applying(tfwrap(dir.path()), &gate.command()));
    gate.reached();
    let receiver = Recorder::start();
    let mut late = traced(dir.path(), &receiver.url);
    run(late.args(["--lock-timeout", "0s", "plan", "-no-color"])).expect_code(75);
    gate.open();
    holder.finish().expect_code(0);
    let sent = Document::only(&receiver);
    assert_eq!(sent.names(), ["tfwrap wait"]);
    assert_eq!(sent.spans[0]["status"], json!({ "code": 2 }));
    assert_eq!(sent.attribute(0, "tfwrap.outcome"), json!({ "stringValue": "timed-out" }));
}

fn applying_failing(command: &mut Command) -> &mut Command {
    command.args(["apply", "-auto-approve", "-no-color", "-var", "command=exit 3"])
}

/// A receiver that reads and then does this: answers, or nothing.
fn receiver(answer: Option<&'static str>) -> String {
    let address = serve(move |listener| async move {
        let mut open = Vec::new();
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut some = [0; 1024];
            let read = connection.read(&mut some).await;
            if let (Ok(_), Some(answer)) = (read, answer) {
                drop(connection.write_all(answer.as_bytes()).await);
            } else {
                open.push(connection);
            }
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_receiver_that_fails_neither_delays_nor_fails_a_run() {
    let dir = local_backend_dir();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (to, says) in [
        (receiver(None), "no answer within 1s"),
        (receiver(Some("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")), "HTTP 500"),
        (
            receiver(Some("HTTP/1.1 302 No\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n")),
            "HTTP 302",
        ),
        (receiver(Some("no HTTP at all\r\n\r\n")), "were not sent to"),
        (format!("http://{closed}"), "refused"),
        ("http://no-such-host.invalid".to_owned(), "no-such-host.invalid"),
        ("127.0.0.1:4318".to_owned(), "is not an http(s) URL"),
    ] {
        let ran = |args: &[&str]| {
            let began = uptime();
            let lock = format!("file://{}/x.lock", dir.path().display());
            let mut command = traced(dir.path(), &to);
            command.args(args).args(["--lock", &lock, "run", "--", "true"]);
            let done = run(&mut command).expect_code(0);
            (done, uptime().since(began))
        };
        let (quiet, took) = ran(&[]);
        assert_eq!(quiet.stderr, "", "{to}");
        assert!(took < Duration::from_secs(8), "{to}: {took:?}");
        let (told, _) = ran(&["-v"]);
        assert!(told.stderr.contains(says), "{says}: {}", told.stderr);
        assert!(!told.stderr.contains(SECRET), "{}", told.stderr);
    }
}

#[tokio::test]
async fn what_is_no_parent_has_no_children() {
    let dir = local_backend_dir();
    let receiver = Recorder::start();
    let told = |name: &str, value: &str| -> Finished {
        let mut command = traced(dir.path(), &receiver.url);
        command.env(name, value).args(["run", "--", "sh", "-c", "echo \"$TRACEPARENT\""]);
        run(&mut command).expect_code(0)
    };
    let off = format!("00-{TRACE}-{PARENT}-00");
    for odd in ["", "rubbish", "00-0-0-01", &off, &off.to_uppercase()] {
        assert_eq!(told("TRACEPARENT", odd).stdout, format!("{odd}\n"));
    }
    let parent = format!("00-{TRACE}-{PARENT}-01");
    assert_eq!(told("OTEL_SDK_DISABLED", "true").stdout, format!("{parent}\n"));
    assert_eq!(receiver.requests(), Vec::<String>::new());
    assert_ne!(told("OTEL_SERVICE_NAME", "x").stdout, format!("{parent}\n"));
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn a_receiver_by_tls_is_asked_if_its_certificate_is_trusted() {
    let dir = local_backend_dir();
    let (receiver, certificate) = Recorder::trusted();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, certificate).unwrap();
    let asked = |trusted: Option<&Path>| {
        let mut command = traced(dir.path(), &receiver.url);
        command.envs(trusted.map(|file| ("SSL_CERT_FILE", file)));
        run(command.args(["-v", "run", "--", "true"])).expect_code(0).stderr
    };
    let refused = asked(None);
    assert!(refused.contains("were not sent to `https://localhost:"), "{refused}");
    assert_eq!(receiver.requests(), Vec::<String>::new());
    let taken = asked(Some(&file));
    assert!(!taken.contains("were not sent"), "{taken}");
    assert_eq!(Document::only(&receiver).names().len(), 3);
}
