//! Units: an address space, capabilities, threads, quotas, and how all of it ends.

use crate::arena::Id;
use crate::cap::CapTable;
use crate::event::Watchers;
use crate::memory::UnitMemory;
use crate::queue::Queue;
use crate::quota::Quotas;
use crate::sched::UnitSched;

/// Names a unit.
pub type UnitId = Id<Unit>;

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
    /// Handles and kernel structures that name it.
    pub references: u32,
}

/// The states of the seed, 14.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitState {
    /// Made, not started.
    Created,
    /// Its threads run.
    Running,
    /// Its threads are held.
    Stopped,
    /// It ended by itself or was asked to; its resources are being reclaimed, or were.
    Zombie,
    /// It ended by a fault, or was killed.
    Failed,
}
