//! Trace rings, the kernel's log, counters. (Owner's part follows.)

/// The trace of every processor, and the log.
#[derive(Debug, Default)]
pub struct Trace {}
