//! A directory that is renamed while Terraform works in it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{is_locked, select};
use crate::harness::{
    Gate, Running, applying, eventually, program, real_terraform, run, s3_dir, tfwrap,
};
use crate::servers::local_backend_dir;
use crate::wrapped::uptime;

/// Terraform works on in it; only what changes there is a change.
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
        let began = uptime();
        let ours = Running::start(&mut applying(command, &script));
        eventually("Terraform works", || top.path().join("ready").exists());
        let dir = rename(&dir, above);
        if selects {
            select(&dir, "other");
        }
        let took = uptime().since(began);
        // Where not all looks are over by then, the last one is at the end.
        fs::write(top.path().join("go"), "").unwrap();
        let done = ours.finish();
        if selects && took > Duration::from_secs(4) {
            eprintln!("skipped: on this machine Terraform has read its workspace long ago");
            continue;
        }
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

/// It has an absolute path into what is renamed: Terraform has read it by then, once, and goes on with
/// what it has. In one that is renamed before that, Terraform finds no workspace selected.
#[test]
fn a_data_directory_out_of_reach_is_no_change_once_terraform_has_read_it() {
    for early in [false, true] {
        let (top, made) = (TempDir::new().expect("a directory"), local_backend_dir());
        let [above, renamed] = ["above", "renamed"].map(|name| top.path().join(name));
        let dir = above.join("proj");
        fs::create_dir(&above).expect("a directory");
        fs::rename(made.path(), &dir).expect("one file system");
        let data = dir.join("data");
        fs::create_dir(&data).expect("a directory");
        fs::write(data.join("environment"), "dev").expect("a file");
        fs::create_dir_all(dir.join("terraform.tfstate.d/dev")).expect("a directory");
        let moves = top.path().join("moves/terraform");
        let real = real_terraform().display().to_string();
        let text = format!("#!/bin/sh\nmv ../../above ../../renamed\nexec {real} \"$@\"\n");
        program(&moves, &text);
        let gate = Gate::new(top.path(), "ours");
        let mut ours = applying(tfwrap(&dir), &gate.command());
        ours.env("TFWRAP_STATE_DIR", top.path().join("own")).env("TF_DATA_DIR", &data);
        ours.env("TFWRAP_TERRAFORM", if early { moves } else { real.into() });
        let ours = Running::start(&mut ours);
        if !early {
            gate.reached();
            fs::rename(&above, &renamed).expect("one file system");
        }
        // It is looked for the last time at the end, at the latest.
        gate.open();
        let done = ours.finish();
        let expected = if early { 76 } else { 0 };
        assert_eq!(done.status.code(), Some(expected), "early {early}: {}", done.stderr);
        let said = "the workspace changed from `dev` to `default`";
        assert_eq!(done.stderr.contains(said), early, "{}", done.stderr);
        let state = fs::read(renamed.join("proj/terraform.tfstate.d/dev/terraform.tfstate"));
        assert_eq!(state.unwrap_or_default().is_empty(), early);
    }
}

/// A renamed directory does not confuse who takes over for a killed tfwrap.
#[test]
fn what_a_killed_run_left_in_a_renamed_directory_is_cleared() {
    let (top, made) = (TempDir::new().expect("a directory"), local_backend_dir());
    let [before, dir, states] = ["before", "after", "states"].map(|name| top.path().join(name));
    fs::rename(made.path(), &before).expect("one file system");
    let gate = Gate::new(top.path(), "ours");
    let mut ours = applying(tfwrap(&before), &gate.command());
    let ours = Running::start(ours.env("TFWRAP_STATE_DIR", &states));
    gate.reached();
    fs::rename(&before, &dir).expect("one file system");
    ours.signal(Signal::SIGKILL);
    assert!(is_locked(&dir, "default"));
    gate.open();
    drop(ours.finish());
    let said = || {
        let files = fs::read_dir(&states).expect("a directory").flatten();
        files.filter_map(|file| fs::read_to_string(file.path()).ok()).collect::<String>()
    };
    eventually("the lock is released", || !is_locked(&dir, "default"));
    assert!(!said().contains("lost"), "{}", said());
    assert!(!dir.join(".terraform.tfstate.lock.info").exists());
    assert!(!before.exists());
}
