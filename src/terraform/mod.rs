//! Terraform's command line, as far as it decides about locks: which words are the command, which
//! flags take a value, what `-lock` says.
//!
//! The rule of this module is never to guess. A command that takes the state lock and that is
//! understood to the last flag runs under our lock; everything else is handed over, and Terraform
//! locks for itself, or prints its own error.
//!
//! Everything here was checked against Terraform 1.11.4; the flags of later versions and of
//! `OpenTofu` are known beside its own. A flag that the binary in use does not know costs no more
//! than Terraform's own error message under the lock, as long as it is known here whether it takes
//! a value.

mod command;
mod flags;
mod invocation;
mod words;

pub use command::{Command, LockUse, is_known_word};
pub use invocation::{ArgsError, Invocation, Said, StateFlag};
