//! The profile that Go's SDK loads, whatever the credentials come from: its endpoints and switches
//! count also beside keys in the environment.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::super::blocking::{self, reason};
use super::super::super::{FlawKind, StoreError};
use super::super::file;
use super::linked::ProfileError;
use super::{Linked, Profile, Profiles};
use crate::backend::AwsSettings;

/// The profile in use, which need not exist.
#[derive(Debug, Default)]
pub(in super::super) struct InUse {
    all: Profiles,
    name: String,
    linked: Option<Linked>,
    /// What could not be opened or understood, for whoever finds nothing in the others.
    passed_over: String,
}

impl InUse {
    /// Reads the shared files. One that cannot be opened is passed over, as Go does.
    ///
    /// # Errors
    /// When Go's SDK refuses the profile, or a file that it opens and cannot read.
    pub(in super::super) async fn read(settings: &AwsSettings) -> Result<Self, StoreError> {
        let configs = settings.shared_config_files.clone();
        let credentials = settings.shared_credentials_files.clone();
        let home = settings.home.join(".aws");
        let (all, passed_over) = blocking::run(move || {
            let (configs, mut passed_over) = texts(&configs, &home)?;
            let (credentials, more) = texts(&credentials, &home)?;
            passed_over.push_str(&more);
            Ok((Profiles::new(configs, credentials), passed_over))
        })
        .await?;
        match Self::of(settings, all) {
            Ok(found) => Ok(Self { passed_over, ..found }),
            Err(StoreError::Misconfigured(why)) => {
                Err(StoreError::Misconfigured(why.and(&passed_over)))
            }
            Err(error) => Err(error),
        }
    }

    /// Adds what could not be opened or understood, where that may be why nothing was found.
    pub(in super::super) fn explained(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Credentials(why) if why.kind == FlawKind::NoCredentials => {
                StoreError::Credentials(why.and(&self.passed_over))
            }
            error => error,
        }
    }

    /// Picks the profile.
    pub(in super::super) fn of(settings: &AwsSettings, all: Profiles) -> Result<Self, StoreError> {
        let var = |name| settings.env.get(name);
        let named = settings.profile.as_deref().or_else(|| var("AWS_PROFILE"));
        // One that only `AWS_DEFAULT_PROFILE` names may be missing.
        let name = named.or_else(|| var("AWS_DEFAULT_PROFILE")).unwrap_or("default").to_owned();
        let linked = if named.is_some() || all.get(&name).is_some() {
            let by = if settings.profile.is_some() { "the configuration" } else { "`AWS_PROFILE`" };
            let linked = all.link(&name).map_err(|error| match error {
                ProfileError::Missing(_) => {
                    FlawKind::Profile.flaw(format!("{error}, which {by} names"))
                }
                _ => error.to_string().into(),
            });
            Some(linked.map_err(StoreError::Misconfigured)?)
        } else {
            None
        };
        Ok(Self { all, name, linked, passed_over: String::new() })
    }

    /// The profile itself.
    pub(in super::super) fn profile(&self) -> Option<Profile<'_>> {
        self.all.get(&self.name)
    }

    /// The profile with those that it takes its credentials from; an empty one where there is none.
    pub(in super::super) fn linked(&self) -> Linked {
        self.linked.clone().unwrap_or_default()
    }

    /// The account that a profile, this or another, says its keys are of.
    pub(in super::super) fn account_of(&self, profile: &str) -> Option<String> {
        self.all.get(profile)?.text("aws_account_id").map(ToOwned::to_owned)
    }

    /// The profile, for messages.
    pub(in super::super) fn shown(&self) -> String {
        format!("profile `{}`", self.name)
    }

    /// A switch of the profile.
    pub(in super::super) fn switch(&self, key: &str) -> Option<bool> {
        self.profile()?.switch(key)
    }
}

/// The texts of those files that are there, and what of them was passed over; one that is nowhere named
/// (`home` is where those are) need not be there.
fn texts(files: &[PathBuf], home: &Path) -> Result<(Vec<String>, String), StoreError> {
    let (mut texts, mut passed_over) = (Vec::new(), String::new());
    for path in files {
        let shown = path.display();
        let bytes = match file::open(path) {
            Ok(opened) => file::all_of(opened),
            Err(error) if error.kind() == ErrorKind::InvalidInput => Err(error),
            Err(error) => {
                if error.kind() != ErrorKind::NotFound || !path.starts_with(home) {
                    let _ = write!(passed_over, "; `{shown}` cannot be opened: {}", reason(&error));
                }
                continue;
            }
        };
        let bytes = bytes.map_err(|error| {
            let text = format!("cannot read the AWS profiles in `{shown}`: {}", reason(&error));
            StoreError::Misconfigured(FlawKind::Unreadable.flaw(text))
        })?;
        let text = String::from_utf8_lossy(&bytes);
        if matches!(text, Cow::Owned(_)) {
            let _ = write!(passed_over, "; `{shown}` is not UTF-8");
        }
        if let Some(line) = no_section(&text) {
            let _ = write!(passed_over, "; `{shown}` line {line} begins with `[` and has no `]`");
        }
        texts.push(text.into_owned());
    }
    Ok((texts, passed_over))
}

/// The first line, from 1, that was meant to begin a section and does not; Go passes over it.
fn no_section(text: &str) -> Option<usize> {
    let is_odd = |line: &str| line.starts_with('[') && !line.contains(']');
    text.lines().position(is_odd).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_chosen_in_gos_order_and_must_be_there_where_go_wants_it() {
        let text = "[default]\n[profile a]\n[profile d]\n[profile p]\n";
        let error = "there is no profile `gone`, which `AWS_PROFILE` names";
        for (profile, env, expected) in [
            (None, &[][..], Ok("default")),
            (None, &[("AWS_DEFAULT_PROFILE", "d")], Ok("d")),
            (None, &[("AWS_PROFILE", "a"), ("AWS_DEFAULT_PROFILE", "d")], Ok("a")),
            (None, &[("AWS_PROFILE", ""), ("AWS_DEFAULT_PROFILE", "d")], Ok("d")),
            (Some("p"), &[("AWS_PROFILE", "gone")], Ok("p")),
            (None, &[("AWS_DEFAULT_PROFILE", "gone")], Ok("")),
            (None, &[("AWS_PROFILE", "gone")], Err(error)),
            (Some("gone"), &[], Err("there is no profile `gone`, which the configuration names")),
        ] {
            let settings = AwsSettings {
                profile: profile.map(ToOwned::to_owned),
                env: env.iter().copied().collect(),
                ..AwsSettings::default()
            };
            let found = InUse::of(&settings, Profiles::new([text], [""]));
            let found = found.map(|it| it.linked().name).map_err(|error| error.to_string());
            assert_eq!(found.as_deref(), expected.map_err(str::to_owned).as_deref(), "{env:?}");
        }
    }

    #[tokio::test]
    async fn files_that_cannot_be_opened_are_passed_over_and_other_alphabets_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("latin");
        std::fs::write(&file, b"# M\xfcller\n[default]\nregion = r\n").unwrap();
        let mut settings = AwsSettings {
            shared_config_files: vec![dir.path().join("none"), file.join("below"), file],
            ..AwsSettings::default()
        };
        let found = InUse::read(&settings).await.unwrap();
        assert_eq!(found.profile().and_then(|profile| profile.text("region")), Some("r"));

        settings.shared_credentials_files = vec![dir.path().to_owned()];
        let error = InUse::read(&settings).await.unwrap_err().to_string();
        let path = dir.path().display();
        assert_eq!(error, format!("cannot read the AWS profiles in `{path}`: is a directory"));
    }
}
