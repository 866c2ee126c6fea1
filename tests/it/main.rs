//! The integration tests, in one program.

mod pty;
mod supervision;
mod wrapped;
