//! What the suites share.
//!
//! | module | is |
//! | --- | --- |
//! | `dice` | numbers from a seed |
//! | `harness` | processes, started in a clean environment, ended by PID |
//! | `json_log` | the lines of the JSON log, each held to its schema |
//! | `procs` | processes by number and birth |
//! | `proxy` | a proxy that loses, delays and breaks requests |
//! | `recorder` | a server that answers anything and keeps what it was sent |
//! | `rounds` | rounds that follow from a seed, played side by side, each to be played again |
//! | `s3_server` | S3 servers that look at conditions, or do not |
//! | `servers` | the servers, and directories with a backend |
//!
//! Beside it `family` and `seeded`, which the suites without processes use, too.

#![expect(dead_code, reason = "each suite uses what it needs")]

pub(crate) mod dice;
pub(crate) mod harness;
pub(crate) mod json_log;
pub(crate) mod procs;
pub(crate) mod proxy;
pub(crate) mod recorder;
pub(crate) mod rounds;
pub(crate) mod s3_server;
pub(crate) mod servers;
