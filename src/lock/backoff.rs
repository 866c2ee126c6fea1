//! How often to poll, and how long to leave a struggling store alone (`docs/protocol.md#q5-pace`).

use std::time::Duration;

use super::jitter::Jitter;

/// How the interval grows with the age of what is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pace {
    /// The interval is the age divided by this.
    pub share: u32,
    /// The shortest interval.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

/// The pace of the waiter at the head of the line: it is the only one who looks so often.
pub const HEAD: Pace =
    Pace { share: 20, least: Duration::from_millis(100), most: Duration::from_secs(2) };

/// The pace of whoever looks at the lock without a line: so do any number of others.
pub const ALONE: Pace = Pace { least: Duration::from_millis(200), ..HEAD };

/// The pace of the waiter right behind the head, by how long the holds before it last: to be late
/// by a third of a hold costs nothing, since the next one holds the lock meanwhile.
///
/// With a look at the lock every [`LOCK_LOOK`] and a beat every 20 s that makes less than 15
/// requests a minute; further behind, with [`SURVEY_MOST`] and [`FAR_LOOK`], it is less.
pub const BEHIND: Pace =
    Pace { share: 3, least: Duration::from_millis(500), most: Duration::from_secs(12) };

/// How often a waiter behind the head looks at the lock, at the most: so that a lock that is left
/// free by dead waiters before it is tried within 20 s.
pub const LOCK_LOOK: Duration = Duration::from_millis(9_500);

/// How often a waiter far behind reads how far the line has moved, at the most.
pub const SURVEY_LEAST: Duration = Duration::from_secs(1);

/// And at the least.
pub const SURVEY_MOST: Duration = Duration::from_secs(40);

/// How often a waiter far behind looks whether the one before it lives.
pub const FAR_LOOK: Duration = Duration::from_secs(40);

/// The longest extra pause after faults of the store.
const MOST_PAUSE: Duration = Duration::from_secs(10);

impl Pace {
    /// The time until the next look: a share of the time since what is watched last changed, within
    /// the bounds, jittered. For a look at the lock 5 %: to be late costs about a fortieth of a hold.
    pub fn interval(self, unchanged_for: Duration, jitter: &mut Jitter) -> Duration {
        jitter.around((unchanged_for / self.share).clamp(self.least, self.most))
    }
}

/// The extra pause after `faults` throttled or failed requests in a row: exponential, full jitter.
pub fn pause_after(faults: u32, jitter: &mut Jitter) -> Duration {
    if faults == 0 {
        return Duration::ZERO;
    }
    let span = Duration::from_millis(100).saturating_mul(1 << faults.min(10)).min(MOST_PAUSE);
    jitter.up_to(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_a_twentieth_of_the_age_within_its_bounds() {
        let mut jitter = Jitter(1);
        for (pace, age, expected) in [
            (HEAD, 0, 100),
            (HEAD, 3_000, 150),
            (ALONE, 0, 200),
            (ALONE, 3_000, 200),
            (ALONE, 20_000, 1_000),
            (HEAD, 3_600_000, 2_000),
        ] {
            let interval = pace.interval(Duration::from_millis(age), &mut jitter);
            let expected = Duration::from_millis(expected);
            assert!(interval >= expected.mul_f64(0.79) && interval <= expected.mul_f64(1.21));
        }
    }

    #[test]
    fn faults_lengthen_the_pause_up_to_ten_seconds() {
        let longest = |faults| {
            let mut jitter = Jitter(1);
            (0..500).map(|_| pause_after(faults, &mut jitter)).max().unwrap()
        };
        assert_eq!(longest(0), Duration::ZERO);
        assert!(longest(1) <= Duration::from_millis(200));
        assert!(longest(1) < longest(4) && longest(4) < longest(20));
        assert!(longest(20) <= MOST_PAUSE && longest(20) > Duration::from_secs(9));
    }
}
