//! Receipts: what a run that was killed leaves for `recover`, and for its guardian.
//!
//! A receipt is written before the first lock is asked for and removed when the last is given
//! back. What it allows is bound to lock IDs: a job that never got the lock releases nothing, and
//! one that was robbed since deletes nothing. So a stale or a forged one is harmless. Arguments,
//! environment and secrets are not in it.
//!
//! It is replaced as a whole by a rename, so a crash of the program leaves the old one or the new
//! one; where nothing new can be made (a full disk, a directory that is read-only), the new one is
//! written over the old. It is not forced to the disk: after a loss of power its processes are gone anyway, and the
//! lock goes with its lease, or with `tfwrap unlock`.
//!
//! Its rules: `docs/protocol.md#k2-the-file`.

mod beside;
pub(crate) mod starting;

pub use beside::Acting;

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::lock::LockId;
use crate::opened::{self, Kind, Opened};
use crate::supervise::ending::Interrupts;
use crate::supervise::{HostScope, ProcessId, ProcessTree};
use crate::target::LockTarget;

/// The form that this program writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// No receipt of ours is longer.
const LONGEST: usize = 256 * 1024;

/// How much more than it needs a receipt takes on the disk, in bytes: what is noted of its child and
/// its guardian later fits over it.
const ROOM: usize = 1024;

/// How long what a guardian said is kept for `recover`.
const SETTLED_FOR: Duration = Duration::from_hours(7 * 24);

const PREFIX: &str = "run-";
const SUFFIX: &str = ".json";
const LOG: &str = "log";

/// What a run holds, and who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    format: u32,
    /// Where its processes can be seen.
    pub world: HostScope,
    /// A value that only processes of the same CI job have: hashed, since some of them are keys.
    pub job: Option<String>,
    /// The directory whose backend it is, from where what is secret is read anew.
    #[serde(with = "crate::path_text")]
    pub dir: PathBuf,
    /// When it began, for people.
    pub began: String,
    /// Terraform's word for what it does.
    pub operation: String,
    /// The process that holds the locks.
    pub runner: ProcessId,
    /// What ends the run when that is killed.
    pub guardian: Option<ProcessId>,
    /// What runs under the locks.
    pub child: Option<ProcessTree>,
    /// Since when something is about to be started that is not in `child` yet, in milliseconds of
    /// uptime: then that there is none there proves nothing.
    #[serde(default)]
    pub starting_since: Option<u64>,
    /// Whether that was interrupted; written before it is.
    #[serde(default = "not_known")]
    pub interrupts: Interrupts,
    /// Whether nothing more is started below it, whatever a script between the two does: a stop met a
    /// Terraform there or came to the script too, or its tfwrap is gone
    /// (`docs/protocol.md#t5-nothing-is-started-below-a-run-that-was-asked-to-end`).
    #[serde(default)]
    pub is_stopping: bool,
    /// Whether this is what `hold` left behind.
    pub is_hold: bool,
    /// Of a hold: those in whose environment it was begun, by their names ([`ReceiptFile::name`]). It
    /// is below them if it has their lock, and beside them if it took its own.
    #[serde(default)]
    pub within: Vec<String>,
    /// Whether all is given back, and the receipt is kept for what was said meanwhile.
    #[serde(default)]
    pub is_over: bool,
    /// How long Terraform may take to end after the runner was killed, in milliseconds.
    pub orphan_grace: u64,
    /// All locks and IDs that were asked for and not given back.
    pub locks: Vec<Entry>,
}

/// One lock of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which lock, and how to open its store.
    pub target: LockTarget,
    /// Under which ID it was asked for; nothing under another one is ever touched.
    pub id: LockId,
    /// Whether an outer run or a `hold` has it, which gives it back.
    pub inherited: bool,
}

/// What is known when a run begins.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// See [`Receipt::job`]; not yet hashed.
    pub job: Option<String>,
    /// See [`Receipt::dir`].
    pub dir: PathBuf,
    /// See [`Receipt::began`].
    pub began: String,
    /// See [`Receipt::operation`].
    pub operation: String,
    /// See [`Receipt::is_hold`].
    pub is_hold: bool,
    /// See [`Receipt::within`].
    pub within: Vec<String>,
    /// See [`Receipt::orphan_grace`].
    pub orphan_grace: Duration,
}

impl Receipt {
    /// What lives on of the child.
    #[must_use]
    pub fn living_child(&self) -> Option<ProcessTree> {
        self.child.filter(|child| !child.are_gone())
    }

    /// The locks that this run gives back itself.
    pub fn own(&self) -> impl Iterator<Item = &Entry> {
        self.locks.iter().filter(|entry| !entry.inherited)
    }

    /// Their IDs, each once: the halves of a pair have one.
    #[must_use]
    pub fn own_ids(&self) -> Vec<LockId> {
        let mut ids = Vec::new();
        for entry in self.own() {
            if !ids.contains(&entry.id) {
                ids.push(entry.id.clone());
            }
        }
        ids
    }

    /// The locks that an outer run or a `hold` gives back.
    pub fn inherited(&self) -> impl Iterator<Item = &Entry> {
        self.locks.iter().filter(|entry| entry.inherited)
    }

    /// Begins one for this process; nothing without a `/proc` that tells who we are.
    #[must_use]
    pub fn begin(beginning: Beginning) -> Option<Self> {
        let Beginning { job, dir, began, operation, is_hold, within, orphan_grace } = beginning;
        Some(Self {
            format: FORMAT,
            world: HostScope::here()?,
            job: job.as_deref().map(job_hash),
            dir,
            began,
            operation,
            runner: ProcessId::me()?,
            guardian: None,
            child: None,
            starting_since: None,
            interrupts: Interrupts::None,
            is_stopping: false,
            is_hold,
            within,
            is_over: false,
            orphan_grace: u64::try_from(orphan_grace.as_millis()).unwrap_or(u64::MAX),
            locks: Vec::new(),
        })
    }
}

fn not_known() -> Interrupts {
    Interrupts::Maybe
}

/// The form in which a job's own value is kept.
#[must_use]
pub fn job_hash(job: &str) -> String {
    Sha256::digest(job.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// The file of a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptFile(PathBuf);

impl ReceiptFile {
    /// A new one in this directory of ours.
    #[must_use]
    pub fn new_in(dir: &Path) -> Self {
        Self(dir.join(format!("{PREFIX}{}{SUFFIX}", uuid::Uuid::new_v4())))
    }

    /// One that is known by its path.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What tells it from all others.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)
    }

    /// Where lines about the run go that nobody was there to read.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.with_extension(LOG)
    }

    /// Writes it as a whole, beside the one that is there or, where that cannot be, over it.
    ///
    /// # Errors
    /// The directory is gone, the disk is read-only, or full before there was one; or it would be so
    /// long that nobody reads it. What was there is still there.
    pub fn write(&self, receipt: &Receipt) -> io::Result<()> {
        let text = text_of(receipt)?;
        let aside = self.0.with_extension(beside::NEXT);
        let written = fresh(&aside).and_then(|mut file| file.write_all(&text));
        written.and_then(|()| fs::rename(&aside, &self.0)).or_else(|error| {
            // Half a receipt is none.
            drop(fs::remove_file(&aside));
            self.write_over(text).map_err(|_| error)
        })
    }

    /// What is there keeps its length: nothing more of the disk is needed, nor of the directory.
    fn write_over(&self, mut text: Vec<u8>) -> io::Result<()> {
        let file = open_ours(OpenOptions::new().write(true), &self.0).map_err(io::Error::other)?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let text_ends = text.trim_ascii_end().len();
        if text_ends > length || length > LONGEST {
            return Err(io::ErrorKind::StorageFull.into());
        }
        text.resize(length, b' ');
        file.write_all_at(&text, 0)
    }

    /// Removes it alone, where it is no longer true.
    ///
    /// # Errors
    /// When it cannot be removed; that it is gone already is none.
    pub fn withdraw(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads it: a regular file of ours that nobody else can write. A child that a dead tfwrap was about
    /// to start is looked for.
    ///
    /// # Errors
    /// In words: what is wrong with it.
    pub fn read(&self) -> Result<Receipt, String> {
        let mut text = String::new();
        let file = open_ours(OpenOptions::new().read(true), &self.0)?;
        let most = LONGEST as u64 + 1;
        file.take(most).read_to_string(&mut text).map_err(|error| error.to_string())?;
        if text.len() > LONGEST {
            return Err("it is too long to be one".to_owned());
        }
        let mut receipt: Receipt =
            serde_json::from_str(&text).map_err(|error| format!("it cannot be read: {error}"))?;
        if receipt.format != FORMAT {
            return Err(format!(
                "it has the format {}, which this version does not know",
                receipt.format
            ));
        }
        starting::look_for(&mut receipt);
        Ok(receipt)
    }

    /// Opens the file for what will be said while nobody is there.
    ///
    /// # Errors
    /// The disk is full, the directory is read-only, or gone.
    pub fn open_log(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let log = open_ours(&mut options, &self.log()).map_err(io::Error::other)?;
        opened::keep_for_owner(&log)?;
        Ok(log)
    }

    /// What was said while nobody was there.
    #[must_use]
    pub fn read_log(&self) -> String {
        let mut text = Vec::new();
        if let Ok(file) = open_ours(OpenOptions::new().read(true), &self.log()) {
            // What can be read of it is better than nothing.
            drop(file.take(LONGEST as u64).read_to_end(&mut text));
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Removes it, and what lies beside it.
    ///
    /// # Errors
    /// When it cannot be removed; that it is gone already is none.
    pub fn remove(&self) -> io::Result<()> {
        drop(fs::remove_file(self.log()));
        for beside in beside::ALL {
            drop(fs::remove_file(self.0.with_extension(beside)));
        }
        self.withdraw()
    }

    /// Removes what was settled long ago and nobody asked about, and what a kill has left of a receipt
    /// that never came to be, or beside one that is gone.
    pub fn sweep(dir: &Path) {
        let is_old = |path: &Path| {
            let written = fs::metadata(path).and_then(|metadata| metadata.modified());
            written.ok().and_then(|at| at.elapsed().ok()).unwrap_or_default() > SETTLED_FOR
        };
        // Housekeeping: what cannot be read or removed stays.
        for file in Self::all_in(dir).unwrap_or_default() {
            if is_old(&file.0) && file.read().is_ok_and(|receipt| receipt.is_over) {
                drop(file.remove());
            }
        }
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let left = entry.path();
            let is_a = |kind: &str| left.extension().is_some_and(|it| it == kind);
            let is_beside = is_a(LOG) || beside::ALL.into_iter().any(is_a);
            let is_ours = is_beside && entry.file_name().to_string_lossy().starts_with(PREFIX);
            let has_receipt = || !is_a(beside::NEXT) && left.with_extension("json").exists();
            if is_ours && is_old(&left) && !has_receipt() {
                drop(fs::remove_file(left));
            }
        }
    }

    /// The receipts in this directory that can be read; none without the directory. What cannot be read,
    /// `recover` tells.
    pub fn readable_in(dir: &Path) -> impl Iterator<Item = Receipt> {
        let files = Self::all_in(dir).unwrap_or_default();
        files.into_iter().filter_map(|file| file.read().ok())
    }

    /// All in this directory, the oldest first where names do not say otherwise.
    ///
    /// # Errors
    /// When the directory cannot be read; that there is none means that there are no receipts.
    pub fn all_in(dir: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
                let written = entry.metadata().and_then(|metadata| metadata.modified()).ok();
                found.push((written, Self(entry.path())));
            }
        }
        found.sort_by(|a, b| (&a.0, &a.1.0).cmp(&(&b.0, &b.1.0)));
        Ok(found.into_iter().map(|(_, file)| file).collect())
    }
}

/// What lies on the disk, with its room.
fn text_of(receipt: &Receipt) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(receipt)?;
    let room = (text.len() + ROOM).next_multiple_of(ROOM);
    if room > LONGEST {
        let length = text.len();
        return Err(io::Error::other(format!("{length} bytes, more than tfwrap reads of one")));
    }
    text.resize(room, b' ');
    Ok(text)
}

/// Opens a file to be written anew, whatever lies there.
fn fresh(path: &Path) -> io::Result<File> {
    match opened::make(path) {
        // Left by a crash, or put there: a link is removed and not followed.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            opened::make(path)
        }
        opened => opened,
    }
}

fn open_ours(options: &mut OpenOptions, path: &Path) -> Result<File, String> {
    let opened =
        opened::with(options, libc::O_NOFOLLOW, path).map_err(|error| error.to_string())?;
    if opened.kind() != Kind::Regular {
        return Err(format!("it is {}, not a regular file", opened.kind()));
    }
    let Opened { file, metadata } = opened;
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(format!("it belongs to user {}", metadata.uid()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err("others can read or write it".to_owned());
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
