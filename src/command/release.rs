//! `tfwrap release`: ends what `tfwrap hold` left behind.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::recover::{self, Recovery};
use crate::error::Error;
use crate::held::Held;
use crate::lock::LockId;
use crate::receipt::{Receipt, ReceiptFile};
use crate::report::{Notice, clean};
use crate::run::{Shell, look};
use crate::state_dir;
use crate::supervise::{ProcessId, Sight, World};

const LOOK: Duration = Duration::from_millis(100);

/// Finds the hold, asks its keeper to give the locks back, and waits until it has.
pub(crate) async fn run(
    shell: &mut Shell,
    recovery: &Recovery<'_>,
    id: Option<&str>,
) -> Result<(), Error> {
    let holds: Vec<_> = recover::receipts(recovery, "hold")?
        .into_iter()
        .filter_map(|file| file.read().ok().map(|receipt| (file, receipt)))
        .filter(|(_, receipt)| receipt.is_hold)
        .collect();
    let chosen = choose(&holds, recovery, id)?;
    let over = holds.iter().filter(|(_, receipt)| receipt.is_over && receipt.job == recovery.job);
    for (file, _) in over.filter(|_| chosen.is_empty()) {
        recover::finish(shell, recovery, file).await?;
    }
    if chosen.is_empty() {
        is_whole(recovery)?;
        shell.say(Notice::Note { message: "nothing is held".to_owned() });
    }
    // All before any is waited for: one that was begun under another holds that one up.
    for (_, receipt) in &chosen {
        tell(receipt)?;
    }
    for (file, receipt) in chosen {
        one(shell, recovery, file, receipt).await?;
    }
    Ok(())
}

/// Whether the receipt of a hold that we were told of can have been where it was looked for.
fn is_whole(recovery: &Recovery<'_>) -> Result<(), Error> {
    let dir = state_dir::path(recovery.env);
    if dir.exists() || Held::from_env(recovery.env).is_empty() {
        return Ok(());
    }
    Err(Error::LeftBehind {
        message: format!(
            "a lock was held for this command, and `{}`, where its holder keeps its files, is gone",
            dir.display()
        ),
        hint: Some(
            "try again in a second: a holder that lives puts them back; `tfwrap status` shows the \
             lock"
                .to_owned(),
        ),
    })
}

fn is_here(receipt: &Receipt) -> bool {
    World::here().is_some_and(|here| receipt.world.seen_from(&here) == Sight::Here)
}

/// Asks the keeper to end.
fn tell(receipt: &Receipt) -> Result<(), Error> {
    if is_here(receipt) && receipt.runner.is_alive() {
        let failed = |error| Error::Internal(format!("the keeper cannot be told: {error}"));
        receipt.runner.signal(Signal::SIGTERM).map_err(failed)?;
    }
    Ok(())
}

type Hold = (ReceiptFile, Receipt);

fn choose<'a>(
    holds: &'a [Hold],
    recovery: &Recovery<'_>,
    id: Option<&str>,
) -> Result<Vec<&'a Hold>, Error> {
    let has = |hold: &Hold, ids: &[LockId]| hold.1.locks.iter().any(|it| ids.contains(&it.id));
    if let Some(id) = id {
        let ids = [LockId(id.to_owned())];
        return Ok(holds.iter().filter(|hold| has(hold, &ids)).collect());
    }
    let held: Vec<_> = Held::from_env(recovery.env).ids().cloned().collect();
    let of_env: Vec<_> = holds.iter().filter(|hold| has(hold, &held)).collect();
    // Without a job to go by, whatever else is held on this machine is somebody else's.
    if !of_env.is_empty() || (recovery.job.is_none() && !held.is_empty()) {
        return Ok(of_env);
    }
    // Who is in no job does not end what a job holds.
    let is_ours = |hold: &&Hold| hold.1.job == recovery.job && !hold.1.is_over;
    let ours: Vec<_> = holds.iter().filter(is_ours).collect();
    if recovery.job.is_none() && ours.len() > 1 {
        let ids = ours.iter().flat_map(|(_, receipt)| &receipt.locks);
        let ids: Vec<_> = ids.map(|entry| clean(&entry.id.0)).collect();
        return Err(Error::Usage {
            message: format!("more than one lock is held: {}", ids.join(", ")),
            hint: Some("say which: `tfwrap release ID`".to_owned()),
        });
    }
    Ok(ours)
}

async fn one(
    shell: &mut Shell,
    recovery: &Recovery<'_>,
    file: &ReceiptFile,
    receipt: &Receipt,
) -> Result<(), Error> {
    let lives = |receipt: &Receipt| {
        receipt.runner.is_alive() || receipt.guardian.is_some_and(ProcessId::is_alive)
    };
    let mut shown = 0;
    loop {
        shown = recover::show_log(shell, file, shown);
        if !is_here(receipt) || !lives(receipt) {
            break;
        }
        look::pause(shell, LOOK).await?;
    }
    recover::show_log(shell, file, shown);
    if !file.path().exists() {
        shell.say(Notice::Note { message: "released".to_owned() });
        return Ok(());
    }
    recover::finish(shell, recovery, file).await
}
