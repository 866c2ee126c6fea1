//! The machine that keeps one lock: heartbeats, and the fence that ends the child before anybody
//! may take over (`docs/protocol.md#the-lease`).
//!
//! Only an *applied* heartbeat renews the lease, counted from before it was sent. If a read or a
//! refusal shows a newer heartbeat of our own, it gives us its version and nothing else.
//!
//! Nobody can send heartbeats with expired credentials. If their expiry is known, then two
//! heartbeats before it the lease becomes one that never expires: nobody may take over, and there
//! is no fence.

mod events;

pub use events::{Action, Event, LeaseEvent, LeaseStart, Unconfirmed};

use std::time::Duration;

use super::lease::{Lease, LeaseTerm, TICK};
use super::{LockId, Uptime};
use crate::lock::register::{Record, RecordVersion, StoreError, Stored, WriteReply};

/// A tick that comes later than this means that we were paused.
const LATE: Duration = Duration::from_secs(3);

/// The least time that a request has to be answered in: at a lease of 15 s, half a period is 0.75 s.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

/// Between two requests while the store does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// How far the heartbeats of whoever goes on with a lock are above those of who kept it: a write of
/// theirs that is still on its way must not have the bytes of one of ours.
const BEAT_STRIDE: u64 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    /// The next request is due then.
    Idle { next: Uptime },
    /// A beat is out since then.
    Beating { sent: Uptime },
    /// A read is out.
    Looking,
    /// Not ours any more.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Fence {
    Open,
    Frozen,
    Interrupted,
    Killed,
}

/// Keeps one lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseKeeper {
    /// What we knew at the start. Only the version, the info and `answered` are updated.
    known: LeaseStart,
    /// What is declared from the first beat on, up to the last: what the user asked for, or, where
    /// the lock is not ours alone to keep, what its record declares.
    term: LeaseTerm,
    /// Whether `term` follows the record, because another process keeps the lock, too.
    follows: bool,
    /// The number of the last beat that was sent, answered or not.
    sent_beat: u64,
    /// The start of the last request that was applied, and the term it declared.
    renewed: Uptime,
    renewed_term: LeaseTerm,
    state: State,
    /// Who has it now, once it is lost.
    lost_to: Option<Stored>,
    last_tick: Uptime,
    fence: Fence,
    /// Whether the last beat, too, was sent at once after one that was not applied.
    hurried: bool,
    /// When the credentials end, where that is known.
    ends: Option<Uptime>,
    /// Whether what is stored never expires for that.
    last_beat: bool,
    /// How long the credentials were good, when they are refused now.
    refused_after: Option<Duration>,
}

impl LeaseKeeper {
    /// Begins to keep a lock that has just become ours.
    #[must_use]
    pub fn new(known: LeaseStart, term: LeaseTerm, now: Uptime) -> Self {
        let next = if known.answered { now.plus(known.lease.term.period()) } else { now };
        Self {
            term,
            follows: false,
            sent_beat: known.lease.beat,
            renewed: known.since,
            renewed_term: known.lease.term,
            state: State::Idle { next },
            lost_to: None,
            last_tick: now,
            fence: Fence::Open,
            hurried: false,
            ends: None,
            last_beat: false,
            refused_after: None,
            known,
        }
    }

    /// Begins to keep a lock that another process took, and may keep, too: how long the lease is,
    /// is its to say, and each beat declares what the record that it replaces declares.
    #[must_use]
    pub fn beside(known: LeaseStart, now: Uptime) -> Self {
        let term = known.lease.term;
        Self { follows: true, ..Self::new(known, term, now) }
    }

    /// Goes on with a lock that another process kept: as [`Self::beside`], but what is stored must
    /// be found out first. The lease counts from when it was last renewed, and the heartbeats from
    /// far above the last that it sent.
    #[must_use]
    pub fn adopt(mut known: LeaseStart, now: Uptime) -> Self {
        known.lease.beat = known.lease.beat.wrapping_add(BEAT_STRIDE);
        let mut keeper = Self::beside(LeaseStart { version: None, ..known }, now);
        keeper.state = State::Idle { next: now };
        keeper
    }

    /// The start of the last request that renewed the lease, and what that declared.
    #[must_use]
    pub fn renewed(&self) -> (Uptime, LeaseTerm) {
        (self.renewed, self.renewed_term)
    }

    /// When the child must be dead, whoever kills it: the guardian counts from this alone.
    #[must_use]
    pub fn kill_at(&self) -> Option<Uptime> {
        self.renewed_term.fences().map(|(_, kill)| self.renewed.plus(kill))
    }

    /// The number of the last beat that was sent.
    #[must_use]
    pub fn sent_beat(&self) -> u64 {
        self.sent_beat
    }

    /// Tells when the credentials end; they cannot be renewed. To be called before the first step.
    pub fn credentials_end(&mut self, at: Uptime) {
        self.ends = Some(at);
        if let State::Idle { next } = self.state {
            self.state = State::Idle { next: self.not_too_late(next) };
        }
    }

    /// Two beats before the credentials end; from then on, what is declared never expires.
    fn last_call(&self) -> Option<Uptime> {
        self.ends.map(|ends| Uptime(ends.0.saturating_sub(2 * self.term.period())))
    }

    /// Makes sure that a beat goes out at the last call.
    fn not_too_late(&self, next: Uptime) -> Uptime {
        match self.last_call() {
            Some(last) if !self.last_beat => next.min(last),
            _ => next,
        }
    }

    /// How long the credentials were good, when they are refused now.
    #[must_use]
    pub fn refused_after(&self) -> Option<Duration> {
        self.refused_after
    }

    /// Whether others may take over earlier than it was asked for: until the first heartbeat (`R4`).
    #[must_use]
    pub fn declares_less(&self) -> bool {
        !self.is_lost() && self.renewed_term != self.term
    }

    /// Sends the heartbeat at once that declares all of the lease.
    pub fn declare_all(&mut self, now: Uptime) {
        if let (true, State::Idle { .. }) = (self.declares_less(), self.state) {
            self.state = State::Idle { next: now };
        }
    }

    /// When the machine wants a [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Uptime {
        let tick = self.last_tick.plus(TICK);
        match self.state {
            State::Idle { next } => next.min(tick),
            _ => tick,
        }
    }

    /// How long a request may take before it counts as unanswered: half a period, but not less than
    /// a slow store needs.
    #[must_use]
    pub fn patience(&self) -> Duration {
        (self.renewed_term.period() / 2).max(LEAST_PATIENCE)
    }

    /// Our ID.
    #[must_use]
    pub fn id(&self) -> &LockId {
        &self.known.id
    }

    /// The version under which our record is stored as far as we know, for the release.
    #[must_use]
    pub fn version(&self) -> Option<&RecordVersion> {
        self.known.version.as_ref()
    }

    /// Whether the record is somebody else's, or gone.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Whether the last fence has acted, and no heartbeat was confirmed since.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fence == Fence::Killed
    }

    /// Who has the lock now (nobody: `Some(None)`), once it is lost.
    #[must_use]
    pub fn lost_to(&self) -> Option<Option<&Stored>> {
        self.is_lost().then_some(self.lost_to.as_ref())
    }

    /// Whether a child may start now: the lease was confirmed and is well before its first fence.
    #[must_use]
    pub fn may_start(&self, now: Uptime) -> bool {
        self.known.answered && !self.is_lost() && self.is_young(now)
    }

    /// When the lease ends, from when on others may take the lock over; `None`: never.
    #[must_use]
    pub fn ends(&self) -> Option<Uptime> {
        match self.renewed_term {
            LeaseTerm::After(ttl) => Some(self.renewed.plus(ttl)),
            LeaseTerm::Never => None,
        }
    }

    /// Whether the lease is before its first fence.
    fn is_young(&self, now: Uptime) -> bool {
        self.renewed_term.fences().is_none_or(|(interrupt, _)| now.since(self.renewed) < interrupt)
    }

    /// Takes one event and says what follows.
    #[must_use]
    pub fn step(&mut self, now: Uptime, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let pause = Some(now.since(self.last_tick))
            .filter(|pause| matches!(event, Event::Tick) && *pause > LATE);
        match (self.state, event) {
            (State::Beating { sent }, Event::Beaten(reply)) => {
                self.beaten(now, sent, reply, &mut actions);
            }
            (State::Looking, Event::Looked(reply)) => self.looked(now, reply, &mut actions),
            (_, Event::Tick) => self.last_tick = now,
            // A reply after the loss.
            _ => {}
        }
        self.watch_the_fence(now, pause, &mut actions);
        if let State::Idle { next } = self.state
            && (now >= next || pause.is_some())
        {
            actions.push(match self.known.version.clone() {
                Some(version) => self.beat(now, version),
                None => self.look(),
            });
        }
        actions
    }

    fn beat(&mut self, now: Uptime, over: RecordVersion) -> Action {
        // Never the same twice, also after a record that was damaged to the highest number.
        self.sent_beat = self.sent_beat.wrapping_add(1);
        self.state = State::Beating { sent: now };
        if self.last_call().is_some_and(|last| now >= last) {
            self.term = LeaseTerm::Never;
        }
        let lease = Lease { term: self.term, beat: self.sent_beat };
        let record = Record { info: self.known.info.clone(), lease: Some(lease.to_text()) };
        Action::Beat(record, over)
    }

    fn beaten(
        &mut self,
        now: Uptime,
        sent: Uptime,
        reply: Result<WriteReply, StoreError>,
        actions: &mut Vec<Action>,
    ) {
        match reply {
            Ok(WriteReply::Applied(version)) => {
                self.known.version = Some(version);
                self.known.answered = true;
                self.hurried = false;
                self.renewed = sent;
                self.renewed_term = self.term;
                self.refused_after = None;
                // Not one that was sent before, with a lease that expires.
                if !self.last_beat
                    && let Some(ends) = self.ends
                    && self.last_call().is_some_and(|last| sent >= last)
                {
                    self.last_beat = true;
                    actions.push(Action::Say(LeaseEvent::LastBeat { left: ends.since(now) }));
                }
                let next = self.not_too_late(sent.plus(self.term.period()));
                self.state = State::Idle { next: next.max(now) };
                if self.is_young(now) {
                    if self.fence == Fence::Frozen {
                        actions.push(Action::Say(LeaseEvent::Thaw));
                    }
                    self.fence = Fence::Open;
                }
            }
            Ok(WriteReply::Conflict(Some(current))) => self.found(now, current, actions),
            Ok(WriteReply::Conflict(None)) => actions.push(self.look()),
            Err(error) if error.outcome_is_unknown() => actions.push(self.look()),
            Err(error) => self.failed(now, error, actions),
        }
    }

    /// Nothing was applied.
    fn failed(&mut self, now: Uptime, error: StoreError, actions: &mut Vec<Action>) {
        let refused = matches!(error, StoreError::Credentials(_));
        if refused && self.refused_after.is_none() {
            let after = now.since(self.known.since);
            self.refused_after = Some(after);
            // After the last beat it was to be expected.
            if !self.last_beat {
                let fences = self.renewed_term.fences();
                let age = now.since(self.renewed);
                let fence = fences.map(|(interrupt, _)| interrupt.saturating_sub(age));
                actions.push(Action::Say(LeaseEvent::Refused { error, after, fence }));
            }
        }
        // Without a fence there is no hurry to find them renewed.
        let calm = refused && self.renewed_term == LeaseTerm::Never;
        let pause = if calm { self.renewed_term.period() } else { RETRY };
        self.state = State::Idle { next: now.plus(pause) };
    }

    fn looked(
        &mut self,
        now: Uptime,
        reply: Result<Option<Stored>, StoreError>,
        actions: &mut Vec<Action>,
    ) {
        match reply {
            Ok(current) => self.found(now, current, actions),
            Err(error) => self.failed(now, error, actions),
        }
    }

    fn look(&mut self) -> Action {
        self.state = State::Looking;
        Action::Look
    }

    /// What the register holds after a beat that was refused or not answered.
    fn found(&mut self, now: Uptime, current: Option<Stored>, actions: &mut Vec<Action>) {
        match current {
            Some(stored) if stored.record.is_held_by(&self.known.id) => {
                self.follow(&stored.record);
                if self.known.version.is_none() {
                    self.known.info = stored.record.info;
                }
                self.known.version = Some(stored.version);
                // At once, but only once: a store may answer every read and no write.
                let hurried = std::mem::replace(&mut self.hurried, true);
                let next = if hurried { now.plus(RETRY) } else { now };
                self.state = State::Idle { next };
            }
            other => {
                self.state = State::Lost;
                self.lost_to.clone_from(&other);
                actions.push(Action::Say(LeaseEvent::Lost(other)));
            }
        }
    }

    /// Another process may send heartbeats for the same lock. No two writes have the same bytes. A record
    /// that declares less than we did counts, since others will take over by it.
    fn follow(&mut self, record: &Record) {
        let Some(lease) = record.lease.as_deref().and_then(Lease::parse) else { return };
        self.sent_beat = self.sent_beat.max(lease.beat);
        self.renewed_term = self.renewed_term.shorter(lease.term);
        if self.follows {
            self.term = lease.term;
        }
    }

    /// Goes on counting after a loss, too.
    fn watch_the_fence(&mut self, now: Uptime, pause: Option<Duration>, actions: &mut Vec<Action>) {
        let Some((interrupt, kill)) = self.renewed_term.fences() else { return };
        let age = now.since(self.renewed);
        if age >= kill {
            if self.fence < Fence::Killed {
                // After the first fence it was too late before we were paused.
                let why = match pause.filter(|_| self.fence < Fence::Interrupted) {
                    Some(pause) => Unconfirmed::StoodStill(pause),
                    None => Unconfirmed::Unanswered(age),
                };
                self.fence = Fence::Killed;
                actions.push(Action::Say(LeaseEvent::Kill(why)));
            }
        } else if age >= interrupt && self.fence == Fence::Open {
            if pause.is_some() {
                self.fence = Fence::Frozen;
                actions.push(Action::Say(LeaseEvent::Freeze));
            } else {
                self.fence = Fence::Interrupted;
                actions.push(Action::Say(LeaseEvent::Interrupt));
            }
        }
    }
}

#[cfg(test)]
mod tests;
