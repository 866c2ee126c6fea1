//! The shell: acquire, supervise, release. The only `select!` that decides is in [`shell`]; nothing between
//! acquire and release returns early.

mod acquire;
pub(crate) mod adopt;
mod conclude;
pub(crate) mod dependents;
mod door;
mod fail_point;
mod fresh;
pub(crate) mod guard;
pub(crate) mod hold;
mod inherit;
pub(crate) mod look;
mod prepare;
mod release;
mod shell;
mod supervise;
mod turn;
mod voice;
mod workspace;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use acquire::Introduction;
use acquire::{Grant, Wait};
use fresh::Watch;
use futures_util::FutureExt;
pub(crate) use shell::Shell;
use shell::{Happening, Kept};
pub(crate) use supervise::of_spawn;
use workspace::Ready;

use crate::clock::{uptime, wall};
use crate::env::Env;
use crate::error::Error;
use crate::held::{self, Held};
use crate::job::{ChildCommand, LockedJob};
use crate::lock::keeper::News;
use crate::lock::release::ReleaseOutcome;
use crate::lock::{Holder, LockId, Uptime};
use crate::report::Notice;
use crate::report::github::Files;
use crate::start::Planner;
use crate::store::StateObject;
use crate::supervise::{ChildStatus, Policy, StopSignal, TerminalUse};

/// How often the wait may begin anew because what was resolved before it is no longer so.
const RESTARTS: u32 = 3;

/// What a locked run needs besides the job.
pub(crate) struct Context {
    pub(crate) policy: Policy,
    pub(crate) terminal_use: TerminalUse,
    pub(crate) env: Env,
    /// Where receipts lie.
    pub(crate) state_dir: PathBuf,
    pub(crate) introduction: Introduction,
    pub(crate) held: Held,
    /// With `--on-lock-lost stop`.
    pub(crate) lost_is_fatal: bool,
    /// GitHub's files.
    pub(crate) files: Option<Files>,
    /// Resolves all anew.
    pub(crate) planner: Planner,
}

/// How a run ended.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the run")]
struct RunReport {
    child: Option<ChildStatus>,
    error: Option<Error>,
    releases: Vec<ReleaseOutcome>,
    asked: jiff::Timestamp,
    waited: Duration,
    held: Duration,
    /// The ID of the lock that was taken last.
    id: Option<String>,
    /// Who held it before.
    holder: Option<Holder>,
    contended: bool,
    stopped: bool,
    /// The lock was lost while the child ran, or its fence stopped the child.
    lost: bool,
    panicked: bool,
}

/// Runs the child under its locks and returns the exit code. Everything that was taken is given
/// back before this returns.
pub(crate) async fn locked(shell: &mut Shell, mut job: LockedJob, context: &Context) -> u8 {
    shell.guard.outlives_loss = !context.lost_is_fatal;
    let (started, asked) = (uptime(), wall());
    let limit = job.lock_timeout.value;
    let wait = Wait { give_up_at: started.plus(limit), limit };
    let mut acquired = Acquired::default();
    let acquiring = acquire_all(shell, &mut job, context, wait, &mut acquired);
    let (failure, panicked) = match AssertUnwindSafe(acquiring).catch_unwind().await {
        Ok(result) => (result.err(), false),
        Err(_) => (None, true),
    };
    let Acquired { inherited, contended, holder, left } = acquired;
    let mut report = RunReport {
        child: None,
        error: failure,
        releases: left,
        asked,
        waited: uptime().since(started),
        held: Duration::ZERO,
        id: shell.kept.last().map(|kept| kept.grant.id.0.clone()),
        holder,
        contended,
        stopped: false,
        lost: false,
        panicked,
    };
    let since = uptime();
    if report.error.is_none() && !report.panicked {
        announce(shell, context);
        let child = child_command(shell, &job, &inherited, context, wait.give_up_at);
        // The child's handle lives out here: after a panic it is still there to be ended.
        let mut slot = None;
        let watch = Watch::over(&job, context);
        let ran = supervise::run(shell, &child, context, watch, &mut slot);
        match AssertUnwindSafe(ran).catch_unwind().await {
            Ok(Ok(ended)) => {
                report.child = Some(ended.status);
                report.stopped = ended.stopped;
                report.lost = ended.lost;
            }
            Ok(Err(error)) => report.error = Some(error),
            Err(_) => {
                report.panicked = true;
                if let Some(child) = &mut slot {
                    supervise::last_resort(child).await;
                }
            }
        }
    }
    shell.abandon();
    let dependents_in = job.around_command.then_some(context.state_dir.as_path());
    let worth_saying = report.stopped || report.panicked || report.error.is_some();
    report.releases.extend(release::all(shell, dependents_in, worth_saying).await);
    if let Some(Error::Interrupted { leftover, .. }) = &mut report.error
        && report.releases.iter().any(|it| matches!(it, ReleaseOutcome::Unconfirmed(_)))
    {
        "; a lock is left behind, as said above".clone_into(leftover);
    }
    for notice in shell.guard.finish() {
        shell.say(notice);
    }
    report.held = report.id.as_ref().map_or(Duration::ZERO, |_| uptime().since(since));
    conclude::conclude(shell, &job, context, &report)
}

/// What is known after the locks were taken, besides the locks themselves ([`Shell::kept`]).
#[derive(Default)]
struct Acquired {
    /// Held by an outer tfwrap, under these IDs.
    inherited: Vec<LockId>,
    contended: bool,
    /// Who held a lock when we last looked and it was not ours.
    holder: Option<Holder>,
    /// Of locks that could not be given back before all began anew.
    left: Vec<ReleaseOutcome>,
}

/// Takes what the job needs; what changed meanwhile makes it another job. When this returns, the
/// locks are confirmed and right for what Terraform would read now.
async fn acquire_all(
    shell: &mut Shell,
    job: &mut LockedJob,
    context: &Context,
    wait: Wait,
    acquired: &mut Acquired,
) -> Result<(), Error> {
    let mut restarts = 0;
    if !context.held.is_empty()
        && let Some(above) = dependents::stopping_above(&context.state_dir)
    {
        shell.say(Notice::Note {
            message: format!("process {above} was asked to end: nothing is started below it"),
        });
        return Err(interrupted(StopSignal::Interrupt));
    }
    loop {
        beware_of_the_trap(shell, job, context, wait).await?;
        let mut waited_here = false;
        for target in &job.targets {
            let (around, had) = (job.around_command, &acquired.inherited);
            let id = inherit::inherit(shell, target, context, around, wait, had).await?;
            if let Some(id) = id {
                acquired.inherited.push(id);
                continue;
            }
            if fresh::is_ours(shell, target).await? {
                continue;
            }
            let taken = acquire::take(shell, target, &context.introduction, wait).await;
            if let Some(holder) = taken.seen {
                waited_here = true;
                acquired.contended = true;
                acquired.holder = Some(holder);
            }
            taken.result?;
            if job.around_command {
                dependents::let_in(shell, &context.state_dir);
            }
            fail_point::panic_at("acquired");
        }
        // Whoever held the lock before us may have deleted the workspace.
        let vanished = match &job.trap {
            Some(trap) if waited_here => {
                workspace::state(shell, trap).await? == Ok(StateObject::Missing)
            }
            _ => false,
        };
        let (change, now) = if vanished {
            ("the workspace was deleted".to_owned(), context.planner.again()?)
        } else {
            supervise::confirm(shell).await?;
            let Some(change) = fresh::change(job, context)? else {
                fail_point::stop_at("planned");
                return Ok(());
            };
            change
        };
        fresh::give_back(shell, job, context, acquired).await?;
        restarts += 1;
        if restarts > RESTARTS {
            return Err(fresh::never_at_rest(&change));
        }
        shell.say(Notice::Warning {
            message: format!(
                "while the lock was waited for, {change}: all is given back and begun anew"
            ),
            hint: None,
        });
        *job = now;
        shell.guard.works_in(&job.dir);
    }
}

/// Creates the workspace if it is missing; where the lock cannot be held for Terraform, leaves it
/// to Terraform and says so.
async fn beware_of_the_trap(
    shell: &mut Shell,
    job: &mut LockedJob,
    context: &Context,
    wait: Wait,
) -> Result<(), Error> {
    let Some(trap) = &job.trap else { return Ok(()) };
    let ready = workspace::ensure(shell, trap, context, wait);
    match ready.await? {
        Ready::Go => {}
        Ready::Native(said) => {
            shell.say(said);
            job.native = job.trap.take().and_then(|trap| trap.native);
            job.targets.retain(|target| !target.of_backend);
        }
    }
    Ok(())
}

/// Heeds what happens while nothing runs: a stop or a lost lock ends the wait, a suspension
/// suspends.
fn heed(shell: &mut Shell, happening: &Happening) -> Result<(), Error> {
    if let Happening::Lease(index, News::Lost(_)) = happening {
        return Err(lost(&shell.kept[*index].grant));
    }
    if let Some(signal) = stop(shell, happening) {
        return Err(interrupted(signal));
    }
    if happening.is_suspend() {
        supervise::suspend(shell);
    }
    Ok(())
}

/// The signal that asks us to end; or, for a hold that is not yet one, the word for its release.
fn stop(shell: &Shell, happening: &Happening) -> Option<StopSignal> {
    happening.stop().or_else(|| shell.guard.is_release_asked().then_some(StopSignal::Terminate))
}

/// The error of a run that did not begin, for the loss of a lock.
fn lost(grant: &Grant) -> Error {
    Error::Lost { lock: grant.target.url() }
}

fn interrupted(signal: StopSignal) -> Error {
    let signal = signal.signal();
    Error::Interrupted {
        signal: signal as i32,
        name: signal.as_str().to_owned(),
        leftover: ", nothing is left behind".to_owned(),
    }
}

/// Sleeps, but for signals.
async fn pause(shell: &mut Shell, until: Uptime) -> Result<(), Error> {
    while uptime() < until {
        let happening = shell.next(Some(until), None).await;
        heed(shell, &happening)?;
    }
    Ok(())
}

/// Tells GitHub the lock's ID before the child starts, so that a later step has it whatever
/// happens.
fn announce(shell: &Shell, context: &Context) {
    if let (Some(files), Some(kept)) = (&context.files, shell.kept.last())
        && let Err(error) = files.write_lock_id(&kept.grant.id.0)
    {
        shell.say(Notice::Warning { message: error.to_string(), hint: None });
    }
}

/// The child with what it has to know: which locks are held for it.
fn child_command(
    shell: &Shell,
    job: &LockedJob,
    inherited: &[LockId],
    context: &Context,
    give_up_at: Uptime,
) -> ChildCommand {
    let mut child = job.child.clone();
    if let Some(native) = &job.native {
        child.args = native.argv_with_lock_timeout(give_up_at.since(uptime()));
    }
    let mut held = context.held.clone();
    for Kept { grant, .. } in &shell.kept {
        held.add(grant.target.url(), grant.id.clone());
    }
    if !job.around_command {
        // A Terraform started by this Terraform (a provisioner) must not take our lock for leave
        // to write the same state beside it.
        let ours = shell.kept.iter().map(|kept| &kept.grant.id);
        ours.chain(inherited).for_each(|id| held.forget_id(id));
    }
    child.env.push((held::VARIABLE.into(), held.to_value().into()));
    child
}
