//! Terraform's command line, as far as it decides about locks: which words are the command, which
//! flags take a value, what `-lock` says.
//!
//! The rule of this module is never to guess. A command that takes the state lock and that is
//! understood to the last flag runs under our lock; everything else is handed over, and Terraform
//! locks for itself, or prints its own error.
//!
//! Everything here was checked against Terraform 1.11.4; the flags of later versions are known
//! beside its own, and `OpenTofu` has a table of its own. A flag that the binary in use does not
//! know costs no more than its own error message under the lock, as long as it is known here
//! whether it takes a value.

mod cli_args;
mod command;
mod flags;
mod invocation;
mod overview;
mod own_lock;

pub(crate) use flags::go_bool;

pub use command::{Command, LockUse, is_known_word};
pub use invocation::{ArgsError, Invocation, Said, StateFlag};
pub use overview::{LISTED_COMMANDS, ListedCommand, LockCare};
pub use own_lock::{HandedOver, OwnLock};

/// Which of the two programs is to run: they know different flags and read different files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `.tf` and `.tf.json`.
    #[default]
    Terraform,
    /// Also `.tofu` and `.tofu.json`.
    OpenTofu,
}
