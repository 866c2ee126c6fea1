//! Creates that were never answered, and stores that answer reads alone.

use super::*;

/// Lets every create go unanswered and every read find nothing, until the machine rests.
fn unanswered(machine: &mut Acquire, now: Uptime) -> Action {
    for _ in 0..6 {
        match machine.step(now, Event::Took(Err(lost()))) {
            Action::Look => {}
            action => return action,
        }
        match machine.step(now, Event::Looked(Ok(None))) {
            Action::Take => {}
            action => return action,
        }
    }
    panic!("asks again and again without a pause");
}

#[test]
fn a_store_that_answers_reads_alone_is_asked_with_pauses_and_given_up_at_the_end_of_the_wait() {
    let mut machine = taking(TEN_SECONDS);
    let (mut now, mut action) = (at(1), unanswered(&mut machine, at(1)));
    while action == Action::Wait {
        (now, action) = tick(&mut machine);
        assert_eq!(action, Action::Take);
        action = unanswered(&mut machine, now);
    }
    assert_eq!(action, Action::Done(Outcome::Failed(lost())));
    assert_eq!(now, at(10_000));
    assert!(machine.may_still_appear());
}

#[test]
fn one_of_two_unanswered_creates_may_still_appear_when_the_other_is_found() {
    let mut machine = taking(TEN_SECONDS);
    assert_eq!(machine.step(at(1), Event::Took(Err(lost()))), Action::Look);
    assert_eq!(machine.step(at(2), Event::Looked(Ok(None))), Action::Take);
    assert_eq!(machine.step(at(3), Event::Took(Err(lost()))), Action::Look);
    assert_eq!(machine.step(at(4), Event::Looked(Ok(Some(stored("me"))))), found("me"));
    assert!(machine.may_still_appear());
}

/// A machine that may not read and whose next create is out.
fn blind(limit: Duration) -> (Uptime, Acquire) {
    let mut machine = taking(limit);
    assert_eq!(machine.step(at(1), Event::Took(Ok(WriteReply::Conflict(None)))), Action::Look);
    let denied = StoreError::Denied("s3:GetObject".into());
    assert_eq!(machine.step(at(2), Event::Looked(Err(denied))), Action::Wait);
    let (now, action) = tick(&mut machine);
    assert_eq!(action, Action::Take);
    (now, machine)
}

#[test]
fn without_leave_to_read_a_refusal_that_shows_nothing_is_waited_for() {
    let (mut now, mut machine) = blind(TEN_SECONDS);
    loop {
        match machine.step(now, Event::Took(Ok(WriteReply::Conflict(None)))) {
            Action::Wait => {
                let action;
                (now, action) = tick(&mut machine);
                assert_eq!(action, Action::Take);
            }
            action => {
                assert_eq!(action, Action::Done(Outcome::TimedOut));
                assert_eq!(now, at(10_000));
                return;
            }
        }
    }
}

#[test]
fn without_leave_to_read_an_unanswered_create_is_not_repeated_without_a_pause() {
    let (mut now, mut machine) = blind(TEN_SECONDS);
    loop {
        match machine.step(now, Event::Took(Err(lost()))) {
            Action::Wait => {
                let action;
                (now, action) = tick(&mut machine);
                assert_eq!(action, Action::Take);
            }
            action => {
                assert_eq!(action, Action::Done(Outcome::Failed(lost())));
                assert_eq!(now, at(10_000));
                return;
            }
        }
    }
}

#[test]
fn a_take_over_that_is_never_answered_is_repeated_with_pauses_until_the_end_of_the_wait() {
    let mut machine = taking(Duration::from_secs(30));
    let shown = || Ok(Some(leased("dead", 1)));
    let event = Event::Took(Ok(WriteReply::Conflict(Some(shown().unwrap()))));
    assert_eq!(machine.step(at(1), event), Action::Wait);
    let (mut now, mut action) = look_on(&mut machine, &leased("dead", 1));
    let (first, mut tries) = (now, 0);
    loop {
        action = match action {
            Action::TakeOver(_) | Action::Take => {
                tries += 1;
                machine.step(now, Event::Took(Err(lost())))
            }
            Action::Look => machine.step(now, Event::Looked(shown())),
            Action::Wait => {
                (now, action) = tick(&mut machine);
                continue;
            }
            Action::Done(outcome) => {
                assert_eq!(outcome, Outcome::TimedOut);
                break;
            }
        };
        assert!(tries < 60, "{tries} tries in {:?}", now.since(first));
    }
    assert_eq!(now, at(30_000));
}
