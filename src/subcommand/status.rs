//! `tfwrap status`: who holds the locks, and who waits for them.

mod all;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use super::Opened;
use crate::cli::{Format, StatusArgs};
use crate::clock::{uptime, wall};
use crate::error::{Error, Leftover};
use crate::lock::lease::Lease;
use crate::lock::line::{Line, Slot, Ticket, Waiter};
use crate::lock::{Holder, Uptime};
use crate::report::{
    Holding, KeptBy, LockState, Notice, QueueState, answer, reader_is_gone, redraw, states_as_json,
    states_as_text,
};
use crate::run::EventLoop;
use crate::run::here::Here;
use crate::run::store_requests::{self, Patient};
use crate::store::{Record, StoreError};
use crate::supervise::take_name_of_onlooker;
use crate::target::LockTarget;

/// How often `--watch` looks.
const PERIOD: Duration = Duration::from_secs(2);

/// The same with `--all`: each look reads a whole table.
const PERIOD_OF_ALL: Duration = Duration::from_secs(5);

/// How many tickets are looked at: whoever can write to the table could claim any number.
const MOST_TICKETS: u64 = 100;

/// What is looked at.
struct View<'a> {
    /// These locks.
    single: Vec<Opened<'a>>,
    /// All in the stores of these.
    whole: Vec<Opened<'a>>,
    args: StatusArgs,
}

impl<'a> View<'a> {
    async fn open(targets: &'a [LockTarget], args: StatusArgs) -> Result<Self, Error> {
        let (mut whole, mut single) = (Vec::new(), targets.iter().collect());
        if args.all {
            (whole, single) = all::split(targets)?;
        }
        Ok(Self { single: Opened::all(single).await?, whole: Opened::all(whole).await?, args })
    }

    async fn look(
        &self,
        event_loop: &mut EventLoop,
        patience: Duration,
    ) -> Result<Vec<LockState>, Error> {
        let mut states = look_at_all(event_loop, &self.single, patience).await?;
        for lock in &self.whole {
            states.extend(all::look(event_loop, lock, patience).await?);
        }
        Ok(states)
    }

    fn said(&self, states: &mut [LockState]) -> String {
        if self.args.all {
            all::in_order(states);
        }
        match self.args.format {
            Format::Json => states_as_json(states),
            Format::Text if self.args.all => {
                states_as_text(states, wall()) + &all::summary(states, &self.whole)
            }
            Format::Text => states_as_text(states, wall()),
        }
    }

    fn period(&self) -> Duration {
        if self.args.all { PERIOD_OF_ALL } else { PERIOD }
    }
}

/// Says it, once or until an interrupt.
pub(crate) async fn run(
    event_loop: &mut EventLoop,
    targets: &[LockTarget],
    args: StatusArgs,
    on_terminal: bool,
    receipts: &Path,
) -> Result<(), Error> {
    take_name_of_onlooker();
    let view = View::open(targets, args).await?;
    if !args.watch {
        let mut states = view.look(event_loop, store_requests::PATIENCE).await?;
        Error::expect_answered(answer(&view.said(&mut states)))?;
        let mut known = Vec::new();
        for info in states.iter().filter_map(|state| state.holding.as_ref()?.info.clone()) {
            let Some(here) = Here::of(receipts, &Holder::Known(info)) else { continue };
            // Two locks may be of one run.
            let (what, then) = here.told();
            if !known.contains(&here) {
                event_loop.reporter.say(Notice::warning(what).with_hint(then));
                known.push(here);
            }
        }
        return Ok(());
    }
    match watch(event_loop, &view, on_terminal).await {
        Err(Error::Interrupted { signal, .. }) if signal == nix::libc::SIGINT => {
            if on_terminal {
                // The shell's prompt comes on a line of its own.
                let _closed = answer("\n");
            }
            Ok(())
        }
        ended => ended.map_err(|error| error.leaving(Leftover::Look)),
    }
}

/// Comes back only when nobody reads it, or with an error.
async fn watch(
    event_loop: &mut EventLoop,
    view: &View<'_>,
    on_terminal: bool,
) -> Result<(), Error> {
    let mut beats = Beats::default();
    let mut said = None;
    let mut patient = Patient::default();
    let period = view.period();
    loop {
        let began = uptime();
        let found = view.look(event_loop, Duration::ZERO).await;
        let Some(mut states) = patient.heard(event_loop, began, found)? else {
            // What comes after it is said in any case: so one sees that it is over.
            said = None;
            event_loop.pause(uptime().plus(period)).await?;
            continue;
        };
        beats.observe(&mut states, uptime());
        let text = view.said(&mut states);
        let facts: Vec<_> = states.iter().map(LockState::facts).collect();
        let changed = said.as_ref() != Some(&facts);
        said = Some(facts);
        let written = if on_terminal && view.args.format == Format::Text {
            let every = period.as_secs();
            redraw(&format!("{text}\nrefreshing every {every} s; Ctrl-C to quit\n"))
        } else if changed {
            answer(&text)
        } else {
            Ok(())
        };
        if written.is_err() || reader_is_gone() {
            return Ok(());
        }
        event_loop.pause(uptime().plus(period)).await?;
    }
}

pub(super) async fn look_at_all(
    event_loop: &mut EventLoop,
    locks: &[Opened<'_>],
    patience: Duration,
) -> Result<Vec<LockState>, Error> {
    look_on(event_loop, locks, &Passed::default(), patience).await
}

/// Of each lock, up to which place nobody waits, for whoever looks on from there.
pub(super) type Passed = HashMap<String, Ticket>;

pub(super) async fn look_on(
    event_loop: &mut EventLoop,
    locks: &[Opened<'_>],
    passed: &Passed,
    patience: Duration,
) -> Result<Vec<LockState>, Error> {
    let mut states = Vec::new();
    for lock in locks {
        let stored = store_requests::read(event_loop, &lock.register, patience).await?;
        let from = passed.get(&lock.register.lock).copied();
        let line = match line_of(event_loop, lock, from, patience).await {
            // Whoever may not read the line may still read the lock.
            Err(Error::Store { source: StoreError::Denied(_), .. }) => QueueState::Unreadable,
            line => line?,
        };
        states.push(LockState {
            lock: lock.register.lock.clone(),
            holding: stored.as_ref().map(|stored| lock.holding(stored)),
            line,
        });
    }
    Ok(states)
}

async fn line_of(
    event_loop: &mut EventLoop,
    lock: &Opened<'_>,
    from: Option<Ticket>,
    patience: Duration,
) -> Result<QueueState, Error> {
    let stored = store_requests::read(event_loop, &lock.beside(Slot::Line), patience).await?;
    let line = stored.map(|stored| stored.record);
    let mut tickets = HashMap::new();
    let places = line.as_ref().and_then(Line::of).map(|line| places(&line, from));
    for ticket in places.into_iter().flatten().map(Ticket) {
        let register = lock.beside(Slot::Ticket(ticket));
        if let Some(stored) = store_requests::read(event_loop, &register, patience).await? {
            tickets.insert(ticket, stored.record);
        }
    }
    Ok(queue_of(line.as_ref(), from, |ticket| tickets.get(&ticket)))
}

/// The places of a line that are looked at: from this one on, if it is among them.
fn places(line: &Line, from: Option<Ticket>) -> Range<u64> {
    let from = from.filter(|from| (line.head..=line.next).contains(&from.0));
    let from = from.map_or(line.head, |from| from.0);
    from..line.next.min(from.saturating_add(MOST_TICKETS))
}

/// Who stands in the line of this record.
fn queue_of<'a>(
    line: Option<&Record>,
    from: Option<Ticket>,
    ticket: impl Fn(Ticket) -> Option<&'a Record>,
) -> QueueState {
    let Some(record) = line else {
        return QueueState::Known { waiters: Vec::new(), more: 0, rest: Ticket(0) };
    };
    let Some(line) = Line::of(record) else { return QueueState::Unreadable };
    // One that has had its turn or gave up leaves a gap.
    let places = places(&line, from);
    let rest = Ticket(places.end.max(places.start));
    let waiters = places
        .map(Ticket)
        .filter_map(|number| Some((number, Waiter::of(ticket(number)?).unwrap_or_default())));
    let more = line.next.saturating_sub(rest.0);
    QueueState::Known { waiters: waiters.collect(), more, rest }
}

/// Since when each lock shows its beat.
#[derive(Default)]
pub(super) struct Beats(HashMap<String, (Option<String>, Lease, Uptime)>);

impl Beats {
    pub(super) fn observe(&mut self, states: &mut [LockState], now: Uptime) {
        for LockState { lock, holding, .. } in states {
            let Some(Holding { info, kept_by: KeptBy::Lease { lease, unchanged }, .. }) = holding
            else {
                self.0.remove(lock);
                continue;
            };
            let id = info.as_ref().map(|info| info.id.0.clone());
            let seen = self.0.entry(lock.clone()).or_insert_with(|| (id.clone(), *lease, now));
            if (&seen.0, &seen.1) != (&id, &*lease) {
                *seen = (id, *lease, now);
            }
            *unchanged = Some(now.since(seen.2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::lease::LeaseTerm;

    fn held(beat: u64) -> Vec<LockState> {
        let lease = Lease { term: LeaseTerm::Never, beat };
        let kept_by = KeptBy::Lease { lease, unchanged: None };
        let holding = Some(Holding { info: None, kept_by, nameless_removal: None });
        vec![LockState { lock: "a".to_owned(), holding, line: QueueState::Unasked }]
    }

    #[test]
    fn a_beat_is_as_old_as_it_was_seen_to_be() {
        let mut beats = Beats::default();
        let mut age = |beat, at| {
            let mut states = held(beat);
            beats.observe(&mut states, Uptime(Duration::from_secs(at)));
            match &states[0].holding.as_ref().unwrap().kept_by {
                KeptBy::Lease { unchanged, .. } => unchanged.unwrap().as_secs(),
                _ => unreachable!(),
            }
        };
        assert_eq!([age(1, 10), age(1, 13), age(2, 15), age(2, 16)], [0, 3, 0, 1]);
    }
}
