//! Receiving messages into slices.

use holm_abi::{CapTransfer, Error, Handle, MsgFlags, MsgIo, limits};

use super::stubs;

/// Records of capabilities as the kernel writes them.
pub(crate) type CapSlots = [[u8; CapTransfer::SIZE]; limits::MAX_MESSAGE_CAPS as usize];

/// Room for a message.
pub(crate) struct Room<'a> {
    pub(crate) payload: &'a mut [u8],
    pub(crate) caps: &'a mut CapSlots,
    pub(crate) flags: MsgFlags,
}

impl Room<'_> {
    fn describe(&mut self) -> MsgIo {
        MsgIo {
            buffer: self.payload.as_mut_ptr() as u64,
            buffer_bytes: self.payload.len() as u64,
            flags: self.flags,
            caps: self.caps.as_mut_ptr() as u64,
            cap_count: limits::MAX_MESSAGE_CAPS as u32,
            ..MsgIo::new()
        }
    }
}

/// What is sent.
pub(crate) struct Parcel<'a> {
    pub(crate) payload: &'a [u8],
    pub(crate) caps: &'a [CapTransfer],
    pub(crate) flags: MsgFlags,
    pub(crate) priority: u8,
}

impl Parcel<'_> {
    /// The description of what is sent; it names memory that is only read.
    pub(crate) fn describe(&self) -> MsgIo {
        MsgIo {
            buffer: self.payload.as_ptr() as u64,
            buffer_bytes: self.payload.len() as u64,
            flags: self.flags,
            caps: self.caps.as_ptr() as u64,
            cap_count: self.caps.len() as u32,
            priority: u32::from(self.priority),
            ..MsgIo::new()
        }
    }
}

/// chan_recv into the room.
pub(crate) fn receive(channel: Handle, room: &mut Room<'_>, deadline: u64) -> Result<MsgIo, Error> {
    let mut message = room.describe();
    // SAFETY: the addresses and lengths are those of the room's own slices, borrowed for the call.
    unsafe { stubs::chan_recv(channel, &mut message, deadline)? };
    Ok(message)
}

/// chan_call with the reply into the room.
pub(crate) fn call(channel: Handle, parcel: &Parcel<'_>, room: &mut Room<'_>, deadline: u64) -> Result<MsgIo, Error> {
    let mut message = room.describe();
    // SAFETY: as for `receive`; the parcel is only read.
    unsafe { stubs::chan_call(channel, &parcel.describe(), &mut message, deadline)? };
    Ok(message)
}

/// chan_reply_recv with the next message into the room.
pub(crate) fn reply_receive(
    channel: Handle,
    token: u64,
    reply: &Parcel<'_>,
    room: &mut Room<'_>,
    deadline: u64,
) -> Result<MsgIo, Error> {
    let mut message = room.describe();
    // SAFETY: as for `receive`; the reply is only read.
    unsafe { stubs::chan_reply_recv(channel, token, &reply.describe(), &mut message, deadline)? };
    Ok(message)
}
