//! What our locks say of us.

use crate::clock::wall;
use crate::lock::lease::LeaseTerm;
use crate::lock::{LockId, LockInfo};
use crate::target::LockTarget;

/// What goes into the lock info of every lock of a run.
#[derive(Debug, Clone)]
pub(crate) struct LockInfoTemplate {
    pub(crate) operation: String,
    pub(crate) info: String,
    pub(crate) who: String,
    /// The lease to declare.
    pub(crate) term: LeaseTerm,
    /// Whether to stand in line.
    pub(crate) in_line: bool,
}

impl LockInfoTemplate {
    /// The lock info of one.
    pub(super) fn info(&self, target: &LockTarget, id: &LockId) -> LockInfo {
        LockInfo {
            id: id.clone(),
            operation: self.operation.clone(),
            info: self.info.clone(),
            who: self.who.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            created: LockInfo::format_created(wall()),
            path: target.path(),
        }
    }
}
