mod leases;
mod unanswered;

use super::*;
use crate::lock::register::Record;

const TEN_SECONDS: Duration = Duration::from_secs(10);

fn at(millis: u64) -> Uptime {
    Uptime(Duration::from_millis(millis))
}

fn version(name: &str) -> RecordVersion {
    RecordVersion(name.to_owned())
}

fn stored(id: &str) -> Stored {
    let info = format!(r#"{{"ID":"{id}"}}"#);
    Stored { record: Record { info: Some(info), lease: None }, version: version(id) }
}

fn conflict(id: &str) -> Event {
    Event::Took(Ok(WriteReply::Conflict(Some(Some(stored(id))))))
}

fn lost() -> StoreError {
    StoreError::Unavailable { detail: "time-out".to_owned(), sent: true }
}

fn refused() -> StoreError {
    StoreError::Unavailable { detail: "connection refused".to_owned(), sent: false }
}

/// A machine whose first create is out, with this long to wait.
fn taking(limit: Duration) -> Acquire {
    let mut machine = Acquire::new(LockId("me".to_owned()), at(0), at(0).plus(limit), Jitter(1));
    assert_eq!(machine.step(at(0), Event::Start), Action::Take);
    machine
}

/// Granted by a request that was sent at the start and answered.
fn granted(name: &str) -> Action {
    Action::Done(Outcome::Granted(Won { version: version(name), since: at(0), answered: true }))
}

/// Granted because our own ID was found, after a request that was sent at the start.
fn found(name: &str) -> Action {
    Action::Done(Outcome::Granted(Won { version: version(name), since: at(0), answered: false }))
}

fn stopped(held: Option<&str>) -> Action {
    let won = |name| Won { version: version(name), since: at(0), answered: true };
    Action::Done(Outcome::Stopped { held: held.map(won) })
}

/// Lets the machine's deadline come and tells when that was.
fn tick(machine: &mut Acquire) -> (Uptime, Action) {
    let due = machine.deadline().expect("asleep");
    (due, machine.step(due, Event::Tick))
}

/// A record with a lease of 15 s; `beat` makes its version.
fn leased(id: &str, beat: u64) -> Stored {
    let lease = Lease { term: LeaseTerm::After(Duration::from_secs(15)), beat };
    let record = Record { lease: Some(lease.to_text()), ..stored(id).record };
    Stored { record, version: version(&format!("{id}-{beat}")) }
}

/// Looks until the machine asks for anything else.
fn look_on(machine: &mut Acquire, shown: &Stored) -> (Uptime, Action) {
    for _ in 0..10_000 {
        let (now, action) = tick(machine);
        if action != Action::Look {
            return (now, action);
        }
        let action = machine.step(now, Event::Looked(Ok(Some(shown.clone()))));
        if action != Action::Wait {
            return (now, action);
        }
    }
    panic!("looks for ever");
}

#[test]
fn a_free_lock_costs_one_write() {
    let mut machine = taking(TEN_SECONDS);
    let action = machine.step(at(1), Event::Took(Ok(WriteReply::Applied(version("v")))));
    assert_eq!(action, granted("v"));
    assert!(!machine.contended());
}

#[test]
fn a_held_lock_is_watched_and_taken_when_it_comes_free() {
    let mut machine = taking(TEN_SECONDS);
    assert_eq!(machine.step(at(1), conflict("other")), Action::Wait);
    assert_eq!(machine.holder().unwrap().info().unwrap().id.0, "other");
    let (now, action) = tick(&mut machine);
    assert_eq!(action, Action::Look);
    assert!(now >= at(161) && now <= at(241), "{now:?}");
    assert_eq!(machine.step(now, Event::Looked(Ok(None))), Action::Take);
    let action = machine.step(now, Event::Took(Ok(WriteReply::Applied(version("v")))));
    let won = Won { version: version("v"), since: now, answered: true };
    assert_eq!(action, Action::Done(Outcome::Granted(won)));
    assert!(machine.contended());
}

#[test]
fn our_own_id_in_a_refusal_means_that_it_is_ours() {
    let mut machine = taking(TEN_SECONDS);
    assert_eq!(machine.step(at(1), conflict("me")), found("me"));
}

#[test]
fn an_unanswered_create_is_settled_by_reading() {
    let mut machine = taking(TEN_SECONDS);
    assert_eq!(machine.step(at(1), Event::Took(Err(lost()))), Action::Look);
    assert!(machine.may_still_appear());
    assert_eq!(machine.step(at(2), Event::Looked(Ok(Some(stored("me"))))), found("me"));
    assert!(!machine.may_still_appear());
}

#[test]
fn an_unanswered_create_that_is_not_there_is_sent_again_and_may_still_appear() {
    let mut machine = taking(TEN_SECONDS);
    assert_eq!(machine.step(at(1), Event::Took(Err(lost()))), Action::Look);
    assert_eq!(machine.step(at(2), Event::Looked(Ok(None))), Action::Take);
    assert!(machine.may_still_appear());
    assert_eq!(machine.step(at(3), Event::Stop), Action::Wait);
    assert_eq!(machine.step(at(4), conflict("other")), stopped(None));
    assert!(machine.may_still_appear());
}

#[test]
fn refused_then_absent_is_tried_again_at_once_and_then_with_backoff() {
    let mut machine = taking(TEN_SECONDS);
    let absent = || Event::Took(Ok(WriteReply::Conflict(Some(None))));
    assert_eq!(machine.step(at(1), absent()), Action::Take);
    assert_eq!(machine.step(at(2), absent()), Action::Wait);
    let (now, action) = tick(&mut machine);
    assert!(now >= at(162));
    assert_eq!(action, Action::Look);
    assert_eq!(machine.step(now, Event::Looked(Ok(None))), Action::Take);
    assert!(machine.is_refused_for_nobody());
    assert_eq!(machine.step(now, absent()), Action::Wait);
    assert_eq!(machine.step(now, Event::Stop), stopped(None));
}

#[test]
fn a_refusal_without_a_word_of_what_is_not_there_is_one_for_nobody_too() {
    for limit in [0, 3_000] {
        let mut machine = taking(Duration::from_millis(limit));
        let (mut now, mut requests) = (at(0), 1);
        let mut event = Event::Took(Ok(WriteReply::Conflict(None)));
        loop {
            now = now.plus(Duration::from_millis(1));
            event = match machine.step(now, event) {
                Action::Take => Event::Took(Ok(WriteReply::Conflict(None))),
                Action::Look => Event::Looked(Ok(None)),
                Action::Wait => {
                    now = machine.deadline().unwrap();
                    Event::Tick
                }
                action => break assert_eq!(action, Action::Done(Outcome::TimedOut)),
            };
            requests += 1;
            assert!(requests < 60);
        }
        assert!(now >= at(limit) && now <= at(limit + 100), "{now:?}");
    }
}

#[test]
fn a_take_over_that_is_refused_of_what_does_not_move_is_tried_with_pauses() {
    let mut machine = taking(Duration::from_mins(10));
    let event = Event::Took(Ok(WriteReply::Conflict(Some(Some(leased("dead", 1))))));
    assert_eq!(machine.step(at(1), event.clone()), Action::Wait);
    let (now, action) = look_on(&mut machine, &leased("dead", 1));
    assert_eq!(action, Action::TakeOver(version("dead-1")));
    assert_eq!(machine.step(now, event.clone()), Action::TakeOver(version("dead-1")));
    assert_eq!(machine.step(now, event), Action::Wait);
}

#[test]
fn a_refusal_that_does_not_show_the_record_is_followed_by_a_read() {
    let mut machine = taking(TEN_SECONDS);
    let event = Event::Took(Ok(WriteReply::Conflict(None)));
    assert_eq!(machine.step(at(1), event), Action::Look);
    assert_eq!(machine.step(at(2), Event::Looked(Ok(Some(stored("other"))))), Action::Wait);
}

#[test]
fn zero_patience_tries_once() {
    let mut machine = taking(Duration::ZERO);
    assert_eq!(machine.step(at(1), conflict("other")), Action::Done(Outcome::TimedOut));
}

#[test]
fn everyone_tries_once_before_giving_up() {
    let mut machine = taking(Duration::from_secs(1));
    let mut now = at(1);
    assert_eq!(machine.step(now, conflict("other")), Action::Wait);
    for _ in 0..20 {
        let action;
        (now, action) = tick(&mut machine);
        if action == Action::Take {
            assert_eq!(now, at(1000));
            assert_eq!(machine.step(now, conflict("other")), Action::Done(Outcome::TimedOut));
            return;
        }
        assert_eq!(machine.step(now, Event::Looked(Ok(Some(stored("other"))))), Action::Wait);
    }
    panic!("never tried");
}

#[test]
fn a_stop_while_waiting_leaves_at_once() {
    let mut machine = taking(TEN_SECONDS);
    assert_eq!(machine.step(at(1), conflict("other")), Action::Wait);
    assert_eq!(machine.step(at(2), Event::Stop), stopped(None));
    assert!(!machine.may_still_appear());
}

#[test]
fn a_stop_without_leave_to_read_settles_an_unanswered_create_by_another() {
    let mut machine = taking(TEN_SECONDS);
    assert_eq!(machine.step(at(1), Event::Stop), Action::Wait);
    assert_eq!(machine.step(at(2), Event::Took(Err(lost()))), Action::Look);
    let denied = StoreError::Denied("s3:GetObject".into());
    assert_eq!(machine.step(at(3), Event::Looked(Err(denied))), Action::Take);
    let won = Won { version: version("me"), since: at(0), answered: false };
    let action = Action::Done(Outcome::Stopped { held: Some(won) });
    assert_eq!(machine.step(at(4), conflict("me")), action);
}

#[test]
fn a_stop_while_a_create_is_out_gives_back_what_it_gets() {
    let mut machine = taking(TEN_SECONDS);
    assert_eq!(machine.step(at(1), Event::Stop), Action::Wait);
    let action = machine.step(at(2), Event::Took(Ok(WriteReply::Applied(version("v")))));
    assert_eq!(action, stopped(Some("v")));
}

#[test]
fn a_stop_settles_an_unanswered_create_for_a_bounded_time() {
    let mut machine = taking(TEN_SECONDS);
    assert_eq!(machine.step(at(1), Event::Stop), Action::Wait);
    assert_eq!(machine.step(at(2), Event::Took(Err(lost()))), Action::Look);
    let mut now = at(2);
    for _ in 0..10_000 {
        match machine.step(now, Event::Looked(Err(refused()))) {
            Action::Wait => {
                let action;
                (now, action) = tick(&mut machine);
                if action == stopped(None) {
                    break;
                }
                assert_eq!(action, Action::Look);
                now = now.plus(Duration::from_millis(10));
            }
            action => panic!("{action:?}"),
        }
    }
    assert!(machine.may_still_appear());
    assert_eq!(now, at(4_001));
}

#[test]
fn a_stop_does_not_wait_for_a_create_that_is_not_answered() {
    let mut machine = taking(TEN_SECONDS);
    assert_eq!(machine.step(at(1), Event::Stop), Action::Wait);
    assert_eq!(tick(&mut machine), (at(4_001), stopped(None)));
    assert!(machine.may_still_appear());
}

#[test]
fn a_stop_looks_once_for_what_was_never_answered() {
    let mut machine = taking(Duration::from_mins(10));
    assert_eq!(machine.step(at(1), Event::Took(Err(lost()))), Action::Look);
    assert_eq!(machine.step(at(2), Event::Looked(Ok(None))), Action::Take);
    assert_eq!(machine.step(at(3), conflict("other")), Action::Wait);
    assert_eq!(machine.step(at(4), Event::Stop), Action::Look);
    let won = Won { version: version("me"), since: at(0), answered: false };
    let action = Action::Done(Outcome::Stopped { held: Some(won) });
    assert_eq!(machine.step(at(5), Event::Looked(Ok(Some(stored("me"))))), action);
}

#[test]
fn a_store_that_never_answers_is_given_up_after_first_contact() {
    let mut machine = taking(Duration::from_mins(30));
    let mut now = at(1);
    for _ in 0..1000 {
        match machine.step(now, Event::Took(Err(refused()))) {
            Action::Wait => {
                let action;
                (now, action) = tick(&mut machine);
                assert_eq!(action, Action::Take);
            }
            action => {
                assert_eq!(action, Action::Done(Outcome::Failed(refused())));
                assert!(now >= at(10_000) && now <= at(22_500), "{now:?}");
                return;
            }
        }
    }
    panic!("never ended");
}

#[test]
fn a_store_that_answered_once_is_waited_for_through_an_outage() {
    let mut machine = taking(Duration::from_mins(2));
    assert_eq!(machine.step(at(1), conflict("other")), Action::Wait);
    let mut now = at(0);
    while now < at(60_000) {
        let action;
        (now, action) = tick(&mut machine);
        assert_eq!(action, Action::Look);
        assert_eq!(machine.step(now, Event::Looked(Err(lost()))), Action::Wait);
    }
    assert!(machine.fault().is_some());
    let (now, _) = tick(&mut machine);
    assert_eq!(machine.step(now, Event::Looked(Ok(None))), Action::Take);
    assert!(machine.fault().is_none());
}

#[test]
fn what_will_not_heal_fails_at_once() {
    let denied = StoreError::Denied("dynamodb:PutItem".into());
    let mut machine = taking(TEN_SECONDS);
    let action = machine.step(at(1), Event::Took(Err(denied.clone())));
    assert_eq!(action, Action::Done(Outcome::Failed(denied)));
}

#[test]
fn without_leave_to_read_a_create_is_the_look() {
    let mut machine = taking(TEN_SECONDS);
    assert_eq!(machine.step(at(1), conflict("other")), Action::Wait);
    let (now, action) = tick(&mut machine);
    assert_eq!(action, Action::Look);
    let denied = StoreError::Denied("dynamodb:GetItem".into());
    assert_eq!(machine.step(now, Event::Looked(Err(denied))), Action::Wait);
    for _ in 0..3 {
        let (now, action) = tick(&mut machine);
        assert_eq!(action, Action::Take);
        assert_eq!(machine.step(now, conflict("other")), Action::Wait);
    }
}

#[test]
fn throttling_spreads_the_looks() {
    let mut machine = taking(Duration::from_mins(10));
    let mut now = at(1);
    let mut sent = 0;
    while now < at(60_000) {
        let event = Event::Took(Err(StoreError::Throttled("slow down".to_owned())));
        assert_eq!(machine.step(now, event), Action::Wait);
        (now, _) = tick(&mut machine);
        sent += 1;
    }
    assert!(sent < 40, "{sent} requests in a minute");
}
