//! One stop, and a tfwrap below a `run` that is killed: its Terraform is the outer one's child from then on,
//! and has had its interrupt, or gets it from its guardian.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};

use super::{APPLY, Stage, end, expect_one, stage};
use crate::aftermath::{Receipt, STATE_DIR, kill_dead};
use crate::canary::stand_in;
use crate::support::harness::{self, pause};
use crate::wrapped::{Running, Scene, born, is_gone, only_child, state, wait_for_end, wait_until};

fn of_apply(scene: &Scene) -> Receipt {
    let all = Receipt::all(&scene.path(STATE_DIR));
    all.into_iter().find(|it| it.text["operation"] != "run").expect("the inner one's receipt")
}

/// Until the inner tfwrap or its guardian has sent the interrupt.
fn wait_for_interrupt(scene: &Scene) {
    wait_until("the interrupt", || (of_apply(scene).text["interrupts"] == "sent").then_some(()));
}

fn stop(running: &Running) {
    kill(running.pid(), Signal::SIGTERM).expect("it is there");
}

#[test]
fn a_terraform_whose_own_tfwrap_is_killed_below_a_run_is_interrupted_once() {
    for (shape, stop_comes_first, guardian_too) in [
        ("a stop, then the kill", true, false),
        ("the kill, then a stop", false, false),
        ("a stop, then the kill of the guardian, too", true, true),
        ("the kill of both, then a stop", false, true),
    ] {
        let Stage { scene, key, _slow } = stage(None);
        let words = [&["run", "--", env!("CARGO_BIN_EXE_tfwrap")][..], &APPLY].concat();
        let mut running = scene.command(&words).start().ready();
        let inner = of_apply(&running.scene);
        if stop_comes_first {
            stop(&running);
            wait_for_interrupt(&running.scene);
        }
        if guardian_too {
            // One that goes on starts another guardian.
            kill(inner.runner(), Signal::SIGSTOP).expect("it is there");
            kill_dead(inner.guardian().expect("a guardian"));
        }
        kill_dead(inner.runner());
        if !stop_comes_first {
            if !guardian_too {
                wait_for_interrupt(&running.scene);
            }
            stop(&running);
        }
        if guardian_too {
            // What a provisioner has left has nobody who would end it.
            let child = inner.child().expect("a Terraform");
            wait_until("its end", || is_gone(child).then_some(()));
            let _nothing_is_left = killpg(child, Signal::SIGKILL);
        }
        end(&mut running);
        expect_one(&running.scene, &key, shape);
    }
}

/// The stand-in had it, too, and tfwrap never read of it.
#[test]
fn what_a_tfwrap_did_not_hear_because_it_stood_still_is_the_childs_only_one() {
    let Stage { scene, key, _slow } = stage(None);
    let mut running = scene.command(&APPLY).start().ready();
    let child = of_apply(&running.scene).child().expect("a child");
    kill(running.pid(), Signal::SIGSTOP).expect("it is there");
    killpg(child, Signal::SIGINT).expect("its group");
    pause(Duration::from_millis(700));
    running.signal(Signal::SIGKILL);
    assert_eq!(end(&mut running), None);
    wait_until("its end", || is_gone(child).then_some(()));
    let receipt = Receipt::of(&running.scene);
    wait_until("its guardian's end", || {
        is_gone(receipt.guardian().expect("a guardian")).then_some(())
    });
    expect_one(&running.scene, &key, "a tfwrap that stood still");
}

/// `kill -STOP $(pidof -s terraform)` may mean it. The kernel hangs up on a group of which a process is
/// stopped when its last tie to the session is cut.
#[test]
fn a_stand_in_that_was_stopped_goes_on_and_a_kill_is_one_interrupt() {
    let Stage { scene, key, _slow } = stage(None);
    let mut running = scene.command(&APPLY).start().ready();
    let child = of_apply(&running.scene).child().expect("a child");
    let stand_in = wait_until("a stand-in", || stand_in(running.pid(), child));
    kill(stand_in, Signal::SIGSTOP).expect("it is there");
    wait_until("it goes on", || (state(stand_in) == Some('S')).then_some(()));
    running.signal(Signal::SIGKILL);
    assert_eq!(end(&mut running), None);
    wait_until("its end", || is_gone(child).then_some(()));
    let guardian = Receipt::of(&running.scene).guardian().expect("a guardian");
    wait_until("its guardian's end", || is_gone(guardian).then_some(()));
    expect_one(&running.scene, &key, "a stand-in that was stopped");
}

/// By its name nobody can tell that it is one, but it is the child of a tfwrap.
#[test]
fn nor_is_one_of_an_odd_name_interrupted_again() {
    let Stage { scene, key, _slow } = stage(Some("#!/bin/sh\nexec \"$REAL\" \"$@\"\n"));
    let odd = scene.path("odd").display().to_string();
    harness::run(Command::new("cp").arg(harness::real_terraform()).arg(&odd)).expect_code(0);
    let script = format!("terraform {}; true", APPLY[..].join(" "));
    let scene = scene.env("REAL", &odd).command(&["run", "--", "bash", "-c", &script]);
    let mut running = scene.start().ready();
    let inner = of_apply(&running.scene);
    stop(&running);
    wait_for_interrupt(&running.scene);
    kill(inner.runner(), Signal::SIGSTOP).expect("it is there");
    kill_dead(inner.guardian().expect("a guardian"));
    kill_dead(inner.runner());
    let child = inner.child().expect("a Terraform");
    wait_until("its end", || is_gone(child).then_some(()));
    let _nothing_is_left = killpg(child, Signal::SIGKILL);
    end(&mut running);
    expect_one(&running.scene, &key, "an odd name");
}

/// What an outer tfwrap has sent is its own, though it is gone when that is decided on.
#[test]
fn a_stop_to_all_and_the_kill_of_the_outer_tfwrap_are_one_interrupt() {
    let Stage { scene, key, _slow } = stage(None);
    let words = [&["run", "--", env!("CARGO_BIN_EXE_tfwrap")][..], &APPLY].concat();
    let mut running = scene.command(&words).start().ready();
    let inner = of_apply(&running.scene);
    let (child, runner) = (inner.child().expect("a child"), inner.runner());
    let outer = Receipt::all(&running.scene.path(STATE_DIR));
    let outer = outer.into_iter().find(|it| it.runner() == running.pid()).expect("its receipt");
    let guardian = outer.guardian().expect("a guardian");
    let born_at = born(guardian);
    running.signal(Signal::SIGINT);
    for group in [runner, child] {
        killpg(group, Signal::SIGINT).expect("it is there");
    }
    // The outer one tells the inner one again, once whoever goes round has passed.
    pause(Duration::from_millis(1060));
    running.signal(Signal::SIGKILL);
    running.bare_code();
    wait_for_end("the outer one's guardian", guardian, born_at.as_ref());
    expect_one(&running.scene, &key, "a stop to all, then a kill");
}

/// Whoever kills tfwrap and then signals all that it had started means one stop.
#[test]
fn a_kill_and_a_stop_to_all_that_is_left_are_one_interrupt() {
    let Stage { scene, key, _slow } = stage(None);
    let mut running = scene.command(&APPLY).start().ready();
    let receipt = Receipt::of(&running.scene);
    let (guardian, child) = (receipt.guardian().expect("a guardian"), receipt.child().expect("it"));
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    let worker = wait_until("a worker", || only_child(guardian));
    for pid in [worker, guardian, child] {
        kill(pid, Signal::SIGTERM).expect("it is there");
    }
    wait_until("the guardian's end", || is_gone(guardian).then_some(()));
    expect_one(&running.scene, &key, "a kill and a sweep");
}

/// Nor can its guardian hear of a stop that goes to where the Terraform stands, and nowhere else.
#[test]
fn a_kill_and_a_stop_to_the_group_of_terraform_alone_are_one_interrupt() {
    for (shape, stop_comes_first) in [("the kill first", false), ("the stop first", true)] {
        let Stage { scene, key, _slow } = stage(None);
        let mut running = scene.command(&APPLY).start().ready();
        let receipt = Receipt::of(&running.scene);
        let (guardian, child) =
            (receipt.guardian().expect("a guardian"), receipt.child().expect("it"));
        if stop_comes_first {
            killpg(child, Signal::SIGTERM).expect("it is there");
        }
        kill_dead(receipt.runner());
        if !stop_comes_first {
            killpg(child, Signal::SIGTERM).expect("it is there");
        }
        assert_eq!(running.bare_code(), None);
        wait_until("the guardian's end", || is_gone(guardian).then_some(()));
        expect_one(&running.scene, &key, shape);
    }
}
