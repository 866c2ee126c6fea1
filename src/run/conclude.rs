//! What is said and written at the end of a run, and its exit code.

use super::context::Context;
use super::event_loop::EventLoop;
use super::messages;
use super::supervise::ChildEnd;
use crate::error::Error;
use crate::exit_code::{self, RunRules};
use crate::job::{JobKind, LockedJob};
use crate::lock::history::Awaited;
use crate::lock::release::ReleaseOutcome;
use crate::lock::{Holder, LockId};
use crate::report::{Notice, RunOutcome, Summary};
use crate::supervise::ChildStatus;
use crate::target::LockTarget;
use std::time::Duration;

/// How a run ended.
pub(super) enum RunEnd {
    /// With its child.
    Child(ChildEnd),
    /// Without it, and well: a newer run, of which these words tell, was applied already.
    Outdated(String),
    /// The child was not started, or could not be watched to its end.
    Failed(Error),
    /// By a bug of ours.
    Panicked,
}

impl RunEnd {
    /// Nothing is said of a run that went as it should.
    pub(super) fn is_worth_saying(&self) -> bool {
        match self {
            Self::Child(child) => child.stopped,
            Self::Outdated(_) => false,
            Self::Failed(_) | Self::Panicked => true,
        }
    }
}

/// What is said and written of a run that is over.
pub(super) struct RunReport {
    pub(super) end: RunEnd,
    pub(super) releases: Vec<ReleaseOutcome>,
    /// When the locks were asked for.
    pub(super) asked: jiff::Timestamp,
    /// How long they were waited for.
    pub(super) waited: Duration,
    /// How long they were held; zero where none was.
    pub(super) held: Duration,
    /// The ID of the lock that was taken last.
    pub(super) id: Option<String>,
    /// Who held it before.
    pub(super) holder: Option<Holder>,
    pub(super) contended: bool,
    /// All who were seen to hold it before, in order.
    pub(super) behind: Vec<Awaited>,
    /// How many places there were before ours in a queue at most.
    pub(super) ahead: Option<u64>,
    /// Whether a plan was made in vain.
    pub(super) replanned: bool,
}

/// Says and writes it; returns the exit code, and its word.
pub(super) fn conclude(
    event_loop: &EventLoop,
    job: &LockedJob,
    context: &Context,
    report: &RunReport,
) -> (u8, RunOutcome) {
    let rules =
        RunRules { lost_is_fatal: context.lost_is_fatal, two_is_success: job.two_is_success };
    let code = match &report.end {
        RunEnd::Failed(error) => exit_code::of_error(error),
        RunEnd::Child(child) if child.lost => exit_code::LOST,
        RunEnd::Child(child) => exit_code::of_run(child.status, &report.releases, rules),
        RunEnd::Outdated(_) => exit_code::of_run(ChildStatus::Exited(0), &report.releases, rules),
        RunEnd::Panicked => exit_code::BUG,
    };
    match &report.end {
        RunEnd::Failed(error) => {
            event_loop.say(Notice::Error { message: error.to_string(), hint: error.hint(), code });
        }
        RunEnd::Outdated(message) => event_loop.say(Notice::warning(message.clone())),
        RunEnd::Panicked => {
            let message = "a bug in tfwrap ended the run; if a child was running, tfwrap ended it \
                           first";
            event_loop.say(Notice::Error {
                message: message.to_owned(),
                hint: Error::Internal(String::new()).hint(),
                code,
            });
        }
        RunEnd::Child(child) if exit_code::of_child(child.status) == 1 => {
            hint_at_failure(event_loop, job, report);
        }
        RunEnd::Child(_) => {}
    }
    let summary = summary(job, report, code);
    if let Some(files) = &context.files {
        for error in files.write_end(&summary) {
            event_loop.say(Notice::warning(error.to_string()).with_hint(error.hint()));
        }
    }
    if let Some(dotenv) = &context.dotenv
        && let Err(error) = dotenv.write_end(&summary)
    {
        event_loop.say(Notice::warning(error.to_string()).with_hint(error.hint()));
    }
    let outcome = summary.outcome;
    event_loop.say(Notice::Finished(Box::new(summary)));
    (code, outcome)
}

/// What the user may have met, where Terraform's own message does not know of us.
fn hint_at_failure(event_loop: &EventLoop, job: &LockedJob, report: &RunReport) {
    if job.kind.saved_plan().is_some() && report.contended {
        let message = "tfwrap waited for the lock after the plan was made: if Terraform says that \
                       the saved plan is stale, another run changed the state during the wait";
        let hint = "plan again, or hold the lock across both: `tfwrap run -- sh -c 'terraform plan \
                    -out=p && terraform apply p'`";
        event_loop.say(Notice::warning(message).with_hint(hint.to_owned()));
    }
    if let JobKind::Command { by_path: Some(path), .. } = &job.kind {
        event_loop.say(
            Notice::warning(format!(
                "if Terraform cannot acquire the state lock and reports our lock ID: the command \
                 calls `{path}` by its path",
            ))
            .with_hint("call it as `terraform`, so that it goes through tfwrap".to_owned()),
        );
    }
}

/// The word for a run that this error ended.
pub(super) fn of_error(error: &Error) -> RunOutcome {
    match error {
        Error::NotAcquired { .. } | Error::NotFree { .. } => RunOutcome::TimedOut,
        Error::Interrupted { .. } => RunOutcome::Interrupted,
        Error::Outdated { .. } => RunOutcome::Outdated,
        Error::NotFound { .. } | Error::NotExecutable { .. } => RunOutcome::Failure,
        _ => RunOutcome::Error,
    }
}

fn summary(job: &LockedJob, report: &RunReport, code: u8) -> Summary {
    let outcome = match &report.end {
        RunEnd::Failed(error) => of_error(error),
        RunEnd::Outdated(_) => match code {
            exit_code::LOST => RunOutcome::Lost,
            exit_code::NOT_RELEASED => RunOutcome::NotReleased,
            _ => RunOutcome::Outdated,
        },
        RunEnd::Panicked => RunOutcome::Error,
        RunEnd::Child(child) => match code {
            exit_code::LOST => RunOutcome::Lost,
            exit_code::NOT_RELEASED => RunOutcome::NotReleased,
            _ if child.stopped => RunOutcome::Interrupted,
            0 => RunOutcome::Success,
            2 if job.two_is_success => RunOutcome::Success,
            _ => RunOutcome::Failure,
        },
    };
    let lock = job.targets.first().map(LockTarget::url).unwrap_or_default();
    let (reason, advice) = match &report.end {
        RunEnd::Failed(error) => (Some(error.to_string()), error.hint()),
        RunEnd::Outdated(message) => (Some(message.clone()), None),
        RunEnd::Child(_) | RunEnd::Panicked => (None, None),
    };
    let advice = match outcome {
        RunOutcome::NotReleased => Some(advise_release(job, report)),
        RunOutcome::Lost => Some(messages::AFTER_A_LOSS.to_owned()),
        _ => advice,
    };
    Summary {
        lock,
        id: report.id.clone(),
        outcome,
        exit_code: code,
        asked: report.asked,
        waited: report.waited,
        held: report.held,
        replanned: report.replanned,
        holder: report.holder.as_ref().and_then(Holder::info).cloned().map(Box::new),
        behind: report.behind.clone(),
        ahead: report.ahead,
        reason,
        advice,
    }
}

fn advise_release(job: &LockedJob, report: &RunReport) -> String {
    let id = LockId(report.id.clone().unwrap_or_default());
    let mut commands: Vec<_> = job.targets.iter().map(|it| it.unlock_command(&id)).collect();
    commands.dedup();
    format!("release it with: {}", commands.join(" && "))
}
