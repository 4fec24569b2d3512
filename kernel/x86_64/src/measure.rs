//! The longest stretch with interrupts off: from an entry of the kernel to leaving it, on each processor. Only in builds with
//! the feature `measure`, since it costs a dozen instructions per entry.

use core::sync::atomic::Ordering;

use holm_kernel_core::machine::LongestEntry;

use crate::percpu::{PerCpu, cpus};

/// The kernel was entered on `cpu`: by the system call with the number `entry`, or by a vector ([`LongestEntry::VECTOR`]).
#[inline]
pub(crate) fn entered(cpu: &PerCpu, entry: u64) {
    if cfg!(feature = "measure") {
        cpu.entry.set(entry);
        cpu.entered.set(crate::cpu::tsc());
    }
}

/// The kernel is left on `cpu`.
#[inline]
pub(crate) fn left(cpu: &PerCpu) {
    // Boot ends in the same way, and began with no entry.
    if cfg!(feature = "measure") && cpu.entered.get() != 0 {
        let length = crate::cpu::tsc().wrapping_sub(cpu.entered.get());
        if length > cpu.longest.load(Ordering::Relaxed) {
            cpu.longest.store(length, Ordering::Relaxed);
            cpu.longest_entry.store(cpu.entry.get(), Ordering::Relaxed);
        }
    }
}

/// The longest stretch of any processor; zeroes when it is not measured.
pub(crate) fn longest() -> LongestEntry {
    let of = |cpu: &PerCpu| LongestEntry {
        ticks: cpu.longest.load(Ordering::Relaxed),
        entry: cpu.longest_entry.load(Ordering::Relaxed),
    };
    cpus().map(of).max_by_key(|longest| longest.ticks).unwrap_or_default()
}
