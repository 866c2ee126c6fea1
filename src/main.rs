//! The `tfwrap` program; everything is in the library.

use std::process::ExitCode;

/// The child needs none between fork and exec (`supervise::child::sys`), so that a lock which another thread has
/// at the fork does no harm.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    tfwrap::main()
}
