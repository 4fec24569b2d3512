//! The kernel's log: lines of text with a number, a time, and a checksum chained over all lines so far.

use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::arena::Full;
use crate::kernel::Kernel;
use crate::machine::{Machine, Nanos};

/// Lines that are kept.
const LINES: usize = 256;
/// Bytes of a line's text; longer ones are cut.
pub(crate) const TEXT: usize = 104;

/// A line of the log.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// When.
    pub time: Nanos,
    /// The checksum of all lines up to this one.
    pub chain: u64,
    length: u8,
    text: [u8; TEXT],
}

impl Line {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.text.get(..self.length as usize).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let start = self.length as usize;
        for (to, byte) in self.text.iter_mut().skip(start).zip(text.bytes()) {
            *to = byte;
            self.length += 1;
        }
        Ok(())
    }
}

/// The last lines of the log.
#[derive(Debug, Default)]
pub struct Log {
    lines: Vec<Line>,
    written: u64,
    chain: u64,
}

/// FNV-1a.
fn mix(chain: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(chain, |chain, byte| (chain ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Log {
    /// An empty log.
    ///
    /// # Errors
    /// [`Full`] when there is no memory for it.
    pub fn new() -> Result<Self, Full> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(LINES).map_err(|_| Full)?;
        Ok(Self { lines, written: 0, chain: 0xcbf2_9ce4_8422_2325 })
    }

    /// The number of the next line.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The number of the oldest line that is kept.
    #[must_use]
    pub const fn oldest(&self) -> u64 {
        self.written.saturating_sub(self.lines.len() as u64)
    }

    /// The line of a number.
    #[must_use]
    pub fn line(&self, number: u64) -> Option<&Line> {
        if number >= self.written || number < self.oldest() {
            return None;
        }
        self.lines.get((number % LINES as u64) as usize)
    }

    /// The checksum before any line, or up to the newest.
    #[must_use]
    pub const fn chain(&self) -> u64 {
        self.chain
    }

    /// Adds a line.
    pub fn add(&mut self, time: Nanos, text: fmt::Arguments<'_>) {
        let mut line = Line { time, chain: 0, length: 0, text: [0; TEXT] };
        // Writing to a line cannot fail: what does not fit is cut.
        let _ = line.write_fmt(text);
        line.chain = mix(mix(self.chain, &time.0.to_le_bytes()), line.text());
        self.chain = line.chain;
        let room = self.lines.len() < self.lines.capacity();
        match self.lines.get_mut((self.written % LINES as u64) as usize) {
            Some(old) => *old = line,
            None if room => self.lines.push(line),
            None => return,
        }
        self.written += 1;
    }
}

impl<M: Machine> Kernel<M> {
    /// Adds a line to the kernel's log.
    pub(crate) fn log(&mut self, text: fmt::Arguments<'_>) {
        let now = self.clock();
        self.trace.log.add(now, text);
    }
}
