//! The commands that need more than a hand-over: the runtime, the event loop, and what is said at
//! the end.

use std::io::IsTerminal as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::{Planner, fail, ill_formed, limits, unread};
use crate::ci::Ci;
use crate::clock::wall;
use crate::error::Error;
use crate::exit_code;
use crate::git;
use crate::guardian;
use crate::held::{self, Held};
use crate::identity;
use crate::job::{FoundLocks, LockedJob};
use crate::lock::LockInfo;
use crate::receipt::Beginning;
use crate::report::github::GithubFiles;
use crate::report::gitlab::Dotenv;
use crate::report::{self, Notice, Reporter};
use crate::run::custody::Custody;
use crate::run::hold::{Handed, Limits};
use crate::run::{self, Context, EventLoop, LockInfoTemplate, Provenance, Stdin};
use crate::settings::OnLockLost;
use crate::state_dir;
use crate::subcommand;
use crate::supervise::{Policy, Signals, TerminalUse};
use crate::target::LockTarget;
use crate::telemetry::Telemetry;

/// How long the last lines may take to reach a stalled stderr.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);

/// The runtime and the event loop, with what was found already said.
fn set_up(
    options: report::ReporterOptions,
    notes: &[String],
    details: &[String],
) -> Result<(Runtime, EventLoop), Error> {
    limits::expect_descriptors()?;
    let (reporter, runtime) = limits::threads(options)?;
    say_panics(&reporter);
    let signals = {
        let _runtime = runtime.enter();
        Signals::install().map_err(|error| internal("signals cannot be handled", &error))?
    };
    for message in notes {
        reporter.say(Notice::warning(message.clone()));
    }
    for message in details {
        reporter.say(Notice::Detail { message: message.clone() });
    }
    Ok((runtime, EventLoop::new(signals, reporter, Custody::none())))
}

/// Ends what [`set_up`] began.
fn wind_up(runtime: Runtime, event_loop: &EventLoop) {
    // After a panic while waiting there may be a line to take away.
    event_loop.reporter.settle(LAST_WORDS);
    event_loop.reporter.flush(LAST_WORDS);
    // A store request that hangs in a blocking thread must not keep us.
    runtime.shutdown_background();
}

/// Runs a command that looks at the locks and starts nothing.
pub(super) fn ours(
    options: report::ReporterOptions,
    first: Vec<Notice>,
    found: &FoundLocks,
    command: impl AsyncFnOnce(&mut EventLoop, &[LockTarget]) -> Result<(), Error>,
) -> u8 {
    let (runtime, mut event_loop) = match set_up(options.clone(), &found.notes, &found.details) {
        Ok(ready) => ready,
        Err(error) => return fail(&error, options),
    };
    for notice in first {
        event_loop.reporter.say(notice);
    }
    let run = AssertUnwindSafe(|| {
        runtime.block_on(async { command(&mut event_loop, &found.targets).await })
    });
    let code = match catch_unwind(run) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            let code = exit_code::of_error(&error);
            let (message, hint) = (error.to_string(), error.hint());
            event_loop.reporter.say(Notice::Error { message, hint, code });
            code
        }
        Err(_) => exit_code::BUG,
    };
    wind_up(runtime, &event_loop);
    code
}

/// All that a run under locks needs.
fn begin(
    job: &LockedJob,
    planner: Planner,
    ci: &Ci,
    options: report::ReporterOptions,
) -> Result<(Runtime, EventLoop, Context), Error> {
    let (settings, env) = (&planner.settings, &planner.env);
    // First, so that it is ready when the runtime is.
    let guardian = guardian::Started::new();
    let (runtime, mut event_loop) = set_up(options, &job.notes, &job.details)?;
    let beginning = Beginning {
        job: ci.job_key.clone(),
        dir: job.dir.clone(),
        began: LockInfo::format_created(wall()),
        operation: job.operation.clone(),
        is_hold: job.kind.is_hold(),
        within: if job.kind.is_hold() { held::holds(env) } else { Vec::new() },
        orphan_grace: settings.orphan_grace.value,
    };
    let notices = {
        let _runtime = runtime.enter();
        let (custody, notices) = Custody::new(guardian, beginning, env);
        event_loop.custody = custody;
        notices
    };
    let odd = if job.kind.is_hold() { ill_formed::OF_A_HOLD } else { ill_formed::OF_A_LOCK };
    let first = unread(settings, env).into_iter().chain(ill_formed::warnings(env, odd));
    for notice in first.chain(notices) {
        event_loop.reporter.say(notice);
    }
    let telemetry = Telemetry::of(env, std::array::from_fn(|_| identity::new_span_id()))
        .unwrap_or_else(|why| {
            event_loop.say(Notice::Detail { message: format!("no spans are sent: {why}") });
            None
        });
    if ci.in_ci {
        event_loop.terminal_use = TerminalUse::LeaveAlone;
    }
    let context = Context {
        policy: Policy { second_signal: settings.second_signal.value, grace: settings.grace.value },
        introduction: LockInfoTemplate {
            operation: job.operation.clone(),
            info: ci.info_text(),
            who: identity::who(),
            term: settings.lease.value,
            in_line: !settings.no_line.value,
        },
        held: Held::from_env(env),
        lost_is_fatal: settings.on_lock_lost.value == OnLockLost::Stop,
        files: GithubFiles::from_env(env, settings.summary.value),
        dotenv: Dotenv::from_env(env),
        provenance: (!settings.no_history.value).then(|| Provenance {
            actor: ci.actor.clone(),
            // What is checked out is what will be applied, whatever started the job.
            commit: git::head(&job.dir).or_else(|| ci.commit.clone()),
            pipeline: ci.pipeline.clone(),
        }),
        telemetry,
        is_on_terminal: std::io::stdout().is_terminal(),
        files_are_limited: limits::files_are_limited(),
        stdin: Stdin::look(),
        on_outdated: settings.outdated.value,
        env: env.clone(),
        state_dir: state_dir::path(env),
        planner,
    };
    Ok((runtime, event_loop, context))
}

pub(super) fn locked(
    job: LockedJob,
    planner: Planner,
    ci: &Ci,
    options: report::ReporterOptions,
) -> u8 {
    let (runtime, mut event_loop, context) = match begin(&job, planner, ci, options.clone()) {
        Ok(ready) => ready,
        Err(error) => return fail(&error, options),
    };
    // What unwinds up to here has its message still to be said.
    let run = AssertUnwindSafe(|| runtime.block_on(run::locked(&mut event_loop, job, &context)));
    let code = catch_unwind(run).unwrap_or(exit_code::BUG);
    wind_up(runtime, &event_loop);
    code
}

/// The process that a `hold` leaves behind.
pub(super) fn keeper(
    job: LockedJob,
    planner: Planner,
    ci: &Ci,
    options: report::ReporterOptions,
) -> u8 {
    subcommand::hold::begin_keeper();
    let anchor = subcommand::hold::anchor(ci, &planner.env);
    // A line that is redrawn needs the terminal, which is the foreground's.
    let options = report::ReporterOptions { redraw: false, ..options };
    let until = Limits { max_hold: planner.settings.max_hold.value, anchor };
    let (runtime, mut event_loop, context) = match begin(&job, planner, ci, options.clone()) {
        Ok(ready) => ready,
        Err(error) => return fail(&error, options),
    };
    let file = event_loop.custody.file();
    let reporter = Arc::clone(&event_loop.reporter);
    let hand_over = |handed: &Handed| {
        reporter.flush(LAST_WORDS);
        subcommand::hold::hand_over(handed, file.as_ref())
    };
    let run = AssertUnwindSafe(|| {
        runtime.block_on(run::hold::hold(&mut event_loop, job, &context, until, hand_over))
    });
    let code = catch_unwind(run).unwrap_or(exit_code::BUG);
    wind_up(runtime, &event_loop);
    code
}

/// Panics are said by the reporter: the standard hook writes to stderr itself, and where that is
/// stalled the panic would never unwind to where the lock is given back.
fn say_panics(reporter: &Arc<Reporter>) {
    let reporter = Arc::clone(reporter);
    std::panic::set_hook(Box::new(move |panic| reporter.say(of_panic(panic))));
}

pub(super) fn of_panic(panic: &std::panic::PanicHookInfo<'_>) -> Notice {
    let what = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
    let message = format!("panicked{place}: {what}");
    Notice::Error { message, hint: Error::Internal(String::new()).hint(), code: exit_code::BUG }
}

fn internal(what: &str, error: &std::io::Error) -> Error {
    Error::Internal(format!("{what}: {error}"))
}
