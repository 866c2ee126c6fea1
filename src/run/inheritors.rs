//! Who keeps the lock of a local state whose run is dead: a daemon that a provisioner started has our
//! descriptor, as Terraform had, and the kernel keeps the lock for as long as anybody has it.
//!
//! Its rules: `docs/protocol.md#k4-what-recover-does`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::event_loop::EventLoop;
use super::store_requests::{self, LockRegister};
use crate::error::Error;
use crate::receipt::Entry;
use crate::report::shell_command;
use crate::supervise::{Member, end_of, holders_of_lock};
use crate::target::StoreSpec;

/// Who has a state locked by a descriptor of a run that is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inheritors {
    state: PathBuf,
    /// Those that can be seen.
    seen: Vec<Member>,
}

impl Inheritors {
    /// Of this lock, as far as they can be seen; `None` where nobody is.
    pub(super) fn seen(entry: &Entry) -> Option<Self> {
        let StoreSpec::LocalState { path } = &entry.target.store else { return None };
        Some(Self::of(path)).filter(|it| !it.seen.is_empty())
    }

    fn of(state: &Path) -> Self {
        Self { state: state.to_owned(), seen: holders_of_lock(state, None) }
    }

    /// Of this lock, if it is still held under its ID.
    ///
    /// # Errors
    /// When that cannot be told.
    pub(super) async fn of_held(
        event_loop: &mut EventLoop,
        entry: &Entry,
    ) -> Result<Option<Self>, Error> {
        let StoreSpec::LocalState { path } = &entry.target.store else { return Ok(None) };
        let register = LockRegister::open(&entry.target).await?;
        let stored = store_requests::read(event_loop, &register, Duration::ZERO).await?;
        let is_held = stored.is_some_and(|stored| stored.record.is_held_by(&entry.id));
        Ok(is_held.then(|| Self::of(path)))
    }

    /// That they have the lock, as the rest of a sentence about it.
    pub(crate) fn told(&self) -> String {
        let (who, has) = match self.seen.len() {
            0 => ("a process that cannot be seen from here".to_owned(), "has"),
            1 => (Member::named(&self.seen), "has"),
            _ => (Member::named(&self.seen), "have"),
        };
        format!(
            "{who} {has} inherited it, and the kernel keeps it until the last such process ends"
        )
    }

    /// What releases it.
    pub(crate) fn end(&self) -> String {
        let Some(command) = end_of(&self.seen) else {
            let state = self.state.display().to_string();
            return format!(
                "to see who has it, as root: {}",
                shell_command(&["fuser", "-v", &state])
            );
        };
        let names = Member::named(&self.seen);
        format!("to release it, end {names}: `{command}`, or `kill -9` if that does not end it")
    }
}
