//! GitLab CI: the wait as a collapsible section of the log, and the outputs as a dotenv report.

mod dotenv;

pub use dotenv::{Dotenv, DotenvError};

use jiff::Timestamp;

use super::Notice;
use super::clean::clean;
use crate::env::Env;

/// Whether this is a GitLab CI job.
#[must_use]
pub fn is_job(env: &Env) -> bool {
    env.get("GITLAB_CI") == Some("true")
}

/// The section around what is said of a wait. GitLab shows beside it how long it took.
#[derive(Debug, Default)]
pub(super) struct WaitSection {
    /// The name of the one that is open.
    open: Option<String>,
}

impl WaitSection {
    /// What goes before this notice: the begin of a section, its end, or nothing.
    pub(super) fn before(&mut self, notice: &Notice, at: Timestamp) -> String {
        let unix = at.as_second();
        match (notice, self.open.take()) {
            (Notice::Waiting { .. }, None) => {
                let name = format!("tfwrap_wait_{unix}");
                let start = section_start(&name, "tfwrap: waiting for the lock", unix, false);
                self.open = Some(name);
                start
            }
            (Notice::Waiting { .. } | Notice::Detail { .. }, open) => {
                self.open = open;
                String::new()
            }
            (_, open) => open.map(|name| section_end(&name, unix)).unwrap_or_default(),
        }
    }
}

/// Opens a section with a header, at `unix` seconds. `name` names it to [`section_end`].
fn section_start(name: &str, header: &str, unix: i64, collapsed: bool) -> String {
    let (name, header) = (section_name(name), clean(header));
    let option = if collapsed { "[collapsed=true]" } else { "" };
    format!("\u{1b}[0Ksection_start:{unix}:{name}{option}\r\u{1b}[0K{header}\n")
}

/// Closes a section at `unix` seconds.
fn section_end(name: &str, unix: i64) -> String {
    format!("\u{1b}[0Ksection_end:{unix}:{}\r\u{1b}[0K\n", section_name(name))
}

/// GitLab takes letters, digits and `_.-`.
fn section_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars().take(100).map(|c| if plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::hostile;
    use crate::report::tests::hostile_notices;

    #[test]
    fn sections_have_gitlabs_form() {
        assert_eq!(
            section_start("tfwrap", "Waiting for the lock", 17, true),
            "\x1b[0Ksection_start:17:tfwrap[collapsed=true]\r\x1b[0KWaiting for the lock\n"
        );
        assert_eq!(section_end("tf wrap", 18), "\x1b[0Ksection_end:18:tf_wrap\r\x1b[0K\n");
    }

    #[test]
    fn a_wait_is_one_section_that_ends_before_what_follows() {
        let at = |unix| Timestamp::from_second(unix).unwrap();
        let [waiting, detail, other] = ["waiting", "detail", "other"].map(|kind| match kind {
            "waiting" => hostile_notices().swap_remove(0),
            "detail" => Notice::Detail { message: "asked again".into() },
            _ => Notice::Note { message: "done".into() },
        });
        let mut section = WaitSection::default();
        let said: Vec<String> = [&detail, &other, &waiting, &detail, &waiting, &other, &other]
            .into_iter()
            .zip(17..)
            .map(|(notice, unix)| section.before(notice, at(unix)))
            .collect();
        let start = "\x1b[0Ksection_start:19:tfwrap_wait_19\r\x1b[0Ktfwrap: waiting for the lock\n";
        let end = "\x1b[0Ksection_end:22:tfwrap_wait_19\r\x1b[0K\n";
        assert_eq!(said, ["", "", start, "", "", end, ""]);
        // The next wait has a section of its own.
        assert!(section.before(&waiting, at(40)).contains("section_start:40:tfwrap_wait_40"));
    }

    #[test]
    fn only_a_true_job_counts() {
        let is = |value: &str| is_job(&[("GITLAB_CI", value)].into_iter().collect());
        assert!(is("true"));
        assert!(!is("false") && !is(""));
    }

    #[test]
    fn a_hostile_header_stays_in_its_section() {
        let start = section_start(&hostile::text(), &hostile::text(), 1, false);
        let (frame, header) = start.trim_end_matches('\n').rsplit_once("\r\x1b[0K").unwrap();
        hostile::assert_harmless(header);
        let name = frame.strip_prefix("\x1b[0Ksection_start:1:").unwrap();
        assert_eq!(name, section_name(&hostile::text()));
        hostile::assert_harmless(name);
    }
}
