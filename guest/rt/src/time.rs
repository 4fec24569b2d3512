//! Clocks, deadlines, sleep, timers.

use core::sync::atomic::{AtomicI32, Ordering};
use core::time::Duration;

use holm_abi::{ClockId, Error, EventSpec, Handle, TimerFlags, TimerInfo, TimerMode, TimerSpec, limits};

use crate::object::{Object, Owned, Timer};
use crate::sys;

/// A time on the monotonic clock until which a call may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(u64);

impl Deadline {
    /// Never: wait as long as it takes.
    pub const NEVER: Self = Self(limits::NEVER);
    /// Past: try once.
    pub const PAST: Self = Self(0);

    /// A time from now; [`Deadline::NEVER`] when that is past the end of the clock.
    #[must_use]
    pub fn after(length: Duration) -> Self {
        Self(now().saturating_add(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// A time in nanoseconds on the monotonic clock.
    #[must_use]
    pub const fn at(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds on the monotonic clock.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }
}

/// The monotonic clock in nanoseconds, without a kernel entry where the machine allows it.
#[must_use]
pub fn now() -> u64 {
    now_by_page().unwrap_or_else(|| clock(ClockId::Monotonic))
}

/// The monotonic clock by the kernel's time page; `None` when this machine has none.
#[must_use]
pub fn now_by_page() -> Option<u64> {
    sys::monotonic()
}

/// A clock in nanoseconds; 0 when the kernel does not have it.
#[must_use]
pub fn clock(clock: ClockId) -> u64 {
    sys::time_get(clock).unwrap_or(0)
}

/// The queue without subscriptions on which threads sleep.
static BED: AtomicI32 = AtomicI32::new(0);

fn bed() -> Result<Handle, Error> {
    let known = Handle::from_raw(BED.load(Ordering::Acquire));
    if !known.is_none() {
        return Ok(known);
    }
    let made = sys::event_subscribe(&EventSpec::new())?;
    match BED.compare_exchange(0, made.raw(), Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(made),
        Err(other) => {
            drop(Owned::new(made));
            Ok(Handle::from_raw(other))
        }
    }
}

/// Waits until a time. Returns early only when the thread is kicked.
///
/// # Errors
/// [`Error::Interrupted`], and what making a queue of events can answer the first time.
pub fn sleep_until(deadline: Deadline) -> Result<(), Error> {
    match sys::event_wait(bed()?, &mut [[0; holm_abi::EventRecord::SIZE]], deadline.nanos()) {
        Err(Error::TimedOut) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits for a length of time; see [`sleep_until`].
///
/// # Errors
/// Those of [`sleep_until`].
pub fn sleep(length: Duration) -> Result<(), Error> {
    sleep_until(Deadline::after(length))
}

/// Lets others run, also those of lower rank: for a thread that waits for a lock.
pub(crate) fn pause() {
    // The heap's own lock waits here too: nothing in it may allocate.
    if sleep(Duration::from_micros(20)).is_err() {
        let _yielded = sys::thread_yield();
    }
}

impl Timer {
    /// A timer that is not armed.
    ///
    /// # Errors
    /// Those of timer_create.
    pub fn new(clock: ClockId) -> Result<Self, Error> {
        Self::with(clock, TimerFlags::NONE, Duration::ZERO)
    }

    /// A timer with flags and slack.
    ///
    /// # Errors
    /// Those of timer_create.
    pub fn with(clock: ClockId, flags: TimerFlags, slack: Duration) -> Result<Self, Error> {
        let slack = u64::try_from(slack.as_nanos()).unwrap_or(u64::MAX);
        sys::timer_create(clock, &TimerSpec { flags, slack, ..TimerSpec::new() })
            .map(|handle| Self::from_owned(Owned::new(handle)))
    }

    /// Arms it for one expiration.
    ///
    /// # Errors
    /// Those of timer_arm.
    pub fn once(&self, deadline: Deadline) -> Result<(), Error> {
        sys::timer_arm(self.handle(), deadline.nanos(), TimerMode::OneShot, 0)
    }

    /// Arms it for an expiration at `first` and every `period` after it.
    ///
    /// # Errors
    /// Those of timer_arm.
    pub fn every(&self, first: Deadline, period: Duration) -> Result<(), Error> {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        sys::timer_arm(self.handle(), first.nanos(), TimerMode::Periodic, period)
    }

    /// Disarms it.
    ///
    /// # Errors
    /// Those of timer_cancel.
    pub fn cancel(&self) -> Result<(), Error> {
        sys::timer_cancel(self.handle())
    }

    /// What the kernel tells about it.
    ///
    /// # Errors
    /// Those of timer_get_info.
    pub fn info(&self) -> Result<TimerInfo, Error> {
        let mut info = TimerInfo::new();
        sys::timer_get_info(self.handle(), &mut info)?;
        Ok(info)
    }
}
