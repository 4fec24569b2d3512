//! The system calls on units.

use holm_abi::{
    Error, EventMask, ExitReason, Identity, Label, SchedClass, UnitAttr, UnitAttrMask, UnitInfo, UnitSpec, UnitState,
};

use super::{End, UnitId};
use crate::caller::{Answer, Caller, Out, Outcome};
use crate::cap::Cap;
use crate::dispatch::Records;
use crate::kernel::Kernel;
use crate::machine::{Machine, PAGE_SIZE};
use crate::object::Object;
use crate::quota::Quota;

/// Bytes of an image that one step sums.
const SUMMED: usize = 1024;

impl<M: Machine> Kernel<M> {
    fn unit_of(cap: &Cap) -> Result<UnitId, Error> {
        Self::unit_object(cap.object)
    }

    fn unit_object(object: Object) -> Result<UnitId, Error> {
        match object {
            Object::Unit(id) => Ok(id),
            _ => Err(Error::WrongType),
        }
    }

    /// Makes a unit as a child of `parent`.
    pub(crate) fn unit_create(&mut self, caller: Caller, parent: Object, spec: UnitSpec) -> Answer {
        self.unit_make(caller, Self::unit_object(parent)?, spec)
    }

    /// Lets the threads of a unit run.
    pub(crate) fn unit_start(&mut self, _caller: Caller, unit: Cap) -> Answer {
        self.unit_run(Self::unit_of(&unit)?)?;
        Ok(Outcome::OK)
    }

    /// Ends a unit and, when it is the caller's, the calling thread.
    fn unit_ends(&mut self, caller: Caller, unit: UnitId, end: End) -> Answer {
        if self.units.get(unit).ok_or(Error::BadState)?.has_ended() {
            return Err(Error::BadState);
        }
        self.unit_end(unit, end);
        if unit == caller.unit {
            self.thread_end(caller.thread, end.code, end.reason);
            return Ok(Outcome::Ended);
        }
        Ok(Outcome::OK)
    }

    /// Ends a unit in order.
    pub(crate) fn unit_stop(&mut self, caller: Caller, unit: Object, code: i64) -> Answer {
        let unit = Self::unit_object(unit)?;
        let reason = if unit == caller.unit { ExitReason::Exited } else { ExitReason::Stopped };
        self.unit_ends(caller, unit, End::because(reason, code))
    }

    /// Ends a unit hard.
    pub(crate) fn unit_kill(&mut self, caller: Caller, unit: Object, reason: i64) -> Answer {
        let unit = Self::unit_object(unit)?;
        self.unit_ends(caller, unit, End::because(ExitReason::Killed, reason))
    }

    /// Kills a unit if it lives, and closes the handle.
    pub(crate) fn unit_destroy(&mut self, caller: Caller, unit: Cap) -> Answer {
        let id = Self::unit_of(&unit)?;
        self.cap_close_handle(caller.unit, unit.handle)?;
        match self.unit_ends(caller, id, End::because(ExitReason::Killed, 0)) {
            Err(Error::BadState) => Ok(Outcome::OK),
            other => other,
        }
    }

    /// Tells state, end, times and quotas of a unit.
    pub(crate) fn unit_get_info(&mut self, caller: Caller, unit: Object, info: Out<UnitInfo>) -> Answer {
        let unit = Self::unit_object(unit)?;
        let entry = self.units.get(unit).ok_or(Error::BadState)?;
        let mut told = UnitInfo::new();
        told.id = unit.number();
        told.parent = entry.parent.map_or(0, UnitId::number);
        told.state = entry.state;
        (told.exit_reason, told.exit_code) = (entry.end.reason, entry.end.code);
        (told.fault_address, told.fault_instruction) = (entry.end.address, entry.end.instruction);
        (told.exit_time, told.start_time) = (entry.end.time.0, entry.started.0);
        let page = PAGE_SIZE as u64;
        let limit = |quota: &Quota| u32::try_from(quota.limit).unwrap_or(u32::MAX);
        let quotas = &entry.quotas;
        told.memory_bytes = quotas.frames.used * page;
        told.memory_quota = quotas.frames.limit.saturating_mul(page);
        (told.kernel_bytes, told.kernel_quota) = (quotas.kernel.used, quotas.kernel.limit);
        (told.threads, told.thread_quota) = (entry.threads.len(), limit(&quotas.threads));
        (told.handles, told.handle_quota) = (quotas.handles.used as u32, limit(&quotas.handles));
        (told.sched_class, told.base_priority) = (entry.class, entry.base_priority);
        (told.max_sched_class, told.label_count) = (entry.max_class, entry.face.label_count);
        (told.flags, told.name) = (entry.flags, entry.face.name);
        told.cpu_time = self.unit_cpu_time(unit).0;
        told.user_time = told.cpu_time;
        self.give_struct(caller, info.address, info.bytes, |out| told.encode(out))
    }

    /// Changes name, labels, quotas and ceiling of a unit.
    pub(crate) fn unit_set_attr(&mut self, caller: Caller, unit: Cap, attr: UnitAttr) -> Answer {
        let id = Self::unit_of(&unit)?;
        let has = |mask| attr.mask.contains(mask);
        // Everything is checked before anything changes; labels come last since their memory may fault.
        let mine = self.units.get(caller.unit).ok_or(Error::BadState)?;
        let (limits, ceiling) = (mine.quotas, mine.max_class);
        let page = PAGE_SIZE as u64;
        let entry = self.units.get(id).ok_or(Error::BadState)?;
        let mut quotas = entry.quotas;
        for (mask, quota, above, limit) in [
            (UnitAttrMask::MEMORY_QUOTA, &mut quotas.frames, limits.frames.limit, attr.memory_quota.div_ceil(page)),
            (UnitAttrMask::KERNEL_QUOTA, &mut quotas.kernel, limits.kernel.limit, attr.kernel_quota),
            (UnitAttrMask::THREAD_QUOTA, &mut quotas.threads, limits.threads.limit, u64::from(attr.thread_quota)),
            (UnitAttrMask::HANDLE_QUOTA, &mut quotas.handles, limits.handles.limit, u64::from(attr.handle_quota)),
        ] {
            if has(mask) {
                if limit > above {
                    return Err(Error::NotPermitted);
                }
                quota.limit = limit;
            }
        }
        let mut max_class = entry.max_class;
        if has(UnitAttrMask::MAX_SCHED_CLASS) {
            if attr.max_sched_class == SchedClass::Inherit {
                return Err(Error::Invalid);
            }
            if !ceiling.allows(attr.max_sched_class) {
                return Err(Error::NotPermitted);
            }
            max_class = attr.max_sched_class;
        }
        if has(UnitAttrMask::LABELS) {
            self.labels_take(id, caller.unit, attr.labels, attr.label_count)?;
        }
        let Some(entry) = self.units.get_mut(id) else { return Err(Error::BadState) };
        if has(UnitAttrMask::NAME) {
            entry.face.name = attr.name;
        }
        // What is in use may have changed while labels were read: only limits are new.
        entry.quotas.frames.limit = quotas.frames.limit;
        entry.quotas.kernel.limit = quotas.kernel.limit;
        entry.quotas.threads.limit = quotas.threads.limit;
        entry.quotas.handles.limit = quotas.handles.limit;
        if has(UnitAttrMask::MAX_SCHED_CLASS) {
            entry.max_class = max_class;
            if !max_class.allows(entry.class) {
                (entry.class, entry.base_priority) = (SchedClass::BestEffort, 0);
            }
            self.unit_ceiling_changed(id);
        }
        Ok(Outcome::OK)
    }

    /// Gives the labels of a unit.
    pub(crate) fn unit_get_labels(&mut self, caller: Caller, unit: Object, labels: Records<Label>) -> Answer {
        let unit = Self::unit_object(unit)?;
        let face = &self.units.get(unit).ok_or(Error::BadState)?.face;
        let (all, count) = (face.labels, u64::from(face.label_count).min(labels.count));
        for (index, label) in all.iter().take(count as usize).enumerate() {
            let mut bytes = [0; Label::SIZE];
            label.encode_whole(&mut bytes);
            self.copy_out(caller.unit, labels.at(index as u64), &bytes)?;
        }
        Ok(Outcome::Done(count))
    }

    /// Tells who a unit is.
    pub(crate) fn unit_get_identity(&mut self, caller: Caller, unit: Object, identity: Out<Identity>) -> Answer {
        let unit = Self::unit_object(unit)?;
        let entry = self.units.get(unit).ok_or(Error::BadState)?;
        let mut told = Identity::new();
        (told.id, told.unique) = (unit.number(), entry.face.unique);
        (told.depth, told.name) = (entry.depth, entry.face.name);
        if let Some(image) = entry.face.image.and_then(|image| self.images.get_mut(image)) {
            let Some(crc) = image.sum(SUMMED) else { return Ok(Outcome::Again) };
            told.image_crc = crc;
        }
        self.give_struct(caller, identity.address, identity.bytes, |out| told.encode(out))
    }

    /// Tells who this node is.
    pub(crate) fn node_get_identity(&mut self, caller: Caller, identity: Out<Identity>) -> Answer {
        let mut told = Identity::new();
        told.unique = self.node;
        self.give_struct(caller, identity.address, identity.bytes, |out| told.encode(out))
    }

    /// Whether a unit may get threads, capabilities and mappings.
    pub(crate) fn unit_is_open(&self, unit: UnitId) -> bool {
        self.units.get(unit).is_some_and(|unit| matches!(unit.state, UnitState::Created | UnitState::Running))
    }

    /// What a watcher is told of the end of a unit.
    pub(crate) fn unit_end_event(&self, unit: UnitId) -> (EventMask, u64, u64) {
        let Some(entry) = self.units.get(unit) else { return (EventMask::NONE, 0, 0) };
        let end = &entry.end;
        let mask = if end.is_orderly() { EventMask::EXIT } else { EventMask::CRASH };
        let data = if end.reason == ExitReason::MemoryFault { end.address } else { end.code as u64 };
        (mask, data, end.reason as u64)
    }
}
