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

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use nix::unistd::Pid;

use super::child::{ignored_at_start, members};
use super::process::{ProcessId, Stat, Waiting, proc_shows_all, processes};
use super::{detached, stand_in};
use crate::file_id::FileId;
use nix::sys::signal::Signal;

/// The argument that no Terraform but one of tfwrap's is given.
const OURS: &[u8] = b"-lock=false";

/// What a process is, as far as interrupts go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Terraform, OpenTofu, or a tfwrap that has one.
    Target,
    /// A shell, a wrapper, anything.
    Other,
}

/// Every Terraform and every tfwrap that is the first of its kind below this leader or below an
/// orphan of its group. Nobody, also without a `/proc` that shows our processes.
pub(crate) fn targets(leader: Pid, session: i32, own_group: bool) -> Vec<ProcessId> {
    let Some(all) = processes() else { return Vec::new() };
    let stats: HashMap<Pid, Stat> = all.iter().copied().collect();
    let mut below: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for (pid, stat) in &all {
        below.entry(stat.parent).or_default().push(*pid);
    }
    let is_member =
        |stat: &Stat| own_group && stat.group == leader.as_raw() && stat.session == session;
    // Its parent has ended: nothing leads to it from above any more.
    let is_orphan = |stat: &Stat| {
        let mut above = stat.parent;
        for _ in 0..stats.len() {
            let Some(parent) = stats.get(&above) else { return true };
            if above == leader || is_member(parent) {
                return false;
            }
            above = parent.parent;
        }
        true
    };
    let mut open: Vec<Pid> = stats.contains_key(&leader).then_some(leader).into_iter().collect();
    let orphans = all.iter().filter(|(pid, stat)| *pid != leader && is_member(stat));
    open.extend(orphans.filter(|(_, stat)| is_orphan(stat)).map(|(pid, _)| *pid));
    let this = FileId::of(Path::new("/proc/self/exe"));
    let (mut found, mut others) = (Vec::new(), Vec::new());
    while let Some(pid) = open.pop() {
        let Some(stat) = stats.get(&pid).filter(|stat| !stat.zombie) else { continue };
        let process = ProcessId { pid: pid.as_raw(), born: Some(stat.born) };
        match kind(pid, this) {
            Kind::Target => found.push(process),
            Kind::Other => {
                others.push(process);
                open.extend(below.remove(&pid).unwrap_or_default());
            }
        }
    }
    if found.is_empty() {
        let command = words(leader);
        // Whoever is below another comes after it.
        let is_it = |it: &ProcessId| is_given(&words(it.pid()), &command) && !runs_tfwrap(it.pid());
        found.extend(others.into_iter().rfind(is_it));
    }
    found
}

/// Whether what lives on of this group, whose leader has ended, is neither a Terraform nor a tfwrap.
/// Not where that cannot be seen for certain. What was given our flag counts as a Terraform, whatever
/// it is called.
pub(crate) fn are_others_only(leader: Pid, session: i32) -> bool {
    let Some(members) = members(leader).filter(|_| proc_shows_all()) else { return false };
    let is_ours = |pid: Pid| words(pid).iter().any(|word| word == OURS);
    let living = members.iter().filter(|(_, stat)| !stat.zombie && stat.session == session);
    targets(leader, session, true).is_empty() && !living.into_iter().any(|(pid, _)| is_ours(*pid))
}

/// The words by which a process was started; none where they cannot be seen.
fn words(pid: Pid) -> Vec<Vec<u8>> {
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
    let is_ours = args.iter().any(|arg| arg == OURS);
    is_ours && program.len() < script.len() && script.ends_with(args)
}

/// What hears no interrupt, because we were started with SIGINT ignored (a background job of a
/// script) and it with us, is told to end by SIGTERM.
pub(crate) fn interrupt_for(pid: Pid) -> Signal {
    if ignored_at_start(Signal::SIGINT) && Waiting::of(pid).ignores(Signal::SIGINT) {
        Signal::SIGTERM
    } else {
        Signal::SIGINT
    }
}

/// Whether what runs in this process is a Terraform or an OpenTofu.
pub(super) fn runs_terraform(pid: Pid) -> bool {
    is_terraform(&program_name(pid))
}

/// Whether what runs in this process is a tfwrap, in whatever part.
pub(super) fn runs_tfwrap(pid: Pid) -> bool {
    is_tfwrap(pid, &program_name(pid), FileId::of(Path::new("/proc/self/exe")))
}

fn kind(pid: Pid, this: Option<FileId>) -> Kind {
    let name = program_name(pid);
    let is_told = || is_tfwrap(pid, &name, this) && !is_deaf(pid);
    if is_terraform(&name) || is_told() { Kind::Target } else { Kind::Other }
}

/// Whether this tfwrap is a guardian or a stand-in, which has no child. By what it was started as and
/// not by the signals that it blocks: so does any tfwrap for a moment, while it starts something.
fn is_deaf(pid: Pid) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    let name = stand_in::VARIABLE.as_bytes();
    variables.any(|it| it.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&b'=')))
        || words(pid).first().is_some_and(|name| name == detached::GUARDIAN.as_bytes())
}

/// The file name of the program that runs in a process.
fn program_name(pid: Pid) -> String {
    let link = match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(link) => link,
        // Somebody else's, or one that hides its memory: its name has to do.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().into()
        }
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
fn is_terraform(name: &str) -> bool {
    let rest = ["terraform", "tofu"].into_iter().find_map(|word| name.strip_prefix(word));
    let Some(rest) = rest else { return false };
    let is_plugin = ["-provider-", "-provisioner-"].into_iter().any(|it| rest.starts_with(it));
    !is_plugin && !rest.starts_with(|first: char| first.is_alphabetic())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn terraforms_are_told_from_what_is_only_called_so() {
        for name in ["terraform", "terraform-bin", "terraform_1.9", "tofu", "tofu1.10.0"] {
            assert!(is_terraform(name), "{name}");
        }
        let others = ["terraform-provider-aws_v5.1.0_x5", "terraform-provisioner-x", "node"];
        for name in others.into_iter().chain(["terraformer", "tofuu", "tfwrap", "", "sh"]) {
            assert!(!is_terraform(name), "{name}");
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
        for _ in 0..1000 {
            let found = targets(leader, session, true);
            if found.len() == count {
                return found;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{count} do not come: {:?}", names(&targets(leader, session, true)));
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
        let inner = "./tofu 60 & ./terraform-provider-x 60 & wait";
        let script = format!("sh -c \"./terraform-bin -c '{inner}'; true\" & ./tofu 61 & wait");
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
