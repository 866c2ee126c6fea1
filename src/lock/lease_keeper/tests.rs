use super::*;
use crate::lock::lease::FIRST;

const TTL: Duration = Duration::from_mins(10);

fn at(millis: u64) -> Uptime {
    Uptime(Duration::from_millis(millis))
}

fn version(name: &str) -> RecordVersion {
    RecordVersion(name.to_owned())
}

fn stored(id: &str, name: &str) -> Stored {
    let info = Some(format!(r#"{{"ID":"{id}"}}"#));
    Stored { record: Record { info, lease: None }, version: version(name) }
}

fn lost_reply() -> Event {
    Event::Beaten(Err(StoreError::Unavailable { detail: "time-out".to_owned(), sent: true }))
}

fn applied(name: &str) -> Event {
    Event::Beaten(Ok(WriteReply::Applied(version(name))))
}

fn refused(current: Option<Stored>) -> Event {
    Event::Beaten(Ok(WriteReply::Conflict(Some(current))))
}

fn known(answered: bool) -> LeaseStart {
    LeaseStart {
        id: LockId("me".to_owned()),
        info: Some(r#"{"ID":"me"}"#.to_owned()),
        version: Some(version("v0")),
        lease: Lease { term: LeaseTerm::After(FIRST), beat: 0 },
        since: at(0),
        answered,
    }
}

fn keeper() -> LeaseKeeper {
    LeaseKeeper::new(known(true), LeaseTerm::After(TTL), at(0))
}

fn say(news: LeaseEvent) -> Vec<Action> {
    vec![Action::Say(news)]
}

/// The machine's ticks, every second or when it asks, until it does something.
fn until_action(keeper: &mut LeaseKeeper, mut now: Uptime) -> (Uptime, Vec<Action>) {
    for _ in 0..10_000 {
        now = keeper.deadline().max(now);
        let actions = keeper.step(now, Event::Tick);
        if !actions.is_empty() {
            return (now, actions);
        }
    }
    panic!("nothing happens");
}

/// Lets the next beat go out and be answered at once; returns when.
fn beat_well(keeper: &mut LeaseKeeper, now: Uptime, name: &str) -> Uptime {
    let (now, actions) = until_action(keeper, now);
    assert!(matches!(actions[..], [Action::Beat(..)]), "{actions:?}");
    assert_eq!(keeper.step(now, applied(name)), []);
    now
}

#[test]
fn the_first_beat_comes_after_a_tenth_of_the_first_term_and_declares_the_full_one() {
    let mut keeper = keeper();
    let (now, actions) = until_action(&mut keeper, at(0));
    assert_eq!(now, at(6_000));
    let [Action::Beat(record, expected)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(*expected, version("v0"));
    let lease = Lease::parse(record.lease.as_ref().unwrap()).unwrap();
    assert_eq!(lease, Lease { term: LeaseTerm::After(TTL), beat: 1 });
    assert_eq!(record.info, known(true).info, "Terraform's part stays byte for byte");
    assert_eq!(keeper.step(now, applied("v1")), []);
    let (later, _) = until_action(&mut keeper, now);
    assert_eq!(later, at(21_000), "then every 15 s at most");
}

#[test]
fn the_fence_counts_from_before_the_beat_was_sent() {
    let mut keeper = keeper();
    let (sent, _) = until_action(&mut keeper, at(0));
    // Answered 2 s later: the lease is no longer for that.
    assert_eq!(keeper.step(sent.plus(Duration::from_secs(2)), applied("v1")), []);
    let mut now = sent;
    let mut said = Vec::new();
    while now < sent.plus(TTL) {
        now = keeper.deadline().max(now);
        for action in keeper.step(now, Event::Tick) {
            match action {
                Action::Beat(..) => {
                    let _ =
                        keeper.step(now, Event::Beaten(Err(StoreError::Throttled(String::new()))));
                }
                Action::Say(news) => said.push((now.since(sent), news)),
                Action::Look => panic!("a throttled beat was not applied"),
            }
        }
    }
    let [(first, LeaseEvent::Interrupt), (second, LeaseEvent::Kill(why))] = &said[..] else {
        panic!("{said:?}")
    };
    assert!(*first >= TTL * 2 / 3 && *first <= TTL * 2 / 3 + TICK, "{first:?}");
    assert!(*second >= TTL * 4 / 5 && *second <= TTL * 4 / 5 + TICK, "{second:?}");
    assert_eq!(*why, Unconfirmed::Unanswered(*second), "it is the store that is silent");
}

#[test]
fn a_read_back_gives_the_version_and_renews_nothing() {
    let mut keeper = keeper();
    let (now, _) = until_action(&mut keeper, at(0));
    assert_eq!(keeper.step(now, lost_reply()), [Action::Look]);
    let actions = keeper.step(now, Event::Looked(Ok(Some(stored("me", "v1")))));
    let [Action::Beat(_, expected)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(*expected, version("v1"), "the next beat goes out at once, over what is there");
    assert_eq!(keeper.renewed, at(0));
}

#[test]
fn a_refusal_that_shows_our_own_id_gives_the_version_and_renews_nothing() {
    let mut keeper = keeper();
    let (now, _) = until_action(&mut keeper, at(0));
    let actions = keeper.step(now, refused(Some(stored("me", "v1"))));
    assert!(matches!(&actions[..], [Action::Beat(_, expected)] if *expected == version("v1")));
    assert_eq!(keeper.renewed, at(0));
}

#[test]
fn no_two_beats_have_the_same_bytes() {
    let mut keeper = keeper();
    let (now, first) = until_action(&mut keeper, at(0));
    let _ = keeper.step(now, lost_reply());
    let second = keeper.step(now, Event::Looked(Ok(Some(stored("me", "v0")))));
    let ([Action::Beat(one, _)], [Action::Beat(two, _)]) = (&first[..], &second[..]) else {
        panic!("{first:?} {second:?}")
    };
    assert_ne!(one, two);
}

#[test]
fn another_id_or_nothing_in_the_record_is_a_loss_and_ends_the_beats() {
    for current in [Some(stored("other", "w")), None] {
        let mut keeper = keeper();
        let (now, _) = until_action(&mut keeper, at(0));
        assert_eq!(keeper.step(now, refused(current.clone())), say(LeaseEvent::Lost(current)));
        assert!(keeper.is_lost());
        let (later, actions) = until_action(&mut keeper, now);
        assert_eq!(actions, say(LeaseEvent::Interrupt), "the fence goes on counting");
        assert!(later >= at(40_000));
        assert!(!keeper.may_start(later));
    }
}

#[test]
fn an_acquire_found_by_its_id_starts_no_child_before_a_beat_was_answered() {
    let mut keeper = LeaseKeeper::new(known(false), LeaseTerm::After(TTL), at(30));
    assert!(!keeper.may_start(at(30)));
    let actions = keeper.step(at(30), Event::Tick);
    assert!(matches!(actions[..], [Action::Beat(..)]), "{actions:?}");
    assert_eq!(keeper.step(at(40), applied("v1")), []);
    assert!(keeper.may_start(at(40)));
}

#[test]
fn a_pause_beyond_the_first_fence_freezes_the_child_until_the_lease_is_known() {
    let mut keeper = keeper();
    let now = beat_well(&mut keeper, at(0), "v1");
    let late = now.plus(TTL * 7 / 10);
    let actions = keeper.step(late, Event::Tick);
    assert!(
        matches!(&actions[..], [Action::Say(LeaseEvent::Freeze), Action::Beat(..)]),
        "{actions:?}"
    );
    assert_eq!(keeper.step(late.plus(TICK), applied("v2")), say(LeaseEvent::Thaw));
    assert!(keeper.may_start(late.plus(TICK)));
}

#[test]
fn a_pause_beyond_the_second_fence_kills_the_child() {
    let mut keeper = keeper();
    let now = beat_well(&mut keeper, at(0), "v1");
    let pause = now.plus(TTL).since(keeper.last_tick);
    let actions = keeper.step(now.plus(TTL), Event::Tick);
    let [Action::Say(LeaseEvent::Kill(why)), Action::Beat(..)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(*why, Unconfirmed::StoodStill(pause));
    assert!(keeper.is_fenced());
}

/// The store was silent before: a pause then changes nothing.
#[test]
fn a_pause_after_the_first_fence_is_not_why_the_child_is_killed() {
    let mut keeper = keeper();
    let mut now = beat_well(&mut keeper, at(0), "v1");
    let renewed = keeper.renewed;
    while keeper.fence == Fence::Open && now < at(600_000) {
        now = keeper.deadline().max(now);
        let actions = keeper.step(now, Event::Tick);
        if actions.iter().any(|action| matches!(action, Action::Beat(..))) {
            let _ = keeper.step(now, Event::Beaten(Err(StoreError::Throttled(String::new()))));
        }
    }
    assert_eq!(keeper.fence, Fence::Interrupted);
    let late = now.plus(TTL);
    let why = Unconfirmed::Unanswered(late.since(renewed));
    let actions = keeper.step(late, Event::Tick);
    assert!(actions.contains(&Action::Say(LeaseEvent::Kill(why))), "{actions:?}");
}

#[test]
fn a_short_pause_only_beats_at_once() {
    let mut keeper = keeper();
    let now = beat_well(&mut keeper, at(0), "v1");
    let late = now.plus(Duration::from_secs(10));
    let actions = keeper.step(late, Event::Tick);
    assert!(matches!(actions[..], [Action::Beat(..)]), "{actions:?}");
}

#[test]
fn an_answer_from_before_the_pause_does_not_thaw() {
    let mut keeper = keeper();
    let now = beat_well(&mut keeper, at(0), "v1");
    let (sent, actions) = until_action(&mut keeper, now);
    assert!(matches!(actions[..], [Action::Beat(..)]));
    let late = sent.plus(TTL * 7 / 10);
    assert_eq!(keeper.step(late, Event::Tick), say(LeaseEvent::Freeze));
    let actions = keeper.step(late, applied("v2"));
    assert!(matches!(actions[..], [Action::Beat(..)]), "asks again: {actions:?}");
    assert_eq!(keeper.step(late, applied("v3")), say(LeaseEvent::Thaw));
}

#[test]
fn a_lease_that_never_expires_has_no_fence_after_its_first_beat() {
    let mut keeper = LeaseKeeper::new(known(true), LeaseTerm::Never, at(0));
    let now = beat_well(&mut keeper, at(0), "v1");
    assert!(keeper.may_start(now.plus(TTL * 100)));
    let actions = keeper.step(now.plus(TTL * 100), Event::Tick);
    assert!(matches!(actions[..], [Action::Beat(..)]), "{actions:?}");
}

#[test]
fn a_store_that_answers_reads_alone_is_asked_with_pauses_until_the_fence() {
    let mut keeper = keeper();
    let (mut now, mut actions) = until_action(&mut keeper, at(0));
    let (first, mut beats) = (now, 0);
    while now.since(first) < Duration::from_secs(20) {
        for action in actions {
            assert!(matches!(action, Action::Beat(..)), "{action:?}");
            beats += 1;
        }
        assert_eq!(keeper.step(now, lost_reply()), [Action::Look]);
        actions = keeper.step(now, Event::Looked(Ok(Some(stored("me", "v0")))));
        if actions.is_empty() {
            (now, actions) = until_action(&mut keeper, now);
        }
    }
    assert!(beats <= 22, "{beats} beats in 20 s");
    assert_eq!(keeper.renewed, at(0));
}

fn expired() -> StoreError {
    StoreError::Credentials("expired".into())
}

fn declared(actions: &[Action]) -> LeaseTerm {
    let [Action::Beat(record, _)] = actions else { panic!("{actions:?}") };
    Lease::parse(record.lease.as_ref().unwrap()).unwrap().term
}

#[test]
fn two_beats_before_the_credentials_end_the_lease_becomes_one_without_expiry() {
    let mut keeper = keeper();
    keeper.credentials_end(at(60_000));
    for due in [6_000, 21_000] {
        let (now, actions) = until_action(&mut keeper, at(0));
        assert_eq!((now, declared(&actions)), (at(due), LeaseTerm::After(TTL)));
        assert_eq!(keeper.step(now, applied("v")), []);
    }
    let (now, actions) = until_action(&mut keeper, at(21_000));
    assert_eq!((now, declared(&actions)), (at(30_000), LeaseTerm::Never), "six seconds early");
    let left = Duration::from_secs(29);
    assert_eq!(keeper.step(at(31_000), applied("v")), say(LeaseEvent::LastBeat { left }));
    // Beats go on while they can; none is said to be refused, and there is no fence.
    let (now, actions) = until_action(&mut keeper, at(31_000));
    assert_eq!((now, declared(&actions)), (at(45_000), LeaseTerm::Never));
    assert_eq!(keeper.step(now, applied("v")), []);
    for due in [60_000, 75_000, 90_000] {
        let (now, actions) = until_action(&mut keeper, at(45_000));
        assert_eq!((now, declared(&actions)), (at(due), LeaseTerm::Never));
        assert_eq!(keeper.step(now, Event::Beaten(Err(expired()))), []);
    }
    assert!(keeper.may_start(at(1_000_000_000)));
}

#[test]
fn the_last_beat_is_the_first_where_the_credentials_end_at_once() {
    let mut keeper = keeper();
    keeper.credentials_end(at(100));
    let (now, actions) = until_action(&mut keeper, at(0));
    assert_eq!((now, declared(&actions)), (at(0), LeaseTerm::Never));
}

#[test]
fn a_last_beat_that_is_not_applied_is_tried_again_under_the_fence() {
    for fault in [lost_reply(), Event::Beaten(Err(expired()))] {
        let mut keeper = keeper();
        keeper.credentials_end(at(30_000));
        let (mut now, mut actions) = until_action(&mut keeper, at(0));
        assert_eq!((now, declared(&actions)), (at(0), LeaseTerm::Never));
        for attempt in 0..5 {
            let said = keeper.step(now, fault.clone());
            actions = match said[..] {
                [Action::Look] => keeper.step(now, Event::Looked(Ok(Some(stored("me", "v"))))),
                [] | [Action::Say(LeaseEvent::Refused { .. })] => Vec::new(),
                _ => panic!("{attempt}: {said:?}"),
            };
            if actions.is_empty() {
                (now, actions) = until_action(&mut keeper, now);
            }
            assert_eq!(declared(&actions), LeaseTerm::Never);
        }
        assert!(now >= at(3_000) && now <= at(5_000), "with pauses: {now:?}");
        assert!(!keeper.may_start(at(40_000)), "the stored lease has its fence");
        let said = keeper.step(now, applied("v1"));
        assert!(matches!(said[..], [Action::Say(LeaseEvent::LastBeat { .. })]), "{said:?}");
        assert!(keeper.may_start(at(40_000)));
    }
}

#[test]
fn a_beat_from_before_the_last_call_is_not_the_last() {
    let mut keeper = keeper();
    keeper.credentials_end(at(37_000));
    let (sent, actions) = until_action(&mut keeper, at(0));
    assert_eq!((sent, declared(&actions)), (at(6_000), LeaseTerm::After(TTL)));
    let actions = keeper.step(at(8_000), applied("v1"));
    assert_eq!(declared(&actions), LeaseTerm::Never, "it is due by now");
}

#[test]
fn refused_credentials_are_no_loss_and_said_once_until_they_are_accepted() {
    let mut keeper = keeper();
    let mut now = beat_well(&mut keeper, at(0), "v1");
    for _ in 0..2 {
        let (sent, _) = until_action(&mut keeper, now);
        let (after, fence) = (sent.since(at(0)), (TTL * 2 / 3).checked_sub(sent.since(now)));
        let refused = say(LeaseEvent::Refused { error: expired(), after, fence });
        assert_eq!(keeper.step(sent, Event::Beaten(Err(expired()))), refused);
        assert_eq!(keeper.refused_after(), Some(after));
        let (again, actions) = until_action(&mut keeper, sent);
        assert_eq!((again, declared(&actions)), (sent.plus(RETRY), LeaseTerm::After(TTL)));
        assert_eq!(keeper.step(again, Event::Beaten(Err(expired()))), [], "once");
        now = beat_well(&mut keeper, again, "v2");
        assert_eq!(keeper.refused_after(), None);
    }
}

/// As another process of the same tenure left it.
fn declares(term: LeaseTerm) -> Stored {
    let lease = Some(Lease { term, beat: 20 }.to_text());
    let stored = stored("me", "theirs");
    Stored { record: Record { lease, ..stored.record }, ..stored }
}

const TERMS: [LeaseTerm; 3] = [LeaseTerm::Never, LeaseTerm::After(TTL), LeaseTerm::After(FIRST)];

fn pairs() -> impl Iterator<Item = (LeaseTerm, LeaseTerm)> {
    TERMS.into_iter().flat_map(|ours| TERMS.map(|theirs| (ours, theirs)))
}

#[test]
fn who_keeps_a_lock_beside_its_holder_declares_what_its_record_declares() {
    for (found, then) in pairs() {
        let lease = Lease { term: found, beat: 7 };
        let beside = LeaseKeeper::beside(LeaseStart { lease, ..known(false) }, at(0));
        let mut adopted = LeaseKeeper::adopt(LeaseStart { lease, ..known(true) }, at(0));
        assert_eq!(adopted.step(at(0), Event::Tick), [Action::Look]);
        for (mut keeper, event) in
            [(beside, Event::Tick), (adopted, Event::Looked(Ok(Some(declares(found)))))]
        {
            assert_eq!(declared(&keeper.step(at(0), event)), found);
            let actions = keeper.step(at(10), refused(Some(declares(then))));
            let (sent, actions) = match actions[..] {
                // It has just been in a hurry.
                [] => until_action(&mut keeper, at(10)),
                _ => (at(10), actions),
            };
            assert_eq!(declared(&actions), then, "{found:?}");
            assert_eq!(keeper.renewed(), (at(0), found.shorter(then)), "not answered yet");
            assert_eq!(keeper.step(sent, applied("v")), []);
            assert_eq!(keeper.renewed(), (sent, then));
        }
    }
}

#[test]
fn a_holder_declares_its_own_lease_and_counts_by_a_shorter_one_that_it_meets() {
    for (ours, theirs) in pairs() {
        let mut keeper = LeaseKeeper::new(known(true), ours, at(0));
        let now = beat_well(&mut keeper, at(0), "v1");
        let (sent, _) = until_action(&mut keeper, now);
        let actions = keeper.step(sent, refused(Some(declares(theirs))));
        assert_eq!(declared(&actions), ours);
        assert_eq!(keeper.renewed(), (now, ours.shorter(theirs)), "{ours:?}, {theirs:?}");
        assert_eq!(keeper.kill_at(), ours.shorter(theirs).fences().map(|(_, at)| now.plus(at)));
    }
}
