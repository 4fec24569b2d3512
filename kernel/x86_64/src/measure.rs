//! The longest stretch with interrupts off: from an entry of the kernel to leaving it, on each processor. Only in builds with
//! the feature `measure`, since it costs a dozen instructions per entry.

use core::sync::atomic::Ordering;

use crate::percpu::{PerCpu, cpus};

/// The kernel was entered on `cpu`.
#[inline]
pub(crate) fn entered(cpu: &PerCpu) {
    if cfg!(feature = "measure") {
        cpu.entered.set(crate::cpu::tsc());
    }
}

/// The kernel is left on `cpu`.
#[inline]
pub(crate) fn left(cpu: &PerCpu) {
    if cfg!(feature = "measure") {
        let length = crate::cpu::tsc().wrapping_sub(cpu.entered.get());
        if length > cpu.longest.load(Ordering::Relaxed) {
            cpu.longest.store(length, Ordering::Relaxed);
        }
    }
}

/// The longest stretch of any processor, in ticks of the time stamp counter; zero when it is not measured.
pub(crate) fn longest() -> u64 {
    cpus().map(|cpu| cpu.longest.load(Ordering::Relaxed)).max().unwrap_or(0)
}
