//! What is not known is no reason to stop: it runs, with a warning where the history is missing.

use std::os::unix::fs::symlink;

use tfwrap::env::Env;

use crate::support::harness::{applying, program, quoted, real_terraform, run, tfwrap};
use crate::support::proxy::{Fault, Rule};
use crate::support::servers::{local_backend_dir, terraform};

use super::{CiRun, MAIN, Scene};

#[tokio::test]
async fn without_git_the_commits_of_the_ci_are_compared_by_the_number_alone() {
    let scene = Scene::new("no-git").await;
    let (first, second) = (scene.commit(), scene.commit());
    let skip = ["--outdated", "skip"];
    scene.runs("newer", scene.apply_in(CiRun { number: 6, ..MAIN }, &skip)).await;
    scene.check_out(&first);
    let bin = scene.dir.join("bin.tmp");
    std::fs::create_dir(&bin).unwrap();
    symlink(real_terraform(), bin.join("terraform")).unwrap();
    let without_git = |number: Option<u64>| {
        let mut command = scene.applying(&["-v", "--outdated", "skip"]);
        if let Some(number) = number {
            CiRun { number, ..MAIN }.set(&mut command, &first);
        }
        run(command.env("PATH", &bin)).expect_code(0)
    };
    // One that came with the work tree is not run.
    let ours = without_git(Some(5));
    assert!(ours.stderr.contains("`git` was not found on PATH"), "{}", ours.stderr);
    assert!(ours.stderr.contains("run 5 comes before run 6"), "{}", ours.stderr);
    assert!(!ours.stderr.contains("cannot tell whether"), "{}", ours.stderr);
    let done = without_git(None);
    for words in
        ["`--outdated skip` cannot tell", "`git` was not found on PATH", "has to be on PATH"]
    {
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
    assert!(done.stdout.contains("Apply complete!"), "{}", done.stdout);
    // Nor is there a repository.
    scene.check_out(&second);
    scene.runs("newer", scene.apply_in(CiRun { number: 6, ..MAIN }, &[])).await;
    std::fs::rename(scene.dir.join(".git"), scene.dir.join("git.tmp")).unwrap();
    let done = without_git(Some(5));
    assert!(done.stderr.contains("run 5 comes before run 6"), "{}", done.stderr);
    let done = without_git(None);
    let words =
        "cannot tell whether this run is outdated, and it goes on: it is not known which commit";
    assert!(done.stderr.contains(words), "{}", done.stderr);
    assert!(done.stdout.contains("Apply complete!"), "{}", done.stdout);
}

/// Who asks for it thinks to be guarded.
#[tokio::test]
async fn a_repository_whose_commits_cannot_be_read_is_said() {
    let scene = Scene::new("reftable").await;
    let (first, second) = (scene.commit(), scene.commit());
    scene.runs("newer", scene.apply(&[])).await;
    scene.check_out(&first);
    // As it is with `reftable`.
    std::fs::write(scene.dir.join(".git/HEAD"), "ref: refs/heads/.invalid\n").unwrap();
    let done = scene.apply(&["--outdated", "fail"]).expect_code(0);
    let words = "warning: `--outdated fail` cannot tell whether this run is outdated, and it goes on: it is not known which commit is checked out";
    for words in [words, "git refs migrate --ref-format=files"] {
        assert_eq!(done.stderr.matches(words).count(), 1, "{words}: {}", done.stderr);
    }
    // And nor is it known of that one, by whoever comes after it.
    std::fs::write(scene.dir.join(".git/HEAD"), &second).unwrap();
    let done = scene.apply(&["--outdated", "fail"]).expect_code(0);
    let words = "it is not known of which commit that run is, which";
    assert!(done.stderr.contains(words), "{}", done.stderr);
    let done = scene.apply(&["--outdated", "fail"]).expect_code(0);
    assert!(!done.stderr.contains("cannot tell"), "{}", done.stderr);
}

#[tokio::test]
async fn a_git_of_the_work_tree_is_not_run() {
    let scene = Scene::new("own-git").await;
    let (first, _) = (scene.commit(), scene.commit());
    scene.runs("newer", scene.apply(&[])).await;
    scene.check_out(&first);
    program(
        &scene.dir.join("git"),
        &format!("#!/bin/sh\ntouch {}\n", quoted(&scene.dir.join("started.tmp"))),
    );
    let path = Env::of_process().get("PATH").unwrap().to_owned();
    let mut command = scene.applying(&["-v", "--outdated", "skip"]);
    let done = run(command.env("PATH", format!(".:{path}"))).expect_code(0);
    assert!(!scene.dir.join("started.tmp").exists());
    assert!(done.stderr.contains("git cannot tell"), "{}", done.stderr);
}

#[tokio::test]
async fn a_git_that_does_not_answer_is_not_waited_for_beyond_ten_seconds() {
    let scene = Scene::new("slow-git").await;
    let (first, _) = (scene.commit(), scene.commit());
    scene.runs("newer", scene.apply(&[])).await;
    scene.check_out(&first);
    let bin = scene.dir.join("bin.tmp");
    std::fs::create_dir(&bin).unwrap();
    program(&bin.join("git"), "#!/bin/sh\nexec sleep 600\n");
    let path = Env::of_process().get("PATH").unwrap().to_owned();
    let mut command = scene.applying(&["-v", "--outdated", "skip"]);
    command.env("PATH", format!("{}:{path}", bin.display()));
    let done = run(&mut command).expect_code(0);
    let words = "`--outdated skip` cannot tell";
    for words in [words, "no answer within 10s"] {
        assert_eq!(done.stderr.matches(words).count(), 1, "{words}: {}", done.stderr);
    }
    assert!(done.stdout.contains("Apply complete!"), "{}", done.stdout);
}

#[tokio::test]
async fn no_history_is_no_reason_to_stop_and_is_said() {
    let scene = Scene::new("no-history").await;
    let (first, _) = (scene.commit(), scene.commit());
    scene.runs("newer", scene.apply(&[])).await;
    scene.check_out(&first);
    let key = scene.history();
    for (fault, words) in [
        (Fault::DENIED, "access denied"),
        (Fault::SERVER_ERROR, "InternalServerError"),
        (Fault::Refuse, "cannot be read"),
    ] {
        scene.stage.proxy.plan([Rule::on("GetItem", fault).key(&key)]);
        let done = scene.apply(&["--outdated", "fail"]).expect_code(0);
        for words in ["`--outdated fail` cannot tell", "it goes on", words] {
            assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
        }
        assert!(done.stdout.contains("Apply complete!"), "{}", done.stdout);
        scene.stage.proxy.plan([]);
        scene.git(&["checkout", "--quiet", "main"]);
        scene.runs("newer", scene.apply(&[])).await;
        scene.check_out(&first);
    }
    let done = scene.apply(&["--no-history", "--outdated", "skip"]).expect_code(0);
    assert!(done.stderr.contains("switched off by `--no-history`"), "{}", done.stderr);
    assert!(done.stdout.contains("Apply complete!"), "{}", done.stdout);
    let lock = format!("file://{}/x", scene.dir.display());
    let alone = ["--no-backend-lock", "--lock", &lock, "--outdated", "skip"];
    let done = scene.apply(&alone).expect_code(0);
    assert!(done.stderr.contains("Terraform locks the state itself"), "{}", done.stderr);
    let local = local_backend_dir();
    run(terraform(local.path()).args(["init", "-no-color"])).expect_code(0);
    let mut command = tfwrap(local.path());
    command.args(["--outdated", "skip"]);
    let done = run(&mut applying(command, "true")).expect_code(0);
    assert!(done.stderr.contains("no history is kept of `local://"), "{}", done.stderr);
}

/// A lock of `--lock` may be that of many states.
#[tokio::test]
async fn the_history_of_a_further_lock_tells_of_other_states() {
    let (one, other) = (Scene::new("further-1").await, Scene::new("further-2").await);
    let lock = format!("file://{}/shared.tmp", one.dir.display());
    let with = ["--lock", &*lock, "--outdated", "fail"];
    let of = |number| CiRun { number, ..MAIN };
    one.commit();
    other.commit();
    one.runs("newer", one.apply_in(of(6), &with)).await;
    other.runs("older, and never applied", other.apply_in(of(5), &with)).await;
    // The control, with a commit that is no later one.
    one.git(&["commit", "--quiet", "--amend", "--allow-empty", "-m", "amended"]);
    one.is_outdated(Some(of(5)), &[]).await;
}
