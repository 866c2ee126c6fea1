//! Which processes share the lock of a file.

use std::fs;
use std::path::Path;

use nix::unistd::{Pid, getpid};

use super::process::{ProcessId, processes};
use super::process_tree::Member;
use super::targets::{is_ours, runs_terraform, runs_tfwrap};
use crate::file_id::FileId;

/// How the kernel calls an open-file-description lock in `/proc/PID/fdinfo` (`proc_pid_fdinfo(5)`).
const OFD_LOCK: &str = "OFDLCK";

/// The other processes that have this file open by a description that has it locked, or this byte of it:
/// each can have got that from another. As far as `/proc` shows.
pub(crate) fn holders_of_lock(path: &Path, byte: Option<i64>) -> Vec<Member> {
    let Some(file) = FileId::of(path) else { return Vec::new() };
    let others = processes().unwrap_or_default().into_iter().filter(|(pid, _)| *pid != getpid());
    let holders = others.filter(|(pid, _)| has_locked(*pid, file, byte));
    holders
        .map(|(pid, stat)| Member::of(ProcessId { pid: pid.as_raw(), born: Some(stat.born) }))
        .collect()
}

/// The command by which a person ends these: a Terraform by one interrupt, and none for a tfwrap that lives,
/// which ends by itself with what it has started.
pub(crate) fn end_of(members: &[Member]) -> Option<String> {
    let pids = || members.iter().map(|member| member.process.pid());
    if members.is_empty() || pids().any(runs_tfwrap) {
        return None;
    }
    let terraforms: Vec<_> = pids().filter(|pid| runs_terraform(*pid) || is_ours(*pid)).collect();
    let (command, pids) =
        if terraforms.is_empty() { ("kill", pids().collect()) } else { ("kill -INT", terraforms) };
    let pids: Vec<_> = pids.iter().map(Pid::to_string).collect();
    Some(format!("{command} {}", pids.join(" ")))
}

fn has_locked(pid: Pid, file: FileId, byte: Option<i64>) -> bool {
    // Of another user's process it is not shown.
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let info = || {
            let number = descriptor.file_name();
            fs::read_to_string(Path::new(&format!("/proc/{pid}/fdinfo")).join(number))
        };
        FileId::of(&descriptor.path()) == Some(file)
            && info().is_ok_and(|info| info.lines().any(|line| is_lock_of(line, byte)))
    })
}

/// `lock: 1: OFDLCK  ADVISORY  READ -1 fd:00:1234 1 1`, with the first byte and the last one or `EOF`.
fn is_lock_of(line: &str, byte: Option<i64>) -> bool {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let [.., first, last] = words[..] else { return false };
    let is_within = |byte| {
        let reaches = last == "EOF" || last.parse().is_ok_and(|last: i64| byte <= last);
        first.parse().is_ok_and(|first: i64| first <= byte) && reaches
    };
    words[0] == "lock:" && words.contains(&OFD_LOCK) && byte.is_none_or(is_within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_known_by_its_kind_and_its_bytes() {
        let whole = "lock:\t1: OFDLCK  ADVISORY  WRITE -1 fd:00:10510740 0 EOF";
        let byte = "lock:\t2: OFDLCK  ADVISORY  READ -1 fd:00:10510740 1 1";
        let posix = "lock:\t1: POSIX  ADVISORY  WRITE 4711 fd:00:10510740 0 EOF";
        for (line, of_any, of_first) in [
            (whole, true, true),
            (byte, true, true),
            (posix, false, false),
            ("flags:\t02", false, false),
        ] {
            assert_eq!(is_lock_of(line, None), of_any, "{line}");
            assert_eq!(is_lock_of(line, Some(1)), of_first, "{line}");
        }
        assert!(
            is_lock_of(whole, Some(2)) && !is_lock_of(byte, Some(2)) && !is_lock_of(byte, Some(0))
        );
    }
}
