//! `tfwrap wait`: waits until nobody holds the locks, and takes nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::Opened;
use super::status::{Beats, Passed, look_on};
use crate::cli::WaitArgs;
use crate::clock::{uptime, wall};
use crate::duration;
use crate::error::Error;
use crate::lock::line::{TICKET_TTL, Ticket};
use crate::lock::{LockId, LockInfo, Uptime};
use crate::report::{
    Cadence, Holding, KeptBy, LockState, Notice, QueueState, answer, clean, clean_line,
    describe_holding,
};
use crate::run::store_requests::{self, Patient};
use crate::run::{EventLoop, after_the_wait};
use crate::supervise::take_name_of_onlooker;
use crate::target::LockTarget;

/// How often the locks are looked at. The next holder may take one in between and not be seen.
const PERIOD: Duration = Duration::from_secs(2);

/// The same while nobody was found to wait, and not all of the queue was looked at.
const LOOKS_ON: Duration = Duration::from_millis(200);

/// What `wait` is to wait for.
pub(crate) struct WaitCall<'a> {
    pub(crate) args: WaitArgs,
    /// For how long.
    pub(crate) limit: Duration,
    /// What a `run` or a `hold` around us says that it holds.
    pub(crate) held: &'a [LockId],
}

/// Comes back when all of these locks are free in one look.
///
/// # Errors
/// [`Error::NotFree`] when the time is over, and at once where a lock can never become free: one that
/// is held for us.
pub(crate) async fn run<'a>(
    event_loop: &mut EventLoop,
    targets: &'a [LockTarget],
    call: WaitCall<'a>,
) -> Result<(), Error> {
    take_name_of_onlooker();
    let locks = Opened::all(targets).await?;
    let began = uptime();
    let until = began.plus(call.limit);
    let mut wait = Wait::new(targets, call, began);
    let mut patient = Patient::default();
    let patience = store_requests::PATIENCE;
    let mut states = look_on(event_loop, &locks, &wait.passed, patience).await?;
    loop {
        if wait.is_over(event_loop, &mut states)? {
            return Error::expect_answered(answer(&wait.report(&states)));
        }
        loop {
            if uptime() >= until {
                // What was seen last may be over by now.
                return Err(patient.failure().unwrap_or_else(|| wait.not_free(&states)));
            }
            let period = if wait.looks_on { LOOKS_ON } else { PERIOD };
            event_loop.pause(uptime().plus(period).min(until)).await?;
            let began = uptime();
            let found = look_on(event_loop, &locks, &wait.passed, Duration::ZERO).await;
            if let Some(found) = patient.heard(event_loop, began, found)? {
                states = found;
                break;
            }
        }
    }
}

/// One lock that was seen to be held.
#[derive(Default)]
struct Told {
    cadence: Cadence,
    /// Who held it, in order.
    holders: Vec<(LockId, Option<Box<LockInfo>>)>,
    last: Option<LockId>,
}

struct Wait<'a> {
    targets: &'a [LockTarget],
    call: WaitCall<'a>,
    began: Uptime,
    beats: Beats,
    waiters: HashMap<(String, Ticket), (u64, Uptime)>,
    told: HashMap<String, Told>,
    /// Where those are looked for next that may wait further down, of each lock where nobody was found so far.
    passed: Passed,
    /// Whether there are such places that were not looked at yet.
    looks_on: bool,
}

impl<'a> Wait<'a> {
    fn new(targets: &'a [LockTarget], call: WaitCall<'a>, began: Uptime) -> Self {
        let (beats, waiters, told) = (Beats::default(), HashMap::new(), HashMap::new());
        let passed = Passed::new();
        Self { targets, call, began, beats, waiters, told, passed, looks_on: false }
    }

    /// Whether nobody has any of them, and nobody waits where that counts; says who does.
    fn is_over(&mut self, event_loop: &EventLoop, states: &mut [LockState]) -> Result<bool, Error> {
        let now = uptime();
        self.beats.observe(states, now);
        let mut is_over = true;
        let passed = std::mem::take(&mut self.passed);
        self.looks_on = false;
        for state in states {
            self.forget_the_dead(state, now);
            if let Some(holding) = &state.holding {
                self.expect_another(&state.lock, holding)?;
                self.tell_of_the_holder(event_loop, &state.lock, holding, now);
                is_over = false;
            } else if self.call.args.line {
                let Waiting { known, more, rest } = Waiting::for_lock(state)?;
                if known > 0 || more > 0 {
                    self.tell_of_the_queue(event_loop, &state.lock, (known, more), now);
                    is_over = false;
                }
                let looks_on = known == 0 && more > 0;
                self.looks_on |= looks_on;
                let from = if looks_on { Some(rest) } else { passed.get(&state.lock).copied() };
                self.passed.extend(from.map(|from| (state.lock.clone(), from)));
            }
        }
        Ok(is_over)
    }

    /// Nobody who has gone is waited for: as in the queue itself, whoever shows no heartbeat for so
    /// long has.
    fn forget_the_dead(&mut self, state: &mut LockState, now: Uptime) {
        let QueueState::Known { waiters, .. } = &mut state.line else { return };
        waiters.retain(|(ticket, waiter)| {
            let seen = self.waiters.entry((state.lock.clone(), *ticket));
            let (beat, since) = seen.or_insert((waiter.beat, now));
            if *beat != waiter.beat {
                (*beat, *since) = (waiter.beat, now);
            }
            now.since(*since) < TICKET_TTL
        });
    }

    /// A lock that is held for this very command is not free before it has ended.
    fn expect_another(&self, lock: &str, holding: &Holding) -> Result<(), Error> {
        let id = holding.info.as_ref().map(|info| &info.id);
        match id.filter(|id| self.call.held.contains(id)) {
            None => Ok(()),
            Some(id) => Err(Error::NotFree {
                message: format!(
                    "the lock `{}` (ID {}) is held for this command by the `run` or `hold` around it, \
                     so it is not free before this command has ended",
                    clean_line(lock),
                    clean(&id.0)
                ),
                hint: Some(
                    "call `tfwrap wait` after the `run`, or after `tfwrap release`".to_owned(),
                ),
            }),
        }
    }

    fn tell_of_the_holder(
        &mut self,
        event_loop: &EventLoop,
        lock: &str,
        Holding { info, kept_by, .. }: &Holding,
        now: Uptime,
    ) {
        let told = self.told.entry(lock.to_owned()).or_default();
        let id = info.as_ref().map_or_else(|| LockId(String::new()), |info| info.id.clone());
        if told.holders.iter().all(|(known, _)| *known != id) {
            told.holders.push((id.clone(), info.clone()));
        }
        let changed = told.last.replace(id.clone()) != Some(id);
        if told.cadence.is_due(now, changed) {
            let silent = match kept_by {
                KeptBy::Lease { unchanged, .. } => *unchanged,
                KeptBy::Kernel | KeptBy::Nothing => None,
            };
            event_loop.say(Notice::Waiting {
                lock: lock.to_owned(),
                holder: info.clone(),
                waited: now.since(self.began),
                limit: self.call.limit,
                free: false,
                ahead: None,
                plans_ahead: None,
                silent,
                unanswered: None,
                estimate: None,
            });
        }
    }

    fn tell_of_the_queue(
        &mut self,
        event_loop: &EventLoop,
        lock: &str,
        (known, more): (u64, u64),
        now: Uptime,
    ) {
        let told = self.told.entry(lock.to_owned()).or_default();
        if told.cadence.is_due(now, told.last.take().is_some()) {
            // Not all of the numbers need be those of somebody.
            let up_to = if more > 0 { "up to " } else { "" };
            let message = format!(
                "the lock `{}` is free, but {up_to}{} for it; waited {} of {}",
                clean_line(lock),
                match known.saturating_add(more) {
                    1 => "1 run waits".to_owned(),
                    many => format!("{many} runs wait"),
                },
                duration::in_seconds(now.since(self.began)),
                duration::in_seconds(self.call.limit)
            );
            event_loop.say(Notice::Note { message });
        }
    }

    /// What became of each lock, and whom it was waited for.
    fn report(&self, states: &[LockState]) -> String {
        let mut text = String::new();
        for LockState { lock, .. } in states {
            let _ = write!(text, "{}: free", clean_line(lock));
            let Some(told) = self.told.get(lock) else {
                text.push('\n');
                continue;
            };
            let _ = writeln!(text, " after {}", duration::in_seconds(uptime().since(self.began)));
            for (_, holder) in &told.holders {
                let _ = writeln!(text, "  was {}", describe_holding(holder.as_deref(), wall()));
            }
        }
        text
    }

    fn not_free(&self, states: &[LockState]) -> Error {
        let held = states.iter().find_map(|it| Some((&it.lock, it.holding.as_ref()?)));
        let limit = duration::in_seconds(self.call.limit);
        let found = |it: &LockState| match &it.line {
            QueueState::Known { waiters, .. } => !waiters.is_empty(),
            QueueState::Unasked | QueueState::Unreadable => false,
        };
        let may = if states.iter().any(found) { "" } else { "may " };
        let message = match held {
            Some((lock, holding)) => format!(
                "not free within {limit}: `{}` is {}",
                clean_line(lock),
                describe_holding(holding.info.as_deref(), wall())
            ),
            None => format!("not free within {limit}: others {may}wait for the lock"),
        };
        let hint = held.and_then(|(lock, holding)| {
            let target = self.targets.iter().find(|target| target.url() == *lock)?;
            let id = holding.info.as_ref().map(|info| &info.id).filter(|id| !id.0.is_empty());
            after_the_wait(target, id, holding.nameless_removal.clone(), true)
        });
        let hint = hint.unwrap_or_else(|| "wait longer with `--lock-timeout`".to_owned());
        Error::NotFree { message, hint: Some(hint) }
    }
}

/// How many wait for a lock.
struct Waiting {
    known: u64,
    /// In the places that were not looked at, at most.
    more: u64,
    /// The first of those.
    rest: Ticket,
}

impl Waiting {
    fn for_lock(state: &LockState) -> Result<Self, Error> {
        match &state.line {
            QueueState::Unasked => Ok(Self { known: 0, more: 0, rest: Ticket(0) }),
            QueueState::Known { waiters, more, rest } => {
                Ok(Self { known: waiters.len() as u64, more: *more, rest: *rest })
            }
            QueueState::Unreadable => Err(Error::Config {
                message: format!(
                    "`--line` waits for the queue of the lock `{}`, which cannot be read: access denied",
                    clean_line(&state.lock)
                ),
                hint: Some(
                    "`tfwrap table policy` prints the permissions; or leave `--line` out"
                        .to_owned(),
                ),
            }),
        }
    }
}
