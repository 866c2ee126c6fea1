//! Which version a state has: what tells whether anybody has written it since.
//!
//! Its rule: `docs/protocol.md#p2-the-version-of-a-state`.

use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::StoreError;
use super::aws::{Asked, AwsClients, Timeouts, classify};
use super::blocking::{Workers, io_error, request};
use super::s3_lock::{code, with_digest};
use crate::backend::{Encryption, S3Backend};
use crate::lock::optimistic_read::StateVersion;
use crate::opened;

/// Where a state is whose version can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateFile {
    /// An object.
    S3(Box<S3Backend>),
    /// A file.
    Local(PathBuf),
}

impl StateFile {
    /// Its name, for messages.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::S3(backend) => format!("s3://{}/{}", backend.bucket, backend.state_key()),
            Self::Local(path) => path.display().to_string(),
        }
    }

    /// Its version now; nothing where there is no state, or its store tells no version.
    ///
    /// # Errors
    /// [`StoreError::Denied`] names `s3:GetObject`; the rest as for any store.
    pub async fn version(&self) -> Result<Option<StateVersion>, StoreError> {
        match self {
            Self::S3(backend) => of_object(backend).await,
            Self::Local(path) => {
                let path = path.clone();
                request(Workers::new().run(move || of_file(&path))).await
            }
        }
    }
}

async fn of_object(backend: &S3Backend) -> Result<Option<StateVersion>, StoreError> {
    let clients = AwsClients::new(&backend.aws, Timeouts::default()).await?;
    let (client, place) = clients.objects()?;
    let object = format!("bucket `{}` {place}", backend.bucket);
    let asked = Asked { action: "s3:GetObject", object: &object, must: None };
    // The answer to a HEAD would have no body, and so none that says what is wrong.
    let mut first = client.get_object().bucket(&backend.bucket).key(backend.state_key());
    first = first.range("bytes=0-0");
    if let Encryption::CustomerKey(key) = &backend.objects.encryption {
        let (secret, digest) = with_digest(key)?;
        first = first
            .sse_customer_algorithm("AES256")
            .sse_customer_key(secret)
            .sse_customer_key_md5(digest);
    }
    let send = || async {
        match first.clone().send().await {
            Ok(found) => Ok(Some(found)),
            // The second: it is empty.
            Err(error) if ["NoSuchKey", "InvalidRange"].contains(&code(&error)) => Ok(None),
            Err(error) => Err(classify(asked, &error)),
        }
    };
    let found = clients.identity().signed(send).await?;
    Ok(found.and_then(|found| {
        // In a bucket without versions the same bytes have the same tag again.
        let written = found.last_modified.map(|at| at.to_string()).unwrap_or_default();
        let version = found.version_id.unwrap_or_default();
        Some(StateVersion(format!("{} {version} {written}", found.e_tag?)))
    }))
}

/// Terraform writes a state in place, so neither inode nor size nor (within one tick of the kernel's
/// clock) times need to tell it; together with a digest of the bytes they do.
fn of_file(path: &Path) -> Result<Option<StateVersion>, StoreError> {
    let fail = |error: &std::io::Error| io_error("read", path, error, false);
    let opened = match opened::to_read(path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(&error)),
    };
    // What is empty is no state yet, and a device has no versions.
    if opened.kind() != opened::Kind::Regular || opened.metadata.len() == 0 {
        return Ok(None);
    }
    let metadata = opened.metadata;
    let (mut file, mut hash, mut buffer) = (opened.file, Sha256::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(fail(&error)),
        }
    }
    Ok(Some(StateVersion(format!(
        "{}:{} {} {}.{:09} {}.{:09} {:x?}",
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
        hash.finalize(),
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_written_changes_the_version_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("terraform.tfstate");
        let version = || of_file(&path).unwrap();
        assert_eq!(version(), None, "no state");
        std::fs::write(&path, "").unwrap();
        assert_eq!(version(), None, "an empty one");
        let mut seen = Vec::new();
        // In place, within one tick, of one length; and replaced.
        for text in ["{\"serial\":1}", "{\"serial\":2}", "{\"serial\":3}"] {
            std::fs::write(&path, text).unwrap();
            seen.push(version().unwrap());
            assert_eq!(version().as_ref(), seen.last(), "looked at twice");
        }
        let aside = dir.path().join("aside");
        std::fs::copy(&path, &aside).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        seen.push(version().unwrap());
        for (at, version) in seen.iter().enumerate() {
            assert!(!seen[..at].contains(version), "{seen:?}");
        }
        assert_eq!(of_file(Path::new("/dev/null")).unwrap(), None, "a device");
    }
}
