//! One interrupt, whoever sent how many: whether a signal that reached us reached the child, too.
//!
//! Some runners signal every process that they find (GitLab's docker executor, Jenkins). The
//! guardian stands where the child stands. If it too got the signal, so did the child.

use std::time::Duration;

use super::{Origin, StopSignal, Word};
use crate::lock::Uptime;
use crate::supervise::Received;

/// How long a signal of ours waits for word from the guardian: whoever signals every process takes
/// a while to go round.
const PATIENCE: Duration = Duration::from_millis(150);

/// How long what the guardian told is good for. GitLab's docker executor goes from the highest
/// process number down, waits up to 6 s for each to end, and takes 10 s in all; the guardian is
/// before us.
const MEMORY: Duration = Duration::from_secs(15);

/// A signal of ours, and whether the child got it from whoever sent it to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Judged {
    /// As it came in.
    pub received: Received,
    /// Whether the child has it.
    pub child_too: bool,
}

/// Puts together what we got and what the guardian got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Canary {
    /// Ours, in the order in which they came.
    waiting: Vec<(Uptime, Received)>,
    /// The guardian's that were not ours yet.
    heard: Vec<(Uptime, StopSignal)>,
}

impl Canary {
    /// When [`Canary::due`] has something to say.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        self.waiting.first().map(|(since, _)| since.plus(PATIENCE))
    }

    /// Takes a signal of ours. Returns it at once where nothing is to be waited for; without a
    /// guardian (`sings`), that is always so.
    #[must_use]
    pub fn ours(&mut self, now: Uptime, received: Received, sings: bool) -> Option<Judged> {
        let from_terminal = received.origin == Origin::Terminal;
        let Word::Stop(signal) = received.word else {
            return Some(Judged { received, child_too: false });
        };
        if from_terminal || !sings {
            return Some(Judged { received, child_too: false });
        }
        self.heard.retain(|(at, _)| now.since(*at) <= MEMORY);
        if let Some(index) = self.heard.iter().position(|(_, heard)| *heard == signal) {
            self.heard.remove(index);
            return Some(Judged { received, child_too: true });
        }
        self.waiting.push((now, received));
        None
    }

    /// The first signal of ours that still waits. Where the child ends before its time is up, it
    /// has been asked for all the same.
    #[must_use]
    pub fn undecided(&self) -> Option<StopSignal> {
        self.waiting.iter().find_map(|(_, received)| match received.word {
            Word::Stop(signal) => Some(signal),
            _ => None,
        })
    }

    /// Takes a signal of the guardian's.
    #[must_use]
    pub fn its(&mut self, now: Uptime, signal: StopSignal) -> Option<Judged> {
        let same = |(_, received): &(Uptime, Received)| received.word == Word::Stop(signal);
        if let Some(index) = self.waiting.iter().position(same) {
            let (_, received) = self.waiting.remove(index);
            return Some(Judged { received, child_too: true });
        }
        self.heard.push((now, signal));
        None
    }

    /// A signal of ours that the guardian has not got, once that is sure enough.
    #[must_use]
    pub fn due(&mut self, now: Uptime) -> Option<Judged> {
        if self.deadline().is_none_or(|at| now < at) {
            return None;
        }
        let (_, received) = self.waiting.remove(0);
        Some(Judged { received, child_too: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Received = Received {
        word: Word::Stop(StopSignal::Terminate),
        origin: Origin::Sent { pid: 7, uid: 0 },
    };
    const INT: Received = Received { word: Word::Stop(StopSignal::Interrupt), ..TERM };

    fn at(ms: u64) -> Uptime {
        Uptime(Duration::from_millis(ms))
    }

    #[test]
    fn what_the_guardian_got_the_child_got_whoever_was_first() {
        let too = Some(Judged { received: TERM, child_too: true });
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), TERM, true), None);
        assert_eq!(canary.its(at(100), StopSignal::Terminate), too);
        assert_eq!((canary.deadline(), canary.undecided()), (None, None));
        let mut canary = Canary::default();
        assert_eq!(canary.its(at(0), StopSignal::Terminate), None);
        assert_eq!(canary.ours(at(6_000), TERM, true), too);
        assert_eq!(canary.ours(at(6_001), TERM, true), None, "a second one is another one");
    }

    #[test]
    fn a_signal_to_us_alone_waits_and_is_then_ours_alone() {
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), TERM, true), None);
        assert_eq!(canary.ours(at(50), INT, true), None);
        assert_eq!(canary.due(at(149)), None);
        assert_eq!(canary.undecided(), Some(StopSignal::Terminate));
        assert_eq!(canary.due(at(150)), Some(Judged { received: TERM, child_too: false }));
        assert_eq!(canary.due(at(150)), None);
        assert_eq!(canary.its(at(160), StopSignal::Interrupt).map(|it| it.child_too), Some(true));
    }

    #[test]
    fn neither_a_key_nor_a_lonely_tfwrap_waits() {
        let key = Received { origin: Origin::Terminal, ..INT };
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), key, true).map(|it| it.child_too), Some(false));
        assert_eq!(canary.ours(at(0), INT, false).map(|it| it.child_too), Some(false));
        let resume = Received { word: Word::Resume, ..INT };
        assert_eq!(canary.ours(at(0), resume, true).map(|it| it.received), Some(resume));
    }

    #[test]
    fn what_was_heard_long_ago_means_nothing() {
        let mut canary = Canary::default();
        assert_eq!(canary.its(at(0), StopSignal::Terminate), None);
        assert_eq!(canary.ours(at(15_001), TERM, true), None);
    }
}
