//! tfwrap killed at every point of its way: before and after each request to the store, and wherever
//! the shell may fail. What follows must be the same each time: no child beside the next run's, the
//! lock free in bounded time, nothing left running. Under the lock in DynamoDB, unless
//! `TFWRAP_CANCEL_LOCK` asks for another.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;
use tfwrap::clock::uptime;

use crate::lock::Kind;
use crate::stage::{PATIENCE, Stage, Work};
use crate::step::{Group, Step, within};
use crate::support::harness::fake_terraform;
use crate::support::procs::Process;

/// The number of the point, or `count`.
const POINT: &str = "TFWRAP_CRASH_POINT";
const COUNT_FILE: &str = "TFWRAP_CRASH_COUNT_FILE";
const AT_ONCE: usize = 8;
/// The guardian's grace, the settling after a kill, and what a busy machine needs. Less than the
/// lease: nobody is to wait for that.
const CLEANED: Duration = Duration::from_secs(10);
/// How long a guardian looks on for a create that was never answered, and may still land; the next
/// run does not wait for that.
const LANDING: Duration = Duration::from_secs(75);

/// How the run would end by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// The child does its work.
    Completes,
    /// It is interrupted at its work.
    Interrupted,
    /// It is interrupted, and ends only when it is killed.
    Stubborn,
}

const WAYS: [Way; 3] = [Way::Completes, Way::Interrupted, Way::Stubborn];

impl Way {
    fn script(self, dir: &Path, name: &str) -> String {
        let dir = dir.display();
        let rest = match self {
            Self::Completes => "sleep 200".to_owned(),
            Self::Interrupted => "on SIGINT exit 1 after 100; ready @/ready; wait".to_owned(),
            Self::Stubborn => "on SIGINT log; ready @/ready; wait".to_owned(),
        };
        format!("begin @/work {name}; log @/log; {rest}; end @/work").replace('@', &dir.to_string())
    }
}

fn stage(name: &str) -> Stage {
    Stage::under(Kind::of_case(0), &format!("crash-{name}"), Work::Never, &[("CI", "true")])
}

fn start(stage: &Stage, way: Way, point: &str) -> Step {
    let mut words = stage.words();
    let grace = if way == Way::Stubborn { "500ms" } else { "none" };
    let own = ["--orphan-grace", "2s", "--grace", grace].map(str::to_owned);
    // The later one counts, and the grace of the suite is not meant for this.
    words.splice(1..5, ["--lease", "15s"].map(str::to_owned).into_iter().chain(own));
    let mut command = stage.command(&words[0]);
    command.args(&words[1..]);
    command.env("FAKE_TERRAFORM_SCRIPT", way.script(&stage.path(""), "first"));
    command.env(POINT, point).env(COUNT_FILE, stage.path("count"));
    stage.start(&mut command, Group::Own)
}

/// Sees the run to its end, and interrupts it where that belongs to its way.
fn see_to_end(stage: &Stage, way: Way, step: &mut Step) {
    let mut told = way == Way::Completes;
    let ended = within(PATIENCE, || {
        if !told && stage.path("ready").exists() {
            step.signal(Signal::INT);
            told = true;
        }
        step.ends_within(Duration::ZERO)
    });
    assert!(ended, "it does not end: {}", stage.said());
}

/// How many points each run passes, whatever its timing.
fn count(way: Way) -> usize {
    (0..COUNTS).map(|number| count_once(way, number)).min().expect("one")
}

fn count_once(way: Way, number: usize) -> usize {
    let stage = stage(&format!("count-{way:?}-{number}"));
    let mut step = start(&stage, way, "count");
    see_to_end(&stage, way, &mut step);
    let count = std::fs::read_to_string(stage.path("count"));
    let count = count.unwrap_or_else(|error| panic!("no count: {error}: {}", stage.said()));
    count.trim().parse().expect("a number")
}

/// How often a run is begun that ends before it has come to the point at which it is to die: how many it passes
/// depends on the time a little.
const TRIES: usize = 5;

/// How many points may be missed for that reason.
const MOST_MISSED: usize = 4;

/// How often is counted.
const COUNTS: usize = 3;

/// Kills a run at a point; what is wrong then. Nothing if no run comes to it.
fn crash(way: Way, point: usize) -> Result<Option<Stage>, String> {
    for tried in 0..TRIES {
        if let Some(stage) = crash_once(way, point, tried)? {
            return Ok(Some(stage));
        }
    }
    println!("{way:?} {point}: no run of {TRIES} comes to it");
    Ok(None)
}

/// The same; nothing if the run ends before.
fn crash_once(way: Way, point: usize, tried: usize) -> Result<Option<Stage>, String> {
    let stage = stage(&format!("{way:?}-{point}-{tried}"));
    let fail = |what: &str| Err(format!("{way:?}, point {point}: {what}\n{}", stage.said()));
    let mut step = start(&stage, way, &point.to_string());
    see_to_end(&stage, way, &mut step);
    if step.code() != Some(137) {
        let passed = std::fs::read_to_string(stage.path("count")).unwrap_or_default();
        if passed.trim().parse().is_ok_and(|passed: usize| passed < point) {
            return Ok(None);
        }
        return fail(&format!("it was to die, and ended with {:?}", step.code()));
    }
    let since = uptime();
    // Whatever the dead one left, the next run waits already.
    let mut words = stage.words();
    words.splice(1..1, ["--lock-timeout", "50s"].map(str::to_owned));
    let mut command = stage.command(&words[0]);
    command.args(&words[1..]).env(crate::stage::MARKER, stage.other_marker());
    command.env("FAKE_TERRAFORM_SCRIPT", Way::Completes.script(&stage.path(""), "next"));
    let mut next = stage.start(&mut command, Group::Own);
    let mut by = "the guardian, or there was nothing";
    if !next.ends_within(CLEANED) {
        by = "recover";
        if !next.ends_within(Duration::ZERO) && stage.recover(&[], &[]) != Some(0) {
            return fail("recover fails");
        }
    }
    if !next.ends_within(Duration::from_secs(4)) {
        return fail("the next run does not get the lock");
    }
    let took = uptime().since(since);
    if next.code() != Some(0) || stage.said().contains("took over") {
        return fail(&format!("the next run ended with {:?}", next.code()));
    }
    let work = std::fs::read_to_string(stage.path("work")).unwrap_or_default();
    if work.contains("overlap") {
        return fail(&format!("two children at once:\n{work}"));
    }
    if stage.lock().is_held() {
        return fail("the lock is held");
    }
    let others = |process: &Process| !process.describe().contains("lock-guardian");
    if let Some(other) = stage.processes().iter().find(|process| others(process)) {
        return fail(&format!("left behind: {}", other.describe()));
    }
    println!("{way:?} {point}: free after {took:.1?} by {by}");
    Ok(Some(stage))
}

/// When the last guardian has seen that nothing lands any more, there is nothing more to do.
fn settle(stage: &Stage) -> Result<(), String> {
    let fail = |what: &str| Err(format!("{what}\n{}", stage.said()));
    let left = stage.left_after(LANDING);
    if !left.is_empty() {
        return fail(&format!("left behind: {left:?}"));
    }
    if stage.lock().is_held() {
        return fail("the lock is held in the end");
    }
    match stage.recover(&[], &[]) {
        Some(0) => Ok(()),
        code => fail(&format!("a second recover ends with {code:?}")),
    }
}

#[test]
fn killed_at_any_point_nothing_is_left_and_the_next_run_goes_on() {
    assert!(fake_terraform().exists());
    let points = WAYS.into_iter().flat_map(|way| (1..=count(way)).map(move |point| (way, point)));
    let points: Vec<_> = points.collect();
    let total = points.len();
    assert!(total > WAYS.len() * 4, "only {total} points");
    let (left, failed) = (Mutex::new(points), Mutex::new(Vec::new()));
    let settling = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = left.lock().expect("not poisoned").pop();
                    let Some((way, point)) = next else { return };
                    match std::panic::catch_unwind(|| crash(way, point)) {
                        Ok(Ok(Some(stage))) => settling.lock().expect("not poisoned").push(stage),
                        Ok(Ok(None)) => {}
                        Ok(Err(what)) => failed.lock().expect("not poisoned").push(what),
                        Err(_) => {
                            let what = format!("{way:?}, point {point}: panicked");
                            failed.lock().expect("not poisoned").push(what);
                        }
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("not poisoned");
    let settling = settling.into_inner().expect("not poisoned");
    let missed = total - settling.len() - failed.len();
    assert!(missed <= MOST_MISSED, "{missed} of {total} points were not come to");
    failed.extend(settling.iter().filter_map(|stage| settle(stage).err()));
    println!("{total} points, {} failed", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
