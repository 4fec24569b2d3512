//! Memory before the core manages it: the loader's map, and frames that boot takes for good.

use holm_kernel_core::FrameNumber;
use holm_kernel_core::kernel::MemoryRange;

use super::{PAGE, Physical};

/// How many separate ranges of memory are kept; more are left unused.
const RANGES: usize = 32;

/// A range of whole frames: `start..end`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    const fn length(self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// The free memory of the machine while it boots.
#[derive(Debug)]
pub(crate) struct BootFrames {
    ranges: [Range; RANGES],
    count: usize,
    /// Bytes of memory in all, free or not.
    total: u64,
}

/// No range has that much memory left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

impl BootFrames {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self { ranges: [Range { start: 0, end: 0 }; RANGES], count: 0, total: 0 }
    }

    /// Adds memory that the loader calls usable. The first MiB is left to firmware and to the first steps of processors.
    pub(crate) fn add(&mut self, start: u64, length: u64) {
        let end = start.saturating_add(length) / PAGE * PAGE;
        // Frame numbers have 32 bits.
        let end = end.min(u64::from(u32::MAX) * PAGE);
        self.total += end.saturating_sub(start);
        let start = start.max(0x10_0000).next_multiple_of(PAGE);
        self.push(Range { start, end });
    }

    fn push(&mut self, range: Range) {
        if range.length() > 0
            && let Some(place) = self.ranges.get_mut(self.count)
        {
            *place = range;
            self.count += 1;
        }
    }

    /// Takes out what is in use already; partly used frames are used.
    pub(crate) fn reserve(&mut self, start: u64, end: u64) {
        let (start, end) = (start / PAGE * PAGE, end.next_multiple_of(PAGE));
        for index in 0..self.count {
            let range = self.ranges[index];
            if range.start < end && start < range.end {
                self.ranges[index].end = range.start.max(start.min(range.end));
                self.push(Range { start: end.max(range.start), end: range.end });
            }
        }
    }

    /// Takes `count` frames that lie side by side and below 4 GiB, for good, from the end of the largest range.
    pub(crate) fn take(&mut self, count: u64) -> Result<Physical, OutOfMemory> {
        let low = |range: &&mut Range| range.end <= 1 << 32;
        let largest = self.ranges[..self.count].iter_mut().filter(low).max_by_key(|range| range.length());
        let range = largest.filter(|range| range.length() >= count * PAGE).ok_or(OutOfMemory)?;
        range.end -= count * PAGE;
        Ok(Physical(range.end))
    }

    /// Bytes of memory in all, free or not.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that are free.
    pub(crate) fn free(&self) -> u64 {
        self.ranges[..self.count].iter().map(|range| range.length()).sum()
    }

    /// Bytes of the largest range that [`BootFrames::take`] takes from.
    pub(crate) fn largest_low(&self) -> u64 {
        self.ranges[..self.count]
            .iter()
            .filter(|range| range.end <= 1 << 32)
            .map(|range| range.length())
            .max()
            .unwrap_or(0)
    }

    /// What is left, for the core.
    pub(crate) fn left(&self) -> impl Iterator<Item = MemoryRange> {
        self.ranges[..self.count].iter().filter(|range| range.length() > 0).map(|range| MemoryRange {
            first: FrameNumber((range.start / PAGE) as u32),
            count: (range.length() / PAGE) as u32,
        })
    }
}
