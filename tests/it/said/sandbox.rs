//! Sandboxes that refuse a system call, and more than the guardian can be told: it works, or what is
//! missing is said.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use super::Row;
use crate::support::harness::wrapper;
use crate::support::servers;

/// Runs a script where these calls are refused; its exit code, and what it says on stderr.
fn confined(refused: &[libc::c_long], errno: i32, script: &str) -> (Option<i32>, String) {
    let dir = servers::local_backend_dir();
    let rules = refused.iter().map(|call| (*call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(errno.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with filters");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).expect("rules");
    let filter: BpfProgram = filter.try_into().expect("a program");
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let mut shell = Command::new("sh");
    servers::clean(&mut shell, dir.path());
    let script = format!("tfwrap() {{ \"$T\" \"$@\"; }}; {script}");
    shell.env("T", wrapper()).args(["-c", &script]);
    shell.env("TFWRAP_STATE_DIR", dir.path().join(".tfwrap-state"));
    shell.stdout(File::create(out).expect("a file")).stderr(File::create(&err).expect("a file"));
    // With this it is a fork that starts it: what else there is needs clone3 itself.
    shell.uid(nix::unistd::geteuid().as_raw());
    // A filter is for the thread that sets it, and for what that starts.
    let status = std::thread::scope(|scope| {
        let confined = scope.spawn(move || {
            apply_filter(&filter).expect("a filter");
            shell.status().expect("a shell")
        });
        confined.join().expect("no panic")
    });
    (status.code(), fs::read_to_string(err).expect("what was said"))
}

#[test]
fn without_memfd_create_a_guardian_still_gives_the_lock_back() {
    let script = "tfwrap run -- sh -c 'kill -9 $PPID'; \
                  for i in $(seq 300); do tfwrap status | grep -q free && exit 0; sleep 0.1; done; \
                  exit 9";
    for errno in [libc::EPERM, libc::ENOSYS] {
        let (code, said) = confined(&[libc::SYS_memfd_create], errno, script);
        assert_eq!(code, Some(0), "{said}");
    }
}

#[test]
fn without_clone3_it_works_or_says_so() {
    let script = "tfwrap run -- terraform plan";
    let (code, said) = confined(&[libc::SYS_clone3], libc::ENOSYS, script);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = confined(&[libc::SYS_clone3], libc::EPERM, script);
    // The C library of a static build needs no clone3 at all.
    if code != Some(0) {
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("the sandbox refuses `clone3`"), "{said}");
        assert!(said.contains("nothing was run and no lock was asked for"), "{said}");
    }
}

#[test]
fn a_guardian_that_cannot_watch_says_why() {
    let script = "tfwrap run -- sh -c 'for i in $(seq 300); do grep -q \"no guardian\" err && exit 0; \
                  sleep 0.1; done; exit 9'";
    let (code, said) = confined(&[libc::SYS_signalfd4], libc::EPERM, script);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("no guardian watches this run (no signalfd(2): "), "{said}");
}

#[test]
fn more_locks_than_a_guardian_can_keep_are_refused_before_any_is_taken() {
    let locks = "for i in $(seq 300); do l=\"$l file://HERE/dir/$(printf %0150d $i)\"; done; \
                 export TFWRAP_LOCK=\"$l\"; ";
    let typed = format!("{locks}tfwrap run -- true || c=$?; ls -A dir >&2; exit $c");
    let says = &["301 locks take", "name fewer locks"];
    let never = &["tfwrap.lock", "000"];
    Row { make: "mkdir dir", typed: &typed, code: 78, says, never }.play();
}
