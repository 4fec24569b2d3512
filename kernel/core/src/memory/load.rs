//! Loading programs: segments, the stack with what the first thread finds on it, and the time page.
//!
//! Pages of segments that are never written are those of the file's own region, shared by all units that run it. Each
//! writable segment gets a region of its own, whose pages begin as the file's bytes when they are touched.
//!
//! The stack, from its end down: the argument strings, the environment strings, [`StartInfo`], then 8 bytes less than a
//! multiple of 16, as after a call. Below its lowest page lies a page that cannot be touched.

use holm_abi::{Backing, Error, Protection, StartInfo, TimePage};

use super::elf::{self, Segment};
use super::space::Placement;
use super::{AddressSpaceId, ImageId, RegionId};
use crate::kernel::Kernel;
use crate::machine::{Machine, PAGE_SIZE, USER_END};
use crate::unit::UnitId;

const PAGE: u64 = PAGE_SIZE as u64;

/// Pages by which the stacks of units differ at most: 16 GiB.
const STACK_SPREAD: u64 = 1 << 22;

/// The stack of a first thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stack {
    /// Its lowest byte.
    pub low: u64,
    /// Behind its last byte.
    pub top: u64,
}

/// Strings to place on a stack: where they are in the creator's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strings {
    /// The address.
    pub address: u64,
    /// Bytes of all, with the zero byte of each.
    pub bytes: u64,
}

impl<M: Machine> Kernel<M> {
    /// The region that shows a file's own pages to all units; its pages are the kernel's.
    ///
    /// # Errors
    /// `NoMemory`; `BadImage` for an empty file.
    pub(crate) fn image_region(&mut self, image: ImageId) -> Result<RegionId, Error> {
        let entry = self.images.get(image).ok_or(Error::BadHandle)?;
        if let Some(region) = entry.region {
            return Ok(region);
        }
        let content = entry.content;
        let pages = (content.len() as u64).div_ceil(PAGE);
        if pages == 0 {
            return Err(Error::BadImage);
        }
        let region = self.region_new(None, pages, Backing::Image, content)?;
        if let Some(entry) = self.images.get_mut(image) {
            entry.region = Some(region);
        }
        Ok(region)
    }

    /// Maps the segments of a program into a space, and says where it starts.
    ///
    /// # Errors
    /// `BadImage` when it is no program or its segments do not fit the space; `Quota`, `NoMemory`.
    pub(crate) fn program_load(&mut self, unit: UnitId, space: AddressSpaceId, image: ImageId) -> Result<u64, Error> {
        let file = self.images.get(image).ok_or(Error::BadHandle)?.content;
        let program = elf::parse(file).map_err(|_| Error::BadImage)?;
        for segment in program.segments() {
            self.segment_map(unit, space, image, file, segment).map_err(|error| match error {
                Error::Invalid | Error::Exists => Error::BadImage,
                other => other,
            })?;
        }
        Ok(program.entry)
    }

    fn segment_map(
        &mut self,
        unit: UnitId,
        space: AddressSpaceId,
        image: ImageId,
        file: &'static [u8],
        segment: &Segment,
    ) -> Result<(), Error> {
        let bytes = segment.end - segment.start;
        let from_file = (segment.file_end - segment.file_start) as u64;
        let whole = !segment.rights.contains(Protection::WRITE) && from_file.next_multiple_of(PAGE) == bytes;
        let at = Placement::Free(segment.start);
        if whole && segment.file_start.is_multiple_of(PAGE_SIZE) {
            let region = self.image_region(image)?;
            let offset = segment.file_start as u64;
            self.map_step(space, region, offset, bytes, at, segment.rights, segment.rights, None)?;
            return Ok(());
        }
        let content = file.get(segment.file_start..segment.file_end).ok_or(Error::BadImage)?;
        let region = self.region_new(Some(unit), bytes / PAGE, Backing::Image, content)?;
        let mapped = self.map_step(space, region, 0, bytes, at, segment.rights, segment.rights, None);
        // The mapping keeps it; without one it goes.
        self.region_release(region);
        mapped.map(|_| ())
    }

    /// Makes a stack near the end of a space, with a page below it that cannot be touched.
    ///
    /// # Errors
    /// `Quota`, `NoMemory`, `NoSpace`.
    pub(crate) fn stack_map(&mut self, unit: UnitId, space: AddressSpaceId, bytes: u64) -> Result<Stack, Error> {
        let region = self.region_new(Some(unit), bytes / PAGE + 1, Backing::Anonymous, &[])?;
        let top = USER_END - self.machine.random() % STACK_SPREAD * PAGE - PAGE;
        let low = top - bytes;
        let rights = Protection::READ | Protection::WRITE;
        let none = Protection::NONE;
        let mapped = self
            .map_step(space, region, 0, PAGE, Placement::Free(low - PAGE), none, none, None)
            .and_then(|_| self.map_step(space, region, PAGE, bytes, Placement::Free(low), rights, rights, None));
        self.region_release(region);
        mapped.map_err(|error| if error == Error::Exists { Error::NoSpace } else { error })?;
        Ok(Stack { low, top })
    }

    /// Copies at most `most` bytes of the strings onto the stack of `unit`, from the byte `done` of all of them on; answers how
    /// many. What is copied of one goes up to its end at most.
    ///
    /// # Errors
    /// `Invalid` when strings do not end with a zero byte; `Fault` when `creator` cannot read them; `Quota`, `NoMemory`.
    pub(crate) fn strings_copy(
        &mut self,
        unit: UnitId,
        stack: Stack,
        creator: Option<UnitId>,
        strings: [Strings; 2],
        done: u64,
        most: u64,
    ) -> Result<u64, Error> {
        let from = creator.ok_or(Error::Invalid)?;
        let [first, second] = strings;
        let (which, inside, at) = if done < first.bytes {
            (first, done, stack.top - first.bytes)
        } else {
            (second, done - first.bytes, stack.top - first.bytes - second.bytes)
        };
        let bytes = which.bytes.saturating_sub(inside).min(most);
        self.copy_between(from, which.address.wrapping_add(inside), unit, at + inside, bytes)?;
        if inside + bytes == which.bytes {
            let mut last = [1];
            self.copy_in(unit, at + which.bytes - 1, &mut last)?;
            if last != [0] {
                return Err(Error::Invalid);
            }
        }
        Ok(bytes)
    }

    /// Places what the first thread of `unit` finds on its stack below the strings; answers where [`StartInfo`] is and the
    /// stack pointer.
    ///
    /// # Errors
    /// `Quota`, `NoMemory`.
    pub(crate) fn stack_fill(
        &mut self,
        unit: UnitId,
        stack: Stack,
        [argv, envp]: [Strings; 2],
        mut info: StartInfo,
    ) -> Result<(u64, u64), Error> {
        let mut at = stack.top;
        let mut place = |strings: Strings| {
            at -= strings.bytes;
            if strings.bytes == 0 { 0 } else { at }
        };
        (info.argv, info.envp) = (place(argv), place(envp));
        (info.argv_bytes, info.envp_bytes) = (argv.bytes, envp.bytes);
        (info.stack_top, info.stack_bytes) = (stack.top, stack.top - stack.low);
        at = (at - StartInfo::SIZE as u64) & !15;
        let mut bytes = [0; StartInfo::SIZE];
        info.encode_whole(&mut bytes);
        self.copy_out(unit, at, &bytes)?;
        Ok((at, at - 8))
    }

    /// Shows a unit the page by which it reads the clocks; 0 where there is none.
    ///
    /// # Errors
    /// `Quota`, `NoMemory`, `NoSpace`.
    pub(crate) fn time_page_map(&mut self, space: AddressSpaceId) -> Result<u64, Error> {
        let region = match self.time_page {
            Some(region) => region,
            None => {
                let Some(scale) = self.machine.clock_scale() else { return Ok(0) };
                let region = self.region_new(None, 1, Backing::Kernel, &[])?;
                let (frame, _) = match self.region_page(region, 0, true) {
                    Ok(page) => page,
                    Err(error) => {
                        self.region_release(region);
                        return Err(error);
                    }
                };
                let page = TimePage {
                    sequence: 0,
                    base_tsc: scale.base,
                    base_time: 0,
                    realtime_at_boot: self.machine.realtime_at_boot().0,
                    multiplier: scale.multiplier,
                    shift: u64::from(scale.shift),
                };
                let mut bytes = [0; TimePage::SIZE];
                page.encode_whole(&mut bytes);
                self.machine.frame_write(frame, 0, &bytes);
                self.time_page = Some(region);
                region
            }
        };
        let (read, anywhere) = (Protection::READ, Placement::Wish { address: 0, upper: true });
        self.map_step(space, region, 0, PAGE, anywhere, read, read, None).map(|address| address.unwrap_or(0))
    }
}
