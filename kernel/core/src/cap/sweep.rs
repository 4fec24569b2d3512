//! What follows a revocation or the end of a unit, in bounded steps: grants, handles, objects and mappings are reclaimed.

use super::Progress;
use super::grant::{GrantId, Holder};
use super::table::Content;
use crate::event::Source;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::object::Object;
use crate::unit::UnitId;

/// Grants that one step of the sweeper reclaims, and slots that one step of a teardown looks at, at most.
const STEP: u32 = 4;

impl<M: Machine> Kernel<M> {
    /// Reclaims some of what was revoked: at most 4 grants.
    pub(crate) fn caps_sweep_step(&mut self) -> Progress {
        for _ in 0..STEP {
            let Some(root) = self.caps.grants.sweeping() else { return Progress::Done };
            match self.caps.grants.dead_leaf(root) {
                Some(leaf) => {
                    if self.cap_sweep_leaf(leaf, leaf == root) == Progress::More {
                        return Progress::More;
                    }
                }
                None => {
                    self.caps.grants.swept();
                    let removed = self.caps.grants.remove_unneeded(root);
                    self.cap_removed(removed);
                }
            }
        }
        if self.caps.grants.sweeping().is_some() { Progress::More } else { Progress::Done }
    }

    /// Takes a dead grant without children apart: mappings first, since they use the object.
    fn cap_sweep_leaf(&mut self, leaf: GrantId, is_root: bool) -> Progress {
        let Some(node) = self.caps.grants.get(leaf) else { return Progress::Done };
        if node.mappings > 0 {
            // What is not memory is not mapped: subscriptions to events were made through it.
            if let Some(source) = Source::of(node.object) {
                self.events_grant_gone(source, leaf);
                return Progress::More;
            }
            return match self.memory_unmap_grant_step(leaf) {
                Progress::More => Progress::More,
                Progress::Done => {
                    // The next turn finds the grant without mappings, or gone.
                    debug_assert!(self.caps.grants.get(leaf).is_none_or(|node| node.mappings == 0), "all are unmapped");
                    Progress::More
                }
            };
        }
        let (holder, object, counted) = (node.holder, node.object, node.counted);
        if let Holder::Unit(unit, handle) = holder
            && let Some(slot) = self.units.get_mut(unit).and_then(|unit| unit.caps.slot_mut(handle).ok())
        {
            slot.content = Content::Swept;
            slot.checked = 0;
        }
        if let Some(node) = self.caps.grants.get_mut(leaf) {
            node.counted = false;
            // A message goes on naming its grant; cut off, it keeps nothing else.
            if holder != Holder::Message {
                node.holder = Holder::Nobody;
            }
        }
        let removed = self.caps.grants.cut(leaf);
        self.cap_removed(removed);
        if is_root {
            self.caps.grants.swept();
        }
        let removed = self.caps.grants.remove_unneeded(leaf);
        self.cap_removed(removed);
        if let Object::Channel(channel, _) = object {
            self.channel_recheck(channel);
        }
        if counted {
            self.release(object);
        }
        Progress::Done
    }

    /// Closes handles of a unit that ended: looks at 4 slots at most. [`Progress::Done`] when none is left.
    pub(crate) fn caps_teardown_step(&mut self, unit: UnitId) -> Progress {
        let mut budget = STEP;
        while budget > 0 {
            let Some(entry) = self.units.get_mut(unit) else { return Progress::Done };
            let Some(handle) = entry.caps.next_to_tear(&mut budget) else {
                return if budget > 0 { Progress::Done } else { Progress::More };
            };
            let closed = self.cap_close_handle(unit, handle);
            debug_assert!(closed.is_ok(), "the handle was found in the table");
        }
        Progress::More
    }
}
