//! Expired leases are taken over; whatever else is there is not.

use super::*;

#[test]
fn a_lease_that_stands_still_for_its_whole_term_is_taken_over() {
    let mut machine = taking(Duration::from_mins(10));
    let event = Event::Took(Ok(WriteReply::Conflict(Some(Some(leased("dead", 1))))));
    assert_eq!(machine.step(at(1), event), Action::Wait);
    let (now, action) = look_on(&mut machine, &leased("dead", 1));
    assert_eq!(action, Action::TakeOver(version("dead-1")));
    assert!(now >= at(15_001) && now <= at(15_100), "{now:?}");
    let action = machine.step(now, Event::Took(Ok(WriteReply::Applied(version("v")))));
    let won = Won { version: version("v"), since: now, answered: true };
    assert_eq!(action, Action::Done(Outcome::Granted(won)));
    assert!(machine.taken_over().unwrap().is_held_by(&LockId("dead".to_owned())));
}

#[test]
fn every_beat_begins_the_term_anew() {
    let mut machine = taking(Duration::from_mins(10));
    let event = Event::Took(Ok(WriteReply::Conflict(Some(Some(leased("alive", 1))))));
    assert_eq!(machine.step(at(1), event), Action::Wait);
    let mut now = at(0);
    while now < at(120_000) {
        let action;
        (now, action) = tick(&mut machine);
        assert_eq!(action, Action::Look);
        let beat = now.0.as_secs() / 10;
        let shown = Event::Looked(Ok(Some(leased("alive", beat))));
        assert_eq!(machine.step(now, shown), Action::Wait);
    }
}

#[test]
fn a_take_over_that_is_refused_leaves_the_holder_alone() {
    let mut machine = taking(Duration::from_mins(10));
    let event = Event::Took(Ok(WriteReply::Conflict(Some(Some(leased("slow", 1))))));
    assert_eq!(machine.step(at(1), event), Action::Wait);
    let (now, action) = look_on(&mut machine, &leased("slow", 1));
    assert_eq!(action, Action::TakeOver(version("slow-1")));
    let event = Event::Took(Ok(WriteReply::Conflict(Some(Some(leased("slow", 2))))));
    assert_eq!(machine.step(now, event), Action::Wait);
    assert_eq!(machine.taken_over(), None);
}

#[test]
fn a_record_without_a_lease_never_expires() {
    let mut machine = taking(Duration::from_hours(1));
    assert_eq!(machine.step(at(1), conflict("stock")), Action::Wait);
    let (now, action) = look_on(&mut machine, &stored("stock"));
    assert_eq!(action, Action::Take, "only the last try");
    assert_eq!(now, at(3_600_000));
}

#[test]
fn what_a_waiter_that_left_has_seen_counts_for_whoever_sees_the_same_beat_already() {
    let mut machine = taking(Duration::from_mins(10));
    let event = Event::Took(Ok(WriteReply::Conflict(Some(Some(leased("dead", 1))))));
    assert_eq!(machine.step(at(20_000), event), Action::Wait);
    let seen = |beat, stood| HandedOn { id: "dead".to_owned(), beat, stood };
    machine.hand_on(at(25_000), seen(0, 14_000));
    assert_eq!(machine.expires(), Some(at(35_000)));
    machine.hand_on(at(25_000), seen(1, 1_000));
    assert_eq!(machine.expires(), Some(at(35_000)));
    machine.hand_on(at(25_000), seen(1, 14_000));
    assert_eq!(machine.expires(), Some(at(26_000)));
}
