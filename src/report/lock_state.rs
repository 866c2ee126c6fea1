//! What `status` says of a lock. All text in it comes from records and is cleaned here.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::clean::{clean, clean_line};
use super::json::{escape, holder_of, seconds};
use super::text::{describe_holding, human, operation_words, or_unknown, since};
use crate::lock::LockInfo;
use crate::lock::lease::{Lease, LeaseTerm};
use crate::lock::line::{Ticket, Waiter};

/// The version of the JSON document: raised when a field changes its meaning or goes.
const DOCUMENT: u32 = 1;

/// One lock as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockState {
    /// Its name.
    pub lock: String,
    /// Who holds it, if it is held.
    pub holding: Option<Holding>,
    /// Who waits for it.
    pub line: QueueState,
}

/// How a lock is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// By whom, where the record can be read.
    pub info: Option<Box<LockInfo>>,
    /// What ends it, besides its holder.
    pub kept_by: KeptBy,
    /// The command that does, where the record names no ID.
    pub nameless_removal: Option<String>,
}

/// What a lock lasts as long as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptBy {
    /// A lease, and its beat.
    Lease {
        /// As the record says.
        lease: Lease,
        /// How long the beat was seen to stand still; none after one look.
        unchanged: Option<Duration>,
    },
    /// The process of its holder.
    Kernel,
    /// Nothing: a stock Terraform's record.
    Nothing,
}

/// Who stands in line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueState {
    /// Nobody asked.
    Unasked,
    /// The line's registers cannot be read.
    Unreadable,
    /// These, in order.
    Known {
        /// The first of them.
        waiters: Vec<(Ticket, Waiter)>,
        /// How many tickets were not looked at.
        more: u64,
        /// The first of those.
        rest: Ticket,
    },
}

impl LockState {
    /// The same without what changes all the time: signs of life, and times. That one is overdue is
    /// a change again.
    #[must_use]
    pub fn facts(&self) -> Self {
        let mut facts = self.clone();
        if let Some(Holding { kept_by: KeptBy::Lease { lease, unchanged }, .. }) =
            &mut facts.holding
        {
            lease.beat = 0;
            let overdue = lease.term.sign_of_life();
            *unchanged = unchanged.filter(|still| *still > overdue).map(|_| overdue);
        }
        if let QueueState::Known { waiters, .. } = &mut facts.line {
            for (_, waiter) in waiters {
                waiter.beat = 0;
            }
        }
        facts
    }

    /// Lines for people; `now` is the wall clock, for ages only.
    #[must_use]
    pub fn text(&self, now: Timestamp) -> String {
        let mut out = format!("{}: ", clean_line(&self.lock));
        match &self.holding {
            None => out.push_str("free\n"),
            Some(Holding { info, kept_by, nameless_removal }) => {
                out.push_str(&describe_holding(info.as_deref(), now));
                let _ = writeln!(out, "\n  {}", kept_by.in_words());
                if let Some(command) = nameless_removal {
                    let command = clean_line(command);
                    let _ = writeln!(out, "  if you are sure that its holder is dead: {command}");
                }
            }
        }
        match &self.line {
            QueueState::Unasked => {}
            QueueState::Unreadable => out.push_str("  waiting: the queue cannot be read\n"),
            QueueState::Known { waiters, more, .. } => {
                if !waiters.is_empty() {
                    out.push_str("  waiting, in this order:\n");
                }
                for (place, (_, waiter)) in waiters.iter().enumerate() {
                    let _ = writeln!(out, "    {}. {}", place + 1, describe_waiter(waiter, now));
                }
                if *more > 0 {
                    let _ = writeln!(out, "    and up to {more} more");
                }
            }
        }
        out
    }

    fn json(&self) -> Value {
        let holding = self.holding.as_ref();
        let lease = holding.and_then(|it| match &it.kept_by {
            KeptBy::Lease { lease, unchanged } => Some(json!({
                "ttl_seconds": match lease.term {
                    LeaseTerm::Never => None,
                    LeaseTerm::After(ttl) => Some(seconds(ttl)),
                },
                "beat": lease.beat,
                "unchanged_seconds": unchanged.map(seconds),
            })),
            KeptBy::Kernel | KeptBy::Nothing => None,
        });
        let (waiters, more) = match &self.line {
            QueueState::Unasked | QueueState::Unreadable => (None, 0),
            QueueState::Known { waiters, more, .. } => {
                (Some(waiters.iter().map(waiter_of).collect::<Vec<_>>()), *more)
            }
        };
        json!({
            "lock": self.lock,
            "state": if holding.is_some() { "held" } else { "free" },
            "holder": holding.and_then(|it| it.info.as_deref()).map(holder_of),
            "kept_by": holding.map(|it| it.kept_by.name()),
            "lease": lease,
            "waiters": waiters,
            "more_waiters": more,
        })
    }
}

impl KeptBy {
    fn name(&self) -> &'static str {
        match self {
            Self::Lease { .. } => "lease",
            Self::Kernel => "kernel",
            Self::Nothing => "nothing",
        }
    }

    fn in_words(&self) -> String {
        match self {
            Self::Lease { lease, unchanged } => {
                let term = match lease.term {
                    LeaseTerm::Never => "never expires".to_owned(),
                    LeaseTerm::After(ttl) => {
                        format!("expires {} after the last heartbeat", human(ttl))
                    }
                };
                let seen = unchanged.map(|still| format!(", unchanged for {}", human(still)));
                format!("lease: {term}; beat {}{}", lease.beat, seen.unwrap_or_default())
            }
            Self::Kernel => {
                "kept by the kernel: ends when the process that has the state file open ends"
                    .to_owned()
            }
            Self::Nothing => "without a lease: never expires".to_owned(),
        }
    }
}

/// All of them as lines.
#[must_use]
pub fn states_as_text(states: &[LockState], now: Timestamp) -> String {
    states.iter().map(|state| state.text(now)).collect()
}

/// All of them as one JSON document on one line.
#[must_use]
pub fn states_as_json(states: &[LockState]) -> String {
    let locks: Vec<_> = states.iter().map(LockState::json).collect();
    escape(&json!({ "version": DOCUMENT, "locks": locks }).to_string()) + "\n"
}

fn describe_waiter(waiter: &Waiter, now: Timestamp) -> String {
    let mut out = or_unknown(&clean(waiter.who.trim())).to_owned();
    let operation = operation_words(&waiter.operation);
    if !operation.is_empty() {
        out.push_str(" for ");
        out.push_str(&operation);
    }
    if let Some(since) = since(&waiter.joined, now) {
        out.push_str(" since ");
        out.push_str(&since);
    }
    let info = clean(waiter.info.trim());
    if !info.is_empty() {
        out.push_str(", ");
        out.push_str(&info);
    }
    out
}

fn waiter_of((ticket, waiter): &(Ticket, Waiter)) -> Value {
    json!({
        "ticket": ticket.0,
        "id": clean(&waiter.id),
        "who": clean(&waiter.who),
        "operation": clean(&waiter.operation),
        "info": clean(&waiter.info),
        "joined": clean(&waiter.joined),
        "beat": waiter.beat,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::hostile;

    fn now() -> Timestamp {
        "2026-11-21T09:16:11Z".parse().unwrap()
    }

    fn hostile_state() -> LockState {
        let text = hostile::text;
        let waiter = Waiter {
            id: text(),
            beat: u64::MAX,
            free_after: Some(u64::MAX),
            who: text(),
            operation: text(),
            info: text(),
            joined: text(),
        };
        let text_of_lease = format!("{{\"beat\":{0},\"ttl\":{0}}}", u64::MAX);
        let lease = Lease::parse(&text_of_lease).unwrap();
        LockState {
            lock: text(),
            holding: Some(Holding {
                info: Some(Box::new(hostile::info())),
                kept_by: KeptBy::Lease { lease, unchanged: Some(Duration::from_hours(1)) },
                nameless_removal: Some(text()),
            }),
            line: QueueState::Known {
                waiters: vec![(Ticket(u64::MAX), waiter)],
                more: u64::MAX,
                rest: Ticket(u64::MAX),
            },
        }
    }

    #[test]
    fn hostile_records_stay_harmless() {
        let state = hostile_state();
        for line in state.text(now()).lines() {
            hostile::assert_harmless_line(line);
        }
        let json = states_as_json(&[state]);
        hostile::assert_harmless(json.trim_end_matches('\n'));
        let value: Value = serde_json::from_str(&json).unwrap();
        let locks = value["locks"].as_array().unwrap();
        assert_eq!(locks.len(), 1);
    }

    #[test]
    fn a_beat_is_no_news_and_its_absence_is() {
        let with = |beat, still| {
            let mut state = hostile_state();
            let term = LeaseTerm::After(Duration::from_mins(10));
            let unchanged = Some(Duration::from_secs(still));
            let kept_by = KeptBy::Lease { lease: Lease { term, beat }, unchanged };
            state.holding = Some(Holding { info: None, kept_by, nameless_removal: None });
            state.facts()
        };
        assert_eq!(with(1, 0), with(2, 14));
        assert_ne!(with(1, 0), with(1, 40));
        assert_eq!(with(1, 40), with(1, 50));
    }

    #[test]
    fn the_reference_documents_every_field() {
        let reference = include_str!("../../docs/reference.md");
        let (_, section) = reference.split_once("## `tfwrap status`").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let lock = hostile_state().json();
        let parts = [&lock, &lock["lease"], &lock["waiters"][0]];
        for name in parts.iter().flat_map(|part| part.as_object().unwrap().keys()) {
            assert!(section.contains(&format!("`{name}`")), "`{name}` is missing");
        }
    }
}
