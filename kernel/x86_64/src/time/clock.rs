//! The monotonic clock, and deadlines turned into what the timers take.

use core::sync::atomic::{AtomicU64, Ordering};

use holm_kernel_core::machine::{ClockScale, Nanos};

use crate::{apic, cpu};

/// The clock's scale: nanoseconds are `(ticks * multiplier) >> 32`.
const SHIFT: u32 = 32;
const NANOS: u128 = 1_000_000_000;

/// How the local timers are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimerKind {
    /// To a time of the time stamp counter.
    Deadline,
    /// To a number of ticks; one nanosecond is this many, in 2^-32.
    Ticks {
        /// See above.
        per_nano: u64,
    },
}

/// The clock and the timers.
#[derive(Debug)]
pub(crate) struct Clock {
    base: u64,
    multiplier: u64,
    /// Ticks of the time stamp counter per nanosecond, in 2^-32.
    per_nano: u64,
    timer: TimerKind,
    /// The latest time that was told: counters of different processors may differ by a little.
    latest: AtomicU64,
}

impl Clock {
    /// A clock that began when the time stamp counter, of `hertz` ticks per second, was at `base`.
    pub(crate) fn new(base: u64, hertz: u64, timer: TimerKind) -> Self {
        let hertz = u128::from(hertz.max(1));
        Self {
            base,
            multiplier: ((NANOS << SHIFT) / hertz) as u64,
            per_nano: ((hertz << SHIFT) / NANOS) as u64,
            timer,
            latest: AtomicU64::new(0),
        }
    }

    /// Nanoseconds since boot. The kernel is locked, so no two processors ask at once.
    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        let ticks = cpu::tsc().saturating_sub(self.base);
        let now = ((u128::from(ticks) * u128::from(self.multiplier)) >> SHIFT) as u64;
        let latest = self.latest.load(Ordering::Relaxed);
        if now < latest {
            return Nanos(latest);
        }
        self.latest.store(now, Ordering::Relaxed);
        Nanos(now)
    }

    /// Ticks of the time stamp counter in a length of time.
    pub(crate) fn ticks(&self, length: Nanos) -> u64 {
        ((u128::from(length.0) * u128::from(self.per_nano)) >> SHIFT) as u64
    }

    /// How user programs compute the same.
    pub(crate) const fn scale(&self) -> ClockScale {
        ClockScale { base: self.base, multiplier: self.multiplier, shift: SHIFT }
    }

    /// Makes the timer of the processor that runs this do what this clock sets it to.
    pub(crate) fn start_timer(&self) {
        match self.timer {
            TimerKind::Deadline => apic::timer_by_deadline(),
            TimerKind::Ticks { .. } => apic::timer_by_ticks(),
        }
    }

    /// Sets this processor's timer to fire at `deadline`, not before, and at once when that is past.
    #[inline]
    pub(crate) fn set_timer(&self, deadline: Nanos) {
        match self.timer {
            TimerKind::Deadline if deadline == Nanos::NEVER => apic::timer_deadline(0),
            TimerKind::Deadline => {
                let ticks = (u128::from(deadline.0) * u128::from(self.per_nano)) >> SHIFT;
                // One more, since both factors were rounded down. Zero would stop the timer.
                apic::timer_deadline(self.base.saturating_add(ticks as u64).saturating_add(1));
            }
            TimerKind::Ticks { .. } if deadline == Nanos::NEVER => apic::timer_ticks(0),
            TimerKind::Ticks { per_nano } => {
                let nanos = u128::from(deadline.since(self.now()).0);
                // The timer counts 32 bits: what is further away fires early, and is set again then.
                let ticks = ((nanos * u128::from(per_nano)) >> SHIFT) + 1;
                apic::timer_ticks(u32::try_from(ticks).unwrap_or(u32::MAX));
            }
        }
    }
}
