//! The machines of a lock that is held, and of a child, under random events: with a loss, a fault, a
//! pause or a stop at every event of every schedule.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::lease::{Lease, LeaseTerm};
use tfwrap::lock::lease_keeper::{self, LeaseEvent, LeaseKeeper, LeaseStart};
use tfwrap::lock::release::{self, PATIENCE, Release, ReleaseOutcome};
use tfwrap::lock::{LockId, Uptime};
use tfwrap::store::{Record, RecordVersion, RemoveReply, StoreError, Stored, WriteReply};

use crate::seeded::seeded;

const TTL: Duration = Duration::from_secs(15);

/// A request of the release is given up then.
const TIME_OUT: Duration = Duration::from_secs(5);

/// What happens to the register behind our back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// A person removes the record.
    Removed,
    /// Somebody else's is there.
    Stranger,
    /// We stand still for so long.
    Pause(Duration),
}

const BLOWS: [Blow; 4] = [
    Blow::Removed,
    Blow::Stranger,
    Blow::Pause(Duration::from_millis(9_500)),
    Blow::Pause(Duration::from_secs(20)),
];

fn ours(beat: u64) -> Stored {
    stored("us", beat)
}

fn stored(id: &str, beat: u64) -> Stored {
    let lease = Lease { term: LeaseTerm::After(TTL), beat };
    let record = Record { info: Some(format!(r#"{{"ID":"{id}"}}"#)), lease: Some(lease.to_text()) };
    let version = RecordVersion(format!("{record:?}"));
    Stored { record, version }
}

fn is_ours(register: Option<&Stored>) -> bool {
    register.is_some_and(|stored| stored.record.is_held_by(&LockId("us".to_owned())))
}

fn unknown() -> StoreError {
    StoreError::Unavailable { detail: String::new(), sent: true }
}

/// Which of a schedule's numbers is next; after the last one all goes well.
struct Choices<'a>(std::slice::Iter<'a, u16>);

impl Choices<'_> {
    fn next(&mut self) -> u64 {
        self.0.next().map_or(99, |choice| u64::from(*choice))
    }
}

/// What becomes of one request: whether it is done, and what is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Unanswered,
    Lost,
    Refused,
    /// Refused without showing what is there.
    Blank,
}

fn fate(choice: u64, trouble: u64) -> Fate {
    if choice % 100 >= trouble {
        return Fate::Answered;
    }
    [Fate::Unanswered, Fate::Lost, Fate::Refused, Fate::Blank]
        [usize::try_from(choice / 100 % 4).expect("small")]
}

fn strike(register: &mut Option<Stored>, now: &mut Duration, blow: Blow) {
    match blow {
        Blow::Removed => *register = None,
        Blow::Stranger => *register = Some(stored("stranger", 0)),
        Blow::Pause(lasts) => *now += lasts,
    }
}

/// What was said of the lease, in order, and what follows for the child.
#[derive(Default)]
struct Heard {
    lost: u32,
    frozen: bool,
    killed: bool,
}

/// Keeps a lock through `schedule`, with a blow before the event of this number; returns how many
/// events there were.
fn keep(schedule: &[u16], trouble: u64, strikes: Option<(usize, Blow)>) -> Result<usize, String> {
    let mut choices = Choices(schedule.iter());
    let mut register = Some(ours(0));
    let mut now = Duration::from_secs(1_000);
    let known = LeaseStart {
        id: LockId("us".to_owned()),
        info: register.as_ref().and_then(|it| it.record.info.clone()),
        version: Some(ours(0).version),
        lease: Lease { term: LeaseTerm::After(TTL), beat: 0 },
        since: Uptime(now),
        answered: true,
    };
    let mut keeper = LeaseKeeper::new(known, LeaseTerm::After(TTL), Uptime(now));
    // From before the last request that was applied and answered.
    let mut renewed = now;
    let (interrupt, kill) = LeaseTerm::After(TTL).fences().expect("it ends");
    let mut heard = Heard::default();
    let mut out: Option<(lease_keeper::Action, Duration)> = None;
    let mut end = now + Duration::from_mins(1);
    for number in 0..2_000 {
        if let Some((_, blow)) = strikes.filter(|(at, _)| *at == number) {
            strike(&mut register, &mut now, blow);
            end = now + Duration::from_mins(1);
        }
        let choice = choices.next();
        let reply_at = out.as_ref().map(|(_, sent)| *sent + Duration::from_millis(choice % 700));
        let tick_at = keeper.deadline().0;
        let due = out.take_if(|_| reply_at.is_some_and(|at| at <= tick_at));
        let event = if let Some((action, sent)) = due {
            now = now.max(reply_at.expect("it is out"));
            let fate = fate(choices.next(), trouble);
            let (event, applied) = answer(&mut register, &action, fate);
            if applied {
                renewed = sent;
            }
            event
        } else {
            now = now.max(tick_at) + Duration::from_millis(choice % 3 * 40);
            lease_keeper::Event::Tick
        };
        let is_tick = event == lease_keeper::Event::Tick;
        for action in keeper.step(Uptime(now), event) {
            match action {
                lease_keeper::Action::Say(news) => hear(&mut heard, &news, register.as_ref())?,
                request if out.is_some() => return Err(format!("two at once: {request:?}")),
                _ if heard.lost > 0 => return Err("it asks on after the loss".to_owned()),
                request => out = Some((request, now)),
            }
        }
        let age = now.saturating_sub(renewed);
        if is_tick && age >= kill && !heard.killed {
            return Err(format!("nobody is killed {age:?} after the last beat"));
        }
        if keeper.may_start(Uptime(now)) && (heard.lost > 0 || age >= interrupt) {
            return Err(format!("a child may start {age:?} after the last beat"));
        }
        if keeper.is_lost() != (heard.lost == 1) {
            return Err("a loss that is not said, or said twice".to_owned());
        }
        if now > end {
            // The store answers since long.
            let noticed = is_ours(register.as_ref()) != keeper.is_lost();
            return if noticed { Ok(number) } else { Err("a loss goes unnoticed".to_owned()) };
        }
    }
    Err("it never ends".to_owned())
}

/// What the store does and what is heard of it; and whether a beat was applied and answered.
fn answer(
    register: &mut Option<Stored>,
    action: &lease_keeper::Action,
    fate: Fate,
) -> (lease_keeper::Event, bool) {
    let lease_keeper::Action::Beat(record, version) = action else {
        let reply = if fate == Fate::Answered { Ok(register.clone()) } else { Err(unknown()) };
        return (lease_keeper::Event::Looked(reply), false);
    };
    let reply = match fate {
        Fate::Lost => Err(unknown()),
        Fate::Refused => Err(StoreError::Throttled(String::new())),
        _ if register.as_ref().is_some_and(|it| it.version == *version) => {
            let new =
                Stored { record: record.clone(), version: RecordVersion(format!("{record:?}")) };
            *register = Some(new.clone());
            Ok(WriteReply::Applied(new.version))
        }
        Fate::Blank => Ok(WriteReply::Conflict(None)),
        _ => Ok(WriteReply::Conflict(Some(register.clone()))),
    };
    let reply = if fate == Fate::Unanswered { Err(unknown()) } else { reply };
    let applied = matches!(reply, Ok(WriteReply::Applied(_)));
    (lease_keeper::Event::Beaten(reply), applied)
}

fn hear(heard: &mut Heard, news: &LeaseEvent, register: Option<&Stored>) -> Result<(), String> {
    match news {
        LeaseEvent::Lost(_) if is_ours(register) => return Err("a loss that is none".to_owned()),
        LeaseEvent::Lost(_) => heard.lost += 1,
        LeaseEvent::Freeze => heard.frozen = true,
        LeaseEvent::Thaw if !std::mem::take(&mut heard.frozen) => {
            return Err("a thaw without a freeze".to_owned());
        }
        LeaseEvent::Kill(_) => heard.killed = true,
        _ => {}
    }
    Ok(())
}

/// Gives a lock back, as above.
fn give_back(
    schedule: &[u16],
    trouble: u64,
    known: bool,
    strikes: Option<(usize, Blow)>,
) -> Result<usize, String> {
    let mut choices = Choices(schedule.iter());
    let mut register = Some(ours(3));
    // The version that is known may be old: a beat was applied and not answered.
    let version = known.then(|| ours(2 + choices.next() % 2).version);
    let started = Duration::from_secs(1_000);
    let mut now = started;
    let (id, give_up_at) = (LockId("us".to_owned()), Uptime(now).plus(PATIENCE));
    let mut machine = Release::new(id, version, give_up_at, Jitter(choices.next()));
    // Whether it went by our own doing.
    let mut removed = false;
    let mut action = machine.step(Uptime(now), release::Event::Start);
    for number in 0..2_000 {
        if let Some((_, blow)) = strikes.filter(|(at, _)| *at == number) {
            let before = now;
            strike(&mut register, &mut now, blow);
            // It counts by its own clock.
            if now > before {
                now = before;
            }
        }
        let fate = fate(choices.next(), trouble);
        let event = match action {
            release::Action::Done(outcome) => {
                let late = now > started + PATIENCE + 2 * TIME_OUT;
                if late {
                    return Err(format!("it takes {:?}", now.saturating_sub(started)));
                }
                let right = match &outcome {
                    ReleaseOutcome::Released => removed,
                    ReleaseOutcome::AlreadyGone => register.is_none() && !removed,
                    ReleaseOutcome::TakenOver(there) => {
                        register.as_ref() == Some(there) && !is_ours(Some(there)) && !removed
                    }
                    ReleaseOutcome::Unconfirmed(_) => true,
                };
                // After an unanswered remove it cannot be told whose doing it was.
                let right =
                    right || (outcome == ReleaseOutcome::Released && !is_ours(register.as_ref()));
                return if right { Ok(number) } else { Err(format!("{outcome:?}: {register:?}")) };
            }
            release::Action::Wait => {
                now = now.max(machine.deadline().ok_or("it waits for ever")?.0);
                release::Event::Tick
            }
            release::Action::Look => {
                now += Duration::from_millis(10);
                let reply =
                    if fate == Fate::Answered { Ok(register.clone()) } else { Err(unknown()) };
                release::Event::Looked(reply)
            }
            release::Action::Remove(version) => {
                let slow = matches!(fate, Fate::Unanswered | Fate::Lost);
                now += if slow { TIME_OUT } else { Duration::from_millis(10) };
                let applies = !matches!(fate, Fate::Lost | Fate::Refused)
                    && register.as_ref().is_some_and(|it| it.version == version);
                if applies {
                    if !is_ours(register.as_ref()) {
                        return Err("it removes a stranger's record".to_owned());
                    }
                    (register, removed) = (None, true);
                }
                release::Event::Removed(match fate {
                    Fate::Unanswered | Fate::Lost => Err(unknown()),
                    Fate::Refused => Err(StoreError::Throttled(String::new())),
                    _ if applies => Ok(RemoveReply::Removed),
                    Fate::Blank => Ok(RemoveReply::Conflict(None)),
                    Fate::Answered => Ok(RemoveReply::Conflict(Some(register.clone()))),
                })
            }
        };
        action = machine.step(Uptime(now), event);
    }
    Err("it never ends".to_owned())
}

fn schedules() -> impl Strategy<Value = (Vec<u16>, u64, bool)> {
    (prop::collection::vec(any::<u16>(), 0..60), 0..50_u64, any::<bool>())
}

/// Plays each schedule without a blow, and then with every one of them at every event.
fn everywhere(
    cases: u32,
    play: impl Fn(&(Vec<u16>, u64, bool), Option<(usize, Blow)>) -> Result<usize, String>,
) -> usize {
    let played = Cell::new(0);
    let tried = TestRunner::new(seeded(cases)).run(&schedules(), |setting| {
        let events = play(&setting, None).map_err(TestCaseError::fail)?;
        for (at, blow) in (0..=events).flat_map(|at| BLOWS.map(|blow| (at, blow))) {
            played.set(played.get() + 1);
            let wrong = |wrong| TestCaseError::fail(format!("{blow:?} at {at}: {wrong}"));
            play(&setting, Some((at, blow))).map_err(wrong)?;
        }
        Ok(())
    });
    tried.unwrap_or_else(|wrong| panic!("{wrong}"));
    played.get()
}

#[test]
fn a_keeper_says_every_loss_once_and_is_fenced_in_time_whatever_happens_when() {
    let played = everywhere(40, |(schedule, trouble, _), blow| keep(schedule, *trouble, blow));
    println!("{played} blows");
}

#[test]
fn a_release_ends_in_its_time_and_says_what_became_of_the_lock_whatever_happens_when() {
    let played = everywhere(300, |(schedule, trouble, known), blow| {
        give_back(schedule, *trouble, *known, blow)
    });
    println!("{played} blows");
}
