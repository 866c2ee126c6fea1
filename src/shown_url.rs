//! How a URL from the user is shown: without user, password and the values of parameters, all of
//! which may be secret. The URL may be wrong: often that is why it is shown.

/// Returns what may be shown of it, as one line.
#[must_use]
pub fn shown_url(text: &str) -> String {
    let (scheme, rest) = match text.find("://") {
        Some(at) => text.split_at(at + 3),
        None => ("", text),
    };
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
    // A password may have a `/`, `?` or `#` in it, as it should not. Only before a port it is a host.
    match (authority.rsplit_once(':'), rest.rfind('@')) {
        (Some((host, port)), Some(at)) => {
            let is_port =
                (1..=5).contains(&port.len()) && port.bytes().all(|it| it.is_ascii_digit());
            if is_port && (host.starts_with('[') || !host.contains(':')) {
                out.push_str(authority);
                out.push_str("/…");
                return &rest[at..];
            }
            &rest[at + 1..]
        }
        _ => rest,
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
