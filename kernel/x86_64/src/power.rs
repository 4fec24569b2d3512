//! The end: power off or start again, as well as a machine without ACPI can.

use core::arch::asm;

use holm_kernel_core::machine::Halt;

use crate::{cpu, measure};

/// QEMU's isa-debug-exit: QEMU ends with twice the value plus one.
const DEBUG_EXIT: u16 = 0xf4;
/// The status of a kernel that panicked.
pub(crate) const PANICKED: u8 = 0x60;
/// The status of a kernel that could not boot with what it was given.
pub(crate) const CANNOT_BOOT: u8 = 0x61;

/// Ends everything. Where nobody listens to the debug port, the machine is reset; machine monitors for small virtual machines
/// take that as their end (`-no-reboot`).
pub(crate) fn stop(how: Halt) -> ! {
    if let Halt::PowerOff(status) = how {
        measure::tell();
        // SAFETY: QEMU's test device, or nothing, is at the port.
        unsafe { cpu::out(DEBUG_EXIT, status) };
    }
    // SAFETY: the keyboard controller's command to reset the machine, which is what is asked for; then, in case there is no
    // such controller, an exception without a table to handle it, which resets the processor.
    unsafe {
        cpu::out(0x64, 0xfe);
        let nothing = [0u64; 2];
        asm!("lidt [{}]", "ud2", in(reg) &raw const nothing, options(noreturn));
    }
}
