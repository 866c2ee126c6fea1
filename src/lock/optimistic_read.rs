//! Reads a state without its lock: waits until nobody may write, notes the state's version, lets the
//! reader read, and then looks whether all of that was one moment.
//!
//! The order is what makes it safe. The lock is looked at *between* the two looks at the version. If
//! both find one version, the state did not change from the first to the second, and at the look in
//! between nobody was writing. A look at the lock after the last look at the version would miss a
//! writer that came and went between the two.
//!
//! Its rules: `docs/protocol.md#plans-without-the-lock`.

use super::backoff::ALONE;
use super::jitter::Jitter;
use super::lease::{Lease, LeaseTerm};
use super::{Holder, Uptime};

/// Tells one content of a state from every other: whatever is written changes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StateVersion(pub String);

/// Who has the lock, as a look finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Whoever it is.
    pub holder: Holder,
    /// Its lease, if it has one.
    pub lease: Option<Lease>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The register that was looked at has this holder, or none.
    Lock(Option<Sighting>),
    /// The state has this version; nothing where there is no state, or its store tells no version.
    Version(Option<StateVersion>),
    /// The reader has ended.
    Ended,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Come back at the deadline.
    Wait,
    /// Look who holds this register of the lock, the first being 0.
    LookAtLock(usize),
    /// Look which version the state has.
    LookAtVersion,
    /// Let the reader begin.
    Read,
    /// All is over.
    Done(ReadOutcome),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// What was read is the state of a moment at which nobody was writing.
    OneMoment,
    /// Somebody may be writing.
    Writer(Holder),
    /// Somebody has written.
    Changed,
    /// Nobody can tell: nothing was read.
    NoVersion,
    /// Somebody may be writing until now: nothing was read.
    TimedOut(Holder),
    /// Whoever may be writing gives no sign of life, and has a lease that ends: nothing was read. Only
    /// who takes the lock may take it over.
    Silent,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Until then nothing is done.
    Waiting(Uptime),
    /// The lock is looked at, this register of it.
    AtLock(usize),
    AtVersion,
    Reading,
    Over,
}

/// Decides. Pure: the same events at the same times give the same actions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OptimisticRead {
    /// How many registers the lock has.
    registers: usize,
    give_up_at: Uptime,
    jitter: Jitter,
    phase: Phase,
    /// Who may be writing, and since when we know.
    writer: Option<(Holder, Uptime)>,
    /// Its lease, and since when it has not changed.
    lease: Option<(Lease, Uptime)>,
    /// What was there before the reader began.
    before: Option<StateVersion>,
}

impl OptimisticRead {
    /// Begins with a tick; waits for those who may write until `give_up_at`.
    #[must_use]
    pub fn new(registers: usize, now: Uptime, give_up_at: Uptime, jitter: Jitter) -> Self {
        let phase = Phase::Waiting(now);
        Self { registers, give_up_at, jitter, phase, writer: None, lease: None, before: None }
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        match self.phase {
            Phase::Waiting(until) => Some(until),
            Phase::AtLock(_) | Phase::AtVersion | Phase::Reading | Phase::Over => None,
        }
    }

    /// Who is waited for, or was last.
    #[must_use]
    pub fn writer(&self) -> Option<&Holder> {
        self.writer.as_ref().map(|(writer, _)| writer)
    }

    /// Takes one event and says what follows.
    #[must_use]
    pub fn step(&mut self, now: Uptime, event: Event) -> Action {
        match (&self.phase, event) {
            (Phase::Waiting(until), Event::Tick) if now >= *until => self.look_at(0),
            (Phase::AtLock(_), Event::Lock(Some(seen))) if seen.holder.may_write() => {
                self.found(now, seen)
            }
            (Phase::AtLock(register), Event::Lock(_)) => match register + 1 {
                next if next < self.registers => self.look_at(next),
                _ => {
                    self.phase = Phase::AtVersion;
                    Action::LookAtVersion
                }
            },
            (Phase::AtVersion, Event::Version(now)) => match (&self.before, now) {
                (None, None) => self.done(ReadOutcome::NoVersion),
                (None, before) => {
                    self.before = before;
                    self.phase = Phase::Reading;
                    Action::Read
                }
                (before, now) if *before == now => self.done(ReadOutcome::OneMoment),
                _ => self.done(ReadOutcome::Changed),
            },
            (Phase::Reading, Event::Ended) => self.look_at(0),
            // Nothing that was asked for.
            _ => Action::Wait,
        }
    }

    fn look_at(&mut self, register: usize) -> Action {
        self.phase = Phase::AtLock(register);
        Action::LookAtLock(register)
    }

    fn found(&mut self, now: Uptime, Sighting { holder: writer, lease }: Sighting) -> Action {
        if self.before.is_some() {
            return self.done(ReadOutcome::Writer(writer));
        }
        if now >= self.give_up_at {
            return self.done(ReadOutcome::TimedOut(writer));
        }
        let unchanged = self.lease.take().filter(|(known, _)| Some(*known) == lease);
        self.lease = unchanged.or_else(|| lease.map(|lease| (lease, now)));
        if self.lease.is_some_and(|(lease, since)| {
            lease.term != LeaseTerm::Never && now.since(since) >= lease.term.sign_of_life()
        }) {
            return self.done(ReadOutcome::Silent);
        }
        let since = self.writer.take().filter(|(known, _)| *known == writer);
        let since = since.map_or(now, |(_, since)| since);
        self.writer = Some((writer, since));
        let interval = ALONE.interval(now.since(since), &mut self.jitter);
        self.phase = Phase::Waiting(now.plus(interval).min(self.give_up_at));
        Action::Wait
    }

    fn done(&mut self, outcome: ReadOutcome) -> Action {
        self.phase = Phase::Over;
        Action::Done(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lock::lease::SHORTEST;
    use crate::lock::{LockId, LockInfo};

    fn at(millis: u64) -> Uptime {
        Uptime(Duration::from_millis(millis))
    }

    fn holder(operation: &str) -> Holder {
        Holder::Known(Box::new(LockInfo {
            id: LockId("1".to_owned()),
            operation: operation.to_owned(),
            info: String::new(),
            who: String::new(),
            version: String::new(),
            created: String::new(),
            path: String::new(),
        }))
    }

    fn seen(holder: Holder) -> Event {
        Event::Lock(Some(Sighting { holder, lease: None }))
    }

    fn version(number: u8) -> Event {
        Event::Version(Some(StateVersion(number.to_string())))
    }

    fn begun(registers: usize) -> OptimisticRead {
        let mut read = OptimisticRead::new(registers, at(0), at(1_000), Jitter(0));
        assert_eq!(read.step(at(0), Event::Tick), Action::LookAtLock(0));
        read
    }

    /// One whose reader has ended, of a lock of one register.
    fn ended() -> OptimisticRead {
        let mut read = begun(1);
        assert_eq!(read.step(at(0), Event::Lock(None)), Action::LookAtVersion);
        assert_eq!(read.step(at(0), version(1)), Action::Read);
        assert_eq!(read.deadline(), None);
        assert_eq!(read.step(at(9), Event::Ended), Action::LookAtLock(0));
        read
    }

    #[test]
    fn one_version_with_the_lock_free_in_between_is_one_moment() {
        let mut read = ended();
        assert_eq!(read.step(at(9), Event::Lock(None)), Action::LookAtVersion);
        assert_eq!(read.step(at(9), version(1)), Action::Done(ReadOutcome::OneMoment));
        assert_eq!(read.step(at(9), Event::Tick), Action::Wait);
    }

    #[test]
    fn another_version_or_none_or_a_writer_is_not() {
        for later in [version(2), Event::Version(None)] {
            let mut read = ended();
            let _ = read.step(at(9), Event::Lock(None));
            assert_eq!(read.step(at(9), later), Action::Done(ReadOutcome::Changed));
        }
        for writer in [holder("OperationTypeApply"), Holder::Unreadable] {
            let then = ended().step(at(9), seen(writer.clone()));
            assert_eq!(then, Action::Done(ReadOutcome::Writer(writer)));
        }
    }

    #[test]
    fn who_plans_is_not_waited_for() {
        let mut read = begun(2);
        let plan = || seen(holder("OperationTypePlan"));
        assert_eq!(read.step(at(0), plan()), Action::LookAtLock(1));
        assert_eq!(read.step(at(0), plan()), Action::LookAtVersion);
    }

    #[test]
    fn who_may_write_is_waited_for_up_to_the_limit_whichever_register_it_has() {
        for writer in [holder("OperationTypeApply"), holder(""), Holder::Unreadable] {
            let mut read = begun(2);
            assert_eq!(read.step(at(0), Event::Lock(None)), Action::LookAtLock(1));
            assert_eq!(read.step(at(0), seen(writer.clone())), Action::Wait);
            assert_eq!(read.writer(), Some(&writer));
            assert_eq!(read.deadline(), Some(at(200)));
            assert_eq!(read.step(at(100), Event::Tick), Action::Wait);
            assert_eq!(read.step(at(950), Event::Tick), Action::LookAtLock(0));
            assert_eq!(read.step(at(950), seen(writer.clone())), Action::Wait);
            assert_eq!(read.deadline(), Some(at(1_000)));
            assert_eq!(read.step(at(1_000), Event::Tick), Action::LookAtLock(0));
            let then = read.step(at(1_000), seen(writer.clone()));
            assert_eq!(then, Action::Done(ReadOutcome::TimedOut(writer)));
        }
    }

    /// It may be dead: whoever takes the lock waits until its lease is over.
    #[test]
    fn a_writer_without_a_sign_of_life_is_left_to_who_takes_the_lock() {
        for (term, silent) in [(LeaseTerm::After(SHORTEST), true), (LeaseTerm::Never, false)] {
            let mut read = OptimisticRead::new(1, at(0), at(600_000), Jitter(0));
            let (mut now, mut beat) = (at(0), 0);
            let end = loop {
                let action = match read.step(now, Event::Tick) {
                    Action::LookAtLock(0) => {
                        let lease = Some(Lease { term, beat });
                        let holder = holder("OperationTypeApply");
                        read.step(now, Event::Lock(Some(Sighting { holder, lease })))
                    }
                    action => action,
                };
                if action != Action::Wait {
                    break action;
                }
                now = read.deadline().expect("it waits");
                // It lives for a minute.
                beat = now.0.as_secs().min(60);
            };
            if silent {
                assert_eq!(end, Action::Done(ReadOutcome::Silent));
                let least = at(60_000).plus(term.sign_of_life());
                assert!((least..least.plus(Duration::from_secs(12))).contains(&now), "{now:?}");
            } else {
                assert!(matches!(end, Action::Done(ReadOutcome::TimedOut(_))), "{end:?}");
            }
        }
    }

    #[test]
    fn without_a_version_nothing_is_read() {
        let mut read = begun(1);
        let _ = read.step(at(0), Event::Lock(None));
        assert_eq!(read.step(at(0), Event::Version(None)), Action::Done(ReadOutcome::NoVersion));
    }
}
