//! One call of Terraform: the words it is called with, read together with the words that its
//! environment adds.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::Dialect;
use super::cli_args::{self, SplitError};
use super::command::{self, Command, LockUse, StateUse};
use super::flags::{self, FoundFlag, FoundValue, Parsed};
use super::own_lock::HandedOver;
use crate::duration;
use crate::env::Env;
use crate::supervise::OUR_FLAG;

const LOCK: &str = "lock";
pub(super) const LOCK_TIMEOUT: &str = "lock-timeout";

/// Where a flag was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// On the command line.
    Argument,
    /// In this variable, `TF_CLI_ARGS` or `TF_CLI_ARGS_<command>`.
    Variable(String),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument => f.write_str("the arguments"),
            Self::Variable(name) => write!(f, "`{name}`"),
        }
    }
}

/// What `-state` and `-state-out` make of the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFlag {
    /// The file that Terraform locks, as given (relative to the directory after `-chdir`): the one
    /// it writes, `-state-out` before `-state`.
    pub path: PathBuf,
    /// Whether the file replaces every backend (`state mv`, `state rm`, `state replace-provider`);
    /// otherwise it counts for the local backend only.
    pub any_backend: bool,
}

/// Why the arguments cannot be used. All of these are wrong usage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// A variable with arguments cannot be split into words; Terraform refuses it too.
    #[error("`{variable}` cannot be split into arguments: {reason}")]
    Variable {
        /// Its name.
        variable: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl ArgsError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Variable { variable, .. } => {
                format!("close every quote in `{variable}`, or `unset {variable}`")
            }
        }
    }
}

/// One call of Terraform.
#[derive(Clone, PartialEq, Eq)]
pub struct Invocation {
    args: Vec<OsString>,
    chdir: Option<PathBuf>,
    command: Option<&'static Command>,
    reading: Result<Reading, HandedOver>,
}

// Written by hand: arguments can hold secrets (`-var password=…`).
impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation")
            .field("command", &self.command.map(Command::name))
            .field("chdir", &self.chdir)
            .field("hand_over_reason", &self.hand_over_reason())
            .finish_non_exhaustive()
    }
}

/// What the flags say, for a command that can run under our lock.
#[derive(Clone, PartialEq, Eq)]
struct Reading {
    /// The index of the first argument behind the command's words.
    words_end: usize,
    /// Those of the command line first, then by falling precedence.
    sources: Vec<(Said, Parsed)>,
}

impl Reading {
    /// The flag that counts, of all that were given.
    fn last(&self, name: &str) -> Option<(&FoundFlag, &Said)> {
        self.sources.iter().find_map(|(said, parsed)| Some((parsed.last(name)?, said)))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        match &self.last(name)?.0.value {
            FoundValue::Text(text) if !text.is_empty() => Some(PathBuf::from(text)),
            FoundValue::Text(_) | FoundValue::Bool(_) => None,
        }
    }
}

impl Invocation {
    /// Reads the arguments of a call (without the program's name) as a binary of this dialect will.
    ///
    /// # Errors
    /// When a variable with further arguments is malformed. Whatever is wrong with the arguments
    /// themselves makes the call one to hand over, and Terraform says so in its own words.
    pub fn parse(args: &[OsString], env: &Env, dialect: Dialect) -> Result<Self, ArgsError> {
        Self::parse_as(args, env, dialect, command::find)
    }

    /// The same of a binary whose `console` has the flags of other commands.
    ///
    /// # Errors
    /// As for [`Self::parse`].
    pub fn parse_locked_console(
        args: &[OsString],
        env: &Env,
        dialect: Dialect,
    ) -> Result<Self, ArgsError> {
        Self::parse_as(args, env, dialect, |_| Some(&command::LOCKED_CONSOLE))
    }

    fn parse_as(
        args: &[OsString],
        env: &Env,
        dialect: Dialect,
        find: impl FnOnce(&[OsString]) -> Option<&'static Command>,
    ) -> Result<Self, ArgsError> {
        let chdir = args.first().and_then(chdir_of);
        let first = usize::from(chdir.is_some());
        let command = find(&args[first..]);
        let reading = match command {
            None => Err(HandedOver::without_lock("it is not known to take the state lock")),
            Some(command) => read(command, args, first + command.words().len(), env, dialect)?,
        };
        Ok(Self { args: args.to_vec(), chdir, command, reading })
    }

    /// Whether this is a `console` that locks as if it had no flag for that.
    #[must_use]
    pub fn is_unlockable_console(&self) -> bool {
        self.handed_over().and_then(|it| it.own_lock.as_ref()).is_some_and(|it| !it.can_wait())
    }

    /// The command, where it is one of those that lock in one way or another.
    #[must_use]
    pub fn command(&self) -> Option<&'static Command> {
        self.command
    }

    /// The directory of a leading `-chdir=`, as given.
    #[must_use]
    pub fn chdir(&self) -> Option<&PathBuf> {
        self.chdir.as_ref()
    }

    /// Whether this call can run under our lock.
    #[must_use]
    pub fn lock_use(&self) -> LockUse {
        if self.reading.is_ok() { LockUse::Locks } else { LockUse::HandsOver }
    }

    /// Why it is handed over, as the end of a sentence that begins with "because".
    #[must_use]
    pub fn hand_over_reason(&self) -> Option<&'static str> {
        self.handed_over().map(|it| it.why)
    }

    /// What is known of a call that is handed over.
    #[must_use]
    pub fn handed_over(&self) -> Option<&HandedOver> {
        self.reading.as_ref().err()
    }

    /// Where `-lock=false` was given, if that is what counts.
    #[must_use]
    pub fn wants_no_lock(&self) -> Option<&Said> {
        let (found, said) = self.reading.as_ref().ok()?.last(LOCK)?;
        (found.value == FoundValue::Bool(false)).then_some(said)
    }

    /// The `-lock-timeout` that counts, and where it was given.
    #[must_use]
    pub fn lock_timeout(&self) -> Option<(Duration, &Said)> {
        let (found, said) = self.reading.as_ref().ok()?.last(LOCK_TIMEOUT)?;
        match &found.value {
            FoundValue::Text(text) => {
                Some((duration::parse_flag(&text.to_string_lossy()).ok()?, said))
            }
            FoundValue::Bool(_) => None,
        }
    }

    /// Whether a switch is on, wherever it was given.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let last = self.reading.as_ref().ok().and_then(|reading| reading.last(name));
        last.is_some_and(|(found, _)| matches!(found.value, FoundValue::Bool(true)))
    }

    /// Whether a switch is off that is on by default.
    #[must_use]
    pub fn has_not(&self, name: &str) -> bool {
        let last = self.reading.as_ref().ok().and_then(|reading| reading.last(name));
        last.is_some_and(|(found, _)| matches!(found.value, FoundValue::Bool(false)))
    }

    /// All that a flag with a value says, wherever it was given.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        let sources = self.reading.iter().flat_map(|reading| &reading.sources);
        sources.flat_map(|(_, parsed)| &parsed.flags).filter_map(move |found| match &found.value {
            FoundValue::Text(text) if found.name == name => Some(text.as_os_str()),
            FoundValue::Text(_) | FoundValue::Bool(_) => None,
        })
    }

    /// The positional argument of `apply`, which names a saved plan (or, before Terraform 0.15, a
    /// directory), relative to the directory after `-chdir`.
    #[must_use]
    pub fn plan_file(&self) -> Option<PathBuf> {
        // An empty one is none, for Terraform too.
        self.positional_of(&["apply"]).filter(|plan| !plan.is_empty()).map(PathBuf::from)
    }

    /// The file that `-out` makes `plan` write, relative to the directory after `-chdir`.
    #[must_use]
    pub fn plan_output(&self) -> Option<PathBuf> {
        self.reading.as_ref().ok()?.path("out")
    }

    /// The file that `-state` or `-state-out` make Terraform lock.
    #[must_use]
    pub fn state_flag(&self) -> Option<StateFlag> {
        let reading = self.reading.as_ref().ok()?;
        let any_backend = match self.command?.state_use {
            StateUse::None => return None,
            StateUse::LocalBackend => false,
            StateUse::AnyBackend => true,
        };
        let path = reading.path("state-out").or_else(|| reading.path("state"))?;
        Some(StateFlag { path, any_backend })
    }

    /// The workspace that `workspace delete` names: its state is locked, not the current one's.
    #[must_use]
    pub fn workspace_argument(&self) -> Option<&OsStr> {
        self.positional_of(&["workspace", "delete"])
            .or_else(|| self.positional_of(&["env", "delete"]))
    }

    /// The arguments for a child whose lock is held here: `-lock=false` right behind the command,
    /// where it beats every variable, the user's own lock flags left out, all else byte for byte.
    /// The arguments as they are for a call that is handed over.
    #[must_use]
    pub fn locked_argv(&self) -> Vec<OsString> {
        self.argv_with(OUR_FLAG.into(), &[LOCK, LOCK_TIMEOUT])
    }

    /// The arguments for a child that locks for itself and waits no longer than `left`. The
    /// arguments as they are for a call that is handed over.
    #[must_use]
    pub fn argv_with_lock_timeout(&self, left: Duration) -> Vec<OsString> {
        let flag = format!("-{LOCK_TIMEOUT}={}", duration::format(left));
        self.argv_with(flag.into(), &[LOCK_TIMEOUT])
    }

    fn argv_with(&self, flag: OsString, without: &[&str]) -> Vec<OsString> {
        let Ok(Reading { words_end, sources }) = &self.reading else {
            return self.args.clone();
        };
        let left_out: Vec<Range<usize>> = sources
            .iter()
            .filter(|(said, _)| *said == Said::Argument)
            .flat_map(|(_, parsed)| &parsed.flags)
            .filter(|found| without.contains(&found.name))
            .map(|found| found.at.clone())
            .collect();
        let (words, rest) = self.args.split_at(*words_end);
        let mut argv = words.to_vec();
        argv.push(flag);
        let kept =
            rest.iter().enumerate().filter(|(at, _)| !left_out.iter().any(|r| r.contains(at)));
        argv.extend(kept.map(|(_, arg)| arg.clone()));
        argv
    }

    fn positional_of(&self, words: &[&str]) -> Option<&OsStr> {
        let reading = self.reading.as_ref().ok()?;
        self.command.filter(|command| command.words() == words)?;
        let (_, parsed) = reading.sources.first()?;
        Some(&self.args[reading.words_end + parsed.positionals.first()?])
    }
}

/// The value of a `-chdir=DIR`; Terraform knows it with one dash only.
fn chdir_of(arg: &OsString) -> Option<PathBuf> {
    let dir = arg.as_bytes().strip_prefix(b"-chdir=").filter(|dir| !dir.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(dir)))
}

/// Reads all flags of a call, or says why it is to be handed over.
fn read(
    command: &'static Command,
    args: &[OsString],
    words_end: usize,
    env: &Env,
    dialect: Dialect,
) -> Result<Result<Reading, HandedOver>, ArgsError> {
    const OWN_ERROR: &str = "Terraform will refuse its arguments, or reads them differently";
    const PRINTS: &str = "it only prints its help or version";
    let own = &args[words_end..];
    let hand_over = |why| Ok(Err(HandedOver::of(why, command, args, words_end, env)));
    if asks_for_version(args) || asks_for_help(own) {
        return Ok(Err(HandedOver::without_lock(PRINTS)));
    }
    if command.lock_use() == LockUse::HandsOver {
        return hand_over("it has no flag that switches its locking off");
    }
    let known = command.flags(dialect);
    let Ok(parsed) = flags::parse(own, &known, dialect) else { return hand_over(OWN_ERROR) };
    let mut sources = vec![(Said::Argument, parsed)];
    for variable in ["TF_CLI_ARGS".to_owned(), command.args_variable()] {
        let Some(extra) = words_of(&variable, env)? else {
            return hand_over(
                "a variable of the environment holds arguments that Terraform reads in its own way",
            );
        };
        if asks_for_version(&extra) || asks_for_help(&extra) {
            return Ok(Err(HandedOver::without_lock(PRINTS)));
        }
        // Where flags end inside the variable, whatever is put behind it would be no flag any more.
        match flags::parse(&extra, &known, dialect) {
            Ok(parsed) if !parsed.stopped => sources.push((Said::Variable(variable), parsed)),
            Ok(_) | Err(_) => return hand_over(OWN_ERROR),
        }
    }
    let reading = Reading { words_end, sources };
    if command.state_use == StateUse::AnyBackend && reading.path("state-out").is_some() {
        let mut handed_over =
            HandedOver::of("it locks two state files", command, args, words_end, env);
        if let Some(own_lock) = &mut handed_over.own_lock {
            own_lock.state = reading.path("state");
        }
        return Ok(Err(handed_over));
    }
    Ok(Ok(reading))
}

/// Splits a variable into words; nothing where only Terraform can.
fn words_of(variable: &str, env: &Env) -> Result<Option<Vec<OsString>>, ArgsError> {
    let Some(value) = env.get_os(variable) else { return Ok(Some(Vec::new())) };
    let fail = |reason| ArgsError::Variable { variable: variable.to_owned(), reason };
    // Terraform puts signs of its own in the place of what is no text.
    let Some(text) = value.to_str() else { return Ok(None) };
    match cli_args::split(text) {
        Ok(words) => Ok(Some(words.into_iter().map(OsString::from).collect())),
        Err(SplitError::Unsettled) => Ok(None),
        Err(SplitError::Unclosed) => Err(fail("a quote is not closed, or a backslash ends it")),
    }
}

/// Whether one of these turns any call into `terraform version`, wherever it stands.
fn asks_for_version(args: &[OsString]) -> bool {
    args.iter().any(|arg| matches!(arg.as_bytes(), b"-v" | b"-version" | b"--version"))
}

/// Whether one of these, before a `--`, makes Terraform print the command's help, even as a
/// value.
fn asks_for_help(args: &[OsString]) -> bool {
    args.iter()
        .take_while(|arg| arg.as_bytes() != b"--")
        .any(|arg| matches!(arg.as_bytes(), b"-h" | b"-help" | b"--help"))
}

#[cfg(test)]
mod tests;
