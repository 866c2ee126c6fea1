//! What Terraform reads changes once it was started: whether that is seen, and undone in time.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::changes::{select, with_workspaces};
use crate::support::harness::{
    Finished, Running, applying, eventually, program, quoted, real_terraform, run, s3_dir, tfwrap,
};
use crate::support::servers::{clean, local_backend_dir};
use crate::wrapped::Scene;

/// It may have read either: it is interrupted, and the code says that something is not right.
#[test]
fn a_change_right_after_the_start_is_76() {
    let select = "mkdir -p @/.terraform; echo other > @/.terraform/environment";
    let waits = "trap 'echo INT >> @/got; exit 0' INT; sleep 30 & wait $!";
    // Of this name, and a child of what was given our flag.
    let works = "ln -s $(command -v sleep) @/terraform-provider-fake; @/terraform-provider-fake 60 & \
                 provider=$!; sleep 4";
    // So that whoever calls it is around a Terraform.
    let works_below = format!("sh -c '{works}; kill $provider' terraform -lock=false");
    let next = "sh -c 'sleep 2; true' terraform -lock=false";
    let (starting, late) = ("while Terraform was starting", "before Terraform was seen to work");
    for (script, interrupted, said) in [
        (format!("{select}; {waits}"), true, Some(starting)),
        (
            select.to_owned(),
            false,
            Some("the workspace changed from `default` to `other`; Terraform"),
        ),
        // A download first, or credentials that take their time.
        (format!("sleep 6; {select}; {waits}"), true, Some(late)),
        (format!("sleep 6; {select}"), false, Some(late)),
        // The controls: what Terraform itself writes while it works is no change, nor is what it can no
        // longer read.
        (
            "echo '{}' > @/terraform.tfstate; mkdir -p @/.terraform/providers".to_owned(),
            false,
            None,
        ),
        (format!("{works}; {select}; kill $provider"), false, None),
        (format!("{works_below}; {select}; sleep 1"), false, None),
        // A script that tries again: another Terraform reads it.
        (format!("{works_below}; {select}; {next}"), false, Some("the workspace changed from")),
    ] {
        let scene = Scene::of_shell("");
        let here = quoted(&scene.path(""));
        fs::write(scene.path("terraform"), format!("#!/bin/sh\n{}\n", script.replace("@/", &here)))
            .unwrap();
        let mut running = scene.start();
        let code = said.map_or(0, |_| 76);
        assert_eq!(running.code(), Some(code), "{script}: {}", running.stderr());
        let got = fs::read_to_string(running.scene.path("got")).unwrap_or_default();
        assert_eq!(got, if interrupted { "INT\n" } else { "" }, "{script}");
        let stderr = running.stderr();
        match said {
            Some(said) => {
                assert!(stderr.contains(said), "{script}: {stderr}");
            }
            None => assert!(!stderr.contains("Terraform may have read"), "{script}: {stderr}"),
        }
        running.scene.expect_takeable();
    }
}

fn sh(dir: &Path, script: &str) {
    let mut command = Command::new("sh");
    clean(&mut command, dir);
    run(command.args(["-ec", script])).expect_code(0);
}

/// A change that is undone once Terraform has read it, by its own provisioner, so that no look sees it.
struct Undone {
    what: &'static str,
    chdir: &'static str,
    prepare: &'static str,
    change: &'static str,
    undo: &'static str,
    /// Where there is a state then.
    state: &'static str,
    said: &'static str,
}

const UNDONE: [Undone; 7] = [
    Undone {
        what: "the workspace",
        chdir: "work",
        prepare: "true",
        change: "printf b > work/.terraform/environment",
        undo: "printf a > work/.terraform/environment",
        state: "work/terraform.tfstate.d/b/terraform.tfstate",
        said: "/.terraform/environment` was written",
    },
    Undone {
        what: "the workspace, where none is selected",
        chdir: "work",
        prepare: "rm work/.terraform/environment",
        change: "printf b > work/.terraform/environment",
        undo: "rm work/.terraform/environment",
        state: "work/terraform.tfstate.d/b/terraform.tfstate",
        said: "/.terraform/environment` was written",
    },
    Undone {
        what: "the data directory",
        chdir: "work",
        prepare: "mv work/.terraform first; cp -r first second; printf b > second/environment; \
                  ln -s ../first work/.terraform",
        change: "ln -sfn ../second work/.terraform",
        undo: "ln -sfn ../first work/.terraform",
        state: "work/terraform.tfstate.d/b/terraform.tfstate",
        said: "a link on the way to `",
    },
    Undone {
        what: "the backend",
        chdir: "work",
        prepare: "cd work; printf default > .terraform/environment; \
                  printf 'terraform {\n  backend \"local\" {}\n}\n' > backend.tf; \
                  for name in b a; do \
                    terraform init -reconfigure -backend-config=path=$name.tfstate; \
                    cp .terraform/terraform.tfstate ../$name.record; \
                  done",
        change: "cp b.record work/.terraform/terraform.tfstate",
        undo: "cp a.record work/.terraform/terraform.tfstate",
        state: "work/b.tfstate",
        said: "/.terraform/terraform.tfstate` was written",
    },
    Undone {
        what: "the data directory itself",
        chdir: "work",
        prepare: "cp -r work/.terraform other; printf b > other/environment",
        change: "mv work/.terraform first; mv other work/.terraform",
        undo: "mv work/.terraform other; mv first work/.terraform; touch work/.terraform/beside",
        state: "work/terraform.tfstate.d/b/terraform.tfstate",
        said: "a directory on the way to `",
    },
    Undone {
        what: "the directory itself",
        chdir: "work",
        prepare: "cp -r work other",
        change: "mv work first; mv other work",
        undo: "mv work other; mv first work",
        state: "other/terraform.tfstate.d/a/terraform.tfstate",
        said: "a directory on the way to `",
    },
    Undone {
        what: "the directory",
        chdir: "link",
        prepare: "cp -r work other; ln -s work link",
        change: "ln -sfn other link",
        undo: "ln -sfn work link",
        state: "other/terraform.tfstate.d/a/terraform.tfstate",
        said: "a link on the way to `",
    },
];

impl Undone {
    /// An `apply` during which this happens, or not: it, and whether Terraform has used the other one.
    fn apply(&self, happens: bool, variable: Option<(&str, &str)>) -> (Finished, bool) {
        let (top, made) = (tempfile::tempdir().unwrap(), local_backend_dir());
        let top = top.path();
        with_workspaces(made.path(), &["a", "b"]);
        sh(top, &format!("cp -a {} work; {}", quoted(made.path()), self.prepare));
        // What changes no more than the attributes of files may be done to them.
        let harmless = "chmod -R u+rwX work; cp -al work copy; rm -r copy; touch work/.terraform";
        let (change, undo) = if happens { (self.change, self.undo) } else { ("true", harmless) };
        let shim = top.join("bin/terraform");
        let terraform = real_terraform();
        let script = format!("#!/bin/sh\n{change}\nexec {} \"$@\"\n", quoted(&terraform));
        program(&shim, &script);
        let mut command = tfwrap(top);
        command.env("TFWRAP_TERRAFORM", &shim).arg(format!("-chdir={}", self.chdir));
        let undo = format!("cd {}; {undo}", quoted(top));
        let done = run(applying(command, &undo).envs(variable));
        (done, top.join(self.state).exists())
    }
}

#[test]
fn what_is_changed_and_changed_back_is_76() {
    for undone in &UNDONE {
        let (done, used_other) = undone.apply(true, None);
        assert_eq!(done.status.code(), Some(76), "{}: {}", undone.what, done.stderr);
        // A look that comes in between sees the other one.
        let said = [undone.said, "changed from `", "is now a different directory"]
            .map(|said| done.stderr.contains(said));
        assert!(said.contains(&true), "{}: {}", undone.what, done.stderr);
        assert!(used_other || !said[0], "{}: nothing was wrong", undone.what);
        let (done, used_other) = undone.apply(false, None);
        assert_eq!(done.expect_code(0).stderr, "", "{}", undone.what);
        assert!(!used_other, "{}", undone.what);
    }
}

/// Terraform opens a local state once more to write it, long after it was seen to have read all: a link
/// that is turned and turned back in between counts.
#[test]
fn the_way_to_a_local_state_counts_until_the_end() {
    for turns in [true, false] {
        let (top, made) = (tempfile::tempdir().unwrap(), local_backend_dir());
        let top = top.path();
        sh(top, &format!("cp -a {} work; mkdir one two; ln -s one link", quoted(made.path())));
        // Seen to work with a provider.
        let shim = top.join("bin/terraform");
        let works = "case \"$*\" in *-lock=false*) ln -s $(command -v sleep) terraform-provider-fake; \
                     ./terraform-provider-fake 60 & sleep 4; kill $! ;; esac";
        program(&shim, &format!("#!/bin/sh\n{works}\nexec {} \"$@\"\n", quoted(&real_terraform())));
        let mut command = tfwrap(&top.join("work"));
        let turn = format!("cd {}; ln -sfn two link; ln -sfn one link", quoted(top));
        // Another workspace may be selected: it has read which.
        let select = "mkdir -p .terraform; printf other > .terraform/environment";
        command.env("TFWRAP_TERRAFORM", &shim);
        let mut command = applying(command, if turns { &turn } else { select });
        let done = run(command.arg("-state=../link/x.tfstate"));
        assert_eq!(done.status.code(), Some(if turns { 76 } else { 0 }), "{}", done.stderr);
        let said = "while Terraform worked, a link on the way to `";
        assert_eq!(done.stderr.contains(said), turns, "{}", done.stderr);
        assert_eq!(done.stderr.is_empty(), !turns, "{}", done.stderr);
    }
}

#[test]
fn what_terraform_does_not_read_may_change() {
    let [workspace, ..] = &UNDONE;
    let (done, used_other) = workspace.apply(true, Some(("TF_WORKSPACE", "a")));
    assert_eq!(done.expect_code(0).stderr, "");
    assert!(!used_other);
}

/// Terraform works on in it; only what changes there is a change. Nothing shows that it has read it: it
/// works without a provider.
#[tokio::test]
async fn a_directory_renamed_while_terraform_works_disturbs_nothing() {
    let rename = |dir: &Path, above: bool| {
        let from = if above { dir.parent().unwrap() } else { dir };
        let mut to = from.to_owned();
        to.set_file_name("renamed");
        fs::rename(from, &to).unwrap();
        if above { to.join(dir.file_name().unwrap()) } else { to }
    };
    for (above, in_table, selects) in
        [(false, false, false), (true, false, false), (false, true, false), (false, false, true)]
    {
        let top = tempfile::tempdir().unwrap();
        let s3 = if in_table { Some(s3_dir("changes/renamed").await) } else { None };
        let local = local_backend_dir();
        let source = s3.as_ref().map_or(local.path(), |dir| dir.path());
        let dir = top.path().join("above/proj");
        fs::create_dir_all(dir.parent().unwrap()).unwrap();
        run(Command::new("cp").arg("-a").arg(source).arg(&dir)).expect_code(0);
        let script = format!(
            "touch {0}/ready; until test -e {0}/go; do sleep 0.05; done",
            top.path().display()
        );
        let mut command = tfwrap(&dir);
        command.env("TFWRAP_STATE_DIR", top.path().join("own"));
        let ours = Running::start(&mut applying(command, &script));
        eventually("Terraform works", || top.path().join("ready").exists());
        let dir = rename(&dir, above);
        if selects {
            select(&dir, "other");
        }
        fs::write(top.path().join("go"), "").unwrap();
        let done = ours.finish();
        let expected = if selects { 76 } else { 0 };
        assert_eq!(done.status.code(), Some(expected), "{above} {in_table}: {}", done.stderr);
        assert_eq!(
            done.stderr.contains("while Terraform was starting"),
            selects,
            "{}",
            done.stderr
        );
        if !in_table {
            assert!(dir.join("terraform.tfstate").exists());
            let left = ".terraform.tfstate.lock.info";
            assert!(!dir.join(left).exists() && !dir.join(".terraform.tfstate.tfwrap").exists());
        }
    }
}

#[test]
fn what_the_command_itself_changes_is_no_change() {
    let dir = local_backend_dir();
    with_workspaces(dir.path(), &["a", "b"]);
    run(tfwrap(dir.path()).args(["workspace", "delete", "b"])).expect_code(0);
    // Below a `run` the script may do as it likes.
    let script = "terraform workspace select -or-create c && terraform apply -auto-approve";
    let done = run(tfwrap(dir.path()).args(["run", "--", "sh", "-c", script])).expect_code(0);
    assert!(!done.stderr.contains("while"), "{}", done.stderr);
    eventually("it is applied", || {
        dir.path().join("terraform.tfstate.d/c/terraform.tfstate").exists()
    });
}
