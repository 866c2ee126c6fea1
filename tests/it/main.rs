//! Integration tests: real servers, real files, real `terraform`.

mod aws_settings;
mod contract;
mod file_store;
mod local_state;
mod proxy;
mod servers;
mod store_faults;
