//! GitLab's collapsible sections, as text.

use super::clean::clean;

/// Opens a section with a header, at `unix` seconds. `name` names it to [`section_end`].
#[must_use]
pub fn section_start(name: &str, header: &str, unix: i64, collapsed: bool) -> String {
    let (name, header) = (section_name(name), clean(header));
    let option = if collapsed { "[collapsed=true]" } else { "" };
    format!("\u{1b}[0Ksection_start:{unix}:{name}{option}\r\u{1b}[0K{header}\n")
}

/// Closes a section at `unix` seconds.
#[must_use]
pub fn section_end(name: &str, unix: i64) -> String {
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

    #[test]
    fn sections_have_gitlabs_form() {
        assert_eq!(
            section_start("tfwrap", "Waiting for the lock", 17, true),
            "\x1b[0Ksection_start:17:tfwrap[collapsed=true]\r\x1b[0KWaiting for the lock\n"
        );
        assert_eq!(section_end("tf wrap", 18), "\x1b[0Ksection_end:18:tf_wrap\r\x1b[0K\n");
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
