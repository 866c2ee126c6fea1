//! Keeps the pipes of a command open while the command is ending, as a reader would.
//!
//! A write to a pipe that nobody reads any more ends a program. What stops a command often ends its
//! reader too: Ctrl-C and `tfwrap apply | tee log`, a window that is closed, a runner that moves on
//! while what it has cancelled is still ending. Terraform would die on its next write, its state
//! unsaved. So from the stop on, we hold its pipes open from the other end. We read nothing there:
//! a real reader still reads all of it.
//!
//! Only pipes can be opened in this way. A write to a socket whose other end is gone still ends a
//! program.
//!
//! Its rules: `docs/protocol.md#s12-the-other-end-of-its-pipes`.

use std::fs::{File, OpenOptions, metadata};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::file_id::FileId;

/// The streams by which a Go program dies of a broken pipe (`os/signal`, "SIGPIPE").
const STREAMS: [u8; 2] = [1, 2];

/// The most that a pipe holds for somebody without privileges (`pipe-max-size` of `pipe(7)`).
const ROOM: i32 = 1 << 20;

/// How many looks in a row may find a pipe full. A command that has more to say than it holds would
/// wait for ever for a reader that is gone; then it is to end as it would have ended before.
const MOST_FULL: u8 = 5;

/// Those of one child.
#[derive(Default)]
pub(crate) struct Readers {
    held: Vec<Reader>,
}

struct Reader {
    pipe: FileId,
    end: File,
    /// How many looks in a row have found it full.
    full: u8,
}

impl Readers {
    /// Becomes a reader of what these processes write to. What cannot be opened stays as it is.
    pub(crate) fn hold(&mut self, pids: impl IntoIterator<Item = Pid>) {
        for pid in pids {
            for stream in STREAMS {
                self.hold_one(Path::new(&format!("/proc/{pid}/fd/{stream}")));
            }
        }
    }

    fn hold_one(&mut self, stream: &Path) {
        if !metadata(stream).is_ok_and(|it| it.file_type().is_fifo()) {
            return;
        }
        let Some(pipe) = FileId::of(stream) else { return };
        if self.held.iter().any(|reader| reader.pipe == pipe) {
            return;
        }
        if let Ok(end) = open(stream, OpenOptions::new().read(true)) {
            // What its reader had not read yet leaves room for the last words. Or it does not.
            let _refused = fcntl(&end, FcntlArg::F_SETPIPE_SZ(ROOM));
            self.held.push(Reader { pipe, end, full: 0 });
        }
    }

    /// Whether any is held.
    pub(crate) fn are_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lets go of what has been full at so many looks in a row.
    pub(crate) fn let_go_of_the_full(&mut self) {
        self.held.retain_mut(|reader| {
            reader.full = if reader.is_full() { reader.full + 1 } else { 0 };
            reader.full < MOST_FULL
        });
    }
}

impl Reader {
    fn is_full(&self) -> bool {
        let this = format!("/proc/self/fd/{}", self.end.as_raw_fd());
        let Ok(other_end) = open(Path::new(&this), OpenOptions::new().write(true)) else {
            return false;
        };
        let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(&other_end), PollFlags::POLLOUT)];
        poll(&mut ready, PollTimeout::ZERO) == Ok(0)
    }
}

fn open(path: &Path, how: &mut OpenOptions) -> std::io::Result<File> {
    how.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _, pipe};

    use super::*;

    /// The shell's first line is written to a pipe that has lost its reader.
    #[test]
    fn what_has_lost_its_reader_can_be_written_to_and_not_for_ever() {
        let (reader, mut writer) = pipe().expect("a pipe");
        let stream = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let mut readers = Readers::default();
        readers.hold_one(Path::new(&stream));
        readers.hold_one(Path::new(&stream));
        assert_eq!(readers.held.len(), 1, "each pipe once");
        drop(reader);
        writer.write_all(b"last words").expect("it is held");
        for _ in 0..2 * MOST_FULL {
            readers.let_go_of_the_full();
        }
        assert!(readers.are_any(), "there is room");
        rustix::io::ioctl_fionbio(&writer, true).expect("it takes the flag");
        while writer.write(&[0; 4096]).is_ok() {}
        for look in 1..=MOST_FULL {
            readers.let_go_of_the_full();
            assert_eq!(readers.are_any(), look < MOST_FULL);
        }
        // What another test starts has a copy of every descriptor until it has become its program.
        let broken = (0..500)
            .map(|_| writer.write(b"x").expect_err("nobody reads any more").kind())
            .inspect(|_| _ = poll(&mut [], 20_u8))
            .find(|kind| *kind != std::io::ErrorKind::WouldBlock);
        assert_eq!(broken, Some(std::io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn whoever_reads_gets_it_all() {
        let (mut reader, mut writer) = pipe().expect("a pipe");
        let mut readers = Readers::default();
        readers.hold_one(Path::new(&format!("/proc/self/fd/{}", writer.as_raw_fd())));
        writer.write_all(b"all of it").expect("it is read");
        drop(writer);
        let mut read = String::new();
        reader.read_to_string(&mut read).expect("to its end");
        assert_eq!(read, "all of it");
    }

    #[test]
    fn what_is_no_pipe_is_left_alone() {
        let mut readers = Readers::default();
        readers.hold_one(Path::new("/dev/null"));
        readers.hold_one(Path::new("/proc/self/fd/999"));
        assert!(!readers.are_any());
    }
}
