//! Integration tests: real servers, real files, real `terraform`.

mod cli;
mod contract;
mod file_store;
mod harness;
mod interop;
mod local_state;
mod proxy;
mod servers;
mod store_faults;
