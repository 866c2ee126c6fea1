//! tfwrap lets only one Terraform run at a time touch a state, and always gives the lock back.

pub mod backend;
pub mod ci;
pub mod cli;
pub mod clock;
pub mod duration;
pub mod env;
pub mod error;
pub mod exit_code;
pub mod held;
pub mod identity;
pub mod lock;
pub mod program;
pub mod report;
pub mod settings;
pub mod shim;
pub mod state_dir;
pub mod store;
pub mod supervise;
pub mod terraform;

/// Runs the program.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(70)
}
