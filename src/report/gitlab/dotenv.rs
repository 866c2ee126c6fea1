//! The outputs of a run as a dotenv file, which GitLab hands to later jobs (`artifacts:reports:dotenv`).

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;

use crate::env::Env;
use crate::opened;
use crate::report::Summary;
use crate::report::github::{final_outputs, lock_id_output};

/// The variable with the file's path.
const VARIABLE: &str = "TFWRAP_DOTENV";

/// The file that `TFWRAP_DOTENV` names.
#[derive(Debug)]
pub struct Dotenv {
    path: PathBuf,
    /// Whether it was said that it cannot be written: once is enough.
    told: AtomicBool,
}

/// Why the file could not be written; worth a warning, never a failure.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to `{}` (from `{VARIABLE}`): {source}", path.display())]
pub struct DotenvError {
    path: PathBuf,
    source: io::Error,
}

impl DotenvError {
    /// What to do about it, and what is missing until then.
    #[must_use]
    pub fn hint(&self) -> String {
        format!(
            "set `{VARIABLE}` to a file in a directory that exists, as `$CI_PROJECT_DIR/tfwrap.env`; \
             until then later jobs do not get tfwrap's outputs"
        )
    }
}

impl Dotenv {
    /// The file that the environment names.
    #[must_use]
    pub fn from_env(env: &Env) -> Option<Self> {
        let path = PathBuf::from(env.get_os(VARIABLE)?);
        Some(Self { path, told: AtomicBool::new(false) })
    }

    /// Writes the lock's ID alone; called before the child starts, so that `after_script` has it
    /// whatever happens.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_lock_id(&self, id: &str) -> Result<(), DotenvError> {
        let written = self.write(&lock_id_output(id));
        self.told.fetch_or(written.is_err(), Ordering::Relaxed);
        written
    }

    /// Writes all outputs.
    ///
    /// # Errors
    /// When the file cannot be written, and [`Self::write_lock_id`] has not said so before.
    pub fn write_end(&self, summary: &Summary) -> Result<(), DotenvError> {
        let id = lock_id_output(summary.id.as_deref().unwrap_or_default());
        self.write(&(id + &final_outputs(summary)))
            .or_else(|error| if self.told.load(Ordering::Relaxed) { Ok(()) } else { Err(error) })
    }

    /// Replaces what is in the file: GitLab wants each name once, and a job may run tfwrap twice.
    fn write(&self, outputs: &str) -> Result<(), DotenvError> {
        let replace = || {
            let options = &mut File::options();
            let options = options.write(true).create(true).truncate(false);
            let mut file = opened::with(options, libc::O_NOFOLLOW, &self.path)?.regular()?;
            file.set_len(0)?;
            file.write_all(dotenv(outputs).as_bytes())
        };
        replace().map_err(|source| DotenvError { path: self.path.clone(), source })
    }
}

/// `lock-id=…` as `TFWRAP_LOCK_ID=…`. The runner expands variables in the values of variables: what
/// others wrote must name none.
fn dotenv(outputs: &str) -> String {
    let lines = outputs.lines().filter_map(|line| line.split_once('='));
    let lines = lines.map(|(name, value)| {
        let name = name.replace('-', "_").to_ascii_uppercase();
        format!("TFWRAP_{name}={}\n", value.replace('$', ""))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::hostile;
    use crate::report::tests::summary;

    fn at(path: &std::path::Path) -> Dotenv {
        Dotenv::from_env(&[(VARIABLE, path)].into_iter().collect()).unwrap()
    }

    #[test]
    fn the_end_replaces_the_lock_id_and_what_an_earlier_run_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tfwrap.env");
        let read = || std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, "TFWRAP_LOCK_ID=of-another\n".repeat(50)).unwrap();
        at(&path).write_lock_id("28e8a6c8").unwrap();
        assert_eq!(read(), "TFWRAP_LOCK_ID=28e8a6c8\n");
        at(&path).write_end(&summary()).unwrap();
        assert_eq!(
            read(),
            "TFWRAP_LOCK_ID=28e8a6c8\nTFWRAP_EXITCODE=0\nTFWRAP_OUTCOME=success\n\
             TFWRAP_WAITED_SECONDS=30\nTFWRAP_HELD_SECONDS=120\n\
             TFWRAP_HOLDER=ci@runner for apply, https://ci.example/run/7\n\
             TFWRAP_REPLANNED=false\n"
        );
    }

    #[test]
    fn a_hostile_record_names_no_variable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tfwrap.env");
        let mut info = hostile::info();
        info.who = "$CI_JOB_TOKEN ${AWS_SECRET_ACCESS_KEY} %TOKEN%".into();
        at(&path).write_end(&Summary { holder: Some(Box::new(info)), ..summary() }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("TFWRAP_HOLDER=CI_JOB_TOKEN {AWS_SECRET_ACCESS_KEY}"), "{text}");
        assert!(!text.contains('$'), "{text}");
        let name = |line: &str| line.split_once('=').is_some_and(|it| it.0.starts_with("TFWRAP_"));
        assert!(text.lines().all(name), "{text}");
        text.lines().for_each(hostile::assert_harmless);
    }

    #[test]
    fn links_pipes_and_directories_are_refused_and_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tfwrap.env");
        let target = dir.path().join("target");
        std::fs::write(&target, "theirs").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let linked = at(&path);
        let error = linked.write_lock_id("x").unwrap_err();
        assert!(error.to_string().contains("(from `TFWRAP_DOTENV`)"), "{error}");
        linked.write_end(&summary()).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "theirs");

        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        at(&path).write_end(&summary()).unwrap_err();
        at(dir.path()).write_end(&summary()).unwrap_err();
        at(&dir.path().join("no/such")).write_end(&summary()).unwrap_err();
    }

    #[test]
    fn without_the_variable_there_is_no_file() {
        assert!(Dotenv::from_env(&Env::default()).is_none());
    }
}
