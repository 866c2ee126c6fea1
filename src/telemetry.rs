//! A run as spans of OpenTelemetry: its wait, its hold and its release, below the span that `TRACEPARENT` names.
//!
//! What is here is pure: what the environment asks for, and the document that is sent. Sources: W3C Trace Context
//! level 1, section 3.2; the OpenTelemetry specification, "OTLP Exporter Configuration" and "OTLP/HTTP, JSON
//! Protobuf Encoding".

use std::fmt;

use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use url::Url;

use crate::env::Env;
use crate::report::{RunOutcome, clean_to};

/// What names the span around us, and ours for the child.
pub const TRACEPARENT: &str = "TRACEPARENT";

/// The most characters of an attribute.
const MOST: usize = 200;

/// OTLP's number of a span that is neither a client's nor a server's.
const INTERNAL: u32 = 1;

/// OTLP's number of a failure.
const FAILED: u32 = 2;

/// The span around us.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parent {
    /// 32 hexadecimal digits.
    trace: String,
    /// 16 hexadecimal digits.
    span: String,
    /// Two hexadecimal digits.
    flags: String,
}

impl Parent {
    /// Reads `TRACEPARENT`; `None` if it is not one, or if its trace is not recorded.
    fn recorded(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            (part.len() == digits && part.bytes().all(is_hex)).then(|| part.to_owned())
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        // A later version may have more.
        let is_known = version != "ff" && (version != "00" || parts.next().is_none());
        let is_id = |id: &str| id.bytes().any(|c| c != b'0');
        let is_recorded = u8::from_str_radix(&flags, 16).is_ok_and(|flags| flags & 1 == 1);
        (is_known && is_id(&trace) && is_id(&span) && is_recorded).then_some(Self {
            trace,
            span,
            flags,
        })
    }
}

/// Which of a run's spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Wait,
    Hold,
    Release,
}

/// Where the spans of a run go, and what they belong to.
#[derive(Clone, PartialEq, Eq)]
pub struct Telemetry {
    parent: Parent,
    endpoint: Url,
    /// May be secrets.
    headers: Vec<(String, String)>,
    service: String,
    /// Of wait, hold and release.
    spans: [u64; 3],
}

// Written by hand: a derived form would print the headers.
impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("parent", &self.parent)
            .field("endpoint", &self.shown())
            .finish_non_exhaustive()
    }
}

/// What came of a run, for its spans. All text in it is cleaned here.
#[derive(Debug, Clone)]
pub struct TracedRun {
    /// The names of its locks.
    pub locks: Vec<String>,
    /// What it did: Terraform's verb, or `run` or `hold`.
    pub operation: String,
    /// When it asked for the locks.
    pub asked: Timestamp,
    /// When it had them; nothing if it never did.
    pub granted: Option<Timestamp>,
    /// When their release began.
    pub ended: Timestamp,
    /// When they were released.
    pub released: Timestamp,
    /// Whom it waited for last.
    pub waited_for: Option<String>,
    /// How it ended.
    pub outcome: RunOutcome,
    /// What tfwrap exits with.
    pub code: u8,
}

impl Telemetry {
    /// What the environment asks for: nothing unless it names both a parent and a receiver. `spans` are the IDs of
    /// the new spans.
    ///
    /// # Errors
    /// Why nothing is sent, in words, where it does ask for it.
    pub fn of(env: &Env, spans: [u64; 3]) -> Result<Option<Self>, String> {
        let is_off = env.get("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"));
        if !cfg!(feature = "otel") || is_off {
            return Ok(None);
        }
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| Some((name, env.get(name)?.trim())))
        };
        let named = first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]);
        let (Some(parent), Some((name, endpoint))) = (env.get(TRACEPARENT), named) else {
            return Ok(None);
        };
        let Some(parent) = Parent::recorded(parent.trim()) else { return Ok(None) };
        let protocols = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
        if let Some((name, "grpc")) = first(protocols) {
            return Err(format!("`{name}` asks for gRPC; tfwrap sends them by HTTP only"));
        }
        let url = Url::parse(endpoint)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(mut endpoint) = url else {
            return Err(format!("`{name}` is not an http(s) URL"));
        };
        // The general one is the base of all signals' paths, the other one is used as it is.
        if name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
            let path = format!("{}/v1/traces", endpoint.path().trim_end_matches('/'));
            endpoint.set_path(&path);
        }
        let headers = first(["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"]);
        let headers = headers.map(|(_, text)| pairs(text)).unwrap_or_default();
        let service = env.get("OTEL_SERVICE_NAME").unwrap_or("tfwrap").to_owned();
        // An ID of zeros is none.
        let spans = spans.map(|id| id.max(1));
        Ok(Some(Self { parent, endpoint, headers, service, spans }))
    }

    /// Where the spans are sent.
    #[must_use]
    pub fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// What goes with them; may hold secrets.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The receiver, for messages: without path, query and user.
    #[must_use]
    pub fn shown(&self) -> String {
        self.endpoint.origin().ascii_serialization()
    }

    /// The `TRACEPARENT` of what runs under the locks.
    #[must_use]
    pub fn of_child(&self) -> String {
        let Parent { trace, flags, .. } = &self.parent;
        format!("00-{trace}-{}-{flags}", self.id(Part::Hold))
    }

    /// The document with the spans of a run, in OTLP's JSON.
    #[must_use]
    pub fn document(&self, run: &TracedRun) -> String {
        let mut spans =
            vec![self.span(run, Part::Wait, run.asked, run.granted.unwrap_or(run.ended))];
        if let Some(granted) = run.granted {
            spans.push(self.span(run, Part::Hold, granted, run.ended));
            spans.push(self.span(run, Part::Release, run.ended, run.released));
        }
        let resource = [text("service.name", &self.service)];
        let scope = json!({ "name": "tfwrap", "version": env!("CARGO_PKG_VERSION") });
        let scopes = json!([{ "scope": scope, "spans": spans }]);
        json!({
            "resourceSpans": [{ "resource": { "attributes": resource }, "scopeSpans": scopes }]
        })
        .to_string()
    }

    fn id(&self, part: Part) -> String {
        format!("{:016x}", self.spans[part as usize])
    }

    fn span(&self, run: &TracedRun, part: Part, from: Timestamp, until: Timestamp) -> Value {
        let locks = run.locks.iter().map(|lock| json!({ "stringValue": clean_to(lock, MOST) }));
        let mut attributes = vec![
            json!({
                "key": "tfwrap.lock",
                "value": { "arrayValue": { "values": locks.collect::<Vec<_>>() } },
            }),
            text("tfwrap.operation", &run.operation),
            text("tfwrap.outcome", run.outcome.as_str()),
            // 64-bit numbers are strings there.
            json!({ "key": "tfwrap.exit_code", "value": { "intValue": run.code.to_string() } }),
        ];
        if let (Part::Wait, Some(whom)) = (part, &run.waited_for) {
            attributes.push(text("tfwrap.waited_for", whom));
        }
        let is_failed = match run.outcome {
            RunOutcome::Success | RunOutcome::Outdated => false,
            RunOutcome::NotReleased => part == Part::Release,
            _ => part == if run.granted.is_some() { Part::Hold } else { Part::Wait },
        };
        let (name, nanos) =
            (format!("tfwrap {part}"), |at: Timestamp| at.as_nanosecond().to_string());
        json!({
            "traceId": self.parent.trace,
            "spanId": self.id(part),
            "parentSpanId": self.parent.span,
            "name": name,
            "kind": INTERNAL,
            "startTimeUnixNano": nanos(from),
            "endTimeUnixNano": nanos(until.max(from)),
            "attributes": attributes,
            "status": if is_failed { json!({ "code": FAILED }) } else { json!({}) },
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wait => "wait",
            Self::Hold => "hold",
            Self::Release => "release",
        })
    }
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": clean_to(value, MOST) } })
}

/// Headers as OpenTelemetry writes them in a variable: `a=1,b=2`, percent-encoded.
fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(vars: &[(&str, &str)]) -> Result<Option<Telemetry>, String> {
        Telemetry::of(&vars.iter().copied().collect(), [1, 2, 0])
    }

    #[test]
    fn only_a_parent_that_is_one_and_recorded_has_children() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        let is_parent = |text: &str| of(&[(TRACEPARENT, text), endpoint]).unwrap().is_some();
        for good in [
            PARENT.to_owned(),
            PARENT.replace("-01", "-03"),
            format!("01{}-and-more", &PARENT[2..]),
        ] {
            assert!(is_parent(&good), "{good}");
        }
        for bad in [
            PARENT.replace("-01", "-00"),
            PARENT.replace("-01", "-"),
            PARENT.replace("-01", ""),
            PARENT.to_uppercase(),
            PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            PARENT.replace("b7ad6b7169203331", &"0".repeat(16)),
            format!("ff{}", &PARENT[2..]),
            format!("{PARENT}-more"),
            "\u{1b}[2J".to_owned(),
        ] {
            assert!(!is_parent(&bad), "{bad}");
        }
    }

    #[test]
    fn the_environment_says_where_to() {
        let to = |vars: &[(&str, &str)]| {
            let all: Vec<_> = vars.iter().copied().chain([(TRACEPARENT, PARENT)]).collect();
            of(&all).map(|it| it.map(|it| it.endpoint.to_string()))
        };
        let (all, traces) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        for (vars, expected) in [
            (vec![], None),
            (vec![(all, "http://c:4318")], Some("http://c:4318/v1/traces")),
            (vec![(all, "https://c/otlp/?k=v")], Some("https://c/otlp/v1/traces?k=v")),
            (vec![(all, "http://c:4318"), (traces, "http://t:1/x")], Some("http://t:1/x")),
            (vec![(traces, "http://t")], Some("http://t/")),
            (vec![(all, "http://c"), ("OTEL_SDK_DISABLED", "TRUE")], None),
            (vec![(all, "http://c"), ("OTEL_SDK_DISABLED", "no")], Some("http://c/v1/traces")),
        ] {
            assert_eq!(to(&vars), Ok(expected.map(str::to_owned)), "{vars:?}");
        }
        assert!(to(&[(all, "c:4317")]).unwrap_err().contains("is not an http(s) URL"));
        let grpc = [(all, "http://c:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        assert!(to(&grpc).unwrap_err().contains("asks for gRPC"));
        assert_eq!(of(&[(all, "http://c")]), Ok(None), "nobody asked for a trace");
    }

    #[test]
    fn headers_are_decoded_and_never_shown() {
        let telemetry = of(&[
            (TRACEPARENT, PARENT),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:pass@c/secret?key=secret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20secret%3D, x-team = a ,odd"),
        ]);
        let telemetry = telemetry.unwrap().unwrap();
        let expected = [("authorization", "Basic secret="), ("x-team", "a")];
        let headers: Vec<_> = telemetry.headers().iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(headers, expected);
        assert!(!format!("{telemetry:?} {}", telemetry.shown()).contains("secret"));
    }
}
