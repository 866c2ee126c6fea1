//! The directory above one of registers, whatever it is called by now.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};

/// A descriptor of it from the first look on; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Anchor(Arc<Mutex<Option<Arc<OwnedFd>>>>);

/// A path that is good for as long as this lives.
pub(super) struct Anchored {
    pub(super) path: PathBuf,
    _above: Option<Arc<OwnedFd>>,
}

impl Anchored {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, _above: None }
    }
}

impl Anchor {
    /// Where the directory of this name is now. One that was removed is looked for anew.
    pub(super) fn reach(&self, dir: &Path) -> Anchored {
        let (Some(above), Some(name)) = (dir.parent(), dir.file_name()) else {
            return Anchored::at(dir.to_owned());
        };
        let mut anchor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = |fd: &Arc<OwnedFd>| rustix::fs::fstat(fd).is_ok_and(|it| it.st_nlink > 0);
        if !anchor.as_ref().is_some_and(is_there) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            *anchor = rustix::fs::open(above, flags, Mode::empty()).ok().map(Arc::new);
        }
        match &*anchor {
            Some(fd) => Anchored {
                path: Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())).join(name),
                _above: Some(Arc::clone(fd)),
            },
            None => Anchored::at(dir.to_owned()),
        }
    }
}
