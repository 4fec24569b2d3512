//! Holding capabilities: handles that are used, installed and closed, and the references that keep objects.

use holm_abi::{Error, Handle, Rights, TransferFlags};

use super::grant::{Grant, GrantId, Holder, Kind, NewGrant, Removed};
use super::table::Content;
use super::{Cap, Types};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::object::Object;
use crate::quota::Resource;
use crate::unit::UnitId;

impl<M: Machine> Kernel<M> {
    /// The capability that `unit` names by `handle`, when it is of one of `types` and has all of `rights`. Constant time: a
    /// few compares, and after a revocation anywhere a walk of at most 33 grants, once per handle.
    ///
    /// # Errors
    /// [`Error::BadHandle`], [`Error::Revoked`], [`Error::WrongType`], [`Error::Access`], in this order.
    #[inline]
    pub(crate) fn resolve(&mut self, unit: UnitId, handle: Handle, types: Types, rights: Rights) -> Result<Cap, Error> {
        let epoch = self.caps.grants.epoch;
        let slot = self.units.get_mut(unit).ok_or(Error::BadHandle)?.caps.slot_mut(handle)?;
        let Content::Held(grant) = slot.content else { return Err(Error::Revoked) };
        if slot.checked != epoch {
            if !self.caps.grants.alive(grant) {
                return Err(Error::Revoked);
            }
            slot.checked = epoch;
        }
        if !slot.types.meets(types) {
            return Err(Error::WrongType);
        }
        if !slot.rights.contains(rights) {
            return Err(Error::Access);
        }
        Ok(Cap { handle, object: slot.object, rights: slot.rights, badge: slot.badge, grant })
    }

    /// Gives `unit` the first capability of `object`: nobody can revoke it but its holder. The object gets a reference.
    ///
    /// # Errors
    /// [`Error::NoHandles`], [`Error::Quota`], [`Error::NoMemory`]; nothing was done then.
    pub(crate) fn cap_install(
        &mut self,
        unit: UnitId,
        object: Object,
        rights: Rights,
        transfer: TransferFlags,
    ) -> Result<Handle, Error> {
        self.cap_reserve(unit, 1)?;
        let new = NewGrant { object, rights, transfer, badge: 0, holder: Holder::Nobody, payer: unit, parent: None };
        let grant = self.caps.grants.insert(new)?;
        self.retain(object);
        self.cap_pay(unit);
        self.cap_put(unit, grant, self.caps.grants.epoch).ok_or(Error::NoHandles)
    }

    /// Makes sure that `count` capabilities with new grants can be given to `unit` without failing: slots, and quotas for
    /// handles and kernel memory. Memory of the table that was made stays with the table, and charged.
    ///
    /// # Errors
    /// [`Error::NoHandles`], [`Error::Quota`], [`Error::NoMemory`].
    pub(crate) fn cap_reserve(&mut self, unit: UnitId, count: u32) -> Result<(), Error> {
        if u64::from(count) > self.spare(unit, Resource::Handles) {
            return Err(Error::NoHandles);
        }
        let growth = self.units.get(unit).ok_or(Error::BadState)?.caps.growth(count)?;
        if growth + u64::from(count) * Grant::BYTES > self.spare(unit, Resource::Kernel) {
            return Err(Error::Quota);
        }
        if growth > 0 {
            self.charge(unit, Resource::Kernel, growth)?;
            let Some(entry) = self.units.get_mut(unit) else { return Err(Error::BadState) };
            let before = entry.caps.bytes();
            let grown = entry.caps.reserve(count);
            let taken = entry.caps.bytes() - before;
            if grown.is_err() {
                self.refund(unit, Resource::Kernel, growth - taken);
            }
            grown?;
        }
        Ok(())
    }

    /// Charges `unit` for a grant; [`Kernel::cap_reserve`] made sure that it can pay.
    pub(crate) fn cap_pay(&mut self, unit: UnitId) {
        let charged = self.charge(unit, Resource::Kernel, Grant::BYTES);
        debug_assert!(charged.is_ok(), "the quota was checked before");
        self.unit_hold(unit);
    }

    fn cap_refund(&mut self, payer: UnitId) {
        self.refund(payer, Resource::Kernel, Grant::BYTES);
        self.unit_unhold(payer);
    }

    /// Refunds grants that were removed.
    pub(crate) fn cap_removed(&mut self, removed: Removed) {
        for payer in removed.payers.into_iter().map_while(|payer| payer) {
            self.cap_refund(payer);
        }
    }

    /// Moves the charge for a grant to another unit, which [`Kernel::cap_reserve`] found able to pay.
    pub(crate) fn cap_repay(&mut self, grant: GrantId, payer: UnitId) {
        let Some(node) = self.caps.grants.get_mut(grant) else { return };
        let before = core::mem::replace(&mut node.payer, payer);
        if before != payer {
            self.cap_refund(before);
            self.cap_pay(payer);
        }
    }

    /// Puts the capability of a grant that nobody holds into the table of `unit`, where [`Kernel::cap_reserve`] found room.
    /// One that was revoked while it travelled answers [`Error::Revoked`] there, too. `checked` is the revocation epoch in
    /// which the grant was found alive, or 0.
    pub(crate) fn cap_put(&mut self, unit: UnitId, grant: GrantId, checked: u64) -> Option<Handle> {
        let node = self.caps.grants.get(grant)?;
        let (object, rights, badge, counted) = (node.object, node.rights, node.badge, node.counted);
        let entry = self.units.get_mut(unit)?;
        let content = if counted { Content::Held(grant) } else { Content::Swept };
        let handle = entry.caps.put(object, rights, badge, content, checked)?;
        let charged = self.charge(unit, Resource::Handles, 1);
        debug_assert!(charged.is_ok(), "the quota was checked before");
        if counted {
            if let Some(node) = self.caps.grants.get_mut(grant) {
                node.holder = Holder::Unit(unit, handle);
            }
        } else {
            let removed = self.caps.grants.close(grant);
            self.cap_removed(removed);
        }
        Some(handle)
    }

    /// Makes the capability derived from `from` that `payer` pays for; nobody holds it yet. The object gets a reference.
    /// Rights and transfer policy are cut to those of `from`.
    ///
    /// # Errors
    /// [`Error::TooDeep`], [`Error::NoMemory`]; nothing was done then. The quota must have been checked.
    pub(crate) fn cap_child(
        &mut self,
        from: GrantId,
        kind: Kind,
        rights: Rights,
        transfer: TransferFlags,
        payer: UnitId,
    ) -> Result<GrantId, Error> {
        let parent = self.caps.grants.get(from).ok_or(Error::BadHandle)?;
        let object = parent.object;
        let new = NewGrant {
            object,
            rights: parent.rights.and(rights),
            transfer: parent.transfer.and(transfer),
            badge: parent.badge,
            holder: Holder::Nobody,
            payer,
            parent: Some((from, kind)),
        };
        let grant = self.caps.grants.insert(new)?;
        self.retain(object);
        self.cap_pay(payer);
        Ok(grant)
    }

    /// Takes the capability out of its holder's table, to travel. Its handle is stale from now on.
    pub(crate) fn cap_take(&mut self, unit: UnitId, handle: Handle) -> Option<GrantId> {
        let entry = self.units.get_mut(unit)?;
        let slot = entry.caps.free(handle)?;
        self.refund(unit, Resource::Handles, 1);
        let Content::Held(grant) = slot.content else { return None };
        if let Some(node) = self.caps.grants.get_mut(grant) {
            node.holder = Holder::Nobody;
        }
        Some(grant)
    }

    /// Gives up the capability of a grant that is in no table: its hold on the object, and the grant when nothing needs it.
    pub(crate) fn cap_drop(&mut self, grant: GrantId) {
        let Some(node) = self.caps.grants.get_mut(grant) else { return };
        let object = core::mem::take(&mut node.counted).then_some(node.object);
        let removed = self.caps.grants.close(grant);
        self.cap_removed(removed);
        if let Some(object) = object {
            self.release(object);
        }
    }

    /// Closes a handle, revoked ones included.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    pub(crate) fn cap_close_handle(&mut self, unit: UnitId, handle: Handle) -> Result<(), Error> {
        self.units.get(unit).ok_or(Error::BadHandle)?.caps.slot(handle)?;
        if let Some(grant) = self.cap_take(unit, handle) {
            self.cap_drop(grant);
        }
        Ok(())
    }

    /// A mapping is made through a grant: it stays known until [`Kernel::grant_unwatch`], and when it ends
    /// `memory_unmap_grant_step` is called until no mapping of it is left.
    pub(crate) fn grant_watch(&mut self, grant: GrantId) {
        if let Some(node) = self.caps.grants.get_mut(grant) {
            node.mappings += 1;
        }
    }

    /// A mapping that was made through a grant is gone.
    pub(crate) fn grant_unwatch(&mut self, grant: GrantId) {
        let Some(node) = self.caps.grants.get_mut(grant) else { return };
        debug_assert!(node.mappings > 0, "a mapping is counted once");
        node.mappings = node.mappings.saturating_sub(1);
        if node.mappings == 0 {
            let removed = self.caps.grants.remove_unneeded(grant);
            self.cap_removed(removed);
        }
    }
}
