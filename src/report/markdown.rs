//! Text of others within Markdown and within a Mermaid chart.

use std::fmt::Write as _;

use super::clean::{clean, clean_to};

/// A name within a Mermaid chart. Its grammar gives meaning to `:`, `#`, `;`, `%`, quotes and
/// brackets and has no escape for most of them, so only what certainly has none stays.
pub(super) fn chart_name(text: &str) -> String {
    clean_to(text.trim(), 80)
        .chars()
        .map(|c| match c {
            ' ' | '.' | '_' | '/' | '@' | '-' => c,
            c if c.is_alphanumeric() => c,
            _ => '_',
        })
        .collect()
}

/// Text within Markdown. Character references are never markup, so all ASCII punctuation but the
/// harmless is written as one; this also keeps a hostile link from becoming one.
pub(super) fn escape_markdown(text: &str) -> String {
    escape_cleaned(&clean(text))
}

/// The same of a line that is made of cleaned parts.
pub(super) fn escape_cleaned(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii_punctuation() && !matches!(c, ',' | '/' | '-') {
            let _ = write!(out, "&#{};", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}
