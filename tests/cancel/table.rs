//! What the cases were like, as the table in `docs/ci.md`.

use std::path::Path;
use std::time::Duration;

use crate::runners::Runner;
use crate::stage::Work;

const SECTION: Section = Section { begin: "<!-- cancel-table -->", end: "<!-- /cancel-table -->" };

/// How a case went.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) runner: &'static str,
    pub(crate) cancel: &'static str,
    pub(crate) work: Work,
    pub(crate) interrupts: usize,
    /// Of these, what the runner sent the child itself.
    pub(crate) direct: usize,
    pub(crate) state: Option<bool>,
    pub(crate) freed: Option<Duration>,
    pub(crate) by: &'static str,
    pub(crate) left: Vec<String>,
    pub(crate) code: Option<i32>,
    pub(crate) problems: Vec<String>,
}

impl Record {
    /// Of a case that came to no end; its panic says why.
    pub(crate) fn failed(runner: &Runner, work: Work) -> Self {
        Self {
            runner: runner.name,
            cancel: runner.cancel,
            work,
            interrupts: 0,
            direct: 0,
            state: None,
            freed: None,
            by: "",
            left: Vec::new(),
            code: None,
            problems: vec!["it panicked".to_owned()],
        }
    }

    pub(crate) fn of_work(&self) -> String {
        match self.work {
            Work::Terraform(_) => "Terraform".to_owned(),
            Work::Ends(seconds) => format!("{seconds} s"),
            Work::Never => "never".to_owned(),
        }
    }

    /// One line, for whoever reads the tests' output.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}, {}: interrupts {} ({} by the runner), state {:?}, free after {:.2?} by {:?}, code \
             {:?}, left {:?}, problems {:?}",
            self.runner,
            self.of_work(),
            self.interrupts,
            self.direct,
            self.state,
            self.freed.unwrap_or_default(),
            self.by,
            self.code,
            self.left,
            self.problems
        )
    }
}

/// A row of the table: what does not depend on times, and what does.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    fixed: [String; 5],
    times: Vec<String>,
}

impl Row {
    fn text(&self) -> String {
        format!("| {} | {} |", self.fixed.join(" | "), self.times.join(" | "))
    }
}

const HEAD: [&str; 5] = ["runner", "a cancel is", "interrupts", "state saved", "left behind"];

/// The works in the order of their columns.
fn columns(records: &[Record]) -> Vec<String> {
    let mut names = Vec::new();
    for record in records {
        if !names.contains(&record.of_work()) {
            names.push(record.of_work());
        }
    }
    names
}

fn rows(records: &[Record]) -> Vec<Row> {
    let columns = columns(records);
    let mut runners: Vec<&'static str> = Vec::new();
    for record in records {
        if !runners.contains(&record.runner) {
            runners.push(record.runner);
        }
    }
    let row = |runner: &'static str| {
        let of: Vec<&Record> = records.iter().filter(|record| record.runner == runner).collect();
        let times = columns.iter().map(|name| {
            let record = of.iter().find(|record| record.of_work() == *name);
            record.map_or_else(|| "–".to_owned(), |record| time(record))
        });
        let state = state(&of);
        let left =
            if of.iter().all(|record| record.left.is_empty()) { "nothing" } else { "processes" };
        let fixed = [runner, of[0].cancel, &interrupts(&of), state, left].map(str::to_owned);
        Row { fixed, times: times.collect() }
    };
    runners.into_iter().map(row).collect()
}

/// One, but for what the runner itself sends: how often that is depends on times.
fn interrupts(of: &[&Record]) -> String {
    let by_us = |record: &Record| record.interrupts.saturating_sub(record.direct);
    let wrong = of.iter().find(|record| record.interrupts != record.direct.max(1));
    match wrong {
        Some(record) => format!("{}, {} by tfwrap", record.interrupts, by_us(record)),
        None if of.iter().any(|record| record.direct > 1) => {
            "1; more by the runner itself".to_owned()
        }
        None => "1".to_owned(),
    }
}

/// Whether it can be lost by what the runner itself sends depends on times.
fn state(of: &[&Record]) -> &'static str {
    let Some(record) = of.iter().find(|record| record.state.is_some()) else { return "–" };
    match record.state {
        _ if record.direct > 1 => "if it ends before the second",
        Some(true) => "yes",
        _ => "no",
    }
}

fn time(record: &Record) -> String {
    let Some(after) = record.freed else { return "not at all".to_owned() };
    let by = if record.by.is_empty() || record.by == "tfwrap" {
        String::new()
    } else {
        format!(" ({})", record.by)
    };
    format!("{:.1} s{by}", after.as_secs_f64())
}

/// The table, in Markdown.
pub(crate) fn markdown(records: &[Record]) -> String {
    let columns = columns(records);
    let head: Vec<&str> = HEAD.into_iter().chain(columns.iter().map(String::as_str)).collect();
    let rule = vec!["---"; head.len()];
    let mut lines = vec![format!("| {} |", head.join(" | ")), format!("| {} |", rule.join(" | "))];
    lines.extend(rows(records).iter().map(Row::text));
    lines.join("\n")
}

/// A part of `docs/ci.md`, between two markers.
pub(crate) struct Section {
    pub(crate) begin: &'static str,
    pub(crate) end: &'static str,
}

impl Section {
    fn path() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ci.md")
    }

    /// Before, between and after the markers.
    fn parts(&self) -> Result<[String; 3], String> {
        let text = std::fs::read_to_string(Self::path()).expect("docs/ci.md");
        let parts = text.split_once(self.begin).and_then(|(before, rest)| {
            let (table, after) = rest.split_once(self.end)?;
            Some([before, table, after].map(str::to_owned))
        });
        parts.ok_or_else(|| format!("docs/ci.md has no {} … {}", self.begin, self.end))
    }

    /// What is there, or what is missing.
    pub(crate) fn read(&self) -> Result<String, String> {
        self.parts().map(|[_, table, _]| table)
    }

    /// Puts this there.
    pub(crate) fn write(&self, table: &str) {
        let [before, _, after] = self.parts().expect("the markers");
        let text = format!("{before}{}\n{table}\n{}{after}", self.begin, self.end);
        std::fs::write(Self::path(), text).expect("docs/ci.md can be written");
    }
}

/// Puts the table where `docs/ci.md` has it.
pub(crate) fn write(records: &[Record]) {
    SECTION.write(&markdown(records));
}

/// Whether `docs/ci.md` has the same rows, but for the times.
pub(crate) fn differences(records: &[Record]) -> Vec<String> {
    let table = match SECTION.read() {
        Ok(table) => table,
        Err(what) => return vec![what],
    };
    let told: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).take(HEAD.len()).collect())
        .collect();
    let found = rows(records);
    let same = |row: &&Row| !told.iter().any(|told| row.fixed.iter().eq(told.iter()));
    let mut all: Vec<String> = found
        .iter()
        .filter(same)
        .map(|row| format!("not in docs/ci.md: {:?}", row.fixed))
        .collect();
    if told.len() != found.len() {
        all.push(format!("docs/ci.md has {} rows, not {}", told.len(), found.len()));
    }
    all
}
