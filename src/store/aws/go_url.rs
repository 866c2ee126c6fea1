//! What Go makes of the path and the query of an endpoint: `net/url`, and what smithy-go's clients
//! do to it (Terraform 1.11). Neither is a URL's path to the letter.

use std::borrow::Cow;

use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_decode_str, percent_encode,
};

/// What stands for itself anywhere.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What Go escapes in a path that it writes itself.
const PATH: &AsciiSet = &UNRESERVED
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// What it leaves as it is in one that it was given, besides.
const LEFT: &[u8] = b"-_.~$&+,/:;=@!'()*[]%";

/// An endpoint in its parts.
pub(super) struct GoUrl<'a> {
    /// Scheme and host.
    base: &'a str,
    /// As written.
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> GoUrl<'a> {
    /// Of what [`crate::backend::not_a_url`] accepts.
    pub(super) fn split(text: &'a str) -> Self {
        let text = text.split('#').next().unwrap_or_default();
        let (text, query) = match text.split_once('?') {
            Some((text, query)) => (text, Some(query)),
            None => (text, None),
        };
        let host = text.find("://").map_or(0, |at| at + 3);
        let end = text[host..].find('/').map_or(text.len(), |at| host + at);
        Self { base: &text[..end], path: &text[end..], query }
    }

    pub(super) fn has_path(&self) -> bool {
        !self.path.is_empty()
    }

    pub(super) fn has_query(&self) -> bool {
        self.query.is_some()
    }

    pub(super) fn query(&self) -> Option<&'a str> {
        self.query
    }

    /// Where a service with one path is asked: the decoded path is cleaned, and ends with a slash.
    pub(super) fn of_one_path(&self) -> String {
        let mut path = clean(&self.decoded());
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        let mut url = format!("{}{}", self.base, escaped(&path, &path));
        if let Some(query) = self.query {
            let encoded = encoded(query);
            // A mark that was written alone stays.
            if query.is_empty() || !encoded.is_empty() {
                url.push('?');
            }
            url.push_str(&encoded);
        }
        url
    }

    /// What S3 has before its buckets: cleaned, and its escapes kept where that changed nothing.
    pub(super) fn of_buckets(&self) -> String {
        let mut path = escaped(&clean(&self.decoded()), &clean(self.path.as_bytes()));
        if !path.ends_with('/') {
            path.push('/');
        }
        format!("{}{path}", self.base)
    }

    /// The same for an endpoint that went through the rules: they decode it and read it anew.
    pub(super) fn of_buckets_by_rules(&self) -> String {
        let mut path = rewritten(&self.decoded());
        if !path.ends_with('/') {
            path.push('/');
        }
        format!("{}{path}", self.base)
    }

    /// What is not cleaned: the path as it is written, but for what must be escaped.
    pub(super) fn as_written(&self) -> String {
        format!("{}{}", self.base, self.written_path())
    }

    /// The path of that.
    pub(super) fn written_path(&self) -> String {
        rewritten(self.path.as_bytes())
    }

    fn decoded(&self) -> Cow<'a, [u8]> {
        percent_decode_str(self.path).into()
    }
}

/// A path that was read and is sent. Go remembers only what differs from what it would write.
fn rewritten(written: &[u8]) -> String {
    let path = Cow::from(percent_decode(written));
    let own = percent_encode(&path, PATH).to_string();
    escaped(&path, if own.as_bytes() == written { &path } else { written })
}

/// A path as it is sent: as written, where that is allowed and means it.
fn escaped(path: &[u8], written: &[u8]) -> String {
    match std::str::from_utf8(written) {
        Ok(text)
            if written.iter().all(|it| it.is_ascii_alphanumeric() || LEFT.contains(it))
                && has_whole_escapes(text)
                && *Cow::from(percent_decode_str(text)) == *path =>
        {
            text.to_owned()
        }
        _ => percent_encode(path, PATH).to_string(),
    }
}

/// The shortest form of a path from the root.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in path.split(|it| *it == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            part => kept.push(part),
        }
    }
    [b"/", &*kept.join(&b'/')].concat()
}

/// An address with a further query: Go writes the two as one.
pub(super) fn with_query(uri: &str, query: &str) -> String {
    let (path, own) = uri.split_once('?').unwrap_or((uri, ""));
    format!("{path}?{}", encoded(&format!("{query}&{own}")))
}

/// A query, read and written anew, by its keys. What cannot be read has been refused
/// ([`unreadable_query`]).
fn encoded(query: &str) -> String {
    let read = |text: &str| {
        let text = text.replace('+', " ");
        let bytes = Cow::from(percent_decode_str(&text)).into_owned();
        has_whole_escapes(&text).then(|| percent_encode(&bytes, UNRESERVED).to_string())
    };
    let mut pairs: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((read(key)?, read(value)?))
        })
        .collect();
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join("&")
}

/// Why Go's clients cannot read a query, if that is so.
pub(super) fn unreadable_query(query: &str) -> Option<String> {
    let pairs = || query.split('&');
    pairs().find_map(|pair| {
        if pair.contains(';') {
            return Some("invalid semicolon separator in query".to_owned());
        }
        let escapes = pair.match_indices('%').map(|(at, _)| &pair[at..]);
        let odd = escapes.into_iter().find(|it| !has_whole_escapes(it.get(..3).unwrap_or(it)));
        let shown = odd.map(|it| it.chars().take(3).collect::<String>().escape_debug().to_string());
        shown.map(|shown| format!("invalid URL escape `{shown}`"))
    })
}

/// Whether two digits follow every `%`.
fn has_whole_escapes(text: &str) -> bool {
    let is_digit = |it: Option<&u8>| it.is_some_and(u8::is_ascii_hexdigit);
    let mut bytes = text.as_bytes();
    while let Some(at) = bytes.iter().position(|it| *it == b'%') {
        if !is_digit(bytes.get(at + 1)) || !is_digit(bytes.get(at + 2)) {
            return false;
        }
        bytes = &bytes[at + 3..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Terraform 1.11.4 asked for objects, and for the credentials of a login.
    #[test]
    fn a_query_goes_with_the_requests_own_in_the_order_of_the_keys() {
        for (uri, query, sent) in [
            (
                "http://h/b?list-type=2&prefix=env%3A%2F",
                "a=b",
                "http://h/b?a=b&list-type=2&prefix=env%3A%2F",
            ),
            ("http://h/b/k", "a=b", "http://h/b/k?a=b"),
            (
                "http://h/a/federation/credentials?role_name=r&account_id=1",
                "b=1&a=2",
                "http://h/a/federation/credentials?a=2&account_id=1&b=1&role_name=r",
            ),
        ] {
            assert_eq!(with_query(uri, query), sent);
        }
    }

    #[test]
    fn a_query_that_go_cannot_read_is_told() {
        for (query, why) in [
            ("", None),
            ("a=b&c=%41+d&é=&", None),
            ("%zz", Some("invalid URL escape `%zz`")),
            ("a=1&b=%4", Some("invalid URL escape `%4`")),
            ("a=%é1", Some("invalid URL escape `%é1`")),
            ("a;b", Some("invalid semicolon separator in query")),
        ] {
            assert_eq!(unreadable_query(query).as_deref(), why, "{query}");
        }
    }

    /// For the objects of bucket `b` at `AWS_ENDPOINT_URL`.
    #[test]
    fn paths_before_buckets_are_decoded_by_the_rules() {
        for (path, sent) in [
            ("", "/"),
            ("/a", "/a/"),
            ("/a//b/../c", "/a//b/../c/"),
            ("/a%2Fb", "/a/b/"),
            ("/A%2BB/", "/A+B/"),
            ("/a b", "/a%20b/"),
            ("/é", "/%C3%A9/"),
            ("/%FF", "/%FF/"),
            ("/%2541", "/%41/"),
            ("/a%5Bb", "/a[b/"),
            ("/a\"b", "/a%22b/"),
        ] {
            let text = format!("http://h{path}");
            let found = GoUrl::split(&text).of_buckets_by_rules();
            assert_eq!(found, format!("http://h{sent}"), "{path}");
        }
    }

    /// As Terraform 1.11.4 asked a server: for the lock at an endpoint of the backend's, for the
    /// objects of bucket `b` at one, and for the lock at `AWS_ENDPOINT_URL`.
    #[test]
    fn paths_are_those_that_go_asks_for() {
        for (path, one, buckets, written) in [
            ("", "/", "/", ""),
            ("/", "/", "/", "/"),
            ("/a", "/a/", "/a/", "/a"),
            ("/a/", "/a/", "/a/", "/a/"),
            ("/a//b", "/a/b/", "/a/b/", "/a//b"),
            ("/a/./b", "/a/b/", "/a/b/", "/a/./b"),
            ("/a/../b", "/b/", "/b/", "/a/../b"),
            ("/..", "/", "/", "/.."),
            ("/a/%2e%2e/b", "/b/", "/b/", "/a/%2e%2e/b"),
            ("/a%2Fb", "/a/b/", "/a%2Fb/", "/a%2Fb"),
            ("/%2F", "/", "/", "/%2F"),
            ("/A%2BB", "/A+B/", "/A%2BB/", "/A%2BB"),
            ("/A+B", "/A+B/", "/A+B/", "/A+B"),
            ("/a%20b", "/a%20b/", "/a%20b/", "/a%20b"),
            ("/a b/c", "/a%20b/c/", "/a%20b/c/", "/a%20b/c"),
            ("/a ", "/a%20/", "/a%20/", "/a%20"),
            ("/é", "/%C3%A9/", "/%C3%A9/", "/%C3%A9"),
            ("/%FF", "/%FF/", "/%FF/", "/%FF"),
            ("/%41", "/A/", "/%41/", "/%41"),
            ("/%2541", "/%2541/", "/%2541/", "/%2541"),
            ("/a[b", "/a[b/", "/a[b/", "/a[b"),
            ("/%25", "/%25/", "/%25/", "/%25"),
            ("/%25%2f", "/%25/", "/%25/", "/%25%2f"),
            ("//%25", "/%25/", "/%25/", "//%25"),
            ("/%41%25", "/A%25/", "/%41%25/", "/%41%25"),
            ("/%25a", "/%25a/", "/%25a/", "/%25a"),
            ("/%25.", "/%25./", "/%25./", "/%25."),
            ("/%25..%29%C3", "/%25..%29%C3/", "/%25..%29%C3/", "/%25..%29%C3"),
            ("/a%5Bb", "/a[b/", "/a%5Bb/", "/a[b"),
            ("/a\"b", "/a%22b/", "/a%22b/", "/a%22b"),
            ("/a\\b", "/a%5Cb/", "/a%5Cb/", "/a%5Cb"),
            (
                "/a{b}<c>|^`",
                "/a%7Bb%7D%3Cc%3E%7C%5E%60/",
                "/a%7Bb%7D%3Cc%3E%7C%5E%60/",
                "/a%7Bb%7D%3Cc%3E%7C%5E%60",
            ),
            (
                "/a;b:c@d=e&f$g!*'()~_-.",
                "/a;b:c@d=e&f$g!*'()~_-./",
                "/a;b:c@d=e&f$g!*'()~_-./",
                "/a;b:c@d=e&f$g!*'()~_-.",
            ),
            ("/%3F%23", "/%3F%23/", "/%3F%23/", "/%3F%23"),
            ("/a#f?x", "/a/", "/a/", "/a"),
            ("?a=b", "/?a=b", "/", ""),
            ("/x?", "/x/?", "/x/", "/x"),
            ("/x?&", "/x/", "/x/", "/x"),
            ("/a//?x", "/a/?x=", "/a/", "/a//"),
            ("/a?x=/../y", "/a/?x=%2F..%2Fy", "/a/", "/a"),
            ("/a?x=é", "/a/?x=%C3%A9", "/a/", "/a"),
            ("/a?x=a b", "/a/?x=a%20b", "/a/", "/a"),
            ("?b=1+2&a=2&a=1", "/?a=2&a=1&b=1%202", "/", ""),
        ] {
            let text = format!("http://u@h:1{path}");
            let url = GoUrl::split(&text);
            let found = [url.of_one_path(), url.of_buckets(), url.as_written()];
            assert_eq!(
                found,
                [one, buckets, written].map(|it| format!("http://u@h:1{it}")),
                "{path}"
            );
        }
    }
}
