//! For programs.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::json::{escape, seconds};
use super::{LockHistory, asked, clean, newest, stamp, waited};
use crate::lock::history::{Awaited, PastRun, Pipeline};

/// The version of the JSON document: raised when a field changes its meaning or goes.
const DOCUMENT: u32 = 1;

/// One document on one line, ended. At most `limit` runs.
#[must_use]
pub fn histories_as_json(histories: &[LockHistory], limit: usize, now: Timestamp) -> String {
    let locks: Vec<_> = histories.iter().map(|it| of_lock(it, now)).collect();
    let runs: Vec<_> =
        newest(histories, limit).into_iter().map(|(of, run)| of_run(of, run)).collect();
    let document = json!({ "version": DOCUMENT, "locks": locks, "runs": runs });
    escape(&document.to_string()) + "\n"
}

fn of_lock(history: &LockHistory, now: Timestamp) -> Value {
    let week = history.week(now);
    let awaited =
        week.awaited.iter().map(|(whom, time)| json!({ "who": whom, "seconds": seconds(*time) }));
    json!({
        "lock": history.lock,
        "week": {
            "runs": week.runs,
            "waited_seconds": seconds(week.waited),
            "held_seconds": seconds(week.held),
            "waited_for": awaited.collect::<Vec<_>>(),
            "complete": history.is_complete(now),
            "since": history.since(now).map(stamp),
        },
        "dropped": history.dropped,
        "unreadable": history.unreadable,
    })
}

fn of_run(history: &LockHistory, run: &PastRun) -> Value {
    let text = |value: &Option<String>| value.as_deref().map(clean);
    json!({
        "lock": history.lock,
        "id": clean(&run.id),
        "who": clean(&run.who),
        "actor": text(&run.actor),
        "info": clean(&run.info),
        "operation": clean(&run.operation),
        "asked": asked(run).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        "waited_seconds": seconds(waited(run)),
        "held_seconds": run.held.map(|held| seconds(Duration::from_millis(held))),
        "outcome": clean(&run.outcome),
        "exit_code": run.code,
        "commit": text(&run.commit),
        "pipeline": run.pipeline.as_ref().map(of_pipeline),
        "behind": run.behind.iter().map(of_awaited).collect::<Vec<_>>(),
        "took_over": run.took_over,
    })
}

fn of_pipeline(pipeline: &Pipeline) -> Value {
    json!({
        "repository": clean(&pipeline.repository),
        "workflow": clean(&pipeline.workflow),
        "ref": clean(&pipeline.reference),
        "number": pipeline.number,
    })
}

fn of_awaited(awaited: &Awaited) -> Value {
    json!({
        "id": clean(&awaited.id),
        "who": clean(&awaited.who),
        "info": clean(&awaited.info),
        "operation": clean(&awaited.operation),
        "waited_seconds": seconds(Duration::from_millis(awaited.waited)),
    })
}
