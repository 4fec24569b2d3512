//! The kernel as the one value behind one lock. Who comes first is served first; who waits has interrupts off, and does what
//! other processors ask of it meanwhile.

use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, offset_of};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use holm_kernel_core::Kernel;

use crate::cpu::tsc;
use crate::machine::X86;
use crate::memory::tlb;
use crate::percpu::PerCpu;
use crate::serial::say;

/// The lock and what it guards. Processors that find it free may take it in assembly, too: see [`crate::trap::crossing`].
pub(crate) struct Lock {
    next: AtomicU32,
    serving: AtomicU32,
    kernel: UnsafeCell<MaybeUninit<Kernel<X86>>>,
}

/// Where the next ticket is.
pub(crate) const NEXT: usize = offset_of!(Lock, next);
/// Where the ticket is that is served: one less than the next when the lock is taken and nobody waits, the same when it is free.
pub(crate) const SERVING: usize = offset_of!(Lock, serving);

// SAFETY: `kernel` is only reached through a `Locked`, of which there is one at a time.
unsafe impl Sync for Lock {}

/// Ticket 0 is boot's: it is served until `start` has put the kernel in.
pub(crate) static LOCK: Lock =
    Lock { next: AtomicU32::new(1), serving: AtomicU32::new(0), kernel: UnsafeCell::new(MaybeUninit::uninit()) };

/// Whether processors that wait look at the time: where the core's watchdog is compiled in.
const WATCHED: bool = cfg!(any(feature = "profile-dev", feature = "profile-hardened"));
/// After how many ticks of waiting a processor says so; 0: never.
static PATIENCE: AtomicU64 = AtomicU64::new(0);
/// Who took the lock last, by Rust.
static HOLDER: AtomicU32 = AtomicU32::new(0);

/// A processor that waits for the lock for longer than `ticks` says on the console who has it: nobody can enter the kernel to
/// put it into the log. 0 switches it off.
pub(crate) fn watch(ticks: u64) {
    PATIENCE.store(ticks, Ordering::Relaxed);
}

/// One processor's wait.
#[derive(Default)]
struct Waiting {
    since: u64,
    told: bool,
}

impl Waiting {
    fn look(&mut self, cpu: &PerCpu) {
        let patience = PATIENCE.load(Ordering::Relaxed);
        if patience == 0 || self.told {
            return;
        }
        let now = tsc();
        if self.since == 0 {
            self.since = now;
        } else if now.saturating_sub(self.since) > patience {
            self.told = true;
            let holder = HOLDER.load(Ordering::Relaxed);
            say!("watchdog: processor {} waits for the kernel, which processor {holder} does not leave", cpu.id.0);
        }
    }
}

/// The kernel, locked. Dropping it lets the next processor in.
pub(crate) struct Locked(());

/// Locks the kernel; `cpu` is the processor that runs this.
#[inline]
pub(crate) fn lock(cpu: &PerCpu) -> Locked {
    let ticket = LOCK.next.fetch_add(1, Ordering::Relaxed);
    if LOCK.serving.load(Ordering::Acquire) != ticket {
        wait(cpu, ticket);
    }
    if WATCHED {
        HOLDER.store(cpu.id.0, Ordering::Relaxed);
    }
    Locked(())
}

/// Waits until the ticket is served.
#[cold]
#[inline(never)]
fn wait(cpu: &PerCpu, ticket: u32) {
    let mut waiting = Waiting::default();
    while LOCK.serving.load(Ordering::Acquire) != ticket {
        tlb::serve(cpu);
        if WATCHED {
            waiting.look(cpu);
        }
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
