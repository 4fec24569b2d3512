//! Address spaces of user programs: a root each, the kernel's half shared, the user half in pages of 4 KiB.
//!
//! A joined space shares the tables below its root with its two parts. When a part gets a new entry in its root, the joined
//! space learns of it at its first fault there ([`Spaces::catch_up`]), so that mapping never has to look for those who
//! share. Tables are given back only when a space is destroyed; the parts of a joined space must outlive it.

use alloc::vec::Vec;

use holm_kernel_core::machine::{FramePool, HALF, NoFrames, PageRights};
use holm_kernel_core::{FrameNumber, SpaceId};

use super::paging::{ADDRESS, NO_EXECUTE, PRESENT, TOUCHED, Table, USER, WRITE, index, table};
use super::{PAGE, Physical};

/// How many entries one step of a teardown looks at, at most.
const STEP: u32 = 1024;
/// How many tables one step of a teardown gives back, at most.
const STEP_TABLES: u32 = 32;

/// One address space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    /// Its root table.
    pub(crate) root: Physical,
    /// Never given to two spaces.
    pub(crate) serial: u64,
    /// Counts its flushes: a processor that saw fewer forgets everything before it enters the space.
    generation: u64,
    /// Lower and upper part of a joined space.
    parts: Option<(SpaceId, SpaceId)>,
    /// How far its teardown has come.
    cursor: u64,
}

#[derive(Debug)]
enum Place {
    Space(Space),
    Free(Option<u32>),
}

/// All address spaces.
#[derive(Debug)]
pub(crate) struct Spaces {
    places: Vec<Place>,
    free: Option<u32>,
    serial: u64,
    /// Counts the flushes and the ends of all spaces.
    flushes: u64,
    kernel_root: Physical,
}

/// The addresses below this are the user half of a root: 256 entries.
const USER_ENTRIES: usize = 256;

impl Spaces {
    /// None, with the root that all share the kernel half of.
    pub(crate) const fn new(kernel_root: Physical) -> Self {
        Self { places: Vec::new(), free: None, serial: 0, flushes: 0, kernel_root }
    }

    /// The root that maps only the kernel.
    pub(crate) const fn kernel_root(&self) -> Physical {
        self.kernel_root
    }

    /// The space named `id`.
    #[inline]
    pub(crate) fn get(&self, id: SpaceId) -> Option<&Space> {
        match self.places.get(id.0 as usize)? {
            Place::Space(space) => Some(space),
            Place::Free(_) => None,
        }
    }

    #[inline]
    fn get_mut(&mut self, id: SpaceId) -> Option<&mut Space> {
        match self.places.get_mut(id.0 as usize)? {
            Place::Space(space) => Some(space),
            Place::Free(_) => None,
        }
    }

    /// What counts all flushes that a processor with this space must have seen.
    #[inline(always)]
    pub(crate) fn generation(&self, space: &Space) -> u64 {
        // Each addend only grows, so sums are equal only where nothing changed.
        match space.parts {
            None => space.generation,
            Some((lower, upper)) => {
                let part = |id| self.get(id).map_or(0, |part| part.generation);
                space.generation + part(lower) + part(upper)
            }
        }
    }

    /// How often any space was flushed or ended.
    #[inline(always)]
    pub(crate) const fn flushes(&self) -> u64 {
        self.flushes
    }

    /// Notes that translations of `id` went away.
    pub(crate) fn flushed(&mut self, id: SpaceId) {
        self.flushes += 1;
        if let Some(space) = self.get_mut(id) {
            space.generation += 1;
        }
    }

    /// Whether a processor that has `active` loaded uses tables of `id`.
    pub(crate) fn shows(&self, active: SpaceId, id: SpaceId) -> bool {
        active == id
            || self.get(active).and_then(|space| space.parts).is_some_and(|(lower, upper)| lower == id || upper == id)
    }

    fn insert(&mut self, root: Physical, parts: Option<(SpaceId, SpaceId)>) -> Option<SpaceId> {
        self.serial += 1;
        let space = Space { root, serial: self.serial, generation: 0, parts, cursor: 0 };
        if let Some(place) = self.free {
            let Some(Place::Free(next)) = self.places.get(place as usize) else { return None };
            self.free = *next;
            self.places[place as usize] = Place::Space(space);
            return Some(SpaceId(place));
        }
        self.places.try_reserve(1).ok()?;
        self.places.push(Place::Space(space));
        Some(SpaceId(self.places.len() as u32 - 1))
    }

    fn make(&mut self, parts: Option<(SpaceId, SpaceId)>, pool: &mut dyn FramePool) -> Result<SpaceId, NoFrames> {
        let frame = pool.take().ok_or(NoFrames)?;
        let root = Physical::of(frame);
        let Some(id) = self.insert(root, parts) else {
            pool.give(frame);
            return Err(NoFrames);
        };
        // SAFETY: the frame is the pool's gift, so nobody else uses it; the kernel's root is only ever read after boot.
        let (new, kernel) = unsafe { (table(root), table(self.kernel_root)) };
        new[..USER_ENTRIES].fill(0);
        new[USER_ENTRIES..].copy_from_slice(&kernel[USER_ENTRIES..]);
        Ok(id)
    }

    /// An empty space.
    pub(crate) fn create(&mut self, pool: &mut dyn FramePool) -> Result<SpaceId, NoFrames> {
        self.make(None, pool)
    }

    /// A space that shows the lower half of one and the upper half of another.
    pub(crate) fn join(
        &mut self,
        lower: SpaceId,
        upper: SpaceId,
        pool: &mut dyn FramePool,
    ) -> Result<SpaceId, NoFrames> {
        self.make(Some((lower, upper)), pool)
    }

    /// The space whose tables map `address` in the space `id`: itself, or a part of it.
    #[inline]
    fn owner(&self, id: SpaceId, address: u64) -> Option<&Space> {
        let space = self.get(id)?;
        match space.parts {
            None => Some(space),
            Some((lower, upper)) => self.get(if address < HALF { lower } else { upper }),
        }
    }

    /// Gives a joined space the root entry of its part that it has not got yet. True when there was one: whatever faulted is
    /// tried again.
    pub(crate) fn catch_up(&mut self, id: SpaceId, address: u64) -> bool {
        let Some(Space { root, parts: Some(_), .. }) = self.get(id) else { return false };
        let (Some(owner), place) = (self.owner(id, address), index(address, 4)) else { return false };
        if place >= USER_ENTRIES {
            return false;
        }
        // SAFETY: both are roots of living spaces and different frames; the kernel is locked.
        let (joined, part) = unsafe { (table(*root), table(owner.root)) };
        let missing = joined[place] & PRESENT == 0 && part[place] & PRESENT != 0;
        if missing {
            joined[place] = part[place];
        }
        missing
    }

    /// Where the entry of the last level for `address` is, when all tables are there: valid as long as the space lives.
    #[inline]
    fn entry(&self, id: SpaceId, address: u64) -> Option<*mut u64> {
        let mut at = self.owner(id, address)?.root;
        if address >> 47 != 0 {
            return None;
        }
        for level in [4, 3, 2] {
            // SAFETY: `at` is the root of a living space, or came from a present entry of a table: a table in the direct
            // map; the kernel is locked.
            let entry = unsafe { table(at) }[index(address, level)];
            if entry & PRESENT == 0 {
                return None;
            }
            at = Physical(entry & ADDRESS);
        }
        // SAFETY: as above.
        Some(unsafe { &raw mut table(at)[index(address, 1)] })
    }

    /// Maps a page, in place of what was there.
    pub(crate) fn map(
        &mut self,
        id: SpaceId,
        address: u64,
        frame: FrameNumber,
        rights: PageRights,
        pool: &mut dyn FramePool,
    ) -> Result<(), NoFrames> {
        if address >> 47 != 0 {
            return Err(NoFrames);
        }
        let mut at = self.owner(id, address).ok_or(NoFrames)?.root;
        for level in [4, 3, 2] {
            // SAFETY: as in `entry`.
            let entry = unsafe { &mut table(at)[index(address, level)] };
            if *entry & PRESENT == 0 {
                let new = Physical::of(pool.take().ok_or(NoFrames)?);
                // SAFETY: the frame is the pool's gift: nobody else uses it, and it is in the direct map.
                unsafe { new.direct::<Table>().write([0; 512]) };
                *entry = new.0 | PRESENT | WRITE | USER | TOUCHED;
            }
            at = Physical(*entry & ADDRESS);
        }
        let write = if rights.write { WRITE } else { 0 };
        let execute = if rights.execute { 0 } else { NO_EXECUTE };
        // SAFETY: as in `entry`.
        unsafe { table(at)[index(address, 1)] = Physical::of(frame).0 | PRESENT | USER | TOUCHED | write | execute };
        Ok(())
    }

    /// Removes the mapping of a page.
    pub(crate) fn unmap(&mut self, id: SpaceId, address: u64) -> Option<FrameNumber> {
        // SAFETY: the entry of a living space; `self` is borrowed alone, and the kernel is locked.
        let entry = unsafe { self.entry(id, address)?.replace(0) };
        (entry & PRESENT != 0).then(|| Physical(entry & ADDRESS).frame())
    }

    /// What a page is mapped to.
    #[inline]
    pub(crate) fn translate(&self, id: SpaceId, address: u64) -> Option<(FrameNumber, PageRights)> {
        // SAFETY: the entry of a living space; the kernel is locked.
        let entry = unsafe { self.entry(id, address)?.read() };
        let rights = PageRights { write: entry & WRITE != 0, execute: entry & NO_EXECUTE == 0 };
        (entry & PRESENT != 0).then(|| (Physical(entry & ADDRESS).frame(), rights))
    }

    /// A bounded step of giving a space's tables back; true when it is gone.
    pub(crate) fn destroy(&mut self, id: SpaceId, pool: &mut dyn FramePool) -> bool {
        let Some(space) = self.get(id).copied() else { return true };
        let mut address = space.cursor;
        let end = if space.parts.is_some() { 0 } else { 1 << 47 };
        let mut given = 0;
        for _ in 0..STEP {
            if address >= end {
                pool.give(space.root.frame());
                self.flushes += 1;
                self.places[id.0 as usize] = Place::Free(self.free);
                self.free = Some(id.0);
                return true;
            }
            if given >= STEP_TABLES {
                break;
            }
            let (freed, next) = teardown_at(space.root, address, pool);
            (given, address) = (given + freed, next);
        }
        if let Some(space) = self.get_mut(id) {
            space.cursor = address;
        }
        false
    }
}

/// Looks at the tables for the 2 MiB at `address`, gives back those that end there, and says how many it gave and where to
/// look next. Every table before `address` is given back already.
fn teardown_at(root: Physical, address: u64, pool: &mut dyn FramePool) -> (u32, u64) {
    let mut path = [root; 3];
    for (depth, level) in [4, 3].into_iter().enumerate() {
        // SAFETY: `path` holds the root of a space that no processor uses, and tables from its present entries.
        let entry = unsafe { table(path[depth]) }[index(address, level)];
        if entry & PRESENT == 0 {
            let size = PAGE << (9 * (level - 1));
            // The tables above end here when this was their last entry.
            let next = (address & !(size - 1)) + size;
            return (give_ended(&path, depth, next, pool), next);
        }
        path[depth + 1] = Physical(entry & ADDRESS);
    }
    // SAFETY: as above.
    let entry = core::mem::take(unsafe { &mut table(path[2])[index(address, 2)] });
    let next = address + (PAGE << 9);
    let mut given = 0;
    if entry & PRESENT != 0 {
        pool.give(Physical(entry & ADDRESS).frame());
        given = 1;
    }
    (given + give_ended(&path, 2, next, pool), next)
}

/// Gives back the tables of `path` (below the root, down to `depth`) whose range ends at `next`.
fn give_ended(path: &[Physical; 3], depth: usize, next: u64, pool: &mut dyn FramePool) -> u32 {
    let mut given = 0;
    for depth in (1..=depth).rev() {
        // A table at depth 1 covers 512 GiB, at depth 2 it covers 1 GiB.
        let size = PAGE << (9 * (4 - depth as u32));
        if next.is_multiple_of(size) {
            // SAFETY: the parent is a table of a space that no processor uses.
            unsafe { table(path[depth - 1])[index(next - 1, 5 - depth as u32)] = 0 };
            pool.give(path[depth].frame());
            given += 1;
        }
    }
    given
}
