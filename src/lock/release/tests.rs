use super::*;
use crate::lock::register::Record;

fn at(millis: u64) -> Uptime {
    Uptime(Duration::from_millis(millis))
}

fn version(name: &str) -> RecordVersion {
    RecordVersion(name.to_owned())
}

fn stored(id: &str, name: &str) -> Stored {
    let info = format!(r#"{{"ID":"{id}"}}"#);
    Stored { record: Record { info: Some(info), lease: None }, version: version(name) }
}

fn lost() -> StoreError {
    StoreError::Unavailable { detail: "time-out".to_owned(), sent: true }
}

fn removing() -> Release {
    let (id, give_up_at) = (LockId("me".to_owned()), at(0).plus(PATIENCE));
    let mut machine = Release::new(id, Some(version("v")), give_up_at, Jitter(1));
    assert_eq!(machine.step(at(0), Event::Start), Action::Remove(version("v")));
    machine
}

fn refused(current: Option<Stored>) -> Event {
    Event::Removed(Ok(RemoveReply::Conflict(Some(current))))
}

fn tick(machine: &mut Release) -> (Uptime, Action) {
    let due = machine.deadline().expect("asleep");
    (due, machine.step(due, Event::Tick))
}

#[test]
fn a_release_costs_one_remove() {
    let action = removing().step(at(1), Event::Removed(Ok(RemoveReply::Removed)));
    assert_eq!(action, Action::Done(ReleaseOutcome::Released));
}

#[test]
fn a_record_that_is_gone_was_taken_from_us() {
    let action = removing().step(at(1), refused(None));
    assert_eq!(action, Action::Done(ReleaseOutcome::AlreadyGone));
}

#[test]
fn a_record_that_is_gone_after_a_lost_reply_was_given_back_by_us() {
    let mut machine = removing();
    assert_eq!(machine.step(at(1), Event::Removed(Err(lost()))), Action::Wait);
    let (now, action) = tick(&mut machine);
    assert_eq!(action, Action::Remove(version("v")));
    assert_eq!(machine.step(now, refused(None)), Action::Done(ReleaseOutcome::Released));
}

#[test]
fn a_strangers_record_stays_untouched() {
    let other = stored("other", "w");
    let action = removing().step(at(1), refused(Some(other.clone())));
    assert_eq!(action, Action::Done(ReleaseOutcome::TakenOver(other)));
}

#[test]
fn our_own_record_at_another_version_is_removed_at_that_version() {
    let mut machine = removing();
    assert_eq!(machine.step(at(1), refused(Some(stored("me", "w")))), Action::Wait);
    assert_eq!(tick(&mut machine).1, Action::Remove(version("w")));
}

#[test]
fn a_refusal_that_does_not_show_the_record_is_followed_by_a_read() {
    let mut machine = removing();
    let event = Event::Removed(Ok(RemoveReply::Conflict(None)));
    assert_eq!(machine.step(at(1), event), Action::Look);
    let action = machine.step(at(2), Event::Looked(Ok(None)));
    assert_eq!(action, Action::Done(ReleaseOutcome::AlreadyGone));
}

#[test]
fn an_outage_is_endured_for_a_minute() {
    let mut machine = removing();
    let mut now = at(1);
    for _ in 0..1000 {
        match machine.step(now, Event::Removed(Err(lost()))) {
            Action::Wait => (now, _) = tick(&mut machine),
            action => {
                assert_eq!(action, Action::Done(ReleaseOutcome::Unconfirmed(lost())));
                assert_eq!(now, at(60_000));
                return;
            }
        }
    }
    panic!("never ended");
}

#[test]
fn a_missing_permission_is_told_at_once() {
    let denied = StoreError::Denied("dynamodb:DeleteItem".into());
    let action = removing().step(at(1), Event::Removed(Err(denied.clone())));
    assert_eq!(action, Action::Done(ReleaseOutcome::Unconfirmed(denied)));
}

#[test]
fn a_store_that_refuses_its_own_version_for_ever_is_given_up() {
    let mut machine = removing();
    let mut now = at(1);
    for _ in 0..10_000 {
        match machine.step(now, refused(Some(stored("me", "w")))) {
            Action::Wait => (now, _) = tick(&mut machine),
            action => {
                assert!(matches!(action, Action::Done(ReleaseOutcome::Unconfirmed(_))));
                return;
            }
        }
    }
    panic!("never ended");
}
