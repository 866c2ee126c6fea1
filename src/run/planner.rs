//! Plans what there is to do, and plans it again after a wait, when the files may have changed.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::CliCommand;
use crate::env::Env;
use crate::error::Error;
use crate::file_id::FileId;
use crate::job::{self, Job, LockedJob, Place, StateInUse, is_chdir_first};
use crate::settings::Settings;
use crate::supervise::RunningTerraform;

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
        job::plan(&self.words, &self.settings, &self.place(&self.env, working_dir()?))
    }

    fn place<'a>(&self, env: &'a Env, dir: PathBuf) -> Place<'a> {
        Place {
            env,
            dir,
            this: FileId::of(&self.this_path),
            this_path: self.this_path.clone(),
            called_as: self.called_as.clone(),
        }
    }

    /// The states that a call may work on which somebody has started: where it has a `-chdir` that it may have
    /// followed already, with it and without.
    pub(crate) fn states_of(&self, call: &RunningTerraform) -> Vec<StateInUse> {
        let place = self.place(&call.env, call.dir.clone());
        let state = |args| StateInUse::of(args, &call.program, &place);
        let (is_chdir, all) = (is_chdir_first(&call.args), state(&call.args));
        if !is_chdir || (call.is_where_it_was_started && all.is_some()) {
            return Vec::from_iter(all);
        }
        all.into_iter().chain(state(&call.args[1..])).collect()
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
