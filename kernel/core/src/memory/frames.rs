//! The frames of physical memory: which are free, and how many pages share one.
//!
//! Taking and giving take constant time. A frame that was never used is the next of its boot range; a frame that was given
//! back holds the number of the next free one in its own first bytes, so that free memory needs no memory to be kept.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::kernel::MemoryRange;
use crate::machine::{FrameNumber, FramePool, Machine, PAGE_SIZE};

/// Frames held ready for page tables: what one mapping can need at most is four.
const TABLES: usize = 4;
/// Room for the page tables that come back in one step of [`Machine::space_destroy`].
const RESERVE: usize = 64;
/// Frames whose share counts lie together.
const CHUNK: usize = 1024;

/// What a step of the scrubber did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrubbed {
    /// There was nothing to do.
    Nothing,
    /// A frame was cleared, or found clear.
    Clear,
    /// A clear frame was not clear any more, from this byte on: it is used no more.
    Changed(FrameNumber, usize),
    /// The list of clear frames was broken: so many frames are used no more.
    Lost(u64),
}

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
    /// Frames that were given back and cleared since: first, last, and how many. Each holds the number of the next one, with a
    /// check, in its first bytes, and zeroes behind.
    clear: Option<(FrameNumber, FrameNumber)>,
    clear_count: u64,
    /// Cleared frames that were lost and are not told yet.
    lost: u64,
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
            None => match self.take_clear(machine).or_else(|| self.take_fresh()) {
                Some(frame) => frame,
                None => return self.reserve.pop().inspect(|_| self.free -= 1),
            },
        };
        self.free -= 1;
        Some(frame)
    }

    /// The first of the clear frames. When the list is broken there, what is behind is lost: better than two owners.
    #[inline]
    fn take_clear<M: Machine>(&mut self, machine: &M) -> Option<FrameNumber> {
        let (frame, last) = self.clear?;
        let mut link = [0; LINK];
        machine.frame_read(frame, 0, &mut link);
        let [a, b, c, d, ..] = link;
        let next = u32::from_le_bytes([a, b, c, d]).checked_sub(1).map(FrameNumber);
        if link != clear_link(frame, next) || next.is_none() != (frame == last) {
            self.clear = None;
            self.free -= self.clear_count;
            self.lost += core::mem::take(&mut self.clear_count);
            return None;
        }
        self.clear = next.map(|next| (next, last));
        self.clear_count -= 1;
        Some(frame)
    }

    /// Puts a frame behind the clear ones. It is clear but for its link.
    fn put_clear<M: Machine>(&mut self, machine: &mut M, frame: FrameNumber) {
        machine.frame_write(frame, 0, &clear_link(frame, None));
        let first = match self.clear {
            Some((first, last)) => {
                machine.frame_write(last, 0, &clear_link(last, Some(frame)));
                first
            }
            None => frame,
        };
        self.clear = Some((first, frame));
        self.clear_count += 1;
    }

    /// Clears a frame that was given back; when all are, looks whether one of them is clear still.
    pub fn scrub<M: Machine>(&mut self, machine: &mut M) -> Scrubbed {
        if let Some(frame) = self.returned {
            let mut next = [0; 4];
            machine.frame_read(frame, 0, &mut next);
            self.returned = u32::from_le_bytes(next).checked_sub(1).map(FrameNumber);
            machine.frame_zero(frame);
            self.put_clear(machine, frame);
            return Scrubbed::Clear;
        }
        let frame = self.take_clear(machine);
        if self.lost > 0 {
            return Scrubbed::Lost(core::mem::take(&mut self.lost));
        }
        let Some(frame) = frame else { return Scrubbed::Nothing };
        match changed(machine, frame) {
            Some(offset) => {
                self.free -= 1;
                Scrubbed::Changed(frame, offset)
            }
            None => {
                self.put_clear(machine, frame);
                Scrubbed::Clear
            }
        }
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

/// Bytes of a link between clear frames.
const LINK: usize = 8;

/// The link of a clear frame: the number of the next one, and a check of both.
fn clear_link(frame: FrameNumber, next: Option<FrameNumber>) -> [u8; LINK] {
    let next = next.map_or(0, |next| next.0 + 1);
    let check = next ^ frame.0.rotate_left(16) ^ 0x5c2b_b3d1;
    (u64::from(check) << 32 | u64::from(next)).to_le_bytes()
}

/// Where a frame is not clear behind its link.
fn changed<M: Machine>(machine: &M, frame: FrameNumber) -> Option<usize> {
    const PART: usize = 512;
    let mut bytes = [0; PART];
    (0..PAGE_SIZE / PART).find_map(|part| {
        machine.frame_read(frame, part * PART, &mut bytes);
        if part == 0 {
            bytes[..LINK].fill(0);
        }
        let clear = bytes.iter().fold(0, |all, byte| all | byte) == 0;
        if clear { None } else { bytes.iter().position(|byte| *byte != 0).map(|at| part * PART + at) }
    })
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
