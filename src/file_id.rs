//! Which file it is, whatever it is called.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A file by device and inode: tfwrap itself, under whatever name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    dev: u64,
    ino: u64,
}

impl FileId {
    /// Follows links; nothing where there is no such file.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { dev: metadata.dev(), ino: metadata.ino() })
    }
}
