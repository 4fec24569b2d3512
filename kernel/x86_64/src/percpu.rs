//! What each processor has for itself, found through its GS base while it is in the kernel.

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use holm_kernel_core::machine::Nanos;
use holm_kernel_core::thread::{Thread, ThreadId, Vector};
use holm_kernel_core::{CpuId, SpaceId};

use crate::memory::tlb::Tags;
use crate::trap::leave::Exit;
use crate::trap::segments::Segments;

/// How many processors can run; more are left alone.
pub(crate) const MAX_CPUS: usize = 64;

/// One processor's own things. Cells are touched by that processor only (others
/// read [`PerCpu::space`] under the kernel's lock, under which alone it changes), atomics by all.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct PerCpu {
    /// This structure: `gs:[0]` finds it.
    this: *const Self,
    /// The structure of the thread it runs, where the assembly saves its registers: valid as long as `thread` names a thread.
    pub(crate) thread_at: Cell<*mut Thread>,
    /// The end of this processor's kernel stack.
    pub(crate) stack: u64,
    /// Holds the user's stack pointer for three instructions of a system call.
    pub(crate) scratch: Cell<u64>,
    /// Vector registers are to be saved at a system call too: the thread runs a guest in restricted mode.
    pub(crate) keep_vector: Cell<u64>,
    /// What the exit path loads the vector registers from.
    pub(crate) load: Cell<*mut Vector>,
    /// Cleared vector registers, with the modes of the thread that gets them.
    clean: Cell<Vector>,
    /// The modes that the structure of the thread it runs has.
    pub(crate) modes: Cell<u64>,
    /// How it leaves the kernel, where [`holm_kernel_core::machine::Machine::take_up`] has decided that.
    pub(crate) exit: Cell<Exit>,
    /// Where the kernel was entered, on the time stamp counter.
    pub(crate) entered: Cell<u64>,
    /// How it was entered: see [`crate::measure`].
    pub(crate) entry: Cell<u64>,
    /// The longest time in the kernel so far, and how it was entered then.
    pub(crate) longest: AtomicU64,
    pub(crate) longest_entry: AtomicU64,
    /// Which one it is.
    pub(crate) id: CpuId,
    /// Its local APIC's number.
    pub(crate) apic: u32,
    /// The number of the thread it runs; zero when none.
    pub(crate) thread: Cell<u64>,
    /// The address space it has loaded; [`NO_SPACE`] when only the kernel's.
    pub(crate) space: Cell<SpaceId>,
    /// The bases that its segment registers hold, when they are zero; else what no base is.
    pub(crate) bases: Cell<(u64, u64)>,
    /// When its timer fires.
    pub(crate) timer: Cell<Nanos>,
    /// When another processor wants its timer to fire.
    pub(crate) timer_wanted: AtomicU64,
    /// The core wants it to enter the kernel.
    pub(crate) kicked: AtomicBool,
    /// There is something in [`crate::memory::tlb`] for it to forget.
    pub(crate) flush: AtomicBool,
    /// What it remembers of which address space.
    pub(crate) tags: Tags,
    /// Its descriptor tables.
    pub(crate) segments: Segments,
}

// SAFETY: the cells are touched only by the processor that the structure belongs to, which finds it by `this_cpu`; other
// processors use the atomics, what never changes, and `space` under the kernel's lock, which also guards its changes.
unsafe impl Sync for PerCpu {}

/// Offsets in an FXSAVE area.
const CONTROL_WORD: usize = 0;
const MXCSR: usize = 24;

/// Stands for no address space but the kernel's own.
pub(crate) const NO_SPACE: SpaceId = SpaceId(u32::MAX);

static CPUS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

impl PerCpu {
    /// A processor that has not started.
    pub(crate) fn new(id: CpuId, apic: u32, stack: u64) -> Self {
        Self {
            this: core::ptr::null(),
            thread_at: Cell::new(core::ptr::null_mut()),
            stack,
            scratch: Cell::new(0),
            keep_vector: Cell::new(0),
            load: Cell::new(core::ptr::null_mut()),
            clean: Cell::new(Vector { modes: 0, ..Vector::default() }),
            modes: Cell::new(Vector::USUAL_MODES),
            exit: Cell::new(Exit::Idle),
            entered: Cell::new(0),
            entry: Cell::new(0),
            longest: AtomicU64::new(0),
            longest_entry: AtomicU64::new(0),
            id,
            apic,
            thread: Cell::new(0),
            space: Cell::new(NO_SPACE),
            bases: Cell::new((0, 0)),
            timer: Cell::new(Nanos::NEVER),
            timer_wanted: AtomicU64::new(crate::machine::NOTHING_WANTED),
            kicked: AtomicBool::new(false),
            flush: AtomicBool::new(false),
            tags: Tags::new(),
            segments: Segments::new(),
        }
    }

    /// Puts it where it stays for good, and where others find it.
    ///
    /// # Safety
    /// `at` is memory for it, aligned, mapped for good, and nobody else's.
    pub(crate) unsafe fn publish(self, at: NonNull<Self>) -> &'static Self {
        // SAFETY: the caller gives memory for one `PerCpu`, from boot's frames and never given back.
        unsafe {
            at.write(self);
            (*at.as_ptr()).this = at.as_ptr();
        }
        // SAFETY: initialised above, never moved or freed, and from now on only shared.
        let cpu = unsafe { at.as_ref() };
        CPUS[cpu.id.0 as usize % MAX_CPUS].store(at.as_ptr(), Ordering::Release);
        cpu
    }

    /// The thread it runs.
    pub(crate) fn running(&self) -> Option<ThreadId> {
        let number = self.thread.get();
        (number != 0).then(|| ThreadId::from_number(number))
    }

    /// The address space it has loaded.
    pub(crate) fn loaded(&self) -> Option<SpaceId> {
        let space = self.space.get();
        (space != NO_SPACE).then_some(space)
    }

    /// Cleared vector registers with these modes, to be loaded by the exit path.
    #[inline]
    pub(crate) fn cleared(&self, modes: u64) -> *mut Vector {
        let at = self.clean.as_ptr();
        // SAFETY: only this processor touches the cell, and no reference into it is alive.
        let clean = unsafe { &mut *at };
        if clean.modes != modes {
            // Only now and then: most programs never change them.
            clean.modes = modes;
            clean.area[CONTROL_WORD..][..2].copy_from_slice(&((modes >> 32) as u16).to_le_bytes());
            clean.area[MXCSR..][..4].copy_from_slice(&(modes as u32).to_le_bytes());
        }
        at
    }

    /// Frames for one of these.
    pub(crate) const FRAMES: u64 = (size_of::<Self>() as u64).div_ceil(4096);
}

/// The processor that runs this.
#[inline]
pub(crate) fn this_cpu() -> &'static PerCpu {
    let this: *const PerCpu;
    // SAFETY: from `segments::load` on, and in every entry after `swapgs`, the GS base points to this processor's structure,
    // whose first field is its address, which never changes: reading it once is as good as reading it again.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) this, options(nostack, preserves_flags, nomem, pure));
        &*this
    }
}

/// Another processor, when it exists.
#[inline]
pub(crate) fn cpu(id: CpuId) -> Option<&'static PerCpu> {
    let at = CPUS.get(id.0 as usize)?.load(Ordering::Acquire);
    // SAFETY: only `publish` stores here, the address of a structure that lives for good.
    unsafe { at.as_ref() }
}

/// Every processor.
pub(crate) fn cpus() -> impl Iterator<Item = &'static PerCpu> {
    (0..MAX_CPUS as u32).map_while(|id| cpu(CpuId(id)))
}
