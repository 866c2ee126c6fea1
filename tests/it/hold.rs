//! `hold` and `release`: one lock across several commands, whoever is killed in between.

mod asked;
mod beats;
mod ends;
mod nested;
mod turns;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::aftermath::{EndsHolds, Lock, Receipt, STATE_DIR, ours};
use crate::support::harness::{self, Gate, Running, eventually, pause, run, s3_dir};
use crate::support::servers::{dynamodb, terraform};
use crate::wrapped::{LOGS_ALL, Scene, fake_terraform, is_gone, wait_until, wrapper};

/// A command in the environment of a scene.
fn in_scene(scene: &Scene, env: &[(String, String)], words: &[&str]) -> Command {
    let mut all = scene.words();
    let wrapper = wrapper().display().to_string();
    all.truncate(all.iter().position(|word| *word == wrapper).expect("the wrapper"));
    all.push(format!("TFWRAP_TERRAFORM={}", fake_terraform().display()));
    all.push(format!("TFWRAP={wrapper}"));
    all.extend(env.iter().map(|(name, value)| format!("{name}={value}")));
    all.extend(words.iter().map(|&word| word.to_owned()));
    let mut command = Command::new(&all[0]);
    command.args(&all[1..]);
    command
}

/// What a `hold` gave, and the processes that it left.
struct Holding {
    env: Vec<(String, String)>,
    path: PathBuf,
    keeper: Pid,
    guardian: Pid,
    _ends: EndsHolds,
}

impl Holding {
    /// Takes the lock of the scene.
    #[track_caller]
    fn begin(scene: &Scene, options: &[&str]) -> Self {
        let ends = EndsHolds(scene.path(STATE_DIR));
        let words: Vec<_> = ["hold", "--format", "json"].into();
        let wrapper = wrapper().display().to_string();
        let all: Vec<_> = [wrapper.as_str()].iter().chain(options).chain(&words).copied().collect();
        let before: Vec<_> = holds(scene).iter().map(Receipt::runner).collect();
        let done = run(&mut in_scene(scene, &[], &all)).expect_code(0);
        let given: Value = serde_json::from_str(&done.stdout).expect("JSON");
        let env = given["env"].as_object().expect("variables").iter();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let mut receipts = holds(scene).into_iter();
        let receipt = receipts.find(|it| !before.contains(&it.runner()));
        let receipt = receipt.expect("a receipt");
        Self {
            env: env.map(|(name, value)| (name.clone(), text(value))).collect(),
            path: text(&given["path"]).into(),
            keeper: receipt.runner(),
            guardian: receipt.guardian().expect("a guardian"),
            _ends: ends,
        }
    }

    /// `terraform apply` in the scene, as a later command of the job.
    fn apply(&self, scene: &Scene) -> Running {
        let terraform = self.path.join("terraform").display().to_string();
        let _before = fs::remove_file(scene.path("ready"));
        Running::start(&mut in_scene(scene, &self.env, &[&terraform, "apply"]))
    }

    #[track_caller]
    fn is_over(&self) {
        for (what, pid) in [("the keeper's end", self.keeper), ("its guardian's", self.guardian)] {
            wait_until(what, || is_gone(pid).then_some(()));
        }
    }
}

fn holds(scene: &Scene) -> Vec<Receipt> {
    let all = Receipt::all(&scene.path(STATE_DIR)).into_iter();
    all.filter(Receipt::is_hold).collect()
}

/// How many there are in this directory.
fn holds_in(dir: &Path) -> usize {
    Receipt::all(&dir.join(STATE_DIR)).iter().filter(|it| it.is_hold()).count()
}

fn release(scene: &Scene, env: &[(String, String)], words: &[&str]) -> Command {
    let wrapper = wrapper().display().to_string();
    let words: Vec<_> = [wrapper.as_str(), "release"].iter().chain(words).copied().collect();
    in_scene(scene, env, &words)
}

#[tokio::test]
async fn a_shell_holds_a_lock_over_several_terraforms() {
    let dir = s3_dir("hold/shell").await;
    let _ends = EndsHolds(dir.path().join(STATE_DIR));
    let (between, after) = (Gate::new(dir.path(), "between"), Gate::new(dir.path(), "after"));
    let text = format!(
        "eval \"$({tfwrap} hold)\"; terraform plan -no-color -out=p.bin; ( {} ); \
         terraform apply -no-color p.bin; {tfwrap} release; \
         terraform apply -no-color -auto-approve -var 'command={}'",
        between.command(),
        after.command(),
        tfwrap = wrapper().display(),
    );
    let mut command = harness::tfwrap(dir.path());
    let mut shell = Command::new("sh");
    shell.args(["-ec", &text]).current_dir(dir.path()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let shell = Running::start(&mut shell);
    for (gate, operation) in [(&between, "Operation: hold"), (&after, "OperationTypeApply")] {
        gate.reached();
        let stock = run(terraform(dir.path()).args(["plan", "-no-color"])).expect_code(1);
        assert!(stock.stderr.contains(operation), "{}", stock.stderr);
        gate.open();
    }
    let done = shell.finish().expect_code(0);
    assert!(!done.stderr.contains("waiting"), "{}", done.stderr);
    run(command.args(["--lock-timeout=0s", "plan", "-no-color"])).expect_code(0);
    assert_eq!(dynamodb().get_raw(&dir.table, &dir.lock_id()).await, None);
    assert_eq!(Receipt::all(&dir.path().join(STATE_DIR)).len(), 0);
}

#[test]
fn under_a_hold_another_state_takes_its_own_lock() {
    let (here, other) = (Scene::new(LOGS_ALL), Scene::new(LOGS_ALL));
    let hold = Holding::begin(&here, &[]);
    let mut env = hold.env.clone();
    env.push(("TFWRAP_STATE_DIR".to_owned(), here.path(STATE_DIR).display().to_string()));
    let terraform = hold.path.join("terraform").display().to_string();
    let apply = Running::start(&mut in_scene(&other, &env, &[&terraform, "apply"]));
    let child = other.pid_in("ready");
    for scene in [&here, &other] {
        run(&mut ours(scene, &["--lock-timeout=0s", "run", "--", "true"])).expect_code(75);
    }
    kill(child, Signal::SIGUSR1).expect("the child is there");
    apply.finish().expect_code(5);
    other.expect_free();
    run(&mut release(&here, &hold.env, &[])).expect_code(0);
    hold.is_over();
    here.expect_free();
}

#[tokio::test]
async fn a_hold_ends_by_itself_and_then_terraform_locks_for_itself() {
    let (timed, lost) = (Lock::new("max-hold").await, Lock::new("hold-lost").await);
    for (lock, options) in [(timed, ["--max-hold", "2s"]), (lost, ["--lease", "15s"])] {
        let scene = lock.scene(LOGS_ALL);
        let hold = Holding::begin(&scene, &options);
        let id = lock.id().await.expect("it is held");
        if options[0] == "--lease" {
            lock.remove().await;
        }
        hold.is_over();
        lock.freed().await;
        let apply = hold.apply(&scene);
        let child = scene.pid_in("ready");
        let own = lock.id().await.expect("it locks for itself");
        assert_ne!(own, id);
        kill(child, Signal::SIGUSR1).expect("the child is there");
        apply.finish().expect_code(5);
        lock.freed().await;
        // Nobody was there to hear why.
        let told = run(&mut release(&scene, &hold.env, &[])).expect_code(0).stderr;
        let why = if options[0] == "--lease" { "was lost" } else { "`--max-hold` allows" };
        assert!(told.contains(why), "{told}");
        assert_eq!(Receipt::all(&scene.path(STATE_DIR)).len(), 0);
    }
}

#[tokio::test]
async fn a_release_waits_for_whoever_runs_under_the_hold() {
    let lock = Lock::new("used").await;
    let scene = lock.scene(LOGS_ALL);
    let hold = Holding::begin(&scene, &[]);
    let apply = hold.apply(&scene);
    let child = scene.pid_in("ready");
    let releasing = Running::start(&mut release(&scene, &hold.env, &[]));
    releasing.says("still runs under the lock");
    pause(Duration::from_millis(300));
    assert!(lock.is_held().await && !is_gone(child) && !releasing.is_over());
    assert!(scene.log().is_empty(), "{:?}", scene.log());
    kill(child, Signal::SIGUSR1).expect("the child is there");
    releasing.finish().expect_code(0);
    assert!(is_gone(child) && !lock.is_held().await);
    apply.finish().expect_code(5);
    hold.is_over();
}

#[tokio::test]
async fn a_later_step_on_github_finds_the_hold() {
    let lock = Lock::new("github").await;
    let scene = lock.scene("describe; exit 0").env("GITHUB_ACTIONS", "true");
    let scene = scene.env("RUNNER_TRACKING_ID", "github_1");
    let _ends = EndsHolds(scene.path(STATE_DIR));
    let (env, path) = (scene.path("env"), scene.path("path"));
    fs::write(&env, "BEFORE=1\n").expect("a file");
    fs::write(&path, "").expect("a file");
    let scene = scene.env("GITHUB_ENV", "@/env").env("GITHUB_PATH", "@/path");
    let wrapper = wrapper().display().to_string();
    let done = run(&mut in_scene(&scene, &[], &[&wrapper, "hold", "--format=github"]));
    assert_eq!(done.expect_code(0).stdout, "");
    let given = fs::read_to_string(&env).expect("the file");
    let pairs = given.lines().map(|line| line.split_once('=').expect("NAME=VALUE"));
    let pairs: Vec<_> = pairs.map(|(name, it)| (name.to_owned(), it.to_owned())).collect();
    let id = lock.id().await.expect("it is held");
    let held = pairs.iter().find(|(name, _)| name == "TFWRAP_HELD").expect("what is held");
    assert!(held.1.ends_with(&format!("#{id}")), "{held:?}");
    let shim = fs::read_to_string(&path).expect("the file");
    let terraform = format!("{}/terraform", shim.trim());
    let done = run(&mut in_scene(&scene, &pairs, &[&terraform, "apply"])).expect_code(0);
    assert!(done.stdout.contains("args=apply"), "{}", done.stdout);
    assert_eq!(lock.id().await.as_ref(), Some(&id), "it is still the same");
    // A step that was told nothing finds it by its job, and one of another job does not.
    let other = [("RUNNER_TRACKING_ID".to_owned(), "github_2".to_owned())];
    let left = run(&mut release(&scene, &other, &[])).expect_code(0).stderr;
    assert!(left.contains("it belongs to another CI job") && left.contains(&id), "{left}");
    // Nor does somebody who is in no job, on the same machine.
    run(&mut ours(&scene, &["release"])).expect_code(0);
    assert!(lock.is_held().await, "another job's");
    run(&mut release(&scene, &[], &[])).expect_code(0);
    assert!(!lock.is_held().await);
}

/// On GitHub the runner's worker, which does not know what it tells its steps; for a person, the
/// shell that leads the session; on GitLab that of `script`, which exports the job's variables,
/// whatever leads a group below it.
#[tokio::test]
async fn a_hold_ends_with_its_job_and_not_with_its_step() {
    let step = "env RUNNER_TRACKING_ID=github_1 GITHUB_ACTIONS=true sh -c";
    let exported = "export CI_JOB_ID=7 GITLAB_CI=true CI=true; timeout 30 sh -c";
    let gitlab = ("script", "setsid -w", exported);
    for (name, before, in_step) in [("worker", "", step), ("session", "setsid -w", "sh -c"), gitlab]
    {
        let lock = Lock::new(name).await;
        let scene = lock.scene("");
        let _ends = EndsHolds(scene.path(STATE_DIR));
        let goes_on = Gate::new(&scene.path("."), "goes-on");
        let text = format!("{in_step} '$TFWRAP hold > given; true'; {}", goes_on.command());
        let words: Vec<_> = before.split_whitespace().chain(["sh", "-c", &text]).collect();
        let job = Running::start(&mut in_scene(&scene, &[], &words));
        goes_on.reached();
        let hold = holds(&scene).remove(0);
        pause(Duration::from_millis(2500));
        assert!(lock.is_held().await && !is_gone(hold.runner()), "{name}: it ended with the step");
        goes_on.open();
        job.finish();
        eventually("the keeper's end", || is_gone(hold.runner()));
        lock.freed().await;
    }
}

/// As in a step that does not know that an earlier one did it already.
#[tokio::test]
async fn a_hold_under_a_hold_ends_with_it() {
    let lock = Lock::new("twice").await;
    let scene = lock.scene("");
    let outer = Holding::begin(&scene, &[]);
    let wrapper = wrapper().display().to_string();
    run(&mut in_scene(&scene, &outer.env, &[&wrapper, "hold"])).expect_code(0);
    let all = holds(&scene);
    assert_eq!(all.len(), 2);
    run(&mut release(&scene, &outer.env, &[])).expect_code(0);
    assert!(!lock.is_held().await);
    outer.is_over();
    for hold in all {
        assert!(is_gone(hold.runner()));
    }
    assert_eq!(holds(&scene).len(), 0);
}

#[tokio::test]
async fn only_the_hold_that_is_meant_is_released() {
    let (one, other) = (Lock::new("one").await, Lock::new("other").await);
    let first = one.scene("");
    let state = first.path(STATE_DIR).display().to_string();
    let second = other.scene("").env("TFWRAP_STATE_DIR", &state);
    let hold = Holding::begin(&first, &[]);
    let wrapper = wrapper().display().to_string();
    run(&mut in_scene(&second, &[], &[&wrapper, "hold"])).expect_code(0);
    let vague = run(&mut release(&first, &[], &[])).expect_code(64);
    let id = other.id().await.expect("it is held");
    assert!(vague.stderr.contains(&id), "{}", vague.stderr);
    let mistyped = run(&mut release(&first, &[], &["no-such-id"])).expect_code(64);
    assert!(mistyped.stderr.contains(&id), "{}", mistyped.stderr);
    run(&mut release(&first, &hold.env, &[])).expect_code(0);
    assert!(!one.is_held().await && other.is_held().await);
    // One that is over already is no reason to release whatever else there is.
    run(&mut release(&first, &hold.env, &[])).expect_code(0);
    assert!(other.is_held().await, "somebody else's was released");
    run(&mut release(&first, &[], &[&id])).expect_code(0);
    assert!(!other.is_held().await);
}
