//! Turns among the commands of one run. The lock around a `run` is held for everything inside it.
//! Without turns, two Terraforms side by side inside it (`make -j`, `&` in a script) would both use
//! the state at once, each with its own locking off.
//!
//! A command gets its turn by going through the [`Door`] of the lock. A `run` inside a run goes in
//! without a turn, because it would keep the commands inside it from theirs.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::acquire::Wait;
use super::dependents;
use super::door::{self, Door, Entered};
use super::event_loop::EventLoop;
use super::here;
use super::standstill::Standstill;
use crate::clock::uptime;
use crate::duration;
use crate::error::Error;
use crate::lock::LockId;
use crate::report::Notice;
use crate::state_dir;

/// Between two looks whether it is our turn; nothing remote is asked.
const LOOK: Duration = Duration::from_millis(100);

/// The lock under which there is a place to be had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Under<'a> {
    /// Its name.
    pub(super) lock: &'a str,
    pub(super) id: &'a LockId,
    /// Where its holder must have its door.
    pub(super) dir: &'a Path,
}

/// Waits until no other command is at work under the lock, and goes in; nothing where there is no
/// door: then the lock is given back by now, or this is not the directory of its holder.
pub(super) async fn take(
    event_loop: &mut EventLoop,
    under: Under<'_>,
    with_turn: bool,
    wait: Wait,
) -> Result<Option<Door>, Error> {
    let path = door::path(under.dir, under.id);
    let (mut said, mut stood_still) = (None, Standstill::default());
    let mut named = HashMap::new();
    loop {
        let Some(door) = open(under, &path)? else { return Ok(None) };
        let failed = |error| refused(under, &format!("`{}`: {error}", path.display()));
        if !door.has_holder().map_err(failed)? {
            // Removed or replaced since: by its holder, that gives the lock back.
            if !door.is_at(&path) {
                rest(event_loop, under, "the holder, which is releasing the lock,", wait).await?;
                continue;
            }
            return Err(left_behind(under, &path));
        }
        match door.enter(with_turn).map_err(failed)? {
            // Removed or replaced before we were in.
            Entered::Inside if !door.is_at(&path) => {
                rest(event_loop, under, "the holder, which is releasing the lock,", wait).await?;
            }
            Entered::Inside => {
                let left = with_turn.then(|| dependents::left_by_the_dead(under.dir, under.id));
                let Some(first) = left.into_iter().flatten().next() else { return Ok(Some(door)) };
                // Its processes may come and go, and are named once.
                let named = named.entry(first.leader).or_insert_with(|| first.named());
                let what = format!("{named}, left behind by a command of this run,");
                pause(event_loop, under, &mut said, &what, wait).await?;
            }
            Entered::InUse => {
                // A `run` has no turn.
                let around = dependents::around_us(under.dir, under.id);
                if let Some(around) = around.filter(|it| it.operation != "run") {
                    return Err(here::waits_for_us(under.lock, &around));
                }
                // The turn of one that was killed is its guardian's.
                for dead in dependents::killed(under.dir, under.id) {
                    stood_still.end(event_loop, &dead, true);
                }
                pause(event_loop, under, &mut said, "another command of this run", wait).await?;
            }
            Entered::Closing => {
                pause(
                    event_loop,
                    under,
                    &mut said,
                    "the holder, which is releasing the lock,",
                    wait,
                )
                .await?;
            }
        }
        // What was locked ends with the description; nobody else has it open.
    }
}

/// Waits for a moment, and says why once.
async fn pause(
    event_loop: &mut EventLoop,
    under: Under<'_>,
    said: &mut Option<String>,
    who: &str,
    wait: Wait,
) -> Result<(), Error> {
    if said.as_deref() != Some(who) && uptime() < wait.give_up_at {
        event_loop.say(Notice::warning(format!(
            "{who} uses the state of the lock `{}`: waiting for that to end, up to {}",
            under.lock,
            duration::format(wait.limit)
        )));
        *said = Some(who.to_owned());
    }
    rest(event_loop, under, who, wait).await
}

/// Waits for a moment, or is the end of the wait.
async fn rest(
    event_loop: &mut EventLoop,
    Under { lock, .. }: Under<'_>,
    who: &str,
    Wait { give_up_at, limit }: Wait,
) -> Result<(), Error> {
    if uptime() >= give_up_at {
        return Err(Error::NotAcquired {
            waited: duration::format(limit),
            holder: format!("`{lock}` is held by this run, and {who} uses it"),
            hint: Some(
                "run them one after the other, or wait longer with `--lock-timeout`".to_owned(),
            ),
        });
    }
    event_loop.pause(uptime().plus(LOOK).min(give_up_at)).await
}

fn open(under: Under<'_>, path: &Path) -> Result<Option<Door>, Error> {
    match state_dir::owner(under.dir) {
        None => return Ok(None),
        Some(owner) if owner != nix::unistd::geteuid().as_raw() => {
            let ours = nix::unistd::geteuid();
            let what = format!("`{}` belongs to user {owner}, not {ours}", under.dir.display());
            return Err(refused(under, &what));
        }
        Some(_) => {}
    }
    Door::open(path).map_err(|error| refused(under, &format!("`{}`: {error}", path.display())))
}

/// The error of a command whose `run` or `hold` was killed, with all that would have kept its lock.
fn left_behind(Under { lock, id, .. }: Under<'_>, door: &Path) -> Error {
    Error::Config {
        message: format!(
            "the `run` or `hold` that held the lock `{lock}` (ID {id}) for the commands inside it \
             has ended: nobody has `{}` open",
            door.display()
        ),
        hint: Some(
            "release what it left with `tfwrap recover`, then start it again; if it still runs, \
             this is a copy of its directory: use the `TFWRAP_STATE_DIR` that the `run` or `hold` \
             sets"
                .to_owned(),
        ),
    }
}

/// The error of a command that could neither take turns nor be waited for.
pub(super) fn refused(Under { lock, id, .. }: Under<'_>, why: &str) -> Error {
    Error::Config {
        message: format!(
            "the lock `{lock}` (ID {id}) is held by a `run` or a `hold` for the commands inside \
             it, and this command cannot join them: {why}"
        ),
        hint: state_dir::hint(true),
    }
}
