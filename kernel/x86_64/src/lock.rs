//! The kernel as the one value behind one lock. Who comes first is served first; who waits has interrupts off, and does what
//! other processors ask of it meanwhile.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use holm_kernel_core::Kernel;

use crate::machine::X86;
use crate::memory::tlb;
use crate::percpu::PerCpu;

struct Lock {
    next: AtomicU32,
    serving: AtomicU32,
    kernel: UnsafeCell<MaybeUninit<Kernel<X86>>>,
}

// SAFETY: `kernel` is only reached through a `Locked`, of which there is one at a time.
unsafe impl Sync for Lock {}

/// Ticket 0 is boot's: it is served until `start` has put the kernel in.
static LOCK: Lock =
    Lock { next: AtomicU32::new(1), serving: AtomicU32::new(0), kernel: UnsafeCell::new(MaybeUninit::uninit()) };

/// The kernel, locked. Dropping it lets the next processor in.
pub(crate) struct Locked(());

/// Locks the kernel; `cpu` is the processor that runs this.
#[inline]
pub(crate) fn lock(cpu: &PerCpu) -> Locked {
    let ticket = LOCK.next.fetch_add(1, Ordering::Relaxed);
    if LOCK.serving.load(Ordering::Acquire) != ticket {
        wait(cpu, ticket);
    }
    Locked(())
}

/// Waits until the ticket is served.
#[cold]
#[inline(never)]
fn wait(cpu: &PerCpu, ticket: u32) {
    while LOCK.serving.load(Ordering::Acquire) != ticket {
        tlb::serve(cpu);
        core::hint::spin_loop();
    }
}

impl Drop for Locked {
    #[inline]
    fn drop(&mut self) {
        // Only the holder changes it.
        let served = LOCK.serving.load(Ordering::Relaxed);
        LOCK.serving.store(served.wrapping_add(1), Ordering::Release);
    }
}

impl Deref for Locked {
    type Target = Kernel<X86>;

    #[inline]
    fn deref(&self) -> &Kernel<X86> {
        // SAFETY: `start` put the kernel in before it served the first ticket, and this is the one `Locked`.
        unsafe { (*LOCK.kernel.get()).assume_init_ref() }
    }
}

impl DerefMut for Locked {
    #[inline]
    fn deref_mut(&mut self) -> &mut Kernel<X86> {
        // SAFETY: as for `deref`.
        unsafe { (*LOCK.kernel.get()).assume_init_mut() }
    }
}

/// Puts the kernel in; processors may come from now on. The kernel is still locked, by what this returns.
///
/// # Safety
/// Called once, by boot.
pub(crate) unsafe fn start(kernel: Kernel<X86>) -> Locked {
    // SAFETY: boot holds ticket 0, so nobody else is there.
    unsafe { (*LOCK.kernel.get()).write(kernel) };
    Locked(())
}
