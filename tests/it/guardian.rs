//! The guardian: whatever becomes of tfwrap, the child gets one interrupt, ends, and then the lock
//! goes.

mod ended;
pub(crate) mod limits;
mod shapes;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::aftermath::{Lock, Receipt, STATE_DIR, TTL, kill_dead, ours};
use crate::support::harness::{self, Gate, applying, eventually, pause, s3_dir};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{BUCKET, dynamodb, local_backend_dir, s3, terraform};
use crate::wrapped::{LOGS_ALL, Running, Scene, is_gone, uptime, wait_until, wrapper};

/// A child that takes a while to end.
const SLOW: &str = "log @/log; on SIGTERM log; on SIGINT exit 0 after 700; ready @/ready; wait";

fn gone(what: &str, pid: Pid) {
    wait_until(what, || is_gone(pid).then_some(()));
}

/// A run whose child is ready, with its guardian and its child.
fn started(scene: Scene) -> (Running, Pid, Pid) {
    let running = scene.start().ready();
    let guardian = Receipt::of(&running.scene).guardian().expect("a guardian");
    let child = running.scene.pid_in("ready");
    (running, guardian, child)
}

fn kill_tfwrap(running: &mut Running) {
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
}

#[tokio::test]
async fn after_a_kill_the_child_gets_one_interrupt_and_the_lock_goes_with_it() {
    let lock = Lock::new("killed").await;
    let (mut running, guardian, child) = started(lock.scene(SLOW));
    kill_tfwrap(&mut running);
    lock.freed_after(child).await;
    gone("the guardian", guardian);
    let log = running.scene.log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].starts_with("SIGINT 1 "), "{log:?}");
    // What it did is still to be told, and there is nothing left to give back.
    let left = Receipt::all(&running.scene.path(STATE_DIR));
    assert_eq!((left.len(), left[0].locks()), (1, 0), "{left:?}");
    let told = harness::run(&mut ours(&running.scene, &["recover"])).expect_code(0);
    assert!(told.stderr.contains("earlier: interrupted the child"), "{}", told.stderr);
    assert_eq!(fs::read_dir(running.scene.path(STATE_DIR)).expect("it is there").count(), 0);
}

/// The negative control: what the guardian is there to prevent.
#[tokio::test]
async fn without_a_guardian_the_child_lives_on_and_the_lock_stays() {
    let lock = Lock::new("unguarded").await;
    let scene = lock.scene(SLOW).env("TFWRAP_TEST_OFF", "guardian");
    let mut running = scene.start().ready();
    let child = running.scene.pid_in("ready");
    kill_tfwrap(&mut running);
    pause(Duration::from_millis(800));
    assert!(!is_gone(child) && running.scene.log().is_empty(), "{:?}", running.scene.log());
    assert!(lock.is_held().await);
    kill_dead(child);
    pause(Duration::from_millis(500));
    assert!(lock.is_held().await, "and nobody gives it back");
}

#[tokio::test]
async fn a_killed_apply_on_s3_is_ended_with_its_state_written() {
    let dir = s3_dir("guardian/s3").await;
    let working = Gate::new(dir.path(), "working");
    let ours =
        harness::Running::start(&mut applying(harness::tfwrap(dir.path()), &working.command()));
    working.reached();
    ours.signal(Signal::SIGKILL);
    // Its streams are Terraform's, too: this ends when that has.
    drop(ours.finish());
    let free = async || dynamodb().get_raw(&dir.table, &dir.lock_id()).await.is_none();
    for _ in 0..1500 {
        if free().await {
            break;
        }
        pause(Duration::from_millis(20));
    }
    assert!(free().await, "the lock stays");
    let state = s3().get(BUCKET, &dir.key).expect("a state was written");
    assert!(String::from_utf8_lossy(&state).contains("terraform_data"));
    // Its digest fits, too.
    harness::run(terraform(dir.path()).args(["plan", "-no-color"])).expect_code(0);
}

#[test]
fn a_local_lock_is_kept_by_the_guardian_until_the_child_has_ended() {
    let dir = local_backend_dir();
    let working = Gate::new(dir.path(), "working");
    // A Terraform of the child's group, by its arguments, that goes on, whatever it is told. All
    // else would be ended after that.
    fs::write(dir.path().join("work.sh"), working.command()).expect("a script");
    let command = "( trap \"\" INT TERM; exec sh ./work.sh -lock=false ) & wait";
    let ours = harness::Running::start(&mut applying(harness::tfwrap(dir.path()), command));
    working.reached();
    ours.signal(Signal::SIGKILL);
    for _ in 0..2 {
        let stock = harness::run(terraform(dir.path()).args(["plan", "-no-color"]));
        let stock = stock.expect_code(1);
        assert!(stock.stderr.contains("acquiring the state lock"), "{}", stock.stderr);
    }
    working.open();
    drop(ours.finish());
    eventually("stock Terraform gets in", || {
        let plan = harness::run(terraform(dir.path()).args(["plan", "-no-color"]));
        plan.status.success()
    });
}

#[test]
fn the_kernels_lock_is_never_free_while_a_killed_runs_child_lives() {
    let (mut running, guardian, child) = started(Scene::new(SLOW));
    kill_tfwrap(&mut running);
    gone("the child", child);
    gone("the guardian", guardian);
    running.scene.expect_free();
    assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
}

#[tokio::test]
async fn a_child_that_does_not_end_is_killed_after_the_orphan_grace() {
    let lock = Lock::new("grace").await;
    let script = "log @/log; ignore SIGINT; ignore SIGTERM; ready @/ready; wait";
    let scene = lock.scene(script).options(&["--orphan-grace", "2s"]);
    let (mut running, guardian, child) = started(scene.env("RUNNER_TRACKING_ID", "github_1"));
    let since = uptime();
    kill_tfwrap(&mut running);
    // It has become another program by now, under the same name.
    pause(Duration::from_millis(500));
    looks_like_no_tfwrap(guardian);
    gone("the child", child);
    let took = uptime().since(since);
    assert!(took >= Duration::from_millis(1900), "killed after {took:?}");
    assert!(lock.is_held().await, "a request of a killed child may still be on its way");
    lock.freed().await;
    gone("the guardian", guardian);
}

#[tokio::test]
async fn while_it_waits_for_the_child_the_guardian_beats_on() {
    let lock = Lock::new("beats").await;
    let ends_after = TTL + Duration::from_secs(3);
    let script = format!(
        "log @/log; on SIGINT exit 0 after {}; ready @/ready; wait",
        ends_after.as_millis()
    );
    let (mut running, _, child) = started(lock.scene(&script).options(&["--lease", "15s"]));
    let mut next = lock.scene("exit 0").options(&["--lease", "15s"]).start();
    wait_until("a waiter", || next.stderr().contains("waiting").then_some(()));
    kill_tfwrap(&mut running);
    assert_eq!(next.bare_code(), Some(0), "{}", next.stderr());
    assert!(is_gone(child), "two children at once");
    assert!(!next.stderr().contains("took over"), "{}", next.stderr());
    assert_eq!(running.scene.count("SIGINT"), 1, "{:?}", running.scene.log());
}

#[tokio::test]
async fn a_killed_guardian_is_replaced_by_one_that_works() {
    let lock = Lock::new("replaced").await;
    let remote = started(lock.scene(SLOW));
    let local = started(Scene::new(SLOW));
    for (mut running, first, child) in [remote, local] {
        kill(first, Signal::SIGKILL).expect("it is there");
        let second = wait_until("another guardian", || {
            Receipt::of(&running.scene).guardian().filter(|guardian| *guardian != first)
        });
        assert!(running.is_running() && running.scene.log().is_empty());
        kill_tfwrap(&mut running);
        gone("the child", child);
        gone("the second guardian", second);
        assert_eq!(running.scene.count("SIGINT"), 1, "{:?}", running.scene.log());
        // Of the remote one's this looks only at the child's notes.
        running.scene.expect_free();
    }
    assert!(!lock.is_held().await);
}

#[tokio::test]
async fn a_guardian_that_is_killed_again_and_again_is_done_without() {
    let lock = Lock::new("given-up").await;
    let (mut running, mut guardian, _) = started(lock.scene(LOGS_ALL));
    for _ in 0..4 {
        kill_dead(guardian);
        let before = guardian;
        guardian = wait_until("another guardian", || {
            Receipt::of(&running.scene).guardian().filter(|guardian| *guardian != before)
        });
    }
    kill_dead(guardian);
    wait_until("a warning", || running.stderr().contains("no guardian watches").then_some(()));
    running.signal(Signal::SIGTERM);
    running.scene.wait_for_log("SIGINT 1");
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.bare_code(), Some(5), "{}", running.stderr());
    assert!(!lock.is_held().await);
}

#[tokio::test]
async fn a_tfwrap_that_stands_still_has_no_child_when_others_take_over() {
    let lock = Lock::new("stopped").await;
    let script = "log @/log; on SIGINT log; tick @/ticks 20; ready @/ready; wait";
    let (mut running, _, child) = started(lock.scene(script).options(&["--lease", "15s"]));
    let mut next = lock.scene("exit 0").options(&["--lease", "15s"]).start();
    wait_until("a waiter", || next.stderr().contains("waiting").then_some(()));
    // The negative control: without a guardian there are two children then.
    let other = Lock::new("stopped-control").await;
    let scene = other.scene(script).options(&["--lease", "15s"]);
    let mut control = scene.env("TFWRAP_TEST_OFF", "guardian").start().ready();
    let mut after = other.scene("exit 0").options(&["--lease", "15s"]).start();
    wait_until("a waiter", || after.stderr().contains("waiting").then_some(()));
    control.signal(Signal::SIGSTOP);

    running.signal(Signal::SIGSTOP);
    let since = uptime();
    gone("the child", child);
    let took = uptime().since(since);
    assert!(took < TTL, "killed after {took:?}");
    assert!(!next.stderr().contains("took over"), "{}", next.stderr());
    assert_eq!(next.bare_code(), Some(0), "{}", next.stderr());
    assert!(next.stderr().contains("took over"), "{}", next.stderr());
    running.signal(Signal::SIGCONT);
    assert_eq!(running.bare_code(), Some(76), "{}", running.stderr());
    assert_eq!(after.bare_code(), Some(0), "{}", after.stderr());
    assert!(!is_gone(control.scene.pid_in("ready")), "the test proves nothing");
    control.signal(Signal::SIGCONT);
    assert_eq!(control.bare_code(), Some(76), "{}", control.stderr());
}

/// The same with nobody who waits: the lock is still ours, but the child was fenced.
#[tokio::test]
async fn a_child_that_the_guardian_fenced_is_76_even_if_the_lock_is_still_ours() {
    let lock = Lock::new("fenced").await;
    let (mut running, _, child) = started(lock.scene(LOGS_ALL).options(&["--lease", "15s"]));
    running.signal(Signal::SIGSTOP);
    gone("the child", child);
    running.signal(Signal::SIGCONT);
    assert_eq!(running.bare_code(), Some(76), "{}", running.stderr());
    // It is said once, and the store is not blamed for it.
    let said = running.stderr();
    assert!(said.contains("tfwrap stood still for"), "{said}");
    assert_eq!(said.matches("before anyone may take").count(), 1, "{said}");
    lock.freed().await;
}

/// Others could have taken it over by then, and nobody has.
#[tokio::test]
async fn after_a_pause_beyond_the_lease_a_lock_that_is_still_ours_was_nobody_elses() {
    let lock = Lock::new("beyond").await;
    let (mut running, _, child) = started(lock.scene(LOGS_ALL).options(&["--lease", "15s"]));
    running.signal(Signal::SIGSTOP);
    pause(Duration::from_secs(17));
    gone("the child", child);
    running.signal(Signal::SIGCONT);
    assert_eq!(running.bare_code(), Some(76), "{}", running.stderr());
    let said = running.stderr();
    assert!(said.contains("the lease has ended") && said.contains("still ours"), "{said}");
    assert!(!said.contains("others may have"), "{said}");
    lock.freed().await;
}

fn variables(pid: Pid) -> Vec<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).expect("it is there");
    let entries = environment.split(|byte| *byte == 0);
    entries.map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
}

#[track_caller]
fn looks_like_no_tfwrap(guardian: Pid) {
    // It may be on its way still.
    wait_until("a session of its own", || {
        (nix::unistd::getsid(Some(guardian)) == Ok(guardian)).then_some(())
    });
    let read = |name: &str| fs::read_to_string(format!("/proc/{guardian}/{name}")).expect("it is");
    assert!(!read("comm").contains("tfwrap"), "{}", read("comm"));
    let first = read("cmdline").split('\0').next().unwrap_or_default().to_owned();
    assert!(!first.contains("tfwrap"), "{first}");
    let found = variables(guardian);
    for name in ["RUNNER_TRACKING_ID", "VSTS_PROCESS_LOOKUP_ID"] {
        assert!(!found.iter().any(|entry| entry.starts_with(name)), "{found:?}");
    }
}

#[tokio::test]
async fn nothing_by_which_runners_find_what_a_job_left_is_in_the_guardian() {
    let lock = Lock::new("hidden").await;
    for (scene, lent) in [(lock.scene(LOGS_ALL), 0), (Scene::new(LOGS_ALL), 1)] {
        let scene = scene
            .env("RUNNER_TRACKING_ID", "github_1")
            .env("VSTS_PROCESS_LOOKUP_ID", "vsts_1")
            .env("JENKINS_SERVER_COOKIE", "cookie");
        let (mut running, guardian, _) = started(scene);
        looks_like_no_tfwrap(guardian);
        assert!(variables(guardian).contains(&"JENKINS_SERVER_COOKIE=cookie".to_owned()));
        let open = || {
            let fds = fs::read_dir(format!("/proc/{guardian}/fd")).expect("it is there");
            // One of them may be closed meanwhile.
            let links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
            let links = links.map(|link| link.display().to_string());
            let own = ["/dev/null", "anon_inode:[signalfd]"];
            links
                .filter(|link| !own.contains(&link.as_str()) && !link.starts_with("socket:"))
                .collect::<Vec<_>>()
        };
        // What it was started through goes; what it is lent comes.
        wait_until("what it keeps open", || {
            let open = open();
            let is_lent = open.iter().all(|link| link.ends_with("/terraform.tfstate"));
            (open.len() == lent && is_lent).then_some(())
        });
        running.signal(Signal::SIGUSR1);
        assert_eq!(running.bare_code(), Some(5), "{}", running.stderr());
        let since = uptime();
        gone("the guardian", guardian);
        let took = uptime().since(since);
        assert!(took < Duration::from_secs(1), "it outlived a run by {took:?}");
        assert_eq!(Receipt::all(&running.scene.path(STATE_DIR)).len(), 0);
    }
}

#[tokio::test]
async fn a_lock_whose_first_write_was_never_answered_is_given_back() {
    for (name, fault) in [("reply-lost", Fault::DropReply), ("write-late", Fault::Hold)] {
        let lock = Lock::new(name).await;
        let proxy = Proxy::before(&dynamodb().url);
        let first = Rule::on("PutItem", fault).key(&lock.key).times(1);
        proxy.plan([first, Rule::all(Fault::Hold).after(if name == "reply-lost" { 0 } else { 9 })]);
        let mut running = lock.scene_at(proxy.url(), LOGS_ALL).start();
        proxy.arrived(&format!("PutItem {}", lock.key), 1).await;
        if name == "reply-lost" {
            wait_until("the record", || {
                let held = std::thread::scope(|scope| {
                    scope.spawn(|| block_on(lock.is_held())).join().expect("no panic")
                });
                held.then_some(())
            });
        }
        let receipts = Receipt::all(&running.scene.path(STATE_DIR));
        let guardian = receipts[0].guardian().expect("a guardian");
        let reads = format!("GetItem {}", lock.key);
        let before = proxy.count(&reads);
        kill_tfwrap(&mut running);
        proxy.plan([]);
        if name == "write-late" {
            proxy.arrived(&reads, before + 1).await;
            assert!(!lock.is_held().await);
            proxy.release();
            for _ in 0..500 {
                if lock.is_held().await {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(lock.is_held().await, "it has landed");
        }
        lock.freed().await;
        gone("the guardian", guardian);
        assert!(!running.scene.path("ready").exists());
    }
}

/// Whose request for the lock was answered: nothing of it can land.
#[tokio::test]
async fn the_guardian_of_a_killed_waiter_looks_for_nothing_that_was_answered() {
    let lock = Lock::new("waiter").await;
    let mut holder = lock.scene(LOGS_ALL).start().ready();
    let id = lock.id().await;
    for no_line in ["false", "true"] {
        let waiter = lock.scene("exit 0").env("TFWRAP_NO_LINE", no_line);
        let mut waiter = waiter.options(&["--lease", "15s"]).start();
        wait_until("a waiter", || waiter.stderr().contains("waiting").then_some(()));
        let receipts = Receipt::all(&waiter.scene.path(STATE_DIR));
        let guardian = receipts[0].guardian().expect("a guardian");
        kill_tfwrap(&mut waiter);
        let since = uptime();
        gone("the guardian", guardian);
        let took = uptime().since(since);
        assert!(took < Duration::from_secs(10), "it looks for {took:?}");
    }
    assert_eq!(lock.id().await, id);
    holder.signal(Signal::SIGUSR1);
    assert_eq!(holder.bare_code(), Some(5), "{}", holder.stderr());
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

#[tokio::test]
async fn a_program_that_was_replaced_meanwhile_is_taken_over_from_all_the_same() {
    for replaced in [false, true] {
        let lock = Lock::new(&format!("binary-{replaced}")).await;
        let scene = lock.scene(SLOW);
        let copy = scene.path("copied");
        // By another process, as programs are made.
        let copied = Command::new("cp").arg(wrapper()).arg(&copy).status().expect("cp");
        assert!(copied.success());
        let (old, new) = (wrapper().display().to_string(), copy.display().to_string());
        let words =
            scene.words().into_iter().map(|word| if word == old { new.clone() } else { word });
        let words: Vec<_> = words.collect();
        let mut tfwrap = Command::new(&words[0])
            .args(&words[1..])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let child = scene.pid_in("ready");
        fs::remove_file(&copy).expect("it is there");
        if replaced {
            fs::write(&copy, "#!/bin/sh\nexit 1\n").expect("another one");
        }
        tfwrap.kill().expect("it is there");
        tfwrap.wait().expect("it has ended");
        lock.freed_after(child).await;
        assert_eq!(scene.count("SIGINT"), 1, "{:?}", scene.log());
    }
}
