//! The numbers in the pages: reasons, states, causes, policies, flags, and the heartbeat's times.

use core::fmt;

/// First eight bytes of a page: `MORPHEUS` in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"MORPHEUS");
/// Version of the pages' layout. Any change of a field's place or meaning raises it.
pub const ABI_VERSION: u32 = 1;
/// How often the publisher writes its heartbeat, in ns.
pub const HEARTBEAT_PERIOD_NS: u64 = 500_000_000;
/// A heartbeat older than this many ns is that of a publisher that is gone: its hints do not count.
pub const HEARTBEAT_STALE_NS: u64 = 1_500_000_000;
/// [`KernelLine::deadline_ns`](crate::KernelLine::deadline_ns) of a hint without one.
pub const NO_DEADLINE: u64 = 0;

/// Whether a publisher with this heartbeat is gone at this time, both CLOCK_MONOTONIC in ns.
#[inline]
pub const fn heartbeat_is_stale(heartbeat_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(heartbeat_ns) > HEARTBEAT_STALE_NS
}

/// Bits of [`PageHeader::flags`](crate::PageHeader::flags).
pub mod flags {
    /// The publisher gives hints and changes nothing about scheduling.
    pub const OBSERVE: u32 = 1;
    /// The publisher is the scheduler: it defers for critical sections and escalates by consent.
    pub const ENFORCE: u32 = 1 << 1;
    /// [`KernelLine::runqueue_wait_ns`](crate::KernelLine::runqueue_wait_ns) is measured.
    pub const RUNQUEUE_WAIT: u32 = 1 << 2;
    /// [`KernelLine::budget_remaining_ns`](crate::KernelLine::budget_remaining_ns) is measured.
    pub const BUDGET: u32 = 1 << 3;
}

pub(crate) struct EnumTable {
    pub(crate) doc: &'static [&'static str],
    pub(crate) prefix: &'static str,
    pub(crate) values: &'static [(&'static str, u32, &'static [&'static str])],
}

/// An enumeration of the pages: the Rust type, its total conversion from a number, and the C header's table.
macro_rules! numbers {
    (
        $(#[doc = $doc:literal])*
        enum $name:ident, c $prefix:literal {
            $( $(#[doc = $value_doc:literal])* $value:ident, $c_name:literal = $number:literal, )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name { $( $(#[doc = $value_doc])* $value = $number, )* }

        impl $name {
            /// Every value, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$( Self::$value ),*];
            pub(crate) const TABLE: EnumTable = EnumTable {
                doc: &[$($doc),*],
                prefix: $prefix,
                values: &[$( ($c_name, $number, &[$($value_doc),*]) ),*],
            };
            /// The value of this number in a page or a message; `None` when this version knows no such value.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $( $number => Some(Self::$value), )* _ => None }
            }
            /// The number in a page or a message.
            pub const fn number(self) -> u32 {
                self as u32
            }
            /// The name as the C header, `top` and the metrics write it, in lower case.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$value => $c_name, )* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

numbers! {
    /// Why the kernel asks a worker to yield. 0 is no hint.
    enum Reason, c "MORPHEUS_REASON_" {
        /// Another thread needs this CPU: give up the thread at the next boundary between tasks.
        Waiter, "waiter" = 1,
        /// The worker's own queue starves: rotate tasks inside the runtime; the CPU need not be given up.
        Local, "local" = 2,
        /// The slice is nearly over: start no critical section, better yield now than be cut off.
        SliceEnd, "slice_end" = 3,
        /// The control group's CPU quota is nearly spent; the deadline is when it is refilled. Shed or delay work.
        Quota, "quota" = 4,
        /// The whole system is short of CPU. Shed work.
        Pressure, "pressure" = 5,
    }
}

numbers! {
    /// Where a worker or its slot is in its life.
    enum WorkerState, c "MORPHEUS_STATE_" {
        /// Nothing registered, or the worker has not yet written its line.
        Init, "init" = 0,
        /// Registered, but not to be hinted: parked, or not yet at work.
        Registered, "registered" = 1,
        /// At work: the only state in which hints and escalations are given.
        Running, "running" = 2,
        /// About to unregister: no more hints.
        Quiescing, "quiescing" = 3,
        /// The thread is gone or has unregistered.
        Dead, "dead" = 4,
    }
}

numbers! {
    /// Why a worker yielded: the index of its count in `yields`.
    enum YieldCause, c "MORPHEUS_YIELD_" {
        /// Without a hint.
        Voluntary, "voluntary" = 0,
        /// For a WAITER hint.
        Waiter, "waiter" = 1,
        /// For a LOCAL hint: tasks were rotated, the thread was kept.
        Local, "local" = 2,
        /// For a SLICE_END hint.
        SliceEnd, "slice_end" = 3,
        /// For a QUOTA hint.
        Quota, "quota" = 4,
        /// For a PRESSURE hint.
        Pressure, "pressure" = 5,
        /// Not done: it was asked for inside a critical section, or too soon after one that cost the worker time.
        Withheld, "withheld" = 6,
    }
}

/// Number of yield causes: the length of [`RuntimeLine::yields`](crate::RuntimeLine::yields).
pub const YIELD_CAUSES: usize = YieldCause::ALL.len();

impl From<Reason> for YieldCause {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Waiter => Self::Waiter,
            Reason::Local => Self::Local,
            Reason::SliceEnd => Self::SliceEnd,
            Reason::Quota => Self::Quota,
            Reason::Pressure => Self::Pressure,
        }
    }
}

numbers! {
    /// What a publisher may do to an escapable worker that ignores a hint beyond its grace time.
    enum EscalationPolicy, c "MORPHEUS_POLICY_" {
        /// Nothing.
        None, "none" = 0,
        /// End its current slice.
        SliceEnd, "slice_end" = 1,
    }
}
