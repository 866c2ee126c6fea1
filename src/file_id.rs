//! Which file it is, whatever it is called.

use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How many links may follow each other, as for the kernel.
pub const MOST_LINKS: usize = 40;

/// A file by device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Tells a file that was written, or put in the place of another, from one that was left alone, also
/// where it holds the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMark {
    id: FileId,
    size: u64,
    changed: (i64, i64),
}

impl FileMark {
    /// Of the path itself, which may be a link; nothing where there is no such file.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        Some(Self::of_metadata(&path.symlink_metadata().ok()?))
    }

    fn of_metadata(metadata: &Metadata) -> Self {
        Self {
            id: FileId::of_metadata(metadata),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The way to a file: all links on it, and the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// In the order in which they are followed.
    pub links: Vec<FileMark>,
    /// Nothing where there is no regular file: a directory changes with what is in it.
    pub file: Option<FileMark>,
}

impl Way {
    /// As far as it can be gone now.
    #[must_use]
    pub fn to(path: &Path) -> Self {
        let mut way = Self::default();
        let (mut at, mut left) = (PathBuf::new(), path.to_owned());
        loop {
            let mut parts = left.components();
            let Some(part) = parts.next() else { return way };
            let (next, rest) = (at.join(part), parts.as_path().to_owned());
            let Ok(metadata) = next.symlink_metadata() else { return way };
            left = match std::fs::read_link(&next) {
                Ok(_) if way.links.len() == MOST_LINKS => return way,
                Ok(target) => {
                    way.links.push(FileMark::of_metadata(&metadata));
                    target.join(rest)
                }
                Err(_) => {
                    at = next;
                    let is_there = metadata.is_file() && rest.as_os_str().is_empty();
                    way.file = is_there.then(|| FileMark::of_metadata(&metadata));
                    rest
                }
            };
        }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_changed_back_is_not_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a", "b"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), name).unwrap();
        }
        symlink("a", at("link")).unwrap();
        symlink("link/../link", at("other")).unwrap();
        let path = at("other/file");
        let turn = |to: &str| {
            symlink(to, at("new")).unwrap();
            fs::rename(at("new"), at("link")).unwrap();
        };

        let before = Way::to(&path);
        assert_eq!((before.links.len(), before.file.is_some()), (3, true));
        assert_eq!(Way::to(&path), before);
        fs::write(at("a/beside"), "").unwrap();
        assert_eq!(Way::to(&path), before);

        turn("b");
        turn("a");
        let turned = Way::to(&path);
        assert_eq!(turned.file, before.file);
        assert_ne!(turned.links, before.links);

        // The clock by which a file system tells changes is coarse.
        let mut written = turned.clone();
        for _ in 0..100_000 {
            fs::write(&path, "b").unwrap();
            fs::write(&path, "a").unwrap();
            written = Way::to(&path);
            if written != turned {
                break;
            }
        }
        assert_eq!(written.links, turned.links);
        assert_ne!(written.file, turned.file);
    }

    #[test]
    fn a_way_ends_where_it_cannot_be_gone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(Way::to(&at("nothing/here")), Way::default());
        assert_eq!(Way::to(dir.path()), Way::default());
        symlink("circle", at("circle")).unwrap();
        assert_eq!(Way::to(&at("circle")).links.len(), MOST_LINKS);
        symlink("nothing", at("dangling")).unwrap();
        let dangling = Way::to(&at("dangling"));
        assert_eq!((dangling.links.len(), dangling.file), (1, None));
    }
}
