//! Gets notices to stderr without ever making the caller wait.
//!
//! A thread writes; between it and the callers is a bounded queue. When stderr stalls (a log
//! collector that hangs, a terminal stopped by Ctrl-S), the queue fills and further notices are
//! counted instead of kept; the count is said once stderr moves again. When stderr is closed,
//! nothing is said any more and nothing else changes: Rust ignores SIGPIPE, so a write fails with
//! an error that ends here.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use super::{Json, Notice, Text, github};
use crate::clock;
use crate::settings::{LogFormat, Verbosity};

/// How many notices may wait for stderr. One run says some dozens in an hour.
const QUEUE: usize = 256;

/// How long to wait before the next try when stderr is non-blocking and full.
const RETRY: Duration = Duration::from_millis(20);

/// How to say things.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Text or JSON.
    pub format: LogFormat,
    /// How much.
    pub verbosity: Verbosity,
    /// Whether text is coloured ([`super::use_color`]).
    pub color: bool,
    /// Whether errors and warnings also become GitHub annotations; in text only, since JSON
    /// promises nothing but objects.
    pub annotations: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            verbosity: Verbosity::Normal,
            color: false,
            annotations: false,
        }
    }
}

/// Says notices; shared by all that have something to say. What is still unsaid when it is dropped
/// is lost: call [`Reporter::flush`] before the process ends.
///
/// It runs a thread: whatever must be forked off before any thread, must be so before this.
#[derive(Debug)]
pub struct Reporter {
    options: Options,
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// Something for the writer to do.
    filled: Condvar,
    /// The writer has done everything.
    drained: Condvar,
}

#[derive(Debug, Default)]
struct State {
    notices: VecDeque<(Timestamp, Notice)>,
    dropped: u64,
    writing: bool,
    closing: bool,
}

impl State {
    fn is_idle(&self) -> bool {
        self.notices.is_empty() && self.dropped == 0 && !self.writing
    }
}

impl Queue {
    /// The lock is held for some instructions only, never while anything is written. A panic in
    /// between cannot leave the state half changed, so a poisoned one is used on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    /// Starts saying things on stderr.
    ///
    /// # Errors
    /// When a thread or a file descriptor cannot be had.
    pub fn to_stderr(options: Options) -> io::Result<Self> {
        // A descriptor of its own: the panic hook takes the lock of `std::io::stderr`, and a stalled
        // write under that lock would keep a panic from being unwound.
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        Self::to_writer(options, File::from(stderr))
    }

    /// Starts saying things to any writer.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub fn to_writer(options: Options, out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let renderer =
            Renderer { options, text: Text { color: options.color }, json: Json::default() };
        let theirs = Arc::clone(&queue);
        thread::Builder::new()
            .name("reporter".into())
            .spawn(move || write_all_notices(&theirs, renderer, out))?;
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
            state.notices.push_back((clock::wall(), notice));
        }
        self.queue.filled.notify_one();
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
    Notice(Timestamp, Notice),
    Dropped(u64),
    End,
}

fn next_work(queue: &Queue) -> Work {
    let mut state = queue.state();
    state.writing = false;
    loop {
        if let Some((at, notice)) = state.notices.pop_front() {
            state.writing = true;
            return Work::Notice(at, notice);
        }
        if state.dropped > 0 {
            state.writing = true;
            return Work::Dropped(std::mem::take(&mut state.dropped));
        }
        queue.drained.notify_all();
        if state.closing {
            return Work::End;
        }
        state = queue.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

fn write_all_notices(queue: &Queue, mut renderer: Renderer, mut out: impl Write) {
    let mut is_open = true;
    loop {
        let text = match next_work(queue) {
            Work::Notice(at, notice) => renderer.render(&notice, at),
            Work::Dropped(count) => renderer.render_dropped(count),
            Work::End => return,
        };
        // The reader is gone for good: go on emptying the queue, so that `flush` returns.
        is_open = is_open && write_whole(&mut out, text.as_bytes()).is_ok();
    }
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
    options: Options,
    text: Text,
    json: Json,
}

impl Renderer {
    fn render(&mut self, notice: &Notice, at: Timestamp) -> String {
        match self.options.format {
            LogFormat::Json => self.json.render(notice, at),
            LogFormat::Text => {
                let mut text = self.text.render(notice, at);
                if self.options.annotations {
                    text.push_str(&github::annotation(notice).unwrap_or_default());
                }
                text
            }
        }
    }

    fn render_dropped(&mut self, count: u64) -> String {
        match self.options.format {
            LogFormat::Json => self.json.render_dropped(count, clock::wall()),
            LogFormat::Text => {
                let message = format!("{count} messages are missing here, stderr was stalled");
                self.render(&Notice::Warning { message, hint: None }, clock::wall())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn detail(n: usize) -> Notice {
        Notice::Warning { message: format!("number {n}"), hint: None }
    }

    fn read(mut pipe: io::PipeReader) -> String {
        let mut said = String::new();
        pipe.read_to_string(&mut said).unwrap();
        said
    }

    #[test]
    fn everything_is_said_in_order() {
        let (reader, writer) = io::pipe().unwrap();
        let reporter = Reporter::to_writer(Options::default(), writer).unwrap();
        for n in 0..100 {
            reporter.say(detail(n));
        }
        assert!(reporter.flush(LONG));
        drop(reporter);
        let said = read(reader);
        let numbers: Vec<&str> = said
            .lines()
            .map(|line| line.strip_prefix("tfwrap: warning: number ").unwrap())
            .collect();
        let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(numbers, expected);
    }

    #[test]
    fn a_stalled_stderr_costs_messages_but_no_time() {
        // Nobody reads: the pipe takes 64 KiB, then the writer thread hangs.
        let (reader, writer) = io::pipe().unwrap();
        let reporter = Reporter::to_writer(Options::default(), writer).unwrap();
        let (done, is_done) = mpsc::channel();
        let talker = thread::spawn(move || {
            for _ in 0..2000 {
                let message = "x".repeat(1000);
                reporter.say(Notice::Warning { message, hint: None });
            }
            let flushed = reporter.flush(Duration::from_millis(50));
            done.send(flushed).unwrap();
            reporter
        });
        assert!(!is_done.recv_timeout(LONG).expect("the caller is not blocked"));
        let reporter = talker.join().unwrap();
        let reader = thread::spawn(move || read(reader));
        assert!(reporter.flush(LONG), "once it moves, everything left is said");
        reporter.say(detail(1));
        assert!(reporter.flush(LONG));
        drop(reporter);

        let said = reader.join().unwrap();
        let kept = said.matches(&"x".repeat(1000)).count();
        let report = said.lines().rev().nth(1).unwrap();
        assert_eq!(
            report,
            format!(
                "tfwrap: warning: {} messages are missing here, stderr was stalled",
                2000 - kept
            )
        );
        assert!(kept >= QUEUE && said.ends_with("tfwrap: warning: number 1\n"));
    }

    #[test]
    fn a_closed_stderr_is_no_trouble() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let reporter = Reporter::to_writer(Options::default(), writer).unwrap();
        for n in 0..1000 {
            reporter.say(detail(n));
        }
        assert!(reporter.flush(LONG));
        assert!(reporter.flush(LONG));
    }

    #[test]
    fn a_non_blocking_stderr_gets_whole_lines() {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let (reader, writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let reporter = Reporter::to_writer(Options::default(), writer).unwrap();
        let message = "y".repeat(3000);
        for _ in 0..200 {
            reporter.say(Notice::Warning { message: message.clone(), hint: None });
        }
        assert!(!reporter.flush(Duration::from_millis(30)), "200 lines do not fit into the pipe");
        let reader = thread::spawn(move || read(reader));
        assert!(reporter.flush(LONG));
        drop(reporter);
        assert_eq!(reader.join().unwrap(), format!("tfwrap: warning: {message}\n").repeat(200));
    }

    #[test]
    fn verbosity_decides_what_is_said() {
        let notices = [
            Notice::Error { message: "e".into(), hint: None, code: 69 },
            Notice::Stopping { signal: "SIGTERM".into(), doing: "s".into() },
            Notice::Detail { message: "d".into() },
            Notice::Acquired {
                lock: "l".into(),
                id: "i".into(),
                waited: Duration::ZERO,
                contended: false,
            },
        ];
        let lines = |format, verbosity| {
            let (reader, writer) = io::pipe().unwrap();
            let options = Options { format, verbosity, ..Options::default() };
            let reporter = Reporter::to_writer(options, writer).unwrap();
            for notice in notices.iter().cloned() {
                reporter.say(notice);
            }
            assert!(reporter.flush(LONG));
            drop(reporter);
            read(reader).lines().count()
        };
        let counts = |format| {
            [Verbosity::Quiet, Verbosity::Normal, Verbosity::Verbose].map(|v| lines(format, v))
        };
        assert_eq!(counts(LogFormat::Text), [1, 2, 4]);
        assert_eq!(counts(LogFormat::Json), [1, 3, 4]);
    }

    #[test]
    fn annotations_come_with_text_and_never_with_json() {
        for (format, expected) in [(LogFormat::Text, 1), (LogFormat::Json, 0)] {
            let (reader, writer) = io::pipe().unwrap();
            let options = Options { format, annotations: true, ..Options::default() };
            let reporter = Reporter::to_writer(options, writer).unwrap();
            reporter.say(detail(1));
            assert!(reporter.flush(LONG));
            drop(reporter);
            assert_eq!(read(reader).matches("::warning ").count(), expected);
        }
    }
}
