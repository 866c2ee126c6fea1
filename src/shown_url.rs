//! How a URL from the user is shown. The URL may be wrong: often that is why it is shown. Nothing of
//! its user, password, values of parameters or fragment is, as all of that may be secret. Shown are
//! the scheme, host, port and path, and the names of parameters.
//!
//! Only a URL that can be read in one way alone is shown. Of any other, what looks like a path may be the
//! password, so none of it is guessed at:
//!
//! | text | shown |
//! | --- | --- |
//! | a well-formed scheme and `://`, or neither | the scheme; the rest as follows |
//! | the authority: up to the first `/`, `\`, `?` or `#` | what is behind its last `@`: a host of ASCII letters, digits, `-`, `_` and `.`, or an IPv6 address in brackets, with a port of digits or none. There may be no authority at all, as in `file:///x` |
//! | another authority | the scheme and `…` alone |
//! | `@` or `%40` behind the authority | the scheme and `…` alone: the password may have had a `/`, `?` or `#` in it |
//! | without a scheme, `//` anywhere | `…` alone: the scheme may be mistyped, and the authority behind it |
//! | a parameter without a name, or with nothing but `=` behind it | `…`: it may be a secret in Base64 |

/// Returns what may be shown of it, as one line.
#[must_use]
pub fn shown_url(text: &str) -> String {
    let (scheme, rest) = text.split_at(scheme_length(text));
    let shown = well_formed(scheme, rest).map(|(host, path, query)| {
        let mut out = [host, path].concat();
        push_query(&mut out, query);
        out
    });
    let out = [scheme, shown.as_deref().unwrap_or("…")].concat();
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
    let may_be_url = text.contains("//") || text.contains(['?', '#']) || has_at(text);
    if may_be_url { shown_url(text) } else { text.to_owned() }
}

/// Whether it is a URL with a scheme that [`shown_url`] shows, and without a user.
#[must_use]
pub fn is_plain_url(text: &str) -> bool {
    let (scheme, rest) = text.split_at(scheme_length(text));
    !scheme.is_empty() && !has_at(text) && well_formed(scheme, rest).is_some()
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// With its `://`; 0 without one.
fn scheme_length(text: &str) -> usize {
    let is_scheme = |it: &&str| {
        it.starts_with(|c: char| c.is_ascii_alphabetic())
            && it.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c))
    };
    let scheme = text.split_once("://").map(|(scheme, _)| scheme).filter(is_scheme);
    scheme.map_or(0, |scheme| scheme.len() + "://".len())
}

/// The host with its port, the path, and the query with the fragment; `None` if the text can be read in
/// more than one way.
fn well_formed<'a>(scheme: &str, rest: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
    let (authority, behind) = split_at_any(rest, &['/', '\\', '?', '#']);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let has_host = authority.is_empty() || is_host(host);
    if !has_host || has_at(behind) || scheme.is_empty() && rest.contains("//") {
        return None;
    }
    let (path, query) = split_at_any(behind, &['?', '#']);
    Some((host, path, query))
}

fn split_at_any<'a>(text: &'a str, ends: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

fn has_at(text: &str) -> bool {
    text.contains('@') || text.contains("%40")
}

/// Whether it is a host, perhaps with a port.
fn is_host(text: &str) -> bool {
    let is_address = |it: &str| it.bytes().all(|c| c.is_ascii_hexdigit() || b":.".contains(&c));
    let is_name = |it: &str| it.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    let is_port = |it: &str| (1..=5).contains(&it.len()) && it.bytes().all(|c| c.is_ascii_digit());
    let in_brackets = text.strip_prefix('[').and_then(|it| it.split_once(']'));
    let (host, port) = in_brackets.unwrap_or_else(|| split_at_any(text, &[':']));
    let is_host = if in_brackets.is_some() { is_address(host) } else { is_name(host) };
    is_host && !host.is_empty() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
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
        ("HTTPS://u@h_1.example-2", "HTTPS://h_1.example-2"),
        ("https://u:sec@ret@h/x", "https://h/x"),
        ("https://u%40corp:secret@h/x", "https://h/x"),
        ("u:secret@h:8000", "h:8000"),
        ("u:secret@h/x?to=http:/h", "h/x?to=…"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[fe80::1]:8000/a", "http://[fe80::1]:8000/a"),
        ("http://u:secret@[::1]/a", "http://[::1]/a"),
        ("file:///srv/locks/a", "file:///srv/locks/a"),
        ("/srv/a", "/srv/a"),
        ("h", "h"),
        ("", ""),
        ("https://h/x?token=secret&b&c=", "https://h/x?token=…&…&…"),
        ("https://h/x?czNjcjN0==&b==x", "https://h/x?…&b=…"),
        ("https://h/x?secret", "https://h/x?…"),
        ("https://h/x#secret?a", "https://h/x#…"),
        ("https://h?a=1#secret", "https://h?a=…#…"),
        ("dynamodb://t/k?region=r&endpoint=http://h", "dynamodb://t/k?region=…&endpoint=…"),
        ("dynamodb://t/k?region=r&endpoint=http://u:secret@h", "dynamodb://…"),
        ("https://u:se/cret@h/x", "https://…"),
        ("https://u:se?cret@h/x", "https://…"),
        ("https://u:se#cret@h/x", "https://…"),
        ("https://u:se/cr@et@h/x?token=a", "https://…"),
        ("https://u:se@cr/et@h/x", "https://…"),
        ("https://u:se@cr?et@h/x", "https://…"),
        ("https://u@se\\cret@h/x", "https://…"),
        ("http://h\\u:secret@x", "http://…"),
        ("http://h/x?token=a@s3cr3t", "http://…"),
        ("http://h/x#a@s3cr3t", "http://…"),
        ("s3://bucket/team@prod/x.tflock", "s3://…"),
        ("s3://b/a%40b.tflock", "s3://…"),
        ("https://https//u:secret@h/x", "https://…"),
        ("http://CORP/alice:secret@proxy", "http://…"),
        ("http://user:2024/secret#x@h", "http://…"),
        ("http://user:2024/secret?x@h", "http://…"),
        ("file://u:1?secret=@b_u/k", "file://…"),
        ("https:///u:secret@h", "https://…"),
        ("http://:80/x", "http://…"),
        ("http://u:secret@/x", "http://…"),
        ("http://h:/x?token=a", "http://…"),
        ("http://h:port/x", "http://…"),
        ("http://h:123456/x", "http://…"),
        ("https://u:1:2/secret", "https://…"),
        ("http://[]/x", "http://…"),
        ("http://[u:s3cr3t]:80/x", "http://…"),
        ("http://h é/x", "http://…"),
        ("http://h&secret;x", "http://…"),
        ("https://u:secret%40h/x", "https://…"),
        ("https://token%40h/x", "https://…"),
        ("s3://u:secretb/k.tflock", "s3://…"),
        ("h/a@b", "…"),
        ("//user:s3cr3t@host/x?y=1", "…"),
        ("s3//u:secret@b/k.tflock", "…"),
        ("s3/u:secret#1@bucket/k", "…"),
        ("s3?://u:secret?a=1@bucket/k", "…"),
        ("s3;/x:secretp#secretq@h", "…"),
        ("1s://u:secret@h", "…"),
        (" https://u:secret@h", "…"),
        ("https:/u:secret@h", "…"),
        ("https:\\\\u:secret@h", "…"),
        ("https:u:secret@h", "h"),
        ("https:/h/x", "…"),
        ("http%3A//u:secret@h", "…"),
        ("http%3A%2F%2Fu:secret@h", "h"),
        ("http%3A%2F%2Fu:secret%40h", "…"),
    ];

    /// Of the [`TEXTS`] after this seed, what both show. Where it has to change, both say the same new one.
    const SHOWN: (u32, u32) = (1, 172_696_743);
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
        "https://https//",
        "http://CORP/",
        "https:\\\\",
        "s3/",
        "s3;/",
        "s3?://",
    ];
    const HOSTS: &[&str] = &["h", "h.example", "", "127.0.0.1", "[::1]", "[", "h\\", "é"];
    const PORTS: &[&str] = &["", "", ":80", ":", ":port", ":123456", ":-1", ":80:80"];
    const PATHS: &[&str] = &["", "/", "/a", "/a@b", "/a:b/c", "\\a", "/[x]@", "//"];
    const JUNK: &[&str] = &[
        "a", "Z", "7", ":", "@", "/", "?", "#", "=", "&", "\\", "[", "]", "%", ".", " ", "\n", "é",
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
            let user = match self.below(6) {
                0 => format!("{SECRET}@"),
                1 => format!("{SECRET}_:{}@", self.around_a_secret(JUNK)),
                2 => format!("a_b:{}@", self.around_a_secret(JUNK)),
                3 => format!("a_b:{}%40", self.around_a_secret(JUNK)),
                4 => format!("a_b:2024{}@", self.around_a_secret(JUNK)),
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
        assert_eq!(shown_url("h/\n\0\u{1b}\u{202e}"), "h/\\n\\0\\u{1b}\\u{202e}");
    }

    #[test]
    fn a_value_that_may_be_a_url_is_shown_as_one_and_any_other_as_it_is() {
        for (text, shown) in [
            ("5 minutes", "5 minutes"),
            ("https://u:secret@h/x", "https://h/x"),
            ("https:/u:secret@h/x", "…"),
            ("u:secret%40h", "…"),
        ] {
            assert_eq!(shown_value(text), shown);
        }
    }

    #[test]
    fn a_plain_url_has_a_scheme_and_no_user() {
        assert!(is_plain_url("https://ci.example:8443/a?b=c#d"));
        for text in ["https://u@h/x", "h/x", "https:/h/x", "https://h/u@x", "https://https//u:p@h"]
        {
            assert!(!is_plain_url(text), "{text}");
        }
    }
}
