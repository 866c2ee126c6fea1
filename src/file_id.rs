//! Which file it is, whatever it is called.

use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

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

/// When, in seconds and nanoseconds of the system's clock.
type Time = (i64, i64);

/// Tells a file that was written, or put in the place of another, from one that was left alone, also
/// where it holds the same again and has its old time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMark {
    id: FileId,
    size: u64,
    /// `mtime`.
    written: Time,
    /// `ctime`.
    changed: Time,
    attributes: Attributes,
}

/// What changes the `ctime` of a file and nothing that is read of it: mode, owner, group, names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attributes(u32, u32, u32, u64);

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
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            attributes: Attributes(
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.nlink(),
            ),
        }
    }

    /// Whether something else may have been there meanwhile. A `chmod`, a `chown` or one more hard link
    /// says nothing about that.
    fn was_replaced(&self, now: &Self) -> bool {
        (self.id, self.size, self.written) != (now.id, now.size, now.written)
            || self.is_changed_alone(now)
    }

    fn is_changed_alone(&self, now: &Self) -> bool {
        self.changed != now.changed && self.attributes == now.attributes
    }

    /// The same of a directory: a rename changes its `ctime` and not its `mtime`, unlike whatever comes
    /// and goes in it.
    fn was_moved(&self, now: &Self) -> bool {
        self.id != now.id || self.is_changed_alone(now) && now.changed != now.written
    }
}

/// What is different on the way to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detour {
    /// Another link is there, if only one that leads to where the first one led.
    Link,
    /// Another directory is there, or the same was moved away and back.
    Directory,
    /// The file was written, or is another one.
    File,
}

/// The way to a file: all links on it, all directories, and the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    links: Vec<FileMark>,
    dirs: Vec<FileMark>,
    /// Nothing where there is no regular file: a directory changes with what is in it.
    file: Option<FileMark>,
}

impl Way {
    /// As far as it can be gone now. `here`, without a link, and the directories above it are left out:
    /// whoever works there goes on from there, whatever they are called.
    #[must_use]
    pub fn to(path: &Path, here: &Path) -> Self {
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
                    at = if part == Component::ParentDir { parent_of(at) } else { next };
                    if metadata.is_dir() && !here.starts_with(&at) {
                        way.dirs.push(FileMark::of_metadata(&metadata));
                    }
                    if metadata.is_file() && rest.as_os_str().is_empty() {
                        way.file = Some(FileMark::of_metadata(&metadata));
                    }
                    rest
                }
            };
        }
    }

    /// Without the file: it may be written.
    #[must_use]
    pub fn but_for_the_file(self) -> Self {
        Self { file: None, ..self }
    }

    /// What is different now.
    #[must_use]
    pub fn detour(&self, now: &Self) -> Option<Detour> {
        let links = || self.links.iter().zip(&now.links);
        // What was made or removed at the end of the way has nothing else behind it; and of what is gone,
        // nothing can be read.
        let mut dirs = self.dirs.iter().zip(&now.dirs);
        let mut file = self.file.iter().zip(&now.file);
        if self.links.len() != now.links.len() || links().any(|(it, now)| it.was_replaced(now)) {
            Some(Detour::Link)
        } else if dirs.any(|(it, now)| it.was_moved(now)) {
            Some(Detour::Directory)
        } else if file.any(|(it, now)| it.was_replaced(now))
            || self.file.is_none() && now.file.is_some()
        {
            Some(Detour::File)
        } else {
            None
        }
    }
}

/// Of a path without a link.
fn parent_of(mut path: PathBuf) -> PathBuf {
    path.pop();
    path
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
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// The clock by which a file system tells changes is coarse: does it until that shows.
    fn until_seen(path: &Path, here: &Path, mut change: impl FnMut()) -> Option<Detour> {
        let before = Way::to(path, here);
        assert_eq!(Way::to(path, here), before);
        (0..100_000).find_map(|_| {
            change();
            before.detour(&Way::to(path, here))
        })
    }

    #[test]
    fn what_is_changed_back_is_not_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let at = |name: &str| dir.join(name);
        for name in ["a", "b"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), name).unwrap();
        }
        symlink("a", at("link")).unwrap();
        symlink("link/../link", at("other")).unwrap();
        let path = at("other/file");
        assert_eq!(Way::to(&path, &dir).links.len(), 3);
        let rename = |from: &str, to: &str| fs::rename(at(from), at(to)).unwrap();

        let turned = until_seen(&path, &dir, || {
            for to in ["b", "a"] {
                symlink(to, at("new")).unwrap();
                rename("new", "link");
            }
        });
        assert_eq!(turned, Some(Detour::Link));
        let written = until_seen(&path, &dir, || {
            for content in ["b", "a"] {
                fs::write(&path, content).unwrap();
            }
        });
        assert_eq!(written, Some(Detour::File));
        let moved = until_seen(&path, &dir, || {
            for (from, to) in [("a", "c"), ("b", "a"), ("a", "b"), ("c", "a")] {
                rename(from, to);
            }
        });
        assert_eq!(moved, Some(Detour::Directory));
        let restored = until_seen(&path, &dir, || {
            let time = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, "b").unwrap();
            fs::write(&path, "a").unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        });
        assert_eq!(restored, Some(Detour::File));
        fs::remove_file(&path).unwrap();
        let made = until_seen(&path, &dir, || fs::write(&path, "a").unwrap());
        assert_eq!(made, Some(Detour::File));
    }

    #[test]
    fn what_is_beside_the_way_may_change() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let at = |name: &str| dir.join(name);
        fs::create_dir_all(at("here/a")).unwrap();
        fs::write(at("here/a/file"), "").unwrap();
        let before = Way::to(&at("here/a/file"), &at("here"));
        assert_eq!((before.dirs.len(), before.file.is_some()), (1, true));
        for beside in ["here/a/beside", "here/beside", "beside"] {
            fs::write(at(beside), "").unwrap();
        }
        fs::remove_file(at("here/a/beside")).unwrap();
        fs::rename(at("here"), at("there")).unwrap();
        let now = Way::to(&at("there/a/file"), &at("there"));
        assert_eq!(before.detour(&now), None);
        for (path, mode) in [("there/a", 0o700), ("there/a/file", 0o600)] {
            fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        let now = Way::to(&at("there/a/file"), &at("there"));
        assert_eq!(before.detour(&now), None);
        fs::hard_link(at("there/a/file"), at("there/a/link")).unwrap();
        let now = Way::to(&at("there/a/file"), &at("there"));
        assert_eq!(before.detour(&now), None);
        fs::remove_file(at("there/a/file")).unwrap();
        assert_eq!(before.detour(&Way::to(&at("there/a/file"), &at("there"))), None);
        fs::write(at("there/a/file"), "new").unwrap();
        let now = Way::to(&at("there/a/file"), &at("there"));
        assert_eq!(before.clone().but_for_the_file().detour(&now.but_for_the_file()), None);
    }

    #[test]
    fn a_way_ends_where_it_cannot_be_gone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let to = |name: &str| Way::to(&dir.join(name), &dir);
        assert_eq!(to("nothing/here"), Way::default());
        assert_eq!(to(""), Way::default());
        symlink("circle", dir.join("circle")).unwrap();
        assert_eq!(to("circle").links.len(), MOST_LINKS);
        symlink("nothing", dir.join("dangling")).unwrap();
        let dangling = to("dangling");
        assert_eq!((dangling.links.len(), dangling.file), (1, None));
    }
}
