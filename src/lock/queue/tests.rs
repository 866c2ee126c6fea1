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
