//! Variables of Go's SDK that it refuses to start with, whatever they are for.
//!
//! After `config/env_config.go` of aws-sdk-go-v2 as of config 1.29 (Terraform 1.11). Those for FIPS
//! and dual-stack are read in `aws_endpoints`.

use super::BackendError;
use crate::env::Env;

/// What a variable may say. An empty one is not set.
#[derive(Clone, Copy)]
enum Kind {
    /// `true` or `false`, in any case.
    Bool,
    /// A whole number, from and to.
    Number(i64, i64),
    /// One of these, to the letter.
    Words(&'static [&'static str]),
    /// One of these, in any case.
    AnyCase(&'static [&'static str]),
}

const VARIABLES: [(&str, Kind); 15] = [
    ("AWS_DISABLE_REQUEST_COMPRESSION", Kind::Bool),
    ("AWS_EC2_METADATA_V1_DISABLED", Kind::Bool),
    ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", Kind::Bool),
    ("AWS_S3_DISABLE_EXPRESS_SESSION_AUTH", Kind::Bool),
    ("AWS_S3_DISABLE_MULTIREGION_ACCESS_POINTS", Kind::Bool),
    ("AWS_S3_USE_ARN_REGION", Kind::Bool),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", Kind::AnyCase(&["IPv4", "IPv6"])),
    ("AWS_ENABLE_ENDPOINT_DISCOVERY", Kind::AnyCase(&["true", "false", "auto"])),
    ("AWS_MAX_ATTEMPTS", Kind::Number(i64::MIN, i64::MAX)),
    ("AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES", Kind::Number(0, 10_485_760)),
    ("AWS_RETRY_MODE", Kind::Words(&["standard", "adaptive"])),
    ("AWS_ACCOUNT_ID_ENDPOINT_MODE", Kind::Words(&["preferred", "required", "disabled"])),
    (
        "AWS_DEFAULTS_MODE",
        Kind::AnyCase(&["auto", "cross-region", "in-region", "legacy", "mobile", "standard"]),
    ),
    ("AWS_REQUEST_CHECKSUM_CALCULATION", Kind::AnyCase(&["when_supported", "when_required"])),
    ("AWS_RESPONSE_CHECKSUM_VALIDATION", Kind::AnyCase(&["when_supported", "when_required"])),
];

/// Those that are paths, which need not be text.
const PATHS: [&str; 3] =
    ["AWS_CONFIG_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"];

/// Refuses what Go's SDK refuses, and what is not UTF-8: left out, it would be another identity.
pub(super) fn check(env: &Env) -> Result<(), BackendError> {
    for (name, kind) in VARIABLES {
        let Some(value) = env.get(name) else { continue };
        let is_one = |words: &[&str]| words.iter().any(|it| it.eq_ignore_ascii_case(value));
        let wanted = match kind {
            Kind::Bool if is_one(&["true", "false"]) => continue,
            Kind::Bool => "neither `true` nor `false`".to_owned(),
            Kind::Number(from, to)
                if value.parse().is_ok_and(|it: i64| (from..=to).contains(&it)) =>
            {
                continue;
            }
            Kind::Number(i64::MIN, _) => "not a whole number".to_owned(),
            Kind::Number(from, to) => format!("not a whole number from {from} to {to}"),
            Kind::Words(words) if words.contains(&value) => continue,
            Kind::AnyCase(words) if is_one(words) => continue,
            Kind::Words(words) | Kind::AnyCase(words) => {
                format!("none of `{}`", words.join("`, `"))
            }
        };
        let reason = format!("`{}` is {wanted}", value.escape_debug());
        return Err(BackendError::BadVariable { name: name.to_owned(), reason });
    }
    match env.not_text().find(|name| name.starts_with("AWS_") && !PATHS.contains(name)) {
        Some(name) => Err(BackendError::BadVariable {
            name: name.to_owned(),
            reason: "it is not UTF-8".to_owned(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn a_value_that_go_refuses_is_refused_by_its_name() {
        for (name, value, refused) in [
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "1", true),
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "TRUE", false),
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "", false),
            ("AWS_S3_DISABLE_MULTIREGION_ACCESS_POINTS", "odd", true),
            ("AWS_MAX_ATTEMPTS", "many", true),
            ("AWS_MAX_ATTEMPTS", "-1", false),
            ("AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES", "-1", true),
            ("AWS_RETRY_MODE", "STANDARD", true),
            ("AWS_RETRY_MODE", "adaptive", false),
            ("AWS_DEFAULTS_MODE", "Legacy", false),
            ("AWS_DEFAULTS_MODE", "odd", true),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "v6", true),
            ("AWS_ENABLE_ENDPOINT_DISCOVERY", "Auto", false),
            ("AWS_ACCOUNT_ID_ENDPOINT_MODE", "Required", true),
            ("AWS_RESPONSE_CHECKSUM_VALIDATION", "WHEN_REQUIRED", false),
        ] {
            let found = check(&[(name, value)].into_iter().collect());
            assert_eq!(found.is_err(), refused, "{name}={value}");
            if let Err(error) = found {
                assert!(error.to_string().contains(name), "{error}");
            }
        }
        for (name, refused) in [("AWS_ACCESS_KEY_ID", true), ("AWS_CONFIG_FILE", false)] {
            let value = OsStr::from_bytes(b"/m\xfc");
            assert_eq!(check(&[(name, value)].into_iter().collect()).is_err(), refused, "{name}");
        }
    }
}
