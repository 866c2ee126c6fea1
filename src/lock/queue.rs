//! The machine that waits for one lock in line: first come, first served (protocol, section 4).
//!
//! It decides *when* [`Acquire`] may try; whether the lock becomes ours is decided by the lock
//! register alone. One request at a time. Whatever goes wrong with the line's own registers, the
//! lock is still competed for by backoff.

use std::time::Duration;

use super::acquire::{self, Acquire, Outcome, Sight};
use super::backoff::{BEHIND, LOCK_LOOK};
use super::jitter::Jitter;
use super::line::{Line, Slot, TICKET_BEAT, TICKET_TTL, Ticket, Waiter};
use super::{LockId, Uptime};
use crate::store::{Expect, Record, RecordVersion, RemoveReply, StoreError, Stored, WriteReply};

/// A lock that was seen free on two looks so far apart is tried, whatever tickets stand before.
const LEFT_LYING: Duration = Duration::from_secs(10);

/// How long after the lock was seen free the ticket before ours may be looked at for the first
/// time.
const LOOK_AROUND: Duration = Duration::from_secs(2);

/// How often a register of the line may refuse or not answer before the line is left alone for
/// this step.
const TRIES: u32 = 8;

/// How soon to try again what the store did not answer.
const RETRY: Duration = Duration::from_secs(2);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Begin.
    Start,
    /// The write came back.
    Wrote(Result<WriteReply, StoreError>),
    /// The read came back.
    Read(Result<Option<Stored>, StoreError>),
    /// The remove came back.
    Removed(Result<RemoveReply, StoreError>),
    /// [`Queue::deadline`] has passed.
    Tick,
    /// The user or the CI wants tfwrap to stop.
    Stop,
}

/// What the shell does next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Write this record.
    Write(Slot, Record, Expect),
    /// Read this register.
    Read(Slot),
    /// Remove this version.
    Remove(Slot, RecordVersion),
    /// Nothing until an event; a request that is out stays out.
    Wait,
    /// It is over.
    Done(Outcome),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    New,
    /// The line is being read before anything else, or before joining it.
    Opening,
    /// [`Acquire`] is at work; then back to where it was.
    Trying(Back),
    /// The ticket of this number is being claimed.
    Claiming(Ticket),
    /// Whether a claim that was not answered was applied is being read.
    SettlingClaim(Ticket),
    /// `next` is being raised above our number.
    Raising,
    /// What became of an unanswered raise is being read.
    SettlingRaise,
    /// A number that may be a used one is being given back; then we join again.
    GivingBack,
    /// In line, asleep.
    Queued,
    /// Our ticket shows that we live.
    Beating,
    /// What became of an unanswered beat is being read.
    SettlingBeat,
    /// Far back: how far the line has moved is being read.
    Surveying,
    /// Near the head: a ticket before ours is being looked at.
    Watching(Ticket),
    /// The one before us has gone: how far the line has moved is being read.
    Placing(Ticket),
    /// A dead one is being removed.
    Cleaning(Ticket),
    /// The lock is being looked at from behind.
    Glancing {
        sent: Uptime,
    },
    /// Whether `head` has moved while the lock was left lying is being read.
    CheckingHead,
    /// Whether the waiter before us showed a sign of life meanwhile is being read.
    CheckingBefore(Ticket),
    /// On the way out, with this outcome: the line is told, then our ticket goes.
    Telling(Outcome),
    Removing(Outcome),
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Back {
    /// Not in line yet.
    Join,
    /// In line, not at its head.
    Queued,
    /// At the head, or without a line: the lock is watched until the end.
    Head,
}

/// Our own ticket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Mine {
    ticket: Ticket,
    version: RecordVersion,
    beat_due: Uptime,
}

/// The ticket that we watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Watched {
    ticket: Ticket,
    /// Its version, and since when it has that.
    version: Option<(RecordVersion, Uptime)>,
    due: Uptime,
}

/// Waits for one lock in line.
#[derive(Debug, Clone)]
pub struct Queue {
    acquire: Acquire,
    id: LockId,
    /// What the lock's register gets.
    record: Record,
    waiter: Waiter,
    jitter: Jitter,
    give_up_at: Uptime,
    phase: Phase,
    /// Whether there is a line to stand in.
    in_line: bool,
    /// Why not, where there should be one; said once.
    denied: Option<StoreError>,
    line: Line,
    line_version: Option<RecordVersion>,
    mine: Option<Mine>,
    watched: Option<Watched>,
    lock_due: Uptime,
    /// When `head` was seen to move last, or we joined.
    moved: Uptime,
    /// How long one hold takes, by the moves of `head` that we saw; zero until we saw one.
    hold: Duration,
    /// Since when the lock is seen free, and where `head` was.
    lying: Option<(Uptime, u64)>,
    tried: bool,
    tries: u32,
    stopping: bool,
}

impl Queue {
    /// Prepares to take the lock with `record`, in line behind whoever came before; without a line
    /// where `in_line` says so.
    #[must_use]
    pub fn new(
        acquire: Acquire,
        waiter: Waiter,
        record: Record,
        give_up_at: Uptime,
        jitter: Jitter,
        in_line: bool,
    ) -> Self {
        Self {
            acquire,
            id: LockId(waiter.id.clone()),
            record,
            waiter,
            jitter,
            give_up_at,
            phase: Phase::New,
            in_line,
            denied: None,
            line: Line::default(),
            line_version: None,
            mine: None,
            watched: None,
            lock_due: Uptime::default(),
            moved: Uptime::default(),
            hold: Duration::ZERO,
            lying: None,
            tried: false,
            tries: 0,
            stopping: false,
        }
    }

    /// The machine that takes the lock.
    #[must_use]
    pub fn acquire(&self) -> &Acquire {
        &self.acquire
    }

    /// Why there is no line although there should be one; told once.
    pub fn take_denied(&mut self) -> Option<StoreError> {
        self.denied.take()
    }

    /// How many places there are before ours, dead ones included; nothing outside the line.
    #[must_use]
    pub fn ahead(&self) -> Option<u64> {
        let mine = self.mine.as_ref()?;
        // Without anything to watch before us we are at the head.
        let before = self.watched.as_ref().map_or(self.line.head, |watched| {
            if watched.ticket == mine.ticket { mine.ticket.0 } else { watched.ticket.0 + 1 }
        });
        Some(before.saturating_sub(self.line.head))
    }

    /// When the machine wants a [`Event::Tick`]; `None` while a request is out.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        let beat = self.mine.as_ref().map(|mine| mine.beat_due);
        match &self.phase {
            Phase::Trying(_) => {
                let acquire = self.acquire.deadline()?;
                Some(beat.map_or(acquire, |beat| beat.min(acquire)))
            }
            Phase::Queued => {
                let watched = self.watched.as_ref().map(|watched| watched.due);
                let dues = [beat, watched, Some(self.lock_due), Some(self.give_up_at)];
                dues.into_iter().flatten().min()
            }
            _ => None,
        }
    }

    /// Decides.
    pub fn step(&mut self, now: Uptime, event: Event) -> Action {
        if event == Event::Stop {
            return self.stop(now);
        }
        match (self.phase.clone(), event) {
            (Phase::New, Event::Start) if self.in_line => self.open(),
            (Phase::New, Event::Start) => self.try_first(now, Back::Head),
            (Phase::Trying(back), event) => self.trying(now, back, event),
            (Phase::Opening, Event::Read(reply)) => self.opened(now, reply),
            (Phase::Claiming(ticket), Event::Wrote(reply)) => self.claimed(now, ticket, reply),
            (Phase::SettlingClaim(ticket), Event::Read(reply)) => {
                self.claim_settled(now, ticket, reply)
            }
            (Phase::Raising, Event::Wrote(reply)) => self.raised(now, reply),
            (Phase::SettlingRaise, Event::Read(reply)) => match reply {
                Ok(current) => self.reconsider_raise(now, current),
                Err(_) => self.give_back(),
            },
            (Phase::GivingBack, Event::Removed(_)) => self.open(),
            (Phase::Queued, Event::Tick) => self.wake(now),
            (Phase::Beating, Event::Wrote(reply)) => self.beaten(now, reply),
            (Phase::SettlingBeat, Event::Read(reply)) => self.beat_settled(now, reply),
            (Phase::Watching(ticket), Event::Read(reply)) => self.watched(now, ticket, reply),
            (Phase::Placing(ticket), Event::Read(reply)) => {
                if let Ok(current) = reply {
                    self.learn(now, current);
                }
                self.look_before(now, ticket)
            }
            (Phase::Surveying, Event::Read(reply)) => {
                if let Ok(current) = reply {
                    self.learn(now, current);
                }
                self.place(now)
            }
            (Phase::Cleaning(ticket), Event::Removed(reply)) => {
                if matches!(reply, Ok(RemoveReply::Conflict(Some(Some(_))))) {
                    self.sleep_on(now)
                } else {
                    self.look_before(now, ticket)
                }
            }
            (Phase::Glancing { sent }, Event::Read(reply)) => self.glanced(now, sent, reply),
            (Phase::CheckingHead, Event::Read(reply)) => self.head_checked(now, reply),
            (Phase::CheckingBefore(ticket), Event::Read(reply)) => {
                self.before_checked(now, ticket, reply)
            }
            (Phase::Telling(outcome), Event::Wrote(reply)) => self.told(outcome, reply),
            (Phase::Removing(outcome), Event::Removed(_)) => self.end(outcome),
            // A tick that came early, or anything after the end.
            _ => Action::Wait,
        }
    }

    fn end(&mut self, outcome: Outcome) -> Action {
        self.phase = Phase::Ended;
        Action::Done(outcome)
    }

    fn ask(&mut self, phase: Phase, action: Action) -> Action {
        self.phase = phase;
        action
    }

    // --- trying ---

    fn try_first(&mut self, now: Uptime, back: Back) -> Action {
        self.tried = true;
        let action = self.acquire.step(now, acquire::Event::Start);
        self.tries_on(now, back, action)
    }

    fn attempt(&mut self, now: Uptime, back: Back) -> Action {
        self.tried = true;
        let action = self.acquire.attempt(now);
        self.tries_on(now, back, action)
    }

    fn trying(&mut self, now: Uptime, back: Back, event: Event) -> Action {
        let event = match event {
            Event::Wrote(reply) => acquire::Event::Took(reply),
            Event::Read(reply) => acquire::Event::Looked(reply),
            Event::Tick => {
                let beat_due = self.mine.as_ref().is_some_and(|mine| now >= mine.beat_due);
                if beat_due && self.acquire.is_at_rest() {
                    return self.beat();
                }
                acquire::Event::Tick
            }
            Event::Start | Event::Removed(_) | Event::Stop => return Action::Wait,
        };
        let action = self.acquire.step(now, event);
        self.tries_on(now, back, action)
    }

    /// Passes on what [`Acquire`] wants; where it would wait for the holder and is not at the
    /// head, it waits in line instead.
    fn tries_on(&mut self, now: Uptime, back: Back, action: acquire::Action) -> Action {
        self.phase = Phase::Trying(back);
        match action {
            acquire::Action::Take => Action::Write(Slot::Lock, self.record.clone(), Expect::Absent),
            acquire::Action::TakeOver(version) => {
                Action::Write(Slot::Lock, self.record.clone(), Expect::Version(version))
            }
            acquire::Action::Look => Action::Read(Slot::Lock),
            acquire::Action::Done(outcome) => self.leave(outcome),
            acquire::Action::Wait if !self.acquire.is_at_rest() => Action::Wait,
            acquire::Action::Wait => match back {
                Back::Head => Action::Wait,
                Back::Join => self.open(),
                Back::Queued => {
                    self.lying = None;
                    self.sleep_on(now)
                }
            },
        }
    }

    /// Without a line, or with nobody before us: the lock is watched.
    fn be_head(&mut self, now: Uptime) -> Action {
        self.watched = None;
        let action = self.acquire.watch(now);
        self.tries_on(now, Back::Head, action)
    }

    fn without_line(&mut self, now: Uptime, error: Option<StoreError>) -> Action {
        self.in_line = false;
        self.denied = error;
        self.mine = None;
        if self.tried { self.be_head(now) } else { self.try_first(now, Back::Head) }
    }

    // --- joining ---

    fn open(&mut self) -> Action {
        self.mine = None;
        self.ask(Phase::Opening, Action::Read(Slot::Line))
    }

    fn know(&mut self, current: Option<Stored>) {
        self.line_version = current.as_ref().map(|stored| stored.version.clone());
        self.line = current.and_then(|stored| Line::of(&stored.record)).unwrap_or_default();
        if self.line.seen.is_some() {
            self.acquire.hand_on(self.line.seen.clone());
        }
    }

    /// As [`Queue::know`], while in line: the moves of `head` tell how long a hold takes.
    fn learn(&mut self, now: Uptime, current: Option<Stored>) {
        let before = self.line.head;
        self.know(current);
        if let Some(moves) = self.line.head.checked_sub(before).filter(|moves| *moves > 0) {
            let moves = u32::try_from(moves).unwrap_or(u32::MAX);
            self.hold = now.since(self.moved) / moves;
            self.moved = now;
        }
    }

    /// How long one hold takes, as far as we know: at least as long as the present one.
    fn hold(&self, now: Uptime) -> Duration {
        self.hold.max(now.since(self.moved))
    }

    /// How many numbers there are from the head to ours; at most one: then the nearest ticket
    /// before ours tells when it is our turn.
    fn distance(&self) -> u64 {
        self.mine.as_ref().map_or(0, |mine| mine.ticket.0.saturating_sub(self.line.head))
    }

    fn opened(&mut self, now: Uptime, reply: Result<Option<Stored>, StoreError>) -> Action {
        match reply {
            Ok(current) => self.know(current),
            // A refused read is treated as absent: S3 answers so for what is not there.
            Err(StoreError::Denied(_)) => self.know(None),
            // The lock itself will show what is wrong.
            Err(_) if !self.tried => return self.try_first(now, Back::Join),
            Err(error) => return self.falter(now, error),
        }
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        // With no time to wait there is nothing to stand in line for.
        if (self.line.is_empty() || now >= self.give_up_at) && !self.tried {
            return self.try_first(now, Back::Join);
        }
        self.tries = 0;
        self.claim(Ticket(self.line.next.max(self.line.head)))
    }

    /// The line does not work for now: compete by backoff.
    fn falter(&mut self, now: Uptime, error: StoreError) -> Action {
        let told = (!error.is_transient()).then_some(error);
        self.without_line(now, told)
    }

    fn claim(&mut self, ticket: Ticket) -> Action {
        let record = self.waiter.to_record();
        self.ask(
            Phase::Claiming(ticket),
            Action::Write(Slot::Ticket(ticket), record, Expect::Absent),
        )
    }

    fn claimed(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        reply: Result<WriteReply, StoreError>,
    ) -> Action {
        match reply {
            Ok(WriteReply::Applied(version)) => self.have(now, ticket, version),
            Ok(WriteReply::Conflict(Some(Some(stored)))) if self.is_mine(&stored) => {
                self.have(now, ticket, stored.version)
            }
            Ok(WriteReply::Conflict(_)) if self.stopping => {
                self.leave(Outcome::Stopped { held: None })
            }
            Ok(WriteReply::Conflict(_)) => {
                self.tries += 1;
                if self.tries > TRIES { self.open() } else { self.claim(Ticket(ticket.0 + 1)) }
            }
            Err(error) if error.outcome_is_unknown() => {
                self.ask(Phase::SettlingClaim(ticket), Action::Read(Slot::Ticket(ticket)))
            }
            Err(_) if self.stopping => self.leave(Outcome::Stopped { held: None }),
            Err(error) => self.falter(now, error),
        }
    }

    fn claim_settled(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        match reply {
            Ok(Some(stored)) if self.is_mine(&stored) => self.have(now, ticket, stored.version),
            _ if self.stopping => self.leave(Outcome::Stopped { held: None }),
            // It may still land: then it is a dead ticket that somebody removes.
            Ok(_) => self.open(),
            Err(error) => self.falter(now, error),
        }
    }

    fn is_mine(&self, stored: &Stored) -> bool {
        Waiter::of(&stored.record).is_some_and(|waiter| waiter.id == self.id.0)
    }

    fn have(&mut self, now: Uptime, ticket: Ticket, version: RecordVersion) -> Action {
        self.mine = Some(Mine { ticket, version, beat_due: now.plus(TICKET_BEAT) });
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        self.tries = 0;
        self.raise(ticket)
    }

    fn raise(&mut self, ticket: Ticket) -> Action {
        let mut line = self.line.clone();
        line.next = ticket.0 + 1;
        self.write_line(Phase::Raising, line)
    }

    fn write_line(&mut self, phase: Phase, line: Line) -> Action {
        let record = line.signed(&self.id);
        let expect = self.line_version.clone().map_or(Expect::Absent, Expect::Version);
        self.ask(phase, Action::Write(Slot::Line, record, expect))
    }

    fn raised(&mut self, now: Uptime, reply: Result<WriteReply, StoreError>) -> Action {
        let Some(mine) = &self.mine else { return self.open() };
        match reply {
            Ok(WriteReply::Applied(version)) => {
                self.line.next = mine.ticket.0 + 1;
                self.line.count += 1;
                self.line.writer.clone_from(&self.id.0);
                self.line_version = Some(version);
                self.queue(now)
            }
            Ok(WriteReply::Conflict(Some(current))) => self.reconsider_raise(now, current),
            Ok(WriteReply::Conflict(None)) => {
                self.ask(Phase::SettlingRaise, Action::Read(Slot::Line))
            }
            Err(error) if error.outcome_is_unknown() => {
                self.ask(Phase::SettlingRaise, Action::Read(Slot::Line))
            }
            Err(_) => self.give_back(),
        }
    }

    /// Whoever finds `next` above its number may hold a used one: it gives the ticket back and
    /// joins again.
    fn reconsider_raise(&mut self, now: Uptime, current: Option<Stored>) -> Action {
        let Some(ticket) = self.mine.as_ref().map(|mine| mine.ticket) else { return self.open() };
        self.know(current);
        let by_us = self.line.writer == self.id.0 && self.line.next == ticket.0 + 1;
        if by_us {
            return self.queue(now);
        }
        self.tries += 1;
        if self.line.next > ticket.0 || self.tries > TRIES {
            return self.give_back();
        }
        self.raise(ticket)
    }

    fn give_back(&mut self) -> Action {
        match self.mine.take() {
            Some(Mine { ticket, version, .. }) => {
                self.ask(Phase::GivingBack, Action::Remove(Slot::Ticket(ticket), version))
            }
            None => self.open(),
        }
    }

    // --- standing in line ---

    fn queue(&mut self, now: Uptime) -> Action {
        (self.lock_due, self.moved, self.hold) = (now, now, Duration::ZERO);
        self.place(now)
    }

    /// Finds what to watch: far back the line itself; next to the head the nearest ticket before
    /// ours.
    fn place(&mut self, now: Uptime) -> Action {
        let Some(ticket) = self.mine.as_ref().map(|mine| mine.ticket) else { return self.open() };
        let distance = self.distance();
        if distance <= 1 {
            return self.look_before(now, ticket);
        }
        // Half of the time until we are next to the head, as holds go.
        let hold = self.hold(now);
        let until = hold.saturating_mul(u32::try_from(distance - 1).unwrap_or(u32::MAX)) / 2;
        let interval = until.clamp(BEHIND.least, BEHIND.most);
        let due = now.plus(self.jitter.around(interval));
        self.watched = Some(Watched { ticket, version: None, due });
        self.sleep_on(now)
    }

    /// Looks at the nearest place before `ticket`; with none left, we are at the head.
    fn look_before(&mut self, now: Uptime, ticket: Ticket) -> Action {
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        if ticket.0 <= self.line.head {
            return self.be_head(now);
        }
        let before = Ticket(ticket.0 - 1);
        // The same as before keeps its age: only its own change is a sign of life.
        let version =
            self.watched.take().filter(|it| it.ticket == before).and_then(|it| it.version);
        self.watched = Some(Watched { ticket: before, version, due: now });
        self.ask(Phase::Watching(before), Action::Read(Slot::Ticket(before)))
    }

    fn sleep_on(&mut self, now: Uptime) -> Action {
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        self.phase = Phase::Queued;
        self.wake(now)
    }

    /// Does what is due; the most urgent first.
    fn wake(&mut self, now: Uptime) -> Action {
        if now >= self.give_up_at {
            // Everyone tries once before giving up.
            return self.attempt(now, Back::Queued);
        }
        let Some(mine) = &self.mine else { return self.open() };
        if now >= mine.beat_due {
            return self.beat();
        }
        if let Some(watched) = self.watched.as_ref().filter(|watched| now >= watched.due) {
            let ticket = watched.ticket;
            if ticket == mine.ticket {
                return self.ask(Phase::Surveying, Action::Read(Slot::Line));
            }
            return self.ask(Phase::Watching(ticket), Action::Read(Slot::Ticket(ticket)));
        }
        if now >= self.lock_due {
            return self.ask(Phase::Glancing { sent: now }, Action::Read(Slot::Lock));
        }
        self.phase = Phase::Queued;
        Action::Wait
    }

    fn beat(&mut self) -> Action {
        let Some(mine) = &self.mine else { return self.open() };
        self.waiter.beat += 1;
        let expect = Expect::Version(mine.version.clone());
        let slot = Slot::Ticket(mine.ticket);
        self.ask(Phase::Beating, Action::Write(slot, self.waiter.to_record(), expect))
    }

    fn beaten(&mut self, now: Uptime, reply: Result<WriteReply, StoreError>) -> Action {
        let Some(mine) = &mut self.mine else { return self.open() };
        match reply {
            Ok(WriteReply::Applied(version)) => {
                mine.version = version;
                mine.beat_due = now.plus(TICKET_BEAT);
                self.go_on(now)
            }
            Ok(WriteReply::Conflict(Some(current))) => self.adopt(now, current),
            Err(error) if !error.outcome_is_unknown() => {
                mine.beat_due = now.plus(RETRY);
                self.go_on(now)
            }
            Ok(WriteReply::Conflict(None)) | Err(_) => {
                let slot = Slot::Ticket(mine.ticket);
                self.ask(Phase::SettlingBeat, Action::Read(slot))
            }
        }
    }

    fn beat_settled(&mut self, now: Uptime, reply: Result<Option<Stored>, StoreError>) -> Action {
        match (reply, &mut self.mine) {
            (Ok(current), _) => self.adopt(now, current),
            (Err(_), Some(mine)) => {
                mine.beat_due = now.plus(RETRY);
                self.go_on(now)
            }
            (Err(_), None) => self.open(),
        }
    }

    /// A waiter whose ticket is gone when it comes back joins again, at the end.
    fn adopt(&mut self, now: Uptime, current: Option<Stored>) -> Action {
        match (current, &mut self.mine) {
            (Some(stored), Some(mine))
                if Waiter::of(&stored.record).is_some_and(|it| it.id == self.id.0) =>
            {
                mine.version = stored.version;
                mine.beat_due = now.plus(TICKET_BEAT);
                self.go_on(now)
            }
            _ if self.stopping => {
                self.mine = None;
                self.leave(Outcome::Stopped { held: None })
            }
            _ => self.open(),
        }
    }

    /// After a beat: on with the wait, at the head or behind.
    fn go_on(&mut self, now: Uptime) -> Action {
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        if self.watched.is_some() {
            return self.sleep_on(now);
        }
        let action = self.acquire.step(now, acquire::Event::Tick);
        self.tries_on(now, Back::Head, action)
    }

    fn watched(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        let hold = self.hold(now);
        let Some(watched) = &mut self.watched else { return self.sleep_on(now) };
        watched.due = now.plus(BEHIND.interval(hold, &mut self.jitter));
        match reply {
            // It stood there and has gone, so the line has moved.
            Ok(None) if watched.version.is_some() => {
                self.ask(Phase::Placing(ticket), Action::Read(Slot::Line))
            }
            Ok(None) => self.look_before(now, ticket),
            Ok(Some(stored)) => match &watched.version {
                Some((version, since)) if *version == stored.version => {
                    if now.since(*since) < TICKET_TTL {
                        return self.sleep_on(now);
                    }
                    // Dead: removing it is housekeeping by whoever stands behind it.
                    let remove = Action::Remove(Slot::Ticket(ticket), stored.version);
                    self.ask(Phase::Cleaning(ticket), remove)
                }
                _ => {
                    watched.version = Some((stored.version, now));
                    self.sleep_on(now)
                }
            },
            Err(_) => self.sleep_on(now),
        }
    }

    fn glanced(
        &mut self,
        now: Uptime,
        sent: Uptime,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        // Never later than the interval, for the sake of the 20 s; a little earlier, to spread.
        self.lock_due = now.plus(LOCK_LOOK - self.jitter.up_to(LOCK_LOOK / 10));
        match self.acquire.observe(now, sent, reply) {
            Sight::Ours => self.attempt(now, Back::Queued),
            Sight::Free => match self.lying {
                None => self.note_free(now),
                Some((since, _)) if now.since(since) >= LEFT_LYING => {
                    self.ask(Phase::CheckingHead, Action::Read(Slot::Line))
                }
                Some((since, _)) => {
                    self.lock_due = since.plus(LEFT_LYING);
                    self.sleep_on(now)
                }
            },
            // It was free between two holders only: the line has moved.
            Sight::Held if self.lying.take().is_some() => {
                self.ask(Phase::Surveying, Action::Read(Slot::Line))
            }
            Sight::Held => self.sleep_on(now),
            Sight::Unknown => self.sleep_on(now),
        }
    }

    /// The lock is free, and not ours to take yet. Whoever stands behind us shall see that we
    /// live; and we look who is before us, to see whether they do.
    fn note_free(&mut self, now: Uptime) -> Action {
        self.lying = Some((now, self.line.head));
        self.lock_due = now.plus(LEFT_LYING);
        let Some(mine) = &mut self.mine else { return self.open() };
        mine.beat_due = now;
        let ticket = mine.ticket;
        self.look_before(now, ticket)
    }

    fn head_checked(&mut self, now: Uptime, reply: Result<Option<Stored>, StoreError>) -> Action {
        let before = self.lying.map(|(_, head)| head);
        if let Ok(current) = reply {
            self.learn(now, current);
        }
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        if before != Some(self.line.head) {
            self.lying = None;
            return self.place(now);
        }
        let ours = self.mine.as_ref().map(|mine| mine.ticket);
        match self.watched.as_ref().map(|watched| watched.ticket) {
            Some(ticket) if Some(ticket) != ours => {
                self.ask(Phase::CheckingBefore(ticket), Action::Read(Slot::Ticket(ticket)))
            }
            _ => self.attempt(now, Back::Queued),
        }
    }

    /// A free lock is never left lying: with `head` where it was and no sign of life from the one
    /// before us, nobody before us is coming.
    fn before_checked(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        reply: Result<Option<Stored>, StoreError>,
    ) -> Action {
        if self.stopping {
            return self.leave(Outcome::Stopped { held: None });
        }
        let known = self.watched.as_ref().and_then(|watched| watched.version.clone());
        let since = self.lying.map_or(now, |(since, _)| since);
        match (reply, known) {
            // It came or went meanwhile: it is its turn, or somebody else's before us.
            (Ok(None), _) => {
                self.lying = None;
                self.look_before(now, ticket)
            }
            (Ok(Some(stored)), Some((version, seen)))
                if stored.version != version || seen > since.plus(LOOK_AROUND) =>
            {
                self.lying = None;
                self.place(now)
            }
            _ => self.attempt(now, Back::Queued),
        }
    }

    // --- leaving ---

    fn stop(&mut self, now: Uptime) -> Action {
        self.stopping = true;
        match self.phase {
            Phase::New => self.end(Outcome::Stopped { held: None }),
            Phase::Queued => self.leave(Outcome::Stopped { held: None }),
            Phase::Trying(back) => {
                let action = self.acquire.step(now, acquire::Event::Stop);
                match action {
                    acquire::Action::Wait => Action::Wait,
                    action => self.tries_on(now, back, action),
                }
            }
            // A request of the line's own is out: its reply ends the wait.
            _ => Action::Wait,
        }
    }

    /// Whatever came of it, the line is told: who got the lock raises `head` past its own number;
    /// who leaves hands on what it saw. Then the ticket goes.
    fn leave(&mut self, outcome: Outcome) -> Action {
        let Some(mine) = &self.mine else { return self.end(outcome) };
        let mut line = self.line.clone();
        if matches!(outcome, Outcome::Granted(_)) {
            line.head = line.head.max(mine.ticket.0 + 1);
            line.next = line.next.max(line.head);
            line.seen = None;
        } else if let Some(seen) = self.acquire.observation() {
            line.seen = Some(seen);
        } else {
            return self.remove_mine(outcome);
        }
        self.tries = 0;
        self.write_line(Phase::Telling(outcome), line)
    }

    fn told(&mut self, outcome: Outcome, reply: Result<WriteReply, StoreError>) -> Action {
        self.tries += 1;
        if let Ok(WriteReply::Conflict(Some(current))) = reply
            && self.tries < TRIES
        {
            let tries = self.tries;
            self.know(current);
            let action = self.leave(outcome);
            self.tries = tries;
            return action;
        }
        // Whatever else: the next ones find out by themselves, a little later.
        self.remove_mine(outcome)
    }

    fn remove_mine(&mut self, outcome: Outcome) -> Action {
        match self.mine.take() {
            Some(Mine { ticket, version, .. }) => {
                self.ask(Phase::Removing(outcome), Action::Remove(Slot::Ticket(ticket), version))
            }
            None => self.end(outcome),
        }
    }
}
