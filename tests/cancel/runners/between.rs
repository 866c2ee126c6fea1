//! What stands between a stop and Terraform: `timeout`, a program in Terraform's place, a script
//! below `tfwrap run`.

use nix::sys::signal::Signal as Sent;
use rustix::process::Signal;

use super::Played;
use crate::stage::{PATIENCE, Stage};
use crate::step::{Group, Step};

/// Hears nothing: it dies of a signal at once, and Terraform stays behind.
const DEAF: &str = "#!/bin/sh\n\"$REAL\" \"$@\"\nexit $?\n";

/// Passes on what it hears, a little later, as tenv and others do.
const FORWARDER: &str = r#"#!/usr/bin/env python3
import os, signal, subprocess, sys, time
def pass_on(number, _):
    time.sleep(0.1)
    child.send_signal(number)
child = subprocess.Popen([os.environ["REAL"]] + sys.argv[1:])
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, pass_on)
sys.exit(child.wait())
"#;

/// It ends, and so does all that it left.
fn ended(mut played: Played, mut step: Step) -> Played {
    step.ends_within(PATIENCE);
    played.code = step.code();
    step.closes_within(PATIENCE);
    played
}

/// At the end of its time it signals the process that it started, and then the group of both.
pub(super) fn timeout(stage: &mut Stage) -> Played {
    let mut command = stage.command("timeout");
    let step = stage.start(command.arg("600").args(stage.words()), Group::Own);
    let played = Played::new(stage.at_work());
    step.signal(Signal::TERM);
    ended(played, step)
}

pub(super) fn deaf(stage: &mut Stage) -> Played {
    instead_of_terraform(stage, DEAF, Sent::SIGTERM)
}

pub(super) fn forwarder(stage: &mut Stage) -> Played {
    instead_of_terraform(stage, FORWARDER, Sent::SIGINT)
}

fn instead_of_terraform(stage: &mut Stage, program: &str, signal: Sent) -> Played {
    stage.put_before_terraform(program);
    let mut step = stage.start_plainly();
    let played = Played::new(stage.at_work());
    step.signal_group(signal);
    ended(played, step)
}

pub(super) fn script(stage: &mut Stage) -> Played {
    let script =
        stage.program("deploy", "#!/bin/sh\nterraform apply -auto-approve -no-color\nsleep 900\n");
    let words = stage.words_of_run(&script);
    let step = stage.start(stage.command(&words[0]).args(&words[1..]), Group::Own);
    let played = Played::new(stage.at_work());
    step.signal(Signal::TERM);
    ended(played, step)
}
