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

    /// The runs of the last week, in sums.
    fn week(&self, now: Timestamp) -> Week {
        let is_recent = |run: &&PastRun| {
            let age = now.duration_since(asked(run));
            age <= WEEK && age >= -AHEAD
        };
        let mut week =
            Week { runs: 0, waited: Duration::ZERO, held: Duration::ZERO, awaited: Vec::new() };
        for run in self.runs.iter().filter(is_recent) {
            week.runs += 1;
            week.waited += waited(run);
            week.held += held(run);
            for awaited in &run.behind {
                let (whom, time) = (self.whom(awaited), Duration::from_millis(awaited.waited));
                match week.awaited.iter_mut().find(|(known, _)| *known == whom) {
                    Some((_, sum)) => *sum = sum.saturating_add(time),
                    None => week.awaited.push((whom, time)),
                }
            }
        }
        week.awaited.sort_by_key(|(whom, time)| (Reverse(*time), whom.clone()));
        week
    }

    /// Since when the history knows of every run, if that is not for a week.
    fn reaches_back_to(&self, now: Timestamp) -> Option<Timestamp> {
        let oldest = self.runs.iter().map(asked).min().filter(|_| self.dropped > 0)?;
        (now.duration_since(oldest) < WEEK).then_some(oldest)
    }

    /// Who was waited for: the person, where their own run says who that was.
    fn whom(&self, awaited: &Awaited) -> String {
        let own = self.runs.iter().find(|run| !run.id.is_empty() && run.id == awaited.id);
        let who = own.map_or_else(|| name(&awaited.who), person);
        with_operation(&who, &awaited.operation)
    }

    /// What share of the last week was waiting, and for whom. Cleaned.
    fn answer(&self, now: Timestamp) -> String {
        let week = self.week(now);
        let span = match self.reaches_back_to(now) {
            Some(since) => format!("since {} (the history goes back no further)", stamp(since)),
            None => "in the last 7 days".to_owned(),
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

fn over(run: &PastRun) -> Timestamp {
    let after = SignedDuration::try_from(waited(run) + held(run)).unwrap_or_default();
    asked(run).checked_add(after).unwrap_or(Timestamp::MAX)
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
