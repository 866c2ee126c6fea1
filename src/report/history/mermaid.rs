//! For Markdown: the answer, and a Gantt chart that GitHub and GitLab draw.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use super::super::markdown::{chart_name, escape_cleaned};
use super::{
    LockHistory, asked, ending, first_line, held, human, newest, periods, person, short_operation,
    waited, waits,
};
use crate::lock::history::PastRun;

/// Shorter bars are left out.
const LEAST_BAR: Duration = Duration::from_millis(500);

/// The answer for each lock, and a chart for each period in which runs followed each other closely, the last
/// period first. At most `limit` runs.
#[must_use]
pub fn histories_as_mermaid(histories: &[LockHistory], limit: usize, now: Timestamp) -> String {
    let shown = newest(histories, limit);
    let mut out = String::new();
    for history in histories {
        let _ = writeln!(out, "{}\n", escape_cleaned(&first_line(history, now)));
        let of_this = shown.iter().filter(|(of, _)| std::ptr::eq(*of, history));
        let runs: Vec<_> = of_this.map(|(_, run)| *run).collect();
        let left_out = runs.iter().filter(|run| bars(history, run).is_empty()).count();
        if left_out > 0 {
            let runs = if left_out == 1 { "run was" } else { "runs were" };
            let _ = writeln!(out, "{left_out} {runs} too short to be drawn.\n");
        }
        for period in periods(&runs) {
            let bars: String =
                period.runs.iter().map(|index| bars(history, runs[*index])).collect();
            if !bars.is_empty() {
                let begin = period.begin.strftime("%Y-%m-%d %H:%M");
                let _ = writeln!(
                    out,
                    "{begin} UTC\n\n```mermaid\ngantt\n    dateFormat x\n    axisFormat %H:%M:%S\n{bars}```\n"
                );
            }
        }
    }
    out
}

/// A chart has no brackets and no commas.
fn plain(text: &str) -> String {
    chart_name(&text.replace(", ", " and ").replace(['(', ')'], ""))
}

fn bars(history: &LockHistory, run: &PastRun) -> String {
    let start = asked(run).as_millisecond();
    let after = |time: Duration| start.saturating_add(i64::try_from(time.as_millis()).unwrap_or(0));
    let acquired = after(waited(run));
    let released = after(waited(run) + held(run));
    let mut bars = String::new();
    if waited(run) >= LEAST_BAR {
        let whom = waits(history, run);
        let whom = if whom.is_empty() { String::new() } else { format!(" for {whom}") };
        let text = plain(&format!("waited {}{whom}", human(waited(run))));
        let _ = writeln!(bars, "    {text} :done, {start}, {acquired}");
    }
    if held(run) >= LEAST_BAR {
        let kind = if run.outcome == "success" { "active" } else { "crit" };
        let text = plain(&format!("held {} {}", human(held(run)), ending(run)));
        let _ = writeln!(bars, "    {text} :{kind}, {acquired}, {released}");
    }
    if bars.is_empty() {
        return bars;
    }
    let title = format!("{} {}", person(run), short_operation(&run.operation));
    format!("    section {}\n{bars}", chart_name(&title))
}
