//! A stop at every event of random schedules: one waiter against the memory store, others that come
//! and go around it, and requests that fare badly.
//!
//! Each schedule is played once without a stop, and then once for each of its events with a stop
//! just before that. What must hold: nothing is granted after a stop; it is over within 4 s,
//! whatever the store does; nothing is asked that could make the lock ours; and what is ours
//! nevertheless, or may still become ours, is known.

use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tfwrap::lock::acquire::{Acquire, Outcome};
use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::lease::{Lease, LeaseTerm};
use tfwrap::lock::line::{Line, Slot, Ticket, Waiter};
use tfwrap::lock::queue::{Action, Event, Queue};
use tfwrap::lock::{LockId, LockKey, Uptime};
use tfwrap::store::{Expect, MemoryStore, Record, Registers, StoreError, Stored};

use crate::seeded::seeded;

/// How long a stop may take.
const STOP: Duration = Duration::from_secs(4);

/// When a request that brought no answer is given up by the store's client.
const TIME_OUT: Duration = Duration::from_secs(5);

/// How long the lock is waited for.
const PATIENCE: Duration = Duration::from_secs(90);

/// Nothing takes more events.
const MOST: usize = 3_000;

/// What the world is like.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each can be so without the others")]
struct Setting {
    /// Places that were given out, and how many of those are through.
    next: u64,
    head: u64,
    /// Which of the others in line live; the rest are dead.
    alive: u8,
    held: bool,
    in_line: bool,
    /// Writes to the line are denied.
    line_denied: bool,
    /// Reads of the lock are denied.
    blind: bool,
    /// How many of a hundred requests meet something.
    trouble: u16,
    /// After the stop nothing goes wrong any more.
    calm_after: bool,
    schedule: Vec<u16>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered(u64),
    /// Neither done nor answered.
    Lost,
    /// Done, not answered.
    Unanswered,
    Throttled,
    /// Not answered, and done later, perhaps after all is over.
    Late,
    /// Done and answered, but both take long.
    Slow(u64),
}

struct Out {
    action: Action,
    fate: Fate,
    due: Duration,
}

struct Play<'a> {
    setting: &'a Setting,
    choices: std::iter::Copied<std::slice::Iter<'a, u16>>,
    store: MemoryStore,
    queue: Queue,
    now: Duration,
    out: Option<Out>,
    /// Writes that may still be done.
    late: Vec<Action>,
    stopped: Option<Duration>,
    beats: u64,
    told: Vec<String>,
}

fn key(slot: Slot) -> LockKey {
    slot.key(&LockKey("bucket/state".to_owned()))
}

fn record(id: &str, beat: u64) -> Record {
    let lease = Lease { term: LeaseTerm::After(Duration::from_secs(15)), beat };
    Record { info: Some(format!(r#"{{"ID":"{id}"}}"#)), lease: Some(lease.to_text()) }
}

fn us() -> LockId {
    LockId("us".to_owned())
}

fn now<T>(reply: impl Future<Output = T>) -> T {
    reply.now_or_never().expect("memory answers at once")
}

fn unknown() -> StoreError {
    StoreError::Unavailable { detail: "no reply".to_owned(), sent: true }
}

impl<'a> Play<'a> {
    fn new(setting: &'a Setting) -> Self {
        let end = Uptime(PATIENCE);
        let acquire = Acquire::new(us(), Uptime::default(), end, Jitter(1));
        let waiter = Waiter { id: us().0, ..Waiter::default() };
        let queue = Queue::new(acquire, waiter, record("us", 0), end, Jitter(2), setting.in_line);
        let store = MemoryStore::new();
        let play = Self {
            setting,
            choices: setting.schedule.iter().copied(),
            store,
            queue,
            now: Duration::ZERO,
            out: None,
            late: Vec::new(),
            stopped: None,
            beats: 0,
            told: Vec::new(),
        };
        let line = Line { next: setting.next, head: setting.head, ..Line::default() };
        play.put(Slot::Line, &line.signed("other"));
        for n in setting.head..setting.next {
            let waiter = Waiter { id: format!("other-{n}"), ..Waiter::default() };
            play.put(Slot::Ticket(Ticket(n)), &waiter.to_record());
        }
        if setting.held {
            play.put(Slot::Lock, &record("holder", 0));
        }
        play
    }

    fn read(&self, slot: Slot) -> Option<Stored> {
        now(self.store.read(&key(slot))).expect("memory can be read")
    }

    fn put(&self, slot: Slot, record: &Record) {
        let expect =
            self.read(slot).map_or(Expect::Absent, |stored| Expect::Version(stored.version));
        now(self.store.write(&key(slot), record, &expect)).expect("memory can be written");
    }

    fn remove(&self, slot: Slot) {
        if let Some(stored) = self.read(slot) {
            let _ = now(self.store.remove(&key(slot), &stored.version));
        }
    }

    fn is_calm(&self) -> bool {
        self.setting.calm_after && self.stopped.is_some()
    }

    fn choose(&mut self) -> u64 {
        u64::from(self.choices.next().unwrap_or(1))
    }

    /// What the others do: hold, give back, beat, come, go.
    fn others(&mut self) {
        let choice = self.choose();
        let lock = self.read(Slot::Lock);
        let is_ours = lock.as_ref().is_some_and(|stored| stored.record.is_held_by(&us()));
        match choice % 12 {
            0 if !is_ours => self.remove(Slot::Lock),
            1 if lock.is_none() => self.put(Slot::Lock, &record("holder", 0)),
            2..=5 if lock.is_some() && !is_ours => {
                self.beats += 1;
                self.put(Slot::Lock, &record("holder", self.beats));
            }
            6 | 7 => {
                let n = choice / 12 % self.setting.next.max(1);
                self.other(n, Self::remove);
            }
            8 | 9 => {
                let n = choice / 12 % self.setting.next.max(1);
                self.beats += 1;
                let beat = self.beats;
                if self.setting.alive & (1 << (n % 8)) != 0 {
                    self.other(n, |it, slot| {
                        let id = format!("other-{n}");
                        it.put(slot, &Waiter { id, beat, ..Waiter::default() }.to_record());
                    });
                }
            }
            10 => {
                let stored = self.read(Slot::Line);
                if let Some(mut line) = stored.and_then(|it| Line::of(&it.record)) {
                    line.turns += 1;
                    line.head = (line.head + 1).min(line.next);
                    self.put(Slot::Line, &line.signed("other"));
                }
            }
            _ => {}
        }
    }

    /// Does something with a ticket, if it is there and not ours.
    fn other(&self, n: u64, what: impl FnOnce(&Self, Slot)) {
        let slot = Slot::Ticket(Ticket(n));
        let waiter = self.read(slot).and_then(|it| Waiter::of(&it.record));
        if waiter.is_some_and(|it| it.id != us().0) {
            what(self, slot);
        }
    }

    fn fate(&mut self) -> Fate {
        let choice = self.choose();
        let quick = Fate::Answered(1 + choice % 150);
        if self.is_calm() || choice % 100 >= u64::from(self.setting.trouble) {
            return quick;
        }
        match choice / 100 % 5 {
            0 => Fate::Lost,
            1 => Fate::Unanswered,
            2 => Fate::Throttled,
            3 => Fate::Late,
            _ => Fate::Slow(200 + choice % 4_700),
        }
    }

    fn send(&mut self, action: Action) -> Result<(), String> {
        if self.out.is_some() {
            return Err("two requests at once".to_owned());
        }
        let may_lock = matches!(action, Action::Write(Slot::Lock, ..));
        if may_lock && self.stopped.is_some() && !self.setting.blind {
            return Err(format!("asks for the lock after a stop: {action:?}"));
        }
        let fate = self.fate();
        let due = match fate {
            Fate::Answered(millis) | Fate::Slow(millis) => Duration::from_millis(millis),
            Fate::Throttled => Duration::from_millis(20),
            Fate::Lost | Fate::Unanswered | Fate::Late => TIME_OUT,
        };
        if fate == Fate::Late {
            self.late.push(action.clone());
        }
        self.told.push(format!("{:?} {action:?} {fate:?}", self.now));
        self.out = Some(Out { action, fate, due: self.now + due });
        Ok(())
    }

    fn is_denied(&self, action: &Action) -> bool {
        match action {
            Action::Read(Slot::Lock) => self.setting.blind,
            Action::Write(slot, ..) | Action::Remove(slot, _) => {
                self.setting.line_denied && *slot != Slot::Lock
            }
            _ => false,
        }
    }

    /// What the store does.
    fn apply(&self, action: &Action) -> Option<Event> {
        if self.is_denied(action) {
            let denied = StoreError::Denied("denied".into());
            return Some(match action {
                Action::Read(_) => Event::Read(Err(denied)),
                Action::Write(..) => Event::Wrote(Err(denied)),
                _ => Event::Removed(Err(denied)),
            });
        }
        match action {
            Action::Read(slot) => Some(Event::Read(now(self.store.read(&key(*slot))))),
            Action::Write(slot, record, expect) => {
                Some(Event::Wrote(now(self.store.write(&key(*slot), record, expect))))
            }
            Action::Remove(slot, version) => {
                Some(Event::Removed(now(self.store.remove(&key(*slot), version))))
            }
            Action::Wait | Action::Done(_) => None,
        }
    }

    fn answer(&self, out: &Out) -> Event {
        let error = match out.fate {
            Fate::Answered(_) | Fate::Slow(_) => {
                return self.apply(&out.action).expect("it is a request");
            }
            Fate::Throttled => StoreError::Throttled("slow down".to_owned()),
            Fate::Unanswered => {
                let _ = self.apply(&out.action);
                unknown()
            }
            Fate::Lost | Fate::Late => unknown(),
        };
        match out.action {
            Action::Read(_) => Event::Read(Err(error)),
            Action::Write(..) => Event::Wrote(Err(error)),
            _ => Event::Removed(Err(error)),
        }
    }

    /// What happens next: a reply, or a deadline.
    fn next(&mut self) -> Result<Event, String> {
        self.others();
        let tick = self.queue.deadline().map(|at| at.0.max(self.now));
        if let Some(out) = self.out.take_if(|out| tick.is_none_or(|at| out.due <= at)) {
            self.now = out.due;
            // One that is late may come in now, or when all is over.
            if self.choose().is_multiple_of(3)
                && let Some(late) = self.late.pop()
            {
                let _ = self.apply(&late);
            }
            return Ok(self.answer(&out));
        }
        let Some(at) = tick else { return Err("it waits for ever".to_owned()) };
        self.now = at + Duration::from_millis(self.choose() % 3 * 50);
        Ok(Event::Tick)
    }

    /// Plays to the end; with a stop before the event of this number. Returns how many events
    /// there were.
    fn play(&mut self, stop: Option<usize>) -> Result<usize, String> {
        let mut event = Event::Start;
        for number in 0..MOST {
            let stops = stop == Some(number);
            let action = if stops {
                // Nothing goes on meanwhile: the event itself comes after it.
                self.stopped = Some(self.now);
                self.told.push(format!("{:?} stop", self.now));
                let before = (number > 0).then_some(event.clone());
                let action = self.queue.step(Uptime(self.now), Event::Stop);
                match (action, before) {
                    // Its reply has come already.
                    (Action::Wait, Some(event)) if event != Event::Tick => {
                        self.queue.step(Uptime(self.now), event)
                    }
                    (action, _) => action,
                }
            } else {
                self.queue.step(Uptime(self.now), event.clone())
            };
            match action {
                Action::Wait => {}
                Action::Done(outcome) => return self.end(outcome).map(|()| number),
                request => self.send(request)?,
            }
            let since = self.stopped.map(|at| self.now.saturating_sub(at));
            if let Some(since) = since.filter(|it| *it > STOP + Duration::from_millis(200)) {
                return Err(format!("still there {since:?} after a stop"));
            }
            event = self.next()?;
        }
        Err("it never ends".to_owned())
    }

    fn end(&mut self, outcome: Outcome) -> Result<(), String> {
        let held = match outcome {
            Outcome::Granted(_) if self.stopped.is_some() => {
                return Err("granted after a stop".to_owned());
            }
            Outcome::TimedOut | Outcome::Failed(_) if self.stopped.is_some() => {
                return Err(format!("the stop is forgotten: {outcome:?}"));
            }
            Outcome::Granted(won) => Some(won),
            Outcome::Stopped { held } => held,
            Outcome::TimedOut | Outcome::Failed(_) => None,
        };
        let lock = self.read(Slot::Lock).filter(|stored| stored.record.is_held_by(&us()));
        let told = self.queue.acquire().may_still_appear();
        match (held, lock) {
            (Some(won), Some(stored)) if won.version == stored.version => {}
            (Some(won), lock) => return Err(format!("not ours: {won:?}, but {lock:?}")),
            (None, Some(_)) if !told => return Err("the lock is ours, and unknown".to_owned()),
            (None, _) => {}
        }
        // What is out is given up, and may be done all the same.
        let given_up = self.out.take().map(|out| out.action);
        let mut late = self.late.iter().chain(&given_up);
        if !told && late.any(|action| self.would_lock(action)) {
            return Err("the lock may still become ours, and that is unknown".to_owned());
        }
        self.check_ticket()
    }

    fn would_lock(&self, action: &Action) -> bool {
        let Action::Write(Slot::Lock, _, expect) = action else { return false };
        // One that waits for the record to go is as good as one that meets none.
        *expect == Expect::Absent || expect.holds(self.read(Slot::Lock).as_ref())
    }

    /// With a store that answers, no ticket of ours stays behind after a stop.
    fn check_ticket(&self) -> Result<(), String> {
        if !self.is_calm() || self.setting.line_denied || self.setting.trouble > 0 {
            return Ok(());
        }
        for n in 0..self.setting.next + 50 {
            let waiter = self.read(Slot::Ticket(Ticket(n))).and_then(|it| Waiter::of(&it.record));
            if waiter.is_some_and(|it| it.id == us().0) {
                return Err(format!("ticket {n} is left behind"));
            }
        }
        Ok(())
    }
}

fn settings() -> impl Strategy<Value = Setting> {
    let flags = (any::<u8>(), any::<bool>(), 0..10_u8, 0..10_u8, 0..10_u8, any::<bool>());
    let numbers = (0..6_u64, 0..6_u64, 0..60_u16);
    let schedule = prop::collection::vec(any::<u16>(), 0..400);
    (flags, numbers, schedule).prop_map(|(flags, (waiting, head, trouble), schedule)| {
        let (alive, held, no_line, line_denied, blind, calm_after) = flags;
        Setting {
            next: head + waiting,
            head,
            alive,
            held,
            in_line: no_line != 0,
            line_denied: line_denied == 0,
            blind: blind == 0,
            trouble: trouble.saturating_sub(15),
            calm_after,
            schedule,
        }
    })
}

/// Returns how many stops were tried.
fn stop_everywhere(setting: &Setting) -> Result<usize, String> {
    let mut play = Play::new(setting);
    let told = |play: &Play, wrong: &str| format!("{wrong}\n{}", play.told.join("\n"));
    let events = play.play(None).map_err(|wrong| told(&play, &wrong))?;
    for stop in 0..=events {
        let mut play = Play::new(setting);
        play.play(Some(stop)).map_err(|wrong| told(&play, &wrong))?;
    }
    Ok(events + 1)
}

#[test]
fn a_stop_at_any_event_is_heeded_within_four_seconds_and_nothing_is_started_or_lost() {
    let stops = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(seeded(400));
    runner
        .run(&settings(), |setting| {
            let tried = stop_everywhere(&setting).map_err(TestCaseError::fail)?;
            stops.set(stops.get() + tried);
            Ok(())
        })
        .unwrap_or_else(|wrong| panic!("{wrong}"));
    println!("{} stops", stops.get());
}
