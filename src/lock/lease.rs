//! The lease: our part of a lock's record, beside Terraform's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The shortest lease that can be asked for.
pub const SHORTEST: Duration = Duration::from_secs(15);

/// The longest lease that a first write declares, whatever was asked for: a create that was never
/// answered may land minutes later, and nobody would beat for it
/// (`docs/protocol.md#r4-a-create-may-be-applied-late`). The first beat declares the full one.
pub const FIRST: Duration = Duration::from_mins(1);

/// How often whoever fences looks at the clock, for timers do not count suspend.
pub const TICK: Duration = Duration::from_secs(1);

/// For how long a request that was sent may still be on its way, once its sender is dead.
pub const SETTLE: Duration = Duration::from_secs(2);

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

    /// The time between two heartbeats: a tenth of the term, 15 s at most; with `never`, 15 s.
    #[must_use]
    pub fn period(self) -> Duration {
        match self {
            Self::Never => LONGEST_PERIOD,
            Self::After(ttl) => (ttl / 10).min(LONGEST_PERIOD),
        }
    }

    /// For how long a holder shows nothing new although it lives, reaches the store and loses one
    /// heartbeat with its look on the way: two periods, and [`SETTLE`] for the requests. Who looks
    /// for a sign of life looks for so long (`unlock`, `status`, `recover`, and whoever takes over
    /// on another's word). Longer silence is a sign that something is wrong, and no proof of death:
    /// that is the whole term, as for a take-over
    /// (`docs/protocol.md#l6-observation-and-take-over`).
    #[must_use]
    pub fn sign_of_life(self) -> Duration {
        self.period() * 2 + SETTLE
    }

    /// When the holder interrupts its child, and when it kills it, without an answered beat: at
    /// two thirds and four fifths; of a lease below 30 s earlier. So the child is gone, and what it
    /// sent last has arrived, before anybody may take over, as long as clocks run within 5 % of the true
    /// time: the kill comes up to [`TICK`] late, and then [`SETTLE`] passes.
    ///
    /// Ours slow by 5 %, theirs fast by as much: (9/10 L - 3 s + 1 s + 2 s) · 1.05 < 95/100 L.
    #[must_use]
    pub fn fences(self) -> Option<(Duration, Duration)> {
        match self {
            Self::Never => None,
            Self::After(ttl) => {
                let kill = (ttl * 4 / 5).min((ttl * 9 / 10).saturating_sub(TICK + SETTLE));
                Some((kill * 5 / 6, kill))
            }
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

    /// With the tick by which a fence may be late, and the settle of what the child sent last.
    #[test]
    fn the_child_is_gone_before_the_take_over_with_clocks_five_percent_apart() {
        let millis = |seconds: u64| seconds * 1000;
        let short = (millis(15)..millis(120)).step_by(7);
        let long = (millis(120)..millis(86_400)).step_by(9_973);
        for ttl in short.chain(long).map(Duration::from_millis) {
            let (interrupt, kill) = LeaseTerm::After(ttl).fences().unwrap();
            // Ours slow by 5 %, theirs fast by 5 %.
            let gone = (kill + TICK + SETTLE).mul_f64(1.05);
            assert!(gone < ttl.mul_f64(0.95), "{ttl:?}: {gone:?}");
            // Each is seen by a tick of its own, and after at least five heartbeats.
            assert!(interrupt + TICK < kill, "{ttl:?}: {interrupt:?}, {kill:?}");
            assert!(interrupt > LeaseTerm::After(ttl).period() * 5, "{ttl:?}: {interrupt:?}");
        }
        let fences = |ttl| LeaseTerm::After(Duration::from_secs(ttl)).fences().unwrap();
        assert_eq!(fences(15), (Duration::from_millis(8_750), Duration::from_millis(10_500)));
        assert_eq!(fences(30), (Duration::from_secs(20), Duration::from_secs(24)));
        assert_eq!(fences(600), (Duration::from_secs(400), Duration::from_mins(8)));
    }

    /// A heartbeat after a period, given up after half of one; a look as long; the next.
    #[test]
    fn a_lost_heartbeat_is_made_up_for_within_a_sign_of_life() {
        for term in [LeaseTerm::Never, LeaseTerm::After(SHORTEST), LeaseTerm::After(FIRST * 10)] {
            let period = term.period();
            let next = period + period / 2 + period / 2;
            assert_eq!(next + SETTLE, term.sign_of_life());
        }
        assert_eq!(LeaseTerm::After(FIRST * 10).sign_of_life(), Duration::from_secs(32));
        assert_eq!(LeaseTerm::After(SHORTEST).sign_of_life(), Duration::from_secs(5));
    }
}
