mod any_answers;
mod damaged;

use super::super::acquire::Won;
use super::super::line::Line;
use super::*;
use crate::lock::LockId;
use crate::lock::register::Stored;

const START: Uptime = Uptime(Duration::from_secs(1000));

fn at(seconds: u64) -> Uptime {
    START.plus(Duration::from_secs(seconds))
}

/// A waiter with the number 5 that has just joined a line whose head is at 2.
fn fifth() -> Queue {
    let id = LockId("us".into());
    let acquire = Acquire::new(id, START, at(3600), Jitter(1));
    let waiter = Waiter { id: "us".into(), ..Waiter::default() };
    let record = Record { info: None, lease: None };
    let mut queue = Queue::new(acquire, waiter, record, at(3600), Jitter(2), true);
    queue.know(START, Some(line(2)));
    let version = line(2).version;
    queue.mine = Some(OwnTicket { ticket: Ticket(5), version, beat_due: at(20), plans: 0 });
    assert_eq!(queue.queue(START), Action::Read(Slot::Ticket(Ticket(4))));
    queue
}

fn line(head: u64) -> Stored {
    let line = Line { next: 6, head, ..Line::default() };
    Stored { record: line.signed("other"), version: RecordVersion(head.to_string()) }
}

#[test]
fn nothing_is_estimated_before_the_line_has_moved_or_outside_of_it() {
    let mut queue = fifth();
    assert_eq!(queue.ahead(), Some(3));
    assert_eq!(queue.estimate(at(100)), None);
    queue.learn(at(100), Some(line(2)));
    assert_eq!(queue.estimate(at(100)), None);
    queue.learn(at(100), Some(line(3)));
    assert!(queue.estimate(at(100)).is_some());
    queue.mine = None;
    assert_eq!(queue.estimate(at(100)), None);
}

#[test]
fn each_place_costs_a_hold_and_the_present_one_has_begun() {
    let mut queue = fifth();
    queue.learn(at(60), Some(line(3)));
    let seconds = |queue: &Queue, now| queue.estimate(at(now)).map(|it| it.as_secs());
    // Two before us, and who has it now.
    assert_eq!(seconds(&queue, 60), Some(180));
    assert_eq!(seconds(&queue, 100), Some(140));
    // Two moves at once: each took half of the time.
    queue.learn(at(160), Some(line(5)));
    assert_eq!((queue.ahead(), seconds(&queue, 170)), (Some(0), Some(40)));
    // It takes longer than the ones before: that is no reason for a negative time.
    assert_eq!(seconds(&queue, 300), Some(0));
}

/// In a line whose head is at 2: 4 lives, 3 gave up.
#[test]
fn who_gave_up_before_us_is_not_counted() {
    let mut queue = fifth();
    let ticket = || {
        let waiter = Waiter { id: "other".into(), ..Waiter::default() };
        Ok(Some(Stored { record: waiter.to_record(), version: RecordVersion("t".into()) }))
    };
    let held = |id: &str| {
        let info = Some(format!(r#"{{"ID":"{id}"}}"#));
        let record = Record { info, lease: None };
        Ok(Some(Stored { record, version: RecordVersion(id.into()) }))
    };
    assert!(queue.is_counting(), "the nearest is being looked for");
    assert_eq!((queue.ahead(), queue.counted_ahead()), (Some(3), None));
    assert_eq!(queue.step(at(0), Event::Read(ticket())), Action::Read(Slot::Lock));
    assert_eq!((queue.is_counting(), queue.counted_ahead()), (false, None));
    // The lock's holder is known: now the places are looked at, the nearest first.
    let mut action = queue.step(at(0), Event::Read(held("holder")));
    for (place, reply) in [(3, Ok(None)), (2, ticket())] {
        assert_eq!(action, Action::Read(Slot::Ticket(Ticket(place))));
        assert!(queue.is_counting());
        action = queue.step(at(0), Event::Read(reply));
    }
    assert_eq!((action, queue.is_counting(), queue.ahead()), (Action::Wait, false, Some(2)));
    assert_eq!(queue.counted_ahead(), Some(2));

    // Another has the lock: the line has moved, nobody knows how far before it is read.
    queue.line_due = at(16);
    assert_eq!(queue.step(at(15), Event::Tick), Action::Read(Slot::Lock));
    assert_eq!(queue.step(at(15), Event::Read(held("other"))), Action::Wait);
    assert_eq!(queue.ahead(), None);
    assert_eq!(queue.step(at(16), Event::Tick), Action::Read(Slot::Line));
    assert_eq!(queue.step(at(16), Event::Read(Ok(Some(line(3))))), Action::Wait);
    assert_eq!(queue.ahead(), Some(1), "3 gave up");
}

/// Without a line, any number of others may look as often.
#[test]
fn only_the_head_of_a_line_looks_every_tenth_of_a_second() {
    for (is_in_line, expected) in [(true, 100), (false, 200)] {
        let mut queue = fifth();
        queue.mine = queue.mine.filter(|_| is_in_line);
        assert_eq!(queue.be_head(START), Action::Read(Slot::Lock));
        let info = Some(r#"{"ID":"holder"}"#.to_owned());
        let record = Record { info, lease: None };
        let held = Stored { record, version: RecordVersion("v".into()) };
        assert_eq!(queue.step(START, Event::Read(Ok(Some(held)))), Action::Wait);
        let waits = queue.deadline().expect("it looks again").since(START);
        let expected = Duration::from_millis(expected);
        assert!(waits >= expected.mul_f64(0.79) && waits <= expected.mul_f64(1.21), "{waits:?}");
    }
}

#[test]
fn a_line_that_has_never_moved_is_counted_to_its_first_place() {
    let mut queue = fifth();
    queue.line.head = 0;
    let version = Some((RecordVersion("t".into()), at(0)));
    queue.watched = Some(Watched { ticket: Ticket(1), version, due: at(60) });
    (queue.lock_due, queue.line_due) = (at(60), at(60));
    assert_eq!(queue.sleep_on(at(0)), Action::Read(Slot::Ticket(Ticket(0))));
    assert_eq!(queue.step(at(0), Event::Read(Ok(None))), Action::Wait);
    assert_eq!(queue.counted_ahead(), Some(1));
}

#[test]
fn a_long_line_is_not_counted_to_its_head_and_a_fault_ends_it() {
    let mut queue = fifth();
    queue.line.head = 0;
    queue.mine.as_mut().unwrap().ticket = Ticket(100);
    queue.watched = Some(Watched {
        ticket: Ticket(99),
        version: Some((RecordVersion("t".into()), at(0))),
        due: at(60),
    });
    (queue.lock_due, queue.line_due) = (at(60), at(60));
    let mut action = queue.sleep_on(at(0));
    let mut looked = 0;
    while let Action::Read(Slot::Ticket(_)) = action {
        looked += 1;
        action = queue.step(at(0), Event::Read(Ok(None)));
    }
    assert_eq!((looked, queue.ahead()), (8, Some(92)));

    queue.counted = Counted::default();
    let asked = queue.sleep_on(at(0));
    assert_eq!(asked, Action::Read(Slot::Ticket(Ticket(98))));
    let fault = StoreError::Denied("no".into());
    assert_eq!(queue.step(at(0), Event::Read(Err(fault))), Action::Wait);
    assert_eq!(queue.ahead(), Some(100));
}

#[test]
fn the_line_counts_the_plans_before_us() {
    let mut queue = fifth();
    let mine = queue.mine.take().unwrap();
    queue.waiter.operation = "OperationTypePlan".into();
    let plans = |head, plans| {
        let line = Line { next: 6, head, plans, ..Line::default() };
        let version = RecordVersion(format!("{plans:?}"));
        Stored { record: line.signed("other"), version }
    };
    // Four plans in all, one of which has had its turn; ours is the fifth.
    queue.know(START, Some(plans(2, (4, 1))));
    let Action::Write(Slot::Line, record, _) = queue.have(START, Ticket(5), mine.version) else {
        panic!("`next` is raised");
    };
    assert_eq!(Line::of(&record).unwrap().plans, (5, 1));
    let _ = queue.queue(START);
    assert_eq!((queue.ahead(), queue.plans_ahead()), (Some(3), Some(3)));
    queue.learn(at(60), Some(plans(4, (6, 3))));
    assert_eq!((queue.ahead(), queue.plans_ahead()), (Some(1), Some(1)));
    queue.learn(at(120), Some(plans(5, (6, 4))));
    assert_eq!(queue.plans_ahead(), Some(0));
    // Once it is our turn, it is counted as one that had it.
    let Action::Write(Slot::Line, record, _) = queue.leave(Outcome::Granted(Won {
        version: RecordVersion("lock".into()),
        since: at(121),
        answered: true,
    })) else {
        panic!("the line is told");
    };
    assert_eq!(Line::of(&record).unwrap().plans, (6, 5));
}

/// Others have joined since the line was read, and S3 does not show what it refuses to write over.
#[test]
fn who_gets_the_lock_tells_the_line_also_where_a_refusal_shows_nothing() {
    let mut queue = fifth();
    let won = Won { version: RecordVersion("lock".into()), since: START, answered: true };
    let first = queue.leave(Outcome::Granted(won));
    assert!(matches!(first, Action::Write(Slot::Line, ..)), "{first:?}");
    let refused = Event::Wrote(Ok(WriteReply::Conflict(None)));
    assert_eq!(queue.step(at(1), refused), Action::Read(Slot::Line));
    let now = Line { next: 9, head: 4, turns: 7, ..Line::default() };
    let now = Stored { record: now.signed("other"), version: RecordVersion("now".into()) };
    let again = queue.step(at(1), Event::Read(Ok(Some(now.clone()))));
    let Action::Write(Slot::Line, record, Expect::Version(version)) = again else {
        panic!("it is told once more: {again:?}");
    };
    let line = Line::of(&record).unwrap();
    assert_eq!((line.next, line.head, line.turns), (9, 6, 8));
    assert_eq!(version, now.version);
    let told = queue.step(at(1), Event::Wrote(Ok(WriteReply::Applied(RecordVersion("x".into())))));
    assert!(matches!(told, Action::Remove(Slot::Ticket(Ticket(5)), _)), "{told:?}");
    // Not without end, and not where it cannot be read.
    let refused = || Event::Wrote(Ok(WriteReply::Conflict(None)));
    let mut queue = fifth();
    let won = Won { version: RecordVersion("lock".into()), since: START, answered: true };
    let _ = queue.leave(Outcome::Granted(won));
    let mut writes = 1;
    while let Action::Read(Slot::Line) = queue.step(at(1), refused()) {
        assert!(matches!(queue.step(at(1), Event::Read(Ok(Some(now.clone())))), Action::Write(..)));
        writes += 1;
    }
    assert_eq!(writes, TRIES);
    assert!(matches!(queue.phase, Phase::Removing(..)));
}

/// A store that takes longer for its answers than a stop waits.
#[test]
fn a_place_that_could_not_be_taken_away_in_time_is_known() {
    let stopped = |phase: Phase, keeps_mine: bool| {
        let mut queue = fifth();
        queue.phase = phase;
        queue.mine.take_if(|_| !keeps_mine);
        let _out = queue.step(at(1), Event::Stop);
        assert!(!queue.leaves_place(), "there is time");
        assert!(matches!(queue.step(at(10), Event::Tick), Action::Done(_)));
        queue.leaves_place()
    };
    let version = line(2).version;
    assert!(stopped(Phase::Watching(Ticket(4)), true));
    assert!(stopped(Phase::Claiming(Ticket(6)), false));
    assert!(stopped(Phase::GivingBack(Ticket(5), version), false));
    // The control: before there was one.
    assert!(!stopped(Phase::Opening, false));
}
