//! Processes of the tests by number and birth: found in `/proc`, signalled without a mistake.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process for good: the number alone comes back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    born: String,
}

impl Process {
    /// The process that has this number now, unless it is gone.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = Stat::of(pid)?;
        Some(Self { pid, born: stat.born })
    }

    /// A child of ours that has not been waited for, dead or alive.
    pub(crate) fn of_child(pid: u32) -> Self {
        let (born, _) = fields(pid.cast_signed()).expect("it has not been waited for");
        Self { pid: pid.cast_signed(), born }
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.born == self.born)
    }

    /// Sends it a signal, and nobody else; whether it was there to get it.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        let Ok(opened) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // The descriptor names one process; whether it is ours is looked at after.
        self.is_alive() && pidfd_send_signal(opened, signal).is_ok()
    }

    /// Its program.
    pub(crate) fn program(&self) -> String {
        let path = fs::read_link(format!("/proc/{}/exe", self.pid)).unwrap_or_default();
        path.display().to_string()
    }

    /// For messages: number, command line and whose child it is.
    pub(crate) fn describe(&self) -> String {
        let command = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let parent = Stat::of(self.pid).map_or(0, |stat| stat.parent);
        format!("{} (child of {parent}): {}", self.pid, command.trim())
    }

    /// All below it, those farthest down first, and then itself.
    pub(crate) fn tree(&self) -> Vec<Self> {
        let mut found = Vec::new();
        below(self.pid, &all(), 0, &mut found);
        found.extend(self.is_alive().then(|| self.clone()));
        found
    }

    /// Its parent.
    pub(crate) fn parent(&self) -> Option<Self> {
        Self::of(Stat::of(self.pid)?.parent)
    }

    /// Its children.
    pub(crate) fn children(&self) -> Vec<Self> {
        all().into_iter().filter(|(_, stat)| stat.parent == self.pid).map(|(one, _)| one).collect()
    }

    /// What identifies its PID namespace.
    pub(crate) fn namespace(&self) -> Option<String> {
        let link = fs::read_link(format!("/proc/{}/ns/pid", self.pid)).ok()?;
        Some(link.display().to_string())
    }

    fn environment(&self) -> Vec<u8> {
        fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default()
    }
}

/// Trees are not deep; a number that came back could make a ring of one.
pub(crate) const DEEPEST: usize = 64;

fn below(parent: i32, all: &[(Process, Stat)], depth: usize, found: &mut Vec<Process>) {
    if depth > DEEPEST {
        return;
    }
    for (process, _) in all.iter().filter(|(_, stat)| stat.parent == parent) {
        below(process.pid, all, depth + 1, found);
        found.push(process.clone());
    }
}

/// All that run.
fn all() -> Vec<(Process, Stat)> {
    let entries = fs::read_dir("/proc").expect("there is /proc");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let stats = numbers.filter_map(|pid| Some((pid, Stat::of(pid)?)));
    stats.map(|(pid, stat)| (Process { pid, born: stat.born.clone() }, stat)).collect()
}

/// All whose environment holds exactly this, in the order of their numbers.
pub(crate) fn with_variable(name: &str, value: &str) -> Vec<Process> {
    let wanted = format!("{name}={value}");
    let has = |process: &Process| {
        process.environment().split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    let mut found: Vec<_> = all().into_iter().map(|(process, _)| process).collect();
    found.retain(has);
    found.sort_by_key(|process| process.pid);
    found
}

/// All in the PID namespace, the highest number there first, and 1 last.
pub(crate) fn in_namespace(namespace: &str) -> Vec<Process> {
    let inner = |process: &Process| {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        numbers.split_whitespace().last()?.parse::<i32>().ok()
    };
    let of = |(process, _): (Process, Stat)| {
        let is_inside = process.namespace().as_deref() == Some(namespace);
        is_inside.then(|| inner(&process).map(|number| (number, process))).flatten()
    };
    let mut found: Vec<_> = all().into_iter().filter_map(of).collect();
    found.sort_by_key(|(number, _)| -number);
    found.into_iter().map(|(_, process)| process).collect()
}

/// What `/proc/PID/stat` says of a process that is not dead.
struct Stat {
    parent: i32,
    born: String,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        let (born, parent) = fields(pid)?;
        Some(Self { parent: parent?, born })
    }
}

/// When it began, and whose child it is; no parent of one that is dead.
fn fields(pid: i32) -> Option<(String, Option<i32>)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    // The state is the third field of all.
    let parent = match fields.first() {
        None | Some(&("Z" | "X")) => None,
        Some(_) => fields.get(1)?.parse().ok(),
    };
    Some(((*fields.get(19)?).to_owned(), parent))
}
