//! Each error, with its hint and its exit code, as text shows it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use tfwrap::backend::BackendError;
use tfwrap::error::{Error, Leftover};
use tfwrap::exit_code;
use tfwrap::report::{Notice, Text};
use tfwrap::store::{FlawKind, StoreError};
use tfwrap::terraform::ArgsError;

use crate::agreed;

fn said(error: &Error) -> String {
    let code = exit_code::of_error(error);
    let notice = Notice::Error { message: error.to_string(), hint: error.hint(), code };
    let now = "2026-11-21T09:16:11.5Z".parse().expect("a time");
    format!("exit code {code}\n{}", Text::default().render(&notice, now))
}

/// Checks that each of `kinds` is there, and joins what is said of them.
fn all<E>(
    kinds: &[&str],
    errors: Vec<E>,
    kind: impl Fn(&E) -> &'static str,
    said: impl Fn(&E) -> String,
) -> String {
    let mut texts = Vec::new();
    let mut left: Vec<&str> = kinds.to_vec();
    for error in errors {
        let kind = kind(&error);
        left.retain(|it| *it != kind);
        texts.push(format!("{kind}: {}", said(&error)));
    }
    assert!(left.is_empty(), "no example of {left:?}");
    texts.join("\n")
}

/// A kind for each variant, the list of them, and no wildcard: a new variant does not compile until
/// it is here, and the test fails until there is an example of it.
macro_rules! kinds {
    ($list:ident, $of:ident, $type:ident: $($variant:ident),+) => {
        const $list: &[&str] = &[$(stringify!($variant)),+];
        fn $of(error: &$type) -> &'static str {
            match error {
                $($type::$variant { .. } => stringify!($variant)),+
            }
        }
    };
}

kinds!(TOP, top, Error: Usage, Config, Store, NotAcquired, NotFree, Refused, LeftBehind, Outdated, Lost,
    Interrupted, NotFound, NotExecutable, Machine, Internal);
kinds!(STORE, store, StoreError: Throttled, Busy, Unavailable, Full, Failed, NotTheStore, Denied, Credentials,
    Missing, Misconfigured);
kinds!(BACKEND, backend, BackendError: NotInitialised, Unreadable, NotRegular, TooLarge, BadRecord,
    BadHcl, PartialBackend, BadAttribute, OthersHome, BadVariable, MissingRegion, BadWorkspace,
    CorruptPlan);
kinds!(ARGS, args, ArgsError: Variable);

/// What the store says is set in here in words of its own; what tfwrap makes of it is not.
fn store_errors() -> Vec<StoreError> {
    use FlawKind::{
        CaBundle, Clock, Distrusted, Expired, InTheWay, LineBreak, Listing, LoggedOut, Making,
        NoCredentials, Role, Schema, Signature, SocksProxy, Unreadable,
    };
    let text = str::to_owned;
    let of = |kind: FlawKind, text: &str| kind.flaw(text);
    let unavailable =
        |detail: &str, sent| StoreError::Unavailable { detail: detail.to_owned(), sent };
    vec![
        StoreError::Throttled(text("ThrottlingException")),
        StoreError::Busy(text("the bucket `b` is busy with another request")),
        unavailable("no answer within 5s", true),
        unavailable("connection refused", false),
        StoreError::Full(text("no space left on device")),
        StoreError::Failed(text("the store answered 500")),
        StoreError::NotTheStore { detail: text("a page answered, with 302"), sent: true },
        StoreError::Denied(text("`dynamodb:PutItem` on the table `locks`").into()),
        StoreError::Denied(of(Role, "`sts:AssumeRole` on `arn:aws:iam::1:role/r`")),
        StoreError::Denied(of(Listing, "`dynamodb:Scan` on the table `locks`")),
        StoreError::Denied(of(Making, "`dynamodb:CreateTable` on the table `locks`")),
        StoreError::Credentials(of(NoCredentials, "no AWS credentials were found")),
        StoreError::Credentials(of(LoggedOut, "log in: `aws sso login --profile a`")),
        StoreError::Credentials(of(Expired, "the AWS credentials have expired (`ExpiredToken`)")),
        StoreError::Credentials(of(LineBreak, "`AWS_SECRET_ACCESS_KEY` has a line break in it")),
        StoreError::Credentials(of(Signature, "the signature of the request was refused")),
        StoreError::Credentials(of(Clock, "this machine's clock is off: it is 10m fast")),
        StoreError::Credentials(of(Unreadable, "cannot read the web identity token `/t`")),
        StoreError::Credentials(text("`AWS_PROFILE` names `p`, which is in no file").into()),
        StoreError::Missing(text("the table `locks` does not exist in `eu-west-1`")),
        StoreError::Misconfigured(of(Schema, "the table `locks` needs a hash key `LockID`")),
        StoreError::Misconfigured(of(LineBreak, "`AWS_SESSION_TOKEN` has a line break in it")),
        StoreError::Misconfigured(of(InTheWay, "`/d/x` is a pipe, not a lock file")),
        StoreError::Misconfigured(of(Unreadable, "cannot read the AWS profiles in `/c`")),
        StoreError::Misconfigured(of(CaBundle, "the CA bundle `/ca` cannot be used")),
        StoreError::Misconfigured(of(
            Distrusted,
            "`locks` is not trusted: its certificate has expired",
        )),
        StoreError::Misconfigured(of(SocksProxy, "tfwrap cannot use the SOCKS proxy `socks5://p`")),
    ]
}

fn backend_errors() -> Vec<BackendError> {
    let place = || "`main.tf:2`".to_owned();
    let (init, reason) = (|| "terraform init".to_owned(), || "why".to_owned());
    let path = || PathBuf::from("/w/a b");
    let source = io::Error::from(io::ErrorKind::PermissionDenied);
    vec![
        BackendError::NotInitialised { place: place(), kind: "s3".into(), init: init() },
        BackendError::Unreadable { path: path(), source },
        BackendError::NotRegular { path: path(), kind: tfwrap::opened::Kind::Pipe },
        BackendError::TooLarge { path: path(), limit: 16 },
        BackendError::BadRecord { path: path(), reason: reason() },
        BackendError::BadHcl { place: place(), reason: reason() },
        BackendError::PartialBackend { place: place(), missing: "key", init: init() },
        BackendError::BadAttribute { place: place(), attribute: "key".into(), reason: reason() },
        BackendError::OthersHome { path: "~u/w/a b".into() },
        BackendError::BadVariable { name: "AWS_MAX_ATTEMPTS".into(), reason: reason() },
        BackendError::MissingRegion { place: place() },
        BackendError::BadWorkspace { name: "a/b".into(), origin: place() },
        BackendError::CorruptPlan { path: path(), reason: reason() },
    ]
}

/// Texts of their own are those of whoever makes the error; `typed` has them as far as no server is
/// needed.
fn top_errors() -> Vec<Error> {
    let (message, hint) = (|| "<what and where>".to_owned(), || Some("<what helps>".to_owned()));
    let lock = || "dynamodb://locks/tfb/a/terraform.tfstate".to_owned();
    vec![
        Error::Usage { message: message(), hint: hint() },
        Error::Config { message: message(), hint: hint() },
        Error::Store { lock: lock(), source: StoreError::Failed("<the store>".into()) },
        Error::NotAcquired { waited: "30m".into(), holder: "<who>".into(), hint: hint() },
        Error::NotFree { message: message(), hint: hint() },
        Error::Refused { message: message(), hint: hint() },
        Error::LeftBehind { message: message(), hint: hint() },
        Error::Outdated { message: message(), hint: hint() },
        Error::Lost { lock: lock() },
        Error::Interrupted { signal: 15, name: "SIGTERM".into(), leftover: Leftover::Nothing },
        Error::NotFound { message: message(), hint: hint() },
        Error::NotExecutable { message: message(), hint: hint() },
        Error::Machine { message: message(), hint: hint() },
        Error::Internal("<what>".into()),
    ]
}

#[test]
fn every_error_is_as_agreed() {
    let of_store = |lock: &'static str| {
        let said = move |source: &StoreError| {
            said(&Error::Store { lock: lock.into(), source: source.clone() })
        };
        all(STORE, store_errors(), store, said)
    };
    let config = |message: String, hint: String| said(&Error::Config { message, hint: Some(hint) });
    let arguments = ["TF_CLI_ARGS", "TF_CLI_ARGS_plan"].map(|variable| ArgsError::Variable {
        variable: variable.into(),
        reason: "a quote is not closed",
    });
    let usage = |error: &ArgsError| {
        said(&Error::Usage { message: error.to_string(), hint: Some(error.hint()) })
    };
    let texts = [
        ("top", all(TOP, top_errors(), top, said)),
        ("dynamodb", of_store("dynamodb://locks/tfb/a")),
        ("file", of_store("file:///locks/a")),
        (
            "backend",
            all(BACKEND, backend_errors(), backend, |error| {
                config(error.to_string(), error.hint())
            }),
        ),
        ("arguments", all(ARGS, arguments.into(), args, usage)),
    ];
    let texts: BTreeMap<_, _> = texts.map(|(name, text)| (name.to_owned(), text)).into();
    agreed("errors", &texts);
}
