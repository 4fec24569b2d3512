//! Physical and virtual memory below the core: where things lie, the page tables of the kernel and of user programs, and
//! what processors may still remember of them.
//!
//! | addresses | what |
//! | --- | --- |
//! | below [`holm_kernel_core::machine::USER_END`] | user programs |
//! | [`DIRECT`] and up | all memory at its physical address: never executable, read-only where the kernel's code lies |
//! | [`STACKS`] and up | the stacks of each processor, with unmapped pages between them |
//! | [`DEVICES`] and up | registers of devices |
//! | [`KERNEL`] and up | the kernel image: code is not writable, data is not executable |

pub(crate) mod boot_frames;
pub(crate) mod heap;
pub(crate) mod paging;
pub(crate) mod space;
pub(crate) mod tlb;

use holm_kernel_core::FrameNumber;

/// Where all memory is mapped.
pub(crate) const DIRECT: u64 = 0xffff_8000_0000_0000;
/// Where the stacks of processors are mapped.
pub(crate) const STACKS: u64 = 0xffff_c000_0000_0000;
/// Where registers of devices are mapped.
pub(crate) const DEVICES: u64 = 0xffff_d000_0000_0000;
/// Where the kernel image is mapped: this much above its physical address.
pub(crate) const KERNEL: u64 = 0xffff_ffff_8000_0000;
/// Bytes in a page.
pub(crate) const PAGE: u64 = 4096;

/// A physical address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Physical(pub(crate) u64);

impl Physical {
    /// The first byte of a frame.
    #[inline]
    pub(crate) const fn of(frame: FrameNumber) -> Self {
        Self(frame.0 as u64 * PAGE)
    }

    /// The frame that holds this address.
    #[inline]
    pub(crate) const fn frame(self) -> FrameNumber {
        FrameNumber((self.0 / PAGE) as u32)
    }

    /// Where the direct map shows it.
    #[inline]
    pub(crate) const fn direct<T>(self) -> *mut T {
        (DIRECT + self.0) as *mut T
    }
}

/// The kernel's code and constants.
pub(crate) fn read_only() -> &'static [u8] {
    let image = image();
    let bytes = image.read_only_end - image.text.0;
    let start = core::ptr::with_exposed_provenance::<u8>(image.text.0 as usize);
    // SAFETY: the linker script puts code and constants, nothing else, between the two, which boot maps for good and nobody can
    // write.
    unsafe { core::slice::from_raw_parts(start, bytes as usize) }
}

/// Where the linker script put the parts of the kernel image (addresses in the kernel's mapping).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Image {
    pub(crate) start: u64,
    pub(crate) text: (u64, u64),
    /// End of the read-only data, which begins where the code ends.
    pub(crate) read_only_end: u64,
    pub(crate) end: u64,
}

/// The kernel image.
pub(crate) fn image() -> Image {
    unsafe extern "C" {
        static image_start: u8;
        static text_start: u8;
        static text_end: u8;
        static rodata_end: u8;
        static image_end: u8;
    }
    // Only the addresses of these symbols of the linker script mean something; none is read.
    Image {
        start: (&raw const image_start) as u64,
        text: ((&raw const text_start) as u64, (&raw const text_end) as u64),
        read_only_end: (&raw const rodata_end) as u64,
        end: (&raw const image_end) as u64,
    }
}
