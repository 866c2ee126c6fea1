//! Who we are, for people: the lock's `Who`, and IDs for its tenures.

use nix::unistd::{User, geteuid};

use crate::lock::LockId;

/// `user@host`, as Terraform has it; for display only.
#[must_use]
pub fn who() -> String {
    let uid = geteuid();
    let user = match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        // A container often runs under a number that nobody named.
        Ok(None) | Err(_) => uid.to_string(),
    };
    let host = nix::unistd::gethostname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned());
    format!("{user}@{host}")
}

/// A new lock ID: random, never used before.
#[must_use]
pub fn new_lock_id() -> LockId {
    LockId(uuid::Uuid::new_v4().to_string())
}

/// A new ID for a span: all bits are random.
#[must_use]
pub fn new_span_id() -> u64 {
    // Each half of the UUID has some bits that are not.
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low
}

/// A seed for spreading requests.
#[must_use]
pub fn new_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}
