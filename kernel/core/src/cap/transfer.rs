//! How capabilities travel between units: MOVE, BORROW, CLONE (seed 15.1), SENDABLE and LOCAL_ONLY (seed 15.2).
//!
//! A parcel is decided (may fail, changes nothing), made (derivations come into being; may fail for lack of memory and is
//! undone then), and taken (cannot fail): what was moved leaves its holder.

use holm_abi::{CapTransfer, ConcurrencyClass, Error, Handle, Rights, TransferFlags, TransferMode};

use super::Types;
use super::grant::{GrantId, Holder, Kind};
use crate::channel::ChannelId;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::object::Object;
use crate::quota::Resource;
use crate::unit::UnitId;

/// Capabilities of a message at most.
pub(crate) const MAX: usize = holm_abi::limits::MAX_MESSAGE_CAPS as usize;

/// One capability that travels.
#[derive(Debug, Clone, Copy)]
struct Item {
    handle: Handle,
    mode: TransferMode,
    rights: Rights,
    /// The capability it comes from, before the parcel is made; the one that arrives, afterwards.
    grant: GrantId,
}

/// The capabilities of one message, found good to travel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parcel {
    items: [Option<Item>; MAX],
    count: u8,
}

impl Parcel {
    /// Nothing. It is big: it is made where it stays, and lent.
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self { items: [None; MAX], count: 0 }
    }

    /// How many capabilities are in it.
    pub(crate) const fn len(&self) -> u32 {
        self.count as u32
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.items[..usize::from(self.count)].iter().flatten()
    }

    /// The grants, in order.
    pub(crate) fn grants(&self) -> impl Iterator<Item = GrantId> {
        self.items().map(|item| item.grant)
    }

    /// Mode, rights and grant of each, in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (TransferMode, Rights, GrantId)> {
        self.items().map(|item| (item.mode, item.rights, item.grant))
    }
}

const fn needed(mode: TransferMode) -> TransferFlags {
    match mode {
        TransferMode::Move => TransferFlags::MOVE_ALLOWED,
        TransferMode::Borrow => TransferFlags::BORROW_ALLOWED,
        TransferMode::Clone => TransferFlags::CLONE_ALLOWED,
    }
}

/// The rights that arrive: a loan cannot be passed on.
pub(crate) const fn arriving(mode: TransferMode, rights: Rights) -> Rights {
    match mode {
        TransferMode::Borrow => rights.without(Rights::TRANSFER),
        _ => rights,
    }
}

impl<M: Machine> Kernel<M> {
    /// Decides whether `unit` may send these capabilities (at most [`MAX`]), over the channel `over` if there is one.
    /// Changes nothing.
    ///
    /// # Errors
    /// Those of [`Kernel::resolve`]; [`Error::Access`] for more rights than the sender's, or without TRANSFER;
    /// [`Error::NotPermitted`] when class or policy forbid it, and for an end of the channel itself, which nobody could close
    /// any more; [`Error::Invalid`] for a capability that is moved and named twice; [`Error::TooDeep`]; [`Error::TooBig`]
    /// for too many.
    pub(crate) fn parcel_decide(
        &mut self,
        unit: UnitId,
        transfers: &[CapTransfer],
        over: Option<ChannelId>,
    ) -> Result<Parcel, Error> {
        let mut parcel = Parcel::new();
        if transfers.len() > MAX {
            return Err(Error::TooBig);
        }
        for transfer in transfers {
            self.parcel_add(unit, transfer, over, &mut parcel)?;
        }
        Ok(parcel)
    }

    /// As [`Kernel::parcel_decide`], for one capability more. A parcel that could not be added to is of no use.
    ///
    /// # Errors
    /// As [`Kernel::parcel_decide`].
    pub(crate) fn parcel_add(
        &mut self,
        unit: UnitId,
        transfer: &CapTransfer,
        over: Option<ChannelId>,
        parcel: &mut Parcel,
    ) -> Result<(), Error> {
        let cap = self.resolve(unit, transfer.cap, Types::ANY, Rights::TRANSFER)?;
        if !cap.rights.contains(transfer.rights) {
            return Err(Error::Access);
        }
        let policy = self.caps.grants.get(cap.grant).ok_or(Error::BadHandle)?.transfer;
        let local = cap.object.object_type().concurrency_class() == ConcurrencyClass::LocalOnly;
        if local || !policy.contains(needed(transfer.mode)) {
            return Err(Error::NotPermitted);
        }
        if matches!(cap.object, Object::Channel(id, _) if Some(id) == over) {
            return Err(Error::NotPermitted);
        }
        if transfer.mode != TransferMode::Move {
            self.caps.grants.may_have_child(cap.grant)?;
        }
        let moved = |mode: TransferMode| mode == TransferMode::Move || transfer.mode == TransferMode::Move;
        if parcel.items().any(|item| item.handle == transfer.cap && moved(item.mode)) {
            return Err(Error::Invalid);
        }
        let place = parcel.items.get_mut(usize::from(parcel.count)).ok_or(Error::TooBig)?;
        *place = Some(Item { handle: transfer.cap, mode: transfer.mode, rights: transfer.rights, grant: cap.grant });
        parcel.count += 1;
        Ok(())
    }

    /// Makes the derivations of a parcel; `payer` was found able to pay for as many grants.
    ///
    /// # Errors
    /// [`Error::NoMemory`], [`Error::TooDeep`]; nothing was made then, and the parcel is of no use.
    pub(crate) fn parcel_make(&mut self, parcel: &mut Parcel, payer: UnitId) -> Result<(), Error> {
        for at in 0..usize::from(parcel.count) {
            let Some(Some(item)) = parcel.items.get_mut(at) else { break };
            let child = match item.mode {
                TransferMode::Move => continue,
                TransferMode::Borrow => {
                    let rights = arriving(item.mode, item.rights);
                    self.cap_child(item.grant, Kind::Lent, rights, TransferFlags::NONE, payer)
                }
                TransferMode::Clone => {
                    self.cap_child(item.grant, Kind::Derived, item.rights, TransferFlags::ALL, payer)
                }
            };
            match child {
                Ok(child) => item.grant = child,
                Err(error) => {
                    parcel.count = at as u8;
                    self.parcel_unmake(parcel);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Undoes [`Kernel::parcel_make`].
    pub(crate) fn parcel_unmake(&mut self, made: &Parcel) {
        for item in made.items() {
            if item.mode != TransferMode::Move {
                self.cap_drop(item.grant);
            }
        }
    }

    /// Takes what is moved out of the table of `unit`, with the rights it is to arrive with. Nobody holds it now.
    pub(crate) fn parcel_take(&mut self, unit: UnitId, parcel: &Parcel) {
        for item in parcel.items() {
            if item.mode == TransferMode::Move {
                let taken = self.cap_take(unit, item.handle);
                debug_assert_eq!(taken, Some(item.grant), "the parcel was decided in this entry");
                if let Some(node) = self.caps.grants.get_mut(item.grant) {
                    node.rights = node.rights.and(item.rights);
                }
            }
        }
    }

    /// Moves a parcel that was made from the table of one unit to that of another, where room was reserved. Answers the last
    /// handle.
    pub(crate) fn parcel_arrive(&mut self, from: UnitId, to: UnitId, parcel: &Parcel) -> Handle {
        let mut last = Handle::NONE;
        for item in parcel.items() {
            let moved = item.mode == TransferMode::Move;
            if moved && let Some(node) = self.caps.grants.get_mut(item.grant) {
                node.rights = node.rights.and(item.rights);
            }
            if moved {
                // First, so that whoever pays for both sees no change.
                self.refund(from, Resource::Handles, 1);
            }
            // It was found alive when the parcel was decided, in this entry.
            last = self.cap_arrive(to, item.grant, self.caps.grants.epoch);
            self.trace_grant(item.grant, from.number(), to);
        }
        // The old slots are freed last: the receiver was told which slots it gets, and may be the sender.
        for item in parcel.items() {
            if item.mode == TransferMode::Move
                && let Some(unit) = self.units.get_mut(from)
            {
                let freed = unit.caps.free(item.handle);
                debug_assert!(freed.is_some(), "the parcel was decided in this entry");
            }
        }
        last
    }

    /// Puts a capability that travelled into the table of `unit`, where room was reserved; `checked` as for
    /// [`Kernel::cap_put`].
    pub(crate) fn cap_arrive(&mut self, unit: UnitId, grant: GrantId, checked: u64) -> Handle {
        self.cap_repay(grant, unit);
        let put = self.cap_put(unit, grant, checked);
        debug_assert!(put.is_some(), "room was reserved");
        put.unwrap_or(Handle::NONE)
    }

    /// Chains the grants of a parcel that was taken to a message. Answers the first one.
    pub(crate) fn parcel_chain(&mut self, parcel: &Parcel) -> Option<GrantId> {
        let mut first = None;
        for at in (0..usize::from(parcel.count)).rev() {
            let Some(item) = &parcel.items[at] else { continue };
            if let Some(node) = self.caps.grants.get_mut(item.grant) {
                node.holder = Holder::Message;
                node.mode = item.mode;
                node.next_in_message = first;
                first = Some(item.grant);
            }
        }
        first
    }

    /// Ends the loans of a call.
    pub(crate) fn loans_end(&mut self, loans: impl Iterator<Item = GrantId>) {
        for loan in loans.take(MAX) {
            if self.caps.grants.get(loan).is_some() {
                self.caps.grants.revoke(loan);
            }
        }
    }
}
