//! The one line that is redrawn in its place while tfwrap waits, on a terminal: a spinner, the time
//! that has passed, and what is to be expected. It only ever makes text; the reporter writes it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use nix::unistd::{getpgrp, tcgetpgrp};

use super::{Notice, waiting};
use crate::lock::Uptime;

/// Where the terminal does not tell.
const WIDTH: u16 = 80;

/// Before what belongs to the line above.
const INDENT: &str = "  ";

/// Plain characters: every terminal and every font has them.
const SPINNER: &str = "|/-\\ ";

/// The line, if there is one now.
#[derive(Debug)]
pub(super) struct Redrawn {
    canvas: Canvas,
    line: Option<Line>,
}

#[derive(Debug)]
struct Line {
    bar: ProgressBar,
    /// What it says.
    notice: Notice,
    /// Since when that is so.
    at: Uptime,
}

impl Redrawn {
    /// Prepares for this terminal.
    pub(super) fn new(terminal: Option<OwnedFd>) -> Self {
        let canvas = Canvas { terminal: terminal.map(Arc::new), text: Arc::default() };
        Self { canvas, line: None }
    }

    /// Whether there is a line to redraw.
    pub(super) fn is_drawn(&self) -> bool {
        self.line.is_some()
    }

    /// Takes in what is said. Returns whether it is to be printed above: everything but the further
    /// words about a wait for the same lock.
    pub(super) fn learn(&mut self, notice: &Notice, now: Uptime) -> bool {
        let Notice::Waiting { lock, .. } = notice else { return true };
        let known = self.line.take();
        let is_same = known.as_ref().is_some_and(
            |line| matches!(&line.notice, Notice::Waiting { lock: before, .. } if before == lock),
        );
        let bar = known.map_or_else(|| self.canvas.bar(), |line| line.bar);
        self.line = Some(Line { bar, notice: notice.clone(), at: now });
        !is_same
    }

    /// The text broken between words, as a terminal would not do it. Not for one with a command to paste.
    pub(super) fn broken(&self, text: &str) -> String {
        broken(text, usize::from(self.canvas.width()))
    }

    /// Returns what prints `text` and draws the line below it.
    pub(super) fn below(&mut self, text: &str, now: Uptime) -> String {
        let Some(line) = &self.line else { return text.to_owned() };
        if !text.is_empty() {
            line.bar.suspend(|| self.canvas.push(text));
        }
        if self.canvas.is_ours() {
            line.bar
                .set_message(waiting::short(&line.notice, now.since(line.at)).unwrap_or_default());
            line.bar.tick();
        }
        self.canvas.take()
    }

    /// Returns what takes the line away.
    pub(super) fn clear(&mut self) -> String {
        if let Some(line) = self.line.take() {
            line.bar.finish_and_clear();
        }
        self.canvas.take()
    }
}

/// Puts line ends between words, as far as lines are longer than this, and an indent behind them. A word that is
/// longer by itself (a link, the name of a lock) stays whole, for the mouse.
fn broken(text: &str, width: usize) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let mut used = 0;
        for word in line.split_inclusive(' ') {
            let length = anstream::adapter::strip_str(word.trim_end()).to_string().chars().count();
            if used > INDENT.len() && used + length > width {
                out.truncate(out.trim_end().len());
                out.push('\n');
                out.push_str(INDENT);
                used = INDENT.len();
            }
            out.push_str(word);
            used += length + usize::from(word.ends_with(' '));
        }
    }
    out
}

/// What `indicatif` draws on: text, to be written by somebody else.
#[derive(Debug, Clone)]
struct Canvas {
    terminal: Option<Arc<OwnedFd>>,
    text: Arc<Mutex<String>>,
}

impl Canvas {
    fn bar(&self) -> ProgressBar {
        let target = ProgressDrawTarget::term_like(Box::new(self.clone()));
        let style = ProgressStyle::with_template("tfwrap: {spinner} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        ProgressBar::with_draw_target(None, target).with_style(style.tick_chars(SPINNER))
    }

    /// Whether we are in the foreground: in the background the line with the cursor is another's.
    fn is_ours(&self) -> bool {
        let Some(terminal) = &self.terminal else { return true };
        tcgetpgrp(terminal).map_or(true, |foreground| foreground == getpgrp())
    }

    fn push(&self, text: &str) {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.text.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Moves the cursor; the letter says where to.
    fn go(&self, n: usize, letter: char) {
        if n > 0 {
            self.push(&format!("\u{1b}[{n}{letter}"));
        }
    }
}

impl TermLike for Canvas {
    fn width(&self) -> u16 {
        let size = self.terminal.as_ref().and_then(|it| rustix::termios::tcgetwinsize(it).ok());
        size.map(|size| size.ws_col).filter(|width| *width > 0).unwrap_or(WIDTH)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A');
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B');
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C');
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D');
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.push(text);
        self.push("\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.push(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.push("\r\u{1b}[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::hostile;

    fn at(seconds: u64) -> Uptime {
        Uptime(Duration::from_secs(100 + seconds))
    }

    fn waiting(lock: &str, waited: u64) -> Notice {
        Notice::Waiting {
            lock: lock.into(),
            holder: Some(Box::new(hostile::info())),
            waited: Duration::from_secs(waited),
            limit: Duration::from_mins(30),
            free: false,
            ahead: None,
            plans_ahead: None,
            silent: None,
            unanswered: None,
            estimate: None,
        }
    }

    fn visible(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn only_the_first_words_about_a_lock_are_printed() {
        let mut redrawn = Redrawn::new(None);
        assert!(redrawn.learn(&waiting("a", 0), at(0)));
        assert!(!redrawn.learn(&waiting("a", 10), at(10)));
        assert!(redrawn.learn(&Notice::Detail { message: "x".into() }, at(11)));
        assert!(redrawn.learn(&waiting("b", 0), at(20)));
    }

    #[test]
    fn the_line_goes_on_by_itself_and_vanishes() {
        let mut redrawn = Redrawn::new(None);
        assert_eq!(redrawn.below("before\n", at(0)), "before\n");
        redrawn.learn(&waiting("a", 0), at(0));
        let drawn = redrawn.below("tfwrap: first\n", at(0));
        assert!(drawn.contains("tfwrap: first\n"), "{drawn:?}");
        let drawn = redrawn.below("", at(72));
        assert!(visible(&drawn).contains("waited 1m12s of 30m; held by "), "{drawn:?}");
        assert!(drawn.contains("\r\u{1b}[2K") && !drawn.contains('\n'), "{drawn:?}");
        let cleared = redrawn.clear();
        assert_eq!(visible(&cleared).trim(), "", "{cleared:?}");
        assert!(cleared.ends_with("\r\u{1b}[2K"), "{cleared:?}");
        assert!(!redrawn.is_drawn());
        assert_eq!(redrawn.below("after\n", at(80)), "after\n");
    }

    #[test]
    fn lines_fit_and_long_words_stay_whole() {
        let url = format!("https://ci.example/{}", "x".repeat(40));
        let text =
            format!("tfwrap: waiting for the lock `a`: held by ci@runner, {url}; up to 5m\n");
        for width in [20, 40, 60] {
            let text = broken(&text, width);
            let lines: Vec<_> = text.lines().collect();
            assert!(lines.iter().all(|it| it.contains(&url) || it.len() <= width), "{text}");
            assert!(lines[1..].iter().all(|it| it.starts_with(INDENT)), "{text}");
            assert_eq!(text.split_whitespace().count(), 13, "{text}");
            assert!(text.contains(&url) && text.ends_with("5m\n"), "{text}");
        }
        assert_eq!(broken(&text, 200), text);
        assert_eq!(broken("one\ntwo three\n", 9), "one\ntwo three\n");
    }

    #[test]
    fn a_hostile_record_cannot_leave_the_line() {
        let mut redrawn = Redrawn::new(None);
        redrawn.learn(&waiting("a", 0), at(0));
        let drawn = redrawn.below("", at(1));
        for part in drawn.split("\r\u{1b}[2K").filter(|part| !part.is_empty()) {
            assert!(part.chars().count() <= usize::from(WIDTH), "{part:?}");
            hostile::assert_harmless_line(part);
        }
    }
}
