//! How fast the queue moves, judged by what we have seen of it.

use std::time::Duration;

use super::super::Uptime;

/// How long a hold takes, and how much of the present one is over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    /// When `head` was seen to move last, or we joined.
    moved: Uptime,
    /// How long one hold took, where we saw one end.
    hold: Option<Duration>,
}

impl Progress {
    /// Nothing is known yet.
    pub(super) fn from(now: Uptime) -> Self {
        Self { moved: now, hold: None }
    }

    /// `head` has moved by so many places.
    pub(super) fn moves(&mut self, now: Uptime, places: u64) {
        let places = u32::try_from(places).unwrap_or(u32::MAX).max(1);
        self.hold = Some(now.since(self.moved) / places);
        self.moved = now;
    }

    /// Whether we saw a hold end.
    pub(super) fn is_known(&self) -> bool {
        self.hold.is_some()
    }

    /// How long one hold takes, as far as we know: at least as long as the present one.
    pub(super) fn hold(&self, now: Uptime) -> Duration {
        self.hold.unwrap_or_default().max(now.since(self.moved))
    }

    /// How long so many holds still take, the present one among them; nothing before we saw one end.
    pub(super) fn until(&self, now: Uptime, holds: u64) -> Option<Duration> {
        Some(times(self.hold?, holds).saturating_sub(now.since(self.moved)))
    }
}

/// So many times as long.
pub(super) fn times(duration: Duration, count: u64) -> Duration {
    duration.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}
