//! `tfwrap release`: ends what `tfwrap hold` left behind.

mod unknown;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::recover::{self, Recovery, ask_for_release, run_of};
use super::unlock::NO_ID;
use crate::clock::uptime;
use crate::duration;
use crate::error::Error;
use crate::held::{self, Held};
use crate::lock::{LockId, Uptime};
use crate::receipt::{Receipt, ReceiptFile};
use crate::report::{Notice, clean};
use crate::run::standstill::{self, Standstill};
use crate::run::{EventLoop, dependents};
use crate::shown_url::shown_value;
use crate::state_dir;
use crate::supervise::{HostScope, ProcessId, Sight, ancestors};
use crate::target::LockTarget;

const LOOK: Duration = Duration::from_millis(100);

/// When is first said what is waited for; then after twice as long, and so on.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// What it goes by.
pub(crate) struct ReleaseCall<'a> {
    pub(crate) recovery: &'a Recovery<'a>,
    /// The locks of this directory.
    pub(crate) targets: &'a [LockTarget],
    /// The longest wait for a keeper.
    pub(crate) limit: Duration,
}

/// Finds the hold, asks its keeper to give the locks back, and waits until it has.
pub(crate) async fn run(
    event_loop: &mut EventLoop,
    asked: &ReleaseCall<'_>,
    id: Option<&str>,
) -> Result<(), Error> {
    let recovery = asked.recovery;
    // What is held, but has no receipt here any more: its keeper may be about to write it anew.
    let unknown = unknown::look(event_loop, asked, id).await?;
    let holds: Vec<_> = match recover::receipts(recovery, "hold") {
        // What is in the way of a look has been said.
        Err(_) if !unknown.is_empty() => Vec::new(),
        files => files?.into_iter().filter_map(|file| Some((file.read().ok()?, file))).collect(),
    };
    let holds: Vec<_> = holds.into_iter().filter(|(receipt, _)| receipt.is_hold).collect();
    let chosen = choose(&holds, recovery, id)?;
    let over = holds.iter().filter(|(receipt, _)| receipt.is_over && receipt.job == recovery.job);
    for (_, file) in over.filter(|_| chosen.is_empty()) {
        recover::finish(event_loop, recovery, file).await?;
    }
    if chosen.is_empty() && unknown.is_empty() {
        if let Some(id) = id {
            refuse_unknown(recovery, &holds, id)?;
        }
        let others = holds.iter().map(|(receipt, _)| receipt);
        let is_named = id.is_none() && !held::holds(recovery.env).is_empty();
        // Where ours is told by name, others are beside the point: one around it goes on.
        let others = others.filter(|it| id.is_none() && !is_named && is_living(it));
        let others: Vec<_> = others.collect();
        for other in &others {
            recover::leave(event_loop, recovery, other, &run_of(other));
        }
        let by_us = match &others[..] {
            _ if is_named => " of this environment",
            [] => "",
            _ => " of this job",
        };
        let dir = state_dir::path(recovery.env);
        let dir = clean(&dir.to_string_lossy());
        let message = match around(&holds, recovery).filter(|_| is_named) {
            None => format!("nothing is held: no hold{by_us} is known in `{dir}`"),
            Some((lock, id)) => format!(
                "no hold of this environment is left in `{dir}`; the one around it is still there \
                 and holds {lock}: `tfwrap release {id}` ends that one too"
            ),
        };
        event_loop.say(Notice::Note { message });
    }
    for (receipt, _) in &chosen {
        refuse_below(recovery, receipt)?;
    }
    // All before any is waited for: one that was begun under another holds that one up.
    for (receipt, file) in &chosen {
        tell(event_loop, receipt, file)?;
    }
    let until = uptime().plus(asked.limit);
    for (receipt, file) in chosen {
        one(event_loop, asked, (receipt, file), until).await?;
    }
    if unknown.is_empty() { Ok(()) } else { Err(unknown::left(&unknown, recovery)) }
}

/// A hold that goes on and whose lock our environment names: one around ours. But also our own, where
/// a shell had one environment over the other; these two look the same from here.
fn around(holds: &[Hold], recovery: &Recovery<'_>) -> Option<(String, String)> {
    let held = Held::from_env(recovery.env);
    let is_named = |id: &LockId| held.ids().any(|held| held == id);
    let living = holds.iter().map(|(receipt, _)| receipt).filter(|receipt| is_living(receipt));
    living
        .filter_map(|receipt| Some((locks(receipt), receipt.own_ids().into_iter().find(is_named)?)))
        .map(|(locks, id)| (locks, clean(&id.0)))
        .next()
}

/// An ID that nobody here has, nor told us: it may be mistyped, and what was meant still be held.
fn refuse_unknown(recovery: &Recovery<'_>, holds: &[Hold], id: &str) -> Result<(), Error> {
    if Held::from_env(recovery.env).ids().any(|held| held.0 == id) {
        return Ok(());
    }
    let living = holds.iter().filter(|(receipt, _)| is_living(receipt));
    let held: Vec<_> = living
        .flat_map(|(receipt, _)| receipt.own_ids())
        .map(|id| format!("`{}`", clean(&id.0)))
        .collect();
    let held = if held.is_empty() { "nothing".to_owned() } else { held.join(", ") };
    let dir = state_dir::path(recovery.env);
    Err(Error::Usage {
        message: format!(
            "no known hold in `{}` has the lock ID `{}`; held there: {held}",
            clean(&dir.to_string_lossy()),
            clean(&shown_value(id))
        ),
        hint: Some(if id.contains("//") {
            NO_ID.to_owned()
        } else {
            "`tfwrap release` without an ID ends the hold whose environment it has, or the only \
             one; to find a hold of another `TFWRAP_STATE_DIR`, set that variable"
                .to_owned()
        }),
    })
}

fn is_here(receipt: &Receipt) -> bool {
    HostScope::here().is_some_and(|here| receipt.world.seen_from(&here) == Sight::Here)
}

/// Whether it still keeps something.
fn is_living(receipt: &Receipt) -> bool {
    HostScope::here().is_some_and(|here| dependents::is_living(receipt, &here))
}

fn locks(receipt: &Receipt) -> String {
    let names: Vec<_> = receipt.own().map(|entry| format!("`{}`", entry.target.url())).collect();
    if names.is_empty() { "what it has".to_owned() } else { names.join(", ") }
}

/// A command that works under the hold and calls this, through whatever shells, would be waited for
/// by the keeper, and would itself wait for us.
fn refuse_below(recovery: &Recovery<'_>, receipt: &Receipt) -> Result<(), Error> {
    let above: Vec<_> = ancestors().into_iter().filter_map(ProcessId::of).collect();
    let is_above = |process: ProcessId| above.contains(&process);
    let living = dependents::living(&state_dir::path(recovery.env), &receipt.own_ids());
    let below = living
        .into_iter()
        .find(|it| is_above(it.runner) || it.child.is_some_and(|child| is_above(child.leader)));
    let Some(below) = below else { return Ok(()) };
    Err(Error::LeftBehind {
        message: format!(
            "this `release` is called by {}, of a tfwrap command ({}) that still runs under the \
             lock {}: each would wait for the other",
            dependents::living_of(&below),
            clean(&below.operation),
            locks(receipt)
        ),
        hint: Some("call `tfwrap release` after that command has ended".to_owned()),
    })
}

/// Asks the keeper to end.
fn tell(event_loop: &EventLoop, receipt: &Receipt, file: &ReceiptFile) -> Result<(), Error> {
    if !is_here(receipt) || !receipt.runner.is_alive() {
        return Ok(());
    }
    let pid = receipt.runner.pid;
    let dir = file.path().parent().unwrap_or(Path::new("/"));
    if dependents::is_copy(dir, &receipt.own_ids()) && receipt.runner.is_alive() {
        return Err(Error::LeftBehind {
            message: format!(
                "`{}` is a copy of the directory of {}, which does not see requests in the copy \
                 and still holds {}",
                clean(&dir.to_string_lossy()),
                run_of(receipt),
                locks(receipt)
            ),
            hint: Some(
                "use the `TFWRAP_STATE_DIR` that the hold set, or end the keeper once with: kill \
                 -TERM "
                    .to_owned()
                    + &pid.to_string(),
            ),
        });
    }
    let is_first = ask_for_release(file, receipt).map_err(|error| Error::LeftBehind {
        message: format!(
            "process {pid}, which holds {}, cannot be asked to release it: {error}",
            locks(receipt)
        ),
        hint: Some(format!("ask it once with: kill -TERM {pid}")),
    })?;
    if !is_first {
        let message = format!("{} is already being released: waiting for it too", run_of(receipt));
        event_loop.say(Notice::Note { message });
    }
    Ok(())
}

type Hold = (Receipt, ReceiptFile);

fn choose<'a>(
    holds: &'a [Hold],
    recovery: &Recovery<'_>,
    id: Option<&str>,
) -> Result<Vec<&'a Hold>, Error> {
    let has = |hold: &Hold, ids: &[LockId]| hold.0.locks.iter().any(|it| ids.contains(&it.id));
    if let Some(id) = id {
        let ids = [LockId(id.to_owned())];
        return Ok(holds.iter().filter(|hold| has(hold, &ids)).collect());
    }
    let named = held::holds(recovery.env);
    if !named.is_empty() {
        return Ok(with_those_below(holds, &named));
    }
    // A version that handed no names down.
    let held: Vec<_> = Held::from_env(recovery.env).ids().cloned().collect();
    let of_env: Vec<_> = holds.iter().filter(|hold| has(hold, &held)).collect();
    // Without a job to go by, whatever else is held on this machine is somebody else's.
    if !of_env.is_empty() || (recovery.job.is_none() && !held.is_empty()) {
        return Ok(of_env);
    }
    // Who is in no job does not end what a job holds.
    let is_ours = |hold: &&Hold| hold.0.job == recovery.job && !hold.0.is_over;
    let ours: Vec<_> = holds.iter().filter(is_ours).collect();
    if recovery.job.is_none() && ours.len() > 1 {
        let ids = ours.iter().flat_map(|(receipt, _)| &receipt.locks);
        // One below the other has the same.
        let ids: BTreeSet<_> = ids.map(|entry| clean(&entry.id.0)).collect();
        if ids.len() > 1 {
            let ids: Vec<_> = ids.into_iter().collect();
            return Err(Error::Usage {
                message: format!("more than one lock is held: {}", ids.join(", ")),
                hint: Some("name one: `tfwrap release ID`".to_owned()),
            });
        }
    }
    Ok(ours)
}

/// The holds of these names, and all that were begun below one of them; never one around them.
fn with_those_below<'a>(holds: &'a [Hold], named: &[String]) -> Vec<&'a Hold> {
    let is_named = |hold: &Hold, names: &[String]| {
        hold.1.name().is_some_and(|name| names.iter().any(|it| it == name))
    };
    let (mut chosen, mut others): (Vec<_>, Vec<_>) =
        holds.iter().partition(|hold| is_named(hold, named));
    loop {
        let theirs: Vec<_> = chosen.iter().filter_map(|hold| hold.1.name()).collect();
        let ids: Vec<_> = chosen.iter().flat_map(|hold| hold.0.own_ids()).collect();
        let (below, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|(receipt, _)| {
            let was_begun_there = receipt.within.iter().any(|it| theirs.contains(&it.as_str()));
            receipt.inherited().any(|entry| was_begun_there || ids.contains(&entry.id))
        });
        if below.is_empty() {
            return chosen;
        }
        chosen.extend(below);
        others = rest;
    }
}

async fn one(
    event_loop: &mut EventLoop,
    asked: &ReleaseCall<'_>,
    (receipt, file): (&Receipt, &ReceiptFile),
    until: Uptime,
) -> Result<(), Error> {
    let lives = |receipt: &Receipt| {
        is_here(receipt)
            && (receipt.runner.is_alive() || receipt.guardian.is_some_and(ProcessId::is_alive))
    };
    let since = uptime();
    let mut word_after = FIRST_WORD;
    let mut stood_still = Standstill::default();
    let mut receipt = receipt.clone();
    loop {
        // It may have given back some of them by now, or have another guardian.
        if let Ok(newer) = file.read() {
            receipt = newer;
        }
        let is_kept = lives(&receipt);
        if !is_kept && !file.path().exists() {
            recover::show_log(event_loop, asked.recovery, file);
            // Our word may have come too late for it.
            recover::remove(event_loop, file);
            event_loop.say(Notice::Note { message: "released".to_owned() });
            return Ok(());
        }
        // Its keeper and its guardian are dead, but not all that runs under it.
        let mut in_use = None;
        if !is_kept {
            in_use = recover::finish(event_loop, asked.recovery, file).await?;
            if in_use.is_none() {
                return Ok(());
            }
            let dir = file.path().parent().unwrap_or(Path::new("/"));
            for below in dependents::living(dir, &receipt.own_ids()) {
                stood_still.end(event_loop, &below, false);
            }
        }
        recover::show_log(event_loop, asked.recovery, file);
        stood_still.end(event_loop, &receipt, true);
        let now = uptime();
        if now >= until {
            return Err(not_in_time(asked, &receipt, file, in_use));
        }
        if now.since(since) >= word_after {
            event_loop.say(Notice::Note {
                message: format!(
                    "still waiting for {} to release {} ({} of up to {}): {}",
                    run_of(&receipt),
                    locks(&receipt),
                    duration::format(word_after),
                    duration::format(asked.limit),
                    in_use.unwrap_or_else(|| under(file, &receipt))
                ),
            });
            word_after *= 2;
            // The word may have been removed meanwhile, or the guardian stopped.
            drop(ask_for_release(file, &receipt));
        }
        event_loop.pause(uptime().plus(LOOK)).await?;
    }
}

/// The wait is over.
fn not_in_time(
    asked: &ReleaseCall<'_>,
    receipt: &Receipt,
    file: &ReceiptFile,
    in_use: Option<String>,
) -> Error {
    let (run, locks, limit) = (run_of(receipt), locks(receipt), duration::format(asked.limit));
    let again = "run `tfwrap release` again to wait for it, longer with `--lock-timeout`";
    let Some(in_use) = in_use else {
        let under = under(file, receipt);
        return Error::LeftBehind {
            message: format!(
                "{run} was asked to end and has not released {locks} within {limit}: {under}"
            ),
            hint: Some(format!("it will do so as soon as it can; {again}")),
        };
    };
    let (dir, ids) = (file.path().parent().unwrap_or(Path::new("/")), receipt.own_ids());
    let unseen =
        || dependents::looked_up(dir, &ids).filter(|_| dependents::living(dir, &ids).is_empty());
    let hint = if let Some(command) = dependents::end_command(dir, &ids) {
        format!("end it once with `{command}`, then call `tfwrap release` again")
    } else if let Some(command) = unseen() {
        format!("to see what it is: `{command}`; {again}")
    } else {
        again.to_owned()
    };
    Error::LeftBehind {
        message: format!("{run} was killed, and {locks} is not released after {limit}: {in_use}"),
        hint: Some(hint),
    }
}

/// What keeps a keeper, in words.
fn under(file: &ReceiptFile, receipt: &Receipt) -> String {
    if let Some(process) = standstill::of(receipt) {
        let command = standstill::go_on_command(process);
        return format!("process {} is stopped: `{command}` continues it", process.pid);
    }
    let dir = file.path().parent().unwrap_or(Path::new("/"));
    match dependents::living(dir, &receipt.own_ids()).first() {
        Some(below) => {
            let who = dependents::living_of(below);
            format!(
                "{who} ({}, since {}) still {} under it",
                clean(&below.operation),
                clean(&below.began),
                who.run()
            )
        }
        None if !matches!(file.path().try_exists(), Ok(true)) => {
            without_receipt(&clean(&dir.to_string_lossy()), file.path().try_exists())
        }
        None if dependents::are_closed(dir, &receipt.own_ids()) => {
            "nothing runs under it any more, and the lock store has not confirmed the release yet"
                .to_owned()
        }
        None => match dependents::looked_up(dir, &receipt.own_ids()) {
            Some(command) => {
                format!(
                    "commands without a receipt here may run under it; this shows them: {command}"
                )
            }
            None => "it is releasing what it holds".to_owned(),
        },
    }
}

/// Why nothing is known where the receipt is not seen: who has just released removes it, too.
fn without_receipt(dir: &str, there: io::Result<bool>) -> String {
    match there {
        Ok(_) => format!(
            "its receipt is no longer in `{dir}`: it has just released what it held, or somebody \
             removed its files, and then tfwrap cannot tell what runs under it"
        ),
        Err(error) => {
            format!("`{dir}` cannot be read ({error}), so tfwrap cannot tell what runs under it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_said_of_a_receipt_that_is_not_seen() {
        let gone = without_receipt("/d", Ok(false));
        assert!(gone.contains("has just released") && gone.contains("or somebody"), "{gone}");
        let unread = without_receipt("/d", Err(io::ErrorKind::PermissionDenied.into()));
        assert!(unread.contains("cannot be read") && !unread.contains("removed"), "{unread}");
    }
}
