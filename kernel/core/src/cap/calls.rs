//! The system calls of capabilities: grant, derive, revoke, information, close.

use holm_abi::{
    CapFlags, CapInfo, CapTransfer, Error, Handle, RevokeFlags, Rights, TraceKind, TransferFlags, TransferMode,
};

#[cfg(test)]
use super::Progress;
use super::grant::{Grant, Kind};
use super::table::Content;
use super::{Cap, Types};
use crate::caller::{Answer, Caller, Out, Outcome};
use crate::direct::{Way, Ways};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::object::Object;
use crate::sched::switch::WORK_PAUSE;
use crate::sched::{Class, attention};

impl<M: Machine> Ways<'_, M> {
    /// Revokes a capability of what nobody maps, with all that came from it.
    #[inline(always)]
    pub(crate) fn revoke(self) -> Option<Way> {
        let Self { machine, threads, units, counts, grants, epoch, regions, cpu, entry, current, .. } = self;
        let thread = threads.get_mut(current)?;
        let (word, flags) = (thread.registers.rdi, thread.registers.rsi);
        if thread.calls.revoking.is_some() || flags != RevokeFlags::NONE.bits() || word >> 32 != 0 {
            return None;
        }
        let slot = units.get(thread.unit)?.caps.slot_by(word as u16, (word >> 16) as u16)?;
        let Content::Held(grant) = slot.content else { return None };
        if slot.checked != epoch
            || matches!(slot.object, Object::Region(id) if regions.get(id).is_some_and(|region| region.mappings > 0))
        {
            return None;
        }
        // Nothing fails from here on.
        counts.revocations += 1;
        grants.revoke(grant);
        thread.registers.rax = 0;
        thread.syscalls += 1;
        entry.syscalls += 1;
        // What follows it is done by later entries, which the timer brings.
        let now = machine.now();
        if entry.has_queued() || thread.sched.class == Class::Edf {
            entry.attention |= attention::TIMER;
            return Some(Way::Timed(now));
        }
        let wanted = entry.deadlines.next().min(entry.turn_ends).min(now.after(WORK_PAUSE));
        if wanted < entry.armed {
            entry.armed = wanted;
            machine.set_timer(cpu, wanted);
        }
        Some(Way::Same)
    }
}

impl<M: Machine> Kernel<M> {
    /// Passes a capability to another unit (seed 14.3, 15.1): MOVE takes it from the caller, BORROW and CLONE derive one.
    /// Answers the handle in the other unit.
    ///
    /// # Errors
    /// Those of a transfer; [`Error::BadState`] when the unit ended.
    pub(crate) fn cap_grant(
        &mut self,
        caller: Caller,
        unit: Cap,
        cap: Handle,
        rights: Rights,
        mode: TransferMode,
    ) -> Answer {
        let Object::Unit(to) = unit.object else { return Err(Error::WrongType) };
        if !self.unit_is_open(to) {
            return Err(Error::BadState);
        }
        let mut parcel = self.parcel_decide(caller.unit, &[CapTransfer { cap, mode, rights }], None)?;
        self.cap_reserve(to, 1)?;
        self.parcel_make(&mut parcel, to)?;
        let handle = self.parcel_arrive(caller.unit, to, &parcel);
        Ok(Outcome::Done(handle.raw() as u64))
    }

    /// Makes a weaker capability of the same object in the same unit.
    ///
    /// # Errors
    /// [`Error::Access`] when `rights` are more than the parent's; [`Error::NotPermitted`] when the transfer policy is more
    /// than the parent's, for a badge on anything but a channel, and for a second badge; [`Error::TooDeep`]; those of
    /// [`Kernel::cap_reserve`].
    pub(crate) fn cap_derive(
        &mut self,
        caller: Caller,
        cap: Cap,
        rights: Rights,
        transfer: TransferFlags,
        badge: u64,
    ) -> Answer {
        if !cap.rights.contains(rights) {
            return Err(Error::Access);
        }
        let parent = self.caps.grants.get(cap.grant).ok_or(Error::BadHandle)?;
        if !parent.transfer.contains(transfer) {
            return Err(Error::NotPermitted);
        }
        if badge != 0 && (parent.badge != 0 || !matches!(cap.object, Object::Channel(..))) {
            return Err(Error::NotPermitted);
        }
        self.caps.grants.may_have_child(cap.grant)?;
        self.cap_reserve(caller.unit, 1)?;
        let grant = self.cap_child(cap.grant, Kind::Derived, rights, transfer, caller.unit)?;
        if badge != 0
            && let Some(node) = self.caps.grants.get_mut(grant)
        {
            node.badge = badge;
        }
        let handle = self.cap_put(caller.unit, grant, self.caps.grants.epoch).ok_or(Error::NoHandles)?;
        self.trace_grant(grant, caller.unit.number(), caller.unit);
        Ok(Outcome::Done(handle.raw() as u64))
    }

    /// Ends a capability and everything derived from it; no use succeeds from here on. Of a region it returns when no
    /// mapping made through them is left, in restarts of the call.
    ///
    /// # Errors
    /// [`Error::BadHandle`] and [`Error::Revoked`].
    pub(crate) fn cap_revoke(&mut self, caller: Caller, cap: Handle, flags: RevokeFlags) -> Answer {
        let thread = self.threads.get_mut(caller.thread).ok_or(Error::BadState)?;
        if let Some((handle, grant)) = thread.calls.revoking {
            if handle == cap {
                return Ok(self.cap_revoke_on(caller, handle, grant));
            }
            thread.calls.revoking = None;
        }
        let found = self.resolve(caller.unit, cap, Types::ANY, Rights::NONE)?;
        self.trace.counts.revocations += 1;
        self.trace_event(TraceKind::CapRevoke, [found.object.number(), 0, 0, 0]);
        if flags.contains(RevokeFlags::CHILDREN_ONLY) {
            self.caps.grants.revoke_children(found.grant);
        } else {
            self.caps.grants.revoke(found.grant);
        }
        match found.object {
            // Where nobody maps the region there is nothing to wait for.
            Object::Region(region) if self.regions.get(region).is_some_and(|region| region.mappings > 0) => {
                Ok(self.cap_revoke_on(caller, cap, found.grant))
            }
            _ => Ok(Outcome::OK),
        }
    }

    /// Sweeps until nothing of what the caller revoked is left.
    fn cap_revoke_on(&mut self, caller: Caller, handle: Handle, grant: super::GrantId) -> Outcome {
        if self.caps.grants.is_queued(grant) {
            let _ = self.caps_sweep_step();
        }
        let more = self.caps.grants.is_queued(grant);
        if let Some(thread) = self.threads.get_mut(caller.thread) {
            thread.calls.revoking = more.then_some((handle, grant));
        }
        if more { Outcome::Again } else { Outcome::OK }
    }

    /// Tells about a capability, also about a revoked one.
    ///
    /// # Errors
    /// [`Error::BadHandle`], and what writing the answer can fail with.
    pub(crate) fn cap_get_info(&mut self, caller: Caller, cap: Handle, info: Out<CapInfo>) -> Answer {
        let unit = self.units.get(caller.unit).ok_or(Error::BadHandle)?;
        let slot = *unit.caps.slot(cap)?;
        let mut answer = CapInfo::new();
        answer.object_type = slot.object_type();
        answer.concurrency_class = slot.object_type().concurrency_class();
        answer.rights = slot.rights;
        answer.owner_unit = caller.unit.number();
        answer.object = slot.object.number();
        answer.badge = slot.badge;
        let node = match slot.content {
            Content::Held(grant) => self.caps.grants.get(grant).filter(|_| self.caps.grants.alive(grant)),
            _ => None,
        };
        let alive = node.is_some();
        answer.flags = match node {
            None => CapFlags::REVOKED,
            Some(node) => {
                answer.transfer = node.transfer;
                answer.depth = u32::from(node.depth());
                let lent = if node.is_lent() { CapFlags::BORROWED } else { CapFlags::NONE };
                lent | if node.depth() > 0 { CapFlags::DERIVED } else { CapFlags::NONE }
            }
        };
        if alive {
            answer.references = self.references(slot.object).map_or(1, |count| *count);
        }
        let mut bytes = [0; CapInfo::SIZE];
        let length = answer.encode(&mut bytes[..info.bytes.min(CapInfo::SIZE)]);
        self.copy_out(caller.unit, info.address, &bytes[..length])?;
        Ok(Outcome::OK)
    }

    /// Gives a handle up.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    pub(crate) fn cap_close(&mut self, caller: Caller, cap: Handle) -> Answer {
        self.cap_close_handle(caller.unit, cap)?;
        Ok(Outcome::OK)
    }

    /// What a capability costs in kernel memory.
    #[must_use]
    pub const fn cap_bytes() -> u64 {
        Grant::BYTES
    }

    /// Does all bounded work of capabilities and channels that waits, step by step: for tests.
    #[cfg(test)]
    pub(crate) fn caps_work_step(&mut self) -> Progress {
        match (self.caps_sweep_step(), self.channels_drain_step()) {
            (Progress::Done, Progress::Done) => Progress::Done,
            _ => Progress::More,
        }
    }
}
