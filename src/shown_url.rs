//! How a URL from the user is shown: without user, password and the values of parameters, all of
//! which may be secret. The URL may be wrong: often that is why it is shown.

/// Returns what may be shown of it, as one line.
#[must_use]
pub fn shown_url(text: &str) -> String {
    let is_scheme =
        |it: &&str| it.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c));
    let scheme = text.split_once("://").map(|(scheme, _)| scheme).filter(is_scheme);
    let begin = scheme.map_or(0, |scheme| scheme.len() + 1);
    let slashes = text[begin..].bytes().take_while(|byte| *byte == b'/').count();
    let (scheme, rest) = text.split_at(begin + slashes);
    let mut out = scheme.to_owned();
    let rest = push_host(&mut out, rest);
    let path_ends = rest.find(['?', '#']).unwrap_or(rest.len());
    let (path, query) = rest.split_at(path_ends);
    out.push_str(path);
    let (query, fragment) = query.split_once('#').map_or((query, false), |(it, _)| (it, true));
    for (n, parameter) in
        query.strip_prefix('?').into_iter().flat_map(|it| it.split('&')).enumerate()
    {
        out.push(if n == 0 { '?' } else { '&' });
        if let Some((name, _)) = parameter.split_once('=') {
            out.push_str(name);
            out.push('=');
        }
        out.push('…');
    }
    if fragment {
        out.push_str("#…");
    }
    // A line break would break the message.
    out.escape_debug().to_string()
}

/// Leaves out who logs in. Returns what is left to be shown after what was pushed.
fn push_host<'a>(out: &mut String, rest: &'a str) -> &'a str {
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    if let Some(at) = authority.rfind('@') {
        return &rest[at + 1..];
    }
    let Some((host, port)) = authority.rsplit_once(':') else { return rest };
    // A password may have a `/`, `?` or `#` in it, as it should not. Only before a port it is a host.
    let is_port = (1..=5).contains(&port.len()) && port.bytes().all(|it| it.is_ascii_digit());
    if !is_port || (host.contains(':') && !host.starts_with('[')) {
        return rest.find('@').map_or(rest, |at| push_host(out, &rest[at + 1..]));
    }
    // Values of parameters are left out in any case.
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    match path.rfind('@') {
        Some(at) => {
            out.push_str(authority);
            out.push_str("/…");
            &rest[at..]
        }
        None => rest,
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
        ("h/a@b", "h/a@b"),
        ("h:8000/a@b", "h:8000/…@b"),
        ("http://[fe80::1]:80/a@b", "http://[fe80::1]:80/…@b"),
        ("https://u:se/cret@h/x", "https://h/x"),
        ("https://u:se?cret@h/x", "https://h/x"),
        ("https://u:se#cret@h/x", "https://h/x"),
        ("https://u:1:2/secret@h/x", "https://h/x"),
        ("https://u:se/cr@et@h/x?token=a@s3cr3t", "https://h/x?token=…"),
        ("http://127.0.0.1:9/?token=a@s3cr3t", "http://127.0.0.1:9/?token=…"),
        ("http://h:9/x#a@s3cr3t", "http://h:9/x#…"),
        ("//user:s3cr3t@host", "//host"),
        ("//user:s3cr3t@host/x?y=1", "//host/x?y=…"),
        ("https:///u:secret@h", "https:///h"),
        ("https:/u:secret@h", "h"),
        ("u:secret@h/x?to=http://h", "h/x?to=…"),
        ("file:///srv/locks/a", "file:///srv/locks/a"),
        ("https://h/x?token=secret&b&c=", "https://h/x?token=…&…&c=…"),
        ("https://h/x?secret", "https://h/x?…"),
        ("https://h/x#secret?a", "https://h/x#…"),
        ("https://h?a=1#secret", "https://h?a=…#…"),
        (
            "dynamodb://t/k?region=r&endpoint=http://u:secret@h",
            "dynamodb://t/k?region=…&endpoint=…",
        ),
        ("s3://bucket/team@prod/x.tflock", "s3://bucket/team@prod/x.tflock"),
        ("h", "h"),
        ("", ""),
    ];

    #[test]
    fn what_may_be_secret_is_left_out() {
        for (text, shown) in CASES {
            assert_eq!(shown_url(text), *shown, "{text}");
        }
    }

    #[test]
    fn a_line_break_is_escaped() {
        assert_eq!(shown_url("h\n"), "h\\n");
    }
}
