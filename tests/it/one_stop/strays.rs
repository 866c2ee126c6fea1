//! A Terraform that its wrapper has put into a process group of its own is the child's all the same:
//! the lock is held until it has ended, and it gets its one interrupt, whoever is gone by then.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::sweeps::is_of_the_provisioner;
use super::{APPLY, Stage, can_unshare, end, expect_one, has, script, stage};
use crate::aftermath::{Receipt, STATE_DIR, kill_dead};
use crate::pty::below;
use crate::support::harness::{self, pause};
use crate::wrapped::{Running, Scene, born, is_gone, only_child, wait_for_end, wait_until};

/// `timeout` makes its own group.
const TIMEOUT: &str = "#!/bin/sh\ntimeout 3600 \"$REAL\" \"$@\"\nexit $?\n";

/// As Node's `detached`.
const DETACHED: &str = r"#!/usr/bin/env python3
import os, subprocess, sys
sys.exit(subprocess.call([os.environ['REAL']] + sys.argv[1:], start_new_session=True))
";

/// Fails while its Terraform works.
const FAILING: &str = r"#!/usr/bin/env python3
import os, subprocess, sys, time
subprocess.Popen([os.environ['REAL']] + sys.argv[1:], start_new_session=True)
while not os.path.exists('ready'): time.sleep(0.05)
sys.exit(3)
";

fn wrappers() -> impl Iterator<Item = &'static str> {
    [TIMEOUT, DETACHED].into_iter().filter(|text| *text == TIMEOUT || has("python3"))
}

/// The wrapper, and the Terraform that it has started.
pub(super) fn wrapper_and_terraform(running: &Running) -> (Pid, Pid) {
    let wrapper = Receipt::of(&running.scene).child().expect("a child");
    let mut below = wait_until("what the wrapper has started", || only_child(wrapper));
    let is_terraform = |pid: Pid| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).expect("it lives");
        exe == std::fs::canonicalize(harness::real_terraform()).expect("it is there")
    };
    while !is_terraform(below) {
        below = wait_until("what that has started", || only_child(below));
    }
    (wrapper, below)
}

#[track_caller]
fn expect_held(scene: &Scene) {
    let mut rival = harness::tfwrap(&scene.path("."));
    harness::run(rival.args(["--lock-timeout=0s", "run", "--", "true"])).expect_code(75);
}

#[test]
fn a_terraform_apart_outlives_its_wrapper_under_its_lock() {
    for text in wrappers() {
        let Stage { scene, key, _slow } = stage(Some(text));
        let mut running = scene.command(&APPLY).in_ci().start().ready();
        let (wrapper, terraform) = wrapper_and_terraform(&running);
        // `timeout` goes on, so that Terraform has a parent that is not ours.
        kill_dead(wrapper);
        pause(Duration::from_secs(1));
        assert!(running.is_running() && !is_gone(terraform), "{}", running.stderr());
        expect_held(&running.scene);
        running.signal(Signal::SIGTERM);
        end(&mut running);
        assert!(is_gone(terraform));
        expect_one(&running.scene, &key, text);
    }
}

#[test]
fn a_terraform_apart_is_interrupted_and_waited_for_by_a_guardian() {
    for text in wrappers() {
        let Stage { scene, key, _slow } = stage(Some(text));
        let mut running = scene.command(&APPLY).in_ci().start().ready();
        let (wrapper, terraform) = wrapper_and_terraform(&running);
        let guardian = Receipt::of(&running.scene).guardian().expect("a guardian");
        let born_at = born(guardian);
        running.signal(Signal::SIGSTOP);
        kill_dead(wrapper);
        running.signal(Signal::SIGKILL);
        running.bare_code();
        expect_held(&running.scene);
        wait_for_end("the end of the guardian", guardian, born_at.as_ref());
        assert!(is_gone(terraform));
        expect_one(&running.scene, &key, text);
    }
}

#[test]
fn a_wrapper_that_fails_its_terraform_is_no_end() {
    if !has("python3") {
        return;
    }
    let Stage { scene, key, _slow } = stage(Some(FAILING));
    let mut running = scene.command(&APPLY).in_ci().start().ready();
    pause(Duration::from_secs(1));
    assert!(running.is_running(), "{}", running.stderr());
    expect_held(&running.scene);
    running.signal(Signal::SIGTERM);
    assert_eq!(end(&mut running), Some(3));
    expect_one(&running.scene, &key, "a wrapper that fails");
}

#[test]
fn a_grace_ends_a_terraform_apart_too() {
    for text in wrappers() {
        let Stage { scene, _slow, .. } = stage(Some(text));
        let scene = scene.options(&["--grace", "1s"]).command(&APPLY).in_ci();
        let mut running = scene.start().ready();
        let (_, terraform) = wrapper_and_terraform(&running);
        running.signal(Signal::SIGTERM);
        end(&mut running);
        assert!(is_gone(terraform), "{}", running.stderr());
    }
}

/// In there nobody can tell who outside has sent what.
#[test]
fn a_stop_to_all_is_one_for_a_terraform_in_a_pid_namespace() {
    if !can_unshare() {
        return;
    }
    let Stage { scene, key, _slow } = stage(None);
    let apart = ["run", "--", "unshare", "-Urpf", "--mount-proc", env!("CARGO_BIN_EXE_tfwrap")];
    let mut running = scene.command(&[&apart[..], &APPLY].concat()).start().ready();
    let all = below(running.pid()).into_iter().map(|(pid, _)| pid);
    let all: Vec<_> = all.filter(|pid| !is_of_the_provisioner(*pid)).collect();
    running.signal(Signal::SIGINT);
    for pid in all {
        let _gone_meanwhile = kill(pid, Signal::SIGINT);
    }
    end(&mut running);
    expect_one(&running.scene, &key, "a PID namespace");
}

/// Whoever is in there cannot see the tfwrap above it.
#[test]
fn after_a_stop_or_a_kill_nothing_more_is_started_in_a_pid_namespace() {
    if !can_unshare() {
        return;
    }
    let text =
        "#!/bin/bash\ntrap : INT\nfor n in 1 2; do terraform apply; echo $? >> codes; done\n";
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let scene = Scene::new("on SIGINT exit 5; ready @/ready; wait");
        let apart = ["run", "--", "unshare", "-Urpf", "--mount-proc", "./deploy"];
        let scene = scene.command(&apart);
        script(&scene, "deploy", text);
        let mut running = scene.start().ready();
        running.signal(signal);
        let codes = wait_until("the end of the script", || {
            let codes = fs::read_to_string(running.scene.path("codes")).unwrap_or_default();
            (codes.lines().count() == 2).then_some(codes)
        });
        assert_eq!(codes, "5\n130\n", "{signal}: {}", running.stderr());
        end(&mut running);
        wait_until("the release", || {
            let all = Receipt::all(&running.scene.path(STATE_DIR));
            all.iter().all(|it| it.text["is_over"] == true).then_some(())
        });
        running.scene.expect_free();
    }
}
