//! What cannot be planned without the lock is planned under it, and `-v` says why.

use std::process::Command;

use serde_json::Value;

use super::{RESOURCES, Scene, events, expect_undisturbed};
use crate::faults;
use crate::pty::Shell;
use crate::support::harness::{real_terraform, run, s3_dir, wrapper};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::s3_server::{Manners, start};
use crate::support::servers::{
    BUCKET, dir_of_s3_backend, dynamodb, local_backend_dir, s3, terraform,
};

#[track_caller]
fn is_under_the_lock(command: &mut Command, code: i32, why: &str) {
    let done = run(command).expect_code(code);
    let details = events(&done, "detail");
    let is_said = details.iter().any(|it| {
        let message = it["message"].as_str().unwrap();
        message.starts_with("planning under the lock: ") && message.contains(why)
    });
    assert!(is_said, "{why}: {}", done.stderr);
    assert!(!events(&done, "acquired").is_empty(), "{}", done.stderr);
}

#[test]
fn where_there_is_no_state_yet() {
    let dir = local_backend_dir();
    std::fs::write(dir.path().join("main.tf"), RESOURCES).unwrap();
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    let scene = Scene { dir: dir.path() };
    is_under_the_lock(&mut scene.plan_with(&["-v"], 1), 2, "has no version");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_store_of_the_state_names_no_versions() {
    let server = start(Manners::NoVersions);
    dynamodb().create_lock_table("optimistic-unversioned").await;
    let lines = format!(
        "dynamodb_table = \"optimistic-unversioned\"\n    endpoints = {{ s3 = \"{}\", dynamodb = \"{}\" }}",
        server.url,
        dynamodb().url
    );
    let dir = dir_of_s3_backend("optimistic/unversioned/terraform.tfstate", &lines);
    let scene = Scene::new(dir.path());
    is_under_the_lock(&mut scene.plan_with(&["-v"], 2), 2, "has no version");
}

/// Whoever may take the lock need not be allowed to look at it.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_lock_or_the_state_may_not_be_looked_at() {
    let stage = faults::Stage::initialised("optimistic/unread").await;
    let scene = Scene::new(stage.path());
    stage.plan(&[("GetItem", Fault::DENIED, 1)]);
    is_under_the_lock(&mut scene.plan_with(&["-v"], 1), 0, "access denied");

    let proxy = Proxy::before(&s3().url);
    stage.edit_backend(&s3().url, proxy.url());
    run(terraform(stage.path()).args(["init", "-no-color", "-reconfigure"])).expect_code(0);
    let path = format!("/{BUCKET}/{}", stage.key);
    proxy.plan([Rule::on("GET", Fault::Status(403, "AccessDenied")).key(&path).times(1)]);
    is_under_the_lock(&mut scene.plan_with(&["-v"], 1), 0, "s3:GetObject");
}

/// A second try would read or write something else than the first.
#[test]
fn where_terraform_can_do_it_only_once() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    let lock = format!("--lock=file://{}", dir.path().join("further").display());
    is_under_the_lock(&mut scene.plan_with(&["-v", &lock], 1), 0, "`--lock` names further locks");
    let mut generating = scene.plan_with(&["-v"], 1);
    is_under_the_lock(generating.arg("-generate-config-out=new.tf"), 0, "`-generate-config-out`");
    // Who removes it under one name leaves it under the other.
    std::fs::write(dir.path().join("one"), "").unwrap();
    std::fs::hard_link(dir.path().join("one"), dir.path().join("other")).unwrap();
    is_under_the_lock(scene.plan_with(&["-v"], 1).args(["-out", "one"]), 0, "of one name");
    // Such as a shell makes of `<(…)`.
    let pipe = dir.path().join("secrets.tfvars");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut reading = scene.plan_with(&["-v"], 1);
    reading.arg("-var-file=secrets.tfvars");
    let writer = std::thread::spawn(move || std::fs::write(pipe, "command = \"false\"\n"));
    is_under_the_lock(&mut reading, 0, "cannot be read twice");
    writer.join().unwrap().unwrap();
}

/// All that Terraform says is passed on, also what it writes to another opening of the same file.
#[test]
fn nothing_that_terraform_says_is_lost() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    let mut command = scene.plan(2);
    command.env("TF_LOG", "info").env("TF_LOG_PATH", "/dev/stdout");
    let done = run(&mut command).expect_code(2);
    expect_undisturbed(&done);
    for words in ["[INFO]  Terraform version: ", "[INFO]  backend/local: starting Plan", "Plan: "] {
        assert!(done.stdout.contains(words), "{words}: {}", done.stdout);
    }

    let program = scene.plan_with(&["-v"], 2);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 100000; exec \"$@\"", "sh"]).arg(program.get_program());
    limited.args(program.get_args()).current_dir(dir.path());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    is_under_the_lock(&mut limited, 2, "the size of files is limited");
}

/// They have one already, or write.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_below_a_run_or_does_not_plan_is_as_ever() {
    let stage = s3_dir("optimistic-below").await;
    let scene = Scene::new(stage.path());
    let program = wrapper();
    let mut around = scene.tfwrap();
    around.args(["--plan-lock", "optimistic", "--log-format", "json", "run", "--"]);
    around.arg(program).args(["--log-format", "json", "plan", "-detailed-exitcode", "-no-color"]);
    let below = run(&mut around).expect_code(0);
    assert_eq!(events(&below, "acquired").len(), 1, "{}", below.stderr);
    let mut refresh = scene.tfwrap();
    refresh.args(["--plan-lock", "optimistic", "--log-format", "json", "refresh", "-no-color"]);
    assert_eq!(events(&run(&mut refresh).expect_code(0), "acquired").len(), 1);
    // By the environment, and with the lock in the way of nobody who plans.
    let mut by_variable = scene.tfwrap();
    by_variable.env("TFWRAP_PLAN_LOCK", "optimistic").args(["--log-format", "json"]);
    by_variable.args(["plan", "-detailed-exitcode", "-no-color"]);
    expect_undisturbed(&run(&mut by_variable).expect_code(0));
    std::fs::write(stage.path().join(".tfwrap.yaml"), "plan-lock: optimistic\n").unwrap();
    let mut by_file = scene.tfwrap();
    by_file.args(["--log-format", "json", "plan", "-detailed-exitcode", "-no-color"]);
    expect_undisturbed(&run(&mut by_file).expect_code(0));
    let mut typed = scene.tfwrap();
    typed.args(["--plan-lock", "exclusive", "--log-format", "json", "plan", "-no-color"]);
    let typed = run(&mut typed).expect_code(0);
    assert_eq!(events(&typed, "acquired").len(), 1, "{}", typed.stderr);
    let mut wrong = scene.tfwrap();
    let wrong = run(wrong.args(["--plan-lock", "shared", "plan"])).expect_code(64);
    assert!(wrong.stderr.contains("exclusive") && wrong.stderr.contains("optimistic"), "{wrong:?}");
    assert_eq!(events(&typed, "replanned"), Vec::<Value>::new());
}

/// What Terraform asks for must be seen, and what it is told is there once.
#[test]
fn where_terraform_may_ask_for_what_one_try_alone_can_read() {
    let dir = local_backend_dir();
    let scene = Scene::new(dir.path());
    std::fs::write(dir.path().join("answers"), "5\n").unwrap();
    let mut command = scene.plan_with(&["-v"], 1);
    command.env_remove("TF_INPUT").stdin(std::fs::File::open(dir.path().join("answers")).unwrap());
    let said = command.output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("what stdin has for Terraform can be read only once"), "{said}");

    let with_stdin = |open: bool, more: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        let writer = Some(writer).filter(|_| open);
        let mut command = scene.plan_with(&["-v"], 1);
        let done = command.env_remove("TF_INPUT").args(more).stdin(reader).output().unwrap();
        drop(writer);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(0), "{said}");
        said.contains("stdin is open and may still have something")
    };
    assert!(with_stdin(true, &[]));
    assert!(!with_stdin(true, &["-input=false"]));
    assert!(!with_stdin(false, &[]), "it is at its end");

    let mut shell = Shell::start();
    for (call, asks) in
        [("-v plan -no-color | cat", true), ("-v plan -no-color -input=false | cat", false)]
    {
        shell.send(&scene.typed(&real_terraform(), call));
        let said = shell.prompt();
        assert_eq!(said.contains("which nobody would see"), asks, "{call}: {said}");
    }
}
