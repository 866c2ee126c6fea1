//! What must hold after each round.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) faults: Vec<String>,
    /// How each job ended, as a shell says it; and what it said.
    pub(crate) codes: Vec<Option<i32>>,
    pub(crate) said: Vec<String>,
    pub(crate) struck: Vec<String>,
    /// How many stops there can have been.
    pub(crate) stops: usize,
    /// Locks that nobody was left to give back.
    pub(crate) left: usize,
    /// What the children noted.
    pub(crate) work: String,
    /// By child: the interrupts that it heard.
    pub(crate) heard: BTreeMap<String, Vec<String>>,
}

impl Outcome {
    pub(crate) fn read(&mut self, work: &Path) {
        self.work = fs::read_to_string(work).unwrap_or_default();
        let name = work.file_name().expect("a name").to_string_lossy().into_owned();
        for entry in fs::read_dir(work.parent().expect("a directory")).expect("it can be read") {
            let path = entry.expect("an entry").path();
            let of = path.file_name().expect("a name").to_string_lossy().into_owned();
            if let Some(id) = of.strip_prefix(&format!("{name}.signals-")) {
                let text = fs::read_to_string(&path).expect("it can be read");
                self.heard.insert(id.to_owned(), text.lines().map(str::to_owned).collect());
            }
        }
    }

    fn count(&self, what: &str) -> usize {
        self.work.lines().filter(|line| line.starts_with(what)).count()
    }

    pub(crate) fn overlaps(&self) -> usize {
        self.count("overlap ")
    }

    pub(crate) fn check(&mut self) {
        if self.overlaps() > 0 {
            self.faults.push("Terraforms overlap".to_owned());
        }
        for (id, heard) in &self.heard {
            if heard.len() > self.stops {
                let (count, stops) = (heard.len(), self.stops);
                self.faults.push(format!("{id} heard {count} interrupts of {stops} stops"));
            }
        }
        for said in &self.said {
            // What a real one says, which logs no signals.
            if said.contains("Two interrupts received") && self.stops < 2 {
                self.faults.push("Terraform was interrupted twice by one stop".to_owned());
            }
            if said.contains("panicked") || said.contains("a bug in tfwrap") {
                self.faults.push("tfwrap panicked".to_owned());
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "signals: {:#?}", self.struck)?;
        writeln!(to, "exit codes: {:?}", self.codes)?;
        writeln!(to, "work:\n{}heard: {:#?}", self.work, self.heard)?;
        for (job, said) in self.said.iter().enumerate() {
            writeln!(to, "--- job {job} said\n{said}")?;
        }
        Ok(())
    }
}

/// All rounds together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    rounds: usize,
    begun: usize,
    ended: usize,
    struck: usize,
    heard: usize,
    left: usize,
    codes: BTreeMap<String, usize>,
}

impl Tally {
    pub(crate) fn add(&mut self, one: &Outcome) {
        self.rounds += 1;
        self.begun += one.count("begin ");
        self.ended += one.count("end ");
        self.struck += one.struck.len();
        self.heard += one.heard.values().map(Vec::len).sum::<usize>();
        self.left += one.left;
        for code in &one.codes {
            let code = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
            *self.codes.entry(code).or_default() += 1;
        }
    }

    /// Enough of them worked, and were stopped.
    pub(crate) fn is_of_use(&self) -> bool {
        self.rounds < 20 || (self.begun > self.rounds && self.struck * 2 > self.rounds)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "{} rounds: {} children began, {} ended by themselves; {} signals were sent, {} heard; locks \
             that nobody was left to give back: {}; exit codes: {:?}",
            self.rounds, self.begun, self.ended, self.struck, self.heard, self.left, self.codes
        )
    }
}
