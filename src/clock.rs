//! The clocks, read here and nowhere else.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::lock::Uptime;

/// The boot-time clock: monotonic, suspend included.
#[must_use]
pub fn uptime() -> Uptime {
    // CLOCK_BOOTTIME is in Linux since 2.6.39; without it nothing here would be right.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the kernel has a boot-time clock");
    Uptime(Duration::from(now))
}

/// The wall clock, for display only.
#[must_use]
pub fn wall() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
