//! Starting over: nothing may claim what the first plan held.

use std::path::Path;

use super::Custody;
use super::on_disk::OnDisk;
use crate::receipt::Entry;

impl Custody {
    /// Where Terraform works, from here on.
    pub(crate) fn works_in(&mut self, dir: &Path) {
        if let Some(receipt) = &mut self.receipt {
            dir.clone_into(&mut receipt.dir);
        }
    }

    /// What an outer run or a `hold` has is no longer relied on.
    pub(crate) fn forget_inherited(&mut self) {
        let Some(receipt) = &mut self.receipt else { return };
        let inherited: Vec<_> = receipt.inherited().cloned().collect();
        for Entry { target, id, .. } in &inherited {
            self.forget(target, id);
        }
        // Nor is it by what others read: they would wait for us.
        let is_empty = self.receipt.as_ref().is_some_and(|receipt| receipt.locks.is_empty());
        if is_empty
            && self.on_disk.is_there()
            && let Some(file) = &self.file
        {
            self.on_disk = file.remove().map_or(OnDisk::Stale, |()| OnDisk::Nothing);
        }
    }
}
