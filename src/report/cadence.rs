//! When a waiter says that it still waits: often at first, then seldom.

use std::time::Duration;

use crate::lock::Uptime;

/// When the lines after the first are due, counted from the first.
const EARLY: [Duration; 4] = [
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(1),
    Duration::from_mins(2),
];

/// Later ones come at every multiple of this.
const LATE: Duration = Duration::from_mins(5);

/// The least time between two lines, so that a queue of short runs does not flood the log.
const LEAST_GAP: Duration = Duration::from_secs(1);

/// Decides when a waiting line is printed: at once, after 10 s, 30 s, 1 min, 2 min, then every
/// 5 min, and whenever the holder changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Cadence {
    printed: Option<Printed>,
    change_unsaid: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Printed {
    first: Uptime,
    last: Uptime,
}

impl Cadence {
    /// Returns whether a line is due now, and counts it as printed if so. A change that comes too
    /// soon after the last line is remembered.
    #[must_use]
    pub fn is_due(&mut self, now: Uptime, holder_changed: bool) -> bool {
        self.change_unsaid |= holder_changed;
        if self.deadline().is_some_and(|due| now < due) {
            return false;
        }
        let first = self.printed.map_or(now, |printed| printed.first);
        self.printed = Some(Printed { first, last: now });
        self.change_unsaid = false;
        true
    }

    /// When to ask again; `None` before the first line, which is due at once.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        let Printed { first, last } = self.printed?;
        if self.change_unsaid {
            return Some(last.plus(LEAST_GAP));
        }
        let told = last.since(first);
        let next = EARLY.into_iter().find(|mark| *mark > told).unwrap_or_else(|| {
            let marks = told.as_secs() / LATE.as_secs() + 1;
            Duration::from_secs(LATE.as_secs().saturating_mul(marks))
        });
        Some(first.plus(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Uptime {
        Uptime(Duration::from_millis(1_000_000 + millis))
    }

    /// The seconds at which a line comes when asked every 100 ms.
    fn lines(until_seconds: u64, changes: &[u64]) -> Vec<u64> {
        let mut cadence = Cadence::default();
        (0..=until_seconds * 10)
            .map(|tenth| tenth * 100)
            .filter(|&t| cadence.is_due(at(t), changes.contains(&t)))
            .map(|t| t / 100)
            .collect()
    }

    #[test]
    fn lines_come_at_growing_intervals() {
        assert_eq!(lines(1000, &[]), [0, 100, 300, 600, 1200, 3000, 6000, 9000]);
    }

    #[test]
    fn a_new_holder_is_said_at_once_and_the_rhythm_stays() {
        assert_eq!(lines(31, &[4_000]), [0, 40, 100, 300]);
    }

    #[test]
    fn quick_changes_are_said_once_a_second() {
        let all: Vec<u64> = (1..40).map(|n| n * 100).collect();
        assert_eq!(lines(9, &all), [0, 10, 20, 30, 40]);
    }

    #[test]
    fn a_late_question_gets_one_line_not_many() {
        let mut cadence = Cadence::default();
        assert!(cadence.is_due(at(0), false));
        assert!(cadence.is_due(at(400_000), false));
        assert!(!cadence.is_due(at(400_001), false));
        assert_eq!(cadence.deadline(), Some(at(600_000)));
    }

    #[test]
    fn the_deadline_is_when_the_next_line_is_due() {
        let mut cadence = Cadence::default();
        assert_eq!(cadence.deadline(), None);
        for _ in 0..20 {
            let due = cadence.deadline().unwrap_or(at(0));
            if let Some(just_before) = due.0.checked_sub(Duration::from_nanos(1)) {
                let mut early = cadence.clone();
                assert_eq!(early.is_due(Uptime(just_before), false), cadence.deadline().is_none());
            }
            assert!(cadence.is_due(due, false));
        }
    }
}
