//! The keeper of a `hold`: it acquires the locks as a run does, and keeps them until it is told to
//! release them, or nobody is left who could tell it.
//!
//! Its rules: `docs/protocol.md#t7-hold-and-release`.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt as _;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::acquire::Wait;
use super::context::{Acquired, Context};
use super::event_loop::EventLoop;
use super::telemetry::{self, RunTimes};
use super::{conclude, dependents, history, release, take_all};
use crate::clock::{uptime, wall};
use crate::duration;
use crate::error::Error;
use crate::exit_code;
use crate::held;
use crate::job::{LockedJob, nothing_to_hold};
use crate::lock::release::ReleaseOutcome;
use crate::receipt::ReceiptFile;
use crate::report::{Notice, RunOutcome};
use crate::supervise::locked_run::{self, NotStarted};
use crate::supervise::{LockedRun, ProcessId};

/// What a hold is called in its lock.
pub(crate) const OPERATION: &str = "hold";

/// How often is looked whether the job is over.
const LOOK: Duration = Duration::from_secs(1);

/// What the commands under the hold need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handed {
    /// What goes into their environment, but for `PATH`.
    pub(crate) env: Vec<(String, String)>,
    /// What goes first in their `PATH`.
    #[serde(with = "crate::path_text")]
    pub(crate) path: PathBuf,
    /// Lock and ID of each.
    pub(crate) locks: Vec<(String, String)>,
}

/// When a hold ends by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_hold: Duration,
    /// The process whose end is the job's.
    pub(crate) anchor: Option<ProcessId>,
}

/// Takes the locks, hands over, keeps them, gives them back; returns the exit code.
pub(crate) async fn hold(
    event_loop: &mut EventLoop,
    mut job: LockedJob,
    context: &Context,
    limits: Limits,
    hand_over: impl FnOnce(&Handed) -> Result<(), String>,
) -> u8 {
    let limit = job.lock_timeout.value;
    let (started, asked) = (uptime(), wall());
    let wait = Wait { give_up_at: started.plus(limit), limit };
    let mut granted = None;
    let mut acquired = Acquired::default();
    event_loop.run = LockedRun::new(context.lost_is_fatal);
    let kept = AssertUnwindSafe(async {
        take_all::take_all(event_loop, &mut job, context, wait, &mut acquired).await?;
        // Where each Terraform has to lock for itself, a keeper would keep nothing.
        if event_loop.kept.is_empty() && acquired.inherited.is_empty() {
            return Err(nothing_to_hold());
        }
        granted = Some(uptime());
        event_loop.custody.expect_receipt()?;
        // A command in it goes by what is declared, and may stand still before our first heartbeat.
        event_loop.declare_leases();
        hand_over(&handed(event_loop, &job, context, &acquired)).map_err(Error::Internal)?;
        Ok(keep(event_loop, limits, &context.state_dir).await)
    });
    // Whatever happens, what was taken is given back.
    let ended = kept.catch_unwind().await;
    event_loop.abandon();
    let ended_at = uptime();
    let releases = release::all(event_loop, Some(&context.state_dir), true).await;
    let over = uptime();
    let gone = |it: &ReleaseOutcome| {
        matches!(it, ReleaseOutcome::AlreadyGone | ReleaseOutcome::TakenOver(_))
    };
    let was_lost = matches!(ended, Ok(Ok(End::Lost))) || releases.iter().any(gone);
    // Nobody was there to hear why it ended by itself: whoever comes for it is to be told.
    if was_lost || matches!(ended, Ok(Ok(End::ByItself))) {
        event_loop.custody.leave_word();
    }
    for notice in event_loop.custody.finish() {
        event_loop.say(notice);
    }
    let (code, outcome) = match ended {
        Err(_) => (exit_code::BUG, RunOutcome::Error),
        Ok(Err(error)) => {
            let code = exit_code::of_error(&error);
            let (message, hint) = (error.to_string(), error.hint());
            event_loop.say(Notice::Error { message, hint, code });
            (code, conclude::of_error(&error))
        }
        Ok(Ok(_)) if was_lost => (exit_code::LOST, RunOutcome::Lost),
        Ok(Ok(_)) if releases.iter().any(|it| matches!(it, ReleaseOutcome::Unconfirmed(_))) => {
            (exit_code::NOT_RELEASED, RunOutcome::NotReleased)
        }
        Ok(Ok(_)) => (0, RunOutcome::Success),
    };
    let end = history::End { outcome, code, over };
    let run = RunTimes { started, asked, granted, ended: ended_at, end };
    let spans = telemetry::send(&job, context, &run, acquired.holder.as_ref());
    let history = history::write(event_loop, &job, context, &acquired.requests, end);
    let (unsent, ()) = tokio::join!(spans, history);
    telemetry::say(event_loop, unsent);
    code
}

fn handed(
    event_loop: &EventLoop,
    job: &LockedJob,
    context: &Context,
    acquired: &Acquired,
) -> Handed {
    let mut held = context.held.clone();
    let mut locks = Vec::new();
    let own = || event_loop.kept.iter().filter(|kept| !kept.tenure.is_inherited());
    // What an earlier hold had under the same name is over.
    held.forget(own().map(|kept| kept.target.url()));
    for kept in own() {
        held.add(kept.target.url(), kept.id().clone());
        locks.push((kept.target.url(), kept.id().0.clone()));
    }
    let holds = holds(event_loop, context, acquired).join(" ");
    let mut env =
        vec![(held::VARIABLE.to_owned(), held.to_value()), (held::HOLDS.to_owned(), holds)];
    let others = job.child.env.iter().filter(|(name, _)| name != "PATH");
    env.extend(
        others.map(|(name, value)| (name.to_string(), value.to_string_lossy().into_owned())),
    );
    Handed { env, path: job.kind.shim().map(Path::to_owned).unwrap_or_default(), locks }
}

/// The holds that a `release` in our environment ends: us, and those beside us, which have locks of
/// other states. One around us, whose lock we have, ends in its own environment.
fn holds(event_loop: &EventLoop, context: &Context, acquired: &Acquired) -> Vec<String> {
    let mut holds = held::holds(&context.env);
    let known = ReceiptFile::all_in(&context.state_dir).unwrap_or_default();
    let is_below = !acquired.inherited.is_empty();
    holds.retain(|name| !is_below && known.iter().any(|file| file.name() == Some(name)));
    holds.extend(event_loop.custody.file().and_then(|file| file.name().map(ToOwned::to_owned)));
    holds
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Somebody said so.
    Told,
    /// The job is over, or its time.
    ByItself,
    /// The lock is somebody else's, or gone.
    Lost,
}

/// Beats until there is a reason not to.
async fn keep(event_loop: &mut EventLoop, limits: Limits, dir: &Path) -> End {
    let until = uptime().plus(limits.max_hold);
    let say = |event_loop: &EventLoop, message: String| event_loop.say(Notice::Note { message });
    event_loop.run.hold();
    loop {
        let happening = event_loop.next(Some(uptime().plus(LOOK).min(until)), None).await;
        let mut stopped_by = None;
        for action in event_loop.decide_on(&happening) {
            match action {
                // Whoever runs under it finds out by its own beats, but has none where the lease
                // never expires.
                locked_run::Action::EndDependents => {
                    let lost = event_loop.lost().map(|kept| kept.id().clone());
                    for receipt in dependents::living(dir, lost.as_slice()) {
                        drop(receipt.runner.signal(Signal::SIGTERM));
                    }
                }
                locked_run::Action::End(NotStarted::Stopped(signal)) => stopped_by = Some(signal),
                locked_run::Action::End(_) => return End::Lost,
                _ => {}
            }
        }
        if event_loop.custody.is_release_asked() {
            say(event_loop, "asked to release the lock: the hold ends".to_owned());
            return End::Told;
        }
        if let Some(signal) = stopped_by {
            say(event_loop, format!("{}: the hold ends", signal.signal().as_str()));
            return End::Told;
        }
        dependents::mend(event_loop, dir);
        if limits.anchor.is_some_and(|anchor| !anchor.is_alive()) {
            say(event_loop, "the job is over: the hold ends".to_owned());
            return End::ByItself;
        }
        if uptime() >= until {
            let limit = duration::format(limits.max_hold);
            say(event_loop, format!("held for {limit}, the maximum that `--max-hold` allows"));
            return End::ByItself;
        }
    }
}
