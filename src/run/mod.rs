//! A locked run: acquire, supervise, release. The only `select!` that decides is in [`event_loop`];
//! nothing between acquire and release returns early.

mod acquire;
pub(crate) mod child_process;
mod conclude;
pub(crate) mod custody;
pub(crate) mod dependents;
mod door;
mod event_loop;
mod fail_point;
mod fresh;
pub(crate) mod hold;
mod inherit;
mod kept;
mod messages;
pub(crate) mod orphan;
pub(crate) mod planner;
mod prepare;
mod release;
mod sibling_lock;
pub(crate) mod standstill;
pub(crate) mod store_requests;
mod supervise;
mod workspace;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use acquire::LockInfoTemplate;
use acquire::Wait;
pub(crate) use event_loop::EventLoop;
use fresh::ChangeWatch;
use futures_util::FutureExt;
use kept::Kept;
use supervise::ChildEnd;
pub(crate) use supervise::of_spawn;
use workspace::Ready;

use crate::clock::{uptime, wall};
use crate::env::Env;
use crate::error::{Error, Leftover};
use crate::held::{self, Held};
use crate::job::{ChildCommand, LockedJob};
use crate::lock::release::ReleaseOutcome;
use crate::lock::{Holder, LockId, Uptime};
use crate::report::Notice;
use crate::report::github::GithubFiles;
use crate::run::planner::Planner;
use crate::store::StateObject;
use crate::supervise::{LockedRun, Policy, StopSignal, TerminalUse};
use crate::target::LockTarget;

/// How often the wait may begin anew because what was resolved before it is no longer so.
const RESTARTS: u32 = 3;

/// What a locked run needs besides the job.
pub(crate) struct Context {
    pub(crate) policy: Policy,
    pub(crate) terminal_use: TerminalUse,
    pub(crate) env: Env,
    /// Where receipts lie.
    pub(crate) state_dir: PathBuf,
    pub(crate) introduction: LockInfoTemplate,
    pub(crate) held: Held,
    /// With `--on-lock-lost stop`.
    pub(crate) lost_is_fatal: bool,
    /// GitHub's files.
    pub(crate) files: Option<GithubFiles>,
    /// Resolves all anew.
    pub(crate) planner: Planner,
}

/// How a run ended.
enum RunEnd {
    /// With its child.
    Child(ChildEnd),
    /// The child was not started, or could not be watched to its end.
    Failed(Error),
    /// By a bug of ours.
    Panicked,
}

impl RunEnd {
    /// Nothing is said of a run that went as it should.
    fn is_worth_saying(&self) -> bool {
        match self {
            Self::Child(child) => child.stopped,
            Self::Failed(_) | Self::Panicked => true,
        }
    }
}

/// What is said and written of a run that is over.
struct RunReport {
    end: RunEnd,
    releases: Vec<ReleaseOutcome>,
    /// When the locks were asked for.
    asked: jiff::Timestamp,
    /// How long they were waited for.
    waited: Duration,
    /// How long they were held; zero where none was.
    held: Duration,
    /// The ID of the lock that was taken last.
    id: Option<String>,
    /// Who held it before.
    holder: Option<Holder>,
    contended: bool,
}

/// Runs the child under its locks and returns the exit code. Everything that was taken is given
/// back before this returns.
pub(crate) async fn locked(
    event_loop: &mut EventLoop,
    mut job: LockedJob,
    context: &Context,
) -> u8 {
    event_loop.custody.outlives_loss = !context.lost_is_fatal;
    event_loop.run = LockedRun::new(context.lost_is_fatal);
    let (started, asked) = (uptime(), wall());
    let limit = job.lock_timeout.value;
    let wait = Wait { give_up_at: started.plus(limit), limit };
    let mut acquired = Acquired::default();
    let acquiring = acquire_all(event_loop, &mut job, context, wait, &mut acquired);
    let acquiring = AssertUnwindSafe(acquiring).catch_unwind().await;
    let (waited, since) = (uptime().since(started), uptime());
    let id = event_loop.kept.last().map(|kept| kept.id().0.clone());
    let mut end = match acquiring {
        Ok(Ok(())) => run_child(event_loop, &job, context, &acquired.inherited, wait).await,
        Ok(Err(error)) => RunEnd::Failed(error),
        Err(_) => RunEnd::Panicked,
    };
    event_loop.abandon();
    let dependents_in = job.kind.is_around_commands().then_some(context.state_dir.as_path());
    let mut releases = acquired.left;
    releases.extend(release::all(event_loop, dependents_in, end.is_worth_saying()).await);
    if let RunEnd::Failed(Error::Interrupted { leftover, .. }) = &mut end
        && releases.iter().any(|it| matches!(it, ReleaseOutcome::Unconfirmed(_)))
    {
        *leftover = Leftover::Lock;
    }
    for notice in event_loop.custody.finish() {
        event_loop.say(notice);
    }
    let report = RunReport {
        end,
        releases,
        asked,
        waited,
        held: id.as_ref().map_or(Duration::ZERO, |_| uptime().since(since)),
        id,
        holder: acquired.holder,
        contended: acquired.contended,
    };
    conclude::conclude(event_loop, &job, context, &report)
}

/// Starts the child under the locks and sees it to its end, whatever happens.
async fn run_child(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    inherited: &[LockId],
    wait: Wait,
) -> RunEnd {
    announce(event_loop, context);
    let child = child_command(event_loop, job, inherited, context, wait.give_up_at);
    // The child's handle lives out here: after a panic it is still there to be ended.
    let mut slot = None;
    let watch = ChangeWatch::over(job, context);
    let ran = supervise::run(event_loop, &child, context, watch, &mut slot);
    match AssertUnwindSafe(ran).catch_unwind().await {
        Ok(Ok(ended)) => RunEnd::Child(ended),
        Ok(Err(error)) => RunEnd::Failed(error),
        Err(_) => {
            if let Some(child) = &mut slot {
                supervise::last_resort(child).await;
            }
            RunEnd::Panicked
        }
    }
}

/// What is known after the locks were taken, besides the locks themselves ([`EventLoop::kept`]).
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
    event_loop: &mut EventLoop,
    job: &mut LockedJob,
    context: &Context,
    wait: Wait,
    acquired: &mut Acquired,
) -> Result<(), Error> {
    let (mut restarts, mut in_vain) = (0, 0);
    if !context.held.is_empty()
        && let Some(above) = dependents::stopping_above(&context.state_dir)
    {
        event_loop.say(Notice::Note {
            message: format!("process {above} was asked to end: nothing is started below it"),
        });
        return Err(interrupted(StopSignal::Interrupt));
    }
    loop {
        let uncreated = ensure_workspace(event_loop, job, context).await?;
        let mut waited_here = false;
        for halves in LockTarget::locks(&job.targets) {
            let mut wanted = Vec::new();
            for target in halves {
                let (around, had) = (job.kind.is_around_commands(), &acquired.inherited);
                let id = inherit::inherit(event_loop, target, context, around, wait, had).await?;
                match id {
                    Some(id) => acquired.inherited.push(id),
                    None if fresh::is_ours(event_loop, target).await? => {}
                    None => wanted.push(target),
                }
            }
            let Some(target) = wanted.last() else { continue };
            let taken = acquire::take(event_loop, &wanted, &context.introduction, wait).await;
            let failed = |error| match &uncreated {
                Some(_) if target.of_backend => {
                    messages::timed_out_uncreated(error, taken.seen.as_ref())
                }
                _ => error,
            };
            let result = taken.result.map_err(failed);
            if let Some(holder) = taken.seen {
                waited_here = true;
                acquired.contended = true;
                acquired.holder = Some(holder);
            }
            result?;
            if job.kind.is_around_commands() {
                dependents::let_in(event_loop, &context.state_dir);
            }
            fail_point::panic_at("acquired");
        }
        // Whoever held the lock before us may have deleted the workspace, or created it.
        let missing = match &job.bootstrap {
            Some(bootstrap) if waited_here || uncreated.is_some() => {
                workspace::state(event_loop, bootstrap).await? == Ok(StateObject::Missing)
            }
            _ => false,
        };
        let (change, mut now) = if missing {
            ("the workspace was deleted".to_owned(), context.planner.again()?)
        } else {
            event_loop.confirm().await?;
            let Some(change) = fresh::change(job, context)? else {
                fail_point::stop_at("planned");
                return Ok(());
            };
            change
        };
        fresh::give_back(event_loop, job, context, acquired).await?;
        if missing && let Some(why) = uncreated {
            // Nothing changed: now Terraform can have the lock that it could not have before.
            in_vain += u32::from(!waited_here || uptime() >= wait.give_up_at);
            if in_vain > RESTARTS {
                leave_to_terraform(event_loop, &mut now, why);
            } else {
                event_loop.say(Notice::Detail {
                    message: "the lock is free: given back for Terraform to create the workspace"
                        .to_owned(),
                });
            }
        } else {
            restarts += 1;
            if restarts > RESTARTS {
                return Err(fresh::never_at_rest(&change));
            }
            event_loop.say(Notice::Warning {
                message: format!(
                    "while the lock was waited for, {change}: all is given back and begun anew"
                ),
                hint: None,
            });
        }
        *job = now;
        event_loop.custody.works_in(&job.dir);
    }
}

/// Creates the workspace if it is missing; where the lock cannot be held for Terraform, leaves it
/// to Terraform and says so. What is returned is to be said where someone else has the lock for
/// ever when Terraform wants it, and never when we do.
async fn ensure_workspace(
    event_loop: &mut EventLoop,
    job: &mut LockedJob,
    context: &Context,
) -> Result<Option<Notice>, Error> {
    let Some(bootstrap) = &job.bootstrap else { return Ok(None) };
    // Of two, the second is in a store of its own.
    let lock = job.targets.iter().rfind(|target| target.of_backend);
    match workspace::ensure(event_loop, bootstrap, lock, context).await? {
        Ready::Go => {}
        Ready::Held(why) => return Ok(Some(why)),
        Ready::Native(why) => leave_to_terraform(event_loop, job, why),
    }
    Ok(None)
}

/// Terraform takes the backend's lock by itself.
fn leave_to_terraform(event_loop: &EventLoop, job: &mut LockedJob, why: Notice) {
    event_loop.say(why);
    job.native = job.bootstrap.take().and_then(|bootstrap| bootstrap.native);
    job.targets.retain(|target| !target.of_backend);
}

fn interrupted(signal: StopSignal) -> Error {
    let (signal, leftover) = (signal.signal(), Leftover::Nothing);
    Error::Interrupted { signal: signal as i32, name: signal.as_str().to_owned(), leftover }
}

/// Sleeps, but for signals.
async fn pause(event_loop: &mut EventLoop, until: Uptime) -> Result<(), Error> {
    while uptime() < until {
        event_loop.idle(Some(until)).await?;
    }
    Ok(())
}

/// Tells GitHub the lock's ID before the child starts, so that a later step has it whatever
/// happens.
fn announce(event_loop: &EventLoop, context: &Context) {
    if let (Some(files), Some(kept)) = (&context.files, event_loop.kept.last())
        && let Err(error) = files.write_lock_id(&kept.id().0)
    {
        event_loop.say(Notice::Warning { message: error.to_string(), hint: Some(error.hint()) });
    }
}

/// The child with what it has to know: which locks are held for it.
fn child_command(
    event_loop: &EventLoop,
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
    for kept in &event_loop.kept {
        held.add(kept.target.url(), kept.id().clone());
    }
    if !job.kind.is_around_commands() {
        // A Terraform started by this Terraform (a provisioner) must not take our lock for leave
        // to write the same state beside it.
        let ours = event_loop.kept.iter().map(Kept::id);
        ours.chain(inherited).for_each(|id| held.forget_id(id));
    }
    child.env.push((held::VARIABLE.into(), held.to_value().into()));
    child
}
