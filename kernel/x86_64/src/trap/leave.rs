//! Leaving the kernel: what the core wants the processor to do, turned into what the exit path does.

use core::arch::asm;

use holm_kernel_core::machine::USER_END;
use holm_kernel_core::thread::{EntryKind, Registers, Thread, ThreadId};
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

/// Before a processor leaves the thread that it ran.
fn set_aside(kernel: &mut Locked, cpu: &PerCpu) {
    let modes = float_modes();
    if modes != cpu.modes.get()
        // It may have ended since.
        && let Some(thread) = cpu.running().and_then(|id| kernel.running(id))
    {
        thread.vector.modes = modes;
    }
    cpu.thread.set(0);
    cpu.thread_at.set(core::ptr::null_mut());
}

/// As [`set_aside`], for a thread that exists.
#[inline]
pub(crate) fn set_down(cpu: &PerCpu, from: &mut Thread) {
    let modes = float_modes();
    if modes != cpu.modes.get() {
        from.vector.modes = modes;
    }
}

/// The floating-point modes of the processor, as [`holm_kernel_core::thread::Vector`] has them: nothing in the kernel changes them.
#[inline]
fn float_modes() -> u64 {
    let modes;
    // SAFETY: they are stored over 8 bytes that this pushes and pops: MXCSR has 4 of them, the control word 2 of the others.
    unsafe {
        asm!("push 0", "stmxcsr [rsp]", "fnstcw [rsp + 4]", "pop {}", out(reg) modes, options(preserves_flags));
    }
    modes
}

/// Prepares another thread, or the same one with other registers.
#[inline]
fn change(kernel: &mut Locked, cpu: &PerCpu, id: ThreadId, space: SpaceId) -> Exit {
    if cpu.thread.get() == id.number() && cpu.space.get() == space {
        // SAFETY: `cpu.thread` is the thread that runs next, so it exists, and its structure does not move; the kernel is
        // locked, and nothing else refers to the thread meanwhile.
        let thread = unsafe { &mut *cpu.thread_at.get() };
        set_down(cpu, thread);
        return take_up(cpu, id, thread);
    }
    set_aside(kernel, cpu);
    tlb::enter(cpu, kernel.machine().spaces(), space);
    let Some(thread) = kernel.running(id) else { panic!("the core runs a thread that does not exist") };
    take_up(cpu, id, thread)
}

/// Prepares the exit to a thread whose address space is loaded.
#[inline(always)]
pub(crate) fn take_up(cpu: &PerCpu, id: ThreadId, thread: &mut Thread) -> Exit {
    let registers = &mut thread.registers;
    // A return to an address that is none would fault in the kernel; to this one it faults in the program.
    if registers.rip > USER_END {
        registers.rip = USER_END;
    }
    if cpu.bases.get() != (registers.fs_base, registers.gs_base) {
        load_bases(cpu, registers);
    }
    let modes = thread.vector.modes;
    let load = if thread.vector.saved == 0 { cpu.cleared(modes) } else { &raw mut thread.vector };
    if thread.vector.saved != 0 {
        // What it is until the next entry says otherwise.
        thread.vector.saved = 0;
    }
    let exit = match thread.entry {
        // Its flags are as the processor saved them.
        EntryKind::SystemCall => Exit::SystemCall,
        EntryKind::Interrupt => {
            thread.registers.rflags = thread.registers.rflags & USER_FLAGS | FIXED_FLAGS;
            thread.entry = EntryKind::SystemCall;
            Exit::Interrupt
        }
    };
    cpu.keep_vector.set(u64::from(thread.restricted.is_bound()));
    cpu.modes.set(modes);
    cpu.load.set(load);
    cpu.thread.set(id.number());
    cpu.thread_at.set(thread);
    exit
}

/// Loads the bases of a thread's segment registers.
#[cold]
fn load_bases(cpu: &PerCpu, registers: &mut Registers) {
    let user = |base: u64| if base < USER_END { base } else { 0 };
    (registers.fs_base, registers.gs_base) = (user(registers.fs_base), user(registers.gs_base));
    // A program can make its own bases zero by loading a selector, unseen: those that are not zero are never counted on.
    let known = if (registers.fs_base, registers.gs_base) == (0, 0) { 0 } else { u64::MAX };
    cpu.bases.set((known, known));
    // SAFETY: canonical addresses of user memory; the second is loaded by the `swapgs` of the exit path.
    unsafe {
        wrmsr(msr::FS_BASE, registers.fs_base);
        wrmsr(msr::KERNEL_GS_BASE, registers.gs_base);
    }
}
