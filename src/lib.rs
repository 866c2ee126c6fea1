//! tfwrap lets only one Terraform run at a time touch a state, and always gives the lock back.

pub mod backend;
pub mod cli;
pub mod duration;
pub mod env;
pub mod lock;
pub mod report;
pub mod settings;
pub mod store;
pub mod supervise;
pub mod terraform;

/// Runs the program.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(70)
}
