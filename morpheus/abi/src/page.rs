//! The two pages of a process: their header, a worker's line in each direction, and where a slot's line lies.

use crate::field::layout;
use crate::values::{ABI_VERSION, MAGIC};

/// Bytes of each page.
pub const PAGE_SIZE: usize = 4096;
/// Bytes of the header and of each line: one cache line.
pub const LINE_SIZE: usize = 64;
/// Workers a process can have at once.
pub const MAX_WORKERS: usize = PAGE_SIZE / LINE_SIZE - 1;

/// Which way a page goes. The numbers are those of [`PageHeader::direction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// Page 0: written by the publisher, mapped read-only by the process.
    KernelToRuntime = 0,
    /// Page 1: written by the process.
    RuntimeToKernel = 1,
}

layout! {
    /// First 64 bytes of both pages. The publisher writes both before it hands them over; only page 0's is ever trusted.
    struct PageHeader, shared SharedPageHeader, c "morpheus_page_header", size 64 {
        /// MORPHEUS_MAGIC.
        magic: u64 = 0,
        /// MORPHEUS_ABI_VERSION; a reader refuses any other.
        abi_version: u32 = 8,
        /// Bytes of the page: MORPHEUS_PAGE_SIZE.
        size: u32 = 12,
        /// MORPHEUS_FLAG_* bits: what the publisher does.
        flags: u32 = 16,
        /// MORPHEUS_DIRECTION_*: which of the two pages this is.
        direction: u32 = 20,
        /// The publisher's run: another number after each restart, never 0.
        generation: u64 = 24,
        /// CLOCK_MONOTONIC in ns, written by the publisher every MORPHEUS_HEARTBEAT_PERIOD_NS. Page 0 only.
        heartbeat_ns: u64 = 32,
        /// Zero.
        reserved_a: u64 = 40,
        /// Zero.
        reserved_b: u64 = 48,
        /// Zero.
        reserved_c: u64 = 56,
    }
}

layout! {
    /// A worker's line in page 0, kernel to runtime. A hint is published by writing reason, hint_time_ns and deadline_ns and
    /// then hint_seq with release ordering; it is pending while hint_seq differs from the worker's ack_seq.
    struct KernelLine, shared SharedKernelLine, c "morpheus_kernel_line", size 64 {
        /// Number of the latest hint to this slot; grows by one, wraps, starts at 0 with each slot generation.
        hint_seq: u32 = 0,
        /// Which registration the line belongs to: changes each time the slot is given away, never 0 while registered.
        slot_generation: u32 = 4,
        /// When the latest hint was given: CLOCK_MONOTONIC in ns.
        hint_time_ns: u64 = 8,
        /// CLOCK_MONOTONIC in ns by which the worker should have yielded (WAITER, LOCAL, SLICE_END) or at which the quota
        /// is refilled (QUOTA); MORPHEUS_NO_DEADLINE when there is none.
        deadline_ns: u64 = 16,
        /// Total ns off the CPU since registration, for whatever reason.
        off_cpu_ns: u64 = 24,
        /// Total ns since registration in which the worker could have run but waited for a CPU; 0 when not measured.
        runqueue_wait_ns: u64 = 32,
        /// Information only, never enforced: ns left of the worker's slice or quota; 0 when not measured.
        budget_remaining_ns: u64 = 40,
        /// Times since registration the worker was switched out while it could have run on; wraps.
        involuntary_switches: u32 = 48,
        /// Times since registration the publisher ended the worker's slice because a hint was ignored; wraps.
        escalations: u32 = 52,
        /// MORPHEUS_REASON_* of the latest hint.
        reason: u32 = 56,
        /// MORPHEUS_STATE_*: the publisher's view of the slot. INIT: free. DEAD: the thread is gone.
        state: u32 = 60,
    }
}

layout! {
    /// A worker's line in page 1, runtime to kernel. Written by the worker's own thread only. On registration the worker
    /// sets ack_seq to the kernel line's hint_seq, then the other fields, slot_generation and last, with release ordering,
    /// state. The publisher believes the line only while slot_generation equals the kernel line's.
    struct RuntimeLine, shared SharedRuntimeLine, c "morpheus_runtime_line", size 64 {
        /// The latest hint_seq the worker has taken.
        ack_seq: u32 = 0,
        /// The kernel line's slot_generation at registration.
        slot_generation: u32 = 4,
        /// Nested critical sections the worker is in. While above 0 the publisher never escalates.
        critical_depth: u32 = 8,
        /// 1 when the worker consents to escalation outside critical sections; 0, the default, when not.
        escapable: u32 = 12,
        /// MORPHEUS_POLICY_*: what escalation may do.
        escalation_policy: u32 = 16,
        /// MORPHEUS_STATE_*: the worker's own state. Hints and escalations only in RUNNING.
        state: u32 = 20,
        /// When the worker last yielded: CLOCK_MONOTONIC in ns; 0 for never.
        last_yield_ns: u64 = 24,
        /// Yields counted by MORPHEUS_YIELD_* cause; each wraps.
        yields: [u32; 7] = 32,
        /// ns between an unanswered hint and the earliest escalation.
        grace_ns: u32 = 60,
    }
}

/// A worker's place in the pages of its process: 0..=62.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The slot of this number, if a page has it.
    pub const fn new(number: u32) -> Option<Self> {
        // The bound makes the cast exact.
        if (number as usize) < MAX_WORKERS { Some(Self(number as u8)) } else { None }
    }

    /// 0..=62.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Byte offset of the slot's line in either page.
    pub const fn line_offset(self) -> usize {
        (self.index() + 1) * LINE_SIZE
    }
}

macro_rules! page {
    ($(#[$doc:meta])* $name:ident, $header:ty, $line:ty) => {
        $(#[$doc])*
        #[repr(C, align(4096))]
        #[derive(Debug)]
        pub struct $name {
            /// The page's header.
            pub header: $header,
            /// The workers' lines by slot.
            pub lines: [$line; MAX_WORKERS],
        }
        const _: () = {
            assert!(size_of::<$name>() == PAGE_SIZE);
            assert!(core::mem::offset_of!($name, lines) == LINE_SIZE);
            assert!(size_of::<$line>() == LINE_SIZE);
        };
    };
}
page!(
    /// Page 0, plain.
    KernelPage, PageHeader, KernelLine
);
page!(
    /// Page 1, plain.
    RuntimePage, PageHeader, RuntimeLine
);
page!(
    /// Page 0 as it lies in shared memory.
    SharedKernelPage, SharedPageHeader, SharedKernelLine
);
page!(
    /// Page 1 as it lies in shared memory.
    SharedRuntimePage, SharedPageHeader, SharedRuntimeLine
);

impl SharedKernelPage {
    /// All zero.
    pub const fn zeroed() -> Self {
        Self { header: SharedPageHeader::zeroed(), lines: [const { SharedKernelLine::zeroed() }; MAX_WORKERS] }
    }
}

impl SharedRuntimePage {
    /// All zero.
    pub const fn zeroed() -> Self {
        Self { header: SharedPageHeader::zeroed(), lines: [const { SharedRuntimeLine::zeroed() }; MAX_WORKERS] }
    }
}

/// Why a page is not one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutError {
    /// The first eight bytes are something else.
    Magic(u64),
    /// A publisher of another ABI.
    Version(u32),
    /// Not a page of [`PAGE_SIZE`].
    Size(u32),
    /// The other page, or neither.
    Direction(u32),
    /// No publisher has the generation 0.
    Generation,
}

impl core::fmt::Display for LayoutError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Magic(found) => write!(f, "not a Morpheus page (it starts with {found:#x})"),
            Self::Version(found) => write!(f, "the page has ABI version {found}, this side speaks {ABI_VERSION}"),
            Self::Size(found) => write!(f, "the page says it has {found} bytes, not {PAGE_SIZE}"),
            Self::Direction(found) => write!(f, "the page goes the wrong way ({found})"),
            Self::Generation => f.write_str("the page's publisher has no generation"),
        }
    }
}

impl core::error::Error for LayoutError {}

impl PageHeader {
    /// The header a publisher of this generation writes.
    pub fn new(direction: Direction, generation: u64, flags: u32) -> Self {
        Self {
            magic: MAGIC,
            abi_version: ABI_VERSION,
            size: PAGE_SIZE as u32,
            flags,
            direction: direction as u32,
            generation,
            ..Self::default()
        }
    }

    /// Checks that the page is one of this ABI and goes this way.
    ///
    /// # Errors
    /// The first thing that is not as it should be.
    pub fn check(&self, direction: Direction) -> Result<(), LayoutError> {
        if self.magic != MAGIC {
            Err(LayoutError::Magic(self.magic))
        } else if self.abi_version != ABI_VERSION {
            Err(LayoutError::Version(self.abi_version))
        } else if self.size as usize != PAGE_SIZE {
            Err(LayoutError::Size(self.size))
        } else if self.direction != direction as u32 {
            Err(LayoutError::Direction(self.direction))
        } else if self.generation == 0 {
            Err(LayoutError::Generation)
        } else {
            Ok(())
        }
    }
}
