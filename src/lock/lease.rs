//! The lease: our part of a lock's record, beside Terraform's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The shortest lease that can be asked for.
pub const SHORTEST: Duration = Duration::from_secs(15);

/// The longest lease that a first write declares, whatever was asked for: a create that was never
/// answered may land minutes later, and nobody would beat for it
/// (`docs/protocol.md#r4-a-create-may-be-applied-late`). The first beat declares the full one.
pub const FIRST: Duration = Duration::from_mins(1);

/// The longest time between two beats.
const LONGEST_PERIOD: Duration = Duration::from_secs(15);

/// After how long without a sign of life others may take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseTerm {
    /// No expiry.
    Never,
    /// So long; at least [`SHORTEST`].
    After(Duration),
}

impl LeaseTerm {
    /// The term that the first write declares.
    #[must_use]
    pub fn first(self) -> Self {
        match self {
            Self::Never => Self::After(FIRST),
            Self::After(ttl) => Self::After(ttl.min(FIRST)),
        }
    }

    /// The shorter of two.
    #[must_use]
    pub fn shorter(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(one), Self::After(two)) => Self::After(one.min(two)),
            (Self::Never, term) | (term, Self::Never) => term,
        }
    }

    /// The time between two beats: a tenth of the term.
    #[must_use]
    pub fn period(self) -> Duration {
        match self {
            Self::Never => LONGEST_PERIOD,
            Self::After(ttl) => (ttl / 10).min(LONGEST_PERIOD),
        }
    }

    /// When the holder interrupts its child, and when it kills it, without an answered beat: at
    /// two thirds and four fifths. So the child is gone before anybody may take over, as long as
    /// clocks run within 5 % of each other.
    #[must_use]
    pub fn fences(self) -> Option<(Duration, Duration)> {
        match self {
            Self::Never => None,
            Self::After(ttl) => Some((ttl * 2 / 3, ttl * 4 / 5)),
        }
    }
}

/// What the record says: the term, and a number that every write raises, so that no two writes
/// have the same bytes and an observer sees that the holder lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// As declared by the holder.
    pub term: LeaseTerm,
    /// Raised by every write.
    pub beat: u64,
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Stored {
    beat: u64,
    /// In milliseconds; absent: never.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    ttl: Option<u64>,
}

impl Lease {
    /// Encodes it.
    #[must_use]
    pub fn to_text(self) -> String {
        let ttl = match self.term {
            LeaseTerm::Never => None,
            LeaseTerm::After(ttl) => Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        };
        let stored = Stored { beat: self.beat, ttl };
        serde_json::to_string(&stored).unwrap_or_else(|_| String::from("{}"))
    }

    /// Decodes it; nothing for what is no lease. Such a record never expires.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let stored: Stored = serde_json::from_str(text).ok()?;
        let term = match stored.ttl {
            None => LeaseTerm::Never,
            // Nobody of us declares less; whoever does must not lose its lock at a glance.
            Some(ttl) => LeaseTerm::After(Duration::from_millis(ttl).max(SHORTEST)),
        };
        Some(Self { term, beat: stored.beat })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for term in [LeaseTerm::Never, LeaseTerm::After(Duration::from_mins(10))] {
            let lease = Lease { term, beat: 7 };
            assert_eq!(Lease::parse(&lease.to_text()), Some(lease));
        }
        assert_eq!(Lease::parse("{\"ttl\":1}"), None, "no beat");
        assert_eq!(Lease::parse("x"), None);
    }

    #[test]
    fn a_declared_term_that_is_too_short_counts_as_the_shortest() {
        for millis in [0, 1, 14_999, 15_000] {
            let lease = Lease::parse(&format!(r#"{{"beat":0,"ttl":{millis}}}"#)).unwrap();
            assert_eq!(lease.term, LeaseTerm::After(SHORTEST), "{millis}");
        }
    }

    #[test]
    fn the_first_write_declares_a_minute_at_most() {
        let first = |term: LeaseTerm| term.first();
        assert_eq!(first(LeaseTerm::Never), LeaseTerm::After(FIRST));
        assert_eq!(first(LeaseTerm::After(FIRST * 10)), LeaseTerm::After(FIRST));
        assert_eq!(first(LeaseTerm::After(SHORTEST)), LeaseTerm::After(SHORTEST));
    }

    #[test]
    fn the_child_is_gone_before_the_take_over_with_clocks_five_percent_apart() {
        let ttl = Duration::from_secs(1000);
        let (interrupt, kill) = LeaseTerm::After(ttl).fences().unwrap();
        assert!(interrupt < kill);
        // Ours slow by 5 %, theirs fast by 5 %.
        assert!(kill.mul_f64(1.05) < ttl.mul_f64(0.95));
    }
}
