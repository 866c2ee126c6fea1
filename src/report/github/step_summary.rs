//! The step summary: a table, and the wait and the hold as a Mermaid chart. Some kilobytes at most
//! (GitHub takes 1 MiB, Mermaid 50,000 characters).

use std::fmt::Write as _;
use std::time::Duration;

use super::super::markdown::{chart_name, escape_markdown};
use super::{RunOutcome, Summary, holder_output, human};

/// Bars shorter than this are left out of the chart.
const LEAST_BAR: Duration = Duration::from_millis(500);

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
    row("held", &human(summary.held));
    if let Some(holder) = &summary.holder {
        row("waited for", &holder_output(holder));
    }
    row("exit code", &summary.exit_code.to_string());
    out.push_str(&gantt(summary));
    out
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

/// Empty when there is nothing to draw.
fn gantt(summary: &Summary) -> String {
    let start = summary.asked.as_millisecond();
    let after =
        |time: Duration| start.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    let acquired = after(summary.waited);
    let released = after(summary.waited.saturating_add(summary.held));
    let mut bars = String::new();
    if summary.waited >= LEAST_BAR {
        let whom = summary.holder.as_deref().map(|info| chart_name(&info.who));
        let whom = whom.filter(|name| !name.is_empty()).unwrap_or_else(|| "the lock".to_owned());
        let _ = writeln!(bars, "    waited for {whom} :done, {start}, {acquired}");
    }
    if summary.held >= LEAST_BAR {
        let _ = writeln!(bars, "    held :active, {acquired}, {released}");
    }
    if bars.is_empty() {
        return String::new();
    }
    format!(
        "\n```mermaid\ngantt\n    dateFormat x\n    axisFormat %H:%M:%S\n    section {}\n{bars}```\n",
        chart_name(&summary.lock)
    )
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
             | held | 2m |\n\
             | waited for | ci&#64;runner for apply, https&#58;//ci&#46;example/run/7 |\n\
             | exit code | 0 |\n\
             \n\
             ```mermaid\n\
             gantt\n    \
                 dateFormat x\n    \
                 axisFormat %H:%M:%S\n    \
                 section tfb/a/terraform.tfstate\n    \
                 waited for ci@runner :done, 1795252571000, 1795252601000\n    \
                 held :active, 1795252601000, 1795252721000\n\
             ```\n"
        );
    }

    #[test]
    fn a_run_without_a_wait_shows_the_hold_alone() {
        let mut summary = summary();
        summary.waited = Duration::ZERO;
        summary.holder = None;
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
        summary.holder = Some(Box::new(hostile::info()));
        let text = step_summary(&summary);
        assert_eq!(text.lines().count(), plain.lines().count());
        assert!(text.len() < 20_000, "{}", text.len());
        for line in text.lines().filter(|line| !line.starts_with("###")) {
            hostile::assert_harmless(line);
            if line.starts_with('|') {
                assert_eq!(line.matches('|').count(), 3, "{line}");
                assert!(!line.contains(['`', '<', '[', '*', '_', '\\', '$']), "{line}");
            } else if let Some(name) = line.trim_start().strip_prefix("section ") {
                assert!(!name.contains([':', '#', ';', '%', '`', '"', '<']), "{line}");
            } else if line.trim_start().starts_with("waited for") {
                assert_eq!(line.matches(':').count(), 1, "{line}");
            }
        }
    }
}
