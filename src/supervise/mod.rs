//! Supervision of the child: one interrupt, whoever sent how many, and no release before it is gone.

use std::time::Duration;

/// How the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChildStatus {
    /// It exited by itself, with this code.
    Exited(u8),
    /// A signal ended it (its number).
    Signaled(i32),
}

/// What the supervision does with signals, as the user set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    /// What a second stop does.
    pub second_signal: SecondSignal,
    /// How long after its first signal the child's group is killed; `None`: never by us.
    pub grace: Option<Duration>,
}

/// `--second-signal`: Terraform takes a second interrupt as "exit at once, data loss may have
/// occurred".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecondSignal {
    /// Not passed on.
    Hold,
    /// Passed on.
    Forward,
}
