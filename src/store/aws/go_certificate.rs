//! Whether Go's `crypto/x509` takes a certificate, whoever signed it. Where it is not plain that Go
//! can read one, it is refused: below us Terraform only logs that it does.

use std::net::{IpAddr, Ipv4Addr};

use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::{GeneralName, NameConstraints, ParsedExtension, X509Extension};
use x509_parser::prelude::{X509Certificate, X509Name};

/// What Go knows, and `WebPKI`, too: key usage, names, basic constraints, name
/// constraints, distribution points, policies, extended key usage.
const KNOWN: [&str; 7] =
    ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.31", "2.5.29.32", "2.5.29.37"];
/// What Go reads besides: the identifiers of keys, and where to ask more of the issuer.
const READ: [&str; 3] = ["2.5.29.14", "2.5.29.35", "1.3.6.1.5.5.7.1.1"];

/// Why Go refuses a connection on which this certificate is sent, if it does: it cannot read it.
pub(super) fn unreadable(certificate: &X509Certificate<'_>) -> Option<String> {
    if certificate.extensions_map().is_err() {
        return Some("an extension twice".to_owned());
    }
    if certificate.version().0 > 2 {
        return Some("a version that is unknown".to_owned());
    }
    if certificate.raw_serial().first().is_none_or(|byte| byte & 0x80 != 0) {
        return Some("a negative serial number".to_owned());
    }
    if certificate.tbs_certificate.signature != certificate.signature_algorithm {
        return Some("two algorithms of its signature".to_owned());
    }
    let names = [certificate.subject(), certificate.issuer()];
    let mut attributes = names.into_iter().flat_map(X509Name::iter_attributes);
    if !attributes.all(|it| is_text(it.attr_value().tag(), it.attr_value().data)) {
        return Some("a subject or an issuer that is not text".to_owned());
    }
    certificate.extensions().iter().find_map(unreadable_extension)
}

fn unreadable_extension(extension: &X509Extension<'_>) -> Option<String> {
    let id = extension.oid.to_id_string();
    match extension.parsed_extension() {
        ParsedExtension::ParseError { .. }
            if KNOWN.contains(&id.as_str()) || READ.contains(&id.as_str()) =>
        {
            Some(format!("an extension that cannot be read (`{id}`)"))
        }
        ParsedExtension::SubjectAlternativeName(names) => {
            let odd = names.general_names.iter().find(|name| !is_plain(name))?;
            Some(format!("a name that is not plain (`{}`)", shown(odd)))
        }
        ParsedExtension::NameConstraints(constraints) => {
            let odd = subtrees(constraints).find(|name| !is_plain_constraint(name))?;
            Some(format!("a constraint of names that is not plain (`{}`)", shown(odd)))
        }
        _ => None,
    }
}

/// Why Go lets this one be nobody's server and no authority, if so: it must be understood, and is not.
pub(super) fn unhandled(certificate: &X509Certificate<'_>) -> Option<String> {
    let critical = certificate.extensions().iter().filter(|extension| extension.critical);
    let unknown = critical.into_iter().find(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => !names.general_names.iter().any(is_known),
        ParsedExtension::NameConstraints(it) => !subtrees(it).all(is_known),
        _ => !KNOWN.contains(&extension.oid.to_id_string().as_str()),
    })?;
    let id = unknown.oid.to_id_string();
    Some(format!("a critical extension that Terraform does not handle (`{id}`)"))
}

fn subtrees<'a>(constraints: &'a NameConstraints<'a>) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let all = [&constraints.permitted_subtrees, &constraints.excluded_subtrees];
    all.into_iter().flatten().flatten().map(|subtree| &subtree.base)
}

/// Whether Go has a meaning for names of this kind.
fn is_known(name: &GeneralName<'_>) -> bool {
    matches!(
        name,
        GeneralName::DNSName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RFC822Name(_)
            | GeneralName::URI(_)
    )
}

fn is_plain(name: &GeneralName<'_>) -> bool {
    match name {
        GeneralName::DNSName(name) => name.is_ascii(),
        GeneralName::RFC822Name(name) => is_mailbox(name),
        GeneralName::URI(uri) => is_uri(uri),
        GeneralName::IPAddress(bytes) => matches!(bytes.len(), 4 | 16),
        GeneralName::Invalid(..) => false,
        _ => true,
    }
}

fn is_plain_constraint(name: &GeneralName<'_>) -> bool {
    let is_domain = |name: &str| is_domain(name.strip_prefix('.').unwrap_or(name));
    match name {
        GeneralName::RFC822Name(name) if name.contains('@') => is_mailbox(name),
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => is_domain(name),
        GeneralName::URI(name) => is_domain(name) && name.parse::<IpAddr>().is_err(),
        // An address and its mask.
        GeneralName::IPAddress(bytes) => match bytes.len() {
            8 | 32 => is_mask(&bytes[bytes.len() / 2..]),
            _ => false,
        },
        GeneralName::Invalid(..) => false,
        _ => true,
    }
}

/// Ones, then zeros.
fn is_mask(bytes: &[u8]) -> bool {
    let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    let mut leading = 0;
    for byte in bytes {
        leading += byte.leading_ones();
        if *byte != 0xff {
            break;
        }
    }
    ones == leading
}

fn is_domain(name: &str) -> bool {
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(|it| it.is_ascii_graphic());
    name.is_empty() || name.split('.').all(is_label)
}

fn is_mailbox(name: &str) -> bool {
    let is_local = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&it);
    name.rsplit_once('@').is_some_and(|(local, domain)| {
        local.bytes().all(is_local)
            && !local.split('.').any(str::is_empty)
            && !domain.is_empty()
            && is_domain(domain)
    })
}

/// What any reader of URIs reads alike: no user, no address of version 6, and all escapes complete.
fn is_uri(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once(':') else { return false };
    let is_scheme = scheme.starts_with(|it: char| it.is_ascii_alphabetic())
        && scheme.bytes().all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it));
    let is_written = |it: u8| it.is_ascii_alphanumeric() || b"-._~/:?#!$&'()*+,;=@%".contains(&it);
    let escapes = uri.split('%').skip(1);
    let are_escapes = escapes
        .into_iter()
        .all(|it| it.len() >= 2 && it.bytes().take(2).all(|digit| digit.is_ascii_hexdigit()));
    let host = rest.strip_prefix("//").map(|it| it.split(['/', '?', '#']).next().unwrap_or(it));
    is_scheme && are_escapes && rest.bytes().all(is_written) && host.is_none_or(is_host)
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let is_name = |it: u8| it.is_ascii_alphanumeric() || b"-._".contains(&it);
    port.bytes().all(|it| it.is_ascii_digit())
        && name.bytes().all(is_name)
        && (name.parse::<Ipv4Addr>().is_ok() || is_domain(name))
}

/// A text as Go reads those of a subject.
fn is_text(tag: Tag, data: &[u8]) -> bool {
    match tag {
        Tag::Utf8String => std::str::from_utf8(data).is_ok(),
        Tag::PrintableString => {
            data.iter().all(|it| it.is_ascii_alphanumeric() || b" '()+,-./:=?*&".contains(it))
        }
        Tag::Ia5String => data.is_ascii(),
        Tag::NumericString => data.iter().all(|it| it.is_ascii_digit() || *it == b' '),
        Tag::T61String => true,
        Tag::BmpString => data.len().is_multiple_of(2),
        _ => false,
    }
}

/// The start of what somebody wrote there.
fn shown(name: &GeneralName<'_>) -> String {
    let text = name.to_string();
    text.chars().filter(|it| it.is_ascii_graphic() || *it == ' ').take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_plain_is_a_uri() {
        for uri in
            ["spiffe://a.test/ns/b", "urn:uuid:1-2", "https://a.test:8443/x?y=z%20", "x://10.0.0.1"]
        {
            assert!(is_uri(uri), "{uri}");
        }
        for uri in [
            "http://a b/%",
            "http://a/%",
            "http://a/%zz",
            "http://a..b/",
            "http://a.:x/",
            ":x",
            "a",
            "http://[::1/",
            "http://é/",
        ] {
            assert!(!is_uri(uri), "{uri}");
        }
    }

    #[test]
    fn a_mask_has_no_gap() {
        for (mask, is) in [
            ([255, 255, 0, 0], true),
            ([255, 0, 255, 0], false),
            ([0; 4], true),
            ([254, 1, 0, 0], false),
        ] {
            assert_eq!(is_mask(&mask), is, "{mask:?}");
        }
    }
}
