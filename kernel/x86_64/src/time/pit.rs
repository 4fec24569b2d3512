//! The old timer chip (8254), channel 0: a counter of known rate, to find the rates of others. Its interrupt goes nowhere.

use crate::cpu::{input, out, tsc};

/// Ticks per second.
pub(crate) const HERTZ: u64 = 1_193_182;

const CHANNEL: u16 = 0x40;
const COMMAND: u16 = 0x43;

/// The counter at a moment of the time stamp counter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// Ticks since [`start`].
    pub(crate) ticks: u64,
    /// The time stamp counter then.
    pub(crate) tsc: u64,
}

/// Starts the counter: it counts for 54.9 ms.
pub(crate) fn start() {
    // SAFETY: the ports of the timer chip, or of nothing. Mode 0: counts down once, its output goes high at the end.
    unsafe {
        out(COMMAND, 0x30);
        out(CHANNEL, 0xff);
        out(CHANNEL, 0xff);
    }
}

/// Reads the counter; `None` when it has run out, or is not there.
pub(crate) fn read() -> Option<Reading> {
    // On a busy host the processor can stop between two instructions: of several tries, the quickest is the truest.
    let tries = (0..5).map(|_| {
        let before = tsc();
        // SAFETY: latches status and counter, and reads them.
        let (status, left) = unsafe {
            out(COMMAND, 0xc2);
            (input(CHANNEL), u64::from(input(CHANNEL)) | u64::from(input(CHANNEL)) << 8)
        };
        let after = tsc();
        (after - before, status, Reading { ticks: 0xffff - left, tsc: before + (after - before) / 2 })
    });
    let (_, status, reading) = tries.min_by_key(|(took, ..)| *took)?;
    // The highest bit is the output; the next one says that the counter has not begun.
    (status & 0xc0 == 0).then_some(reading)
}
