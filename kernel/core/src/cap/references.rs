//! References of objects: each capability holds one, and the last one that goes tells the object's owner.

use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::object::Object;

impl<M: Machine> Kernel<M> {
    /// The count of references of an object; `None` for those that never end.
    pub(crate) fn references(&mut self, object: Object) -> Option<&mut u32> {
        match object {
            Object::Unit(id) => self.units.get_mut(id).map(|unit| &mut unit.references),
            Object::Thread(id) => self.threads.get_mut(id).map(|thread| &mut thread.references),
            Object::Channel(id, end) => self.channels.get_mut(id).map(|channel| channel.references_mut(end)),
            Object::Region(id) => self.region_references(id),
            Object::Timer(id) => self.timer_references(id),
            Object::Event(id) => self.event_references(id),
            Object::Space(id) => self.guest_space_references(id),
            Object::Trace(id) => self.trace_reader_references(id),
            Object::Image(_) | Object::Archive | Object::System | Object::Console => None,
        }
    }

    /// Keeps an object.
    pub(crate) fn retain(&mut self, object: Object) {
        if let Some(count) = self.references(object) {
            *count += 1;
        }
    }

    /// Gives up a reference; the last one lets the owner end the object.
    pub(crate) fn release(&mut self, object: Object) {
        let Some(count) = self.references(object) else { return };
        debug_assert!(*count > 0, "a reference is released once");
        *count = count.saturating_sub(1);
        if *count > 0 {
            if let Object::Unit(id) = object {
                self.unit_reference_dropped(id);
            }
            return;
        }
        match object {
            Object::Unit(id) => self.unit_released(id),
            Object::Thread(id) => self.thread_released(id),
            Object::Region(id) => self.region_released(id),
            Object::Channel(id, end) => self.channel_end_released(id, end),
            Object::Timer(id) => self.timer_released(id),
            Object::Event(id) => self.event_released(id),
            Object::Space(id) => self.guest_space_released(id),
            Object::Trace(id) => self.trace_reader_released(id),
            Object::Image(_) | Object::Archive | Object::System | Object::Console => {}
        }
    }
}
