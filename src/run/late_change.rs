//! Looks whether anything changes before Terraform has read it: the lock that is held must be the lock
//! that is used.
//!
//! Its rules: `docs/protocol.md#c2-watched-until-terraform-has-read-it`.

use std::slice;
use std::time::Duration;

use super::context::Context;
use super::led_elsewhere::{LedElsewhere, StartWatch};
use super::planner::{Planner, working_dir};
use crate::clock::uptime;
use crate::job::{Basis, LockedJob};
use crate::lock::Uptime;
use crate::path_watch::{Part, PathWatch};
use crate::report::Notice;
use crate::supervise::{AtWork, Child};

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

/// How often a Terraform below a script is looked at, once it has read all: the script may start another.
const AFTER: Duration = Duration::from_millis(100);

/// Looks whether anything changes before Terraform has read it.
pub(super) struct ChangeWatch<'a> {
    planner: &'a Planner,
    basis: &'a Basis,
    /// The ways to what it reads, and to the states that it opens again.
    reads: Option<PathWatch>,
    states: Option<PathWatch>,
    started: Uptime,
    looks: slice::Iter<'static, Duration>,
    next: Option<Uptime>,
    /// Who has read it, and whether that has ended.
    read: Option<(AtWork, bool)>,
    starts: StartWatch<'a>,
}

/// Why the lock that is held may not be the one that is used.
pub(super) enum LateChange {
    /// A change that Terraform may have read.
    Read {
        what: String,
        /// In words.
        when: &'static str,
    },
    /// What was started works on another state.
    Elsewhere(LedElsewhere),
}

impl<'a> ChangeWatch<'a> {
    /// From the child's start on. None where Terraform locks for itself, or the child is not
    /// Terraform: what `init` changes below a `run` is its business.
    pub(super) fn over(job: &'a LockedJob, context: &'a Context) -> Option<Self> {
        let is_direct = !job.kind.is_around_commands() && job.native.is_none();
        let (started, mut looks) = (uptime(), LOOKS.iter());
        is_direct.then(|| Self {
            planner: &context.planner,
            basis: &job.basis,
            reads: job.basis.watch(),
            states: job.basis.watch_states(),
            started,
            next: looks.next().map(|after| started.plus(*after)),
            looks,
            read: None,
            starts: StartWatch::over(job, context),
        })
    }

    /// What to say where the kernel tells us nothing.
    pub(super) fn blindness(&self) -> Option<Notice> {
        self.reads.is_none().then(|| Notice::Detail {
            message: "the kernel has no inotify instance left (`sysctl fs.inotify.max_user_instances`): \
                      another workspace that is selected for a moment while Terraform starts is not seen"
                .to_owned(),
        })
    }

    /// When to look next.
    pub(super) fn deadline(&self) -> Option<Uptime> {
        self.next.into_iter().chain(self.starts.deadline()).min()
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&self) -> bool {
        self.deadline().is_some_and(|at| uptime() >= at)
    }

    /// Looks, unless it is too late for that: what changed. The last time once the child has ended.
    pub(super) fn look(&mut self, child: &Child, ended: bool) -> Option<LateChange> {
        if !ended && let Some(elsewhere) = self.starts.look(child) {
            // Where something was changed under it, the script has not led it there.
            let is_reading = self.read.is_none();
            let change = self.next.take().and_then(|_| self.change(is_reading));
            return Some(match change {
                Some(what) => LateChange::Read { what, when: self.when(is_reading) },
                None => LateChange::Elsewhere(elsewhere),
            });
        }
        if !ended && self.next? > uptime() {
            return None;
        }
        self.next?;
        let is_reading = match &self.read {
            None => true,
            Some((by, over)) => *over && !ended && child.is_at_work_again(by),
        };
        if is_reading {
            // First: what changes after this look was not read.
            self.read = child.at_work().filter(|_| !ended).map(|by| (by, false));
        }
        let change = self.change(is_reading);
        if let Some((by, over @ false)) = &mut self.read
            && by.is_over()
        {
            *over = true;
            // What changed and was undone while it worked, nobody has read.
            drop(seen(&mut self.reads));
        }
        self.next = if ended || change.is_some() { None } else { self.next_look(child) };
        let when = self.when(is_reading);
        change.map(|what| LateChange::Read { what, when })
    }

    /// In words.
    fn when(&self, is_reading: bool) -> &'static str {
        if !is_reading {
            "while Terraform worked"
        } else if uptime().since(self.started) <= LOOKS[LOOKS.len() - 1] {
            "while Terraform was starting"
        } else {
            "before Terraform was seen to work with a provider"
        }
    }

    fn next_look(&mut self, child: &Child) -> Option<Uptime> {
        match &self.read {
            None => Some(match self.looks.next() {
                Some(after) => self.started.plus(*after),
                None => uptime().plus(LATE_LOOKS),
            }),
            // No other one can follow it.
            Some((by, _)) if by.is(child.pid()) => {
                self.starts.stop();
                self.states.is_some().then(|| uptime().plus(LATE_LOOKS))
            }
            Some(_) => Some(uptime().plus(AFTER)),
        }
    }

    /// With `is_reading`, of all that Terraform reads; else of what it opens again.
    fn change(&mut self, is_reading: bool) -> Option<String> {
        if !is_reading {
            return seen(&mut self.states);
        }
        let change = self.change_at_rest().or_else(|| seen(&mut self.reads));
        change.or_else(|| seen(&mut self.states))
    }

    fn change_at_rest(&self) -> Option<String> {
        for _ in 0..RENAMES {
            let dir = working_dir().ok()?;
            // Where nothing can be resolved any more, Terraform refuses by itself.
            let change = self.basis.read_change_to(&self.planner.again().ok()?.basis)?;
            // Or it was renamed meanwhile, and nothing was found where it no longer is.
            if working_dir().is_ok_and(|now| now == dir) {
                return Some(change);
            }
        }
        None
    }
}

/// What was there for a moment, in words.
fn seen(watch: &mut Option<PathWatch>) -> Option<String> {
    let (path, part) = watch.as_mut()?.seen()?;
    let path = path.display();
    Some(match part {
        Part::Link => format!("a link on the way to `{path}` was replaced"),
        Part::Directory => format!("a directory on the way to `{path}` was replaced"),
        Part::Nothing => format!("a directory on the way to `{path}` was put there"),
        Part::File => format!("`{path}` was written"),
    })
}

/// That the child is interrupted for a change, or ended with it.
pub(super) fn too_late(change: &LateChange, ended: bool, has_lock: bool) -> Notice {
    let (what, when) = match change {
        LateChange::Read { what, when } => (what, when),
        LateChange::Elsewhere(elsewhere) => return elsewhere.notice(has_lock),
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
