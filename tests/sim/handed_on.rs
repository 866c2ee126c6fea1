//! What a waiter that leaves tells those behind it of the holder's silence: with it a take-over comes
//! sooner, and never before the record has stood still for its whole term.
//!
//! A chain of waiters, each a machine of its own, looks at a record that beats for a while. Requests
//! and replies take their time, and each tells the next one through the line.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use tfwrap::lock::acquire::Acquire;
use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::lease::{Lease, LeaseTerm};
use tfwrap::lock::line::HandedOn;
use tfwrap::lock::{LockId, Uptime};
use tfwrap::store::{Record, RecordVersion, Stored};

use crate::seeded::seeded;

const TERM: LeaseTerm = LeaseTerm::After(TTL);
const TTL: Duration = Duration::from_secs(15);

/// How an observation is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    AsBuilt,
    /// By whoever leaves: up to when it tells of it. Harmless, since whoever reads that compares the
    /// record itself, before or after.
    UntilTold,
    /// By whoever leaves: from before its own request.
    FromRequest,
    /// By whoever reads it: from before the line was asked for.
    FromLinesRequest,
    /// It counts for whatever beat is there.
    OfAnyBeat,
    /// It says that the record stands still for ever.
    ForEver,
}

/// One request: how long after the last one it is sent, and its way there and back, in
/// milliseconds.
type Ask = (u64, u64, u64);

/// One waiter: how long after the one before it comes, its looks, before which of them it reads the
/// line, and how long it takes to tell what it saw.
type Waits = (u64, Vec<Ask>, usize, Ask, u64);

fn asks() -> impl Strategy<Value = Ask> {
    (0..3_000_u64, 0..1_500_u64, 0..1_500_u64)
}

fn scenes() -> impl Strategy<Value = (Vec<u64>, Vec<Waits>)> {
    let beats = prop::collection::vec(0..15_000_u64, 1..4);
    let looks = prop::collection::vec(asks(), 1..9);
    let line = (0..500_u64, 0..8_000_u64, 0..2_000_u64);
    let waits = (0..12_000_u64, looks, 0..9_usize, line, 0..1_000_u64);
    (beats, prop::collection::vec(waits, 2..6))
}

/// The record as of this time, and since when it is so.
fn record(beats: &[u64], at: u64) -> (Stored, u64) {
    let mut written = 0;
    let mut beat = 0;
    for gap in beats {
        if written + gap > at {
            break;
        }
        written += gap;
        beat += 1;
    }
    let lease = Some(Lease { term: TERM, beat }.to_text());
    let record = Record { info: Some(r#"{"ID":"holder"}"#.to_owned()), lease };
    (Stored { record, version: RecordVersion(beat.to_string()) }, written)
}

fn up(millis: u64) -> Uptime {
    Uptime(Duration::from_millis(millis))
}

/// What the machines would do.
#[derive(Debug, Clone, Copy)]
struct Worst {
    /// How much too early any of them would take over, if the record stood still from then on.
    early: Duration,
    /// The shortest time for which one that would take over has itself seen it.
    own: Duration,
}

impl Worst {
    const NONE: Self = Self { early: Duration::ZERO, own: Duration::MAX };

    fn or(self, other: Self) -> Self {
        Self { early: self.early.max(other.early), own: self.own.min(other.own) }
    }
}

fn play((beats, chain): &(Vec<u64>, Vec<Waits>), rule: Rule) -> Worst {
    let mut worst = Worst::NONE;
    // What was told, from when on.
    let mut told: Vec<(u64, HandedOn)> = Vec::new();
    let mut comes = 0;
    for (number, (after, looks, reads_at, ask, telling)) in chain.iter().enumerate() {
        comes += after;
        let mut now = comes;
        let id = LockId(format!("waiter-{number}"));
        let mut waiter = Acquire::new(id, up(now), up(now + 60_000), Jitter(1));
        let (mut shown, mut sent): (Option<(u64, Uptime)>, _) = (None, now);
        for (index, (gap, there, back)) in looks.iter().enumerate() {
            if index == reads_at % looks.len() {
                let (asked, read) = (now + ask.0, now + ask.0 + ask.1);
                now = read + ask.2;
                let heard = told.iter().rev().find(|(from, _)| *from <= read);
                if let Some(mut seen) = heard.map(|(_, seen)| seen.clone()) {
                    if rule == Rule::OfAnyBeat {
                        seen.beat = shown.map_or(seen.beat, |(beat, _)| beat);
                    }
                    let from = if rule == Rule::FromLinesRequest { asked } else { now };
                    waiter.hand_on(up(from), seen);
                }
            }
            sent = now + gap;
            let (stored, written) = record(beats, sent + there);
            now = sent + there + back;
            let lease = stored.record.lease.as_deref().and_then(Lease::parse).expect("a lease");
            let from = up(if rule == Rule::FromRequest { sent } else { now });
            let met = shown.filter(|(beat, _)| *beat == lease.beat).map_or(from, |(_, met)| met);
            shown = Some((lease.beat, met));
            let _ = waiter.observe(from, up(sent), Ok(Some(stored)));
            let expires = waiter.expires().expect("it has a lease");
            let early = up(written).plus(TTL).since(expires);
            worst = worst.or(Worst { early, own: expires.since(met) });
        }
        let mut seen = waiter.observation().expect("it has seen a lease");
        let from = now + telling;
        match rule {
            // What the last reply was the first to show stands only since that.
            Rule::UntilTold => seen.stood += from - if seen.stood == 0 { now } else { sent },
            Rule::ForEver => seen.stood = u64::MAX,
            _ => {}
        }
        let last = told.last().map_or(0, |(from, _)| *from);
        told.push((from.max(last), seen));
    }
    worst
}

/// The worst of many scenes, or of the first that are as much too early as this.
fn worst(rule: Rule, enough: Duration) -> Worst {
    let worst = Cell::new(Worst::NONE);
    let tried = TestRunner::new(seeded(5_000)).run(&scenes(), |scene| {
        if worst.get().early < enough {
            worst.set(worst.get().or(play(&scene, rule)));
        }
        Ok::<(), TestCaseError>(())
    });
    tried.unwrap_or_else(|wrong| panic!("{wrong}"));
    worst.get()
}

#[test]
fn nobody_takes_over_before_the_record_has_stood_for_its_term_whatever_was_handed_on() {
    for rule in [Rule::AsBuilt, Rule::UntilTold] {
        let worst = worst(rule, Duration::MAX);
        assert_eq!(worst.early, Duration::ZERO, "{rule:?}");
        // It is used.
        assert!(worst.own < TTL, "{rule:?}: {worst:?}");
    }
}

/// Counted from the wrong end of a request, or for another beat, it is caught.
#[test]
fn what_is_handed_on_and_counted_wrongly_is_caught() {
    for rule in [Rule::FromRequest, Rule::FromLinesRequest, Rule::OfAnyBeat] {
        let much = Duration::from_millis(100);
        let early = worst(rule, much).early;
        assert!(early >= much, "{rule:?}: {early:?}");
    }
}

/// What is damaged, or edited by hand, is believed no further than this: whoever takes over has
/// itself seen the record stand still for as long as a holder that lives may show nothing new.
#[test]
fn what_is_handed_on_and_was_never_seen_shortens_the_wait_to_a_sign_of_life() {
    let worst = worst(Rule::ForEver, Duration::MAX);
    assert_eq!(worst.own, TERM.sign_of_life());
    assert!(worst.early > Duration::from_secs(5), "{worst:?}");
}
