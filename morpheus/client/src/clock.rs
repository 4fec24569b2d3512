//! The clock of the pages.

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in ns.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The monotonic clock starts at boot: it is not negative, and 64 bits of ns last 584 years.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
