//! A program in Terraform's place that leads it to another state than the one that tfwrap has locked.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::changes::with_workspaces;
use crate::seeded::seeded;
use crate::support::harness::{
    Finished, applying, program, quoted, real_terraform, run, s3_dir, tfwrap, wrapper,
};
use crate::support::servers::{RESOURCE, clean, local_backend_dir};

/// Directories with two states of their own each, one below the other, and a data directory that selects the
/// second one.
fn directories(source: &Path) -> TempDir {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("a");
    run(Command::new("cp").arg("-a").arg(source).arg(&dir)).expect_code(0);
    with_workspaces(&dir, &["w"]);
    run(Command::new("cp").arg("-a").args([dir.join(".terraform"), dir.join("other")]))
        .expect_code(0);
    fs::write(dir.join(".terraform/environment"), "default").unwrap();
    fs::create_dir(dir.join("b")).unwrap();
    fs::write(dir.join("b/main.tf"), RESOURCE).unwrap();
    top
}

/// An `apply` in the first of them by this script, `REAL` for Terraform in it, `TFWRAP` for tfwrap, and `TOP`
/// for where they are.
fn apply(top: &Path, script: &str, provisioner: &str) -> Finished {
    apply_by(tfwrap(&top.join("a")), top, script, provisioner)
}

fn apply_by(mut command: Command, top: &Path, script: &str, provisioner: &str) -> Finished {
    let filled_in = |text: &str| {
        text.replace("REAL", &quoted(&real_terraform()))
            .replace("TFWRAP", &quoted(&wrapper()))
            .replace("TOP", &quoted(top))
    };
    let shim = top.join("bin/terraform");
    program(&shim, &format!("#!/bin/sh\n{}\n", filled_in(script)));
    command.env("TFWRAP_TERRAFORM", &shim);
    run(&mut applying(command, &filled_in(provisioner)))
}

const ELSEWHERE: [(&str, &str); 10] = [
    ("TF_WORKSPACE=w exec REAL \"$@\"", "sets `TF_WORKSPACE` before"),
    ("TF_WORKSPACE=w REAL \"$@\"; exit $?", "sets `TF_WORKSPACE` before"),
    ("TF_DATA_DIR=other exec REAL \"$@\"", "sets `TF_DATA_DIR` before"),
    ("TF_CLI_ARGS_apply=-state=x exec REAL \"$@\"", "sets `TF_CLI_ARGS_apply` before"),
    ("exec REAL -chdir=b \"$@\"", "passes another `-chdir` before"),
    ("cd b && exec REAL \"$@\"", "changes directory before"),
    ("exec REAL \"$@\" -state=x", "passes other arguments before"),
    // A program that is looked at, and only then sets it.
    (
        "exec sh -c 'sleep 1; TF_WORKSPACE=w exec \"$@\"' REAL REAL \"$@\"",
        "sets `TF_WORKSPACE` before",
    ),
    ("(TF_WORKSPACE=w setsid REAL \"$@\" &); sleep 1", "sets `TF_WORKSPACE` before"),
    ("for dir in . b; do (cd $dir && REAL \"$@\") || exit; done", "changes directory before"),
];

#[test]
fn what_leads_terraform_to_another_state_is_76() {
    let source = local_backend_dir();
    for (script, how) in ELSEWHERE {
        let top = directories(source.path());
        let done = apply(top.path(), script, "true");
        assert_eq!(done.status.code(), Some(76), "{script}: {}", done.stderr);
        assert!(done.stderr.contains(how), "{script}: {}", done.stderr);
        assert_eq!(done.stderr.matches("warning").count(), 1, "{script}: {}", done.stderr);
    }
}

#[test]
fn what_changes_nothing_about_the_state_is_let() {
    let source = local_backend_dir();
    for (script, provisioner) in [
        ("TF_VAR_x=1 AWS_PROFILE=p exec REAL \"$@\" -compact-warnings", "true"),
        ("cd .. && exec REAL -chdir=a \"$@\"", "true"),
        ("cd b && REAL -chdir=TOP/a \"$@\"; exit $?", "true"),
        ("TF_WORKSPACE=default exec REAL \"$@\"", "true"),
        ("cp -a . ../c; cd ../c; exec REAL \"$@\" -state=../a/terraform.tfstate", "true"),
        // In a sandbox paths mean something else.
        (
            "unshare -Urm true || exec REAL \"$@\"; exec unshare -Urm sh -c \
             'mount --bind TOP/a TOP/a/b && cd TOP/a/b && exec REAL \"$@\"' sh \"$@\"",
            "true",
        ),
        // Calls of its own, of which nobody has said that they should lock.
        ("REAL -chdir=b plan -lock=false >/dev/null; exec REAL \"$@\"", "true"),
        (
            "exec REAL \"$@\"",
            "REAL -chdir=b apply -lock=false -auto-approve -var command=true; sleep 1",
        ),
        (
            "exec REAL \"$@\"",
            "TF_WORKSPACE=w REAL apply -auto-approve -lock=false -var command=true; sleep 1",
        ),
    ] {
        let top = directories(source.path());
        let done = apply(top.path(), script, provisioner);
        assert_eq!(done.status.code(), Some(0), "{script}: {}", done.stderr);
        assert_eq!(done.stderr, "", "{script}");
    }
}

/// A version manager's program passes on what it was given, and may add to that, or become the real one later.
#[test]
fn a_program_of_another_file_is_looked_through() {
    let source = local_backend_dir();
    for (script, code) in [
        ("TF_WORKSPACE=w REAL apply \"$@\"; exit $?", 76),
        ("TF_WORKSPACE=w REAL apply \"$@\" -compact-warnings; exit $?", 76),
        ("sleep 1; export TF_WORKSPACE=w; exec REAL apply \"$@\"", 76),
        ("TF_WORKSPACE=default REAL apply \"$@\"; exit $?", 0),
    ] {
        let top = directories(source.path());
        let manager = top.path().join("bin/terraform");
        fs::create_dir(top.path().join("bin")).unwrap();
        run(Command::new("cp").arg("/bin/sh").arg(&manager)).expect_code(0);
        // A shell takes its first argument for a script.
        let text = script.replace("REAL", &quoted(&real_terraform()));
        fs::write(top.path().join("a/apply"), text).unwrap();
        let mut command = tfwrap(&top.path().join("a"));
        command.env("TFWRAP_TERRAFORM", &manager);
        let done = run(&mut applying(command, "sleep 1"));
        assert_eq!(done.status.code(), Some(code), "{script}: {}", done.stderr);
    }
}

/// What was started to ignore SIGINT, as a script's background job, hears it only after a while.
#[test]
fn a_terraform_that_ignores_an_interrupt_at_its_start_is_ended() {
    let source = local_backend_dir();
    for script in
        ["TF_WORKSPACE=w REAL \"$@\" & wait $!", "trap '' INT; TF_WORKSPACE=w exec REAL \"$@\""]
    {
        let top = directories(source.path());
        let done = apply(top.path(), script, "sleep 3; touch TOP/ran");
        assert_eq!(done.status.code(), Some(76), "{script}: {}", done.stderr);
        assert!(!top.path().join("ran").exists(), "{script}: {}", done.stderr);
    }
}

/// It executes the same file as ours, and its parent has ended, so that it is our child.
#[test]
fn a_terraform_that_a_provisioner_leaves_is_its_own_business() {
    let source = local_backend_dir();
    for leaves in [
        "(cd b; setsid REAL apply -lock=false -auto-approve -no-color -var command=true >/dev/null 2>&1 &)",
        "(TF_WORKSPACE=w REAL apply -auto-approve -lock=false -var command=true >/dev/null 2>&1 &)",
    ] {
        let top = directories(source.path());
        let mut command = tfwrap(&top.path().join("a"));
        let leaves = leaves.replace("REAL", &quoted(&real_terraform()));
        command.env("TFWRAP_TERRAFORM", real_terraform());
        let done = run(&mut applying(command, &format!("{leaves}; sleep 1; true")));
        assert_eq!(done.expect_code(0).stderr, "", "{leaves}");
    }
}

#[tokio::test]
async fn another_item_or_object_is_another_state_whoever_asks() {
    for (name, script, code) in [
        ("led/workspace", "TF_WORKSPACE=w exec REAL \"$@\"", 76),
        ("led/directory", "cd b && exec REAL \"$@\"", 76),
        ("led/role", "AWS_SESSION_TOKEN=other AWS_EC2_METADATA_DISABLED=true exec REAL \"$@\"", 0),
        ("led/region", "AWS_REGION=us-east-1 AWS_ENDPOINT_URL_DYNAMODB= exec REAL \"$@\"", 0),
        ("led/copy", "cp -a . ../c && cd ../c && exec REAL \"$@\"", 0),
    ] {
        let dir = s3_dir(name).await;
        let top = directories(dir.path());
        let done = apply(top.path(), script, "true");
        assert_eq!(done.status.code(), Some(code), "{script}: {}", done.stderr);
    }
}

/// It takes that one's lock as well, and not its own again.
#[test]
fn a_script_that_calls_tfwrap_again_has_the_lock_of_the_state_it_leads_to() {
    let source = local_backend_dir();
    let stock =
        "TF_WORKSPACE=w REAL -chdir=TOP/a plan -no-color -var command=true >TOP/got 2>&1; true";
    for (script, is_locked) in [
        ("TF_WORKSPACE=w exec TFWRAP --terraform REAL \"$@\"", true),
        ("TF_WORKSPACE=w TFWRAP --terraform REAL \"$@\"; exit $?", true),
        ("cd ..; TFWRAP --terraform REAL -chdir=a \"$@\"; exit $?", false),
        ("exec TFWRAP --terraform REAL \"$@\"", false),
    ] {
        let top = directories(source.path());
        let done = apply(top.path(), script, stock);
        assert_eq!(done.status.code(), Some(0), "{script}: {}", done.stderr);
        assert_eq!(done.stderr, "", "{script}");
        let got = fs::read_to_string(top.path().join("got")).unwrap();
        assert_eq!(got.contains("Error acquiring the state lock"), is_locked, "{script}: {got}");
        let state =
            if is_locked { "terraform.tfstate.d/w/terraform.tfstate" } else { "terraform.tfstate" };
        assert!(top.path().join("a").join(state).exists(), "{script}");
    }
}

/// What a script may do before it calls Terraform, much of which leads nowhere else.
fn any_script() -> impl Strategy<Value = String> {
    let one_of = |words: &'static [&'static str]| prop::sample::select(words);
    let variables = one_of(&[
        "",
        "",
        "TF_WORKSPACE=w",
        "TF_WORKSPACE=default",
        "TF_DATA_DIR=other",
        "TF_DATA_DIR=TOP/a/other",
        "TF_DATA_DIR=.terraform",
        "TF_CLI_ARGS_apply=-state=x",
        "TF_CLI_ARGS_apply=-state=TOP/a/terraform.tfstate",
        "TF_CLI_ARGS=-compact-warnings",
        "TF_WORKSPACE=w TF_DATA_DIR=other",
    ]);
    let cd = one_of(&[
        "",
        "",
        "",
        "cd b",
        "cd ..",
        "cd TOP/link",
        "mkdir -p c && cd c && cd ..",
        "cd b && cd ..",
    ]);
    let chdir =
        one_of(&["", "", "", "-chdir=b", "-chdir=.", "-chdir=TOP/a", "-chdir=../a", "-chdir=a"]);
    let more = one_of(&["", "", "", "-state=x", "-state=terraform.tfstate", "-compact-warnings"]);
    let end = one_of(&["exec", "nice", "env", "setsid -w", "timeout 60"]);
    (cd, variables, end, chdir, more).prop_map(|(cd, variables, end, chdir, more)| {
        let cd = if cd.is_empty() { String::new() } else { format!("{cd} && ") };
        let end = if end == "exec" { end.to_owned() } else { format!("exec {end}") };
        format!("{cd}export NOTHING=1 {variables}; {end} REAL {chdir} \"$@\" {more}")
    })
}

/// The state files, below a directory, that somebody says to have locked.
const LOCKED: &str = "find TOP -name '.*.lock.info' > TOP/locked";

/// Stock Terraform by the same script tells which state is the right one.
#[test]
fn whatever_a_script_does_the_lock_is_that_of_the_state_or_it_is_76() {
    let source = local_backend_dir();
    proptest!(seeded(24), |(script in any_script())| {
        let run_by = |command: fn(&Path) -> Command| {
            let top = directories(source.path());
            std::os::unix::fs::symlink("a", top.path().join("link")).unwrap();
            let done = apply_by(command(&top.path().join("a")), top.path(), &script, LOCKED);
            let locked = fs::read_to_string(top.path().join("locked")).unwrap_or_default();
            (done, locked.replace(&top.path().display().to_string(), ""))
        };
        let (stock, locked) = run_by(|dir| {
            let mut command = Command::new(dir.with_file_name("bin/terraform"));
            clean(&mut command, dir);
            command
        });
        let (done, held) = run_by(tfwrap);
        let code = done.status.code();
        if stock.status.success() && locked == "/a/.terraform.tfstate.lock.info\n" {
            prop_assert_eq!(code, Some(0), "{}", done.stderr);
            prop_assert_eq!(&held, &locked);
        } else if stock.status.success() {
            prop_assert_eq!(code, Some(76), "stock has locked {}: {}", locked, done.stderr);
        } else {
            prop_assert!(code == stock.status.code() || code == Some(76), "{code:?}: {}", done.stderr);
        }
    });
}
