//! A finished run in figures.

use std::time::Duration;

use jiff::Timestamp;

use crate::lock::LockInfo;
use crate::lock::history::Awaited;

/// What came of a run; for the outputs, the step summary and the JSON log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The lock, or the first of several.
    pub lock: String,
    /// Our lock ID, if the lock was ever ours.
    pub id: Option<String>,
    /// How it ended.
    pub outcome: RunOutcome,
    /// What tfwrap exits with.
    pub exit_code: u8,
    /// When the lock was first asked for, on the wall clock; for display only.
    pub asked: Timestamp,
    /// From then until the lock was ours or we gave up.
    pub waited: Duration,
    /// From then until it was given back; zero if it never was ours.
    pub held: Duration,
    /// Whether a plan without the lock was made in vain, and again under the lock.
    pub replanned: bool,
    /// Who held it when we last looked and it was not ours; `None` without contention.
    pub holder: Option<Box<LockInfo>>,
    /// All who were seen to hold it during the wait, in order.
    pub behind: Vec<Awaited>,
    /// How many places there were before ours in a queue at most.
    pub ahead: Option<u64>,
    /// Why the run did not go as it should, where tfwrap knows.
    pub reason: Option<String>,
    /// What to do about it.
    pub advice: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunOutcome {
    /// The child succeeded and the lock was given back.
    Success,
    /// The child ran and failed, or could not be started; the lock was given back.
    Failure,
    /// Not acquired within the wait.
    TimedOut,
    /// Stopped by a signal, while waiting or while the child ran.
    Interrupted,
    /// The lock was lost while the child ran.
    Lost,
    /// The lock could not be given back.
    NotReleased,
    /// A newer run was applied already: Terraform was not started.
    Outdated,
    /// tfwrap itself failed before the child ran: store, access, configuration, usage.
    Error,
}

impl RunOutcome {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: [Self; 8] = [
        Self::Success,
        Self::Failure,
        Self::TimedOut,
        Self::Interrupted,
        Self::Lost,
        Self::NotReleased,
        Self::Outdated,
        Self::Error,
    ];

    /// The word in outputs, in the JSON log and in the history.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::TimedOut => "timed-out",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
            Self::NotReleased => "not-released",
            Self::Outdated => "outdated",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RunOutcome;
    use crate::lock::APPLY_OPERATION;
    use crate::lock::history::PastRun;

    #[test]
    fn the_history_knows_the_words_of_a_terraform_that_has_succeeded() {
        for outcome in RunOutcome::ALL {
            let run = PastRun {
                operation: APPLY_OPERATION.to_owned(),
                outcome: outcome.as_str().to_owned(),
                ..PastRun::default()
            };
            let succeeded = matches!(outcome, RunOutcome::Success | RunOutcome::NotReleased);
            assert_eq!(run.has_applied(), succeeded, "{outcome:?}");
        }
    }
}
