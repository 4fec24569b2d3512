//! The longest stretch with interrupts off: from an entry of the kernel to leaving it, on each processor and for each way of
//! entry. Only in builds with the feature `measure`, since it costs a dozen instructions per entry.

use core::sync::atomic::Ordering;

use holm_kernel_core::machine::LongestEntry;

use crate::percpu::{PerCpu, cpus};
use crate::serial::say;

/// Numbers of system calls, and vectors, that are told apart; what is above counts with the last.
const KINDS: usize = 256;
/// Ways of entry that are told apart: system calls, then vectors.
pub(crate) const ENTRIES: usize = if cfg!(feature = "measure") { 2 * KINDS } else { 0 };

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
        if let Some(longest) = cpu.longest.get(place(cpu.entry.get()))
            && length > longest.load(Ordering::Relaxed)
        {
            longest.store(length, Ordering::Relaxed);
        }
    }
}

/// Where the longest stretch of a way of entry is kept.
const fn place(entry: u64) -> usize {
    let (first, kind) = if entry >= LongestEntry::VECTOR { (KINDS, entry - LongestEntry::VECTOR) } else { (0, entry) };
    first + if kind < KINDS as u64 { kind as usize } else { KINDS - 1 }
}

/// The longest stretch of each way of entry, on any processor.
fn each() -> impl Iterator<Item = LongestEntry> {
    (0..ENTRIES).map(|at| {
        let ticks = cpus().filter_map(|cpu| cpu.longest.get(at)).map(|longest| longest.load(Ordering::Relaxed)).max();
        let entry = if at < KINDS { at as u64 } else { LongestEntry::VECTOR + (at - KINDS) as u64 };
        LongestEntry { ticks: ticks.unwrap_or(0), entry }
    })
}

/// The longest stretch of all; zeroes when it is not measured.
pub(crate) fn longest() -> LongestEntry {
    each().max_by_key(|longest| longest.ticks).unwrap_or_default()
}

/// Tells the longest stretch of every way of entry that was taken, before the machine stops.
pub(crate) fn tell() {
    for longest in each().filter(|longest| longest.ticks > 0) {
        say!("stretch {longest} {}", longest.ticks);
    }
}
