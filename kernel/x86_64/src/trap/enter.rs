//! What the entries call: lock the kernel, tell it what happened, and go on with what it says.

use core::sync::atomic::Ordering;

use holm_kernel_core::machine::LongestEntry;
use holm_kernel_core::thread::EntryKind;
use holm_kernel_core::{Direct, Fault, Next, number};

use super::interrupts::{DOUBLE_FAULT, MACHINE_CHECK, PAGE_FAULT};
use super::leave::{Exit, leave};
use super::{segments, stubs};
use crate::lock::{Locked, lock};
use crate::memory::tlb;
use crate::percpu::{PerCpu, this_cpu};
use crate::{apic, cpu, measure, serial};

/// What the processor and the entry pushed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Frame {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// What a system call leads to: its number in, how the kernel is left out. The user program's registers are saved, those of a
/// guest in restricted mode with the vector registers.
type SystemCall = extern "C" fn(u64) -> Exit;

/// The last number that has a short way.
pub(super) const LAST_SHORT: u64 = number::chan_call_cap;

/// What each number up to that leads to. The null call's is only for guests: other programs' ends in the assembly.
pub(super) static SYSTEM_CALLS: [SystemCall; LAST_SHORT as usize + 1] = {
    let mut calls: [SystemCall; LAST_SHORT as usize + 1] = [long_system_call; LAST_SHORT as usize + 1];
    calls[number::chan_call_short as usize] = short_system_call::<{ number::chan_call_short }>;
    calls[number::chan_call_cap as usize] = short_system_call::<{ number::chan_call_cap }>;
    calls[number::chan_reply_recv_short as usize] = short_system_call::<{ number::chan_reply_recv_short }>;
    calls[number::chan_send_short as usize] = short_system_call::<{ number::chan_send_short }>;
    calls[number::chan_recv_short as usize] = short_system_call::<{ number::chan_recv_short }>;
    calls[number::thread_yield as usize] = short_system_call::<{ number::thread_yield }>;
    calls[number::cap_revoke as usize] = short_system_call::<{ number::cap_revoke }>;
    calls
};

/// One of those that have a short way. Each is a function of its own, so that none saves registers for the others.
#[inline(never)]
extern "C" fn short_system_call<const NUMBER: u64>(_: u64) -> Exit {
    let cpu = this_cpu();
    measure::entered(cpu, NUMBER);
    let mut kernel = lock(cpu);
    let exit = match kernel.direct_of::<NUMBER>(cpu.id) {
        // A thread whose vector registers are kept does not get here.
        Some(Direct::Same) => Exit::Same,
        Some(Direct::Switched) => cpu.exit.get(),
        Some(Direct::Leave) => return leave_apart(kernel, cpu),
        None => return slow_system_call(kernel, cpu),
    };
    drop(kernel);
    measure::left(cpu);
    if exit == Exit::SystemCall {
        stubs::exit_to_other();
    }
    exit
}

/// Leaves after a short way that left the timer to be set, which is seldom.
#[cold]
#[inline(never)]
fn leave_apart(mut kernel: Locked, cpu: &PerCpu) -> Exit {
    let next = kernel.direct_leave(cpu.id);
    leave(kernel, cpu, next)
}

/// One that has none.
pub(super) extern "C" fn long_system_call(number: u64) -> Exit {
    let cpu = this_cpu();
    measure::entered(cpu, number);
    slow_system_call(lock(cpu), cpu)
}

/// A system call that has no short way, or not now.
#[inline(never)]
fn slow_system_call(mut kernel: Locked, cpu: &PerCpu) -> Exit {
    let next = match kernel.restricted_direct(cpu.id) {
        Some(next) => next,
        None => kernel.system_call_slowly(cpu.id),
    };
    leave(kernel, cpu, next)
}

/// A user program was interrupted, or caused an exception; its registers are saved, the vector registers too.
pub(super) extern "C" fn interrupted(vector: u8, error: u64) -> Exit {
    let cpu = this_cpu();
    measure::entered(cpu, LongestEntry::VECTOR | u64::from(vector));
    // Nothing since the exception can have changed it.
    let address = cpu::fault_address();
    let mut kernel = lock(cpu);
    // SAFETY: the thread that runs on this processor exists until the kernel was told to run another one here, and its
    // structure does not move; the kernel is locked and no other reference to it is alive.
    unsafe { (*cpu.thread_at.get()).entry = EntryKind::Interrupt };
    let next = match vector {
        PAGE_FAULT if kernel.machine().catch_up(cpu, address) => current(cpu),
        PAGE_FAULT => kernel.fault(
            cpu.id,
            Fault::Page { address, present: error & 1 != 0, write: error & 2 != 0, execute: error & 16 != 0 },
        ),
        0..32 => kernel.fault(cpu.id, Fault::Exception { vector, code: error }),
        _ => interrupt(&mut kernel, cpu, vector),
    };
    leave(kernel, cpu, next)
}

/// An idle processor was interrupted.
pub(super) extern "C" fn woken(vector: u8) -> Exit {
    let cpu = this_cpu();
    measure::entered(cpu, LongestEntry::VECTOR | u64::from(vector));
    let mut kernel = lock(cpu);
    let next = interrupt(&mut kernel, cpu, vector);
    leave(kernel, cpu, next)
}

/// What ran before the interrupt goes on.
fn current(cpu: &PerCpu) -> Next {
    match (cpu.running(), cpu.loaded()) {
        (Some(thread), Some(space)) => Next::Run(thread, space),
        _ => Next::Idle,
    }
}

/// An interrupt of a device, or of the machine layer itself.
fn interrupt(kernel: &mut Locked, cpu: &PerCpu, vector: u8) -> Next {
    match vector {
        apic::TIMER => {
            apic::end_of_interrupt();
            if kernel.machine().timer_fired(cpu) { kernel.timer(cpu.id) } else { current(cpu) }
        }
        apic::KICK => {
            apic::end_of_interrupt();
            kernel.machine().set_wanted_timer(cpu);
            if cpu.kicked.swap(false, Ordering::Relaxed) { kernel.kicked(cpu.id) } else { current(cpu) }
        }
        apic::SERIAL => {
            apic::end_of_interrupt();
            let mut next = current(cpu);
            // At most what the port's buffer holds; a new interrupt comes for what is left.
            for byte in core::iter::from_fn(serial::read).take(16) {
                next = kernel.console_input(cpu.id, byte);
            }
            next
        }
        _ => current(cpu),
    }
}

/// Something that may come at any instruction; returns to where it came from.
pub(super) extern "C" fn careful(frame: &Frame) {
    match frame.vector as u8 {
        apic::FLUSH => {
            tlb::serve(this_cpu());
            apic::end_of_interrupt();
        }
        MACHINE_CHECK => panic!("machine check: the processor found a fault in the hardware (at {:#x})", frame.rip),
        DOUBLE_FAULT => panic!("double fault at {:#x}, stack {:#x}", frame.rip, frame.rsp),
        // Nobody sends non-maskable interrupts, and no debug register is ever set: nothing is to do.
        _ => {}
    }
}

/// The kernel itself caused an exception: a bug.
pub(super) extern "C" fn kernel_exception(frame: &Frame) -> ! {
    let Frame { vector, error, rip, rsp, .. } = *frame;
    if vector == u64::from(PAGE_FAULT) {
        let address = cpu::fault_address();
        let what = if segments::below_a_stack(address) { "the kernel's stack is full" } else { "a page fault" };
        panic!("{what} in the kernel: address {address:#x}, error {error:#x}, at {rip:#x}, stack {rsp:#x}");
    }
    panic!("exception {vector} in the kernel: error {error:#x}, at {rip:#x}, stack {rsp:#x}");
}
