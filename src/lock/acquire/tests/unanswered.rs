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

fn page() -> StoreError {
    StoreError::NotTheStore { detail: "a page".to_owned(), sent: true }
}

/// Lets something else answer every write, and the store every read with `shown`, for as long as
/// the machine asks; tells when it ended, and how.
fn misled(machine: &mut Acquire, page: &StoreError, shown: Option<&Stored>) -> (Uptime, Outcome) {
    let (mut now, mut action) = (at(1), machine.step(at(1), Event::Took(Err(page.clone()))));
    for _ in 0..10_000 {
        action = match action {
            Action::Take | Action::TakeOver(_) => machine.step(now, Event::Took(Err(page.clone()))),
            Action::Look => machine.step(now, Event::Looked(Ok(shown.cloned()))),
            Action::Wait => {
                (now, action) = tick(machine);
                continue;
            }
            Action::Done(outcome) => return (now, outcome),
        };
    }
    panic!("asks on for ever");
}

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn what_answers_every_write_and_is_not_the_store_is_given_up_although_reads_work() {
    let login = StoreError::NotTheStore { detail: "a login".to_owned(), sent: false };
    let dead = leased("dead", 1);
    for (page, shown, from) in [(page(), None, 0), (login, None, 0), (page(), Some(&dead), 15_000)]
    {
        let mut machine = taking(HOUR);
        if page.left_open().is_none() {
            // Where nothing was passed on, nothing is settled by a read; one has shown the store.
            machine.reached = Reached::Reads;
        }
        let (now, outcome) = misled(&mut machine, &page, shown);
        assert_eq!(outcome, Outcome::Failed(page));
        assert!(now >= at(from + 10_000) && now <= at(from + 25_000), "{now:?}");
    }
}

#[test]
fn a_store_that_has_answered_a_write_is_waited_for_whatever_answers_later() {
    let mut machine = taking(HOUR);
    assert_eq!(machine.step(at(1), conflict("other")), Action::Wait);
    let (now, action) = tick(&mut machine);
    assert_eq!(action, Action::Look);
    assert_eq!(machine.step(now, Event::Looked(Ok(None))), Action::Take);
    let (now, outcome) = misled(&mut machine, &page(), None);
    assert_eq!((now, outcome), (at(3_600_000), Outcome::Failed(page())));
    // A place in the line is a write, too.
    let mut machine = taking(HOUR);
    machine.reached();
    assert_eq!(misled(&mut machine, &page(), None).0, at(3_600_000));
}

#[test]
fn one_bad_answer_now_and_then_ends_no_wait() {
    let mut machine = taking(HOUR);
    let (mut now, mut bad, mut held) = (at(0), 0, 0);
    let mut action = Action::Take;
    while now < at(3_000_000) {
        action = match action {
            Action::Take => {
                bad += 1;
                machine.step(now, Event::Took(Err(page())))
            }
            // Somebody else holds it for a minute, and then another one.
            Action::Look => {
                held += 1;
                let shown = (held % 40 != 0).then(|| stored(&format!("other-{}", held / 40)));
                machine.step(now, Event::Looked(Ok(shown)))
            }
            Action::Wait => {
                (now, action) = tick(&mut machine);
                continue;
            }
            action => panic!("{action:?} at {now:?} after {bad}"),
        };
    }
    assert!(bad > 10, "{bad}");
    let said = machine.misled(now).map(|it| it.1);
    assert!(said.is_none_or(|since| since < TEN_SECONDS), "{said:?}");
}
