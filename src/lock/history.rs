//! The content of the history's register, beside the lock (`docs/protocol.md#f12-history`): the last
//! runs that asked for it.
//!
//! It is for people, and for `--outdated` (`docs/protocol.md#outdated-runs`); no lock depends on it. It holds no
//! argument of a command, since these can be secrets.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::register::Record;
use super::{APPLY_OPERATION, Holder, LockInfo, LockKey, Uptime};

/// How many runs are kept.
pub const MOST_RUNS: usize = 100;

/// How many bytes the register may have. A table's capacity is counted in kilobytes written, and an item
/// of DynamoDB may have 400 KB.
pub const MOST_BYTES: usize = 32 * 1024;

/// How many bytes one run may have: what is longer was written by no tfwrap.
const MOST_OF_A_RUN: usize = 8 * 1024;

/// How many holders are named for one wait.
const MOST_AWAITED: usize = 3;

/// Whose record cannot be read for less than that is nobody new: what a holder of a local state says of itself goes
/// before its lock does.
const MOMENT: Duration = Duration::from_secs(1);

/// The version of the format.
const VERSION: u32 = 1;

/// A run that waited or held for longer is damaged: a year, in milliseconds.
const TOO_LONG: u64 = 366 * 24 * 3600 * 1000;

/// The register's key, from the lock's.
#[must_use]
pub fn key(lock: &LockKey) -> LockKey {
    LockKey(format!("{lock}.tfwrap/history"))
}

/// One run that asked for the lock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRun {
    /// The lock ID that it used.
    pub id: String,
    /// `user@host`.
    #[serde(default)]
    pub who: String,
    /// The person who started it, as the CI says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// What it did, in Terraform's word.
    #[serde(default)]
    pub operation: String,
    /// Its CI run.
    #[serde(default)]
    pub info: String,
    /// When it asked for the lock, in milliseconds since 1970, on its own wall clock.
    pub asked: i64,
    /// How long it waited, in milliseconds.
    #[serde(default)]
    pub waited: u64,
    /// How long it held the lock, in milliseconds; nothing if it never got it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u64>,
    /// How it ended: the word of `outcome` in the JSON log.
    #[serde(default)]
    pub outcome: String,
    /// What it exited with.
    #[serde(default)]
    pub code: u8,
    /// The commit that was checked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The CI's pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Pipeline>,
    /// Whom it waited for, the longest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<Awaited>,
    /// Whether it took the lock over from a holder without heartbeats.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub took_over: bool,
    /// The lock ID of the `run` or `hold` under whose lock it ran; nothing if it took the lock itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// Terraform has succeeded, whatever became of the lock.
const APPLIED: [&str; 2] = ["success", "not-released"];

impl PastRun {
    /// As it was written; nothing for what is none.
    fn of(raw: &RawValue) -> Option<Self> {
        let text = Some(raw.get()).filter(|it| it.len() <= MOST_OF_A_RUN)?;
        let mut run: Self = serde_json::from_str(text).ok()?;
        run.behind.truncate(MOST_AWAITED);
        for awaited in &mut run.behind {
            awaited.waited = awaited.waited.min(TOO_LONG);
        }
        let times = [run.waited, run.held.unwrap_or_default()];
        let is_sound = times.iter().all(|time| *time <= TOO_LONG)
            && jiff::Timestamp::from_millisecond(run.asked).is_ok();
        is_sound.then_some(run)
    }

    /// Whether it has applied something.
    #[must_use]
    pub fn has_applied(&self) -> bool {
        self.operation == APPLY_OPERATION && APPLIED.contains(&self.outcome.as_str())
    }
}

/// The most characters of each text of a pipeline.
pub const MOST_OF_A_NAME: usize = 60;

/// A pipeline of a CI, of which higher numbers are later runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    /// Whose it is.
    #[serde(default)]
    pub repository: String,
    /// Its name there; empty where a repository has but one.
    #[serde(default)]
    pub workflow: String,
    /// The branch or tag that it ran for.
    #[serde(default, rename = "ref")]
    pub reference: String,
    /// The number of the run.
    #[serde(default)]
    pub number: u64,
}

impl Pipeline {
    /// Whether these are two runs of one pipeline. What may have been cut, and a run for an unknown ref, is the
    /// same as nothing.
    #[must_use]
    pub fn is_that_of(&self, other: &Self) -> bool {
        let is_whole = |text: &str| text.chars().count() < MOST_OF_A_NAME;
        let texts = |it: &Self| [it.repository.clone(), it.reference.clone(), it.workflow.clone()];
        let ours = texts(self);
        ours == texts(other)
            && ours.iter().all(|text| is_whole(text))
            && ours[..2].iter().all(|text| !text.is_empty())
    }

    /// Whether this is an earlier run of the same pipeline.
    #[must_use]
    pub fn is_before(&self, other: &Self) -> bool {
        self.is_that_of(other) && self.number < other.number
    }
}

/// A holder that was waited for, as its record named it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// Its lock ID.
    #[serde(default)]
    pub id: String,
    /// `user@host`.
    #[serde(default)]
    pub who: String,
    /// What it did, in Terraform's word.
    #[serde(default)]
    pub operation: String,
    /// Its CI run.
    #[serde(default)]
    pub info: String,
    /// For how long it was seen to hold the lock during the wait, in milliseconds.
    #[serde(default)]
    pub waited: u64,
}

impl Awaited {
    fn of(holder: &Holder) -> Self {
        let Some(info) = holder.info() else { return Self::default() };
        Self {
            id: cut(&info.id.0, 64),
            who: cut(&info.who, 60),
            operation: cut(&info.operation, 40),
            info: cut(&info.info, 200),
            waited: 0,
        }
    }

    fn is_of(&self, holder: &Holder) -> bool {
        let id = holder.info().map_or("", |info| info.id.0.as_str());
        self.id == cut(id, 64)
    }
}

/// Adds those of another wait of the same run.
pub fn add(behind: &mut Vec<Awaited>, more: Vec<Awaited>) {
    for awaited in more {
        match behind.iter_mut().find(|it| it.id == awaited.id) {
            Some(known) => known.waited = known.waited.saturating_add(awaited.waited),
            None => behind.push(awaited),
        }
    }
}

/// The beginning of a text of others, on one line.
#[must_use]
pub fn cut(text: &str, most: usize) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.trim().chars().take(most).map(plain).collect()
}

/// A time as the register has it.
#[must_use]
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Measures for how long each holder was waited for. A waiter far back in the queue looks at the lock once
/// a minute only, so it may see a change as late as that.
#[derive(Debug, Clone, Default)]
pub struct WaitWatch {
    seen: Vec<(Awaited, Duration)>,
    /// Who of them was seen last, and up to when that is counted.
    last: Option<(usize, Uptime)>,
}

impl WaitWatch {
    /// Counts the time since the last call for whoever was seen then.
    pub fn observe(&mut self, now: Uptime, holder: Option<&Holder>) {
        if let Some((index, before)) = self.last.take() {
            self.seen[index].1 += now.since(before);
        }
        let Some(holder) = holder else { return };
        let known = self.seen.iter().position(|(it, _)| it.is_of(holder));
        let index = known.unwrap_or_else(|| {
            self.seen.push((Awaited::of(holder), Duration::ZERO));
            self.seen.len() - 1
        });
        self.last = Some((index, now));
    }

    /// Whom one waited for, the longest first; of many the first few.
    #[must_use]
    pub fn ended(mut self, now: Uptime) -> Vec<Awaited> {
        self.observe(now, None);
        let is_a_moment =
            |(it, waited): &(Awaited, Duration)| it.is_of(&Holder::Unreadable) && *waited < MOMENT;
        if !self.seen.iter().all(is_a_moment) {
            self.seen.retain(|seen| !is_a_moment(seen));
        }
        self.seen.sort_by_key(|(_, waited)| std::cmp::Reverse(*waited));
        let seen = self.seen.into_iter().take(MOST_AWAITED);
        seen.map(|(it, waited)| Awaited { waited: millis(waited), ..it }).collect()
    }
}

/// What is in the register. Runs are kept as they were written, so that a version that knows more of them
/// loses nothing by one that knows less.
#[derive(Debug, Clone, Default)]
pub struct History {
    runs: Vec<Box<RawValue>>,
    /// The last one that has applied anything, once it is among those that were dropped.
    applied: Option<Box<RawValue>>,
    /// How many were dropped so far.
    pub dropped: u64,
    /// Whether nothing could be read of what is there.
    is_damaged: bool,
}

/// The register, or the part of it that would tell, cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is damaged")]
pub struct Damaged;

/// Why a register is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAHistory {
    /// Somebody uses a lock of this name.
    #[error("there is a lock in its place")]
    Lock,
    /// It is for a version that is to come.
    #[error("a newer version of tfwrap wrote it")]
    Newer,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Content<T> {
    version: u32,
    #[serde(default)]
    dropped: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    applied: Option<T>,
    runs: Vec<T>,
}

impl History {
    /// Reads a register. What is damaged is begun anew.
    ///
    /// # Errors
    /// When it is not for us to change.
    pub fn of(record: Option<&Record>) -> Result<Self, NotAHistory> {
        let Some(record) = record else { return Ok(Self::default()) };
        // An object in S3 that was cut off is a text like any other.
        if record.info.as_deref().is_some_and(|text| LockInfo::parse(text).is_ok()) {
            return Err(NotAHistory::Lock);
        }
        let text = record.lease.as_deref().unwrap_or_default();
        if serde_json::from_str(text).is_ok_and(|it: Version| it.version > VERSION) {
            return Err(NotAHistory::Newer);
        }
        Ok(serde_json::from_str(text).map_or_else(
            |_| Self { is_damaged: true, ..Self::default() },
            |Content { dropped, applied, runs, .. }| Self {
                runs,
                applied,
                dropped,
                is_damaged: false,
            },
        ))
    }

    /// The runs, the last one first; `None` for what is none.
    pub fn runs(&self) -> impl Iterator<Item = Option<PastRun>> {
        self.runs.iter().rev().map(|raw| PastRun::of(raw))
    }

    /// The last run that has applied anything, however many others came after it.
    ///
    /// # Errors
    /// When what cannot be read may be a later one.
    pub fn last_applied(&self) -> Result<Option<PastRun>, Damaged> {
        if self.is_damaged {
            return Err(Damaged);
        }
        let kept = self.applied.as_deref().map(PastRun::of);
        for run in self.runs().chain(kept) {
            let run = run.ok_or(Damaged)?;
            if run.has_applied() {
                return Ok(Some(run));
            }
        }
        Ok(None)
    }

    /// The record with one more run; the oldest are dropped where there are too many.
    #[must_use]
    pub fn with(mut self, run: &PastRun) -> Record {
        let before = self.runs.len();
        self.runs.retain(|raw| raw.get().len() <= MOST_OF_A_RUN);
        self.runs.extend(serde_json::value::to_raw_value(run).ok());
        self.applied = self.applied.filter(|raw| has_applied(raw));
        let mut dropped = self.runs.len() - fitting(&self.runs, None);
        if self.runs[dropped..].iter().any(|raw| has_applied(raw)) {
            self.applied = None;
        } else {
            let last = self.runs[..dropped].iter().rfind(|raw| has_applied(raw));
            self.applied = last.cloned().or(self.applied);
            dropped = self.runs.len() - fitting(&self.runs, self.applied.as_deref());
        }
        self.runs.drain(..dropped);
        let gone = (before + 1).saturating_sub(self.runs.len()) as u64;
        let dropped = self.dropped.saturating_add(gone);
        let content = Content { version: VERSION, dropped, applied: self.applied, runs: self.runs };
        Record { info: None, lease: serde_json::to_string(&content).ok() }
    }
}

fn has_applied(raw: &RawValue) -> bool {
    PastRun::of(raw).is_some_and(|run| run.has_applied())
}

/// How many of these, the last first, fit into the register beside that one.
fn fitting(runs: &[Box<RawValue>], applied: Option<&RawValue>) -> usize {
    // Each has a comma; what is around them has some eighty bytes.
    let mut bytes = 96 + applied.map_or(0, |raw| raw.get().len());
    let mut fits = |raw: &RawValue| {
        bytes += raw.get().len() + 1;
        bytes <= MOST_BYTES
    };
    runs.iter().rev().take(MOST_RUNS).take_while(|raw| fits(raw)).count()
}

#[cfg(test)]
mod tests;
