//! What others are told about the child, and what they ask of a hold.

use super::Custody;
use crate::receipt::ReceiptFile;
use crate::report::Notice;
use crate::supervise::ending::Interrupts;

impl Custody {
    /// Whether nothing more may be started below the child.
    pub(crate) fn is_stopping(&self) -> bool {
        self.receipt.as_ref().is_some_and(|receipt| receipt.is_stopping)
    }

    /// What is known of the child's interrupt.
    pub(crate) fn known_interrupts(&self) -> Interrupts {
        self.head.interrupts
    }

    /// The child is about to be interrupted, or was; and whether nothing more may be started below it.
    pub(crate) fn interrupts(&mut self, interrupts: Interrupts, is_stopping: bool) -> Vec<Notice> {
        if self.head.interrupts == interrupts && self.is_stopping() == is_stopping {
            return Vec::new();
        }
        self.head.interrupts = interrupts;
        if let Some(receipt) = &mut self.receipt {
            (receipt.interrupts, receipt.is_stopping) = (interrupts, is_stopping);
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
