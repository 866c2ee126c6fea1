//! What is said while a store does not answer, or answers only that it cannot do what it is asked.
//!
//! The machines ask again, so an outage is no failure yet. But whoever reads the log must know why
//! nothing happens, and what will follow if it lasts.

use std::time::Duration;

use crate::lock::Uptime;
use crate::lock::register::StoreError;

/// How long a store that has never answered may be silent before that is said.
const AT_FIRST: Duration = Duration::from_secs(2);

/// The same of one that has answered: a slow request now and then is not worth a word.
const LATER: Duration = Duration::from_secs(5);

/// One store, as one who asks it sees it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// When the first request was sent that no answer has followed.
    since: Option<Uptime>,
    /// What it said last.
    error: Option<StoreError>,
    has_answered: bool,
    is_said: bool,
}

impl Outage {
    /// Of a store that has answered before.
    pub(super) fn of_one_that_answered() -> Self {
        Self { has_answered: true, ..Self::default() }
    }

    /// A request is sent.
    pub(super) fn asked(&mut self, now: Uptime) {
        self.since.get_or_insert(now);
    }

    /// It was answered, or failed; returns how long an outage lasted that was said and is over.
    pub(super) fn answered(&mut self, now: Uptime, error: Option<&StoreError>) -> Option<Duration> {
        if let Some(error) = error {
            self.error = Some(error.clone());
            return None;
        }
        let over = self.lasts(now);
        *self = Self::of_one_that_answered();
        over
    }

    /// When it will be worth a word.
    pub(super) fn deadline(&self) -> Option<Uptime> {
        let patience = if self.has_answered { LATER } else { AT_FIRST };
        self.since.filter(|_| !self.is_said).map(|since| since.plus(patience))
    }

    /// Whether it is worth a word now, which counts as said.
    #[must_use]
    pub(super) fn is_due(&mut self, now: Uptime) -> bool {
        let is_due = self.deadline().is_some_and(|at| now >= at);
        self.is_said |= is_due;
        is_due
    }

    /// How long it lasts, once it was said.
    pub(super) fn lasts(&self, now: Uptime) -> Option<Duration> {
        self.since.filter(|_| self.is_said).map(|since| now.since(since))
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

    #[test]
    fn a_store_that_never_answered_gets_two_seconds_and_one_that_did_five() {
        for (mut outage, patience) in
            [(Outage::default(), 2000), (Outage::of_one_that_answered(), 5000)]
        {
            assert_eq!(outage.deadline(), None);
            outage.asked(at(100));
            assert_eq!(outage.deadline(), Some(at(100 + patience)));
            assert!(!outage.is_due(at(99 + patience)));
            assert!(outage.is_due(at(100 + patience)));
        }
    }

    #[test]
    fn an_outage_counts_from_its_first_request_and_is_said_once_with_the_last_error() {
        let mut outage = Outage::of_one_that_answered();
        for second in 0..9 {
            outage.asked(at(second * 1000));
            assert_eq!(outage.is_due(at(second * 1000)), second == 5);
            assert_eq!(outage.answered(at(second * 1000 + 1), Some(&throttled())), None);
        }
        assert_eq!(outage.lasts(at(9000)), Some(Duration::from_secs(9)));
        assert_eq!(outage.error(), Some(&throttled()));
        assert_eq!(outage.answered(at(9000), None), Some(Duration::from_secs(9)));
        assert_eq!((outage.lasts(at(9000)), outage.error()), (None, None));
    }

    #[test]
    fn an_answer_in_time_makes_it_none() {
        let mut outage = Outage::of_one_that_answered();
        for second in 0..60 {
            outage.asked(at(second * 1000));
            let error = throttled();
            assert_eq!(
                outage.answered(at(second * 1000), (second % 4 > 0).then_some(&error)),
                None
            );
            assert!(!outage.is_due(at(second * 1000 + 900)));
        }
    }
}
