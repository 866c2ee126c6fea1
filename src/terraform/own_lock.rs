//! Calls that lock for themselves although we would hold the lock for them, if they could be told
//! not to.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use super::command::{Command, LockUse};
use super::invocation::LOCK_TIMEOUT;
use crate::duration;
use crate::env::Env;

/// A call that is handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandedOver {
    /// Why, as the end of a sentence that begins with "because".
    pub why: &'static str,
    /// What it locks by itself, if it locks.
    pub own_lock: Option<OwnLock>,
}

/// What a call locks by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLock {
    /// A state file in the backend's place.
    pub state: Option<PathBuf>,
    /// What would spare it, at the end of "call it elsewhere, or".
    pub way_out: Option<&'static str>,
    /// Whether it needs the state's lock for certain; `init` does only when it moves the state.
    pub certain: bool,
    waits: Waits,
}

/// How it is told to wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Waits {
    /// It has no flags for that.
    Never,
    /// By an argument at this place.
    Argument(usize),
    /// By a word in front of all others, in this variable, which has this value: words of the
    /// environment come before the arguments, and may end the flags.
    Variable(String, OsString),
}

impl HandedOver {
    /// One that locks nothing.
    pub(super) fn without_lock(why: &'static str) -> Self {
        Self { why, own_lock: None }
    }

    /// One that locks for itself where its command does.
    pub(super) fn of(
        why: &'static str,
        command: &Command,
        args: &[OsString],
        words_end: usize,
        env: &Env,
    ) -> Self {
        let own_lock = OwnLock::of(command, args, words_end, env);
        Self { why, own_lock: own_lock.filter(|_| !says_no_lock(&args[words_end..])) }
    }
}

impl OwnLock {
    fn of(command: &Command, args: &[OsString], words_end: usize, env: &Env) -> Option<Self> {
        let is_init = command.words() == ["init"];
        if command.words() == ["console"] {
            let (state, waits) = (None, Waits::Never);
            return Some(Self { state, way_out: None, certain: true, waits });
        }
        if command.lock_use() != LockUse::Locks && !is_init {
            return None;
        }
        let own = command.args_variable();
        let value = |name: &str| env.get_os(name).filter(|value| !value.is_empty());
        let by_variable = value("TF_CLI_ARGS").is_some() || value(&own).is_some();
        let migrates = args[words_end..]
            .iter()
            .any(|arg| is_flag(arg, b"migrate-state") || is_flag(arg, b"force-copy"));
        Some(Self {
            state: None,
            way_out: Some(if by_variable && !is_init {
                "put what `TF_CLI_ARGS` and similar variables hold on its command line"
            } else {
                "add `-lock=false` if nobody else uses the other state"
            }),
            certain: !is_init || migrates,
            waits: if by_variable {
                let before = value(&own).map(OsStr::to_os_string).unwrap_or_default();
                Waits::Variable(own, before)
            } else {
                Waits::Argument(words_end)
            },
        })
    }

    /// Whether it can be told to wait.
    #[must_use]
    pub fn can_wait(&self) -> bool {
        !matches!(self.waits, Waits::Never)
    }

    /// The arguments, and what is in the environment beside, that make it wait so long. What the
    /// user said about that comes later, and counts.
    #[must_use]
    pub fn waiting(
        &self,
        args: &[OsString],
        limit: Duration,
    ) -> (Vec<OsString>, Option<(String, OsString)>) {
        let mut args = args.to_vec();
        let flag = OsString::from(format!("-{LOCK_TIMEOUT}={}", duration::format(limit)));
        match &self.waits {
            Waits::Never => (args, None),
            Waits::Argument(at) => {
                args.insert(*at, flag);
                (args, None)
            }
            Waits::Variable(name, before) => {
                let mut value = flag;
                if !before.is_empty() {
                    value.push(" ");
                    value.push(before);
                }
                (args, Some((name.clone(), value)))
            }
        }
    }
}

/// Whether this is that flag, with any value but a plain no.
fn is_flag(arg: &OsStr, name: &[u8]) -> bool {
    let bytes = arg.as_bytes();
    let Some(body) = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-")) else {
        return false;
    };
    body.strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || (rest[0] == b'=' && !is_no(&rest[1..])))
}

fn is_no(value: &[u8]) -> bool {
    matches!(value, b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False")
}

fn says_no_lock(args: &[OsString]) -> bool {
    args.iter().any(|arg| {
        let bytes = arg.as_bytes();
        let body = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-"));
        body.and_then(|body| body.strip_prefix(b"lock=")).is_some_and(is_no)
    })
}
