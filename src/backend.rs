//! Terraform's side: which state a command will use, found where Terraform itself looks.
//!
//! In this order: a `-state` that replaces every backend; the backend in a saved plan; the backend
//! that `terraform init` recorded in the data directory; the local backend, if the configuration
//! declares none. A record that no longer fits the configuration is not second-guessed: Terraform
//! refuses to run with it, in its own words.

mod aws;
mod aws_endpoints;
mod aws_settings;
mod aws_variables;
mod config;
mod data_dir;
mod error;
mod go_json;
pub(crate) mod go_path;
mod hcl;
mod local;
mod odd_files;
mod other;
mod plan_file;
pub(crate) mod proxy;
mod read;
mod resolve;
mod s3;
mod workspace;

pub use aws::{AccountBy, AssumeRole, AwsEndpoints, AwsSettings, ProxySettings, WebIdentity};
pub use aws_endpoints::{not_a_url, split_zone};
pub use aws_settings::aws_from_env;
pub(crate) use aws_settings::{FULL_URI, RELATIVE_URI};
pub use error::BackendError;
pub use hcl::{has_configuration, has_tofu_files};
pub use odd_files::{expect_readable, waited_for};
pub use other::OtherBackend;
pub use resolve::resolve;
pub use s3::{Encryption, ObjectSettings, S3Backend};
pub use workspace::Workspace;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::env::Env;
pub use crate::terraform::Dialect;
use crate::terraform::StateFlag;

/// Where Terraform keeps the state of one directory and workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// A file on this machine; `state_path` is the very file that Terraform locks.
    Local {
        /// Absolute.
        state_path: PathBuf,
    },
    /// The S3 backend.
    S3(Box<S3Backend>),
    /// One that tfwrap has no lock for.
    Other(OtherBackend),
}

/// What is asked of [`resolve`]. Not printable: the environment holds keys and tokens.
#[derive(Clone)]
pub struct BackendQuery<'a> {
    /// The directory of the configuration, absolute, after `-chdir`.
    pub dir: &'a Path,
    /// The environment that Terraform will have.
    pub env: &'a Env,
    /// `-chdir` as it was given, for the commands in hints.
    pub chdir: Option<&'a Path>,
    /// Which of the two programs is to run.
    pub dialect: Dialect,
    /// Where it is, asked for its version where a rule depends on that.
    pub program: Option<&'a Path>,
    /// The file of `-state` or `-state-out` ([`crate::terraform::Invocation::state_flag`]).
    pub state_flag: Option<StateFlag>,
    /// The argument of `apply` ([`crate::terraform::Invocation::plan_file`]), relative to `dir`.
    pub plan_file: Option<PathBuf>,
    /// What `workspace delete` names; else the selected workspace counts.
    pub workspace_override: Option<OsString>,
    /// Whether the configuration's own backend block will do where the directory is not
    /// initialised.
    pub allow_hcl_fallback: bool,
}

impl<'a> BackendQuery<'a> {
    /// Asks for the state of a plain command in `dir`.
    #[must_use]
    pub fn new(dir: &'a Path, env: &'a Env) -> Self {
        Self {
            dir,
            env,
            chdir: None,
            dialect: Dialect::default(),
            program: None,
            state_flag: None,
            plan_file: None,
            workspace_override: None,
            allow_hcl_fallback: false,
        }
    }
}

/// Which state a command will use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Where it is.
    pub backend: Backend,
    /// The workspace.
    pub workspace: Workspace,
    /// Where the backend was found, for people.
    pub origin: String,
    /// Whether Terraform can use it as it is; otherwise `terraform init` comes first.
    pub initialised: bool,
    /// Whether its lock is Terraform's alone to take, if it takes one: the empty file that a lock makes
    /// would be read as a record of another kind, or Terraform refuses before it locks.
    pub locks_alone: bool,
    /// What the user should be told, if anything.
    pub notes: Vec<String>,
    /// The files that said so, and that Terraform reads for the same.
    pub read_from: Vec<PathBuf>,
}

impl Resolved {
    /// What was found and where, for people.
    #[must_use]
    pub fn in_words(&self) -> String {
        format!(
            "backend: {}; workspace: `{}` ({})",
            self.origin, self.workspace.name, self.workspace.origin
        )
    }
}
