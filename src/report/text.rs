//! Lines for people, each with the prefix `tfwrap: `. Colour only repeats what the words say.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::ColorChoice;
use super::clean::{clean, clean_line};
use super::{Notice, Summary, waiting};
use crate::duration;
use crate::env::Env;
use crate::lock::{APPLY_OPERATION, LockInfo, PLAN_OPERATION};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

const MAX_HINT_LINES: usize = 8;

/// Terraform did not exist before; Go's zero time, which a record without a date shows, did.
const EARLIEST_CREATED: i64 = 1_388_534_400;

/// Renders notices as lines of text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Text {
    /// Whether to colour `error:`, `warning:` and `hint:`.
    pub color: bool,
}

impl Text {
    /// Returns the lines, each ended. `now` is the wall clock, for the age of a lock only.
    #[must_use]
    pub fn render(&self, notice: &Notice, now: Timestamp) -> String {
        match notice {
            Notice::Waiting { .. } => line(&waiting::sentence(notice, now).unwrap_or_default()),
            Notice::Acquired { lock, id, waited, contended } => {
                let after = if *contended {
                    format!(" after waiting {}", human(*waited))
                } else {
                    String::new()
                };
                line(&format!("got the lock `{}`{after}, lock ID `{}`", clean(lock), clean(id)))
            }
            Notice::Released { lock, held, .. } => {
                line(&format!("released the lock `{}`, held for {}", clean(lock), human(*held)))
            }
            Notice::Replanned { why, .. } => {
                line(&format!("{}: planning again, under the lock", clean_line(why)))
            }
            Notice::Stopping { signal, doing } => {
                line(&format!("got {}: {}", clean(signal), clean_line(doing)))
            }
            Notice::Warning { message, hint } => {
                self.labelled("warning:", WARNING, message) + &self.hint(hint.as_deref())
            }
            Notice::Error { message, hint, .. } => {
                self.labelled("error:", ERROR, message) + &self.hint(hint.as_deref())
            }
            Notice::Finished(summary) => line(&describe_summary(summary)),
            Notice::Detail { message } | Notice::Note { message } => line(&clean_line(message)),
        }
    }

    /// A hint may show a snippet, so it may have lines; each gets the prefix.
    fn hint(self, hint: Option<&str>) -> String {
        let mut lines = hint.into_iter().flat_map(hint_lines);
        let Some(first) = lines.next() else { return String::new() };
        let mut out = self.labelled("hint:", HINT, &first);
        out.extend(lines.map(|rest| line(&format!("      {rest}"))));
        out
    }

    fn labelled(self, label: &str, style: Style, message: &str) -> String {
        let message = clean_line(message);
        if self.color {
            line(&format!("{style}{label}{style:#} {message}"))
        } else {
            line(&format!("{label} {message}"))
        }
    }
}

/// The lines of a hint, cleaned. Untrusted values in a hint are quoted for the shell, so a line end
/// in it is ours; one that is not could still do no more than begin another line of tfwrap's.
pub(super) fn hint_lines(hint: &str) -> impl Iterator<Item = String> + '_ {
    hint.split('\n').take(MAX_HINT_LINES).map(clean_line)
}

fn line(text: &str) -> String {
    format!("tfwrap: {text}\n")
}

fn describe_summary(summary: &Summary) -> String {
    format!(
        "finished: {}, exit code {}, waited {}, held the lock {}",
        summary.outcome.as_str(),
        summary.exit_code,
        human(summary.waited),
        human(summary.held)
    )
}

/// Says who holds a lock, for what, since when, and what they left to say, such as "held by
/// ci@runner for apply since 2026-11-21T09:11:59Z (4m12s ago), https://…". Cleaned.
#[must_use]
pub fn describe_holder(info: &LockInfo, now: Timestamp) -> String {
    let mut out = describe_who(info);
    if let Some(since) = since(&info.created, now) {
        out.push_str(" since ");
        out.push_str(&since);
    }
    for part in [clean(info.info.trim()), lock_id(info)] {
        if !part.is_empty() {
            out.push_str(", ");
            out.push_str(&part);
        }
    }
    out
}

/// The same of a lock whose record may not say it.
#[must_use]
pub fn describe_holding(info: Option<&LockInfo>, now: Timestamp) -> String {
    let unknown = || "held, but its record does not say by whom".to_owned();
    info.map_or_else(unknown, |info| describe_holder(info, now))
}

pub(super) fn describe_who(info: &LockInfo) -> String {
    let mut out = format!("held by {}", or_unknown(&clean(info.who.trim())));
    let operation = operation_words(&info.operation);
    if !operation.is_empty() {
        out.push_str(" for ");
        out.push_str(&operation);
    }
    out
}

fn lock_id(info: &LockInfo) -> String {
    if info.id.0.is_empty() { String::new() } else { format!("lock ID `{}`", clean(&info.id.0)) }
}

pub(super) fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "someone unnamed" } else { text }
}

/// Terraform's word for an operation as people say it: `OperationTypeApply` is apply. Empty where
/// the word says nothing. Cleaned.
#[must_use]
pub fn operation_words(operation: &str) -> String {
    match operation.trim() {
        // Terraform writes this for `import` and `console`.
        "OperationTypeInvalid" => String::new(),
        APPLY_OPERATION => "apply".to_owned(),
        PLAN_OPERATION => "plan".to_owned(),
        "OperationTypeRefresh" => "refresh".to_owned(),
        other => match other.strip_prefix("state-").or_else(|| other.strip_prefix("workspace-")) {
            Some(verb) => clean(&format!("{} {verb}", &other[..other.len() - verb.len() - 1])),
            None => clean(other),
        },
    }
}

/// A time to the second, as all others are shown; what is no time as it is, cleaned.
#[must_use]
pub fn to_the_second(time: &str) -> String {
    let shown = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    time.parse().map_or_else(|_| clean(time), shown)
}

/// `2026-11-21T09:11:59Z (4m12s ago)`. The age is the difference of two machines' clocks, so it is
/// left out where it would be negative; nothing is decided by it.
pub(super) fn since(created: &str, now: Timestamp) -> Option<String> {
    let created: Timestamp = created.parse().ok()?;
    if created.as_second() < EARLIEST_CREATED {
        return None;
    }
    let stamp = created.strftime("%Y-%m-%dT%H:%M:%SZ");
    Some(match u64::try_from(now.as_millisecond() - created.as_millisecond()) {
        Ok(age) => format!("{stamp} ({} ago)", human(Duration::from_millis(age))),
        Err(_) => stamp.to_string(),
    })
}

/// A duration as people like it: whole seconds, below one second in tenths.
pub(super) fn human(time: Duration) -> String {
    if time < Duration::from_millis(950) {
        let tenths = (time.as_millis() + 50) / 100;
        return if tenths == 0 { "0s".to_owned() } else { format!("0.{tenths}s") };
    }
    duration::format(Duration::from_secs(time.as_secs() + u64::from(time.subsec_millis() >= 500)))
}

/// Whether to colour what goes to stderr. `NO_COLOR` and `CLICOLOR_FORCE` are in `choice` already.
#[must_use]
pub fn use_color(choice: ColorChoice, env: &Env, is_terminal: bool) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => is_terminal && env.get("TERM") != Some("dumb"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::LockId;
    use crate::report::hostile;

    fn now() -> Timestamp {
        "2026-11-21T09:16:11.5Z".parse().unwrap()
    }

    fn holder() -> LockInfo {
        LockInfo {
            id: LockId("28e8a6c8".into()),
            operation: "OperationTypeApply".into(),
            info: "https://ci.example/run/7 (deploy by alice)".into(),
            who: "ci@runner".into(),
            version: "0.1.0".into(),
            created: "2026-11-21T09:11:59.981601334Z".into(),
            path: "tfb/a/terraform.tfstate".into(),
        }
    }

    fn waiting(holder: Option<LockInfo>, waited: u64) -> Notice {
        Notice::Waiting {
            lock: "tfb/a/terraform.tfstate".into(),
            holder: holder.map(Box::new),
            waited: Duration::from_secs(waited),
            limit: Duration::from_mins(30),
            free: false,
            ahead: None,
            plans_ahead: None,
            silent: None,
            unanswered: None,
            estimate: None,
        }
    }

    #[test]
    fn a_waiter_learns_everything_from_one_line() {
        assert_eq!(
            Text::default().render(&waiting(Some(holder()), 0), now()),
            "tfwrap: waiting for the lock `tfb/a/terraform.tfstate`: held by ci@runner for apply \
             since 2026-11-21T09:11:59Z (4m12s ago), https://ci.example/run/7 (deploy by alice), \
             lock ID `28e8a6c8`; waiting up to 30m\n"
        );
        assert_eq!(
            Text::default().render(&waiting(None, 90), now()),
            "tfwrap: still waiting for the lock `tfb/a/terraform.tfstate`: held, but its record \
             does not say by whom; waited 1m30s of 30m\n"
        );
    }

    #[test]
    fn what_a_record_lacks_is_not_made_up() {
        let mut info = holder();
        info.info = String::new();
        info.created = "0001-01-01T00:00:00Z".into();
        info.operation = "OperationTypeInvalid".into();
        assert_eq!(describe_holder(&info, now()), "held by ci@runner, lock ID `28e8a6c8`");
        info.created = "yesterday".into();
        info.who = " ".into();
        info.id.0.clear();
        assert_eq!(describe_holder(&info, now()), "held by someone unnamed");
    }

    #[test]
    fn an_age_is_never_negative() {
        let mut info = holder();
        info.created = "2026-11-21T09:20:00Z".into();
        let text = describe_holder(&info, now());
        assert!(text.contains("since 2026-11-21T09:20:00Z, "), "{text}");
        assert!(!text.contains("ago"), "{text}");
    }

    #[test]
    fn operations_are_named_as_people_type_them() {
        let cases = [
            ("OperationTypeApply", "apply"),
            ("OperationTypePlan", "plan"),
            ("OperationTypeRefresh", "refresh"),
            ("OperationTypeInvalid", ""),
            ("state-mv", "state mv"),
            ("state-replace-provider", "state replace-provider"),
            ("workspace-new", "workspace new"),
            ("taint", "taint"),
            ("migration source state", "migration source state"),
        ];
        for (raw, words) in cases {
            assert_eq!(operation_words(raw), words);
        }
    }

    #[test]
    fn errors_and_hints_have_lines_of_their_own() {
        let error = Notice::Error {
            message: "access denied".into(),
            hint: Some("allow `dynamodb:PutItem`".into()),
            code: 77,
        };
        assert_eq!(
            Text::default().render(&error, now()),
            "tfwrap: error: access denied\ntfwrap: hint: allow `dynamodb:PutItem`\n"
        );
        let colored = Text { color: true }.render(&error, now());
        assert_eq!(
            anstream::adapter::strip_str(&colored).to_string(),
            Text::default().render(&error, now())
        );
        assert!(colored.contains("\u{1b}[1m\u{1b}[31merror:\u{1b}[0m"), "{colored:?}");
    }

    #[test]
    fn a_hint_may_show_a_snippet() {
        let warning =
            Notice::Warning { message: "one\ntwo".into(), hint: Some("add:\n  a = 1\r".into()) };
        assert_eq!(
            Text::default().render(&warning, now()),
            "tfwrap: warning: one\u{fffd}two\ntfwrap: hint: add:\ntfwrap:         a = 1\u{fffd}\n"
        );
        let endless = Notice::Warning { message: "x".into(), hint: Some("y\n".repeat(100)) };
        assert_eq!(Text::default().render(&endless, now()).lines().count(), 1 + MAX_HINT_LINES);
    }

    #[test]
    fn durations_are_short() {
        let cases = [
            (0, "0s"),
            (49, "0s"),
            (50, "0.1s"),
            (949, "0.9s"),
            (950, "1s"),
            (1499, "1s"),
            (61_500, "1m2s"),
        ];
        for (millis, text) in cases {
            assert_eq!(human(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn color_is_for_terminals_that_can_unless_chosen() {
        use ColorChoice::{Always, Auto, Never};
        let cases = [
            (Auto, "xterm", true, true),
            (Auto, "xterm", false, false),
            (Auto, "dumb", true, false),
            (Always, "dumb", false, true),
            (Never, "xterm", true, false),
        ];
        for (choice, term, terminal, expected) in cases {
            let env: Env = [("TERM", term)].into_iter().collect();
            assert_eq!(use_color(choice, &env, terminal), expected, "{choice:?} {term} {terminal}");
        }
    }

    #[test]
    fn a_hostile_record_cannot_leave_its_line() {
        for notice in super::super::tests::hostile_notices() {
            let text = Text::default().render(&notice, now());
            let lines: Vec<&str> = text.lines().collect();
            assert!((1..=2).contains(&lines.len()), "{text:?}");
            for line in lines {
                assert!(line.starts_with("tfwrap: "), "{line:?}");
                hostile::assert_harmless_line(line);
            }
            assert!(text.ends_with('\n') && text.chars().count() < 9_000);
        }
    }
}
