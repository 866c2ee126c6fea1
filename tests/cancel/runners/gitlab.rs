//! GitLab's executors, with the shell script that the runner makes of a job today.

use nix::sys::signal::Signal as Sent;
use rustix::process::Signal;
use tfwrap::clock::uptime;

use super::Played;
use super::container::{Container, ENTER};
use crate::stage::{PATIENCE, Stage, scaled};
use crate::step::{Group, within};

pub(crate) const JOB: &[(&str, &str)] = &[
    ("CI", "true"),
    ("GITLAB_CI", "true"),
    ("CI_JOB_ID", "71001@"),
    ("CI_JOB_NAME", "deploy"),
    ("CI_JOB_URL", "https://gitlab.example/acme/infra/-/jobs/71001"),
    ("CI_PROJECT_DIR", "@/builds"),
];

/// The trap keeps bash in place until its foreground command has ended.
fn script(stage: &Stage) -> String {
    let user = shell_words::quote(&stage.shell_words()).into_owned();
    let file = format!(
        "#!/usr/bin/env bash\ntrap 'exit 1' TERM\nset -o pipefail\nset -o errexit\n\
         set +o noclobber\n(trap 'exit 1' TERM; eval {user}) </dev/null\nexit 0\n"
    );
    stage.file("script.sh", &file).display().to_string()
}

pub(super) fn shell(stage: &mut Stage) -> Played {
    let mut command = stage.command("bash");
    command.arg(script(stage));
    let mut step = stage.start(&mut command, Group::Own);
    let mut played = Played::new(stage.at_work());
    step.signal_group(Sent::SIGTERM);
    // 10 minutes in life; nothing happens in the last nine of them.
    let patience = scaled(if crate::stage::scale() < 1.0 { 60.0 } else { 600.0 });
    if !step.ends_within(patience) {
        step.signal_group(Sent::SIGKILL);
        step.ends_within(scaled(10.0));
    }
    // The runner waits for whoever has the streams, too.
    let closed = step.closes_within(PATIENCE);
    played.problem(!closed, || "the streams stay open".to_owned());
    played.code = step.code();
    played.recover = stage.recover_waiting();
    played
}

pub(super) fn docker(stage: &mut Stage) -> Played {
    let mut container = Container::start(stage, &["bash".to_owned(), script(stage)]);
    let mut played = Played::new(stage.at_work());
    let give_up_at = uptime().plus(scaled(10.0));
    for process in container.processes().into_iter().filter(|one| *one != container.first) {
        let left = give_up_at.since(uptime());
        if left.is_zero() {
            break;
        }
        played.signal(&process, Signal::TERM);
        within(left.min(scaled(6.0)), || !process.is_alive());
    }
    if !container.step.ends_within(std::time::Duration::ZERO) {
        container.stop(scaled(10.0));
    }
    played.code = container.step.code();
    // The container is started again for `after_script`: no process of before is there.
    let wait = format!("{}ms", crate::stage::recover_wait().as_millis());
    played.recover = stage.recover(&ENTER, &["--wait", &wait]);
    if played.recover == Some(74) {
        // From here nobody can tell that it is gone, and this wait is shorter than the lease.
        played.recover = None;
        played.taken_over(stage);
    }
    played
}

pub(super) fn kubernetes(stage: &mut Stage) -> Played {
    // The build container's own process only waits; each stage is a shell started beside it.
    let keeper = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let mut container = Container::start(stage, &["bash", "-c", keeper].map(str::to_owned));
    let enter = container.enter();
    let mut command = stage.command(&enter[0]);
    command.args(&enter[1..]).args(["bash", &script(stage)]);
    let mut step = stage.start(&mut command, Group::Own);
    let mut played = Played::new(stage.at_work());
    // `pgrep -f` finds the subshell by the same command line.
    let shells = |process: &crate::support::procs::Process| {
        process.describe().contains("script.sh") && process.program().ends_with("/bash")
    };
    let shells: Vec<_> = container.processes().into_iter().filter(shells).collect();
    let children: Vec<_> =
        shells.iter().flat_map(crate::support::procs::Process::children).collect();
    for child in children {
        played.signal(&child, Signal::TERM);
    }
    let before: Vec<&str> = enter.iter().map(String::as_str).collect();
    let wait = format!("{}ms", crate::stage::recover_wait().as_millis());
    played.recover = stage.recover(&before, &["--wait", &wait]);
    container.stop(scaled(30.0));
    step.ends_within(PATIENCE);
    played.code = step.code();
    played
}
