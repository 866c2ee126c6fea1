//! Where a value comes from, and how the first source that has one is found.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::file::ConfigFile;
use crate::env::Env;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag, such as `--lease`.
    Flag(String),
    /// An environment variable.
    Env(String),
    /// The configuration file.
    File {
        /// Which.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An argument of Terraform's, such as `-lock-timeout`.
    Argument(String),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Env(name) | Self::Argument(name) => write!(f, "`{name}`"),
            Self::File { path, line } => write!(f, "`{}` line {line}", path.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Where it was set.
    pub origin: Origin,
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SettingsError {
    /// What is wrong, and where.
    pub message: String,
    /// What to do about it, where the message does not say it.
    pub hint: Option<String>,
    /// Where it was set.
    pub fault: Fault,
}

/// Whose fault a setting is that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It was typed: a usage error.
    Typed,
    /// The environment's.
    Env,
    /// The configuration file's.
    File,
}

impl SettingsError {
    pub(super) fn at(origin: &Origin, what: impl fmt::Display) -> Self {
        let fault = match origin {
            Origin::Flag(_) | Origin::Argument(_) => Fault::Typed,
            Origin::Env(_) | Origin::Default => Fault::Env,
            Origin::File { .. } => Fault::File,
        };
        let hint = match origin {
            Origin::Env(name) => Some(format!("correct or unset `{name}`")),
            Origin::File { .. } => Some("correct or remove that line".to_owned()),
            Origin::Flag(name) => Some(match example(name) {
                Some(value) => format!("such as `{name} {value}`; `tfwrap --help` explains it"),
                None => format!("`tfwrap --help` explains `{name}`"),
            }),
            Origin::Argument(_) | Origin::Default => None,
        };
        Self { message: format!("{origin}: {what}"), hint, fault }
    }

    pub(super) fn of_file(message: String) -> Self {
        Self { message, hint: None, fault: Fault::File }
    }

    pub(super) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// A value that an option may well have.
fn example(name: &str) -> Option<&'static str> {
    match name.trim_start_matches('-') {
        "lock-timeout" => Some("45m"),
        "lease" => Some("10m"),
        "grace" => Some("2m"),
        "orphan-grace" => Some("3m"),
        "max-hold" => Some("6h"),
        "lock" => Some("dynamodb://TABLE/LOCK-ID"),
        _ => None,
    }
}

/// The sources below the flags.
pub(super) struct Sources<'a> {
    pub(super) env: &'a Env,
    pub(super) file: Option<&'a ConfigFile>,
}

impl Sources<'_> {
    /// The first source that has a value, parsed.
    pub(super) fn pick<T>(
        &self,
        name: &str,
        flag: Option<String>,
        parse: impl Fn(&str) -> Result<T, String>,
        default: T,
    ) -> Result<Sourced<T>, SettingsError> {
        let Some(Sourced { value, origin }) = self.raw(name, flag)? else {
            return Ok(Sourced { value: default, origin: Origin::Default });
        };
        match parse(&value) {
            Ok(value) => Ok(Sourced { value, origin }),
            Err(what) => Err(SettingsError::at(&origin, what)),
        }
    }

    /// A switch: the flag can only switch it on; environment and file say true or false.
    pub(super) fn pick_flag(&self, name: &str, flag: bool) -> Result<Sourced<bool>, SettingsError> {
        let typed = flag.then(|| "true".to_owned());
        self.pick(name, typed, parse_bool, false)
    }

    /// A list: repeated flags, white-space separated words in the environment, a YAML list.
    pub(super) fn pick_list<T>(
        &self,
        name: &str,
        flags: &[String],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<Sourced<T>>, SettingsError> {
        let variable = variable(name);
        let raw: Vec<Sourced<String>> = if !flags.is_empty() {
            let origin = Origin::Flag(format!("--{name}"));
            flags
                .iter()
                .map(|value| Sourced { value: value.clone(), origin: origin.clone() })
                .collect()
        } else if let Some(words) = text_of(self.env, &variable)? {
            let origin = Origin::Env(variable);
            words
                .split_ascii_whitespace()
                .map(|value| Sourced { value: value.to_owned(), origin: origin.clone() })
                .collect()
        } else {
            self.list_of_file(name)?
        };
        raw.into_iter()
            .map(|Sourced { value, origin }| match parse(&value) {
                Ok(value) => Ok(Sourced { value, origin }),
                Err(what) => Err(SettingsError::at(&origin, what)),
            })
            .collect()
    }

    /// A path, which need not be UTF-8 in a flag or the environment.
    pub(super) fn pick_path(
        &self,
        name: &str,
        flag: Option<&OsString>,
    ) -> Result<Option<Sourced<OsString>>, SettingsError> {
        if let Some(value) = flag {
            let origin = Origin::Flag(format!("--{name}"));
            return Ok(Some(Sourced { value: value.clone(), origin }));
        }
        let variable = variable(name);
        if let Some(value) = self.env.get_os(&variable) {
            return Ok(Some(Sourced { value: value.to_owned(), origin: Origin::Env(variable) }));
        }
        let of_file = self.raw(name, None)?;
        Ok(of_file.map(|Sourced { value, origin }| Sourced { value: value.into(), origin }))
    }

    pub(super) fn list_of_file(&self, name: &str) -> Result<Vec<Sourced<String>>, SettingsError> {
        self.file.map_or(Ok(Vec::new()), |file| file.list(name))
    }

    pub(super) fn flag_of_file(&self, name: &str) -> Result<bool, SettingsError> {
        let Some(Sourced { value, origin }) = self.scalar_of_file(name)? else {
            return Ok(false);
        };
        parse_bool(&value).map_err(|what| SettingsError::at(&origin, what))
    }

    fn raw(
        &self,
        name: &str,
        flag: Option<String>,
    ) -> Result<Option<Sourced<String>>, SettingsError> {
        if let Some(value) = flag {
            return Ok(Some(Sourced { value, origin: Origin::Flag(format!("--{name}")) }));
        }
        let variable = variable(name);
        if let Some(value) = text_of(self.env, &variable)? {
            return Ok(Some(Sourced { value, origin: Origin::Env(variable) }));
        }
        self.scalar_of_file(name)
    }

    fn scalar_of_file(&self, name: &str) -> Result<Option<Sourced<String>>, SettingsError> {
        self.file.map_or(Ok(None), |file| file.scalar(name))
    }
}

/// `lock-timeout` → `TFWRAP_LOCK_TIMEOUT`.
pub(crate) fn variable(name: &str) -> String {
    format!("TFWRAP_{}", name.to_ascii_uppercase().replace('-', "_"))
}

fn text_of(env: &Env, variable: &str) -> Result<Option<String>, SettingsError> {
    match env.get_os(variable) {
        None => Ok(None),
        Some(value) => value.to_str().map(|text| Some(text.to_owned())).ok_or_else(|| {
            SettingsError::at(&Origin::Env(variable.to_owned()), "the value is not UTF-8")
        }),
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither `true` nor `false`")),
    }
}
