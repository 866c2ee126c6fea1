//! Taking the locks: drives [`Acquire`] for one after the other.

use std::sync::Arc;
use std::time::Duration;

use super::shell::{Happening, Reply, Request, Shell};
use super::supervise;
use crate::clock::{uptime, wall};
use crate::duration;
use crate::error::Error;
use crate::held::Held;
use crate::identity::{new_lock_id, new_seed};
use crate::lock::acquire::{Acquire, Action, Event, FIRST_CONTACT, Outcome};
use crate::lock::jitter::Jitter;
use crate::lock::{LockId, LockInfo, Uptime};
use crate::report::{Cadence, Notice, clean, describe_holder};
use crate::store::{Record, RecordVersion, Registers};
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
    /// The lock, if it became ours; with an error it must be given back all the same.
    pub(super) grant: Option<Grant>,
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
    let failed = |error| Taken { grant: None, result: Err(error), seen: None };
    let store = match target.open().await {
        Ok(store) => store,
        Err(source) => return failed(Error::Store { lock: target.url(), source }),
    };
    let Wait { give_up_at, limit } = wait;
    let id = new_lock_id();
    let record = Record { info: Some(info(target, introduction, &id).to_json()), lease: None };
    let started = uptime();
    let mut machine = Acquire::new(id.clone(), started, give_up_at, Jitter(new_seed()));
    let mut voice = Voice { cadence: Cadence::default(), holder: None, started, limit };
    let mut stopped_by = None;

    let mut action = machine.step(started, Event::Start);
    let outcome = loop {
        match action {
            Action::Done(outcome) => break outcome,
            Action::Take => {
                shell.send(Request::Create(store.clone(), target.key.clone(), record.clone()));
            }
            Action::Look => shell.send(Request::Read(store.clone(), target.key.clone())),
            Action::Wait => {}
        }
        voice.speak(shell, target, &machine);
        let event = match shell.next(machine.deadline(), None).await {
            Happening::Reply(Reply::Wrote(reply)) => Event::Took(reply),
            Happening::Reply(Reply::Read(reply)) => Event::Looked(reply),
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
    let grant = |version| Grant {
        target: target.clone(),
        store: store.clone(),
        id: id.clone(),
        version,
        since: uptime(),
        may_still_appear,
    };
    let (grant, result) = match outcome {
        Outcome::Granted(version) => {
            shell.say(Notice::Acquired {
                lock: target.url(),
                id: id.0.clone(),
                waited: uptime().since(started),
                contended: machine.contended(),
            });
            (Some(grant(version)), Ok(()))
        }
        Outcome::TimedOut => {
            if may_still_appear {
                shell.say(late(target, &id));
            }
            (None, Err(timed_out(target, &machine, limit)))
        }
        Outcome::Failed(source) => {
            if may_still_appear {
                shell.say(late(target, &id));
            }
            (None, Err(Error::Store { lock: target.url(), source }))
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
            (held.map(grant), Err(error))
        }
    };
    Taken { grant, result, seen: machine.holder() }
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

/// A create that was never answered may land long after (protocol, section 1).
pub(super) fn late(target: &LockTarget, id: &LockId) -> Notice {
    Notice::Warning {
        message: format!(
            "a request for the lock `{}` was never answered: it may still appear with our ID {id}",
            target.url()
        ),
        hint: Some(format!("if it does, remove it with: {}", target.unlock_command(id))),
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
