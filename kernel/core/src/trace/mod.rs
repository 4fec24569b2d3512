//! What the kernel tells about itself: a trace ring per processor, a log, counters (seed 10.2, 11).
//!
//! Recording a kind of event costs one test of a mask while nobody reads it. Rings are of fixed size and overwrite their oldest
//! record; a reader sees the gap in the numbers.

mod calls;
pub(crate) mod log;
mod record;
#[cfg(test)]
pub(crate) mod tests;

use alloc::vec::Vec;

use holm_abi::TraceRecord;

use crate::arena::{Arena, Full, Id};
use crate::event::Watchers;
use crate::unit::UnitId;

pub use log::Log;

/// Names a reader of the trace.
pub type ReaderId = Id<Reader>;

/// Records of one processor's ring.
pub const RING: usize = 256;

/// The trace of one processor.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    pub(crate) records: Vec<TraceRecord>,
    /// Records so far: the number of the next one.
    pub(crate) written: u64,
}

/// A reader of the trace.
#[derive(Debug)]
pub struct Reader {
    /// Handles that name it.
    pub references: u32,
    /// Who is told when there is something to read.
    pub watchers: Watchers,
    /// Who pays for it.
    pub unit: UnitId,
    pub(crate) kinds: u64,
    pub(crate) only_unit: u64,
    pub(crate) cpus: u64,
    /// The next record of each processor.
    pub(crate) next: Vec<u64>,
    /// Whether its watchers know that there is something.
    pub(crate) told: Told,
}

/// Whether the watchers of a reader know that there is something to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// They do not: there is nothing.
    No,
    /// They will before this entry of the kernel ends.
    Soon,
    /// They do, and are told again after the next read.
    Yes,
}

/// What is counted of the whole system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Page faults that were resolved.
    pub page_faults: u64,
    /// Messages sent.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Messages dropped by full queues.
    pub messages_dropped: u64,
    /// Calls made.
    pub calls: u64,
    /// Capabilities revoked.
    pub revocations: u64,
    /// Timers that expired.
    pub timer_expirations: u64,
    /// Events reported.
    pub events: u64,
    /// Invariants checked by sampling.
    pub invariant_checks: u64,
    /// Payload checksums made.
    pub payload_checks: u64,
}

/// The trace of every processor, the log, the counters.
#[derive(Debug, Default)]
pub struct Trace {
    /// The kinds that someone reads, by bit.
    pub(crate) kinds: u64,
    /// A reader is to be told.
    pub(crate) tells: bool,
    pub(crate) rings: Vec<Ring>,
    pub(crate) readers: Arena<Reader>,
    /// The log.
    pub(crate) log: Log,
    /// What is counted.
    pub(crate) counts: Counts,
}

impl Trace {
    /// Empty rings of `cpus` processors, and a log.
    ///
    /// # Errors
    /// [`Full`] when there is no memory for them.
    pub fn new(cpus: u32) -> Result<Self, Full> {
        let mut rings = Vec::new();
        rings.try_reserve_exact(cpus as usize).map_err(|_| Full)?;
        for _ in 0..cpus {
            let mut records = Vec::new();
            records.try_reserve_exact(RING).map_err(|_| Full)?;
            rings.push(Ring { records, written: 0 });
        }
        Ok(Self {
            kinds: 0,
            tells: false,
            rings,
            readers: Arena::default(),
            log: Log::new()?,
            counts: Counts::default(),
        })
    }

    /// Whether someone reads records of `kind`.
    #[inline]
    pub(crate) const fn wants(&self, kind: holm_abi::TraceKind) -> bool {
        self.kinds & (1 << kind as u32) != 0
    }
}
