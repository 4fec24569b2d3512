//! Clocks and timers: the time stamp counter as the clock, its rate found at boot, and the local timers set by it.

pub(crate) mod calibrate;
pub(crate) mod clock;
pub(crate) mod pit;
pub(crate) mod rtc;
