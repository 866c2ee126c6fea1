//! Where signals get their meaning.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{FutureExt as _, StreamExt as _};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid};
use signal_hook::flag::register_usize;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::iterator::exfiltrator::origin::Origin as RawOrigin;
use signal_hook::low_level::siginfo::Cause;
use signal_hook_tokio::SignalsInfo;

use super::child::{blocked_at_start, ignored_at_start, one_handler_at_a_time};
use super::process::ancestors;
use super::targets::{CHILD_OF, has_variable, runs_tfwrap};
use super::{PassSignal, SignalKind, SignalOrigin, StopSignal};

/// What we act on, and what it means.
const KINDS: [(Signal, SignalKind); 9] = [
    (Signal::SIGHUP, SignalKind::Stop(StopSignal::Hangup)),
    (Signal::SIGINT, SignalKind::Stop(StopSignal::Interrupt)),
    (Signal::SIGQUIT, SignalKind::Stop(StopSignal::Quit)),
    (Signal::SIGTERM, SignalKind::Stop(StopSignal::Terminate)),
    (Signal::SIGTSTP, SignalKind::Suspend),
    (Signal::SIGCONT, SignalKind::Resume),
    (Signal::SIGWINCH, SignalKind::Pass(PassSignal::WindowChange)),
    (Signal::SIGUSR1, SignalKind::Pass(PassSignal::User1)),
    (Signal::SIGUSR2, SignalKind::Pass(PassSignal::User2)),
];

/// Whether we hear this signal, and whoever was started in the same way: what was ignored or blocked at our
/// start stays so, and `nohup tfwrap apply` survives the end of its terminal. But SIGINT and SIGTERM are
/// heard, as Terraform hears them (Go's `signal.Notify`): `tfwrap apply &` in a script is started with
/// SIGINT ignored, and a supervisor may have blocked both to take its own by `sigwait(3)`.
pub(crate) fn is_heard(signal: Signal) -> bool {
    is_always_heard(signal) || !(ignored_at_start(signal) || blocked_at_start(signal))
}

/// The same for a process that blocks all signals, as a tfwrap has started it: only what was ignored can
/// be told there.
pub(crate) fn is_unignored(signal: Signal) -> bool {
    is_always_heard(signal) || !ignored_at_start(signal)
}

fn is_always_heard(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGTERM)
}

/// A signal that was delivered to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Received {
    /// What it means.
    pub kind: SignalKind,
    /// Where it came from.
    pub origin: SignalOrigin,
}

/// The signals of this process, from [`Signals::install`] on.
pub struct Signals {
    stream: SignalsInfo<WithOrigin>,
    /// Taken from the stream together, not handed out yet.
    batch: VecDeque<Received>,
    /// The last of SIGTSTP and SIGCONT that came. Told by the order of their handlers: one thread runs
    /// them (`app::limits`), one after the other.
    last: Arc<AtomicUsize>,
    above: Above,
}

/// Who is above us when we start. They may send a signal and be gone before we have read it.
struct Above {
    parent: Pid,
    tfwraps: Vec<Pid>,
    /// Whether there is a tfwrap above us, in whatever PID namespace.
    any: bool,
}

impl Above {
    fn now() -> Self {
        let mut tfwraps = ancestors();
        tfwraps.retain(|pid| runs_tfwrap(*pid));
        let any = !tfwraps.is_empty() || has_variable(getpid(), CHILD_OF, None);
        Self { parent: getppid(), tfwraps, any }
    }

    /// What the sender of a signal that was just read is.
    fn origin_by(&self, sender: Pid) -> SignalOrigin {
        if sender.as_raw() == 0 && self.any {
            return SignalOrigin::Outside;
        }
        SignalOrigin::Sent {
            by_tfwrap: self.tfwraps.contains(&sender) || runs_tfwrap(sender),
            by_parent: sender == self.parent,
        }
    }
}

impl Signals {
    /// Takes over the signals, in a tokio runtime. To be called before the first remote write:
    /// from here on no signal ends us unseen.
    ///
    /// Those that are heard: [`is_heard`]. The child has all others as we got them, as if it had been
    /// started in our place. SIGTTIN and SIGTTOU keep their meaning; see [`super::Child`].
    pub fn install() -> io::Result<Self> {
        let ours = KINDS.iter().map(|(signal, _)| *signal).filter(|signal| is_heard(*signal));
        let ours: Vec<_> = ours.map(|signal| signal as i32).collect();
        let last = Arc::new(AtomicUsize::new(0));
        let mut ordered = vec![Signal::SIGTSTP as i32, Signal::SIGCONT as i32];
        ordered.retain(|signal| ours.contains(signal));
        for signal in &ordered {
            register_usize(*signal, last.clone(), signal.unsigned_abs() as usize)?;
        }
        let stream = SignalsInfo::new(ours)?;
        one_handler_at_a_time(&ordered)?;
        let asked: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        asked.thread_unblock()?;
        Ok(Self { stream, batch: VecDeque::new(), last, above: Above::now() })
    }

    /// No signals: for a process that is ending others' work and blocks them all.
    pub fn none() -> io::Result<Self> {
        let stream = SignalsInfo::new([] as [i32; 0])?;
        Ok(Self { stream, batch: VecDeque::new(), last: Arc::default(), above: Above::now() })
    }

    /// The next signal. Dropping the future loses nothing.
    ///
    /// Signals that arrive together have no order of their own. So of a suspend and a resume only
    /// the last counts: an earlier suspend would stop us for ever, and a later one be lost.
    pub async fn next(&mut self) -> Received {
        loop {
            if let Some(received) = self.batch.pop_front() {
                return received;
            }
            let Some(first) = self.stream.next().await else {
                // The stream ends only when its handle is closed, and nobody has the handle.
                return std::future::pending().await;
            };
            self.batch.extend(received(&first, &self.above));
            self.take_in();
        }
    }

    /// Whether a stop or a resume has come that was not handed out yet: whoever stands still hears of
    /// neither. The runtime hears of a signal only between two turns of its tasks, so it is given one.
    pub async fn may_not_stand_still(&mut self) -> bool {
        tokio::task::yield_now().await;
        self.take_in();
        let keeps_going = |kind| matches!(kind, SignalKind::Stop(_) | SignalKind::Resume);
        self.batch.iter().any(|received| keeps_going(received.kind))
    }

    /// Takes what has come in.
    fn take_in(&mut self) {
        while let Some(Some(raw)) = self.stream.next().now_or_never() {
            self.batch.extend(received(&raw, &self.above));
        }
        if self.batch.iter().any(|received| received.kind == SignalKind::Resume) {
            let last = self.last.load(Ordering::Relaxed);
            let is_suspended = last == Signal::SIGTSTP as usize
                && self.batch.iter().any(|received| received.kind == SignalKind::Suspend);
            let undone = if is_suspended { SignalKind::Resume } else { SignalKind::Suspend };
            self.batch.retain(|received| received.kind != undone);
        }
    }
}

fn received(raw: &RawOrigin, above: &Above) -> Option<Received> {
    let (_, kind) = KINDS.iter().find(|(signal, _)| *signal as i32 == raw.signal)?;
    let origin = match (raw.cause, raw.process) {
        (Cause::Kernel, _) => SignalOrigin::Terminal,
        (_, Some(process)) => above.origin_by(Pid::from_raw(process.pid)),
        (_, None) => SignalOrigin::Unknown,
    };
    Some(Received { kind: *kind, origin })
}
