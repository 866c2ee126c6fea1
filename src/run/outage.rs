//! What is said while a store does not answer, or answers only that it cannot do what it is asked.
//!
//! The machines ask again, so an outage is no failure yet. But whoever reads the log must know why
//! nothing happens, and what will follow if it lasts. Reads and writes count apart: a table that is
//! throttled, or a filter on the way, may let the one through and not the other.

use std::time::Duration;

use crate::lock::Uptime;
use crate::lock::register::{Reply, StoreError};

/// How long a store that has never answered may be silent before that is said.
const AT_FIRST: Duration = Duration::from_secs(2);

/// The same of one that has answered: a slow request now and then is not worth a word.
const LATER: Duration = Duration::from_secs(5);

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// Or remove.
    Write,
}

impl Access {
    /// Of what this answers.
    pub(super) fn of(reply: &Reply) -> Self {
        match reply {
            Reply::Read(_) => Self::Read,
            Reply::Wrote(_) | Reply::Removed(_) => Self::Write,
        }
    }
}

/// After how long a failure is no part of the next one's outage: nothing was wrong that anybody saw.
/// Whoever meets a fault asks again within 10 s or so.
const FORGOTTEN: Duration = Duration::from_secs(15);

/// Requests that were not answered, one after the other.
#[derive(Debug, Default)]
struct Failing {
    /// When the first of those was sent that failed.
    since: Option<Uptime>,
    /// When the last of them failed.
    last: Option<Uptime>,
    failures: u32,
    /// When the one was sent that is out.
    sent: Option<Uptime>,
}

impl Failing {
    fn asked(&mut self, now: Uptime) {
        if self.last.is_some_and(|last| now.since(last) > FORGOTTEN) {
            *self = Self::default();
        }
        self.sent = Some(now);
    }

    fn failed(&mut self, now: Uptime) {
        self.since = self.since.or(self.sent);
        self.sent = None;
        self.last = Some(now);
        self.failures = self.failures.saturating_add(1);
    }

    /// Since when, if it is more than one that failed and may not be sent again.
    fn since(&self) -> Option<Uptime> {
        self.since.filter(|_| self.failures > 1).or(self.sent)
    }
}

/// One store, as one who asks it sees it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    reads: Failing,
    writes: Failing,
    /// What it said last, unless it has answered since.
    error: Option<StoreError>,
    /// When it last answered.
    answered: Option<Uptime>,
    /// When that began which was said.
    said: Option<Uptime>,
}

impl Outage {
    /// Of a store that has answered by now.
    pub(super) fn of_one_that_answered(now: Uptime) -> Self {
        Self { answered: Some(now), ..Self::default() }
    }

    fn failing(&mut self, access: Access) -> &mut Failing {
        match access {
            Access::Read => &mut self.reads,
            Access::Write => &mut self.writes,
        }
    }

    /// A request is sent.
    pub(super) fn asked(&mut self, now: Uptime, access: Access) {
        self.failing(access).asked(now);
    }

    /// It was answered, or failed; returns how long an outage lasted that was said and is over.
    pub(super) fn answered(
        &mut self,
        now: Uptime,
        access: Access,
        error: Option<&StoreError>,
    ) -> Option<Duration> {
        if let Some(error) = error {
            self.failing(access).failed(now);
            self.error = Some(error.clone());
            return None;
        }
        self.answered = Some(now);
        *self.failing(access) = Failing::default();
        if access == Access::Write {
            self.reads = Failing::default();
        }
        if self.writes.failures > 0 {
            return None;
        }
        self.error = None;
        self.said.take().map(|began| now.since(began))
    }

    fn since(&self) -> Option<Uptime> {
        self.reads.since().into_iter().chain(self.writes.since()).min()
    }

    /// When it will be worth a word.
    pub(super) fn deadline(&self) -> Option<Uptime> {
        let patience = if self.answered.is_some() { LATER } else { AT_FIRST };
        self.since().filter(|_| self.said.is_none()).map(|since| since.plus(patience))
    }

    /// Whether it is worth a word now, which counts as said.
    #[must_use]
    pub(super) fn is_due(&mut self, now: Uptime) -> bool {
        let is_due = self.deadline().is_some_and(|at| now >= at);
        if is_due {
            self.said = self.since();
        }
        is_due
    }

    /// How old is what was seen last, where it was said that no more is to be seen.
    pub(super) fn unseen(&self, now: Uptime) -> Option<Duration> {
        let unseen = self.answered.filter(|_| self.said.is_some()).map(|it| now.since(it));
        unseen.filter(|unseen| *unseen >= LATER)
    }

    /// What the store said last, if it has not answered since.
    pub(super) fn error(&self) -> Option<&StoreError> {
        self.error.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Uptime {
        Uptime(Duration::from_millis(millis))
    }

    fn throttled() -> StoreError {
        StoreError::Throttled("busy".to_owned())
    }

    /// Fails once a second, from the first to before the last of these seconds; returns at which it
    /// was worth a word.
    fn failing(outage: &mut Outage, access: Access, seconds: std::ops::Range<u64>) -> Vec<u64> {
        let mut words = Vec::new();
        for second in seconds {
            let now = at(second * 1000);
            outage.asked(now, access);
            words.extend(outage.is_due(now).then_some(second));
            assert_eq!(outage.answered(now, access, Some(&throttled())), None);
        }
        words
    }

    #[test]
    fn a_store_that_never_answered_gets_two_seconds_and_one_that_did_five() {
        for (mut outage, patience) in
            [(Outage::default(), 2000), (Outage::of_one_that_answered(at(0)), 5000)]
        {
            assert_eq!(outage.deadline(), None);
            outage.asked(at(100), Access::Read);
            assert_eq!(outage.deadline(), Some(at(100 + patience)));
            assert!(!outage.is_due(at(99 + patience)));
            assert!(outage.is_due(at(100 + patience)));
        }
    }

    #[test]
    fn an_outage_counts_from_its_first_request_and_is_said_once_with_the_last_error() {
        for access in [Access::Read, Access::Write] {
            let mut outage = Outage::of_one_that_answered(at(0));
            assert_eq!(failing(&mut outage, access, 0..9), [5]);
            assert_eq!(outage.unseen(at(9000)), Some(Duration::from_secs(9)));
            assert_eq!(outage.error(), Some(&throttled()));
            let over = outage.answered(at(9000), access, None);
            assert_eq!(over, Some(Duration::from_secs(9)));
            assert_eq!((outage.unseen(at(9000)), outage.error()), (None, None));
        }
    }

    #[test]
    fn an_answer_in_time_makes_it_none() {
        let mut outage = Outage::of_one_that_answered(at(0));
        for round in 0..60 {
            let words = failing(&mut outage, Access::Write, round * 4..round * 4 + 3);
            assert_eq!(words, [0; 0]);
            assert_eq!(outage.answered(at(round * 4000 + 3000), Access::Write, None), None);
        }
    }

    #[test]
    fn reads_that_are_answered_do_not_hide_that_writes_are_not() {
        let mut outage = Outage::of_one_that_answered(at(0));
        let mut words = Vec::new();
        for second in 0..20 {
            words.extend(failing(&mut outage, Access::Write, second..second + 1));
            outage.asked(at(second * 1000 + 500), Access::Read);
            assert_eq!(outage.answered(at(second * 1000 + 500), Access::Read, None), None);
            // Who holds it is seen.
            assert_eq!(outage.unseen(at(second * 1000 + 600)), None);
        }
        assert_eq!(words, [5]);
        assert_eq!(outage.answered(at(20_000), Access::Write, None), Some(Duration::from_secs(20)));
    }

    /// However long nobody asked in between.
    #[test]
    fn it_lasted_since_it_began() {
        let mut outage = Outage::of_one_that_answered(at(0));
        assert_eq!(failing(&mut outage, Access::Write, 0..7), [5]);
        outage.asked(at(40_000), Access::Write);
        assert_eq!(
            outage.answered(at(40_001), Access::Write, None),
            Some(Duration::from_millis(40_001))
        );
    }

    #[test]
    fn one_failure_that_nobody_tries_again_is_no_outage() {
        let mut outage = Outage::of_one_that_answered(at(0));
        assert_eq!(failing(&mut outage, Access::Write, 0..1), [0; 0]);
        assert_eq!(outage.deadline(), None);
        // Nor does it make one of what is slow, or fails once, much later.
        outage.asked(at(20_000), Access::Write);
        assert_eq!(outage.deadline(), Some(at(25_000)));
        assert_eq!(outage.answered(at(20_001), Access::Write, Some(&throttled())), None);
        assert_eq!((outage.deadline(), outage.is_due(at(29_000))), (None, false));
        outage.asked(at(29_000), Access::Write);
        assert_eq!(outage.answered(at(29_001), Access::Write, None), None);
    }
}
