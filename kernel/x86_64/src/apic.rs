//! The local interrupt controllers: interrupts between processors, timers, and the way in for devices.
//!
//! The registers are reached by MSR where there is an x2APIC, else through memory.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::{Features, msr, out, rdmsr, wrmsr};

/// The timer of this processor.
pub(crate) const TIMER: u8 = 0x40;
/// The core wants this processor to enter the kernel, or its timer to be set.
pub(crate) const KICK: u8 = 0x41;
/// There are translations to forget; handled without the kernel's lock.
pub(crate) const FLUSH: u8 = 0x42;
/// The serial console has a byte.
pub(crate) const SERIAL: u8 = 0x43;
/// The interrupt went away before it was taken.
pub(crate) const SPURIOUS: u8 = 0xff;

/// Offsets of registers, as in memory.
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS_VECTOR: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const COMMAND_TARGET: u32 = 0x310;
const LOCAL_TIMER: u32 = 0x320;
const LOCAL_PINS: [u32; 2] = [0x350, 0x360];
const LOCAL_ERROR: u32 = 0x370;
const TIMER_START: u32 = 0x380;
const TIMER_NOW: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;

const MASKED: u32 = 1 << 16;
const BY_DEADLINE: u32 = 2 << 17;

/// Where the registers are in memory; zero: by MSR.
static REGISTERS: AtomicU64 = AtomicU64::new(0);

/// The physical address of the registers in memory.
pub(crate) fn address() -> u64 {
    // SAFETY: every x86-64 processor has the register.
    unsafe { rdmsr(msr::APIC_BASE) & 0x000f_ffff_ffff_f000 }
}

fn read(register: u32) -> u32 {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: in x2APIC mode, which `start` turned on, the register exists.
        0 => unsafe { rdmsr(msr::X2APIC + register / 16) as u32 },
        // SAFETY: boot mapped the registers there for good.
        at => unsafe { ((at + u64::from(register)) as *const u32).read_volatile() },
    }
}

fn write(register: u32, value: u32) {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: as in `read`; the callers in this module write what the manual allows.
        0 => unsafe { wrmsr(msr::X2APIC + register / 16, u64::from(value)) },
        // SAFETY: as in `read`.
        at => unsafe { ((at + u64::from(register)) as *mut u32).write_volatile(value) },
    }
}

/// Says where the registers are mapped, once, before [`start`]; not needed for an x2APIC.
pub(crate) fn use_memory(at: u64) {
    REGISTERS.store(at, Ordering::Relaxed);
}

/// Turns on the controller of the processor that runs this, its timer silent.
pub(crate) fn start(features: Features) {
    let mode = if features.x2apic { 1 << 11 | 1 << 10 } else { 1 << 11 };
    // SAFETY: turns the controller on, in x2APIC mode only where CPUID names it; its address stays.
    unsafe { wrmsr(msr::APIC_BASE, rdmsr(msr::APIC_BASE) | mode) };
    write(TASK_PRIORITY, 0);
    write(LOCAL_TIMER, MASKED | u32::from(TIMER));
    for pin in LOCAL_PINS {
        write(pin, MASKED);
    }
    write(LOCAL_ERROR, MASKED);
    write(SPURIOUS_VECTOR, 1 << 8 | u32::from(SPURIOUS));
    write(TIMER_DIVIDE, 3); // by 16
}

/// Silences the old interrupt controllers, if they are there.
pub(crate) fn mask_pic() {
    // SAFETY: the mask registers of the two 8259, or of nothing.
    unsafe {
        out(0x21, 0xff);
        out(0xa1, 0xff);
    }
}

/// Tells the controller that the interrupt is taken care of.
#[inline]
pub(crate) fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

fn command(target: u32, command: u32) {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: the command register of an x2APIC takes target and command at once.
        0 => unsafe { wrmsr(msr::X2APIC + COMMAND / 16, u64::from(target) << 32 | u64::from(command)) },
        _ => {
            write(COMMAND_TARGET, target << 24);
            write(COMMAND, command);
        }
    }
}

/// Interrupts another processor.
#[inline]
pub(crate) fn send(target: u32, vector: u8) {
    // What was written before is seen by whoever is interrupted: a write to an x2APIC does not wait for it by itself.
    core::sync::atomic::fence(Ordering::SeqCst);
    command(target, 1 << 14 | u32::from(vector));
}

/// Resets another processor.
pub(crate) fn send_init(target: u32) {
    command(target, 5 << 8 | 1 << 14);
}

/// Makes a processor that was reset begin in real mode at `page`.
pub(crate) fn send_start(target: u32, page: u8) {
    command(target, 6 << 8 | 1 << 14 | u32::from(page));
}

/// Makes the timer fire by deadlines on the time stamp counter.
pub(crate) fn timer_by_deadline() {
    write(LOCAL_TIMER, BY_DEADLINE | u32::from(TIMER));
}

/// Makes the timer fire once after the ticks that [`timer_ticks`] gives.
pub(crate) fn timer_by_ticks() {
    write(LOCAL_TIMER, u32::from(TIMER));
}

/// Sets the timer to a time of the time stamp counter; zero stops it.
#[inline]
pub(crate) fn timer_deadline(tsc: u64) {
    // SAFETY: only called where CPUID names the deadline mode.
    unsafe { wrmsr(msr::TSC_DEADLINE, tsc) };
}

/// Sets the timer to fire after `ticks`; zero stops it.
#[inline]
pub(crate) fn timer_ticks(ticks: u32) {
    write(TIMER_START, ticks);
}

/// How many ticks the timer still counts.
pub(crate) fn timer_left() -> u32 {
    read(TIMER_NOW)
}

/// Leads the interrupt line `line` of the I/O controller, whose registers are mapped at `registers`, to `vector` on the
/// processor whose controller is `target`.
///
/// # Safety
/// An I/O APIC is mapped there.
pub(crate) unsafe fn route(registers: u64, line: u32, target: u32, vector: u8) {
    let set = |register: u32, value: u32| {
        // SAFETY: the select and data registers of the I/O APIC that the caller promises.
        unsafe {
            (registers as *mut u32).write_volatile(register);
            ((registers + 0x10) as *mut u32).write_volatile(value);
        }
    };
    set(0x11 + line * 2, target << 24);
    set(0x10 + line * 2, u32::from(vector));
}
