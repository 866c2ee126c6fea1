//! What outlives us: the receipt on the disk, and the guardian. Both are told about every step
//! before it is taken.

mod anew;
mod case;
mod lent;
mod on_disk;
mod requests;

pub(crate) use case::{Case, CaseTenure};
pub(crate) use lent::Use;

use case::millis;
use lent::Lent;
use on_disk::OnDisk;

use super::door::Door;
use super::fail_point;
use super::kept::Kept;
use nix::sys::signal::Signal;

use crate::clock::uptime;
use crate::env::Env;
use crate::error::Error;
use crate::guardian::{self, Guardian, Head, Heard};
use crate::held::Held;
use crate::lock::LockId;
use crate::lock::lease::LeaseTerm;
use crate::receipt::{Beginning, Entry, Receipt, ReceiptFile};
use crate::report::Notice;
use crate::state_dir;
use crate::supervise::ending::Interrupts;
use crate::supervise::{Announce, ProcessTree};
use crate::target::LockTarget;

/// How often a guardian that ended is replaced.
const MOST_GUARDIANS: u32 = 5;

/// Keeps the receipt and the guardian up to date. Without either it does what is left.
pub(crate) struct Custody {
    guardian: Option<Guardian>,
    guardians: u32,
    file: Option<ReceiptFile>,
    on_disk: OnDisk,
    receipt: Option<Receipt>,
    head: Head,
    tenures: Vec<CaseTenure>,
    lent: Lent,
    /// What to do where there is no place for the receipt.
    hint: Option<String>,
    /// Why there is no receipt, or an old one, where it was said.
    no_receipt: Option<String>,
    /// Why a guardian could not be told.
    why_untold: Option<String>,
    /// Whether the receipt stays at the end.
    leaves_word: bool,
    /// Whether the child has leave to go on without its lock.
    pub(super) outlives_loss: bool,
}

impl Custody {
    /// For commands that hold nothing.
    pub(crate) fn none() -> Self {
        Self {
            guardian: None,
            guardians: 0,
            file: None,
            on_disk: OnDisk::Nothing,
            receipt: None,
            head: Head::default(),
            tenures: Vec::new(),
            lent: Lent::default(),
            hint: None,
            no_receipt: None,
            why_untold: None,
            leaves_word: false,
            outlives_loss: false,
        }
    }

    /// Begins, in the runtime, with a guardian that was started before it; and says what is
    /// missing.
    pub(crate) fn new(
        started: std::io::Result<guardian::Started>,
        beginning: Beginning,
        env: &Env,
    ) -> (Self, Vec<Notice>) {
        let mut notices = Vec::new();
        let mut custody = Self::none();
        if !fail_point::is_off("guardian") {
            match started.and_then(guardian::Started::register) {
                Ok(guardian) => custody.guardian = Some(guardian),
                Err(error) => notices.push(no_guardian(&error.to_string())),
            }
        }
        custody.guardians = 1;
        custody.head.grace = millis(beginning.orphan_grace);
        custody.receipt = Receipt::begin(beginning);
        custody.hint = state_dir::hint(!Held::from_env(env).is_empty());
        if custody.receipt.is_none() {
            custody.hint =
                Some("mount the `/proc` of this PID namespace (`unshare --mount-proc`)".into());
            notices.push(custody.no_receipt("there is no `/proc` that shows this process"));
        }
        match state_dir::secured(env) {
            _ if fail_point::is_off("receipts") => {}
            Ok(dir) => custody.file = Some(ReceiptFile::new_in(&dir)),
            Err(what) => notices.push(custody.no_receipt(&what)),
        }
        custody.head.receipt = custody.file.as_ref().map(|file| file.path().to_owned());
        if let (Some(receipt), Some(guardian)) = (&mut custody.receipt, &custody.guardian) {
            receipt.guardian = guardian.process();
        }
        (custody, notices)
    }

    /// The receipt's file.
    pub(crate) fn file(&self) -> Option<ReceiptFile> {
        self.file.clone()
    }

    /// What a child that is about to start tells the guardian.
    pub(crate) fn announce(&self) -> Option<Announce> {
        self.guardian.as_ref().map(Guardian::announce)
    }

    /// Before a lock is asked for under this ID, or after it was found to be held for us.
    pub(crate) fn ask(&mut self, target: &LockTarget, id: &LockId, inherited: bool) -> Vec<Notice> {
        let Some(receipt) = &mut self.receipt else { return Vec::new() };
        receipt.locks.push(Entry { target: target.clone(), id: id.clone(), inherited });
        let notices = self.write();
        self.tell();
        notices
    }

    /// Whether it knows of no lock, not even an inherited one.
    pub(crate) fn is_lockless(&self) -> bool {
        self.receipt.as_ref().is_none_or(|receipt| receipt.locks.is_empty())
    }

    /// Before a request that may make the lock ours; `unanswered`: so may an earlier one. Whoever
    /// takes over looks for it, until it is known to be answered.
    pub(crate) fn asked(&mut self, target: &LockTarget, id: &LockId, unanswered: bool) {
        let asked = CaseTenure { unanswered, ..CaseTenure::asked(target, id) };
        if self.receipt.is_some() && !self.tenures.contains(&asked) {
            self.tenures.retain(|tenure| !tenure.is_of(target, id));
            self.tenures.push(asked);
            self.tell();
        }
    }

    /// Every such request was answered, and the lock is not ours: nothing can land.
    pub(crate) fn answered(&mut self, target: &LockTarget, id: &LockId) {
        let before = self.tenures.len();
        self.tenures.retain(|tenure| tenure.granted || !tenure.is_of(target, id));
        if self.tenures.len() < before {
            self.tell();
        }
    }

    /// The lock with this ID is given back, or never became ours and will not.
    pub(crate) fn forget(&mut self, target: &LockTarget, id: &LockId) {
        let Some(receipt) = &mut self.receipt else { return self.lent.forget(id) };
        receipt.locks.retain(|entry| entry.id != *id || entry.target.url() != target.url());
        // The other half of it may be there still.
        if receipt.locks.iter().all(|entry| entry.id != *id) {
            self.lent.forget(id);
        }
        let is_last = receipt.locks.is_empty();
        self.tenures.retain(|tenure| !tenure.is_of(target, id));
        // The last goes with the file, and the guardian with it: until then it finds nothing.
        if !is_last {
            let _said_before = self.write();
            self.tell();
        }
    }

    /// The lock was given back, but a request that was never answered may still make it ours.
    pub(crate) fn may_return(&mut self, target: &LockTarget, id: &LockId) {
        self.tenures.retain(|tenure| !tenure.is_of(target, id));
        if self.receipt.is_some() {
            self.tenures.push(CaseTenure::asked(target, id));
            self.tell();
        }
    }

    /// Whether a lock may still become ours by a request that was never answered.
    fn may_land(&self) -> bool {
        self.tenures.iter().any(|tenure| !tenure.granted)
    }

    /// Whether this very lock is in the receipt as one that is held for us under this ID.
    pub(super) fn has_inherited(&self, target: &LockTarget, id: &LockId) -> bool {
        let register = target.register();
        let mut inherited = self.receipt.iter().flat_map(Receipt::inherited);
        inherited.any(|it| it.id == *id && it.target.register().may_be(&register))
    }

    /// Holds on to a descriptor.
    pub(crate) fn lend(&mut self, id: &LockId, held: Use) {
        if let Err(error) = self.lent.add(self.guardian.as_ref(), id, held) {
            self.untold(&error);
        }
    }

    /// The door of a lock of ours.
    pub(super) fn door(&self, id: &LockId) -> Option<&Door> {
        self.lent.door(id)
    }

    /// Lets the child that is about to start inherit what it works under; ends with it.
    pub(super) fn pass_on(&self, inherited: bool) {
        self.lent.pass_on(inherited);
    }

    /// Nothing of ours works under a lock of somebody else's any more.
    pub(super) fn leave_all(&mut self) {
        self.lent.leave_all();
    }

    /// Whether the receipt lies on the disk.
    pub(super) fn is_written(&self) -> bool {
        self.on_disk == OnDisk::Receipt
    }

    /// For what nobody would find again without a receipt.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn expect_receipt(&self) -> Result<(), Error> {
        if self.is_written() || fail_point::is_off("receipts") {
            return Ok(());
        }
        let why = self.no_receipt.as_deref().unwrap_or("it was not written");
        Err(Error::Config {
            message: format!(
                "a hold needs its receipt, because `tfwrap release` finds the hold by it: {why}"
            ),
            hint: self.hint.clone(),
        })
    }

    /// Takes what the keepers know.
    pub(super) fn sync(&mut self, kept: &[Kept]) {
        if self.receipt.is_none() {
            return;
        }
        let mut kill_at = None;
        let mut tenures = Vec::new();
        for kept in kept {
            let mut tenure = CaseTenure::asked(&kept.target, kept.id());
            tenure.granted = true;
            tenure.unanswered = kept.left_open.is_some();
            tenure.removed = kept.tenure.is_releasing();
            tenure.renewed = millis(kept.since.0);
            if let Some(keeper) = kept.tenure.keeper() {
                let (renewed, term) = keeper.renewed();
                tenure.renewed = millis(renewed.0);
                tenure.beat = keeper.sent_beat();
                // With the lock gone and leave to go on, the fence protects nothing, whoever has it.
                let is_spared = self.outlives_loss && keeper.is_lost();
                if let (LeaseTerm::After(ttl), false) = (term, is_spared) {
                    tenure.ttl = Some(millis(ttl));
                }
                let at = keeper.kill_at().filter(|_| !is_spared).map(|at| millis(at.0));
                kill_at = kill_at.into_iter().chain(at).min();
            }
            tenures.push(tenure);
        }
        let asked = |it: &&CaseTenure| {
            !it.granted && !tenures.iter().any(|new| (&new.id, &new.lock) == (&it.id, &it.lock))
        };
        let asked: Vec<_> = self.tenures.iter().filter(asked).cloned().collect();
        tenures.extend(asked);
        if matches!(self.on_disk, OnDisk::Stale | OnDisk::Refused) {
            let _said_before = self.write();
        }
        if (kill_at, &tenures) != (self.head.kill_at, &self.tenures) {
            self.head.kill_at = kill_at;
            self.tenures = tenures;
            self.tell();
        }
    }

    /// A child is about to be started: from here on nobody may believe that there is none because
    /// the receipt names none. The guardian hears of it from the child itself.
    ///
    /// # Errors
    /// Somebody would. Then it must not be started.
    pub(crate) fn child_starts(&mut self) -> Result<Vec<Notice>, Error> {
        if let Some(receipt) = &mut self.receipt {
            (receipt.child, receipt.starting_since) = (None, Some(millis(uptime().0)));
        }
        let notices = self.write_or_withdraw();
        let expected = self.expect_no_stale_receipt();
        if let (Err(_), Some(receipt)) = (&expected, &mut self.receipt) {
            receipt.starting_since = None;
        }
        expected.map(|()| notices)
    }

    /// The child runs.
    pub(crate) fn child_runs(&mut self, child: Option<ProcessTree>) -> Vec<Notice> {
        self.head.interrupts = Interrupts::None;
        if let Some(receipt) = &mut self.receipt {
            receipt.interrupts = Interrupts::None;
            receipt.is_stopping = false;
        }
        self.child_is(child)
    }

    /// The child has ended, and no request of its is in flight any more. What lives on of its group
    /// it has left on purpose: whoever takes over leaves it alone, and does not wait.
    pub(crate) fn child_is_gone(&mut self) -> Vec<Notice> {
        self.child_is(None)
    }

    fn child_is(&mut self, child: Option<ProcessTree>) -> Vec<Notice> {
        self.head.child = child;
        if let Some(receipt) = &mut self.receipt {
            (receipt.child, receipt.starting_since) = (child, None);
        }
        let notices = self.write();
        self.tell();
        notices
    }

    /// The receipt stays when all is given back, with what was said and nobody heard.
    pub(crate) fn leave_word(&mut self) {
        self.leaves_word = true;
        if let Some(receipt) = &mut self.receipt {
            receipt.locks.retain(|entry| !entry.inherited);
            receipt.is_over = receipt.locks.is_empty();
        }
        if let (Some(file), Some(receipt)) = (&self.file, &self.receipt) {
            // Then nobody is told; nothing else depends on it.
            drop(file.write(receipt));
        }
    }

    /// All is over. What is still in the receipt could not be given back. Where a request that was
    /// never answered may still make a lock ours, the guardian looks on.
    pub(crate) fn finish(&mut self) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.lent.leave_all();
        // What was inherited is given back by whoever has it.
        let is_done =
            !self.leaves_word && self.receipt.as_ref().is_none_or(|it| it.own().next().is_none());
        if is_done
            && let Some(file) = self.file.as_ref().filter(|_| self.on_disk.is_there())
            && let Err(error) = file.remove()
        {
            let path = file.path().display();
            notices.push(
                Notice::warning(format!("the receipt `{path}` cannot be removed: {error}"))
                    .with_hint(
                        "this does no harm: the receipt no longer allows anything".to_owned(),
                    ),
            );
        }
        if !self.may_land()
            && let Some(guardian) = self.guardian.take()
        {
            // One that is gone needs no dismissal.
            drop(guardian.dismiss());
        }
        self.guardian = None;
        notices
    }

    /// The next thing that the guardian tells.
    pub(crate) async fn heard(&mut self) -> Heard {
        match &mut self.guardian {
            Some(guardian) => guardian.heard().await,
            None => std::future::pending().await,
        }
    }

    /// Starts another guardian in the place of one that ended.
    pub(crate) fn replace(&mut self) -> Option<Notice> {
        let gone = self.guardian.take();
        if self.guardians >= MOST_GUARDIANS {
            let why = gone.as_ref().and_then(Guardian::why_gone).or(self.why_untold.as_deref());
            return Some(no_guardian(why.unwrap_or("it ended repeatedly")));
        }
        self.guardians += 1;
        match guardian::Started::new().and_then(guardian::Started::register) {
            Ok(guardian) => {
                if let Some(receipt) = &mut self.receipt {
                    receipt.guardian = guardian.process();
                }
                let lent = self.lent.again(&guardian);
                self.guardian = Some(guardian);
                if let Err(error) = lent {
                    self.untold(&error);
                }
                // At once: until it knows all, nobody would end the run.
                self.tell();
                let _said_before = self.write();
                None
            }
            Err(error) => Some(no_guardian(&error.to_string())),
        }
    }

    fn tell(&mut self) {
        let (Some(guardian), Some(receipt)) = (&self.guardian, &self.receipt) else { return };
        let told = match self.case(receipt, &self.tenures) {
            _ if fail_point::is_off("tell") => Err(std::io::Error::other("not to be told")),
            Ok(case) => guardian.tell(&self.head, &case),
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            self.untold(&error);
        }
        fail_point::crash();
    }

    fn case(&self, receipt: &Receipt, tenures: &[CaseTenure]) -> std::io::Result<Vec<u8>> {
        let file = self.file.as_ref().map(|file| file.path().to_owned());
        let case = Case { file, receipt: receipt.clone(), tenures: tenures.to_vec() };
        Ok(serde_json::to_vec(&case)?)
    }

    /// One that is gone is replaced when that is heard, and then told all. So is one that could not
    /// be told, for instance since it does not read: what it knows would be wrong when it is needed.
    fn untold(&mut self, error: &std::io::Error) {
        if guardian::is_gone(error) {
            return;
        }
        self.why_untold = Some(error.to_string());
        if let Some(process) = self.guardian.as_ref().and_then(Guardian::process) {
            drop(process.signal(Signal::SIGKILL));
        }
    }
}

fn no_guardian(why: &str) -> Notice {
    Notice::warning(format!(
        "no guardian watches this run ({why}): if tfwrap is killed, Terraform keeps running and \
         the lock stays until its lease expires"
    ))
    .with_hint("if that happens, run `tfwrap recover`".to_owned())
}
