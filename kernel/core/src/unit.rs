//! Units: an address space, capabilities, threads, quotas, and how all of it ends.
//!
//! A unit is made ([`create`]), started, and ends once ([`end`]): its threads first, then its capabilities, then its
//! address space, in bounded steps in the background. Its record stays while something names it.

pub mod boot;
pub mod calls;
pub mod create;
pub mod end;
pub mod making;
#[cfg(test)]
mod tests;

use holm_abi::{ExitReason, Label, SchedClass, UnitFlags};

use crate::arena::Id;
use crate::cap::CapTable;
use crate::event::Watchers;
use crate::machine::Nanos;
use crate::memory::{ImageId, UnitMemory};
use crate::queue::{Queue, Through};
use crate::quota::Quotas;
use crate::sched::UnitSched;

pub use end::DyingUnits;

/// Names a unit.
pub type UnitId = Id<Unit>;

/// Labels of a unit at most.
pub const MAX_LABELS: usize = holm_abi::limits::MAX_LABELS as usize;

/// What a unit costs its parent in bytes of kernel memory.
pub const UNIT_BYTES: u64 = size_of::<Unit>() as u64;

/// A unit (seed 1.1, 14.1).
#[derive(Debug)]
pub struct Unit {
    /// What it does.
    pub state: UnitState,
    /// Who made it; `None` for the root unit.
    pub parent: Option<UnitId>,
    /// What it may use, and what it uses.
    pub quotas: Quotas,
    /// Its address space and its mappings.
    pub memory: UnitMemory,
    /// Its capabilities.
    pub caps: CapTable,
    /// Scheduling parameters that its threads start with, and what its threads used together.
    pub sched: UnitSched,
    /// Its threads that have not ended.
    pub threads: Queue,
    /// How many threads it ever had: numbers them.
    pub threads_made: u32,
    /// Who is told when it ends.
    pub watchers: Watchers,
    /// Handles and threads that name it.
    pub references: u32,
    /// Regions, spaces and units that it pays for.
    pub(crate) holds: u32,
    /// How it ended.
    pub end: End,
    /// What it is called, and by whom it is told from others.
    pub face: Face,
    /// The highest class of its threads.
    pub max_class: SchedClass,
    /// The class of threads that ask for none.
    pub class: SchedClass,
    /// The priority or weight of threads that ask for none; 0 for the class's default.
    pub base_priority: u32,
    /// Flags it was made with.
    pub flags: UnitFlags,
    /// When it was started, [`Nanos`] zero before.
    pub started: Nanos,
    /// Units between the root and this one.
    pub depth: u32,
    /// Units it made that have a record.
    pub(crate) first_child: Option<UnitId>,
    /// The next of its parent's.
    pub(crate) next_sibling: Option<UnitId>,
    /// The one before.
    pub(crate) previous_sibling: Option<UnitId>,
    /// How far its end has come.
    pub(crate) teardown: end::Teardown,
}

/// What a unit is called, and by whom it is told from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Face {
    /// A name for people, padded with zero bytes.
    pub name: [u8; 32],
    /// Its labels.
    pub labels: [Label; MAX_LABELS],
    /// How many of them count.
    pub label_count: u32,
    /// Random, for its identity.
    pub unique: [u8; 16],
    /// What it runs.
    pub image: Option<ImageId>,
}

impl Default for Face {
    fn default() -> Self {
        Self { name: [0; 32], labels: [Label::new(); MAX_LABELS], label_count: 0, unique: [0; 16], image: None }
    }
}

/// How a unit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: ExitReason,
    /// The code it gave, or that was given to end it.
    pub code: i64,
    /// After a fault: the address touched.
    pub address: u64,
    /// After a fault: the instruction.
    pub instruction: u64,
    /// When.
    pub time: Nanos,
}

impl End {
    /// It has not.
    pub const NOT: Self = Self::because(ExitReason::None, 0);

    /// For a reason, with a code.
    #[must_use]
    pub const fn because(reason: ExitReason, code: i64) -> Self {
        Self { reason, code, address: 0, instruction: 0, time: Nanos(0) }
    }

    /// Whether it ended in order.
    #[must_use]
    pub const fn is_orderly(&self) -> bool {
        matches!(self.reason, ExitReason::None | ExitReason::Exited | ExitReason::Stopped)
    }
}

/// The states of the seed, 14.1.
pub use holm_abi::UnitState;

impl Unit {
    /// A unit without memory, capabilities and threads, in state CREATED, that nothing names.
    #[must_use]
    pub fn new(parent: Option<UnitId>, quotas: Quotas) -> Self {
        Self {
            state: UnitState::Created,
            parent,
            quotas,
            memory: UnitMemory::default(),
            caps: CapTable::default(),
            sched: UnitSched::default(),
            threads: Queue::new(Through::Unit),
            threads_made: 0,
            watchers: Watchers::default(),
            references: 0,
            holds: 0,
            end: End::NOT,
            face: Face::default(),
            max_class: SchedClass::RtEdf,
            class: SchedClass::BestEffort,
            base_priority: 0,
            flags: UnitFlags::NONE,
            started: Nanos(0),
            depth: 0,
            first_child: None,
            next_sibling: None,
            previous_sibling: None,
            teardown: end::Teardown::default(),
        }
    }

    /// Whether it has ended, or is ending.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, UnitState::Zombie | UnitState::Stopped | UnitState::Failed)
    }
}
