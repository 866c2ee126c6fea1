//! What a cancelled job leaves: every runner's way to end a job, replayed on real processes, around
//! a real Terraform and scripted children; tfwrap killed at every point of its way.
//!
//! | module | is |
//! | --- | --- |
//! | `runners` | how each runner starts a step and cancels it |
//! | `stage` | a state and its lock, the child, the job's environment |
//! | `lock` | the lock, watched |
//! | `step` | an entry process with the runner's pipes |
//! | `table` | the table in `docs/ci.md` |
//! | `bare` | the same without tfwrap: the second table |
//! | `controls` | the same with a part switched off: what it is good for |
//! | `crash` | tfwrap killed at every point |
//! | `support` | servers, processes and proxies: what the suites share |
//!
//! By default five times as fast as in life, in some two minutes. In life's own times, and with the
//! table printed, or written into `docs/ci.md`:
//!
//! ```text
//! TFWRAP_CANCEL_SCALE=1 cargo test --test cancel runners -- --nocapture
//! TFWRAP_CANCEL_SCALE=1 TFWRAP_CANCEL_TABLE=write cargo test --test cancel runners
//! ```
//!
//! The lock is in DynamoDB, in S3 or in both, by turns; `TFWRAP_CANCEL_LOCK=item`, `file` or `both` plays all
//! cases under that one. `TFWRAP_CANCEL_ONLY=Jenkins` plays only the cases whose runner and child contain this.

mod bare;
mod controls;
mod crash;
mod lock;
mod runners;
mod stage;
mod step;
mod table;

#[path = "../support/support.rs"]
mod support;

use std::sync::Mutex;
use std::time::Duration;

use bare::BareRecord;
use lock::{Freed, Kind};
use runners::{RUNNERS, Runner};
use stage::{Stage, Work, orphan_grace};
use support::rounds::variable;
use table::Record;

/// As slow to stop as it can be within GitHub's 10 seconds; and the scripted ones.
const WORKS: [Work; 5] =
    [Work::Terraform(8.0), Work::Ends(1.0), Work::Ends(6.0), Work::Ends(9.0), Work::Never];

/// They do little but wait.
const AT_ONCE: usize = 12;

fn play(runner: &Runner, work: Work, name: &str, kind: Kind) -> Record {
    let mut stage = Stage::under(kind, name, work, runner.job);
    let played = (runner.play)(&mut stage);
    // A guardian may still be at work.
    let left = stage.left_after(orphan_grace() + Duration::from_secs(10));
    let freed = played.watch.freed_within(Duration::from_secs(2));
    let (interrupts, direct) = (stage.interrupts(), played.direct);
    let mut problems = played.problems;
    let mut check = |wrong: bool, what: String| problems.extend(wrong.then_some(what));
    // Nobody can undo what a runner itself sends twice.
    check(interrupts != direct.max(1), format!("{interrupts} interrupts"));
    check(!left.is_empty(), format!("left behind: {left:?}"));
    check(freed.is_none(), "the lock is not given back".to_owned());
    if let Some(freed) = &freed {
        check(!freed.under.is_empty(), format!("free under a living child: {:?}", freed.under));
    }
    check(played.recover.is_some_and(|code| code != 0), format!("recover: {:?}", played.recover));
    let saved = stage.state_is_saved();
    // Two interrupts are what makes Terraform give up its state, and these were not ours.
    check(saved == Some(false) && direct < 2, "the state is not saved".to_owned());
    let said = stage.said();
    if !problems.is_empty() {
        println!("=== {}, {work:?}, {kind:?}: {problems:#?}\n{said}", runner.name);
    }
    Record {
        runner: runner.name,
        cancel: runner.cancel,
        work,
        interrupts,
        direct,
        state: saved,
        by: giver(freed.as_ref(), &said, played.lease),
        freed: freed.map(|freed| freed.after),
        left,
        code: played.code,
        problems,
    }
}

/// The control: the same without tfwrap.
fn play_bare(runner: &Runner, name: &str) -> BareRecord {
    let mut stage = Stage::bare(name, WORKS[0], runner.job);
    let played = (runner.play)(&mut stage);
    let left = stage.left_after(orphan_grace() + Duration::from_secs(10));
    BareRecord {
        runner: runner.name,
        interrupts: stage.interrupts(),
        is_saved: stage.state_is_saved() == Some(true),
        is_locked: played.watch.freed_within(Duration::from_secs(2)).is_none(),
        has_left: !left.is_empty(),
    }
}

/// Who gave the lock back, as far as that can be told from outside.
fn giver(freed: Option<&Freed>, said: &str, lease: bool) -> &'static str {
    let gives = |after: &str| after.contains("is released") || after.contains("are released");
    let recovered = said.split_once(" recover").is_some_and(|(_, after)| gives(after));
    match freed {
        Some(freed) if freed.by_tfwrap => "tfwrap",
        _ if lease => "lease",
        _ if recovered => "recover",
        _ => "guardian",
    }
}

/// How the cases and the controls went, in the order of the runners.
#[derive(Default)]
struct Records {
    cases: Vec<(usize, Record)>,
    controls: Vec<(usize, BareRecord)>,
}

/// Plays all cases and each runner's control, so many at once.
fn play_all() -> Records {
    let only = variable("TFWRAP_CANCEL_ONLY").unwrap_or_default();
    let cases = RUNNERS.iter().enumerate().flat_map(|(place, runner)| {
        let works = WORKS.into_iter().enumerate().filter(|(_, work)| runner.plays(*work));
        // Without a work: the control.
        let control = runner.has_control().then_some(None);
        works.map(Some).chain(control).map(move |work| (place, runner, work))
    });
    let mut cases: Vec<_> = cases.collect();
    cases.retain(|(_, runner, work)| {
        let work = work.map_or_else(|| "bare".to_owned(), |(_, work)| format!("{work:?}"));
        format!("{} {work}", runner.name).contains(&only)
    });
    assert!(!cases.is_empty(), "no case is called `{only}`");
    // Those that take longest first.
    cases.sort_by_key(|(place, _, work)| (work.map_or(0, |(index, _)| 5 - index), *place));
    cases.reverse();
    let (left, done) = (Mutex::new(cases), Mutex::new(Records::default()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = left.lock().expect("not poisoned").pop();
                    let Some((place, runner, work)) = next else { return };
                    let Some((index, work)) = work else {
                        let record = play_bare(runner, &format!("{place}-bare"));
                        done.lock().expect("not poisoned").controls.push((place, record));
                        continue;
                    };
                    let name = format!("{place}-{index}");
                    let kind = Kind::of_case(place + index);
                    let played = std::panic::catch_unwind(|| play(runner, work, &name, kind));
                    let record = played.unwrap_or_else(|_| Record::failed(runner, work));
                    done.lock().expect("not poisoned").cases.push((place * 10 + index, record));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("not poisoned");
    done.cases.sort_by_key(|(at, _)| *at);
    done.controls.sort_by_key(|(at, _)| *at);
    done
}

#[test]
fn runners() {
    let done = play_all();
    let records: Vec<_> = done.cases.into_iter().map(|(_, record)| record).collect();
    let controls: Vec<_> = done.controls.into_iter().map(|(_, record)| record).collect();
    for record in &records {
        println!("{}", record.line());
    }
    println!("\n{}\n\n{}\n", table::markdown(&records), bare::markdown(&controls));
    let failed: Vec<String> =
        records.iter().filter(|one| !one.problems.is_empty()).map(Record::line).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    // What no times decide: after a kill nobody releases.
    for control in controls.iter().filter(|one| one.runner.starts_with("No warning")) {
        assert!(control.is_locked && !control.is_saved, "{control:?}");
    }
    match variable("TFWRAP_CANCEL_TABLE").as_deref() {
        Some("write") => {
            table::write(&records);
            bare::write(&controls);
        }
        Some(other) => panic!("TFWRAP_CANCEL_TABLE=write, not {other}"),
        None if variable("TFWRAP_CANCEL_ONLY").is_none() => {
            assert_eq!(table::differences(&records), Vec::<String>::new());
            assert_eq!(bare::differences(&controls), Vec::<String>::new());
        }
        None => {}
    }
}
