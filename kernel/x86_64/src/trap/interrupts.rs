//! The interrupt descriptor table: which vector enters where, on which stack.

use core::arch::asm;
use core::cell::UnsafeCell;

use super::segments::{
    KERNEL_CODE, Pointer, STACK_DEBUG, STACK_DOUBLE_FAULT, STACK_ENTRY, STACK_FLUSH, STACK_MACHINE_CHECK, STACK_NMI,
};
use crate::apic;

/// Exceptions that this layer knows by name.
pub(crate) const DEBUG: u8 = 1;
pub(crate) const NMI: u8 = 2;
const BREAKPOINT: u8 = 3;
pub(crate) const DOUBLE_FAULT: u8 = 8;
pub(crate) const PAGE_FAULT: u8 = 14;
pub(crate) const MACHINE_CHECK: u8 = 18;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once, by `fill`, before a second processor runs; read only by processors.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([[0; 2]; 256]));

/// Fills the table in.
///
/// # Safety
/// Called once, while one processor runs.
pub(crate) unsafe fn fill() {
    unsafe extern "C" {
        static interrupt_entries: [u64; 2];
    }
    // SAFETY: the caller promises that nobody else uses the table.
    let table = unsafe { &mut *TABLE.0.get() };
    let mut pair = &raw const interrupt_entries;
    loop {
        // SAFETY: the assembly's list ends with a zero entry, where the loop ends.
        let [vector, entry] = unsafe { pair.read() };
        if entry == 0 {
            break;
        }
        let stack = match vector as u8 {
            NMI => STACK_NMI,
            DEBUG => STACK_DEBUG,
            DOUBLE_FAULT => STACK_DOUBLE_FAULT,
            MACHINE_CHECK => STACK_MACHINE_CHECK,
            apic::FLUSH => STACK_FLUSH,
            _ => STACK_ENTRY,
        };
        // `int3` is the one exception that a user program may ask for by an instruction.
        let privilege = if vector as u8 == BREAKPOINT { 3 } else { 0 };
        table[vector as usize & 255] = [
            (entry & 0xffff)
                | u64::from(KERNEL_CODE) << 16
                | u64::from(stack) << 32
                | (0x8e | privilege << 5) << 40
                | (entry >> 16 & 0xffff) << 48,
            entry >> 32,
        ];
        // SAFETY: not past the end, which has a zero entry.
        pair = unsafe { pair.add(1) };
    }
}

/// Makes this processor use the table.
pub(crate) fn load() {
    let pointer = Pointer { limit: 4095, base: TABLE.0.get() as u64 };
    // SAFETY: the table lives for good.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
}
