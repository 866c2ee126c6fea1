//! Plans without the lock and runs that are stopped or killed.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use serde_json::Value;

use super::{Held, Scene, apply, applying, events, expect_undisturbed, half_an_apply, with};
use crate::faults;
use crate::pty::Shell;
use crate::support::harness::{Gate, Running, pause, program, quoted, real_terraform, run, s3_dir};
use crate::support::proxy::{Fault, Rule};
use crate::support::servers::{dynamodb, local_backend_dir, terraform};

/// Whatever it is at: nothing is planned after a stop.
#[test]
fn a_stop_ends_it_and_nothing_is_planned_again() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    let gate = Gate::new(dir.path(), "held");
    let writer = applying(scene.tfwrap(), 2, &gate);
    let waiting = Running::start(&mut scene.plan(2));
    waiting.says("\"event\":\"waiting\"");
    waiting.signal(Signal::SIGTERM);
    assert_eq!(waiting.finish().expect_code(143).stdout, "");
    gate.open();
    writer.finish().expect_code(0);

    let gate = Gate::new(dir.path(), "planning");
    let planning = scene.planning(Held::Before(&gate), 3, &[]);
    // Without the stop, it would be planned again.
    run(&mut apply(scene.tfwrap(), 3, "true")).expect_code(0);
    planning.signal(Signal::SIGINT);
    let stopped = planning.finish();
    assert_ne!(stopped.status.code(), Some(0), "{}", stopped.stderr);
    assert_eq!(events(&stopped, "replanned"), Vec::<Value>::new(), "{}", stopped.stderr);
    assert_eq!(scene.plans(), 1, "{}", stopped.stderr);
}

/// A wrapper may let Terraform come to its end: nobody looks after a stop whether its plan is of one moment.
#[test]
fn a_plan_that_ends_well_after_a_stop_is_dropped() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    let gate = Gate::new(dir.path(), "planned");
    let path = scene.held_up(Held::After(&gate));
    let deaf = dir.path().join("deaf/terraform");
    program(&deaf, &format!("#!/bin/sh\ntrap '' INT TERM\nexec {} \"$@\"\n", quoted(&path)));
    let mut command = scene.plan(2);
    command.args(["-out", "p"]).env("TFWRAP_TERRAFORM", deaf);
    let plan = Running::start(&mut command);
    gate.reached();
    plan.signal(Signal::SIGTERM);
    plan.says("SIGINT sent to");
    gate.open();
    let plan = plan.finish().expect_code(143);
    assert_eq!(plan.stdout, "");
    assert!(!dir.path().join("p").exists(), "nobody knows what it is a plan of");
    assert!(plan.stderr.contains("interrupted by SIGTERM: the plan is dropped"), "{}", plan.stderr);
    assert!(!plan.stderr.contains("the lock is released"), "it had none: {}", plan.stderr);
}

/// What there is of a plan that nobody looked at afterwards: neither what Terraform says of it nor its
/// file is left, and both are said to be dropped.
#[test]
fn what_there_is_of_a_plan_that_was_stopped_or_of_another_state_is_dropped() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    run(terraform(dir.path()).args(["workspace", "new", "other"])).expect_code(0);
    run(terraform(dir.path()).args(["workspace", "select", "default"])).expect_code(0);
    let gate = Gate::new(dir.path(), "planning");
    let real = quoted(&real_terraform());
    let gate_shell = shell_words::quote(&gate.command()).into_owned();
    for (what, code, rest) in [
        ("stopped", 1, format!("trap 'exit 1' INT\nsh -c {gate_shell} &\nwait $!")),
        ("elsewhere", 76, format!("{real} workspace select other > /dev/null")),
    ] {
        let path = dir.path().join(what).join("terraform");
        let begin = format!("case \"$*\" in *plan*) ;; *) exec {real} \"$@\";; esac");
        program(&path, &format!("#!/bin/sh\n{begin}\necho half a plan\necho new > p\n{rest}\n"));
        let optimistic = |command: &mut Command| {
            std::fs::write(dir.path().join("p"), "of before").unwrap();
            Running::start(command.args(["-out", "p"]).env("TFWRAP_TERRAFORM", &path))
        };
        let plan = optimistic(&mut scene.plan(2));
        if what == "stopped" {
            gate.reached();
            plan.signal(Signal::SIGTERM);
        }
        let plan = plan.finish().expect_code(code);
        assert_eq!(plan.stdout, "", "{what}");
        assert!(!dir.path().join("p").exists(), "{what}");
        let said = "Terraform's output and the plan `";
        assert!(
            plan.stderr.contains(said) && plan.stderr.contains("` are dropped"),
            "{}",
            plan.stderr
        );
        if what == "elsewhere" {
            // Under the lock it is the user's.
            run(terraform(dir.path()).args(["workspace", "select", "default"])).expect_code(0);
            let plan = optimistic(&mut with(scene.tfwrap(), &["plan"], 2)).finish().expect_code(76);
            assert_eq!(plan.stdout, "half a plan\n");
            assert!(
                plan.stderr.contains("saved may be of either one: do not apply it"),
                "{plan:?}"
            );
        }
    }
    gate.open();
}

/// A reader that is gone, or a disk that is full, is Terraform's to mind, which does not.
#[test]
fn a_plan_that_cannot_be_passed_on_has_terraforms_exit_code() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    let plan = scene.plan(2);
    let mut full = Command::new("sh");
    full.args(["-c", "exec \"$0\" \"$@\" > /dev/full"]).arg(plan.get_program());
    full.args(plan.get_args()).current_dir(dir.path());
    full.envs(plan.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = run(&mut full).expect_code(2);
    assert!(done.stderr.contains("cannot be written to stdout: No space left"), "{}", done.stderr);
}

/// As bare Terraform waits for a reader that is slow, whoever has made stdout non-blocking.
#[test]
fn all_of_a_plan_comes_through_a_stdout_that_does_not_block() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    let path = dir.path().join("long/terraform");
    let real = quoted(&real_terraform());
    let text = format!("case \"$*\" in *plan*) exec seq 60000;; esac\nexec {real} \"$@\"\n");
    program(&path, &format!("#!/bin/sh\n{text}"));
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).expect("a pipe");
    let mut plan = scene.plan(2);
    plan.env("TFWRAP_TERRAFORM", path).stdout(writer).stderr(Stdio::null());
    let mut running = plan.spawn().expect("it starts");
    // With it goes our end for writing.
    drop(plan);
    let (mut reader, mut said) = (File::from(reader), Vec::new());
    loop {
        pause(Duration::from_millis(5));
        let mut some = [0; 4096];
        match reader.read(&mut some) {
            Ok(0) => break,
            Ok(length) => said.extend_from_slice(&some[..length]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert_eq!(running.wait().expect("it ends").code(), Some(0));
    assert!(said.ends_with(b"\n60000\n") && said.len() > 300_000, "{}", said.len());
}

/// A key that only the child's own group gets is a stop, too.
#[test]
fn after_a_key_on_a_terminal_nothing_is_planned_again() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    let gate = Gate::new(dir.path(), "planning");
    let path = scene.held_up(Held::Before(&gate));
    // As Terraform ends.
    let graceful = dir.path().join("graceful/terraform");
    let text = format!("#!/bin/sh\ntrap 'exit 1' INT\n{} \"$@\"\n", quoted(&path));
    program(&graceful, &text);
    let mut shell = Shell::start();
    shell.send(&scene.typed(&graceful, "plan -no-color"));
    gate.reached();
    // Without the stop, it would be planned again.
    run(&mut apply(scene.tfwrap(), 3, "true")).expect_code(0);
    shell.key('c');
    let said = shell.prompt();
    assert_eq!(shell.code(), 1, "{said}");
    assert_eq!(scene.plans(), 1, "{said}");
}

/// Its lease ends, and only who waits for the lock may take it over.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_dead_is_not_waited_for_to_the_end() {
    let stage = s3_dir("optimistic-dead").await;
    let scene = Scene::new(stage.path());
    let info = r#"{"ID":"7-dead","Operation":"OperationTypeApply","Info":"","Who":"ci@gone","Version":"1.11.4","Created":"2026-01-02T03:04:05Z","Path":""}"#;
    let lease = r#"{"beat":3,"ttl":15000}"#;
    let texts = [("Info", info), ("Tfwrap", lease)];
    dynamodb().put_texts(&stage.table, &stage.lock_id(), &texts).await;
    let plan = run(&mut scene.plan_with(&["-v", "--lock-timeout=90s"], 2)).expect_code(2);
    assert!(plan.stderr.contains("shows no sign of life"), "{}", plan.stderr);
    assert_eq!(events(&plan, "acquired").len(), 1, "{}", plan.stderr);
}

/// The time it is ready to wait counts for both tries, and what was planned in vain is not left.
#[test]
fn a_second_try_that_does_not_get_the_lock_leaves_no_plan() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    let gates = ["planned", "held"].map(|name| Gate::new(dir.path(), name));
    let path = scene.held_up(Held::After(&gates[0]));
    let mut command = scene.plan_with(&["--lock-timeout=1s"], 2);
    command.args(["-out", "p"]).env("TFWRAP_TERRAFORM", path);
    let plan = Running::start(&mut command);
    gates[0].reached();
    assert!(dir.path().join("p").exists());
    let apply = applying(scene.tfwrap(), 2, &gates[1]);
    gates[0].open();
    let plan = plan.finish().expect_code(75);
    assert_eq!((plan.stdout.as_str(), events(&plan, "replanned").len()), ("", 1));
    assert!(!dir.path().join("p").exists(), "it may be of half an apply");
    gates[1].open();
    apply.finish().expect_code(0);
}

/// Its lock stays, so the plan waits for whoever clears that up.
#[tokio::test(flavor = "multi_thread")]
async fn an_apply_that_is_killed_with_its_lock_is_waited_for_until_that_is_removed() {
    let stage = s3_dir("optimistic-killed").await;
    let scene = Scene::new(stage.path());
    let gate = Gate::new(stage.path(), "killed");
    let apply = applying(terraform(stage.path()), 2, &gate);
    apply.signal(Signal::SIGKILL);
    gate.open();
    apply.finish();
    let plan = run(&mut scene.plan_with(&["--lock-timeout=1s"], 2)).expect_code(75);
    let error = &events(&plan, "error")[0];
    let hint = error["hint"].as_str().unwrap();
    let command = hint.split("dead: ").nth(1).expect("a command");
    assert!(command.starts_with("tfwrap unlock "), "{hint}");
    let id = command.rsplit(' ').next().unwrap().trim_matches('\'');
    run(terraform(stage.path()).args(["force-unlock", "-force", id])).expect_code(0);
    let plan = run(&mut scene.plan(2)).expect_code(2);
    expect_undisturbed(&plan);
}

/// The kernel ends its lock, and what it has written is what there is.
#[test]
fn what_a_killed_apply_has_written_is_the_state() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    let gate = Gate::new(dir.path(), "killed");
    let apply = applying(terraform(dir.path()), 2, &gate);
    apply.signal(Signal::SIGKILL);
    gate.open();
    apply.finish();
    let plan = run(&mut scene.plan(2)).expect_code(2);
    expect_undisturbed(&plan);
    assert!(plan.stdout.contains("Plan: 1 to add, 0 to change"), "{}", plan.stdout);
}

/// Its guardian keeps the lock until its Terraform is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_tfwrap_that_is_killed_is_waited_for_until_its_terraform_is_gone() {
    let stage = s3_dir("optimistic-guardian").await;
    let scene = Scene::new(stage.path());
    let gate = Gate::new(stage.path(), "killed");
    let ignoring = format!("trap '' INT; {}", gate.command());
    let writer = Running::start(&mut apply(scene.tfwrap(), 2, &ignoring));
    gate.reached();
    writer.signal(Signal::SIGKILL);
    let plan = Running::start(&mut scene.plan(2));
    plan.says("\"event\":\"waiting\"");
    gate.open();
    let plan = plan.finish();
    assert!(matches!(plan.status.code(), Some(0 | 2)), "{}", plan.stderr);
    assert_eq!(events(&plan, "replanned"), Vec::<Value>::new(), "{}", plan.stderr);
}

/// An apply that is killed after it has written half: the state is no more the one that was planned.
#[test]
fn an_apply_that_is_killed_in_the_middle_is_planned_after() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    let gates = ["planned", "killed"].map(|name| Gate::new(dir.path(), name));
    let plan = scene.planning(Held::After(&gates[0]), 2, &[]);
    let apply = applying(terraform(dir.path()), 2, &gates[1]);
    apply.signal(Signal::SIGKILL);
    gates[1].open();
    apply.finish();
    gates[0].open();
    let plan = plan.finish().expect_code(2);
    assert_eq!(events(&plan, "replanned").len(), 1, "{}", plan.stderr);
    assert!(plan.stdout.contains("Plan: 1 to add, 0 to change"), "{}", plan.stdout);
}

/// What is said on stderr and in words.
#[test]
fn it_says_whose_doing_it_is() {
    let dir = local_backend_dir();
    let plan = half_an_apply(dir.path(), "").expect_code(0);
    let message = events(&plan, "replanned")[0]["message"].to_string();
    let who = format!("was taken: it is held by {} for apply", tfwrap::identity::who());
    assert!(message.contains(&who), "{message}");
}

/// Whoever may take the lock need not be allowed to look at it.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_second_look_that_is_denied_it_is_planned_again() {
    let stage = faults::Stage::initialised("optimistic/denied-again").await;
    let scene = Scene::new(stage.path());
    stage.proxy.plan([stage.on("GetItem", Fault::DENIED).after(1).times(1)]);
    let done = run(scene.plan(2).args(["-out", "p"])).expect_code(2);
    let said = events(&done, "replanned")[0]["message"].to_string();
    assert!(said.contains("cannot be looked at: access denied"), "{said}");
    assert_eq!(events(&done, "acquired").len(), 1, "{}", done.stderr);
    assert_eq!(done.stdout.matches("Plan: ").count(), 1, "{}", done.stdout);
    run(scene.tfwrap().args(["apply", "-no-color", "p"])).expect_code(0);
}

/// What is worth nothing is not left for as long as it is asked whose doing that was.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_worth_nothing_is_removed_first() {
    let stage = faults::Stage::initialised("optimistic/first").await;
    let scene = Scene::new(stage.path());
    let gate = Gate::new(stage.path(), "planned");
    let mut command = scene.plan(3);
    command.args(["-out", "p"]).env("TFWRAP_TERRAFORM", scene.held_up(Held::After(&gate)));
    let plan = Running::start(&mut command);
    gate.reached();
    run(&mut apply(scene.tfwrap(), 3, "true")).expect_code(0);
    assert_eq!(plan.stdout(), "");
    let key = format!("{}.tfwrap/history", stage.lock_id());
    let rule = Rule::on("GetItem", Fault::Hold).key(&key).times(1);
    stage.proxy.plan([rule]);
    let reads = stage.proxy.count_of("GetItem", &key);
    assert!(stage.path().join("p").exists());
    gate.open();
    stage.proxy.arrived(&format!("GetItem {key}"), reads + 1).await;
    assert!(!stage.path().join("p").exists(), "it may be of half an apply");
    stage.proxy.release();
    plan.finish().expect_code(0);
}

/// What nobody could look at afterwards is no plan.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_look_that_cannot_be_had_fails_the_run() {
    let stage = faults::Stage::initialised("optimistic/denied").await;
    let scene = Scene::new(stage.path());
    stage.proxy.plan([stage.on("GetItem", Fault::SERVER_ERROR).after(1)]);
    let done = run(scene.plan(2).args(["-out", "p"])).expect_code(69);
    assert!(done.stderr.contains("Terraform has planned, but"), "{}", done.stderr);
    assert!(done.stderr.contains("the plan is dropped"), "{}", done.stderr);
    assert_eq!((done.stdout.as_str(), events(&done, "error").len()), ("", 1), "{}", done.stderr);
    assert!(!stage.path().join("p").exists(), "nobody knows what it is a plan of");
}

/// Whoever watches it sees it grow.
#[test]
fn on_a_terminal_it_is_shown_as_it_comes() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    let gate = Gate::new(dir.path(), "planned");
    let mut shell = Shell::start();
    shell.send(&scene.typed(&scene.held_up(Held::After(&gate)), "plan -no-color"));
    shell.sees("No changes.");
    // The look is yet to come.
    gate.reached();
    gate.open();
    shell.prompt();
    assert_eq!(shell.code(), 0);
}
