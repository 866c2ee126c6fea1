//! Integration tests: real servers, real files, real `terraform`.

mod contract;
mod proxy;
mod servers;
mod store_faults;
