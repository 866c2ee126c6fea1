//! What tfwrap says, to whom: one [`Notice`] per thing worth a line, rendered as text or JSON and
//! written by a [`Reporter`] that never makes its caller wait.
//!
//! Text in a notice that comes from records is untrusted: whoever can write to the lock table can
//! put anything there. Every renderer cleans what it prints ([`clean`]); nothing else writes to
//! stderr. A value that goes into a command is quoted by whoever builds the hint
//! ([`shell_command`]).

mod answer;
mod cadence;
mod checks;
mod clean;
mod format;
pub mod github;
pub mod gitlab;
mod history;
mod json;
mod lock_state;
mod markdown;
mod redrawn;
mod reporter;
mod summary;
mod text;
mod waiting;

#[cfg(test)]
mod hostile;
#[cfg(test)]
pub(crate) use hostile::any_text as hostile_text;

pub(crate) use answer::{
    answer, answer_with, ask, leave_unanswered, reader_is_gone, redraw, say_at_once,
};
pub use cadence::Cadence;
pub use checks::{Check, CheckStatus, checks_as_json, checks_as_text, count_of};
pub use clean::{MAX_LINE, MAX_VALUE, clean, clean_line, clean_to, shell_command, shell_quote};
pub use history::{
    LockHistory, histories_as_html, histories_as_json, histories_as_mermaid, histories_as_text,
};
pub use json::Json;
pub use lock_state::{Holding, KeptBy, LockState, QueueState, states_as_json, states_as_text};
pub use reporter::{Annotations, Reporter, ReporterOptions};
pub use summary::{RunOutcome, Summary};
pub use text::{
    Text, describe_holder, describe_holding, operation_words, to_the_second, use_color,
};

use std::time::Duration;

use crate::lock::LockInfo;
pub use format::{ColorChoice, LogFormat, Verbosity};

/// One thing worth telling the user. All text in it that comes from records is untrusted; the
/// renderers clean it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The lock is held by someone else; said at once, when the holder changes, and at growing
    /// intervals ([`Cadence`]).
    Waiting {
        /// The lock, as the user may name it.
        lock: String,
        /// Who has it, where the record says so.
        holder: Option<Box<LockInfo>>,
        /// How long we wait already.
        waited: Duration,
        /// The time we are ready to wait in all.
        limit: Duration,
        /// Whether nobody has it, and it is left to those who came before us.
        free: bool,
        /// How many places there are before ours in the line; none outside the line.
        ahead: Option<u64>,
        /// How many of those wait for plans.
        plans_ahead: Option<u64>,
        /// How long ago the holder last showed that it lives, as far as we saw; none where its
        /// record has no lease.
        silent: Option<Duration>,
        /// How long the store has not answered, so that all this may be old; none where it answers.
        unanswered: Option<Duration>,
        /// How long it may still take until our turn, by the holds seen so far; none before one
        /// was seen to end.
        estimate: Option<Duration>,
    },
    /// The lock is ours after a wait.
    Acquired {
        /// The lock.
        lock: String,
        /// Our lock ID.
        id: String,
        /// How long the wait was.
        waited: Duration,
        /// Whether anybody else held it in between; an uncontended acquisition is silent in text.
        contended: bool,
    },
    /// The lock is given back.
    Released {
        /// The lock.
        lock: String,
        /// Our lock ID.
        id: String,
        /// How long it was held.
        held: Duration,
        /// Whether it is worth a line of text (after a stop or trouble); JSON says it always.
        worth_saying: bool,
    },
    /// A plan without the lock was not of one moment: it is made again, under the lock.
    Replanned {
        /// The lock.
        lock: String,
        /// Who may be writing the state, if that is why.
        writer: Option<Box<LockInfo>>,
        /// Why, in words.
        why: String,
    },
    /// A stop came in; what happens about it.
    Stopping {
        /// The signal's name, such as `SIGTERM`.
        signal: String,
        /// What tfwrap does about it, in words.
        doing: String,
    },
    /// Something the user should know; goes on.
    Warning {
        /// What and where.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The reason of a failure of ours.
    Error {
        /// What and where.
        message: String,
        /// What to do about it, with the exact command.
        hint: Option<String>,
        /// The exit code it leads to.
        code: u8,
    },
    /// Something that was done for a run that could not do it itself, or a step of our own.
    Note {
        /// What.
        message: String,
    },
    /// The run is over; in text only with `-v`.
    Finished(Box<Summary>),
    /// Only with `-v`.
    Detail {
        /// What.
        message: String,
    },
}

impl Notice {
    /// A warning without a hint.
    pub fn warning(message: impl Into<String>) -> Self {
        Self::Warning { message: message.into(), hint: None }
    }

    /// The same warning with a hint, if there is one.
    #[must_use]
    pub fn with_hint(self, its: impl Into<Option<String>>) -> Self {
        match self {
            Self::Warning { message, .. } => Self::Warning { message, hint: its.into() },
            other => other,
        }
    }

    /// The least verbosity at which it is said in `format`. JSON is read by programs, which want
    /// the uneventful too.
    fn audience(&self, format: LogFormat) -> Verbosity {
        match (self, format) {
            (Self::Warning { .. } | Self::Error { .. }, _) => Verbosity::Quiet,
            (Self::Detail { .. }, _)
            | (
                Self::Acquired { contended: false, .. }
                | Self::Released { worth_saying: false, .. }
                | Self::Finished(_),
                LogFormat::Text,
            ) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Notice, RunOutcome, Summary, hostile};
    use crate::lock::history::Awaited;
    use crate::lock::{LockId, LockInfo};

    /// An ordinary run that waited.
    pub(super) fn summary() -> Summary {
        Summary {
            lock: "tfb/a/terraform.tfstate".into(),
            id: Some("28e8a6c8".into()),
            outcome: RunOutcome::Success,
            exit_code: 0,
            asked: "2026-11-21T09:16:11Z".parse().unwrap(),
            waited: Duration::from_secs(30),
            held: Duration::from_mins(2),
            replanned: false,
            holder: Some(Box::new(LockInfo {
                id: LockId("51".into()),
                operation: "OperationTypeApply".into(),
                info: "https://ci.example/run/7".into(),
                who: "ci@runner".into(),
                version: "1.11.4".into(),
                created: "2026-11-21T09:11:59Z".into(),
                path: "tfb/a/terraform.tfstate".into(),
            })),
            behind: vec![Awaited {
                id: "51".into(),
                who: "ci@runner".into(),
                operation: "OperationTypeApply".into(),
                info: "https://ci.example/run/7".into(),
                waited: 20_000,
            }],
            ahead: Some(1),
            reason: None,
            advice: None,
        }
    }

    /// One notice of each kind, hostile text wherever text can be. A new kind must come in here.
    pub(super) fn hostile_notices() -> Vec<Notice> {
        let text = hostile::text;
        let time = Duration::from_secs(61);
        let command = super::shell_command(&["terraform", "force-unlock", &text()]);
        let all = vec![
            Notice::Waiting {
                lock: text(),
                holder: Some(Box::new(hostile::info())),
                waited: time,
                limit: time,
                free: false,
                ahead: None,
                plans_ahead: None,
                silent: None,
                unanswered: None,
                estimate: None,
            },
            Notice::Acquired { lock: text(), id: text(), waited: time, contended: true },
            Notice::Released { lock: text(), id: text(), held: time, worth_saying: true },
            Notice::Replanned {
                lock: text(),
                writer: Some(Box::new(hostile::info())),
                why: text(),
            },
            Notice::Stopping { signal: text(), doing: text() },
            Notice::Warning { message: text(), hint: Some(command.clone()) },
            Notice::Error { message: text(), hint: Some(command), code: 75 },
            Notice::Finished(Box::new(Summary {
                lock: text(),
                id: Some(text()),
                holder: Some(Box::new(hostile::info())),
                ..summary()
            })),
            Notice::Detail { message: text() },
            Notice::Note { message: text() },
        ];
        for notice in &all {
            // No wildcard: a new kind does not compile until someone has been here.
            match notice {
                Notice::Waiting { .. }
                | Notice::Acquired { .. }
                | Notice::Released { .. }
                | Notice::Replanned { .. }
                | Notice::Stopping { .. }
                | Notice::Warning { .. }
                | Notice::Error { .. }
                | Notice::Finished(_)
                | Notice::Detail { .. }
                | Notice::Note { .. } => {}
            }
        }
        all
    }
}
