//! What there is to do, decided before anything remote is touched: from the words, the settings
//! and what Terraform's own files say.

mod around;
mod backend_lock;
mod basis;
mod bootstrap;
mod by_path;
mod doctor;
mod handed_down;
mod handed_over;
mod locks;
mod mistyped;
mod passed_on;
mod reading;
mod state_in_use;
mod table;
mod unlocked_plan;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::backend::{self, Backend, Resolved};
use crate::cli::{
    CliCommand, DoctorArgs, HistoryArgs, HoldArgs, RecoverArgs, ReleaseArgs, StatusArgs,
    UnlockArgs, WaitArgs,
};
use crate::env::Env;
use crate::error::Error;
use crate::file_id::FileId;
use crate::program;
use crate::report::Verbosity;
use crate::settings::{Origin, Settings, Sourced};
use crate::supervise::OUR_FLAG;
use crate::target::{LockTarget, StoreSpec};
use crate::terraform::{Command, Invocation, LockUse};
use crate::version;
pub use around::nothing_to_hold;
use around::{of_hold, of_run};
use backend_lock::{BackendLock, lock_of};
pub use basis::Basis;
pub use bootstrap::WorkspaceBootstrap;
use bootstrap::create_workspace_in;
pub use doctor::DoctorJob;
use handed_over::hand_over;
pub use locks::FoundLocks;
use locks::{further_locks, in_order, of_backend, or_those_around, resolve};
use passed_on::PassedOn;
pub(crate) use passed_on::{PASSED_ON, is_chdir_first, is_of_ours, without_locks};
use reading::{WayIn, has_directory, read, terraforms_dir};
pub use state_in_use::StateInUse;
use state_in_use::query;
pub use table::{TableJob, TableOrder};
pub use unlocked_plan::UnlockedPlan;

/// Where a run happens.
#[derive(Debug)]
pub struct Place<'a> {
    /// The environment.
    pub env: &'a Env,
    /// The working directory, after `--chdir`.
    pub dir: PathBuf,
    /// tfwrap's own binary.
    pub this_path: PathBuf,
    /// The same, by device and inode.
    pub this: Option<FileId>,
    /// `terraform` or `tofu`, where tfwrap was called so.
    pub called_as: Option<OsString>,
}

/// A program to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildCommand {
    /// Absolute, or (for `run`) a name to be sought on `PATH`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What its environment has beside ours.
    pub env: Vec<(Cow<'static, str>, OsString)>,
}

impl ChildCommand {
    /// None, for whom only the environment counts.
    fn none() -> Self {
        Self { program: PathBuf::new(), args: Vec::new(), env: Vec::new() }
    }
}

/// What there is to do.
#[derive(Debug)]
pub enum Job {
    /// Nothing of ours: hand over.
    Exec {
        /// To what.
        child: ChildCommand,
        /// What to say first, where the user might have expected a lock.
        warning: Option<String>,
        /// Said with `-v`.
        detail: Option<String>,
    },
    /// Run a child under locks.
    Locked(Box<LockedJob>),
    /// Say who holds these locks.
    Status(StatusArgs, FoundLocks),
    /// Say who asked for these locks.
    History(HistoryArgs, FoundLocks),
    /// Wait until these locks are free.
    Wait(WaitArgs, FoundLocks),
    /// Check the way to the lock.
    Doctor(DoctorArgs, Box<DoctorJob>),
    /// Remove one of these locks.
    Unlock(UnlockArgs, FoundLocks),
    /// Give back what dead runs left.
    Recover(RecoverArgs),
    /// Take the locks and leave a keeper behind.
    Hold(Box<LockedJob>, HoldArgs),
    /// End a hold.
    Release(ReleaseArgs, FoundLocks),
    /// Make a lock table, or print what its users need.
    Table(TableJob),
}

/// A child and the locks it runs under.
#[derive(Debug)]
pub struct LockedJob {
    /// Where Terraform works: whose backend it is.
    pub dir: PathBuf,
    /// In the order in which they are taken.
    pub targets: Vec<LockTarget>,
    /// The child when the lock of its state is held for it.
    pub child: ChildCommand,
    /// The command as Terraform's own lock info would name it.
    pub operation: String,
    /// How long to wait for all locks together.
    pub lock_timeout: Sourced<Duration>,
    /// The workspace trap, where it can snap.
    pub bootstrap: Option<WorkspaceBootstrap>,
    /// Things to say before the start.
    pub notes: Vec<String>,
    /// Things to say with `-v`.
    pub details: Vec<String>,
    /// What the locks are for.
    pub kind: JobKind,
    /// Exit code 2 means success.
    pub two_is_success: bool,
    /// Terraform locks its state for itself (`--no-backend-lock`): its arguments are completed
    /// with what is left of the wait.
    pub native: Option<Invocation>,
    /// A plan that is to go without these locks, if it can.
    pub unlocked_plan: Option<UnlockedPlan>,
    /// What all this was resolved from.
    pub basis: Basis,
}

/// What locks are held for.
#[derive(Debug)]
pub enum JobKind {
    /// One call of Terraform, which is the child.
    Terraform {
        /// What `apply` was given, as an absolute path: it may go stale during the wait.
        saved_plan: Option<PathBuf>,
    },
    /// `run`: the child is any command, and whatever calls of Terraform are below it.
    Command {
        /// The directory in which `terraform` is tfwrap, for the child's `PATH`.
        shim: PathBuf,
        /// A Terraform that the command names by a path, past the shim.
        by_path: Option<String>,
    },
    /// `hold`: there is no child, but whatever finds the environment that is handed over.
    Hold {
        /// As of `Command`.
        shim: PathBuf,
    },
}

impl JobKind {
    /// Whether the calls of Terraform are made by others, below the locks.
    #[must_use]
    pub fn is_around_commands(&self) -> bool {
        self.shim().is_some()
    }

    /// Whether this is a `hold`.
    #[must_use]
    pub fn is_hold(&self) -> bool {
        matches!(self, Self::Hold { .. })
    }

    /// The directory in which `terraform` is tfwrap, for what runs around commands.
    #[must_use]
    pub fn shim(&self) -> Option<&Path> {
        match self {
            Self::Terraform { .. } => None,
            Self::Command { shim, .. } | Self::Hold { shim } => Some(shim),
        }
    }

    /// The plan file that `apply` was given.
    #[must_use]
    pub fn saved_plan(&self) -> Option<&Path> {
        match self {
            Self::Terraform { saved_plan } => saved_plan.as_deref(),
            Self::Command { .. } | Self::Hold { .. } => None,
        }
    }
}

/// Decides.
///
/// # Errors
/// Everything that can be known to be wrong without asking anybody.
pub fn plan(words: &CliCommand, settings: &Settings, place: &Place<'_>) -> Result<Job, Error> {
    match words {
        CliCommand::Terraform(args) => of_terraform(args, settings, place),
        CliCommand::Run(args) => of_run(&args.command, settings, place),
        CliCommand::Status(args) => Ok(Job::Status(*args, locks::find(settings, place)?)),
        CliCommand::History(args) => Ok(Job::History(*args, locks::find(settings, place)?)),
        CliCommand::Wait(args) => Ok(Job::Wait(*args, locks::find(settings, place)?)),
        CliCommand::Doctor(args) => {
            Ok(Job::Doctor(*args, Box::new(doctor::of_doctor(settings, place))))
        }
        CliCommand::Unlock(args) => Ok(Job::Unlock(args.clone(), locks::find(settings, place)?)),
        CliCommand::Recover(args) => Ok(Job::Recover(args.clone())),
        CliCommand::Release(args) => Ok(Job::Release(args.clone(), locks::if_any(settings, place))),
        CliCommand::Table(args) => table::of_table(&args.command, settings, place).map(Job::Table),
        CliCommand::Hold(args) => Ok(Job::Hold(of_hold(settings, place)?, *args)),
    }
}

fn find_terraform(settings: &Settings, place: &Place<'_>) -> Result<PathBuf, Error> {
    program::find_terraform(
        settings.terraform.as_ref(),
        place.called_as.as_deref(),
        place.env,
        place.this,
    )
}

/// What is said before anything else: of odd files, and of what was probably meant for us.
fn first_notes(dir: &Path, args: &[OsString], call: &Invocation, place: &Place<'_>) -> Vec<String> {
    let reads_variables = call.command().is_some_and(Command::reads_variables);
    let odd = backend::waited_for(dir).filter(|_| reads_variables);
    odd.into_iter().chain(mistyped::meant_for_us(args, call, place)).collect()
}

fn of_terraform(args: &[OsString], settings: &Settings, place: &Place<'_>) -> Result<Job, Error> {
    let program = find_terraform(settings, place)?;
    let child = |args| ChildCommand { program: program.clone(), args, env: Vec::new() };
    let (dialect, invocation) = read(args, &program, place)
        .map_err(|error| Error::Usage { message: error.to_string(), hint: Some(error.hint()) })?;
    let command = match invocation.command() {
        Some(command) if invocation.lock_use() == LockUse::Locks => command,
        _ => return Ok(hand_over(&invocation, child(args.to_vec()), dialect, settings, place)),
    };
    let name = command.name();
    let timeout = lock_timeout(&invocation, settings);
    let passed_on = PassedOn::to_us(place.env).filter(|it| it.is(args));
    let as_it_is = |warning| Ok(Job::Exec { child: child(args.to_vec()), warning, detail: None });
    match (passed_on, invocation.wants_no_lock()) {
        (Some(passed_on), None) if passed_on.is_in(&place.dir) => return as_it_is(None),
        (Some(passed_on), Some(_)) => {
            return match StateInUse::of(args, &program, place) {
                Some(state) if !passed_on.holds(&state) => led_here(args, settings, place),
                _ => as_it_is(None),
            };
        }
        (None, Some(said)) => {
            return as_it_is(Some(format!(
                "`{name}` runs without a lock: `-lock=false` in {said}"
            )));
        }
        (_, None) => {}
    }
    let settings = settings.whole()?;
    if let Some(unlocked) = settings.unlocked.iter().find(|it| it.value == name) {
        let warning =
            Some(format!("`{name}` runs without a lock: `unlocked` in {}", unlocked.origin));
        return Ok(Job::Exec { child: child(invocation.locked_argv()), warning, detail: None });
    }

    let way_in = WayIn::of(&invocation, place);
    let Some(dir) = terraforms_dir(&invocation, place) else {
        let detail = Some("handed over: the directory of `-chdir` cannot be entered".to_owned());
        return Ok(Job::Exec { child: child(args.to_vec()), warning: None, detail });
    };
    let has_sources = invocation.plan_file().is_none();
    backend::expect_readable(&dir, dialect, has_sources).map_err(of_backend)?;
    let request = query(&invocation, dialect, &program, &dir, place);
    let further = further_locks(settings, place)?;
    let resolved = resolve(&request, &further, settings)?;
    let further = or_those_around(further, resolved.as_ref(), place)?;
    let mut job = LockedJob {
        dir: dir.clone(),
        targets: further,
        child: child(args.to_vec()),
        operation: command.operation().unwrap_or(&name).to_owned(),
        lock_timeout: timeout,
        bootstrap: None,
        notes: first_notes(&dir, args, &invocation, place),
        details: Vec::from_iter(unknown_rules(&program, settings)),
        kind: JobKind::Terraform {
            saved_plan: request.plan_file.as_ref().map(|file| dir.join(file)),
        },
        two_is_success: invocation.has("detailed-exitcode"),
        native: None,
        unlocked_plan: None,
        basis: Basis::default(),
    };
    locks::name_none(&mut job.child, place);
    match lock_of(resolved.as_ref(), settings, &job.targets, place)? {
        BackendLock::Take(ref targets)
            if let [LockTarget { store: StoreSpec::LocalState { path }, .. }] = &targets[..]
                && !has_directory(path) =>
        {
            job.details.push(format!(
                "the directory of `{}` does not exist: Terraform creates it or refuses, and locks \
                 for itself",
                path.display()
            ));
            job.native = Some(invocation);
        }
        BackendLock::Take(targets) => {
            job.child.args = invocation.locked_argv();
            let told = passed_on::under_locks(&job.child.args, &targets);
            job.child.env.push((PASSED_ON.into(), told));
            unlocked_plan::note(&mut job, &invocation, resolved.as_ref(), settings);
            if let Some(Resolved { backend: Backend::S3(backend), .. }) = &resolved
                && !backend.is_default_workspace()
                && request.workspace_override.is_none()
            {
                let is_saved = job.kind.saved_plan().is_some();
                let bootstrap = bootstrap::of(&program, args, backend, invocation, &dir, is_saved);
                job.bootstrap = Some(bootstrap);
            }
            job.targets.extend(targets);
        }
        BackendLock::Native => job.native = Some(invocation),
        BackendLock::None { why } => {
            if job.targets.is_empty() {
                return Ok(Job::Exec { child: job.child, warning: Some(why), detail: None });
            }
            job.notes.push(why);
        }
    }
    finish(job, resolved, way_in)
}

/// To ask the program takes a moment: only whoever reads it waits for that.
fn unknown_rules(program: &Path, settings: &Settings) -> Option<String> {
    let is_read = settings.verbosity == Verbosity::Verbose;
    is_read.then(|| version::unknown_rules(program)).flatten()
}

fn finish(mut job: LockedJob, resolved: Option<Resolved>, way_in: WayIn) -> Result<Job, Error> {
    in_order(&mut job.targets)?;
    job.basis = Basis::of(&job, resolved.as_ref(), way_in);
    if let Some(resolved) = resolved {
        job.details.push(resolved.in_words());
        job.notes.extend(resolved.notes);
    }
    // One that locks for itself is our child all the same, for the signals.
    if job.targets.is_empty() && job.native.is_none() {
        let child = job.child;
        let warning = (!job.notes.is_empty()).then(|| job.notes.join("; "));
        let detail = Some("no lock of ours to take".to_owned());
        return Ok(Job::Exec { child, warning, detail });
    }
    Ok(Job::Locked(Box::new(job)))
}

/// A call to which tfwrap itself has given `-lock=false`, in the name of a script, which has led it to another
/// state: that one's lock is taken, too.
fn led_here(args: &[OsString], settings: &Settings, place: &Place<'_>) -> Result<Job, Error> {
    let mut args = args.to_vec();
    if let Some(at) = args.iter().position(|arg| arg == OUR_FLAG) {
        args.remove(at);
    }
    let mut job = of_terraform(&args, settings, place)?;
    if let Job::Locked(job) = &mut job {
        job.details.push(
            "called again by a script that tfwrap has started, on another state: this one's lock is taken, too"
                .to_owned(),
        );
    }
    Ok(job)
}

/// A `-lock-timeout` of Terraform's own means the same as ours and wins.
fn lock_timeout(invocation: &Invocation, settings: &Settings) -> Sourced<Duration> {
    match invocation.lock_timeout() {
        Some((value, said)) => {
            Sourced { value, origin: Origin::Argument(format!("-lock-timeout in {said}")) }
        }
        None => settings.lock_timeout.clone(),
    }
}

/// The name by which tfwrap was called, where that is Terraform's.
#[must_use]
pub fn called_as(program: &OsStr) -> Option<OsString> {
    crate::cli::is_terraforms_name(program)
        .then(|| Path::new(program).file_name().map(OsStr::to_os_string))
        .flatten()
}
