//! The two records the BPF programs keep for us, as bytes: where a thread's lines are, and a worker's ledger. The same
//! structures stand in bpf/maps.bpf.h; sizes are compared when the maps are opened.

use morpheus_abi::{MAX_WORKERS, Slot};

/// Entries of the page maps; index 0 is never a process. `MORPHEUS_PROCESSES`.
pub const PROCESSES: u32 = 1024;
/// Elements of a page: header and lines. `MORPHEUS_LINES`.
pub const LINES: u32 = MAX_WORKERS as u32 + 1;
/// Buckets of the latency histogram. `MORPHEUS_BUCKETS`.
pub const BUCKETS: usize = 32;
/// Reasons, with an unused 0. `MORPHEUS_REASONS`.
pub const REASONS: usize = 6;

/// Where a worker is: its process's index in the page maps (1..[`PROCESSES`]), its slot, and the slot's generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The process.
    pub process: u32,
    /// The worker's slot in the pages.
    pub slot: Slot,
    /// Unique among all registrations of this agent's run; never 0.
    pub generation: u32,
}

/// Bytes of `struct morpheus_worker`.
pub const WORKER_SIZE: usize = 16;

impl Place {
    /// `struct morpheus_worker` of a living thread.
    pub fn to_bytes(self) -> [u8; WORKER_SIZE] {
        let mut bytes = [0; WORKER_SIZE];
        bytes[..4].copy_from_slice(&self.process.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.line().to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.generation.to_ne_bytes());
        bytes
    }

    /// Element of the pages.
    pub fn line(self) -> u32 {
        // At most 63.
        self.slot.index() as u32 + 1
    }
}

/// Bytes of `struct morpheus_ledger`.
pub const LEDGER_SIZE: usize = 288;

/// What became of a worker's hints, as the programs saw it. `struct morpheus_ledger`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Ledger {
    /// Hints given, by the number of their reason.
    pub hints: [u32; REASONS],
    /// Hints the worker took.
    pub taken: u32,
    /// Hints still pending when the kernel took the CPU away.
    pub ignored: u32,
    /// Hints overtaken by the worker's own sleep, or by a weightier one.
    pub moot: u32,
    /// Sum of the latencies from hint to yield, in ns.
    pub latency_sum_ns: u64,
    /// Their histogram: bucket n counts [2^n, 2^(n+1)) ns.
    pub latency: [u32; BUCKETS],
}

impl Ledger {
    /// Reads the record. `None` when it is not [`LEDGER_SIZE`] bytes or belongs to another registration.
    pub fn from_bytes(bytes: &[u8], generation: u32) -> Option<Self> {
        let bytes: &[u8; LEDGER_SIZE] = bytes.try_into().ok()?;
        let u32_at = |offset: usize| {
            u32::from_ne_bytes(bytes[offset..offset + 4].try_into().expect("four bytes inside the record"))
        };
        if u32_at(72) != generation {
            return None;
        }
        Some(Self {
            hints: std::array::from_fn(|index| u32_at(32 + 4 * index)),
            taken: u32_at(56),
            ignored: u32_at(60),
            moot: u32_at(64),
            latency_sum_ns: u64::from_ne_bytes(bytes[24..32].try_into().expect("eight bytes inside the record")),
            latency: std::array::from_fn(|index| u32_at(80 + 4 * index)),
        })
    }

    /// The record of a worker that has just registered and wants LOCAL after so many ns of its own, if not 0.
    pub fn fresh_bytes(generation: u32, rotation_ns: u32) -> [u8; LEDGER_SIZE] {
        let mut bytes = [0; LEDGER_SIZE];
        bytes[72..76].copy_from_slice(&generation.to_ne_bytes());
        bytes[280..284].copy_from_slice(&rotation_ns.to_ne_bytes());
        bytes
    }
}
