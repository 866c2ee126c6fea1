//! The `tfwrap` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfwrap::main()
}
