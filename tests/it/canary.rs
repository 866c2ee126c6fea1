//! The canary: a signal that went to every process of the job reached the child, too, and it gets
//! none besides.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};
use tfwrap::supervise::ECHO;

use crate::aftermath::{Lock, Receipt};
use crate::support::harness::pause;
use crate::wrapped::{LOGS_ALL, Running, Scene, is_gone, uptime, wait_until};

/// How long tfwrap waits for word from its stand-in, and time for what comes of it.
const PATIENCE: Duration = Duration::from_millis(150 + 350);

fn started(scene: Scene) -> (Running, Pid, Pid) {
    let running = scene.in_ci().start().ready();
    let child = running.scene.pid_in("ready");
    let stand_in = wait_until("the stand-in", || stand_in(running.pid(), child));
    (running, stand_in, child)
}

/// The process beside a child.
pub(crate) fn stand_in(tfwrap: Pid, child: Pid) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{tfwrap}/task/{tfwrap}/children")).ok()?;
    let mut children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    let pid = children.find(|pid| {
        let pid = Pid::from_raw(*pid);
        pid != child && !is_gone(pid) && getpgid(Some(pid)) == Ok(child)
    })?;
    // What comes while it starts ends it, which tells as much.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"))?.trim();
    (!blocked.trim_start_matches('0').is_empty()).then_some(Pid::from_raw(pid))
}

fn send(pid: Pid, signal: Signal) {
    kill(pid, signal).expect("the process is there");
}

/// Signals the stand-in, and waits until it has noticed: on a busy machine that may take longer
/// than the patience of tfwrap.
pub(crate) fn tell(stand_in: Pid, signal: Signal) {
    send(stand_in, signal);
    wait_until("the stand-in's notice", || {
        if is_gone(stand_in) {
            return Some(());
        }
        let Ok(status) = fs::read_to_string(format!("/proc/{stand_in}/status")) else {
            return Some(());
        };
        // It has ended, as it does when it has told.
        let Some(pending) = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")) else {
            return Some(());
        };
        let pending = u64::from_str_radix(pending.trim(), 16).ok()?;
        (pending & (1 << (signal as i32 - 1)) == 0).then_some(())
    });
}

/// What the child has got, once everything is decided.
fn stops(running: &mut Running) -> [usize; 3] {
    pause(PATIENCE);
    let stops = ["SIGINT", "SIGTERM", "SIGHUP"].map(|name| running.scene.count(name));
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.code(), Some(5), "{}", running.stderr());
    stops
}

#[test]
fn a_signal_to_every_process_is_the_childs_only_one() {
    // From the highest number down, as GitLab's docker executor goes, and the other way round.
    for tfwrap_first in [false, true] {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let (mut running, stand_in, child) = started(Scene::new(LOGS_ALL));
            if tfwrap_first {
                // It hears of it when its stand-in has, however long this takes here.
                send(running.pid(), Signal::SIGSTOP);
                send(running.pid(), signal);
                tell(stand_in, signal);
                send(child, signal);
                send(running.pid(), Signal::SIGCONT);
            } else {
                send(child, signal);
                tell(stand_in, signal);
                send(running.pid(), signal);
            }
            running.scene.wait_for_log(signal.as_str());
            let expected = if signal == Signal::SIGTERM { [0, 1, 0] } else { [1, 0, 0] };
            assert_eq!(stops(&mut running), expected, "{signal}, tfwrap first: {tfwrap_first}");
        }
    }
}

/// GitLab's docker executor waits up to 6 s for each process before it goes to the next.
#[test]
fn what_comes_seconds_later_is_still_the_same_one() {
    let (mut running, stand_in, child) = started(Scene::new(LOGS_ALL));
    send(child, Signal::SIGTERM);
    send(stand_in, Signal::SIGTERM);
    pause(Duration::from_secs(6));
    running.signal(Signal::SIGTERM);
    assert_eq!(stops(&mut running), [0, 1, 0], "{}", running.stderr());
}

/// One sweep: from the child on, each once the one before has noticed.
fn sweep(running: &Running, child: Pid, signal: Signal) {
    let stand_in = wait_until("the stand-in", || stand_in(running.pid(), child));
    send(child, signal);
    tell(stand_in, signal);
    wait_until("its end", || is_gone(stand_in).then_some(()));
    send(running.pid(), signal);
}

/// Jenkins goes round until nothing is left, and others are told to end twice.
#[test]
fn a_second_sweep_is_heard_too_and_not_passed_on() {
    let (mut running, _, child) =
        started(Scene::new(LOGS_ALL).options(&["--second-signal", "forward"]));
    for round in 1..=3 {
        sweep(&running, child, Signal::SIGTERM);
        running.scene.wait_for_log(&format!("SIGTERM {round}"));
        // What is equal within a second is no second stop in any case.
        pause(Duration::from_millis(1100));
    }
    assert_eq!(stops(&mut running), [0, 3, 0], "{}", running.stderr());
}

/// It is decided on later than a second after the first: the guardian's word makes it wait for the stand-in.
#[test]
fn what_comes_again_within_a_second_of_a_stop_to_all_is_the_same_one() {
    let scene = Scene::new(LOGS_ALL).options(&["--second-signal", "forward"]);
    let (mut running, stand_in, child) = started(scene);
    let guardian = Receipt::of(&running.scene).guardian().expect("a guardian");
    send(child, Signal::SIGTERM);
    tell(stand_in, Signal::SIGTERM);
    send(guardian, Signal::SIGTERM);
    send(running.pid(), Signal::SIGTERM);
    pause(Duration::from_millis(200));
    running.signal(Signal::SIGTERM);
    pause(ECHO);
    assert_eq!(stops(&mut running), [0, 1, 0], "{}", running.stderr());
}

/// Two interrupts end Terraform where it stands, whoever has sent them: what it asked for last may
/// still be done. One does not.
#[test]
fn what_was_swept_twice_is_given_time_for_what_is_in_flight() {
    for (sweeps, end) in [(1, "at once"), (2, "later"), (2, "at once")] {
        let script = "log @/log; on SIGTERM log; on SIGUSR1 exit 5; ready @/ready; wait";
        let (mut running, _, child) = started(Scene::new(script));
        for _ in 1..sweeps {
            sweep(&running, child, Signal::SIGTERM);
        }
        if end == "later" {
            sweep(&running, child, Signal::SIGTERM);
            pause(PATIENCE);
            send(child, Signal::SIGUSR1);
        } else {
            // tfwrap finds its own, its stand-in's and the end of the child together.
            let stand_in = wait_until("the stand-in", || stand_in(running.pid(), child));
            send(running.pid(), Signal::SIGSTOP);
            send(running.pid(), Signal::SIGTERM);
            tell(stand_in, Signal::SIGTERM);
            send(child, Signal::SIGTERM);
            send(child, Signal::SIGUSR1);
            wait_until("the child's end", || is_gone(child).then_some(()));
            send(running.pid(), Signal::SIGCONT);
        }
        wait_until("the child's end", || is_gone(child).then_some(()));
        let since = uptime();
        assert_eq!(running.bare_code(), Some(5), "{}", running.stderr());
        let took = uptime().since(since);
        assert_eq!(took > Duration::from_millis(1900), sweeps == 2, "{sweeps}, {end}: {took:?}");
        assert_eq!(running.scene.count("SIGINT"), 0, "{sweeps}, {end}: {:?}", running.scene.log());
    }
}

/// The negative control.
#[test]
fn without_the_canary_a_signal_to_every_process_is_two_for_the_child() {
    let scene = Scene::new(LOGS_ALL).env("TFWRAP_TEST_OFF", "canary");
    let mut running = scene.in_ci().start().ready();
    let child = running.scene.pid_in("ready");
    for pid in [child, running.pid()] {
        send(pid, Signal::SIGTERM);
    }
    running.scene.wait_for_log("SIGINT 1");
    assert_eq!(stops(&mut running), [1, 1, 0]);
}

#[test]
fn a_signal_to_tfwrap_alone_is_passed_on_once_and_soon() {
    let (mut running, ..) = started(Scene::new(LOGS_ALL));
    let since = uptime();
    running.signal(Signal::SIGTERM);
    running.scene.wait_for_log("SIGINT 1");
    let took = uptime().since(since);
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert_eq!(stops(&mut running), [1, 0, 0]);
}

/// Whoever goes round with SIGTERM and then with SIGKILL: the guardian, which is not found the
/// second time, sees that the child was asked already.
#[tokio::test]
async fn a_child_that_was_swept_is_not_interrupted_again_by_the_guardian() {
    let lock = Lock::new("swept").await;
    let script = "log @/log; on SIGTERM exit 0 after 1200; on SIGINT log; ready @/ready; wait";
    let (mut running, _, child) = started(lock.scene(script));
    let guardian = Receipt::of(&running.scene).guardian().expect("a guardian");
    send(running.pid(), Signal::SIGSTOP);
    for pid in [child, guardian, running.pid()] {
        send(pid, Signal::SIGTERM);
    }
    running.scene.wait_for_log("SIGTERM 1");
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    lock.freed_after(child).await;
    wait_until("the guardian's end", || is_gone(guardian).then_some(()));
    assert_eq!(running.scene.count("SIGINT"), 0, "{:?}", running.scene.log());
}
