//! The short way of one capability that is moved with a call: every reason against is looked at first, then it is done without
//! failure. It comes to what a parcel ([`super::transfer`]) does, where the two units are parent and child or children of one
//! parent: units above both pay as before.

use holm_abi::{CapTransfer, ConcurrencyClass, Handle, Rights, TransferFlags, TransferMode};

use super::grant::{Grant, Grants, Holder};
use super::table::Content;
use crate::arena::Arena;
use crate::channel::ChannelId;
use crate::object::Object;
use crate::quota::{Quota, Quotas};
use crate::unit::{Unit, UnitId};

/// What was moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    /// Its handle in the unit that got it.
    pub(crate) handle: Handle,
    /// Whether it is an end of a channel.
    pub(crate) channel: bool,
}

/// Moves the capability that stands in the register `word` from one unit to another, over a channel. `None`: nothing was done,
/// since there is a reason against it, or that is not certain at once.
#[inline(never)]
pub(crate) fn move_one(
    units: &mut Arena<Unit, 1>,
    grants: &mut Grants,
    word: u64,
    (from_id, to_id): (UnitId, UnitId),
    over: ChannelId,
) -> Option<Moved> {
    let CapTransfer { cap, mode: TransferMode::Move, rights } = CapTransfer::from_register(word).ok()? else {
        return None;
    };
    // Units above pay for both: there must be room in all of them meanwhile.
    let mut above = units.get(to_id)?.parent;
    while let Some(id) = above {
        let unit = units.get(id)?;
        if !has_room(&unit.quotas) {
            return None;
        }
        above = unit.parent;
    }
    let epoch = grants.epoch;
    let (from, to) = units.pair_mut(from_id, to_id)?;
    if !has_room(&to.quotas) || !to.caps.has_spare() {
        return None;
    }
    // Who pays for what changes: the lines of parents meet at once.
    let (refunds, charges) = match (from.parent, to.parent) {
        (_, Some(parent)) if parent == from_id => (false, true),
        (Some(parent), _) if parent == to_id => (true, false),
        (Some(one), Some(other)) if one == other => (true, true),
        _ => return None,
    };
    let slot = from.caps.slot_by(word as u16, (word >> 16) as u16)?;
    let Content::Held(id) = slot.content else { return None };
    let channel = matches!(slot.object, Object::Channel(..));
    if slot.checked != epoch
        || !slot.rights.contains(Rights::TRANSFER.or(rights))
        || slot.object.object_type().concurrency_class() == ConcurrencyClass::LocalOnly
        || matches!(slot.object, Object::Channel(id, _) if id == over)
    {
        return None;
    }
    let grant = grants.get_mut(id)?;
    if !grant.transfer.contains(TransferFlags::MOVE_ALLOWED) || !grant.counted || grant.payer != from_id {
        return None;
    }
    // Nothing fails from here on.
    grant.rights = grant.rights.and(rights);
    grant.payer = to_id;
    let handle = to.caps.put(grant.object, grant.rights, grant.badge, Content::Held(id), epoch)?;
    grant.holder = Holder::Unit(to_id, handle);
    from.caps.free(cap)?;
    from.holds = from.holds.saturating_sub(1);
    to.holds += 1;
    if refunds {
        from.quotas.handles.refund(1);
        from.quotas.kernel.refund(Grant::BYTES);
    }
    if charges {
        take(&mut to.quotas.handles, 1);
        take(&mut to.quotas.kernel, Grant::BYTES);
    }
    Some(Moved { handle, channel })
}

/// Whether a unit can pay for one capability more.
#[inline(always)]
const fn has_room(quotas: &Quotas) -> bool {
    let Quotas { handles, kernel, .. } = quotas;
    handles.used < handles.limit && kernel.limit.saturating_sub(kernel.used) >= Grant::BYTES
}

/// Takes what is known to be left.
#[inline(always)]
const fn take(quota: &mut Quota, amount: u64) {
    quota.used += amount;
    if quota.used > quota.peak {
        quota.peak = quota.used;
    }
}
