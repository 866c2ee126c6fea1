//! Settings that know where they come from: flag, then environment, then `.tfwrap.yaml`, then the
//! default.
//!
//! Every value is text until here and goes through one parser whatever its origin, so that an
//! error can name the flag, the variable, or file and line.

mod file;
mod lock_url;
mod source;
mod trust;
mod unread;

pub use file::ConfigFile;
pub use lock_url::{LockPlace, LockUrl};
pub use source::{Fault, Origin, SettingsError, Sourced};
pub use unread::Unread;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::Options;
use crate::duration;
use crate::env::Env;
use crate::lock::lease::{LeaseTerm, SHORTEST};
use crate::nearest::nearest;
use crate::report::github::SummaryMode;
use crate::report::{ColorChoice, LogFormat, Verbosity};
use crate::shown_url::shown_value;
use crate::supervise::SecondSignal;
use crate::terraform::LISTED_COMMANDS;
use source::Sources;

/// What to do when the lock is no longer ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLockLost {
    /// Interrupt Terraform.
    Stop,
    /// Only say so.
    Warn,
}

/// What an `apply` or a `destroy` does when a newer run was applied already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOutdated {
    /// Go on.
    Run,
    /// Step aside, with exit code 0.
    Skip,
    /// Fail.
    Fail,
}

impl OnOutdated {
    const WORDS: [(&str, Self); 3] =
        [("run", Self::Run), ("skip", Self::Skip), ("fail", Self::Fail)];

    /// The word that was typed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Skip => "skip",
            Self::Fail => "fail",
        }
    }
}

/// How a plan is kept from reading what somebody is writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanLock {
    /// It takes the lock.
    Exclusive,
    /// It takes none, and looks afterwards whether anybody has written meanwhile.
    Optimistic,
}

impl PlanLock {
    const WORDS: [(&str, Self); 2] =
        [("exclusive", Self::Exclusive), ("optimistic", Self::Optimistic)];

    /// The word that was typed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Optimistic => "optimistic",
        }
    }
}

/// Everything a user can set, resolved.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each field is the option of its name, described in `cli`")]
pub struct Settings {
    pub lock_timeout: Sourced<Duration>,
    pub locks: Vec<Sourced<LockUrl>>,
    pub no_backend_lock: Sourced<bool>,
    pub lease: Sourced<LeaseTerm>,
    pub no_line: Sourced<bool>,
    pub no_history: Sourced<bool>,
    pub plan_lock: Sourced<PlanLock>,
    pub outdated: Sourced<OnOutdated>,
    pub summary: Sourced<SummaryMode>,
    pub on_lock_lost: Sourced<OnLockLost>,
    pub grace: Sourced<Option<Duration>>,
    pub orphan_grace: Sourced<Duration>,
    pub max_hold: Sourced<Duration>,
    pub second_signal: Sourced<SecondSignal>,
    pub terraform: Option<Sourced<OsString>>,
    pub log_format: Sourced<LogFormat>,
    pub verbosity: Verbosity,
    pub color: ColorChoice,
    /// Commands of Terraform's that run without the lock (`unlocked:` of the file).
    pub unlocked: Vec<Sourced<String>>,
    /// Why the configuration file counts for nothing, if so, or a variable where they are only checked. See
    /// [`Settings::whole`].
    pub unusable: Option<SettingsError>,
    /// What was probably meant as a setting. See [`Settings::load`].
    pub unread: Vec<Unread>,
}

/// What the settings are resolved from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// As typed.
    pub options: &'a Options,
    /// The environment.
    pub env: &'a Env,
    /// The file, if there is one.
    pub file: Option<&'a ConfigFile>,
    /// Whether a CI was detected: some defaults differ.
    pub in_ci: bool,
}

const MINUTE: Duration = Duration::from_mins(1);

impl Settings {
    /// Resolves them all.
    ///
    /// # Errors
    /// The first value that does not parse, with its origin.
    pub fn resolve(inputs: &Inputs<'_>) -> Result<Self, SettingsError> {
        let from = Sources { env: inputs.env, file: inputs.file };
        let options = inputs.options;
        let lease = if inputs.in_ci { LeaseTerm::After(10 * MINUTE) } else { LeaseTerm::Never };
        let second = if inputs.in_ci { SecondSignal::Hold } else { SecondSignal::Forward };
        let text = |value: &Option<String>| value.clone();
        Ok(Self {
            lock_timeout: from.pick(
                "lock-timeout",
                text(&options.lock_timeout),
                parse_duration,
                30 * MINUTE,
            )?,
            locks: locks(&from, options)?,
            no_backend_lock: from.pick_flag("no-backend-lock", options.no_backend_lock)?,
            lease: from.pick("lease", text(&options.lease), parse_lease, lease)?,
            no_line: from.pick_flag("no-line", options.no_line)?,
            no_history: from.pick_flag("no-history", options.no_history)?,
            plan_lock: from.pick(
                "plan-lock",
                text(&options.plan_lock),
                |value| word(value, &PlanLock::WORDS),
                PlanLock::Exclusive,
            )?,
            outdated: from.pick(
                "outdated",
                text(&options.outdated),
                |value| word(value, &OnOutdated::WORDS),
                OnOutdated::Run,
            )?,
            summary: from.pick(
                "summary",
                text(&options.summary),
                |value| word(value, &SummaryMode::WORDS),
                SummaryMode::Auto,
            )?,
            on_lock_lost: from.pick(
                "on-lock-lost",
                text(&options.on_lock_lost),
                |value| word(value, &[("stop", OnLockLost::Stop), ("warn", OnLockLost::Warn)]),
                OnLockLost::Stop,
            )?,
            grace: from.pick("grace", text(&options.grace), parse_grace, None)?,
            orphan_grace: from.pick(
                "orphan-grace",
                text(&options.orphan_grace),
                parse_duration,
                3 * MINUTE,
            )?,
            max_hold: from.pick(
                "max-hold",
                text(&options.max_hold),
                parse_duration,
                360 * MINUTE,
            )?,
            second_signal: from.pick(
                "second-signal",
                text(&options.second_signal),
                |value| {
                    word(value, &[("hold", SecondSignal::Hold), ("forward", SecondSignal::Forward)])
                },
                second,
            )?,
            terraform: terraform(&from, options)?,
            log_format: from.pick(
                "log-format",
                text(&options.log_format),
                |value| word(value, &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
                LogFormat::Text,
            )?,
            verbosity: verbosity(&from, options)?,
            color: color(&from, options)?,
            unlocked: unlocked(&from)?,
            unusable: None,
            unread: Vec::new(),
        })
    }

    /// Reads the file that applies, and resolves. One that cannot be used counts for nothing, which
    /// is an error only for who needs it.
    ///
    /// # Errors
    /// Of what was typed and of the environment.
    pub fn load(
        options: &Options,
        env: &Env,
        dir: &Path,
        in_ci: bool,
    ) -> Result<Self, SettingsError> {
        let with = |file: Option<&ConfigFile>| Self::resolve(&Inputs { options, env, file, in_ci });
        let file = read_file(options, env, dir);
        let is_none = matches!(file, Ok(None));
        let settings = match file.and_then(|file| with(file.as_ref())) {
            Err(error) if error.fault == Fault::File => {
                Self { unusable: Some(error), ..with(None)? }
            }
            settings => settings?,
        };
        Ok(Self { unread: unread::all(env, is_none.then_some(dir)), ..settings })
    }

    /// The same for who checks them: a variable that cannot be used counts for nothing, either, and no other
    /// of ours.
    ///
    /// # Errors
    /// Of what was typed.
    pub fn load_to_check(
        options: &Options,
        env: &Env,
        dir: &Path,
        in_ci: bool,
    ) -> Result<Self, SettingsError> {
        Self::load(options, env, dir, in_ci).or_else(|error| match error.fault {
            Fault::Env => {
                let others = Self::load(options, &env.without_all("TFWRAP_"), dir, in_ci)?;
                Ok(Self { unusable: Some(error), ..others })
            }
            Fault::Typed | Fault::File => Err(error),
        })
    }

    /// For whatever depends on them: what takes a lock, or says who has it. What is handed over to
    /// Terraform as it is, and what gives back what was taken, must work without.
    ///
    /// # Errors
    /// The file cannot be used, or a variable where they are checked.
    pub fn whole(&self) -> Result<&Self, SettingsError> {
        self.unusable.clone().map_or(Ok(self), Err)
    }
}

/// The commands that run without the lock. One that nobody knows would be one that still takes it.
fn unlocked(from: &Sources<'_>) -> Result<Vec<Sourced<String>>, SettingsError> {
    let commands = from.list_of_file("unlocked")?;
    let known: Vec<_> = LISTED_COMMANDS.iter().map(|it| it.words.join(" ")).collect();
    for Sourced { value, origin } in &commands {
        if !known.contains(value) {
            let what = format!("`unlocked`: Terraform has no command `{value}`");
            let meant = nearest(value, known.iter().map(String::as_str));
            let hint = meant.map_or_else(
                || format!("correct or remove `{value}`"),
                |meant| format!("did you mean `{meant}`?"),
            );
            return Err(SettingsError::at(origin, what).with_hint(hint));
        }
    }
    Ok(commands)
}

fn locks(from: &Sources<'_>, options: &Options) -> Result<Vec<Sourced<LockUrl>>, SettingsError> {
    let locks = from.pick_list("lock", &options.lock, LockUrl::parse)?;
    for lock in &locks {
        if let Some(file) = from.file {
            file.check("lock", &lock.origin, || trust::check_lock(&lock.value))?;
        }
    }
    Ok(locks)
}

fn terraform(
    from: &Sources<'_>,
    options: &Options,
) -> Result<Option<Sourced<OsString>>, SettingsError> {
    let set = from.pick_path("terraform", options.terraform.as_ref())?;
    if let (Some(file), Some(set)) = (from.file, &set) {
        file.check("terraform", &set.origin, || trust::check_program(&set.value))?;
    }
    Ok(set)
}

/// Reads the file that applies: `--config`, else `TFWRAP_CONFIG`, else the nearest `.tfwrap.yaml`
/// from `dir` up to the first `.git`.
///
/// # Errors
/// When it cannot be read, is not to be trusted, or is not what it should be.
fn read_file(
    options: &Options,
    env: &Env,
    dir: &Path,
) -> Result<Option<ConfigFile>, SettingsError> {
    let named = options
        .config
        .clone()
        .or_else(|| env.get_os("TFWRAP_CONFIG").map(std::ffi::OsStr::to_os_string));
    match named {
        // Relative to where the command was typed, not to `--chdir`.
        Some(path) => ConfigFile::named(&PathBuf::from(path)).map(Some),
        None => file::search(dir)?.map(|path| ConfigFile::found(&path, dir)).transpose(),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

fn parse_lease(text: &str) -> Result<LeaseTerm, String> {
    if text == "never" {
        return Ok(LeaseTerm::Never);
    }
    let term = parse_duration(text)?;
    if term < SHORTEST {
        return Err(format!("`{text}` is too short: a lease is at least 15s, or `never`"));
    }
    Ok(LeaseTerm::After(term))
}

fn parse_grace(text: &str) -> Result<Option<Duration>, String> {
    if text == "none" { Ok(None) } else { parse_duration(text).map(Some) }
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = words.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("`{}` is none of {}", shown_value(text), names.join(", "))
    })
}

fn verbosity(from: &Sources<'_>, options: &Options) -> Result<Verbosity, SettingsError> {
    if options.quiet {
        return Ok(Verbosity::Quiet);
    }
    if options.verbose {
        return Ok(Verbosity::Verbose);
    }
    Ok(if from.flag_of_file("quiet")? {
        Verbosity::Quiet
    } else if from.flag_of_file("verbose")? {
        Verbosity::Verbose
    } else {
        Verbosity::Normal
    })
}

/// The colours of what is said before the settings are known; what cannot be used counts for nothing.
#[must_use]
pub fn early_color(options: &Options, env: &Env) -> ColorChoice {
    color(&Sources { env, file: None }, options).unwrap_or(ColorChoice::Auto)
}

/// `--color`, else `NO_COLOR`, else `CLICOLOR_FORCE`, else the file.
fn color(from: &Sources<'_>, options: &Options) -> Result<ColorChoice, SettingsError> {
    let unset = if from.env.get("NO_COLOR").is_some() {
        Some(ColorChoice::Never)
    } else if from.env.get("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
        Some(ColorChoice::Always)
    } else {
        None
    };
    if let (None, Some(choice)) = (&options.color, unset) {
        return Ok(choice);
    }
    let words = [
        ("auto", ColorChoice::Auto),
        ("always", ColorChoice::Always),
        ("never", ColorChoice::Never),
    ];
    from.pick("color", options.color.clone(), |value| word(value, &words), ColorChoice::Auto)
        .map(|color| color.value)
}

#[cfg(test)]
mod tests;
