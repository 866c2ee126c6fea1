//! The child, as described to the operating system to start it.

use std::process::Command;

use crate::env::Env;
use crate::job::ChildCommand;

/// How deep tfwrap has called itself, for the child to count on from.
pub(crate) const DEPTH: &str = "TFWRAP_DEPTH";

/// How deep this call is; 0 outside of any other.
pub(crate) fn depth(env: &Env) -> u32 {
    env.get(DEPTH).and_then(|depth| depth.parse().ok()).unwrap_or(0)
}

/// The command as the operating system takes it.
pub(crate) fn command(child: &ChildCommand, env: &Env) -> Command {
    let mut command = Command::new(&child.program);
    command.args(&child.args).env(DEPTH, (depth(env) + 1).to_string());
    for (name, value) in &child.env {
        command.env(&**name, value);
    }
    command
}
