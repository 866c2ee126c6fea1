//! The line's registers as damage, malice or a weekend of timed-out waiters may leave them.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::*;
use crate::lock::lease::{Lease, LeaseTerm};
use crate::lock::line::{HandedOn, TICKET_BEAT};
use crate::lock::{LockId, LockInfo, lease};

/// What each request takes.
const LATENCY: Duration = Duration::from_millis(20);

/// No walk, no joining and no wait of an hour takes more.
const MOST_REQUESTS: u32 = 6_000;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The registers, in virtual time.
#[derive(Default)]
struct World {
    registers: HashMap<Slot, Stored>,
    now: Uptime,
    requests: u32,
    /// The longest time between two signs of life of whoever stood in line.
    silence: Duration,
}

/// How a wait ended.
struct Ended {
    outcome: Outcome,
    after: Duration,
    requests: u32,
}

impl World {
    fn put(&mut self, slot: Slot, text: &str) {
        let record = Record { info: None, lease: Some(text.to_owned()) };
        self.store(slot, record);
    }

    fn store(&mut self, slot: Slot, record: Record) -> RecordVersion {
        self.requests += 1;
        let version = RecordVersion(self.requests.to_string());
        self.registers.insert(slot, Stored { record, version: version.clone() });
        version
    }

    /// A stranger holds the lock, and shows no sign of life.
    fn hold(&mut self, lease: Option<String>) {
        let info = LockInfo { info: String::new(), ..LockInfo::all_of("other") }.to_json();
        self.store(Slot::Lock, Record { info: Some(info), lease });
    }

    fn does(&mut self, action: Action) -> Event {
        self.now = self.now.plus(LATENCY);
        match action {
            Action::Read(slot) => {
                self.requests += 1;
                Event::Read(Ok(self.registers.get(&slot).cloned()))
            }
            Action::Write(slot, record, expect) => {
                let current = self.registers.get(&slot);
                Event::Wrote(Ok(if expect.holds(current) {
                    WriteReply::Applied(self.store(slot, record))
                } else {
                    self.requests += 1;
                    WriteReply::Conflict(Some(self.registers.get(&slot).cloned()))
                }))
            }
            Action::Remove(slot, version) => {
                self.requests += 1;
                let current = self.registers.get(&slot).cloned();
                Event::Removed(Ok(if current.as_ref().is_some_and(|it| it.version == version) {
                    self.registers.remove(&slot);
                    RemoveReply::Removed
                } else {
                    RemoveReply::Conflict(Some(current))
                }))
            }
            Action::Wait | Action::Done(_) => unreachable!("no request"),
        }
    }

    /// Somebody comes, and is ready to wait so long.
    fn waits(&mut self, name: &str, patience: Duration) -> Ended {
        let (began, before) = (self.now, self.requests);
        let give_up_at = began.plus(patience);
        let id = LockId(name.into());
        let acquire = Acquire::new(id, began, give_up_at, Jitter(1));
        let waiter = Waiter { id: name.into(), ..Waiter::default() };
        let lease = Lease { term: LeaseTerm::After(lease::FIRST), beat: 0 }.to_text();
        let record = Record { info: Some(LockInfo::all_of(name).to_json()), lease: Some(lease) };
        let mut queue = Queue::new(acquire, waiter, record, give_up_at, Jitter(2), true);
        let (mut alive, mut event) = (None, Event::Start);
        loop {
            assert!(self.requests - before < MOST_REQUESTS, "after {:?}", self.now.since(began));
            let action = queue.step(self.now, event);
            if let Action::Write(Slot::Ticket(_), ..) = action {
                let last = alive.replace(self.now).unwrap_or(self.now);
                self.silence = self.silence.max(self.now.since(last));
            }
            event = match action {
                Action::Done(outcome) => {
                    let (after, requests) = (self.now.since(began), self.requests - before);
                    return Ended { outcome, after, requests };
                }
                Action::Wait => {
                    let due = queue.deadline().expect("nothing is out");
                    // A machine that wakes for nothing would do so for ever.
                    self.now = due.max(self.now.plus(Duration::from_millis(1)));
                    Event::Tick
                }
                request => self.does(request),
            };
        }
    }

    fn gives_back(&mut self) {
        self.registers.remove(&Slot::Lock);
    }
}

fn is_granted(ended: &Ended) -> bool {
    matches!(ended.outcome, Outcome::Granted(_))
}

/// Lines as texts, and whether the number that is taken there is any.
const LINES: [&str; 14] = [
    r#"{"next":1000000,"head":0}"#,
    r#"{"next":1000000,"head":3,"turns":18446744073709551615,"count":18446744073709551615}"#,
    r#"{"next":9007199254740991,"head":0}"#,
    r#"{"next":9007199254740990,"head":9007199254740991}"#,
    r#"{"next":9007199254740992,"head":0}"#,
    r#"{"next":18446744073709551615,"head":0}"#,
    r#"{"next":0,"head":18446744073709551615}"#,
    r#"{"next":18446744073709551615,"head":18446744073709551615}"#,
    r#"{"next":5,"head":2,"plans":[18446744073709551615,18446744073709551615]}"#,
    r#"{"next":-1,"head":0}"#,
    r#"{"next":1e30,"head":0}"#,
    r#"{"next":2,"head":1"#,
    "",
    "[]",
];

#[test]
fn a_damaged_line_holds_nobody_up_and_is_mended_by_the_next_turn() {
    for line in LINES {
        for beside in ["", "dead", "lost"] {
            let mut world = World::default();
            world.put(Slot::Line, line);
            for n in 0..700 {
                match beside {
                    // The tickets just before ours, of waiters that are dead.
                    "dead" => world.put(Slot::Ticket(Ticket(1_000_000 - 1 - n)), r#"{"id":"x"}"#),
                    // Tickets that were taken before the line was lost, some of them no tickets.
                    "lost" => world.put(Slot::Ticket(Ticket(n)), "x"),
                    _ => {}
                }
            }
            let first = world.waits("one", secs(60));
            let what = format!("{line} {beside}: {:?}, {} requests", first.after, first.requests);
            assert!(is_granted(&first), "{what}");
            assert!(first.after <= secs(35), "{what}");
            assert!(first.requests <= 1_200, "{what}");
            assert!(world.silence <= TICKET_BEAT + secs(2), "{what}: {:?}", world.silence);
            world.gives_back();
            let second = world.waits("two", secs(60));
            let what = format!("{line} {beside}: {:?}, {} requests", second.after, second.requests);
            assert!(is_granted(&second), "{what}");
            // What is left of the dead is behind the head.
            assert!(second.after <= secs(1) && second.requests <= 20, "{what}");
        }
    }
}

#[test]
fn whoever_waits_in_a_damaged_line_gives_up_in_time_and_shows_that_it_lives() {
    for line in LINES {
        let mut world = World::default();
        world.put(Slot::Line, line);
        world.hold(None);
        let ended = world.waits("one", secs(3600));
        let what = format!("{line}: {:?}, {} requests", ended.after, ended.requests);
        assert!(matches!(ended.outcome, Outcome::TimedOut), "{what}");
        assert!(ended.after <= secs(3601), "{what}");
        assert!(world.silence <= TICKET_BEAT + secs(2), "{what}: {:?}", world.silence);
        // At the head it is one in two seconds.
        assert!(ended.requests <= 3_000, "{what}");
    }
}

/// A line that was written anew by others each time that we look: nobody gets into it.
#[test]
fn a_line_that_cannot_be_joined_is_left_alone() {
    let mut world = World::default();
    let id = LockId("us".into());
    let acquire = Acquire::new(id, START, START.plus(secs(60)), Jitter(1));
    let waiter = Waiter { id: "us".into(), ..Waiter::default() };
    let record = Record { info: None, lease: None };
    let give_up_at = START.plus(secs(60));
    let mut queue = Queue::new(acquire, waiter, record, give_up_at, Jitter(2), true);
    world.hold(None);
    let (mut event, mut writes) = (Event::Start, 0);
    for _ in 0..MOST_REQUESTS {
        let action = queue.step(START, event);
        if action == Action::Wait {
            assert_eq!(queue.ahead(), None);
            assert!(writes <= 2 * JOINS, "{writes}");
            return;
        }
        if let Action::Write(Slot::Line, ..) = &action {
            writes += 1;
            let line = Line { next: 100 + u64::from(writes), ..Line::default() };
            let record = line.signed("other");
            world.store(Slot::Line, record);
        }
        event = world.does(action);
    }
    panic!("it goes on for ever");
}

const START: Uptime = Uptime(Duration::from_secs(1000));

/// Numbers at which something may break.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..12,
        400_u64..700,
        any::<u64>(),
        (0_u64..4).prop_map(|less| u64::MAX - less),
        (0_u64..6).prop_map(|more| (1 << 53) - 3 + more),
    ]
}

fn line() -> impl Strategy<Value = String> {
    let seen = (any::<bool>(), number(), number());
    let whole = (number(), number(), number(), (number(), number()), number(), seen);
    let whole = whole.prop_map(|(next, head, turns, plans, count, (ours, beat, stood))| {
        let id = if ours { "other" } else { "gone" }.to_owned();
        let seen = Some(HandedOn { id, beat, stood });
        let line = Line { next, head, turns, plans, writer: String::new(), count, seen };
        serde_json::to_string(&line).unwrap()
    });
    damaged(whole)
}

fn ticket() -> impl Strategy<Value = String> {
    let free_after = prop::option::of(number());
    let whole = (number(), free_after, any::<bool>()).prop_map(|(beat, free_after, ours)| {
        let id = if ours { "one" } else { "other" }.to_owned();
        let waiter = Waiter { id, beat, free_after, ..Waiter::default() };
        serde_json::to_string(&waiter).unwrap()
    });
    damaged(whole)
}

/// Sometimes as a write that stopped half-way leaves it, sometimes something else.
fn damaged(whole: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = String> {
    let whole = whole.boxed();
    let cut = (whole.clone(), any::<prop::sample::Index>())
        .prop_map(|(text, at)| text[..at.index(text.len())].to_owned());
    prop_oneof![4 => whole, 1 => cut, 1 => any::<String>()]
}

fn lease() -> impl Strategy<Value = Option<String>> {
    let whole = (prop::option::of(number()), number()).prop_map(|(ttl, beat)| {
        ttl.map_or(format!(r#"{{"beat":{beat}}}"#), |ttl| {
            format!(r#"{{"beat":{beat},"ttl":{ttl}}}"#)
        })
    });
    prop::option::of(damaged(whole))
}

proptest! {
    #![proptest_config(crate::seeded::seeded(300))]

    /// Whatever stands in the registers, whoever waits ends in time and after so many requests,
    /// shows meanwhile that it lives, and writes over no lock that has not expired.
    #[test]
    fn whatever_stands_in_the_registers_a_wait_ends(
        line in prop::option::of(line()),
        tickets in prop::collection::hash_map(number(), ticket(), 0..40),
        held in prop::option::of(lease()),
        patience in prop_oneof![Just(0_u64), 1_u64..30, 100_u64..1_000],
    ) {
        let mut world = World { now: START, ..World::default() };
        if let Some(line) = &line {
            world.put(Slot::Line, line);
        }
        for (number, ticket) in &tickets {
            world.put(Slot::Ticket(Ticket(*number)), ticket);
        }
        let is_held = held.is_some();
        let expires = held.clone().flatten().and_then(|text| Lease::parse(&text))
            .is_some_and(|lease| lease.term != LeaseTerm::Never);
        if let Some(lease) = held {
            world.hold(lease);
        }
        let ended = world.waits("one", secs(patience));
        prop_assert!(ended.after <= secs(patience + 30), "{:?}", ended.after);
        prop_assert!(world.silence <= TICKET_BEAT + secs(2), "{:?}", world.silence);
        match ended.outcome {
            Outcome::Granted(_) => prop_assert!(!is_held || expires),
            Outcome::TimedOut => prop_assert!(is_held),
            outcome => prop_assert!(false, "{outcome:?}"),
        }
    }
}
