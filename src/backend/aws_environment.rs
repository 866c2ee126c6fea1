//! What Go's SDK refuses of the environment, before anything is asked of anyone: values that are none
//! of those it knows. After `config/env_config.go` of aws-sdk-go-v2, config 1.29.

use super::BackendError;
use super::config::Section;
use crate::env::Env;

/// Variables, what they may be, whether their case counts.
const KNOWN: [(&[&str], &[&str], bool); 7] = [
    (
        &[
            "AWS_DISABLE_REQUEST_COMPRESSION",
            "AWS_EC2_METADATA_V1_DISABLED",
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
            "AWS_S3_DISABLE_EXPRESS_SESSION_AUTH",
            "AWS_S3_DISABLE_MULTIREGION_ACCESS_POINTS",
            "AWS_S3_USE_ARN_REGION",
            "AWS_USE_DUALSTACK_ENDPOINT",
            "AWS_USE_FIPS_ENDPOINT",
        ],
        &["true", "false"],
        false,
    ),
    (&["AWS_ENABLE_ENDPOINT_DISCOVERY"], &["true", "false", "auto"], false),
    (&["AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"], &["IPv4", "IPv6"], false),
    (
        &["AWS_DEFAULTS_MODE"],
        &["auto", "cross-region", "in-region", "legacy", "mobile", "standard"],
        false,
    ),
    (&["AWS_RETRY_MODE"], &["standard", "adaptive"], true),
    (&["AWS_ACCOUNT_ID_ENDPOINT_MODE"], &["preferred", "required", "disabled"], true),
    (
        &["AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"],
        &["when_supported", "when_required"],
        false,
    ),
];

/// Refuses them, and what is not UTF-8: left out, it would be another identity.
pub(super) fn check(section: Section<'_>, env: &Env) -> Result<(), BackendError> {
    let names = KNOWN
        .iter()
        .flat_map(|(names, known, exact)| names.iter().map(move |name| (*name, *known, *exact)));
    for (name, known, exact) in names {
        let Some(value) = env.get(name) else { continue };
        let is = |known: &&&str| {
            if exact { value == **known } else { value.eq_ignore_ascii_case(known) }
        };
        if !known.iter().any(|known| is(&known)) {
            let known: Vec<_> = known.iter().map(|known| format!("`{known}`")).collect();
            return Err(section.bad(name, format!("`{value}` is none of {}", known.join(", "))));
        }
    }
    for name in ["AWS_MAX_ATTEMPTS", "AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES"] {
        if let Some(value) = env.get(name).filter(|value| value.parse::<i64>().is_err()) {
            return Err(section.bad(name, format!("`{value}` is no whole number")));
        }
    }
    match env.not_text().find(|name| name.starts_with("AWS_")) {
        Some(name) => Err(section.bad(name, "it is not UTF-8")),
        None => Ok(()),
    }
}
