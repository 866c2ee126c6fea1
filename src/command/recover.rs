//! `tfwrap recover`: gives back what dead runs left behind, and nothing else.
//!
//! What is dead is seen in `/proc` or proved by a reboot; where it cannot be seen, the record itself
//! is watched for a beat. A run of the same CI job may be asked to end; any other stays as it is.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::clock::uptime;
use crate::env::Env;
use crate::error::Error;
use crate::lock::Uptime;
use crate::lock::lease::Lease;
use crate::receipt::{Entry, Receipt, ReceiptFile};
use crate::report::{Notice, clean};
use crate::run::adopt::{adopt, complete};
use crate::run::guard::Case;
use crate::run::{Shell, dependents, look};
use crate::state_dir;
use crate::supervise::Orphans;
use crate::supervise::guardian::{Head, Interrupts};
use crate::supervise::{ProcessId, Sight, World};

/// Between two looks at processes.
const LOOK: Duration = Duration::from_millis(200);

/// How much of the wait is kept for a child that does not end by itself: to kill it, to let its
/// last request settle, and to give the lock back.
const LAST_PART: Duration = Duration::from_secs(10);

/// How long a release may take through network faults, with some room.
const A_RELEASE: Duration = Duration::from_secs(75);

/// What is asked of it.
pub(crate) struct Recovery<'a> {
    pub(crate) env: &'a Env,
    /// This job's own value, hashed as in receipts.
    pub(crate) job: Option<String>,
    /// How long to wait for runs of this job that are still ending.
    pub(crate) wait: Duration,
}

impl Recovery<'_> {
    fn is_of_this_job(&self, receipt: &Receipt) -> bool {
        receipt.job.is_some() && receipt.job == self.job
    }

    /// Whether its processes may be told to end: they are of this job, and there is time for it.
    fn may_end(&self, receipt: &Receipt) -> bool {
        self.is_of_this_job(receipt) && !self.wait.is_zero()
    }
}

/// What became of one receipt.
enum Fate {
    /// Nothing of it is left.
    Settled,
    /// It is none of our business, or its run goes on.
    Theirs,
    /// Something of it is still held; why.
    Left(String),
}

/// The receipts of this machine.
pub(super) fn receipts(recovery: &Recovery<'_>, whose: &str) -> Result<Vec<ReceiptFile>, Error> {
    let dir = state_dir::path(recovery.env);
    ReceiptFile::all_in(&dir).map_err(|error| Error::Config {
        message: format!("receipts cannot be looked for in `{}`: {error}", dir.display()),
        hint: Some(format!("name the directory of the {whose} with `TFWRAP_STATE_DIR`")),
    })
}

/// Looks at every receipt of this machine.
pub(crate) async fn run(shell: &mut Shell, recovery: &Recovery<'_>) -> Result<(), Error> {
    let mut files = receipts(recovery, "run")?;
    let until = uptime().plus(recovery.wait);
    let mut left = Vec::new();
    let mut done = 0;
    // A hold waits for those that run under it, so they come first; and for one that was begun
    // under it, so all are told before any is waited for.
    files.sort_by_cached_key(|file| file.read().is_ok_and(|receipt| receipt.is_hold));
    let mut told = false;
    for file in &files {
        let is_hold = file.read().is_ok_and(|receipt| receipt.is_hold);
        if is_hold && !std::mem::replace(&mut told, true) {
            tell_holds(shell, recovery, &files);
        }
        match one(shell, recovery, file, until).await {
            Ok(Fate::Settled) => done += 1,
            Ok(Fate::Theirs) => {}
            Ok(Fate::Left(why)) => left.push(why),
            Err(error @ Error::Interrupted { .. }) => return Err(error),
            // No reason to leave the others.
            Err(error) => left.push(error.to_string()),
        }
    }
    if !left.is_empty() {
        return Err(Error::LeftBehind {
            message: left.join("; "),
            hint: Some(
                "in a CI job, `tfwrap recover --wait 4m` waits for it; `tfwrap status` shows the \
                 lock"
                    .to_owned(),
            ),
        });
    }
    if done == 0 {
        shell.say(Notice::Note { message: "nothing to recover".to_owned() });
    }
    Ok(())
}

async fn one(
    shell: &mut Shell,
    recovery: &Recovery<'_>,
    file: &ReceiptFile,
    until: Uptime,
) -> Result<Fate, Error> {
    let receipt = match file.read() {
        Ok(receipt) => receipt,
        // Its run has just ended.
        Err(_) if !file.path().exists() => return Ok(Fate::Settled),
        Err(what) => {
            shell.say(Notice::Warning {
                message: format!("the receipt `{}` is left alone: {what}", file.path().display()),
                hint: Some(
                    "remove it if it is not needed; `tfwrap status` shows the lock".to_owned(),
                ),
            });
            return Ok(Fate::Theirs);
        }
    };
    if receipt.is_over {
        show_log(shell, file, 0);
        remove(shell, file);
        return Ok(Fate::Settled);
    }
    let is_of_this_job = recovery.is_of_this_job(&receipt);
    let Some(here) = World::here() else {
        return Ok(Fate::Left("without `/proc` nobody can tell what still runs".to_owned()));
    };
    match receipt.world.seen_from(&here) {
        Sight::Here => {}
        Sight::BeforeBoot => return give_back(shell, recovery, file, &receipt, None, until).await,
        Sight::Elsewhere if is_of_this_job => {
            if beats(shell, &receipt, recovery.env).await? {
                return Ok(Fate::Left(format!(
                    "{} still beats, where this machine cannot see it",
                    run_of(&receipt)
                )));
            }
            return give_back(shell, recovery, file, &receipt, None, until).await;
        }
        Sight::Elsewhere => return Ok(Fate::Theirs),
    }
    if recovery.may_end(&receipt) {
        // What a hold needs to give its locks back is always waited for.
        let until = if receipt.is_hold { until.max(uptime().plus(A_RELEASE)) } else { until };
        wait_for(shell, &receipt, file, until).await?;
    }
    // It, or its guardian, may have settled it meanwhile.
    let receipt = match file.read() {
        Err(_) if !file.path().exists() => {
            shell.say(Notice::Note { message: format!("{} has ended", run_of(&receipt)) });
            return Ok(Fate::Settled);
        }
        read => read.unwrap_or(receipt),
    };
    let ends_by_itself =
        receipt.runner.is_alive() || receipt.guardian.is_some_and(ProcessId::is_alive);
    let child = receipt.child.filter(|child| !Orphans::are_gone(child));
    match (ends_by_itself, child) {
        (true, _) if is_of_this_job => {
            Ok(Fate::Left(format!("{} has not ended", run_of(&receipt))))
        }
        (true, _) => Ok(Fate::Theirs),
        (false, Some(child)) if !is_of_this_job => Ok(Fate::Left(format!(
            "{} was killed, but what it started still runs (process {}): end that first",
            run_of(&receipt),
            child.leader.pid
        ))),
        (false, Some(child)) if recovery.wait.is_zero() => Ok(Fate::Left(format!(
            "{} was killed, and what it started still runs (process {})",
            run_of(&receipt),
            child.leader.pid
        ))),
        (false, child) => give_back(shell, recovery, file, &receipt, child, until).await,
    }
}

fn run_of(receipt: &Receipt) -> String {
    format!("the run of process {} (since {})", receipt.runner.pid, clean(&receipt.began))
}

/// Waits for a run of this job to end: the step is over, so nobody else does. One that nobody has
/// told to end is told; a child that does not is killed while there is time to give the lock back.
async fn wait_for(
    shell: &mut Shell,
    receipt: &Receipt,
    file: &ReceiptFile,
    until: Uptime,
) -> Result<(), Error> {
    let last_part = LAST_PART.min(until.since(uptime()) / 3);
    let mut told = false;
    let mut killed = false;
    let mut child = receipt.child;
    loop {
        let runs = receipt.runner.is_alive();
        let guarded = receipt.guardian.is_some_and(ProcessId::is_alive);
        if !runs && !guarded {
            return Ok(());
        }
        if !std::mem::replace(&mut told, true) {
            shell.say(Notice::Note {
                message: format!("waiting for the end of {}", run_of(receipt)),
            });
            // Holds were told already.
            if runs && !receipt.is_hold {
                ask_to_end(shell, receipt);
            }
        }
        let now = uptime();
        if now >= until {
            return Ok(());
        }
        if let Ok(newer) = file.read() {
            child = newer.child;
        }
        let is_late = now.plus(last_part) >= until;
        if let (true, false, Some(child)) = (is_late, killed, child) {
            killed = true;
            shell.say(Notice::Warning {
                message: format!(
                    "killed the child, process {}: the wait is over",
                    child.leader.pid
                ),
                hint: Some("check the state with `terraform plan`".to_owned()),
            });
            drop(child.signal(Signal::SIGKILL));
        }
        look::pause(shell, LOOK.min(until.since(now))).await?;
    }
}

fn tell_holds(shell: &Shell, recovery: &Recovery<'_>, files: &[ReceiptFile]) {
    let Some(here) = World::here() else { return };
    for receipt in files.iter().filter_map(|file| file.read().ok()) {
        let is_here = receipt.world.seen_from(&here) == Sight::Here;
        if receipt.is_hold && is_here && recovery.may_end(&receipt) {
            ask_to_end(shell, &receipt);
        }
    }
}

fn ask_to_end(shell: &Shell, receipt: &Receipt) {
    match receipt.runner.signal(Signal::SIGTERM) {
        Ok(true) => shell
            .say(Notice::Note { message: format!("asked process {} to end", receipt.runner.pid) }),
        Ok(false) => {}
        Err(error) => shell.say(Notice::Warning {
            message: format!("process {} could not be asked to end: {error}", receipt.runner.pid),
            hint: None,
        }),
    }
}

/// Gives back what a dead run held, after ending what still runs of it.
async fn give_back(
    shell: &mut Shell,
    recovery: &Recovery<'_>,
    file: &ReceiptFile,
    receipt: &Receipt,
    child: Option<Orphans>,
    until: Uptime,
) -> Result<Fate, Error> {
    show_log(shell, file, 0);
    // What it had inherited is not given back here.
    let own = receipt.locks.iter().filter(|entry| !entry.inherited);
    let own: Vec<_> = own.map(|entry| entry.id.clone()).collect();
    let dir = file.path().parent().unwrap_or(Path::new("/"));
    if let Some(who) = dependents::anybody(dir, &own) {
        return Ok(Fate::Left(format!("{who} runs under a lock of {}", run_of(receipt))));
    }
    // Whether the child got its interrupt nobody knows any more.
    let head = Head { child, interrupts: Interrupts::Maybe, ..Head::default() };
    let mut case = Case::of_the_dead(file, receipt, until.since(uptime()));
    if child.is_some() {
        for entry in &receipt.locks {
            // Without an answer the lock is kept all the same; the store is asked again.
            if let Ok(Some(lease)) = lease_of(shell, entry, receipt, recovery.env).await {
                case.declared(&entry.id, lease);
            }
        }
    }
    let adopted = adopt(shell, &head, &case, recovery.env).await;
    if adopted.left.is_empty() {
        remove(shell, file);
        let what = match adopted.released {
            0 => "it held nothing any more".to_owned(),
            1 => "its lock is given back".to_owned(),
            count => format!("its {count} locks are given back"),
        };
        let message = format!("settled {}: {what}", run_of(receipt));
        shell.say(Notice::Note { message });
        return Ok(Fate::Settled);
    }
    Ok(Fate::Left(format!("a lock of {} could not be given back", run_of(receipt))))
}

fn remove(shell: &Shell, file: &ReceiptFile) {
    if let Err(error) = file.remove() {
        shell.say(Notice::Warning {
            message: format!("the receipt `{}` cannot be removed: {error}", file.path().display()),
            hint: Some("it allows nothing any more".to_owned()),
        });
    }
}

/// Says what a keeper or a guardian said while nobody was there, from this line on; returns where
/// to go on.
pub(super) fn show_log(shell: &Shell, file: &ReceiptFile, from: usize) -> usize {
    let log = file.read_log();
    for line in log.lines().skip(from) {
        let line = line.strip_prefix("tfwrap: ").unwrap_or(line);
        shell.say(Notice::Note { message: format!("before: {line}") });
    }
    log.lines().count().max(from)
}

/// Settles one receipt, whoever's it is.
pub(super) async fn finish(
    shell: &mut Shell,
    recovery: &Recovery<'_>,
    file: &ReceiptFile,
) -> Result<(), Error> {
    match one(shell, recovery, file, uptime().plus(recovery.wait)).await? {
        Fate::Settled => Ok(()),
        Fate::Theirs => Err(Error::LeftBehind {
            message: "the hold is another machine's or container's and cannot be ended from here"
                .to_owned(),
            hint: Some("`tfwrap status` shows the lock, `tfwrap unlock ID` removes it".to_owned()),
        }),
        Fate::Left(message) => Err(Error::LeftBehind { message, hint: None }),
    }
}

/// What the dead declared for a lock that is still theirs. While their child is ended, it is kept
/// just so: whoever does that may be killed, too, and then it must expire.
async fn lease_of(
    shell: &mut Shell,
    entry: &Entry,
    receipt: &Receipt,
    env: &Env,
) -> Result<Option<Lease>, Error> {
    let target = complete(entry, receipt, env);
    if entry.inherited || !target.has_lease() {
        return Ok(None);
    }
    let lock = target.url();
    let store =
        target.open().await.map_err(|source| Error::Store { lock: lock.clone(), source })?;
    let register = look::Register { lock, store, key: target.key.clone() };
    let stored = look::read(shell, &register, look::PATIENCE).await?;
    let record = stored.map(|stored| stored.record).filter(|it| it.is_held_by(&entry.id));
    Ok(record.and_then(|record| Lease::parse(record.lease.as_deref()?)))
}

/// Whether any lock of the receipt shows a sign of life within two beats.
async fn beats(shell: &mut Shell, receipt: &Receipt, env: &Env) -> Result<bool, Error> {
    for entry in receipt.locks.iter().filter(|entry| !entry.inherited) {
        let target = complete(entry, receipt, env);
        if !target.has_lease() {
            continue;
        }
        let lock = target.url();
        let store =
            target.open().await.map_err(|source| Error::Store { lock: lock.clone(), source })?;
        let register = look::Register { lock, store, key: target.key.clone() };
        let Some(first) = look::read(shell, &register, look::PATIENCE).await? else { continue };
        let lease = first.record.lease.as_deref().and_then(Lease::parse);
        let (true, Some(lease)) = (first.record.is_held_by(&entry.id), lease) else { continue };
        let until = uptime().plus(lease.term.period() * 2 + Duration::from_secs(2));
        while uptime() < until {
            look::pause(shell, Duration::from_secs(1)).await?;
            match look::read(shell, &register, look::PATIENCE).await? {
                Some(now) if !now.record.is_held_by(&entry.id) => break,
                Some(now) if now.version != first.version => return Ok(true),
                Some(_) => {}
                None => break,
            }
        }
    }
    Ok(false)
}
