//! Looking at the run of a receipt that may still be at work: at its processes, or, where they
//! cannot be seen, at its locks.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Recovery, run_of};
use crate::clock::uptime;
use crate::duration;
use crate::env::Env;
use crate::error::Error;
use crate::lock::Uptime;
use crate::lock::lease::Lease;
use crate::receipt::{Entry, Receipt, ReceiptFile};
use crate::report::Notice;
use crate::run::adopt::complete;
use crate::run::{Shell, look};
use crate::supervise::{ProcessId, Sight, World};

/// Between two looks at processes.
const LOOK: Duration = Duration::from_millis(200);

/// How much of the wait is kept for a child that does not end by itself: to kill it, to let its
/// last request settle, and to give the lock back.
const LAST_PART: Duration = Duration::from_secs(10);

/// Waits for a run of this job to end: the step is over, so nobody else does. One that nobody has
/// told to end is told; a child that does not is killed while there is time to give the lock back.
pub(super) async fn wait_for(
    shell: &mut Shell,
    receipt: &Receipt,
    file: &ReceiptFile,
    until: Uptime,
) -> Result<(), Error> {
    let last_part = LAST_PART.min(until.since(uptime()) / 3);
    let mut told = false;
    let mut killed = false;
    let mut child = receipt.child;
    loop {
        let runs = receipt.runner.is_alive();
        let guarded = receipt.guardian.is_some_and(ProcessId::is_alive);
        if !runs && !guarded {
            return Ok(());
        }
        if !std::mem::replace(&mut told, true) {
            shell.say(Notice::Note {
                message: format!("waiting for the end of {}", run_of(receipt)),
            });
            // Holds were told already.
            if runs && !receipt.is_hold {
                ask_to_end(shell, receipt);
            }
        }
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
            shell.say(Notice::Warning {
                message: format!(
                    "killed the child, process {}: the wait is over",
                    child.leader.pid
                ),
                hint: Some("check the state with `terraform plan`".to_owned()),
            });
            drop(child.signal(Signal::SIGKILL));
        }
        look::pause(shell, LOOK.min(until.since(now))).await?;
    }
}

pub(super) fn tell_holds(shell: &Shell, recovery: &Recovery<'_>, files: &[ReceiptFile]) {
    let Some(here) = World::here() else { return };
    for receipt in files.iter().filter_map(|file| file.read().ok()) {
        let is_here = receipt.world.seen_from(&here) == Sight::Here;
        if receipt.is_hold && is_here && recovery.may_end(&receipt) {
            ask_to_end(shell, &receipt);
        }
    }
}

fn ask_to_end(shell: &Shell, receipt: &Receipt) {
    match receipt.runner.signal(Signal::SIGTERM) {
        Ok(true) => shell
            .say(Notice::Note { message: format!("asked process {} to end", receipt.runner.pid) }),
        Ok(false) => {}
        Err(error) => shell.say(Notice::Warning {
            message: format!("process {} could not be asked to end: {error}", receipt.runner.pid),
            hint: None,
        }),
    }
}

/// What the dead declared for a lock that is still theirs. While their child is ended, it is kept
/// just so: whoever does that may be killed, too, and then it must expire.
pub(super) async fn lease_of(
    shell: &mut Shell,
    entry: &Entry,
    receipt: &Receipt,
    env: &Env,
) -> Result<Option<Lease>, Error> {
    let target = complete(entry, receipt, env);
    if entry.inherited || !target.has_lease() {
        return Ok(None);
    }
    let lock = target.url();
    let store =
        target.open().await.map_err(|source| Error::Store { lock: lock.clone(), source })?;
    let register = look::Register { lock, store, key: target.key.clone() };
    let stored = look::read(shell, &register, look::PATIENCE).await?;
    let record = stored.map(|stored| stored.record).filter(|it| it.is_held_by(&entry.id));
    Ok(record.and_then(|record| Lease::parse(record.lease.as_deref()?)))
}

/// Whether any lock of the receipt shows a sign of life within two beats.
pub(super) async fn beats(shell: &mut Shell, receipt: &Receipt, env: &Env) -> Result<bool, Error> {
    for entry in receipt.locks.iter().filter(|entry| !entry.inherited) {
        let target = complete(entry, receipt, env);
        if !target.has_lease() {
            continue;
        }
        let lock = target.url();
        let store =
            target.open().await.map_err(|source| Error::Store { lock: lock.clone(), source })?;
        let register = look::Register { lock, store, key: target.key.clone() };
        let Some(first) = look::read(shell, &register, look::PATIENCE).await? else { continue };
        let lease = first.record.lease.as_deref().and_then(Lease::parse);
        let (true, Some(lease)) = (first.record.is_held_by(&entry.id), lease) else { continue };
        let span = lease.term.period() * 2 + Duration::from_secs(2);
        let until = uptime().plus(span);
        shell.say(Notice::Note {
            message: format!(
                "{} cannot be seen from here: watching its lock `{}` for a heartbeat, {} at most",
                run_of(receipt),
                register.lock,
                duration::format(span)
            ),
        });
        while uptime() < until {
            look::pause(shell, Duration::from_secs(1)).await?;
            match look::read(shell, &register, look::PATIENCE).await? {
                Some(now) if !now.record.is_held_by(&entry.id) => break,
                Some(now) if now.version != first.version => return Ok(true),
                Some(_) => {}
                None => break,
            }
        }
    }
    Ok(false)
}
