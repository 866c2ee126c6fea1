//! Registers in memory: for tests, the model and the simulator.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{
    Expect, Record, RecordVersion, Registers, RemoveReply, StoreError, Stored, WriteReply,
};
use crate::lock::LockKey;

/// A map of records. Every write gets a number that no other write of this store ever gets.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Content>);

#[derive(Debug, Default)]
struct Content {
    records: BTreeMap<LockKey, Stored>,
    writes: u64,
}

impl MemoryStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No step under this lock can leave the map half changed, so a panic elsewhere is no reason
    /// to stop serving.
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Registers for MemoryStore {
    async fn read(&self, key: &LockKey) -> Result<Option<Stored>, StoreError> {
        Ok(self.lock().records.get(key).cloned())
    }

    async fn write(
        &self,
        key: &LockKey,
        record: &Record,
        expect: &Expect,
    ) -> Result<WriteReply, StoreError> {
        let mut content = self.lock();
        let current = content.records.get(key);
        if !expect.holds(current) {
            return Ok(WriteReply::Conflict(Some(current.cloned())));
        }
        content.writes += 1;
        let version = RecordVersion(content.writes.to_string());
        let stored = Stored { record: record.clone(), version: version.clone() };
        content.records.insert(key.clone(), stored);
        Ok(WriteReply::Applied(version))
    }

    async fn remove(
        &self,
        key: &LockKey,
        expect: &RecordVersion,
    ) -> Result<RemoveReply, StoreError> {
        let mut content = self.lock();
        let current = content.records.get(key);
        if current.is_none_or(|stored| stored.version != *expect) {
            return Ok(RemoveReply::Conflict(Some(current.cloned())));
        }
        content.records.remove(key);
        Ok(RemoveReply::Removed)
    }
}
