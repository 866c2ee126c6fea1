//! How a URL from the user is shown. The URL may be wrong: often that is why it is shown. Nothing of
//! its user, password, values of parameters or fragment is, as all of that may be secret. Shown are
//! the scheme, host, port and path, and the names of parameters.
//!
//! Where a URL is wrong, what could be secret by any reading of it is left out:
//!
//! | text | shown |
//! | --- | --- |
//! | with a well-formed host before the path, perhaps with a port | as URLs are read: host, port, path and names. A password could begin with digits and a `/`, so with a port, of a path with `@` in it only what is from its last `@` on |
//! | without a scheme | as after one; but with `@` in it only what is behind the last one, and with `//` in it nothing, since the scheme may be cut off |
//! | with `@` otherwise | the user and the password may have any character in them: what is behind the last `@` before query and fragment |
//! | with `@` otherwise, also in query or fragment | `…` alone: this `@` may end the password, or be a part of a value |
//! | otherwise | `…` alone: what is no port may be a password whose `@` is missing or written as `%40` |
//! | a parameter without a name, or with nothing but `=` behind it | `…`: it may be a secret in Base64 |

/// Returns what may be shown of it, as one line.
#[must_use]
pub fn shown_url(text: &str) -> String {
    let is_scheme =
        |it: &&str| it.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c));
    let scheme = text.split_once("://").map(|(scheme, _)| scheme).filter(is_scheme);
    let begin = scheme.map_or(0, |scheme| scheme.len() + 1);
    let slashes = text[begin..].bytes().take_while(|byte| *byte == b'/').count();
    let (scheme, rest) = text.split_at(begin + slashes);
    let path_ends = rest.find(['?', '#']).unwrap_or(rest.len());
    let (place, query) = rest.split_at(path_ends);
    let mut out = scheme.to_owned();
    if push_place(&mut out, !scheme.is_empty(), place, query) {
        push_query(&mut out, query);
    }
    // A line break would break the message, and other control characters the line.
    out.chars().fold(String::new(), |mut line, c| {
        if is_unsafe(c) {
            line.extend(c.escape_debug());
        } else {
            line.push(c);
        }
        line
    })
}

/// Returns what may be shown of a value that should be something else, but may be a URL all the same: from
/// a variable that was mixed up with another.
#[must_use]
pub fn shown_value(text: &str) -> String {
    if text.contains("//") { shown_url(text) } else { text.to_owned() }
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Leaves out who logs in. `place` is what is before the query. Returns whether the query may be
/// shown by its names.
fn push_place(out: &mut String, has_scheme: bool, place: &str, query: &str) -> bool {
    let authority = place.split('/').next().unwrap_or_default();
    let (in_place, in_query) = (place.contains('@'), query.contains('@'));
    let is_read_as_url = is_host(authority)
        && if has_scheme {
            !(authority.is_empty() && in_query)
        } else {
            !in_place && !place.contains("//")
        };
    if is_read_as_url {
        match place.rfind('@').filter(|_| authority.contains(':')) {
            Some(at) => out.extend([authority, "/…", &place[at..]]),
            None => out.push_str(place),
        }
    } else if in_place && !in_query {
        out.push_str(place.rsplit('@').next().unwrap_or_default());
    } else {
        out.push('…');
        return false;
    }
    true
}

/// Whether it is a host, perhaps with a port, and so has no user in it. An IPv6 address is in brackets.
fn is_host(authority: &str) -> bool {
    let is_address = |it: &str| it.bytes().all(|c| c.is_ascii_hexdigit() || b":.".contains(&c));
    let is_port = |it: &str| (1..=5).contains(&it.len()) && it.bytes().all(|c| c.is_ascii_digit());
    let (host, port) = match authority.strip_prefix('[').and_then(|it| it.split_once(']')) {
        Some((address, port)) if is_address(address) => ("", port),
        _ => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    !host.contains(['@', '[', ']', '\\', '%'])
        && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn push_query(out: &mut String, query: &str) {
    let (query, fragment) = query.split_once('#').map_or((query, false), |(it, _)| (it, true));
    for (n, parameter) in
        query.strip_prefix('?').into_iter().flat_map(|it| it.split('&')).enumerate()
    {
        out.push(if n == 0 { '?' } else { '&' });
        if let Some((name, value)) = parameter.split_once('=')
            && value.bytes().any(|c| c != b'=')
        {
            out.push_str(name);
            out.push('=');
        }
        out.push('…');
    }
    if fragment {
        out.push_str("#…");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same as for the action, `action/urls.test.mjs`.
    const CASES: &[(&str, &str)] = &[
        ("https://u:secret@h:1/x", "https://h:1/x"),
        ("https://token@h/x", "https://h/x"),
        ("https://u:sec@ret@h/x", "https://h/x"),
        ("u:secret@h:8000", "h:8000"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[fe80::1]:8000/a", "http://[fe80::1]:8000/a"),
        ("h/a@b", "b"),
        ("h:8000/a@b", "b"),
        ("http://[fe80::1]:80/a@b", "http://[fe80::1]:80/…@b"),
        ("https://u:se/cret@h/x", "https://h/x"),
        ("https://u:se?cret@h/x", "https://…"),
        ("https://u:se#cret@h/x", "https://…"),
        ("https://u:1:2/secret@h/x", "https://h/x"),
        ("https://u:se/cr@et@h/x?token=a", "https://h/x?token=…"),
        ("https://u:se/cr@et@h/x?token=a@s3cr3t", "https://…"),
        ("https://u:se@cr/et@h/x", "https://h/x"),
        ("https://u:se@cr?et@h/x", "https://…"),
        ("https://u@se\\cret@h/x", "https://h/x"),
        ("http://h\\u:secret@x", "http://x"),
        ("http://h:/x?token=a", "http://…"),
        ("http://h:/x?token=a@s3cr3t", "http://…"),
        ("http://h:port/x?token=a@s3cr3t", "http://…"),
        ("http://h:123456?token=a@s3cr3t", "http://…"),
        ("http://h:port#a@s3cr3t", "http://…"),
        ("http://h:port/x#s3cr3t", "http://…"),
        ("http:/h/x?token=a@s3cr3t", "…"),
        ("http://[fe80::1]/x?token=a@s3cr3t", "http://[fe80::1]/x?token=…"),
        ("http://[u:s3cr3t]:80/x@h", "http://h"),
        ("http://127.0.0.1:9/?token=a@s3cr3t", "http://127.0.0.1:9/?token=…"),
        ("http://h:9/x#a@s3cr3t", "http://h:9/x#…"),
        ("//user:s3cr3t@host", "//host"),
        ("//user:s3cr3t@host/x?y=1", "//host/x?y=…"),
        ("https:///u:secret@h", "https:///h"),
        ("https:/u:secret@h", "h"),
        ("u:secret@h/x?to=http://h", "h/x?to=…"),
        ("file:///srv/locks/a", "file:///srv/locks/a"),
        ("https://h/x?token=secret&b&c=", "https://h/x?token=…&…&…"),
        ("https://h/x?czNjcjN0==&b==x", "https://h/x?…&b=…"),
        ("https://h/x?secret", "https://h/x?…"),
        ("https://h/x#secret?a", "https://h/x#…"),
        ("https://h?a=1#secret", "https://h?a=…#…"),
        (
            "dynamodb://t/k?region=r&endpoint=http://u:secret@h",
            "dynamodb://t/k?region=…&endpoint=…",
        ),
        ("s3://bucket/team@prod/x.tflock", "s3://bucket/team@prod/x.tflock"),
        ("http://h:80/a@b", "http://h:80/…@b"),
        ("s3//u:secret@b/k.tflock", "b/k.tflock"),
        ("s3//u:secret%40b/k.tflock", "…"),
        ("http%3A//u:secret@h", "h"),
        ("http%3A//u:secret%40h", "…"),
        ("https://u:secret%40h/x", "https://…"),
        ("https://u:secret%40h:8x", "https://…"),
        ("https://token%40h/x", "https://…"),
        ("s3://u:secretb/k.tflock", "s3://…"),
        ("s3://b/a%40b.tflock", "s3://b/a%40b.tflock"),
        ("http://?u:secret@h:x/k?a", "http://…"),
        ("h", "h"),
        ("", ""),
    ];

    /// Of the [`TEXTS`] after this seed, what both show. Where it has to change, both say the same new one.
    const SHOWN: (u32, u32) = (1, 4_215_764_751);
    const TEXTS: u32 = 5000;

    const SECRET: &str = "S3CR3T";
    const SCHEMES: &[&str] = &[
        "",
        "http://",
        "s3://",
        "https:/",
        "https:",
        "//",
        "/",
        "://",
        " http://",
        "http://http://",
    ];
    const HOSTS: &[&str] = &["h", "h.example", "", "127.0.0.1", "[::1]", "[", "h\\", "é"];
    const PORTS: &[&str] = &["", "", ":80", ":", ":port", ":123456", ":-1", ":80:80"];
    const PATHS: &[&str] = &["", "/", "/a", "/a@b", "/a:b/c", "\\a", "/[x]@", "//"];
    const JUNK: &[&str] = &[
        "a", "Z", ":", "@", "/", "?", "#", "=", "&", "\\", "[", "]", "%", ".", " ", "\n", "é",
        "\u{202e}",
    ];
    /// No `&`, which begins another parameter, whose name is shown.
    const VALUES: &[&str] =
        &["a", "Z", ":", "@", "/", "?", "#", "=", "\\", "[", "%", ".", " ", "\n", "é", "9"];

    /// The same numbers as in `action/urls.test.mjs`.
    struct Random(u32);

    impl Random {
        fn below(&mut self, end: u32) -> u32 {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 8) % end
        }

        fn of(&mut self, list: &[&'static str]) -> &'static str {
            list[self.below(u32::try_from(list.len()).unwrap()) as usize]
        }

        fn some_of(&mut self, list: &[&'static str], end: u32) -> String {
            (0..self.below(end)).map(|_| self.of(list)).collect()
        }

        fn around_a_secret(&mut self, list: &[&'static str]) -> String {
            [&self.some_of(list, 5), SECRET, &self.some_of(list, 5)].concat()
        }

        /// A URL that may be wrong anywhere, with secrets where none is to be shown.
        fn url(&mut self) -> String {
            let scheme = self.of(SCHEMES);
            let user = match self.below(4) {
                0 => format!("{SECRET}@"),
                1 => format!("{SECRET}_:{}@", self.around_a_secret(JUNK)),
                2 => format!("a_b:{}@", self.around_a_secret(JUNK)),
                _ => String::new(),
            };
            let [host, port, path] = [HOSTS, PORTS, PATHS].map(|list| self.of(list));
            let query = match self.below(4) {
                0 => format!("?x={}", self.around_a_secret(VALUES)),
                1 => format!("?x&y={}&{SECRET}==", self.around_a_secret(VALUES)),
                2 => format!("?{SECRET}"),
                _ => String::new(),
            };
            let fragment = match self.below(3) {
                0 => format!("#{}", self.around_a_secret(JUNK)),
                _ => String::new(),
            };
            [scheme, &user, host, port, path, &query, &fragment].concat()
        }
    }

    fn expect_no_secret(text: &str) {
        let shown = shown_url(text);
        assert!(!shown.contains(SECRET), "{text:?} is shown as {shown:?}");
    }

    #[test]
    fn a_url_however_wrong_shows_no_secret_and_the_action_shows_the_same() {
        let (seed, expected) = SHOWN;
        let (mut random, mut shown) = (Random(seed), 0x811c_9dc5_u32);
        for _ in 0..TEXTS {
            let (url, any) = (random.url(), random.some_of(JUNK, 12));
            expect_no_secret(&url);
            for byte in [url, any].iter().flat_map(|text| shown_url(text).into_bytes()) {
                shown = (shown ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            }
        }
        assert_eq!(shown, expected, "change the number if the action says the same one");
    }

    proptest::proptest! {
        #![proptest_config(crate::seeded::seeded(2000))]
        #[test]
        fn no_secret_is_shown(seed: u32) {
            expect_no_secret(&Random(seed).url());
        }
    }

    #[test]
    fn what_may_be_secret_is_left_out() {
        for (text, shown) in CASES {
            assert_eq!(shown_url(text), *shown, "{text}");
        }
    }

    #[test]
    fn a_line_break_is_escaped() {
        assert_eq!(shown_url("h\n\0\u{1b}\u{202e}"), "h\\n\\0\\u{1b}\\u{202e}");
    }
}
