//! Time: clocks and timers (seed 5).

use crate::field::abi_struct;
use crate::words::{abi_enum, abi_flags};

abi_enum! {
    /// A clock. All tell nanoseconds.
    pub enum ClockId {
        /// Since boot; never goes back; deadlines are on it.
        Monotonic = 0,
        /// Since 1970-01-01T00:00:00Z.
        Realtime = 1,
        /// Time this processor did not idle.
        CpuBusy = 2,
        /// Time this processor idled.
        CpuIdle = 3,
        /// Time the calling thread ran.
        ThreadCpu = 4,
        /// Time the threads of the calling unit ran.
        UnitCpu = 5,
    }
}

abi_enum! {
    /// How a timer goes on.
    pub enum TimerMode {
        /// Once.
        OneShot = 0,
        /// Again every period after the deadline, without drift.
        Periodic = 1,
    }
}

abi_flags! {
    /// Flags of a timer.
    pub flags TimerFlags {
        /// Deadlines given to timer_arm count from now instead of from the clock's zero.
        RELATIVE = 0,
    }
}

abi_struct! {
    /// How a timer is to be made, and what is told about it.
    pub struct TimerSpec version 1 {
        /// Flags.
        flags: TimerFlags,
        /// How late it may fire so that wake-ups can be shared, in nanoseconds.
        slack: u64,
    }
}

abi_struct! {
    /// What the kernel tells about a timer.
    pub struct TimerInfo version 1 {
        /// Its id, unique on this node since boot.
        id: u64,
        /// The next deadline on the monotonic clock; NEVER when it is not armed.
        deadline: u64,
        /// The period in nanoseconds; 0 for one-shot.
        period: u64,
        /// Expirations since it was made.
        expirations: u64,
        /// Its clock.
        clock: ClockId,
        /// How it goes on.
        mode: TimerMode,
    }
}

abi_struct! {
    /// The read-only page by which programs read the clocks without a kernel entry: monotonic time is
    /// `base_time + ((tsc - base_tsc) * multiplier >> shift)` with a 128-bit product; read `sequence` before and after, and
    /// again when it was odd or changed.
    pub record TimePage {
        /// Odd while the kernel writes.
        sequence: u64,
        /// The time-stamp counter at `base_time`.
        base_tsc: u64,
        /// Monotonic time in nanoseconds.
        base_time: u64,
        /// Realtime at monotonic zero, in nanoseconds.
        realtime_at_boot: u64,
        /// Nanoseconds of a tick, times `2^shift`.
        multiplier: u64,
        /// See above.
        shift: u64,
    }
}
