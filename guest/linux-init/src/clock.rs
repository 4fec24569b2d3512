//! The guest's clocks: time since boot, and wall time as the host tells it.

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// A clock this far off is set; closer is left alone.
const TOLERANCE_NS: u64 = 20_000_000;

const SECOND: u64 = 1_000_000_000;

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * SECOND + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Nanoseconds since the kernel started counting.
pub(crate) fn since_boot_ns() -> u64 {
    read(ClockId::Boottime)
}

/// Unix time in nanoseconds.
pub(crate) fn unix_ns() -> u64 {
    read(ClockId::Realtime)
}

/// Sets the wall clock when it is more than 20 ms from `unix_ns`.
pub(crate) fn follow(host_unix_ns: u64) -> rustix::io::Result<()> {
    if unix_ns().abs_diff(host_unix_ns) <= TOLERANCE_NS {
        return Ok(());
    }
    let to = Timespec {
        tv_sec: i64::try_from(host_unix_ns / SECOND).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(host_unix_ns % SECOND).unwrap_or(0),
    };
    clock_settime(ClockId::Realtime, to)
}
