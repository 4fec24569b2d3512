//! The kernel heap: where `alloc` takes from. A TLSF allocator over one range that boot sets aside, so that every call takes
//! constant time; when it is used up, a reservation fails and the core says so to whoever asked.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use rlsf::Tlsf;

/// Blocks of up to 2^32 bytes in 28 classes of 16 sizes each.
type Heap = Tlsf<'static, u32, u16, 28, 16>;

struct Locked {
    busy: AtomicBool,
    heap: UnsafeCell<Heap>,
}

// SAFETY: `heap` is only touched in `with`, by the one processor that has set `busy`.
unsafe impl Sync for Locked {}

#[global_allocator]
static HEAP: Locked = Locked { busy: AtomicBool::new(false), heap: UnsafeCell::new(Heap::new()) };

impl Locked {
    /// The kernel's lock is held wherever the core runs, so nobody ever waits here; a panic that formats on another processor
    /// could.
    #[inline]
    fn with<R>(&self, work: impl FnOnce(&mut Heap) -> R) -> R {
        while self.busy.swap(true, Ordering::Acquire) {
            core::hint::spin_loop();
        }
        // SAFETY: `busy` was clear, so no other reference to the heap exists, and none begins before it is clear again.
        // `work` cannot come back here: the heap's code does not allocate.
        let result = work(unsafe { &mut *self.heap.get() });
        self.busy.store(false, Ordering::Release);
        result
    }
}

// SAFETY: the blocks are those of `Tlsf`, which keeps the contract; a block is given back with the alignment it was made with.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.with(|heap| heap.allocate(layout)).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller promises that `block` came from `alloc` with this layout and is not used any more.
            self.with(|heap| unsafe { heap.deallocate(block, layout.align()) });
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (Some(block), Ok(layout)) = (NonNull::new(block), Layout::from_size_align(size, layout.align())) else {
            return core::ptr::null_mut();
        };
        // SAFETY: as for `dealloc`; the new layout has the alignment of the old one.
        self.with(|heap| unsafe { heap.reallocate(block, layout) }).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }
}

/// Gives the heap its memory.
///
/// # Safety
/// `size` bytes at `start` are memory, mapped for good, and nobody else's.
pub(crate) unsafe fn start(start: *mut u8, size: usize) {
    let Some(start) = NonNull::new(start) else { return };
    // SAFETY: the caller gives the memory away for good.
    HEAP.with(|heap| unsafe { heap.insert_free_block_ptr(NonNull::slice_from_raw_parts(start, size)) });
}
