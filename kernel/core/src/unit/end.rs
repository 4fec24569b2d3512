//! How units end: once, for a reason, and with everything they had given back in bounded steps.

use holm_abi::{ExitReason, UnitFlags, UnitState};

use super::{End, UNIT_BYTES, UnitId};
use crate::event::Source;
use crate::kernel::{Fault, Kernel};
use crate::machine::Machine;
use crate::memory::{AddressSpaceId, Progress};
use crate::object::Object;
use crate::quota::Resource;
use crate::thread::ThreadId;

/// Threads, or children, that one step of a unit's end looks at.
const STEP: usize = 4;

/// How far the end of a unit has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Teardown {
    phase: Phase,
    /// The next unit that is ending.
    next: Option<UnitId>,
    /// Where the walk over the children is.
    child: Option<UnitId>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// It lives.
    #[default]
    None,
    /// Its threads end.
    Threads,
    /// Units it made and that go with it end.
    Children,
    /// Its handles are closed.
    Caps,
    /// Its address space is taken apart.
    Space(AddressSpaceId),
    /// Nothing of it is left but its record.
    Over,
}

/// Units that are ending, in the order in which they began to.
#[derive(Debug, Default)]
pub struct DyingUnits {
    first: Option<UnitId>,
    last: Option<UnitId>,
}

impl DyingUnits {
    /// Whether there are any.
    #[inline]
    pub(crate) const fn waits(&self) -> bool {
        self.first.is_some()
    }
}

impl<M: Machine> Kernel<M> {
    /// Ends a unit: it runs no more instruction once its threads are gone, and what it had is given back in the background.
    /// Only the first end of a unit counts.
    pub(crate) fn unit_end(&mut self, id: UnitId, end: End) {
        let now = self.machine.now();
        let Some(unit) = self.units.get_mut(id) else { return };
        if unit.has_ended() {
            return;
        }
        unit.state = UnitState::Zombie;
        unit.end = End { time: now, ..end };
        unit.teardown.phase = Phase::Threads;
        // The end keeps the record until it is over.
        unit.references += 1;
        self.trace_unit(id);
        match self.dying_units.last.replace(id).and_then(|last| self.units.get_mut(last)) {
            Some(last) => last.teardown.next = Some(id),
            None => self.dying_units.first = Some(id),
        }
    }

    /// The last thread of a unit ended, or its main one.
    pub(crate) fn unit_threads_gone(&mut self, id: UnitId, code: i64, reason: ExitReason) {
        if self.units.get(id).is_some_and(|unit| unit.state == UnitState::Running) {
            self.unit_end(id, End::because(reason, code));
        }
    }

    /// A thread did what it cannot go on after: its unit ends, and no other.
    pub(crate) fn unit_fault(&mut self, thread: ThreadId, fault: Fault, out_of_memory: bool) {
        let Some(entry) = self.threads.get(thread) else { return };
        let (unit, instruction) = (entry.unit, entry.registers.rip);
        let (reason, address, code) = match fault {
            Fault::Page { address, .. } if out_of_memory => (ExitReason::OutOfMemory, address, 0),
            Fault::Page { address, .. } => (ExitReason::MemoryFault, address, 0),
            Fault::Exception { vector, .. } => {
                let reason = match vector {
                    0 | 4 | 16 | 19 => ExitReason::Arithmetic,
                    1 | 3 => ExitReason::Breakpoint,
                    6 => ExitReason::IllegalInstruction,
                    12 | 17 => ExitReason::MemoryFault,
                    _ => ExitReason::Exception,
                };
                (reason, 0, i64::from(vector))
            }
        };
        self.unit_end(unit, End { reason, code, address, instruction, ..End::NOT });
        // It may not run on; the others end with the unit.
        self.thread_end(thread, code, reason);
    }

    /// Goes on with the end of the units that are ending, one bounded step for the one that began first.
    pub(crate) fn dying_units_step(&mut self) -> Progress {
        let Some(id) = self.dying_units.first else { return Progress::Done };
        if self.unit_end_step(id) == Progress::Done {
            let next = self.units.get_mut(id).and_then(|unit| unit.teardown.next.take());
            self.dying_units.first = next;
            if next.is_none() {
                self.dying_units.last = None;
            }
            self.release(Object::Unit(id));
        } else if let Some(next) = self.units.get_mut(id).and_then(|unit| unit.teardown.next.take()) {
            // The others have their turn: this one may wait for another processor.
            self.dying_units.first = Some(next);
            match self.dying_units.last.replace(id).and_then(|last| self.units.get_mut(last)) {
                Some(last) => last.teardown.next = Some(id),
                None => self.dying_units.first = Some(id),
            }
        }
        if self.dying_units.first.is_some() { Progress::More } else { Progress::Done }
    }

    fn unit_end_step(&mut self, id: UnitId) -> Progress {
        let Some(unit) = self.units.get_mut(id) else { return Progress::Done };
        match unit.teardown.phase {
            Phase::None => return Progress::Done,
            Phase::Threads => {
                let code = unit.end.code;
                let mut thread = unit.threads.first();
                for _ in 0..STEP {
                    let Some(now) = thread else { break };
                    thread = self.units.get(id).and_then(|unit| unit.threads.after(&self.threads, now));
                    self.thread_stop(now, code, ExitReason::Killed);
                }
                if let Some(unit) = self.units.get_mut(id).filter(|unit| unit.threads.is_empty()) {
                    unit.teardown.phase = Phase::Children;
                    unit.teardown.child = unit.first_child;
                }
            }
            Phase::Children => {
                for _ in 0..STEP {
                    let Some(unit) = self.units.get_mut(id) else { return Progress::Done };
                    let Some(child) = unit.teardown.child else {
                        unit.teardown.phase = Phase::Caps;
                        break;
                    };
                    let entry = self.units.get(child);
                    let next = entry.and_then(|child| child.next_sibling);
                    if entry.is_some_and(|child| {
                        child.flags.contains(UnitFlags::KILL_WITH_PARENT) || child.state == UnitState::Created
                    }) {
                        self.unit_end(child, End::because(ExitReason::Killed, 0));
                    }
                    if let Some(unit) = self.units.get_mut(id) {
                        unit.teardown.child = next;
                    }
                }
            }
            Phase::Caps => {
                if self.caps_teardown_step(id) == Progress::More {
                    return Progress::More;
                }
                let Some(unit) = self.units.get_mut(id) else { return Progress::Done };
                unit.memory.root = None;
                let space = unit.memory.space.take();
                unit.teardown.phase = space.map_or(Phase::Over, Phase::Space);
                if let Some(space) = space {
                    self.space_release(space);
                }
            }
            Phase::Space(space) => {
                if self.spaces.get(space).is_none()
                    && let Some(unit) = self.units.get_mut(id)
                {
                    unit.teardown.phase = Phase::Over;
                }
            }
            Phase::Over => {
                self.unit_over(id);
                return Progress::Done;
            }
        }
        Progress::More
    }

    /// Everything a unit had is given back: it says so.
    fn unit_over(&mut self, id: UnitId) {
        let Some(unit) = self.units.get_mut(id) else { return };
        unit.state = if unit.end.is_orderly() { UnitState::Stopped } else { UnitState::Failed };
        self.trace_unit(id);
        let (mask, data0, data1) = self.unit_end_event(id);
        self.raise(Source::Unit(id), mask, data0, data1);
    }

    /// The walk over the children of a unit that ends must not stand on a child that is going away.
    fn child_unlink(&mut self, id: UnitId) {
        let Some(unit) = self.units.get_mut(id) else { return };
        let (parent, next, previous) = (unit.parent, unit.next_sibling.take(), unit.previous_sibling.take());
        if let Some(next) = next.and_then(|next| self.units.get_mut(next)) {
            next.previous_sibling = previous;
        }
        let parent = parent.and_then(|parent| self.units.get_mut(parent));
        if let Some(parent) = parent {
            if parent.teardown.child == Some(id) {
                parent.teardown.child = next;
            }
            if parent.first_child == Some(id) {
                parent.first_child = next;
            }
        }
        if let Some(previous) = previous.and_then(|previous| self.units.get_mut(previous)) {
            previous.next_sibling = next;
        }
    }

    /// Puts a unit among the children of its parent.
    pub(super) fn child_link(&mut self, id: UnitId) {
        let Some(parent) = self.units.get(id).and_then(|unit| unit.parent) else { return };
        let Some(first) = self.units.get_mut(parent).map(|parent| parent.first_child.replace(id)) else { return };
        if let Some(first) = first.and_then(|first| self.units.get_mut(first)) {
            first.previous_sibling = Some(id);
        }
        if let Some(unit) = self.units.get_mut(id) {
            unit.next_sibling = first;
        }
    }

    /// Something is paid for by the unit: its record stays.
    pub(crate) fn unit_hold(&mut self, id: UnitId) {
        if let Some(unit) = self.units.get_mut(id) {
            unit.holds += 1;
        }
    }

    /// What was paid for by the unit is gone.
    pub(crate) fn unit_unhold(&mut self, id: UnitId) {
        let Some(unit) = self.units.get_mut(id) else { return };
        unit.holds = unit.holds.saturating_sub(1);
        self.unit_released(id);
    }

    /// Nothing may name a unit any more: when it is so, and the unit is over, its record goes.
    pub(crate) fn unit_released(&mut self, id: UnitId) {
        let gone = |unit: &super::Unit| unit.teardown.phase == Phase::Over && unit.references == 0 && unit.holds == 0;
        if !self.units.get(id).is_some_and(gone) {
            return;
        }
        self.watchers_gone(Source::Unit(id));
        self.child_unlink(id);
        let Some(unit) = self.units.remove(id) else { return };
        let quotas = &unit.quotas;
        debug_assert_eq!((quotas.frames.used, quotas.threads.used, quotas.handles.used), (0, 0, 0), "a unit leaks");
        // Its table of capabilities, and grants that others still derive theirs from, are paid for until here.
        let left = quotas.kernel.used;
        if let Some(parent) = unit.parent {
            self.refund(parent, Resource::Kernel, UNIT_BYTES + left);
            self.unit_unhold(parent);
        }
    }

    /// A handle of a unit was closed: one that runs nothing, since it was never started or has no thread, ends with the last
    /// handle that others have, for nobody could ever let it run.
    pub(crate) fn unit_reference_dropped(&mut self, id: UnitId) {
        let Some(unit) = self.units.get(id) else { return };
        let runs_nothing = match unit.state {
            UnitState::Created => true,
            UnitState::Running => unit.threads.is_empty(),
            _ => false,
        };
        if runs_nothing && unit.references <= unit.own_references() {
            self.unit_end(id, End::because(ExitReason::Killed, 0));
        }
    }
}

impl super::Unit {
    /// References that a unit which runs nothing has by itself: of its threads and its own handle.
    const fn own_references(&self) -> u32 {
        self.threads.len() + 1
    }
}
