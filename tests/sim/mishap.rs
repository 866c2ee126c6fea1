//! What can go wrong with a request on its way.

use std::time::Duration;

use tfwrap::lock::jitter::Jitter;

/// How long a client waits for a reply that does not come.
const PATIENCE: Duration = Duration::from_secs(3);

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// Nothing special.
    None,
    /// It is not done, and nobody says so.
    Lost,
    /// It is done, and nobody says so.
    Unanswered,
    /// It is not done, and the store says so.
    Throttled,
}

/// One request's way there and back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) there: Duration,
    pub(crate) back: Duration,
    pub(crate) mishap: Mishap,
}

/// How a client's requests fare: so many of a thousand meet something.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Lost on the way there.
    pub(crate) lost: u16,
    /// Done, but the reply is lost.
    pub(crate) unanswered: u16,
    /// Refused for now.
    pub(crate) throttled: u16,
    /// Up to [`Weather::slowness`] slower, each way.
    pub(crate) slow: u16,
    /// How much slower at most.
    pub(crate) slowness: Duration,
}

/// Some number below `bound`.
pub(crate) fn below(dice: &mut Jitter, bound: u64) -> u64 {
    let nanos = dice.up_to(Duration::from_secs(1)).subsec_nanos();
    u64::from(nanos.min(999_999_999)) * bound / 1_000_000_000
}

impl Weather {
    /// What becomes of the next request; without mishap half of `latency` each way.
    pub(crate) fn next(&self, dice: &mut Jitter, half_way: Duration) -> Way {
        let mut way = Way { there: half_way, back: half_way, mishap: Mishap::None };
        if self.lost + self.unanswered + self.throttled + self.slow == 0 {
            return way;
        }
        let drawn = below(dice, 1000);
        let mut bound = 0;
        let mut meets = |share: u16| {
            bound += u64::from(share);
            drawn < bound
        };
        if meets(self.lost) {
            way.mishap = Mishap::Lost;
            way.back = PATIENCE;
        } else if meets(self.unanswered) {
            way.mishap = Mishap::Unanswered;
            way.back = PATIENCE;
        } else if meets(self.throttled) {
            way.mishap = Mishap::Throttled;
        } else if meets(self.slow) {
            way.there += dice.up_to(self.slowness);
            way.back += dice.up_to(self.slowness);
        }
        way
    }
}
