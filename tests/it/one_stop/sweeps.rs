//! One stop that comes to many and is told by several, in whatever order and under whatever names.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getsid};
use rexpect::session::{PtySession, spawn_command};

use tfwrap::supervise::ECHO;

use super::keys::expect_saved;
use super::strays::wrapper_and_terraform;
use super::{APPLY, Stage, end, expect_one, script, stage};
use crate::aftermath::{Receipt, STATE_DIR};
use crate::canary::{stand_in, tell};
use crate::pty::{below, foreground};
use crate::support::harness::{self, pause};
use crate::support::servers::{self, heed_signals};
use crate::wrapped::{LOGS_ALL, Scene, born, wait_for_end, wait_until};

/// Less than tfwrap waits for word of where its child stands.
const ROUND: Duration = Duration::from_millis(30);

/// As much as a second signal of ours would need to be sent, and to arrive.
const SILENCE: Duration = Duration::from_millis(600);

/// A script that is the first program of a terminal, and runs the scene.
fn first_of_a_terminal(scene: &Scene) -> PtySession {
    to_its_terminal(scene, &format!("2> {}", scene.path("stderr").display()))
}

/// The same; stderr goes to the terminal, or as said.
fn to_its_terminal(scene: &Scene, stderr: &str) -> PtySession {
    heed_signals();
    let to = format!("> {} {stderr}", scene.path("stdout").display());
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &format!("{} {to}; true", scene.shell_words())]);
    spawn_command(bash, Some(30_000)).expect("bash starts")
}

/// Everybody else of a session, by number.
fn others_of(session: Pid) -> Vec<Pid> {
    let names = fs::read_dir("/proc").expect("it is there").filter_map(Result::ok);
    let pids = names.filter_map(|it| it.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    let mut all: Vec<_> =
        pids.filter(|pid| *pid != session && getsid(Some(*pid)) == Ok(session)).collect();
    all.sort();
    all
}

/// Waits until all has been decided on, and lets the child end.
#[track_caller]
fn expect_once(scene: &Scene, child: Pid, name: &str) {
    scene.wait_for_log(&format!("{name} 1"));
    pause(SILENCE);
    // Nobody is interrupted by a hang-up: on a terminal the child is started with that ignored.
    let stops = ["SIGINT", "SIGTERM"].map(|signal| scene.count(signal));
    assert_eq!(stops.iter().sum::<usize>(), 1, "{:?}", scene.log());
    let receipt = Receipt::of(scene);
    let runner = (receipt.runner(), born(receipt.runner()));
    kill(child, Signal::SIGUSR1).expect("the child is there");
    wait_for_end("the end of tfwrap", runner.0, runner.1.as_ref());
    scene.expect_free();
}

/// The script ends of it, and so the kernel hangs up on what is in the foreground: tfwrap, or the child
/// that reads.
#[test]
fn a_stop_to_all_of_a_terminal_is_one_though_its_first_process_ends_of_it() {
    for (reads, ci) in [(true, false), (true, true), (false, false), (false, true)] {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let does = if reads { "read; wait" } else { "wait" };
            let scene = Scene::new(&LOGS_ALL.replace("wait", does));
            let scene = if ci { scene.in_ci() } else { scene };
            let terminal = first_of_a_terminal(&scene);
            let child = scene.pid_in("ready");
            if reads {
                wait_until("its loan", || (foreground(child) == Some(child)).then_some(()));
            }
            let bash = getsid(Some(child)).expect("it is there");
            // Its stand-in is started after it.
            let all = wait_until("all three", || {
                let all = others_of(bash);
                (all.contains(&child) && all.len() > 2).then_some(all)
            });
            // Bash waits for what it runs before it ends of an interrupt.
            let first = if signal == Signal::SIGINT { Signal::SIGTERM } else { signal };
            kill(bash, first).expect("it is there");
            pause(ROUND);
            for pid in all {
                let _gone_meanwhile = kill(pid, signal);
            }
            expect_once(&scene, child, signal.as_str());
            drop(terminal);
        }
    }
}

/// Control: the end of the first process alone is a stop, too.
#[test]
fn a_terminal_whose_first_process_ends_is_one_stop() {
    let scene = Scene::new(LOGS_ALL);
    let terminal = first_of_a_terminal(&scene);
    let child = scene.pid_in("ready");
    kill(getsid(Some(child)).expect("it is there"), Signal::SIGTERM).expect("bash is there");
    expect_once(&scene, child, "SIGINT");
    let said = fs::read_to_string(scene.path("stderr")).expect("what was said");
    assert!(said.contains("got SIGHUP: SIGINT sent"), "{said}");
    drop(terminal);
}

/// The signal with the lower number is read first, also where it was made of the other one.
#[test]
fn what_a_script_passes_on_under_another_name_is_the_same_stop_whichever_is_first() {
    for passes_on_first in [true, false] {
        let scene = Scene::new(LOGS_ALL);
        let script = format!(
            "#!/bin/bash\n{} &\ntfwrap=$!\ntrap 'kill -INT $tfwrap' TERM\n\
             while kill -0 $tfwrap 2> /dev/null; do wait $tfwrap; done\n",
            scene.shell_words(),
        );
        harness::program(&scene.path("deploy"), &script);
        let mut deploy = Command::new(scene.path("deploy")).spawn().expect("it starts");
        let child = scene.pid_in("ready");
        let bash = Pid::from_raw(deploy.id().cast_signed());
        let tfwrap = Receipt::of(&scene).runner();
        let order = if passes_on_first { [bash, tfwrap] } else { [tfwrap, bash] };
        kill(order[0], Signal::SIGTERM).expect("it is there");
        pause(SILENCE);
        kill(order[1], Signal::SIGTERM).expect("it is there");
        expect_once(&scene, child, "SIGINT");
        deploy.wait().expect("it ends with tfwrap");
    }
}

/// A wrapper without handlers ends of it at once, before whoever signals one after the other has come to
/// the Terraform behind it.
#[test]
fn a_stop_to_one_after_the_other_is_one_though_a_wrapper_ends_of_it() {
    let same_group = "#!/bin/sh\n\"$REAL\" \"$@\"\nexit $?\n";
    let elsewhere = "#!/bin/sh\nsetsid \"$REAL\" \"$@\" &\nwait $!\n";
    for (wrapper, ci) in [(same_group, true), (same_group, false), (elsewhere, false)] {
        let Stage { scene, key, _slow } = stage(Some(wrapper));
        let scene = scene.command(&APPLY);
        let mut running = if ci { scene.in_ci() } else { scene }.start().ready();
        let (leader, terraform) = wrapper_and_terraform(&running);
        let session = getsid(Some(leader)).expect("it is there");
        let mut all = others_of(session);
        all.retain(|pid| getpgid(Some(*pid)) == Ok(leader) && *pid != terraform);
        all.retain(|pid| !is_of_the_provisioner(*pid));
        assert!(all.len() >= 2, "wrapper and stand-in: {all:?}");
        for pid in [running.pid()].into_iter().chain(all).chain([terraform]) {
            let _gone_meanwhile = kill(pid, Signal::SIGTERM);
            pause(ROUND);
        }
        end(&mut running);
        expect_one(&running.scene, &key, if ci { "in CI" } else { wrapper });
    }
}

/// Nor does it matter how slow that is, as long as the guardian hears of it in time.
#[test]
fn a_slow_stop_to_one_after_the_other_is_one() {
    let nested = [&["run", "--", env!("CARGO_BIN_EXE_tfwrap")][..], &APPLY].concat();
    // Below another tfwrap, its stand-in comes between.
    for (words, step) in [(&APPLY[..], ROUND * 2), (&nested, ROUND * 3 / 2)] {
        let Stage { scene, key, _slow } = stage(None);
        let mut running = scene.command(words).start().ready();
        let mut all: Vec<_> = below(running.pid()).into_iter().map(|(pid, _)| pid).collect();
        all.retain(|pid| !is_of_the_provisioner(*pid));
        all.sort();
        for pid in [running.pid()].into_iter().chain(all) {
            let _gone_meanwhile = kill(pid, Signal::SIGTERM);
            pause(step);
        }
        end(&mut running);
        expect_one(&running.scene, &key, &words.join(" "));
    }
}

/// A script that catches the stop and goes on: its Terraform had it from whoever signals all, and so
/// the next one is not started, however long after that.
#[test]
fn after_a_stop_to_one_after_the_other_nothing_more_is_started_below_a_run() {
    let text = "#!/bin/bash\ntrap : INT TERM HUP\nfor n in 1 2 3; do\n\
                terraform apply -auto-approve -no-color; echo $? >> codes; sleep 1\ndone\n";
    let Stage { scene, key, _slow } = stage(None);
    script(&scene, "deploy", text);
    let mut running = scene.command(&["run", "--", "./deploy"]).start().ready();
    // The script's group, and that of its Terraform.
    let receipts = Receipt::all(&running.scene.path(STATE_DIR));
    let groups: Vec<_> = receipts.iter().filter_map(Receipt::child).collect();
    assert_eq!(groups.len(), 2, "{receipts:?}");
    let mut all = others_of(getsid(groups.first().copied()).expect("it is there"));
    let is_below = |pid| getpgid(Some(pid)).is_ok_and(|group| groups.contains(&group));
    all.retain(|pid| is_below(*pid) && !is_of_the_provisioner(*pid));
    for pid in all.into_iter().rev().chain([running.pid()]) {
        let _gone_meanwhile = kill(pid, Signal::SIGTERM);
    }
    end(&mut running);
    let codes = fs::read_to_string(running.scene.path("codes")).unwrap_or_default();
    assert!(codes.ends_with("130\n130\n"), "{codes}: {}", running.stderr());
    expect_one(&running.scene, &key, "a script that catches it");
}

/// It may end by itself before the stop is decided on.
#[test]
fn after_a_stop_that_came_while_one_worked_nothing_more_is_started() {
    let scene = Scene::new(LOGS_ALL).command(&["run", "--", "./deploy"]);
    let text = "#!/bin/bash\ntrap : INT\nterraform apply; echo $? >> codes\n\
                until [ -e go ]; do sleep 0.05; done\nterraform apply; echo $? >> codes\n";
    script(&scene, "deploy", text);
    let mut running = scene.start().ready();
    let child = running.scene.pid_in("ready");
    running.signal(Signal::SIGTERM);
    // A stop that finds nothing at work says nothing of what comes next.
    let state_dir = running.scene.path(STATE_DIR);
    wait_until("the stop to be noted", || {
        let is_noted = |receipt: &Receipt| receipt.text["is_stopping"] == true;
        Receipt::all(&state_dir).iter().any(is_noted).then_some(())
    });
    kill(child, Signal::SIGUSR1).expect("it is there");
    pause(SILENCE);
    fs::write(running.scene.path("go"), "").expect("a file");
    end(&mut running);
    let codes = fs::read_to_string(running.scene.path("codes")).unwrap_or_default();
    assert_eq!(codes, "5\n130\n", "{}", running.stderr());
    running.scene.expect_free();
}

/// Its cleanup comes first. Its tfwrap had the same stop, and has made an INT of it long since.
#[test]
fn what_a_script_passes_on_late_under_the_name_that_came_is_the_same_stop() {
    let text = "#!/bin/bash\nterraform apply & p=$!\ntrap 'sleep 2; kill -TERM $p; echo > passed' TERM\n\
                echo ready $$ > up\nwait $p; wait $p\n";
    let scene = Scene::new(LOGS_ALL).command(&["run", "--", "./deploy"]);
    script(&scene, "deploy", text);
    let mut running = scene.start().ready();
    let child = running.scene.pid_in("ready");
    running.signal(Signal::SIGTERM);
    kill(running.scene.pid_in("up"), Signal::SIGTERM).expect("it is there");
    running.scene.wait_for("passed");
    pause(SILENCE);
    assert_eq!(running.scene.count("SIGINT"), 1, "{}", running.stderr());
    kill(child, Signal::SIGUSR1).expect("it is there");
    end(&mut running);
    running.scene.expect_free();
}

/// The first one came to the script alone, which answers with these.
#[test]
fn after_a_later_stop_that_met_one_nothing_more_is_started() {
    let text = "#!/bin/bash\ntrap 'touch heard' INT\necho ready $$ > up\n\
                until [ -e heard ]; do sleep 0.05; done\n\
                terraform apply; echo $? >> codes\nuntil [ -e go ]; do sleep 0.05; done\n\
                terraform apply; echo $? >> codes\n";
    for (second, hears, to_group) in [
        ("hold", true, false),
        ("hold", false, false),
        ("forward", true, false),
        ("forward", false, false),
        ("forward", true, true),
    ] {
        let scene = Scene::new(LOGS_ALL).options(&["--second-signal", second]);
        let scene = scene.command(&["run", "--", "./deploy"]);
        script(&scene, "deploy", text);
        let mut running = scene.start();
        let deploy = running.scene.pid_in("up");
        running.signal(Signal::SIGTERM);
        let child = running.scene.pid_in("ready");
        // At once it would be the same stop.
        pause(ECHO);
        if to_group {
            killpg(deploy, Signal::SIGINT).expect("its group is there");
        } else {
            running.signal(Signal::SIGTERM);
        }
        let go = || fs::write(running.scene.path("go"), "").expect("a file");
        if hears {
            running.scene.wait_for_log("SIGINT 1");
            go();
        }
        kill(child, Signal::SIGUSR1).expect("it is there");
        if !hears {
            pause(SILENCE);
            go();
        }
        end(&mut running);
        let codes = fs::read_to_string(running.scene.path("codes")).unwrap_or_default();
        let case = format!("{second} {hears} {to_group}");
        assert_eq!(codes, "5\n130\n", "{case}: {}", running.stderr());
        running.scene.expect_free();
    }
}

/// A script that answers a stop to all with a Terraform, though there was none when it came.
#[test]
fn after_a_stop_that_came_to_the_script_too_nothing_is_started() {
    let text = "#!/bin/bash\ntrap : TERM\necho ready $$ > up\n\
                until [ -e go ]; do sleep 0.05; done\nterraform apply; echo $? >> codes\n";
    let scene = Scene::new(LOGS_ALL).command(&["run", "--", "./deploy"]);
    script(&scene, "deploy", text);
    let mut running = scene.start();
    let deploy = running.scene.pid_in("up");
    let stand_in = wait_until("the stand-in", || stand_in(running.pid(), deploy));
    kill(deploy, Signal::SIGTERM).expect("it is there");
    tell(stand_in, Signal::SIGTERM);
    running.signal(Signal::SIGTERM);
    pause(SILENCE);
    fs::write(running.scene.path("go"), "").expect("a file");
    end(&mut running);
    let codes = fs::read_to_string(running.scene.path("codes")).unwrap_or_default();
    assert_eq!(codes, "130\n", "{}", running.stderr());
    running.scene.expect_free();
}

/// Terraform waits for that one, and it would end Terraform with an error.
pub(super) fn is_of_the_provisioner(pid: Pid) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).contains("sleep")
}

/// A shell that has made a job of its Terraform takes the terminal back when that has ended, though something
/// of the job lives on: nobody else would give it to the shell, whose `stty` would stop it for ever.
#[test]
fn ctrl_c_through_a_shell_that_makes_a_job_of_its_terraform_ends_it() {
    let job = "#!/bin/bash\nset -m\n\"$REAL\" \"$@\" &\nfg %1 > /dev/null\n";
    for ci in [true, false] {
        let Stage { scene, key, _slow } = stage(Some(job));
        let main = fs::read_to_string(scene.path("main.tf")).expect("it is there");
        let left = "(trap '' INT; exec sleep 9) > /dev/null 2>&1 & echo ready";
        fs::write(scene.path("main.tf"), main.replace("echo ready", left)).expect("a file");
        let scene = scene.command(&APPLY);
        let scene = if ci { scene.in_ci() } else { scene };
        // By its stderr the shell finds it.
        let mut terminal = to_its_terminal(&scene, "");
        scene.wait_for("ready");
        let receipt = Receipt::of(&scene);
        let runner = (receipt.runner(), born(receipt.runner()));
        terminal.send_control('c').expect("the terminal takes it");
        wait_for_end("the end of tfwrap", runner.0, runner.1.as_ref());
        let said = fs::read_to_string(scene.path("stdout")).expect("what Terraform said");
        assert_eq!(said.matches("Interrupt received").count(), 1, "{said}");
        expect_saved(&key, &said);
    }
}

/// A stop that came to the first Terraform is none for the second, which a script starts since it goes on.
/// What comes to tfwrap seconds later is for that one, though the stand-in has told of one that was not ours.
#[test]
fn a_stop_after_one_that_only_the_scripts_group_had_is_for_the_terraform_of_now() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let scene = Scene::of_program("terraform").in_ci().command(&["run", "--", "./deploy"]);
        let resources = ["first", "second"].map(|name| {
            let does = format!("echo {name} $$ > {name}; sleep 60");
            format!(
                "resource \"terraform_data\" \"{name}\" {{\n  provisioner \"local-exec\" \
                 {{ command = \"{does}\" }}\n}}\n"
            )
        });
        fs::write(scene.path("main.tf"), resources.concat()).expect("a file");
        let init = ["init", "-no-color"];
        harness::run(servers::terraform(&scene.path(".")).args(init)).expect_code(0);
        let apply = "terraform apply -auto-approve -no-color -target=terraform_data";
        script(
            &scene,
            "deploy",
            &format!("#!/bin/bash\necho ready $$ > script\n{apply}.first\n{apply}.second\n"),
        );
        let mut running = scene.start();
        running.scene.wait_for("first");
        let group = getpgid(Some(running.scene.pid_in("script"))).expect("it is there");
        nix::sys::signal::killpg(group, Signal::SIGINT).expect("it is there");
        running.scene.wait_for("second");
        // No echo of the first.
        pause(Duration::from_millis(1200));
        running.signal(signal);
        let code = end(&mut running);
        assert!(matches!(code, Some(1 | 130 | 143)), "{code:?}: {}", running.stderr());
        let said = fs::read_to_string(running.scene.path("stdout")).expect("it is there");
        assert_eq!(said.matches("Interrupt received").count(), 2, "one for each: {said}");
        assert_eq!(said.matches("Two interrupts").count(), 0, "{said}");
        running.scene.expect_free();
    }
}

/// Nor has a Terraform had it that stands in another group, or that starts while the stop is on its way.
#[test]
fn a_stop_to_the_scripts_group_is_none_for_a_terraform_elsewhere() {
    let apply = "terraform apply -auto-approve -no-color";
    for (shape, text) in [
        ("another session", format!("trap : TERM\nsetsid -w {apply}\n")),
        ("a job of its own", format!("trap : TERM\nset -m\n{apply}\n")),
    ] {
        let scene = Scene::of_program("terraform").in_ci().command(&["run", "--", "./deploy"]);
        let resource = "resource \"terraform_data\" \"a\" {\n  provisioner \"local-exec\" \
             { command = \"echo work $$ > work; sleep 60\" }\n}\n";
        fs::write(scene.path("main.tf"), resource).expect("a file");
        let init = ["init", "-no-color"];
        harness::run(servers::terraform(&scene.path(".")).args(init)).expect_code(0);
        script(&scene, "deploy", &format!("#!/bin/bash\necho ready $$ > script\n{text}"));
        let mut running = scene.start();
        running.scene.wait_for("work");
        let group = getpgid(Some(running.scene.pid_in("script"))).expect("it is there");
        nix::sys::signal::killpg(group, Signal::SIGTERM).expect("it is there");
        pause(Duration::from_millis(1200));
        running.signal(Signal::SIGTERM);
        end(&mut running);
        let said = fs::read_to_string(running.scene.path("stdout")).expect("it is there");
        assert_eq!(said.matches("Interrupt received").count(), 1, "{shape}: {said}");
        assert_eq!(said.matches("Two interrupts").count(), 0, "{shape}: {said}");
        running.scene.expect_free();
    }
}
