//! Commands that run under our lock without being our child: a tfwrap inside a `run`, or in another
//! step of a `hold`. Such a command came in by the [`Door`] of the lock, and its receipt names our
//! lock as inherited. The door tells for certain whether anybody is inside. The receipts tell who,
//! and what is left of commands whose descriptors were all closed (a wrapper between tfwrap and
//! Terraform may do that).
//!
//! Its rules: `docs/protocol.md#t6-the-holder-leaves-last`.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::dup2_stderr;

use super::custody::Use;
use super::door::{self, Door};
use super::event_loop::EventLoop;
use super::kept::Kept;
use super::standstill::Standstill;
use crate::clock::uptime;
use crate::env::Env;
use crate::file_id::FileId;
use crate::guardian::{Head, inheriting};
use crate::held::Held;
use crate::lock::LockId;
use crate::receipt::{Receipt, ReceiptFile};
use crate::report::Notice;
use crate::report::shell_quote;
use crate::state_dir;
use crate::supervise::ending::Interrupts;
use crate::supervise::lent_descriptor;
use crate::supervise::locked_run;
use crate::supervise::{CHILD_OF, HostScope, ProcessId, Sight, child_of};
use crate::supervise::{Member, ProcessTree, end_of};

const LOOK: Duration = Duration::from_millis(200);

/// Opens the door of the lock that was taken last.
pub(super) fn let_in(event_loop: &mut EventLoop, dir: &Path) {
    let Some(kept) = event_loop.kept.last() else { return };
    let (lock, id) = (kept.target.url(), kept.id().clone());
    let path = door::path(dir, &id);
    match door_of(kept, &path) {
        Ok(door) => event_loop.custody.lend(&id, Use::Door(door)),
        Err(error) => event_loop.say(
            Notice::warning(format!(
                "no command inside can use the lock `{lock}`: `{}`: {error}",
                path.display()
            ))
            .with_hint(state_dir::hint(false)),
        ),
    }
}

fn door_of(kept: &Kept, path: &Path) -> io::Result<Door> {
    let door = Door::create(path)?;
    if let Ok(Some(locked)) = kept.store.lend() {
        let locked = File::from(locked.fd).metadata()?;
        door.note_locked(FileId::of_metadata(&locked))?;
    }
    Ok(door)
}

/// Goes on with what a tfwrap that is gone has lent: its doors, and its places and locks under and
/// beside others' locks.
pub(super) fn go_on(event_loop: &mut EventLoop, head: &Head, receipt: &Receipt) {
    for lent in &head.files {
        let id = LockId(lent.id.clone());
        let is_own = receipt.own().any(|entry| entry.id == id);
        let fd = || lent_descriptor(lent.fd);
        let lock_use = match (lent.door, is_own) {
            // By whoever gives it back.
            (false, true) => continue,
            (false, false) => Use::Joined(fd().into()),
            (true, true) => Use::Door(Door::of(fd())),
            (true, false) => Use::Inside(Door::of(fd())),
        };
        event_loop.custody.lend(&id, lock_use);
    }
}

/// Waits until nobody runs under a lock that is ours to give back, and lets nobody in any more.
/// Whoever asks us to end asks them, too.
///
/// Without an end of its own: a free lock with a Terraform that lives is worse than a stuck lock, and
/// no time after which it may be free anyway is the right one. The lock beats on meanwhile; if it
/// cannot, the fences end all that works under it. What is waited for is said, and is ended by its
/// own guardian after its `--orphan-grace` if its tfwrap is killed; a person ends it, or us.
pub(super) async fn wait(event_loop: &mut EventLoop, dir: &Path) {
    let ids: Vec<_> = event_loop
        .kept
        .iter()
        .filter(|kept| !kept.tenure.is_inherited())
        .map(|kept| kept.id().clone())
        .collect();
    let mut said = false;
    let mut ended: Vec<ProcessId> = Vec::new();
    let mut asked = false;
    let mut stood_still = Standstill::default();
    loop {
        if close(event_loop, dir, &ids) {
            return;
        }
        let living = living(dir, &ids);
        for hold in living.iter().filter(|it| it.is_hold) {
            if !ended.contains(&hold.runner) {
                end_hold(event_loop, hold);
                ended.push(hold.runner);
            }
        }
        let others: Vec<_> = living.iter().filter(|it| !it.is_hold).collect();
        let is_worth_a_word = living.is_empty() || !others.is_empty();
        if is_worth_a_word && !std::mem::replace(&mut said, true) {
            let who = name(others.first().copied(), dir, &ids);
            let end = || end_command(dir, &ids).map(|command| format!("to end it: `{command}`"));
            let look =
                || looked_up(dir, &ids).map(|command| format!("to see what it is: {command}"));
            let hint = if living.is_empty() { end().or_else(look) } else { None };
            let message = still_runs(&who);
            match hint {
                None => event_loop.say(Notice::Note { message }),
                Some(_) => event_loop.say(Notice::warning(message).with_hint(hint)),
            }
        }
        for receipt in &living {
            stood_still.end(event_loop, receipt, asked);
        }
        let happening = event_loop.next(Some(uptime().plus(LOOK)), None).await;
        if event_loop.decide_on(&happening).contains(&locked_run::Action::EndDependents) {
            asked = true;
            let untold = |receipt: &Receipt| receipt.interrupts == Interrupts::None;
            for receipt in living.into_iter().filter(untold) {
                // It ends its child, or its guardian does.
                drop(receipt.runner.signal(Signal::SIGTERM));
            }
        }
    }
}

/// A hold that was begun below us and that nobody released: the command is over in whose
/// environment it could be. It waits for whoever still works under it.
fn end_hold(event_loop: &EventLoop, hold: &Receipt) {
    let pid = hold.runner.pid;
    event_loop.say(Notice::Note {
        message: format!(
            "the hold of process {pid}, started inside this command, was not released: it ends \
             with this command"
        ),
    });
    // One that is gone has a guardian, which is waited for.
    drop(hold.runner.signal(Signal::SIGTERM));
}

/// Processes, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    names: String,
    are_several: bool,
}

impl Who {
    pub(crate) fn one(name: String) -> Self {
        Self { names: name, are_several: false }
    }

    /// What they do.
    pub(crate) fn run(&self) -> &'static str {
        if self.are_several { "run" } else { "runs" }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names)
    }
}

/// Whose end is waited for.
pub(super) fn still_runs(who: &Who) -> String {
    let have = if who.are_several { "they have" } else { "it has" };
    let run = who.run();
    format!("{who} still {run} under the lock; the lock is released when {have} ended")
}

/// Lets nobody come under these locks any more; not while anybody is.
pub(super) fn close(event_loop: &mut EventLoop, dir: &Path, ids: &[LockId]) -> bool {
    for id in ids {
        // That of a holder that is gone is not open here.
        if event_loop.custody.door(id).is_none()
            && let Ok(Some(door)) = Door::open(&door::path(dir, id))
        {
            event_loop.custody.lend(id, Use::Door(door));
        }
    }
    let doors = ids.iter().filter_map(|id| event_loop.custody.door(id));
    living(dir, ids).is_empty() && close_all(doors)
}

/// Puts back what was removed under the hands of a holder (`git clean -xfd`, a `RUNNER_TEMP` that
/// was emptied): its receipt and log, and the door when nobody is inside by the old one any more. Until then
/// the commands below are refused.
pub(super) fn mend(event_loop: &mut EventLoop, dir: &Path) {
    if event_loop.custody.mend()
        && let Some(Ok(log)) = event_loop.custody.file().map(|file| file.open_log())
    {
        // Where a release reads what we say.
        let _said_in_vain = dup2_stderr(&log);
    }
    let mut doors = Vec::new();
    for kept in event_loop.kept.iter().filter(|kept| !kept.tenure.is_inherited()) {
        let (id, path) = (kept.id(), door::path(dir, kept.id()));
        let Some(old) = event_loop.custody.door(id).filter(|it| !it.is_at(&path) && it.close())
        else {
            continue;
        };
        door::remove(dir, id);
        match door_of(kept, &path) {
            Ok(door) => doors.push((id.clone(), door)),
            // The directory may come back as it was, and the old one with it.
            Err(_) => old.leave(),
        }
    }
    for (id, door) in doors {
        event_loop.custody.lend(&id, Use::Door(door));
    }
}

/// Closes all or none: who is inside by one of them may need another yet.
fn close_all<'a>(doors: impl Iterator<Item = &'a Door>) -> bool {
    let mut closed = Vec::new();
    for door in doors {
        if !door.close() {
            closed.into_iter().for_each(Door::leave);
            return false;
        }
        closed.push(door);
    }
    true
}

fn name(receipt: Option<&Receipt>, dir: &Path, ids: &[LockId]) -> Who {
    if let Some(receipt) = receipt {
        return living_of(receipt);
    }
    let inside = without_receipt(dir, ids);
    if inside.is_empty() {
        return Who::one("a process that cannot be seen from here".to_owned());
    }
    Who { names: Member::named(&inside), are_several: inside.len() > 1 }
}

/// Who has the place of a command under one of these locks that has no receipt any more: a daemon that it
/// has started, where nobody gave the place back.
fn without_receipt(dir: &Path, ids: &[LockId]) -> Vec<Member> {
    let mut all = Vec::new();
    for member in ids.iter().flat_map(|id| door::inside(dir, id)) {
        if !all.contains(&member) {
            all.push(member);
        }
    }
    all
}

/// Who of this run lives, in words: its tfwrap, else what that has left, else its guardian.
pub(crate) fn living_of(receipt: &Receipt) -> Who {
    let guardian = receipt.guardian.filter(|guardian| guardian.is_alive());
    match (receipt.runner.is_alive(), receipt.living_child(), guardian) {
        (false, Some(child), _) => {
            let (names, count) = child.named_and_counted();
            Who { names, are_several: count > 1 }
        }
        (false, None, Some(guardian)) => Who::one(format!("process {} (a guardian)", guardian.pid)),
        _ => Who::one(format!("process {}", receipt.runner.pid)),
    }
}

/// The command that ends what runs under one of these locks, whose tfwrap and guardian are both gone:
/// nobody else does.
pub(crate) fn end_command(dir: &Path, ids: &[LockId]) -> Option<String> {
    let is_alone = |receipt: &Receipt| {
        !receipt.runner.is_alive() && !receipt.guardian.is_some_and(ProcessId::is_alive)
    };
    let living = living(dir, ids);
    if living.is_empty() {
        return end_of(&without_receipt(dir, ids));
    }
    let alone = living.into_iter().filter(is_alone);
    alone.filter_map(|receipt| receipt.living_child()).map(|child| child.end_command()).next()
}

/// Who runs under one of these locks, whose holder is gone; in words.
pub(crate) fn anybody(dir: &Path, ids: &[LockId]) -> Option<Who> {
    let living = living(dir, ids);
    let doors = ids.iter().filter_map(|id| Door::open(&door::path(dir, id)).ok().flatten());
    let doors: Vec<_> = doors.collect();
    let any = !living.is_empty() || !close_all(doors.iter());
    any.then(|| name(living.first(), dir, ids))
}

/// The command that shows who is inside, for what has no receipt that can be seen.
pub(crate) fn looked_up(dir: &Path, ids: &[LockId]) -> Option<String> {
    let path = door::path(dir, ids.first()?);
    path.exists().then(|| format!("fuser -v {}", shell_quote(&path.display().to_string())))
}

/// Whether the holder of these locks has let the last one out, and gives them back.
pub(crate) fn are_closed(dir: &Path, ids: &[LockId]) -> bool {
    let mut doors = ids.iter().filter_map(|id| Door::open(&door::path(dir, id)).ok().flatten());
    doors.any(|door| door.is_closed().unwrap_or(false))
}

/// Whether this is a copy of the directory in which the living holder of these locks has its files:
/// nobody has these doors open.
pub(crate) fn is_copy(dir: &Path, ids: &[LockId]) -> bool {
    let doors = ids.iter().filter_map(|id| Door::open(&door::path(dir, id)).ok().flatten());
    let mut held = doors.filter_map(|door| door.has_holder().ok());
    held.any(|held| !held)
}

/// The runs of this machine that inherited one of these locks and are not over.
pub(crate) fn living(dir: &Path, ids: &[LockId]) -> Vec<Receipt> {
    let Some(here) = HostScope::here() else { return Vec::new() };
    let all = inheriting(dir, ids).map(|(_, receipt)| receipt);
    all.filter(|receipt| is_living(receipt, &here)).collect()
}

/// The runs under this lock whose tfwrap is dead.
pub(super) fn killed(dir: &Path, id: &LockId) -> Vec<Receipt> {
    let Some(here) = HostScope::here() else { return Vec::new() };
    inheriting(dir, std::slice::from_ref(id))
        .map(|(_, receipt)| receipt)
        .filter(|it| it.world.seen_from(&here) == Sight::Here && !it.runner.is_alive())
        .collect()
}

/// Who around us uses this lock, and has it until we have ended, since its child waits for us: a command,
/// or else a `run`. A daemon that was left behind is waited for by nobody.
pub(super) fn around_us(dir: &Path, id: &LockId) -> Option<Receipt> {
    let uses_it = |receipt: &Receipt| receipt.locks.iter().any(|entry| entry.id == *id);
    all_around_us(dir).filter(uses_it).max_by_key(|receipt| receipt.operation != "run")
}

/// The locks that those hold: they are not free before we have ended.
pub(crate) fn ids_around_us(dir: &Path) -> Vec<LockId> {
    all_around_us(dir).flat_map(|receipt| receipt.own_ids()).collect()
}

fn all_around_us(dir: &Path) -> impl Iterator<Item = Receipt> {
    let here = HostScope::here();
    let is_above_or_we = |it: ProcessId| it.is_above_us() || ProcessId::me() == Some(it);
    let is_around = move |receipt: &Receipt| {
        here.as_ref().is_some_and(|here| receipt.world.seen_from(here) == Sight::Here)
            && receipt.runner.is_above_us()
            // It writes down after the start that we are there.
            && receipt.child.map_or(receipt.starting_since.is_some(), |it| is_above_or_we(it.leader))
    };
    ReceiptFile::readable_in(dir).filter(is_around)
}

/// What lives on of commands that were at work under this lock and are dead. Those of a `run` are
/// not meant: whatever works with the state below it has a receipt of its own.
pub(super) fn left_by_the_dead(dir: &Path, id: &LockId) -> Vec<ProcessTree> {
    let is_run = |receipt: &Receipt| receipt.is_hold || receipt.operation == "run";
    let killed = killed(dir, id).into_iter().filter(|it| !is_run(it));
    killed.filter_map(|it| it.living_child()).collect()
}

/// Why nothing more is started below a run above us, in words: it was asked to end, or its tfwrap was
/// killed, and a script goes on with its next command.
///
/// A run is above us if it is our ancestor or our environment says so. The environment stays when the
/// tfwrap is killed, and then nothing else leads to the run. Its receipt goes with its locks: what a
/// run has left behind on purpose is not below it any more. Below a `hold` whose keeper was killed, the
/// door refuses instead.
pub(super) fn ending_above(dir: &Path, env: &Env, held: &Held) -> Option<String> {
    let named = env.get(CHILD_OF);
    if held.is_empty() && named.is_none() {
        return None;
    }
    let here = HostScope::here()?;
    let is_holder =
        |receipt: &Receipt| receipt.own().any(|entry| held.ids().any(|id| *id == entry.id));
    let is_named = |receipt: &Receipt| named == Some(child_of(receipt.runner).as_str());
    let receipts = ReceiptFile::readable_in(dir).filter(|it| !it.is_hold && !it.is_over);
    let mut reasons = receipts.filter_map(|receipt| {
        let pid = receipt.runner.pid;
        let is_here = receipt.world.seen_from(&here) == Sight::Here;
        let is_told = is_holder(&receipt) || (is_here && is_named(&receipt));
        // What tells of it counts from another PID namespace too, where its number means another process.
        let is_above = || is_told || receipt.runner.is_above_us();
        if receipt.is_stopping && is_above() {
            Some(format!("process {pid} was asked to end"))
        } else if is_here && is_told && !receipt.runner.is_alive() {
            Some(format!("process {pid}, the tfwrap around this command, was killed"))
        } else {
            None
        }
    });
    reasons.next()
}

/// Whether any process of the run is known to live, or may: what was about to be started may have
/// been.
pub(crate) fn is_living(receipt: &Receipt, here: &HostScope) -> bool {
    receipt.world.seen_from(here) == Sight::Here
        && (receipt.starting_since.is_some()
            || receipt.runner.is_alive()
            || receipt.guardian.is_some_and(ProcessId::is_alive)
            || receipt.living_child().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_runs_and_several_run() {
        let two = Who { names: "process 1 (`a`), process 2 (`b`)".to_owned(), are_several: true };
        let said = still_runs(&two);
        assert!(said.contains("still run under") && said.ends_with("they have ended"), "{said}");
        let said = still_runs(&Who::one("process 1".to_owned()));
        assert!(said.contains("still runs under") && said.ends_with("it has ended"), "{said}");
    }
}
