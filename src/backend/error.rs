//! Why it cannot be said what to lock. All of these are a wrong or incomplete configuration.
//!
//! No message holds a value of the configuration other than names that locate the state: it may
//! hold keys and tokens.

use std::io;
use std::path::PathBuf;

use crate::opened::Kind;

/// Why it cannot be said what to lock.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The configuration declares a backend, and `terraform init` did not run yet.
    #[error("{place} declares the backend `{kind}`, but the directory is not initialised")]
    NotInitialised {
        /// Where the backend is declared.
        place: String,
        /// Its type.
        kind: String,
        /// The command that initialises it.
        init: String,
    },
    /// A file exists and cannot be read.
    #[error("`{}` cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pipe, a device or a socket stands in the place of a file.
    #[error("`{}` is {kind}, not a regular file", path.display())]
    NotRegular {
        /// Which.
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// A file is larger than any of its kind is.
    #[error("`{}` is larger than {limit} MiB", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// In MiB.
        limit: u64,
    },
    /// The data directory's `terraform.tfstate` is not what Terraform writes.
    #[error("`{}` is not a Terraform backend record: {reason}", path.display())]
    BadRecord {
        /// Which.
        path: PathBuf,
        /// Why, with the line where there is one.
        reason: String,
    },
    /// A configuration file that declares a backend cannot be read as such.
    #[error("{place}: {reason}")]
    BadHcl {
        /// File and, where known, line.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The backend block leaves out what only `terraform init` is told.
    #[error("{place}: the backend `s3` has no `{missing}` there")]
    PartialBackend {
        /// File and, where known, line.
        place: String,
        /// The missing attribute.
        missing: &'static str,
        /// The command that initialises the directory.
        init: String,
    },
    /// An attribute of the backend has no use as it is.
    #[error("the backend in {place} has no usable `{attribute}`: {reason}")]
    BadAttribute {
        /// Where the configuration was found.
        place: String,
        /// Which attribute.
        attribute: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A path below another user's home directory, which Terraform does not find.
    #[error("`{path}` is in another user's home directory, which Terraform does not look up")]
    OthersHome {
        /// The path.
        path: String,
    },
    /// A variable of AWS' is one that Terraform does not run with.
    #[error("`{name}` cannot be used: {reason}")]
    BadVariable {
        /// Which.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither the backend nor the environment names a region.
    #[error(
        "missing region value: the backend in {place} has no `region`, and neither `AWS_REGION` \
         nor `AWS_DEFAULT_REGION` is set"
    )]
    MissingRegion {
        /// Where the configuration was found.
        place: String,
    },
    /// A workspace has a name that Terraform does not accept.
    #[error("{origin} names the workspace `{name}`, which is not a valid name")]
    BadWorkspace {
        /// The name.
        name: String,
        /// Where it was given.
        origin: String,
    },
    /// A file is a zip archive, as saved plans are, but cannot be read as a plan.
    #[error("the saved plan `{}` cannot be read: {reason}", path.display())]
    CorruptPlan {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl BackendError {
    /// What to do about it, with the exact command where there is one.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            // Terraform would refuse it, too.
            Self::NotInitialised { kind, .. } if kind.is_empty() => {
                "give it a type, such as `backend \"s3\"`".to_owned()
            }
            Self::NotInitialised { init, .. } => format!("run `{init}` first"),
            Self::PartialBackend { init, missing, .. } => {
                format!("run `{init} -backend-config={missing}=…` first")
            }
            Self::Unreadable { path, .. } | Self::NotRegular { path, .. } => {
                format!("check `ls -l {}`", quoted(path))
            }
            Self::TooLarge { path, .. } => format!("see what `{}` is", path.display()),
            Self::BadRecord { .. } => "run `terraform init -reconfigure` to rewrite it".to_owned(),
            Self::BadHcl { .. } => {
                "run `terraform init` first; it reads more than literal values, \
                                    and names what it cannot read"
                    .to_owned()
            }
            Self::BadAttribute { attribute, .. } => {
                format!("correct `{attribute}` and run `terraform init -reconfigure`")
            }
            Self::OthersHome { path } => {
                format!("write `{path}` without the `~`, from `/` on")
            }
            Self::BadVariable { name, .. } => format!("correct or unset `{name}`"),
            Self::MissingRegion { .. } => "set `AWS_REGION` to the region of the bucket, or \
                                           `region` in the backend; a profile's region does not \
                                           count for Terraform either"
                .to_owned(),
            Self::BadWorkspace { .. } => {
                "`terraform workspace list` shows the existing names".to_owned()
            }
            Self::CorruptPlan { path, .. } => {
                format!("create it again with `terraform plan -out={}`", quoted(path))
            }
        }
    }
}

fn quoted(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    shell_words::quote(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_where_and_what_to_do() {
        let path = PathBuf::from("/w/a b");
        let place = || "`main.tf:2`".to_owned();
        let init = || "terraform init".to_owned();
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        let reason = || "why".to_owned();
        let errors = [
            BackendError::NotInitialised { place: place(), kind: "s3".to_owned(), init: init() },
            BackendError::Unreadable { path: path.clone(), source },
            BackendError::NotRegular { path: path.clone(), kind: Kind::Pipe },
            BackendError::TooLarge { path: path.clone(), limit: 16 },
            BackendError::BadRecord { path: path.clone(), reason: reason() },
            BackendError::BadHcl { place: place(), reason: reason() },
            BackendError::PartialBackend { place: place(), missing: "key", init: init() },
            BackendError::BadAttribute {
                place: place(),
                attribute: "key".to_owned(),
                reason: reason(),
            },
            BackendError::OthersHome { path: "~u/w/a b".to_owned() },
            BackendError::MissingRegion { place: place() },
            BackendError::BadWorkspace { name: "a/b".to_owned(), origin: place() },
            BackendError::CorruptPlan { path, reason: reason() },
        ];
        for error in errors {
            let (message, hint) = (error.to_string(), error.hint());
            let names = ["`main.tf:2`", "`/w/a b`", "`~u/w/a b`"];
            assert!(names.iter().any(|name| message.contains(name)), "{message}");
            assert!(!message.ends_with('.') && !hint.ends_with('.'), "{message} {hint}");
            assert!(hint.contains('`'), "{hint}");
            assert!(!hint.contains(" /w/a b"), "a path in a command is quoted: {hint}");
        }
    }

    #[test]
    fn a_backend_without_a_type_needs_more_than_init() {
        let hint = |kind: &str| {
            let (place, init) = ("`main.tf:2`".to_owned(), "terraform init".to_owned());
            BackendError::NotInitialised { place, kind: kind.to_owned(), init }.hint()
        };
        assert_eq!(hint("s3"), "run `terraform init` first");
        assert_eq!(hint(""), "give it a type, such as `backend \"s3\"`");
    }
}
