//! Where tfwrap may differ from Terraform: `exceptions.txt`, an exception a line; and by the release of the
//! Terraform that is asked, `exceptions-of-releases.txt`.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use crate::case::Case;
use crate::verdict::Kind;

const TEXT: &str = include_str!("exceptions.txt");
const OF_RELEASES: &str = include_str!("exceptions-of-releases.txt");

/// The minor release of the Terraform 1 that is found first.
static MINOR: LazyLock<u32> = LazyLock::new(|| {
    let said = Command::new("terraform").arg("version").output().expect("a terraform").stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let minor = said.split("v1.").nth(1).and_then(|rest| rest.split('.').next()?.parse().ok());
    minor.unwrap_or_else(|| panic!("no release of Terraform 1: {said}"))
});

/// Whether its SDK knows no hosts of accounts: with those, tfwrap asks the same table by another name.
pub(crate) fn has_no_hosts_of_accounts() -> bool {
    *MINOR < 10
}

/// Whether `1.6-1.9` has it in it.
fn is_meant(releases: &str) -> bool {
    let minors = releases.split('-').map(|it| it.strip_prefix("1.").expect("1.X").parse::<u32>());
    let minors: Vec<_> = minors.map(|it| it.expect("a number")).collect();
    (minors[0]..=minors[minors.len() - 1]).contains(&MINOR)
}

/// A line: which cases, how they differ, and why that is right.
#[derive(Debug)]
struct Exception {
    /// A case's name (with `+file` for its lock file alone), or `has` and a text that stands in it (and another, after ` & `).
    of: &'static str,
    kind: Kind,
    reason: &'static str,
}

impl Exception {
    fn is_of(&self, case: &Case) -> bool {
        match self.of.strip_prefix("has ") {
            None => [&case.name, case.plain_name()].contains(&self.of),
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
        let is_one = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let of_release = |line: &'static str| {
            let (releases, rest) = line.split_once(" | ").expect("releases");
            is_meant(releases).then_some(rest)
        };
        let of_releases = OF_RELEASES.lines().filter(is_one).filter_map(of_release);
        let all = TEXT
            .lines()
            .filter(is_one)
            .chain(of_releases)
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
