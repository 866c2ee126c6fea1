//! How the checks of `doctor` look. Text in them may come from records and is cleaned here.

use std::fmt::Write as _;

use serde_json::json;

use super::clean::clean_line;
use super::json::escape;

/// The version of the JSON document: raised when a field changes its meaning or goes.
const DOCUMENT: u32 = 1;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What, in one word.
    pub name: &'static str,
    /// What came of it.
    pub status: CheckStatus,
    /// What was found; may have several lines.
    pub detail: String,
    /// What helps, with the command.
    pub hint: Option<String>,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckStatus {
    /// As it should be.
    Pass,
    /// It works, and somebody should know.
    Warn,
    /// It does not work.
    Fail,
    /// It could not be looked at.
    Skip,
}

impl CheckStatus {
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

impl Check {
    /// As it should be.
    #[must_use]
    pub fn pass(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: CheckStatus::Pass, detail: detail.into(), hint: None }
    }

    /// It works, and somebody should know.
    #[must_use]
    pub fn warn(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        let (status, hint) = (CheckStatus::Warn, Some(hint.into()));
        Self { status, hint, ..Self::pass(name, detail) }
    }

    /// It does not work.
    #[must_use]
    pub fn fail(name: &'static str, detail: impl Into<String>, hint: Option<String>) -> Self {
        Self { status: CheckStatus::Fail, hint, ..Self::pass(name, detail) }
    }

    /// It could not be looked at.
    #[must_use]
    pub fn skip(name: &'static str, detail: impl Into<String>) -> Self {
        Self { status: CheckStatus::Skip, ..Self::pass(name, detail) }
    }
}

/// How many of them are of this kind.
#[must_use]
pub fn count_of(checks: &[Check], status: CheckStatus) -> usize {
    checks.iter().filter(|check| check.status == status).count()
}

/// All of them in columns, with their number as the last line.
#[must_use]
pub fn checks_as_text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    let mut out = String::new();
    for Check { name, status, detail, hint } in checks {
        let mut lines = detail.lines();
        let first = clean_line(lines.next().unwrap_or_default());
        let _ = writeln!(out, "{}  {name:width$}  {first}", status.word());
        for line in lines {
            let _ = writeln!(out, "{:4}  {:width$}  {}", "", "", clean_line(line));
        }
        for (n, line) in hint.iter().flat_map(|hint| hint.lines()).enumerate() {
            let lead = if n == 0 { "fix: " } else { "     " };
            let _ = writeln!(out, "{:4}  {:width$}  {lead}{}", "", "", clean_line(line));
        }
    }
    let count = |status: CheckStatus| count_of(checks, status);
    let _ = writeln!(
        out,
        "{} passed, {} warning{}, {} failed, {} skipped",
        count(CheckStatus::Pass),
        count(CheckStatus::Warn),
        if count(CheckStatus::Warn) == 1 { "" } else { "s" },
        count(CheckStatus::Fail),
        count(CheckStatus::Skip)
    );
    out
}

/// All of them as one JSON document on one line.
#[must_use]
pub fn checks_as_json(checks: &[Check]) -> String {
    let lines = |text: &str| text.lines().map(clean_line).collect::<Vec<_>>().join("\n");
    let checks: Vec<_> = checks
        .iter()
        .map(|check| {
            json!({
                "name": check.name,
                "status": check.status.word(),
                "detail": lines(&check.detail),
                "hint": check.hint.as_deref().map(lines),
            })
        })
        .collect();
    escape(&json!({ "version": DOCUMENT, "checks": checks }).to_string()) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::hostile;

    #[test]
    fn columns_are_aligned_and_each_fix_stands_below_its_check() {
        let checks = [
            Check::pass("a", "one\ntwo"),
            Check::warn("longer", "three", "do\nthis"),
            Check::skip("b", "four"),
        ];
        let expected = "\
pass  a       one
              two
warn  longer  three
              fix: do
                   this
skip  b       four
1 passed, 1 warning, 0 failed, 1 skipped
";
        assert_eq!(checks_as_text(&checks), expected);
    }

    #[test]
    fn hostile_text_stays_harmless() {
        let text = hostile::text();
        let checks = [Check::fail("a", text.clone(), Some(text))];
        for line in checks_as_text(&checks).lines() {
            hostile::assert_harmless_line(line);
        }
        let json = checks_as_json(&checks);
        hostile::assert_harmless(json.trim_end_matches('\n'));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let keys: Vec<_> = value["checks"][0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["name", "status", "detail", "hint"]);
    }
}
