//! The S3 backend: which keys it uses, and what it locks.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use super::aws_settings::Surroundings;
use super::config::{BackendConfig, Section};
use super::workspace::DEFAULT;
use super::{AwsSettings, BackendError, aws_settings, go_path};
use crate::env::Env;
use crate::lock::LockKey;

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
    /// How Terraform writes objects; its lock file is one.
    pub objects: ObjectSettings,
    /// How to reach AWS, environment merged in.
    pub aws: AwsSettings,
}

/// How Terraform writes objects into the bucket. The customer's key is not serialized: it comes from
/// where it came from, [`ObjectSettings::complete`].
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSettings {
    /// The canned ACL.
    pub acl: Option<String>,
    /// How they are encrypted.
    pub encryption: Encryption,
    /// Whether checksums are left out (`skip_s3_checksum`).
    pub skip_checksum: bool,
    /// The tags of the lock file, as its header has them (`lock_tags`, `OpenTofu`'s).
    #[serde(default)]
    pub lock_tags: Option<String>,
}

/// How objects are encrypted on the server. Anything but [`Encryption::None`] needs
/// `encrypt = true`; a key without it has no effect.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// As the bucket has it.
    #[default]
    None,
    /// `AES256`.
    Aes256,
    /// `aws:kms` with this key.
    Kms(String),
    /// With the customer's own key, 44 characters of base64 (`sse_customer_key`,
    /// `AWS_SSE_CUSTOMER_KEY`); reading such an object needs the key too.
    CustomerKey(#[serde(with = "unsaid")] String),
}

/// In the place of a secret.
mod unsaid {
    use serde::{Deserialize, Deserializer, Serializer, de::IgnoredAny};

    pub(super) fn serialize<S: Serializer>(_: &str, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_unit()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        IgnoredAny::deserialize(from).map(|_| String::new())
    }
}

impl ObjectSettings {
    /// Takes the customer's key from settings of the same origin that were read anew, or else from
    /// the environment.
    pub fn complete(&mut self, fresh: Option<&Self>, env: &Env) {
        let Encryption::CustomerKey(ours) = &mut self.encryption else { return };
        match fresh.map(|fresh| &fresh.encryption) {
            Some(Encryption::CustomerKey(key)) => ours.clone_from(key),
            _ => env.get(CUSTOMER_KEY).unwrap_or_default().clone_into(ours),
        }
    }
}

// Written by hand: a derived form would print the customer's key.
impl fmt::Debug for ObjectSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectSettings")
            .field("acl", &self.acl)
            .field("encryption", &self.encryption)
            .field("skip_checksum", &self.skip_checksum)
            .field("lock_tags", &self.lock_tags)
            .finish()
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Aes256 => "Aes256",
            Self::Kms(_) => "Kms(..)",
            Self::CustomerKey(_) => "CustomerKey(..)",
        })
    }
}

/// Where the customer's key is, if not in the configuration.
const CUSTOMER_KEY: &str = "AWS_SSE_CUSTOMER_KEY";

impl S3Backend {
    /// Whether the workspace is `default`, which always exists and has the plain key.
    #[must_use]
    pub fn is_default_workspace(&self) -> bool {
        self.workspace == DEFAULT
    }

    /// The key of the state's object: the configured one as it is, or for another workspace prefix,
    /// workspace and key joined as Go's `path.Join` does.
    #[must_use]
    pub fn state_key(&self) -> String {
        if self.is_default_workspace() {
            return self.key.clone();
        }
        go_path::join_text([&self.workspace_key_prefix, &self.workspace, &self.key])
    }

    /// Terraform's `LockID` in the lock table.
    #[must_use]
    pub fn lock_key(&self) -> LockKey {
        LockKey(format!("{}/{}", self.bucket, self.state_key()))
    }

    /// The prefix under which Terraform lists workspaces.
    #[must_use]
    pub fn listing_prefix(&self) -> String {
        match self.workspace_key_prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        }
    }

    /// Why Terraform never finds the workspace in its listing, although its state exists, as the end
    /// of a sentence that begins with "because"; nothing where it does. Where it cannot, every
    /// command takes a lock of its own first to create the workspace, and fails under ours: a key or
    /// a prefix that joining changes (`./k`), or a workspace with a slash in its name.
    #[must_use]
    pub fn never_listed(&self) -> Option<String> {
        let listed = self.state_key();
        let found = listed.strip_prefix(&self.listing_prefix());
        let found = found.and_then(|rest| rest.split_once('/'));
        if self.is_default_workspace() || found == Some((&self.workspace, &self.key)) {
            return None;
        }
        let is_short = |path: &str| go_path::join_text([path]) == path;
        let (what, text) = if !is_short(&self.key) {
            ("the key", &self.key)
        } else if !is_short(&self.workspace_key_prefix) {
            ("the workspace_key_prefix", &self.workspace_key_prefix)
        } else {
            return Some("that is not a single path element".to_owned());
        };
        Some(format!("{what} `{text}` is not in its shortest form"))
    }
}

/// Tags as the header of an object has them, in Go's order.
fn tags(section: Section<'_>, name: &str) -> Result<Option<String>, BackendError> {
    let mut pairs = section.pairs(name)?;
    pairs.sort();
    let tags = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    Ok((!tags.is_empty()).then_some(tags))
}

/// Makes sense of a configuration of the S3 backend.
pub(super) fn from_config(
    config: &BackendConfig,
    workspace: &str,
    around: &Surroundings<'_>,
) -> Result<S3Backend, BackendError> {
    let section = config.section();
    let bucket = section.text("bucket")?.ok_or_else(|| section.bad("bucket", "it is not set"))?;
    let key = section.text("key")?.ok_or_else(|| section.bad("key", "it is not set"))?;
    check_path(section, "key", &key)?;
    if key.contains("//") {
        return Err(section.bad("key", "it must not contain `//`"));
    }
    let prefix = section.text_or_empty("workspace_key_prefix")?;
    let workspace_key_prefix = prefix.unwrap_or_else(|| "env:".to_owned());
    check_path(section, "workspace_key_prefix", &workspace_key_prefix)?;
    Ok(S3Backend {
        bucket,
        key,
        workspace_key_prefix,
        workspace: workspace.to_owned(),
        dynamodb_table: section.text("dynamodb_table")?,
        use_lockfile: section.bool("use_lockfile")?.unwrap_or(false),
        objects: ObjectSettings {
            acl: section.text("acl")?,
            encryption: encryption(section, around)?,
            skip_checksum: section.bool("skip_s3_checksum")?.unwrap_or(false),
            lock_tags: tags(section, "lock_tags")?,
        },
        aws: aws_settings::from_config(section, around)?,
    })
}

/// Terraform's rule for keys and prefixes.
fn check_path(section: Section<'_>, name: &str, path: &str) -> Result<(), BackendError> {
    if path.starts_with('/') || path.ends_with('/') {
        return Err(section.bad(name, "it must not start or end with `/`"));
    }
    Ok(())
}

fn encryption(section: Section<'_>, around: &Surroundings<'_>) -> Result<Encryption, BackendError> {
    if section.bool("encrypt")? != Some(true) {
        return Ok(Encryption::None);
    }
    if let Some(key) = section.text("kms_key_id")? {
        return Ok(Encryption::Kms(key));
    }
    let own = section.text("sse_customer_key")?;
    let own = own.or_else(|| around.env.get(CUSTOMER_KEY).map(str::to_owned));
    Ok(own.map_or(Encryption::Aes256, Encryption::CustomerKey))
}

#[cfg(test)]
mod tests;
