//! Holds around holds: a script that begins and releases one of its own works alone, and under another.

use std::fs;
use std::process::Command;

use super::turns::{Held, environment};
use super::{holds_in, release};
use crate::aftermath::{EndsHolds, Lock, STATE_DIR};
use crate::support::harness::{run, tfwrap};
use crate::wrapped::wrapper;

type Env = Vec<(String, String)>;

/// A `hold` in this environment, and the one that it gives.
fn begin(held: &Held, around: &Env, format: &str) -> Env {
    let wrapper = wrapper().display().to_string();
    let mut command = held.command(&[&wrapper, "hold", "--format", format]);
    command.envs(around.iter().cloned());
    let [env, path] = ["github-env", "github-path"].map(|name| held.path().join(name));
    for file in [&env, &path] {
        fs::write(file, "").expect("a file");
    }
    command.env("GITHUB_ENV", &env).env("GITHUB_PATH", path);
    let done = run(&mut command).expect_code(0);
    let mut all = around.clone();
    if format == "github" {
        let text = fs::read_to_string(env).expect("the file");
        let pairs = text.lines().map(|line| line.split_once('=').expect("NAME=VALUE"));
        all.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    } else {
        all.extend(environment(&done.stdout, &command));
    }
    all
}

fn releasing(held: &Held, env: &Env) -> Command {
    let mut command = held.release();
    command.envs(env.iter().cloned());
    command
}

#[test]
fn a_release_ends_its_own_hold_and_what_is_below_and_never_one_around_it() {
    let held = Held::begin(&[]);
    let outer = Env::new();
    let left = || holds_in(held.path());
    assert_eq!(left(), 1);
    // As it stands in the documents; released twice, by hand and by the trap.
    let script = "set -e; held=$(tfwrap hold); eval \"$held\"; trap 'tfwrap release' EXIT; \
                  terraform apply -no-color -auto-approve; tfwrap release"
        .replace("tfwrap", &wrapper().display().to_string());
    let done = run(&mut held.command(&["sh", "-c", &script])).expect_code(0);
    assert!(done.stdout.contains("Apply complete"), "{}", done.stdout);
    assert_eq!((left(), held.is_held()), (1, true), "{}", done.stderr);
    // In a job, in which all that it holds would end where nothing is named.
    let job: Env = [("GITHUB_ACTIONS", "true"), ("RUNNER_TRACKING_ID", "github_1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    for (around, format) in [(&outer, "json"), (&outer, "github"), (&job, "github")] {
        let inner = begin(&held, around, format);
        let below = begin(&held, &inner, "json");
        let beside = begin(&held, around, "json");
        assert_eq!(left(), 4);
        for is_again in [false, true] {
            let said = run(&mut releasing(&held, &inner)).expect_code(0).stderr;
            assert_eq!((left(), held.is_held()), (2, true), "{format}: one around it or beside it");
            // In one shell it may have been meant for the one around it.
            assert_eq!(said.contains("the one around it is still there"), is_again, "{said}");
            assert_eq!(said.contains("`tfwrap release "), is_again, "{said}");
        }
        run(&mut releasing(&held, &below)).expect_code(0);
        run(&mut releasing(&held, &beside)).expect_code(0);
        assert_eq!((left(), held.is_held()), (1, true));
    }
    // What an inner script leaves ends with the outer one.
    let inner = begin(&held, &outer, "json");
    begin(&held, &inner, "json");
    assert_eq!(left(), 3);
    run(&mut held.release()).expect_code(0);
    assert_eq!((left(), held.is_held()), (0, false));
    // The control: alone, the script has the lock and gives it back.
    let mut alone = held.command(&["sh", "-c", &script]);
    alone.env_remove("TFWRAP_HELD").env_remove("TFWRAP_HOLD");
    run(&mut alone).expect_code(0);
    assert_eq!((left(), held.is_held()), (0, false));
}

/// Holds of two states, one after the other in one shell, are one to whoever releases.
#[tokio::test]
async fn holds_of_two_states_in_one_environment_end_together() {
    let (one, other) = (Lock::new("beside-one").await, Lock::new("beside-other").await);
    let first = one.scene("");
    let state = first.path(STATE_DIR).display().to_string();
    let second = other.scene("").env("TFWRAP_STATE_DIR", &state);
    let _ends = EndsHolds(first.path(STATE_DIR));
    let wrapper = wrapper().display().to_string();
    let mut env = Env::new();
    for (scene, lock) in [(&first, &one), (&second, &other)] {
        let words = [&*wrapper, "hold", "--format", "json"];
        let mut command = super::in_scene(scene, &env, &words);
        command.env("PATH", "/bin");
        let done = run(&mut command).expect_code(0);
        env.extend(
            environment(&done.stdout, &command).into_iter().filter(|(name, _)| name != "PATH"),
        );
        assert!(lock.is_held().await);
    }
    run(&mut release(&first, &env, &[])).expect_code(0);
    assert!(!one.is_held().await && !other.is_held().await);
}

/// Its environment is gone with the command in which it was begun, so that nobody can release it.
#[test]
fn a_hold_that_nobody_released_ends_with_the_run_around_it() {
    let held = Held::nothing();
    let wrapper = wrapper().display().to_string();
    let script = "eval \"$(\"$0\" hold)\"; terraform apply -auto-approve -no-color";
    let around = [&wrapper, "run", "--", "sh", "-c", script, &wrapper];
    let done = run(&mut held.command(&around)).expect_code(0);
    assert!(done.stdout.contains("Apply complete!"), "{}", done.stdout);
    assert!(
        done.stderr.contains("started inside this command, was not released"),
        "{}",
        done.stderr
    );
    assert!(!held.is_held());
}

/// In a shell that has lost its environment, both are the hold of one lock.
#[test]
fn two_holds_of_one_lock_are_one_to_whoever_has_lost_their_environment() {
    let held = Held::begin(&[]);
    let wrapper = wrapper().display().to_string();
    run(&mut held.command(&[&wrapper, "hold"])).expect_code(0);
    run(tfwrap(held.path()).arg("release")).expect_code(0);
    assert!(!held.is_held());
}

/// The keeper reads the words of the command once more, and from the same directory.
#[test]
fn a_hold_holds_the_state_of_the_directory_that_its_relative_paths_name() {
    let held = Held::nothing();
    let below = held.path().join("scripts/scripts");
    fs::create_dir_all(&below).expect("directories");
    fs::write(below.join("main.tf"), "").expect("another configuration");
    fs::write(held.path().join("scripts/wrap.yaml"), "lock-timeout: 1s\n").expect("a file");
    let (wrapper, scripts) = (wrapper().display().to_string(), held.path().join("scripts"));
    for options in [&["--chdir", ".."][..], &["--config", "wrap.yaml", "--chdir", ".."]] {
        let words = [&[wrapper.as_str()][..], options, &["hold", "--format=json"]].concat();
        run(held.command(&words).current_dir(&scripts)).expect_code(0);
        assert!(held.is_held(), "{options:?}");
        run(&mut held.release()).expect_code(0);
    }
    // Here, and not one below.
    let words = [wrapper.as_str(), "--chdir", "scripts", "hold"];
    run(&mut held.command(&words)).expect_code(0);
    run(&mut held.release()).expect_code(0);
    assert!(!below.join(".terraform.tfstate.tfwrap").exists() && !held.is_held());
}

/// What lies beside a local state says who has it; what the kernel has locked is the state.
#[test]
fn a_lock_around_is_known_when_the_text_beside_its_state_is_gone() {
    let (held, text) = (Held::nothing(), ".terraform.tfstate.lock.info");
    run(&mut held.apply("true")).expect_code(0);
    let wrapper = wrapper().display().to_string();
    for meddle in [format!("rm {text}"), format!("sed -i s/ID/ET/ {text}")] {
        let script = format!("{meddle} && terraform apply -auto-approve -no-color");
        let around = [&wrapper, "--lock-timeout=10s", "run", "--", "sh", "-c", &script];
        run(&mut held.command(&around)).expect_code(0);
    }
    // And another's lock, whose text is gone, is none of ours.
    let other = Held::begin(&[]);
    fs::remove_file(other.path().join(text)).expect("its text");
    let script = format!("cd {} && terraform plan -no-color", other.path().display());
    let around = [&wrapper, "--lock-timeout=2s", "run", "--", "sh", "-c", &script];
    run(&mut held.command(&around)).expect_code(75);
    run(&mut other.release()).expect_code(0);
}
