//! What a command of ours answers, on stdout. (stdout otherwise belongs to the child.)

use std::fs::File;
use std::io::{self, ErrorKind, Seek as _, StdoutLock, Write};
use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Notice, Text};
use crate::clock::wall;
use crate::supervise::stdout_was_closed;

/// Writes it.
///
/// # Errors
/// When stdout is full or closed, or its reader is gone.
pub(crate) fn answer(text: &str) -> io::Result<()> {
    if stdout_was_closed() {
        return Err(io::Error::other("it is closed"));
    }
    let mut out = Stdout(io::stdout().lock());
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes all that is in a file: what a child said, who says it otherwise by itself.
///
/// # Errors
/// As of [`answer`]; nothing is wrong with a stdout that is closed, as for the child.
pub(crate) fn answer_with(mut text: File) -> io::Result<()> {
    if stdout_was_closed() {
        return Ok(());
    }
    text.rewind()?;
    let mut out = Stdout(io::stdout().lock());
    io::copy(&mut text, &mut out)?;
    out.flush()
}

/// Waits for a reader that is slow also where our parent has left stdout non-blocking, as Go's programs do.
struct Stdout<'a>(StdoutLock<'a>);

impl<'a> Stdout<'a> {
    fn wait_for<T>(
        &mut self,
        mut act: impl FnMut(&mut StdoutLock<'a>) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match act(&mut self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
                    match poll(&mut fds, PollTimeout::NONE) {
                        Ok(_) | Err(nix::Error::EINTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                done => return done,
            }
        }
    }
}

impl Write for Stdout<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait_for(|out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.wait_for(Write::flush)
    }
}

/// Whether nobody can read what is written any more: the other end of a pipe is closed, or a terminal is gone. Who
/// has nothing new to write would not notice.
pub(crate) fn reader_is_gone() -> bool {
    let out = io::stdout();
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|found| found.intersects(gone))
}

/// Writes it in place of all that is on the terminal.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn redraw(text: &str) -> io::Result<()> {
    // Home, then clear to the end; `text` is cleaned, the terminal's own commands are these two.
    answer(&format!("\u{1b}[H\u{1b}[J{text}"))
}

/// Asks on the terminal.
///
/// # Errors
/// When stderr is closed.
pub(crate) fn ask(question: &str) -> io::Result<()> {
    let mut out = io::stderr().lock();
    out.write_all(format!("tfwrap: {question} ").as_bytes())?;
    out.flush()
}

/// Ends the line of a question that nobody will answer.
pub(crate) fn leave_unanswered() {
    // A closed stderr leaves nobody to tell.
    drop(io::stderr().lock().write_all(b"\n"));
}

/// Says it without a reporter, for want of a thread.
pub(crate) fn say_at_once(notice: &Notice) {
    let text = Text { color: false }.render(notice, wall());
    // A closed stderr leaves nobody to tell.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}
