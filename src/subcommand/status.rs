//! `tfwrap status`: who holds the locks, and who waits for them.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::Duration;

use super::Opened;
use crate::cli::{Format, StatusArgs};
use crate::clock::{uptime, wall};
use crate::error::Error;
use crate::lock::Uptime;
use crate::lock::lease::Lease;
use crate::lock::line::{Line, Slot, Ticket, Waiter};
use crate::report::{
    Holding, KeptBy, LockState, Notice, QueueState, answer, redraw, states_as_json, states_as_text,
};
use crate::run::{EventLoop, store_requests};
use crate::store::StoreError;
use crate::target::LockTarget;

/// How often `--watch` looks.
const PERIOD: Duration = Duration::from_secs(2);

/// How many tickets are looked at: whoever can write to the table could claim any number.
const MOST_TICKETS: u64 = 100;

/// Says it, once or until an interrupt.
pub(crate) async fn run(
    event_loop: &mut EventLoop,
    targets: &[LockTarget],
    args: StatusArgs,
    on_terminal: bool,
) -> Result<(), Error> {
    let locks = Opened::all(targets).await?;
    if !args.watch {
        let states = look_at_all(event_loop, &locks, store_requests::PATIENCE).await?;
        let text = match args.format {
            Format::Text => states_as_text(&states, wall()),
            Format::Json => states_as_json(&states),
        };
        return match answer(&text) {
            // Who has read enough (`tfwrap status | head -1`) closes the pipe.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::Config {
                message: format!("the answer cannot be written to stdout: {error}"),
                hint: None,
            }),
            _ => Ok(()),
        };
    }
    match watch(event_loop, &locks, args.format, on_terminal).await {
        Err(Error::Interrupted { signal, .. }) if signal == nix::libc::SIGINT => Ok(()),
        ended => ended,
    }
}

/// Comes back only when nobody reads it, or with an error.
async fn watch(
    event_loop: &mut EventLoop,
    locks: &[Opened<'_>],
    format: Format,
    on_terminal: bool,
) -> Result<(), Error> {
    let mut beats = Beats::default();
    let mut said = None;
    let mut outage = false;
    loop {
        // One that is known of is looked for at every turn, not waited for.
        let patience = if outage { Duration::ZERO } else { store_requests::PATIENCE };
        let mut states = match look_at_all(event_loop, locks, patience).await {
            Err(Error::Store { lock, source }) if source.is_transient() => {
                if !outage {
                    event_loop.reporter.say(unanswered(&lock, &source));
                }
                // What comes after it is said in any case: so one sees that it is over.
                (outage, said) = (true, None);
                event_loop.pause(uptime().plus(PERIOD)).await?;
                continue;
            }
            states => states?,
        };
        outage = false;
        beats.observe(&mut states, uptime());
        let facts: Vec<_> = states.iter().map(LockState::facts).collect();
        let changed = said.as_ref() != Some(&facts);
        said = Some(facts);
        let written = match format {
            Format::Text if on_terminal => {
                let text = states_as_text(&states, wall());
                redraw(&format!("{text}\nrefreshing every 2 s; Ctrl-C to quit\n"))
            }
            _ if !changed => Ok(()),
            Format::Text => answer(&states_as_text(&states, wall())),
            Format::Json => answer(&states_as_json(&states)),
        };
        if written.is_err() {
            return Ok(());
        }
        event_loop.pause(uptime().plus(PERIOD)).await?;
    }
}

fn unanswered(lock: &str, error: &StoreError) -> Notice {
    Notice::warning(format!("the lock `{lock}` cannot be read ({error}): retrying"))
}

async fn look_at_all(
    event_loop: &mut EventLoop,
    locks: &[Opened<'_>],
    patience: Duration,
) -> Result<Vec<LockState>, Error> {
    let mut states = Vec::new();
    for lock in locks {
        let stored = store_requests::read(event_loop, &lock.register, patience).await?;
        let line = match line_of(event_loop, lock, patience).await {
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
    patience: Duration,
) -> Result<QueueState, Error> {
    let stored = store_requests::read(event_loop, &lock.beside(Slot::Line), patience).await?;
    let Some(stored) = stored else {
        return Ok(QueueState::Known { waiters: Vec::new(), more: 0 });
    };
    let Some(line) = Line::of(&stored.record) else { return Ok(QueueState::Unreadable) };
    let end = line.next.min(line.head.saturating_add(MOST_TICKETS));
    let mut waiters = Vec::new();
    for ticket in (line.head..end).map(Ticket) {
        // One that has had its turn or gave up leaves a gap.
        let register = lock.beside(Slot::Ticket(ticket));
        if let Some(stored) = store_requests::read(event_loop, &register, patience).await? {
            waiters.push((ticket, Waiter::of(&stored.record).unwrap_or_default()));
        }
    }
    Ok(QueueState::Known { waiters, more: line.next.saturating_sub(end.max(line.head)) })
}

/// Since when each lock shows its beat.
#[derive(Default)]
struct Beats(HashMap<String, (Option<String>, Lease, Uptime)>);

impl Beats {
    fn observe(&mut self, states: &mut [LockState], now: Uptime) {
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
