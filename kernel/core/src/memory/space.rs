//! Address spaces: which parts of which regions are shown where.
//!
//! Everything over a length that a program chooses works in bounded steps that leave the space whole: an unmapping eats a
//! mapping from its start, a protection splits it where it has come to.

use holm_abi::{Error, Protection};

use super::frames::{Exhausted, NoPool};
use super::mapping::{Mapping, Mappings};
use super::region::{STEP, Sweep};
use super::{AddressSpaceId, GrantRef, Progress, RegionId};
use crate::cap::GrantId;
use crate::kernel::Kernel;
use crate::machine::{Flush, FrameNumber, HALF, Machine, PAGE_SIZE, PageRights, SpaceId};
use crate::object::Object;
use crate::quota::Resource;
use crate::unit::UnitId;

const PAGE: u64 = PAGE_SIZE as u64;

/// The lowest address that can be mapped.
pub const USER_START: u64 = 0x1_0000;
/// Where mappings without a wish are placed first: in a space with an upper half there, so that the lower one is free for
/// guests, and in a guest's space.
const MAP_BASES: [u64; 2] = [HALF + 0x1000_0000_0000, 0x2000_0000_0000];
/// Mappings that one step of a call over a range changes at most.
const MAPPINGS_PER_STEP: usize = 8;
/// What a mapping costs its unit in bytes of kernel memory.
pub const MAPPING_BYTES: u64 = size_of::<Mapping>() as u64 * 2;
/// What a space costs its unit in bytes of kernel memory.
pub const SPACE_BYTES: u64 = size_of::<AddressSpace>() as u64;

/// An address space.
#[derive(Debug)]
pub struct AddressSpace {
    /// Its page tables.
    pub root: SpaceId,
    /// Who pays for them and for the mappings.
    pub owner: UnitId,
    /// Its lowest address.
    pub low: u64,
    /// The end of its addresses.
    pub high: u64,
    /// What is shown.
    pub mappings: Mappings,
    /// Frames of its page tables.
    pub tables: u64,
    /// Handles and kernel structures that name it.
    pub references: u32,
    /// Of a guest's space: the tables that show it below the personality's own half, made when a thread is first bound.
    pub joined: Option<SpaceId>,
    /// The next space that is being taken apart.
    pub(super) next_dying: Option<AddressSpaceId>,
}

/// Where a mapping is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Exactly here; what is here already goes.
    Replace(u64),
    /// Exactly here, where nothing is.
    Free(u64),
    /// Here when it is free, or else at the lowest free place from `low` to `high`.
    Wish {
        /// The wish; 0 for none.
        address: u64,
        /// The upper half is wanted.
        upper: bool,
    },
}

/// Spaces that nothing names any more, being taken apart.
#[derive(Debug, Default)]
pub struct DyingSpaces {
    first: Option<AddressSpaceId>,
    last: Option<AddressSpaceId>,
}

impl DyingSpaces {
    /// Whether there are any.
    #[inline]
    pub(crate) const fn waits(&self) -> bool {
        self.first.is_some()
    }
}

impl<M: Machine> Kernel<M> {
    /// Makes an empty space from `low` to `high` with one reference.
    ///
    /// # Errors
    /// `Quota`, `NoMemory`.
    pub(crate) fn space_new(&mut self, owner: UnitId, low: u64, high: u64) -> Result<AddressSpaceId, Error> {
        self.charge(owner, Resource::Kernel, SPACE_BYTES)?;
        let result = self.space_new_charged(owner, low, high);
        match result {
            Ok(_) => self.unit_hold(owner),
            Err(_) => self.refund(owner, Resource::Kernel, SPACE_BYTES),
        }
        result
    }

    fn space_new_charged(&mut self, owner: UnitId, low: u64, high: u64) -> Result<AddressSpaceId, Error> {
        self.charge(owner, Resource::Frames, 4)?;
        let (made, taken) = match self.frames.pool(&mut self.machine) {
            Ok(mut pool) => (self.machine.space_create(&mut pool).map_err(|_| Error::NoMemory), pool.taken),
            Err(Exhausted) => (Err(Error::NoMemory), 0),
        };
        self.refund(owner, Resource::Frames, 4 - taken.min(4));
        let root = match made {
            Ok(root) => root,
            Err(error) => {
                self.refund(owner, Resource::Frames, taken);
                return Err(error);
            }
        };
        self.spaces
            .insert(AddressSpace {
                root,
                owner,
                low,
                high,
                mappings: Mappings::default(),
                tables: taken,
                references: 1,
                joined: None,
                next_dying: None,
            })
            .map_err(|_| {
                let mut pool = self.frames.returns(&mut self.machine);
                while !self.machine.space_destroy(root, &mut pool) {}
                self.refund(owner, Resource::Frames, taken);
                Error::NoMemory
            })
    }

    /// The count of references of a guest space.
    pub(crate) fn guest_space_references(&mut self, id: AddressSpaceId) -> Option<&mut u32> {
        self.spaces.get_mut(id).map(|space| &mut space.references)
    }

    /// The last handle of a guest space is gone.
    pub(crate) fn guest_space_released(&mut self, id: AddressSpaceId) {
        self.space_released(id);
    }

    /// Something less names the space; with the last it is taken apart in the background.
    pub(crate) fn space_release(&mut self, id: AddressSpaceId) {
        let Some(space) = self.spaces.get_mut(id) else { return };
        space.references = space.references.saturating_sub(1);
        if space.references == 0 {
            self.space_released(id);
        }
    }

    /// The last reference to the space is gone: it is taken apart in the background. No thread is in it any more.
    pub(crate) fn space_released(&mut self, id: AddressSpaceId) {
        // In order: guest spaces go before the space of their personality, whose tables they show.
        match self.dying_spaces.last.replace(id).and_then(|last| self.spaces.get_mut(last)) {
            Some(last) => last.next_dying = Some(id),
            None => self.dying_spaces.first = Some(id),
        }
    }

    /// Takes a bounded part of the spaces apart that nothing names any more: mappings, then page tables.
    pub(crate) fn dying_spaces_step(&mut self) -> Progress {
        let Some(id) = self.dying_spaces.first else { return Progress::Done };
        let Some(space) = self.spaces.get_mut(id) else {
            self.dying_spaces.first = None;
            return Progress::Done;
        };
        let (owner, root) = (space.owner, space.root);
        if !space.mappings.is_empty() {
            // Their pages stay in the tables: nobody runs there, and the tables go with the space.
            for _ in 0..MAPPINGS_PER_STEP {
                let mapping = self.spaces.get(id).and_then(|space| space.mappings.next(0).copied());
                let Some(mapping) = mapping else { break };
                self.mapping_forget(id, &mapping);
            }
            return Progress::More;
        }
        let mut pool = self.frames.returns(&mut self.machine);
        let done = match space.joined {
            Some(joined) => {
                if self.machine.space_destroy(joined, &mut pool) {
                    space.joined = None;
                }
                false
            }
            None => self.machine.space_destroy(root, &mut pool),
        };
        let given = pool.given.min(space.tables);
        space.tables -= given;
        let left = space.tables;
        if done {
            self.dying_spaces.first = space.next_dying;
            if self.dying_spaces.first.is_none() {
                self.dying_spaces.last = None;
            }
            self.spaces.remove(id);
            self.refund(owner, Resource::Frames, given + left);
            self.refund(owner, Resource::Kernel, SPACE_BYTES);
            self.unit_unhold(owner);
        } else {
            self.refund(owner, Resource::Frames, given);
        }
        if self.dying_spaces.first.is_some() { Progress::More } else { Progress::Done }
    }

    /// Takes a mapping out of a space's list, and gives back what it cost.
    fn mapping_forget(&mut self, id: AddressSpaceId, mapping: &Mapping) {
        let Some(space) = self.spaces.get_mut(id) else { return };
        if space.mappings.remove(mapping.start).is_none() {
            return;
        }
        let owner = space.owner;
        self.refund(owner, Resource::Kernel, MAPPING_BYTES);
        self.region_unview(mapping.region, id, mapping.delta());
        if let Some(grant) = mapping.grant {
            self.grant_unwatch(grant);
        }
    }

    /// Adds a mapping to a space's list.
    fn mapping_add(&mut self, id: AddressSpaceId, mapping: Mapping) -> Result<(), Error> {
        let owner = self.spaces.get(id).ok_or(Error::BadState)?.owner;
        self.charge(owner, Resource::Kernel, MAPPING_BYTES)?;
        let result = self.region_view(mapping.region, id, mapping.delta()).and_then(|()| {
            let space = self.spaces.get_mut(id).ok_or(Error::BadState)?;
            space.mappings.insert(mapping).map_err(|Exhausted| {
                self.region_unview(mapping.region, id, mapping.delta());
                Error::NoSpace
            })
        });
        match (result, mapping.grant) {
            (Ok(()), Some(grant)) => self.grant_watch(grant),
            (Ok(()), None) => {}
            (Err(_), _) => self.refund(owner, Resource::Kernel, MAPPING_BYTES),
        }
        result
    }

    /// Makes a mapping end at `at` and another begin there, when one goes across.
    fn mapping_split(&mut self, id: AddressSpaceId, at: u64) -> Result<(), Error> {
        let Some(space) = self.spaces.get_mut(id) else { return Err(Error::BadState) };
        let Some(whole) = space.mappings.find(at).copied().filter(|mapping| mapping.start < at) else { return Ok(()) };
        space.mappings.update(whole.start, |mapping| mapping.end = at);
        let rest = Mapping { start: at, offset: whole.offset + (at - whole.start), ..whole };
        let result = self.mapping_add(id, rest);
        if result.is_err()
            && let Some(space) = self.spaces.get_mut(id)
        {
            space.mappings.update(whole.start, |mapping| mapping.end = whole.end);
        }
        result
    }

    /// Joins the mapping that begins at `at` to the one that ends there, when nothing tells them apart.
    fn mapping_join(&mut self, id: AddressSpaceId, at: u64) {
        let Some(space) = self.spaces.get_mut(id) else { return };
        let Some(right) = space.mappings.find(at).copied().filter(|mapping| mapping.start == at) else { return };
        let Some(left) = space.mappings.before(at).copied().filter(|left| left.continues(&right)) else { return };
        self.mapping_forget(id, &right);
        if let Some(space) = self.spaces.get_mut(id) {
            space.mappings.update(left.start, |mapping| mapping.end = right.end);
        }
    }

    /// Takes the pages of a mapping from `from` to `to` out of the tables, at most [`STEP`] of them, and flushes. Answers up
    /// to where it came.
    fn tables_clear(&mut self, id: AddressSpaceId, mapping: &Mapping, from: u64, to: u64) -> u64 {
        let Some(root) = self.spaces.get(id).map(|space| space.root) else { return to };
        let Some(region) = self.regions.get(mapping.region) else { return to };
        let delta = mapping.delta();
        let (mut page, end) = (from.wrapping_sub(delta) / PAGE, to.wrapping_sub(delta) / PAGE);
        let mut stale: Option<(u64, u64)> = None;
        let mut looked = 0;
        let mut reached = to;
        while let Some((found, _)) = region.tree.next(&self.nodes, page, end) {
            let address = delta.wrapping_add(found * PAGE);
            if looked == STEP {
                reached = address;
                break;
            }
            looked += 1;
            if self.machine.unmap(root, address).is_some() {
                stale = Some((stale.map_or(address, |(low, _)| low), address));
            }
            page = found + 1;
        }
        if let Some((low, high)) = stale {
            self.machine.flush(root, Flush::Range { address: low, pages: (high - low) / PAGE + 1 });
        }
        reached
    }

    /// Checks a range of addresses of a space: pages, not empty, inside.
    ///
    /// # Errors
    /// `Invalid`.
    pub(crate) fn range_check(&self, id: AddressSpaceId, start: u64, bytes: u64) -> Result<u64, Error> {
        let space = self.spaces.get(id).ok_or(Error::BadState)?;
        let end = start.checked_add(bytes).ok_or(Error::Invalid)?;
        let inside = start >= space.low && end <= space.high;
        if bytes == 0 || !start.is_multiple_of(PAGE) || !bytes.is_multiple_of(PAGE) || !inside {
            return Err(Error::Invalid);
        }
        Ok(end)
    }

    /// Unmaps what is mapped from `start` to `end` in bounded steps. Holes are left alone.
    ///
    /// # Errors
    /// `Quota`, `NoMemory` when a mapping must be split and there is no memory for its second half.
    pub(crate) fn unmap_step(&mut self, id: AddressSpaceId, start: u64, end: u64) -> Result<Progress, Error> {
        for _ in 0..MAPPINGS_PER_STEP {
            let space = self.spaces.get(id).ok_or(Error::BadState)?;
            let Some(mapping) = space.mappings.next(start).copied().filter(|mapping| mapping.start < end) else {
                return Ok(Progress::Done);
            };
            if mapping.start < start || end < mapping.end {
                self.mapping_split(id, start)?;
                self.mapping_split(id, end)?;
                continue;
            }
            let reached = self.tables_clear(id, &mapping, mapping.start, mapping.end);
            if reached < mapping.end {
                let cut = reached - mapping.start;
                if let Some(space) = self.spaces.get_mut(id) {
                    space.mappings.update(mapping.start, |mapping| {
                        mapping.start += cut;
                        mapping.offset += cut;
                    });
                }
                return Ok(Progress::More);
            }
            self.mapping_forget(id, &mapping);
        }
        Ok(Progress::More)
    }

    /// Changes what may be done from `start` to `end` in bounded steps; answers where the next one begins, `end` when it is
    /// done.
    ///
    /// # Errors
    /// `NotFound` at a hole, `Access` where the mapping's capability does not allow it, `Quota`, `NoMemory`, `NoSpace`; what
    /// lies before stays changed.
    pub(crate) fn protect_step(
        &mut self,
        id: AddressSpaceId,
        start: u64,
        end: u64,
        rights: Protection,
    ) -> Result<u64, Error> {
        let mut at = start;
        for _ in 0..MAPPINGS_PER_STEP {
            if at >= end {
                break;
            }
            let space = self.spaces.get(id).ok_or(Error::BadState)?;
            let mapping = *space.mappings.find(at).ok_or(Error::NotFound)?;
            if !mapping.ceiling.contains(rights) {
                return Err(Error::NotPermitted);
            }
            let stop = mapping.end.min(end);
            if mapping.rights != rights {
                self.mapping_split(id, at)?;
                self.mapping_split(id, stop)?;
                let mapping = *self.spaces.get(id).and_then(|space| space.mappings.find(at)).ok_or(Error::BadState)?;
                let mut reached = stop;
                if !rights.contains(mapping.rights) {
                    // The part that is cleared gets its new rights at once, so that no fault brings the old ones back.
                    reached = self.tables_reach(&mapping, stop);
                    self.mapping_split(id, reached)?;
                    self.tables_clear(id, &mapping, at, reached);
                }
                if let Some(space) = self.spaces.get_mut(id) {
                    space.mappings.update(at, |mapping| mapping.rights = rights);
                }
                self.mapping_join(id, reached);
                self.mapping_join(id, at);
                if reached < stop {
                    return Ok(reached);
                }
            }
            at = stop;
        }
        Ok(at)
    }

    /// How far [`Kernel::tables_clear`] would come from the start of a mapping in one step.
    fn tables_reach(&self, mapping: &Mapping, to: u64) -> u64 {
        let Some(region) = self.regions.get(mapping.region) else { return to };
        let delta = mapping.delta();
        let (mut page, end) = (mapping.offset / PAGE, to.wrapping_sub(delta) / PAGE);
        for _ in 0..STEP {
            let Some((found, _)) = region.tree.next(&self.nodes, page, end) else { return to };
            page = found + 1;
        }
        match region.tree.next(&self.nodes, page, end) {
            Some((found, _)) => delta.wrapping_add(found * PAGE),
            None => to,
        }
    }

    /// Shows `bytes` bytes of a region from `offset` on; `Ok(None)` asks for another step (what was there is being
    /// unmapped). The address is the answer.
    ///
    /// # Errors
    /// `Invalid` for a range that is not whole pages inside the space; `NoSpace` when no gap is large enough or the space or
    /// the region has too many mappings; `Exists` for [`Placement::Free`]; `Quota`, `NoMemory`.
    #[expect(clippy::too_many_arguments, reason = "a mapping is these")]
    pub(crate) fn map_step(
        &mut self,
        id: AddressSpaceId,
        region: RegionId,
        offset: u64,
        bytes: u64,
        placement: Placement,
        rights: Protection,
        ceiling: Protection,
        grant: GrantRef,
    ) -> Result<Option<u64>, Error> {
        let pages = self.regions.get(region).ok_or(Error::BadHandle)?.pages;
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= pages * PAGE);
        if bytes == 0 || !offset.is_multiple_of(PAGE) || !bytes.is_multiple_of(PAGE) || !fits {
            return Err(Error::Invalid);
        }
        let start = match placement {
            Placement::Replace(start) => {
                let end = self.range_check(id, start, bytes)?;
                if self.unmap_step(id, start, end)? == Progress::More {
                    return Ok(None);
                }
                start
            }
            Placement::Free(start) => {
                let end = self.range_check(id, start, bytes)?;
                let space = self.spaces.get(id).ok_or(Error::BadState)?;
                if space.mappings.next(start).is_some_and(|mapping| mapping.start < end) {
                    return Err(Error::Exists);
                }
                start
            }
            Placement::Wish { address, upper } => {
                let space = self.spaces.get(id).ok_or(Error::BadState)?;
                let (low, high) = (if upper { space.low.max(HALF) } else { space.low }, space.high);
                let end = address.checked_add(bytes);
                let wished = address.is_multiple_of(PAGE)
                    && address >= low
                    && end.is_some_and(|end| {
                        end <= high && space.mappings.next(address).is_none_or(|mapping| mapping.start >= end)
                    });
                if wished {
                    address
                } else {
                    let [native, guest] = MAP_BASES;
                    let base = low.max(if high > HALF { native } else { guest }).min(high);
                    space
                        .mappings
                        .gap(bytes, base, high)
                        .or_else(|| space.mappings.gap(bytes, low, high))
                        .ok_or(Error::NoSpace)?
                }
            }
        };
        let mapping = Mapping { start, end: start + bytes, region, offset, rights, ceiling, grant };
        self.mapping_add(id, mapping)?;
        self.mapping_join(id, start);
        self.mapping_join(id, start + bytes);
        Ok(Some(start))
    }

    /// Puts a page into the tables of a space.
    ///
    /// # Errors
    /// `Quota`, `NoMemory` for a page table.
    pub(super) fn table_set(
        &mut self,
        id: AddressSpaceId,
        address: u64,
        frame: FrameNumber,
        rights: PageRights,
    ) -> Result<(), Error> {
        let Some(space) = self.spaces.get(id) else { return Err(Error::Fault) };
        let (root, owner) = (space.root, space.owner);
        if self.machine.map(root, address, frame, rights, &mut NoPool).is_ok() {
            return Ok(());
        }
        self.charge(owner, Resource::Frames, 4)?;
        let (result, taken) = match self.frames.pool(&mut self.machine) {
            Ok(mut pool) => {
                (self.machine.map(root, address, frame, rights, &mut pool).map_err(|_| Error::NoMemory), pool.taken)
            }
            Err(Exhausted) => (Err(Error::NoMemory), 0),
        };
        self.refund(owner, Resource::Frames, 4 - taken.min(4));
        if let Some(space) = self.spaces.get_mut(id) {
            space.tables += taken;
        }
        result
    }

    /// Takes away the mappings that were made through a grant, in bounded steps.
    pub(crate) fn memory_unmap_grant_step(&mut self, grant: GrantId) -> Progress {
        let Some(Object::Region(id)) = self.caps.grants.get(grant).map(|node| node.object) else {
            return Progress::Done;
        };
        let Some(region) = self.regions.get_mut(id) else { return Progress::Done };
        let begin = Sweep { grant, view: 0, address: 0 };
        let sweep = *region.sweep.insert(region.sweep.filter(|sweep| sweep.grant == grant).unwrap_or(begin));
        let Some(view) = region.views.get(sweep.view).copied() else {
            region.sweep = None;
            return Progress::Done;
        };
        let mut address = sweep.address;
        for _ in 0..STEP {
            let found = self.spaces.get(view.space).and_then(|space| space.mappings.next(address).copied());
            let Some(mapping) = found else {
                self.sweep_to(id, Sweep { grant, view: sweep.view + 1, address: 0 });
                return Progress::More;
            };
            if mapping.grant == Some(grant) && mapping.region == id && mapping.delta() == view.delta {
                // Unmapping whole mappings needs no memory, so it cannot fail.
                let _ = self.unmap_step(view.space, mapping.start, mapping.end);
                // The views may have changed with it; this one may even be another now.
                self.sweep_to(id, Sweep { grant, view: 0, address: 0 });
                return if self.grant_mapped(grant) { Progress::More } else { Progress::Done };
            }
            address = mapping.end;
        }
        self.sweep_to(id, Sweep { grant, view: sweep.view, address });
        Progress::More
    }

    /// Whether a mapping made through a grant is left.
    fn grant_mapped(&self, grant: GrantId) -> bool {
        self.caps.grants.get(grant).is_some_and(|node| node.mappings > 0)
    }

    fn sweep_to(&mut self, id: RegionId, sweep: Sweep) {
        let mapped = self.grant_mapped(sweep.grant);
        if let Some(region) = self.regions.get_mut(id) {
            region.sweep = mapped.then_some(sweep);
        }
    }
}
