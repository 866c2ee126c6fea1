//! Which processes get an interrupt: every Terraform of a command, once, whatever is in between.
//!
//! A SIGINT to the whole group has three flaws: it ends a wrapper without handlers on the spot
//! (setup-terraform's default), it is the second one behind a wrapper that passes it on (such as
//! tenv), and it is the second one beside an inner tfwrap that does. So we search the processes
//! below the command, down to the first that is a Terraform or a tfwrap. That one gets the
//! interrupt. Nothing above it does, and what is below it is its own business. If there is none,
//! the target is the last process that was given the command's own arguments, with our flag among
//! them: a Terraform whose file has another name (`v1`, `1.11.4`). If there is none of these
//! either, only the group can be signalled.
//!
//! Its rules: `docs/protocol.md#s3-whom-an-interrupt-goes-to`.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, OsStr};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use nix::unistd::{Pid, getpgrp, getpid};

use super::child::{ignored_at_start, members};
use super::process::{ProcessId, Stat, Waiting, proc_shows_all, processes};
use super::{detached, stand_in};
use crate::file_id::FileId;
use nix::sys::signal::Signal;

/// The argument that no Terraform but one of tfwrap's is given.
pub(crate) const OUR_FLAG: &str = "-lock=false";

/// How often all processes are read at most, to have them as they were at one time.
const MOST_READS: usize = 4;

/// What a process is, as far as interrupts go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Terraform, OpenTofu, or a tfwrap that has one.
    Target,
    /// A shell, a wrapper, anything.
    Other,
}

/// Where a child stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ChildPlace {
    /// The child, while that number is its own.
    pub(crate) leader: Option<Pid>,
    /// Its group and session, while there is anybody in that group.
    pub(crate) group: Option<(Pid, i32)>,
}

impl ChildPlace {
    fn has(&self, stat: &Stat) -> bool {
        let is_it =
            |(group, session): (Pid, i32)| stat.group == group.as_raw() && stat.session == session;
        self.group.is_some_and(is_it)
    }
}

/// Where a Terraform of a child is looked for besides below it and in its group. Whatever gives it a
/// group of its own (`timeout`, a Node wrapper's `detached`, `setsid`, a shell with job control) may end
/// before it does, and then nothing leads to it from the child any more.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Strays<'a> {
    /// Among our children but these. For whoever started the child, as a subreaper.
    AdoptedBut(&'a [ProcessId]),
    /// Among those that bear this tfwrap's [`CHILD_OF`]; for everybody else.
    ChildrenOf(Option<ProcessId>),
}

/// What a tfwrap is called that only looks at locks (`status`, `wait`, `history`).
pub(super) const ONLOOKER: &CStr = c"tfwrap-onlooker";

/// The variable by which a Terraform is known as that of a tfwrap, wherever it stands.
pub const CHILD_OF: &str = "TFWRAP_CHILD_OF";

/// Its value below this tfwrap: the number of its process, and when that began if it can be seen.
pub(crate) fn child_of(runner: ProcessId) -> String {
    match runner.born {
        Some(born) => format!("{}-{born}", runner.pid),
        None => runner.pid.to_string(),
    }
}

/// All processes, and who is below whom.
struct Table {
    all: Vec<(Pid, Stat)>,
    stats: HashMap<Pid, Stat>,
    below: HashMap<Pid, Vec<Pid>>,
    /// The program that this is.
    this: Option<FileId>,
}

/// What is found on the ways down from some processes.
#[derive(Default)]
struct Found {
    targets: Vec<ProcessId>,
    others: Vec<ProcessId>,
}

impl Table {
    /// Reads it again where a process has ended meanwhile: what that had started would be below nobody. Where
    /// not all can be seen, a parent may be hidden for good.
    fn read() -> Option<Self> {
        let mut table = Self::read_once()?;
        for _ in 1..MOST_READS {
            if !table.is_torn() || !proc_shows_all() {
                break;
            }
            table = Self::read_once()?;
        }
        Some(table)
    }

    fn read_once() -> Option<Self> {
        processes().map(Self::of)
    }

    fn of(all: Vec<(Pid, Stat)>) -> Self {
        let stats = all.iter().copied().collect();
        let mut below: HashMap<Pid, Vec<Pid>> = HashMap::new();
        for (pid, stat) in &all {
            below.entry(stat.parent).or_default().push(*pid);
        }
        Self { all, stats, below, this: FileId::of(Path::new("/proc/self/exe")) }
    }

    /// Whether anybody's parent has ended. Whoever loses its parent gets another one at once.
    fn is_torn(&self) -> bool {
        let is_lost =
            |stat: &Stat| !stat.zombie && stat.parent.as_raw() > 0 && !self.lives(stat.parent);
        self.all.iter().any(|(_, stat)| is_lost(stat))
    }

    fn lives(&self, pid: Pid) -> bool {
        self.stats.get(&pid).is_some_and(|stat| !stat.zombie)
    }

    /// Whether none of these is above it.
    fn is_below_none(&self, stat: &Stat, tops: &HashSet<Pid>) -> bool {
        let mut above = stat.parent;
        for _ in 0..self.all.len() {
            if tops.contains(&above) {
                return false;
            }
            let Some(parent) = self.stats.get(&above) else { return true };
            above = parent.parent;
        }
        true
    }

    /// The first Terraform or tfwrap on each way down.
    fn search(&self, mut open: Vec<Pid>) -> Found {
        let mut found = Found::default();
        while let Some(pid) = open.pop() {
            let Some(stat) = self.stats.get(&pid).filter(|stat| !stat.zombie) else { continue };
            let process = ProcessId { pid: pid.as_raw(), born: Some(stat.born) };
            match kind(pid, self.this) {
                Kind::Target => found.targets.push(process),
                Kind::Other => {
                    found.others.push(process);
                    open.extend(self.below.get(&pid).into_iter().flatten());
                }
            }
        }
        found
    }

    /// Whether there is a Terraform in it or below it, and not only what is called a bit like that
    /// (`terraform-ls`).
    fn has_terraform(&self, top: Pid) -> bool {
        let is_one = |pid| is_ours(pid) || is_plainly_terraform(&program_name(pid));
        let mut open = vec![top];
        while let Some(pid) = open.pop() {
            if self.lives(pid) && is_one(pid) {
                return true;
            }
            open.extend(self.below.get(&pid).into_iter().flatten());
        }
        false
    }

    /// Who belongs to the child without being in its group, as far as its own number or its environment
    /// tells.
    fn is_stray(&self, pid: Pid, stat: &Stat, strays: Strays<'_>) -> bool {
        match strays {
            Strays::AdoptedBut(before) => {
                let is_known = |it: &ProcessId| it.pid() == pid && !it.was_before(*stat);
                // What we started besides the child is in our own group.
                stat.parent == getpid()
                    && stat.group != getpgrp().as_raw()
                    && !before.iter().any(is_known)
            }
            Strays::ChildrenOf(None) => false,
            Strays::ChildrenOf(Some(runner)) => {
                let name = program_name(pid);
                (is_plainly_terraform(&name) || is_tfwrap(pid, &name, self.this) || is_ours(pid))
                    && has_variable(pid, CHILD_OF, Some(&child_of(runner)))
            }
        }
    }
}

/// Every Terraform and every tfwrap that is the first of its kind below this child, below an orphan of
/// its group, or below a stray. Nobody, also without a `/proc` that shows our processes. A tfwrap that
/// has strayed counts if it has a Terraform.
pub(crate) fn targets(child: ChildPlace, strays: Strays<'_>) -> Vec<ProcessId> {
    let Some(table) = Table::read() else { return Vec::new() };
    let is_one = |(pid, stat): &&(Pid, Stat)| child.has(stat) || table.is_stray(*pid, stat, strays);
    let mut tops: HashSet<Pid> = table.all.iter().filter(is_one).map(|(pid, _)| *pid).collect();
    tops.extend(child.leader);
    // The parent of an orphan has ended: nothing leads to it from above any more.
    let orphans = table.all.iter().filter(|(pid, stat)| {
        Some(*pid) != child.leader && tops.contains(pid) && table.is_below_none(stat, &tops)
    });
    let orphans: Vec<Pid> = orphans.map(|(pid, _)| *pid).collect();
    let of_leader = table.search(Vec::from_iter(child.leader));
    let mut of_orphans = table.search(orphans);
    of_orphans.targets.retain(|it| {
        let stat = table.stats.get(&it.pid());
        stat.is_some_and(|stat| child.has(stat)) || table.has_terraform(it.pid())
    });
    let mut found = [of_leader.targets, of_orphans.targets].concat();
    if found.is_empty() {
        let command = child.leader.filter(|leader| table.lives(*leader)).map(words);
        // Whoever is below another comes after it.
        let is_it = |it: &&ProcessId| {
            let is_ours = match &command {
                Some(command) => is_given(&words(it.pid()), command),
                None => is_ours(it.pid()),
            };
            is_ours && !runs_tfwrap(it.pid())
        };
        found.extend(of_leader.others.iter().chain(&of_orphans.others).rfind(is_it));
    }
    found
}

/// Whether it is a Terraform that a tfwrap has started, and not that tfwrap.
pub(super) fn is_own(process: ProcessId) -> bool {
    is_ours(process.pid()) && !runs_tfwrap(process.pid())
}

/// Whether a tfwrap starts a Terraform by these arguments.
pub(super) fn is_given_ours<'a>(args: impl IntoIterator<Item = &'a OsStr>) -> bool {
    args.into_iter().any(|arg| arg == OUR_FLAG)
}

/// Whether it was given our flag.
pub(super) fn is_ours(pid: Pid) -> bool {
    have_our_flag(&words(pid))
}

/// Whether it is among these words.
pub(super) fn have_our_flag(words: &[Vec<u8>]) -> bool {
    words.iter().any(|word| word == OUR_FLAG.as_bytes())
}

/// Whether what lives on of a child that has ended is neither a Terraform nor a tfwrap. Not where that
/// cannot be seen for certain. What was given our flag counts as a Terraform, whatever it is called.
pub(crate) fn are_others_only(child: ChildPlace, strays: Strays<'_>) -> bool {
    let Some((group, _)) = child.group else { return false };
    let Some(members) = members(group).filter(|_| proc_shows_all()) else { return false };
    let living = members.iter().filter(|(_, stat)| !stat.zombie && child.has(stat));
    let is_ours = |pid| is_ours(pid) && !is_stand_in(pid);
    targets(child, strays).is_empty() && !living.into_iter().any(|(pid, _)| is_ours(*pid))
}

/// The words by which a process was started; none where they cannot be seen.
pub(super) fn words(pid: Pid) -> Vec<Vec<u8>> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words
        .strip_suffix(b"\0")
        .unwrap_or(&words)
        .split(|byte| *byte == 0)
        .map(<[u8]>::to_vec)
        .collect()
}

/// Whether a program was given what a script was given that tfwrap has started as Terraform: before
/// its arguments that has its own name and its interpreter's. Not the script itself, and no shell
/// that it has forked, which was started by the same words: below these others may stand that must
/// hear of the stop.
fn is_given(program: &[Vec<u8>], script: &[Vec<u8>]) -> bool {
    let args = program.get(1..).unwrap_or_default();
    have_our_flag(args) && program.len() < script.len() && script.ends_with(args)
}

/// A Terraform or a tfwrap that hears no interrupt is told to end by SIGTERM: a background job of a script is
/// started with SIGINT ignored, and Terraform hears it only once it has set that up.
pub(crate) fn interrupt_for(target: Pid) -> Signal {
    if Waiting::of(target).ignores(Signal::SIGINT) { Signal::SIGTERM } else { Signal::SIGINT }
}

/// The same of a whole group, where no Terraform is known: only if we were started with SIGINT ignored, and
/// whoever leads it with us. A script may mean to ignore it.
pub(crate) fn interrupt_for_group(leader: Pid) -> Signal {
    if ignored_at_start(Signal::SIGINT) { interrupt_for(leader) } else { Signal::SIGINT }
}

/// Whether what runs in this process is a Terraform or an OpenTofu.
pub(super) fn runs_terraform(pid: Pid) -> bool {
    names_terraform(&program_name(pid))
}

/// Whether what runs in this process is a tfwrap, in whatever part.
pub(super) fn runs_tfwrap(pid: Pid) -> bool {
    runs(pid, FileId::of(Path::new("/proc/self/exe")))
}

/// The same, where this program is known already.
pub(super) fn runs(pid: Pid, this: Option<FileId>) -> bool {
    is_tfwrap(pid, &program_name(pid), this)
}

fn kind(pid: Pid, this: Option<FileId>) -> Kind {
    let name = program_name(pid);
    let is_told = || is_tfwrap(pid, &name, this) && !is_deaf(pid) && !is_onlooker(pid);
    // What is only called a bit like it (`terraform-ls`, `terraform-real`) is one if it is given our flag.
    let is_terraform = is_plainly_terraform(&name) || (names_terraform(&name) && is_ours(pid));
    if is_terraform || is_told() { Kind::Target } else { Kind::Other }
}

/// Whether this tfwrap is a guardian, a keeper or a stand-in, which has no child. By what it was started
/// as and not by the signals that it blocks: so does any tfwrap for a moment, while it starts something.
fn is_deaf(pid: Pid) -> bool {
    let is_detached = |name: &Vec<u8>| {
        [detached::GUARDIAN, detached::KEEPER].iter().any(|it| name == it.as_bytes())
    };
    has_variable(pid, stand_in::VARIABLE, None) || words(pid).first().is_some_and(is_detached)
}

/// The living processes that were started below this tfwrap's child, or are it; nothing where not all
/// can be seen.
pub(super) fn bearing(runner: ProcessId) -> Option<Vec<(Pid, Stat)>> {
    let mut all = bearing_or_beside(runner)?;
    all.retain(|(pid, _)| !is_stand_in(*pid));
    Some(all)
}

/// The stand-ins of this tfwrap; none where not all processes can be seen.
pub(super) fn stand_ins_of(runner: ProcessId) -> Vec<ProcessId> {
    let all = bearing_or_beside(runner).unwrap_or_default().into_iter();
    let stand_ins = all.filter(|(pid, _)| is_stand_in(*pid));
    stand_ins.map(|(pid, stat)| ProcessId { pid: pid.as_raw(), born: Some(stat.born) }).collect()
}

fn bearing_or_beside(runner: ProcessId) -> Option<Vec<(Pid, Stat)>> {
    let name = child_of(runner);
    let mut all = processes().filter(|_| proc_shows_all())?;
    all.retain(|(pid, stat)| !stat.zombie && has_variable(*pid, CHILD_OF, Some(&name)));
    Some(all)
}

/// Whether it stands beside a child, and is no part of it.
pub(super) fn is_stand_in(pid: Pid) -> bool {
    has_variable(pid, stand_in::VARIABLE, None) && runs_tfwrap(pid)
}

/// Whether this tfwrap holds nothing, has no child, and never will. It hears of a stop with the rest of
/// its group.
fn is_onlooker(pid: Pid) -> bool {
    comm(pid).as_bytes() == ONLOOKER.to_bytes()
}

/// What the kernel calls a process.
fn comm(pid: Pid) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.trim_end().to_owned()
}

/// Whether a process was started with this variable, and with this value if any.
pub(super) fn has_variable(pid: Pid, name: &str, value: Option<&str>) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|it| {
        let its = it.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        its.is_some_and(|its| value.is_none_or(|value| its == value.as_bytes()))
    })
}

/// The file name of the program that runs in a process.
fn program_name(pid: Pid) -> String {
    let link = match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(link) => link,
        // Somebody else's, or one that hides its memory: its name has to do.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => comm(pid).into(),
        Err(_) => return String::new(),
    };
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned()
}

fn is_tfwrap(pid: Pid, name: &str, this: Option<FileId>) -> bool {
    name == "tfwrap"
        || (this.is_some() && FileId::of(Path::new(&format!("/proc/{pid}/exe"))) == this)
}

/// Whether a program of this file name is Terraform or OpenTofu: `terraform`, `terraform-bin`,
/// `terraform_1.9`, `tofu1.10.0`. A script shows its interpreter instead.
fn names_terraform(name: &str) -> bool {
    let rest = ["terraform", "tofu"].into_iter().find_map(|word| name.strip_prefix(word));
    let Some(rest) = rest else { return false };
    let is_plugin = ["-provider-", "-provisioner-"].into_iter().any(|it| rest.starts_with(it));
    !is_plugin && !rest.starts_with(|first: char| first.is_alphabetic())
}

/// Whether it is also none of the programs for those who write Terraform's files, by its name.
fn is_plainly_terraform(name: &str) -> bool {
    let is_word = |rest: &str| rest.starts_with(|first: char| first.is_alphabetic());
    let after_dash = name.split_once('-').map(|(_, rest)| rest);
    names_terraform(name) && after_dash.is_none_or(|rest| rest == "bin" || !is_word(rest))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn what_was_read_while_a_parent_ended_is_read_again() {
        let one = |pid: i32, parent: i32, zombie: bool| {
            let parent = Pid::from_raw(parent);
            let stat = Stat { parent, group: 1, session: 1, born: 0, zombie, stopped: false };
            (Pid::from_raw(pid), stat)
        };
        let init = one(1, 0, false);
        let torn = |others: &[(Pid, Stat)]| Table::of([&[init], others].concat()).is_torn();
        assert!(!torn(&[one(2, 1, false), one(3, 2, false), one(4, 2, true)]));
        assert!(torn(&[one(2, 1, true), one(3, 2, false)]), "its parent is a zombie");
        assert!(torn(&[one(3, 2, false)]), "its parent is gone");
        assert!(!torn(&[one(2, 1, true), one(3, 2, true)]), "a zombie does nothing");
    }

    #[test]
    fn terraforms_are_told_from_what_is_only_called_so() {
        for name in ["terraform", "terraform-bin", "terraform_1.9", "tofu", "tofu1.10.0"] {
            assert!(names_terraform(name) && is_plainly_terraform(name), "{name}");
        }
        for name in ["terraform-ls", "terraform-docs", "terraform-mcp-server"] {
            assert!(!is_plainly_terraform(name), "{name}");
        }
        let others = ["terraform-provider-aws_v5.1.0_x5", "terraform-provisioner-x", "node"];
        for name in others.into_iter().chain(["terraformer", "tofuu", "tfwrap", "", "sh"]) {
            assert!(!names_terraform(name), "{name}");
        }
    }

    /// A shell in a group of its own that says when its processes are there.
    fn group(dir: &Path, script: &str) -> Child {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]).current_dir(dir).process_group(0);
        sh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a sh")
    }

    fn copy_of(program: &str, path: PathBuf) -> PathBuf {
        let found = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(program));
        let found = found.into_iter().find(|path| path.exists()).expect("a program");
        // By another process: a file that is open for writing in a fork of ours cannot be executed.
        let copied = Command::new("cp").arg(found).arg(&path).status().expect("cp");
        assert!(copied.success());
        path
    }

    fn names(found: &[ProcessId]) -> Vec<String> {
        let name = |id: &ProcessId| {
            fs::read_link(format!("/proc/{}/exe", id.pid))
                .ok()
                .and_then(|exe| Some(exe.file_name()?.to_string_lossy().into_owned()))
                .unwrap_or_default()
        };
        let mut names: Vec<_> = found.iter().map(name).collect();
        names.sort();
        names
    }

    /// Looks until so many are there.
    #[expect(clippy::disallowed_methods, reason = "other processes are waited for, and no loop")]
    fn wait_for(child: &Child, count: usize) -> Vec<ProcessId> {
        let leader = Pid::from_raw(child.id().cast_signed());
        let session = nix::unistd::getsid(Some(leader)).expect("its session").as_raw();
        let place = ChildPlace { leader: Some(leader), group: Some((leader, session)) };
        for _ in 0..1000 {
            let found = targets(place, Strays::ChildrenOf(None));
            if found.len() == count {
                return found;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{count} do not come: {:?}", names(&targets(place, Strays::ChildrenOf(None))));
    }

    fn end(mut child: Child) {
        let leader = Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::killpg(leader, Signal::SIGKILL).expect("a group");
        child.wait().expect("its end");
    }

    #[test]
    fn the_first_below_scripts_is_found_and_nothing_below_or_above_it() {
        let dir = tempfile::tempdir().expect("a directory");
        // A static or dynamic program does: what counts is what the kernel says it executes.
        copy_of("sh", dir.path().join("terraform-bin"));
        copy_of("sleep", dir.path().join("tofu"));
        copy_of("sleep", dir.path().join("terraform-provider-x"));
        copy_of("sleep", dir.path().join("terraform-ls"));
        let inner = "./tofu 60 & ./terraform-provider-x 60 & wait";
        let script = format!(
            "sh -c \"./terraform-bin -c '{inner}'; true\" & ./terraform-ls 62 & ./tofu 61 & wait"
        );
        let child = group(dir.path(), &script);
        assert_eq!(names(&wait_for(&child, 2)), ["terraform-bin", "tofu"]);
        end(child);
    }

    /// While it starts something, for instance.
    #[test]
    fn a_tfwrap_that_blocks_its_signals_for_a_moment_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        copy_of("sh", dir.path().join("tfwrap"));
        copy_of("sleep", dir.path().join("terraform"));
        let inner = "./terraform 60 & wait";
        let script = format!("env --block-signal=INT ./tfwrap -c '{inner}'; true");
        let child = group(dir.path(), &script);
        assert_eq!(names(&wait_for(&child, 1)), ["tfwrap"]);
        end(child);
    }

    #[test]
    fn an_orphan_of_the_group_is_found_and_nobody_elses() {
        let dir = tempfile::tempdir().expect("a directory");
        copy_of("sleep", dir.path().join("terraform"));
        let child = group(dir.path(), "(./terraform 60 & setsid ./terraform 3 &); sleep 60");
        let found = wait_for(&child, 1);
        let leader = Pid::from_raw(child.id().cast_signed());
        let group = nix::unistd::getpgid(Some(found[0].pid())).expect("its group");
        assert_eq!(group, leader);
        end(child);
    }

    #[test]
    fn without_a_name_the_last_with_the_same_arguments_is_found() {
        let words = |text: &str| -> Vec<Vec<u8>> {
            text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
        };
        let is = |program: &str, command: &str| is_given(&words(program), &words(command));
        let script = "python3 bin/terraform apply -lock=false";
        assert!(is("/v/1.11.4 apply -lock=false", script));
        assert!(!is(script, script), "the script, or a shell that it has forked");
        for other in ["sh bin/terraform apply -lock=false", "sh -c x", "sh", "v1 -lock=false apply"]
        {
            assert!(!is(other, script), "{other}");
        }
        let alone = "/v/1.11.4 apply -lock=false";
        assert!(!is(alone, alone), "without a script before it the group is told");
        assert!(!is("make deploy", "retry make deploy"), "a command of `run`");
    }

    #[test]
    fn without_any_nobody_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let child = group(dir.path(), "sleep 60; true");
        assert_eq!(wait_for(&child, 0), []);
        end(child);
    }
}
