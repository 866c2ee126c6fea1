//! Whether Terraform has read which workspace is selected. It does so once, at its start, and by the
//! name that the data directory had then: an absolute `TF_DATA_DIR` in a directory that is renamed
//! later is out of its reach, and no concern of its any more.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

/// The file that names the workspace.
pub(super) struct Selection {
    /// Tells of each process that has read it and closed it, whatever it is called by now.
    readers: Option<OwnedFd>,
    was_read: bool,
}

impl Selection {
    /// Begins to listen. Without inotify(7), or without such a file, it counts as never read.
    pub(super) fn at(file: &Path) -> Self {
        let listen = || {
            let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            add_watch(&inotify, file, WatchFlags::CLOSE_NOWRITE)?;
            Ok::<_, rustix::io::Errno>(inotify)
        };
        Self { readers: listen().ok(), was_read: false }
    }

    /// Hears who has read it since the last time.
    pub(super) fn hear(&mut self) {
        self.was_read |= self.drain();
    }

    /// What has read it since the last time was not Terraform.
    pub(super) fn forget(&mut self) {
        self.drain();
    }

    /// Whether Terraform has read it.
    pub(super) fn was_read(&self) -> bool {
        self.was_read
    }

    fn drain(&self) -> bool {
        let Some(readers) = &self.readers else { return false };
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = Reader::new(readers, &mut buffer);
        let mut any = false;
        // An event of another kind (the file was removed) ends the watch: nothing more comes.
        while let Ok(event) = events.next() {
            any |= event.events().contains(rustix::fs::inotify::ReadFlags::CLOSE_NOWRITE);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_read_counts_whatever_it_is_called_by_now() {
        let dir = tempfile::tempdir().unwrap();
        let (before, after) = (dir.path().join("before"), dir.path().join("after"));
        std::fs::write(&before, "dev").unwrap();
        let read = |path: &Path| assert_eq!(std::fs::read_to_string(path).unwrap(), "dev");
        read(&before);
        let [mut read_by_others, mut renamed, mut read_by_us] =
            [(); 3].map(|()| Selection::at(&before));
        for selection in [&mut read_by_others, &mut renamed, &mut read_by_us] {
            selection.hear();
            assert!(!selection.was_read(), "it was read before that");
        }
        read(&before);
        read_by_us.forget();
        read_by_others.hear();
        renamed.forget();
        std::fs::rename(&before, &after).unwrap();
        read(&after);
        renamed.hear();
        assert!(read_by_others.was_read() && renamed.was_read());
        let mut none = Selection::at(&before);
        none.hear();
        assert!(!none.was_read(), "there is none");
        // Nobody has read it since but whoever is meant above.
        read_by_us.forget();
        read_by_us.hear();
        assert!(!read_by_us.was_read());
    }
}
