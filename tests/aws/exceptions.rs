//! Where tfwrap may differ from Terraform: `exceptions.txt`, an exception a line.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::case::Case;
use crate::verdict::Kind;

const TEXT: &str = include_str!("exceptions.txt");

/// A line: which cases, how they differ, and why that is right.
#[derive(Debug)]
struct Exception {
    /// A case's name, or `has` and a text that stands in it (and another, after ` & `).
    of: &'static str,
    kind: Kind,
    reason: &'static str,
}

impl Exception {
    fn is_of(&self, case: &Case) -> bool {
        match self.of.strip_prefix("has ") {
            None => case.name == self.of,
            Some(parts) => {
                let line = case.to_string();
                parts.split(" & ").all(|part| line.contains(part))
            }
        }
    }
}

/// All of them, and which were met.
#[derive(Debug)]
pub(crate) struct Exceptions {
    all: Vec<Exception>,
    met: Mutex<BTreeSet<&'static str>>,
}

impl Exceptions {
    pub(crate) fn read() -> Self {
        let lines = TEXT.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let all = lines
            .map(|line| {
                let [of, kind, reason] = line.split(" | ").collect::<Vec<_>>()[..] else {
                    panic!("`cases | kind | reason`: {line}")
                };
                let kind = Kind::of(kind).unwrap_or_else(|| panic!("no such kind: {line}"));
                assert!(!reason.is_empty(), "no reason: {line}");
                Exception { of, kind, reason }
            })
            .collect();
        Self { all, met: Mutex::default() }
    }

    /// Why this case may differ in this way.
    pub(crate) fn reason(&self, case: &Case, kind: Kind) -> Option<&'static str> {
        let exception = self.all.iter().find(|it| it.kind == kind && it.is_of(case))?;
        self.met.lock().unwrap().insert(exception.of);
        Some(exception.reason)
    }

    /// Those of designed cases that were not met: nobody needs them.
    pub(crate) fn idle(&self) -> Vec<&'static str> {
        let met = self.met.lock().unwrap();
        let idle = |it: &&Exception| !met.contains(it.of) && !it.of.starts_with("random-");
        self.all.iter().filter(idle).map(|it| it.of).collect()
    }
}
