//! The bounded queue of messages to one end of a channel. All its memory is taken when the channel is made, and nothing of it
//! is touched then: slots and blocks come into being when they are first used, and are in the lists of free ones from then on.
//!
//! A message is a header in a slot and its payload in a chain of blocks. Slots hang in lanes, one per priority (or one in
//! all), first in, first out. A call takes a slot and no blocks: its payload stays with the caller, who waits.

use alloc::boxed::Box;
use alloc::vec::Vec;

use holm_abi::{DropPolicy, Error};

use super::check::Header;

/// No slot, no block.
const END: u32 = u32::MAX;

/// Slots and blocks that are made with the queue.
const READY: usize = 4;

/// Priorities of messages.
pub(crate) const PRIORITIES: usize = holm_abi::limits::PRIORITIES as usize;

#[derive(Debug, Clone)]
struct Slot {
    header: Header,
    /// The first block of the payload, and the bytes that count: 0 for a call, whose payload is elsewhere.
    block: u32,
    size: u32,
    /// The lane it is in.
    lane: u8,
    /// In its lane, or in the list of free slots.
    next: u32,
    previous: u32,
}

#[derive(Debug, Clone, Copy)]
struct Lane {
    first: u32,
    last: u32,
}

/// What a queue was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of a message at most.
    pub(crate) message: u32,
    /// Messages at most.
    pub(crate) messages: u32,
    /// Bytes at most.
    pub(crate) bytes: u64,
}

/// The queue to one end.
#[derive(Debug)]
pub(crate) struct Inbox {
    made: Limits,
    /// Messages queued at most now.
    pub(crate) max_messages: u32,
    /// Bytes queued at most now.
    pub(crate) max_bytes: u64,
    /// What happens when it is full.
    pub(crate) policy: DropPolicy,
    /// Messages queued, calls included.
    pub(crate) messages: u32,
    /// Bytes queued.
    pub(crate) bytes: u64,
    /// Messages sent to here so far, received here, dropped.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) dropped: u64,
    /// Bit of each lane that is not empty.
    lanes_used: u32,
    lanes: Box<[Lane]>,
    /// Those that were used so far, with room for all.
    slots: Vec<Slot>,
    free_slot: u32,
    /// The bytes of the blocks that were used so far, with room for all, and for each block the next of its chain.
    blocks: Vec<u8>,
    chains: Vec<u32>,
    free_block: u32,
    /// Bytes of a block, as a power of two.
    block_shift: u32,
}

/// A slot with room for a payload, not queued yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) struct Reserved {
    pub(crate) slot: u32,
}

/// A list with room for `count` items, which it never outgrows. Nothing is written.
fn room<T>(count: usize) -> Result<Vec<T>, Error> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| Error::NoMemory)?;
    Ok(list)
}

impl Limits {
    /// Small messages take one block each; long ones a chain of blocks of 1 KiB.
    fn block_shift(self) -> u32 {
        self.message.next_power_of_two().trailing_zeros().clamp(5, 10)
    }

    /// A message wastes less than a block, so this many are enough whatever the lengths are.
    fn blocks(self) -> usize {
        let full = (self.bytes >> self.block_shift()) as usize + self.messages as usize;
        let per_message = (u64::from(self.message).div_ceil(1 << self.block_shift())) as usize;
        full.min(per_message * self.messages as usize)
    }

    /// Bytes of kernel memory that a queue takes.
    pub(crate) fn kernel_bytes(self, by_priority: bool) -> u64 {
        let lanes = if by_priority { PRIORITIES } else { 1 };
        let blocks = self.blocks() * ((1 << self.block_shift()) + size_of::<u32>());
        (lanes * size_of::<Lane>() + self.messages as usize * size_of::<Slot>() + blocks) as u64
    }
}

impl Inbox {
    /// Makes a queue.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub(crate) fn new(made: Limits, policy: DropPolicy, by_priority: bool) -> Result<Self, Error> {
        let blocks = made.blocks();
        let lane_count = if by_priority { PRIORITIES } else { 1 };
        let mut lanes = room(lane_count)?;
        lanes.resize(lane_count, Lane { first: END, last: END });
        let mut inbox = Self {
            made,
            max_messages: made.messages,
            max_bytes: made.bytes,
            policy,
            messages: 0,
            bytes: 0,
            sent: 0,
            received: 0,
            dropped: 0,
            lanes_used: 0,
            lanes: lanes.into_boxed_slice(),
            slots: room(made.messages as usize)?,
            free_slot: END,
            blocks: room(blocks << made.block_shift())?,
            chains: room(blocks)?,
            free_block: END,
            block_shift: made.block_shift(),
        };
        // The short ways take no slot and no block that was never used: as many as are in use mostly are ready.
        let first: [Option<Reserved>; READY] = core::array::from_fn(|_| inbox.reserve(1));
        for reserved in first.into_iter().rev().flatten() {
            inbox.cancel(reserved);
        }
        Ok(inbox)
    }

    /// What it was made with.
    pub(crate) const fn made(&self) -> Limits {
        self.made
    }

    /// Whether a message of `length` bytes fits now.
    #[inline]
    pub(crate) const fn fits(&self, length: u32) -> bool {
        self.messages < self.max_messages && self.bytes + length as u64 <= self.max_bytes
    }

    /// Takes a slot, and blocks for `length` bytes. It counts at once; [`Inbox::push`] or [`Inbox::cancel`] follows.
    /// `None` when it does not fit.
    pub(crate) fn reserve(&mut self, length: u32) -> Option<Reserved> {
        let reserved = self.reserve_slot(length)?;
        // Blocks suffice for all messages that fit.
        self.extend(reserved, None, length as usize)?;
        Some(reserved)
    }

    /// As [`Inbox::reserve`], without the blocks: they follow with [`Inbox::extend`].
    pub(crate) fn reserve_slot(&mut self, length: u32) -> Option<Reserved> {
        if !self.fits(length) {
            return None;
        }
        let index = self.slot_take()?;
        let slot = self.slots.get_mut(index as usize)?;
        slot.block = END;
        slot.size = length;
        self.messages += 1;
        self.bytes += u64::from(length);
        Some(Reserved { slot: index })
    }

    /// Gives a slot that was reserved blocks for `bytes` bytes more, behind the block `last` of its payload, and answers where
    /// they lie and which the last one is. `bytes` is a multiple of a block's size but at the payload's end.
    pub(crate) fn extend(&mut self, reserved: Reserved, last: Option<u32>, bytes: usize) -> Option<(Cursor, u32)> {
        let mut first = END;
        let mut tail = last.unwrap_or(END);
        for _ in 0..bytes.div_ceil(1 << self.block_shift) {
            let block = self.block_take()?;
            *self.chains.get_mut(block as usize)? = END;
            match self.chains.get_mut(tail as usize) {
                Some(next) => *next = block,
                None => self.slots.get_mut(reserved.slot as usize)?.block = block,
            }
            if first == END {
                first = block;
            }
            tail = block;
        }
        Some((Cursor { block: first, left: bytes }, tail))
    }

    /// A slot that is free, or a new one.
    fn slot_take(&mut self) -> Option<u32> {
        if let Some(slot) = self.slots.get(self.free_slot as usize) {
            return Some(core::mem::replace(&mut self.free_slot, slot.next));
        }
        if self.slots.len() >= self.made.messages as usize {
            return None;
        }
        self.slots.push(Slot { header: Header::default(), block: END, size: 0, lane: 0, next: END, previous: END });
        Some(self.slots.len() as u32 - 1)
    }

    /// A block that is free, or a new one.
    fn block_take(&mut self) -> Option<u32> {
        if let Some(next) = self.chains.get(self.free_block as usize) {
            return Some(core::mem::replace(&mut self.free_block, *next));
        }
        if self.chains.len() >= self.made.blocks() {
            return None;
        }
        self.chains.push(END);
        self.blocks.resize(self.chains.len() << self.block_shift, 0);
        Some(self.chains.len() as u32 - 1)
    }

    /// Gives a slot back that was not queued.
    pub(crate) fn cancel(&mut self, reserved: Reserved) {
        self.free(reserved.slot);
    }

    fn free(&mut self, index: u32) {
        let free_slot = self.free_slot;
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let first = core::mem::replace(&mut slot.block, END);
        let size = core::mem::take(&mut slot.size);
        slot.next = free_slot;
        self.free_slot = index;
        if first != END {
            let mut last = first;
            while let Some(next) = self.chains.get(last as usize).copied().filter(|next| *next != END) {
                last = next;
            }
            if let Some(end) = self.chains.get_mut(last as usize) {
                *end = self.free_block;
                self.free_block = first;
            }
        }
        self.messages -= 1;
        self.bytes -= u64::from(size);
    }

    /// Queues a message whose payload is in place. Answers its slot.
    pub(crate) fn push(&mut self, reserved: Reserved, header: Header) -> u32 {
        let lane_index = if self.lanes.len() == 1 { 0 } else { usize::from(header.priority) % PRIORITIES };
        let Some(lane) = self.lanes.get_mut(lane_index) else { return END };
        let last = core::mem::replace(&mut lane.last, reserved.slot);
        if last == END {
            lane.first = reserved.slot;
            self.lanes_used |= 1 << lane_index;
        }
        if let Some(before) = self.slots.get_mut(last as usize) {
            before.next = reserved.slot;
        }
        if let Some(slot) = self.slots.get_mut(reserved.slot as usize) {
            slot.next = END;
            slot.previous = last;
            slot.header = header;
            slot.lane = lane_index as u8;
        }
        self.sent += 1;
        reserved.slot
    }

    /// The slot of the message to receive next.
    #[inline]
    pub(crate) fn first(&self) -> Option<u32> {
        if self.lanes_used == 0 {
            return None;
        }
        self.lanes.get(31 - self.lanes_used.leading_zeros() as usize).map(|lane| lane.first)
    }

    /// The oldest message of the lowest priority that is no call: the one to drop.
    ///
    /// Walks over calls at most; their number is bounded by the queue's length.
    pub(crate) fn droppable(&self) -> Option<u32> {
        let mut lanes = self.lanes_used;
        while lanes != 0 {
            let mut at = self.lanes.get(lanes.trailing_zeros() as usize)?.first;
            while let Some(slot) = self.slots.get(at as usize) {
                if slot.header.caller.is_none() {
                    return Some(at);
                }
                at = slot.next;
            }
            lanes &= lanes - 1;
        }
        None
    }

    /// The header of a queued message.
    pub(crate) fn header(&self, slot: u32) -> Option<&Header> {
        self.slots.get(slot as usize).map(|slot| &slot.header)
    }

    /// Takes a message out of the queue and gives its memory back.
    pub(crate) fn remove(&mut self, index: u32) -> Option<Header> {
        let slot = self.slots.get_mut(index as usize)?;
        let (next, previous) = (slot.next, slot.previous);
        let header = core::mem::take(&mut slot.header);
        let lane_index = usize::from(slot.lane);
        if let Some(before) = self.slots.get_mut(previous as usize) {
            before.next = next;
        }
        if let Some(after) = self.slots.get_mut(next as usize) {
            after.previous = previous;
        }
        let lane = self.lanes.get_mut(lane_index)?;
        if previous == END {
            lane.first = next;
        }
        if next == END {
            lane.last = previous;
        }
        if lane.first == END {
            self.lanes_used &= !(1 << lane_index);
        }
        self.free(index);
        Some(header)
    }

    /// Queues a short message in one step. `None`: nothing was done, since it does not fit, or not into one block.
    #[inline(always)]
    pub(crate) fn push_short(&mut self, header: Header, payload: [u64; 4]) -> Option<()> {
        let length = header.length as usize;
        if header.length == 0 || !self.fits(header.length) {
            return None;
        }
        let lane_index = if self.lanes.len() == 1 { 0 } else { usize::from(header.priority) % PRIORITIES };
        let lane = self.lanes.get_mut(lane_index)?;
        let (index, block) = (self.free_slot, self.free_block);
        let next_block = self.chains.get_mut(block as usize)?;
        let start = (block as usize) << self.block_shift;
        // The least block is as long as a short message.
        let place = self.blocks.get_mut(start..)?.first_chunk_mut::<32>()?;
        if lane.first != END {
            self.slots.get_mut(lane.last as usize)?.next = index;
        }
        let slot = self.slots.get_mut(index as usize)?;
        // Nothing fails from here on.
        let mut bytes = [0; 32];
        for (to, word) in bytes.chunks_exact_mut(8).zip(payload) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        if length == bytes.len() {
            *place = bytes;
        } else {
            put_part(place, &bytes, length);
        }
        self.free_block = core::mem::replace(next_block, END);
        self.free_slot = slot.next;
        *slot = Slot { header, block, size: header.length, lane: lane_index as u8, next: END, previous: lane.last };
        if lane.first == END {
            lane.first = index;
            self.lanes_used |= 1 << lane_index;
        }
        lane.last = index;
        self.messages += 1;
        self.bytes += length as u64;
        self.sent += 1;
        Some(())
    }

    /// Takes the first message out in one step, when it is a short one, of one block and without a caller, capabilities and
    /// a checksum. `None`: nothing was done.
    #[inline(always)]
    pub(crate) fn take_short(&mut self) -> Option<(Header, [u64; 4])> {
        // Who waits for room is told by another way.
        if !self.fits(self.made.message) {
            return None;
        }
        let index = self.first()?;
        let slot = self.slots.get_mut(index as usize)?;
        let header = &slot.header;
        let block = slot.block;
        if header.caller.is_some()
            || header.cap_count != 0
            || header.crc.is_some()
            || header.length == 0
            || header.length > 32
            || header.length != slot.size
            || !header.is_sound()
        {
            return None;
        }
        let start = (block as usize) << self.block_shift;
        let bytes = self.blocks.get(start..)?.first_chunk::<32>()?;
        let mut payload = [0; 4];
        for (word, from) in payload.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(from.try_into().unwrap_or_default());
        }
        let end = self.chains.get_mut(block as usize)?;
        let lane = self.lanes.get_mut(usize::from(slot.lane))?;
        // Nothing fails from here on.
        let header = slot.header;
        let next = slot.next;
        *end = self.free_block;
        self.free_block = block;
        slot.header = Header::default();
        slot.block = END;
        slot.size = 0;
        slot.next = self.free_slot;
        self.free_slot = index;
        lane.first = next;
        if next == END {
            lane.last = END;
            self.lanes_used &= !(1 << (u32::from(slot.lane) % PRIORITIES as u32));
        } else if let Some(after) = self.slots.get_mut(next as usize) {
            after.previous = END;
        }
        self.messages -= 1;
        self.bytes -= u64::from(header.length);
        Some((header, payload))
    }

    /// Where the payload of a message lies: its first `length` bytes at most.
    pub(crate) fn cursor(&self, slot: u32, length: u32) -> Cursor {
        match self.slots.get(slot as usize) {
            Some(slot) => Cursor { block: slot.block, left: slot.size.min(length) as usize },
            None => Cursor { block: END, left: 0 },
        }
    }

    /// The next piece of a payload: its place in the bytes of [`Inbox::lend`].
    #[inline]
    pub(crate) fn advance(&self, cursor: &mut Cursor) -> Option<core::ops::Range<usize>> {
        if cursor.left == 0 {
            return None;
        }
        let start = (cursor.block as usize) << self.block_shift;
        let size = cursor.left.min(1 << self.block_shift);
        cursor.left -= size;
        cursor.block = self.chains.get(cursor.block as usize).copied()?;
        Some(start..start + size)
    }

    /// The bytes of all blocks, to copy to or from while the kernel is used otherwise. They are to be given back.
    #[inline]
    pub(crate) fn lend(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.blocks)
    }

    /// Takes the bytes of all blocks back.
    #[inline]
    pub(crate) fn give_back(&mut self, blocks: Vec<u8>) {
        self.blocks = blocks;
    }
}

/// Puts the first `length` bytes in place; apart, since nearly all short messages are full.
#[cold]
#[inline(never)]
fn put_part(place: &mut [u8; 32], bytes: &[u8; 32], length: usize) {
    for (to, from) in place.iter_mut().zip(bytes).take(length) {
        *to = *from;
    }
}

/// How far the copy of a payload came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    block: u32,
    left: usize,
}

impl Cursor {
    /// How many bytes are left.
    pub(crate) const fn left(&self) -> usize {
        self.left
    }
}

#[cfg(test)]
#[path = "tests_inbox.rs"]
mod tests;
