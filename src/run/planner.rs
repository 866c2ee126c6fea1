//! Plans what there is to do, and plans it again after a wait, when the files may have changed.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::CliCommand;
use crate::env::Env;
use crate::error::Error;
use crate::file_id::FileId;
use crate::job::{self, Job, LockedJob, Place};
use crate::settings::Settings;

/// All that a plan is made from, but for what lies in the working directory.
pub(crate) struct Planner {
    pub(crate) words: CliCommand,
    pub(crate) settings: Settings,
    pub(crate) env: Env,
    pub(crate) this_path: PathBuf,
    pub(crate) called_as: Option<OsString>,
}

impl Planner {
    pub(crate) fn plan(&self) -> Result<Job, Error> {
        let place = Place {
            env: &self.env,
            dir: working_dir()?,
            this: FileId::of(&self.this_path),
            this_path: self.this_path.clone(),
            called_as: self.called_as.clone(),
        };
        job::plan(&self.words, &self.settings, &place)
    }

    /// The plan of a run under locks as it would be made now.
    ///
    /// # Errors
    /// As for the first one; also when there is no lock to take any more.
    pub(crate) fn again(&self) -> Result<LockedJob, Error> {
        match self.plan()? {
            Job::Locked(job) | Job::Hold(job, _) => Ok(*job),
            _ => Err(Error::Config {
                message:
                    "while tfwrap waited for the lock, the backend changed to one that has no lock"
                        .to_owned(),
                hint: Some("nothing was run; run the command again".to_owned()),
            }),
        }
    }
}

/// Where we are. Another directory may have that name by now, and this one another.
pub(crate) fn working_dir() -> Result<PathBuf, Error> {
    std::env::current_dir().map_err(|error| Error::Config {
        message: format!("the working directory cannot be used: {error}"),
        hint: Some("it may have been removed: change to one that exists (`cd`)".to_owned()),
    })
}
