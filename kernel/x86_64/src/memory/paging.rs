//! Page tables: their format, and the kernel's own half, which is made once and shared by every address space.

use super::boot_frames::{BootFrames, OutOfMemory};
use super::{DEVICES, DIRECT, Image, KERNEL, PAGE, Physical};

/// The page is there.
pub(crate) const PRESENT: u64 = 1;
/// Stores are allowed.
pub(crate) const WRITE: u64 = 1 << 1;
/// User programs may use it.
pub(crate) const USER: u64 = 1 << 2;
/// Not cached: registers of devices.
const UNCACHED: u64 = 1 << 4 | 1 << 3;
/// Accessed and dirty: set from the start, so that the processor never needs to.
pub(crate) const TOUCHED: u64 = 1 << 6 | 1 << 5;
/// A page of 2 MiB or 1 GiB instead of a table.
const LARGE: u64 = 1 << 7;
/// Kept when the address space changes.
const GLOBAL: u64 = 1 << 8;
/// Instructions may not be fetched.
pub(crate) const NO_EXECUTE: u64 = 1 << 63;
/// Where the physical address is.
pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const LARGE_SIZE: u64 = 1 << 21;
const HUGE_SIZE: u64 = 1 << 30;

/// A page table of any level.
pub(crate) type Table = [u64; 512];

/// The table at a physical address.
///
/// # Safety
/// A page table is there, in the direct map, and nobody else uses it while the reference lives.
#[inline]
pub(crate) unsafe fn table<'a>(at: Physical) -> &'a mut Table {
    // SAFETY: the caller promises the table; every bit pattern is one.
    unsafe { &mut *at.direct::<Table>() }
}

/// Which entry of a table of `level` (4: root) an address takes.
#[inline]
pub(crate) const fn index(address: u64, level: u32) -> usize {
    (address >> (3 + 9 * level) & 511) as usize
}

/// The kernel's address space while it is made.
pub(crate) struct KernelSpace<'a> {
    root: Physical,
    frames: &'a mut BootFrames,
    huge_pages: bool,
}

/// Whether the kernel may run or change a page of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Code,
    Constants,
    Data,
    Device,
}

impl Kind {
    const fn bits(self) -> u64 {
        PRESENT
            | TOUCHED
            | GLOBAL
            | match self {
                Self::Code => 0,
                Self::Constants => NO_EXECUTE,
                Self::Data => WRITE | NO_EXECUTE,
                Self::Device => WRITE | NO_EXECUTE | UNCACHED,
            }
    }
}

impl<'a> KernelSpace<'a> {
    /// An empty space whose kernel half has all its tables of the second level, so that roots can share them for good.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no frame for a table.
    pub(crate) fn new(frames: &'a mut BootFrames, huge_pages: bool) -> Result<Self, OutOfMemory> {
        let root = zeroed(frames)?;
        Ok(Self { root, frames, huge_pages })
    }

    /// The root.
    pub(crate) const fn root(&self) -> Physical {
        self.root
    }

    /// Takes a frame of zeroes for good.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is none.
    pub(crate) fn frame(&mut self) -> Result<Physical, OutOfMemory> {
        zeroed(self.frames)
    }

    /// Takes `count` frames side by side for good; what is in them is not cleared.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there are none.
    pub(crate) fn frames(&mut self, count: u64) -> Result<Physical, OutOfMemory> {
        self.frames.take(count)
    }

    /// Maps one page of the size of `level` (1: 4 KiB, 2: 2 MiB, 3: 1 GiB).
    fn map_at(&mut self, address: u64, to: u64, kind: Kind, level: u32) -> Result<(), OutOfMemory> {
        let mut at = self.root;
        for above in (level + 1..=4).rev() {
            // SAFETY: `at` is the root or came from an entry that this function wrote: a table in the direct map, used by
            // nobody else while the space is made.
            let entry = unsafe { &mut table(at)[index(address, above)] };
            if *entry & PRESENT == 0 {
                *entry = zeroed(self.frames)?.0 | PRESENT | WRITE;
            }
            at = Physical(*entry & ADDRESS);
        }
        let large = if level > 1 { LARGE } else { 0 };
        // SAFETY: as above.
        unsafe { table(at)[index(address, level)] = to | kind.bits() | large };
        Ok(())
    }

    /// Maps a page of 4 KiB.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no frame for a table.
    pub(crate) fn map(&mut self, address: u64, to: Physical, kind: Kind) -> Result<(), OutOfMemory> {
        self.map_at(address, to.0, kind, 1)
    }

    /// Maps memory at its place in the direct map, by the largest pages that fit; the kernel's code and constants are not
    /// writable through it either.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no frame for a table.
    pub(crate) fn map_direct(&mut self, start: u64, end: u64, image: Image) -> Result<(), OutOfMemory> {
        let (fixed_start, fixed_end) = (image.start - KERNEL, image.read_only_end - KERNEL);
        let mut at = start / PAGE * PAGE;
        while at < end {
            let fits = |size: u64| {
                at.is_multiple_of(size) && at + size <= end && (at >= fixed_end || at + size <= fixed_start)
            };
            let (size, level) = match () {
                () if self.huge_pages && fits(HUGE_SIZE) => (HUGE_SIZE, 3),
                () if fits(LARGE_SIZE) => (LARGE_SIZE, 2),
                () => (PAGE, 1),
            };
            let fixed = at >= fixed_start && at < fixed_end;
            self.map_at(DIRECT + at, at, if fixed { Kind::Constants } else { Kind::Data }, level)?;
            at += size;
        }
        Ok(())
    }

    /// Maps the kernel image, each part as what it is.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no frame for a table.
    pub(crate) fn map_image(&mut self, image: Image) -> Result<(), OutOfMemory> {
        let mut address = image.text.0;
        while address < image.end {
            let kind = match address {
                _ if address < image.text.1 => Kind::Code,
                _ if address < image.read_only_end => Kind::Constants,
                _ => Kind::Data,
            };
            self.map(address, Physical(address - KERNEL), kind)?;
            address += PAGE;
        }
        Ok(())
    }

    /// Maps the registers of the `number`th device, a page at physical address `at`, and says where.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no frame for a table.
    pub(crate) fn map_device(&mut self, number: u64, at: u64) -> Result<u64, OutOfMemory> {
        let address = DEVICES + number * PAGE;
        self.map(address, Physical(at / PAGE * PAGE), Kind::Device)?;
        Ok(address)
    }
}

fn zeroed(frames: &mut BootFrames) -> Result<Physical, OutOfMemory> {
    let frame = frames.take(1)?;
    // SAFETY: the frame was free memory and is below 4 GiB, which the boot tables map at the direct map.
    unsafe { frame.direct::<Table>().write([0; 512]) };
    Ok(frame)
}
