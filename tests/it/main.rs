//! Integration tests: real servers, real files, real `terraform`.

mod contract;
mod harness;
mod interop;
mod file_store;
mod local_state;
mod proxy;
mod servers;
mod store_faults;
