//! Where the backend and the environment send requests: regions, endpoints, and the switches for
//! FIPS and dual-stack, as Terraform's S3 backend takes them from its attributes and its variables.
//! What Go's SDK finds beyond them is for `store::aws`.

use std::borrow::Cow;

use super::aws_settings::Surroundings;
use super::config::Section;
use super::{AwsEndpoints, BackendError};
use crate::shown_url::{shown_url, shown_value};
use crate::version;

/// The variables of a region, in their order.
const REGION: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// The region. One in the backend has to look like one of AWS', unless it is told not to look;
/// Terraform compares it with a list, which grows with its versions.
pub(super) fn region(
    section: Section<'_>,
    around: &Surroundings<'_>,
) -> Result<String, BackendError> {
    if let Some(region) = section.text("region")? {
        let any = section.bool("skip_region_validation")?.unwrap_or(false);
        if !is_host_label(&region) || !any && !looks_like_aws(&region) {
            return Err(
                section.bad("region", format!("`{}` is not an AWS region", printed(&region)))
            );
        }
        return Ok(region);
    }
    for name in REGION {
        match around.env.get(name) {
            Some(region) if is_host_label(region) => return Ok(region.to_owned()),
            Some(region) => {
                return Err(BackendError::BadVariable {
                    name: name.to_owned(),
                    reason: format!("`{}` is not an AWS region", printed(region)),
                });
            }
            None => {}
        }
    }
    Err(BackendError::MissingRegion { place: section.place().to_owned() })
}

/// The region of STS.
pub(super) fn sts_region(section: Section<'_>) -> Result<Option<String>, BackendError> {
    match section.text("sts_region")? {
        Some(region) if !is_host_label(&region) => {
            Err(section.bad("sts_region", format!("`{}` is not an AWS region", printed(&region))))
        }
        region => Ok(region),
    }
}

fn is_host_label(region: &str) -> bool {
    !region.starts_with('-') && region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// `eu-west-1`, `us-gov-east-1`: words and a number.
fn looks_like_aws(region: &str) -> bool {
    let parts: Vec<_> = region.split('-').collect();
    let Some((number, words)) = parts.split_last() else { return false };
    let is_word = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
    words.len() > 1
        && words.iter().all(is_word)
        && !number.is_empty()
        && number.chars().all(|c| c.is_ascii_digit())
}

/// A line break would break the message.
fn printed(text: &str) -> String {
    shown_value(text).escape_debug().to_string()
}

/// The endpoints of services. An attribute wins also where it is empty, and then nothing can be
/// reached by it; but for STS it is then as if there were none. That of DynamoDB matters if there is a table.
pub(super) fn endpoints(
    section: Section<'_>,
    around: &Surroundings<'_>,
) -> Result<AwsEndpoints, BackendError> {
    let block = section.object("endpoints")?;
    let has_table = section.text("dynamodb_table")?.is_some();
    let one = |name, legacy: Option<&str>, vars: &[&str]| -> Result<Option<String>, BackendError> {
        let in_block = match block {
            Some(block) => block.text_or_empty(name)?.map(|url| (block, name, url)),
            None => None,
        };
        let flat = match legacy {
            Some(legacy) => section.text_or_empty(legacy)?.map(|url| (section, legacy, url)),
            None => None,
        };
        if let (Some(_), Some((section, legacy, _))) = (&in_block, &flat) {
            return Err(section.bad(legacy, format!("`endpoints.{name}` is set, too")));
        }
        match in_block.or(flat) {
            None => Ok(around.var(vars)),
            Some((_, "sts" | "sts_endpoint", url)) if url.is_empty() => Ok(None),
            Some((section, name, url)) => match not_a_url(&url) {
                None => Ok(Some(url)),
                Some(_) if !has_table && ["dynamodb", "dynamodb_endpoint"].contains(&name) => {
                    Ok(None)
                }
                Some(why) => Err(section.bad(name, format!("`{}` {why}", shown_url(&url)))),
            },
        }
    };
    Ok(AwsEndpoints {
        dynamodb: one(
            "dynamodb",
            Some("dynamodb_endpoint"),
            &["AWS_ENDPOINT_URL_DYNAMODB", "AWS_DYNAMODB_ENDPOINT"],
        )?,
        s3: one("s3", Some("endpoint"), &["AWS_ENDPOINT_URL_S3", "AWS_S3_ENDPOINT"])?,
        sts: one("sts", Some("sts_endpoint"), &["AWS_ENDPOINT_URL_STS", "AWS_STS_ENDPOINT"])?,
        // Terraform has this one in the block only, and its variable.
        sso: one("sso", None, &["AWS_ENDPOINT_URL_SSO"])?,
    })
}

/// Why a client cannot use it as an endpoint, if it cannot.
#[must_use]
pub fn not_a_url(text: &str) -> Option<String> {
    let (text, zone) = split_zone(text);
    if is_url(&text) {
        return match host_of(&text) {
            Some(url::Host::Ipv6(address)) if zone.is_some() && address.is_unicast_link_local() => {
                Some("has an address with a zone, which tfwrap does not support".to_owned())
            }
            Some(url::Host::Ipv4(address)) if !authority(&text).contains(&address.to_string()) => {
                // Go looks it up as a name.
                Some(format!(
                    "has a host that Terraform takes for a name: write the address as `{address}`"
                ))
            }
            _ => None,
        };
    }
    let text = &*text;
    // Go writes such a host in its ASCII form, and by other rules than anybody else.
    let host = authority(text).rsplit('@').next().unwrap_or_default();
    if host.starts_with('[') || (host.is_ascii() && !host.contains('%')) {
        let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u64>().ok());
        if port.is_some_and(|port| port > u64::from(u16::MAX)) {
            return Some("has a port above 65535".to_owned());
        }
        return Some("is not an http(s) URL".to_owned());
    }
    let ascii = url::Url::parse(text).ok().and_then(|it| Some(it.host_str()?.to_owned()));
    let ascii = ascii.filter(|it| it.is_ascii()).map(|it| format!(" (`{it}`)"));
    Some(format!(
        "has a host that is not written in ASCII: write it in ASCII{}",
        ascii.unwrap_or_default()
    ))
}

fn authority(text: &str) -> &str {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

fn host_of(text: &str) -> Option<url::Host> {
    url::Url::parse(text).ok()?.host().map(|host| host.to_owned())
}

/// The endpoint without the zone of an IPv6 address (RFC 6874), and the zone. It has a meaning only
/// for addresses of one link.
#[must_use]
pub fn split_zone(text: &str) -> (Cow<'_, str>, Option<&str>) {
    let begins = text.find("://[").and_then(|at| Some(at + authority(text).find("%25")? + 3));
    let ends = begins.and_then(|begins| Some(begins + text[begins..].find(']')?));
    match (begins, ends) {
        (Some(begins), Some(ends)) if begins + 3 < ends => {
            let without = format!("{}{}", &text[..begins], &text[ends..]);
            (Cow::Owned(without), Some(&text[begins + 3..ends]))
        }
        _ => (Cow::Borrowed(text), None),
    }
}

/// What stands in a host, its port and its user besides letters and digits.
const AUTHORITY: &str = "-._~!$&'()*+,;=:@[]";

/// Whether a client can use it as an endpoint: with its scheme, a host, and a port that there is.
/// Go escapes what does not belong into a path, but takes no control characters, and no escape
/// that is none.
#[must_use]
fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let is_http = ["http", "https"].iter().any(|it| scheme.eq_ignore_ascii_case(it));
    // The parser mends more than Go's does: a blank, a backslash.
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, rest) = rest.split_at(end);
    let name = host.rsplit('@').next().unwrap_or_default();
    let is_plain = host.chars().all(|c| c.is_ascii_graphic() && c != '\\')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || AUTHORITY.contains(c));
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let escapes = path.split('%').skip(1);
    let is_escape =
        |it: &str| it.as_bytes().get(..2).is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit));
    let is_readable =
        !rest.chars().any(|c| c.is_ascii_control()) && escapes.into_iter().all(is_escape);
    is_http
        && is_plain
        && is_readable
        && !host.is_empty()
        && url::Url::parse(&format!("{scheme}://{host}")).is_ok_and(|url| url.has_host())
}

/// A switch of an attribute and a variable; `None` leaves it to the profile.
///
/// An attribute that is `false` does not overrule the variable, which Go's SDK reads, too. And up to
/// 1.14, and in `OpenTofu`, the variable is on whatever it says, so long as it may be said.
pub(super) fn switch(
    section: Section<'_>,
    around: &Surroundings<'_>,
    attribute: &str,
    variable: &'static str,
) -> Result<Option<bool>, BackendError> {
    let said = match around.env.get(variable) {
        None => None,
        Some(value) if value.eq_ignore_ascii_case("true") => Some(true),
        Some(value) if value.eq_ignore_ascii_case("false") => Some(false),
        Some(value) => {
            return Err(BackendError::BadVariable {
                name: variable.to_owned(),
                reason: format!("`{}` is neither `true` nor `false`", printed(value)),
            });
        }
    };
    Ok(match (section.bool(attribute)?, said) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (None, Some(false)) => Some(around.program.is_some_and(version::takes_false_for_true)),
        (Some(false), Some(false)) => Some(false),
        (_, None) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_written_otherwise_is_told_how() {
        for (text, told) in [
            ("http://bücher.test:8000/é", Some("(`xn--bcher-kva.test`)")),
            ("http://b%C3%BCcher.test", Some("(`xn--bcher-kva.test`)")),
            ("http://bücher.test:99999", Some("write it in ASCII")),
            ("http://[fe80::1%25lo]", Some("which tfwrap does not support")),
            ("http://[::1%25lo]:8000/a?b", None),
            ("http://[::1%25]:8000", Some("is not an http(s) URL")),
            ("http://[::1%lo]:8000", Some("is not an http(s) URL")),
            ("http://127.1:8000", Some("write the address as `127.0.0.1`")),
            ("http://0x7f.1", Some("write the address as `127.0.0.1`")),
            ("http://2130706433:8000", Some("write the address as `127.0.0.1`")),
            ("http://0177.0.0.1", Some("write the address as `127.0.0.1`")),
            ("http://127.0.0.1:8000", None),
            ("http://127.1.test", None),
            ("foo", Some("is not an http(s) URL")),
            ("http://127.0.0.1:99999", Some("has a port above 65535")),
            ("http://h/é", None),
        ] {
            let why = not_a_url(text);
            assert_eq!(why.is_some(), told.is_some(), "{text}");
            assert!(why.is_none_or(|why| why.ends_with(told.unwrap())), "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_with_a_host() {
        for (text, expected) in [
            ("http://127.0.0.1:8000", true),
            ("HTTPS://h/base?a=b", true),
            ("http://[::1]:8000/", true),
            ("http://my_host", true),
            ("http://u:p@h", true),
            ("", false),
            ("foo", false),
            ("localhost:8000", false),
            ("127.0.0.1:8000", false),
            ("http:h", false),
            ("http:///h", false),
            ("http://", false),
            ("http://:8000", false),
            ("ftp://h", false),
            ("http://h:99999", false),
            ("http://h:http", false),
            ("http://h:8000 ", false),
            ("http://h:8000/a b", true),
            ("http://h/é?x=é", true),
            ("http://h/%2f%C3", true),
            ("http://h/%2", false),
            ("http://h/%zz", false),
            ("http://h/a\tb", false),
            ("http://é", false),
            ("http://%C3%A9", false),
            ("http://h\"{}", false),
            ("http://h\\a", false),
            ("http://h\n", false),
        ] {
            assert_eq!(is_url(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_region_is_words_and_a_number() {
        for (region, looks) in [
            ("eu-west-1", true),
            ("us-gov-east-1", true),
            ("eusc-de-east-1", true),
            ("us-isob-east-1", true),
            ("mars-1", false),
            ("EU-WEST-1", false),
            ("aws-global", false),
            ("eu-west-", false),
            ("", false),
        ] {
            assert_eq!(looks_like_aws(region), looks, "{region}");
        }
        assert!(
            is_host_label("fips-us-east-1") && !is_host_label("eu west") && !is_host_label("-")
        );
    }
}
