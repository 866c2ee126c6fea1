//! The step summary: a table that reads without a chart, and the wait and the hold as a Mermaid chart. Some
//! kilobytes at most (Mermaid takes 50,000 characters), and less where others have written much.

use std::fmt::Write as _;
use std::iter;
use std::time::Duration;

use super::super::clean::{clean, clean_line};
use super::super::markdown::{chart_name, escape_cleaned, escape_markdown};
use super::super::text::hint_lines;
use super::{RunOutcome, Summary, holder_output, human};
use crate::lock::history::Awaited;

/// Bars shorter than this are left out of the chart.
const LEAST_BAR: Duration = Duration::from_millis(500);

/// Of more holders before us, only the first are named.
const MOST_HOLDERS: usize = 20;

/// Returns the Markdown for a finished run.
#[must_use]
pub fn step_summary(summary: &Summary) -> String {
    let mut out = format!("### tfwrap: {}\n\n", headline(summary.outcome));
    let _ = writeln!(out, "| lock | {} |", escape_markdown(&summary.lock));
    out.push_str("| --- | --- |\n");
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "| {name} | {} |", escape_markdown(value));
    };
    if let Some(id) = &summary.id {
        row("lock ID", id);
    }
    row("waited", &human(summary.waited));
    if let Some(ahead) = summary.ahead.filter(|_| !summary.behind.is_empty()) {
        row("place in the queue", &(ahead.saturating_add(1)).to_string());
    }
    for awaited in summary.behind.iter().take(MOST_HOLDERS) {
        // However long the name is, the time stays.
        let name = clean(&holder_output(&awaited.who, &awaited.operation, &awaited.info));
        let waited = human(Duration::from_millis(awaited.waited));
        let _ = writeln!(out, "| waited for | {} |", escape_cleaned(&format!("{name} ({waited})")));
    }
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "| {name} | {} |", escape_markdown(value));
    };
    if let more @ 1.. = summary.behind.len().saturating_sub(MOST_HOLDERS) {
        row("waited for", &format!("{more} more"));
    }
    row("held", &human(summary.held));
    if summary.replanned {
        row("planned", "twice: the state changed while Terraform planned without the lock");
    }
    row("exit code", &summary.exit_code.to_string());
    // Our own lines, whose commands must stay whole.
    let mut row = |name: &str, lines: &mut dyn Iterator<Item = String>| {
        let text = escape_cleaned(&lines.collect::<Vec<_>>().join(" "));
        let _ = writeln!(out, "| {name} | {text} |");
    };
    if let Some(reason) = &summary.reason {
        row("reason", &mut iter::once(clean_line(reason)));
    }
    if let Some(advice) = &summary.advice {
        row("what to do", &mut hint_lines(advice));
    }
    out.push_str(&gantt(summary));
    out
}

/// What a summary that was cut ends with.
const CUT: &str = "\n*The rest of what tfwrap says does not fit: GitHub takes 1 MiB for all that a step \
                   writes to its summary.*\n";

/// Returns as much of it as there is room for, in whole lines; nothing if that is not even the headline.
/// The chart goes first: half of it is none.
pub(super) fn cut_to(text: &str, room: usize) -> Option<String> {
    if text.len() <= room {
        return Some(text.to_owned());
    }
    let table = text.split_once("\n```").map_or(text, |(table, _)| table);
    let mut out = String::new();
    for line in table.split_inclusive('\n') {
        if out.len() + line.len() + CUT.len() > room {
            break;
        }
        out.push_str(line);
    }
    if out.is_empty() { None } else { Some(out + CUT) }
}

fn headline(outcome: RunOutcome) -> &'static str {
    match outcome {
        RunOutcome::Success => "done",
        RunOutcome::Failure => "the command failed, the lock was released",
        RunOutcome::TimedOut => "the lock was not acquired in time",
        RunOutcome::Interrupted => "interrupted",
        RunOutcome::Lost => "the lock was lost during the run",
        RunOutcome::NotReleased => "the lock could not be released",
        RunOutcome::Outdated => "outdated, Terraform was not started",
        RunOutcome::Error => "failed before the command ran",
    }
}

fn is_long(millis: i64) -> bool {
    u128::try_from(millis).is_ok_and(|millis| millis >= LEAST_BAR.as_millis())
}

fn chart_holder(awaited: &Awaited) -> String {
    let name = chart_name(&awaited.who);
    if name.is_empty() { "somebody".to_owned() } else { name }
}

/// Empty when there is nothing to draw.
fn gantt(summary: &Summary) -> String {
    let start = summary.asked.as_millisecond();
    let after =
        |time: Duration| start.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    let acquired = after(summary.waited);
    let released = after(summary.waited.saturating_add(summary.held));
    let mut bars = String::new();
    let mut until = start;
    for awaited in summary.behind.iter().take(MOST_HOLDERS) {
        let from = until;
        // What was seen may end after the wait did.
        let end = from.saturating_add(i64::try_from(awaited.waited).unwrap_or(i64::MAX));
        until = end.min(acquired);
        if is_long(until - from) {
            let _ =
                writeln!(bars, "    waited for {} :done, {from}, {until}", chart_holder(awaited));
        }
    }
    if is_long(acquired - until) {
        let _ = writeln!(bars, "    waited for the lock :done, {until}, {acquired}");
    }
    if summary.held >= LEAST_BAR {
        let _ = writeln!(bars, "    held :active, {acquired}, {released}");
    }
    if bars.is_empty() {
        return String::new();
    }
    // Without a section: a lock's name would run into the bars, and the table has it.
    format!("\n```mermaid\ngantt\n    dateFormat x\n    axisFormat %H:%M:%S\n{bars}```\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::hostile;
    use crate::report::tests::summary;

    #[test]
    fn a_run_is_drawn() {
        assert_eq!(
            step_summary(&summary()),
            "### tfwrap: done\n\
             \n\
             | lock | tfb/a/terraform&#46;tfstate |\n\
             | --- | --- |\n\
             | lock ID | 28e8a6c8 |\n\
             | waited | 30s |\n\
             | place in the queue | 2 |\n\
             | waited for | ci&#64;runner for apply, https&#58;//ci&#46;example/run/7 &#40;20s&#41; |\n\
             | held | 2m |\n\
             | exit code | 0 |\n\
             \n\
             ```mermaid\n\
             gantt\n    \
                 dateFormat x\n    \
                 axisFormat %H:%M:%S\n    \
                 waited for ci@runner :done, 1795252571000, 1795252591000\n    \
                 waited for the lock :done, 1795252591000, 1795252601000\n    \
                 held :active, 1795252601000, 1795252721000\n\
             ```\n"
        );
    }

    #[test]
    fn a_plan_that_was_made_twice_says_so() {
        let again = "| planned | twice";
        assert!(!step_summary(&summary()).contains(again));
        assert!(step_summary(&Summary { replanned: true, ..summary() }).contains(again));
    }

    #[test]
    fn a_run_without_a_wait_shows_the_hold_alone() {
        let mut summary = summary();
        summary.waited = Duration::ZERO;
        summary.ahead = None;
        summary.behind.clear();
        let text = step_summary(&summary);
        assert!(!text.contains("waited for") && text.contains("held :active"), "{text}");
        summary.held = Duration::ZERO;
        assert!(!step_summary(&summary).contains("mermaid"));
    }

    #[test]
    fn a_hostile_record_stays_in_its_cell_and_bar() {
        let mut summary = summary();
        let plain = step_summary(&summary);
        summary.lock = hostile::text();
        summary.id = Some(hostile::text());
        let info = hostile::info();
        let behind = &mut summary.behind[0];
        (behind.who, behind.operation, behind.info) = (info.who, info.operation, info.info);
        let text = step_summary(&summary);
        assert_eq!(text.lines().count(), plain.lines().count());
        (summary.reason, summary.advice) = (Some(hostile::text()), Some(hostile::text()));
        let text = step_summary(&summary);
        assert_eq!(text.lines().count(), plain.lines().count() + 2);
        assert!(text.len() < 20_000, "{}", text.len());
        for line in text.lines().filter(|line| !line.starts_with("###")) {
            hostile::assert_harmless(line);
            if line.starts_with('|') {
                assert_eq!(line.matches('|').count(), 3, "{line}");
                assert!(!line.contains(['`', '<', '[', '*', '_', '\\', '$']), "{line}");
            } else if line.trim_start().starts_with("waited for") {
                assert_eq!(line.matches(':').count(), 1, "{line}");
            }
        }
    }

    #[test]
    fn many_holders_stay_within_the_limits() {
        let mut summary = summary();
        summary.waited = Duration::from_secs(20_000);
        let mut one = summary.behind[0].clone();
        one.info = "x".repeat(10_000);
        summary.behind = vec![one; 1000];
        let text = step_summary(&summary);
        assert_eq!(text.matches("| waited for | ").count(), MOST_HOLDERS + 1);
        assert!(text.contains("\n| waited for | 980 more |\n"), "{text}");
        assert!(text.len() < 20_000, "{}", text.len());
    }

    #[test]
    fn a_long_name_leaves_the_time_it_was_waited_for() {
        for long in ["x".repeat(500), "é|".repeat(300), "a::b ##[c] ".repeat(50)] {
            let mut summary = summary();
            summary.behind[0].who = long;
            let text = step_summary(&summary);
            let row = text.lines().find(|line| line.starts_with("| waited for | ")).unwrap();
            assert!(row.ends_with("… &#40;20s&#41; |"), "{row}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_in_whole_lines_and_that_is_said() {
        let whole = step_summary(&summary());
        let table = whole.find("\n```").unwrap();
        assert_eq!(cut_to(&whole, whole.len()).as_deref(), Some(&*whole));
        for room in 0..whole.len() {
            let Some(cut) = cut_to(&whole, room) else {
                assert!(room < "### tfwrap: done\n".len() + CUT.len(), "{room}");
                continue;
            };
            assert!(cut.len() <= room, "{room}: {cut}");
            let kept = cut.strip_suffix(CUT).unwrap();
            assert!(whole[..table].starts_with(kept), "{cut}");
            assert!(kept.starts_with("### tfwrap: done\n") && kept.ends_with('\n'), "{cut}");
        }
    }

    #[test]
    fn a_failed_run_says_why_and_what_to_do() {
        let mut summary = summary();
        summary.outcome = RunOutcome::TimedOut;
        (summary.reason, summary.advice) =
            (Some("cannot acquire the lock".to_owned()), Some("wait longer".to_owned()));
        let text = step_summary(&summary);
        assert!(text.starts_with("### tfwrap: the lock was not acquired in time\n"), "{text}");
        assert!(text.contains("| reason | cannot acquire the lock |\n"), "{text}");
        assert!(text.contains("| what to do | wait longer |\n"), "{text}");
    }
}
