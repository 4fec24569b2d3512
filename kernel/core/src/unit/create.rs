//! What a unit is to be, and how its making begins; [`super::making`] goes on. All of it or nothing.

use holm_abi::{Error, Handle, Label, ObjectType, Rights, SchedClass, UnitFlags, UnitSpec, UnitState};

use super::making::Making;
use super::{End, MAX_LABELS, UNIT_BYTES, Unit, UnitId};
use crate::cap::Types;
use crate::kernel::Kernel;
use crate::machine::{Machine, PAGE_SIZE, USER_END};
use crate::memory::ImageId;
use crate::memory::space::USER_START;
use crate::object::Object;
use crate::quota::{MAX_DEPTH, Quotas, Resource};

const PAGE: u64 = PAGE_SIZE as u64;
const MAX_CAPS: usize = holm_abi::limits::MAX_INITIAL_CAPS as usize;

/// What a unit is made of, decoded and checked as far as can be without doing anything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Who pays and is named as the one that made it; `None` for the root unit.
    pub(crate) parent: Option<UnitId>,
    /// Whose memory arguments are in and whose capabilities are given; `None` for the root unit.
    pub(crate) creator: Option<UnitId>,
    /// What it runs, if the kernel loads it.
    pub(crate) image: Option<ImageId>,
    /// Everything else. Pointers in it are the creator's.
    pub(crate) spec: UnitSpec,
    /// Its quotas.
    pub(crate) quotas: Quotas,
}

impl<M: Machine> Kernel<M> {
    /// Makes a unit at once that has not started, with one reference that is the caller's. The unit has its own handle in slot
    /// 0, and, when it has a first thread, that thread's in slot 1.
    ///
    /// # Errors
    /// `Invalid`, `BadImage`, `NotPermitted`, `Quota`, `NoMemory`, `Fault`; what was made goes away by itself.
    pub(crate) fn unit_new(&mut self, plan: &Plan) -> Result<UnitId, Error> {
        let unit = self.unit_begin(plan)?;
        let mut making = Making::of(unit, plan);
        while !making.is_furnished() {
            if let Err(error) = self.making_step(&mut making, plan) {
                self.unit_discard(unit);
                return Err(error);
            }
        }
        Ok(unit)
    }

    /// Begins to make a unit, with its space and its own handle.
    ///
    /// # Errors
    /// As [`Kernel::unit_new`].
    pub(super) fn unit_begin(&mut self, plan: &Plan) -> Result<UnitId, Error> {
        let depth = match plan.parent {
            Some(parent) => {
                let parent = self.units.get(parent).ok_or(Error::BadState)?;
                if parent.has_ended() {
                    return Err(Error::BadState);
                }
                parent.depth + 1
            }
            None => 0,
        };
        if depth >= MAX_DEPTH {
            return Err(Error::NotPermitted);
        }
        if let Some(parent) = plan.parent {
            self.charge(parent, Resource::Kernel, UNIT_BYTES)?;
        }
        let mut unit = Unit::new(plan.parent, plan.quotas);
        unit.depth = depth;
        unit.references = 1;
        unit.flags = plan.spec.flags;
        (unit.class, unit.base_priority) = (plan.spec.sched_class, plan.spec.base_priority);
        unit.max_class = plan.spec.max_sched_class;
        unit.face.name = plan.spec.name;
        unit.face.image = plan.image;
        for half in unit.face.unique.chunks_mut(8) {
            half.iter_mut().zip(self.machine.random().to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        let Ok(id) = self.units.insert(unit) else {
            if let Some(parent) = plan.parent {
                self.refund(parent, Resource::Kernel, UNIT_BYTES);
            }
            return Err(Error::NoMemory);
        };
        if let Some(parent) = plan.parent {
            self.unit_hold(parent);
        }
        self.child_link(id);
        match self.unit_furnish(id, plan) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.unit_discard(id);
                Err(error)
            }
        }
    }

    /// Lets a unit go that was not finished: nobody was told of it.
    pub(super) fn unit_discard(&mut self, id: UnitId) {
        self.unit_end(id, End::because(holm_abi::ExitReason::Killed, 0));
        self.release(Object::Unit(id));
    }

    fn unit_furnish(&mut self, id: UnitId, plan: &Plan) -> Result<(), Error> {
        let spec = &plan.spec;
        let space = self.space_new(id, USER_START, USER_END)?;
        let root = self.spaces.get(space).map(|space| space.root);
        if let Some(unit) = self.units.get_mut(id) {
            (unit.memory.space, unit.memory.root) = (Some(space), root);
        }
        if let Some(creator) = plan.creator {
            self.labels_take(id, creator, spec.labels, spec.label_count)?;
        }
        let without_admin = if spec.flags.contains(UnitFlags::NO_SELF_ADMIN) { Rights::ADMIN } else { Rights::NONE };
        let rights = ObjectType::Unit.rights().without(without_admin);
        let own = self.cap_install(id, Object::Unit(id), rights, ObjectType::Unit.transfer_flags())?;
        debug_assert_eq!(own, Handle::initial(0), "a new table gives its first slot");
        Ok(())
    }

    /// Takes labels from a unit's memory.
    pub(super) fn labels_take(&mut self, id: UnitId, from: UnitId, address: u64, count: u32) -> Result<(), Error> {
        if count as usize > MAX_LABELS {
            return Err(Error::TooBig);
        }
        let mut labels = [Label::new(); MAX_LABELS];
        for (index, label) in labels.iter_mut().take(count as usize).enumerate() {
            let mut bytes = [0; Label::SIZE];
            self.copy_in(from, address.wrapping_add((index * Label::SIZE) as u64), &mut bytes)?;
            *label = Label::decode_whole(&bytes)?;
        }
        if let Some(unit) = self.units.get_mut(id) {
            (unit.face.labels, unit.face.label_count) = (labels, count);
        }
        Ok(())
    }

    /// What a new unit may use: what was asked for, or what the unit above may.
    ///
    /// # Errors
    /// `NotPermitted` for more than the unit above may.
    fn quotas_of(&self, parent: UnitId, spec: &UnitSpec) -> Result<Quotas, Error> {
        let above = self.units.get(parent).ok_or(Error::BadState)?.quotas;
        let limit = |asked: u64, above: u64| match asked {
            0 => Ok(above),
            asked if asked > above => Err(Error::NotPermitted),
            asked => Ok(asked),
        };
        Ok(Quotas::new(
            limit(spec.memory_quota.div_ceil(PAGE), above.frames.limit)?,
            limit(u64::from(spec.thread_quota), above.threads.limit)?,
            limit(u64::from(spec.handle_quota), above.handles.limit)?,
            limit(spec.kernel_quota, above.kernel.limit)?,
        ))
    }

    /// Decodes and checks what `creator` asks for.
    pub(super) fn unit_plan(&mut self, creator: UnitId, parent: UnitId, spec: UnitSpec) -> Result<Plan, Error> {
        let above = self.units.get(parent).ok_or(Error::BadState)?;
        let (class, ceiling, priority) = (above.class, above.max_class, above.base_priority);
        let mut spec = spec;
        if spec.max_sched_class == SchedClass::Inherit {
            spec.max_sched_class = ceiling;
        }
        if !ceiling.allows(spec.max_sched_class) {
            return Err(Error::NotPermitted);
        }
        if spec.sched_class == SchedClass::Inherit {
            // The unit above may be in a class that its children may not.
            let fits = spec.max_sched_class.allows(class);
            spec.sched_class = if fits { class } else { SchedClass::BestEffort };
            if fits && spec.base_priority == 0 {
                spec.base_priority = priority;
            }
        }
        if !spec.max_sched_class.allows(spec.sched_class) {
            return Err(Error::NotPermitted);
        }
        let strings = holm_abi::limits::MAX_ARGUMENT_BYTES;
        if spec.argv_bytes > strings || spec.envp_bytes > strings || spec.cap_count as usize > MAX_CAPS {
            return Err(Error::TooBig);
        }
        let image = match spec.image {
            Handle::NONE => None,
            image => match self.resolve(creator, image, Types::of(ObjectType::Image), Rights::EXECUTE)?.object {
                Object::Image(image) => Some(image),
                _ => return Err(Error::WrongType),
            },
        };
        let quotas = self.quotas_of(parent, &spec)?;
        Ok(Plan { parent: Some(parent), creator: Some(creator), image, spec, quotas })
    }

    /// Lets the threads of a unit run.
    ///
    /// # Errors
    /// `BadState` when it was started before.
    pub(crate) fn unit_run(&mut self, id: UnitId) -> Result<(), Error> {
        let now = self.machine.now();
        let unit = self.units.get_mut(id).ok_or(Error::BadState)?;
        if unit.state != UnitState::Created {
            return Err(Error::BadState);
        }
        unit.state = UnitState::Running;
        unit.started = now;
        let mut thread = unit.threads.first();
        self.trace_unit(id);
        while let Some(next) = thread {
            thread = self.units.get(id).and_then(|unit| unit.threads.after(&self.threads, next));
            self.thread_start(next)?;
        }
        self.raise(crate::event::Source::Unit(id), holm_abi::EventMask::STARTED, 0, 0);
        Ok(())
    }
}
