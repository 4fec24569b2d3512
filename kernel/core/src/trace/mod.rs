//! Trace rings, the kernel's log, counters. (Owner's part follows.)

use crate::arena::Id;

/// Names a reader of the trace.
pub type ReaderId = Id<Reader>;

/// A reader of the trace.
#[derive(Debug)]
pub struct Reader {}

/// The trace of every processor, and the log.
#[derive(Debug, Default)]
pub struct Trace {}
