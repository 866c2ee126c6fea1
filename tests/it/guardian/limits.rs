//! A guardian that can have nothing any more, just when it is needed: what others' exclusion rests
//! on needs nothing, and the rest is done when it can be.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, prlimit};
use std::time::Duration;

use super::{SLOW, gone, kill_tfwrap, started};
use crate::aftermath::{Lock, Receipt, kill_dead};
use crate::support::harness::{self, Gate, applying, eventually, pause};
use crate::support::servers::{local_backend_dir, terraform};
use crate::wrapped::{LOGS_ALL, Scene, is_gone, wait_until};

/// Sets a limit of a process and returns the one before.
pub(crate) fn limit(pid: Pid, resource: Resource, current: Option<u64>) -> Rlimit {
    let pid = rustix::process::Pid::from_raw(pid.as_raw());
    let hard = rustix::process::getrlimit(resource).maximum;
    prlimit(pid, resource, Rlimit { current, maximum: hard }).expect("it is ours")
}

#[tokio::test]
async fn without_descriptors_or_files_it_interrupts_waits_and_releases_when_it_can() {
    // Fewer than it has; and no file may have a byte, which keeps it from nothing but its log.
    for (name, resource, few) in [("nofile", Resource::Nofile, 1), ("fsize", Resource::Fsize, 0)] {
        let lock = Lock::new(&format!("limit-{name}")).await;
        let is_stuck = name == "nofile";
        let (mut running, guardian, child) = started(lock.scene(SLOW));
        let before = limit(guardian, resource, Some(few));
        kill_tfwrap(&mut running);
        gone("the child", child);
        assert_eq!(running.scene.count("SIGINT"), 1, "{name}: {:?}", running.scene.log());
        if is_stuck {
            // It could have released several times.
            pause(Duration::from_millis(800));
            assert!(!is_gone(guardian), "{name}: the guardian has ended");
            assert!(lock.is_held().await, "{name}: with what?");
        }
        limit(guardian, resource, before.current);
        lock.freed().await;
        gone("the guardian", guardian);
        assert_eq!(running.scene.log().len(), 1, "{name}: {:?}", running.scene.log());
    }
}

/// With room for one file, and no pipe for a worker: the receipt says what is done without one.
#[tokio::test]
async fn what_it_does_itself_it_notes() {
    let lock = Lock::new("limit-noted").await;
    let (mut running, guardian, child) = started(lock.scene(SLOW));
    let open = std::fs::read_dir(format!("/proc/{guardian}/fd")).expect("it is there");
    let open = open.flatten().filter_map(|it| it.file_name().to_str()?.parse::<u64>().ok());
    let highest = open.max().expect("its stdin");
    let before = limit(guardian, Resource::Nofile, Some(highest + 2));
    kill_tfwrap(&mut running);
    gone("the child", child);
    let told = |receipt: &Receipt| (receipt.text["interrupts"] == "sent").then_some(());
    wait_until("its note", || told(&Receipt::of(&running.scene)));
    assert_eq!(Receipt::of(&running.scene).text["is_stopping"], true);
    assert!(lock.is_held().await, "by whom was it released?");
    limit(guardian, Resource::Nofile, before.current);
    lock.freed().await;
    gone("the guardian", guardian);
    assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
}

/// A worker that is killed, for want of memory or by whom you will, is followed by another.
#[tokio::test]
async fn a_worker_that_is_killed_is_followed_by_another() {
    let lock = Lock::new("limit-worker").await;
    let script = "log @/log; on SIGINT exit 0 after 2500; ready @/ready; wait";
    let (mut running, guardian, child) = started(lock.scene(script));
    kill_tfwrap(&mut running);
    let first = wait_until("a worker", || crate::wrapped::only_child(guardian));
    kill_dead(first);
    wait_until("another", || crate::wrapped::only_child(guardian).filter(|next| *next != first));
    assert!(!is_gone(child) && lock.is_held().await);
    lock.freed_after(child).await;
    gone("the guardian", guardian);
    assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
}

/// What the killed one has sent stands in the receipt: the next one does not send it again.
#[tokio::test]
async fn a_worker_that_is_killed_after_its_interrupt_is_followed_by_one_that_sends_none() {
    let lock = Lock::new("limit-killed-late").await;
    let script = "log @/log; on SIGINT exit 0 after 2500; ready @/ready; wait";
    let (mut running, guardian, child) = started(lock.scene(script));
    kill_tfwrap(&mut running);
    let noted = || Receipt::of(&running.scene).text["interrupts"] == "sent";
    wait_until("the interrupt", || noted().then_some(()));
    let worker = crate::wrapped::only_child(guardian).expect("a worker");
    kill(worker, Signal::SIGKILL).expect("it is there");
    lock.freed_after(child).await;
    gone("the guardian", guardian);
    assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
}

/// `ulimit -t`, say: what ends tfwrap without a word ends it as a kill does; and what is meant for a
/// writer (SIGPIPE, SIGXFSZ) ends nothing.
#[tokio::test]
async fn whatever_signal_ends_tfwrap_the_lock_is_given_back() {
    for (name, signal) in [("xcpu", Signal::SIGXCPU), ("alrm", Signal::SIGALRM)] {
        let lock = Lock::new(&format!("ended-by-{name}")).await;
        let (mut running, guardian, child) = started(lock.scene(SLOW));
        running.signal(Signal::SIGPIPE);
        running.signal(Signal::SIGXFSZ);
        running.signal(signal);
        assert_eq!(running.bare_code(), None, "{name}: {}", running.stderr());
        lock.freed_after(child).await;
        gone("the guardian", guardian);
        assert_eq!(running.scene.log().len(), 1, "{name}: {:?}", running.scene.log());
    }
}

/// One that is stopped is continued: the guardian itself does nothing while there is one.
#[tokio::test]
async fn a_worker_that_is_stopped_goes_on() {
    let lock = Lock::new("limit-stopped").await;
    let script = "log @/log; on SIGINT exit 0 after 1000; ready @/ready; wait";
    let (mut running, guardian, child) = started(lock.scene(script));
    kill_tfwrap(&mut running);
    // Not before its exec, for which the guardian has to wait, whoever stops it.
    let is_one = |pid: &Pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.ends_with(format!("take-over\0{guardian}\0").as_bytes())
    };
    let worker = wait_until("a worker", || crate::wrapped::only_child(guardian).filter(is_one));
    kill(worker, Signal::SIGSTOP).expect("it is there");
    lock.freed_after(child).await;
    gone("the guardian", guardian);
    assert_eq!(running.scene.log().len(), 1, "{:?}", running.scene.log());
}

/// It has nothing more to do, and nobody else would continue it.
#[test]
fn a_guardian_that_is_stopped_ends_with_its_run() {
    let (mut running, guardian, child) = started(Scene::new(LOGS_ALL));
    kill(guardian, Signal::SIGSTOP).expect("it is there");
    kill(child, Signal::SIGUSR1).expect("it is there");
    assert_eq!(running.code(), Some(5));
    gone("the guardian", guardian);
}

#[test]
fn a_local_lock_stays_shut_while_it_can_start_nothing() {
    let dir = local_backend_dir();
    let working = Gate::new(dir.path(), "working");
    let command = format!("( trap \"\" INT TERM; {} ) & wait", working.command());
    let ours = harness::Running::start(&mut applying(harness::tfwrap(dir.path()), &command));
    working.reached();
    let guardian = wait_until("a guardian", || guardian_of(ours.pid()));
    limit(guardian, Resource::Nofile, Some(1));
    ours.signal(Signal::SIGKILL);
    pause(Duration::from_millis(500));
    let plan = || harness::run(terraform(dir.path()).args(["plan", "-no-color"]));
    let stock = plan().expect_code(1);
    assert!(stock.stderr.contains("acquiring the state lock"), "{}", stock.stderr);
    assert!(!is_gone(guardian));
    limit(guardian, Resource::Nofile, Some(256));
    working.open();
    drop(ours.finish());
    eventually("stock Terraform gets in", || plan().status.success());
    gone("the guardian", guardian);
}

/// The child of this process that has a guardian's name.
fn guardian_of(pid: Pid) -> Option<Pid> {
    let children = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(children).ok()?;
    children.split_ascii_whitespace().find_map(|child| {
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        let pid = child.parse().ok().map(Pid::from_raw)?;
        (name.trim() == "lock-guardian").then_some(pid)
    })
}

/// What cannot be told is not dropped: a guardian that knows less than it must is replaced, and when
/// none can be told, that is said.
#[tokio::test]
async fn a_guardian_that_cannot_be_told_is_replaced_and_done_without_aloud() {
    let lock = Lock::new("untold").await;
    let mut running = lock.scene(LOGS_ALL).env("TFWRAP_TEST_OFF", "tell").start().ready();
    wait_until("a word about it", || {
        running.stderr().contains("no guardian watches this run (not to be told)").then_some(())
    });
    assert!(guardian_of(running.pid()).is_none_or(is_gone));
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.bare_code(), Some(5), "{}", running.stderr());
    assert!(!lock.is_held().await);
}
