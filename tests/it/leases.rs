//! The lease, with real processes: who is fenced when, what is noticed, what is taken over.
//!
//! The times are those of a lease of 15 s, the shortest: a beat every 1.5 s, the interrupt at 10 s
//! and the kill at 12 s without an answered beat. The fence looks at the clock every second.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::{Signal, kill};
use tfwrap::lock::lease::{Lease, LeaseTerm};
use tfwrap::lock::{LockInfo, Uptime};

use crate::support::harness::{self, Gate, S3Dir, applying, pause, s3_dir};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{REGION, dynamodb, terraform};
use crate::wrapped::{LOGS_ALL, Running, Scene, is_gone, state, uptime, wait_until};

const TTL: Duration = Duration::from_secs(15);
const PERIOD: Duration = Duration::from_millis(1500);
const INTERRUPT: Duration = Duration::from_millis(8_750);
const KILL: Duration = Duration::from_millis(10_500);
/// How often the fence looks at the clock.
const TICK: Duration = Duration::from_secs(1);
/// How old the last answered beat may be, with what its sending took.
const EARLY: Duration = Duration::from_millis(2500);
/// What a busy machine may add to anything.
const SLACK: Duration = Duration::from_millis(1500);

/// A child that works on, whatever it is told, and ends well by SIGUSR1.
const STUBBORN: &str = "log @/log; on SIGINT log; on SIGUSR1 exit 0; tick @/ticks 20; \
                        ready @/ready; wait";

/// Makes each a test. They do little but wait; so all run at once, whichever test comes first.
macro_rules! at_once {
    ($($name:ident,)*) => {
        const SCENES: &[(&str, fn())] = &[$((stringify!($name), || block_on($name()))),*];
        mod at_once {
            $(#[test]
            fn $name() {
                super::outcome(stringify!($name));
            })*
        }
    };
}

at_once! {
    a_dead_holders_lock_is_taken_over_after_its_lease_and_one_without_a_lease_never,
    a_force_unlock_is_noticed_within_a_beat_and_the_child_interrupted,
    whoever_has_a_lost_lock_is_named_and_left_alone,
    with_leave_to_go_on_a_lost_lock_stops_nobody,
    a_holder_cut_off_has_ended_its_child_before_anyone_takes_over,
    after_a_pause_beyond_the_lease_the_old_child_does_nothing_more,
    after_a_pause_within_the_lease_the_child_goes_on,
    an_outage_shorter_than_the_fence_costs_nothing,
    a_beat_that_is_out_when_the_child_ends_delays_the_release_and_no_more,
    a_beat_that_is_never_answered_is_the_last_before_the_release,
    a_lock_that_is_being_released_is_known_to_the_guardian,
    a_lock_that_is_gone_by_a_killed_release_was_not_lost,
    who_removes_a_lock_that_never_expires_is_told_that_silence_proves_little,
}

type Started = Mutex<HashMap<&'static str, JoinHandle<()>>>;

/// How this scene ended; the first to ask starts all that will be asked for.
fn outcome(name: &str) {
    static STARTED: LazyLock<Started> = LazyLock::new(|| {
        let words: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
        let wanted = |name: &str| {
            let test = format!("{}::at_once::{name}", module_path!().trim_start_matches("it::"));
            words.is_empty() || words.iter().any(|word| test.contains(word.as_str()))
        };
        let wanted = SCENES.iter().filter(|(name, _)| wanted(name));
        Mutex::new(wanted.map(|&(name, scene)| (name, std::thread::spawn(scene))).collect())
    });
    let started = STARTED.lock().expect("not poisoned").remove(name);
    let scene = started.unwrap_or_else(|| {
        let scene = SCENES.iter().find(|(one, _)| *one == name);
        std::thread::spawn(scene.expect("one of them").1)
    });
    if let Err(panic) = scene.join() {
        // Its own message may be among another test's output.
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        panic!("{}", said.unwrap_or_default());
    }
}

fn block_on(scene: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(scene);
}

/// A lock in a table of its own.
struct Lock {
    table: String,
    key: String,
}

impl Lock {
    async fn new(name: &str) -> Self {
        let table = format!("lease-{name}");
        dynamodb().create_lock_table(&table).await;
        Self { table, key: "state".to_owned() }
    }

    fn of(dir: &S3Dir) -> Self {
        Self { table: dir.table.clone(), key: dir.lock_id() }
    }

    fn with_key(&self, key: &str) -> Self {
        Self { table: self.table.clone(), key: key.to_owned() }
    }

    fn options(&self, endpoint: &str, lease: &str) -> Vec<String> {
        let url =
            format!("dynamodb://{}/{}?region={REGION}&endpoint={endpoint}", self.table, self.key);
        ["--lease", lease, "--no-backend-lock", "--lock", &url].map(str::to_owned).into()
    }

    /// A child under this lock, which is reached at `endpoint`.
    fn scene(&self, endpoint: &str, script: &str) -> Scene {
        self.scene_of("15s", endpoint, script)
    }

    fn scene_of(&self, lease: &str, endpoint: &str, script: &str) -> Scene {
        let options = self.options(endpoint, lease);
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        Scene::unguarded(script).options(&options)
    }

    async fn item(&self) -> Option<HashMap<String, AttributeValue>> {
        dynamodb().get_raw(&self.table, &self.key).await
    }

    async fn info(&self) -> Option<String> {
        let item = self.item().await?;
        Some(item["Info"].as_s().expect("a string").clone())
    }

    /// As somebody does by hand.
    async fn remove(&self) {
        let key = AttributeValue::S(self.key.clone());
        let request = dynamodb().client().delete_item().table_name(&self.table);
        request.key("LockID", key).send().await.expect("it is removed");
    }

    /// The ID under which it is held.
    async fn id(&self) -> String {
        let info = self.info().await.expect("it is held");
        LockInfo::parse(&info).expect("lock info").id.0
    }

    /// Waits for a beat of its holder.
    async fn beat(&self) {
        let before = self.item().await;
        for _ in 0..500 {
            if self.item().await != before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no beat");
    }
}

/// The times in a file of the child's, in order.
fn times(scene: &Scene, file: &str) -> Vec<Uptime> {
    let text = std::fs::read_to_string(scene.path(file)).unwrap_or_default();
    let times = text.lines().map(|line| {
        let (_, at) = line.split_once("at=").expect("a time");
        Uptime(Duration::from_millis(at.trim_end_matches("ms").parse().expect("a number")))
    });
    times.collect()
}

/// When the child got its one interrupt.
#[track_caller]
fn interrupted(scene: &Scene) -> Uptime {
    scene.wait_for_log("SIGINT 1");
    times(scene, "log")[0]
}

/// The same lock, same child, straight to the server.
fn rival(lock: &Lock, script: &str) -> Running {
    lock.scene(&dynamodb().url, script).start()
}

fn force_unlock(dir: &S3Dir, id: &str) {
    let mut command = terraform(dir.path());
    harness::run(command.args(["force-unlock", "-force", id])).expect_code(0);
}

async fn a_dead_holders_lock_is_taken_over_after_its_lease_and_one_without_a_lease_never() {
    let lock = Lock::new("dead").await;
    let stock = lock.with_key("stock");
    let info = r#"{"ID":"1","Operation":"OperationTypeApply","Info":"","Who":"jane@desk","Version":"1.11.4","Created":"2026-01-02T03:04:05Z","Path":"x"}"#;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let item = [("LockID", text(&stock.key)), ("Info", text(info))];
    let item: HashMap<_, _> =
        item.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    dynamodb().put_raw(&lock.table, item.clone()).await;

    // Its guardian would give the lock back: the whole machine is gone.
    let holder = lock.scene(&dynamodb().url, LOGS_ALL).env("TFWRAP_TEST_OFF", "guardian");
    let mut holder = holder.start().ready();
    holder.signal(Signal::SIGKILL);
    kill(holder.scene.pid_in("ready"), Signal::SIGKILL).expect("the child is there");
    assert_eq!(holder.bare_code(), None);
    let since = uptime();
    let mut next = rival(&lock, "exit 0");
    let scene = stock.scene(&dynamodb().url, "exit 0").options(&["--lock-timeout=17s"]);
    let mut control = scene.start();

    assert_eq!(next.bare_code(), Some(0), "{}", next.stderr());
    let waited = uptime().since(since);
    assert!(waited >= TTL && waited <= TTL + PERIOD + 2 * SLACK, "{waited:?}");
    assert!(next.stderr().contains("took over the lock"), "{}", next.stderr());
    assert_eq!(lock.item().await, None, "and gave it back");

    assert_eq!(control.bare_code(), Some(75), "{}", control.stderr());
    assert!(control.stderr().contains("jane@desk"), "{}", control.stderr());
    assert_eq!(stock.item().await, Some(item));
}

async fn a_force_unlock_is_noticed_within_a_beat_and_the_child_interrupted() {
    let dir = s3_dir("lease/forced").await;
    let lock = Lock::of(&dir);
    let script = "log @/log; on SIGINT exit 0; ready @/ready; wait";
    let mut holder = rival(&lock, script).ready();
    force_unlock(&dir, &lock.id().await);
    let since = uptime();
    let noticed = interrupted(&holder.scene).since(since);
    assert!(noticed <= PERIOD + SLACK, "{noticed:?}");
    assert_eq!(holder.bare_code(), Some(76), "{}", holder.stderr());
    assert!(holder.stderr().contains("was lost"), "{}", holder.stderr());
    assert_eq!(lock.item().await, None, "never written again");
}

async fn whoever_has_a_lost_lock_is_named_and_left_alone() {
    let dir = s3_dir("lease/named").await;
    let lock = Lock::of(&dir);
    let proxy = Proxy::before(&dynamodb().url);
    let script = "log @/log; on SIGINT exit 0; ready @/ready; wait";
    let mut holder = lock.scene(proxy.url(), script).start().ready();
    // Not to be noticed before somebody else has it.
    proxy.plan([Rule::all(Fault::Refuse)]);
    force_unlock(&dir, &lock.id().await);
    let theirs = Gate::new(dir.path(), "theirs");
    let stock = harness::Running::start(&mut applying(terraform(dir.path()), &theirs.command()));
    theirs.reached();
    let before = lock.item().await;
    assert!(holder.scene.log().is_empty(), "an outage costs nothing");
    proxy.plan([]);
    let since = uptime();
    let noticed = interrupted(&holder.scene).since(since);
    assert!(noticed <= PERIOD + SLACK, "{noticed:?}");
    assert_eq!(holder.bare_code(), Some(76), "{}", holder.stderr());
    let said = holder.stderr();
    for words in ["was lost", "for apply", &tfwrap::identity::who(), "leaves it as it is"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(lock.item().await, before);
    theirs.open();
    stock.finish().expect_code(0);
}

/// A run that knows that its lock is lost, and has leave to go on.
async fn without_its_lock(name: &str) -> Running {
    let dir = s3_dir(name).await;
    let lock = Lock::of(&dir);
    let scene = lock.scene(&dynamodb().url, STUBBORN).options(&["--on-lock-lost", "warn"]);
    let holder = scene.start().ready();
    force_unlock(&dir, &lock.id().await);
    wait_until("word of the loss", || holder.stderr().contains("was lost").then_some(()));
    holder
}

async fn with_leave_to_go_on_a_lost_lock_stops_nobody() {
    let mut holder = without_its_lock("lease/warn").await;
    let killed = without_its_lock("lease/warn-killed").await;
    // Neither a pause nor the fences mean anything now.
    let child = holder.scene.pid_in("ready");
    holder.signal(Signal::SIGTSTP);
    wait_until("a stopped child", || (state(child) == Some('T')).then_some(()));
    holder.signal(Signal::SIGCONT);
    wait_until("a running child", || (state(child) == Some('S')).then_some(()));
    pause(KILL + TICK + TICK);
    assert!(holder.is_running());
    holder.signal(Signal::SIGUSR1);
    assert_eq!(holder.bare_code(), Some(0), "{}", holder.stderr());
    assert_eq!(holder.scene.count("SIGINT"), 0, "{:?}", holder.scene.log());
    assert_eq!(holder.stderr().matches("tfwrap: warning").count(), 1, "{}", holder.stderr());
    // Nor do they to its guardian: the child has its interrupt, and its time.
    let child = killed.scene.pid_in("ready");
    killed.signal(Signal::SIGKILL);
    killed.scene.wait_for_log("SIGINT 1");
    pause(TICK);
    assert!(!is_gone(child), "{:?}", killed.scene.log());
    kill(child, Signal::SIGUSR1).expect("the child is there");
}

/// A fence acts when the last answered beat is so old, which it may be when the store is cut off.
#[track_caller]
fn within(after: Duration, fence: Duration, what: &str) {
    let in_time = after + EARLY >= fence && after <= fence + TICK + SLACK;
    assert!(in_time, "{what} {after:?} after the cut");
}

async fn a_holder_cut_off_has_ended_its_child_before_anyone_takes_over() {
    let lock = Lock::new("cut").await;
    let proxy = Proxy::before(&dynamodb().url);
    let mut holder = lock.scene(proxy.url(), STUBBORN).start().ready();
    let child = holder.scene.pid_in("ready");
    let mut next = rival(&lock, "tick @/ticks 1000; sleep 100; exit 0");
    wait_until("a waiter", || next.stderr().contains("waiting").then_some(()));
    proxy.plan([Rule::all(Fault::Refuse)]);
    let cut = uptime();

    let interrupt = interrupted(&holder.scene).since(cut);
    wait_until("the child's end", || is_gone(child).then_some(()));
    let killed = *times(&holder.scene, "ticks").last().expect("it worked");
    assert_eq!(next.bare_code(), Some(0), "{}", next.stderr());
    let taken = times(&next.scene, "ticks")[0];
    assert!(next.stderr().contains("took over"), "{}", next.stderr());

    assert!(taken > killed, "two children at once for {:?}", killed.since(taken));
    within(interrupt, INTERRUPT, "interrupted");
    within(killed.since(cut), KILL, "killed");
    let taken = taken.since(cut);
    assert!(taken + EARLY >= TTL, "taken over after {taken:?}");

    // The next one has held it, and released it.
    proxy.plan([]);
    assert_eq!(holder.bare_code(), Some(76), "{}", holder.stderr());
    for words in ["over half of the lease", "over two thirds of the lease", "its lease ended"] {
        assert!(holder.stderr().contains(words), "{}", holder.stderr());
    }
    // Neither it nor its guardian says anything else of it.
    for words in ["stood still", "the guardian killed"] {
        assert!(!holder.stderr().contains(words), "{}", holder.stderr());
    }
    assert_eq!(holder.scene.count("SIGINT"), 1, "{:?}", holder.scene.log());
}

/// A hypervisor's pause, a laptop's lid: everything stands still for longer than the lease.
async fn after_a_pause_beyond_the_lease_the_old_child_does_nothing_more() {
    let lock = Lock::new("pause").await;
    let script = STUBBORN.replace("tick @/ticks 20", "tick @/ticks 50");
    // The worst case, the child goes on first; and the wrapper alone is continued, which has to
    // end a child that still stands.
    let mut stopped = Vec::new();
    for (name, child_first) in [("first", true), ("alone", false)] {
        let lock = lock.with_key(name);
        let holder = rival(&lock, &script).ready();
        let child = holder.scene.pid_in("ready");
        wait_until("its work", || (times(&holder.scene, "ticks").len() > 2).then_some(()));
        holder.signal(Signal::SIGSTOP);
        kill(child, Signal::SIGSTOP).expect("the child is there");
        let next = rival(&lock, "log @/log; on SIGUSR1 exit 5; ready @/ready; wait");
        stopped.push((lock, holder, child, next, child_first));
    }
    for (lock, mut holder, child, next, child_first) in stopped {
        let mut next = next.ready();
        let theirs = lock.info().await;
        let before = times(&holder.scene, "ticks").len();
        if child_first {
            kill(child, Signal::SIGCONT).expect("the child is there");
        }
        holder.signal(Signal::SIGCONT);
        let since = uptime();
        wait_until("the child's end", || is_gone(child).then_some(()));
        let took = uptime().since(since);
        let more = times(&holder.scene, "ticks").len() - before;
        // One line was due; then one for each 50 ms until the wrapper runs and kills.
        let fits = if child_first { 2 + took.as_millis() / 50 } else { 0 };
        assert!(u128::try_from(more).expect("few") <= fits, "{more} lines in {took:?}");
        assert!(took <= SLACK, "{took:?}");
        assert_eq!(holder.bare_code(), Some(76), "{}", holder.stderr());
        let said = holder.stderr();
        assert!(said.contains("was lost") && said.contains("leaves it as it is"), "{said}");
        assert!(said.contains("tfwrap stood still for"), "{said}");
        assert!(!said.contains("no heartbeat has been confirmed"), "{said}");
        assert_eq!(lock.info().await, theirs);
        next.signal(Signal::SIGUSR1);
        assert_eq!(next.bare_code(), Some(5), "{}", next.stderr());
        assert_eq!(lock.item().await, None);
    }
}

/// Between the two fences: the child waits until the lease is known to be good, or gone without
/// harm. A lease of 25 s, since with one of 15 s a busy machine may be slower than the time between
/// its fences.
async fn after_a_pause_within_the_lease_the_child_goes_on() {
    let lock = Lock::new("nap").await;
    let mut holders = Vec::new();
    for on_lost in ["stop", "warn"] {
        let lock = lock.with_key(on_lost);
        let scene = lock.scene_of("25s", &dynamodb().url, STUBBORN);
        let holder = scene.options(&["--on-lock-lost", on_lost]).start().ready();
        let child = holder.scene.pid_in("ready");
        lock.beat().await;
        holder.signal(Signal::SIGSTOP);
        kill(child, Signal::SIGSTOP).expect("the child is there");
        // Now, and not before: until then a further beat may have been sent.
        holders.push((lock, holder, uptime()));
    }
    holders[1].0.remove().await;
    // Just beyond the first fence. Each on its own time: what comes after takes long on a busy
    // machine, and the second fence is near.
    let (fence, _) = LeaseTerm::After(Duration::from_secs(25)).fences().expect("it ends");
    let beyond = fence + Duration::from_millis(200);
    let mut resumed = Vec::new();
    for (lock, holder, stopped) in holders {
        pause(beyond.saturating_sub(uptime().since(stopped)));
        let before = times(&holder.scene, "ticks").len();
        holder.signal(Signal::SIGCONT);
        resumed.push((lock, holder, before));
    }
    for (lock, mut holder, before) in resumed {
        wait_until("more work", || {
            (times(&holder.scene, "ticks").len() > before + 5).then_some(())
        });
        assert!(holder.stderr().contains("stays stopped until"), "{}", holder.stderr());
        holder.signal(Signal::SIGUSR1);
        assert_eq!(holder.bare_code(), Some(0), "{}", holder.stderr());
        assert_eq!(holder.scene.count("SIGINT"), 0);
        assert_eq!(lock.item().await, None);
    }
}

async fn an_outage_shorter_than_the_fence_costs_nothing() {
    let lock = Lock::new("outage").await;
    let mut holders = Vec::new();
    for fault in [Fault::Refuse, Fault::Hold, Fault::SERVER_ERROR, Fault::THROTTLED] {
        let proxy = Proxy::before(&dynamodb().url);
        let lock = lock.with_key(&format!("{fault:?}").replace(['(', ')', ',', ' ', '"'], "-"));
        let holder = lock.scene(proxy.url(), STUBBORN).start().ready();
        holders.push((lock, proxy, holder, fault));
    }
    for (_, proxy, _, fault) in &holders {
        proxy.plan([Rule::all(fault.clone())]);
    }
    // Less than the first fence by what the last beat was old, and time to send the next.
    pause(Duration::from_millis(5500));
    for (_, proxy, ..) in &holders {
        proxy.plan([]);
        proxy.release();
    }
    pause(2 * PERIOD + SLACK + TICK);
    for (lock, _, mut holder, fault) in holders {
        holder.signal(Signal::SIGUSR1);
        assert_eq!(holder.bare_code(), Some(0), "{fault:?}: {}", holder.stderr());
        assert_eq!(holder.scene.count("SIGINT"), 0, "{fault:?}");
        // All that is said is that it was one.
        let said = holder.stderr();
        let (during, after) = ("no heartbeat of the lock", "succeed again");
        let is_of_it =
            |line: &str| line.is_empty() || line.contains(during) || line.contains(after);
        assert!(said.lines().all(is_of_it), "{fault:?}: {said}");
        assert_eq!(said.matches(during).count(), said.matches(after).count(), "{fault:?}: {said}");
        assert_eq!(lock.item().await, None, "{fault:?}");
    }
}

async fn a_beat_that_is_out_when_the_child_ends_delays_the_release_and_no_more() {
    let lock = Lock::new("busy").await;
    let proxy = Proxy::before(&dynamodb().url);
    let mut holder = lock.scene(proxy.url(), STUBBORN).start().ready();
    let before = proxy.count("PutItem state");
    proxy.plan([Rule::on("PutItem", Fault::Delay(PERIOD / 3))]);
    proxy.arrived("PutItem state", before + 1).await;
    holder.signal(Signal::SIGUSR1);
    let since = uptime();
    assert_eq!(holder.bare_code(), Some(0), "{}", holder.stderr());
    let took = uptime().since(since);
    assert!(took <= PERIOD + SLACK, "{took:?}");
    assert_eq!(lock.item().await, None);
}

/// It is not followed by a look, and that by another heartbeat.
async fn a_beat_that_is_never_answered_is_the_last_before_the_release() {
    let lock = Lock::new("unanswered").await;
    let proxy = Proxy::before(&dynamodb().url);
    let mut holder = lock.scene(proxy.url(), STUBBORN).start().ready();
    let before = proxy.count("PutItem state");
    proxy.plan([Rule::on("PutItem", Fault::Hold), Rule::on("GetItem", Fault::Hold)]);
    proxy.arrived("PutItem state", before + 1).await;
    let looks = proxy.count("GetItem state");
    holder.signal(Signal::SIGUSR1);
    assert_eq!(holder.bare_code(), Some(0), "{}", holder.stderr());
    let sent = (proxy.count("PutItem state"), proxy.count("GetItem state"));
    assert_eq!(sent, (before + 1, looks), "after a heartbeat of half a period");
    assert_eq!(lock.item().await, None);
    proxy.release();
}

/// Also when another lock has beaten meanwhile, of which the guardian is told.
async fn a_lock_that_is_being_released_is_known_to_the_guardian() {
    let first = Lock::new("releasing").await;
    let last = first.with_key("state-2");
    let proxy = Proxy::before(&dynamodb().url);
    let options = [first.options(proxy.url(), "15s"), last.options(proxy.url(), "15s")].concat();
    let options: Vec<_> = options[..5].iter().chain(&options[8..]).map(String::as_str).collect();
    let mut running = Scene::new(STUBBORN).options(&options).start().ready();
    proxy.plan([Rule::on("DeleteItem", Fault::Hold).key("state-2").times(1)]);
    running.signal(Signal::SIGUSR1);
    proxy.arrived("DeleteItem state-2", 1).await;
    first.beat().await;
    // Until that is answered, and the guardian told.
    first.beat().await;
    assert!(last.item().await.is_some());
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    // Long before its lease could end.
    for _ in 0..300 {
        if first.item().await.is_none() && last.item().await.is_none() {
            return proxy.release();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?} {:?}", first.item().await, last.item().await);
}

/// The remove of a tfwrap that was killed is applied after its guardian has looked, and before the
/// guardian's own.
async fn a_lock_that_is_gone_by_a_killed_release_was_not_lost() {
    let lock = Lock::new("removed").await;
    let proxy = Proxy::before(&dynamodb().url);
    let mut running = lock.scene(proxy.url(), STUBBORN).start().ready();
    proxy.plan([
        Rule::on("DeleteItem", Fault::Hold).times(1),
        Rule::on("DeleteItem", Fault::Delay(Duration::from_secs(2))).times(1),
    ]);
    running.signal(Signal::SIGUSR1);
    proxy.arrived("DeleteItem state", 1).await;
    running.signal(Signal::SIGKILL);
    assert_eq!(running.bare_code(), None);
    proxy.arrived("DeleteItem state", 2).await;
    proxy.release();
    let mut recover = harness::tfwrap(&running.scene.path("."));
    let done = harness::run(recover.args(["recover", "--wait=30s"])).expect_code(0);
    assert!(!done.stderr.contains("was lost"), "{}", done.stderr);
    assert_eq!(lock.item().await, None);
}

/// As one looks that its holder left before its credentials ran out: nobody beats any more.
async fn who_removes_a_lock_that_never_expires_is_told_that_silence_proves_little() {
    let lock = Lock::new("silent").await;
    let dir = tempfile::tempdir().expect("a directory");
    let id = "11111111-2222-3333-4444-555555555555";
    let mut unlocking = Vec::new();
    for (key, term) in [("never", LeaseTerm::Never), ("control", LeaseTerm::After(TTL))] {
        let lock = lock.with_key(key);
        let info =
            format!(r#"{{"ID":"{id}","Operation":"apply","Info":"","Who":"","Version":""}}"#);
        let lease = Lease { term, beat: 7 }.to_text();
        let item = [("LockID", key.to_owned()), ("Info", info), ("Tfwrap", lease)];
        let item = item.map(|(name, text)| (name.to_owned(), AttributeValue::S(text)));
        dynamodb().put_raw(&lock.table, item.into()).await;
        let mut command = harness::tfwrap(dir.path());
        command.args(lock.options(&dynamodb().url, "15s")).args(["unlock", id, "--yes"]);
        unlocking.push((lock, harness::Running::start(&mut command), term));
    }
    for (lock, unlock, term) in unlocking {
        let done = unlock.finish().expect_code(0);
        assert!(done.stdout.contains("make sure that the run is gone"), "{}", done.stdout);
        let warned = done.stdout.contains("a lease that never expires");
        assert_eq!(warned, term == LeaseTerm::Never, "{}", done.stdout);
        assert_eq!(lock.item().await, None);
    }
}
