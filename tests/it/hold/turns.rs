//! One Terraform at a time under a lock, and none when it is given back, whoever is killed,
//! removed, or out of sight.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use super::{Holding, release};
use crate::aftermath::{EndsHolds, Lock, Receipt, STATE_DIR, kill_dead};
use crate::support::harness::{Gate, Running, applying, eventually, pause, run, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{clean, dynamodb, local_backend_dir, terraform};
use crate::wrapped::{is_gone, wait_until, wrapper};

/// A directory with a local state, held, and the environment that its hold gave.
pub(super) struct Held {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
    _ends: EndsHolds,
}

impl Held {
    #[track_caller]
    pub(super) fn begin(options: &[&str]) -> Self {
        let dir = local_backend_dir();
        let ends = EndsHolds(dir.path().join(STATE_DIR));
        let mut hold = tfwrap(dir.path());
        let done = run(hold.args(options).args(["hold", "--format=json"])).expect_code(0);
        Self { env: environment(&done.stdout, &hold), dir, _ends: ends }
    }

    /// Only the directory.
    pub(super) fn nothing() -> Self {
        let dir = local_backend_dir();
        let ends = EndsHolds(dir.path().join(STATE_DIR));
        Self { env: Vec::new(), dir, _ends: ends }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A later command.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        clean(&mut command, self.path());
        command.args(&words[1..]).envs(self.env.iter().cloned());
        command
    }

    pub(super) fn apply(&self, provisioner: &str) -> Command {
        applying(self.command(&["terraform"]), provisioner)
    }

    pub(super) fn release(&self) -> Command {
        self.command(&[&wrapper().display().to_string(), "release"])
    }

    /// Whether stock Terraform is shut out.
    #[track_caller]
    pub(super) fn is_held(&self) -> bool {
        is_held(self.path())
    }

    /// Kills the tfwrap of the command that is at work, and its guardian before that can do
    /// anything.
    #[track_caller]
    fn kill_both(&self) {
        kill_both(self.path());
    }
}

/// The environment that a hold has given, with its `PATH`.
pub(super) fn environment(answer: &str, hold: &Command) -> Vec<(String, String)> {
    let given: Value = serde_json::from_str(answer).expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let env = given["env"].as_object().expect("variables").iter();
    let mut env: Vec<_> = env.map(|(name, value)| (name.clone(), text(value))).collect();
    let path = hold.get_envs().find_map(|(name, value)| value.filter(|_| name == "PATH"));
    let path = path.expect("a PATH").to_str().expect("text");
    env.push(("PATH".to_owned(), format!("{}:{path}", text(&given["path"]))));
    env
}

#[track_caller]
fn is_held(dir: &Path) -> bool {
    let stock = run(terraform(dir).args(["plan", "-no-color"]));
    let refused = stock.stderr.contains("Error acquiring the state lock");
    assert_eq!(refused, stock.status.code() != Some(0), "{}", stock.stderr);
    refused
}

#[track_caller]
fn kill_both(dir: &Path) {
    let receipt = wait_until("a receipt with a child", || {
        let mut all = Receipt::all(&dir.join(STATE_DIR)).into_iter();
        all.find(|it| !it.is_hold() && !it.text["child"].is_null())
    });
    kill(receipt.runner(), Signal::SIGSTOP).expect("it is there");
    kill_dead(receipt.guardian().expect("a guardian"));
    kill_dead(receipt.runner());
}

fn turns(dir: &Path) -> String {
    fs::read_to_string(dir.join("turns")).unwrap_or_default()
}

#[test]
fn a_killed_command_keeps_its_turn_until_its_terraform_has_ended() {
    // As a wrapper does that closes what it has inherited: then the receipt tells of it.
    let closing = tempfile::tempdir().expect("a directory");
    let path = closing.path().join("terraform");
    let real = run(Command::new("sh").args(["-c", "command -v terraform"])).stdout;
    let script = "for n in {100..140}; do eval \"exec $n>&-\"; done";
    let text = format!("#!/usr/bin/env bash\n{script}\nexec {} \"$@\"\n", real.trim());
    crate::support::harness::program(&path, &text);

    for program in [None, Some(path)] {
        let held = Held::begin(&[]);
        let gate = Gate::new(held.path(), "first");
        let mut first = held.apply(&format!("({}); echo first >> turns", gate.command()));
        first.envs(program.iter().map(|program| ("TFWRAP_TERRAFORM", program)));
        let first = Running::start(&mut first);
        gate.reached();
        held.kill_both();
        let mut second = Running::start(&mut held.apply("echo second >> turns"));
        second.says("uses the state of the lock");
        if program.is_some() {
            second.says("left behind by a command of this run");
        }
        pause(Duration::from_millis(500));
        assert_eq!(turns(held.path()), "");
        // A stop ends the wait.
        second.signal(Signal::SIGTERM);
        second.finish().expect_code(143);
        second = Running::start(&mut held.apply("echo second >> turns"));
        second.says("uses the state of the lock");
        gate.open();
        second.finish().expect_code(0);
        assert_eq!(turns(held.path()), "first\nsecond\n");
        drop(first.finish());
        run(&mut held.release()).expect_code(0);
        assert!(!held.is_held());
    }
}

/// Its guardian interrupts the first, which then needs a while to save its state.
#[tokio::test]
async fn a_command_waits_for_what_a_guardian_ends() {
    let lock = Lock::new("guarded-turn").await;
    let script = "begin @/works; log @/log; on SIGINT exit 0 after 1500; ready @/ready; wait";
    let scene = lock.scene(script);
    let hold = Holding::begin(&scene, &[]);
    let first = hold.apply(&scene);
    let child = scene.pid_in("ready");
    kill_dead(first.pid());
    let second = hold.apply(&scene);
    second.says("another command of this run");
    assert!(!is_gone(child));
    scene.pid_in("ready");
    let works = fs::read_to_string(scene.path("works")).expect("notes");
    assert!(is_gone(child) && !works.contains("overlap"), "{works}");
    second.signal(Signal::SIGTERM);
    second.finish().expect_code(0);
    drop(first.finish());
    // The control: outside the hold, the second meets nobody.
    let notes = || fs::read_to_string(scene.path("works")).expect("notes");
    let third = hold.apply(&scene);
    scene.pid_in("ready");
    let _before = fs::remove_file(scene.path("ready"));
    let fake = crate::wrapped::fake_terraform().display().to_string();
    let bare = Running::start(&mut super::in_scene(&scene, &[], &[&fake]));
    let bare_child = scene.pid_in("ready");
    assert!(notes().contains("overlap"), "the test proves nothing: {}", notes());
    kill(bare_child, Signal::SIGINT).expect("it is there");
    drop(bare.finish());
    third.signal(Signal::SIGTERM);
    drop(third.finish());
    run(&mut release(&scene, &hold.env, &[])).expect_code(0);
}

#[tokio::test]
async fn a_command_killed_at_any_point_leaves_its_turn_to_the_next() {
    let lock = Lock::new("turn-crash").await;
    let work = "on SIGINT exit 0 after 200; begin @/works; sleep 150; end @/works; exit 0";
    let scene = lock.scene(work);
    let hold = Holding::begin(&scene, &[]);
    let id = lock.id().await;
    let terraform = hold.path.join("terraform").display().to_string();
    let apply = |name: &str, value: &str| {
        let mut env = hold.env.clone();
        env.push((name.to_owned(), value.to_owned()));
        super::in_scene(&scene, &env, &[&terraform, "apply"])
    };
    let count = scene.path("points").display().to_string();
    run(&mut apply("TFWRAP_CRASH_COUNT_FILE", &count)).expect_code(0);
    let points = fs::read_to_string(&count).expect("a count");
    let points: u32 = points.parse().expect("a number");
    assert!(points > 10, "{points}");
    for point in 1..=points {
        drop(run(&mut apply("TFWRAP_CRASH_POINT", &point.to_string())));
        let next = run(&mut apply("NEXT", "")).expect_code(0);
        let works = fs::read_to_string(scene.path("works")).expect("notes");
        assert!(!works.contains("overlap"), "point {point}: {works}\n{}", next.stderr);
        assert_eq!(lock.id().await, id, "point {point}");
    }
    run(&mut release(&scene, &hold.env, &[])).expect_code(0);
    assert!(!lock.is_held().await);
    hold.is_over();
}

#[test]
fn one_of_two_below_a_run_that_is_killed_keeps_the_other_waiting() {
    let dir = local_backend_dir();
    let gate = Gate::new(dir.path(), "first");
    let apply = |provisioner: &str| {
        format!("terraform apply -auto-approve -no-color -var 'command={provisioner}'")
    };
    let first = apply(&format!("({}); echo first >> turns", gate.command()));
    let text = format!(
        "{first} & while ! test -e first.killed; do sleep 0.05; done; {}; wait; true",
        apply("echo second >> turns")
    );
    let ours = Running::start(tfwrap(dir.path()).args(["run", "--", "sh", "-c", &text]));
    gate.reached();
    let inner = wait_until("its receipt", || {
        let all = Receipt::all(&dir.path().join(STATE_DIR));
        all.into_iter().find(|it| it.text["operation"] != "run" && !it.text["child"].is_null())
    });
    kill(inner.runner(), Signal::SIGSTOP).expect("it is there");
    kill_dead(inner.guardian().expect("a guardian"));
    kill_dead(inner.runner());
    fs::write(dir.path().join("first.killed"), "").expect("a file");
    ours.says("another command of this run");
    assert_eq!(turns(dir.path()), "");
    gate.open();
    let done = ours.finish().expect_code(0);
    assert_eq!(turns(dir.path()), "first\nsecond\n", "{}", done.stderr);
    assert!(!is_held(dir.path()));
}

/// The store is slow: a release begins after a command has read that the lock is held for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_does_not_come_between_a_look_and_the_run() {
    for look in [0, 1] {
        let proxy = Proxy::before(&dynamodb().url);
        let lock = Lock::new(&format!("between-{look}")).await;
        let script = "log @/log; on SIGUSR1 exit 5; ready @/ready; wait";
        let scene = lock.scene_at(proxy.url(), script);
        let hold = Holding::begin(&scene, &[]);
        let id = lock.id().await;
        proxy.plan([Rule::on("GetItem", Fault::HoldReply).after(look).times(1)]);
        let before = proxy.count("GetItem");
        let apply = hold.apply(&scene);
        proxy.arrived("GetItem", before + look + 1).await;
        let releasing = Running::start(&mut release(&scene, &hold.env, &[]));
        if look == 0 {
            // Not under it yet: it finds out.
            releasing.finish().expect_code(0);
            assert!(!lock.is_held().await);
            proxy.release();
            let child = scene.pid_in("ready");
            let own = lock.id().await;
            assert!(own.is_some() && own != id, "it runs under nothing");
            kill(child, Signal::SIGUSR1).expect("the child is there");
        } else {
            releasing.says("still runs under the lock");
            assert_eq!(lock.id().await, id);
            proxy.release();
            let child = scene.pid_in("ready");
            assert_eq!(lock.id().await, id, "it runs under nothing");
            kill(child, Signal::SIGUSR1).expect("the child is there");
            releasing.finish().expect_code(0);
        }
        apply.finish().expect_code(5);
        lock.freed().await;
        hold.is_over();
    }
}

/// Says why a test of something that this machine does not allow proves nothing here.
fn skipped(why: &str) {
    #[expect(clippy::print_stderr, reason = "a test that is skipped must be seen")]
    {
        eprintln!("SKIPPED: {why}");
    }
}

const APART: [&str; 3] = ["unshare", "-Urpf", "--mount-proc"];

fn cannot_be_apart() -> bool {
    let cannot = run(Command::new(APART[0]).args(&APART[1..]).arg("true")).status.code() != Some(0);
    if cannot {
        skipped("no PID namespace can be made");
    }
    cannot
}

/// As in a container.
#[test]
fn a_lock_is_not_given_back_under_a_terraform_that_cannot_be_seen() {
    if cannot_be_apart() {
        return;
    }
    for options in [&[][..], &["--max-hold", "1s"]] {
        let held = Held::begin(options);
        let (gate, go) = (Gate::new(held.path(), "apart"), Gate::new(held.path(), "second"));
        let words = [&APART[..], &["terraform"]].concat();
        let first = Running::start(&mut applying(held.command(&words), &gate.command()));
        gate.reached();
        let releasing = Running::start(&mut held.release());
        // Of another namespace; to end each of these would be more than one stop.
        releasing.says("still run under the lock; the lock is released when they have ended");
        releasing.says("to see what it is: fuser -v");
        let second = Running::start(&mut held.apply(&go.command()));
        second.says("another command of this run");
        pause(Duration::from_millis(1500));
        assert!(held.is_held() && !releasing.is_over() && !go.is_reached());
        gate.open();
        go.open();
        first.finish().expect_code(0);
        releasing.finish().expect_code(0);
        second.finish().expect_code(0);
        assert!(!held.is_held());
    }
    // The end of a run is no other.
    let dir = local_backend_dir();
    let gate = Gate::new(dir.path(), "apart");
    let apply = format!("{} terraform apply -auto-approve -no-color", APART.join(" "));
    let text = format!(
        "{apply} -var 'command={}' & while ! test -e apart.ready; do sleep 0.05; done",
        gate.command()
    );
    let ours = Running::start(tfwrap(dir.path()).args(["run", "--", "sh", "-c", &text]));
    ours.says("still run under the lock; the lock is released when they have ended");
    assert!(!ours.stderr().contains("to end it"), "{}", ours.stderr());
    assert!(is_held(dir.path()));
    gate.open();
    ours.finish().expect_code(0);
    assert!(!is_held(dir.path()));
}

/// As `git clean -xfd` does, or a runner that empties `RUNNER_TEMP`.
#[test]
fn a_state_directory_that_is_removed_parts_nobody_from_the_hold() {
    let held = Held::begin(&[]);
    let state = held.path().join(STATE_DIR);
    let gate = Gate::new(held.path(), "first");
    let first = Running::start(&mut held.apply(&gate.command()));
    gate.reached();
    fs::remove_dir_all(&state).expect("it is there");
    let shim = held.env.iter().find(|(name, _)| name == "PATH").expect("a PATH").1.clone();
    let shim = shim.split(':').next().expect("a directory").to_owned();
    let again = || {
        // The shim went with it; `tfwrap apply` does not need it.
        applying(held.command(&[&wrapper().display().to_string()]), "touch second")
    };
    assert!(!Path::new(&shim).exists());
    let refused = run(&mut again()).expect_code(78).stderr;
    assert!(refused.contains("cannot join") && refused.contains("TFWRAP_STATE_DIR"), "{refused}");
    assert!(!held.path().join("second").exists());
    // Its keeper tells of it again, and waits for the first.
    eventually("a receipt", || Receipt::all(&state).iter().any(Receipt::is_hold));
    let releasing = Running::start(&mut held.release());
    releasing.says("still runs under the lock");
    assert!(held.is_held() && !releasing.is_over());
    gate.open();
    first.finish().expect_code(0);
    releasing.finish().expect_code(0);
    assert!(!held.is_held());

    // When nobody is at work, the next finds it whole again.
    let held = Held::begin(&[]);
    let state = held.path().join(STATE_DIR);
    fs::remove_dir_all(&state).expect("it is there");
    eventually("a door", || {
        fs::read_dir(&state).is_ok_and(|mut entries| {
            entries.any(|it| it.is_ok_and(|it| it.file_name().to_string_lossy().contains("turn-")))
        })
    });
    let mut next = applying(held.command(&[&wrapper().display().to_string()]), "true");
    let done = run(&mut next).expect_code(0);
    assert!(!done.stderr.contains("waiting"), "{}", done.stderr);
    assert!(held.is_held());
    // While it cannot, nobody says that nothing is held.
    let keeper = Receipt::all(&state).remove(0).runner();
    kill(keeper, Signal::SIGSTOP).expect("it is there");
    fs::remove_dir_all(&state).expect("it is there");
    let gone = run(&mut held.release()).expect_code(74).stderr;
    assert!(gone.contains("is still held by"), "{gone}");
    kill(keeper, Signal::SIGCONT).expect("it is there");
    eventually("a receipt", || Receipt::all(&state).iter().any(Receipt::is_hold));
    run(&mut held.release()).expect_code(0);
    assert!(!held.is_held());
}

#[test]
fn a_command_that_its_holder_would_not_see_is_refused() {
    let held = Held::begin(&[]);
    let mut other = held.apply("touch written");
    let done = run(other.env("TFWRAP_STATE_DIR", held.path().join("other"))).expect_code(78);
    assert!(done.stderr.contains("cannot join"), "{}", done.stderr);
    assert!(!done.stderr.contains("directory of your own"), "{}", done.stderr);
    // A copy has all the files of the directory, and nobody who would look into it.
    let (state, copy) = (held.path().join(STATE_DIR), held.path().join("copy"));
    let copied = std::process::Command::new("cp").arg("-a").args([&state, &copy]).status();
    assert!(copied.expect("cp").success());
    let mut other = held.apply("touch written");
    let done = run(other.env("TFWRAP_STATE_DIR", &copy)).expect_code(78);
    assert!(done.stderr.contains("copy of its directory"), "{}", done.stderr);
    // Nor does one come in that can leave no word of itself.
    let mut silent = held.apply("touch written");
    run(silent.env("TFWRAP_TEST_OFF", "receipts")).expect_code(78);
    let words = ["unshare", "-Urpf", "terraform"];
    if !cannot_be_apart() {
        let blind = run(&mut applying(held.command(&words), "touch written")).expect_code(78);
        assert!(blind.stderr.contains("cannot keep a receipt of this command"), "{}", blind.stderr);
    }
    assert!(!held.path().join("written").exists() && held.is_held());
    // The directory moved away and back is the same again.
    let aside = held.path().join("aside");
    fs::rename(&state, &aside).expect("it is there");
    fs::write(&state, "").expect("a file in its place");
    pause(Duration::from_millis(1500));
    run(&mut applying(held.command(&[&wrapper().display().to_string()]), "true")).expect_code(78);
    fs::remove_file(&state).expect("it is there");
    fs::rename(&aside, &state).expect("it is there");
    // The control.
    run(&mut held.apply("true")).expect_code(0);
    run(&mut held.release()).expect_code(0);
}

/// As with `sudo -E`.
#[test]
fn a_command_of_another_user_is_refused_and_told_nothing_that_would_part_it() {
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let tfwrap_path = wrapper().display().to_string();
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new(nobody[0]);
        command.args(&nobody[1..]).args(words);
        command
    };
    if !geteuid().is_root() {
        return skipped("only root can be another user");
    }
    let can = Command::new("sh").args(["-c", "command -v setpriv"]).output();
    if !can.is_ok_and(|it| it.status.success())
        || run(&mut as_nobody(&[&tfwrap_path, "--version"])).status.code() != Some(0)
    {
        return skipped("no other user can run the program");
    }
    let dir = local_backend_dir();
    let _ends = EndsHolds(dir.path().join(STATE_DIR));
    nix::unistd::chown(dir.path(), Some(65534.into()), Some(65534.into())).expect("we are root");
    let hold = tfwrap(dir.path());
    let mut command = as_nobody(&[&tfwrap_path, "hold", "--format=json"]);
    command.current_dir(dir.path()).env_clear();
    command.envs(hold.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let env = environment(&run(&mut command).expect_code(0).stdout, &hold);
    for words in [&["terraform", "apply", "-auto-approve"][..], &[&tfwrap_path, "run", "true"]] {
        let mut command = Command::new(words[0]);
        clean(&mut command, dir.path());
        let done = run(command.args(&words[1..]).envs(env.iter().cloned())).expect_code(78);
        assert!(!done.stderr.contains("directory of your own"), "{}", done.stderr);
        assert!(done.stderr.contains("as the user of the `run` or `hold`"), "{}", done.stderr);
    }
    assert!(is_held(dir.path()));
    let mut release = as_nobody(&[&tfwrap_path, "release"]);
    release.current_dir(dir.path()).env_clear();
    let all = hold.get_envs().filter_map(|(name, value)| Some((name, value?)));
    run(release.envs(all).envs(env)).expect_code(0);
    assert!(!is_held(dir.path()));
}

#[test]
fn the_lock_around_is_known_by_whatever_name() {
    let dir = local_backend_dir();
    let infra = dir.path().join("infra");
    fs::create_dir_all(infra.join("scripts")).expect("a directory");
    fs::copy(dir.path().join("main.tf"), infra.join("main.tf")).expect("a copy");
    std::os::unix::fs::symlink(&infra, dir.path().join("linked")).expect("a link");
    // Another directory, and the same state.
    let other = dir.path().join("other");
    fs::create_dir(&other).expect("a directory");
    fs::copy(infra.join("main.tf"), other.join("main.tf")).expect("a copy");
    let state = "../infra/terraform.tfstate";
    std::os::unix::fs::symlink(state, other.join("terraform.tfstate")).expect("a link");
    let ways = [
        "terraform plan",
        "terraform -chdir=. plan",
        "cd scripts; terraform -chdir=.. plan",
        "cd scripts/..; terraform plan",
        "cd ..; terraform -chdir=./infra plan",
        "cd ..; terraform -chdir=linked plan",
        "cd ../linked; terraform plan",
        "cd ../other; terraform plan",
        "terraform plan -state=./terraform.tfstate",
        "terraform plan -state=scripts/../terraform.tfstate",
    ];
    for way in ways {
        let mut command = tfwrap(&infra);
        command.env("TFWRAP_STATE_DIR", dir.path().join(STATE_DIR));
        command.env("TFWRAP_LOCK_TIMEOUT", "0s");
        let done = run(command.args(["run", "--", "sh", "-ec", way]));
        assert_eq!(done.status.code(), Some(0), "{way}: {}", done.stderr);
    }
    // The control: another state is another lock, which this run does not have.
    let gate = Gate::new(dir.path(), "theirs");
    let stock = Running::start(&mut applying(terraform(dir.path()), &gate.command()));
    gate.reached();
    let mut command = tfwrap(&infra);
    command.env("TFWRAP_LOCK_TIMEOUT", "0s").args(["run", "--", "sh", "-ec"]);
    run(command.arg("terraform -chdir=.. plan")).expect_code(75);
    gate.open();
    stock.finish().expect_code(0);
}

/// By two ways to one table, too, which nobody can tell to be one from their names.
#[tokio::test(flavor = "multi_thread")]
async fn two_names_of_a_lock_that_is_held_are_one_place_under_it() {
    let (proxy, lock) = (Proxy::before(&dynamodb().url), Lock::new("two-names").await);
    let scene = lock.scene("exit 5");
    let hold = Holding::begin(&scene, &[]);
    let (one, other) = (lock.url_at(&dynamodb().url), lock.url_at(proxy.url()));
    let wrapper = wrapper().display().to_string();
    let words = [&*wrapper, "--lock", &one, "--lock", &other, "--lock-timeout=0s", "apply"];
    run(&mut super::in_scene(&scene, &hold.env, &words)).expect_code(5);
    run(&mut super::in_scene(&scene, &hold.env, &[&words[..1], &words[3..]].concat()))
        .expect_code(5);
    // The control: who is told of nothing is shut out.
    run(&mut super::in_scene(&scene, &[], &words)).expect_code(75);
    run(&mut release(&scene, &hold.env, &[])).expect_code(0);
    assert!(!lock.is_held().await);
}

/// The lock is the kernel's, and Terraform itself has it open.
#[test]
fn a_local_lock_lasts_as_long_as_its_terraform_when_all_else_is_killed() {
    let dir = local_backend_dir();
    let gate = Gate::new(dir.path(), "orphan");
    let ours = Running::start(&mut applying(tfwrap(dir.path()), &gate.command()));
    gate.reached();
    kill_both(dir.path());
    assert!(is_held(dir.path()), "free under a Terraform");
    let recovered = run(tfwrap(dir.path()).arg("recover")).expect_code(74);
    for words in ["still runs", "(`terraform`)", "`kill -INT "] {
        assert!(recovered.stderr.contains(words), "{}", recovered.stderr);
    }
    assert!(is_held(dir.path()));
    gate.open();
    drop(ours.finish());
    eventually("the end of Terraform", || !is_held(dir.path()));
    run(tfwrap(dir.path()).arg("recover")).expect_code(0);
    run(&mut applying(terraform(dir.path()), "true")).expect_code(0);
}

/// A command under it has a lock of its own beside the holder's, also where somebody between them has
/// closed what it inherited.
#[test]
fn a_command_keeps_the_local_lock_above_it_when_the_holder_and_its_guardian_are_killed() {
    let closing = "for n in {100..140}; do eval \"exec $n>&-\"; done";
    for below_run in [false, true] {
        let held = if below_run { Held::nothing() } else { Held::begin(&[]) };
        let gate = Gate::new(held.path(), "under");
        let mut under = if below_run {
            let apply = applying(Command::new("terraform"), &gate.command());
            let words = apply.get_args().map(|word| word.to_str().expect("text"));
            let words = shell_words::join(["terraform"].into_iter().chain(words));
            let mut outer = tfwrap(held.path());
            outer.args(["run", "--", "bash", "-c", &format!("{closing}; {words}")]);
            outer
        } else {
            held.apply(&gate.command())
        };
        let under = Running::start(&mut under);
        gate.reached();
        let receipts = Receipt::all(&held.path().join(STATE_DIR));
        let own = |it: &&Receipt| it.text["locks"][0]["inherited"] == Value::Bool(false);
        let holder = receipts.iter().find(own).expect("the holder's");
        kill(holder.runner(), Signal::SIGSTOP).expect("it is there");
        kill_dead(holder.guardian().expect("a guardian"));
        kill_dead(holder.runner());
        assert!(held.is_held(), "free under a Terraform, below a run: {below_run}");
        gate.open();
        drop(under.finish());
        eventually("a free lock", || !held.is_held());
        let applied = fs::read_to_string(held.path().join("terraform.tfstate")).expect("a state");
        assert!(applied.contains("terraform_data"), "{applied}");
    }
}

/// What a provisioner leaves on purpose has it open, too, and keeps nothing.
#[test]
fn a_daemon_that_a_provisioner_leaves_keeps_neither_lock_nor_turn() {
    let leaving = "sleep 60 < /dev/null > /dev/null 2>&1 & echo $! > daemon";
    let daemon = |dir: &Path| {
        let pid = fs::read_to_string(dir.join("daemon")).expect("its number");
        Pid::from_raw(pid.trim().parse().expect("a number"))
    };
    let dir = local_backend_dir();
    run(&mut applying(tfwrap(dir.path()), leaving)).expect_code(0);
    assert!(!is_gone(daemon(dir.path())) && !is_held(dir.path()));
    kill_dead(daemon(dir.path()));

    let held = Held::begin(&[]);
    run(&mut held.apply(leaving)).expect_code(0);
    let next = run(&mut held.apply("true")).expect_code(0);
    assert!(!next.stderr.contains("uses the state"), "{}", next.stderr);
    run(&mut held.release()).expect_code(0);
    assert!(!is_gone(daemon(held.path())) && !held.is_held());
    kill_dead(daemon(held.path()));
}
