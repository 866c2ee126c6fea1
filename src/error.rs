//! The one error on top: what went wrong, with what lock, and what to do next.

use crate::lock::{Flaw, FlawKind};
use crate::settings::{Fault, SettingsError};
use crate::store::StoreError;
use crate::supervise::StopSignal;

/// Why tfwrap itself did not get to the end. The child's own failure is not one of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Wrong usage.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to type instead.
        hint: Option<String>,
    },
    /// The configuration is wrong or incomplete.
    #[error("{message}")]
    Config {
        /// What and where.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The store of a lock does not let us.
    #[error("{lock}: {source}")]
    Store {
        /// The lock, as the user may name it.
        lock: String,
        /// Why.
        source: StoreError,
    },
    /// The wait is over and someone else still has it.
    #[error("the lock was not acquired within {waited}: {holder}")]
    NotAcquired {
        /// How long we waited, formatted.
        waited: String,
        /// Who holds which lock, since when.
        holder: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// `wait` is over, and somebody still has what was to be free, or it cannot become free.
    #[error("{message}")]
    NotFree {
        /// Who has which lock, since when.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// `unlock` leaves the lock where it is, or a check of `doctor` failed.
    #[error("{message}")]
    Refused {
        /// Why, and what is there.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// `recover` or `release` could not give everything back.
    #[error("{message}")]
    LeftBehind {
        /// What is left, and why.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A newer run was applied already (`--outdated fail`).
    #[error("{message}")]
    Outdated {
        /// Which.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A lock was lost before the child started.
    #[error("the lock `{lock}` was lost before anything was run")]
    Lost {
        /// Which.
        lock: String,
    },
    /// Stopped by a signal before the child started.
    #[error("interrupted by {name}{leftover}")]
    Interrupted {
        /// The signal's number.
        signal: i32,
        /// Its name, or what else it was.
        name: String,
        /// What it leaves behind.
        leftover: Leftover,
    },
    /// The command was not found.
    #[error("{message}")]
    NotFound {
        /// Which, and where it was sought.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The command was found and cannot be executed.
    #[error("{message}")]
    NotExecutable {
        /// Which, and why.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The machine lacks what every run needs.
    #[error("{message}")]
    Machine {
        /// What.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A failure that is nobody's configuration: the operating system refused something, or a bug.
    #[error("{0}")]
    Internal(String),
}

/// What a wait that was interrupted leaves behind; the end of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// Nothing at all.
    Nothing,
    /// Perhaps a place in the queue, which goes by itself.
    Place,
    /// A lock, of which its release has already said all.
    Lock,
    /// Perhaps a lock: a request for it may still be carried out by its store.
    MayAppear {
        /// The lock, as the user may name it.
        lock: String,
        /// Its ID.
        id: String,
        /// What became of the request.
        how: String,
        /// The command that removes it.
        unlock: String,
    },
    /// A run that was waited for and that keeps its lock.
    Run(String),
    /// The lock that was to be removed: the question was not answered.
    Shown,
    /// It only looked.
    Look,
    /// A plan that may be of half an apply: whoever stopped it does not wait until that is known.
    Plan,
    /// Output of Terraform's that its reader has not taken.
    Output,
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::Shown {
            return f.write_str(": the lock stays");
        }
        if *self == Self::Look {
            return Ok(());
        }
        if *self == Self::Plan {
            return f.write_str(
                ": the plan is dropped, because the state may have changed while it was made",
            );
        }
        if *self == Self::Output {
            return f.write_str(": not all of Terraform's output was passed on");
        }
        f.write_str(" while waiting; nothing was run")?;
        match self {
            Self::Nothing | Self::Shown | Self::Look | Self::Plan | Self::Output => {
                f.write_str(", nothing is left behind")
            }
            Self::Place => f.write_str(
                "; a place in the queue may be left, which the waiters behind it skip after 20 s",
            ),
            Self::Lock => f.write_str("; a lock is left behind (see above)"),
            Self::MayAppear { lock, id, how, unlock } => write!(
                f,
                "; the lock `{lock}` with ID {id} may still appear, because a request was {how}: \
                 if it does, remove it with: {unlock}"
            ),
            Self::Run(run) => write!(f, "; {run} still runs and keeps its lock"),
        }
    }
}

/// What helps where no process and no thread is to be had.
pub(crate) const MORE_PROCESSES: &str =
    "raise the limit of processes (`ulimit -u`, or that of the container)";

impl Error {
    /// Of an answer that was written to stdout. Who has read enough (`tfwrap status | head -1`) closes
    /// the pipe, which is no failure.
    pub fn expect_answered(written: std::io::Result<()>) -> Result<(), Self> {
        match written {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Self::Config {
                message: format!("the answer cannot be written to stdout: {error}"),
                hint: None,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Of a process that cannot be started, for no fault of its program.
    #[must_use]
    pub fn no_process(message: String, source: &std::io::Error) -> Self {
        // EAGAIN (fork(2)).
        if source.kind() == std::io::ErrorKind::WouldBlock {
            return Self::Machine { message, hint: Some(MORE_PROCESSES.to_owned()) };
        }
        Self::Internal(message)
    }

    /// Of a stop that came before anything was run, and after which nothing is left.
    #[must_use]
    pub fn interrupted(signal: StopSignal) -> Self {
        let (signal, leftover) = (signal.signal(), Leftover::Nothing);
        Self::Interrupted { signal: signal as i32, name: signal.as_str().to_owned(), leftover }
    }

    /// The same with what it leaves behind, if it is an interruption.
    #[must_use]
    pub fn leaving(mut self, left: Leftover) -> Self {
        if let Self::Interrupted { leftover, .. } = &mut self {
            *leftover = left;
        }
        self
    }

    /// What the user can do, where the message does not say it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. }
            | Self::Config { hint, .. }
            | Self::NotAcquired { hint, .. }
            | Self::NotFree { hint, .. }
            | Self::Refused { hint, .. }
            | Self::LeftBehind { hint, .. }
            | Self::Outdated { hint, .. }
            | Self::Machine { hint, .. }
            | Self::NotFound { hint, .. }
            | Self::NotExecutable { hint, .. } => hint.clone(),
            Self::Store { lock, source } => match lock.split_once("://") {
                Some(("file" | "local", _)) => file_hint(source).map(ToOwned::to_owned),
                Some(("s3", _)) => bucket_hint(source).map(ToOwned::to_owned),
                _ => store_hint(source).map(ToOwned::to_owned),
            },
            Self::Lost { .. } | Self::Interrupted { .. } => None,
            Self::Internal(_) => Some(REPORT_IT.to_owned()),
        }
    }
}

/// Where a bug is reported.
const REPORT_IT: &str =
    concat!("please report this as a bug: ", env!("CARGO_PKG_REPOSITORY"), "/issues");

/// Of a lock that is a file.
fn file_hint(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::Full(_) => Some("free space on that disk, then try again"),
        StoreError::Unavailable { .. } => Some("check that file system, then try again"),
        StoreError::Denied(_) => {
            Some("give this user write access to that directory, or name another path")
        }
        StoreError::Missing(_) => Some("create the directory, or name another path"),
        StoreError::Misconfigured(Flaw { kind: FlawKind::InTheWay, .. }) => {
            Some("check with `ls -ld` what is there, and move it away or name another path")
        }
        // It says what helps; the others are of services.
        StoreError::Misconfigured(_)
        | StoreError::Throttled(_)
        | StoreError::Busy(_)
        | StoreError::Failed(_)
        | StoreError::NotTheStore { .. }
        | StoreError::Credentials(_) => None,
    }
}

/// Of a lock that is an object in S3.
fn bucket_hint(error: &StoreError) -> Option<&'static str> {
    Some(match error {
        StoreError::Throttled(_) => "try again later, when the bucket is less busy",
        StoreError::Denied(Flaw { kind: FlawKind::Listing, .. }) => {
            "allow `s3:ListBucket` on the bucket; without `--all`, `tfwrap status` shows the lock of \
             this directory's state and does not need that permission"
        }
        StoreError::Denied(why) if why.kind != FlawKind::Role => {
            "allow `s3:GetObject`, `s3:PutObject` and `s3:DeleteObject` on the bucket's `*.tflock` \
             (and `s3:ListBucket` on the bucket), and what its KMS key needs, as Terraform's lock file needs \
             them; `tfwrap table policy` prints the whole policy"
        }
        StoreError::Missing(_) => "check the name of the bucket, and the region",
        error => return store_hint(error),
    })
}

fn store_hint(error: &StoreError) -> Option<&'static str> {
    Some(match error {
        StoreError::Throttled(_) => "raise the table's capacity, or switch it to on-demand",
        StoreError::Unavailable { .. } => {
            "check the endpoint, the region, the network and the proxy (`HTTPS_PROXY`), then try again"
        }
        StoreError::Failed(_) | StoreError::Busy(_) => "try again",
        StoreError::NotTheStore { .. } => {
            "check the endpoint, `HTTPS_PROXY` and `NO_PROXY`; something in between may want a \
             login"
        }
        StoreError::Denied(Flaw { kind: FlawKind::Role, .. }) => {
            "the role's trust policy must name this identity, and this identity must be allowed to \
             assume the role; `aws sts get-caller-identity` shows who you are"
        }
        StoreError::Denied(Flaw { kind: FlawKind::Making, .. }) => {
            "`tfwrap table create` needs `dynamodb:DescribeTable` and `dynamodb:CreateTable`; its options \
             need `dynamodb:UpdateTable`, `dynamodb:TagResource` and `dynamodb:UpdateContinuousBackups`"
        }
        StoreError::Denied(Flaw { kind: FlawKind::Listing, .. }) => {
            "allow `dynamodb:Scan` on the table; without `--all`, `tfwrap status` shows the lock of this \
             directory's state and does not need that permission"
        }
        StoreError::Denied(_) => {
            "allow `dynamodb:GetItem`, `dynamodb:PutItem` and `dynamodb:DeleteItem` on the lock \
             table (and `s3:ListBucket` on the state's bucket), as Terraform's S3 backend needs them; `tfwrap table \
             policy` prints the whole policy"
        }
        StoreError::Credentials(why) => credentials_hint(why.kind),
        StoreError::Missing(_) => {
            "check the name and the region, or create the table: `tfwrap table create`; for one of `--lock`, \
             `tfwrap doctor` prints the command"
        }
        StoreError::Misconfigured(why) => return config_hint(why.kind),
        StoreError::Full(_) => "free space on that disk, then try again",
    })
}

fn config_hint(kind: FlawKind) -> Option<&'static str> {
    Some(match kind {
        FlawKind::LineBreak => WITHOUT_NEWLINE,
        FlawKind::SocksProxy => {
            "name an HTTP proxy there, which Terraform can use too; or name the hosts that can be \
             reached without a proxy in `NO_PROXY`"
        }
        FlawKind::CaBundle => {
            "name a PEM file with at least one `-----BEGIN CERTIFICATE-----` block there, or remove \
             the setting to trust what the system trusts"
        }
        FlawKind::Distrusted => {
            "`openssl s_client -showcerts -connect HOST:443` shows what the server sends; correct \
             that, or the CA bundle"
        }
        FlawKind::Unreadable => UNREADABLE,
        FlawKind::Schema => {
            "the key of a table cannot be changed: `tfwrap doctor` shows what is wrong, and the command that \
             creates another one"
        }
        FlawKind::Profile => {
            "`aws configure list-profiles` lists the profiles; correct or unset what names this one"
        }
        // The text says what is to be corrected: nothing can be added.
        _ => return None,
    })
}

const UNREADABLE: &str = "check with `ls -l` what is there, or correct the setting or `AWS_…_FILE` \
                          variable that names it";
const WITHOUT_NEWLINE: &str =
    "store it without its newline (`printf %s`, where `echo` adds one), then try again";

/// A login helps only where there was one, or none of anything; elsewhere the message names what is
/// broken.
fn credentials_hint(kind: FlawKind) -> &'static str {
    match kind {
        FlawKind::LoggedOut => "log in with that command, then try again",
        FlawKind::Process => {
            "run that program by hand and see what it prints; it is the `credential_process` of \
             the profile"
        }
        FlawKind::Expired => {
            "log in again (`aws sso login`, if you use it), or renew the session's keys; `aws sts \
             get-caller-identity` shows who you are"
        }
        FlawKind::LineBreak => WITHOUT_NEWLINE,
        FlawKind::Unreadable => UNREADABLE,
        FlawKind::Signature => {
            "check that the secret key was stored completely and without a trailing newline, and \
             that this machine's clock is right"
        }
        FlawKind::Clock => "correct this machine's clock (NTP), then try again",
        FlawKind::NoCredentials => {
            "set `AWS_PROFILE`, or `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or log in"
        }
        _ => {
            "`aws sts get-caller-identity` shows whether the AWS CLI finds the same, and who you are"
        }
    }
}

impl From<SettingsError> for Error {
    fn from(error: SettingsError) -> Self {
        let SettingsError { message, hint, fault } = error;
        match fault {
            Fault::Typed => Self::Usage { message, hint },
            Fault::Env | Fault::File => Self::Config { message, hint },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_advised_only_where_it_helps() {
        let hint = |source: StoreError| {
            Error::Store { lock: "dynamodb://t/k".to_owned(), source }.hint().unwrap_or_default()
        };
        // The words do not matter.
        let credentials = |kind: FlawKind| hint(StoreError::Credentials(kind.flaw("expired")));
        assert!(credentials(FlawKind::Expired).contains("log in again"));
        assert!(credentials(FlawKind::LoggedOut).contains("that command"));
        assert!(credentials(FlawKind::NoCredentials).contains("AWS_PROFILE"));
        for kind in [FlawKind::Named, FlawKind::Unreadable, FlawKind::Signature] {
            assert!(!credentials(kind).contains("log in"), "{kind:?}");
        }
        // What names all that there is to say has no more said of it.
        let wrong = |kind: FlawKind| hint(StoreError::Misconfigured(kind.flaw("`AWS_X`")));
        assert!(wrong(FlawKind::Profile).contains("`aws configure list-profiles`"));
        assert_eq!(wrong(FlawKind::Named), "");
        let denied = |kind: FlawKind| hint(StoreError::Denied(kind.flaw("`sts:AssumeRole`")));
        assert!(denied(FlawKind::Role).contains("trust policy"));
        assert!(denied(FlawKind::Named).contains("lock table"));
        let page = StoreError::NotTheStore { detail: String::new(), sent: true };
        assert!(hint(page).contains("NO_PROXY"));
    }
}
