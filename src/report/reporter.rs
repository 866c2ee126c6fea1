//! Gets notices to stderr without ever making the caller wait.
//!
//! A thread writes; between it and the callers is a bounded queue. When stderr stalls (a log
//! collector that hangs, a terminal stopped by Ctrl-S), the queue fills and further notices are
//! counted instead of kept; the count is said once stderr moves again. When stderr is closed,
//! nothing is said any more and nothing else changes: Rust ignores SIGPIPE, so a write fails with
//! an error that ends here.
//!
//! On a terminal the same thread keeps the line that is redrawn while tfwrap waits ([`Redrawn`]).
//!
//! A child writes to the same stderr and may not have finished its line, such as a prompt; where that
//! goes to a pipe, nobody can look. So what is said while it runs, and the first thing after one that
//! was cut off, begins with a line end: every line of ours begins where people look for it. A program
//! finds none that does not: in JSON, all that is said from the first child's start on begins so, since
//! what a child has left behind may go on writing.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use super::gitlab::WaitSection;
use super::redrawn::Redrawn;
use super::{Json, Notice, Text, github};
use super::{LogFormat, Verbosity};
use crate::clock;

/// How long a child's start waits for what was said before it.
const BEFORE_A_CHILD: Duration = Duration::from_millis(100);

/// How many notices may wait for stderr. One run says some dozens in an hour.
const QUEUE: usize = 256;

/// How long to wait before the next try when stderr is non-blocking and full.
const RETRY: Duration = Duration::from_millis(20);

/// How often the line that is redrawn is.
const FRAME: Duration = Duration::from_millis(200);

/// Where GitHub annotations go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Annotations {
    /// Nobody reads any.
    Off,
    /// To stderr, behind the message.
    Stderr,
    /// Into a file, for whoever keeps the runner from obeying what is on stderr; to stderr if the
    /// file cannot be written.
    File(PathBuf),
}

/// How to say things.
#[derive(Debug, Clone)]
pub struct ReporterOptions {
    /// Text or JSON.
    pub format: LogFormat,
    /// How much.
    pub verbosity: Verbosity,
    /// Whether text is coloured ([`super::use_color`]).
    pub color: bool,
    /// Where errors and warnings also become GitHub annotations. JSON promises nothing but objects on
    /// stderr: with it, only a file gets them.
    pub annotations: Annotations,
    /// Whether a wait is a collapsible section of GitLab's; in text only.
    pub sections: bool,
    /// Whether waiting is one line that is redrawn, after the first; in text only. For terminals.
    pub redraw: bool,
}

impl Default for ReporterOptions {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            verbosity: Verbosity::Normal,
            color: false,
            annotations: Annotations::Off,
            sections: false,
            redraw: false,
        }
    }
}

/// Says notices; shared by all that have something to say. What is still unsaid when it is dropped
/// is lost: call [`Reporter::flush`] before the process ends.
///
/// It runs a thread: whatever must be forked off before any thread, must be so before this.
#[derive(Debug)]
pub struct Reporter {
    options: ReporterOptions,
    queue: Arc<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    state: Mutex<State>,
    /// Something for the writer to do.
    filled: Condvar,
    /// The writer has done everything.
    drained: Condvar,
}

#[derive(Debug, Default)]
struct State {
    notices: VecDeque<Said>,
    dropped: u64,
    line: LineState,
    others: Others,
    /// What they were before this child's start.
    others_before: Others,
    writing: bool,
    closing: bool,
}

/// Something to say, and when it was said.
#[derive(Debug)]
struct Said {
    at: Timestamp,
    notice: Notice,
    /// Whether it ends a line of somebody else's first. Decided when it is said: what a child writes after
    /// that, comes after it.
    ends_a_line: bool,
}

/// Of what a child writes to stderr.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Others {
    #[default]
    Silent,
    Writing,
    /// It has ended, perhaps within a line. In JSON this stays so.
    Left,
}

/// Of the line that is redrawn, as the callers see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum LineState {
    #[default]
    Gone,
    /// There may be one.
    Drawn,
    /// It is to go.
    Settling,
}

impl State {
    fn is_idle(&self) -> bool {
        self.notices.is_empty()
            && self.dropped == 0
            && self.line != LineState::Settling
            && !self.writing
    }
}

impl QueueState {
    /// The lock is held for some instructions only, never while anything is written. A panic in
    /// between cannot leave the state half changed, so a poisoned one is used on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// stderr, whatever file that is by now, without the lock of `std::io::stderr`: the panic hook
/// takes that, and a stalled write under it would keep a panic from being unwound.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, words: &[u8]) -> io::Result<usize> {
        nix::unistd::write(io::stderr(), words).map_err(io::Error::from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Reporter {
    /// Starts saying things on stderr.
    ///
    /// # Errors
    /// When a thread or a file descriptor cannot be had.
    pub fn to_stderr(options: ReporterOptions) -> io::Result<Self> {
        let terminal =
            if options.redraw { Some(io::stderr().as_fd().try_clone_to_owned()?) } else { None };
        Self::start(options, Stderr, terminal)
    }

    /// Starts saying things to any writer.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub fn to_writer(
        options: ReporterOptions,
        out: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        Self::start(options, out, None)
    }

    fn start(
        options: ReporterOptions,
        out: impl Write + Send + 'static,
        terminal: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let queue = Arc::new(QueueState::default());
        let has_line = options.redraw && options.format == LogFormat::Text;
        let renderer = Renderer {
            options: options.clone(),
            text: Text { color: options.color },
            json: Json::default(),
            section: WaitSection::default(),
        };
        let theirs = Arc::clone(&queue);
        thread::Builder::new().name("reporter".into()).spawn(move || {
            // Made here: it belongs to the thread that writes.
            let redrawn = has_line.then(|| Redrawn::new(terminal));
            write_all_notices(&theirs, renderer, redrawn, out);
        })?;
        Ok(Self { options, queue })
    }

    /// Says it, soon; returns at once whatever stderr does.
    pub fn say(&self, notice: Notice) {
        if notice.audience(self.options.format) > self.options.verbosity {
            return;
        }
        let mut state = self.queue.state();
        // After a drop everything is dropped until the writer has said so: what follows the
        // message about it was said after it.
        if state.notices.len() >= QUEUE || state.dropped > 0 {
            state.dropped += 1;
        } else {
            if self.options.redraw && matches!(notice, Notice::Waiting { .. }) {
                state.line = LineState::Drawn;
            }
            let ends_a_line = state.others != Others::Silent;
            if state.others == Others::Left && self.options.format == LogFormat::Text {
                state.others = Others::Silent;
            }
            state.notices.push_back(Said { at: clock::wall(), notice, ends_a_line });
        }
        self.queue.filled.notify_one();
    }

    /// Takes the line that is redrawn away, and waits until that is done and everything is said, at
    /// most for `timeout`. Returns at once where there is no such line.
    pub fn settle(&self, timeout: Duration) {
        let mut state = self.queue.state();
        if state.line == LineState::Gone {
            return;
        }
        state.line = LineState::Settling;
        drop(state);
        self.queue.filled.notify_one();
        self.flush(timeout);
    }

    /// A child writes to stderr from now on. What was said before comes before that, unless stderr hangs.
    pub fn share(&self) {
        self.flush(BEFORE_A_CHILD);
        let mut state = self.queue.state();
        state.others_before = std::mem::replace(&mut state.others, Others::Writing);
    }

    /// The child writes to stderr no more. What ends in order has ended its lines, but for the end of a colour,
    /// and for what it leaves behind: an empty line is less than a JSON object that no program finds.
    pub fn unshare(&self, was_cut_off: bool) {
        let is_within_a_line = was_cut_off || self.options.format == LogFormat::Json;
        self.queue.state().others = if is_within_a_line { Others::Left } else { Others::Silent };
    }

    /// There was no child after all.
    pub fn had_no_child(&self) {
        let mut state = self.queue.state();
        state.others = state.others_before;
    }

    /// Waits until everything is said, at most for `timeout`; returns whether it is. Call it before
    /// the process ends or executes something else.
    pub fn flush(&self, timeout: Duration) -> bool {
        let state = self.queue.state();
        let (state, _) = self
            .queue
            .drained
            .wait_timeout_while(state, timeout, |state| !state.is_idle())
            .unwrap_or_else(PoisonError::into_inner);
        state.is_idle()
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.queue.state().closing = true;
        self.queue.filled.notify_one();
    }
}

/// What the writer finds to do.
enum Work {
    Notice(Said),
    /// How many, and whether this ends a line of somebody else's first.
    Dropped(u64, bool),
    /// Draw the line anew.
    Redraw,
    /// Take it away.
    Settle,
    End,
}

/// `drawn`: there is a line to redraw, so the wait for work is short.
fn next_work(queue: &QueueState, drawn: bool) -> Work {
    let mut state = queue.state();
    state.writing = false;
    let mut work = None;
    loop {
        if let Some(said) = state.notices.pop_front() {
            work = Some(Work::Notice(said));
        } else if state.dropped > 0 {
            let ends_a_line = state.others != Others::Silent;
            work = Some(Work::Dropped(std::mem::take(&mut state.dropped), ends_a_line));
        } else if state.line == LineState::Settling {
            state.line = LineState::Gone;
            work = Some(Work::Settle);
        }
        if let Some(work) = work {
            state.writing = true;
            return work;
        }
        queue.drained.notify_all();
        if state.closing {
            return Work::End;
        }
        if drawn {
            let (now, waited) =
                queue.filled.wait_timeout(state, FRAME).unwrap_or_else(PoisonError::into_inner);
            state = now;
            work = waited.timed_out().then_some(Work::Redraw);
        } else {
            state = queue.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn write_all_notices(
    queue: &QueueState,
    mut renderer: Renderer,
    mut redrawn: Option<Redrawn>,
    mut out: impl Write,
) {
    let mut is_open = true;
    loop {
        let work = next_work(queue, redrawn.as_ref().is_some_and(Redrawn::is_drawn));
        let text = match (work, &mut redrawn) {
            (Work::End, _) => return,
            (Work::Notice(said), Some(redrawn)) => {
                let first = redrawn.learn(&said.notice, clock::uptime());
                let text = if first { said.render(&mut renderer) } else { String::new() };
                let is_wait = matches!(said.notice, Notice::Waiting { .. });
                let text = if is_wait { redrawn.broken(&text) } else { text };
                redrawn.below(&text, clock::uptime())
            }
            (Work::Notice(said), None) => said.render(&mut renderer),
            (Work::Dropped(count, ends_a_line), Some(redrawn)) => {
                let text = on_its_own_line(renderer.render_dropped(count), ends_a_line);
                redrawn.below(&text, clock::uptime())
            }
            (Work::Dropped(count, ends_a_line), None) => {
                on_its_own_line(renderer.render_dropped(count), ends_a_line)
            }
            (Work::Redraw, Some(redrawn)) => redrawn.below("", clock::uptime()),
            (Work::Settle, Some(redrawn)) => redrawn.clear(),
            (Work::Redraw | Work::Settle, None) => String::new(),
        };
        // The reader is gone for good: go on emptying the queue, so that `flush` returns.
        is_open = is_open && write_whole(&mut out, text.as_bytes()).is_ok();
    }
}

impl Said {
    fn render(&self, renderer: &mut Renderer) -> String {
        on_its_own_line(renderer.render(&self.notice, self.at), self.ends_a_line)
    }
}

/// In the same write, so that nobody else's comes in between.
fn on_its_own_line(text: String, ends_a_line: bool) -> String {
    if ends_a_line && !text.is_empty() { format!("\n{text}") } else { text }
}

/// As `write_all`, but patient: Node and others leave pipes non-blocking, for everybody who shares
/// them.
fn write_whole(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::park_timeout(RETRY),
            Err(e) => return Err(e),
        }
    }
    out.flush()
}

struct Renderer {
    options: ReporterOptions,
    text: Text,
    json: Json,
    section: WaitSection,
}

impl Renderer {
    fn render(&mut self, notice: &Notice, at: Timestamp) -> String {
        match self.options.format {
            LogFormat::Json => {
                let _only_into_a_file = self.annotation(notice);
                self.json.render(notice, at)
            }
            LogFormat::Text => {
                let section = self.options.sections.then(|| self.section.before(notice, at));
                let mut text = section.unwrap_or_default() + &self.text.render(notice, at);
                text.push_str(&self.annotation(notice).unwrap_or_default());
                text
            }
        }
    }

    /// The annotation that goes to stderr.
    fn annotation(&self, notice: &Notice) -> Option<String> {
        match &self.options.annotations {
            Annotations::Off => None,
            Annotations::Stderr => github::annotation(notice),
            Annotations::File(path) => github::annotation(notice)
                .filter(|annotation| github::append(path, annotation).is_err()),
        }
    }

    fn render_dropped(&mut self, count: u64) -> String {
        match self.options.format {
            LogFormat::Json => self.json.render_dropped(count, clock::wall()),
            LogFormat::Text => {
                let message = format!("{count} messages are missing here: stderr was stalled");
                self.render(&Notice::Warning { message, hint: None }, clock::wall())
            }
        }
    }
}

#[cfg(test)]
mod tests;
