//! Who keeps the lock of a hold when its keeper cannot: whoever works under it, dead or alive, and by
//! the lease that the record declares.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::Resource;
use tfwrap::lock::lease::LeaseTerm;

use super::{Holding, in_scene};
use crate::aftermath::{Lock, Receipt, STATE_DIR, TTL, kill_dead};
use crate::guardian::limits::limit;
use crate::support::harness::{Running, pause};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::dynamodb;
use crate::wrapped::{LOGS_ALL, Scene, is_gone, uptime, wait_until};

const STUBBORN: &str = "log @/log; on SIGINT log; ignore SIGTERM; ready @/ready; wait";

/// How long it may take to end: longer than the lease of its lock.
const GRACE: Duration = Duration::from_secs(20);

/// Each case takes as long as a lease does, so they are played side by side.
fn side_by_side<T: Copy + Sync>(cases: &[T], play: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| play(*case));
        }
    });
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// Both at once: neither may end what the other began.
#[track_caller]
fn kill_with_its_guardian(runner: Pid, guardian: Pid) {
    kill(runner, Signal::SIGSTOP).expect("it is there");
    kill_dead(guardian);
    kill(runner, Signal::SIGKILL).expect("it is there");
}

#[track_caller]
fn guardian_of_command(scene: &Scene) -> Pid {
    let all = || Receipt::all(&scene.path(STATE_DIR)).into_iter();
    wait_until("its guardian", || all().find(|it| !it.is_hold())?.guardian())
}

/// A command at work under a hold, and somebody who waits for the lock.
struct At {
    lock: Lock,
    /// Between all but the waiter and the store.
    proxy: Proxy,
    scene: Scene,
    hold: Holding,
    apply: Running,
    child: Pid,
    id: Option<String>,
    next: crate::wrapped::Running,
}

fn at_work(name: &str) -> At {
    let lock = block_on(Lock::new(name));
    let proxy = Proxy::before(&dynamodb().url);
    let scene = lock.scene_at(proxy.url(), STUBBORN);
    let scene = scene.env("TFWRAP_ORPHAN_GRACE", &format!("{}s", GRACE.as_secs()));
    let hold = Holding::begin(&scene, &["--lease", "15s"]);
    let apply = hold.apply(&scene);
    let child = scene.pid_in("ready");
    let id = block_on(lock.id());
    let next = lock.scene("exit 0").options(&["--lease", "15s"]).start();
    wait_until("a waiter", || next.stderr().contains("waiting").then_some(()));
    At { lock, proxy, scene, hold, apply, child, id, next }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Its guardian, which reaches the store.
    Guardian,
    /// Its guardian, cut off.
    CutOff,
    /// Nobody: the negative control.
    Nobody,
}

/// A killed command below a hold of which nobody is left, and somebody who waits: the lock is not
/// taken over under what the command has left.
#[test]
fn a_killed_commands_terraform_is_gone_before_anybody_takes_the_lock_above_it_over() {
    side_by_side(&[Left::Guardian, Left::CutOff, Left::Nobody], |left| {
        let At { lock, proxy, scene, hold, apply, child, id, mut next } =
            at_work(&format!("left-{left:?}"));
        kill_with_its_guardian(hold.keeper, hold.guardian);
        if left == Left::Nobody {
            kill_with_its_guardian(apply.pid(), guardian_of_command(&scene));
        } else {
            apply.signal(Signal::SIGKILL);
        }
        let since = uptime();
        if left == Left::CutOff {
            proxy.plan([Rule::all(Fault::Hold)]);
        }
        let mut under_another = false;
        while !is_gone(child) && uptime().since(since) < GRACE * 2 {
            // It may end between these two.
            let other = block_on(lock.id()) != id;
            if other && !is_gone(child) {
                under_another = true;
                break;
            }
            pause(Duration::from_millis(10));
        }
        let took = uptime().since(since);
        assert_eq!(under_another, left == Left::Nobody, "{left:?}, after {took:?}");
        if left != Left::Guardian {
            assert_eq!(next.bare_code(), Some(0), "{}", next.stderr());
            assert!(next.stderr().contains("took over"), "{}", next.stderr());
        }
        match left {
            Left::Guardian => assert!(took > GRACE * 9 / 10, "{took:?}"),
            Left::CutOff => assert!(took < TTL, "{took:?}"),
            Left::Nobody => kill(child, Signal::SIGKILL).expect("it is there"),
        }
        // Its streams are the child's, too.
        drop(apply.finish());
        let interrupts = usize::from(left != Left::Nobody);
        assert_eq!(scene.count("SIGINT"), interrupts, "{left:?}: {:?}", scene.log());
    });
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Lives,
    /// And the command below was stopped with its guardian, and not killed.
    LivesAboveStopped,
    /// Only its guardian does anything.
    StandsStill,
    /// The same, where that one can have no more descriptors.
    StandsStillAtItsLimit,
    /// Its guardian is alone, and cannot start what would keep the lock.
    KilledAtItsLimit,
    /// With its guardian: the negative control.
    Dead,
}

/// It may open nothing more than it has open.
fn at_its_limit(pid: Pid) {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let numbers = open.filter_map(|fd| fd.ok()?.file_name().to_str()?.parse::<u64>().ok());
    limit(pid, Resource::Nofile, Some(numbers.max().expect("one") + 1));
}

/// Its tfwrap and its guardian are dead or stopped, and the store cannot be reached: the holder or its
/// guardian ends what they left before anybody takes the lock over.
#[test]
fn a_holder_ends_what_nobody_else_would_before_its_lock_is_taken_over() {
    let all = [
        Holder::Lives,
        Holder::LivesAboveStopped,
        Holder::StandsStill,
        Holder::StandsStillAtItsLimit,
        Holder::KilledAtItsLimit,
        Holder::Dead,
    ];
    side_by_side(&all, |holder| {
        let At { lock, proxy, scene, hold, apply, child, id, mut next } =
            at_work(&format!("fence-{holder:?}"));
        let guardian = guardian_of_command(&scene);
        if holder == Holder::LivesAboveStopped {
            for pid in [apply.pid(), guardian] {
                kill(pid, Signal::SIGSTOP).expect("it is there");
            }
        } else {
            kill_with_its_guardian(apply.pid(), guardian);
        }
        match holder {
            Holder::Lives | Holder::LivesAboveStopped => {}
            Holder::StandsStill => kill(hold.keeper, Signal::SIGSTOP).expect("it is there"),
            Holder::StandsStillAtItsLimit => {
                at_its_limit(hold.guardian);
                kill(hold.keeper, Signal::SIGSTOP).expect("it is there");
            }
            Holder::KilledAtItsLimit => {
                at_its_limit(hold.guardian);
                kill_dead(hold.keeper);
            }
            Holder::Dead => kill_with_its_guardian(hold.keeper, hold.guardian),
        }
        proxy.plan([Rule::all(Fault::Hold)]);
        wait_until("another holder", || {
            let is_another = block_on(lock.id()) != id;
            (is_another || is_gone(child)).then_some(())
        });
        assert_eq!(is_gone(child), holder != Holder::Dead, "who was first: {holder:?}");
        if holder == Holder::Dead {
            kill(child, Signal::SIGKILL).expect("it is there");
        }
        assert_eq!(next.bare_code(), Some(0), "{}", next.stderr());
        if holder == Holder::LivesAboveStopped {
            kill_with_its_guardian(apply.pid(), guardian);
        }
        drop(apply.finish());
        let interrupts = matches!(holder, Holder::Lives | Holder::LivesAboveStopped);
        assert_eq!(scene.count("SIGINT"), usize::from(interrupts), "{holder:?}: {:?}", scene.log());
        if matches!(holder, Holder::StandsStill | Holder::StandsStillAtItsLimit) {
            kill(hold.keeper, Signal::SIGCONT).expect("it is there");
        }
    });
}

/// Its own setting is for locks that it takes itself.
#[test]
fn a_command_keeps_the_lock_above_it_as_its_record_declares_whatever_its_own_lease() {
    let never = ("never", LeaseTerm::Never);
    let short = ("15s", LeaseTerm::After(TTL));
    side_by_side(&[(short, "never"), (short, "10m"), (never, "15s")], |((lease, term), own)| {
        let lock = block_on(Lock::new(&format!("lease-{lease}-{own}")));
        let scene = lock.scene(LOGS_ALL);
        let hold = Holding::begin(&scene, &["--lease", lease]);
        let mut env = hold.env.clone();
        env.push(("TFWRAP_LEASE".to_owned(), own.to_owned()));
        let terraform = hold.path.join("terraform").display().to_string();
        let apply = Running::start(&mut in_scene(&scene, &env, &[&terraform, "apply"]));
        let child = scene.pid_in("ready");
        let declared = || block_on(lock.lease()).expect("a lease");
        // The first write declares a minute at most.
        wait_until("the full lease", || (declared().term == term).then_some(()));
        kill_with_its_guardian(hold.keeper, hold.guardian);
        let first = declared();
        assert_eq!(first.term, term);
        let on = wait_until("beats", || Some(declared()).filter(|it| it.beat > first.beat + 1));
        assert_eq!(on.term, term, "{lease}, {own}");
        kill(child, Signal::SIGUSR1).expect("the child is there");
        apply.finish().expect_code(5);
        assert_eq!(declared().term, term);
    });
}
