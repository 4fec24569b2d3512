//! The heap of a program: a two-level allocator over regions that are mapped as it grows.

#[cfg(holm_user)]
mod global {
    use core::alloc::{GlobalAlloc, Layout};
    use core::ptr::{NonNull, null_mut};

    use holm_abi::{Handle, MapSpec, Protection, RegionSpec, limits};
    use rlsf::{FlexSource, FlexTlsf};

    use crate::sys::{self, Mutex};

    /// Bytes the heap grows by at least.
    const GROWTH: usize = 256 * 1024;

    /// Gives the allocator regions of zero pages.
    struct Regions;

    // SAFETY: every block returned is a fresh mapping of its own that is never taken away.
    unsafe impl FlexSource for Regions {
        unsafe fn alloc(&mut self, min_size: usize) -> Option<NonNull<[u8]>> {
            let bytes = min_size.max(GROWTH).checked_next_multiple_of(limits::PAGE_SIZE as usize)?;
            let region = sys::vm_region_create(&RegionSpec { bytes: bytes as u64, ..RegionSpec::new() }).ok()?;
            let spec = MapSpec { protection: Protection::READ | Protection::WRITE, ..MapSpec::new() };
            // SAFETY: the kernel chooses the address, so nothing that is in use is replaced.
            let mapped = unsafe { sys::vm_map(Handle::NONE, region, &spec) };
            // The mapping keeps the region.
            let _closed = sys::cap_close(region);
            let start = NonNull::new(mapped.ok()? as *mut u8)?;
            Some(NonNull::slice_from_raw_parts(start, bytes))
        }

        fn min_align(&self) -> usize {
            limits::PAGE_SIZE as usize
        }
    }

    /// One bit for each power of two, and as many divisions of each.
    const LEVELS: usize = usize::BITS as usize;

    /// The allocator behind a lock.
    struct Heap(Mutex<FlexTlsf<Regions, usize, usize, LEVELS, LEVELS>>);

    // SAFETY: the two-level allocator gives out blocks that do not overlap and fit the layout; the lock makes it one at a time.
    unsafe impl GlobalAlloc for Heap {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            self.0.lock().allocate(layout).map_or(null_mut(), NonNull::as_ptr)
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            if let Some(block) = NonNull::new(block) {
                // SAFETY: the caller gives back a block of this allocator with the alignment it was asked for.
                unsafe { self.0.lock().deallocate(block, layout.align()) };
            }
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
            let (Some(block), Ok(layout)) = (NonNull::new(block), Layout::from_size_align(bytes, layout.align()))
            else {
                return null_mut();
            };
            // SAFETY: as for `dealloc`; the new layout has the same alignment.
            unsafe { self.0.lock().reallocate(block, layout) }.map_or(null_mut(), NonNull::as_ptr)
        }
    }

    #[global_allocator]
    static HEAP: Heap = Heap(Mutex::new(FlexTlsf::new(Regions)));
}
