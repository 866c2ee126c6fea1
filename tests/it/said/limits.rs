//! What the machine does not give: descriptors, a stack, processes and threads. It works, or that is said
//! before anything is asked for; and nothing is left behind.

use std::process::Command;

use super::Row;
use crate::support::servers::{REGION, dynamodb};

#[test]
fn b14_too_few_descriptors_are_said() {
    for limit in [7, 8, 10, 14, 16, 18, 20] {
        for command in ["plan", "run -- true", "hold", "status", "recover"] {
            let typed = format!("ulimit -n {limit}; tfwrap {command}");
            let is = format!("`ulimit -n` is {limit}");
            let says = &["too few file descriptors", is.as_str()][..];
            Row { typed: &typed, code: 70, says, never: &["lock `"], ..Row::default() }.play();
        }
    }
    let typed = "ulimit -n 40; tfwrap run -- terraform plan";
    Row { typed, ..Row::default() }.play();
}

#[test]
fn no_larger_file_than_the_limit_is_asked_for_elsewhere() {
    let says =
        &["cannot keep a receipt", "hint: raise the limit on the size of files (`ulimit -f`)"];
    let never = &["TFWRAP_STATE_DIR"];
    Row { typed: "ulimit -f 0; tfwrap plan", code: 78, says, never, ..Row::default() }.play();
}

#[test]
fn too_small_a_stack_is_said() {
    for (limit, commands) in [
        (64, &["plan", "run -- true", "hold", "status", "recover", "version"][..]),
        (96, &["plan"]),
        (128, &["plan"]),
        (1023, &["plan"]),
    ] {
        for command in commands {
            let typed = format!("ulimit -s {limit}; tfwrap {command}");
            let is = format!("`ulimit -s` is {limit}");
            let says = &["too small a stack", is.as_str(), "nothing was run"][..];
            Row { typed: &typed, code: 78, says, never: &["lock `"], ..Row::default() }.play();
        }
    }
    // The control; and whoever is started has the limit that was set.
    let typed = "ulimit -s 1024; tfwrap run -- sh -c 'test $(ulimit -s) = 1024; terraform plan'";
    Row { typed, ..Row::default() }.play();
}

/// `them` is a command by a user who is nobody else, in a directory of theirs; `limited`, one that may
/// have `n` processes and threads. Another user for each `n`: a process that has ended counts until
/// somebody waits for it.
const THEM: &str = "export TFWRAP_STATE_DIR=HERE/s; \
                    them() { setpriv --reuid $((UID + n)) --regid $((UID + n)) --clear-groups \"$@\"; }; \
                    limited() { them prlimit --nproc=$n:$n \"$@\"; }; ";
const MAKE: &str = "cp \"$T\" tfwrap; chmod 755 . tfwrap; mkdir s";

fn as_somebody(row: u32, text: &str) -> String {
    let uid = 20_000 + (std::process::id() % 1000) * 64 + row * 8;
    text.replace("UID", &uid.to_string())
}

/// Whether there can be such a user, and a limit for them.
fn can_be_somebody() -> bool {
    // The kernel sets root no such limit.
    let script =
        as_somebody(0, "setpriv --reuid UID --regid UID --clear-groups prlimit --nproc=9:9 true");
    nix::unistd::geteuid().is_root()
        && Command::new("sh").args(["-c", &script]).output().is_ok_and(|it| it.status.success())
}

/// With any number, it works, or says what is missing: before anything was asked for where it is a
/// thread of its own, else with the lock given back.
#[tokio::test]
async fn too_few_processes_are_said_whatever_their_number() {
    if !can_be_somebody() {
        return;
    }
    dynamodb().create_lock_table("said-limits").await;
    // By a name, which has to be looked up, on a thread.
    let endpoint = dynamodb().url.replace("127.0.0.1", "localhost");
    let aws = format!("dynamodb://said-limits/k?region={REGION}&endpoint={endpoint}");
    let aws = format!("--no-backend-lock --lock '{aws}'");
    let file = "--no-backend-lock --lock file://HERE/lock";
    for (row, (options, command, then)) in [
        ("", "run -- true", ""),
        (file, "run -- true", ""),
        (&aws, "run -- true", ""),
        ("--max-hold 1m", "hold", ". ./out; them ./tfwrap release"),
        ("", "status", ""),
        ("", "recover", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let works = format!("7 {command}: 0");
        let typed = format!(
            "{THEM}for n in 1 2 3 4 5 6 7; do c=0; \
             chown -R $((UID + n)) .; \
             limited ./tfwrap {options} {command} > out 2> err || c=$?; \
             echo \"$n {command}: $c\" >&2; cat err >&2; case $c in \
             0) {then} ;; \
             78) grep -q 'no thread can be started' err; grep -q 'nothing was run' err ;; \
             70) grep -q 'cannot start\\|cannot be started' err; grep -q 'raise the limit' err ;; \
             *) exit 9 ;; esac; \
             test -z \"$(find s -name '*.json')\" || exit 8; \
             ./tfwrap {options} status | grep -q free || exit 7; done"
        );
        let row = u32::try_from(row).expect("few");
        let typed = as_somebody(row, &typed);
        let says = &[works.as_str(), "no thread can be started"];
        Row { make: MAKE, typed: &typed, says, ..Row::default() }.play();
    }
}

/// Terraform itself may use up what there is. A thread that has ended meanwhile, since it had nothing to
/// do for ten seconds, could not be had again.
#[test]
fn a_limit_that_is_reached_in_the_run_keeps_nobody_from_the_release() {
    if !can_be_somebody() {
        return;
    }
    let typed = format!(
        "{THEM}n=32; chown -R $((UID + n)) .; \
         limited ./tfwrap run -- sh -c 'prlimit --pid $PPID --nproc=1:1; sleep 12'; \
         test -z \"$(find s -name '*.json')\" || exit 8; them ./tfwrap status | grep -q free"
    );
    let typed = as_somebody(7, &typed);
    Row { make: MAKE, typed: &typed, ..Row::default() }.play();
}
