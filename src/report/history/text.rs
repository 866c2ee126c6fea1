//! For people: an answer, then a line for each run.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{
    LockHistory, asked, ending, first_line, held, human, link, newest, person, short_commit,
    short_operation, stamp, waited, waits,
};

/// Lines for people; `now` is the wall clock, for the last week only. At most `limit` runs.
#[must_use]
pub fn histories_as_text(histories: &[LockHistory], limit: usize, now: Timestamp) -> String {
    let mut out = String::new();
    let shown = newest(histories, limit);
    for history in histories {
        out.push_str(&first_line(history, now));
        out.push('\n');
        let rows: Vec<_> = shown
            .iter()
            .filter(|(of, _)| std::ptr::eq(*of, history))
            .map(|(_, run)| {
                let held = run.held.map_or_else(
                    || "never held".to_owned(),
                    |_| format!("held {}", human(held(run))),
                );
                let cells = [
                    stamp(asked(run)),
                    short_operation(&run.operation),
                    person(run),
                    format!("waited {}", human(waited(run))),
                    held,
                    ending(run),
                    short_commit(run),
                    link(run),
                ];
                (cells, waits(history, run))
            })
            .collect();
        let widths: [usize; 8] = std::array::from_fn(|column| {
            let width = |(cells, _): &([String; 8], String)| cells[column].chars().count();
            rows.iter().map(width).max().unwrap_or_default()
        });
        for (cells, waits) in rows {
            let mut line = String::from(" ");
            // A column that is empty in all rows takes no room.
            for (cell, width) in cells.iter().zip(widths).filter(|(_, width)| *width > 0) {
                let _ = write!(line, " {cell:width$} ");
            }
            out.push_str(line.trim_end());
            out.push('\n');
            if !waits.is_empty() {
                let _ = writeln!(out, "      waited for {waits}");
            }
        }
        match history.unreadable {
            0 => {}
            1 => out.push_str("  1 entry cannot be read\n"),
            many => {
                let _ = writeln!(out, "  {many} entries cannot be read");
            }
        }
    }
    out
}
