//! The frames of physical memory: which are free, and how many pages share one.
//!
//! Taking and giving take constant time. A frame that was never used is the next of its boot range; a frame that was given
//! back holds the number of the next free one in its own first bytes, so that free memory needs no memory to be kept.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::kernel::MemoryRange;
use crate::machine::{FrameNumber, FramePool, Machine};

/// Frames held ready for page tables: what one mapping can need at most is four.
const TABLES: usize = 4;
/// Room for the page tables that come back in one step of [`Machine::space_destroy`].
const RESERVE: usize = 64;
/// Frames whose share counts lie together.
const CHUNK: usize = 1024;

/// There is no free frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted;

/// The frames of the machine.
#[derive(Debug, Default)]
pub struct Frames {
    /// What was never used of the boot ranges.
    fresh: Vec<MemoryRange>,
    /// The first frame that was given back.
    returned: Option<FrameNumber>,
    /// Frames at hand for a [`FramePool`], which cannot read the list in the frames.
    reserve: Vec<FrameNumber>,
    /// How many pages beyond the first show a frame, in chunks made when one of their frames is first shared.
    shares: Vec<Option<Box<[u32; CHUNK]>>>,
    total: u64,
    free: u64,
}

impl Frames {
    /// All of `ranges` is free.
    ///
    /// # Errors
    /// [`Exhausted`] when there is no kernel memory for the administration (8 bytes for 4 MiB of memory).
    pub fn new(ranges: &[MemoryRange]) -> Result<Self, Exhausted> {
        let mut frames = Self::default();
        frames.fresh.try_reserve_exact(ranges.len()).map_err(|_| Exhausted)?;
        frames.reserve.try_reserve_exact(RESERVE).map_err(|_| Exhausted)?;
        let end = ranges.iter().map(|range| u64::from(range.first.0) + u64::from(range.count)).max().unwrap_or(0);
        let chunks = (end as usize).div_ceil(CHUNK);
        frames.shares.try_reserve_exact(chunks).map_err(|_| Exhausted)?;
        frames.shares.resize_with(chunks, || None);
        // The lowest memory is used first.
        frames.fresh.extend(ranges.iter().copied().filter(|range| range.count > 0));
        frames.fresh.sort_unstable_by_key(|range| core::cmp::Reverse(range.first));
        frames.total = ranges.iter().map(|range| u64::from(range.count)).sum();
        frames.free = frames.total;
        Ok(frames)
    }

    /// How many frames there are.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// How many are free.
    #[must_use]
    pub const fn free(&self) -> u64 {
        self.free
    }

    /// Takes a frame of any content.
    #[inline]
    pub fn take<M: Machine>(&mut self, machine: &M) -> Option<FrameNumber> {
        let frame = match self.returned {
            Some(frame) => {
                let mut next = [0; 4];
                machine.frame_read(frame, 0, &mut next);
                self.returned = u32::from_le_bytes(next).checked_sub(1).map(FrameNumber);
                frame
            }
            None => match self.take_fresh() {
                Some(frame) => frame,
                None => return self.reserve.pop().inspect(|_| self.free -= 1),
            },
        };
        self.free -= 1;
        Some(frame)
    }

    fn take_fresh(&mut self) -> Option<FrameNumber> {
        let range = self.fresh.last_mut()?;
        let frame = range.first;
        range.first = FrameNumber(frame.0 + 1);
        range.count -= 1;
        if range.count == 0 {
            self.fresh.pop();
        }
        Some(frame)
    }

    /// Takes back a frame that nothing shows any more.
    pub fn give<M: Machine>(&mut self, machine: &mut M, frame: FrameNumber) {
        debug_assert_eq!(self.sharers(frame), 0, "a shared frame is given back");
        let next = self.returned.map_or(0, |next| next.0 + 1);
        machine.frame_write(frame, 0, &next.to_le_bytes());
        self.returned = Some(frame);
        self.free += 1;
    }

    /// How many pages show `frame` beside the first.
    #[must_use]
    #[inline]
    pub fn sharers(&self, frame: FrameNumber) -> u32 {
        match self.shares.get(frame.0 as usize / CHUNK) {
            Some(Some(chunk)) => chunk[frame.0 as usize % CHUNK],
            _ => 0,
        }
    }

    /// Makes sure that [`Frames::share`] cannot fail for `frame`.
    ///
    /// # Errors
    /// [`Exhausted`] when there is no kernel memory for its count.
    pub fn prepare_share(&mut self, frame: FrameNumber) -> Result<(), Exhausted> {
        let place = self.shares.get_mut(frame.0 as usize / CHUNK).ok_or(Exhausted)?;
        if place.is_none() {
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(CHUNK).map_err(|_| Exhausted)?;
            chunk.resize(CHUNK, 0);
            *place = chunk.into_boxed_slice().try_into().ok();
        }
        Ok(())
    }

    /// One more page shows `frame`; [`Frames::prepare_share`] was called for it.
    pub fn share(&mut self, frame: FrameNumber) {
        if let Some(Some(chunk)) = self.shares.get_mut(frame.0 as usize / CHUNK) {
            chunk[frame.0 as usize % CHUNK] += 1;
        }
    }

    /// One page less shows `frame`; with the last it is free.
    pub fn unshare<M: Machine>(&mut self, machine: &mut M, frame: FrameNumber) {
        if let Some(Some(chunk)) = self.shares.get_mut(frame.0 as usize / CHUNK) {
            let count = &mut chunk[frame.0 as usize % CHUNK];
            if *count > 0 {
                *count -= 1;
                return;
            }
        }
        self.give(machine, frame);
    }

    /// A pool for one call of the machine that maps: it holds enough for every page table that can be missing.
    ///
    /// # Errors
    /// [`Exhausted`] when memory is used up.
    pub fn pool<M: Machine>(&mut self, machine: &mut M) -> Result<TablePool<'_>, Exhausted> {
        while self.reserve.len() > RESERVE / 2 {
            let Some(frame) = self.reserve.pop() else { break };
            // Frames in the reserve count as free.
            self.free -= 1;
            self.give(machine, frame);
        }
        while self.reserve.len() < TABLES {
            // What is only in the reserve would be taken from it and put back.
            if self.free <= self.reserve.len() as u64 {
                return Err(Exhausted);
            }
            let frame = self.take(machine).ok_or(Exhausted)?;
            self.reserve.push(frame);
            self.free += 1;
        }
        Ok(TablePool { frames: self, taken: 0, given: 0 })
    }

    /// A pool that only takes frames back, for [`Machine::space_destroy`]: at most 32 in one call.
    pub fn returns<M: Machine>(&mut self, machine: &mut M) -> TablePool<'_> {
        while self.reserve.len() > RESERVE / 2 {
            let Some(frame) = self.reserve.pop() else { break };
            self.free -= 1;
            self.give(machine, frame);
        }
        TablePool { frames: self, taken: 0, given: 0 }
    }
}

/// The frames that the machine takes for page tables, and gives back, in one call.
#[derive(Debug)]
pub struct TablePool<'a> {
    frames: &'a mut Frames,
    /// How many it took.
    pub taken: u64,
    /// How many it gave back.
    pub given: u64,
}

impl FramePool for TablePool<'_> {
    fn take(&mut self) -> Option<FrameNumber> {
        let frame = self.frames.reserve.pop()?;
        self.frames.free -= 1;
        self.taken += 1;
        Some(frame)
    }

    fn give(&mut self, frame: FrameNumber) {
        debug_assert!(self.frames.reserve.len() < RESERVE, "the machine gave more frames back at once than agreed");
        if self.frames.reserve.try_reserve(1).is_ok() {
            self.frames.reserve.push(frame);
            self.frames.free += 1;
        }
        self.given += 1;
    }
}

/// A pool without frames: a call with it succeeds only when no page table is missing.
#[derive(Debug, Clone, Copy)]
pub struct NoPool;

impl FramePool for NoPool {
    fn take(&mut self) -> Option<FrameNumber> {
        None
    }

    fn give(&mut self, _frame: FrameNumber) {}
}
