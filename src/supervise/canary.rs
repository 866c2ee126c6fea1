//! One interrupt, whoever sent how many: tells whether a signal that reached us also reached the
//! child.
//!
//! Some runners signal every process that they find (GitLab's docker executor, Jenkins), or all of
//! one name or session (`pkill`). The stand-in is in the same place as the child
//! ([`super::stand_in`]). If the stand-in got a signal too, so did the child.
//!
//! Its rules: `docs/protocol.md#s6-the-stand-in`.

use std::time::Duration;

use super::{Reach, SignalKind, SignalOrigin, StopSignal};
use crate::lock::Uptime;
use crate::supervise::Received;

/// How long a signal of ours waits for word from the stand-in: whoever signals every process takes
/// a while to go round.
const PATIENCE: Duration = Duration::from_millis(150);

/// The same once whoever goes round has come to the guardian, which stands apart from the child.
const PATIENCE_IN_A_SWEEP: Duration = Duration::from_secs(1);

/// How long what the stand-in told is good for. GitLab's docker executor goes from the highest
/// process number down, waits up to 6 s for each to end, and takes 10 s in all; the stand-in is
/// before us.
const MEMORY: Duration = Duration::from_secs(15);

/// A signal of ours, and whether the child got it from whoever sent it to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Judged {
    /// As it came in.
    pub received: Received,
    /// Whether the child has it.
    pub child_too: bool,
    /// How long ago it came, by when that is known.
    pub waited: Duration,
}

impl Judged {
    /// One of ours alone, decided on when it came.
    #[must_use]
    pub fn at_once(received: Received) -> Self {
        Self { received, child_too: false, waited: Duration::ZERO }
    }

    /// Who has got it already.
    #[must_use]
    pub fn reach(self) -> Reach {
        match self.received.origin {
            // Perhaps under another name, and one that it heeds.
            SignalOrigin::Sent { by_parent, .. } if self.child_too => Reach::ChildToo { by_parent },
            _ if self.child_too => Reach::ChildToo { by_parent: false },
            SignalOrigin::Sent { by_tfwrap: true, .. } => Reach::Relayed,
            SignalOrigin::Sent { by_parent: true, .. } => Reach::ByParent,
            SignalOrigin::Outside => Reach::PerhapsRelayed,
            SignalOrigin::Sent { .. } | SignalOrigin::Terminal | SignalOrigin::Unknown => {
                Reach::UsOnly
            }
        }
    }
}

/// One of ours that is not decided on yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Waiting {
    came: Uptime,
    until: Uptime,
    received: Received,
    child_too: bool,
}

impl Waiting {
    fn judged(self, now: Uptime) -> Judged {
        let Self { came, received, child_too, .. } = self;
        Judged { received, child_too, waited: now.since(came) }
    }
}

/// Puts together what we got and what the stand-in got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Canary {
    /// Ours, in the order in which they came.
    waiting: Vec<Waiting>,
    /// When the stand-in got those that were not ours yet.
    heard: Vec<Uptime>,
    /// Whether it is still to tell of one that has been counted already.
    is_owed: bool,
    /// Until when somebody goes round, for all that can be known.
    swept_until: Option<Uptime>,
}

impl Canary {
    /// When [`Canary::due`] has something to say.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        self.waiting.first().map(|it| it.until)
    }

    /// Takes a signal of ours. Returns it at once where nothing is to be waited for; without a
    /// stand-in (`has_stand_in`), that is always so.
    #[must_use]
    pub fn ours(&mut self, now: Uptime, received: Received, has_stand_in: bool) -> Option<Judged> {
        let judged = Judged::at_once(received);
        if !matches!(received.kind, SignalKind::Stop(_)) {
            return Some(judged);
        }
        // A key is for our group alone.
        let is_hangup = is_hangup(received);
        if received.origin == SignalOrigin::Terminal && !is_hangup {
            return Some(judged);
        }
        // Whichever it was: an outer tfwrap makes an INT of it.
        self.heard.retain(|at| now.since(*at) <= MEMORY);
        if !self.heard.is_empty() {
            if !is_hangup {
                self.heard.remove(0);
            }
            return Some(Judged { child_too: true, ..judged });
        }
        if !has_stand_in {
            return Some(judged);
        }
        let until = now.plus(PATIENCE).max(self.swept_until.unwrap_or(now));
        self.waiting.push(Waiting { came: now, until, received, child_too: false });
        None
    }

    /// Somebody goes round: a stop came to the guardian. What of ours waits for the stand-in waits longer,
    /// however often that is told.
    pub fn sweep(&mut self, now: Uptime) {
        if self.swept_until.is_some_and(|until| now < until) {
            return;
        }
        let ends = now.plus(PATIENCE_IN_A_SWEEP);
        self.swept_until = Some(ends);
        for waiting in self.waiting.iter_mut().filter(|it| !it.child_too) {
            waiting.until = ends.max(waiting.until);
        }
    }

    /// The child has ended, and what of ours still waits has no more to wait for. It was asked for
    /// all the same, and what there is now to be told is nothing to the child.
    pub fn at_the_end(&mut self, now: Uptime) -> impl Iterator<Item = Judged> {
        self.waiting.drain(..).map(move |it| Waiting { child_too: true, ..it }.judged(now))
    }

    /// The stand-in got a signal. What of ours waits for that has waited long enough.
    pub fn its(&mut self, now: Uptime) {
        if !std::mem::take(&mut self.is_owed) {
            self.child_has_got_one(now);
        }
    }

    /// All that waits is that one. But after a hang-up, the stop itself may still come to us.
    fn child_has_got_one(&mut self, now: Uptime) {
        if self.waiting.iter().all(|it| is_hangup(it.received)) {
            self.heard.push(now);
        }
        for waiting in &mut self.waiting {
            (waiting.until, waiting.child_too) = (now, true);
        }
    }

    /// A signal of ours that is decided on: the stand-in has got it, or has not, once that is sure
    /// enough. Whatever stop it is about to tell of (`is_about_to_tell`) it has got.
    #[must_use]
    pub fn due(&mut self, now: Uptime, is_about_to_tell: impl FnOnce() -> bool) -> Option<Judged> {
        let first = self.waiting.first().filter(|first| now >= first.until)?;
        if !first.child_too && !self.is_owed && is_about_to_tell() {
            self.child_has_got_one(now);
            self.is_owed = true;
        }
        Some(self.waiting.remove(0).judged(now))
    }
}

/// Whether the kernel tells of the end of the terminal. Not always of that of its window: a stop that
/// goes to all ends the first process of the terminal, too, for which the kernel hangs up.
fn is_hangup(received: Received) -> bool {
    received.kind == SignalKind::Stop(StopSignal::Hangup)
        && received.origin == SignalOrigin::Terminal
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Received = Received {
        kind: SignalKind::Stop(StopSignal::Terminate),
        origin: SignalOrigin::Sent { by_tfwrap: false, by_parent: false },
    };
    const INT: Received = Received { kind: SignalKind::Stop(StopSignal::Interrupt), ..TERM };

    fn at(ms: u64) -> Uptime {
        Uptime(Duration::from_millis(ms))
    }

    #[test]
    fn what_the_stand_in_got_the_child_got_whoever_was_first() {
        let waited = Duration::from_millis(100);
        let too = Some(Judged { received: TERM, child_too: true, waited });
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), TERM, true), None);
        canary.its(at(100));
        assert_eq!(canary.deadline(), Some(at(100)));
        assert_eq!(canary.due(at(100), || false), too);
        assert_eq!(canary.deadline(), None);
        // By then the stand-in has ended; and an outer tfwrap sends an INT for whatever came.
        for ours in [TERM, INT] {
            let mut canary = Canary::default();
            canary.its(at(0));
            assert_eq!(canary.ours(at(6_000), ours, false).map(|it| it.child_too), Some(true));
            assert_eq!(canary.ours(at(6_001), ours, true), None, "a second one is another one");
        }
    }

    #[test]
    fn all_that_waits_was_meant() {
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), TERM, true), None);
        assert_eq!(canary.ours(at(1), INT, true), None);
        canary.its(at(2));
        for _ in 0..2 {
            assert_eq!(canary.due(at(2), || false).map(|it| it.child_too), Some(true));
        }
        assert_eq!(canary.ours(at(3), TERM, true), None);
    }

    #[test]
    fn a_signal_to_us_alone_waits_and_is_then_ours_alone() {
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), TERM, true), None);
        assert_eq!(canary.due(at(149), || false), None);
        let waited = Duration::from_millis(150);
        let alone = Some(Judged { received: TERM, child_too: false, waited });
        assert_eq!(canary.due(at(150), || false), alone);
        assert_eq!(canary.due(at(150), || false), None);
    }

    /// Whether whoever goes round has come to us first or to the guardian.
    #[test]
    fn once_the_guardian_was_signalled_too_ours_waits_longer() {
        for guardian_first in [true, false] {
            let mut canary = Canary::default();
            if guardian_first {
                canary.sweep(at(0));
            }
            assert_eq!(canary.ours(at(1), TERM, true), None);
            if !guardian_first {
                canary.sweep(at(100));
            }
            assert_eq!(canary.due(at(900), || false), None);
            canary.its(at(901));
            assert_eq!(canary.due(at(901), || false).map(|it| it.child_too), Some(true));
            assert_eq!(canary.ours(at(2_000), TERM, true), None);
            let alone = canary.due(at(2_150), || false);
            assert_eq!(alone.map(|it| it.child_too), Some(false), "it has passed");
        }
    }

    #[test]
    fn however_often_the_guardian_is_signalled_ours_waits_for_a_second() {
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), TERM, true), None);
        for ms in [100, 600, 1_000] {
            canary.sweep(at(ms));
        }
        assert_eq!(canary.due(at(1_099), || false), None);
        assert_eq!(canary.due(at(1_100), || false).map(|it| it.child_too), Some(false));
    }

    #[test]
    fn what_the_stand_in_is_about_to_tell_of_counts_once() {
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), TERM, true), None);
        let judged = canary.due(at(150), || true);
        assert_eq!(judged.map(|it| it.child_too), Some(true));
        canary.its(at(200));
        assert_eq!(canary.ours(at(300), TERM, true), None, "a second one is another one");
        canary.its(at(301));
        assert_eq!(canary.due(at(301), || false).map(|it| it.child_too), Some(true));
    }

    #[test]
    fn each_that_the_stand_ins_got_is_one_of_ours() {
        let mut canary = Canary::default();
        canary.its(at(0));
        canary.its(at(5_000));
        for _ in 0..2 {
            assert_eq!(canary.ours(at(6_000), TERM, true).map(|it| it.child_too), Some(true));
        }
        assert_eq!(canary.ours(at(6_001), TERM, true), None);
        assert_eq!(canary.at_the_end(at(6_002)).map(|it| it.child_too).collect::<Vec<_>>(), [true]);
    }

    #[test]
    fn neither_a_key_nor_a_lonely_tfwrap_waits() {
        let key = Received { origin: SignalOrigin::Terminal, ..INT };
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), key, true).map(|it| it.child_too), Some(false));
        assert_eq!(canary.ours(at(0), INT, false).map(|it| it.child_too), Some(false));
        let resume = Received { kind: SignalKind::Resume, ..INT };
        assert_eq!(canary.ours(at(0), resume, true).map(|it| it.received), Some(resume));
    }

    /// The first process of a terminal has ended of the stop that came to all.
    #[test]
    fn a_hang_up_is_the_stop_that_the_stand_in_got_whatever_that_is_called() {
        let hangup = SignalKind::Stop(StopSignal::Hangup);
        let hangup = Received { kind: hangup, origin: SignalOrigin::Terminal };
        let is_the_childs = |judged: Option<Judged>| judged.map(|it| it.child_too);
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), hangup, true), None);
        canary.its(at(100));
        assert_eq!(is_the_childs(canary.due(at(100), || false)), Some(true));
        assert_eq!(is_the_childs(canary.ours(at(101), TERM, true)), Some(true));
        assert_eq!(canary.ours(at(102), TERM, true), None, "a second one is another one");
        let mut canary = Canary::default();
        canary.its(at(0));
        assert_eq!(is_the_childs(canary.ours(at(1), hangup, true)), Some(true));
        assert_eq!(is_the_childs(canary.ours(at(2), TERM, true)), Some(true));
        // Both wait, and the stand-in has had no time yet.
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), hangup, true), None);
        assert_eq!(canary.ours(at(1), TERM, true), None);
        for _ in 0..2 {
            assert_eq!(is_the_childs(canary.due(at(150), || true)), Some(true));
        }
        canary.its(at(200));
        assert_eq!(canary.ours(at(300), TERM, true), None, "it has told of that one");
        // One that came alone.
        let mut canary = Canary::default();
        assert_eq!(canary.ours(at(0), hangup, true), None);
        assert_eq!(is_the_childs(canary.due(at(150), || false)), Some(false));
    }

    #[test]
    fn what_was_heard_long_ago_means_nothing() {
        let mut canary = Canary::default();
        canary.its(at(0));
        assert_eq!(canary.ours(at(15_001), TERM, true), None);
    }
}
