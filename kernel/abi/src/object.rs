//! Capabilities: types of objects, rights, and how a capability may travel (seed 3, 14.3, 15.1, 15.2).

use crate::field::abi_struct;
use crate::words::{abi_enum, abi_flags};
use crate::{Error, Handle};

abi_enum! {
    /// The type of the object behind a capability. Types 3 to 8 are the seed's, kept for later parts of the kernel.
    pub enum ObjectType {
        /// No object.
        Invalid = 0,
        /// One end of a channel.
        Channel = 1,
        /// A timer.
        Timer = 2,
        /// A device.
        Device = 3,
        /// A file.
        File = 4,
        /// A volume.
        Volume = 5,
        /// A namespace.
        Namespace = 6,
        /// A hook.
        Hook = 7,
        /// An endpoint on another node.
        RemoteEndpoint = 8,
        /// A unit.
        Unit = 9,
        /// A thread.
        Thread = 10,
        /// A region of memory.
        Region = 11,
        /// A queue of events.
        Event = 12,
        /// A file of the boot archive: a program or data.
        Image = 13,
        /// The lower half of an address space, for the guests of a personality.
        Space = 14,
        /// A reader of the trace.
        Trace = 15,
        /// The boot archive.
        Archive = 16,
        /// The serial console.
        Console = 17,
        /// The machine and the kernel as a whole: list of units, log, configuration, power.
        System = 18,
    }
}

abi_flags! {
    /// What the holder of a capability may do with its object. Rights only shrink on the way from holder to holder.
    pub flags Rights {
        /// Read the content.
        READ = 0,
        /// Write the content.
        WRITE = 1,
        /// Run the content: map executable, start as a program.
        EXECUTE = 2,
        /// Change attributes, limits and parameters; of the system: configure it and switch it off.
        ADMIN = 3,
        /// Send, and call.
        SEND = 4,
        /// Receive, and reply.
        RECEIVE = 5,
        /// Map into an address space.
        MAP = 6,
        /// Make things within: threads, mappings, child units, capabilities.
        CREATE = 7,
        /// Start, stop, kill, destroy; arm and cancel.
        CONTROL = 8,
        /// Look at state and figures.
        INSPECT = 9,
        /// Subscribe to events.
        WAIT = 10,
        /// Pass the capability on to another unit, as its transfer policy allows.
        TRANSFER = 11,
        /// Derive weaker capabilities from it.
        DERIVE = 12,
    }
}

abi_enum! {
    /// Whether a type of object may leave the unit that made it (seed 15.2).
    pub enum ConcurrencyClass {
        /// May be passed on and used on every processor.
        Sendable = 0,
        /// Stays in the unit it was made for: transfers answer NotPermitted.
        LocalOnly = 1,
    }
}

abi_flags! {
    /// The transfer policy of a capability (seed 15.1). It only shrinks: a derived capability has at most its parent's.
    pub flags TransferFlags {
        /// It may be moved: the sender loses it.
        MOVE_ALLOWED = 0,
        /// It may be lent: the receiver's ends with the reply or with the revocation.
        BORROW_ALLOWED = 1,
        /// It may be cloned: both have it.
        CLONE_ALLOWED = 2,
    }
}

abi_enum! {
    /// How a capability travels (seed 15.1).
    pub enum TransferMode {
        /// The sender loses its handle; the receiver gets the capability itself.
        Move = 0,
        /// The receiver gets a derivation that cannot be passed on; in a call it ends with the reply, else with a revocation
        /// by the sender or the end of either unit.
        Borrow = 1,
        /// The receiver gets a derivation that lives on until it is closed or revoked.
        Clone = 2,
    }
}

abi_flags! {
    /// Flags of cap_revoke.
    pub flags RevokeFlags {
        /// Revoke only what was derived from the capability; the capability itself stays.
        CHILDREN_ONLY = 0,
    }
}

abi_flags! {
    /// Facts about a capability.
    pub flags CapFlags {
        /// It was revoked; it can only be closed.
        REVOKED = 0,
        /// It is lent and ends with the reply.
        BORROWED = 1,
        /// It was derived from another capability.
        DERIVED = 2,
    }
}

impl ObjectType {
    /// The rights that mean something for the type: the first handle has them all.
    #[must_use]
    pub const fn rights(self) -> Rights {
        use Rights as R;
        let own = match self {
            Self::Channel => R::SEND.or(R::RECEIVE).or(R::ADMIN).or(R::WAIT),
            Self::Timer => R::READ.or(R::CONTROL).or(R::WAIT),
            Self::Unit => R::ADMIN.or(R::MAP).or(R::CREATE).or(R::CONTROL).or(R::WAIT).or(R::READ).or(R::WRITE),
            Self::Thread => R::ADMIN.or(R::CONTROL).or(R::WAIT),
            Self::Region => R::READ.or(R::WRITE).or(R::EXECUTE).or(R::MAP),
            Self::Event => R::READ.or(R::ADMIN),
            Self::Image => R::READ.or(R::EXECUTE),
            Self::Space => R::MAP.or(R::CONTROL),
            Self::Trace => R::READ.or(R::WAIT),
            Self::Archive => R::READ.or(R::EXECUTE),
            Self::Console => R::READ.or(R::WRITE).or(R::WAIT),
            Self::System => R::ADMIN.or(R::WRITE).or(R::READ),
            _ => R::NONE,
        };
        match self {
            Self::Invalid => R::NONE,
            _ => own.or(R::INSPECT).or(R::TRANSFER).or(R::DERIVE),
        }
    }

    /// Whether the type may leave its unit, whatever the capability's policy says.
    ///
    /// An event queue holds subscriptions by the handles of its unit, a thread runs in the address space of its unit, and a
    /// guest space is joined to its personality: these stay. Everything else is sendable.
    #[must_use]
    pub const fn concurrency_class(self) -> ConcurrencyClass {
        match self {
            Self::Event | Self::Thread | Self::Space => ConcurrencyClass::LocalOnly,
            _ => ConcurrencyClass::Sendable,
        }
    }

    /// The transfer policy of the first capability of the type.
    ///
    /// The receiving end of a channel can be shared too: receivers then take turns.
    #[must_use]
    pub const fn transfer_flags(self) -> TransferFlags {
        match self.concurrency_class() {
            ConcurrencyClass::Sendable => TransferFlags::ALL,
            ConcurrencyClass::LocalOnly => TransferFlags::NONE,
        }
    }
}

impl Rights {
    /// What a mapping and an image need to be read and run.
    pub const READ_EXECUTE: Self = Self::READ.or(Self::EXECUTE);
    /// What a mapping needs to be read and written.
    pub const READ_WRITE: Self = Self::READ.or(Self::WRITE);
}

abi_struct! {
    /// What the kernel tells about a capability (seed 14.3, 15.1, 15.2).
    pub struct CapInfo version 1 {
        /// The type of the object.
        object_type: ObjectType,
        /// Whether the type may leave its unit.
        concurrency_class: ConcurrencyClass,
        /// What the holder may do.
        rights: Rights,
        /// How it may travel.
        transfer: TransferFlags,
        /// Facts about the capability.
        flags: CapFlags,
        /// The id of the unit that holds it.
        owner_unit: u64,
        /// The id of the object, unique on this node since boot.
        object: u64,
        /// The badge a receiver sees of messages sent through it.
        badge: u64,
        /// Derivations between the first capability of the object and this one.
        depth: u32,
        /// Capabilities of the object that are alive, in all units.
        references: u32,
    }
}

abi_struct! {
    /// A capability of a message: what is sent, or where it arrived.
    pub record CapTransfer {
        /// Sending: the sender's handle. Received: the receiver's new handle.
        cap: Handle,
        /// How it travels.
        mode: TransferMode,
        /// Sending: the rights the receiver gets, a subset of the sender's. Received: the rights it has.
        rights: Rights,
    }
}

impl CapTransfer {
    /// The record as it stands in one register: the handle in bits 0 to 31, the rights in 32 to 55, the mode in 56 to 63.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown right or mode. The handle is checked where it is used.
    #[inline]
    pub const fn from_register(word: u64) -> Result<Self, Error> {
        match (TransferMode::from_register(word >> 56), Rights::from_register(word >> 32 & 0xff_ffff)) {
            (Ok(mode), Ok(rights)) => Ok(Self { cap: Handle::from_raw(word as i32), mode, rights }),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    /// The register.
    #[inline]
    #[must_use]
    pub const fn register(self) -> u64 {
        self.cap.raw() as u32 as u64 | self.rights.bits() << 32 | (self.mode as u64) << 56
    }
}
