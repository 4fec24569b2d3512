//! The short way of one capability that is moved with a call: decided on what is at hand, then done without failure. It comes
//! to what a parcel ([`super::transfer`]) does, where the two units are parent and child or children of one parent: units
//! above both pay as before.

use holm_abi::{CapTransfer, ConcurrencyClass, Handle, Rights, TransferFlags, TransferMode};

use super::grant::{Grant, GrantId, Grants, Holder};
use super::table::Content;
use crate::arena::Arena;
use crate::channel::ChannelId;
use crate::object::Object;
use crate::quota::{Quota, Quotas};
use crate::unit::{Unit, UnitId};

/// A capability that is about to move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moving {
    handle: Handle,
    grant: GrantId,
    rights: Rights,
    /// Whether it is of a channel.
    channel: bool,
    /// Whether who gives it away, and who gets it, pays for it; else it is one of those above that pays for both.
    refunds: bool,
    charges: bool,
}

impl Moving {
    /// Decides over the capability that stands in the register `word`, of the unit `from`, which is to go to `to` over a
    /// channel. `None`: that is not certain at once.
    #[inline(always)]
    pub(crate) fn decide(
        units: &Arena<Unit, 1>,
        grants: &Grants,
        word: u64,
        (from, to): (UnitId, UnitId),
        over: ChannelId,
    ) -> Option<Self> {
        let CapTransfer { cap, mode: TransferMode::Move, rights } = CapTransfer::from_register(word).ok()? else {
            return None;
        };
        let (sender, receiver) = (units.get(from)?, units.get(to)?);
        let slot = sender.caps.slot_by(word as u16, (word >> 16) as u16)?;
        let Content::Held(id) = slot.content else { return None };
        if slot.checked != grants.epoch
            || !slot.rights.contains(Rights::TRANSFER.or(rights))
            || slot.object.object_type().concurrency_class() == ConcurrencyClass::LocalOnly
            || matches!(slot.object, Object::Channel(id, _) if id == over)
        {
            return None;
        }
        let grant = grants.get(id)?;
        if !grant.transfer.contains(TransferFlags::MOVE_ALLOWED) || !grant.counted || grant.payer != from {
            return None;
        }
        // Who pays for what changes: the lines of parents meet at once.
        let (refunds, charges) = match (sender.parent, receiver.parent) {
            (_, Some(parent)) if parent == from => (false, true),
            (Some(parent), _) if parent == to => (true, false),
            (Some(one), Some(other)) if one == other => (true, true),
            _ => return None,
        };
        if !receiver.caps.has_spare() {
            return None;
        }
        let mut payer = receiver;
        loop {
            let Quotas { handles, kernel, .. } = &payer.quotas;
            if handles.used >= handles.limit || kernel.limit.saturating_sub(kernel.used) < Grant::BYTES {
                return None;
            }
            match payer.parent {
                Some(parent) => payer = units.get(parent)?,
                None => break,
            }
        }
        let channel = matches!(slot.object, Object::Channel(..));
        Some(Self { handle: cap, grant: id, rights, channel, refunds, charges })
    }

    /// Whether it is an end of a channel.
    #[inline(always)]
    pub(crate) const fn is_channel(&self) -> bool {
        self.channel
    }

    /// Does it; the capability's handle in the unit `to`. `None` cannot be, after [`Moving::decide`].
    #[inline(always)]
    pub(crate) fn go(self, grants: &mut Grants, from: &mut Unit, to: &mut Unit, to_id: UnitId) -> Option<Handle> {
        let epoch = grants.epoch;
        let grant = grants.get_mut(self.grant)?;
        grant.rights = grant.rights.and(self.rights);
        grant.payer = to_id;
        let content = Content::Held(self.grant);
        let handle = to.caps.put(grant.object, grant.rights, grant.badge, content, epoch)?;
        grant.holder = Holder::Unit(to_id, handle);
        from.caps.free(self.handle)?;
        from.holds = from.holds.saturating_sub(1);
        to.holds += 1;
        if self.refunds {
            from.quotas.handles.refund(1);
            from.quotas.kernel.refund(Grant::BYTES);
        }
        if self.charges {
            take(&mut to.quotas.handles, 1);
            take(&mut to.quotas.kernel, Grant::BYTES);
        }
        Some(handle)
    }
}

/// Takes what is known to be left.
#[inline(always)]
const fn take(quota: &mut Quota, amount: u64) {
    quota.used += amount;
    if quota.used > quota.peak {
        quota.peak = quota.used;
    }
}
