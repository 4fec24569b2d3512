//! Channels and messages (seed 4.1, 14.4).

use crate::field::abi_struct;
use crate::words::{abi_enum, abi_flags};
use crate::{Error, Handle};

abi_enum! {
    /// The shape of a channel.
    pub enum ChanMode {
        /// One queue: the first handle receives, the second sends.
        Uni = 0,
        /// Two queues: either handle sends to the other and receives from it.
        Bidi = 1,
    }
}

abi_enum! {
    /// What happens to a message when the queue is full.
    pub enum DropPolicy {
        /// The sender waits, or gets WouldBlock with NONBLOCK.
        Block = 0,
        /// The new message is dropped; the send succeeds and the drop is counted.
        DropNewest = 1,
        /// The oldest message of the lowest priority is dropped to make room.
        DropOldest = 2,
        /// The send fails with NoSpace.
        Refuse = 3,
    }
}

abi_flags! {
    /// Flags of a channel.
    pub flags ChanFlags {
        /// Messages of higher priority are received first.
        PRIORITY_AWARE = 0,
        /// Its receivers do not inherit the priority of callers.
        NO_INHERITANCE = 1,
        /// No message is ever dropped: only Block and Refuse are allowed as policy.
        RELIABLE = 2,
        /// Sends and receives stay within their bound: no message is longer than 256 bytes or carries capabilities.
        RT_SAFE = 3,
    }
}

abi_struct! {
    /// How a channel is to be made. Its queues are allocated whole at once.
    pub struct ChanSpec version 1 {
        /// The shape.
        mode: ChanMode,
        /// What happens when it is full.
        drop_policy: DropPolicy,
        /// Bytes of a message at most: 1 to MAX_MESSAGE; 0 for 256.
        max_message: u32,
        /// Messages queued at most, each direction: 1 to MAX_QUEUE_MESSAGES; 0 for 16.
        max_messages: u32,
        /// Bytes queued at most, each direction; 0 for `max_message * max_messages`, cut at MAX_QUEUE_BYTES.
        max_bytes: u64,
        /// Flags.
        flags: ChanFlags,
    }
}

abi_flags! {
    /// Which fields of [`ChanAttr`] count.
    pub flags ChanAttrMask {
        /// Messages queued at most.
        MAX_MESSAGES = 0,
        /// Bytes queued at most.
        MAX_BYTES = 1,
        /// What happens when it is full.
        DROP_POLICY = 2,
    }
}

abi_struct! {
    /// New attributes of a channel: of the queue this end receives from. Limits can be set up to those it was made with.
    pub struct ChanAttr version 1 {
        /// Which fields count.
        mask: ChanAttrMask,
        /// Messages queued at most.
        max_messages: u32,
        /// What happens when it is full.
        drop_policy: DropPolicy,
        /// Bytes queued at most.
        max_bytes: u64,
    }
}

abi_struct! {
    /// What the kernel tells about a channel, seen from one end.
    pub struct ChanInfo version 1 {
        /// The id of the channel, unique on this node since boot.
        id: u64,
        /// The shape.
        mode: ChanMode,
        /// What happens when the queue to this end is full.
        drop_policy: DropPolicy,
        /// Bytes of a message at most.
        max_message: u32,
        /// Messages queued at most, each direction.
        max_messages: u32,
        /// Bytes queued at most, each direction.
        max_bytes: u64,
        /// Flags.
        flags: ChanFlags,
        /// Messages waiting to be received here.
        queued_messages: u32,
        /// Threads waiting to receive here.
        receivers: u32,
        /// Bytes waiting to be received here.
        queued_bytes: u64,
        /// Threads waiting to send to here, calls included.
        senders: u32,
        /// Calls received here and not yet replied to.
        open_calls: u32,
        /// Messages sent to here so far.
        sent: u64,
        /// Messages received here so far.
        received: u64,
        /// Messages dropped so far.
        dropped: u64,
        /// 1 when no handle of the other end is left.
        peer_closed: u32,
        /// 1 when payloads are checked by CRC at the moment (see KernelConfig).
        payload_crc: u32,
    }
}

abi_flags! {
    /// Flags of sending and receiving.
    pub flags MsgFlags {
        /// Do not wait: WouldBlock instead.
        NONBLOCK = 0,
        /// Receiving: look at the message and leave it queued. Capabilities are counted, not taken; no reply token is given.
        PEEK = 1,
        /// Receiving: a message longer than the buffer is cut instead of refused with MessageSize.
        TRUNCATE = 2,
    }
}

abi_struct! {
    /// A message to send, or room to receive one (seed 14.4).
    pub struct MsgIo version 1 {
        /// The address of the payload.
        buffer: u64,
        /// Bytes of the payload, or of the room for it.
        buffer_bytes: u64,
        /// Flags.
        flags: MsgFlags,
        /// The address of CapTransfer records: capabilities to send, or room for those received.
        caps: u64,
        /// Number of records, at most MAX_MESSAGE_CAPS.
        cap_count: u32,
        /// Sending: the priority, 0 to 31.
        priority: u32,
        /// Received: bytes of the message; with TRUNCATE possibly more than there was room for.
        out_bytes: u64,
        /// Received: capabilities of the message.
        out_caps: u32,
        /// Received: the priority.
        out_priority: u32,
        /// Received: names the caller that waits for a reply; 0 when nobody does.
        out_token: u64,
        /// Received: the badge of the capability it was sent through.
        out_badge: u64,
        /// Received: the id of the unit that sent it.
        out_sender: u64,
    }
}

abi_flags! {
    /// Flags of a short message.
    pub flags ShortFlags {
        /// Do not wait: WouldBlock instead.
        NONBLOCK = 0,
        /// Returned by a receive: the sender waits for a reply.
        CALL = 1,
        /// Receiving: there is room for one capability. Returned by a receive: one came; its handle stands in the result.
        CAP = 2,
    }
}

/// The first argument of the short calls: a channel and, in the upper 32 bits, what is to be known of the message.
///
/// Bits 0..=31: the handle. 32..=39: bytes of the payload (0..=32). 40..=47: priority (0..=31). 48..=55: [`ShortFlags`].
/// The payload stands in rdx, r10, r8, r9, first byte lowest; bytes beyond its length are ignored when sending and zero
/// when received. The result in rax is the same word, with the handle of the capability that came in the handle's place, or
/// zero; rdi holds the reply token (0 when nobody waits) and rsi the badge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// The channel; in a result the capability that came, or [`Handle::NONE`].
    pub channel: Handle,
    /// Bytes of the payload: 0 to 32.
    pub bytes: u8,
    /// The priority: 0 to 31.
    pub priority: u8,
    /// Flags.
    pub flags: ShortFlags,
}

impl Short {
    /// Takes the register apart.
    ///
    /// # Errors
    /// [`Error::BadHandle`] when the handle's place holds none; [`Error::MessageSize`] for more than 32 bytes;
    /// [`Error::Invalid`] for an unknown flag, a priority above 31 or a bit above 55.
    #[inline]
    pub const fn from_register(word: u64) -> Result<Self, Error> {
        let channel = match Handle::from_register(word & 0xffff_ffff) {
            Ok(channel) => channel,
            Err(error) => return Err(error),
        };
        Self::parts(channel, word)
    }

    /// Takes a result apart.
    ///
    /// # Errors
    /// As [`Short::from_register`], but a handle need not be there.
    #[inline]
    pub const fn from_result(word: u64) -> Result<Self, Error> {
        Self::parts(Handle::from_raw(word as i32), word)
    }

    /// What the kernel answered: as [`Short::from_result`], of a result that is known to be one.
    #[inline]
    #[must_use]
    pub const fn told(word: u64) -> Self {
        Self {
            channel: Handle::from_raw(word as i32),
            bytes: (word >> 32) as u8,
            priority: (word >> 40) as u8,
            flags: ShortFlags(word >> 48 & ShortFlags::ALL.0),
        }
    }

    #[inline]
    const fn parts(channel: Handle, word: u64) -> Result<Self, Error> {
        let (bytes, priority) = ((word >> 32) as u8, (word >> 40) as u8);
        if bytes as u64 > crate::limits::SHORT_BYTES {
            return Err(Error::MessageSize);
        }
        if priority as u64 >= crate::limits::PRIORITIES {
            return Err(Error::Invalid);
        }
        match ShortFlags::from_register(word >> 48) {
            Ok(flags) => Ok(Self { channel, bytes, priority, flags }),
            Err(error) => Err(error),
        }
    }

    /// The register.
    #[inline]
    #[must_use]
    pub const fn register(self) -> u64 {
        self.channel.raw() as u32 as u64
            | (self.bytes as u64) << 32
            | (self.priority as u64) << 40
            | self.flags.bits() << 48
    }
}
