//! Time: clocks and timers. (Owner's part follows.)

use crate::arena::Id;

/// Names a timer.
pub type TimerId = Id<Timer>;

/// A timer.
#[derive(Debug)]
pub struct Timer {}

/// All timers, and the deadlines of waiting threads.
#[derive(Debug, Default)]
pub struct Timers {}
