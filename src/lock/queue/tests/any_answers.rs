//! A store that answers anything, in any order and for ever: it is asked at a bounded pace, and not
//! past the end of the wait.

use proptest::prelude::*;

use super::super::*;
use crate::lock::lease::{Lease, LeaseTerm};
use crate::lock::{LockId, LockInfo, lease};
use crate::seeded::seeded;

/// What each request takes.
const LATENCY: Duration = Duration::from_millis(1);

/// So many may come at once: joining a line that many join, and one walk down it.
const AT_ONCE: u64 = 1_000;

/// And so many in each second of a wait: a lock that somebody else has at every second look is tried
/// twice between two pauses of the head.
const IN_A_SECOND: u64 = 45;

/// After its end: the last try, what settles it, and the way out of the line.
const AFTER_THE_END: u64 = 40;

/// What stands in a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Nothing,
    /// Its version never changes.
    Same(Written),
    /// As if it were written anew each time.
    Anew(Written),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Stranger,
    Leased,
    Garbage,
    Line(u64, u64),
    Ticket,
    Ours,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Shows(Content),
    /// A refusal without a word; of a read: nothing.
    Refuses,
    Applies,
    Fails(StoreError),
}

fn content() -> impl Strategy<Value = Content> {
    let written = prop_oneof![
        3 => Just(Written::Stranger),
        5 => Just(Written::Leased),
        2 => Just(Written::Garbage),
        3 => (0..9_u64, 0..9_u64).prop_map(|(next, head)| Written::Line(next, head)),
        1 => Just(Written::Line(100_000, 0)),
        3 => Just(Written::Ticket),
        1 => Just(Written::Ours),
    ];
    (0..3, written).prop_map(|(kind, written)| match kind {
        0 => Content::Nothing,
        1 => Content::Same(written),
        _ => Content::Anew(written),
    })
}

fn errors() -> Vec<StoreError> {
    let text = String::new;
    vec![
        StoreError::Throttled(text()),
        StoreError::Unavailable { detail: text(), sent: true },
        StoreError::Unavailable { detail: text(), sent: false },
        StoreError::Failed(text()),
        StoreError::NotTheStore { detail: text(), sent: true },
        StoreError::Denied(text().into()),
    ]
}

fn error() -> impl Strategy<Value = StoreError> {
    proptest::sample::select(errors())
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        6 => content().prop_map(Answer::Shows),
        4 => Just(Answer::Refuses),
        2 => Just(Answer::Applies),
        2 => error().prop_map(Answer::Fails),
    ]
}

/// The answers to one kind of request on one kind of register, over and over.
fn answers() -> impl Strategy<Value = Vec<Answer>> {
    proptest::collection::vec(answer(), 1..4)
}

fn stored(written: Written, version: String) -> Stored {
    let of_line = |text: String| Record { info: None, lease: Some(text) };
    let info = |id| Some(LockInfo { info: String::new(), ..LockInfo::all_of(id) }.to_json());
    let record = match written {
        Written::Stranger => Record { info: info("other"), lease: None },
        Written::Leased => {
            let lease = Lease { term: LeaseTerm::After(lease::SHORTEST), beat: 1 }.to_text();
            Record { info: info("other"), lease: Some(lease) }
        }
        Written::Garbage => of_line("x".to_owned()),
        Written::Line(next, head) => Line { next, head, ..Line::default() }.signed(&version),
        Written::Ticket => Waiter { id: "other".into(), ..Waiter::default() }.to_record(),
        Written::Ours => Waiter { id: "us".into(), ..Waiter::default() }.to_record(),
    };
    Stored { record, version: RecordVersion(version) }
}

fn shown(content: Content, request: u64) -> Option<Stored> {
    match content {
        Content::Nothing => None,
        Content::Same(written) => Some(stored(written, "same".to_owned())),
        Content::Anew(written) => Some(stored(written, request.to_string())),
    }
}

fn event(action: &Action, answer: &Answer, request: u64) -> Event {
    match (action, answer) {
        (Action::Read(_), Answer::Shows(content)) => Event::Read(Ok(shown(*content, request))),
        (Action::Read(_), Answer::Refuses | Answer::Applies) => Event::Read(Ok(None)),
        (Action::Read(_), Answer::Fails(error)) => Event::Read(Err(error.clone())),
        (Action::Write(..), answer) => Event::Wrote(match answer {
            Answer::Shows(content) => Ok(WriteReply::Conflict(Some(shown(*content, request)))),
            Answer::Refuses => Ok(WriteReply::Conflict(None)),
            Answer::Applies => Ok(WriteReply::Applied(RecordVersion(request.to_string()))),
            Answer::Fails(error) => Err(error.clone()),
        }),
        (_, answer) => Event::Removed(match answer {
            Answer::Shows(content) => Ok(RemoveReply::Conflict(Some(shown(*content, request)))),
            Answer::Refuses => Ok(RemoveReply::Conflict(None)),
            Answer::Applies => Ok(RemoveReply::Removed),
            Answer::Fails(error) => Err(error.clone()),
        }),
    }
}

fn waits(answers: &[Vec<Answer>], patience: Duration, in_line: bool) -> Result<(), String> {
    waits_until_gone(answers, patience, in_line, None)
}

/// The same, with a store that answers nothing any more after so many requests.
fn waits_until_gone(
    answers: &[Vec<Answer>],
    patience: Duration,
    in_line: bool,
    gone: Option<(u64, StoreError)>,
) -> Result<(), String> {
    let gone = gone.map(|(after, error)| (after, Answer::Fails(error)));
    let start = Uptime(Duration::from_secs(1000));
    let give_up_at = start.plus(patience);
    let acquire = Acquire::new(LockId("us".into()), start, give_up_at, Jitter(1));
    let waiter = Waiter { id: "us".into(), ..Waiter::default() };
    let record = Record { info: Some(LockInfo::all_of("us").to_json()), lease: None };
    let mut queue = Queue::new(acquire, waiter, record, give_up_at, Jitter(2), in_line);
    let mut asked = vec![0; answers.len()];
    let (mut now, mut requests, mut late) = (start, 0_u64, 0_u64);
    let mut next = Event::Start;
    let mut last = Vec::new();
    loop {
        let action = queue.step(now, next);
        let kind = match &action {
            Action::Done(_) => return Ok(()),
            Action::Wait => {
                let due = queue.deadline().ok_or("waits for nothing")?;
                // A machine that wakes for nothing would do so for ever.
                now = due.max(now.plus(Duration::from_micros(100)));
                next = Event::Tick;
                continue;
            }
            Action::Write(slot, ..) => (0, *slot),
            Action::Read(slot) => (1, *slot),
            Action::Remove(slot, _) => (2, *slot),
        };
        let place = match kind.1 {
            Slot::Lock => 0,
            Slot::Line => 1,
            Slot::Ticket(_) => 2,
        };
        let which = kind.0 * 3 + place;
        let replies = &answers[which];
        let answer = match &gone {
            Some((after, gone)) if requests >= *after => gone,
            _ => &replies[asked[which] % replies.len()],
        };
        asked[which] += 1;
        requests += 1;
        late += u64::from(now >= give_up_at);
        now = now.plus(LATENCY);
        last.push(format!("{:?} {kind:?} {answer:?}", now.since(start)));
        next = event(&action, answer, requests);
        if requests > AT_ONCE + IN_A_SECOND * now.since(start).as_secs() || late > AFTER_THE_END {
            let tail = last[last.len().saturating_sub(30)..].join("\n");
            return Err(format!("{requests} requests, {late} after the end:\n{tail}"));
        }
    }
}

proptest! {
    #![proptest_config(seeded(250))]

    #[test]
    fn whatever_a_store_answers_it_is_asked_at_a_bounded_pace_and_not_past_the_end(
        answers in proptest::collection::vec(answers(), 9),
        patience in proptest::sample::select(vec![0_u64, 3, 120, 1200]),
        in_line in any::<bool>(),
        gone in proptest::option::of((0_u64..100, error())),
    ) {
        let patience = Duration::from_secs(patience);
        let ended = waits_until_gone(&answers, patience, in_line, gone);
        prop_assert!(ended.is_ok(), "{}", ended.unwrap_err());
    }
}

/// Stores as they are: what sticks, whether it is refused with or without a word.
#[test]
fn a_lock_that_is_refused_for_nobody_is_tried_with_pauses_until_the_end_of_the_wait() {
    let nothing = || vec![Answer::Shows(Content::Nothing)];
    for refusal in [Answer::Refuses, Answer::Shows(Content::Nothing)] {
        for (patience, in_line) in [(0, false), (0, true), (3, false), (3, true), (600, true)] {
            let refused = vec![refusal.clone()];
            let applied = vec![Answer::Applies];
            let answers = [
                refused,
                applied.clone(),
                applied.clone(),
                nothing(),
                nothing(),
                nothing(),
                applied.clone(),
                applied.clone(),
                applied,
            ];
            waits(&answers, Duration::from_secs(patience), in_line).unwrap();
        }
    }
}

/// A place that is gone at each sign of life, below a lock that is free and not ours to take.
#[test]
fn a_place_that_does_not_stay_ours_is_taken_anew_with_pauses() {
    let nothing = || vec![Answer::Shows(Content::Nothing)];
    let gone = [Content::Nothing, Content::Nothing].map(Answer::Shows);
    let beats = gone.into_iter().chain([Answer::Applies]).collect();
    let before = vec![Answer::Shows(Content::Same(Written::Stranger))];
    let locks = vec![Answer::Refuses];
    let lines = vec![Answer::Applies];
    let removed = || vec![Answer::Applies];
    let answers =
        [locks, lines, beats, nothing(), nothing(), before, removed(), removed(), removed()];
    waits(&answers, Duration::from_mins(2), true).unwrap();
}

/// Five stand before it, and it may be at anything when the store goes away.
#[test]
fn a_store_that_goes_away_is_asked_with_pauses_wherever_the_waiter_stands() {
    let shows = |written| vec![Answer::Shows(Content::Same(written))];
    let applied = || vec![Answer::Applies];
    let answers = [
        shows(Written::Stranger),
        applied(),
        applied(),
        shows(Written::Stranger),
        shows(Written::Line(7, 2)),
        shows(Written::Ticket),
        applied(),
        applied(),
        applied(),
    ];
    for (after, error) in (0..150).flat_map(|after| errors().into_iter().map(move |it| (after, it)))
    {
        let gone = Some((after, error.clone()));
        let ended = waits_until_gone(&answers, Duration::from_mins(10), true, gone);
        assert!(ended.is_ok(), "after {after}, {error:?}: {}", ended.unwrap_err());
    }
}
