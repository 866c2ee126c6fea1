//! Which processes share the lock of a file.

use std::fs;
use std::path::Path;

use nix::unistd::{Pid, getpid};

use super::process::{ProcessId, processes};
use super::process_tree::Member;
use crate::file_id::FileId;

/// How the kernel calls an open-file-description lock in `/proc/PID/fdinfo` (`proc_pid_fdinfo(5)`).
const OFD_LOCK: &str = "OFDLCK";

/// The other processes that have this file open by a description that has it locked: each can have got
/// that from another. As far as `/proc` shows.
pub(crate) fn holders_of_lock(path: &Path) -> Vec<Member> {
    let Some(file) = FileId::of(path) else { return Vec::new() };
    let others = processes().unwrap_or_default().into_iter().filter(|(pid, _)| *pid != getpid());
    let holders = others.filter(|(pid, _)| has_locked(*pid, file));
    holders
        .map(|(pid, stat)| Member::of(ProcessId { pid: pid.as_raw(), born: Some(stat.born) }))
        .collect()
}

fn has_locked(pid: Pid, file: FileId) -> bool {
    // Of another user's process it is not shown.
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let info = || {
            let number = descriptor.file_name();
            fs::read_to_string(Path::new(&format!("/proc/{pid}/fdinfo")).join(number))
        };
        FileId::of(&descriptor.path()) == Some(file)
            && info().is_ok_and(|info| info.contains(OFD_LOCK))
    })
}
