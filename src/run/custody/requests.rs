//! What others are told about the child, and what they ask of a hold.

use super::Custody;
use crate::receipt::ReceiptFile;
use crate::report::Notice;
use crate::supervise::ending::Interrupts;

impl Custody {
    /// Whether the next interrupt passes a script by, which goes on meanwhile.
    pub(crate) fn passes_by(&mut self, is_stopping: bool) {
        if let Some(receipt) = &mut self.receipt {
            receipt.is_stopping = is_stopping;
        }
    }

    /// The child is about to be interrupted, or was.
    pub(crate) fn interrupts(&mut self, interrupts: Interrupts) -> Vec<Notice> {
        if self.head.interrupts == interrupts {
            return Vec::new();
        }
        self.head.interrupts = interrupts;
        if let Some(receipt) = &mut self.receipt {
            receipt.interrupts = interrupts;
        }
        let notices = self.write_or_withdraw();
        self.tell();
        notices
    }

    /// Whether this is a hold that is to be given back.
    pub(in crate::run) fn is_release_asked(&self) -> bool {
        self.receipt.as_ref().is_some_and(|receipt| receipt.is_hold)
            && self.file.as_ref().is_some_and(ReceiptFile::is_release_asked)
    }
}
