//! Compares what was resolved before a wait with what is there after it: the lock that is held must
//! be the lock that is used.
//!
//! Its rules: `docs/protocol.md#what-may-change-while-we-wait`.

use std::slice;
use std::time::Duration;

use super::context::{Acquired, Context};
use super::event_loop::EventLoop;
use super::release;
use super::store_requests::{self, LockRegister};
use crate::clock::uptime;
use crate::error::Error;
use crate::job::{Basis, LockedJob, Ways};
use crate::lock::Uptime;
use crate::lock::release::ReleaseOutcome;
use crate::report::Notice;
use crate::run::planner::{Planner, working_dir};
use crate::supervise::Child;
use crate::target::LockTarget;

/// When Terraform's files are compared again after its start: as long as that mostly takes.
const LOOKS: [Duration; 6] = [
    Duration::from_millis(150),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_millis(3500),
    Duration::from_secs(5),
];

/// How often after that, for as long as nothing shows that Terraform has read them: it may be downloaded
/// first, or wait for its credentials.
const LATE_LOOKS: Duration = Duration::from_secs(1);

/// How often a look is taken again because the working directory got another name meanwhile.
const RENAMES: u32 = 5;

/// What changed while the locks were waited for, and what there is to do now.
pub(super) fn change(
    job: &LockedJob,
    context: &Context,
) -> Result<Option<(String, LockedJob)>, Error> {
    let now = context.planner.again()?;
    Ok(job.basis.change_to(&now.basis).map(|change| (change, now)))
}

/// Gives all back, to begin anew: nothing is left that would claim a lock of the plan that is no
/// more.
pub(super) async fn give_back(
    event_loop: &mut EventLoop,
    job: &LockedJob,
    context: &Context,
    acquired: &mut Acquired,
) -> Result<(), Error> {
    acquired.inherited.clear();
    event_loop.custody.leave_all();
    let dependents_in = job.kind.is_around_commands().then_some(context.state_dir.as_path());
    let releases = release::all(event_loop, dependents_in, false).await;
    // What went wrong was said; the end of the run must know only of what may still be ours.
    let left = |outcome: &ReleaseOutcome| matches!(outcome, ReleaseOutcome::Unconfirmed(_));
    acquired.left.extend(releases.into_iter().filter(left));
    event_loop.custody.forget_inherited();
    event_loop.run.stopped_by().map_or(Ok(()), |signal| Err(Error::interrupted(signal)))
}

/// The error of a run that began anew too often.
pub(super) fn never_at_rest(change: &str) -> Error {
    Error::Config {
        message: format!(
            "what Terraform would use keeps changing while tfwrap waits for its lock; now {change}"
        ),
        hint: Some(
            "give each run its own working directory, or its own `TF_DATA_DIR` with the workspace \
             set by `TF_WORKSPACE`"
                .to_owned(),
        ),
    }
}

/// Whether a lock is already ours under another name, or reached with other settings.
pub(super) async fn is_ours(
    event_loop: &mut EventLoop,
    target: &LockTarget,
) -> Result<bool, Error> {
    let register = target.register();
    let own = event_loop.kept.iter().filter(|it| it.target.register().may_be(&register));
    let ids: Vec<_> = own.map(|kept| kept.id().clone()).collect();
    if ids.is_empty() {
        return Ok(false);
    }
    let lock = target.url();
    let store = match target.open().await {
        Ok(store) => store,
        Err(source) => return Err(Error::Store { lock, source }),
    };
    let register = LockRegister { lock, store, key: target.key.clone() };
    let stored = store_requests::read(event_loop, &register, store_requests::PATIENCE).await?;
    Ok(stored.is_some_and(|stored| ids.iter().any(|id| stored.record.is_held_by(id))))
}

/// Looks whether anything changes before Terraform has read it.
pub(super) struct ChangeWatch<'a> {
    planner: &'a Planner,
    basis: &'a Basis,
    ways: Ways,
    started: Uptime,
    next: Option<Uptime>,
    looks: slice::Iter<'static, Duration>,
}

/// A change that Terraform may have read.
pub(super) struct LateChange {
    what: String,
    while_starting: bool,
}

impl<'a> ChangeWatch<'a> {
    /// From the child's start on. None where Terraform locks for itself, or the child is not
    /// Terraform: what `init` changes below a `run` is its business.
    pub(super) fn over(job: &'a LockedJob, context: &'a Context) -> Option<Self> {
        let is_direct = !job.kind.is_around_commands() && job.native.is_none();
        is_direct.then(|| {
            let mut watch = Self {
                planner: &context.planner,
                basis: &job.basis,
                ways: job.basis.ways(),
                started: uptime(),
                next: None,
                looks: LOOKS.iter(),
            };
            watch.set_next();
            watch
        })
    }

    fn set_next(&mut self) {
        let after = self.looks.next();
        self.next = Some(match after {
            Some(after) => self.started.plus(*after),
            None => uptime().plus(LATE_LOOKS),
        });
    }

    /// When to look next.
    pub(super) fn deadline(&self) -> Option<Uptime> {
        self.next
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&self) -> bool {
        self.deadline().is_some_and(|at| uptime() >= at)
    }

    /// Looks, unless it is too late for that: what changed. The last time once the child has ended.
    pub(super) fn look(&mut self, child: &Child, ended: bool) -> Option<LateChange> {
        self.next?;
        // First: what changes after this look was not read.
        let has_read = ended || child.works_with_a_provider();
        let change = self.change();
        if has_read || change.is_some() {
            self.next = None;
        } else {
            self.set_next();
        }
        let while_starting = uptime().since(self.started) <= LOOKS[LOOKS.len() - 1];
        change.map(|what| LateChange { what, while_starting })
    }

    fn change(&self) -> Option<String> {
        for _ in 0..RENAMES {
            let dir = working_dir().ok()?;
            let change = self.change_here()?;
            // Or it was renamed meanwhile, and nothing was found where it no longer is.
            if working_dir().is_ok_and(|now| now == dir) {
                return Some(change);
            }
        }
        None
    }

    fn change_here(&self) -> Option<String> {
        // Where nothing can be resolved any more, Terraform refuses by itself.
        let now = self.planner.again().ok()?;
        self.basis.read_change_to(&now.basis).or_else(|| self.ways.change_to(&now.basis.ways()))
    }
}

/// That the child is interrupted for a change, or ended with it.
pub(super) fn too_late(change: &LateChange, ended: bool, has_lock: bool) -> Notice {
    let LateChange { what, while_starting } = change;
    let when = if *while_starting {
        "while Terraform was starting"
    } else {
        "before Terraform was seen to work with a provider"
    };
    let doing = if ended { "" } else { ": interrupting Terraform" };
    let held = if has_lock { ", and only the lock of the first is held" } else { "" };
    Notice::warning(format!("{when}, {what}; Terraform may have read either one{held}{doing}"))
        .with_hint(
        if has_lock {
            "check both states with `terraform plan`; a plan that this run saved may be of either \
             one: do not apply it"
        } else {
            "check both states with `terraform plan`"
        }
        .to_owned(),
    )
}
