//! The table of a unit's handles: slots in chunks, found in constant time, each with a generation.
//!
//! A handle is the index of a slot and the slot's generation. Freeing a slot counts its generation up, so that the old
//! handle never names what comes later; a slot whose generations are used up is never used again.

use alloc::boxed::Box;
use alloc::vec::Vec;

use holm_abi::{Error, Handle, ObjectType, Rights};

use super::{GrantId, Types};
use crate::object::Object;

/// Slots per chunk.
pub(crate) const CHUNK: usize = 32;

/// Slots at most: an index has 16 bits.
const MAX_SLOTS: usize = 1 << 16;

/// No slot.
const END: u32 = u32::MAX;

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing; the next free slot, or `END`.
    Free(u32),
    /// A capability through this grant.
    Held(GrantId),
    /// A capability that was revoked and swept: its grant and its hold on the object are gone.
    Swept,
}

/// A slot of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// The revocation epoch in which its grant was last found alive; 0 never equals an epoch.
    pub(crate) checked: u64,
    /// The generation of the handle that names it; above [`Handle::LAST_GENERATION`] when it is used up.
    pub(crate) generation: u16,
    /// The bit of the object's type.
    pub(crate) types: Types,
    /// What the holder may do.
    pub(crate) rights: Rights,
    /// The object.
    pub(crate) object: Object,
    /// What receivers see of messages sent through it.
    pub(crate) badge: u64,
    /// What it holds.
    pub(crate) content: Content,
}

/// The handles of one unit.
#[derive(Debug)]
pub struct CapTable {
    #[expect(clippy::vec_box, reason = "chunks stay where they are while the list of them grows, and are made apart")]
    chunks: Vec<Box<[Slot; CHUNK]>>,
    free: u32,
    /// Slots that can be taken without growing.
    spare: u32,
    used: u32,
    /// Where the teardown of the unit goes on.
    torn: u32,
}

impl Default for CapTable {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: END, spare: 0, used: 0, torn: 0 }
    }
}

impl CapTable {
    /// How many slots are in use.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.used
    }

    /// Whether no slot is in use.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes of kernel memory that the table takes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        (self.chunks.len() * Self::CHUNK_BYTES) as u64
    }

    const CHUNK_BYTES: usize = size_of::<[Slot; CHUNK]>() + size_of::<usize>();

    /// Bytes that [`CapTable::reserve`] will take for `count` slots.
    ///
    /// # Errors
    /// [`Error::NoHandles`] when the table cannot have so many.
    pub(crate) const fn growth(&self, count: u32) -> Result<u64, Error> {
        let missing = count.saturating_sub(self.spare) as usize;
        let chunks = missing.div_ceil(CHUNK);
        if (self.chunks.len() + chunks) * CHUNK > MAX_SLOTS {
            return Err(Error::NoHandles);
        }
        Ok((chunks * Self::CHUNK_BYTES) as u64)
    }

    /// Makes sure that `count` slots can be taken without growing.
    ///
    /// # Errors
    /// [`Error::NoHandles`] and [`Error::NoMemory`]; slots made so far stay.
    pub(crate) fn reserve(&mut self, count: u32) -> Result<(), Error> {
        while self.spare < count {
            self.grow()?;
        }
        Ok(())
    }

    fn grow(&mut self) -> Result<(), Error> {
        let first = self.chunks.len() * CHUNK;
        if first >= MAX_SLOTS {
            return Err(Error::NoHandles);
        }
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK).map_err(|_| Error::NoMemory)?;
        self.chunks.try_reserve(1).map_err(|_| Error::NoMemory)?;
        for offset in 1..=CHUNK {
            let next = if offset == CHUNK { self.free } else { (first + offset) as u32 };
            chunk.push(Slot {
                checked: 0,
                generation: 1,
                types: Types::NONE,
                rights: Rights::NONE,
                object: Object::System,
                badge: 0,
                content: Content::Free(next),
            });
        }
        let Ok(chunk) = Box::<[Slot; CHUNK]>::try_from(chunk.into_boxed_slice()) else { return Err(Error::NoMemory) };
        self.chunks.push(chunk);
        self.free = first as u32;
        self.spare += CHUNK as u32;
        Ok(())
    }

    /// Fills a slot and says which; `None` when none is spare. `checked` is the epoch in which the grant was found alive, or 0.
    #[inline(always)]
    pub(crate) fn put(
        &mut self,
        object: Object,
        rights: Rights,
        badge: u64,
        content: Content,
        checked: u64,
    ) -> Option<Handle> {
        let index = self.free;
        let slot = self.at_mut(index)?;
        let Content::Free(next) = slot.content else { return None };
        *slot = Slot {
            checked,
            generation: slot.generation,
            types: Types::of(object.object_type()),
            rights,
            object,
            badge,
            content,
        };
        let handle = Handle::new(index as u16, slot.generation);
        self.free = next;
        self.spare -= 1;
        self.used += 1;
        handle
    }

    /// Empties the slot of `handle`, which is stale from now on.
    #[inline(always)]
    pub(crate) fn free(&mut self, handle: Handle) -> Option<Slot> {
        let free = self.free;
        let slot = self.slot_mut(handle).ok()?;
        let was = *slot;
        slot.generation += 1;
        slot.checked = 0;
        let last = slot.generation > Handle::LAST_GENERATION;
        slot.content = Content::Free(if last { END } else { free });
        self.used -= 1;
        if !last {
            self.free = u32::from(handle.split().ok()?.0);
            self.spare += 1;
        }
        Some(was)
    }

    /// The handles that the next [`CapTable::put`]s give, in order, as far as slots are spare.
    pub(crate) fn next_free(&self, handles: &mut [Handle]) {
        let mut at = self.free;
        for handle in handles {
            let Some(chunk) = self.chunks.get(at as usize / CHUNK) else { return };
            let slot = &chunk[at as usize % CHUNK];
            let Content::Free(next) = slot.content else { return };
            *handle = Handle::new(at as u16, slot.generation).unwrap_or(Handle::NONE);
            at = next;
        }
    }

    /// Whether a slot can be taken without growing.
    #[inline(always)]
    pub(crate) const fn has_spare(&self) -> bool {
        self.spare != 0
    }

    #[inline(always)]
    fn at_mut(&mut self, index: u32) -> Option<&mut Slot> {
        self.chunks.get_mut(index as usize / CHUNK).map(|chunk| &mut chunk[index as usize % CHUNK])
    }

    /// The slot of a handle.
    ///
    /// # Errors
    /// [`Error::BadHandle`] when the number is no handle or is stale.
    #[inline(always)]
    pub(crate) fn slot_mut(&mut self, handle: Handle) -> Result<&mut Slot, Error> {
        let (index, generation) = handle.split()?;
        let chunk = self.chunks.get_mut(usize::from(index) / CHUNK).ok_or(Error::BadHandle)?;
        let slot = &mut chunk[usize::from(index) % CHUNK];
        if slot.generation != generation || matches!(slot.content, Content::Free(_)) {
            return Err(Error::BadHandle);
        }
        Ok(slot)
    }

    /// The slot of a handle in parts, which may be no handle at all. A free slot may be found, too: it holds nothing.
    #[inline(always)]
    pub(crate) fn slot_by(&self, index: u16, generation: u16) -> Option<&Slot> {
        let chunk = self.chunks.get(usize::from(index) / CHUNK)?;
        Some(&chunk[usize::from(index) % CHUNK]).filter(|slot| slot.generation == generation)
    }

    /// The slot of a handle, to read.
    ///
    /// # Errors
    /// As [`CapTable::slot_mut`].
    pub(crate) fn slot(&self, handle: Handle) -> Result<&Slot, Error> {
        let (index, generation) = handle.split()?;
        let chunk = self.chunks.get(usize::from(index) / CHUNK).ok_or(Error::BadHandle)?;
        let slot = &chunk[usize::from(index) % CHUNK];
        if slot.generation != generation || matches!(slot.content, Content::Free(_)) {
            return Err(Error::BadHandle);
        }
        Ok(slot)
    }

    /// The next handle in use for a teardown that has looked at at most `budget` slots since the last call, which counts it
    /// down. `None` with budget left: the table is empty.
    pub(crate) fn next_to_tear(&mut self, budget: &mut u32) -> Option<Handle> {
        while *budget > 0 {
            *budget -= 1;
            let index = self.torn as usize;
            let Some(chunk) = self.chunks.get(index / CHUNK) else {
                if self.used == 0 {
                    *budget = (*budget).max(1);
                    return None;
                }
                // Something was installed behind the walk: walk again.
                self.torn = 0;
                continue;
            };
            let slot = &chunk[index % CHUNK];
            self.torn += 1;
            if !matches!(slot.content, Content::Free(_)) {
                return Handle::new(index as u16, slot.generation);
            }
        }
        None
    }

    /// Every handle in use, with its slot. Not bounded: for tests and checks.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn handles(&self) -> impl Iterator<Item = (Handle, &Slot)> {
        self.chunks.iter().enumerate().flat_map(|(chunk, slots)| {
            slots.iter().enumerate().filter_map(move |(offset, slot)| match slot.content {
                Content::Free(_) => None,
                _ => Some((Handle::new((chunk * CHUNK + offset) as u16, slot.generation)?, slot)),
            })
        })
    }
}

impl Slot {
    /// The type of its object.
    pub(crate) const fn object_type(&self) -> ObjectType {
        self.object.object_type()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_handle_names_its_slot_until_it_is_freed_and_never_again(
            steps in proptest::collection::vec((0u8..3, any::<u16>()), 0..300),
        ) {
            let mut table = CapTable::default();
            let mut model: BTreeMap<Handle, u64> = BTreeMap::new();
            let mut gone: Vec<Handle> = Vec::new();
            for (number, (step, which)) in steps.into_iter().enumerate() {
                if step < 2 {
                    table.reserve(1).unwrap();
                    let handle = table.put(Object::Console, Rights::READ, number as u64, Content::Swept, 0).unwrap();
                    prop_assert!(handle.raw() > 0 && !gone.contains(&handle));
                    prop_assert!(model.insert(handle, number as u64).is_none());
                } else if let Some(handle) = model.keys().nth(usize::from(which) % model.len().max(1)).copied() {
                    prop_assert_eq!(table.free(handle).unwrap().badge, model.remove(&handle).unwrap());
                    gone.push(handle);
                }
                prop_assert_eq!(table.len() as usize, model.len());
                for (handle, badge) in &model {
                    prop_assert_eq!(table.slot(*handle).unwrap().badge, *badge);
                }
                prop_assert!(gone.iter().all(|handle| table.slot(*handle).is_err() && table.slot_mut(*handle).is_err()));
            }
        }
    }

    #[test]
    fn the_first_handles_are_the_initial_ones() {
        let mut table = CapTable::default();
        table.reserve(40).unwrap();
        // Slots of the chunk that was made last come first; a unit's initial capabilities are installed one by one.
        let mut table = CapTable::default();
        for index in 0..40 {
            table.reserve(1).unwrap();
            let handle = table.put(Object::Console, Rights::NONE, 0, Content::Swept, 0).unwrap();
            assert_eq!(handle, Handle::initial(index));
        }
    }

    #[test]
    fn a_slot_is_retired_when_its_generations_are_used_up() {
        let mut table = CapTable::default();
        table.reserve(1).unwrap();
        let mut last = None;
        for _ in 0..Handle::LAST_GENERATION {
            let handle = table.put(Object::Console, Rights::NONE, 0, Content::Swept, 0).unwrap();
            assert_eq!(handle.split().unwrap().0, 0);
            table.free(handle).unwrap();
            last = Some(handle);
        }
        let next = table.put(Object::Console, Rights::NONE, 0, Content::Swept, 0).unwrap();
        assert_eq!(next.split().unwrap().0, 1, "slot 0 is used up");
        assert!(table.slot(last.unwrap()).is_err());
        assert_eq!(table.spare, CHUNK as u32 - 2);
    }

    #[test]
    fn the_table_ends_at_its_last_index() {
        let mut table = CapTable::default();
        table.reserve(MAX_SLOTS as u32).unwrap();
        assert_eq!(table.growth(MAX_SLOTS as u32 + 1), Err(Error::NoHandles));
        assert_eq!(table.reserve(MAX_SLOTS as u32 + 1), Err(Error::NoHandles));
        for _ in 0..MAX_SLOTS {
            table.put(Object::Console, Rights::NONE, 0, Content::Swept, 0).unwrap();
        }
        assert!(table.put(Object::Console, Rights::NONE, 0, Content::Swept, 0).is_none());
    }
}
