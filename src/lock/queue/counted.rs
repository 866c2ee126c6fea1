//! How many stand before us. The line tells the numbers alone: who gave up or died leaves a gap, so once,
//! after joining, the places before ours are looked at, as `status` does. That is for messages; nothing is
//! decided by it.

use super::super::Uptime;
use super::super::line::{Slot, Ticket};
use super::{Action, Phase, Queue};
use crate::lock::register::{StoreError, Stored};

/// How many places are looked at; those nearer to the head count as taken.
const MOST_PLACES: u64 = 8;

/// What was found between the head and the nearest ticket before ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Counted {
    /// The last place that was looked at, down from ours.
    last: Option<u64>,
    looked: u64,
    gaps: Vec<u64>,
    /// Of the line that was read last, how many turns there had been when the holder was looked at.
    turns: u64,
    /// Whether somebody has had a turn since the line was read.
    is_stale: bool,
}

impl Queue {
    /// How many stand before us, as far as we know; nothing outside the line, nor where it has moved
    /// since it was read.
    #[must_use]
    pub fn ahead(&self) -> Option<u64> {
        if self.counted.is_stale && self.is_far() {
            return None;
        }
        let before = self.watched.as_ref().map_or(0, |watched| watched.ticket.0);
        let is_before = |place: &&u64| (self.line.head..before).contains(place);
        let gaps = self.counted.gaps.iter().filter(is_before).count();
        Some(self.places_ahead()?.saturating_sub(u64::try_from(gaps).unwrap_or(u64::MAX)))
    }

    /// The same, once that was looked at.
    #[must_use]
    pub fn counted_ahead(&self) -> Option<u64> {
        let is_seen = self.watched.as_ref().is_none_or(|watched| watched.version.is_some());
        let is_counted = !self.is_far() || self.counted.looked >= MOST_PLACES;
        self.ahead().filter(|_| is_seen && is_counted)
    }

    /// How many places there are before ours, gaps included; nothing outside the line.
    #[must_use]
    pub fn places_ahead(&self) -> Option<u64> {
        self.mine.as_ref()?;
        // Without anything to watch before us we are at the head.
        let before = self.watched.as_ref().map_or(0, |watched| watched.ticket.passed());
        Some(before.saturating_sub(self.line.head))
    }

    /// Whether the request that is out looks at a place for the sake of messages alone.
    #[must_use]
    pub fn counts_places(&self) -> bool {
        matches!(self.phase, Phase::Counting(_))
    }

    /// Whether our place is being found out: a moment later [`Queue::ahead`] is right.
    #[must_use]
    pub fn is_counting(&self) -> bool {
        let is_seen = || self.watched.as_ref().is_none_or(|it| it.version.is_some());
        self.counts_places() || matches!(self.phase, Phase::Watching(_)) && !is_seen()
    }

    /// The next place to look at, if there is one.
    pub(super) fn count(&mut self) -> Option<Action> {
        let watched = self.watched.as_ref().filter(|watched| watched.version.is_some())?.ticket.0;
        let from = self.counted.last.map_or(watched, |last| last.min(watched));
        let place = from.checked_sub(1).filter(|place| *place >= self.line.head);
        let Some(ticket) = place.map(Ticket).filter(|_| self.counted.looked < MOST_PLACES) else {
            // Nobody comes before us later.
            self.counted.looked = MOST_PLACES;
            return None;
        };
        Some(self.ask(Phase::Counting(ticket), Action::Read(Slot::Ticket(ticket))))
    }

    pub(super) fn counted(
        &mut self,
        now: Uptime,
        Ticket(place): Ticket,
        reply: &Result<Option<Stored>, StoreError>,
    ) -> Action {
        self.counted.last = Some(place);
        match reply {
            Ok(None) => self.counted.gaps.push(place),
            Ok(Some(_)) => {}
            // What does not answer is not asked again for the sake of a message.
            Err(_) => self.counted.looked = MOST_PLACES,
        }
        self.counted.looked = self.counted.looked.saturating_add(1);
        self.sleep_on(now)
    }

    /// The lock was looked at: whether it is in the same hands as before.
    pub(super) fn note_holder(&mut self, is_same: bool) {
        // The line that we know is from before that turn.
        self.counted.is_stale |= !is_same && self.counted.turns == self.line.turns;
        self.counted.turns = self.line.turns;
    }

    /// The line was read.
    pub(super) fn note_line(&mut self) {
        self.counted.is_stale = false;
    }
}
