//! The system calls on memory, guest spaces and the boot archive.

use holm_abi::{
    ArchiveEntry, Backing, Error, MapFlags, MapSpec, MappingInfo, ObjectType, Protection, RegionFlags, RegionInfo,
    RegionSpec, Rights, TransferMode,
};

use super::space::{Placement, USER_START};
use super::{Access, AddressSpaceId, Fill, ImageId, Progress, RegionId, elf};
use crate::caller::{Answer, Caller, Out, Outcome};
use crate::cap::Cap;
use crate::dispatch::{Records, UserSlice};
use crate::kernel::Kernel;
use crate::machine::{HALF, Machine, PAGE_SIZE};
use crate::object::Object;

const PAGE: u64 = PAGE_SIZE as u64;

/// Bytes that one call copies at most; it answers how many.
const COPY: u64 = 4 * PAGE;
/// Pages that a step of filling gives.
const FILL: usize = 8;
/// Pages that `vm_query` counts at most.
const COUNTED: usize = 256;
/// Bytes of a file that one step sums.
const SUMMED: usize = 1024;
/// Files that one call lists at most.
const LISTED: u64 = 6;
/// The longest name of a file.
const NAME: usize = 256;

/// What a capability's rights on a region let mappings do.
fn ceiling(rights: Rights) -> Protection {
    [(Rights::READ, Protection::READ), (Rights::WRITE, Protection::WRITE), (Rights::EXECUTE, Protection::EXECUTE)]
        .into_iter()
        .filter(|(right, _)| rights.contains(*right))
        .fold(Protection::NONE, |all, (_, allowed)| all | allowed)
}

/// What a protection comes to: pages that can be written or run can be read.
///
/// # Errors
/// `Invalid` for WRITE with EXECUTE.
fn effective(protection: Protection) -> Result<Protection, Error> {
    if protection.contains(Protection::WRITE | Protection::EXECUTE) {
        return Err(Error::Invalid);
    }
    Ok(if protection.is_none() { protection } else { protection | Protection::READ })
}

impl<M: Machine> Kernel<M> {
    fn region_of(cap: &Cap) -> Result<RegionId, Error> {
        match cap.object {
            Object::Region(id) => Ok(id),
            _ => Err(Error::WrongType),
        }
    }

    fn image_of(cap: &Cap) -> Result<ImageId, Error> {
        match cap.object {
            Object::Image(id) => Ok(id),
            _ => Err(Error::WrongType),
        }
    }

    /// The space behind a unit or a guest space.
    fn target_space(&self, target: Object) -> Result<AddressSpaceId, Error> {
        match target {
            Object::Unit(id) => self.units.get(id).and_then(|unit| unit.memory.space).ok_or(Error::BadState),
            Object::Space(id) => Ok(id),
            _ => Err(Error::WrongType),
        }
    }

    /// Whether a thread is there and has not ended.
    pub(crate) fn thread_lives(&self, thread: crate::thread::ThreadId) -> bool {
        self.threads.get(thread).is_some_and(|entry| entry.state != crate::thread::ThreadState::Ended)
    }

    /// Makes a region of zero pages.
    pub(crate) fn vm_region_create(&mut self, caller: Caller, spec: RegionSpec) -> Answer {
        if let Some(Fill::Region { region, at }) =
            self.threads.get_mut(caller.thread).and_then(|entry| entry.memory.fill)
        {
            return self.region_fill(caller, region, at);
        }
        if spec.bytes == 0 || !spec.bytes.is_multiple_of(PAGE) || spec.bytes > holm_abi::limits::MAX_REGION {
            return Err(Error::Invalid);
        }
        let region = self.region_new(Some(caller.unit), spec.bytes / PAGE, Backing::Anonymous, &[])?;
        if spec.flags.contains(RegionFlags::COMMIT) {
            return self.region_fill(caller, region, 0);
        }
        self.region_install(caller, region)
    }

    /// Gives the caller a handle of a region that it alone has a reference to, or lets the region go.
    fn region_install(&mut self, caller: Caller, region: RegionId) -> Answer {
        self.region_install_with(caller, region, ObjectType::Region.rights())
    }

    fn region_install_with(&mut self, caller: Caller, region: RegionId, rights: Rights) -> Answer {
        let transfer = ObjectType::Region.transfer_flags();
        let handle = self.cap_install(caller.unit, Object::Region(region), rights, transfer);
        self.region_release(region);
        handle.map(|handle| Outcome::Done(handle.raw() as u64))
    }

    /// Gives pages of a region that is being made; goes on when the call is made again.
    fn region_fill(&mut self, caller: Caller, region: RegionId, at: u64) -> Answer {
        let pages = self.regions.get(region).map_or(0, |region| region.pages);
        let mut at = at;
        let mut result = Ok(());
        for _ in 0..FILL {
            if at == pages || result.is_err() {
                break;
            }
            result = self.region_page(region, at, true).map(|_| ());
            at += 1;
        }
        let more = at < pages && result.is_ok();
        if let Some(entry) = self.threads.get_mut(caller.thread) {
            entry.memory.fill = more.then_some(Fill::Region { region, at });
        }
        match result {
            Err(error) => {
                self.region_release(region);
                Err(error)
            }
            Ok(()) if more => Ok(Outcome::Again),
            Ok(()) => self.region_install(caller, region),
        }
    }

    /// A thread ends while a call of it goes on: what the call holds is let go.
    pub(crate) fn memory_abandon(&mut self, thread: crate::thread::ThreadId) {
        let fill = self.threads.get_mut(thread).and_then(|entry| entry.memory.fill.take());
        if let Some(Fill::Region { region, .. }) = fill {
            self.region_release(region);
        }
    }

    /// Maps a part of a region.
    pub(crate) fn vm_map(&mut self, caller: Caller, target: Object, region: Cap, spec: MapSpec) -> Answer {
        if let Some(fill @ Fill::Mapping { .. }) =
            self.threads.get_mut(caller.thread).and_then(|entry| entry.memory.fill)
        {
            return self.mapping_fill(caller, fill);
        }
        let space = self.target_space(target)?;
        let id = Self::region_of(&region)?;
        if !spec.address.is_multiple_of(PAGE) {
            return Err(Error::Invalid);
        }
        let rights = effective(spec.protection)?;
        let ceiling = ceiling(region.rights);
        if !ceiling.contains(rights) {
            return Err(Error::Access);
        }
        let has = |flag| spec.flags.contains(flag);
        let placement = match (has(MapFlags::FIXED), has(MapFlags::NO_REPLACE), has(MapFlags::UPPER_HALF)) {
            (true, false, false) => Placement::Replace(spec.address),
            (true, true, false) => Placement::Free(spec.address),
            (false, false, upper) => Placement::Wish { address: spec.address, upper },
            _ => return Err(Error::Invalid),
        };
        // A unit whose lower half shows guests maps nothing there.
        if let Object::Unit(unit) = target
            && self.units.get(unit).is_some_and(|unit| unit.memory.personality)
            && matches!(placement, Placement::Replace(at) | Placement::Free(at) if at < HALF)
        {
            return Err(Error::NotPermitted);
        }
        let bytes = match spec.bytes {
            0 => (self.regions.get(id).ok_or(Error::BadHandle)?.pages * PAGE).saturating_sub(spec.offset),
            bytes => bytes,
        };
        let made = self.map_step(space, id, spec.offset, bytes, placement, rights, ceiling, Some(region.grant))?;
        let Some(start) = made else { return Ok(Outcome::Again) };
        if has(MapFlags::POPULATE) && !rights.is_none() {
            let access = if rights.contains(Protection::WRITE) { Access::Write } else { Access::Read };
            return self.mapping_fill(caller, Fill::Mapping { space, start, at: start, end: start + bytes, access });
        }
        Ok(Outcome::Done(start))
    }

    /// Brings pages of a new mapping into the tables; goes on when the call is made again. A page that cannot be had is left
    /// to its fault.
    fn mapping_fill(&mut self, caller: Caller, fill: Fill) -> Answer {
        let Fill::Mapping { space, start, mut at, end, access } = fill else { return Err(Error::BadState) };
        for _ in 0..FILL {
            if at >= end {
                break;
            }
            match self.space_fault(space, at, access) {
                Ok(_) => at += PAGE,
                Err(Error::Interrupted) => break,
                Err(_) => at = end,
            }
        }
        let more = at < end;
        if let Some(entry) = self.threads.get_mut(caller.thread) {
            entry.memory.fill = more.then_some(Fill::Mapping { space, start, at, end, access });
        }
        Ok(if more { Outcome::Again } else { Outcome::Done(start) })
    }

    /// Removes everything mapped in a range.
    pub(crate) fn vm_unmap(&mut self, caller: Caller, target: Object, address: u64, bytes: u64) -> Answer {
        let space = self.target_space(target)?;
        let end = self.range_check(space, address, bytes)?;
        if self.unmap_step(space, address, end)? == Progress::Done {
            return Ok(Outcome::OK);
        }
        let left = self.spaces.get(space).and_then(|space| space.mappings.next(address)).map(|mapping| mapping.start);
        let Some(left) = left.map(|left| left.max(address)).filter(|left| *left < end) else { return Ok(Outcome::OK) };
        // What another thread maps meanwhile where nothing is left is not this call's to remove.
        if let Some(entry) = self.threads.get_mut(caller.thread) {
            (entry.registers.rsi, entry.registers.rdx) = (left, end - left);
        }
        Ok(Outcome::Again)
    }

    /// Changes the protection of a range without holes. What is done is taken off the caller's arguments at each restart.
    pub(crate) fn vm_protect(
        &mut self,
        caller: Caller,
        target: Object,
        address: u64,
        bytes: u64,
        protection: Protection,
    ) -> Answer {
        let space = self.target_space(target)?;
        let rights = effective(protection)?;
        let end = self.range_check(space, address, bytes)?;
        let reached = self.protect_step(space, address, end, rights)?;
        if reached >= end {
            return Ok(Outcome::OK);
        }
        if let Some(entry) = self.threads.get_mut(caller.thread) {
            (entry.registers.rsi, entry.registers.rdx) = (reached, end - reached);
        }
        Ok(Outcome::Again)
    }

    /// The mapping, or the hole, at an address.
    pub(crate) fn vm_query(&mut self, caller: Caller, target: Object, address: u64, info: Out<MappingInfo>) -> Answer {
        let id = self.target_space(target)?;
        let space = self.spaces.get(id).ok_or(Error::BadState)?;
        if address < space.low || address >= space.high {
            return Err(Error::Invalid);
        }
        let mut told = MappingInfo::new();
        match space.mappings.find(address) {
            Some(mapping) => {
                let region = self.regions.get(mapping.region).ok_or(Error::BadState)?;
                (told.address, told.bytes) = (mapping.start, mapping.end - mapping.start);
                (told.region, told.offset) = (mapping.region.number(), mapping.offset);
                (told.protection, told.backing) = (mapping.rights, region.backing);
                told.object_type = ObjectType::Region;
                let (mut page, end) = (mapping.offset / PAGE, (mapping.offset + told.bytes) / PAGE);
                for _ in 0..COUNTED {
                    let Some((found, _)) = region.tree.next(&self.nodes, page, end) else { break };
                    told.resident_bytes += PAGE;
                    page = found + 1;
                }
            }
            None => {
                let start = space.mappings.before(address).map_or(space.low, |mapping| mapping.end);
                let end = space.mappings.next(address).map_or(space.high, |mapping| mapping.start);
                (told.address, told.bytes) = (start, end - start);
            }
        }
        self.give_struct(caller, info.address, info.bytes, |out| told.encode(out))
    }

    /// Writes a struct of at most 512 bytes to where the caller wants it.
    pub(crate) fn give_struct(
        &mut self,
        caller: Caller,
        address: u64,
        room: usize,
        encode: impl FnOnce(&mut [u8]) -> usize,
    ) -> Answer {
        let mut bytes = [0; 512];
        let room = room.min(bytes.len());
        let length = encode(bytes.get_mut(..room).unwrap_or_default());
        self.copy_out(caller.unit, address, bytes.get(..length).unwrap_or_default())?;
        Ok(Outcome::OK)
    }

    /// A range of a region in whole pages.
    fn region_range(&self, id: RegionId, offset: u64, bytes: u64) -> Result<(u64, u64), Error> {
        let pages = self.regions.get(id).ok_or(Error::BadHandle)?.pages;
        let end = offset.checked_add(bytes).ok_or(Error::Invalid)?;
        if bytes == 0 || !offset.is_multiple_of(PAGE) || !bytes.is_multiple_of(PAGE) || end > pages * PAGE {
            return Err(Error::Invalid);
        }
        Ok((offset / PAGE, end / PAGE))
    }

    /// Gives the pages of a range of a region back.
    pub(crate) fn vm_decommit(&mut self, _caller: Caller, region: Cap, offset: u64, bytes: u64) -> Answer {
        let id = Self::region_of(&region)?;
        let (first, end) = self.region_range(id, offset, bytes)?;
        Ok(match self.region_decommit_step(id, first, end)? {
            Progress::More => Outcome::Again,
            Progress::Done => Outcome::OK,
        })
    }

    /// Makes a region with the same content.
    pub(crate) fn vm_snapshot(&mut self, caller: Caller, region: Cap) -> Answer {
        let id = Self::region_of(&region)?;
        match self.region_snapshot_step(id, caller.unit, caller.thread) {
            // Another thread is at it; this one comes again.
            Ok(None) | Err(Error::Busy) => Ok(Outcome::Again),
            Ok(Some(copy)) => self.region_install(caller, copy),
            Err(error) => Err(error),
        }
    }

    /// Gives another unit a derived capability of a region.
    pub(crate) fn vm_share(&mut self, caller: Caller, region: Cap, to: Cap, rights: Rights) -> Answer {
        self.cap_grant(caller, to, region.handle, rights, TransferMode::Clone)
    }

    /// Tells size and pages of a region.
    pub(crate) fn vm_region_get_info(&mut self, caller: Caller, region: Cap, info: Out<RegionInfo>) -> Answer {
        let id = Self::region_of(&region)?;
        let entry = self.regions.get(id).ok_or(Error::BadHandle)?;
        let mut told = RegionInfo::new();
        (told.id, told.bytes) = (id.number(), entry.pages * PAGE);
        told.committed_bytes = entry.tree.pages() * PAGE;
        told.shared_bytes = if entry.tree.root_shared(&self.nodes) { told.committed_bytes } else { 0 };
        (told.backing, told.mappings) = (entry.backing, entry.mappings);
        self.give_struct(caller, info.address, info.bytes, |out| told.encode(out))
    }

    /// Copies out of a region that need not be mapped.
    pub(crate) fn vm_region_read(&mut self, caller: Caller, region: Cap, offset: u64, to: UserSlice) -> Answer {
        let id = Self::region_of(&region)?;
        let length = self.region_room(id, offset, to.length)?;
        let mut done = 0;
        while done < length {
            let at = offset + done;
            let inside = (at % PAGE) as usize;
            let part = (PAGE_SIZE - inside).min((length - done) as usize);
            let entry = self.regions.get(id).ok_or(Error::BadHandle)?;
            let mut bytes = [0; PAGE_SIZE];
            let piece = bytes.get_mut(..part).ok_or(Error::Fault)?;
            match entry.tree.find(&self.nodes, at / PAGE) {
                Some(frame) => self.machine.frame_read(frame, inside, piece),
                None => {
                    // A page nobody touched reads as it would begin, and stays untouched.
                    let content = entry.content.get(at as usize..).unwrap_or_default();
                    piece.iter_mut().zip(content).for_each(|(to, from)| *to = *from);
                }
            }
            self.copy_out(caller.unit, to.address.wrapping_add(done), piece)?;
            done += part as u64;
        }
        Ok(Outcome::Done(length))
    }

    /// How many of `length` bytes from `offset` one call copies.
    fn region_room(&self, id: RegionId, offset: u64, length: u64) -> Result<u64, Error> {
        let end = self.regions.get(id).ok_or(Error::BadHandle)?.pages * PAGE;
        if offset > end {
            return Err(Error::Invalid);
        }
        Ok(length.min(end - offset).min(COPY))
    }

    /// Copies into a region that need not be mapped.
    pub(crate) fn vm_region_write(&mut self, caller: Caller, region: Cap, offset: u64, from: UserSlice) -> Answer {
        let id = Self::region_of(&region)?;
        let length = self.region_room(id, offset, from.length)?;
        let mut done = 0;
        while done < length {
            let at = offset + done;
            let inside = (at % PAGE) as usize;
            let part = (PAGE_SIZE - inside).min((length - done) as usize);
            let mut bytes = [0; PAGE_SIZE];
            let piece = bytes.get_mut(..part).ok_or(Error::Fault)?;
            self.copy_in(caller.unit, from.address.wrapping_add(done), piece)?;
            let frame = match self.region_page_step(id, at / PAGE, true) {
                Ok((frame, _)) => frame,
                // What was taken is answered first; the next step comes with the next call.
                Err(Error::Interrupted) => return Ok(if done == 0 { Outcome::Again } else { Outcome::Done(done) }),
                Err(error) => return Err(error),
            };
            self.machine.frame_write(frame, inside, piece);
            done += part as u64;
        }
        Ok(Outcome::Done(length))
    }

    /// Makes an empty guest space.
    pub(crate) fn space_create(&mut self, caller: Caller) -> Answer {
        let space = self.space_new(caller.unit, USER_START, HALF)?;
        let (rights, transfer) = (ObjectType::Space.rights(), ObjectType::Space.transfer_flags());
        let handle = self.cap_install(caller.unit, Object::Space(space), rights, transfer);
        self.space_release(space);
        handle.map(|handle| Outcome::Done(handle.raw() as u64))
    }

    /// Lists files of the boot archive; one whose sum is not known yet is summed first.
    pub(crate) fn archive_list(
        &mut self,
        caller: Caller,
        _archive: Cap,
        first: u64,
        entries: Records<ArchiveEntry>,
    ) -> Answer {
        let mut written = 0;
        let room = entries.count.min(LISTED);
        while written < room {
            let at = usize::try_from(first.saturating_add(written)).unwrap_or(usize::MAX);
            let Some(image) = self.archive.at(at).and_then(|id| self.images.get_mut(id)) else { break };
            let Some(crc) = image.whole_sum() else {
                image.sum(SUMMED);
                // What was found is answered first; the rest comes with the next call.
                return Ok(if written == 0 { Outcome::Again } else { Outcome::Done(written) });
            };
            let mut entry = ArchiveEntry::new();
            entry.bytes = image.content.len() as u64;
            entry.crc = crc;
            entry.program = u32::from(elf::parse(image.content).is_ok());
            entry.name.iter_mut().zip(image.name).for_each(|(to, from)| *to = *from);
            let mut bytes = [0; ArchiveEntry::SIZE];
            entry.encode_whole(&mut bytes);
            self.copy_out(caller.unit, entries.at(written), &bytes)?;
            written += 1;
        }
        Ok(Outcome::Done(written))
    }

    /// Opens a file of the boot archive.
    pub(crate) fn archive_open(&mut self, caller: Caller, archive: Cap, name: UserSlice) -> Answer {
        let mut bytes = [0; NAME];
        let length = usize::try_from(name.length).unwrap_or(usize::MAX);
        let name_bytes = bytes.get_mut(..length).ok_or(Error::TooBig)?;
        self.copy_in(caller.unit, name.address, name_bytes)?;
        let image = self.archive.find(&self.images, name_bytes).ok_or(Error::NotFound)?;
        let mut rights = ObjectType::Image.rights();
        if !archive.rights.contains(Rights::EXECUTE) {
            rights = rights.without(Rights::EXECUTE);
        }
        let transfer = ObjectType::Image.transfer_flags();
        let handle = self.cap_install(caller.unit, Object::Image(image), rights, transfer)?;
        Ok(Outcome::Done(handle.raw() as u64))
    }

    /// Reads a file.
    pub(crate) fn image_read(&mut self, caller: Caller, image: Cap, offset: u64, to: UserSlice) -> Answer {
        let content = self.images.get(Self::image_of(&image)?).ok_or(Error::BadHandle)?.content;
        let from = content.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let length = to.length.min(COPY).min(from.len() as u64);
        self.copy_out(caller.unit, to.address, from.get(..length as usize).unwrap_or_default())?;
        Ok(Outcome::Done(length))
    }

    /// Makes a region with the content of a file.
    pub(crate) fn image_map_region(&mut self, caller: Caller, image: Cap) -> Answer {
        let source = self.image_region(Self::image_of(&image)?).map_err(|error| match error {
            Error::BadImage => Error::Invalid,
            other => other,
        })?;
        // The file's own region is never written, so that no table lets anyone write to its pages.
        let copy = self.region_copy(source, caller.unit)?;
        let mut rights = ObjectType::Region.rights();
        if !image.rights.contains(Rights::EXECUTE) {
            rights = rights.without(Rights::EXECUTE);
        }
        self.region_install_with(caller, copy, rights)
    }
}
