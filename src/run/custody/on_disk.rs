//! The receipt on the disk, which may be full.

use std::io::ErrorKind;

use super::Custody;
use crate::error::Error;
use crate::report::Notice;
use crate::run::fail_point;
use crate::state_dir;

/// What helps in every directory where a file may not be so long.
const LARGER_FILES: &str = "raise the limit on the size of files (`ulimit -f`)";

/// What lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDisk {
    Nothing,
    /// Nothing, since it cannot be written (a full disk). That was said.
    Refused,
    Receipt,
    /// An earlier one, since this one cannot be written. That was said.
    Stale,
}

impl OnDisk {
    pub(super) fn is_there(self) -> bool {
        matches!(self, Self::Receipt | Self::Stale)
    }
}

impl Custody {
    /// Writes the receipt again if somebody removed it; whether that was so.
    pub(crate) fn mend(&mut self) -> bool {
        let lost = match &self.file {
            Some(file) if self.on_disk.is_there() => !file.path().exists(),
            _ => return false,
        };
        let dir = self.file.as_ref().and_then(|file| file.path().parent());
        if !lost || dir.is_none_or(|dir| state_dir::secure(dir).is_err()) {
            return false;
        }
        let _said_before = self.write();
        self.is_written()
    }

    /// Writes the receipt where there is something in it.
    pub(super) fn write(&mut self) -> Vec<Notice> {
        let (Some(file), Some(receipt)) = (&self.file, &self.receipt) else { return Vec::new() };
        if receipt.locks.is_empty() {
            return Vec::new();
        }
        let written = file.write(receipt);
        fail_point::crash();
        let Err(error) = written else {
            self.on_disk = OnDisk::Receipt;
            return Vec::new();
        };
        let why = format!("`{}`: {error}", file.path().display());
        match self.on_disk {
            OnDisk::Nothing => {
                self.on_disk = OnDisk::Refused;
                if error.kind() == ErrorKind::FileTooLarge {
                    // In any other directory, too.
                    self.hint = Some(LARGER_FILES.to_owned());
                }
                vec![self.no_receipt(&why)]
            }
            OnDisk::Receipt => {
                self.on_disk = OnDisk::Stale;
                let notice = stale_receipt(&why);
                self.no_receipt = Some(why);
                vec![notice]
            }
            // Said before.
            OnDisk::Refused | OnDisk::Stale => Vec::new(),
        }
    }

    /// The same, where one that does not say this must not stay: whoever reads it would believe
    /// that there is no child, or that it has had no interrupt. [`OnDisk::Stale`]: it stays.
    pub(super) fn write_or_withdraw(&mut self) -> Vec<Notice> {
        let notices = self.write();
        let (OnDisk::Stale, Some(file)) = (self.on_disk, &self.file) else { return notices };
        // Without one, whoever has the lock above us believes that there is nobody.
        if self.is_below_others() || file.withdraw().is_err() {
            return notices;
        }
        self.on_disk = OnDisk::Refused;
        let why = self.no_receipt.take().unwrap_or_default();
        vec![self.no_receipt(&why)]
    }

    /// Whether nobody is misled by what lies on the disk about a child that is about to start.
    ///
    /// # Errors
    /// Somebody is. Then it must not start.
    pub(super) fn expect_no_stale_receipt(&self) -> Result<(), Error> {
        let is_right = match self.on_disk {
            OnDisk::Receipt => true,
            OnDisk::Nothing | OnDisk::Refused => !self.is_below_others(),
            OnDisk::Stale => false,
        };
        if is_right {
            return Ok(());
        }
        let why = self.no_receipt.as_deref().unwrap_or("it was not written");
        Err(Error::Config {
            message: format!(
                "nothing was started: the receipt of this run does not mention the start and can \
                 be neither written nor removed ({why}), so others could take the lock away while \
                 the command runs"
            ),
            hint: Some(
                "free space there, or make it writable, or name another directory with \
                 `TFWRAP_STATE_DIR`"
                    .to_owned(),
            ),
        })
    }

    /// Whether a lock of somebody else's is used, who goes by our receipt.
    fn is_below_others(&self) -> bool {
        self.receipt.as_ref().is_some_and(|it| it.inherited().next().is_some())
    }

    pub(super) fn no_receipt(&mut self, why: &str) -> Notice {
        self.no_receipt = Some(why.to_owned());
        Notice::warning(format!(
            "tfwrap cannot keep a receipt of this run ({why}): `tfwrap recover` will not know of \
             the run"
        ))
        .with_hint(self.hint.clone())
    }
}

fn stale_receipt(why: &str) -> Notice {
    Notice::warning(format!(
        "the receipt of this run is out of date and cannot be written ({why}): tfwrap keeps \
         trying; if tfwrap and its guardian are killed before it succeeds, `tfwrap recover` uses \
         the outdated receipt"
    ))
}
