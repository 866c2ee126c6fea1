//! The keys of a terminal, and its end, through a script in Terraform's place.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::getpgid;

use super::{APPLY, FORWARDER, NODE, Stage, has, stage};
use crate::aftermath::Receipt;
use crate::pty::{Shell, Window, foreground};
use crate::support::servers::{BUCKET, s3};
use crate::wrapped::{born, wait_for_end, wait_until};

/// Dies of a key at once; its Terraform has had it, too, where both are in the foreground.
const BACKGROUND: &str = "#!/bin/sh\n\"$REAL\" \"$@\" &\nwait\n";

fn wrappers() -> impl Iterator<Item = &'static str> {
    let all = [("node", NODE), ("python3", FORWARDER), ("sh", BACKGROUND)];
    all.into_iter().filter(|(program, _)| *program == "sh" || has(program)).map(|(_, text)| text)
}

#[track_caller]
pub(super) fn expect_saved(key: &str, said: &str) {
    assert_eq!(said.matches("Two interrupts").count(), 0, "{said}");
    let state = s3().get(BUCKET, key).unwrap_or_default();
    let state = String::from_utf8_lossy(&state);
    assert!(state.contains("\"first\"") && state.contains("tainted"), "{state}{said}");
}

/// It is ours alone: the script gets it only if it reads the terminal.
#[test]
fn ctrl_c_through_a_wrapper_is_one_interrupt() {
    for text in wrappers() {
        let Stage { scene, key, _slow } = stage(Some(text));
        let scene = scene.command(&APPLY);
        let mut shell = Shell::start();
        shell.send(&scene.shell_words());
        scene.wait_for("ready");
        shell.key('c');
        let said = shell.prompt();
        assert_eq!(said.matches("Interrupt received").count(), 1, "{said}");
        expect_saved(&key, &said);
    }
}

/// The script has the terminal only while it asks for it: once it has its answer, the keys are ours again.
#[test]
fn ctrl_c_after_an_answer_through_a_wrapper_is_one_interrupt() {
    // Each key would reach it and its Terraform, to which it passes it on.
    for (program, text) in [("python3", FORWARDER), ("node", NODE)] {
        if !has(program) {
            continue;
        }
        let Stage { scene, key, _slow } = stage(Some(text));
        let scene = scene.command(&["apply", "-no-color"]);
        let mut shell = Shell::start();
        shell.send(&scene.shell_words());
        shell.sees("Enter a value:");
        let runner = Receipt::of(&scene).runner();
        let is_ours = || (foreground(runner)? == getpgid(Some(runner)).ok()?).then_some(());
        wait_until("the terminal", is_ours);
        shell.send("yes");
        scene.wait_for("ready");
        wait_until("the terminal", is_ours);
        shell.key('c');
        let said = shell.prompt();
        assert_eq!(said.matches("Interrupt received").count(), 1, "{said}");
        expect_saved(&key, &said);
    }
}

/// Whether tfwrap is killed after it or hangs up, there is no second one.
#[test]
fn what_follows_ctrl_c_through_a_wrapper_is_no_second_interrupt() {
    for signal in [Signal::SIGHUP, Signal::SIGKILL] {
        let Stage { scene, key, _slow } = stage(Some(BACKGROUND));
        let scene = scene.command(&APPLY);
        let mut shell = Shell::start();
        shell.send(&scene.shell_words());
        scene.wait_for("ready");
        let receipt = Receipt::of(&scene);
        let guardian = receipt.guardian().expect("a guardian");
        let born_at = born(guardian);
        shell.key('c');
        shell.sees("Interrupt received");
        // Who is killed before it has heard of a key can tell nobody.
        wait_until("the note", || (Receipt::of(&scene).text["interrupts"] == "sent").then_some(()));
        kill(receipt.runner(), signal).expect("it is there");
        wait_for_end("the guardian", guardian, born_at.as_ref());
        let said = shell.prompt();
        assert_eq!(said.matches("Two interrupts").count(), 0, "{said}");
        expect_saved(&key, &said);
    }
}

/// What Node starts does not ignore the hang-up that it ignores itself.
#[test]
fn a_window_that_is_closed_through_a_wrapper_is_one_interrupt() {
    for text in wrappers() {
        let Stage { scene, key, _slow } = stage(Some(text));
        let scene = scene.command(&APPLY);
        let mut window = Window::open();
        let (out, err) = (scene.path("out"), scene.path("err"));
        let to = format!(" > {} 2> {}", out.display(), err.display());
        window.send(&(scene.shell_words() + &to));
        scene.wait_for("ready");
        let receipt = Receipt::of(&scene);
        let runner = (receipt.runner(), born(receipt.runner()));
        window.close();
        wait_for_end("the end of tfwrap", runner.0, runner.1.as_ref());
        let said = wait_until("what was said", || fs::read_to_string(&err).ok());
        let said = said + &fs::read_to_string(&out).expect("what Terraform said");
        assert_eq!(said.matches("Interrupt received").count(), 1, "{said}");
        expect_saved(&key, &said);
    }
}
