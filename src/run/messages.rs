//! The messages about a lock: while tfwrap waits for it, and when it becomes ours or stops being
//! ours.

use std::path::Path;
use std::time::Duration;

use super::here::Here;
use super::kept::Kept;
use crate::clock::{uptime, wall};
use crate::duration;
use crate::error::Error;
use crate::exit_code;
use crate::lock::acquire::Acquire;
use crate::lock::lease_keeper::LeaseKeeper;
use crate::lock::queue::Queue;
use crate::lock::release::PATIENCE;
use crate::lock::{Flaw, FlawKind, Holder, LockId, LockInfo, Uptime};
use crate::report::{Cadence, Notice, Reporter, clean, describe_holder, shell_quote};
use crate::store::{LeftOpen, Record, StoreError, Stored};
use crate::target::{LockTarget, StoreSpec};

pub(super) fn no_line(target: &LockTarget, error: &StoreError) -> Notice {
    Notice::warning(format!(
        "no queue can be kept beside the lock `{}` ({error}): competing for it with backoff, in no \
         order",
        target.url()
    ))
    .with_hint(
        "allow the same actions on the keys that begin with the lock's key, or switch the queue \
         off with `--no-line`"
            .to_owned(),
    )
}

/// Of a store that honours the condition of a create and no other.
pub(super) fn creates_only(target: &LockTarget) -> Notice {
    Notice::warning(format!(
        "the store of the lock `{}` ignores conditions when an object is replaced or removed: the \
         lock has no lease and no queue, it stays if this run is killed together with its \
         guardian, and tfwrap removes it as Terraform does, even if it is somebody else's by then",
        target.url()
    ))
    .with_hint(
        "a store with conditional writes and removes, such as AWS's own, has none of these gaps"
            .to_owned(),
    )
}

pub(super) fn took_over(target: &LockTarget, record: &Record) -> Notice {
    let holder = describe(&Holder::of(record));
    Notice::warning(format!(
        "took over the lock `{}`: its holder sent no heartbeat for its whole lease; it was \
         {holder}",
        target.url()
    ))
    .with_hint(
        "that run may have stopped halfway: read Terraform's plan before you apply".to_owned(),
    )
}

/// What works below a lock is out of reach of its fence.
pub(super) fn not_looked_for(lock: &str, error: &std::io::Error) -> Notice {
    Notice::warning(format!(
        "tfwrap cannot look for commands that run under the lock `{lock}` and have lost their own \
         tfwrap, so it cannot end them before somebody else may acquire the lock: {error}"
    ))
    .with_hint("end them by hand: `pgrep -a terraform` shows them".to_owned())
}

/// Who has a lock, in words that follow "it is".
pub(super) fn describe(holder: &Holder) -> String {
    match holder {
        Holder::Known(info) => describe_holder(info, wall()),
        Holder::Unreadable => "held by someone whose record cannot be read".to_owned(),
    }
}

/// A create that was not answered by the store may land long after
/// (`docs/protocol.md#r4-a-create-may-be-applied-late`).
pub(super) fn late(target: &LockTarget, id: &LockId, how: LeftOpen) -> Notice {
    Notice::warning(format!(
        "a request for the lock `{}` was {how}: the lock may still appear, with our ID {id}",
        target.url()
    ))
    .with_hint(format!("if it does, remove it with: {}", target.unlock_command(id)))
}

/// That half of a lock was acquired, nobody knows of the other half, and it is not released yet.
pub(super) fn half_taken(target: &LockTarget, id: &LockId) -> Notice {
    Notice::warning(format!(
        "the lock `{}` was acquired (ID {id}), but not the rest of it; it is not released yet",
        target.url()
    ))
    .with_hint(format!(
        "if it is still held in a minute, release it with: {}",
        target.unlock_command(id)
    ))
}

/// That a lock stays where it is, with the command that removes it.
pub(super) fn not_given_back(target: &LockTarget, id: &LockId, error: &StoreError) -> Notice {
    let command = target.unlock_command(id);
    Notice::Error {
        message: format!("the lock `{}` could not be released (ID {id}): {error}", target.url()),
        hint: Some(match error {
            StoreError::Misconfigured(Flaw { kind: FlawKind::InTheWay, .. }) => format!(
                "check with `ls -ld` what is there, and move it away; if the lock is still there, \
                 finish with: {command}"
            ),
            _ => format!("finish with: {command}"),
        }),
        code: exit_code::NOT_RELEASED,
    }
}

/// That a store does not answer about a lock, or a state, that we ask for by this URL.
pub(super) fn out_of_reach(url: &str, error: Option<&StoreError>) -> Notice {
    Notice::warning(format!("requests for `{url}` fail: {}; retrying", why(error)))
        .with_hint(remedy(url, error))
}

/// What a store says in the place of an answer.
fn why(error: Option<&StoreError>) -> String {
    error.map_or_else(|| "no answer so far".to_owned(), ToString::to_string)
}

/// What helps against what does not pass by itself.
fn remedy(lock: &str, error: Option<&StoreError>) -> Option<String> {
    let source = error.filter(|error| !error.is_worth_another_try())?.clone();
    Error::Store { lock: lock.to_owned(), source }.hint()
}

/// The same about a lock that is held, and what follows if it goes on, unless the child has ended (`is_over`);
/// nothing where its refused credentials were told of.
pub(super) fn outage(kept: &Kept, now: Uptime, is_over: bool) -> Option<Notice> {
    let (lock, error) = (kept.target.url(), kept.outage.error());
    let said = why(error);
    if kept.tenure.is_releasing() {
        return Some(Notice::warning(format!(
            "cannot release the lock `{lock}` yet: {said}; retrying for up to {}",
            duration::in_seconds(PATIENCE)
        )));
    }
    let keeper = kept.tenure.keeper().filter(|keeper| keeper.refused_after().is_none())?;
    let (renewed, term) = keeper.renewed();
    let fences = term.fences().filter(|_| !is_over);
    let then = fences.map_or_else(String::new, |(interrupt, _)| {
        let left = renewed.plus(interrupt).since(now);
        format!(
            "; the child will be interrupted in {} unless one succeeds",
            duration::in_seconds(left)
        )
    });
    let message = format!("no heartbeat of the lock `{lock}` succeeds: {said}; retrying{then}");
    Some(Notice::warning(message).with_hint(remedy(&lock, error)))
}

/// That it is over.
pub(super) fn answers_again(url: &str, lasted: Duration) -> Notice {
    Notice::Note {
        message: format!(
            "requests for `{url}` succeed again, after {}",
            duration::in_seconds(lasted)
        ),
    }
}

/// The same where more than one lock is looked at.
pub(super) fn store_answers_again(lasted: Duration) -> Notice {
    Notice::Note {
        message: format!(
            "requests to the lock store succeed again, after {}",
            duration::in_seconds(lasted)
        ),
    }
}

/// That a session ended of which nobody had said when.
pub(super) fn refused(
    kept: &Kept,
    error: &StoreError,
    after: Duration,
    fence: Option<Duration>,
) -> Notice {
    let then = match fence {
        Some(fence) => format!(
            "the child will be interrupted in {}, before anyone may take over the lock, unless \
             they are accepted again",
            duration::in_seconds(fence)
        ),
        None => "the lock cannot be released unless they are accepted again".to_owned(),
    };
    Notice::warning(format!(
        "the credentials for the lock `{}` are refused after it was held for {} ({error}): {then}",
        kept.target.url(),
        duration::in_seconds(after)
    ))
    .with_hint(if kept.store.renews_credentials() {
        // What has to be set right is their source.
        Error::Store { lock: kept.target.url(), source: error.clone() }.hint()
    } else {
        Some(
            "use credentials that tfwrap can renew (a role, a web identity, a profile), or a \
                 session that outlasts the run"
                .to_owned(),
        )
    })
}

/// That a session ends soon, and the lock is kept nevertheless.
pub(super) fn last_beat(kept: &Kept, left: Duration) -> Notice {
    Notice::warning(format!(
        "the credentials for the lock `{}` expire in {} and cannot be renewed: from now on the \
         lease never expires, and the child is not stopped to protect the lock; it may be \
         impossible to release the lock",
        kept.target.url(),
        duration::in_seconds(left)
    ))
    .with_hint(format!(
        "if it stays behind, remove it with fresh credentials: {}",
        kept.target.unlock_command(kept.id())
    ))
}

/// What is known of a lock whose holder was never seen, in words that follow "it is".
fn unseen(machine: &Acquire) -> &'static str {
    if machine.is_blind() {
        "refused, and tfwrap may not read it: its holder is unknown"
    } else if machine.is_refused_for_nobody() {
        "refused each time, although no holder can be seen"
    } else {
        "free when last seen"
    }
}

/// `of_pair`: the target is one of two that are one lock.
pub(super) fn timed_out(
    target: &LockTarget,
    machine: &Acquire,
    limit: Duration,
    of_pair: bool,
) -> Error {
    let holder = machine.holder();
    let described = holder.as_ref().map_or_else(|| unseen(machine).to_owned(), describe);
    let id = holder.as_ref().and_then(Holder::info).map(|info| &info.id);
    let nameless = machine.shown().and_then(|shown| target.nameless_removal(&shown));
    // Of half a lock `terraform force-unlock` says that it failed.
    let by_us = of_pair || machine.silence(uptime()).is_some();
    let hint = holder.as_ref().and_then(|_| after_the_wait(target, id, nameless, by_us));
    Error::NotAcquired {
        waited: duration::format(limit),
        holder: format!("`{}` is {described}", target.url()),
        hint,
    }
}

/// The same for the lock of a workspace that does not exist: `terraform force-unlock` would first
/// create it, under that very lock.
pub(super) fn timed_out_uncreated(error: Error, seen: Option<&Holder>) -> Error {
    match (error, seen.and_then(Holder::info)) {
        (Error::NotAcquired { waited, holder, .. }, Some(LockInfo { id, .. }))
            if !id.0.is_empty() =>
        {
            let unlock = format!("tfwrap unlock {}", shell_quote(&clean(&id.0)));
            let holder = format!("{holder}; the workspace does not exist yet");
            Error::NotAcquired { waited, holder, hint: Some(wait_or(&unlock)) }
        }
        (error, _) => error,
    }
}

/// The same for whoever would only read what the holder may be writing.
pub(super) fn still_writing(
    target: &LockTarget,
    writer: &Holder,
    limit: Duration,
    of_pair: bool,
) -> Error {
    let id = writer.info().map(|info| &info.id);
    let hint = after_the_wait(target, id, None, of_pair || target.has_lease());
    Error::NotAcquired {
        waited: duration::format(limit),
        holder: format!("`{}` is {}", target.url(), describe(writer)),
        hint,
    }
}

/// What helps whoever has waited in vain, by the ID of the holder's record or by a command that needs
/// none; `by_us`: with tfwrap's own `unlock`.
pub(crate) fn after_the_wait(
    target: &LockTarget,
    id: Option<&LockId>,
    nameless: Option<String>,
    by_us: bool,
) -> Option<String> {
    if target.is_kept_by_kernel() {
        // Also where the record has no ID.
        return Some(format!(
            "wait longer with `--lock-timeout`, or end the process that holds the lock: until then \
             the kernel keeps it; this shows which processes have the state file open: {}",
            target.unlock_command(&LockId(String::new()))
        ));
    }
    let named = || Some(unlocking(target, id?, by_us));
    nameless.or_else(named).map(|command| wait_or(&command))
}

fn wait_or(unlock: &str) -> String {
    format!("wait longer with `--lock-timeout`; if you are sure that the holder is dead: {unlock}")
}

/// The command that removes the lock of a dead holder.
fn unlocking(target: &LockTarget, id: &LockId, by_us: bool) -> String {
    // The ID comes from the record, so it is as untrusted as the rest of it.
    let id = LockId(clean(&id.0));
    if target.of_backend {
        // `tfwrap unlock` looks whether the holder lives, where that can be seen.
        let program = if by_us { "tfwrap unlock" } else { "terraform force-unlock" };
        format!("{program} {}", shell_quote(&id.0))
    } else {
        target.unlock_command(&id)
    }
}

/// What to do after a loss.
pub(super) const AFTER_A_LOSS: &str =
    "another run may have used the state in the meantime: check it with `terraform plan`";

/// That a lock was lost, and to whom.
pub(super) fn loss(kept: &Kept, current: Option<&Stored>) -> Notice {
    let (target, id) = (&kept.target, kept.id());
    let lock = target.url();
    let Some(stored) = current else {
        let ends = kept.tenure.keeper().and_then(LeaseKeeper::ends);
        let how = if ends.is_some_and(|at| uptime() >= at) {
            "its lease ended before a heartbeat was confirmed, and it is gone: others may have \
             held it since"
        } else if matches!(target.store, StoreSpec::LocalState { .. }) {
            "another file took the place of the state while we held it"
        } else {
            "someone removed it while we held it"
        };
        return Notice::warning(format!("the lock `{lock}` was lost: {how} (ID {id})"))
            .with_hint(AFTER_A_LOSS.to_owned());
    };
    let holder = describe(&Holder::of(&stored.record));
    let nameless = target.nameless_removal(stored).map_or_else(String::new, |command| {
        format!("; if nobody needs what is there now, remove it with: {command}")
    });
    Notice::warning(format!(
        "the lock `{lock}` was lost while we held it (ID {id}): now {holder}; tfwrap leaves it as \
         it is"
    ))
    .with_hint(format!(
        "two runs may have used the state: check it with `terraform plan`{nameless}"
    ))
}

/// That two others work at one state, each with one of its locks.
pub(super) fn apart(locks: &[String; 2], holders: &[Record; 2]) -> Notice {
    let [one, other] = holders.each_ref().map(|record| describe(&Holder::of(record)));
    let [first, second] = locks;
    Notice::warning(format!(
        "`{first}` is {one}, `{second}` is {other}: these two have no lock in common, and may \
             both write the state"
    ))
    .with_hint(
        "during a migration, give every client of this state both locks: `use_lockfile = true` \
         together with `dynamodb_table`"
            .to_owned(),
    )
}

/// After a silence this long a holder may be dead.
const SILENCE: Duration = Duration::from_secs(30);

/// Says who holds the lock, when it is time to, and why nobody says so.
pub(super) struct Voice {
    cadence: Cadence,
    holder: Option<Holder>,
    /// What was said of the holder's receipt here.
    here: Option<Here>,
    /// Whether its silence was a reason to look for that once more.
    is_silent: bool,
    /// Whether it was said that nobody is seen to have what is refused.
    is_unseen: bool,
    started: Uptime,
    limit: Duration,
}

impl Voice {
    pub(super) fn new(started: Uptime, limit: Duration) -> Self {
        Self {
            cadence: Cadence::default(),
            holder: None,
            here: None,
            is_silent: false,
            is_unseen: false,
            started,
            limit,
        }
    }

    /// What this machine knows of the holder that was spoken of: looked for when that is a new one, and after a
    /// silence.
    fn look_here(
        &mut self,
        dir: Option<&Path>,
        silent: Option<Duration>,
        changed: bool,
    ) -> Option<Notice> {
        let is_silent = silent.is_some_and(|silent| silent >= SILENCE);
        let is_due = changed || is_silent && !self.is_silent;
        self.is_silent = is_silent;
        let here = Here::of(dir.filter(|_| is_due)?, self.holder.as_ref()?)?;
        let is_new = self.here.as_ref() != Some(&here);
        self.here = Some(here);
        let (what, then) = self.here.as_ref().filter(|_| is_new)?.told();
        Some(Notice::warning(what).with_hint(then))
    }

    /// `last_seen`: how long ago, where it was said that the store does not answer.
    pub(super) fn speak(
        &mut self,
        reporter: &Reporter,
        target: &LockTarget,
        machine: &Queue,
        last_seen: Option<Duration>,
        receipts: Option<&Path>,
    ) {
        let now = uptime();
        let (acquire, free) = (machine.acquire(), machine.sees_free());
        let holder = acquire.holder().filter(|_| !free);
        if holder.is_none() && (acquire.is_blind() || acquire.is_long_refused_for_nobody()) {
            if !self.is_unseen {
                self.is_unseen = true;
                reporter.say(Notice::Warning {
                    message: format!(
                        "the lock `{}` is {}: retrying",
                        target.url(),
                        unseen(acquire)
                    ),
                    hint: None,
                });
            }
        } else if holder.is_none() && !free || machine.is_counting() && last_seen.is_none() {
            return;
        }
        let changed = std::mem::replace(&mut self.holder, holder.clone()) != holder;
        if self.cadence.is_due(now, changed) {
            reporter.say(Notice::Waiting {
                lock: target.url(),
                holder: self.holder.as_ref().and_then(Holder::info).cloned().map(Box::new),
                waited: now.since(self.started),
                limit: self.limit,
                free,
                ahead: machine.ahead(),
                plans_ahead: machine.plans_ahead(),
                silent: machine.acquire().silence(now).filter(|_| !free),
                unanswered: last_seen,
                estimate: machine.estimate(now).filter(|_| !free),
            });
        }
        let silent = machine.acquire().silence(now);
        if let Some(notice) = self.look_here(receipts, silent, changed) {
            reporter.say(notice);
        }
    }
}
