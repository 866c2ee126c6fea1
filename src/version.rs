//! Rules of Terraform that differ from release to release: the binary that will run is asked for its own.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::supervise;

/// Whether this program's S3 backend takes a variable for FIPS or dual-stack that says `false` for
/// `true`: Terraform up to 1.14 and `OpenTofu` do.
#[must_use]
pub fn takes_false_for_true(program: &Path) -> bool {
    static ASKED: Mutex<Option<(PathBuf, bool)>> = Mutex::new(None);
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*asked {
        Some((known, answer)) if known == program => *answer,
        _ => {
            let said = supervise::first_words(program, "version").unwrap_or_default();
            let answer = release(&said).is_none_or(|release| release < (1, 15));
            *asked = Some((program.to_owned(), answer));
            answer
        }
    }
}

/// The release of Terraform in what it says of itself.
fn release(said: &str) -> Option<(u32, u32)> {
    let (_, version) = said.split_once("Terraform v")?;
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_is_asked_whether_it_takes_false_for_true() {
        let top = tempfile::tempdir().unwrap();
        let answers = [
            ("Terraform v1.11.4", true),
            ("Terraform v1.14.9\non linux_amd64", true),
            ("Terraform v1.15.0-beta1", false),
            ("Terraform v2.0.0", false),
            ("OpenTofu v1.20.0", true),
            ("", true),
        ];
        for (number, (said, expected)) in answers.into_iter().enumerate() {
            let program = top.path().join(number.to_string());
            std::fs::write(&program, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
            std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
            assert_eq!(takes_false_for_true(&program), expected, "{said}");
        }
        assert!(takes_false_for_true(&top.path().join("none")));
    }
}
