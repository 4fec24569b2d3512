//! Regions: lengths of memory that capabilities name, whose pages come into being when they are touched.
//!
//! A page is charged to the unit that made the region, whoever touches it; a page shared with a snapshot is charged to both
//! regions, so that a later write never fails for quota and every charge ends with its region.

use alloc::vec::Vec;

use holm_abi::{Backing, Error};

use super::frames::Exhausted;
use super::tree::{NODE_BYTES, Place, Tree};
use super::{AddressSpaceId, Progress, RegionId};
use crate::cap::GrantId;
use crate::kernel::Kernel;
use crate::machine::{Flush, FrameNumber, Machine, PAGE_SIZE};
use crate::quota::Resource;
use crate::thread::ThreadId;
use crate::unit::UnitId;

const PAGE: u64 = PAGE_SIZE as u64;

/// Spaces, or distances between offset and address, through which a region can be mapped at one time.
pub const MAX_VIEWS: usize = 192;

/// Pages that one bounded step looks at.
pub(super) const STEP: usize = 40;
/// Pages that one step gives back.
const GIVEN: usize = 8;
/// Tables that one step takes a page out of, when it is shown in more.
const HIDDEN: usize = 4;

/// What a region costs its unit in bytes of kernel memory, beside its pages' nodes.
pub const REGION_BYTES: u64 = size_of::<Region>() as u64 + 64;

/// The mappings of a region in one space with one [`Mapping::delta`](super::Mapping::delta): a page has at most one
/// address in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Where.
    pub space: AddressSpaceId,
    /// Address minus offset.
    pub delta: u64,
    /// How many mappings.
    pub mappings: u32,
}

impl View {
    /// The address of a page.
    #[must_use]
    pub const fn address(&self, page: u64) -> u64 {
        self.delta.wrapping_add(page.wrapping_mul(PAGE))
    }
}

/// A snapshot whose making goes on: pages of the source that can still be written through old translations are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Who makes it.
    pub thread: ThreadId,
    /// The snapshot.
    pub region: RegionId,
    view: usize,
    page: u64,
}

/// Mappings made through a revoked grant are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sweep {
    pub(super) grant: GrantId,
    pub(super) view: usize,
    pub(super) address: u64,
}

/// A region of memory.
#[derive(Debug)]
pub struct Region {
    /// Its length in pages.
    pub pages: u64,
    /// Where its content comes from.
    pub backing: Backing,
    /// The bytes that untouched pages begin with, from the region's start; zeroes behind.
    pub content: &'static [u8],
    /// Who pays; `None` for the kernel.
    pub owner: Option<UnitId>,
    /// Its pages.
    pub tree: Tree,
    /// Where it is mapped.
    pub views: Vec<View>,
    /// Mappings, in all spaces.
    pub mappings: u32,
    /// Handles and kernel structures that name it, and mappings.
    pub references: u32,
    /// Pages of it that the kernel uses by their frames: while there are any, no page is given back or shared.
    pub pins: u32,
    /// A snapshot in the making.
    pub pending: Option<Pending>,
    /// Revoked mappings are being taken away.
    pub(super) sweep: Option<Sweep>,
    /// The next region that is being taken apart.
    pub(super) next_dying: Option<RegionId>,
}

impl Region {
    fn new(pages: u64, backing: Backing, content: &'static [u8], owner: Option<UnitId>, tree: Tree) -> Self {
        Self {
            pages,
            backing,
            content,
            owner,
            tree,
            views: Vec::new(),
            mappings: 0,
            references: 1,
            pins: 0,
            pending: None,
            sweep: None,
            next_dying: None,
        }
    }

    /// Whether the content of untouched pages is zero from `page` on.
    const fn is_blank(&self, page: u64) -> bool {
        page.saturating_mul(PAGE) >= self.content.len() as u64
    }
}

/// Regions that nothing names any more, being taken apart.
#[derive(Debug, Default)]
pub struct DyingRegions {
    first: Option<RegionId>,
}

impl DyingRegions {
    /// Whether there are any.
    #[inline]
    pub(crate) const fn waits(&self) -> bool {
        self.first.is_some()
    }
}

impl<M: Machine> Kernel<M> {
    /// Makes a region of `pages` pages (1 to 2^34) with one reference.
    ///
    /// # Errors
    /// `Quota`, `NoMemory`.
    pub(crate) fn region_new(
        &mut self,
        owner: Option<UnitId>,
        pages: u64,
        backing: Backing,
        content: &'static [u8],
    ) -> Result<RegionId, Error> {
        self.region_add(Region::new(pages, backing, content, owner, Tree::new(pages)))
    }

    fn region_add(&mut self, region: Region) -> Result<RegionId, Error> {
        let owner = region.owner;
        if let Some(owner) = owner {
            self.charge(owner, Resource::Kernel, REGION_BYTES)?;
        }
        match self.regions.insert(region) {
            Ok(id) => {
                if let Some(owner) = owner {
                    self.unit_hold(owner);
                }
                Ok(id)
            }
            Err(_) => {
                if let Some(owner) = owner {
                    self.refund(owner, Resource::Kernel, REGION_BYTES);
                }
                Err(Error::NoMemory)
            }
        }
    }

    /// The count of references of a region.
    pub(crate) fn region_references(&mut self, region: RegionId) -> Option<&mut u32> {
        self.regions.get_mut(region).map(|region| &mut region.references)
    }

    /// Something less names the region; with the last it is taken apart in the background.
    pub(crate) fn region_release(&mut self, region: RegionId) {
        let Some(entry) = self.regions.get_mut(region) else { return };
        entry.references = entry.references.saturating_sub(1);
        if entry.references == 0 {
            self.region_released(region);
        }
    }

    /// The last reference to the region is gone: it is taken apart in the background.
    pub(crate) fn region_released(&mut self, region: RegionId) {
        let first = self.dying_regions.first;
        let Some(entry) = self.regions.get_mut(region) else { return };
        debug_assert_eq!(entry.mappings, 0, "a mapped region is let go");
        entry.next_dying = first;
        self.dying_regions.first = Some(region);
    }

    /// Takes a bounded part of the regions apart that nothing names any more.
    pub(crate) fn dying_regions_step(&mut self) -> Progress {
        let Some(id) = self.dying_regions.first else { return Progress::Done };
        let Some(region) = self.regions.get_mut(id) else {
            self.dying_regions.first = None;
            return Progress::Done;
        };
        if let Some(pending) = region.pending.take() {
            self.region_release(pending.region);
            return Progress::More;
        }
        if region.tree.drop_step(&mut self.nodes, &mut self.frames, &mut self.machine) {
            self.dying_regions.first = region.next_dying;
            let Some(region) = self.regions.remove(id) else { return Progress::Done };
            if let Some(owner) = region.owner {
                self.refund(owner, Resource::Frames, region.tree.pages());
                self.refund(owner, Resource::Kernel, region.tree.nodes() * NODE_BYTES + REGION_BYTES);
                self.unit_unhold(owner);
            }
        }
        if self.dying_regions.first.is_some() { Progress::More } else { Progress::Done }
    }

    /// The frame of a page that is there or comes into being now: with the content that is due, owned by the region alone
    /// when it is to be written.
    ///
    /// # Errors
    /// `Fault` beyond the region's end; `Quota`, `NoMemory`.
    pub(crate) fn region_page(&mut self, id: RegionId, page: u64, write: bool) -> Result<(FrameNumber, bool), Error> {
        loop {
            match self.region_page_step(id, page, write) {
                // Not bounded for a page that is shown in many places: whoever can come again takes the steps.
                Err(Error::Interrupted) => {}
                done => return done,
            }
        }
    }

    /// A step of [`Kernel::region_page`].
    ///
    /// # Errors
    /// As that, and `Interrupted` when there is another step to be made.
    pub(super) fn region_page_step(
        &mut self,
        id: RegionId,
        page: u64,
        write: bool,
    ) -> Result<(FrameNumber, bool), Error> {
        let region = self.regions.get(id).ok_or(Error::Fault)?;
        if page >= region.pages {
            return Err(Error::Fault);
        }
        match region.tree.look(&self.nodes, &self.frames, page) {
            None => Ok((self.region_commit(id, page)?, true)),
            Some((frame, shared)) => {
                if write && shared {
                    Ok((self.region_unshare(id, page)?, true))
                } else {
                    Ok((frame, !shared))
                }
            }
        }
    }

    /// Gives a page that is not there its frame.
    fn region_commit(&mut self, id: RegionId, page: u64) -> Result<FrameNumber, Error> {
        let region = self.regions.get(id).ok_or(Error::Fault)?;
        let owner = region.owner;
        let missing = region.tree.missing(&self.nodes, page);
        if let Some(owner) = owner {
            self.charge(owner, Resource::Frames, 1)?;
            if missing > 0 && self.charge(owner, Resource::Kernel, missing * NODE_BYTES).is_err() {
                self.refund(owner, Resource::Frames, 1);
                return Err(Error::Quota);
            }
        }
        let before = self.regions.get(id).map_or(0, |region| region.tree.nodes());
        let frame = self.region_commit_charged(id, page);
        if let (Err(_), Some(owner)) = (&frame, owner) {
            self.refund(owner, Resource::Frames, 1);
            let made = self.regions.get(id).map_or(0, |region| region.tree.nodes()) - before;
            self.refund(owner, Resource::Kernel, (missing - made) * NODE_BYTES);
        }
        frame.map_err(|Exhausted| Error::NoMemory)
    }

    fn region_commit_charged(&mut self, id: RegionId, page: u64) -> Result<FrameNumber, Exhausted> {
        let region = self.regions.get_mut(id).ok_or(Exhausted)?;
        let place = region.tree.place(&mut self.nodes, &mut self.frames, page)?;
        let Some(frame) = self.frames.take(&self.machine) else {
            region.tree.clear(&mut self.nodes, page, place);
            return Err(Exhausted);
        };
        self.machine.frame_zero(frame);
        if !region.is_blank(page) {
            let content = region.content.get(page as usize * PAGE_SIZE..).unwrap_or_default();
            self.machine.frame_write(frame, 0, content.get(..PAGE_SIZE).unwrap_or(content));
        }
        region.tree.fill(&mut self.nodes, place, frame);
        Ok(frame)
    }

    /// Gives a page that is shared with a snapshot a frame of its own, and takes the old one out of every table that shows
    /// it for this region.
    fn region_unshare(&mut self, id: RegionId, page: u64) -> Result<FrameNumber, Error> {
        let region = self.regions.get_mut(id).ok_or(Error::Fault)?;
        let place: Place =
            region.tree.place(&mut self.nodes, &mut self.frames, page).map_err(|Exhausted| Error::NoMemory)?;
        let old = place.frame.ok_or(Error::Fault)?;
        if self.frames.sharers(old) == 0 {
            return Ok(old);
        }
        if self.page_hide(id, page, old) == Progress::More {
            return Err(Error::Interrupted);
        }
        let region = self.regions.get_mut(id).ok_or(Error::Fault)?;
        let new = self.frames.take(&self.machine).ok_or(Error::NoMemory)?;
        self.machine.frame_copy(old, new);
        region.tree.fill(&mut self.nodes, place, new);
        self.frames.unshare(&mut self.machine, old);
        Ok(new)
    }

    /// Takes a page of a region out of the tables that show `frame` for it, out of a few of them at most: done when none is
    /// left that does.
    fn page_hide(&mut self, id: RegionId, page: u64, frame: FrameNumber) -> Progress {
        let Some(region) = self.regions.get(id) else { return Progress::Done };
        let mut hidden = 0;
        for view in &region.views {
            let Some(root) = self.spaces.get(view.space).map(|space| space.root) else { continue };
            let address = view.address(page);
            if self.machine.translate(root, address).is_some_and(|(shown, _)| shown == frame) {
                if hidden == HIDDEN {
                    return Progress::More;
                }
                hidden += 1;
                self.machine.unmap(root, address);
                self.machine.flush(root, Flush::Range { address, pages: 1 });
            }
        }
        Progress::Done
    }

    /// Keeps a region and the frames of its pages as they are; the pages that matter are its own already.
    pub(crate) fn region_pin(&mut self, id: RegionId) {
        if let Some(region) = self.regions.get_mut(id) {
            region.pins += 1;
            region.references += 1;
        }
    }

    /// Undoes a [`Kernel::region_pin`].
    pub(crate) fn region_unpin(&mut self, id: RegionId) {
        if let Some(region) = self.regions.get_mut(id) {
            region.pins = region.pins.saturating_sub(1);
            self.region_release(id);
        }
    }

    /// Counts a mapping of the region.
    ///
    /// # Errors
    /// `NoSpace` when there are [`MAX_VIEWS`] views; `NoMemory`.
    pub(super) fn region_view(&mut self, id: RegionId, space: AddressSpaceId, delta: u64) -> Result<(), Error> {
        let region = self.regions.get_mut(id).ok_or(Error::BadHandle)?;
        let views = region.views.len();
        match region.views.iter_mut().find(|view| view.space == space && view.delta == delta) {
            Some(view) => view.mappings += 1,
            None if views >= MAX_VIEWS => return Err(Error::NoSpace),
            None => {
                region.views.try_reserve(1).map_err(|_| Error::NoMemory)?;
                region.views.push(View { space, delta, mappings: 1 });
            }
        }
        region.mappings += 1;
        region.references += 1;
        Ok(())
    }

    /// A mapping of the region is gone.
    pub(super) fn region_unview(&mut self, id: RegionId, space: AddressSpaceId, delta: u64) {
        let Some(region) = self.regions.get_mut(id) else { return };
        region.mappings = region.mappings.saturating_sub(1);
        if let Some(at) = region.views.iter().position(|view| view.space == space && view.delta == delta)
            && let Some(view) = region.views.get_mut(at)
        {
            view.mappings -= 1;
            if view.mappings == 0 {
                region.views.swap_remove(at);
                // Another view may have moved to a place that was looked at already.
                if let Some(pending) = &mut region.pending {
                    (pending.view, pending.page) = (0, 0);
                }
                if let Some(sweep) = &mut region.sweep {
                    (sweep.view, sweep.address) = (0, 0);
                }
            }
        }
        self.region_release(id);
    }

    /// Gives the pages from `first` to `end` back in bounded steps: they read as at the beginning.
    ///
    /// # Errors
    /// `NoMemory` when a page shared with a snapshot cannot be told apart from it; `BadState` while a page is pinned.
    pub(crate) fn region_decommit_step(&mut self, id: RegionId, first: u64, end: u64) -> Result<Progress, Error> {
        let region = self.regions.get_mut(id).ok_or(Error::BadHandle)?;
        if region.pins > 0 {
            return Err(Error::BadState);
        }
        let limit = (GIVEN / region.views.len().max(1)).max(1);
        // A page that is shown in many places is taken out of them first, in steps.
        let many = region.views.len() > HIDDEN;
        if many
            && let Some((page, frame)) = region.tree.next(&self.nodes, first, end)
            && self.page_hide(id, page, frame) == Progress::More
        {
            return Ok(Progress::More);
        }
        let region = self.regions.get_mut(id).ok_or(Error::BadHandle)?;
        let owner = region.owner;
        let mut gone: [Option<(u64, FrameNumber)>; GIVEN] = [None; GIVEN];
        let mut count = 0;
        let mut from = first;
        let nodes = region.tree.nodes();
        let mut result = Ok(Progress::Done);
        while let Some((page, _)) = region.tree.next(&self.nodes, from, end) {
            if count == limit {
                result = Ok(Progress::More);
                break;
            }
            match region.tree.place(&mut self.nodes, &mut self.frames, page) {
                Ok(place) => {
                    region.tree.clear(&mut self.nodes, page, place);
                    if let (Some(entry), Some(frame)) = (gone.get_mut(count), place.frame) {
                        *entry = Some((page, frame));
                        count += 1;
                    }
                }
                Err(Exhausted) => {
                    result = Err(Error::NoMemory);
                    break;
                }
            }
            from = page + 1;
        }
        let fewer = nodes - region.tree.nodes();
        let gone = gone.iter().flatten();
        for view in region.views.iter().filter(|_| !many) {
            let Some(root) = self.spaces.get(view.space).map(|space| space.root) else { continue };
            let mut stale: Option<(u64, u64)> = None;
            for (page, frame) in gone.clone() {
                let address = view.address(*page);
                if self.machine.translate(root, address).is_some_and(|(shown, _)| shown == *frame) {
                    self.machine.unmap(root, address);
                    stale = Some((stale.map_or(address, |(low, _)| low), address));
                }
            }
            if let Some((low, high)) = stale {
                self.machine.flush(root, Flush::Range { address: low, pages: (high - low) / PAGE + 1 });
            }
        }
        for (_, frame) in gone {
            self.frames.unshare(&mut self.machine, *frame);
        }
        if let Some(owner) = owner {
            self.refund(owner, Resource::Frames, count as u64);
            self.refund(owner, Resource::Kernel, fewer * NODE_BYTES);
        }
        result
    }

    /// Makes a region that shares all pages of another, whatever tables may still let be written.
    ///
    /// # Errors
    /// `Quota`, `NoMemory`.
    pub(super) fn region_copy(&mut self, id: RegionId, owner: UnitId) -> Result<RegionId, Error> {
        let region = self.regions.get(id).ok_or(Error::BadHandle)?;
        let (pages, nodes) = (region.tree.pages(), region.tree.nodes());
        self.charge(owner, Resource::Frames, pages)?;
        if let Err(error) = self.charge(owner, Resource::Kernel, nodes * NODE_BYTES) {
            self.refund(owner, Resource::Frames, pages);
            return Err(error);
        }
        let region = self.regions.get(id).ok_or(Error::BadHandle)?;
        let tree = region.tree.snapshot(&mut self.nodes);
        let copy = Region::new(region.pages, Backing::Snapshot, region.content, Some(owner), tree);
        self.region_add(copy).inspect_err(|_| {
            if let Some(region) = self.regions.get_mut(id) {
                region.tree.unsnapshot(&mut self.nodes);
            }
            self.refund(owner, Resource::Frames, pages);
            self.refund(owner, Resource::Kernel, nodes * NODE_BYTES);
        })
    }

    /// Makes a snapshot of a whole region in bounded steps; `Ok(None)` asks for another. The pages are shared at once; the
    /// steps then take away what lets running threads write to them. A thread that writes to the source while the call
    /// runs may still be seen in the snapshot, none after it.
    ///
    /// # Errors
    /// `Quota`, `NoMemory`; `Busy` while another thread makes one of the same region.
    pub(crate) fn region_snapshot_step(
        &mut self,
        id: RegionId,
        owner: UnitId,
        thread: ThreadId,
    ) -> Result<Option<RegionId>, Error> {
        let region = self.regions.get(id).ok_or(Error::BadHandle)?;
        if region.pins > 0 {
            return Err(Error::BadState);
        }
        match region.pending {
            Some(pending) if pending.thread == thread => {}
            Some(pending) if self.thread_lives(pending.thread) => return Err(Error::Busy),
            Some(pending) => {
                // Its maker was killed.
                if let Some(region) = self.regions.get_mut(id) {
                    region.pending = None;
                }
                self.region_release(pending.region);
                return Ok(None);
            }
            None => {
                let mapped = !region.views.is_empty();
                let copy = self.region_copy(id, owner)?;
                if !mapped {
                    return Ok(Some(copy));
                }
                if let Some(region) = self.regions.get_mut(id) {
                    region.pending = Some(Pending { thread, region: copy, view: 0, page: 0 });
                }
            }
        }
        if self.region_protect_step(id) == Progress::More {
            return Ok(None);
        }
        let pending = self.regions.get_mut(id).and_then(|region| region.pending.take());
        Ok(pending.map(|pending| pending.region))
    }

    /// Makes a bounded number of pages of a region that is being snapshotted read-only in the tables.
    fn region_protect_step(&mut self, id: RegionId) -> Progress {
        let Some(region) = self.regions.get_mut(id) else { return Progress::Done };
        let Some(pending) = &mut region.pending else { return Progress::Done };
        let Some(view) = region.views.get(pending.view) else { return Progress::Done };
        let mut stale: Option<(u64, u64)> = None;
        let root = self.spaces.get(view.space).map(|space| space.root);
        let mut looked = 0;
        while let Some((page, frame)) = region.tree.next(&self.nodes, pending.page, region.pages) {
            let Some(root) = root else { break };
            let address = view.address(page);
            if self.machine.translate(root, address).is_some_and(|(shown, rights)| shown == frame && rights.write) {
                self.machine.unmap(root, address);
                stale = Some((stale.map_or(address, |(low, _)| low), address));
            }
            pending.page = page + 1;
            looked += 1;
            if looked == STEP {
                break;
            }
        }
        if let (Some(root), Some((low, high))) = (root, stale) {
            self.machine.flush(root, Flush::Range { address: low, pages: (high - low) / PAGE + 1 });
        }
        if looked < STEP {
            pending.view += 1;
            pending.page = 0;
            if pending.view >= region.views.len() {
                return Progress::Done;
            }
        }
        Progress::More
    }
}
