//! What `history` says of the last runs of a lock. All text in it comes from a register that anybody with the
//! table can write, and is cleaned here; all times are from the clocks of the machines that ran.

mod html;
mod json;
mod mermaid;
mod text;

use std::cmp::Reverse;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use html::histories_as_html;
pub use json::histories_as_json;
pub use mermaid::histories_as_mermaid;
pub use text::histories_as_text;

use super::clean::{clean, clean_line, clean_to};
use super::text::{human, operation_words, or_unknown};
use crate::lock::history::{Awaited, History, PastRun};

/// What the first line is about.
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A clock may be ahead of ours by so much.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// No history is older: a clock before that was never set. 2026-01-01T00:00:00Z.
const FIRST: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// Runs this far apart are drawn in different scales.
const APART: SignedDuration = SignedDuration::from_mins(5);

/// How many are named that were waited for.
const MOST_NAMED: usize = 3;

/// The most characters of a name.
const MOST_OF_A_NAME: usize = 40;

/// The last runs of one lock.
#[derive(Debug, Clone)]
pub struct LockHistory {
    /// Its name.
    lock: String,
    /// The last one first.
    runs: Vec<PastRun>,
    /// How many cannot be read.
    unreadable: usize,
    /// How many were dropped before those.
    dropped: u64,
}

impl LockHistory {
    /// What is in the register of this lock.
    #[must_use]
    pub fn new(lock: String, history: &History) -> Self {
        let all: Vec<_> = history.runs().collect();
        let unreadable = all.iter().filter(|run| run.is_none()).count();
        // What ran within another run is part of that.
        let runs = all.into_iter().flatten().filter(|run| run.within.is_none()).collect();
        Self { lock, runs, unreadable, dropped: history.dropped }
    }

    /// The runs of the last week, in sums: of each, what it waited and held within the week.
    fn week(&self, now: Timestamp) -> Week {
        let begin = now.checked_sub(WEEK).unwrap_or(Timestamp::MIN);
        let end = now.checked_add(AHEAD).unwrap_or(Timestamp::MAX);
        let within = |from: Timestamp, until: Timestamp| {
            let time = until.min(end).duration_since(from.max(begin));
            Duration::try_from(time).unwrap_or_default()
        };
        let mut week =
            Week { runs: 0, waited: Duration::ZERO, held: Duration::ZERO, awaited: Vec::new() };
        for run in self.runs.iter().filter(|run| over(run) >= begin && asked(run) <= end) {
            let (from, granted, until) = (asked(run), granted(run), over(run));
            let waited = within(from, granted);
            week.runs += 1;
            week.waited += waited;
            week.held += within(granted, until);
            for awaited in &run.behind {
                let whom = self.whom(awaited);
                // When in its wait that was is not known.
                let time = in_proportion(awaited.waited, waited, run.waited);
                match week.awaited.iter_mut().find(|(known, _)| *known == whom) {
                    Some((_, sum)) => *sum = sum.saturating_add(time),
                    None => week.awaited.push((whom, time)),
                }
            }
        }
        week.awaited.retain(|(_, time)| !time.is_zero());
        week.awaited.sort_by_key(|(whom, time)| (Reverse(*time), whom.clone()));
        week
    }

    /// When the first run asked that is still there, by the clocks that can be right; nothing if there is none.
    ///
    /// Each run was added at its end. So a clock is behind by which a run ended before another one that was
    /// added earlier.
    fn since(&self, now: Timestamp) -> Option<Timestamp> {
        let mut last = FIRST;
        let mut since: Option<Timestamp> = None;
        for run in self.runs.iter().rev() {
            let (begin, end) = (asked(run), over(run));
            if begin.duration_since(now) > AHEAD || last.duration_since(end) > AHEAD {
                continue;
            }
            last = last.max(end.min(now));
            since = Some(since.map_or(begin, |known| known.min(begin)));
        }
        since
    }

    /// Whether it knows of every run of the last week.
    fn is_complete(&self, now: Timestamp) -> bool {
        self.since(now).is_some_and(|since| now.duration_since(since) >= WEEK)
    }

    /// Who was waited for: the person, where their own run says who that was.
    fn whom(&self, awaited: &Awaited) -> String {
        let own = self.runs.iter().find(|run| !run.id.is_empty() && run.id == awaited.id);
        let who = own.map_or_else(|| name(&awaited.who), person);
        with_operation(&who, &awaited.operation)
    }

    /// What share of the last week was waiting, and for whom. Cleaned.
    fn answer(&self, now: Timestamp) -> String {
        let Some(since) = self.since(now) else {
            let is_empty = self.runs.is_empty();
            let why = if is_empty {
                "no run is in the history"
            } else {
                "no run has a time that can be right"
            };
            return why.to_owned();
        };
        let week = self.week(now);
        let span = if self.is_complete(now) {
            "in the last 7 days".to_owned()
        } else {
            format!("since {} (the history goes back no further)", stamp(since))
        };
        if week.runs == 0 {
            return format!("{span}, no run asked for this lock");
        }
        let runs = if week.runs == 1 { "1 run".to_owned() } else { format!("{} runs", week.runs) };
        let held = human(week.held);
        if week.waited < Duration::from_millis(500) {
            return format!("{span}, nobody waited; {runs} held the lock for {held}");
        }
        let mut out = format!(
            "{span}, {} of the time was waiting: {runs} waited {} and held the lock for {held}",
            week.share(),
            human(week.waited)
        );
        let named = |(whom, time): &(String, Duration)| format!("{} for {whom}", human(*time));
        let named: Vec<_> = week.awaited.iter().take(MOST_NAMED).map(named).collect();
        if !named.is_empty() {
            out = format!("{out}; they waited {}", named.join(", "));
        }
        match week.awaited.len().saturating_sub(MOST_NAMED) {
            0 => out,
            1 => out + " and for 1 other",
            others => format!("{out} and for {others} others"),
        }
    }
}

/// The runs of a week in sums.
struct Week {
    runs: usize,
    waited: Duration,
    held: Duration,
    /// Whom they waited for and for how long, the longest first.
    awaited: Vec<(String, Duration)>,
}

impl Week {
    /// What part of the time of all runs was waiting.
    fn share(&self) -> String {
        let all = (self.waited + self.held).as_millis().max(1);
        match self.waited.as_millis() * 100 / all {
            0 => "less than 1%".to_owned(),
            percent => format!("{percent}%"),
        }
    }
}

/// The newest of all runs, with the lock of each.
fn newest(histories: &[LockHistory], limit: usize) -> Vec<(&LockHistory, &PastRun)> {
    let mut all: Vec<_> =
        histories.iter().flat_map(|it| it.runs.iter().map(move |run| (it, run))).collect();
    all.sort_by_key(|(_, run)| Reverse(run.asked));
    all.truncate(limit);
    all
}

/// Runs that follow each other closely, by their places in the list; drawn in one scale.
struct Period {
    begin: Timestamp,
    end: Timestamp,
    runs: Vec<usize>,
}

/// The last period first, and in each the first run at the top.
fn periods(runs: &[&PastRun]) -> Vec<Period> {
    let mut periods: Vec<Period> = Vec::new();
    for (index, run) in runs.iter().enumerate().rev() {
        let (begin, end) = (asked(run), over(run));
        match periods.last_mut() {
            Some(last) if begin.duration_since(last.end) <= APART => {
                last.end = last.end.max(end);
                last.runs.push(index);
            }
            _ => periods.push(Period { begin, end, runs: vec![index] }),
        }
    }
    periods.reverse();
    periods
}

/// When its wait ended.
fn granted(run: &PastRun) -> Timestamp {
    after(asked(run), waited(run))
}

fn over(run: &PastRun) -> Timestamp {
    after(granted(run), held(run))
}

fn after(at: Timestamp, time: Duration) -> Timestamp {
    let time = SignedDuration::try_from(time).unwrap_or_default();
    at.checked_add(time).unwrap_or(Timestamp::MAX)
}

/// What of a time, in milliseconds, belongs to a part of the whole, which is in milliseconds too.
fn in_proportion(time: u64, part: Duration, whole: u64) -> Duration {
    let millis = u128::from(time) * part.as_millis() / u128::from(whole.max(1));
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

fn asked(run: &PastRun) -> Timestamp {
    // What is read was looked at before.
    Timestamp::from_millisecond(run.asked).unwrap_or_default()
}

fn waited(run: &PastRun) -> Duration {
    Duration::from_millis(run.waited)
}

fn held(run: &PastRun) -> Duration {
    Duration::from_millis(run.held.unwrap_or_default())
}

fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The person that the CI names, else the user and the machine.
fn person(run: &PastRun) -> String {
    name(run.actor.as_deref().filter(|actor| !actor.trim().is_empty()).unwrap_or(&run.who))
}

fn name(text: &str) -> String {
    or_unknown(&clean_to(text.trim(), MOST_OF_A_NAME)).to_owned()
}

/// Such as `alice (apply)`.
fn with_operation(who: &str, operation: &str) -> String {
    let operation = short_operation(operation);
    if operation.is_empty() { who.to_owned() } else { format!("{who} ({operation})") }
}

fn short_operation(operation: &str) -> String {
    clean_to(&operation_words(operation), MOST_OF_A_NAME)
}

/// How it ended, with the exit code where that says more.
fn ending(run: &PastRun) -> String {
    let word = or_unknown_outcome(&run.outcome);
    let code = if run.code == 0 { String::new() } else { format!(" ({})", run.code) };
    let took_over = if run.took_over { ", took the lock over" } else { "" };
    format!("{word}{code}{took_over}")
}

fn or_unknown_outcome(outcome: &str) -> String {
    let outcome = clean_to(outcome.trim(), MOST_OF_A_NAME);
    if outcome.is_empty() { "unknown".to_owned() } else { outcome }
}

/// As git shortens it.
fn short_commit(run: &PastRun) -> String {
    let commit = run.commit.as_deref().unwrap_or_default();
    if crate::git::is_commit(commit) { commit[..7].to_owned() } else { String::new() }
}

/// Whom it waited for, and for how long; empty if for nobody.
fn waits(history: &LockHistory, run: &PastRun) -> String {
    let one = |it: &Awaited| {
        let time = human(Duration::from_millis(it.waited));
        format!("{} {time}", history.whom(it))
    };
    run.behind.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What `info` says, on one line.
fn link(run: &PastRun) -> String {
    clean(run.info.trim())
}

/// The answer for a lock, on one line.
fn first_line(history: &LockHistory, now: Timestamp) -> String {
    clean_line(&format!("{}: {}", history.lock, history.answer(now)))
}

#[cfg(test)]
mod tests;
