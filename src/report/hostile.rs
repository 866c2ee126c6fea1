//! The record of someone who means harm, shared by the tests of every output.

use proptest::prelude::*;

use crate::lock::LockInfo;

/// Escapes, line ends, direction overrides, the starters of four CIs, quotes of three shells, and
/// ten thousand characters more. No NUL: no shell word and no environment can hold one.
pub(crate) fn text() -> String {
    let nasty = "\u{1b}]0;owned\u{7}\u{1b}[2J\r\n::set-output name=x::y\n##[error]no\u{2028}\
                 ##vso[task.setvariable variable=a]b\u{202e}##teamcity[buildStatus text='x']\u{200b}\
                 `id`$(id)'\"\\;:|%0A%3A%s<b onclick=x>[a](http://evil.example)\u{9b}1m${{ x }}\n";
    format!("{nasty}{}{nasty}", "A".repeat(10_000))
}

/// A record with [`text`] in every field.
pub(crate) fn info() -> LockInfo {
    LockInfo::all_of(&text())
}

/// Any text, with what is dangerous made likely.
pub(crate) fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<char>().prop_map(String::from),
        "[ -~]{0,8}",
        prop::sample::select(vec![
            "::", "##", ":", "#", "##[", "##vso[", "\n", "\r\n", "\u{1b}[", "\u{202e}", "\u{200b}",
            "\u{2028}", "'", "\"", "`", "$(", "\\", "!", "<<", "=", "%", "|", "1", "x",
        ])
        .prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..120).prop_map(|pieces| pieces.concat())
}

/// Fails when any character or sequence in it could act.
pub(crate) fn assert_harmless(output: &str) {
    assert_no_unsafe_character(output);
    for starter in ["::", "##"] {
        assert!(!output.contains(starter), "`{starter}` in {output:?}");
    }
}

/// As [`assert_harmless`], for a line of ours: `::` may stand within an address.
pub(crate) fn assert_harmless_line(line: &str) {
    assert_no_unsafe_character(line);
    assert!(!line.contains("##"), "`##` in {line:?}");
    assert!(!line.trim_start().starts_with("::"), "`::` begins {line:?}");
    for (at, _) in line.match_indices("::") {
        let next = line[at + 2..].chars().next();
        assert!(next.is_some_and(|c| c.is_ascii_digit()), "`::` in {line:?}");
    }
}

fn assert_no_unsafe_character(output: &str) {
    let found = output.chars().find(|c| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    });
    assert!(found.is_none(), "{found:?} in {output:?}");
}
