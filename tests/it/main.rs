//! Integration tests: real servers, real files, real `terraform`.

mod aws_settings;
mod cli;
mod contention;
mod contract;
mod faults;
mod file_store;
mod harness;
mod interop;
mod leases;
mod line;
mod local_state;
mod nesting;
mod proxy;
mod pty;
mod redrawn;
mod s3_example;
mod saved_plan;
mod servers;
mod siblings;
mod status;
mod store_faults;
mod supervision;
mod tidy;
mod unlock;
mod workspace_trap;
mod wrapped;
