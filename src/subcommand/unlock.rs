//! `tfwrap unlock`: removes the lock of a holder that is gone, and nothing else.
//!
//! What is removed is exactly what was shown, by its version. Only with `--force` a holder that
//! goes on beating in between is followed, and then only within the one tenure that was shown.
//!
//! Its rules: `docs/protocol.md#e6-unlock`.

use std::time::Duration;

use super::removal::{self, Removal, is_same_tenure};
use super::{Opened, lease_of};
use crate::cli::UnlockArgs;
use crate::clock::{uptime, wall};
use crate::duration;
use crate::error::{Error, Leftover};
use crate::lock::lease::LeaseTerm;
use crate::lock::{Holder, LockId};
use crate::report::{
    LockState, Notice, QueueState, answer, ask, clean, clean_line, describe_holder,
    leave_unanswered, shell_quote,
};
use crate::run::{EventLoop, store_requests};
use crate::shown_url::shown_value;
use crate::store::Stored;
use crate::target::LockTarget;

/// What to do where an ID is asked for and a URL was given.
pub(super) const NO_ID: &str = "this is a URL, as a lock has one, and not the lock's ID: `tfwrap status` shows the \
                                ID, and `tfwrap --lock URL status` that of a lock of `--lock`";

/// Between two looks for a sign of life.
const LOOK: Duration = Duration::from_secs(1);

/// Shows the lock, makes sure, removes it.
pub(crate) async fn run(
    event_loop: &mut EventLoop,
    targets: &[LockTarget],
    args: &UnlockArgs,
    can_ask: bool,
) -> Result<(), Error> {
    let locks = Opened::all(targets).await?;
    let found = find(event_loop, &locks, &args.id).await?;
    for (lock, shown) in &found {
        let state = LockState {
            lock: lock.register.lock.clone(),
            holding: Some(lock.holding(shown)),
            line: QueueState::Unasked,
        };
        say(&state.text(wall()));
    }
    if let Some((lock, _)) = found.iter().find(|(lock, _)| lock.target.is_kept_by_kernel()) {
        return Err(refused(
            format!(
                "the kernel keeps `{}` locked for as long as a process has the state file open: \
                 nobody else can unlock it",
                lock.register.lock
            ),
            &format!(
                "end that process; this shows it: {}",
                lock.target.unlock_command(&LockId(clean(&args.id)))
            ),
        ));
    }
    if !args.yes && !can_ask {
        return Err(refused(
            "there is no terminal to ask for confirmation, so the lock stays".to_owned(),
            "pass `--yes` if you are sure that its holder is gone",
        ));
    }
    if !args.force {
        if found.iter().any(|(_, shown)| lease_of(shown).is_none()) {
            say("a record without a lease does not show whether its holder is alive\n");
        }
        wait_for_a_sign(event_loop, &found).await?;
    }
    if !args.yes && !is_confirmed(event_loop).await? {
        return Err(refused("not confirmed: the lock stays".to_owned(), "type `yes` in full"));
    }
    remove_all(event_loop, &found, args.force).await?;
    say("its run may have stopped halfway: read Terraform's plan before you apply\n");
    Ok(())
}

/// Removes each, in the order in which Terraform does it, whatever becomes of the others.
async fn remove_all(
    event_loop: &mut EventLoop,
    found: &[(&Opened<'_>, Stored)],
    force: bool,
) -> Result<(), Error> {
    let mut failed = None;
    for (lock, shown) in found {
        match remove(event_loop, lock, shown, force).await {
            Ok(()) => {
                say(&format!("removed the lock `{}`\n", clean_line(&lock.register.lock)));
            }
            Err(error @ Error::Interrupted { .. }) => return Err(error),
            Err(error) => {
                if let Some(before) = failed.replace(error) {
                    let (message, hint) = (before.to_string(), before.hint());
                    event_loop.say(Notice::warning(message).with_hint(hint));
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// A closed pipe is no failure.
fn say(text: &str) {
    let _closed = answer(text);
}

fn refused(message: String, hint: &str) -> Error {
    Error::Refused { message, hint: Some(hint.to_owned()) }
}

/// The lock that is held under this ID: of a backend that has two at once, both, or the half that is
/// left.
async fn find<'a, 'b>(
    event_loop: &mut EventLoop,
    locks: &'a [Opened<'b>],
    id: &str,
) -> Result<Vec<(&'a Opened<'b>, Stored)>, Error> {
    let wanted = LockId(id.to_owned());
    let (mut found, mut there, mut nameless) = (Vec::new(), Vec::new(), Vec::new());
    for lock in locks {
        let stored =
            store_requests::read(event_loop, &lock.register, store_requests::PATIENCE).await?;
        match stored {
            Some(stored) if !id.is_empty() && stored.record.is_held_by(&wanted) => {
                found.push((lock, stored));
            }
            stored => {
                nameless.extend(stored.as_ref().and_then(|it| lock.target.nameless_removal(it)));
                there.push(described(lock, stored.as_ref()));
            }
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    if there.is_empty() {
        there.push("tfwrap takes no lock here".to_owned());
    }
    let hint = if id.contains("//") {
        NO_ID.to_owned()
    } else if nameless.is_empty() {
        "`tfwrap status` shows the locks of this directory and workspace; for another one, by the name that \
         `tfwrap status --all` shows: `tfwrap --no-backend-lock --lock NAME unlock ID`"
            .to_owned()
    } else {
        format!(
            "this removes a record without an ID, if you are sure that its holder is dead: {}",
            nameless.join("; ")
        )
    };
    Err(refused(
        format!("no lock has the ID `{}`: {}", clean(&shown_value(id)), there.join("; ")),
        &hint,
    ))
}

fn described(lock: &Opened<'_>, stored: Option<&Stored>) -> String {
    let what = match stored.map(|stored| Holder::of(&stored.record)) {
        None => "free".to_owned(),
        Some(Holder::Known(info)) => describe_holder(&info, wall()),
        Some(Holder::Unreadable) => "held by someone whose record cannot be read".to_owned(),
    };
    format!("`{}` is {what}", lock.register.lock)
}

/// Watches for as long as a living holder may take for its next beat; only one that stands still
/// gets through. That is no proof of its death, as it is said: a person decides here.
async fn wait_for_a_sign(
    event_loop: &mut EventLoop,
    found: &[(&Opened<'_>, Stored)],
) -> Result<(), Error> {
    let terms = || found.iter().filter_map(|(_, shown)| Some(lease_of(shown)?.term));
    let Some(span) = terms().map(LeaseTerm::sign_of_life).max() else { return Ok(()) };
    say(&format!("watching for a heartbeat, up to {} …\n", duration::format(span)));
    let until = uptime().plus(span);
    while uptime() < until {
        event_loop.pause(uptime().plus(LOOK.min(until.since(uptime())))).await?;
        for (lock, shown) in found {
            let current =
                store_requests::read(event_loop, &lock.register, store_requests::PATIENCE).await?;
            if !current.as_ref().is_some_and(|it| it.version == shown.version) {
                return Err(changed(lock, shown, current.as_ref()));
            }
        }
    }
    let ttl = terms().map(|term| match term {
        LeaseTerm::Never => None,
        LeaseTerm::After(ttl) => Some(ttl),
    });
    match ttl.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max()) {
        None => {
            say("no heartbeat. With a lease that never expires, this proves little: a run whose \
                 credentials have expired or a machine that sleeps sends none either, so make sure \
                 that the run is gone\n");
        }
        Some(ttl) => say(&format!(
            "no heartbeat. The holder may still be alive, cut off from its store or asleep: make \
             sure that the run is gone, or leave the lock to whoever waits for it, who takes it \
             over after {} of silence\n",
            duration::format(ttl)
        )),
    }
    Ok(())
}

/// The refusal of what is no longer what was shown.
fn changed(lock: &Opened<'_>, shown: &Stored, current: Option<&Stored>) -> Error {
    match current {
        Some(current) if is_same_tenure(shown, current) => refused(
            "its holder is alive: it has just sent a heartbeat".to_owned(),
            "wait for it, or stop that run where it was started; `--force` removes the lock, but \
             then two runs may use the state",
        ),
        current => refused(
            format!("the lock has changed in the meantime and stays: {}", described(lock, current)),
            "`tfwrap status` shows what is there now",
        ),
    }
}

async fn is_confirmed(event_loop: &mut EventLoop) -> Result<bool, Error> {
    if ask("remove this lock? Only `yes` does:").is_err() {
        return Ok(false);
    }
    match store_requests::answer(event_loop).await {
        Ok(answer) => Ok(answer.trim() == "yes"),
        Err(error) => {
            leave_unanswered();
            Err(match error {
                Error::Interrupted { signal, name, .. } => {
                    Error::Interrupted { signal, name, leftover: Leftover::Shown }
                }
                error => error,
            })
        }
    }
}

async fn remove(
    event_loop: &mut EventLoop,
    lock: &Opened<'_>,
    shown: &Stored,
    force: bool,
) -> Result<(), Error> {
    match removal::remove(event_loop, &lock.register, shown, force).await? {
        Removal::Removed => Ok(()),
        Removal::Changed(current) => Err(changed(lock, shown, current.as_ref())),
        Removal::Kept => Err(refused(
            "the store does not remove the lock".to_owned(),
            &format!("try again: tfwrap unlock {}", shell_quote(&id_of(shown))),
        )),
    }
}

fn id_of(stored: &Stored) -> String {
    let holder = Holder::of(&stored.record);
    holder.info().map(|info| clean(&info.id.0)).unwrap_or_default()
}
