//! Handles that close themselves, one type for each type of object.

use holm_abi::{CapInfo, CapTransfer, Error, Handle, RevokeFlags, Rights, TransferFlags, TransferMode};

use crate::sys;

/// A handle that this value owns: closed when it is dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct Owned(Handle);

impl Owned {
    /// Takes a handle over. Nobody else may close it.
    #[must_use]
    pub const fn new(handle: Handle) -> Self {
        Self(handle)
    }

    /// The handle.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.0
    }

    /// Gives the handle away without closing it.
    #[must_use]
    pub fn into_handle(self) -> Handle {
        let handle = self.0;
        core::mem::forget(self);
        handle
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _closed = sys::cap_close(self.0);
    }
}

/// What every typed handle can do.
pub trait Object: Sized {
    /// Takes a handle over. That it is of this type is checked by the kernel when it is used.
    fn from_owned(owned: Owned) -> Self;

    /// The handle.
    fn handle(&self) -> Handle;

    /// Gives the handle away without closing it.
    fn into_handle(self) -> Handle;

    /// What the kernel tells about the capability.
    ///
    /// # Errors
    /// Those of cap_get_info.
    fn capability(&self) -> Result<CapInfo, Error> {
        let mut info = CapInfo::new();
        sys::cap_get_info(self.handle(), &mut info)?;
        Ok(info)
    }

    /// A weaker capability of the same object, with the same transfer policy.
    ///
    /// # Errors
    /// Those of cap_derive.
    fn derive(&self, rights: Rights) -> Result<Self, Error> {
        let transfer = self.capability()?.transfer;
        sys::cap_derive(self.handle(), rights, transfer, 0).map(|handle| Self::from_owned(Owned::new(handle)))
    }

    /// A weaker capability with a smaller transfer policy and a badge.
    ///
    /// # Errors
    /// Those of cap_derive.
    fn derive_with(&self, rights: Rights, transfer: TransferFlags, badge: u64) -> Result<Self, Error> {
        sys::cap_derive(self.handle(), rights, transfer, badge).map(|handle| Self::from_owned(Owned::new(handle)))
    }

    /// Ends the capability and everything derived from it.
    ///
    /// # Errors
    /// Those of cap_revoke.
    fn revoke(&self) -> Result<(), Error> {
        sys::cap_revoke(self.handle(), RevokeFlags::NONE)
    }

    /// Ends everything derived from the capability.
    ///
    /// # Errors
    /// Those of cap_revoke.
    fn revoke_children(&self) -> Result<(), Error> {
        sys::cap_revoke(self.handle(), RevokeFlags::CHILDREN_ONLY)
    }

    /// The capability as a part of a message or of a new unit: cloned with these rights.
    fn cloned(&self, rights: Rights) -> CapTransfer {
        CapTransfer { cap: self.handle(), mode: TransferMode::Clone, rights }
    }

    /// The same, lent.
    fn lent(&self, rights: Rights) -> CapTransfer {
        CapTransfer { cap: self.handle(), mode: TransferMode::Borrow, rights }
    }

    /// The same, moved: the handle is gone when the transfer succeeded. It is not closed by Rust any more; when the transfer
    /// fails it is still there under [`CapTransfer::cap`].
    fn moved(self, rights: Rights) -> CapTransfer {
        CapTransfer { cap: self.into_handle(), mode: TransferMode::Move, rights }
    }
}

macro_rules! objects {
    ($( $(#[doc = $doc:literal])+ $name:ident ),+ $(,)?) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, PartialEq, Eq)]
        pub struct $name(Owned);

        impl Object for $name {
            fn from_owned(owned: Owned) -> Self {
                Self(owned)
            }

            fn handle(&self) -> Handle {
                self.0.handle()
            }

            fn into_handle(self) -> Handle {
                self.0.into_handle()
            }
        }
    )+};
}

objects! {
    /// A unit.
    Unit,
    /// A thread of this unit.
    Thread,
    /// A region of memory.
    Region,
    /// One end of a channel.
    Channel,
    /// A timer.
    Timer,
    /// A queue of events.
    Events,
    /// A file of the boot archive.
    Image,
    /// The lower half of an address space for guests.
    Space,
    /// A reader of the trace.
    Trace,
    /// The boot archive.
    Archive,
    /// The serial console.
    Console,
    /// The machine and the kernel as a whole.
    System,
}
