//! Makes untrusted text harmless. Whoever can write to the lock table can write any text into a
//! record, and tfwrap prints it into terminals and CI logs, which act on what they read.
//!
//! Three forms, for three uses:
//!
//! - [`clean`] for a value that came from outside: every unsafe character becomes U+FFFD, so that
//!   the reader sees that something stood there; command starters are broken up with a space.
//! - [`clean_line`] for a line that tfwrap composed, which may be longer and may name ARNs.
//! - [`shell_quote`] for a value inside a command to paste. It loses nothing: the shell reads back
//!   the very value, yet neither a control character nor a command starter is in the text.
//!
//! Workflow commands are `::name::` at the start of a line and `##[name]` anywhere in it (GitHub),
//! `##vso[` (Azure), `##teamcity[`. Breaking up every `::` and `##` covers them all, and those
//! that are not yet known.

/// The most characters of one untrusted value that are shown.
pub const MAX_VALUE: usize = 200;

/// The most characters of one line of ours. Far above any honest message; a lock key alone may
/// have a thousand.
pub const MAX_LINE: usize = 4000;

/// What is kept of each end of a line that is longer.
const KEPT: usize = 600;

const REPLACEMENT: char = '\u{fffd}';
const ELLIPSIS: char = '…';

/// Returns an untrusted value as one harmless line of at most [`MAX_VALUE`] characters.
#[must_use]
pub fn clean(text: &str) -> String {
    clean_to(text, MAX_VALUE)
}

/// As [`clean`], with another bound.
#[must_use]
pub fn clean_to(text: &str, max: usize) -> String {
    scrub(text, max, false)
}

/// Returns a message of ours, in which untrusted values may stand, as one harmless line of at most
/// [`MAX_LINE`] characters.
///
/// `::` stays where it is part of an ARN or an IPv6 address (`arn:aws:iam::123456789012:role/ci`):
/// such text is copied from the line, and in its middle it starts nothing. What is longer is cut in the middle,
/// where a path is: the end says why.
#[must_use]
pub fn clean_line(text: &str) -> String {
    let length = text.chars().count();
    if length <= MAX_LINE {
        return scrub(text, MAX_LINE, true);
    }
    let head = text.chars().take(KEPT);
    let tail = text.chars().skip(length - KEPT);
    scrub(&head.chain([ELLIPSIS]).chain(tail).collect::<String>(), MAX_LINE, true)
}

fn scrub(text: &str, max: usize, keep_addresses: bool) -> String {
    let mut out = String::new();
    let mut count = 0;
    // The byte length at which the text is cut if it turns out to be too long.
    let mut cut = 0;
    let (mut before_last, mut last) = ('\0', '\0');
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let in_address = keep_addresses
            && c == ':'
            && before_last.is_ascii_alphanumeric()
            && chars.peek().is_some_and(char::is_ascii_digit);
        if count < max {
            cut = out.len();
        }
        if pairs(last, c) && !in_address {
            out.push(' ');
            count += 1;
        }
        out.push(if is_unsafe(c) { REPLACEMENT } else { c });
        count += 1;
        if count > max {
            out.truncate(cut);
            out.push(ELLIPSIS);
            return out;
        }
        (before_last, last) = (last, c);
    }
    out
}

/// Whether `next` after `last` could be the beginning of a workflow command.
pub(super) fn pairs(last: char, next: char) -> bool {
    last == next && matches!(next, ':' | '#')
}

/// Whether a character can move the cursor, hide or reorder text, or end a line.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, grapheme joiner, Arabic letter mark, Hangul and Mongolian fillers.
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{3164}' | '\u{ffa0}'
            // Zero width, direction marks, line and paragraph separator, embeddings, overrides.
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            // Word joiner, invisible operators, isolates, deprecated format characters.
            | '\u{2060}'..='\u{206f}'
            // Variation selectors, byte order mark, interlinear annotation.
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
            // Shorthand and musical format controls, tags and further variation selectors.
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Quotes a value for a POSIX shell; bash's `$'…'` only where the value holds characters that
/// cannot be shown.
///
/// Never shortened: a command that was cut is another command.
#[must_use]
pub fn shell_quote(value: &str) -> String {
    if value.chars().any(is_unsafe) {
        return ansi_c_quote(value);
    }
    let quoted = shell_words::quote(value);
    let mut out = String::with_capacity(quoted.len());
    let mut last = '\0';
    for c in quoted.chars() {
        if pairs(last, c) {
            // Inside quotes it closes and opens them again, outside it is an empty word part:
            // either way the shell reads nothing.
            out.push_str("''");
        }
        out.push(c);
        last = c;
    }
    out
}

fn ansi_c_quote(value: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::from("$'");
    let mut last = '\0';
    for c in value.chars() {
        match c {
            '\'' => out.push_str("\\'"),
            '\\' => out.push_str("\\\\"),
            // `!` too: interactive shells may look for history in here.
            c if is_unsafe(c) || pairs(last, c) || c == '!' => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\x{byte:02x}");
                }
            }
            c => out.push(c),
        }
        last = c;
    }
    out.push('\'');
    out
}

/// Puts a command together to be pasted into a shell, every word quoted.
#[must_use]
pub fn shell_command(words: &[&str]) -> String {
    words.iter().map(|word| shell_quote(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::hostile;

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in ["", "ci@runner", "https://ci.example/a?b=1#c", "Änderung №7 – 変更 🚀", "`a`"]
        {
            assert_eq!(clean(text), text);
            assert_eq!(clean_line(text), text);
        }
    }

    #[test]
    fn each_kind_of_unsafe_character_is_replaced() {
        for c in "\n\r\t\0\u{1b}\u{7f}\u{85}\u{9b}\u{200b}\u{200d}\u{202e}\u{2066}\u{2028}\u{2029}\u{feff}\u{ad}\u{e0041}"
            .chars()
        {
            assert_eq!(clean(&format!("a{c}b")), "a\u{fffd}b", "{:x}", u32::from(c));
        }
    }

    #[test]
    fn starters_are_broken_up() {
        let cases = [
            ("::error::x", ": :error: :x"),
            (":::", ": : :"),
            ("a ##[group]b", "a # #[group]b"),
            ("##vso[task.setvariable]", "# #vso[task.setvariable]"),
            ("##teamcity[x]", "# #teamcity[x]"),
        ];
        for (text, expected) in cases {
            assert_eq!(clean(text), expected);
            assert_eq!(clean_line(text), expected);
        }
    }

    #[test]
    fn an_arn_in_our_own_message_can_be_copied() {
        let arn = "arn:aws:iam::123456789012:role/ci";
        assert_eq!(clean_line(arn), arn);
        assert_eq!(clean_line("fe80::1"), "fe80::1");
        assert_eq!(clean_line("::1"), ": :1");
        assert_eq!(clean_line("x::add-mask::1"), "x: :add-mask::1");
        assert_eq!(clean(arn), "arn:aws:iam: :123456789012:role/ci");
    }

    #[test]
    fn what_is_too_long_ends_in_an_ellipsis() {
        assert_eq!(clean_to("abcde", 5), "abcde");
        assert_eq!(clean_to("abcdef", 5), "abcd…");
        assert_eq!(clean_to("abc::", 5), "abc:…");
        assert_eq!(clean(&"x".repeat(10_000)).chars().count(), MAX_VALUE);
        let long = format!("cannot open `/{}`: no such file", "d/".repeat(5_000));
        let cut = clean_line(&long);
        assert_eq!(cut.chars().count(), 2 * KEPT + 1);
        assert!(cut.starts_with("cannot open `/d/") && cut.ends_with("d/`: no such file"), "{cut}");
        assert_eq!(cut.matches('…').count(), 1);
    }

    #[test]
    fn quoted_words_stay_readable() {
        assert_eq!(
            shell_command(&["terraform", "force-unlock", "28e8a6c8-39d1"]),
            "terraform force-unlock 28e8a6c8-39d1"
        );
        assert_eq!(shell_quote("it's"), r"'it'\''s'");
        assert_eq!(shell_quote("$(id)"), "'$(id)'");
        assert_eq!(shell_quote("a\nb"), r"$'a\x0ab'");
        assert_eq!(shell_quote(""), "''");
    }

    /// One bash for all: the oracle is the shell itself.
    #[test]
    fn the_shell_reads_back_the_very_value() {
        let values = [
            hostile::text(),
            "a::b".into(),
            ":::".into(),
            "##vso[x]'##'::'".into(),
            "\u{1b}::##''\\'!$(id)`id`".into(),
            "\u{202e}é#".into(),
            "-n".into(),
            "~".into(),
            String::new(),
        ];
        let words: Vec<&str> = values.iter().map(String::as_str).collect();
        let script = format!("printf '%s\\0' {}", shell_command(&words));
        hostile::assert_harmless(&script);
        let out = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
        let read = String::from_utf8(out.stdout).unwrap();
        let read: Vec<&str> = read.split_terminator('\0').collect();
        assert_eq!(read, words);
    }

    proptest! {
        #![proptest_config(crate::seeded::seeded(256))]

        #[test]
        fn no_text_comes_through_unclean(text in hostile::any_text()) {
            let value = clean(&text);
            hostile::assert_harmless(&value);
            prop_assert!(value.chars().count() <= MAX_VALUE);
            let line = clean_line(&text);
            hostile::assert_harmless_line(&line);
            prop_assert!(line.chars().count() <= MAX_LINE);
        }

        #[test]
        fn cleaning_twice_changes_nothing(text in hostile::any_text()) {
            let once = clean(&text);
            prop_assert_eq!(clean(&once), once);
        }

        #[test]
        fn quoted_text_is_harmless_and_reads_back(text in hostile::any_text()) {
            let quoted = shell_quote(&text);
            hostile::assert_harmless(&quoted);
            if quoted.chars().count() <= MAX_LINE {
                prop_assert_eq!(clean_line(&quoted), quoted.as_str(), "a hint would change it");
            }
            if !quoted.starts_with("$'") {
                prop_assert_eq!(shell_words::split(&quoted).unwrap(), vec![text]);
            }
        }

        #[test]
        fn the_bound_holds_at_any_length(text in hostile::any_text(), max in 1_usize..60) {
            prop_assert!(clean_to(&text, max).chars().count() <= max);
        }
    }
}
