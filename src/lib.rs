//! tfwrap lets only one Terraform run at a time touch a state, and always gives the lock back.
//!
//! # The house
//!
//! Arguments, environment, file and backend become [`settings::Settings`] and a [`job::Job`]; the
//! shell in `run` takes the locks, supervises the child and gives the locks back. What decides is
//! in *machines* without clock, I/O or randomness: [`lock::acquire`], [`lock::tenure`],
//! [`supervise::LockedRun`].
//!
//! | to find | look in |
//! | --- | --- |
//! | what was typed, what is set | [`cli`], [`settings`], [`duration`], [`env`], [`nearest`] |
//! | what there is to do | [`job`], [`terraform`] (its command line), [`backend`] (its state), [`program`], [`version`], [`file_id`], [`opened`], `path_watch`, [`shown_url`] |
//! | the lock | [`lock`] (the machines), [`target`], [`store`] (one file per store) |
//! | the child | [`supervise`] |
//! | what stands by while it runs, should tfwrap be killed | [`guardian`] |
//! | what a killed run leaves | [`receipt`], `run::custody` (written), `run::orphan` (ended) |
//! | `status`, `doctor`, `table`, `unlock`, `recover`, `hold`, `release` | `subcommand` |
//! | the loop | `run`, `app` |
//! | what is said | [`report`], [`telemetry`], [`ci`], [`error`], [`exit_code`] |
//! | `run` and nesting | [`held`], [`shim`], [`state_dir`] |
//!
//! Imports point downward only: `tests/it/tidy/floors.rs` lists the rooms, the lowest first.
//! `docs/architecture.md` has the whole map, `docs/protocol.md` the rules.
//!
//! # What always holds
//!
//! `docs/protocol.md#invariants`, and:
//!
//! - Only `run`, `app` and `subcommand` read the clock ([`clock`]), and what stamps messages; only
//!   [`store`] knows AWS; only [`supervise`] and [`guardian`] make processes that outlive a request.
//! - Nothing between acquire and release returns early.
//! - The child is gone before the release, whoever gives the lock back.
//! - The receipt and the guardian learn of a step before it is taken.
//! - A record without a lease (stock Terraform's) is never taken over.
//! - No wall-clock time decides who holds; one tells when credentials end.
//! - The reporter never blocks.
//! - An unknown write is read back.

mod app;
pub mod backend;
pub mod ci;
pub mod cli;
pub mod clock;
pub mod duration;
pub mod env;
pub mod error;
pub mod exit_code;
pub mod file_id;
pub mod git;
pub mod guardian;
pub mod held;
pub mod identity;
pub mod job;
pub mod lock;
pub mod nearest;
pub mod opened;
mod path_text;
mod path_watch;
pub mod program;
pub mod receipt;
pub mod report;
mod run;
pub mod settings;
pub mod shim;
pub mod shown_url;
pub mod state_dir;
pub mod store;
mod subcommand;
pub mod supervise;
pub mod target;
pub mod telemetry;
pub mod terraform;
pub mod version;

/// Runs the program: everything from the arguments to the exit code.
#[must_use]
pub fn main() -> std::process::ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    // What holds a lock has a border of its own inside of this, where it is given back.
    let code = std::panic::catch_unwind(|| app::start(&args, &env::Env::of_process()));
    std::process::ExitCode::from(code.unwrap_or(exit_code::BUG))
}

#[cfg(test)]
#[path = "../tests/support/seeded.rs"]
mod seeded;
