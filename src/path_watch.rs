//! Tells whether something else came to lie on the way to a file, however briefly: the kernel notes each
//! such event (inotify(7)). Only events of this machine, not what others do on a shared file system.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// How many links may follow each other, as for the kernel.
pub(crate) const MOST_LINKS: usize = 40;

/// How many times 4 KiB of events are read at once: more than the kernel keeps.
const MOST_READS: u32 = 4096;

/// Something came by this name. What goes is no matter: nothing can be read of it.
const COMES: AddWatchFlags = AddWatchFlags::IN_CREATE.union(AddWatchFlags::IN_MOVED_TO);

/// A directory may be on several ways. Not in `nix`.
const MASK_ADD: AddWatchFlags = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);

/// What is on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A link that leads on.
    Link,
    /// A directory.
    Directory,
    /// The file at the end: also what is in it counts.
    File,
    /// Nothing was there.
    Nothing,
}

impl Part {
    /// What counts of it.
    fn events(self) -> AddWatchFlags {
        if self == Self::File { COMES | AddWatchFlags::IN_MODIFY } else { COMES }
    }
}

/// A name in a directory that is watched.
#[derive(Debug)]
struct Place {
    watched: WatchDescriptor,
    name: OsString,
    part: Part,
    /// Of the path to which it belongs.
    path: usize,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct WatchedPath {
    /// As Terraform opens it, absolute.
    pub path: PathBuf,
    /// Whether the file at the end counts, too.
    pub with_file: bool,
}

/// The ways to some files.
#[derive(Debug)]
pub struct PathWatch {
    inotify: Inotify,
    paths: Vec<WatchedPath>,
    places: Vec<Place>,
    here: PathBuf,
}

impl PathWatch {
    /// From now on. `here`, without a link, and the directories above it are left out: whoever works there
    /// goes on from there, whatever they are called. Nothing where the kernel watches no more for us.
    #[must_use]
    pub fn over(paths: Vec<WatchedPath>, here: &Path) -> Option<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        let mut watch = Self { inotify, paths, places: Vec::new(), here: here.to_owned() };
        watch.follow_all();
        Some(watch)
    }

    fn follow_all(&mut self) {
        self.places.clear();
        for index in 0..self.paths.len() {
            self.follow(index);
        }
    }

    /// Watches each name on the way, as far as it can be gone now.
    fn follow(&mut self, path: usize) {
        let WatchedPath { path: mut left, with_file } = self.paths[path].clone();
        let (mut at, mut links) = (PathBuf::new(), 0);
        loop {
            let mut parts = left.components();
            let Some(part) = parts.next() else { return };
            let (next, rest) = (at.join(part), parts.as_path().to_owned());
            if part == Component::ParentDir {
                at.pop();
                left = rest;
                continue;
            }
            let (is_last, target) = (rest.as_os_str().is_empty(), std::fs::read_link(&next));
            let metadata = next.symlink_metadata();
            let kind = match &metadata {
                _ if target.is_ok() => Part::Link,
                Ok(metadata) if metadata.is_dir() => Part::Directory,
                _ if is_last => Part::File,
                Ok(_) | Err(_) => Part::Nothing,
            };
            if let Component::Normal(name) = part
                && (kind != Part::File || with_file)
                && !self.here.starts_with(&next)
            {
                self.watch(&at, name, kind, path);
            }
            left = match target {
                Ok(_) if links == MOST_LINKS => return,
                Ok(target) => {
                    links += 1;
                    target.join(rest)
                }
                Err(_) if metadata.is_err() => return,
                Err(_) => {
                    at = next;
                    rest
                }
            };
        }
    }

    fn watch(&mut self, dir: &Path, name: &OsStr, part: Part, path: usize) {
        let flags = part.events() | AddWatchFlags::IN_ONLYDIR | MASK_ADD;
        // One that may not be read is not watched, and what is in it is compared all the same.
        if let Ok(watched) = self.inotify.add_watch(dir, flags) {
            self.places.push(Place { watched, name: name.to_owned(), part, path });
        }
    }

    /// What has come since the last time, if anything, and to which path.
    pub fn seen(&mut self) -> Option<(&Path, Part)> {
        let mut found = None;
        let mut goes_on = false;
        for _ in 0..MOST_READS {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(_) => break,
            };
            for event in events {
                let Some(place) = self.places.iter().find(|place| place.is_of(&event)) else {
                    continue;
                };
                // A directory that is made is empty: the way goes on in it.
                if place.part == Part::Nothing && !event.mask.contains(AddWatchFlags::IN_MOVED_TO) {
                    goes_on = true;
                } else {
                    found = found.or(Some((place.path, place.part)));
                }
            }
        }
        if goes_on {
            self.follow_all();
        }
        found.map(|(path, part)| (&*self.paths[path].path, part))
    }
}

impl Place {
    fn is_of(&self, event: &InotifyEvent) -> bool {
        self.watched == event.wd
            && event.name.as_deref().is_some_and(|name| name.as_bytes() == self.name.as_bytes())
            && event.mask.intersects(self.part.events())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// `here/a/file`, reached through `here/link` and `here/other`.
    struct Scene {
        dir: tempfile::TempDir,
        watch: PathWatch,
    }

    impl Scene {
        fn new(path: &str, with_file: bool) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let here = dir.path().canonicalize().unwrap().join("here");
            for name in ["a", "b"] {
                fs::create_dir_all(here.join(name)).unwrap();
                fs::write(here.join(name).join("file"), name).unwrap();
            }
            symlink("a", here.join("link")).unwrap();
            symlink("link/../link", here.join("other")).unwrap();
            let watched = WatchedPath { path: here.join(path), with_file };
            let watch = PathWatch::over(vec![watched], &here).unwrap();
            Self { dir, watch }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join("here").join(name)
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.at(from), self.at(to)).unwrap();
        }

        fn seen(&mut self) -> Option<Part> {
            self.watch.seen().map(|(_, part)| part)
        }
    }

    #[test]
    fn what_is_changed_and_changed_back_is_seen() {
        let mut scene = Scene::new("other/file", true);
        assert_eq!(scene.seen(), None);
        for to in ["b", "a"] {
            symlink(to, scene.at("new")).unwrap();
            scene.rename("new", "link");
        }
        assert_eq!(scene.seen(), Some(Part::Link));
        for (from, to) in [("a", "c"), ("b", "a"), ("a", "b"), ("c", "a")] {
            scene.rename(from, to);
        }
        fs::write(scene.at("a/beside"), "").unwrap();
        assert_eq!(scene.seen(), Some(Part::Directory));
        let time = fs::metadata(scene.at("a/file")).unwrap().modified().unwrap();
        for content in ["b", "a"] {
            fs::write(scene.at("a/file"), content).unwrap();
        }
        fs::File::options()
            .write(true)
            .open(scene.at("a/file"))
            .unwrap()
            .set_modified(time)
            .unwrap();
        assert_eq!(scene.seen(), Some(Part::File));
        fs::remove_file(scene.at("a/file")).unwrap();
        assert_eq!(scene.seen(), None);
        fs::write(scene.at("a/file"), "a").unwrap();
        assert_eq!(scene.seen(), Some(Part::File));
        assert_eq!(scene.seen(), None);
    }

    #[test]
    fn what_is_beside_the_way_is_no_matter() {
        let mut scene = Scene::new("a/file", true);
        for beside in ["a/beside", "beside", "../beside"] {
            fs::write(scene.at(beside), "").unwrap();
        }
        for (path, mode) in [("a", 0o700), ("a/file", 0o600), ("a/file", 0o600)] {
            fs::set_permissions(scene.at(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::hard_link(scene.at("a/file"), scene.at("a/more")).unwrap();
        fs::remove_file(scene.at("a/more")).unwrap();
        assert_eq!(fs::read(scene.at("a/file")).unwrap(), b"a");
        let [here, there] = ["here", "there"].map(|name| scene.dir.path().join(name));
        fs::rename(&here, &there).unwrap();
        fs::rename(&there, &here).unwrap();
        assert_eq!(scene.seen(), None);

        let mut scene = Scene::new("a/file", false);
        fs::write(scene.at("a/file"), "new").unwrap();
        fs::remove_file(scene.at("a/file")).unwrap();
        fs::write(scene.at("a/file"), "new").unwrap();
        assert_eq!(scene.seen(), None);
    }

    #[test]
    fn a_directory_that_is_made_is_followed() {
        let mut scene = Scene::new("c/d/file", true);
        fs::create_dir_all(scene.at("c")).unwrap();
        assert_eq!(scene.seen(), None);
        fs::create_dir_all(scene.at("c/d")).unwrap();
        assert_eq!(scene.seen(), None);
        fs::write(scene.at("c/d/file"), "").unwrap();
        assert_eq!(scene.seen(), Some(Part::File));
        let mut scene = Scene::new("c/file", true);
        scene.rename("b", "c");
        scene.rename("c", "b");
        assert_eq!(scene.seen(), Some(Part::Nothing));
        symlink("circle", scene.at("circle")).unwrap();
        let circle = WatchedPath { path: scene.at("circle"), with_file: true };
        assert!(PathWatch::over(vec![circle], Path::new("/")).is_some());
    }
}
