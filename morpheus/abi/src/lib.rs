//! Owns the contract between Morpheus's publisher (the Linux agent, or the Holm kernel) and a runtime: two shared pages per
//! process and the messages that hand them over. May not touch anything else: no system call, no allocation, no `unsafe`.
//!
//! Each process has two pages of 4096 bytes. Page 0 goes from the kernel to the runtime and is mapped read-only by the
//! process; page 1 goes from the runtime to the kernel. Both have a [`PageHeader`] in their first 64 bytes and one line of
//! 64 bytes per worker after it: worker slot `s` (0..=62) has line `s + 1` in both pages, so that neither side ever writes a
//! cache line that belongs to the other, nor to another worker.
//!
//! The layout stands once, in `layout!` tables: the Rust structures, their checks at compile time, and the C header for
//! the BPF programs (`morpheus_abi.h`) come from it.

#![no_std]
#![forbid(unsafe_code)]

pub mod c_header;
mod field;
mod page;
pub mod protocol;
mod values;

pub use field::Field;
pub use page::{
    Direction, KernelLine, KernelPage, LINE_SIZE, LayoutError, MAX_WORKERS, PAGE_SIZE, PageHeader, RuntimeLine,
    RuntimePage, SharedKernelLine, SharedKernelPage, SharedPageHeader, SharedRuntimeLine, SharedRuntimePage, Slot,
};
pub use values::{
    ABI_VERSION, EscalationPolicy, HEARTBEAT_PERIOD_NS, HEARTBEAT_STALE_NS, MAGIC, NO_DEADLINE, Reason, WorkerState,
    YIELD_CAUSES, YieldCause, flags, heartbeat_is_stale,
};
