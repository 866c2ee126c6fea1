//! An object of JSON as Go's decoder reads it: half of a surrogate pair is a sign that stands for none.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// What is read in the place of half a pair.
const REPLACED: &[u8] = b"\\ufffd";

/// How long `\uXXXX` is.
const ESCAPE: usize = 6;

/// Reads an object; nothing where the text is none.
pub(super) fn object(text: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(&whole_pairs(text)) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    }
}

fn whole_pairs(text: &[u8]) -> Cow<'_, [u8]> {
    let mut whole = Vec::new();
    let (mut kept, mut at) = (0, 0);
    while let Some(next) = text[at..].iter().position(|it| *it == b'\\') {
        at += next;
        let length = match unit(text, at) {
            None => 2,
            Some(0xd800..=0xdbff) if matches!(unit(text, at + ESCAPE), Some(0xdc00..=0xdfff)) => {
                2 * ESCAPE
            }
            Some(0xd800..=0xdfff) => {
                whole.extend_from_slice(&text[kept..at]);
                whole.extend_from_slice(REPLACED);
                kept = at + ESCAPE;
                ESCAPE
            }
            Some(_) => ESCAPE,
        };
        at = (at + length).min(text.len());
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    whole.extend_from_slice(&text[kept..]);
    Cow::Owned(whole)
}

/// What is escaped here as a unit of UTF-16.
fn unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + ESCAPE)?.strip_prefix(b"\\u")?;
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    u16::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| is_hex)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Go 1.23 does.
    #[test]
    fn half_a_pair_is_a_sign_that_stands_for_none() {
        for (escaped, read) in [
            (r"a", "a"),
            (r"\ud83d\ude00", "😀"),
            (r"\ud83d", "\u{fffd}"),
            (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
            (r"\ud83dx\u0041", "\u{fffd}xA"),
            (r"\\ud83d", r"\ud83d"),
            (r"\\\ud83d", "\\\u{fffd}"),
            (r"\uD83D\n", "\u{fffd}\n"),
        ] {
            let text = format!(r#"{{"k": "{escaped}", "l": "{escaped}"}}"#);
            let fields = object(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((&fields["k"], &fields["l"]), (&read.into(), &read.into()), "{text}");
        }
        for text in ["", "[]", r#"{"k": "\ud8"}"#, r#"{"k": "\"#, r#"{"k": "\ud83d"#] {
            assert_eq!(object(text.as_bytes()), None, "{text}");
        }
    }
}
