//! Taking the locks: drives [`Acquire`] for one after the other.

use std::sync::Arc;
use std::time::Duration;

use super::shell::{Happening, Kept, Reply, Request, Shell};
use super::supervise;
use crate::clock::{uptime, wall};
use crate::duration;
use crate::error::Error;
use crate::held::Held;
use crate::identity::{new_lock_id, new_seed};
use crate::lock::acquire::{Acquire, Action, Event, FIRST_CONTACT, Outcome, Won};
use crate::lock::jitter::Jitter;
use crate::lock::keeper::{Keeper, News, Tenure};
use crate::lock::lease::{Lease, LeaseTerm};
use crate::lock::{LockId, LockInfo, Uptime};
use crate::report::{Cadence, Notice, clean, describe_holder};
use crate::store::{Expect, Record, RecordVersion, Registers, StoreError};
use crate::supervise::StopSignal;
use crate::target::LockTarget;

/// Between two tries to read, while a store does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// A lock that is ours until it is given back with [`super::release::all`].
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) target: LockTarget,
    pub(super) store: Arc<dyn Registers>,
    pub(super) id: LockId,
    pub(super) version: RecordVersion,
    pub(super) since: Uptime,
    /// A create of ours was never answered and may still land after the release.
    pub(super) may_still_appear: bool,
}

/// What goes into the lock info of every lock of a run.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    pub(crate) operation: String,
    pub(crate) info: String,
    pub(crate) who: String,
    /// The lease to declare.
    pub(crate) term: LeaseTerm,
}

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// When the whole wait is over.
    pub(crate) give_up_at: Uptime,
    /// How long it is, for messages.
    pub(crate) limit: Duration,
}

/// What came of the attempt to take one lock.
#[derive(Debug)]
pub(super) struct Taken {
    /// With an error, too, the lock may have become ours: whatever is in [`Shell::kept`] must be
    /// given back.
    pub(super) result: Result<(), Error>,
    /// Who else was seen to hold it; `Some(None)`: someone whose record cannot be read.
    pub(super) seen: Option<Option<LockInfo>>,
}

/// Whether an outer tfwrap holds this lock for us: it says so, and the store agrees.
pub(super) async fn is_held_outside(
    shell: &mut Shell,
    target: &LockTarget,
    held: &Held,
) -> Result<bool, Error> {
    let Some(id) = held.id_of(&target.url()) else { return Ok(false) };
    let store_error = |source| Error::Store { lock: target.url(), source };
    let store = target.open().await.map_err(store_error)?;
    let patience = uptime().plus(FIRST_CONTACT);
    loop {
        shell.send(Request::Read(store.clone(), target.key.clone()));
        let answer = loop {
            match shell.next(None, None).await {
                Happening::Reply(Reply::Read(answer)) => break answer,
                other => super::heed(shell, &other)?,
            }
        };
        match answer {
            Ok(stored) => return Ok(stored.is_some_and(|it| it.record.is_held_by(id))),
            Err(error) if error.is_transient() && uptime() < patience => {
                super::pause(shell, uptime().plus(RETRY)).await?;
            }
            Err(error) => return Err(store_error(error)),
        }
    }
}

/// Takes one lock, or says why not.
pub(super) async fn take(
    shell: &mut Shell,
    target: &LockTarget,
    introduction: &Introduction,
    wait: Wait,
) -> Taken {
    let failed = |error| Taken { result: Err(error), seen: None };
    let store = match target.open().await {
        Ok(store) => store,
        Err(source) => return failed(Error::Store { lock: target.url(), source }),
    };
    let Wait { give_up_at, limit } = wait;
    let id = new_lock_id();
    // The kernel keeps the lock of a local state, and ends it with its last process.
    let term = target.has_lease().then_some(introduction.term);
    let lease = term.map(|term| Lease { term: term.first(), beat: 0 });
    let record = Record {
        info: Some(info(target, introduction, &id).to_json()),
        lease: lease.map(Lease::to_text),
    };
    let started = uptime();
    let mut machine = Acquire::new(id.clone(), started, give_up_at, Jitter(new_seed()));
    let mut voice = Voice { cadence: Cadence::default(), holder: None, started, limit };
    let (mut stopped_by, mut lost) = (None, None);

    let write = |shell: &mut Shell, expect| {
        let (store, key) = (store.clone(), target.key.clone());
        shell.send(Request::Write(store, key, record.clone(), expect));
    };
    let mut action = machine.step(started, Event::Start);
    let outcome = loop {
        match action {
            Action::Done(outcome) => break outcome,
            Action::Take => write(shell, Expect::Absent),
            Action::TakeOver(version) => write(shell, Expect::Version(version)),
            Action::Look => shell.send(Request::Read(store.clone(), target.key.clone())),
            Action::Wait => {}
        }
        voice.speak(shell, target, &machine);
        let event = match shell.next(machine.deadline(), None).await {
            Happening::Reply(Reply::Wrote(reply)) => Event::Took(reply),
            Happening::Reply(Reply::Read(reply)) => Event::Looked(reply),
            Happening::Lease(index, News::Lost(current)) => {
                let error = super::lost(shell, index, current.as_ref());
                lost.get_or_insert(error);
                Event::Stop
            }
            other => match other.stop() {
                Some(signal) => {
                    stopped_by.get_or_insert(signal);
                    Event::Stop
                }
                None => {
                    if other.is_suspend() {
                        supervise::suspend(shell);
                    }
                    Event::Tick
                }
            },
        };
        action = machine.step(uptime(), event);
    };
    let may_still_appear = machine.may_still_appear();
    let mut keep = |won: Won| {
        let grant = Grant {
            target: target.clone(),
            store: store.clone(),
            id: id.clone(),
            version: won.version.clone(),
            since: uptime(),
            may_still_appear,
        };
        let keeper = term.zip(lease).map(|(term, lease)| {
            let Won { version, since, answered } = won;
            let info = record.info.clone();
            let tenure = Tenure { id: id.clone(), info, version, lease, since, answered };
            Keeper::new(tenure, term, uptime())
        });
        shell.kept.push(Kept::new(grant, keeper));
    };
    let result = match outcome {
        Outcome::Granted(won) => {
            keep(won);
            shell.say(Notice::Acquired {
                lock: target.url(),
                id: id.0.clone(),
                waited: uptime().since(started),
                contended: machine.contended(),
            });
            if let Some(record) = machine.taken_over() {
                shell.say(took_over(target, record));
            }
            Ok(())
        }
        Outcome::TimedOut => Err(timed_out(target, &machine, limit)),
        Outcome::Failed(source) => {
            let source = late(source, may_still_appear);
            Err(Error::Store { lock: target.url(), source })
        }
        Outcome::Stopped { held } => {
            let signal = stopped_by.unwrap_or(StopSignal::Interrupt).signal();
            let leftover = if may_still_appear && held.is_none() {
                format!(
                    "; the lock `{}` with ID {id} may still appear, since a request was never \
                     answered: if it does, remove it with: {}",
                    target.url(),
                    target.unlock_command(&id)
                )
            } else {
                ", nothing is left behind".to_owned()
            };
            let name = signal.as_str().to_owned();
            let error = Error::Interrupted { signal: signal as i32, name, leftover };
            held.map(keep);
            Err(lost.unwrap_or(error))
        }
    };
    Taken { result, seen: machine.holder() }
}

fn took_over(target: &LockTarget, record: &Record) -> Notice {
    let info = record.info.as_deref().and_then(|text| LockInfo::parse(text).ok());
    let holder = info.map_or_else(|| "unknown".to_owned(), |info| describe_holder(&info, wall()));
    Notice::Warning {
        message: format!(
            "took over the lock `{}`: its holder gave no sign of life for its whole lease; it was \
             {holder}",
            target.url()
        ),
        hint: Some(
            "that run may have ended in the middle: read what Terraform plans before you apply"
                .to_owned(),
        ),
    }
}

fn info(target: &LockTarget, introduction: &Introduction, id: &LockId) -> LockInfo {
    LockInfo {
        id: id.clone(),
        operation: introduction.operation.clone(),
        info: introduction.info.clone(),
        who: introduction.who.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created: LockInfo::format_created(wall()),
        path: target.path(),
    }
}

fn late(source: StoreError, may_still_appear: bool) -> StoreError {
    match source {
        StoreError::Unavailable { detail, sent } if may_still_appear => StoreError::Unavailable {
            detail: format!(
                "{detail}; a request was never answered, so that our lock may still appear"
            ),
            sent,
        },
        source => source,
    }
}

fn timed_out(target: &LockTarget, machine: &Acquire, limit: Duration) -> Error {
    let holder = match machine.holder() {
        Some(Some(info)) => describe_holder(&info, wall()),
        Some(None) => "held by someone whose record cannot be read".to_owned(),
        None => "no holder was seen".to_owned(),
    };
    let id = machine.holder().flatten().map(|info| info.id).filter(|id| !id.0.is_empty());
    let hint = id.map(|id| {
        // The ID comes from the record, so it is as untrusted as the rest of it.
        let id = LockId(clean(&id.0));
        let command = if target.of_backend {
            format!("terraform force-unlock {}", crate::report::shell_quote(&id.0))
        } else {
            target.unlock_command(&id)
        };
        format!(
            "wait longer with `--lock-timeout`; if you are sure that the holder is dead: {command}"
        )
    });
    Error::NotAcquired {
        waited: duration::format(limit),
        holder: format!("`{}` is {holder}", target.url()),
        hint,
    }
}

/// Says who holds the lock, when it is time to.
struct Voice {
    cadence: Cadence,
    holder: Option<Option<LockInfo>>,
    started: Uptime,
    limit: Duration,
}

impl Voice {
    fn speak(&mut self, shell: &Shell, target: &LockTarget, machine: &Acquire) {
        let holder = machine.holder();
        if holder.is_none() {
            return;
        }
        let changed = holder != self.holder;
        self.holder = holder;
        let now = uptime();
        if self.cadence.is_due(now, changed) {
            shell.say(Notice::Waiting {
                lock: target.url(),
                holder: self.holder.clone().flatten().map(Box::new),
                waited: now.since(self.started),
                limit: self.limit,
            });
        }
    }
}
