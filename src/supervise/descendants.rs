//! What was started as Terraform below the child, and by what: a script may give it other arguments, another
//! environment and another directory than we gave the script.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Pid, getpgid, getpgrp, getpid};

use super::process::{ProcessId, Stat, children_of, processes};
use super::targets::{have_our_flag, runs, words};
use crate::env::Env;
use crate::file_id::FileId;

/// A process that was given tfwrap's own flag, by what it was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningTerraform {
    /// Which.
    pub process: ProcessId,
    /// What it executes.
    pub program: PathBuf,
    /// Its arguments, without its name.
    pub args: Vec<OsString>,
    /// What its environment was when it was started.
    pub env: Env,
    /// Where it works by now: Terraform enters the directory of `-chdir` itself.
    pub dir: PathBuf,
    /// Whether that is where its parent works, from whom it has it: then it has not entered any yet.
    pub is_where_it_was_started: bool,
}

impl RunningTerraform {
    /// What runs in this process; nothing where that cannot be read, or where paths mean something else than
    /// here (a container, a sandbox).
    #[must_use]
    pub fn of(process: ProcessId) -> Option<Self> {
        let pid = process.pid();
        let link = |of: &str, name: &str| fs::read_link(format!("/proc/{of}/{name}")).ok();
        let has_ours = |name| link(&pid.to_string(), name) == link("self", name);
        if !has_ours("ns/mnt") || !has_ours("root") {
            return None;
        }
        let read = || {
            let args = words(pid).into_iter().skip(1).map(OsString::from_vec).collect();
            Some((link(&pid.to_string(), "exe")?, args))
        };
        let before: (PathBuf, Vec<OsString>) = read()?;
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let dir = process.working_dir()?;
        let parent = Stat::of(pid).and_then(|stat| ProcessId::of(stat.parent));
        let is_where_it_was_started =
            parent.and_then(ProcessId::working_dir).as_ref() == Some(&dir);
        // It may have executed another program meanwhile.
        let (program, args) = read().filter(|now| *now == before && process.is_alive())?;
        // Of a variable that is there twice the first counts, as in Go.
        let env = environment.split(|byte| *byte == 0).rev().filter_map(|variable| {
            let at = variable.iter().skip(1).position(|byte| *byte == b'=')? + 1;
            let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
            Some((text(&variable[..at]), text(&variable[at + 1..])))
        });
        Some(Self { process, program, args, env: env.collect(), dir, is_where_it_was_started })
    }
}

/// What lives below us.
#[derive(Debug, Default)]
pub struct Descendants {
    /// All of it, sorted.
    pub all: Vec<Pid>,
    /// What was given our flag and is a Terraform by its arguments.
    pub terraforms: Vec<FoundTerraform>,
}

/// One of them.
#[derive(Debug)]
pub struct FoundTerraform {
    /// Which.
    pub process: ProcessId,
    /// Its arguments, without its name.
    pub args: Vec<OsString>,
    /// The file that it executes.
    pub file: Option<FileId>,
    /// Whether whoever started it has ended: nothing leads to it from the child.
    pub is_stray: bool,
}

impl Descendants {
    /// The Terraforms, as `is_terraform` tells by their arguments, are the first on each way down, and
    /// whatever that has started with these arguments among others and is another program: that one was a
    /// version manager's, or a wrapper. What else is below it is its own business: a provisioner may call
    /// Terraform. So is what is below another tfwrap.
    #[must_use]
    pub fn below_us(child: Pid, is_terraform: impl Fn(&[OsString]) -> bool) -> Self {
        let (ours, mut table) = (getpgrp(), None);
        let mut children = |pid: Pid| {
            children_of(pid).unwrap_or_else(|| {
                // Where the kernel does not list them.
                let all = table.get_or_insert_with(|| processes().unwrap_or_default());
                all.iter().filter(|(_, stat)| stat.parent == pid).map(|(pid, _)| *pid).collect()
            })
        };
        // What we started besides the child is in our own group.
        let tops = children(getpid()).into_iter().filter(|pid| getpgid(Some(*pid)) != Ok(ours));
        let mut open: Vec<_> = tops.map(|top| (top, top != child, Vec::new())).collect();
        let this = FileId::of(Path::new("/proc/self/exe"));
        let mut descendants = Self::default();
        while let Some((pid, is_stray, mut above)) = open.pop() {
            if runs(pid, this) {
                continue;
            }
            descendants.all.push(pid);
            let words = words(pid);
            let args = words.iter().skip(1).cloned().map(OsString::from_vec).collect::<Vec<_>>();
            let is_one = have_our_flag(&words) && is_terraform(&args);
            if is_one || !above.is_empty() {
                let file = FileId::of(Path::new(&format!("/proc/{pid}/exe")));
                let is_below = |(given, other): &(Vec<OsString>, Option<FileId>)| {
                    are_among(given, &args) && *other != file
                };
                if !is_one || !above.iter().all(is_below) {
                    continue;
                }
                above.push((args.clone(), file));
                let found = ProcessId::of(pid).map(|process| FoundTerraform {
                    process,
                    args,
                    file,
                    is_stray,
                });
                descendants.terraforms.extend(found);
            }
            open.extend(children(pid).into_iter().map(|child| (child, is_stray, above.clone())));
        }
        descendants.all.sort_unstable();
        descendants
    }
}

/// Whether these arguments are among the others, in their order.
#[must_use]
pub fn are_among(these: &[OsString], others: &[OsString]) -> bool {
    let mut others = others.iter();
    these.iter().all(|arg| others.any(|other| other == arg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_among_others_in_their_order() {
        let split = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let given = split("apply -lock=false -no-color");
        for others in ["apply -lock=false -no-color", "-chdir=b apply -lock=false -x -no-color p"] {
            assert!(are_among(&given, &split(others)), "{others}");
        }
        for others in
            ["apply -no-color -lock=false", "apply -lock=false", "plan -lock=false -no-color"]
        {
            assert!(!are_among(&given, &split(others)), "{others}");
        }
    }
}
