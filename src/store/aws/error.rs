//! What an error of the SDK means for a store. Decided by error codes and types, never by
//! messages: every server words them differently.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::{ConnectorError, DispatchFailure, SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use jiff::Unit;
use rustls::{AlertDescription, CertificateError, OtherError};

use super::super::{FlawKind, StoreError};
use super::answer::{NotTheService, clock_error};
use super::http::{TooLong, Unusable};
use crate::duration;

/// A server's message is shown up to here; a signature error would bring the whole request.
const MESSAGE_LEN: usize = 300;

/// The name of a region is shown up to here; whoever answers may have written anything.
const REGION_LEN: usize = 40;

/// What was asked of whom, for messages.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Asked<'a> {
    /// The permission it takes, such as `dynamodb:PutItem`.
    pub(in super::super) action: &'a str,
    /// The object and its place, such as "table `locks` in `eu-west-1`".
    pub(in super::super) object: &'a str,
    /// What such an object must be like, where a refused request may mean that it is not.
    pub(in super::super) must: Option<&'a str>,
}

/// Finds the meaning of `error`.
pub(in super::super) fn classify<E>(
    asked: Asked<'_>,
    error: &SdkError<E, HttpResponse>,
) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    // The credentials ended just before the request: what our own provider says of it.
    if find::<CredentialsError>(error).is_some()
        && let Some(error) = find::<StoreError>(error)
    {
        return unsent(error.clone());
    }
    if let Some(error) = find::<NotTheService>(error) {
        let sent = error.may_have_passed_it_on();
        return StoreError::NotTheStore { detail: error.to_string(), sent };
    }
    if let Some(error) = too_long(error) {
        return error;
    }
    let Asked { action, object, .. } = asked;
    let unavailable = |what: &str, sent| StoreError::Unavailable {
        detail: format!("no answer from {object} to `{action}`: {what}"),
        sent,
    };
    match error {
        SdkError::ConstructionFailure(_) => StoreError::Misconfigured(
            format!("cannot ask {object} for `{action}`: {}", chain_text(error.source())).into(),
        ),
        SdkError::TimeoutError(_) => unavailable("it took too long", true),
        SdkError::DispatchFailure(failure) => dispatch(asked, failure),
        SdkError::ResponseError(_) => {
            let text = chain_text(error.source());
            unavailable(&format!("the answer could not be read: {text}"), true)
        }
        SdkError::ServiceError(answer) => {
            let (code, message) = (answer.err().code(), answer.err().message());
            if let Some(error) = clock(answer.raw(), code.unwrap_or_default()) {
                return error;
            }
            let region = answer.raw().headers().get("x-amz-bucket-region");
            let is_other = |region: &&str| !asked.object.contains(&format!("in `{region}`"));
            match region.filter(is_other).filter(|_| !answer.raw().status().is_success()) {
                Some(region) if leads_elsewhere(code) => elsewhere(asked, region),
                _ => service(asked, answer.raw().status().as_u16(), code, message),
            }
        }
        _ => unavailable(&chain_text(Some(error)), true),
    }
}

/// Whether a request was refused for the region that it was sent to, or may have been: what is no
/// `GET` is answered without a word.
fn leads_elsewhere(code: Option<&str>) -> bool {
    matches!(
        code.unwrap_or_default(),
        "" | "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "BadRequest"
    )
}

fn elsewhere(Asked { object, .. }: Asked<'_>, region: &str) -> StoreError {
    let region: String = region.chars().filter(char::is_ascii_graphic).take(REGION_LEN).collect();
    StoreError::Misconfigured(
        format!("{object} is in another region, `{region}`: set `region = \"{region}\"`").into(),
    )
}

fn dispatch(asked: Asked<'_>, failure: &DispatchFailure) -> StoreError {
    let Asked { action, object, .. } = asked;
    let connector = failure.as_connector_error();
    if let Some(unusable) = connector.and_then(|error| untried(error)) {
        return unusable;
    }
    let text = chain_text(connector.and_then(Error::source));
    match connector.and_then(|error| of_tls(error)) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            let why = match why {
                CertificateError::Other(OtherError(why)) => why.to_string(),
                why => format!("{why:?}"),
            };
            return StoreError::Misconfigured(
                FlawKind::Distrusted.flaw(format!("{object} is not trusted: {why}")),
            );
        }
        Some(
            why @ (rustls::Error::AlertReceived(
                AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity
                | AlertDescription::ProtocolVersion,
            )
            | rustls::Error::PeerIncompatible(_)),
        ) => {
            return StoreError::Misconfigured(FlawKind::Distrusted.flaw(format!(
                "{object} and tfwrap have no TLS parameters in common ({why}): tfwrap supports \
                 versions 1.2 and 1.3, AES-GCM and ChaCha20, X25519, P-256 and P-384"
            )));
        }
        _ => {}
    }
    let of_client = connector.and_then(|error| find::<hyper_util::client::legacy::Error>(error));
    // The SDK found no endpoint, or none that is a URI: it never came to the client.
    if of_client.is_none() && connector.is_some_and(ConnectorError::is_other) {
        return StoreError::Misconfigured(
            format!("cannot ask {object} for `{action}`: {text}").into(),
        );
    }
    // Without a connection the request never left; after it, nobody knows.
    let connected = of_client.is_none_or(|error| !error.is_connect());
    let detail = format!("no answer from {object} to `{action}`: {text}");
    StoreError::Unavailable { detail, sent: connected }
}

/// A refusal because of the time at which the request was signed, if it is one. Terraform's own
/// request would be refused alike.
fn clock(answer: &HttpResponse, code: &str) -> Option<StoreError> {
    // These may also mean another secret.
    if !["InvalidSignatureException", "SignatureDoesNotMatch", "RequestTimeTooSkewed"]
        .contains(&code)
    {
        return None;
    }
    let off = clock_error(answer)?;
    let side = if off.is_positive() { "fast" } else { "slow" };
    let by = duration::format(off.round(Unit::Minute).unwrap_or(off).unsigned_abs());
    Some(StoreError::Credentials(FlawKind::Clock.flaw(format!(
        "this machine's clock is off: it is {by} {side} compared with AWS, which refuses the \
         requests that it signs (`{code}`), Terraform's too"
    ))))
}

fn service(asked: Asked<'_>, status: u16, code: Option<&str>, message: Option<&str>) -> StoreError {
    let Asked { action, object, must } = asked;
    let mut said = match code {
        Some(code) => format!("`{code}`"),
        None => format!("HTTP status {status}"),
    };
    if let Some(message) = message.filter(|message| !message.is_empty()) {
        let line: String =
            message.lines().next().unwrap_or_default().chars().take(MESSAGE_LEN).collect();
        let _ = write!(said, ": {line}");
    }
    let failed = || StoreError::Failed(format!("{object} failed to do `{action}`: {said}"));
    match code.unwrap_or_default() {
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "ThrottledException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded"
        | "LimitExceededException"
        | "EC2ThrottledException"
        | "SlowDown" => StoreError::Throttled(format!("{object}: {said}")),
        // The server waited for the rest of the request, or for another one: whether anything came
        // of it is not said.
        "RequestTimeout" | "RequestTimeoutException" | "PriorRequestNotComplete" => failed(),
        // As Go's SDK has it: tried again whatever the code.
        _ if [500, 502, 503, 504].contains(&status) => failed(),
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" | "TokenRefreshRequired" => {
            StoreError::Credentials(
                FlawKind::Expired.flaw(format!("the AWS credentials have expired ({said})")),
            )
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "InvalidToken"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "NotSignedUp" => {
            StoreError::Credentials(format!("the AWS credentials are not valid ({said})").into())
        }
        // Of the clock alone, and where the answer's own time does not show it.
        "RequestTimeTooSkewed" => StoreError::Credentials(FlawKind::Clock.flaw(
            "this machine's clock is off by more than AWS allows (`RequestTimeTooSkewed`): AWS \
             refuses the requests that it signs, Terraform's too",
        )),
        // The server's message holds the whole request here.
        code @ ("InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException") => StoreError::Credentials(FlawKind::Signature.flaw(format!(
            "the signature of the request was refused (`{code}`): the secret key is wrong, or the \
             clock of this machine is off"
        ))),
        "AccessDenied"
        | "AccessDeniedException"
        | "UnauthorizedOperation"
        | "AllAccessDisabled" => denied(asked, &said),
        "ResourceNotFoundException" | "NoSuchBucket" => {
            StoreError::Missing(format!("{object} does not exist"))
        }
        // A transaction on the same item, or a write in another region of a global table: it was
        // refused, and passes.
        "TransactionConflictException"
        | "TransactionInProgressException"
        | "ReplicatedWriteConflictException"
        | "OperationAborted"
        | "ConditionalRequestConflict" => not_applied(object, &said),
        // A condition that this store does not know.
        "NotImplemented" => StoreError::Misconfigured(
            format!("{object} does not do `{action}` as requested: {said}").into(),
        ),
        "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => {
            StoreError::Misconfigured(format!("{object} is in another region: {said}").into())
        }
        _ => match status {
            // It did what it was asked, and what it says of that is damaged.
            200..=299 => StoreError::NotTheStore {
                detail: format!("the answer of {object} to `{action}` cannot be read: {said}"),
                sent: true,
            },
            429 => StoreError::Throttled(format!("{object}: {said}")),
            409 => not_applied(object, &said),
            500.. => failed(),
            401 | 403 => denied(asked, &said),
            301 | 307 | 308 => {
                StoreError::Misconfigured(format!("{object} is in another region: {said}").into())
            }
            _ => {
                let refused = format!("{object} refuses `{action}`: {said}");
                StoreError::Misconfigured(match must {
                    Some(must) => FlawKind::Schema.flaw(format!("{refused}; {must}")),
                    None => refused.into(),
                })
            }
        },
    }
}

fn denied(Asked { action, object, .. }: Asked<'_>, said: &str) -> StoreError {
    let kind = if action.starts_with("sts:") { FlawKind::Role } else { FlawKind::Named };
    StoreError::Denied(kind.flaw(format!("`{action}` on {object}: {said}")))
}

fn not_applied(object: &str, said: &str) -> StoreError {
    StoreError::Busy(format!("{object} is busy: {said}"))
}

/// The same where nothing was sent to a store: whose answer is missing is a source of credentials.
pub(super) fn unsent(error: StoreError) -> StoreError {
    match error {
        StoreError::Throttled(detail)
        | StoreError::Busy(detail)
        | StoreError::Full(detail)
        | StoreError::Failed(detail)
        | StoreError::Unavailable { detail, .. } => StoreError::Unavailable { detail, sent: false },
        StoreError::NotTheStore { detail, .. } => StoreError::NotTheStore { detail, sent: false },
        StoreError::Denied(_)
        | StoreError::Credentials(_)
        | StoreError::Missing(_)
        | StoreError::Misconfigured(_) => error,
    }
}

/// What TLS says.
fn of_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    chain(error).find_map(|error| {
        // An `io::Error` shows its content, but not as its source; and it may hold another.
        let mut error = error;
        while let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            error = inner;
        }
        error.downcast_ref()
    })
}

/// What kept a request from being tried, if that is so.
pub(super) fn untried(error: &(dyn Error + 'static)) -> Option<StoreError> {
    find::<Unusable>(error).map(|unusable| StoreError::Misconfigured(unusable.0.clone()))
}

/// What answered at greater length than a service does, if that is so.
pub(super) fn too_long(error: &(dyn Error + 'static)) -> Option<StoreError> {
    let detail = find::<TooLong>(error)?.to_string();
    Some(StoreError::NotTheStore { detail, sent: true })
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref())
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// The error and its sources, each said once: the reason is often the last of five.
pub(super) fn chain_text(error: Option<&(dyn Error + 'static)>) -> String {
    let mut text = String::new();
    for error in error.into_iter().flat_map(chain) {
        let part = error.to_string();
        if text.contains(&part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
    }
    if text.is_empty() { "no reason given".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'static> = Asked {
        action: "dynamodb:PutItem",
        object: "table `t` in `r`",
        must: Some("a lock table needs a string hash key `LockID`"),
    };

    fn meaning(status: u16, code: &str) -> StoreError {
        service(ASKED, status, Some(code), Some("what the server says\nand its second line"))
    }

    #[test]
    fn codes_decide_and_not_messages() {
        for code in ["ThrottlingException", "ProvisionedThroughputExceededException", "SlowDown"] {
            assert!(matches!(meaning(400, code), StoreError::Throttled(_)), "{code}");
        }
        for code in ["ExpiredToken", "ExpiredTokenException"] {
            let error = meaning(400, code);
            assert!(matches!(error, StoreError::Credentials(_)), "{code}");
            assert!(error.to_string().contains("expired"), "{error}");
        }
        for code in
            ["UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException"]
        {
            assert!(matches!(meaning(400, code), StoreError::Credentials(_)), "{code}");
        }
        assert_eq!(
            meaning(400, "AccessDeniedException").to_string(),
            "access denied: `dynamodb:PutItem` on table `t` in `r`: `AccessDeniedException`: what \
             the server says"
        );
        let missing = meaning(400, "ResourceNotFoundException");
        assert_eq!(missing, StoreError::Missing("table `t` in `r` does not exist".to_owned()));
        let schema = meaning(400, "ValidationException");
        assert!(matches!(schema, StoreError::Misconfigured(_)));
        assert!(schema.to_string().contains("hash key `LockID`"), "{schema}");
    }

    #[test]
    fn an_answer_that_cannot_be_read_says_nothing_of_the_table() {
        let error = service(ASKED, 200, None, None);
        assert!(matches!(error, StoreError::NotTheStore { sent: true, .. }), "{error:?}");
        assert!(!error.to_string().contains("hash key"), "{error}");
    }

    /// Of `aws-sdk-go-v2`'s `aws/retry/standard.go`: what Terraform tries again, whatever the status.
    #[test]
    fn what_terraform_tries_again_is_worth_another_try() {
        const UNKNOWN: [&str; 3] =
            ["RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete"];
        const THROTTLED: [&str; 13] = [
            "Throttling",
            "ThrottlingException",
            "ThrottledException",
            "RequestThrottledException",
            "TooManyRequestsException",
            "ProvisionedThroughputExceededException",
            "TransactionInProgressException",
            "RequestLimitExceeded",
            "BandwidthLimitExceeded",
            "LimitExceededException",
            "RequestThrottled",
            "SlowDown",
            "EC2ThrottledException",
        ];
        for status in [400, 403, 409, 500, 503] {
            for code in UNKNOWN.into_iter().chain(THROTTLED) {
                let error = meaning(status, code);
                assert!(error.is_worth_another_try(), "{status} {code}: {error:?}");
                let unknown = error.outcome_is_unknown();
                assert!(unknown || !UNKNOWN.contains(&code), "{status} {code}: {error:?}");
            }
        }
        for status in [500, 502, 503, 504] {
            for code in ["Whatever", "AccessDenied", "NoSuchBucket", "ExpiredToken"] {
                let error = meaning(status, code);
                assert!(error.is_worth_another_try() && error.outcome_is_unknown(), "{error:?}");
            }
        }
    }

    #[test]
    fn a_skewed_time_names_the_clock_alone() {
        let StoreError::Credentials(flaw) = meaning(403, "RequestTimeTooSkewed") else { panic!() };
        assert_eq!(flaw.kind, FlawKind::Clock);
        assert!(flaw.text.contains("clock") && !flaw.text.contains("secret"), "{flaw}");
    }

    #[test]
    fn only_a_failure_of_the_server_leaves_the_outcome_open() {
        assert!(meaning(500, "InternalServerError").outcome_is_unknown());
        assert!(service(ASKED, 503, None, None).outcome_is_unknown());
        for (status, code) in [(400, "TransactionConflictException"), (409, "Whatever")] {
            let error = meaning(status, code);
            assert!(error.is_transient() && !error.outcome_is_unknown(), "{code}");
        }
    }
}
