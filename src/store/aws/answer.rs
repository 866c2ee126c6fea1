//! Whether what answers is the service. A proxy, a login page or a wrong address answers, too: with
//! a page that is taken for a refusal, or with nothing, which the SDK takes for success.

use std::error::Error;
use std::fmt;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextMut,
    BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use jiff::civil::DateTime;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::http::origin;

/// A type of content is shown up to here.
const KIND_LEN: usize = 60;

/// Looks at each answer before it is believed.
#[derive(Debug, Clone, Copy)]
pub(super) enum OwnAnswers {
    /// Speaks JSON, and adds a checksum.
    DynamoDb,
    /// Speaks XML.
    S3,
    /// Of S3, too: says nothing of what it did but by the status, and gives objects as they are.
    Objects,
    /// Speaks XML.
    Sts,
}

impl fmt::Display for OwnAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DynamoDb => "DynamoDB",
            Self::S3 | Self::Objects => "S3",
            Self::Sts => "STS",
        })
    }
}

/// Where a request went: the scheme, the host and the port.
#[derive(Debug, Clone)]
struct AskedAt(String);

/// When it was signed, by this machine's clock; it goes with its answer.
#[derive(Debug, Clone)]
struct SignedAt(Option<Timestamp>);

impl Storable for SignedAt {
    type Storer = StoreReplace<Self>;
}

impl Storable for AskedAt {
    type Storer = StoreReplace<Self>;
}

impl Intercept for OwnAnswers {
    fn name(&self) -> &'static str {
        "OwnAnswers"
    }

    // Afterwards the request is gone.
    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request();
        let signed_at = request.headers().get("x-amz-date").and_then(|at| {
            let at = DateTime::strptime("%Y%m%dT%H%M%SZ", at).ok()?;
            Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
        });
        bag.interceptor_state().store_put(AskedAt(origin(request.uri())));
        bag.interceptor_state().store_put(SignedAt(signed_at));
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(signed_at) = bag.load::<SignedAt>() {
            context.response_mut().add_extension(signed_at.clone());
        }
        Ok(())
    }

    // Not before it: the body has not been read by then.
    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let at = bag.load::<AskedAt>().map_or("the endpoint", |at| &at.0);
        self.judge(at, context.response()).map_err(Into::into)
    }
}

/// Services refuse what was signed 5 minutes off (S3: 15); less is no reason.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(4);

/// How far this machine's clock is from that of who answered, where it is too far: positive if it
/// is fast.
pub(super) fn clock_error(answer: &HttpResponse) -> Option<SignedDuration> {
    let SignedAt(signed_at) = answer.extension()?;
    let theirs = rfc2822::parse(answer.headers().get("date")?).ok()?.timestamp();
    let off = signed_at.as_ref()?.duration_since(theirs);
    (off.abs() > CLOCK_TOLERANCE).then_some(off)
}

impl OwnAnswers {
    fn judge(self, at: &str, answer: &HttpResponse) -> Result<(), NotTheService> {
        // One that broke off is an error already.
        let Some(body) = answer.body().bytes() else { return Ok(()) };
        let status = answer.status().as_u16();
        let header = |name: &str| answer.headers().get(name);
        // A failure of whoever it is leaves all open in any case, and passes.
        if status == 429 || status >= 500 {
            return Ok(());
        }
        let ok = (200..300).contains(&status);
        let sum = header("x-amz-crc32").and_then(|sum| sum.trim().parse::<u32>().ok());
        let why = if status == 407 {
            Why::Login
        } else if matches!(self, Self::DynamoDb)
            && sum.is_some_and(|sum| sum != crc32fast::hash(body))
        {
            Why::Checksum
        } else {
            let is_own = match self {
                Self::DynamoDb => match serde_json::from_slice(body) {
                    Ok(Value::Object(said)) => {
                        ok || ["__type", "code"].iter().any(|name| said.contains_key(*name))
                    }
                    _ => false,
                },
                Self::Objects if (ok || status == 412) && body.is_empty() => true,
                Self::S3 | Self::Objects | Self::Sts => root(body).is_some_and(|root| {
                    if ok {
                        ["Result", "Response", "Configuration"]
                            .iter()
                            .any(|end| root.ends_with(end))
                    } else {
                        root.starts_with("Error")
                    }
                }),
            };
            if is_own {
                return Ok(());
            }
            Why::Other
        };
        let kind = if body.is_empty() { None } else { header("content-type") };
        let kind = kind.map(essence).filter(|kind| !kind.is_empty());
        Err(NotTheService {
            service: self,
            at: at.to_owned(),
            status,
            kind,
            is_empty: body.is_empty(),
            why,
        })
    }
}

/// The type without its parameters; whoever answers may have written anything.
fn essence(kind: &str) -> String {
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.chars().filter(char::is_ascii_graphic).take(KIND_LEN).collect()
}

/// The name of the outermost element.
fn root(body: &[u8]) -> Option<&str> {
    let mut text = std::str::from_utf8(body).ok()?;
    loop {
        text = text.split_once('<')?.1;
        if !text.starts_with(['?', '!']) {
            let end = text.find(|c: char| c.is_whitespace() || c == '>' || c == '/')?;
            return Some(&text[..end]);
        }
    }
}

/// Somebody else's answer, or one that was damaged on its way.
#[derive(Debug)]
pub(super) struct NotTheService {
    service: OwnAnswers,
    at: String,
    status: u16,
    kind: Option<String>,
    is_empty: bool,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Login,
    Checksum,
    Other,
}

impl NotTheService {
    /// Whether the request may have been passed on to the service all the same.
    pub(super) fn may_have_passed_it_on(&self) -> bool {
        self.why != Why::Login
    }
}

impl fmt::Display for NotTheService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, at, status, .. } = self;
        if self.why == Why::Checksum {
            return write!(
                f,
                "`{at}` answered HTTP {status} with a body that does not match its checksum \
                 `x-amz-crc32`; does a proxy in between change answers?"
            );
        }
        write!(f, "`{at}` is not {service}: it answered HTTP {status} with ")?;
        match &self.kind {
            Some(kind) if kind.contains("json") && self.status < 300 => {
                write!(f, "{kind} that is cut short or is not an answer from {service}")?;
            }
            Some(kind) => f.write_str(kind)?,
            None if self.is_empty => f.write_str("nothing in it")?,
            None => f.write_str("content without a type")?,
        }
        f.write_str(match self.why {
            Why::Login => "; the proxy wants a login",
            Why::Checksum | Why::Other => "; is a proxy or a login page in between?",
        })
    }
}

impl Error for NotTheService {}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_runtime_api::http::StatusCode;
    use aws_smithy_types::body::SdkBody;

    fn judged(
        service: OwnAnswers,
        status: u16,
        headers: &[(&'static str, &'static str)],
        body: &str,
    ) -> Option<String> {
        let mut answer =
            HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body));
        for (name, value) in headers {
            answer.headers_mut().insert(*name, *value);
        }
        service.judge("http://h:1", &answer).err().map(|error| error.to_string())
    }

    #[test]
    fn an_answer_is_the_services_own_or_somebody_elses() {
        use OwnAnswers::{DynamoDb, S3, Sts};
        const JSON: &[(&str, &str)] = &[("content-type", "application/x-amz-json-1.0")];
        const HTML: &[(&str, &str)] = &[("content-type", "text/html; charset=utf-8")];
        const NONE: &[(&str, &str)] = &[];
        const XML: &str = "<?xml version=\"1.0\"?>\n<!-- a -->\n";
        for (service, status, headers, body) in [
            (DynamoDb, 200, JSON, "{}"),
            (DynamoDb, 200, NONE, " {\"Item\": {}}\n"),
            (DynamoDb, 200, &[("x-amz-crc32", "2745614147")], "{}"),
            (DynamoDb, 400, JSON, "{\"__type\":\"x#ValidationException\"}"),
            // Passes, whoever says it.
            (DynamoDb, 503, HTML, "<html>"),
            (DynamoDb, 429, HTML, ""),
            (S3, 200, NONE, &format!("{XML}<ListBucketResult xmlns=\"s3\"/>")),
            (S3, 200, NONE, "<VersioningConfiguration xmlns=\"s3\"/>"),
            (S3, 403, NONE, "<Error><Code>AccessDenied</Code></Error>"),
            (Sts, 200, NONE, "<AssumeRoleResponse></AssumeRoleResponse>"),
            (Sts, 403, NONE, &format!("{XML}<ErrorResponse xmlns=\"sts\">")),
        ] {
            assert_eq!(judged(service, status, headers, body), None, "{service} {status} {body}");
        }
        let page = "is a proxy or a login page in between?";
        for (service, status, headers, body, says) in [
            (
                DynamoDb,
                403,
                HTML,
                "<html>",
                format!(
                    "`http://h:1` is not DynamoDB: it answered HTTP 403 with text/html; {page}"
                ),
            ),
            (DynamoDb, 200, HTML, "<html>", "HTTP 200 with text/html; is".to_owned()),
            (DynamoDb, 302, NONE, "", format!("HTTP 302 with nothing in it; {page}")),
            (
                DynamoDb,
                407,
                HTML,
                "<html>",
                "HTTP 407 with text/html; the proxy wants a login".to_owned(),
            ),
            (DynamoDb, 200, JSON, "", "with nothing in it".to_owned()),
            (DynamoDb, 200, JSON, "{\"Item\":{", "x-amz-json-1.0 that is cut short".to_owned()),
            (DynamoDb, 200, JSON, "[]", "is not an answer".to_owned()),
            (
                DynamoDb,
                404,
                JSON,
                "{\"message\":\"Forbidden\"}",
                "HTTP 404 with application/x-amz-json-1.0;".to_owned(),
            ),
            (DynamoDb, 200, &[("x-amz-crc32", "1")], "{}", "its checksum `x-amz-crc32`".to_owned()),
            (
                S3,
                200,
                HTML,
                "<!DOCTYPE html><html>",
                "is not S3: it answered HTTP 200 with text/html".to_owned(),
            ),
            (S3, 200, NONE, "", "nothing in it".to_owned()),
            (S3, 403, NONE, "no", "content without a type".to_owned()),
            (Sts, 200, NONE, "{}", "is not STS".to_owned()),
        ] {
            let said = judged(service, status, headers, body).expect("refused");
            assert!(said.contains(&says), "{said}");
        }
    }

    #[test]
    fn only_a_proxy_that_wants_a_login_has_surely_passed_nothing_on() {
        let body = SdkBody::from("<html>");
        for (status, may) in [(407, false), (403, true), (200, true)] {
            let status = StatusCode::try_from(status).unwrap();
            let answer = HttpResponse::new(status, body.try_clone().unwrap());
            let refused = OwnAnswers::DynamoDb.judge("http://h", &answer).unwrap_err();
            assert_eq!(refused.may_have_passed_it_on(), may);
        }
    }
}
