//! What a runner starts: an entry process whose streams are pipes that the runner reads, and may
//! close before everybody else has.

use std::io::{PipeReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::killpg;
use rustix::process::Signal;
use tfwrap::clock::uptime;

use crate::support::harness::pause;
use crate::support::procs::Process;

const LOOK: Duration = Duration::from_millis(10);

/// What was said on the streams of a job, whoever said it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output(Arc<Mutex<String>>);

impl Output {
    pub(crate) fn text(&self) -> String {
        self.0.lock().expect("not poisoned").clone()
    }

    pub(crate) fn push(&self, text: &str) {
        self.0.lock().expect("not poisoned").push_str(text);
    }
}

/// Which process group the entry process is in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Group {
    /// One of its own.
    Own,
    /// That of this process.
    Of(i32),
}

/// A running step of a job.
pub(crate) struct Step {
    child: Child,
    process: Process,
    ended: Option<ExitStatus>,
    closed: Arc<AtomicBool>,
    close: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Step {
    /// Starts it. Without stdin, as all runners do.
    pub(crate) fn start(command: &mut Command, group: Group, output: &Output) -> Self {
        let (ours, theirs) = std::io::pipe().expect("a pipe");
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe that can be polled");
        let group = match group {
            Group::Own => 0,
            Group::Of(leader) => leader,
        };
        command.process_group(group).stdin(Stdio::null());
        command.stdout(theirs.try_clone().expect("a descriptor")).stderr(theirs);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // The command holds the other ends, too.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::of_child(child.id());
        let (closed, close) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let reader = {
            let (closed, close, output) = (closed.clone(), close.clone(), output.clone());
            std::thread::spawn(move || read(ours, &output, &closed, &close))
        };
        Self { child, process, ended: None, closed, close, reader: Some(reader) }
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Signals the entry process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Signals its group, unless it has ended: then its number may be somebody else's.
    pub(crate) fn signal_group(&mut self, signal: nix::sys::signal::Signal) {
        if self.ended().is_none() {
            let group = nix::unistd::Pid::from_raw(self.process.pid);
            killpg(group, signal).expect("its leader is not reaped");
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("it can be waited for");
        }
        self.ended
    }

    /// Whether the entry process ends in time.
    pub(crate) fn ends_within(&mut self, limit: Duration) -> bool {
        within(limit, || self.ended().is_some())
    }

    /// Whether nobody has the streams any more, in time.
    pub(crate) fn closes_within(&self, limit: Duration) -> bool {
        within(limit, || self.closed.load(Ordering::SeqCst))
    }

    /// Closes our ends, whoever may still write.
    pub(crate) fn close(&mut self) {
        self.close.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader ends");
        }
    }

    /// How it ended, as a shell says it.
    pub(crate) fn code(&mut self) -> Option<i32> {
        let ended = self.ended()?;
        ended.code().or_else(|| ended.signal().map(|signal| 128 + signal))
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.process.signal(Signal::KILL);
            drop(self.child.wait());
        }
        self.close();
    }
}

fn read(mut ours: PipeReader, output: &Output, closed: &AtomicBool, close: &AtomicBool) {
    let mut bytes = [0; 4096];
    // Ends with the step, at the latest when that is dropped.
    while !close.load(Ordering::SeqCst) {
        match ours.read(&mut bytes) {
            Ok(0) => {
                closed.store(true, Ordering::SeqCst);
                return;
            }
            Ok(count) => output.push(&String::from_utf8_lossy(&bytes[..count])),
            Err(_) => pause(LOOK),
        }
    }
}

/// Looks again and again until it is so, or the time is over.
pub(crate) fn within(limit: Duration, mut look: impl FnMut() -> bool) -> bool {
    let give_up_at = uptime().plus(limit);
    loop {
        if look() {
            return true;
        }
        if uptime() >= give_up_at {
            return false;
        }
        pause(LOOK);
    }
}
