//! Looking at the run of a receipt that may still be at work: at its processes, or, where they
//! cannot be seen, at its locks.

use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Recovery, run_of};
use crate::clock::uptime;
use crate::duration;
use crate::env::Env;
use crate::error::Error;
use crate::lock::Uptime;
use crate::lock::lease::Lease;
use crate::receipt::{Entry, Receipt, ReceiptFile, starting};
use crate::report::Notice;
use crate::run::orphan::complete;
use crate::run::standstill::{self, Standstill};
use crate::run::{EventLoop, store_requests};
use crate::supervise::ending::Interrupts;
use crate::supervise::{HostScope, ProcessId, Sight};

/// Between two looks at processes.
const LOOK: Duration = Duration::from_millis(200);

/// How much of the wait is kept for a child that does not end by itself: to kill it, to let its
/// last request settle, and to give the lock back.
const LAST_PART: Duration = Duration::from_secs(10);

/// Whole seconds, rounded up.
pub(super) fn whole(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX).div_ceil(1000) * 1000)
}

/// A run that its tfwrap, or its guardian, has yet to end.
pub(super) struct Unended {
    /// In what way.
    pub(super) what: String,
    /// What helps, where that one can do nothing.
    pub(super) hint: Option<String>,
}

pub(super) fn unended(receipt: &Receipt) -> Option<Unended> {
    let (run, stopped) = (run_of(receipt), standstill::of(receipt));
    let guardian = receipt.guardian.filter(|guardian| guardian.is_alive());
    let what = match (receipt.runner.is_alive(), guardian) {
        (true, _) if stopped.is_some() => format!("{run} is stopped by a signal"),
        (true, _) => format!("{run} still runs"),
        (false, Some(guardian)) if stopped.is_some() => format!(
            "{run} is gone, and its guardian (process {}), which would finish what it left, is \
             stopped by a signal",
            guardian.pid
        ),
        (false, Some(guardian)) => {
            format!(
                "{run} is gone, and its guardian (process {}) finishes what it left",
                guardian.pid
            )
        }
        (false, None) => return None,
    };
    let hint = stopped.map(|it| format!("`{}` continues it", standstill::go_on_command(it)));
    Some(Unended { what, hint })
}

/// Waits for a run of this job to end: the step is over, so nobody else does. One that nobody has
/// told to end is told; a child that does not is killed while there is time to give the lock back.
pub(super) async fn wait_for(
    event_loop: &mut EventLoop,
    receipt: &Receipt,
    file: &ReceiptFile,
    until: Uptime,
) -> Result<(), Error> {
    let last_part = LAST_PART.min(until.since(uptime()) / 3);
    let mut told = false;
    let mut killed = false;
    let mut stood_still = Standstill::default();
    let mut child = receipt.child;
    loop {
        let runs = receipt.runner.is_alive();
        let guarded = receipt.guardian.is_some_and(ProcessId::is_alive);
        if !runs && !guarded {
            return Ok(());
        }
        if !std::mem::replace(&mut told, true) {
            let span = duration::format(whole(until.since(uptime())));
            // More than was asked for, maybe.
            let why = if receipt.is_hold { ", as long as a release may take" } else { "" };
            event_loop.say(Notice::Note {
                message: format!("waiting for {} to end, up to {span}{why}", run_of(receipt)),
            });
            // Holds were told already.
            if runs && !receipt.is_hold {
                ask_to_end(event_loop, file, receipt);
            }
        }
        stood_still.end(event_loop, receipt, true);
        let now = uptime();
        if now >= until {
            return Ok(());
        }
        if let Ok(newer) = file.read() {
            child = newer.child;
        }
        let is_late = now.plus(last_part) >= until;
        if let (true, false, Some(child)) = (is_late, killed, child) {
            killed = true;
            event_loop.say(
                Notice::warning(format!("killed {}: the wait is over", child.whom()))
                    .with_hint("check the state with `terraform plan`".to_owned()),
            );
            drop(child.signal(Signal::SIGKILL));
        }
        event_loop.pause(uptime().plus(LOOK.min(until.since(now)))).await?;
    }
}

/// What a run that was killed was about to start appears soon, or never does.
pub(super) async fn wait_for_start(
    event_loop: &mut EventLoop,
    file: &ReceiptFile,
) -> Result<(), Error> {
    let until = uptime().plus(starting::MAY_APPEAR_FOR).plus(LOOK);
    let is_open =
        |receipt: Receipt| receipt.starting_since.is_some() && unended(&receipt).is_none();
    while uptime() < until && file.read().is_ok_and(is_open) {
        event_loop.pause(uptime().plus(LOOK)).await?;
    }
    Ok(())
}

pub(super) fn tell_holds(event_loop: &EventLoop, recovery: &Recovery<'_>, files: &[ReceiptFile]) {
    let Some(here) = HostScope::here() else { return };
    for (file, receipt) in files.iter().filter_map(|file| Some((file, file.read().ok()?))) {
        let is_here = receipt.world.seen_from(&here) == Sight::Here;
        if receipt.is_hold && is_here && recovery.may_end(&receipt) {
            ask_to_end(event_loop, file, &receipt);
        }
    }
}

/// Asks a run to end, once: what it was sent stands beside its receipt, or in it, before. A hold is
/// asked for its release, which it can be any number of times.
fn ask_to_end(event_loop: &EventLoop, file: &ReceiptFile, receipt: &Receipt) {
    let pid = receipt.runner.pid;
    let was_told =
        || receipt.interrupts != Interrupts::None || matches!(file.note_told(), Ok(false));
    let asked = if receipt.is_hold {
        ask_for_release(file, receipt).map(|_| true)
    } else if was_told() {
        let message = format!("process {pid} has already been asked to end: not asking again");
        event_loop.say(Notice::Note { message });
        return;
    } else {
        receipt.runner.signal(Signal::SIGTERM)
    };
    match asked {
        Ok(true) => {
            event_loop.say(Notice::Note { message: format!("asked process {pid} to end") });
        }
        Ok(false) => {}
        Err(error) => event_loop
            .say(Notice::warning(format!("process {pid} could not be asked to end: {error}"))),
    }
}

/// Asks a keeper to give back what it holds: a word of its own, since a second signal would be
/// passed on to whoever runs under the hold. Returns whether nobody had asked before.
pub(in crate::subcommand) fn ask_for_release(
    file: &ReceiptFile,
    receipt: &Receipt,
) -> io::Result<bool> {
    let is_first = file.ask_for_release()?;
    // Wakes it, and its guardian; one that was stopped could not hear.
    for process in [Some(receipt.runner), receipt.guardian].into_iter().flatten() {
        process.signal(Signal::SIGCONT)?;
    }
    Ok(is_first)
}

/// What the dead declared for a lock that is still theirs. While their child is ended, it is kept
/// just so: whoever does that may be killed, too, and then it must expire.
pub(super) async fn lease_of(
    event_loop: &mut EventLoop,
    entry: &Entry,
    receipt: &Receipt,
    env: &Env,
) -> Result<Option<Lease>, Error> {
    let target = complete(entry, receipt, env);
    if entry.inherited || !target.has_lease() {
        return Ok(None);
    }
    let register = store_requests::LockRegister::open(&target).await?;
    let stored = store_requests::read(event_loop, &register, store_requests::PATIENCE).await?;
    let record = stored.map(|stored| stored.record).filter(|it| it.is_held_by(&entry.id));
    Ok(record.and_then(|record| Lease::parse(record.lease.as_deref()?)))
}
