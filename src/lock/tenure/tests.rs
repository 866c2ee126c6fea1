use super::*;
use crate::lock::lease::{Lease, LeaseTerm};
use crate::lock::lease_keeper::LeaseStart;
use crate::lock::register::{Record, RemoveReply, StoreError, WriteReply};
use crate::lock::release::PATIENCE;

const TTL: Duration = Duration::from_mins(1);

fn at(seconds: u64) -> Uptime {
    Uptime(Duration::from_secs(seconds))
}

fn version(name: &str) -> RecordVersion {
    RecordVersion(name.to_owned())
}

fn id() -> LockId {
    LockId("me".to_owned())
}

fn silent() -> StoreError {
    StoreError::Unavailable { detail: String::new(), sent: true }
}

fn keeper() -> LeaseKeeper {
    let known = LeaseStart {
        id: id(),
        info: Some(r#"{"ID":"me"}"#.to_owned()),
        version: Some(version("first")),
        lease: Lease { term: LeaseTerm::After(TTL), beat: 0 },
        since: at(0),
        answered: true,
    };
    LeaseKeeper::new(known, LeaseTerm::After(TTL), at(0))
}

fn release() -> Event {
    Event::Release { patience: PATIENCE, jitter: Jitter(1) }
}

fn wrote(name: &str) -> Event {
    Event::Answered(Reply::Wrote(Ok(WriteReply::Applied(version(name)))))
}

fn removed() -> Event {
    Event::Answered(Reply::Removed(Ok(RemoveReply::Removed)))
}

/// Lets time pass until the heartbeat is out.
fn beating(tenure: &mut Tenure) -> Uptime {
    for _ in 0..100 {
        let due = tenure.deadline().expect("it is kept");
        let actions = tenure.step(due, Event::Tick);
        if let [Action::Ask(Request::Write(..))] = &actions[..] {
            return due;
        }
        assert_eq!(actions, []);
    }
    panic!("no heartbeat");
}

#[test]
fn what_is_out_is_waited_for_before_the_release() {
    let mut tenure = Tenure::leased(keeper());
    let now = beating(&mut tenure);
    assert_eq!(tenure.step(now, release()), []);
    // And it is that version which is removed.
    let actions = tenure.step(now, wrote("second"));
    assert_eq!(actions, [Action::Ask(Request::Remove(version("second")))]);
    assert_eq!(tenure.patience(), None);
    let end = TenureEnd::Released(ReleaseOutcome::Released);
    assert_eq!(tenure.step(now, removed()), [Action::Over(end)]);
    assert_eq!((tenure.deadline(), tenure.step(now, release())), (None, vec![]));
}

#[test]
fn nothing_follows_what_is_out() {
    let mut tenure = Tenure::leased(keeper());
    let now = beating(&mut tenure);
    assert_eq!(tenure.step(now, release()), []);
    // A heartbeat whose fate is unknown would be read back.
    let actions = tenure.step(now, Event::Answered(Reply::Wrote(Err(silent()))));
    assert_eq!(actions, [Action::Ask(Request::Remove(version("first")))]);
}

#[test]
fn a_lock_that_was_lost_is_left_as_it_is() {
    let other = Stored {
        record: Record { info: Some(r#"{"ID":"other"}"#.to_owned()), lease: None },
        version: version("theirs"),
    };
    let refused = Reply::Wrote(Ok(WriteReply::Conflict(Some(Some(other.clone())))));
    let lost = Action::Say(LeaseEvent::Lost(Some(other.clone())));
    let over = Action::Over(TenureEnd::Lost(Some(other)));
    // Before the release is asked for, and while it waits.
    let mut tenure = Tenure::leased(keeper());
    let now = beating(&mut tenure);
    assert_eq!(tenure.step(now, Event::Answered(refused.clone())), std::slice::from_ref(&lost));
    assert!(tenure.is_lost());
    assert_eq!(tenure.step(now, release()), std::slice::from_ref(&over));
    let mut tenure = Tenure::inherited(keeper());
    let now = beating(&mut tenure);
    assert_eq!(tenure.step(now, release()), []);
    assert_eq!(tenure.step(now, Event::Answered(refused)), [lost, over]);
}

#[test]
fn what_is_inherited_is_never_removed() {
    let mut tenure = Tenure::inherited(keeper());
    let now = beating(&mut tenure);
    assert_eq!(tenure.step(now, release()), []);
    assert_eq!(tenure.step(now, wrote("second")), [Action::Over(TenureEnd::Inherited)]);
}

#[test]
fn a_lock_without_a_lease_has_no_heartbeat_and_is_removed() {
    let mut tenure = Tenure::unleased(id(), Some(version("first")));
    assert!(tenure.may_start(at(1000)) && !tenure.is_lost());
    assert_eq!((tenure.deadline(), tenure.patience()), (None, None));
    assert_eq!(tenure.step(at(1000), Event::Tick), []);
    let actions = tenure.step(at(1000), release());
    assert_eq!(actions, [Action::Ask(Request::Remove(version("first")))]);
    // Retried for its time, counted from here.
    let throttled = || Reply::Removed(Err(StoreError::Throttled(String::new())));
    assert_eq!(tenure.step(at(1000), Event::Answered(throttled())), []);
    let due = tenure.deadline().expect("it waits");
    assert_eq!(due, at(1000), "the first retry comes at once");
    assert!(matches!(tenure.step(due, Event::Tick)[..], [Action::Ask(Request::Remove(_))]));
    let late = tenure.step(at(1061), Event::Answered(throttled()));
    assert!(matches!(
        late[..],
        [Action::Over(TenureEnd::Released(ReleaseOutcome::Unconfirmed(_)))]
    ));
}

#[test]
fn a_reply_after_a_pause_is_as_old_as_the_pause() {
    let mut tenure = Tenure::leased(keeper());
    let sent = beating(&mut tenure);
    let (interrupt, kill) = LeaseTerm::After(TTL).fences().expect("it ends");
    let late = at(0).plus((interrupt + kill) / 2);
    assert!(late > sent);
    let actions = tenure.step(late, wrote("second"));
    // The heartbeat is good from when it was sent; until that is known, the child stands still.
    assert_eq!(actions[0], Action::Say(LeaseEvent::Freeze));
    assert_eq!(actions[1], Action::Say(LeaseEvent::Thaw));
}

/// Others may have had it since, and have given it back: a remove that nobody answers would hide it.
#[test]
fn a_lock_whose_lease_is_over_is_looked_at_before_it_is_removed() {
    for (seconds, first) in [(59, Request::Remove(version("first"))), (60, Request::Read)] {
        let mut tenure = Tenure::leased(keeper());
        assert_eq!(tenure.step(at(seconds), release()), [Action::Ask(first)], "{seconds} s");
    }
    // Begun before its end, and cut off over it: the remove that was not answered explains nothing.
    let lost = Event::Answered(Reply::Removed(Err(silent())));
    for (seconds, outcome) in [(59, ReleaseOutcome::Released), (60, ReleaseOutcome::AlreadyGone)] {
        let mut tenure = Tenure::leased(keeper());
        let _remove = tenure.step(at(30), release());
        let _again = tenure.step(at(31), lost.clone());
        let _again = tenure.step(at(32), Event::Tick);
        let refused = Event::Answered(Reply::Removed(Ok(RemoveReply::Conflict(None))));
        let looks = tenure.step(at(33), refused);
        assert_eq!(looks, [Action::Ask(Request::Read)]);
        let gone = tenure.step(at(seconds), Event::Answered(Reply::Read(Ok(None))));
        assert_eq!(gone, [Action::Over(TenureEnd::Released(outcome))], "{seconds} s");
    }
    let mut tenure = Tenure::leased(keeper());
    let _look = tenure.step(at(60), release());
    let gone = tenure.step(at(61), Event::Answered(Reply::Read(Ok(None))));
    assert_eq!(gone, [Action::Over(TenureEnd::Released(ReleaseOutcome::AlreadyGone))]);
}
