//! Rules of Terraform that differ from release to release: the binary that will run is asked for its own.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::supervise;

/// A release, without its last number.
type Release = (u32, u32);

/// How each of the two programs begins its answer, and the oldest and the newest release of it whose
/// rules are known here.
const KNOWN: [(&str, [Release; 2]); 2] =
    [("Terraform", [(1, 0), (1, 15)]), ("OpenTofu", [(1, 6), (1, 12)])];

/// Whether this program's S3 backend takes a variable for FIPS or dual-stack that says `false` for
/// `true`: Terraform up to 1.14 and `OpenTofu` do.
#[must_use]
pub fn takes_false_for_true(program: &Path) -> bool {
    let said = said_by(program);
    released(&said, "Terraform").is_none_or(|release| release < (1, 15))
}

/// Whether this program's S3 backend takes keys of the environment before the profile that its
/// configuration names, unless `use_legacy_workflow` says otherwise: Terraform and `OpenTofu` up to 1.6 do.
#[must_use]
pub fn prefers_keys_of_environment(program: &Path) -> bool {
    let said = said_by(program);
    let released = KNOWN.iter().find_map(|(name, _)| released(&said, name));
    released.is_some_and(|release| release < (1, 7))
}

/// Whether Terraform has the AWS SDK of its releases up to 1.9. That knows no hosts of accounts, and asks
/// for a container's credentials at its full address first.
#[must_use]
pub fn has_older_aws_sdk(program: &Path) -> bool {
    let said = said_by(program);
    released(&said, "Terraform").is_some_and(|release| release < (1, 10))
}

/// What `console` does about the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleLock {
    /// It takes none: Terraform from 1.15 on.
    None,
    /// It takes it, and no flag says otherwise.
    Always,
    /// It has `-lock` and `-lock-timeout`: `OpenTofu` from 1.12 on.
    WithFlags,
}

/// What this program's `console` does about the lock.
#[must_use]
pub fn console_lock(program: &Path) -> ConsoleLock {
    let said = said_by(program);
    if released(&said, "Terraform").is_some_and(|release| release >= (1, 15)) {
        ConsoleLock::None
    } else if released(&said, "OpenTofu").is_some_and(|release| release >= (1, 12)) {
        ConsoleLock::WithFlags
    } else {
        ConsoleLock::Always
    }
}

/// That a program has a release whose rules are not known here, and which count in their place.
#[must_use]
pub fn unknown_rules(program: &Path) -> Option<String> {
    let said = said_by(program);
    let known = KNOWN.iter().find_map(|(name, known)| Some((name, released(&said, name)?, known)));
    let Some((name, release, [oldest, newest])) = known else {
        return Some(format!(
            "`{}` does not say which release of Terraform it is: the rules of 1.14 count",
            program.display()
        ));
    };
    let counts = release.clamp(*oldest, *newest);
    let text = |release: Release| format!("{}.{}", release.0, release.1);
    (counts != release).then(|| {
        format!(
            "the rules of {name} {} are not known here: those of {} count",
            text(release),
            text(counts)
        )
    })
}

/// What the program says of itself. It is asked once.
fn said_by(program: &Path) -> String {
    static ASKED: Mutex<Option<(PathBuf, String)>> = Mutex::new(None);
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*asked {
        Some((known, said)) if known == program => said.clone(),
        _ => {
            let said = supervise::first_words(program, "version").unwrap_or_default();
            *asked = Some((program.to_owned(), said.clone()));
            said
        }
    }
}

/// The release of the program of this name in what it says of itself.
fn released(said: &str, name: &str) -> Option<Release> {
    let (_, version) = said.split_once(&format!("{name} v"))?;
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_is_asked_what_its_console_does_about_the_lock() {
        let top = tempfile::tempdir().unwrap();
        for (number, (said, expected)) in [
            ("Terraform v1.14.9", ConsoleLock::Always),
            ("Terraform v1.15.0", ConsoleLock::None),
            ("OpenTofu v1.11.5", ConsoleLock::Always),
            ("OpenTofu v1.12.0", ConsoleLock::WithFlags),
            ("", ConsoleLock::Always),
        ]
        .into_iter()
        .enumerate()
        {
            let program = top.path().join(number.to_string());
            std::fs::write(&program, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
            std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
            assert_eq!(console_lock(&program), expected, "{said}");
        }
    }

    #[test]
    fn a_program_is_asked_for_its_rules_of_credentials() {
        let top = tempfile::tempdir().unwrap();
        let answers = [
            ("Terraform v1.0.3", true, true),
            ("Terraform v1.6.6\non linux_amd64", true, true),
            ("Terraform v1.7.0", false, true),
            ("Terraform v1.9.8", false, true),
            ("Terraform v1.10.0", false, false),
            ("OpenTofu v1.6.2", true, false),
            ("OpenTofu v1.7.0", false, false),
            ("", false, false),
        ];
        for (number, (said, prefers_keys, has_older_sdk)) in answers.into_iter().enumerate() {
            let program = top.path().join(number.to_string());
            std::fs::write(&program, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
            std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
            assert_eq!(prefers_keys_of_environment(&program), prefers_keys, "{said}");
            assert_eq!(has_older_aws_sdk(&program), has_older_sdk, "{said}");
        }
    }

    #[test]
    fn a_program_is_asked_whether_it_takes_false_for_true() {
        let top = tempfile::tempdir().unwrap();
        let answers = [
            ("Terraform v1.11.4", true, ""),
            ("Terraform v1.14.9\non linux_amd64", true, ""),
            ("Terraform v1.15.0-beta1", false, ""),
            ("Terraform v1.16.0", false, "Terraform 1.16 are not known here: those of 1.15 count"),
            ("Terraform v2.0.0", false, "those of 1.15 count"),
            ("Terraform v0.15.5", true, "those of 1.0 count"),
            ("OpenTofu v1.10.0", true, ""),
            ("OpenTofu v1.20.0", true, "OpenTofu 1.20 are not known here: those of 1.12 count"),
            ("", true, "the rules of 1.14 count"),
        ];
        for (number, (said, expected, counts)) in answers.into_iter().enumerate() {
            let program = top.path().join(number.to_string());
            std::fs::write(&program, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
            std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
            assert_eq!(takes_false_for_true(&program), expected, "{said}");
            let unknown = unknown_rules(&program).unwrap_or_default();
            assert!(
                unknown.ends_with(counts) && unknown.is_empty() == counts.is_empty(),
                "{unknown}"
            );
        }
        let none = top.path().join("none");
        assert!(takes_false_for_true(&none) && unknown_rules(&none).is_some());
    }
}
