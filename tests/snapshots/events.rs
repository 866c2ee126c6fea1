//! Each line of the JSON log, and what text says in its place.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tfwrap::lock::{LockId, LockInfo};
use tfwrap::report::{
    Json, LogFormat, Notice, Reporter, ReporterOptions, RunOutcome, Summary, Text,
};

use crate::{agreed, json_log};

const LOCK: &str = "tfb/a/terraform.tfstate";
const ID: &str = "28e8a6c8-39d1-5a99-58ed-ea0d4970a5f4";

fn holder() -> Box<LockInfo> {
    Box::new(LockInfo {
        id: LockId("5161a6c8-0b1f-4a15-93ab-7d6f2a0c4e11".into()),
        operation: "OperationTypeApply".into(),
        info: "https://ci.example/run/7".into(),
        who: "ci@runner".into(),
        version: "1.11.4".into(),
        created: "2026-11-21T09:11:59Z".into(),
        path: LOCK.into(),
    })
}

fn summary(outcome: RunOutcome, exit_code: u8) -> Notice {
    Notice::Finished(Box::new(Summary {
        lock: LOCK.into(),
        id: Some(ID.into()),
        outcome,
        exit_code,
        asked: "2026-11-21T09:16:11Z".parse().expect("a time"),
        waited: Duration::from_secs(30),
        held: Duration::from_mins(2),
        replanned: false,
        holder: Some(holder()),
        behind: Vec::new(),
        ahead: None,
        reason: None,
        advice: None,
    }))
}

/// Of each event what there is to see of it.
fn examples() -> Vec<(&'static str, Vec<Notice>)> {
    let waiting =
        |holder, ahead, plans_ahead, [silent, unanswered]: [_; 2], estimate| Notice::Waiting {
            lock: LOCK.into(),
            free: false,
            holder,
            waited: Duration::from_millis(61_234),
            limit: Duration::from_mins(30),
            ahead,
            plans_ahead,
            silent,
            unanswered,
            estimate,
        };
    let seconds = |count| Some(Duration::from_secs(count));
    let (lock, id) = (|| LOCK.to_owned(), || ID.to_owned());
    let acquired = |contended| Notice::Acquired {
        lock: lock(),
        id: id(),
        waited: Duration::from_millis(1234),
        contended,
    };
    let released = |worth_saying| Notice::Released {
        lock: lock(),
        id: id(),
        held: Duration::from_secs(95),
        worth_saying,
    };
    let hint = Some("run `terraform init` first".to_owned());
    let message = || "`main.tf:2` declares the backend `s3`".to_owned();
    let ends = [
        (RunOutcome::Success, 0),
        (RunOutcome::Failure, 1),
        (RunOutcome::TimedOut, 75),
        (RunOutcome::Interrupted, 130),
        (RunOutcome::Lost, 76),
        (RunOutcome::NotReleased, 74),
        (RunOutcome::Outdated, 0),
        (RunOutcome::Error, 69),
    ];
    vec![
        (
            "waiting",
            vec![
                waiting(None, None, None, [None; 2], None),
                waiting(Some(holder()), Some(0), Some(0), [seconds(4), None], None),
                waiting(Some(holder()), Some(1), None, [None, seconds(32)], None),
                waiting(Some(holder()), Some(3), Some(1), [seconds(90), None], seconds(240)),
            ],
        ),
        ("acquired", vec![acquired(false), acquired(true)]),
        ("released", vec![released(true)]),
        (
            "replanned",
            [Some(holder()), None]
                .map(|writer| Notice::Replanned {
                    lock: lock(),
                    writer,
                    why: "while Terraform planned, somebody changed the state".into(),
                })
                .into(),
        ),
        (
            "stopping",
            vec![Notice::Stopping {
                signal: "SIGTERM".into(),
                doing: "waiting for terraform to end".into(),
            }],
        ),
        (
            "warning",
            vec![
                Notice::Warning { message: message(), hint: None },
                Notice::Warning { message: message(), hint: hint.clone() },
            ],
        ),
        (
            "error",
            vec![
                Notice::Error { message: message(), hint: None, code: 70 },
                Notice::Error { message: message(), hint, code: 78 },
            ],
        ),
        ("finished", ends.map(|(outcome, code)| summary(outcome, code)).into()),
        ("note", vec![Notice::Note { message: "gave back what run 7 left".into() }]),
        ("detail", vec![Notice::Detail { message: "the state is `a`".into() }]),
    ]
}

/// The events of the reference, which a unit test of `report::json` holds to the code's.
fn documented() -> Vec<String> {
    let reference = include_str!("../../docs/reference.md");
    let (_, section) = reference.split_once("\n## JSON log\n").expect("the section");
    let rows = section.split("\n## ").next().expect("it").lines();
    rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next().map(str::to_owned)).collect()
}

/// A log whose reader is away for as long as somebody holds the lock, then reads.
#[derive(Debug, Clone, Default)]
struct Stalled {
    read: Arc<Mutex<Vec<u8>>>,
}

impl io::Write for Stalled {
    fn write(&mut self, words: &[u8]) -> io::Result<usize> {
        self.read.lock().expect("no panic").write(words)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The one that is no notice: only a reporter whose reader stalls says it. How many it counts depends
/// on its thread.
fn dropped() -> String {
    let log = Stalled::default();
    let options = ReporterOptions { format: LogFormat::Json, ..ReporterOptions::default() };
    let reporter = Reporter::to_writer(options, log.clone()).expect("a reporter");
    {
        let _away = log.read.lock().expect("no panic");
        for _ in 0..1000 {
            reporter.say(Notice::Note { message: "one of many".into() });
        }
    }
    assert!(reporter.flush(Duration::from_mins(1)), "all is said");
    let read = String::from_utf8(log.read.lock().expect("no panic").clone()).expect("UTF-8");
    let mut lines = json_log::lines(&read).into_iter();
    let mut value = lines.find(|line| line["event"] == "dropped").expect("something is dropped");
    value["ts"] = "<when>".into();
    value["count"] = "<how many>".into();
    format!("{value}\n")
}

#[test]
fn every_event_is_as_agreed() {
    let now = "2026-11-21T09:16:11.5Z".parse().expect("a time");
    let mut texts = BTreeMap::new();
    for (event, notices) in examples() {
        let mut text = String::new();
        for notice in notices {
            // A log of its own each, so that no line depends on the one before.
            let line = Json::default().render(&notice, now);
            assert_eq!(json_log::lines(&line)[0]["event"], event, "{line}");
            let said = Text::default().render(&notice, now);
            let _ = writeln!(text, "{line}{said}");
        }
        texts.insert(event.to_owned(), text);
    }
    texts.insert("dropped".to_owned(), dropped());
    let mut documented = documented();
    documented.sort();
    assert_eq!(texts.keys().cloned().collect::<Vec<_>>(), documented, "one snapshot for each");
    agreed("events", &texts);
}
