//! The receipt on the disk, which may be full.

use super::Guard;
use crate::report::Notice;
use crate::run::fail_point;
use crate::state_dir;

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

impl Guard {
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
        match written {
            Ok(()) => {
                self.on_disk = OnDisk::Receipt;
                Vec::new()
            }
            Err(error) => {
                let why = format!("`{}`: {error}", file.path().display());
                match self.on_disk {
                    OnDisk::Nothing => {
                        self.on_disk = OnDisk::Refused;
                        vec![self.no_receipt(&why)]
                    }
                    OnDisk::Receipt => {
                        self.on_disk = OnDisk::Stale;
                        vec![stale_receipt(&why)]
                    }
                    // Said before.
                    OnDisk::Refused | OnDisk::Stale => Vec::new(),
                }
            }
        }
    }

    pub(super) fn no_receipt(&mut self, why: &str) -> Notice {
        self.no_receipt = Some(why.to_owned());
        Notice::Warning {
            message: format!(
                "no receipt of this run can be kept ({why}): `tfwrap recover` will not know of it"
            ),
            hint: self.hint.clone(),
        }
    }
}

fn stale_receipt(why: &str) -> Notice {
    Notice::Warning {
        message: format!(
            "the receipt of this run is out of date and cannot be written ({why}): it is tried \
             again; if tfwrap and its guardian are killed before, `tfwrap recover` leaves the lock \
             alone"
        ),
        hint: None,
    }
}
