//! Links that may be shown and clicked.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::shown_url::is_plain_url;

/// Longer links are left out: `Info` could not hold them whole.
const MAX_LINK: usize = 180;

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes one segment of a path or one value of a query.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// Returns the link in normal form if it is http(s) and names nobody's password; without its query
/// where it would be too long otherwise.
pub(super) fn checked(text: &str) -> Option<String> {
    let mut url = Url::parse(text.trim()).ok()?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_plain_url(text.trim()) {
        return None;
    }
    if url.as_str().len() > MAX_LINK {
        url.set_query(None);
        url.set_fragment(None);
    }
    // The parser has encoded control and non-ASCII characters. Starters of workflow commands are
    // encoded here, since breaking them up later would break the link.
    let link = url.as_str().replace("::", ":%3A").replace("##", "#%23");
    (link.len() <= MAX_LINK).then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::clean;

    #[test]
    fn only_web_links_without_credentials_are_taken() {
        let good = "https://ci.example/a/b?c=d&e=f#g";
        assert_eq!(checked(good).as_deref(), Some(good));
        assert_eq!(checked(" http://ci.example ").as_deref(), Some("http://ci.example/"));
        for bad in [
            "",
            "ci.example/run/1",
            "javascript:alert(1)",
            "file:///etc/passwd",
            "ssh://git@ci.example/x",
            "https://user@ci.example/x",
            "https://gitlab-ci-token:secret@gitlab.example/a.git",
            "https://:secret@ci.example/",
            "https://u:?secret@ci.example",
            "https://u:#secret@ci.example",
            "https://u?secret@ci.example",
            "https://u:1/secret@ci.example",
            "https://u:/secret@ci.example",
            "https://https//u:secret@ci.example/x",
            "https://CORP/alice:secret@ci.example",
            "https:/ci.example/x",
            "https://u:secret%40ci.example/x",
        ] {
            assert_eq!(checked(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_hostile_link_is_encoded() {
        let link = checked("https://ci.example/a\u{1b}[2J\u{202e}b::add-mask::c##[x]##vso[y]#:::#")
            .unwrap();
        assert_eq!(clean(&link), link);
        assert!(link.is_ascii());
    }

    #[test]
    fn a_long_link_loses_its_query_then_itself() {
        let path = "https://ci.example/run/7";
        assert_eq!(checked(&format!("{path}?{}", "q".repeat(300))).as_deref(), Some(path));
        assert_eq!(checked(&format!("{path}/{}", "p".repeat(300))), None);
    }
}
