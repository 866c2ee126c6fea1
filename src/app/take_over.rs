//! The guardian's worker when tfwrap is gone: this keeps the locks until the child has ended.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};

use super::limits;
use super::session::LAST_WORDS;
use crate::clock::uptime;
use crate::env::Env;
use crate::guardian::{self, Head};
use crate::lock::Uptime;
use crate::receipt::ReceiptFile;
use crate::report::{Notice, ReporterOptions};
use crate::run::EventLoop;
use crate::run::custody::{Case, Custody};
use crate::run::orphan::{Adopted, adopt, take_leave};
use crate::supervise::Signals;

/// How long somebody else who acts on the receipt is waited for.
const OTHERS: Duration = Duration::from_secs(10);

/// Ends the run whose case is on stdin; says what it does on stderr, which is a file.
///
/// # Errors
/// When that cannot be begun.
pub(super) fn run(guardian: Option<&OsString>, env: &Env) -> io::Result<()> {
    guardian::take_name();
    // Whoever finds a guardian gone (`recover`) does what is left, and must be alone with it.
    set_pdeathsig(Signal::SIGKILL)?;
    let parent = std::os::unix::process::parent_id().to_string();
    if guardian.is_none_or(|guardian| *guardian != *parent) {
        return Ok(());
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let (head, case) = text.split_once('\n').ok_or(io::ErrorKind::InvalidData)?;
    let head: Head = serde_json::from_str(head)?;
    // Nobody after us could read it, either.
    let Ok(case) = serde_json::from_str::<Case>(case) else { return Ok(()) };
    let mut ending = case.clone();
    ending.receipt.orphan_grace = ending.receipt.orphan_grace.saturating_sub(head.waited);
    // All others stay blocked: whoever asks us to end wants what we are about to do.
    SigSet::from(Signal::SIGCHLD).thread_unblock()?;
    let (reporter, runtime) =
        limits::threads(ReporterOptions::default()).map_err(io::Error::other)?;
    let (adopted, _leave) = runtime.block_on(async {
        let mut event_loop =
            EventLoop::new(Signals::none()?, Arc::clone(&reporter), Custody::none());
        event_loop.reporter.say(Notice::Note {
            message: format!(
                "tfwrap (process {}) is gone: its guardian (process {}) is ending what it left \
                 behind",
                case.receipt.runner.pid,
                std::os::unix::process::parent_id()
            ),
        });
        // One at a time acts on a receipt. Whoever else does sees nothing of our child, so it is
        // soon done, and the child must not wait for it for long, nor beyond the end of its lease.
        let mut leave = None;
        if let Some(path) = case.file.clone() {
            let fence = head.kill_at.map(|at| Uptime(Duration::from_millis(at)));
            let until = uptime().plus(OTHERS);
            let until = fence.map_or(until, |fence| fence.min(until));
            leave = take_leave(&mut event_loop, &ReceiptFile::at(path), until).await.ok();
        }
        let adopted = adopt(&mut event_loop, &head, &ending, env, false).await;
        Ok::<_, io::Error>((adopted, leave))
    })?;
    let kept = settle(&case, &adopted);
    if let Err(error) = kept {
        let message = format!("the receipt cannot be updated: {error}");
        reporter.say(Notice::warning(message));
    }
    reporter.flush(LAST_WORDS);
    runtime.shutdown_background();
    Ok(())
}

/// Leaves a receipt of what could not be given back, and of nothing else. Its lines stay for
/// `recover` to print.
fn settle(case: &Case, adopted: &Adopted) -> io::Result<()> {
    let Some(path) = &case.file else { return Ok(()) };
    if let Some(dir) = path.parent() {
        ReceiptFile::sweep(dir);
    }
    let mut receipt = case.receipt.clone();
    receipt.locks.clone_from(&adopted.left);
    (receipt.child, receipt.starting_since) = (None, None);
    receipt.is_over = receipt.locks.is_empty();
    let file = ReceiptFile::at(path.clone());
    file.write(&receipt).inspect_err(|_| {
        // Without a receipt nobody finds what lies beside it.
        if receipt.is_over && !path.exists() {
            drop(file.remove());
        }
    })
}
