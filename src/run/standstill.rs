//! Processes that were stopped by a signal and that tfwrap waits for. What they work for has ended,
//! or they were asked to end, so nobody else would ever continue them.
//!
//! Its rules: `docs/protocol.md#t6-the-holder-leaves-last`,
//! `docs/protocol.md#k4-what-recover-does`.

use nix::sys::signal::Signal;

use super::event_loop::EventLoop;
use crate::receipt::Receipt;
use crate::report::Notice;
use crate::supervise::ProcessId;

/// Whoever is to end this run, where it can do nothing until it is continued: its tfwrap; where that
/// is dead, its guardian.
pub(crate) fn of(receipt: &Receipt) -> Option<ProcessId> {
    let runner = Some(receipt.runner).filter(|runner| runner.is_alive());
    runner.or(receipt.guardian).filter(|process| process.is_alive() && process.stands_still())
}

/// The command that helps.
pub(crate) fn go_on_command(process: ProcessId) -> String {
    format!("kill -CONT {}", process.pid)
}

/// That it stood still, and is continued now.
pub(super) fn was_stopped(process: ProcessId) -> Notice {
    continued(process, &format!("; `kill {}` ends it", process.pid))
}

fn continued(process: ProcessId, or: &str) -> Notice {
    let (pid, go_on) = (process.pid, go_on_command(process));
    Notice::warning(format!(
        "process {pid}, which tfwrap is waiting for, was stopped by a signal: continued"
    ))
    .with_hint(format!("if it is stopped again, `{go_on}` continues it{or}"))
}

/// Continues them, and names each once.
#[derive(Debug, Default)]
pub(crate) struct Standstill(Vec<ProcessId>);

impl Standstill {
    /// Whoever stops a tfwrap again may have a reason; but one that was `asked` to end must hear of
    /// it, and a guardian is to end what the dead have left.
    pub(crate) fn end(&mut self, event_loop: &EventLoop, receipt: &Receipt, asked: bool) {
        let Some(process) = of(receipt) else { return };
        let is_guardian = process != receipt.runner;
        let is_new = !self.0.contains(&process);
        if !(is_new || asked || is_guardian) {
            return;
        }
        let signalled = process.signal(Signal::SIGCONT);
        if !is_new {
            return;
        }
        self.0.push(process);
        event_loop.say(match signalled {
            // It heeds no signal.
            Ok(_) if is_guardian => continued(process, ""),
            Ok(_) => was_stopped(process),
            Err(error) => Notice::warning(format!(
                "process {}, which tfwrap is waiting for, is stopped by a signal and cannot be \
                 continued: {error}",
                process.pid
            ))
            .with_hint(format!("`{}` continues it", go_on_command(process))),
        });
    }
}
