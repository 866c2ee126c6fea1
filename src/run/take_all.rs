//! Acquires all locks of a run, one after the other, and starts the wait over if they are no longer
//! the right ones.

use super::acquire::{self, Wait};
use super::context::{Acquired, Context};
use super::event_loop::EventLoop;
use super::here::Here;
use super::workspace::{self, Ready};
use super::{dependents, fail_point, fresh, history, inherit, messages, outdated};
use crate::clock::uptime;
use crate::error::{Error, Leftover};
use crate::job::LockedJob;
use crate::lock;
use crate::report::Notice;
use crate::store::StateObject;
use crate::supervise::StopSignal;
use crate::target::LockTarget;

/// How often the wait may begin anew because what was resolved before it is no longer so.
const RESTARTS: u32 = 3;

/// Takes what the job needs; what changed meanwhile makes it another job. When this returns, the
/// locks are confirmed and right for what Terraform would read now.
pub(super) async fn take_all(
    event_loop: &mut EventLoop,
    job: &mut LockedJob,
    context: &Context,
    wait: Wait,
    acquired: &mut Acquired,
) -> Result<(), Error> {
    let (mut restarts, mut in_vain) = (0, 0);
    expect_none_ending_above(event_loop, context)?;
    loop {
        let uncreated = ensure_workspace(event_loop, job, context).await?;
        let mut waited_here = false;
        for halves in LockTarget::locks(&job.targets) {
            let mut wanted = Vec::new();
            for target in halves {
                let (around, had) = (job.kind.is_around_commands(), &acquired.inherited);
                let id = inherit::inherit(event_loop, target, context, around, wait, had).await?;
                match id {
                    Some(id) => {
                        if outdated::is_compared(job, target) && context.provenance.is_some() {
                            let (requests, of) = (&mut acquired.requests, (target, id.clone()));
                            history::remember_within(event_loop, requests, of, context.on_outdated)
                                .await;
                        }
                        acquired.inherited.push(id);
                    }
                    None if fresh::is_ours(event_loop, target).await? => {}
                    None => wanted.push(target),
                }
            }
            let Some(target) = wanted.last() else { continue };
            let taken = acquire::take(event_loop, &wanted, &context.introduction, wait).await;
            let failed = |error| {
                let error = match &uncreated {
                    Some(_) if target.of_backend => {
                        messages::timed_out_uncreated(error, taken.seen.as_ref())
                    }
                    _ => error,
                };
                Here::helps(error, &context.state_dir, taken.seen.as_ref())
            };
            let result = taken.result.map_err(failed);
            if let Some(request) = taken.request {
                history::remember(&mut acquired.requests, request);
            }
            lock::history::add(&mut acquired.behind, taken.behind);
            acquired.ahead = acquired.ahead.max(taken.ahead);
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
                // We may have waited for our turn since.
                return expect_none_ending_above(event_loop, context);
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
                    message: "the lock is free: releasing it so that Terraform can create the \
                              workspace"
                        .to_owned(),
                });
            }
        } else {
            restarts += 1;
            if restarts > RESTARTS {
                return Err(fresh::never_at_rest(&change));
            }
            event_loop.say(Notice::warning(format!(
                "while tfwrap waited for the lock, {change}: releasing everything and starting over"
            )));
        }
        *job = now;
        event_loop.custody.works_in(&job.dir);
    }
}

/// For a script that goes on after its run was asked to end, or after its tfwrap was killed.
///
/// # Errors
/// It was: then nothing is started, as after a stop.
fn expect_none_ending_above(event_loop: &EventLoop, context: &Context) -> Result<(), Error> {
    let above = dependents::ending_above(&context.state_dir, &context.env, &context.held);
    let Some(why) = above else { return Ok(()) };
    event_loop.say(Notice::Note { message: format!("{why}: nothing more is started inside it") });
    let name = "the end of the run around it".to_owned();
    let (signal, leftover) = (StopSignal::Interrupt.signal() as i32, Leftover::Nothing);
    Err(Error::Interrupted { signal, name, leftover })
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
