//! What a thread asked for: kept in the thread while it waits, so that others can finish its system call.

use holm_abi::{Error, MsgFlags, MsgIo, Short, ShortFlags};

use crate::caller::InOut;
use crate::cap::{Cap, GrantId};
use crate::machine::Nanos;

/// Where a payload comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum From {
    /// The thread's argument registers.
    #[default]
    Registers,
    /// This address in its unit's memory.
    Memory(u64),
}

/// A message that a thread wants to send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SendRequest {
    /// Where the payload is.
    pub(super) from: From,
    /// Its bytes.
    pub(super) length: u32,
    /// 0 to 31.
    pub(super) priority: u8,
    /// How many capabilities go with it, and where the records are; from registers it is the one record itself.
    pub(super) cap_count: u32,
    pub(super) caps: u64,
    /// The badge of the capability it is sent through, and its grant.
    pub(super) badge: u64,
    pub(super) grant: Option<GrantId>,
}

/// Where a thread wants a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Into {
    /// In its registers.
    #[default]
    Registers,
    /// In its unit's memory.
    Memory {
        /// The struct that says more, and its size.
        io: u64,
        io_bytes: u32,
        /// Where the payload goes.
        buffer: u64,
        /// Where the capabilities go.
        caps: u64,
    },
}

/// Where a thread wants a message, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ReceiveRequest {
    pub(super) into: Into,
    /// Bytes there is room for.
    pub(super) room: u32,
    /// Capabilities there is room for.
    pub(super) cap_room: u32,
    /// PEEK and TRUNCATE.
    pub(super) flags: MsgFlags,
    /// The grant of the capability it receives through; `None` for a reply.
    pub(super) grant: Option<GrantId>,
    /// The revocation epoch in which the grant was alive.
    pub(super) epoch: u64,
}

/// Whether a call may wait, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    pub(super) nonblock: bool,
    pub(super) deadline: Nanos,
}

impl Patience {
    /// What it answers instead of waiting; `None` when it may wait.
    pub(super) fn over(self, now: Nanos) -> Option<Error> {
        if self.nonblock {
            Some(Error::WouldBlock)
        } else if self.deadline <= now {
            Some(Error::TimedOut)
        } else {
            None
        }
    }
}

impl SendRequest {
    /// The message of a struct, sent through `cap`.
    ///
    /// # Errors
    /// [`Error::MessageSize`] for more bytes than a message may ever have, [`Error::TooBig`] for too many capabilities,
    /// [`Error::Invalid`] for a priority above 31 and flags of receiving.
    pub(super) fn of(message: &MsgIo, cap: Cap) -> Result<Self, Error> {
        if message.flags.intersects(MsgFlags::PEEK | MsgFlags::TRUNCATE)
            || u64::from(message.priority) >= holm_abi::limits::PRIORITIES
        {
            return Err(Error::Invalid);
        }
        if u64::from(message.cap_count) > holm_abi::limits::MAX_MESSAGE_CAPS {
            return Err(Error::TooBig);
        }
        if message.buffer_bytes > holm_abi::limits::MAX_MESSAGE {
            return Err(Error::MessageSize);
        }
        Ok(Self {
            from: From::Memory(message.buffer),
            length: message.buffer_bytes as u32,
            priority: message.priority as u8,
            cap_count: message.cap_count,
            caps: message.caps,
            badge: cap.badge,
            grant: Some(cap.grant),
        })
    }

    /// As [`SendRequest::short`], with the capability that stands in a register.
    pub(super) const fn short_with(short: Short, cap: Cap, transfer: u64) -> Self {
        Self { cap_count: 1, caps: transfer, ..Self::short(short, cap) }
    }

    /// A short message, sent through `cap`.
    pub(super) const fn short(short: Short, cap: Cap) -> Self {
        Self {
            from: From::Registers,
            length: short.bytes as u32,
            priority: short.priority,
            cap_count: 0,
            caps: 0,
            badge: cap.badge,
            grant: Some(cap.grant),
        }
    }
}

impl ReceiveRequest {
    /// The room of a struct.
    pub(super) fn of(io: &InOut<MsgIo>) -> Self {
        let value = &io.value;
        Self {
            into: Into::Memory { io: io.address, io_bytes: value.size, buffer: value.buffer, caps: value.caps },
            room: value.buffer_bytes.min(u64::from(u32::MAX)) as u32,
            cap_room: value.cap_count,
            flags: value.flags.without(MsgFlags::NONBLOCK),
            grant: None,
            epoch: 0,
        }
    }

    /// The registers.
    pub(super) const SHORT: Self = Self {
        into: Into::Registers,
        room: holm_abi::limits::SHORT_BYTES as u32,
        cap_room: 0,
        flags: MsgFlags::NONE,
        grant: None,
        epoch: 0,
    };

    /// The registers, and room for a capability when `short` says so.
    pub(super) const fn short(short: Short) -> Self {
        Self { cap_room: short.flags.contains(ShortFlags::CAP) as u32, ..Self::SHORT }
    }

    /// Received through `cap`, which was alive in `epoch`.
    pub(super) const fn through(mut self, cap: Cap, epoch: u64) -> Self {
        self.grant = Some(cap.grant);
        self.epoch = epoch;
        self
    }
}
