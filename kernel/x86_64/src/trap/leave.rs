//! Leaving the kernel: what the core wants the processor to do, turned into what the exit path does.

use core::arch::asm;

use holm_kernel_core::machine::USER_END;
use holm_kernel_core::thread::{EntryKind, Thread, ThreadId, Vector};
use holm_kernel_core::{Next, SpaceId};

use crate::cpu::{msr, wrmsr};
use crate::lock::Locked;
use crate::memory::tlb;
use crate::percpu::PerCpu;
use crate::{measure, power};

/// What the exit path in `stubs` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Exit {
    /// Returns to the thread that made the system call.
    Same = 0,
    /// Returns to another thread, which stopped in a system call.
    SystemCall = 1,
    /// Returns to a thread that stopped anywhere.
    Interrupt = 2,
    /// Waits for an interrupt.
    Idle = 3,
}

/// Offsets in an FXSAVE area.
const CONTROL_WORD: usize = 0;
const MXCSR: usize = 24;
/// What a thread begins with: every exception masked, round to nearest.
const DEFAULT_CONTROL_WORD: u16 = 0x37f;
const DEFAULT_MXCSR: u32 = 0x1f80;

/// Flags that a user program may have as it likes.
const USER_FLAGS: u64 = 0x24_0dd5;
/// Flags that it always has: interrupts on, and the one that is always set.
const FIXED_FLAGS: u64 = 0x202;

/// Does what can be done in Rust to make `cpu` go on with `next`, and unlocks the kernel.
#[inline]
pub(crate) fn leave(mut kernel: Locked, cpu: &PerCpu, next: Next) -> Exit {
    let exit = match next {
        Next::Run(thread, space) if unchanged(cpu, thread, space) => Exit::Same,
        Next::Run(thread, space) => change(&mut kernel, cpu, thread, space),
        Next::Idle => {
            set_aside(&mut kernel, cpu);
            tlb::leave(cpu, kernel.machine().spaces());
            Exit::Idle
        }
        Next::Halt(how) => power::stop(how),
    };
    drop(kernel);
    measure::left(cpu);
    exit
}

/// Whether the thread that entered by a system call goes on, with nothing of it changed but the registers that a system call
/// may change.
#[inline]
fn unchanged(cpu: &PerCpu, thread: ThreadId, space: SpaceId) -> bool {
    cpu.thread.get() == thread.number()
        && cpu.space.get() == space
        // SAFETY: `cpu.thread` is the thread that runs next, so it exists, and its structure does not move; the kernel is
        // locked.
        && unsafe { (*cpu.thread_at.get()).entry == EntryKind::SystemCall }
        && cpu.keep_vector.get() == 0
}

/// Before a processor leaves the thread that it ran: keeps its floating-point modes where its vector registers were not saved.
fn set_aside(kernel: &mut Locked, cpu: &PerCpu) {
    // It may have ended since.
    if let Some(thread) = cpu.running().and_then(|id| kernel.running(id))
        && thread.vector.saved == 0
    {
        let area = &raw mut thread.vector.area;
        // SAFETY: both offsets lie within the area, and every value of them is one.
        unsafe {
            let (control_word, mxcsr) = (area.byte_add(CONTROL_WORD), area.byte_add(MXCSR));
            asm!("fnstcw [{}]", "stmxcsr [{}]", in(reg) control_word, in(reg) mxcsr, options(nostack));
        }
    }
    cpu.thread.set(0);
    cpu.thread_at.set(core::ptr::null_mut());
}

/// Prepares another thread, or the same one with other registers.
fn change(kernel: &mut Locked, cpu: &PerCpu, id: ThreadId, space: SpaceId) -> Exit {
    set_aside(kernel, cpu);
    tlb::enter(cpu, kernel.machine().spaces(), space);
    let Some(thread) = kernel.running(id) else { panic!("the core runs a thread that does not exist") };
    let registers = &mut thread.registers;
    // A return to an address that is none would fault in the kernel; to this one it faults in the program.
    if registers.rip > USER_END {
        registers.rip = USER_END;
    }
    registers.rflags = registers.rflags & USER_FLAGS | FIXED_FLAGS;
    let user = |base: u64| if base < USER_END { base } else { 0 };
    let bases = (user(registers.fs_base), user(registers.gs_base));
    if cpu.bases.replace(bases) != bases {
        // SAFETY: canonical addresses of user memory; the second is loaded by the `swapgs` of the exit path.
        unsafe {
            wrmsr(msr::FS_BASE, bases.0);
            wrmsr(msr::KERNEL_GS_BASE, bases.1);
        }
    }
    let load = if thread.vector.saved == 0 { cpu.cleared(modes(&thread.vector)) } else { &raw mut thread.vector };
    let exit = match thread.entry {
        EntryKind::SystemCall => Exit::SystemCall,
        EntryKind::Interrupt => Exit::Interrupt,
    };
    cpu.keep_vector.set(u64::from(thread.restricted.is_bound()));
    // What it is until the next entry says otherwise.
    thread.entry = EntryKind::SystemCall;
    thread.vector.saved = 0;
    let at: *mut Thread = thread;
    cpu.load.set(load);
    // SAFETY: `at` was a reference just now; only addresses of fields are taken.
    unsafe {
        cpu.registers.set(&raw mut (*at).registers);
        cpu.vector.set(&raw mut (*at).vector);
    }
    cpu.thread.set(id.number());
    cpu.thread_at.set(at);
    exit
}

/// The floating-point modes that were set aside; the usual ones where the thread has not run yet.
fn modes(vector: &Vector) -> (u16, u32) {
    let area = &vector.area;
    let control_word = u16::from_le_bytes([area[CONTROL_WORD], area[CONTROL_WORD + 1]]);
    let mxcsr = u32::from_le_bytes([area[MXCSR], area[MXCSR + 1], area[MXCSR + 2], area[MXCSR + 3]]);
    if (control_word, mxcsr) == (0, 0) { (DEFAULT_CONTROL_WORD, DEFAULT_MXCSR) } else { (control_word, mxcsr & 0xffff) }
}
