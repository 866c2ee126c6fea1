//! `tfwrap recover`: gives back what dead runs left behind, and nothing else.
//!
//! What is dead is seen in `/proc`; where it cannot be seen, only its whole lease without a heartbeat
//! tells. A run of the same CI job may be asked to end; any other stays as it is, and is named.
//!
//! Its rules: `docs/protocol.md#k4-what-recover-does`.

mod living;
mod unseen;

pub(super) use living::ask_for_release;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::uptime;
use crate::env::Env;
use crate::error::{Error, Leftover};
use crate::guardian::Head;
use crate::lock::{Uptime, release};
use crate::receipt::{Receipt, ReceiptFile};
use crate::report::{Notice, shell_quote, to_the_second};
use crate::run::custody::Case;
use crate::run::orphan::{Ended, Leave, adopt, take_leave};
use crate::run::{EventLoop, dependents};
use crate::state_dir;
use crate::supervise::{HostScope, SETTLE, Sight, StopSignal};
use living::Unended;
use unseen::{Verdict, Watched};

/// How long a release may take through network faults, with some room.
const A_RELEASE: Duration = release::PATIENCE.saturating_add(Duration::from_secs(15));

/// What is asked of it.
pub(crate) struct Recovery<'a> {
    pub(crate) env: &'a Env,
    /// This job's own value, hashed as in receipts.
    pub(crate) job: Option<String>,
    /// How long to wait for runs of this job that are still ending.
    pub(crate) wait: Duration,
    /// How much of each log has been shown.
    pub(crate) shown: Shown,
}

/// By the path of the receipt, how many lines of what was said while nobody was there were shown.
#[derive(Default)]
pub(crate) struct Shown(RefCell<HashMap<PathBuf, usize>>);

impl Recovery<'_> {
    fn is_of_this_job(&self, receipt: &Receipt) -> bool {
        receipt.job.is_some() && receipt.job == self.job
    }

    /// Whether a run that cannot be seen is to be settled. Its machine's name says little: cloned
    /// machines share one, and so does a directory on a server.
    fn may_settle(&self, receipt: &Receipt, here: &HostScope) -> bool {
        self.is_of_this_job(receipt) || receipt.world.may_be_before_boot(here)
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
    /// Something of it is still held, or may be; why, and what helps, where that is not to wait.
    Left(String, Option<String>),
    /// The same, because somebody runs under a lock of it, or ends it just now; who.
    InUse(String),
}

fn left(why: String) -> Fate {
    Fate::Left(why, None)
}

/// What is dead, and how that is known.
enum Dead {
    /// Its processes are gone, but for the child.
    Here,
    /// These locks of it have stood still for as long as they declare.
    Unseen(Vec<Watched>),
}

/// The receipts of this machine.
pub(super) fn receipts(recovery: &Recovery<'_>, whose: &str) -> Result<Vec<ReceiptFile>, Error> {
    let dir = state_dir::path(recovery.env);
    ReceiptFile::all_in(&dir).map_err(|error| Error::Config {
        message: format!("cannot look for receipts in `{}`: {error}", dir.display()),
        hint: Some(format!("name the directory of the {whose} with `TFWRAP_STATE_DIR`")),
    })
}

/// Looks at every receipt of this machine.
pub(crate) async fn run(event_loop: &mut EventLoop, recovery: &Recovery<'_>) -> Result<(), Error> {
    let mut files = receipts(recovery, "run")?;
    let until = uptime().plus(recovery.wait);
    let (mut left, mut hints) = (Vec::new(), Vec::new());
    let (mut done, mut theirs) = (0, 0);
    let seen = first_looks(event_loop, recovery, &files).await?;
    // A hold waits for those that run under it, so they come first; and for one that was begun
    // under it, so all are told before any is waited for.
    files.sort_by_cached_key(|file| file.read().is_ok_and(|receipt| receipt.is_hold));
    let mut told = false;
    let mut next: VecDeque<_> = files.iter().collect();
    // How many in a row were in use.
    let mut in_use = 0;
    while let Some(file) = next.pop_front() {
        let is_hold = file.read().is_ok_and(|receipt| receipt.is_hold);
        if is_hold && !std::mem::replace(&mut told, true) {
            living::tell_holds(event_loop, recovery, &files);
        }
        match one(event_loop, recovery, file, &seen, until).await {
            Ok(Fate::Settled) => (done, in_use) = (done + 1, 0),
            Ok(Fate::Theirs) => theirs += 1,
            // Whoever uses it may be settled yet, and then it is looked at again.
            Ok(Fate::InUse(_)) if in_use < next.len() => {
                in_use += 1;
                next.push_back(file);
            }
            Ok(Fate::InUse(why)) => left.push(why),
            Ok(Fate::Left(why, hint)) => {
                left.push(why);
                hints.extend(hint);
            }
            Err(error @ Error::Interrupted { .. }) => return Err(error),
            // No reason to leave the others.
            Err(error) => left.push(error.to_string()),
        }
    }
    ReceiptFile::sweep(&state_dir::path(recovery.env));
    if !left.is_empty() {
        if hints.len() < left.len() {
            hints.push(
                "in a CI job, `tfwrap recover --wait 4m` waits for what still runs; `tfwrap status` \
                 shows the lock"
                    .to_owned(),
            );
        }
        let (message, hint) = (left.join("; "), Some(hints.join("; ")));
        return Err(Error::LeftBehind { message, hint });
    }
    if done == 0 && theirs == 0 {
        event_loop.say(Notice::Note { message: "nothing to recover".to_owned() });
    }
    Ok(())
}

/// A first look at what cannot be seen, at all of it before any is waited for: their leases end at the
/// same time, and not one after the other.
async fn first_looks(
    event_loop: &mut EventLoop,
    recovery: &Recovery<'_>,
    files: &[ReceiptFile],
) -> Result<Vec<Watched>, Error> {
    let mut seen = Vec::new();
    let Some(here) = HostScope::here().filter(|_| !recovery.wait.is_zero()) else {
        return Ok(seen);
    };
    for receipt in files.iter().filter_map(|file| file.read().ok()) {
        if receipt.world.seen_from(&here) == Sight::Here || !recovery.may_settle(&receipt, &here) {
            continue;
        }
        match unseen::held(event_loop, recovery, &receipt, Duration::ZERO).await {
            Ok(held) => seen.extend(held),
            Err(error @ Error::Interrupted { .. }) => return Err(error),
            // It is looked at again, and what is wrong is said then.
            Err(_) => {}
        }
    }
    Ok(seen)
}

async fn one(
    event_loop: &mut EventLoop,
    recovery: &Recovery<'_>,
    file: &ReceiptFile,
    seen: &[Watched],
    until: Uptime,
) -> Result<Fate, Error> {
    let receipt = match file.read() {
        Ok(receipt) => receipt,
        // Its run has just ended.
        Err(_) if !file.path().exists() => return Ok(Fate::Settled),
        Err(what) => {
            event_loop.say(
                Notice::warning(format!(
                    "the receipt `{}` is left alone: {what}",
                    file.path().display()
                ))
                .with_hint(
                    "remove it if it is not needed; `tfwrap status` shows the lock".to_owned(),
                ),
            );
            return Ok(Fate::Theirs);
        }
    };
    if receipt.is_over {
        show_log(event_loop, recovery, file);
        remove(event_loop, file);
        return Ok(Fate::Settled);
    }
    let is_of_this_job = recovery.is_of_this_job(&receipt);
    let Some(here) = HostScope::here() else {
        return Ok(left("without `/proc`, tfwrap cannot tell what still runs".to_owned()));
    };
    match receipt.world.seen_from(&here) {
        Sight::Here => {}
        Sight::Elsewhere if recovery.may_settle(&receipt, &here) => {
            match unseen::judge(event_loop, recovery, &receipt, seen, until).await? {
                Verdict::Dead(locks) => {
                    let dead = Dead::Unseen(locks);
                    return give_back(event_loop, recovery, file, (&receipt, dead), until).await;
                }
                Verdict::Unknown { why, hint } => return Ok(Fate::Left(why, Some(hint))),
                Verdict::Lives => {}
            }
            let what = format!(
                "{} still sends heartbeats, from where this machine cannot see it",
                run_of(&receipt)
            );
            if is_of_this_job {
                return Ok(left(what));
            }
            leave(event_loop, recovery, &receipt, &what);
            return Ok(Fate::Theirs);
        }
        Sight::Elsewhere => {
            let what =
                format!("{} belongs to another machine or another container", run_of(&receipt));
            leave(event_loop, recovery, &receipt, &what);
            return Ok(Fate::Theirs);
        }
    }
    if recovery.may_end(&receipt) {
        // What a hold needs to give its locks back is always waited for.
        let until = if receipt.is_hold { until.max(uptime().plus(A_RELEASE)) } else { until };
        living::wait_for(event_loop, &receipt, file, until).await?;
    }
    living::wait_for_start(event_loop, file).await?;
    // It, or its guardian, may have settled it meanwhile.
    let receipt = match file.read() {
        Err(_) if !file.path().exists() => {
            remove(event_loop, file);
            event_loop.say(Notice::Note { message: format!("{} has ended", run_of(&receipt)) });
            return Ok(Fate::Settled);
        }
        read => read.unwrap_or(receipt),
    };
    let child = receipt.living_child();
    if let Some(Unended { what, hint }) = living::unended(&receipt) {
        // Nobody else ends what a dead run left, and its guardian cannot.
        if is_of_this_job || (hint.is_some() && !receipt.runner.is_alive()) {
            return Ok(Fate::Left(what, hint));
        }
        let what = hint.map_or(what.clone(), |hint| format!("{what} ({hint})"));
        leave(event_loop, recovery, &receipt, &what);
        return Ok(Fate::Theirs);
    }
    match child {
        Some(child) if !recovery.may_end(&receipt) => {
            let (run, who, command) = (run_of(&receipt), child.named(), child.end_command());
            // It may have ended while it was named.
            if child.are_gone() {
                return give_back(event_loop, recovery, file, (&receipt, Dead::Here), until).await;
            }
            let why = format!("{run} was killed, and what it started still runs: {who}");
            let end = || format!("end it once with `{command}`, then call `tfwrap recover` again");
            Ok(Fate::Left(why, (!is_of_this_job).then(end)))
        }
        None if receipt.starting_since.is_some() => Ok(left(format!(
            "{} was killed while it started a command, and tfwrap cannot tell whether that command \
             runs: check with `ps`; if it does not run, finish with: `{}`",
            run_of(&receipt),
            last_commands(&receipt, file).join("; ")
        ))),
        _ => give_back(event_loop, recovery, file, (&receipt, Dead::Here), until).await,
    }
}

/// What a person does who has seen that nothing runs.
fn last_commands(receipt: &Receipt, file: &ReceiptFile) -> Vec<String> {
    let remove = format!("rm {}", shell_quote(&file.path().display().to_string()));
    unlock_commands(receipt).chain([remove]).collect()
}

/// None where all is inherited.
fn unlock_commands(receipt: &Receipt) -> impl Iterator<Item = String> {
    receipt.own().map(|entry| entry.target.unlock_command(&entry.id))
}

pub(super) fn run_of(receipt: &Receipt) -> String {
    let what = if receipt.is_hold { "hold" } else { "run" };
    format!(
        "the {what} of process {} (since {})",
        receipt.runner.pid,
        to_the_second(&receipt.began)
    )
}

/// Says of a run that is none of our business whose it is.
pub(super) fn leave(
    event_loop: &EventLoop,
    recovery: &Recovery<'_>,
    receipt: &Receipt,
    what: &str,
) {
    let whose = match (&receipt.job, &recovery.job) {
        (Some(theirs), Some(ours)) if theirs == ours => "it belongs to this CI job",
        (Some(_), Some(_)) => "it belongs to another CI job",
        (Some(_), None) => "it belongs to a CI job, and this is not a CI job",
        (None, Some(_)) => "it belongs to no CI job, and this is a CI job",
        (None, None) => "neither it nor this `recover` belongs to a CI job",
    };
    let locks: Vec<_> =
        receipt.own().map(|it| format!("`{}` (ID {})", it.target.url(), it.id)).collect();
    let holds = if locks.is_empty() {
        "holds no lock of its own".to_owned()
    } else {
        format!("holds or waits for {}", locks.join(", "))
    };
    event_loop.say(Notice::Note { message: format!("left alone: {what}; it {holds}; {whose}") });
}

/// Gives back what a dead run held, after ending what still runs of it, where that is here.
async fn give_back(
    event_loop: &mut EventLoop,
    recovery: &Recovery<'_>,
    file: &ReceiptFile,
    (receipt, dead): (&Receipt, Dead),
    until: Uptime,
) -> Result<Fate, Error> {
    let leave = take_leave(event_loop, file, until).await?;
    if matches!(leave, Leave::Theirs) {
        return Ok(Fate::InUse(format!("another process is still ending {}", run_of(receipt))));
    }
    // Whoever had it before us may have changed it, or settled it.
    let receipt = &match file.read() {
        Err(_) if !file.path().exists() => {
            remove(event_loop, file);
            return Ok(Fate::Settled);
        }
        Ok(receipt) if receipt.is_over => {
            show_log(event_loop, recovery, file);
            remove(event_loop, file);
            return Ok(Fate::Settled);
        }
        read => read.unwrap_or_else(|_| receipt.clone()),
    };
    let is_here = matches!(dead, Dead::Here);
    let child = receipt.child.filter(|child| is_here && !child.are_gone());
    // What it had inherited is not given back here.
    let own = receipt.own_ids();
    let dir = file.path().parent().unwrap_or(Path::new("/"));
    let in_use = || {
        let who = dependents::anybody(dir, &own)?;
        let run = who.run();
        let end = dependents::end_command(dir, &own);
        let end = end.map_or_else(String::new, |end| format!(" (to end it: `{end}`)"));
        Some(Fate::InUse(format!("{who} {run} under a lock of {}{end}", run_of(receipt))))
    };
    if let Some(in_use) = in_use() {
        return Ok(in_use);
    }
    show_log(event_loop, recovery, file);
    if is_here && child.is_none() && receipt.child.is_some() {
        // Nobody was told of its end: whoever killed it may have cut off a request just now.
        event_loop.pause(uptime().plus(SETTLE)).await?;
        if let Some(in_use) = in_use() {
            return Ok(in_use);
        }
    }
    let mut released = 0;
    if let Dead::Unseen(locks) = dead {
        released = match unseen::give_back(event_loop, locks).await? {
            Ok(released) => released,
            Err(why) => return Ok(left(why)),
        };
    }
    let head = Head { child, interrupts: receipt.interrupts, ..Head::default() };
    let mut case = Case::of_the_dead(file, receipt, until.since(uptime()));
    if child.is_some() {
        for entry in &receipt.locks {
            // Without an answer the lock is kept all the same; the store is asked again.
            if let Ok(Some(lease)) =
                living::lease_of(event_loop, entry, receipt, recovery.env).await
            {
                case.declared(entry, lease);
            }
        }
    }
    let adopted = adopt(event_loop, &head, &case, recovery.env, true).await;
    match (adopted.child, child) {
        (Ended::LeftBy(signal), _) => return Err(interrupted(signal, receipt)),
        (Ended::Stuck, Some(child)) => {
            return Ok(left(format!(
                "what {} started does not end, even after SIGKILL: {}",
                run_of(receipt),
                child.named()
            )));
        }
        _ => {}
    }
    if adopted.left.is_empty() {
        remove(event_loop, file);
        let what = match released + adopted.released {
            0 => "it no longer held anything".to_owned(),
            1 => "its lock is released".to_owned(),
            count => format!("its {count} locks are released"),
        };
        let message = format!("settled {}: {what}", run_of(receipt));
        event_loop.say(Notice::Note { message });
        return Ok(Fate::Settled);
    }
    let why = format!("a lock of {} could not be released", run_of(receipt));
    let is_for_the_kernel = adopted.left.iter().all(|entry| entry.target.is_kept_by_kernel());
    let hint = is_for_the_kernel
        .then(|| "once no process has the state locked, call `tfwrap recover` again".to_owned());
    Ok(Fate::Left(why, hint))
}

fn interrupted(signal: StopSignal, receipt: &Receipt) -> Error {
    let signal = signal.signal();
    Error::Interrupted {
        signal: signal as i32,
        name: signal.as_str().to_owned(),
        leftover: Leftover::Run(run_of(receipt)),
    }
}

pub(super) fn remove(event_loop: &EventLoop, file: &ReceiptFile) {
    if let Err(error) = file.remove() {
        event_loop.say(
            Notice::warning(format!(
                "the receipt `{}` cannot be removed: {error}",
                file.path().display()
            ))
            .with_hint("the receipt no longer allows anything".to_owned()),
        );
    }
}

/// Says what a keeper or a guardian said while nobody was there, each line once.
pub(super) fn show_log(event_loop: &EventLoop, recovery: &Recovery<'_>, file: &ReceiptFile) {
    // A keeper may have been started on a terminal.
    let log = anstream::adapter::strip_str(&file.read_log()).to_string();
    let mut shown = recovery.shown.0.borrow_mut();
    let shown = shown.entry(file.path().to_owned()).or_default();
    for line in log.lines().skip(*shown) {
        let line = line.strip_prefix("tfwrap: ").unwrap_or(line);
        event_loop.say(Notice::Note { message: format!("earlier: {line}") });
    }
    *shown = log.lines().count().max(*shown);
}

/// Settles the receipt of a hold, whoever's it is; returns why not yet, where that is for time to tell.
pub(super) async fn finish(
    event_loop: &mut EventLoop,
    recovery: &Recovery<'_>,
    file: &ReceiptFile,
) -> Result<Option<String>, Error> {
    match one(event_loop, recovery, file, &[], uptime().plus(recovery.wait)).await? {
        Fate::Settled => Ok(None),
        Fate::InUse(why) => Ok(Some(why)),
        Fate::Theirs => Err(Error::LeftBehind {
            message: "the hold belongs to another machine or container and cannot be ended from \
                      here"
                .to_owned(),
            hint: Some("`tfwrap status` shows the lock, `tfwrap unlock ID` removes it".to_owned()),
        }),
        Fate::Left(message, hint) => Err(Error::LeftBehind { message, hint }),
    }
}
