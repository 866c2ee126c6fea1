//! Which file it is, whatever it is called.

use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A file by device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    dev: u64,
    ino: u64,
}

impl FileId {
    /// Follows links; nothing where there is no such file.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        Some(Self::of_metadata(&std::fs::metadata(path).ok()?))
    }

    /// The file that this was asked of.
    #[must_use]
    pub fn of_metadata(metadata: &Metadata) -> Self {
        Self { dev: metadata.dev(), ino: metadata.ino() }
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.dev, self.ino)
    }
}

/// Whether the path itself, no link, names the file that is open; not where that cannot be told.
#[must_use]
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(ours), Ok(named)) => FileId::of_metadata(&ours) == FileId::of_metadata(&named),
        _ => false,
    }
}
