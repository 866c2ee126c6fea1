//! What the steps of a run share: its inputs, and what is known about its locks.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::ioctl_fionread;

use super::acquire::LockInfoTemplate;
use super::history::{LockRequest, Provenance};
use super::planner::Planner;
use crate::env::Env;
use crate::held::Held;
use crate::lock::history::Awaited;
use crate::lock::release::ReleaseOutcome;
use crate::lock::{Holder, LockId};
use crate::report::github::GithubFiles;
use crate::report::gitlab::Dotenv;
use crate::settings::OnOutdated;
use crate::supervise::Policy;
use crate::telemetry::Telemetry;

/// What a locked run needs besides the job.
pub(crate) struct Context {
    pub(crate) policy: Policy,
    pub(crate) env: Env,
    /// Where receipts lie.
    pub(crate) state_dir: PathBuf,
    pub(crate) introduction: LockInfoTemplate,
    pub(crate) held: Held,
    /// With `--on-lock-lost stop`.
    pub(crate) lost_is_fatal: bool,
    /// GitHub's files.
    pub(crate) files: Option<GithubFiles>,
    /// The dotenv file with the outputs.
    pub(crate) dotenv: Option<Dotenv>,
    /// What the history says of this run; nothing with `--no-history`.
    pub(crate) provenance: Option<Provenance>,
    /// Where its spans are sent.
    pub(crate) telemetry: Option<Telemetry>,
    /// Whether a person reads stdout.
    pub(crate) is_on_terminal: bool,
    /// Whether a file may not have any size (`RLIMIT_FSIZE`).
    pub(crate) files_are_limited: bool,
    /// What there is to read on stdin.
    pub(crate) stdin: Stdin,
    /// What an apply does that is outdated.
    pub(crate) on_outdated: OnOutdated,
    /// Resolves all anew.
    pub(crate) planner: Planner,
}

/// What there is to read on stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// What a person types.
    Terminal,
    /// Something that was put there before we began.
    Data,
    /// Nothing yet: whoever has the other end of the pipe or the socket may still write.
    Open,
    /// Nothing ever.
    Nothing,
}

impl Stdin {
    /// Ours.
    pub(crate) fn look() -> Self {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            Self::Terminal
        } else if ioctl_fionread(&stdin).is_ok_and(|bytes| bytes > 0) {
            Self::Data
        } else if poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
            == Ok(0)
        {
            // The end of it would be something to read.
            Self::Open
        } else {
            Self::Nothing
        }
    }
}

/// What is known after the locks were taken, besides the locks themselves ([`super::event_loop::EventLoop::kept`]).
#[derive(Default)]
pub(super) struct Acquired {
    /// Held by an outer tfwrap, under these IDs.
    pub(super) inherited: Vec<LockId>,
    pub(super) contended: bool,
    /// Who held a lock when we last looked and it was not ours.
    pub(super) holder: Option<Holder>,
    /// All who were seen to hold one, in order.
    pub(super) behind: Vec<Awaited>,
    /// How many places there were before ours in a queue at most.
    pub(super) ahead: Option<u64>,
    /// Of locks that could not be given back before all began anew.
    pub(super) left: Vec<ReleaseOutcome>,
    /// Each lock that was asked for and has a history.
    pub(super) requests: Vec<LockRequest>,
}

impl Acquired {
    /// Nothing yet, after a wait for these without asking for a lock; who held it last.
    pub(super) fn after(holder: Option<Holder>, behind: Vec<Awaited>) -> Self {
        Self { contended: holder.is_some(), holder, behind, ..Self::default() }
    }
}
