//! Splits `TF_CLI_ARGS` and its like into words, as Terraform does.
//!
//! Not a shell's rules, so not a shell's crate: for Terraform a `#` begins no comment, a backslash
//! inside double quotes hides any character, and an unquoted operator silently ends the text
//! (checked against Terraform 1.11.4). A text whose reading depends on the version, or where
//! Terraform drops what follows, is not split at all: [`SplitError::Unsettled`].

/// Why a text could not be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SplitError {
    /// A quote is not closed, or a backslash stands at the end; Terraform refuses it too.
    Unclosed,
    /// Terraform reads it in a way of its own.
    Unsettled,
}

/// Splits `text` into words.
pub(super) fn split(text: &str) -> Result<Vec<String>, SplitError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => match chars.next().ok_or(SplitError::Unclosed)? {
                // A letter in older versions, a tab or a newline in newer ones.
                't' | 'n' => return Err(SplitError::Unsettled),
                hidden => word.get_or_insert_default().push(hidden),
            },
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t' | '\r' | '\n') => words.extend(word.take()),
            (None, ';' | '&' | '|' | '<' | '>' | '(' | ')' | '`') => {
                return Err(SplitError::Unsettled);
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(SplitError::Unclosed);
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_terraform_splits_them() {
        let cases: [(&str, &[&str]); 16] = [
            ("", &[]),
            ("  ", &[]),
            ("-lock=false  -input=false", &["-lock=false", "-input=false"]),
            (r#"a'b'c"d""#, &["abcd"]),
            (r#""""#, &[""]),
            ("'' x", &["", "x"]),
            (r#"a""b"#, &["ab"]),
            (r#""-state=a\b""#, &["-state=ab"]),
            (r"'-state=a\b'", &[r"-state=a\b"]),
            (r"-state=a\ b", &["-state=a b"]),
            ("x #y", &["x", "#y"]),
            ("$HOME ~/x *", &["$HOME", "~/x", "*"]),
            (r#""a $(b c) d" e"#, &["a $(b c) d", "e"]),
            ("x$'a b'", &["x$a b"]),
            ("a\nb\tc\r\nd", &["a", "b", "c", "d"]),
            ("a\u{b}b\u{a0}é", &["a\u{b}b\u{a0}é"]),
        ];
        for (text, words) in cases {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
    }

    #[test]
    fn what_terraform_refuses_is_refused() {
        for text in ["\"unclosed", "a 'b", r"a\", r#""a\""#] {
            assert_eq!(split(text), Err(SplitError::Unclosed), "{text}");
        }
    }

    #[test]
    fn what_terraform_reads_in_its_own_way_is_not_guessed() {
        for text in ["a|b -lock=false", "a;b", "1>b", "`ls`", "$(ls)", "a(b", "a)b", r"a\tb"] {
            assert_eq!(split(text), Err(SplitError::Unsettled), "{text}");
        }
    }
}
