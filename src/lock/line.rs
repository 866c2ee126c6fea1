//! The content of the queue's registers, beside the lock (`docs/protocol.md#f4-the-line-register`,
//! `docs/protocol.md#f5-tickets`).
//!
//! The queue is advisory: it decides who may try, never who holds the lock. A bug in it can cost
//! order or time, never exclusion. There is one exception: what a waiter hands on about a holder's
//! silence ([`HandedOn`]) is believed (`docs/protocol.md#i6-the-queue-is-advisory`).

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::LockKey;
use crate::lock::register::Record;

/// How often a waiter shows that it lives.
pub const TICKET_BEAT: Duration = Duration::from_secs(20);

/// After how long without a sign of life a ticket is dead.
pub const TICKET_TTL: Duration = Duration::from_mins(1);

/// A place in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// No ticket bears a number as high as this: a line that says so is damaged. Far above what is ever
/// counted to, far below where counting overflows, and exact for every reader of JSON.
const NEVER_REACHED: u64 = 1 << 53;

impl Ticket {
    /// The one this far behind, if there can be one.
    #[must_use]
    pub fn behind(self, places: u64) -> Option<Self> {
        self.0.checked_add(places).filter(|number| *number < NEVER_REACHED).map(Self)
    }

    /// The `next` or `head` of a line that ends or goes on behind it.
    #[must_use]
    pub fn passed(self) -> u64 {
        self.0.saturating_add(1)
    }
}

/// A register that takes part in taking one lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The lock itself.
    Lock,
    /// The line's ends.
    Line,
    /// One waiter's place.
    Ticket(Ticket),
}

impl Slot {
    /// The register's key, from the lock's.
    #[must_use]
    pub fn key(self, lock: &LockKey) -> LockKey {
        match self {
            Self::Lock => lock.clone(),
            Self::Line => LockKey(format!("{lock}.tfwrap/line")),
            Self::Ticket(Ticket(n)) => LockKey(format!("{lock}.tfwrap/ticket/{n}")),
        }
    }

    /// The place whose key this is, beside the lock with the first.
    #[must_use]
    pub fn ticket_of(lock: &LockKey, key: &LockKey) -> Option<Ticket> {
        let number = key.0.strip_prefix(&format!("{lock}.tfwrap/ticket/"))?;
        number.parse().ok().map(Ticket)
    }
}

/// The ends of the line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Line {
    /// The next ticket to be taken.
    pub next: u64,
    /// Every ticket below this one has had its turn.
    pub head: u64,
    /// How often somebody in line got the lock, in turn or not.
    #[serde(default)]
    pub turns: u64,
    /// How many of the tickets below `next` were taken for plans, and how many of those below
    /// `head`.
    #[serde(default)]
    pub plans: (u64, u64),
    /// Who wrote this, and a count: no two writes have the same bytes.
    #[serde(default)]
    pub writer: String,
    /// Raised by every write.
    #[serde(default)]
    pub count: u64,
    /// How long a waiter that left saw the holder's record stand still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<HandedOn>,
}

/// An observation that is handed on: a duration, no point in time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HandedOn {
    /// The holder's lock ID.
    pub id: String,
    /// Its beat.
    pub beat: u64,
    /// How long that was seen unchanged, in milliseconds.
    pub stood: u64,
}

/// One waiter, as its ticket shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Waiter {
    /// The lock ID it will use.
    pub id: String,
    /// Raised by every sign of life.
    pub beat: u64,
    /// The lock is seen free, after so many turns: whoever stands behind knows by that that this
    /// waiter lives and will try it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_after: Option<u64>,
    /// `user@host`; for display only, as is what follows.
    #[serde(default)]
    pub who: String,
    /// What it will do, in Terraform's word.
    #[serde(default)]
    pub operation: String,
    /// Its CI run.
    #[serde(default)]
    pub info: String,
    /// Since when, on its wall clock.
    #[serde(default)]
    pub joined: String,
}

impl Line {
    /// Whether nobody waits, as far as the numbers say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next <= self.head
    }

    /// Reads the record; nothing for what is no line, or a damaged one: whoever joins writes it anew.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        parse(record).filter(|line: &Self| line.next.max(line.head) < NEVER_REACHED)
    }

    /// The ticket to be taken next.
    #[must_use]
    pub fn end(&self) -> Ticket {
        Ticket(self.next.max(self.head))
    }

    /// The record to store: signed, and counted up.
    #[must_use]
    pub fn signed(mut self, writer: &str) -> Record {
        writer.clone_into(&mut self.writer);
        self.count = self.count.wrapping_add(1);
        record(&self)
    }
}

impl Waiter {
    /// Whether it waits for a plan.
    #[must_use]
    pub fn is_plan(&self) -> bool {
        self.operation == super::PLAN_OPERATION
    }

    /// Reads the record; nothing for what is no ticket.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        parse(record)
    }

    /// The record to store.
    #[must_use]
    pub fn to_record(&self) -> Record {
        record(self)
    }
}

fn record(value: &impl Serialize) -> Record {
    Record { info: None, lease: serde_json::to_string(value).ok() }
}

fn parse<T: DeserializeOwned>(record: &Record) -> Option<T> {
    serde_json::from_str(record.lease.as_deref()?).ok()
}
