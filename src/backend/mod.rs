//! Terraform's side: which state a command will use, found where Terraform itself looks.

mod aws;

pub use aws::{AssumeRole, AwsEndpoints, AwsSettings, WebIdentity};

use std::path::PathBuf;

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
    /// One that tfwrap has no lock for, by Terraform's name (`gcs`, `http`, `cloud`, …).
    Other(String),
}

/// The S3 backend's configuration as far as it decides what to lock and how to get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Backend {
    /// The bucket of the state.
    pub bucket: String,
    /// The configured `key` (that of the default workspace).
    pub key: String,
    /// `env:` unless configured; may be empty.
    pub workspace_key_prefix: String,
    /// The workspace in use.
    pub workspace: String,
    /// The lock table, if one is configured.
    pub dynamodb_table: Option<String>,
    /// Whether the S3 lock file is on.
    pub use_lockfile: bool,
    /// How to reach AWS, environment merged in.
    pub aws: AwsSettings,
}
