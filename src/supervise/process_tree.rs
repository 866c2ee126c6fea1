//! The child, as seen by processes that did not start it: the guardian, `recover`, `release`.

use std::fmt;
use std::fs;
use std::io;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getsid};
use serde::{Deserialize, Serialize};

use super::StopSignal;
use super::child::members;
use super::kill_below::signal_below;
use super::process::{ProcessId, Stat, Waiting};
use super::readers::Readers;
use super::targets::{
    ChildPlace, Strays, are_others_only, bearing, interrupt_for, interrupt_for_group, is_stand_in,
    stand_ins_of, targets,
};

/// How many are named of those that live.
const MOST_NAMED: usize = 8;

/// A child and, where it has a group of its own, everything in that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTree {
    /// The child itself.
    pub leader: ProcessId,
    /// Its session: a group that got the same number later is in another one.
    pub session: i32,
    /// Whether it leads a group of its own; otherwise it alone counts. Those of today's runs do.
    pub own_group: bool,
    /// The tfwrap that started it: those below that bear its name count, too, in whatever group they are.
    #[serde(default)]
    pub runner: Option<ProcessId>,
}

/// One of a tree that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number and birth.
    pub process: ProcessId,
    /// What it is called, as `ps` shows it; what else could be in a name is `?`.
    pub name: String,
}

impl Member {
    /// Of a process that lives.
    pub(super) fn of(process: ProcessId) -> Self {
        Self { process, name: short_name(process.pid()) }
    }

    /// These, in words.
    #[must_use]
    pub fn named(members: &[Self]) -> String {
        let mut names: Vec<_> = members.iter().take(MOST_NAMED).map(Self::to_string).collect();
        let more = members.len() - names.len();
        names.extend((more > 0).then(|| format!("{more} more")));
        names.join(", ")
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.process.pid)?;
        // One that is about to end, or to begin, has none.
        if self.name.is_empty() { Ok(()) } else { write!(f, " (`{}`)", self.name) }
    }
}

impl ProcessTree {
    /// The child of this tfwrap, if it lives now; nothing if it does not, or without `/proc`.
    #[must_use]
    pub fn of(leader: Pid, runner: Option<ProcessId>) -> Option<Self> {
        let session = getsid(Some(leader)).ok()?.as_raw();
        ProcessId::of(leader).map(|leader| Self { leader, session, own_group: true, runner })
    }

    /// What this tfwrap started last, if anything of it lives, by the variable that only its children
    /// have; nothing where not all processes can be seen.
    #[must_use]
    pub fn started_by(runner: ProcessId) -> Option<Option<Self>> {
        let mut found = bearing(runner)?;
        // It leads a group of its own, but for what it puts elsewhere.
        found.sort_by_key(|(pid, stat)| (pid.as_raw() != stat.group, stat.born));
        let tree = |(pid, stat): &(Pid, Stat)| {
            let group = Pid::from_raw(stat.group);
            let leader =
                if group == *pid { Some(stat.born) } else { Stat::of(group).map(|it| it.born) };
            let leader = ProcessId { pid: stat.group, born: leader };
            Self { leader, session: stat.session, own_group: true, runner: Some(runner) }
        };
        Some(found.first().map(tree))
    }

    /// Whether nothing of it lives any more.
    #[must_use]
    pub fn are_gone(&self) -> bool {
        self.group_is_gone() && self.targets().is_empty()
    }

    /// Where it stands. Once nothing is left of it, its numbers may be others'.
    fn place(&self) -> ChildPlace {
        let is_there = self.leader.pid > 1 && self.leader.is_alive();
        let leader = is_there.then(|| self.leader.pid());
        let has_group = self.own_group && !self.group_is_gone();
        ChildPlace { leader, group: has_group.then(|| (self.leader.pid(), self.session)) }
    }

    /// Each Terraform and each tfwrap of it.
    pub(crate) fn targets(&self) -> Vec<ProcessId> {
        targets(self.place(), self.strays())
    }

    fn strays(&self) -> Strays<'_> {
        Strays::ChildrenOf(self.runner)
    }

    /// Those of them that are in another group.
    fn strayed(&self) -> Vec<ProcessId> {
        let mut strayed = self.targets();
        let group = self.leader.pid().as_raw();
        strayed.retain(|it| Stat::of(it.pid()).is_some_and(|stat| stat.group != group));
        strayed
    }

    fn group_is_gone(&self) -> bool {
        if !self.own_group {
            return !self.leader.is_alive();
        }
        // No group of ours: by these numbers the kernel means our own group, or every process.
        if self.leader.pid().as_raw() <= 1 {
            return true;
        }
        // A group keeps its number from being given anew. So once another process has it, nothing
        // of this group is left, even if that one leads a group in the same session.
        if Stat::of(self.leader.pid()).is_some_and(|stat| self.leader.was_before(stat)) {
            return true;
        }
        // EPERM: there is one, and it is not ours to signal.
        if killpg(self.leader.pid(), None) == Err(nix::Error::ESRCH) {
            return true;
        }
        // Where not all can be seen, zombies count, which errs on the side of waiting.
        members(self.leader.pid()).is_some_and(|members| !members.iter().any(|it| self.is_one(it)))
    }

    /// Who of it lives, the child itself first. Nobody where that cannot be seen.
    #[must_use]
    pub fn living(&self) -> Vec<Member> {
        if self.are_gone() {
            return Vec::new();
        }
        let group = members(self.leader.pid()).filter(|_| self.own_group).unwrap_or_default();
        let group = group.into_iter().filter(|it| self.is_one(it));
        let mut all: Vec<_> = group
            .map(|(pid, stat)| ProcessId { pid: pid.as_raw(), born: Some(stat.born) })
            .collect();
        for process in self.strayed().into_iter().chain([self.leader]) {
            if !all.contains(&process) && process.is_alive() {
                all.push(process);
            }
        }
        all.sort_by_key(|process| (*process != self.leader, process.pid));
        all.into_iter().map(Member::of).collect()
    }

    /// Who of it lives, in words; the dead child's number names nobody.
    #[must_use]
    pub fn named(&self) -> String {
        self.named_and_counted().0
    }

    /// The same, and how many these are.
    #[must_use]
    pub fn named_and_counted(&self) -> (String, usize) {
        let living = self.living();
        if living.is_empty() {
            let what =
                if self.are_gone() { ", which has ended by now" } else { " that cannot be seen" };
            return (format!("a process of the group {}{what}", self.leader.pid), 1);
        }
        (Member::named(&living), living.len())
    }

    /// Whom a signal to it reaches, in words.
    #[must_use]
    pub fn whom(&self) -> String {
        if self.leader.is_alive() {
            format!("the child, process {}", self.leader.pid)
        } else {
            format!("what is left of the child, {}", self.named())
        }
    }

    /// The command by which a person ends it: one interrupt, as [`ProcessTree::interrupt`] sends it;
    /// for what a child has left that is no Terraform, SIGTERM.
    #[must_use]
    pub fn end_command(&self) -> String {
        let leader = self.leader.pid();
        let pids = |all: Vec<ProcessId>| {
            let all: Vec<_> = all.into_iter().map(|process| process.pid.to_string()).collect();
            all.join(" ")
        };
        let targets = self.targets();
        let living: Vec<_> = self.living().into_iter().map(|member| member.process).collect();
        if !targets.is_empty() {
            format!("kill -INT {}", pids(targets))
        } else if self.leader.is_alive() || living.is_empty() {
            format!("kill -INT -- -{leader}")
        } else {
            format!("kill {}", pids(living))
        }
    }

    /// Whether the child has ended, and what it has left is neither a Terraform nor a tfwrap.
    #[must_use]
    pub fn are_others_only(&self) -> bool {
        self.own_group && !self.leader.is_alive() && are_others_only(self.place(), self.strays())
    }

    /// Signals all of it. That nothing is left is no error.
    ///
    /// # Errors
    /// When the signal is refused.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.own_group {
            return self.leader.signal(signal).map(|_| ());
        }
        // A Terraform elsewhere is not stopped with a terminal's job, and heeds no other signal.
        if matches!(signal, Signal::SIGKILL | Signal::SIGCONT) {
            for process in self.strayed() {
                signal_below(process, signal);
            }
        }
        // A number that is in use now stays the group's for as long as a member of it lives.
        if self.group_is_gone() {
            return Ok(());
        }
        match killpg(self.leader.pid(), signal) {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks all of it to end: each Terraform and each tfwrap of it once, and the whole group only
    /// where there is none. Returns whether it was that.
    ///
    /// # Errors
    /// When a signal is refused.
    pub fn interrupt(&self) -> io::Result<bool> {
        let targets = self.targets();
        if targets.is_empty() {
            // As in `signal`: its number may be somebody else's by now.
            if self.are_gone() {
                return Ok(false);
            }
            return self.signal(interrupt_for_group(self.leader.pid())).map(|()| true);
        }
        let mut refused = Ok(());
        for target in targets {
            // One that refuses keeps nobody else from being told.
            refused = refused.and(target.signal(interrupt_for(target.pid())).map(|_| ()));
            // One that was stopped could not end.
            drop(target.signal(Signal::SIGCONT));
        }
        refused.map(|()| false)
    }

    /// Becomes a reader of what it writes to, so that it does not die of its next word before it has
    /// saved its state.
    pub(crate) fn let_it_speak(&self) -> Readers {
        let mut readers = Readers::default();
        if self.leader.is_alive() {
            readers.hold([self.leader.pid()]);
        }
        readers.hold(self.targets().into_iter().map(ProcessId::pid));
        readers
    }

    /// Whether a stop has come to where it stands, that nobody has acted on: the stand-in outlives its
    /// tfwrap, and takes no signals then.
    #[must_use]
    pub fn was_swept(&self) -> bool {
        let Some(runner) = self.runner else { return false };
        let heeds_hangup = || {
            !(self.leader.is_alive() && Waiting::of(self.leader.pid()).is_deaf_to(Signal::SIGHUP))
        };
        stand_ins_of(runner).into_iter().any(|stand_in| {
            let mut came = StopSignal::unignored().filter(|it| stand_in.has_pending(it.signal()));
            came.any(|it| it != StopSignal::Hangup || heeds_hangup())
        })
    }

    fn is_one(&self, (pid, stat): &(Pid, Stat)) -> bool {
        !stat.zombie && stat.session == self.session && !is_stand_in(*pid)
    }
}

/// What the kernel calls a process (`comm` of `proc_pid_comm(5)`). Any program may choose that, so it
/// is no text to be passed on as it is.
fn short_name(pid: Pid) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._+-/".contains(c);
    name.trim_end().chars().map(|c| if is_plain(c) { c } else { '?' }).collect()
}
