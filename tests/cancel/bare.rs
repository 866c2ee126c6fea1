//! The controls: what the same cancels make of a Terraform without tfwrap, as the second table in
//! `docs/ci.md`. Much of it depends on times, so only the runners of the table are checked.

use crate::table::Section;

const SECTION: Section = Section { begin: "<!-- bare-table -->", end: "<!-- /bare-table -->" };

/// How a control went.
#[derive(Debug, Clone)]
pub(crate) struct BareRecord {
    pub(crate) runner: &'static str,
    pub(crate) interrupts: usize,
    /// Whether the state has what the apply made.
    pub(crate) is_saved: bool,
    /// Whether the lock stayed behind.
    pub(crate) is_locked: bool,
    /// Whether processes did.
    pub(crate) has_left: bool,
}

impl BareRecord {
    /// Of the runner, with Terraform in tfwrap's place.
    fn name(&self) -> String {
        self.runner.replace("tfwrap run -- ", "").replace("tfwrap", "terraform")
    }

    fn row(&self) -> String {
        let yes = |is_so: bool| if is_so { "yes" } else { "**no**" };
        let left = match (self.is_locked, self.has_left) {
            (false, false) => "nothing",
            (true, false) => "**the lock**",
            (false, true) => "processes",
            (true, true) => "**the lock**, processes",
        };
        let (name, Self { interrupts, is_saved, .. }) = (self.name(), self);
        format!("| {name} | {interrupts} | {} | {left} |", yes(*is_saved))
    }
}

/// The table, in Markdown.
pub(crate) fn markdown(records: &[BareRecord]) -> String {
    let head = ["| runner | interrupts | state saved | left behind |", "| --- | --- | --- | --- |"];
    let rows = records.iter().map(BareRecord::row);
    head.map(str::to_owned).into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

/// Puts the table where `docs/ci.md` has it.
pub(crate) fn write(records: &[BareRecord]) {
    SECTION.write(&markdown(records));
}

/// Whether `docs/ci.md` has the same runners.
pub(crate) fn differences(records: &[BareRecord]) -> Vec<String> {
    let table = match SECTION.read() {
        Ok(table) => table,
        Err(what) => return vec![what],
    };
    let told = table.lines().filter(|line| line.starts_with("| ")).skip(2);
    let told: Vec<_> = told.filter_map(|line| line.split('|').nth(1)).map(str::trim).collect();
    let found: Vec<_> = records.iter().map(BareRecord::name).collect();
    if told == found { Vec::new() } else { vec![format!("docs/ci.md has {told:?}, not {found:?}")] }
}
